/* The memory network: how deep it may be, the eps of its layer norm, its activation functions and their derivatives. */

#define MAX_LAYERS 4
#define LAYER_NORM_EPS ((real)0.1)

enum { GELU, SILU, RELU };

#if defined(SINGLE)
/* Phi(z) given exp(-z^2 / 2): Abramowitz and Stegun 7.1.26, absolute error 1e-7. */
INLINE V normal_cdf(V z, V bell) {
    V magnitude = pick(z < 0.0f, -z, z) * 0.70710678f;
    V t = 1.0f / (1.0f + 0.3275911f * magnitude);
    V tail = 0.5f * bell * t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    return pick(z < 0.0f, tail, 1.0f - tail);
}
#else
INLINE V normal_cdf(V z, V bell) {
    (void)bell;
    for (long i = 0; i < LANES; i++) z[i] = 0.5 * erfc(-z[i] * 0.70710678118654752440);
    return z;
}
#endif

/* act, act' and act'' at z. */
INLINE void activation(long kind, V z, V *value, V *slope, V *curvature) {
    if (kind == GELU) {
        V bell = exponential(z * z * (real)-0.5), phi = normal_cdf(z, bell);
        bell *= (real)0.39894228040143267794;
        *value = z * phi;
        *slope = phi + z * bell;
        *curvature = bell * (2 - z * z);
    } else if (kind == SILU) {
        V s = logistic(z);
        *value = z * s;
        *slope = s * (1 + z * (1 - s));
        *curvature = s * (1 - s) * (2 + z * (1 - 2 * s));
    } else {
        V zero = {0};
        *value = pick(z > zero, z, zero);
        *slope = pick(z > zero, fill(1), zero);
        *curvature = zero;
    }
}

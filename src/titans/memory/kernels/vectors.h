/* Vectors of the machine's width, for kernels that are compiled once with REAL = float (and SINGLE) and once with double. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef REAL real;
#if defined(__AVX512F__)
#define WIDTH 64  /* bytes of a vector register */
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif
#define LANES ((long)(WIDTH / sizeof(real)))
typedef real V __attribute__((vector_size(WIDTH), aligned(sizeof(real)), may_alias));
#define INLINE static inline __attribute__((always_inline))

INLINE V load(const real *x) { return *(const V *)x; }
INLINE void store(real *x, V v) { *(V *)x = v; }
INLINE V fill(real x) { return x - (V){0}; }
INLINE real sum(V v) {
    real total = 0;
    for (long i = 0; i < LANES; i++) total += v[i];
    return total;
}

#if defined(SINGLE)
#define EPSILON FLT_EPSILON
#define TINY FLT_MIN
typedef int32_t VI __attribute__((vector_size(WIDTH)));
INLINE V pick(VI where, V yes, V no) { return (V)(((VI)yes & where) | ((VI)no & ~where)); }
/* exp by range reduction and a polynomial of degree 6; relative error 2e-7. */
INLINE V exponential(V x) {
    x = pick(x > -87.0f, x, fill(-87.0f));
    x = pick(x < 88.0f, x, fill(88.0f));
    V n = x * 1.44269504f + 12582912.0f;  /* rounds to the nearest integer */
    VI power = ((VI)n) << 23;
    n -= 12582912.0f;
    V r = x - n * 0.693359375f + n * 2.12194440e-4f;
    V p = 1.0f + r * (1.0f + r * (0.5f + r * (0.16666667f + r * (0.041666668f + r * (8.3333337e-3f + r * 1.3888889e-3f)))));
    return (V)((VI)p + power);
}
#else
#define EPSILON DBL_EPSILON
#define TINY DBL_MIN
typedef int64_t VI __attribute__((vector_size(WIDTH)));
INLINE V pick(VI where, V yes, V no) { return (V)(((VI)yes & where) | ((VI)no & ~where)); }
INLINE V exponential(V x) {
    for (long i = 0; i < LANES; i++) x[i] = exp(x[i]);
    return x;
}
#endif

INLINE V root(V x) {
    for (long i = 0; i < LANES; i++) x[i] = sizeof(real) == 4 ? sqrtf(x[i]) : sqrt(x[i]);
    return x;
}
INLINE V logistic(V x) { return 1 / (1 + exponential(-x)); }

#define UNROLLED _Pragma("GCC unroll 8")
static real dot(const real *x, const real *y, long n) {
    V total[4] = {{0}, {0}, {0}, {0}};
    long i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        UNROLLED for (long v = 0; v < 4; v++) total[v] += load(x + i + v * LANES) * load(y + i + v * LANES);
    for (; i + LANES <= n; i += LANES) total[0] += load(x + i) * load(y + i);
    real rest = 0;
    for (; i < n; i++) rest += x[i] * y[i];
    return rest + sum(total[0] + total[1] + (total[2] + total[3]));
}

/* L2 norm, never quite 0, as torch's normalize takes it. */
static real length(const real *x, long n) {
    double root = sqrt((double)dot(x, x, n));
    return (real)(root > 1e-12 ? root : 1e-12);
}

/* x[i][j] = x[j][i] in registers: for every bit of an index, the two off-diagonal quarters change places. */
#define LOW(i, bit) ((i) & (bit) ? LANES + ((i) ^ (bit)) : (i))
#define HIGH(i, bit) ((i) & (bit) ? LANES + (i) : (i) | (bit))
#define EACH2(F, i, bit) F(i, bit), F(i + 1, bit)
#define EACH4(F, i, bit) EACH2(F, i, bit), EACH2(F, i + 2, bit)
#define EACH8(F, i, bit) EACH4(F, i, bit), EACH4(F, i + 4, bit)
#define EACH16(F, i, bit) EACH8(F, i, bit), EACH8(F, i + 8, bit)
#if defined(SINGLE) && WIDTH == 64
#define EACH EACH16
#elif defined(SINGLE) && WIDTH == 32 || WIDTH == 64
#define EACH EACH8
#elif defined(SINGLE) || WIDTH == 32
#define EACH EACH4
#else
#define EACH EACH2
#endif
#if defined(__clang__)
#define SHUFFLE(x, y, F, bit) __builtin_shufflevector(x, y, EACH(F, 0, bit))
#else
#define SHUFFLE(x, y, F, bit) __builtin_shuffle(x, y, (VI){EACH(F, 0, bit)})
#endif
#define EVERY_LANE _Pragma("GCC unroll 16")
#define EXCHANGE(bit)                                                                       \
    EVERY_LANE for (long i = 0; i < LANES; i++) {                                           \
        if (i & bit) continue;                                                              \
        V a = x[i], b = x[i | bit];                                                         \
        x[i] = SHUFFLE(a, b, LOW, bit), x[i | bit] = SHUFFLE(a, b, HIGH, bit);              \
    }
INLINE void transpose_block(V x[LANES]) {
    EXCHANGE(1)
    if (LANES > 2) EXCHANGE((LANES > 2 ? 2 : 1))
    if (LANES > 4) EXCHANGE((LANES > 4 ? 4 : 1))
    if (LANES > 8) EXCHANGE((LANES > 8 ? 8 : 1))
}

/* Causal depthwise convolution over the tokens of each document, and what follows it: forward and backward.

   z_t = sum_j w[:, j] x_{t-j}; what precedes the call is in `tail`; with positions, a tap that would reach past the
   document's start is left out. Then SiLU where asked for; then the channels are cut into equal parts, one result each,
   and in the first of these every head is brought to L2 norm 1. Arithmetic: convolution.py.

   Letters: B rows, T tokens, D channels, J taps, P parts, d channels of a head. */

#include "vectors.h"

#define MAX_TAPS 16
#define MAX_PARTS 3

/* The arguments, in the order of `_Arguments` in short_convolution.py. Contiguous arrays. */
typedef struct {
    int64_t B, T, D, J, silu, P, unit, d;  /* unit: parts whose heads are normalised */
    const int64_t *position;               /* [B, T], or NULL where no document begins in this call */
    const real *x, *w, *tail;              /* [B, T, D], [J, D], [B, J - 1, D] */
    real *y[MAX_PARTS];                    /* [B, T, D / P] */
    const real *dy[MAX_PARTS];             /* [B, T, D / P] */
    real *dx, *dw, *dtail;                 /* [B, T, D]; [B, J, D], [B, J - 1, D], zero before */
} Call;

/* Where the input for tap j of token t lies in `present` [T, D] or `past` [J - 1, D]; NULL for a tap left out. */
INLINE real *input(const Call *call, const int64_t *position, real *present, real *past, long t, long j) {
    if (position && position[t] < j) return NULL;
    return t >= j ? present + (t - j) * call->D : past + (call->J - 1 + t - j) * call->D;
}

INLINE V taps(const Call *call, real *const from[], long c) {
    V z = load(call->w + c) * load(from[0] + c);
    for (long j = 1; j < call->J; j++)
        if (from[j]) z += load(call->w + j * call->D + c) * load(from[j] + c);
    return z;
}

static void forward(const Call *call, long b) {
    const int64_t *position = call->position ? call->position + b * call->T : NULL;
    real *x = (real *)call->x + b * call->T * call->D, *tail = (real *)call->tail + b * (call->J - 1) * call->D;
    long width = call->D / call->P;
    for (long t = 0; t < call->T; t++) {
        real *from[MAX_TAPS];
        for (long j = 0; j < call->J; j++) from[j] = input(call, position, x, tail, t, j);
        for (long p = 0; p < call->P; p++) {
            real *y = call->y[p] + (b * call->T + t) * width;
            for (long c = 0; c < width; c += LANES) {
                V z = taps(call, from, p * width + c);
                if (call->silu) z *= logistic(z);
                store(y + c, z);
            }
            for (long c = 0; c < width && p < call->unit; c += call->d) {
                real scale = 1 / length(y + c, call->d);
                for (long i = 0; i < call->d; i++) y[c + i] *= scale;
            }
        }
    }
}

/* row: room for 3 D / P numbers. */
static void backward(const Call *call, long b, real *row) {
    const int64_t *position = call->position ? call->position + b * call->T : NULL;
    real *x = (real *)call->x + b * call->T * call->D, *tail = (real *)call->tail + b * (call->J - 1) * call->D;
    real *dx = call->dx + b * call->T * call->D, *dtail = call->dtail + b * (call->J - 1) * call->D;
    real *dw = call->dw + b * call->J * call->D;
    long width = call->D / call->P;
    real *value = row, *slope = row + width, *dvalue = row + 2 * width;
    for (long t = 0; t < call->T; t++) {
        real *from[MAX_TAPS], *to[MAX_TAPS];
        for (long j = 0; j < call->J; j++)
            from[j] = input(call, position, x, tail, t, j), to[j] = input(call, position, dx, dtail, t, j);
        for (long p = 0; p < call->P; p++) {
            const real *dy = call->dy[p] + (b * call->T + t) * width;
            for (long c = 0; c < width && call->silu; c += LANES) {
                V z = taps(call, from, p * width + c), s = logistic(z);
                store(value + c, z * s), store(slope + c, s * (1 + z * (1 - s)));
            }
            if (p < call->unit) {
                for (long c = 0; c < width && !call->silu; c += LANES) store(value + c, taps(call, from, p * width + c));
                for (long c = 0; c < width; c += call->d) {
                    real norm = length(value + c, call->d), scale = 1 / norm;
                    real along = norm > (real)1e-12 ? dot(dy + c, value + c, call->d) * scale * scale : 0;
                    for (long i = 0; i < call->d; i++) dvalue[c + i] = (dy[c + i] - value[c + i] * along) * scale;
                }
                dy = dvalue;
            }
            for (long c = 0; c < width; c += LANES) {
                V dz = load(dy + c);
                long channel = p * width + c;
                if (call->silu) dz *= load(slope + c);
                for (long j = 0; j < call->J; j++) {
                    if (!from[j]) continue;
                    real *of_w = dw + j * call->D + channel;
                    V of_x = load(call->w + j * call->D + channel) * dz;
                    if (j) of_x += load(to[j] + channel);  /* tap 0 is an input's first use */
                    store(to[j] + channel, of_x);
                    store(of_w, load(of_w) + load(from[j] + channel) * dz);
                }
            }
        }
    }
}

/* Rows `begin` to `end`; 1 if there is no memory for the buffer. */
int run(const Call *call, int64_t begin, int64_t end, int is_backward) {
    real *row = is_backward ? malloc(3 * call->D * sizeof(real)) : NULL;
    if (is_backward && !row) return 1;
    for (long b = begin; b < end; b++) is_backward ? backward(call, b, row) : forward(call, b);
    free(row);
    return 0;
}

#include "team.h"

/* Causal depthwise convolution over the tokens of each document, and SiLU after it where asked for: forward, backward.

   y_t = act(sum_j w[:, j] x_{t-j}); what precedes the call is in `tail`; with positions, a tap that would reach past the
   document's start is left out. Arithmetic: convolution.py. Letters: B rows, T tokens, D channels, J taps. */

#include "vectors.h"

#define MAX_TAPS 16

/* The arguments, in the order of `_Arguments` in short_convolution.py. Contiguous arrays. */
typedef struct {
    int64_t B, T, D, J, silu;
    const int64_t *position;               /* [B, T], or NULL where no document begins in this call */
    const real *x, *w, *tail;              /* [B, T, D], [J, D], [B, J - 1, D] */
    real *y;                               /* [B, T, D] */
    const real *dy;                        /* [B, T, D] */
    real *dx, *dw, *dtail;                 /* [B, T, D], [B, J, D], [B, J - 1, D]; zero before */
} Call;

/* Where the input for tap j of token t lies in `present` [T, D] or `past` [J - 1, D]; NULL for a tap left out. */
INLINE real *input(const Call *call, const int64_t *position, real *present, real *past, long t, long j) {
    if (position && position[t] < j) return NULL;
    return t >= j ? present + (t - j) * call->D : past + (call->J - 1 + t - j) * call->D;
}

static void forward(const Call *call, long b) {
    const int64_t *position = call->position ? call->position + b * call->T : NULL;
    real *x = (real *)call->x + b * call->T * call->D, *tail = (real *)call->tail + b * (call->J - 1) * call->D;
    for (long t = 0; t < call->T; t++) {
        real *from[MAX_TAPS], *y = call->y + (b * call->T + t) * call->D;
        for (long j = 0; j < call->J; j++) from[j] = input(call, position, x, tail, t, j);
        for (long c = 0; c < call->D; c += LANES) {
            V z = load(call->w + c) * load(from[0] + c);
            for (long j = 1; j < call->J; j++)
                if (from[j]) z += load(call->w + j * call->D + c) * load(from[j] + c);
            if (call->silu) z /= 1 + exponential(-z);
            store(y + c, z);
        }
    }
}

static void backward(const Call *call, long b) {
    const int64_t *position = call->position ? call->position + b * call->T : NULL;
    real *x = (real *)call->x + b * call->T * call->D, *tail = (real *)call->tail + b * (call->J - 1) * call->D;
    real *dx = call->dx + b * call->T * call->D, *dtail = call->dtail + b * (call->J - 1) * call->D;
    real *dw = call->dw + b * call->J * call->D;
    for (long t = 0; t < call->T; t++) {
        real *from[MAX_TAPS], *to[MAX_TAPS];
        const real *dy = call->dy + (b * call->T + t) * call->D;
        for (long j = 0; j < call->J; j++)
            from[j] = input(call, position, x, tail, t, j), to[j] = input(call, position, dx, dtail, t, j);
        for (long c = 0; c < call->D; c += LANES) {
            V dz = load(dy + c);
            if (call->silu) {
                V z = load(call->w + c) * load(from[0] + c);
                for (long j = 1; j < call->J; j++)
                    if (from[j]) z += load(call->w + j * call->D + c) * load(from[j] + c);
                V s = 1 / (1 + exponential(-z));
                dz *= s * (1 + z * (1 - s));
            }
            for (long j = 0; j < call->J; j++) {
                if (!from[j]) continue;
                real *of_w = dw + j * call->D + c;
                store(to[j] + c, load(to[j] + c) + load(call->w + j * call->D + c) * dz);
                store(of_w, load(of_w) + load(from[j] + c) * dz);
            }
        }
    }
}

/* Rows `begin` to `end`; always 0. */
int run(const Call *call, int64_t begin, int64_t end, int is_backward) {
    for (long b = begin; b < end; b++) is_backward ? backward(call, b) : forward(call, b);
    return 0;
}

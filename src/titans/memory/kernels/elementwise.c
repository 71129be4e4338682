/* What follows or precedes the matrix products of a block, each in one pass over the rows: forward and backward.

       NORM    y = x / rms(x) w, and times SiLU(gate) where there is one
       SWIGLU  y = SiLU(a) b of rows [a, b]
       ROTARY  y = [a cos - b sin, b cos + a sin] of heads [a, b]

   Arithmetic: elementwise.py. Letters: N rows, D numbers of a row of y, H heads of it. */

#include "vectors.h"

enum { NORM, SWIGLU, ROTARY };

/* The arguments, in the order of `_Arguments` in elementwise.py. Contiguous arrays; NULL where something does not apply. */
typedef struct {
    int64_t kind, N, D, H, rows;     /* a job has so many rows, the last one fewer */
    double eps;
    const real *x, *w, *gate;        /* [N, D] (SWIGLU: [N, 2 D]), [D], [N, D] */
    const real *cos, *sin;           /* [N, D / H / 2] */
    real *y;                         /* [N, D] */
    const real *dy;                  /* [N, D] */
    real *dx, *dw, *dgate;           /* as x; of each job [jobs, D]; as gate */
} Call;

/* Vectors of a row, the last one perhaps shorter: EVERY_VECTOR has READ and WRITE for the one at i. */
INLINE V read_part(const real *x, long n) {
    V v = {0};
    for (long i = 0; i < n; i++) v[i] = x[i];
    return v;
}
INLINE void write_part(real *x, V v, long n) {
    for (long i = 0; i < n; i++) x[i] = v[i];
}
#define READ(p) (whole ? load((p) + i) : read_part((p) + i, n - i))
#define WRITE(p, v) (whole ? store((p) + i, v) : write_part((p) + i, v, n - i))
#define EVERY_VECTOR(count) \
    for (long n = (count), i = 0, whole; whole = i + LANES <= n, i < n; i += LANES)

static real inverse_rms(const Call *call, const real *x) {
    V square = {0};
    EVERY_VECTOR(call->D) { V v = READ(x); square += v * v; }
    double mean = (double)sum(square) / call->D;
    return 1 / sqrt(mean + call->eps);
}

static void norm(const Call *call, long row) {
    const real *x = call->x + row * call->D, *gate = call->gate ? call->gate + row * call->D : NULL;
    real *y = call->y + row * call->D, r = inverse_rms(call, x);
    EVERY_VECTOR(call->D) {
        V v = READ(x) * r * READ(call->w);
        if (gate) { V g = READ(gate); v *= g * logistic(g); }
        WRITE(y, v);
    }
}

static void norm_backward(const Call *call, long row, real *dw) {
    const real *x = call->x + row * call->D, *gate = call->gate ? call->gate + row * call->D : NULL;
    const real *dy = call->dy + row * call->D;
    real *dx = call->dx + row * call->D, r = inverse_rms(call, x);
    V along = {0};
    EVERY_VECTOR(call->D) {
        V d = READ(dy), v = READ(x), w = READ(call->w);
        if (gate) {
            V g = READ(gate), s = logistic(g);
            WRITE(call->dgate + row * call->D, d * v * r * w * s * (1 + g * (1 - s)));
            d *= g * s;
        }
        WRITE(dw, READ(dw) + d * v * r);
        d *= w, along += d * v;
        WRITE(dx, d);
    }
    real pull = sum(along) * r * r / call->D;
    EVERY_VECTOR(call->D) WRITE(dx, (READ(dx) - READ(x) * pull) * r);
}

static void swiglu(const Call *call, long row) {
    const real *a = call->x + row * 2 * call->D, *b = a + call->D;
    real *y = call->y + row * call->D;
    EVERY_VECTOR(call->D) {
        V v = READ(a);
        WRITE(y, v * logistic(v) * READ(b));
    }
}

static void swiglu_backward(const Call *call, long row) {
    const real *a = call->x + row * 2 * call->D, *b = a + call->D, *dy = call->dy + row * call->D;
    real *da = call->dx + row * 2 * call->D, *db = da + call->D;
    EVERY_VECTOR(call->D) {
        V v = READ(a), d = READ(dy), s = logistic(v);
        WRITE(da, d * READ(b) * s * (1 + v * (1 - s)));
        WRITE(db, d * v * s);
    }
}

/* sign -1 turns back, which is the derivative. */
static void rotary(const Call *call, long row, const real *from, real *to, real sign) {
    long half = call->D / call->H / 2;
    const real *cos = call->cos + row * half, *sin = call->sin + row * half;
    for (long h = 0; h < call->H; h++) {
        const real *a = from + row * call->D + 2 * h * half, *b = a + half;
        real *ya = to + row * call->D + 2 * h * half, *yb = ya + half;
        EVERY_VECTOR(half) {
            V u = READ(a), v = READ(b), c = READ(cos), s = READ(sin) * sign;
            WRITE(ya, u * c - v * s);
            WRITE(yb, v * c + u * s);
        }
    }
}

/* Jobs `begin` to `end`; always 0. */
int run(const Call *call, int64_t begin, int64_t end, int backward) {
    for (long job = begin; job < end; job++)
        for (long row = job * call->rows; row < (job + 1) * call->rows && row < call->N; row++) {
            if (call->kind == NORM) backward ? norm_backward(call, row, call->dw + job * call->D) : norm(call, row);
            else if (call->kind == SWIGLU) backward ? swiglu_backward(call, row) : swiglu(call, row);
            else if (backward) rotary(call, row, call->dy, call->dx, -1);
            else rotary(call, row, call->x, call->y, 1);
        }
    return 0;
}

#include "team.h"

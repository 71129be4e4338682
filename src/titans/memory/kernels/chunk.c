/* The chunked memory on a processor: forward and backward of the whole loop over chunks, for one row and head at a time.

   The arithmetic is that of chunked.py and networks.py, which say what it means; names are theirs. What is gained here
   is that a chunk's work stays in the cache, that nothing is allocated and that elementwise work is fused.

   Activations are kept feature by token, [features][tokens], tokens padded to whole vectors, so that products with the
   memory's weights and with their transpose both run along contiguous tokens and nothing has to be packed.

   REAL is float or double. Letters: B rows, T tokens, H heads, d head dimension, L memory layers, C chunk length,
   R rounds (chunks of each row), G gates per head: 1, or L for separate ones per memory layer. */

#include "vectors.h"

#define MAX_LAYERS 4
#define LAYER_NORM_EPS ((real)0.1)
#define UNROLLED _Pragma("GCC unroll 8")

enum { GELU, SILU, RELU };

/* The arguments, in the order of `_Arguments` in native.py. Contiguous arrays; NULL where something does not apply. */
typedef struct {
    int64_t B, T, H, d, hidden, L, C, R, G, activation, momentum, norm, group;
    double limit, share, max_slope;      /* limit 0: no guard */
    const int64_t *source;               /* [B, R C] token of each slot, T for none; NULL: slot i is token i */
    const uint8_t *fresh;                /* [R, B] rounds that begin a document */
    const int64_t *fill, *first;         /* [B] slots filled by earlier calls, and the round they are in */
    const real *q, *k, *v;               /* [B, T, H, d] */
    const real *keep, *eta, *theta;      /* [B, T, H, G]; keep = 1 - alpha */
    const real *gamma, *beta;            /* [H, d] */
    const real *pending, *slope_old;     /* [B, H, L], [B, H, C] */
    const real *keep_old, *eta_old, *theta_old; /* [B, H, C, G] */
    const real *w0[MAX_LAYERS];          /* [H, d_in, d_out] */
    const real *w[MAX_LAYERS], *s[MAX_LAYERS];         /* [B, H, d_in, d_out] */
    const real *a_old[MAX_LAYERS], *e_old[MAX_LAYERS]; /* [B, H, C, d_in], [B, H, C, d_out] */
    /* results */
    real *y, *pending_end, *slope_open;
    real *w_end[MAX_LAYERS], *s_end[MAX_LAYERS], *a_open[MAX_LAYERS], *e_open[MAX_LAYERS];
    /* kept for the backward pass: weights and momentum before every `group`th round, divisors [B, H, R, 2, C] */
    real *starts, *divisors;
    /* gradients of the results */
    const real *dy, *dw_end[MAX_LAYERS], *ds_end[MAX_LAYERS], *da_open[MAX_LAYERS], *de_open[MAX_LAYERS];
    /* gradients of the arguments; those of w0, gamma and beta per row: [B, H, ...] */
    real *dq, *dk, *dv, *dkeep, *deta, *dtheta, *dgamma, *dbeta, *dkeep_old, *deta_old, *dtheta_old;
    real *dw0[MAX_LAYERS], *dw[MAX_LAYERS], *ds[MAX_LAYERS], *da_old[MAX_LAYERS], *de_old[MAX_LAYERS];
} Call;

/* ---- activations ------------------------------------------------------------------------------------------------ */

static long padded(long n) { return (n + LANES - 1) / LANES * LANES; }

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
        V s = 1 / (1 + exponential(-z));
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

/* ---- matrix products -------------------------------------------------------------------------------------------- */

/* What becomes of a product p: out[m][n] = scale[n] p + keep[n] out + share other[m][n]. A scale or keep that is the
   same for all columns is `scale_all` or `keep_all`, with NULL for the array; with keep 0 out need hold nothing. */
typedef struct {
    real scale_all, keep_all;
    const real *scale, *keep, *other;
    real share;
} Epilogue;

/* p[m][n] = sum_k a[m am + k ak] b[k][n], in tiles of `rows` x `vectors` that stay in registers. */
INLINE void tile(const long rows, const long vectors, real *out, long ldo, const real *a, long am, long ak,
                 const real *b, long ldb, long K, const Epilogue *to, long row, long column) {
    V acc[8][4];
    UNROLLED for (long m = 0; m < rows; m++)
        UNROLLED for (long v = 0; v < vectors; v++) acc[m][v] = (V){0};
    a += row * am, b += column, out += row * ldo + column;
    for (long k = 0; k < K; k++) {
        V x[4];
        UNROLLED for (long v = 0; v < vectors; v++) x[v] = load(b + k * ldb + v * LANES);
        UNROLLED for (long m = 0; m < rows; m++) {
            V scalar = fill(a[m * am + k * ak]);
            UNROLLED for (long v = 0; v < vectors; v++) acc[m][v] += scalar * x[v];
        }
    }
    UNROLLED for (long v = 0; v < vectors; v++) {
        V scale = to->scale ? load(to->scale + column + v * LANES) : fill(to->scale_all);
        V keep = to->keep ? load(to->keep + column + v * LANES) : fill(to->keep_all);
        UNROLLED for (long m = 0; m < rows; m++) acc[m][v] *= scale;
        if (to->keep || to->keep_all != 0)
            UNROLLED for (long m = 0; m < rows; m++) acc[m][v] += load(out + m * ldo + v * LANES) * keep;
        if (to->other)
            UNROLLED for (long m = 0; m < rows; m++)
                acc[m][v] += load(to->other + (row + m) * ldo + column + v * LANES) * to->share;
        UNROLLED for (long m = 0; m < rows; m++) store(out + m * ldo + v * LANES, acc[m][v]);
    }
}

#define ROWS(vectors, rows) \
    for (; m + rows <= M; m += rows) tile(rows, vectors, out, ldo, a, am, ak, b, ldb, K, &to, m, n);
#define COLUMNS(vectors, most)                                             \
    for (; n + vectors * LANES <= N; n += vectors * LANES) {               \
        long m = 0;                                                        \
        ROWS(vectors, most) ROWS(vectors, 4) ROWS(vectors, 2) ROWS(vectors, 1) \
    }

static void product_to(Epilogue to, real *out, long ldo, const real *a, long am, long ak, const real *b, long ldb, long M,
                       long K, long N) {
    long n = 0;
#if WIDTH == 64
    COLUMNS(4, 6) /* 24 of 32 registers; the others have 16 */
#endif
    COLUMNS(2, 6)
    COLUMNS(1, 8)
}

static void product(real *out, long ldo, const real *a, long am, long ak, const real *b, long ldb, long M, long K,
                    long N, real sign, int add) {
    product_to((Epilogue){.scale_all = sign, .keep_all = add}, out, ldo, a, am, ak, b, ldb, M, K, N);
}

/* out[m][n] for m >= n (and more), of a symmetric result; strips of `STRIP` columns begin at their diagonal. */
#define STRIP (2 * LANES)
static void lower_product(real *out, long ldo, const real *a, long am, long ak, const real *b, long ldb, long K, long N) {
    for (long n = 0; n < N; n += STRIP)
        product(out + n * ldo + n, ldo, a + n * am, am, ak, b + n, ldb, N - n, K, N - n < STRIP ? padded(N - n) : STRIP, 1, 0);
}

/* to[c][r] = row[r][c] for LANES rows that lie anywhere. */
INLINE void transpose_rows(real *to, long ldt, const real *const row[LANES], long columns) {
    long c = 0;
    for (; c + LANES <= columns; c += LANES) {
        V x[LANES];
        EVERY_LANE for (long r = 0; r < LANES; r++) x[r] = load(row[r] + c);
        transpose_block(x);
        EVERY_LANE for (long i = 0; i < LANES; i++) store(to + (c + i) * ldt, x[i]);
    }
    for (; c < columns; c++)
        EVERY_LANE for (long r = 0; r < LANES; r++) to[c * ldt + r] = row[r][c];
}

/* to[c][r] = from[r][c] */
static void transpose(real *to, long ldt, const real *from, long ldf, long rows, long columns) {
    long r = 0;
    for (; r + LANES <= rows; r += LANES) {
        const real *row[LANES];
        EVERY_LANE for (long i = 0; i < LANES; i++) row[i] = from + (r + i) * ldf;
        transpose_rows(to + r, ldt, row, columns);
    }
    for (; r < rows; r++)
        for (long c = 0; c < columns; c++) to[c * ldt + r] = from[r * ldf + c];
}

/* ---- one row and head: sizes, buffers --------------------------------------------------------------------------- */

typedef struct {
    const Call *call;
    long d, L, C, P, G;                               /* P: C padded */
    long in[MAX_LAYERS], out[MAX_LAYERS], columns[MAX_LAYERS], wide[MAX_LAYERS]; /* d_in, d_out, d_out padded, a row's length */
    long offset[MAX_LAYERS], matrices, state;         /* where layer l's weights are in a state; W's size; W and S */
    long b, h, r;                                     /* row, head, round */
    long last, any, full;                             /* last token's slot, whether the round has a token, is full */
    long token[1024];                                 /* of each slot; -1 empty, -2 from an earlier call */
    real *block, *next;                               /* all buffers come out of one */

    real *nothing;                                    /* zeros [d] */
    real *W, *S, *pending;                            /* now; S = W + matrices */
    /* surprise: one record, or in the backward pass one for every round of a group */
    real *records;
    long record;                                      /* their size */
    real *a[MAX_LAYERS], *z[MAX_LAYERS], *bend[MAX_LAYERS]; /* inputs, before act, act'(z) */
    real *e[MAX_LAYERS], *back[MAX_LAYERS];           /* errors; and before they went through act' */
    real *slope, *unit, *inverse, *want;              /* layer norm of the last z; want = prediction - value */
    real *q, *v;
    real *keep[MAX_LAYERS], *eta[MAX_LAYERS], *theta[MAX_LAYERS];       /* gates [P] */
    real *kept[MAX_LAYERS], *carried[MAX_LAYERS], *survival[MAX_LAYERS];
    real *write[MAX_LAYERS], *push[MAX_LAYERS];       /* [i][t]: weight of gradient i in W_t and in S_t */
    real *write_at[MAX_LAYERS], *push_at[MAX_LAYERS]; /* the same, [t][i] */
    real *written[MAX_LAYERS], *pushed[MAX_LAYERS];   /* the same at the chunk's end, [P] */
    real *n, *m, *over_n, *over_m;
    real *x[MAX_LAYERS], *zr[MAX_LAYERS], *rbend[MAX_LAYERS], *scores[MAX_LAYERS], *y, *runit, *rinverse; /* read */
    real *t1, *t2, *t3, *square1, *square2, *square3, *gram, *gram2;
    /* gradients */
    real *dW, *dS, *da[MAX_LAYERS], *de[MAX_LAYERS], *dq, *dv, *dz, *dx, *dgamma, *dbeta;
    real *dkept[MAX_LAYERS], *dcarried[MAX_LAYERS], *dsurvival, *dwrite[MAX_LAYERS], *dpush[MAX_LAYERS];
    real *starts;
} Work;

static real *take(Work *w, long count) {
    real *block = w->next;
    w->next += padded(count);
    return block;
}

static long gate_of(const Work *w, long layer) { return w->G == 1 ? 0 : layer; }

/* Points the buffers of `surprise` at record i. */
static void use_record(Work *w, long i) {
    real *next = w->next;
    w->next = w->records + i * w->record;
    for (long l = 0; l < w->L; l++) {
        w->a[l] = take(w, w->in[l] * w->P), w->z[l] = take(w, w->out[l] * w->P), w->e[l] = take(w, w->out[l] * w->P);
        if (l == w->L - 1) break;
        w->bend[l] = take(w, w->out[l] * w->P), w->back[l] = take(w, w->out[l] * w->P);
    }
    w->slope = take(w, w->P), w->inverse = take(w, w->P);
    w->unit = take(w, w->d * w->P), w->want = take(w, w->d * w->P);
    w->record = w->next - (w->records + i * w->record);
    w->next = next;
}

/* Sets the buffers out in w->block, or with block NULL only counts them. */
static long lay_out(Work *w, const Call *call, real *block, int backward) {
    memset(w, 0, sizeof *w);
    w->call = call;
    w->d = call->d, w->L = call->L, w->C = call->C, w->G = call->G, w->P = padded(call->C);
    long widest = padded(call->d > call->hidden ? call->d : call->hidden), P = w->P;
    for (long l = 0; l < w->L; l++) {
        w->in[l] = l == 0 ? call->d : call->hidden;
        w->out[l] = l == w->L - 1 ? call->d : call->hidden;
        w->columns[l] = padded(w->out[l]), w->wide[l] = w->columns[l] + (w->columns[l] % 64 ? 0 : LANES);
        w->offset[l] = w->matrices;
        w->matrices += w->in[l] * w->wide[l];
    }
    w->state = 2 * w->matrices;
    w->block = w->next = block;
    w->nothing = take(w, w->d);
    w->W = take(w, w->state), w->S = w->W + w->matrices;
    w->pending = take(w, MAX_LAYERS);
    w->q = take(w, w->d * P), w->v = take(w, w->d * P), w->y = take(w, w->d * P);
    w->runit = take(w, w->d * P), w->rinverse = take(w, P);
    w->n = take(w, P), w->m = take(w, P), w->over_n = take(w, P), w->over_m = take(w, P);
    for (long l = 0; l < w->L; l++) {
        w->x[l] = take(w, w->in[l] * P), w->scores[l] = take(w, w->C * P);
        w->zr[l] = take(w, w->out[l] * P), w->rbend[l] = take(w, w->out[l] * P);
    }
    for (long g = 0; g < w->G; g++) {
        w->keep[g] = take(w, P), w->eta[g] = take(w, P), w->theta[g] = take(w, P);
        w->kept[g] = take(w, P), w->carried[g] = take(w, P), w->survival[g] = take(w, P);
        w->write[g] = take(w, P * P), w->push[g] = take(w, P * P);
        w->write_at[g] = take(w, P * P), w->push_at[g] = take(w, P * P);
        w->written[g] = w->write_at[g] + (w->C - 1) * P, w->pushed[g] = w->push_at[g] + (w->C - 1) * P;
    }
    w->t1 = take(w, widest * P), w->t2 = take(w, widest * P), w->t3 = take(w, w->C * (widest + LANES));
    w->square1 = take(w, P * P), w->square2 = take(w, P * P), w->square3 = take(w, P * P);
    w->gram = take(w, widest * widest), w->gram2 = take(w, widest * widest);
    if (backward) {
        w->dW = take(w, w->state), w->dS = w->dW + w->matrices;
        w->dq = take(w, w->d * P), w->dv = take(w, w->d * P), w->dz = take(w, widest * P), w->dx = take(w, widest * P);
        w->dgamma = take(w, w->d), w->dbeta = take(w, w->d);
        w->dsurvival = take(w, MAX_LAYERS);
        for (long l = 0; l < w->L; l++) w->da[l] = take(w, w->in[l] * P), w->de[l] = take(w, w->out[l] * P);
        for (long g = 0; g < w->G; g++) {
            w->dkept[g] = take(w, P), w->dcarried[g] = take(w, P);
            w->dwrite[g] = take(w, P * P), w->dpush[g] = take(w, P);
        }
        w->starts = take(w, call->group * w->state);
    }
    w->records = w->next;
    use_record(w, 0);
    w->next += (backward ? call->group : 1) * w->record;
    return w->next - w->block;
}

/* [C][C] in [P][P], zero around it. */
static void transpose_square(const Work *w, real *to, const real *from) {
    if (w->C < w->P) memset(to, 0, w->P * w->P * sizeof(real));
    transpose(to, w->P, from, w->P, w->C, w->C);
}

/* Matrices of one layer between an array [d_in][d_out] and the padded form. */
static void load_matrix(const Work *w, real *to, const real *from, long l) {
    for (long i = 0; i < w->in[l]; i++) {
        memcpy(to + i * w->wide[l], from + i * w->out[l], w->out[l] * sizeof(real));
        for (long o = w->out[l]; o < w->wide[l]; o++) to[i * w->wide[l] + o] = 0;
    }
}
static void save_matrix(const Work *w, real *to, const real *from, long l, int add) {
    for (long i = 0; i < w->in[l]; i++)
        for (long o = 0; o < w->out[l]; o++) {
            real x = from[i * w->wide[l] + o];
            to[i * w->out[l] + o] = add ? to[i * w->out[l] + o] + x : x;
        }
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

/* Rows of the round's tokens in [B, T, H, d] to [d][P]; zero where there is no token. */
static void gather(const Work *w, real *to, const real *from) {
    const Call *call = w->call;
    long stride = call->H * w->d;
    const real *base = from + (w->b * call->T * call->H + w->h) * w->d;
    for (long c = 0; c < w->P; c += LANES) {
        const real *row[LANES];
        for (long i = 0; i < LANES; i++) {
            long token = c + i < w->C ? w->token[c + i] : -1;
            row[i] = token < 0 ? w->nothing : base + token * stride;
            for (long f = 0; f < w->d; f += 16) __builtin_prefetch(row[i] + w->C * stride + f);
        }
        transpose_rows(to + c, w->P, row, w->d);
    }
}

static void scatter(const Work *w, real *to, const real *from) {
    const Call *call = w->call;
    long stride = call->H * w->d, f = 0;
    real *base = to + (w->b * call->T * call->H + w->h) * w->d;
    for (; f + LANES <= w->d; f += LANES)
        for (long c = 0; c < w->C; c += LANES) {
            V x[LANES];
            EVERY_LANE for (long i = 0; i < LANES; i++) x[i] = load(from + (f + i) * w->P + c);
            transpose_block(x);
            EVERY_LANE for (long i = 0; i < LANES; i++)
                if (c + i < w->C && w->token[c + i] >= 0) store(base + w->token[c + i] * stride + f, x[i]);
        }
    for (; f < w->d; f++)
        for (long c = 0; c < w->C; c++)
            if (w->token[c] >= 0) base[w->token[c] * stride + f] = from[f * w->P + c];
}

/* Which tokens the round holds, and the sums of their gates (gates.py). */
static void open_round(Work *w) {
    const Call *call = w->call;
    long filled = 0;
    w->any = 0;
    for (long c = 0; c < w->C; c++) {
        long slot = w->r * w->C + c;
        long token = call->source ? call->source[w->b * call->R * w->C + slot] : slot;
        int old = w->r == call->first[w->b] && c < call->fill[w->b];
        w->token[c] = old ? -2 : token < call->T ? token : -1;
        filled += w->token[c] != -1;
    }
    w->any = filled > 0;
    w->full = filled == w->C;
    if (!w->any) return;
    for (long g = 0; g < w->G; g++) {
        real *keep = w->keep[g], *eta = w->eta[g], *theta = w->theta[g];
        for (long c = 0; c < w->P; c++) {
            long token = c < w->C ? w->token[c] : -1;
            long at = ((w->b * call->T + token) * call->H + w->h) * w->G + g;
            const real *k = call->keep, *e = call->eta, *th = call->theta;
            if (token == -2) {
                at = ((w->b * call->H + w->h) * w->C + c) * w->G + g;
                k = call->keep_old, e = call->eta_old, th = call->theta_old;
            }
            keep[c] = token == -1 ? 1 : k[at];
            eta[c] = !call->momentum ? 0 : token == -1 ? 1 : e[at];
            theta[c] = token == -1 ? 0 : th[at];
        }
        real kept = 1, carried = 0, survival = 1;
        for (long t = 0; t < w->P; t++) {
            kept *= keep[t], survival *= eta[t], carried = keep[t] * carried + survival;
            w->kept[g][t] = kept, w->carried[g][t] = carried, w->survival[g][t] = survival;
        }
        real *write = w->write_at[g], *push = w->push_at[g];
        for (long t = 0; t < w->C; t++, write += w->P, push += w->P) {
            for (long i = 0; i < w->P; i += LANES) {
                V p = {0}, s = {0};
                if (t) p = load(push - w->P + i) * eta[t], s = load(write - w->P + i) * keep[t] + p;
                store(push + i, p), store(write + i, s);
            }
            write[t] = push[t] = theta[t];
        }
        transpose_square(w, w->write[g], w->write_at[g]);
        transpose_square(w, w->push[g], w->push_at[g]);
    }
}

/* unit = layer norm of z without its affine part, [d][P]; 1 / std [P]. */
static void normalise(const Work *w, const real *z, real *unit, real *inverse) {
    for (long t = 0; t < w->P; t += LANES) {
        V mean = {0}, square = {0};
        for (long f = 0; f < w->d; f++) mean += load(z + f * w->P + t);
        mean /= (real)w->d;
        for (long f = 0; f < w->d; f++) {
            V c = load(z + f * w->P + t) - mean;
            square += c * c;
        }
        square = square / (real)w->d + LAYER_NORM_EPS;
        V r;
        for (long i = 0; i < LANES; i++) r[i] = 1 / (sizeof(real) == 4 ? sqrtf(square[i]) : sqrt(square[i]));
        store(inverse + t, r);
        for (long f = 0; f < w->d; f++) store(unit + f * w->P + t, (load(z + f * w->P + t) - mean) * r);
    }
}

/* The chunk's gradients in factors: a (inputs) and e (errors) of every layer (eq. 12; `MemoryNetwork.surprise`). */
static void surprise(Work *w) {
    const Call *call = w->call;
    const real *gamma = call->norm ? call->gamma + w->h * w->d : NULL, *beta = call->norm ? call->beta + w->h * w->d : NULL;
    long L = w->L, P = w->P, last = L - 1;
    gather(w, w->a[0], call->k);
    gather(w, w->v, call->v);
    for (long l = 0; l < L; l++) {
        product(w->z[l], P, w->W + w->offset[l], 1, w->wide[l], w->a[l], P, w->out[l], w->in[l], P, 1, 0);
        if (l == last) break;
        for (long i = 0; i < w->out[l] * P; i += LANES) {
            V value, slope, curvature;
            activation(call->activation, load(w->z[l] + i), &value, &slope, &curvature);
            store(w->a[l + 1] + i, value), store(w->bend[l] + i, slope);
        }
    }
    if (L == 1) {
        for (long i = 0; i < w->d * P; i += LANES) store(w->e[0] + i, load(w->z[0] + i) - load(w->v + i));
        for (long t = 0; t < P; t += LANES) store(w->slope + t, fill(1));
    } else {
        normalise(w, w->z[last], w->unit, w->inverse);
        real largest = call->norm ? 0 : 1;
        for (long f = 0; f < w->d && call->norm; f++) largest = fabs(gamma[f]) > largest ? fabs(gamma[f]) : largest;
        for (long t = 0; t < P; t += LANES) {
            V mean = {0}, along = {0}, r = load(w->inverse + t);
            for (long f = 0; f < w->d; f++) {
                V u = load(w->unit + f * P + t), k = load(w->a[0] + f * P + t), v = load(w->v + f * P + t);
                V want = k + u * (gamma ? gamma[f] : 1) + (beta ? beta[f] : 0) - v, back = want * (gamma ? gamma[f] : 1);
                store(w->want + f * P + t, want);
                mean += back, along += back * u;
            }
            mean /= (real)w->d, along /= (real)w->d;
            for (long f = 0; f < w->d; f++) {
                V back = load(w->want + f * P + t) * (gamma ? gamma[f] : 1);
                store(w->e[last] + f * P + t, r * (back - mean - load(w->unit + f * P + t) * along));
            }
            store(w->slope + t, r * largest);
        }
        for (long l = last; l > 0; l--) {
            product(w->back[l - 1], P, w->W + w->offset[l], w->wide[l], 1, w->e[l], P, w->in[l], w->out[l], P, 1, 0);
            for (long i = 0; i < w->in[l] * P; i += LANES)
                store(w->e[l - 1] + i, load(w->back[l - 1] + i) * load(w->bend[l - 1] + i));
        }
    }
    for (long c = 0; c < w->C; c++) {
        if (w->token[c] != -2) continue;
        long at = (w->b * call->H + w->h) * w->C + c;
        for (long l = 0; l < L; l++) {
            for (long f = 0; f < w->in[l]; f++) w->a[l][f * P + c] = call->a_old[l][at * w->in[l] + f];
            for (long f = 0; f < w->out[l]; f++) w->e[l][f * P + c] = call->e_old[l][at * w->out[l] + f];
        }
        w->slope[c] = call->slope_old[at];
    }
}

/* `squared_norm_bound` of networks.py: of both symmetric products only the lower half is computed. */
static double squared_norm_bound(Work *w, long l) {
    const real *W = w->W + w->offset[l];
    long small = w->in[l] < w->out[l], size = small ? w->in[l] : w->out[l], wide = padded(size);
    if (small) {
        memset(w->gram2, 0, w->out[l] * wide * sizeof(real));
        transpose(w->gram2, wide, W, w->wide[l], w->in[l], w->out[l]);
        lower_product(w->gram, wide, W, w->wide[l], 1, w->gram2, wide, w->out[l], size);
    } else {
        lower_product(w->gram, wide, W, 1, w->wide[l], W, w->wide[l], w->in[l], size);
    }
    real scale = 0;
    for (long i = 0; i < size; i++) scale += w->gram[i * wide + i];
    scale = 1 / (scale > TINY ? scale : TINY);
    for (long n = 0; n < size; n += STRIP) {  /* the upper half is the lower one's mirror image */
        long end = n + STRIP < size ? n + STRIP : size;
        for (long i = n; i < size; i++)
            for (long j = n; j < padded(end); j += LANES) store(w->gram + i * wide + j, load(w->gram + i * wide + j) * scale);
        if (end < size) transpose(w->gram + n * wide + end, wide, w->gram + end * wide + n, wide, size - end, end - n);
    }
    for (long i = 0; i < size; i++)
        for (long j = size; j < wide; j++) w->gram[i * wide + j] = 0;
    lower_product(w->gram2, wide, w->gram, wide, 1, w->gram, wide, size, size);
    V once = {0}, twice = {0};
    for (long n = 0; n < size; n += STRIP)
        for (long i = n; i < size; i++)
            for (long j = n; j < n + STRIP && j < wide; j += LANES) {
                V x = load(w->gram2 + i * wide + j);
                if (i < n + STRIP) once += x * x;
                else twice += x * x;
            }
    return pow((double)(sum(once) + 2 * sum(twice)), 0.25) / scale;
}

/* The divisors n and m of every token, and what is pending at the chunk's end (`divisors`, `next_pending`). */
static void guard(Work *w, real *next_pending) {
    const Call *call = w->call;
    long C = w->C, P = w->P;
    double above = 1;
    real *reach = w->square1, *bound = w->square2, *strain = w->square3;
    for (long t = 0; t < P; t++) w->n[t] = w->m[t] = w->over_n[t] = w->over_m[t] = 1;
    if (call->limit == 0) return;
    real *planned = w->t1, *own = w->t2;  /* [P], [L] */
    memset(planned, 0, P * sizeof(real));
    for (long l = w->L - 1; l >= 0; l--) {
        long g = gate_of(w, l);
        product(bound, P, w->a[l], 1, P, w->a[l], P, C, w->in[l], P, 1, 0);
        for (long i = 0; i < C; i++)
            for (long t = 0; t < P; t += LANES) {
                V x = load(bound + i * P + t);
                x = pick(x < 0, -x, x) * load(w->slope + t) * (w->slope[i] * (real)above);
                store(bound + i * P + t, x);
            }
        for (long j = 0; j < C; j++)
            for (long t = 0; t < P; t += LANES) {
                V e = load(w->eta[g] + t), left = 1 - e;
                V ahead = e / pick(left > EPSILON, left, fill(EPSILON));
                store(strain + j * P + t, load(w->write[g] + j * P + t) + ahead * load(w->push[g] + j * P + t));
            }
        product(reach, P, bound, P, 1, strain, P, C, C, P, 1, l < w->L - 1);
        real most = 0;
        for (long i = 0; i < C; i++) {
            real total = 0;
            for (long j = 0; j < C; j++) total += bound[i * P + j] * w->push[g][j * P + C - 1];
            most = total > most ? total : most;
        }
        own[l] = most;
        for (long t = 0; t < C && call->momentum; t++) {
            real left = 1 - w->eta[g][t], ahead = w->eta[g][t] / (left > EPSILON ? left : EPSILON);
            planned[t] += (w->carried[g][t] + ahead * w->survival[g][t]) * w->pending[l];
        }
        if (l > 0) above *= squared_norm_bound(w, l) * call->max_slope * call->max_slope;
    }
    for (long t = 0; t < C; t++) {
        real kept = w->kept[0][t], most = 0;
        for (long g = 1; g < w->G; g++) kept = w->kept[g][t] < kept ? w->kept[g][t] : kept;
        for (long i = 0; i <= t; i++) most = reach[i * P + t] > most ? reach[i * P + t] : most;
        real room = (real)call->limit * (1 + kept) / 2;
        w->n[t] = most / room > 1 ? most / room : 1;
        real m = planned[t] / (room * (real)call->share);
        w->m[t] = m > 1 ? m : 1;
    }
    if (call->momentum)
        for (long l = 0; l < w->L; l++)
            next_pending[l] = w->survival[gate_of(w, l)][C - 1] * w->pending[l] / w->m[C - 1] + own[l] / w->n[C - 1];
    for (long t = 0; t < C; t++) w->over_n[t] = 1 / w->n[t], w->over_m[t] = 1 / w->m[t];
}

/* y = M_{W_t}(q_t) (`read` of chunked.py). */
static void read_out(Work *w) {
    const Call *call = w->call;
    long P = w->P, last = w->L - 1;
    for (long l = 0; l < w->L; l++) {
        long g = gate_of(w, l);
        const real *x = l == 0 ? w->q : w->x[l];
        real *carried = w->t1;
        for (long t = 0; t < P; t += LANES) store(carried + t, load(w->carried[g] + t) * load(w->over_m + t));
        /* kept W^T x + carried S^T x / m - e (write * scores) */
        product(w->zr[l], P, w->W + w->offset[l], 1, w->wide[l], x, P, w->out[l], w->in[l], P, 1, 0);
        if (call->momentum)
            product_to((Epilogue){.scale = carried, .keep = w->kept[g]}, w->zr[l], P, w->S + w->offset[l], 1, w->wide[l],
                       x, P, w->out[l], w->in[l], P);
        product(w->scores[l], P, w->a[l], 1, P, x, P, w->C, w->in[l], P, 1, 0);
        for (long i = 0; i < w->C; i++)
            for (long t = 0; t < P; t += LANES)
                store(w->square1 + i * P + t,
                      load(w->scores[l] + i * P + t) * load(w->write[g] + i * P + t) * load(w->over_n + t));
        Epilogue rest = {.scale_all = -1, .keep_all = 1};
        if (!call->momentum) rest.keep = w->kept[g];
        product_to(rest, w->zr[l], P, w->e[l], P, 1, w->square1, P, w->out[l], w->C, P);
        if (l == last) break;
        for (long i = 0; i < w->out[l] * P; i += LANES) {
            V value, slope, curvature;
            activation(call->activation, load(w->zr[l] + i), &value, &slope, &curvature);
            store(w->x[l + 1] + i, value), store(w->rbend[l] + i, slope);
        }
    }
    if (w->L == 1) {
        memcpy(w->y, w->zr[0], w->d * P * sizeof(real));
        return;
    }
    normalise(w, w->zr[last], w->runit, w->rinverse);
    for (long f = 0; f < w->d; f++) {
        real scale = call->norm ? call->gamma[w->h * w->d + f] : 1, shift = call->norm ? call->beta[w->h * w->d + f] : 0;
        for (long t = 0; t < P; t += LANES)
            store(w->y + f * P + t, load(w->q + f * P + t) + load(w->runit + f * P + t) * scale + shift);
    }
}

/* [d_out][P] of layer l to w->t3, [C][d_out padded]: the contraction over tokens wants it so. */
static void by_token(Work *w, const real *from, long l) {
    for (long c = 0; c < w->C; c++)
        for (long o = w->out[l]; o < w->wide[l]; o++) w->t3[c * w->wide[l] + o] = 0;
    transpose(w->t3, w->wide[l], from, w->P, w->out[l], w->C);
}

/* W and S at the end of a full chunk, in place (`close` of chunked.py). */
static void close_chunk(Work *w) {
    long C = w->C, P = w->P, end = C - 1;
    int momentum = w->call->momentum;
    for (long l = 0; l < w->L; l++) {
        long g = gate_of(w, l), wide = w->wide[l];
        real *W = w->W + w->offset[l], *S = w->S + w->offset[l], over = w->over_n[end];
        by_token(w, w->e[l], l);
        for (long t = 0; t < P; t += LANES) {
            V written = load(w->written[g] + t) * over, pushed = load(w->pushed[g] + t) * over;
            for (long f = 0; f < w->in[l]; f++) {
                V a = load(w->a[l] + f * P + t);
                store(w->t1 + f * P + t, a * written), store(w->t2 + f * P + t, a * pushed);
            }
        }
        Epilogue to_weights = {.scale_all = -1, .keep_all = w->kept[g][end], .share = w->carried[g][end] * w->over_m[end]};
        Epilogue to_momentum = {.scale_all = -1, .keep_all = w->survival[g][end] * w->over_m[end]};
        if (momentum) to_weights.other = S;
        product_to(to_weights, W, wide, w->t1, P, 1, w->t3, wide, w->in[l], C, w->columns[l]);
        if (momentum) product_to(to_momentum, S, wide, w->t2, P, 1, w->t3, wide, w->in[l], C, w->columns[l]);
    }
}

static void begin_document(Work *w) {
    const Call *call = w->call;
    for (long l = 0; l < w->L; l++) {
        load_matrix(w, w->W + w->offset[l], call->w0[l] + w->h * w->in[l] * w->out[l], l);
        w->pending[l] = 0;
    }
    memset(w->S, 0, w->matrices * sizeof(real));
}

static int begins(const Work *w) { return w->call->fresh && w->call->fresh[w->r * w->call->B + w->b]; }

static void begin_row(Work *w, long job) {
    const Call *call = w->call;
    w->b = job / call->H, w->h = job % call->H;
    for (long l = 0; l < w->L; l++) {
        long size = w->in[l] * w->out[l];
        load_matrix(w, w->W + w->offset[l], call->w[l] + job * size, l);
        if (call->momentum) load_matrix(w, w->S + w->offset[l], call->s[l] + job * size, l);
        w->pending[l] = call->pending[job * w->L + l];
    }
    if (!call->momentum) memset(w->S, 0, w->matrices * sizeof(real));
}

static void forward_row(Work *w, long job) {
    const Call *call = w->call;
    long groups = (call->R + call->group - 1) / call->group;
    begin_row(w, job);
    for (w->r = 0; w->r < call->R; w->r++) {
        if (call->starts && w->r % call->group == 0)
            memcpy(call->starts + (job * groups + w->r / call->group) * w->state, w->W, w->state * sizeof(real));
        open_round(w);
        if (!w->any && w->r < call->R - 1) continue;
        if (w->any) {
            real next[MAX_LAYERS];
            if (begins(w)) begin_document(w);
            memcpy(next, w->pending, sizeof next);
            surprise(w);
            gather(w, w->q, call->q);
            guard(w, next);
            if (call->divisors) {
                real *kept = call->divisors + (job * call->R + w->r) * 2 * w->C;
                memcpy(kept, w->over_n, w->C * sizeof(real)), memcpy(kept + w->C, w->over_m, w->C * sizeof(real));
            }
            read_out(w);
            scatter(w, call->y, w->y);
            if (w->full) {
                close_chunk(w);
                memcpy(w->pending, next, sizeof next);
            }
        }
    }
    w->r = call->R - 1;
    for (long l = 0; l < w->L; l++) {
        long size = w->in[l] * w->out[l];
        save_matrix(w, call->w_end[l] + job * size, w->W + w->offset[l], l, 0);
        if (call->momentum) save_matrix(w, call->s_end[l] + job * size, w->S + w->offset[l], l, 0);
        call->pending_end[job * w->L + l] = w->pending[l];
    }
    for (long c = 0; c < w->C; c++) {  /* the open chunk; a full one is closed and leaves nothing */
        if (!w->any || w->full || w->token[c] == -1) continue;
        long at = job * w->C + c;
        for (long l = 0; l < w->L; l++) {
            for (long f = 0; f < w->in[l]; f++) call->a_open[l][at * w->in[l] + f] = w->a[l][f * w->P + c];
            for (long f = 0; f < w->out[l]; f++) call->e_open[l][at * w->out[l] + f] = w->e[l][f * w->P + c];
        }
        call->slope_open[at] = w->slope[c];
    }
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* Gradient of z given those of unit (du, overwritten) and, on its own, of 1 / std: z [d][P] -> dz. */
INLINE void normalise_backward(const Work *w, const real *unit, real *du, V dr, long t, V r, real *dz) {
    V through = {0}, mean = {0};
    long P = w->P;
    for (long f = 0; f < w->d; f++) through += load(du + f * P + t) * load(unit + f * P + t);
    /* d(1/std): dr + sum du c with c = unit / r; times -r^2 unit / d */
    V pull = (dr * r + through) * r / (real)w->d;
    for (long f = 0; f < w->d; f++) {
        V dc = load(du + f * P + t) * r - pull * load(unit + f * P + t);
        store(du + f * P + t, dc);
        mean += dc;
    }
    mean /= (real)w->d;
    for (long f = 0; f < w->d; f++) {
        store(dz + f * P + t, load(du + f * P + t) - mean);
    }
}

static void close_backward(Work *w) {
    long C = w->C, P = w->P, end = C - 1;
    for (long l = 0; l < w->L; l++) {
        long g = gate_of(w, l), wide = w->wide[l], size = w->in[l] * wide;
        real *W = w->W + w->offset[l], *S = w->S + w->offset[l], *dW = w->dW + w->offset[l], *dS = w->dS + w->offset[l];
        real kept = w->kept[g][end], carried = w->carried[g][end] * w->over_m[end];
        real survival = w->survival[g][end] * w->over_m[end], over = w->over_n[end];
        for (long t = 0; t < P; t += LANES) {
            V written = load(w->written[g] + t) * over, pushed = load(w->pushed[g] + t) * over;
            for (long o = 0; o < w->out[l]; o++) {
                V e = load(w->e[l] + o * P + t);
                store(w->t1 + o * P + t, e * written), store(w->t2 + o * P + t, e * pushed);
            }
        }
        product(w->da[l], P, dW, wide, 1, w->t1, P, w->in[l], w->out[l], P, -1, 1);
        if (w->call->momentum) product(w->da[l], P, dS, wide, 1, w->t2, P, w->in[l], w->out[l], P, -1, 1);
        product(w->t1, P, dW, 1, wide, w->a[l], P, w->out[l], w->in[l], P, 1, 0);
        if (w->call->momentum) product(w->t2, P, dS, 1, wide, w->a[l], P, w->out[l], w->in[l], P, 1, 0);
        else memset(w->t2, 0, w->out[l] * P * sizeof(real));
        for (long t = 0; t < P; t += LANES) {
            V of_write = {0}, of_push = {0};
            V written = load(w->written[g] + t) * over, pushed = load(w->pushed[g] + t) * over;
            for (long o = 0; o < w->out[l]; o++) {
                V x1 = load(w->t1 + o * P + t), x2 = load(w->t2 + o * P + t), e = load(w->e[l] + o * P + t);
                of_write += x1 * e, of_push += x2 * e;
                store(w->de[l] + o * P + t, load(w->de[l] + o * P + t) - written * x1 - pushed * x2);
            }
            for (long i = 0; i < LANES && t + i < C; i++) {
                w->dwrite[g][(t + i) * P + end] -= of_write[i] * over;
                w->dpush[g][t + i] -= of_push[i] * over;
            }
        }
        V ww = {0}, ws = {0}, ss = {0};
        for (long i = 0; i < size; i += LANES) {
            V d1 = load(dW + i), d2 = load(dS + i), s = load(S + i);
            ww += d1 * load(W + i), ws += d1 * s, ss += d2 * s;
            store(dW + i, d1 * kept), store(dS + i, d1 * carried + d2 * survival);
        }
        w->dkept[g][end] += sum(ww), w->dcarried[g][end] += sum(ws) * w->over_m[end];
        w->dsurvival[g] += sum(ss) * w->over_m[end];
    }
}

/* From dy (in w->y) to queries, weights, momentum, gates and the chunk's gradients. */
static void read_backward(Work *w) {
    const Call *call = w->call;
    long C = w->C, P = w->P, last = w->L - 1;
    real *dz = w->dz, *dx = w->dx;
    memset(w->dq, 0, w->d * P * sizeof(real));
    if (w->L == 1) {
        memcpy(dz, w->y, w->d * P * sizeof(real));
    } else {
        memcpy(w->dq, w->y, w->d * P * sizeof(real));
        for (long f = 0; f < w->d; f++) {
            V bias = {0}, scale = {0};
            real gamma = call->norm ? call->gamma[w->h * w->d + f] : 1;
            for (long t = 0; t < P; t += LANES) {
                V y = load(w->y + f * P + t);
                bias += y, scale += y * load(w->runit + f * P + t);
                store(w->y + f * P + t, y * gamma);
            }
            w->dgamma[f] += sum(scale), w->dbeta[f] += sum(bias);
        }
        for (long t = 0; t < P; t += LANES)
            normalise_backward(w, w->runit, w->y, (V){0}, t, load(w->rinverse + t), dz);
    }
    for (long l = last; l >= 0; l--) {
        long g = gate_of(w, l), wide = w->wide[l];
        real *W = w->W + w->offset[l], *S = w->S + w->offset[l], *dW = w->dW + w->offset[l], *dS = w->dS + w->offset[l];
        const real *x = l == 0 ? w->q : w->x[l];
        real *u = w->t1, *s = w->t2;
        product(u, P, W, wide, 1, dz, P, w->in[l], w->out[l], P, 1, 0);
        if (call->momentum) product(s, P, S, wide, 1, dz, P, w->in[l], w->out[l], P, 1, 0);
        /* dP^T [i][t] = -e^T dz; d scores in square1, d write accumulated; the scores with their weights in square2 */
        product(w->square1, P, w->e[l], 1, P, dz, P, C, w->out[l], P, -1, 0);
        for (long i = 0; i < C; i++)
            for (long t = 0; t < P; t += LANES) {
                V dp = load(w->square1 + i * P + t) * load(w->over_n + t), score = load(w->scores[l] + i * P + t);
                V write = load(w->write[g] + i * P + t);
                store(w->square1 + i * P + t, dp * write);
                store(w->dwrite[g] + i * P + t, load(w->dwrite[g] + i * P + t) + dp * score);
                store(w->square2 + i * P + t, score * write * load(w->over_n + t));
            }
        by_token(w, dz, l);
        /* de[o][i] -= sum_t dz[o][t] P[i][t]: by token of the chunk, [i][t] -> [t][i] */
        transpose_square(w, w->square3, w->square2);
        product(w->de[l], P, dz, P, 1, w->square3, P, w->out[l], C, P, -1, 1);
        /* da[f][i] += sum_t x[f][t] dscores[i][t] */
        transpose_square(w, w->square3, w->square1);
        product(w->da[l], P, x, P, 1, w->square3, P, w->in[l], C, P, 1, 1);
        /* dx = kept u + carried s + a dscores; the gates' share on the way; x scaled for the weights' gradients */
        product(dx, P, w->a[l], P, 1, w->square1, P, w->in[l], C, P, 1, 0);
        for (long t = 0; t < P; t += LANES) {
            V kept = load(w->kept[g] + t), over = load(w->over_m + t), carried = load(w->carried[g] + t) * over;
            V dkept = {0}, dcarried = {0};
            for (long f = 0; f < w->in[l]; f++) {
                V value = load(x + f * P + t), of_w = load(u + f * P + t);
                V total = load(dx + f * P + t) + kept * of_w;
                dkept += value * of_w;
                store(u + f * P + t, value * kept);
                if (call->momentum) {
                    V of_s = load(s + f * P + t);
                    total += carried * of_s, dcarried += value * of_s;
                    store(s + f * P + t, value * carried);
                }
                store(dx + f * P + t, total);
            }
            store(w->dkept[g] + t, load(w->dkept[g] + t) + dkept);
            store(w->dcarried[g] + t, load(w->dcarried[g] + t) + dcarried * over);
        }
        product(dW, wide, u, P, 1, w->t3, wide, w->in[l], C, w->columns[l], 1, 1);
        if (call->momentum) product(dS, wide, s, P, 1, w->t3, wide, w->in[l], C, w->columns[l], 1, 1);
        if (l == 0) {
            for (long i = 0; i < w->d * P; i += LANES) store(w->dq + i, load(w->dq + i) + load(dx + i));
        } else {
            for (long i = 0; i < w->in[l] * P; i += LANES) store(dz + i, load(dx + i) * load(w->rbend[l - 1] + i));
        }
    }
}

/* From da and de to keys, values, weights and the layer norm: the derivative of `surprise`. */
static void surprise_backward(Work *w) {
    const Call *call = w->call;
    long C = w->C, P = w->P, L = w->L, last = L - 1;
    for (long c = 0; c < C; c++) {  /* what came from an earlier call is an argument, and ends here */
        if (w->token[c] >= 0) continue;
        long at = (w->b * call->H + w->h) * C + c;
        for (long l = 0; l < L; l++) {
            for (long f = 0; f < w->in[l]; f++) {
                if (w->token[c] == -2) call->da_old[l][at * w->in[l] + f] = w->da[l][f * P + c];
                w->da[l][f * P + c] = 0;
            }
            for (long f = 0; f < w->out[l]; f++) {
                if (w->token[c] == -2) call->de_old[l][at * w->out[l] + f] = w->de[l][f * P + c];
                w->de[l][f * P + c] = 0;
            }
        }
    }
    memset(w->dv, 0, w->d * P * sizeof(real));
    real *dz = w->dz;
    if (L == 1) {
        for (long i = 0; i < w->d * P; i += LANES) {
            V e = load(w->de[0] + i);
            store(dz + i, e), store(w->dv + i, -e);
        }
    }
    /* Errors went from the last layer down: their derivative goes up. Each e[l - 1] = (W_l e[l]) act'(z[l - 1]); what
       reaches z[l - 1] this way waits in e's place until the derivative of the inputs comes down again. */
    for (long l = 1; l < L; l++) {
        real *W = w->W + w->offset[l], *dW = w->dW + w->offset[l];
        long wide = w->wide[l];
        for (long i = 0; i < w->in[l] * P; i += LANES) {
            V value, slope, curvature, de = load(w->de[l - 1] + i);
            activation(call->activation, load(w->z[l - 1] + i), &value, &slope, &curvature);
            store(w->de[l - 1] + i, de * load(w->back[l - 1] + i) * curvature);
            store(w->t2 + i, de * slope);
        }
        by_token(w, w->e[l], l);
        product(dW, wide, w->t2, P, 1, w->t3, wide, w->in[l], C, w->columns[l], 1, 1);
        product(w->de[l], P, W, 1, wide, w->t2, P, w->out[l], w->in[l], P, 1, 1);
    }
    if (L > 1) {
        const real *gamma = call->norm ? call->gamma + w->h * w->d : NULL;
        real *du = w->t1;
        for (long t = 0; t < P; t += LANES) {
            V r = load(w->inverse + t), mean = {0}, along = {0};
            for (long f = 0; f < w->d; f++) {
                V back = load(w->want + f * P + t) * (gamma ? gamma[f] : 1);
                mean += back, along += back * load(w->unit + f * P + t);
            }
            mean /= (real)w->d, along /= (real)w->d;
            V dr = {0}, center = {0}, dalong = {0};
            for (long f = 0; f < w->d; f++) {
                V back = load(w->want + f * P + t) * (gamma ? gamma[f] : 1), u = load(w->unit + f * P + t);
                V de = load(w->de[last] + f * P + t);
                dr += de * (back - mean - u * along);
                center += de, dalong -= de * u;
            }
            center *= r / (real)w->d, dalong *= r / (real)w->d;
            for (long f = 0; f < w->d; f++) {
                real scale = gamma ? gamma[f] : 1;
                V want = load(w->want + f * P + t), u = load(w->unit + f * P + t), back = want * scale;
                V de = load(w->de[last] + f * P + t) * r;
                V dback = de - center + dalong * u, dwant = dback * scale;
                store(du + f * P + t, dwant * scale + dalong * back - along * de);
                w->dgamma[f] += sum(dback * want + dwant * u), w->dbeta[f] += sum(dwant);
                store(w->da[0] + f * P + t, load(w->da[0] + f * P + t) + dwant);
                store(w->dv + f * P + t, -dwant);
            }
            normalise_backward(w, w->unit, du, dr, t, r, dz);
        }
    }
    for (long l = last; l >= 0; l--) {
        real *W = w->W + w->offset[l], *dW = w->dW + w->offset[l];
        long wide = w->wide[l];
        product(w->da[l], P, W, wide, 1, dz, P, w->in[l], w->out[l], P, 1, 1);
        by_token(w, dz, l);
        product(dW, wide, w->a[l], P, 1, w->t3, wide, w->in[l], C, w->columns[l], 1, 1);
        if (l == 0) break;
        for (long i = 0; i < w->in[l] * P; i += LANES)
            store(dz + i, load(w->de[l - 1] + i) + load(w->da[l] + i) * load(w->bend[l - 1] + i));
    }
}

/* From the sums' gradients to the gates', one token after the other, backwards. */
static void gates_backward(Work *w) {
    const Call *call = w->call;
    long C = w->C, P = w->P, end = C - 1;
    for (long g = 0; g < w->G; g++) {
        /* by token: rows [t][i] */
        real *dwrite = w->square1, *write = w->write_at[g], *push = w->push_at[g];
        transpose_square(w, dwrite, w->dwrite[g]);
        real *of_write = w->t1, *of_push = w->t2;
        for (long i = 0; i < P; i++) of_write[i] = 0, of_push[i] = i < C ? w->dpush[g][i] : 0;
        real of_kept = 0, of_carried = 0, of_survival = w->dsurvival[g];
        for (long t = end; t >= 0; t--) {
            V of_keep = {0}, of_eta = {0};
            for (long i = 0; i < P; i += LANES) {
                V ww = load(of_write + i) + load(dwrite + t * P + i), pp = load(of_push + i) + ww;
                if (t > 0) of_keep += ww * load(write + (t - 1) * P + i), of_eta += pp * load(push + (t - 1) * P + i);
                store(of_write + i, ww), store(of_push + i, pp);
            }
            of_kept += w->dkept[g][t], of_carried += w->dcarried[g][t], of_survival += of_carried;
            real before_kept = t ? w->kept[g][t - 1] : 1, before_carried = t ? w->carried[g][t - 1] : 0;
            real before_survival = t ? w->survival[g][t - 1] : 1;
            real dkeep = sum(of_keep) + of_carried * before_carried + of_kept * before_kept;
            real deta = sum(of_eta) + of_survival * before_survival, dtheta = of_push[t];
            of_push[t] = of_write[t] = 0;  /* gradient t did not exist before */
            real keep = w->keep[g][t], eta = w->eta[g][t];
            for (long i = 0; i < P; i += LANES) {
                store(of_write + i, load(of_write + i) * keep), store(of_push + i, load(of_push + i) * eta);
            }
            of_kept *= keep, of_carried *= keep, of_survival *= eta;
            if (w->token[t] == -1) continue;
            real *to_keep = call->dkeep, *to_eta = call->deta, *to_theta = call->dtheta;
            long at = ((w->b * call->T + w->token[t]) * call->H + w->h) * w->G + g;
            if (w->token[t] == -2) {
                at = ((w->b * call->H + w->h) * C + t) * w->G + g;
                to_keep = call->dkeep_old, to_eta = call->deta_old, to_theta = call->dtheta_old;
            }
            to_keep[at] = dkeep, to_theta[at] = dtheta;
            if (call->momentum) to_eta[at] = deta;
        }
    }
}

static void load_divisors(Work *w, long job) {
    const real *kept = w->call->divisors + (job * w->call->R + w->r) * 2 * w->C;
    for (long t = 0; t < w->P; t++) w->over_n[t] = t < w->C ? kept[t] : 1, w->over_m[t] = t < w->C ? kept[w->C + t] : 1;
}

static void chunk_backward(Work *w, long job) {
    const Call *call = w->call;
    long P = w->P;
    gather(w, w->q, call->q);
    load_divisors(w, job);
    read_out(w);
    for (long l = 0; l < w->L; l++) {
        memset(w->da[l], 0, w->in[l] * P * sizeof(real)), memset(w->de[l], 0, w->out[l] * P * sizeof(real));
    }
    memset(w->dsurvival, 0, MAX_LAYERS * sizeof(real));
    for (long g = 0; g < w->G; g++) {
        memset(w->dkept[g], 0, P * sizeof(real)), memset(w->dcarried[g], 0, P * sizeof(real));
        memset(w->dpush[g], 0, P * sizeof(real)), memset(w->dwrite[g], 0, w->C * P * sizeof(real));
    }
    if (w->full) {
        close_backward(w);
    } else if (w->r == call->R - 1) {  /* the open chunk is part of the final state */
        for (long c = 0; c < w->C; c++) {
            if (w->token[c] == -1) continue;
            long at = job * w->C + c;
            for (long l = 0; l < w->L; l++) {
                for (long f = 0; f < w->in[l]; f++) w->da[l][f * P + c] = call->da_open[l][at * w->in[l] + f];
                for (long f = 0; f < w->out[l]; f++) w->de[l][f * P + c] = call->de_open[l][at * w->out[l] + f];
            }
        }
    }
    gather(w, w->y, call->dy);
    read_backward(w);
    surprise_backward(w);
    gates_backward(w);
    scatter(w, call->dq, w->dq);
    scatter(w, call->dk, w->da[0]);
    scatter(w, call->dv, w->dv);
}

static void backward_row(Work *w, long job) {
    const Call *call = w->call;
    long groups = (call->R + call->group - 1) / call->group;
    begin_row(w, job);
    memset(w->dW, 0, w->state * sizeof(real));
    for (long f = 0; f < w->d; f++) w->dgamma[f] = w->dbeta[f] = 0;
    for (long l = 0; l < w->L; l++) {
        long size = w->in[l] * w->out[l];
        load_matrix(w, w->dW + w->offset[l], call->dw_end[l] + job * size, l);
        if (call->momentum) load_matrix(w, w->dS + w->offset[l], call->ds_end[l] + job * size, l);
    }
    for (long group = groups - 1; group >= 0; group--) {
        long begin = group * call->group, end = begin + call->group < call->R ? begin + call->group : call->R;
        memcpy(w->W, call->starts + (job * groups + group) * w->state, w->state * sizeof(real));
        for (w->r = begin; w->r < end; w->r++) {  /* the weights before every round of the group */
            open_round(w);
            if (w->any && begins(w)) begin_document(w);
            memcpy(w->starts + (w->r - begin) * w->state, w->W, w->state * sizeof(real));
            if (!w->any) continue;
            use_record(w, w->r - begin);
            surprise(w);
            if (!w->full || w->r == end - 1) continue;
            load_divisors(w, job);
            close_chunk(w);
        }
        for (w->r = end - 1; w->r >= begin; w->r--) {
            open_round(w);
            if (!w->any) continue;
            memcpy(w->W, w->starts + (w->r - begin) * w->state, w->state * sizeof(real));
            use_record(w, w->r - begin);
            chunk_backward(w, job);
            if (!begins(w)) continue;
            for (long l = 0; l < w->L; l++)
                save_matrix(w, call->dw0[l] + job * w->in[l] * w->out[l], w->dW + w->offset[l], l, 1);
            memset(w->dW, 0, w->state * sizeof(real));
        }
    }
    for (long l = 0; l < w->L; l++) {
        long size = w->in[l] * w->out[l];
        save_matrix(w, call->dw[l] + job * size, w->dW + w->offset[l], l, 0);
        if (call->momentum) save_matrix(w, call->ds[l] + job * size, w->dS + w->offset[l], l, 0);
    }
    if (call->norm) {
        memcpy(call->dgamma + job * w->d, w->dgamma, w->d * sizeof(real));
        memcpy(call->dbeta + job * w->d, w->dbeta, w->d * sizeof(real));
    }
}

/* Rows and heads `begin` to `end` (of B H); 1 if there is no memory for the buffers. */
int run(const Call *call, int64_t begin, int64_t end, int backward) {
    Work work;
    long size = lay_out(&work, call, NULL, backward) * sizeof(real);
    real *block = aligned_alloc(64, (size + 63) / 64 * 64);
    if (!block) return 1;
    memset(block, 0, size);
    lay_out(&work, call, block, backward);
    for (long job = begin; job < end; job++) backward ? backward_row(&work, job) : forward_row(&work, job);
    free(block);
    return 0;
}

int64_t state_size(const Call *call) {
    Work work;
    lay_out(&work, call, NULL, 0);
    return work.state;
}

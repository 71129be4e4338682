/* One token of the memory for one row and head, in place: what step.c does between a layer's projections.

   The arithmetic is that of recurrent.py. What is gained here: one block of buffers serves all rows and heads, and what
   the guard needs of the open chunk is carried along as sums, so that a token costs O(C) of them and not O(C^2). With
   `bound` of gates.py, for every token i of the open chunk and each memory layer,

       pushed_t[i]  = sum_{j<=t} E[t, j] theta_j bound[i, j]  = eta_t pushed_{t-1}[i] + theta_t bound[i, t]
       planned_t[i] = sum_{j<=t} write[t, j] bound[i, j]      = keep_t planned_{t-1}[i] + pushed_t[i]

   They lie in a workspace beside the state and are made anew from the chunk's kept factors where they do not fit it.

   Letters: B rows, H heads, d head dimension, L memory layers, C chunk length, c the token's slot in its chunk,
   G gates per head: 1, or L for separate ones per memory layer. */

/* The arguments, in the order of `_Arguments` in step.py. Contiguous arrays; NULL where something does not apply. */
typedef struct {
    int64_t B, H, d, hidden, L, C, J, forgets, steps, activation; /* J taps; forgets, steps: gates per head, 1 or L */
    double limit, share;                 /* limit 0: no guard */
    double max_step, max_forget, step_margin, forget_margin, epsilon;
    const uint8_t *present, *begins;     /* [B] rows that have a token; rows for which it begins a document */
    const real *qkv, *gate;              /* projections of the token [B, 3, H, d] and, for the output gate, [B, H, d] */
    const real *step, *momentum, *forget; /* logits [B, H, steps] twice and [B, H, forgets]; NULL: no such gate */
    const real *taps;                    /* [3, H, d, J] */
    const real *gamma, *beta;            /* [H, d] */
    const real *output_norm;             /* [d] */
    const real *w0[MAX_LAYERS];          /* [H, d_in, d_out] */
    /* the state; position [B] is that of this token */
    const int64_t *position;
    real *pending, *miss;                /* [B, H, L], [B, H, C] */
    real *open_g, *open_theta, *open_eta; /* [B, H, C, ...] */
    real *w[MAX_LAYERS], *s[MAX_LAYERS], *a[MAX_LAYERS], *e[MAX_LAYERS];
    real *tail;                          /* [B, J - 1, 3, H, d] */
    /* the workspace, of the tokens before position `known` [B, H]: what each layer felt, and the sums [B, H, L, C] */
    int64_t *known;
    real *felt, *planned, *pushed;
    real *y;                             /* [B, H, d] */
} Step;

/* One row and head: where its things are, and buffers. */
typedef struct {
    const Step *step;
    long b, h, c, d, L, C, G, in[MAX_LAYERS], out[MAX_LAYERS];
    real *w[MAX_LAYERS], *s[MAX_LAYERS], *a[MAX_LAYERS], *e[MAX_LAYERS], *miss, *pending;
    real *g, *theta, *log_eta;           /* gates of the open chunk [C, forgets], [C, steps] twice */
    real *keep, *eta;                    /* 1 - alpha and eta of the same */
    real *write[MAX_LAYERS], *push[MAX_LAYERS]; /* weights of the chunk's gradients in W_t and S_t [C] */
    real kept[MAX_LAYERS], carried[MAX_LAYERS], survival[MAX_LAYERS], n, m;
    real *q, *k, *v, *z, *x, *bend[MAX_LAYERS], *zq, *unit, *back, *bound, *next;
} Row;

/* out[m] = A[m] . x for the rows of A [M][N]. */
static void rows_dot(real *out, const real *A, const real *x, long M, long N) {
    for (long m = 0; m < M; m++) out[m] = dot(A + m * N, x, N);
}

/* out[n] = keep out[n] + scale sum_m x[m] A[m][n], and the same for a second pair, for which A is not read again. */
INLINE void columns(const long vectors, const long pairs, real *const out[2], real keep, real scale, const real *const x[2],
                    const real *A, long M, long N, long n) {
    V total[2][8];
    UNROLLED for (long p = 0; p < pairs; p++)
        UNROLLED for (long v = 0; v < vectors; v++) total[p][v] = (V){0};
    for (long m = 0; m < M; m++)
        UNROLLED for (long v = 0; v < vectors; v++) {
            V of = load(A + m * N + n + v * LANES);
            UNROLLED for (long p = 0; p < pairs; p++) total[p][v] += of * x[p][m];
        }
    UNROLLED for (long p = 0; p < pairs; p++)
        UNROLLED for (long v = 0; v < vectors; v++) {
            real *to = out[p] + n + v * LANES;
            store(to, keep == 0 ? total[p][v] * scale : load(to) * keep + total[p][v] * scale);
        }
}
INLINE void times_pairs(const long pairs, real *const out[2], real keep, real scale, const real *const x[2], const real *A,
                        long M, long N) {
    long n = 0;
    if (pairs == 1)
        for (; n + 8 * LANES <= N; n += 8 * LANES) columns(8, pairs, out, keep, scale, x, A, M, N, n);
    for (; n + 4 * LANES <= N; n += 4 * LANES) columns(4, pairs, out, keep, scale, x, A, M, N, n);
    for (; n + LANES <= N; n += LANES) columns(1, pairs, out, keep, scale, x, A, M, N, n);
    for (; n < N; n++)
        for (long p = 0; p < pairs; p++) {
            real total = 0;
            for (long m = 0; m < M; m++) total += x[p][m] * A[m * N + n];
            out[p][n] = keep == 0 ? total * scale : out[p][n] * keep + total * scale;
        }
}
static void times(real *out, real keep, real scale, const real *x, const real *A, long M, long N) {
    times_pairs(1, (real *[2]){out}, keep, scale, (const real *[2]){x}, A, M, N);
}
static void times_both(real *out1, real *out2, const real *x1, const real *x2, const real *A, long M, long N) {
    times_pairs(2, (real *[2]){out1, out2}, 0, 1, (const real *[2]){x1, x2}, A, M, N);
}

static long group_of(const Row *r, long layer) { return r->G == 1 ? 0 : layer; }
static real keep_at(const Row *r, long g, long t) { return r->keep[r->step->forgets == 1 ? t : t * r->step->forgets + g]; }
static long step_at(const Row *r, long g, long t) { return r->step->steps == 1 ? t : t * r->step->steps + g; }
static real theta_at(const Row *r, long g, long t) { return r->theta[step_at(r, g, t)]; }
static real eta_at(const Row *r, long g, long t) { return r->step->momentum ? r->eta[step_at(r, g, t)] : 0; }
/* eta + eta^2 + ...: what momentum will still add */
static real ahead_at(const Row *r, long g, long t) {
    real eta = eta_at(r, g, t), left = 1 - eta;
    return eta / (left > EPSILON ? left : EPSILON);
}

/* to = exp(from), both of `count`; `to` has room for whole vectors. */
static void exponentials(real *to, const real *from, long count) {
    memcpy(to, from, count * sizeof(real));
    for (long i = count; i < padded(count); i++) to[i] = 0;
    for (long i = 0; i < count; i += LANES) store(to + i, exponential(load(to + i)));
}

/* The sums of gates.py as seen at token t. */
static void add_gates(Row *r, long t) {
    for (long g = 0; g < r->G; g++) {
        real A = 1, E = 1, F = 1;  /* A[t, i], E[t, i] and sum_{i<=j<=t} A[t, j] E[j, i] */
        r->write[g][t] = r->push[g][t] = theta_at(r, g, t);
        for (long i = t - 1; i >= 0; i--) {
            real eta = eta_at(r, g, i + 1);
            A *= keep_at(r, g, i + 1), E *= eta, F = A + eta * F;
            r->push[g][i] = E * theta_at(r, g, i), r->write[g][i] = F * theta_at(r, g, i);
        }
        real eta = eta_at(r, g, 0);
        r->kept[g] = A * keep_at(r, g, 0), r->survival[g] = E * eta, r->carried[g] = F * eta;
    }
}

/* Layer norm of z without its affine part; returns 1 / std. */
static real normalise_row(real *unit, const real *z, long d) {
    real mean = 0;
    for (long f = 0; f < d; f++) mean += z[f];
    mean /= d;
    for (long f = 0; f < d; f++) unit[f] = z[f] - mean;
    real inverse = (real)(1 / sqrt((double)(dot(unit, unit, d) / d + LAYER_NORM_EPS)));
    for (long f = 0; f < d; f++) unit[f] *= inverse;
    return inverse;
}

/* The token's gradient in factors, into its slot of the open chunk (`MemoryNetwork.surprise`); in zq: q W_1. */
static void surprise_of_token(Row *r) {
    const Step *step = r->step;
    long L = r->L, last = L - 1, d = r->d, c = r->c;
    const real *gamma = step->gamma ? step->gamma + r->h * d : NULL, *beta = step->beta ? step->beta + r->h * d : NULL;
    memcpy(r->a[0] + c * d, r->k, d * sizeof(real));
    times_both(r->z, r->zq, r->k, r->q, r->w[0], r->in[0], r->out[0]);
    for (long l = 0; l < last; l++) {
        for (long i = 0; i < r->out[l]; i += LANES) {
            V value, slope, curvature;
            activation(step->activation, load(r->z + i), &value, &slope, &curvature);
            store(r->x + i, value), store(r->bend[l] + i, slope);
        }
        memcpy(r->a[l + 1] + c * r->in[l + 1], r->x, r->in[l + 1] * sizeof(real));
        times(r->z, 0, 1, r->x, r->w[l + 1], r->in[l + 1], r->out[l + 1]);
    }
    real *error = r->e[last] + c * d;
    if (L == 1) {
        for (long f = 0; f < d; f++) error[f] = r->z[f] - r->v[f];
        r->miss[c] = 1;
        return;
    }
    real inverse = normalise_row(r->unit, r->z, d), mean = 0, square = 0;
    for (long f = 0; f < d; f++) {
        real scale = gamma ? gamma[f] : 1, shift = beta ? beta[f] : 0;
        real want = r->k[f] + r->unit[f] * scale + shift - r->v[f];
        r->back[f] = want * scale;
        mean += r->back[f], square += want * want;
    }
    mean /= d;
    real along = dot(r->back, r->unit, d) / d;
    for (long f = 0; f < d; f++) error[f] = inverse * (r->back[f] - mean - r->unit[f] * along);
    r->miss[c] = (real)sqrt((double)square);
    for (long l = last; l > 0; l--) {
        real *below = r->e[l - 1] + c * r->out[l - 1];
        rows_dot(r->back, r->w[l], r->e[l] + c * r->out[l], r->in[l], r->out[l]);
        for (long i = 0; i < r->in[l]; i++) below[i] = r->back[i] * r->bend[l - 1][i];
    }
}

/* Brings the guard's sums from before slot t to after it; `add_gates` has been called for t. */
static void add_to_guard(Row *r, long t) {
    const Step *step = r->step;
    long at = (r->b * step->H + r->h) * r->L * r->C;
    for (long l = 0; l < r->L; l++, at += r->C) {
        long g = group_of(r, l);
        real *planned = step->planned + at, *pushed = step->pushed + at, *felt = step->felt + at, *bound = r->bound;
        real eta = eta_at(r, g, t), keep = keep_at(r, g, t), theta = theta_at(r, g, t);
        const real *error = r->e[l] + t * r->out[l];
        felt[t] = r->L > 1 ? (real)sqrt((double)dot(error, error, r->out[l])) / (r->miss[t] > TINY ? r->miss[t] : TINY) : 1;
        rows_dot(bound, r->a[l], r->a[l] + t * r->in[l], t + 1, r->in[l]);
        for (long i = 0; i <= t; i++) bound[i] = fabs(bound[i]) * felt[i] * felt[t];
        for (long i = 0; i < t; i++) {
            pushed[i] = eta * pushed[i] + theta * bound[i];
            planned[i] = keep * planned[i] + pushed[i];
        }
        pushed[t] = dot(bound, r->push[g], t + 1), planned[t] = dot(bound, r->write[g], t + 1);
    }
}

/* The divisors n and m of the token, of which the guard's sums know already (`divisors` of gates.py). */
static void divide(Row *r) {
    const Step *step = r->step;
    long at = (r->b * step->H + r->h) * r->L * r->C;
    real most = 0, later = 0, kept = r->kept[0];
    for (long i = 0; i <= r->c; i++) {
        real reach = 0;
        for (long l = 0; l < r->L; l++)
            reach += step->planned[at + l * r->C + i] + ahead_at(r, group_of(r, l), r->c) * step->pushed[at + l * r->C + i];
        most = reach > most ? reach : most;
    }
    for (long g = 1; g < r->G; g++) kept = r->kept[g] < kept ? r->kept[g] : kept;
    for (long l = 0; l < r->L && step->momentum; l++) {
        long g = group_of(r, l);
        later += (r->carried[g] + ahead_at(r, g, r->c) * r->survival[g]) * r->pending[l];
    }
    real room = (real)step->limit * (1 + kept) / 2;
    r->n = most / room > 1 ? most / room : 1;
    later /= room * (real)step->share;
    r->m = later > 1 ? later : 1;
}

/* y = M_{W_t}(q_t) (`read` of chunked.py). */
static void read_token(Row *r, real *y) {
    const Step *step = r->step;
    const real *x = r->q;
    for (long l = 0; l < r->L; l++) {
        long g = group_of(r, l), in = r->in[l], out = r->out[l];
        real *z = l == 0 ? r->zq : r->z;
        if (l == 0)
            for (long o = 0; o < out; o++) z[o] *= r->kept[g];
        else
            times(z, 0, r->kept[g], x, r->w[l], in, out);
        if (step->momentum) times(z, 1, r->carried[g] / r->m, x, r->s[l], in, out);
        rows_dot(r->bound, r->a[l], x, r->c + 1, in);
        for (long i = 0; i <= r->c; i++) r->bound[i] *= r->write[g][i];
        times(z, 1, -1 / r->n, r->bound, r->e[l], r->c + 1, out);
        if (l == r->L - 1) {
            if (l == 0) memcpy(y, z, r->d * sizeof(real));
            break;
        }
        for (long i = 0; i < out; i += LANES) {
            V value, slope, curvature;
            activation(step->activation, load(z + i), &value, &slope, &curvature);
            store(r->x + i, value);
        }
        x = r->x;
    }
    if (r->L == 1) return;
    normalise_row(r->unit, r->z, r->d);
    for (long f = 0; f < r->d; f++) {
        real scale = step->gamma ? step->gamma[r->h * r->d + f] : 1, shift = step->beta ? step->beta[r->h * r->d + f] : 0;
        y[f] = r->q[f] + r->unit[f] * scale + shift;
    }
}

/* to = keep to + share other - sum_i weight[i] a[i] (x) e[i], with a scaled in place. */
static void add_gradients(Row *r, long l, real *to, real keep, const real *other, real share, real *a) {
    long in = r->in[l], out = r->out[l], whole = out / LANES * LANES;
    Epilogue epilogue = {.scale_all = -1, .keep_all = keep, .other = other, .share = share};
    product_to(epilogue, to, out, a, 1, in, r->e[l], out, in, r->C, whole);
    for (long i = 0; i < in; i++)
        for (long o = whole; o < out; o++) {
            real total = 0;
            for (long t = 0; t < r->C; t++) total += a[t * in + i] * r->e[l][t * out + o];
            to[i * out + o] = keep * to[i * out + o] + (other ? share * other[i * out + o] : 0) - total;
        }
}

/* W, S and what is pending at the end of a full chunk, in place, and the chunk's slots cleared (`close`). */
static int close_full_chunk(Row *r) {
    const Step *step = r->step;
    long job = r->b * step->H + r->h, C = r->C, widest = r->d > step->hidden ? r->d : step->hidden;
    real *scaled = malloc(C * widest * sizeof(real));
    if (!scaled) return 1;
    for (long l = 0; l < r->L; l++) {
        long g = group_of(r, l), in = r->in[l];
        for (long t = 0; t < C; t++)
            for (long i = 0; i < in; i++) scaled[t * in + i] = r->a[l][t * in + i] * r->write[g][t] / r->n;
        add_gradients(r, l, r->w[l], r->kept[g], step->momentum ? r->s[l] : NULL, r->carried[g] / r->m, scaled);
        if (!step->momentum) continue;
        for (long t = 0; t < C; t++)
            for (long i = 0; i < in; i++) scaled[t * in + i] = r->a[l][t * in + i] * r->push[g][t] / r->n;
        add_gradients(r, l, r->s[l], r->survival[g] / r->m, NULL, 0, scaled);
        if (step->limit == 0) continue;
        const real *pushed = step->pushed + (job * r->L + l) * C;
        real own = 0;
        for (long t = 0; t < C; t++) own = pushed[t] > own ? pushed[t] : own;
        r->pending[l] = r->survival[g] / r->m * r->pending[l] + own / r->n;
    }
    free(scaled);
    return 0;
}

static void clear_chunk(Row *r) {
    const Step *step = r->step;
    for (long l = 0; l < r->L; l++) {
        memset(r->a[l], 0, r->C * r->in[l] * sizeof(real));
        memset(r->e[l], 0, r->C * r->out[l] * sizeof(real));
    }
    memset(r->miss, 0, r->C * sizeof(real));
    memset(r->g, 0, r->C * step->forgets * sizeof(real)), memset(r->theta, 0, r->C * step->steps * sizeof(real));
    if (step->momentum) memset(r->log_eta, 0, r->C * step->steps * sizeof(real));
}

static void begin_document_here(Row *r) {
    const Step *step = r->step;
    for (long l = 0; l < r->L; l++) {
        long size = r->in[l] * r->out[l];
        memcpy(r->w[l], step->w0[l] + r->h * size, size * sizeof(real));
        if (step->momentum) memset(r->s[l], 0, size * sizeof(real));
        r->pending[l] = 0;
    }
    long channels = 3 * step->H * r->d;
    for (long j = 0; j < step->J - 1; j++)
        for (long part = 0; part < 3; part++)
            memset(step->tail + (r->b * (step->J - 1) + j) * channels + (part * step->H + r->h) * r->d, 0, r->d * sizeof(real));
    clear_chunk(r);
}

/* What the kernel is called with, and what it works with for one row and head: sizes, buffers, how data gets in and out. */

/* The arguments, in the order of `_Arguments` in native.py. Contiguous arrays; NULL where something does not apply. */
typedef struct {
    int64_t B, T, H, d, hidden, L, C, R, G, activation, momentum, norm, group;
    double limit, share;                 /* limit 0: no guard */
    const int64_t *source;               /* [B, R C] token of each slot, T for none; NULL: slot i is token i */
    const uint8_t *fresh;                /* [R, B] rounds that begin a document */
    const int64_t *fill, *first;         /* [B] slots filled by earlier calls, and the round they are in */
    const real *q, *k, *v;               /* [B, T, H, d] */
    const real *keep, *eta, *theta;      /* [B, T, H, G]; keep = 1 - alpha */
    const real *gamma, *beta;            /* [H, d] */
    const real *pending, *miss_old;      /* [B, H, L], [B, H, C] */
    const real *keep_old, *eta_old, *theta_old; /* [B, H, C, G] */
    const real *w0[MAX_LAYERS];          /* [H, d_in, d_out] */
    const real *w[MAX_LAYERS], *s[MAX_LAYERS];         /* [B, H, d_in, d_out] */
    const real *a_old[MAX_LAYERS], *e_old[MAX_LAYERS]; /* [B, H, C, d_in], [B, H, C, d_out] */
    /* results */
    real *y, *pending_end, *miss_open;
    real *w_end[MAX_LAYERS], *s_end[MAX_LAYERS], *a_open[MAX_LAYERS], *e_open[MAX_LAYERS];
    /* kept for the backward pass: weights and momentum before every `group`th round, divisors [B, H, R, 2, C], and what
       every layer made of the queries, before act [B, H, R, features of all layers, C padded] */
    real *starts, *divisors, *reads;
    /* gradients of the results */
    const real *dy, *dw_end[MAX_LAYERS], *ds_end[MAX_LAYERS], *da_open[MAX_LAYERS], *de_open[MAX_LAYERS];
    /* gradients of the arguments; those of w0, gamma and beta per row: [B, H, ...] */
    real *dq, *dk, *dv, *dkeep, *deta, *dtheta, *dgamma, *dbeta, *dkeep_old, *deta_old, *dtheta_old;
    real *dw0[MAX_LAYERS], *dw[MAX_LAYERS], *ds[MAX_LAYERS], *da_old[MAX_LAYERS], *de_old[MAX_LAYERS];
} Call;

typedef struct {
    const Call *call;
    long d, L, C, P, G;                               /* P: C padded */
    long in[MAX_LAYERS], out[MAX_LAYERS], columns[MAX_LAYERS], wide[MAX_LAYERS]; /* d_in, d_out, d_out padded, a row's length */
    long offset[MAX_LAYERS], matrices, state;         /* where layer l's weights are in a state; W's size; W and S */
    long reads;                                       /* numbers of a round in `reads` of Call */
    long b, h, r;                                     /* row, head, round */
    long any, full;                                   /* whether the round has a token, and is full */
    long token[1024];                                 /* of each slot; -1 empty, -2 from an earlier call */
    real *block, *next;                               /* all buffers come out of one */

    real *nothing;                                    /* zeros, as many as the widest layer has */
    real *W, *S, *pending;                            /* now; S = W + matrices */
    /* surprise: one record, or in the backward pass one for every round of a group */
    real *records;
    long record;                                      /* their size */
    real *a[MAX_LAYERS], *z[MAX_LAYERS], *bend[MAX_LAYERS]; /* inputs, before act, act'(z) */
    real *e[MAX_LAYERS], *back[MAX_LAYERS];           /* errors; and before they went through act' */
    real *miss, *unit, *inverse, *want;               /* layer norm of the last z; want = prediction - value, miss its length */
    real *q, *v;
    real *keep[MAX_LAYERS], *eta[MAX_LAYERS], *theta[MAX_LAYERS];       /* gates [P] */
    real *kept[MAX_LAYERS], *carried[MAX_LAYERS], *survival[MAX_LAYERS];
    real *write[MAX_LAYERS], *push[MAX_LAYERS];       /* [i][t]: weight of gradient i in W_t and in S_t */
    real *write_at[MAX_LAYERS], *push_at[MAX_LAYERS]; /* the same, [t][i] */
    real *written[MAX_LAYERS], *pushed[MAX_LAYERS];   /* the same at the chunk's end, [P] */
    real *n, *m, *over_n, *over_m;
    real *x[MAX_LAYERS], *zr[MAX_LAYERS], *rbend[MAX_LAYERS], *scores[MAX_LAYERS], *y, *runit, *rinverse; /* read */
    real *t1, *t2, *t3, *square1, *square2, *square3;
    real *thin, *settled;                             /* products of short chunks: by token, and by feature */
    real *packed_a, *packed_b;                        /* the factors of a product */
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
    w->miss = take(w, w->P), w->inverse = take(w, w->P);
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
        w->reads += w->out[l] * P;
    }
    w->state = 2 * w->matrices;
    w->block = w->next = block;
    w->nothing = take(w, widest);
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
    w->thin = take(w, LANES * (widest + LANES)), w->settled = take(w, LANES * widest);
    long room = packed_room(widest > P ? widest : P);
    w->packed_a = take(w, room), w->packed_b = take(w, room);
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

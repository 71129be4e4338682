/* Forward over the chunks of one row and head. */

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
        V r = 1 / root(square);
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
        through(w, (Epilogue){.scale_all = 1}, w->z[l], l, w->W + w->offset[l], w->a[l]);
        if (l == last) break;
        for (long i = 0; i < w->out[l] * P; i += LANES) {
            V value, slope, curvature;
            activation(call->activation, load(w->z[l] + i), &value, &slope, &curvature);
            store(w->a[l + 1] + i, value), store(w->bend[l] + i, slope);
        }
    }
    if (L == 1) {
        for (long i = 0; i < w->d * P; i += LANES) store(w->e[0] + i, load(w->z[0] + i) - load(w->v + i));
        for (long t = 0; t < P; t += LANES) store(w->miss + t, fill(1));
    } else {
        normalise(w, w->z[last], w->unit, w->inverse);
        for (long t = 0; t < P; t += LANES) {
            V mean = {0}, along = {0}, square = {0}, r = load(w->inverse + t);
            for (long f = 0; f < w->d; f++) {
                V u = load(w->unit + f * P + t), k = load(w->a[0] + f * P + t), v = load(w->v + f * P + t);
                V want = k + u * (gamma ? gamma[f] : 1) + (beta ? beta[f] : 0) - v, back = want * (gamma ? gamma[f] : 1);
                store(w->want + f * P + t, want);
                mean += back, along += back * u, square += want * want;
            }
            mean /= (real)w->d, along /= (real)w->d;
            for (long f = 0; f < w->d; f++) {
                V back = load(w->want + f * P + t) * (gamma ? gamma[f] : 1);
                store(w->e[last] + f * P + t, r * (back - mean - load(w->unit + f * P + t) * along));
            }
            store(w->miss + t, root(square));
        }
        for (long l = last; l > 0; l--) {
            back_through(w, (Epilogue){.scale_all = 1}, w->back[l - 1], l, w->W + w->offset[l], w->e[l]);
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
        w->miss[c] = call->miss_old[at];
    }
}

/* How much of each token's miss layer l feels [P] (`tangent_bounds` of networks.py). */
static void feel(const Work *w, real *felt, long l) {
    for (long t = 0; t < w->P; t += LANES) {
        V square = {0}, miss = load(w->miss + t);
        for (long o = 0; o < w->out[l]; o++) {
            V e = load(w->e[l] + o * w->P + t);
            square += e * e;
        }
        V share = root(square) / pick(miss > TINY, miss, fill(TINY));
        store(felt + t, w->L == 1 ? fill(1) : share);
    }
}

/* The divisors n and m of every token, and what is pending at the chunk's end (`divisors`, `next_pending`). */
static void guard(Work *w, real *next_pending) {
    const Call *call = w->call;
    long C = w->C, P = w->P;
    real *reach = w->square1, *bound = w->square2, *strain = w->square3;
    for (long t = 0; t < P; t++) w->n[t] = w->m[t] = w->over_n[t] = w->over_m[t] = 1;
    if (call->limit == 0) return;
    real *planned = w->t1, *felt = w->t2, own[MAX_LAYERS];  /* [P], [P] */
    memset(planned, 0, P * sizeof(real));
    for (long l = w->L - 1; l >= 0; l--) {
        long g = gate_of(w, l);
        feel(w, felt, l);
        product_to((Epilogue){.scale_all = 1, .part = EARLIER_ROWS}, bound, P, w->a[l], 1, P, w->a[l], P, C, w->in[l], P);
        for (long i = 0; i < C; i++)
            for (long t = strip_of(i); t < P; t += LANES) {
                V x = load(bound + i * P + t);
                x = pick(x < 0, -x, x) * load(felt + t) * felt[i];
                store(bound + i * P + t, x);
            }
        for (long n = STRIP; n < C; n += STRIP)  /* the lower half is the upper one's mirror image */
            transpose(bound + n * P, P, bound + n, P, n, C - n < STRIP ? C - n : STRIP);
        for (long j = 0; j < C; j++)
            for (long t = strip_of(j); t < P; t += LANES) {
                V e = load(w->eta[g] + t), left = 1 - e;
                V ahead = e / pick(left > EPSILON, left, fill(EPSILON));
                store(strain + j * P + t, load(w->write[g] + j * P + t) + ahead * load(w->push[g] + j * P + t));
            }
        product_to((Epilogue){.scale_all = 1, .keep_all = l < w->L - 1, .part = EARLIER_ROWS | EARLIER_SUM}, reach, P, bound, P,
                   1, strain, P, C, C, P);
        real most = 0;
        for (long i = 0; i < C; i++) {
            V total = {0};
            for (long j = 0; j < P; j += LANES) total += load(bound + i * P + j) * load(w->pushed[g] + j);
            most = sum(total) > most ? sum(total) : most;
        }
        own[l] = most;
        for (long t = 0; t < C && call->momentum; t++) {
            real left = 1 - w->eta[g][t], ahead = w->eta[g][t] / (left > EPSILON ? left : EPSILON);
            planned[t] += (w->carried[g][t] + ahead * w->survival[g][t]) * w->pending[l];
        }
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

/* zr of layer l, given its scores: kept W^T x + carried S^T x / m - e (write * scores). */
static void read_layer(Work *w, long l, const real *x) {
    const Call *call = w->call;
    long P = w->P, g = gate_of(w, l);
    real *carried = w->t1;
    for (long t = 0; t < P; t += LANES) store(carried + t, load(w->carried[g] + t) * load(w->over_m + t));
    through(w, (Epilogue){.scale_all = 1}, w->zr[l], l, w->W + w->offset[l], x);
    if (call->momentum)
        through(w, (Epilogue){.scale = carried, .keep = w->kept[g]}, w->zr[l], l, w->S + w->offset[l], x);
    for (long i = 0; i < w->C; i++)
        for (long t = strip_of(i); t < P; t += LANES)
            store(w->square1 + i * P + t,
                  load(w->scores[l] + i * P + t) * load(w->write[g] + i * P + t) * load(w->over_n + t));
    Epilogue rest = {.scale_all = -1, .keep_all = 1, .part = EARLIER_SUM};
    if (!call->momentum) rest.keep = w->kept[g];
    product_to(rest, w->zr[l], P, w->e[l], P, 1, w->square1, P, w->out[l], w->C, P);
}

/* y = M_{W_t}(q_t) (`read` of chunked.py). What the layers made of the queries is kept where there is room; with `again`
   it is taken from there, and all but y is made. */
static void read_out(Work *w, int again) {
    const Call *call = w->call;
    long P = w->P, last = w->L - 1;
    real *kept = call->reads ? call->reads + ((w->b * call->H + w->h) * call->R + w->r) * w->reads : NULL;
    for (long l = 0; l < w->L; l++) {
        const real *x = l == 0 ? w->q : w->x[l];
        long size = w->out[l] * P;
        product_to((Epilogue){.scale_all = 1, .part = EARLIER_ROWS}, w->scores[l], P, w->a[l], 1, P, x, P, w->C, w->in[l], P);
        if (again) memcpy(w->zr[l], kept, size * sizeof(real));
        else read_layer(w, l, x);
        if (kept && !again) memcpy(kept, w->zr[l], size * sizeof(real));
        if (kept) kept += size;
        if (l == last) break;
        for (long i = 0; i < w->out[l] * P; i += LANES) {
            V value, slope, curvature;
            activation(call->activation, load(w->zr[l] + i), &value, &slope, &curvature);
            store(w->x[l + 1] + i, value), store(w->rbend[l] + i, slope);
        }
    }
    if (w->L == 1) {
        if (!again) memcpy(w->y, w->zr[0], w->d * P * sizeof(real));
        return;
    }
    normalise(w, w->zr[last], w->runit, w->rinverse);
    if (again) return;
    for (long f = 0; f < w->d; f++) {
        real scale = call->norm ? call->gamma[w->h * w->d + f] : 1, shift = call->norm ? call->beta[w->h * w->d + f] : 0;
        for (long t = 0; t < P; t += LANES)
            store(w->y + f * P + t, load(w->q + f * P + t) + load(w->runit + f * P + t) * scale + shift);
    }
}

/* W and S at the end of a full chunk, in place (`close` of chunked.py). */
static void close_chunk(Work *w) {
    long C = w->C, P = w->P, end = C - 1;
    int momentum = w->call->momentum;
    for (long l = 0; l < w->L; l++) {
        long g = gate_of(w, l), wide = w->wide[l];
        real *W = w->W + w->offset[l], *S = w->S + w->offset[l], over = w->over_n[end];
        by_token(w, w->t3, w->e[l], l);
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
            read_out(w, 0);
            scatter(w, call->y, w->y);
            if (w->full) {
                close_chunk(w);
                memcpy(w->pending, next, sizeof next);
            }
        }
    }
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
        call->miss_open[at] = w->miss[c];
    }
}

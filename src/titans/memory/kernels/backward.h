/* Backward over the chunks of one row and head: group by group from the last, what was not kept computed anew. */

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
        Epilogue less = {.scale_all = -1, .keep_all = 1}, plain = {.scale_all = 1};
        back_through(w, less, w->da[l], l, dW, w->t1);
        if (w->call->momentum) back_through(w, less, w->da[l], l, dS, w->t2);
        through(w, plain, w->t1, l, dW, w->a[l]);
        if (w->call->momentum) through(w, plain, w->t2, l, dS, w->a[l]);
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
        back_through(w, (Epilogue){.scale_all = 1}, u, l, W, dz);
        if (call->momentum) back_through(w, (Epilogue){.scale_all = 1}, s, l, S, dz);
        /* dP^T [i][t] = -e^T dz; d scores in square1, d write accumulated; the scores with their weights in square2 */
        product_to((Epilogue){.scale_all = -1, .part = EARLIER_ROWS}, w->square1, P, w->e[l], 1, P, dz, P, C, w->out[l], P);
        for (long i = 0; i < C; i++)
            for (long t = strip_of(i); t < P; t += LANES) {
                V dp = load(w->square1 + i * P + t) * load(w->over_n + t), score = load(w->scores[l] + i * P + t);
                V write = load(w->write[g] + i * P + t);
                store(w->square1 + i * P + t, dp * write);
                store(w->dwrite[g] + i * P + t, load(w->dwrite[g] + i * P + t) + dp * score);
                store(w->square2 + i * P + t, score * write * load(w->over_n + t));
            }
        by_token(w, w->t3, dz, l);
        /* de[o][i] -= sum_t dz[o][t] P[i][t]: by token of the chunk, [i][t] -> [t][i] */
        transpose_square(w, w->square3, w->square2);
        product_to((Epilogue){.scale_all = -1, .keep_all = 1, .part = LATER_SUM}, w->de[l], P, dz, P, 1, w->square3, P, w->out[l], C, P);
        /* da[f][i] += sum_t x[f][t] dscores[i][t] */
        transpose_square(w, w->square3, w->square1);
        product_to((Epilogue){.scale_all = 1, .keep_all = 1, .part = LATER_SUM}, w->da[l], P, x, P, 1, w->square3, P, w->in[l], C, P);
        /* dx = kept u + carried s + a dscores; the gates' share on the way; x scaled for the weights' gradients */
        product_to((Epilogue){.scale_all = 1, .part = EARLIER_SUM}, dx, P, w->a[l], P, 1, w->square1, P, w->in[l], C, P);
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
        by_token(w, w->t3, w->e[l], l);
        product(dW, wide, w->t2, P, 1, w->t3, wide, w->in[l], C, w->columns[l], 1, 1);
        through(w, (Epilogue){.scale_all = 1, .keep_all = 1}, w->de[l], l, W, w->t2);
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
        back_through(w, (Epilogue){.scale_all = 1, .keep_all = 1}, w->da[l], l, W, dz);
        by_token(w, w->t3, dz, l);
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
    read_out(w, 1);
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

/* Products of a layer's weights [d_in][wide] with the features of a chunk's tokens [features][P].

   Tokens run along the vectors. Where a chunk fills no more than half of one, the features do instead, for the length of
   the product: the numbers a vector wastes otherwise are most of it (at C = 4 twelve of sixteen). */

/* [d_out][P] of layer l by token, [C][wide] with zeros behind d_out: as products that run along features want it. */
static void by_token(const Work *w, real *to, const real *from, long l) {
    for (long c = 0; c < w->C; c++)
        for (long o = w->out[l]; o < w->wide[l]; o++) to[c * w->wide[l] + o] = 0;
    transpose(to, w->wide[l], from, w->P, w->out[l], w->C);
}

static int is_thin(const Work *w) { return 2 * w->C <= LANES; }

/* out = scale p + keep out, a scale and keep for each token. */
INLINE void settle(const Work *w, Epilogue to, real *out, const real *p, long features) {
    V scale = to.scale ? load(to.scale) : fill(to.scale_all), keep = to.keep ? load(to.keep) : fill(to.keep_all);
    for (long f = 0; f < features; f++, out += w->P, p += LANES) {
        V x = load(p) * scale;
        if (to.keep || to.keep_all != 0) x += load(out) * keep;
        store(out, x);
    }
}

/* out[o][t] = sum_f M[f][o] x[f][t], by layer l's weights or momentum M */
static void through(Work *w, Epilogue to, real *out, long l, const real *M, const real *x) {
    long wide = w->wide[l];
    if (!is_thin(w)) {
        product_to(to, out, w->P, M, 1, wide, x, w->P, w->out[l], w->in[l], w->P);
        return;
    }
    product_to((Epilogue){.scale_all = 1}, w->thin, wide, x, 1, w->P, M, wide, w->C, w->in[l], w->columns[l]);
    const real *row[LANES];
    for (long t = 0; t < LANES; t++) row[t] = t < w->C ? w->thin + t * wide : w->nothing;
    transpose_rows(w->settled, LANES, row, w->out[l]);
    settle(w, to, out, w->settled, w->out[l]);
}

#if PAIRS == 1
/* p[f][t] = sum_o M[f][o] x[t][o] for LANES / tokens rows of M and so many rows of x: a sum per lane. */
INLINE void dots(const long tokens, const real *M, long rows, long wide, const real *x, long columns, real *p) {
    const long together = LANES / tokens;
    V total[LANES];
    const real *row[LANES];
    EVERY_LANE for (long i = 0; i < LANES; i++) total[i] = (V){0};
    EVERY_LANE for (long f = 0; f < together; f++) row[f] = M + (f < rows ? f : rows - 1) * wide;
    for (long o = 0; o < columns; o += LANES) {
        V of_token[LANES];
        EVERY_LANE for (long t = 0; t < tokens; t++) of_token[t] = load(x + t * wide + o);
        EVERY_LANE for (long f = 0; f < together; f++) {
            V of_row = load(row[f] + o);
            EVERY_LANE for (long t = 0; t < tokens; t++) total[f * tokens + t] += of_row * of_token[t];
        }
    }
    transpose_block(total);
    EVERY_LANE for (long i = 1; i < LANES; i++) total[0] += total[i];
    for (long f = 0; f < together && f < rows; f++) {
        store(p + f * LANES, (V){0});
        for (long t = 0; t < tokens; t++) p[f * LANES + t] = total[0][f * tokens + t];
    }
}
#endif

/* out[f][t] = sum_o M[f][o] x[o][t] */
static void back_through(Work *w, Epilogue to, real *out, long l, const real *M, const real *x) {
    long wide = w->wide[l];
#if PAIRS == 1
    if (is_thin(w)) {
        long tokens = 1;
        while (tokens < w->C) tokens *= 2;
        by_token(w, w->thin, x, l);
        memset(w->thin + w->C * wide, 0, (tokens - w->C) * wide * sizeof(real));
        for (long f = 0; f < w->in[l]; f += LANES / tokens) {
            long rows = w->in[l] - f;
            real *p = w->settled + f * LANES;
            const real *from = M + f * wide;
            if (tokens == 1) dots(1, from, rows, wide, w->thin, w->columns[l], p);
            else if (tokens == 2) dots(2, from, rows, wide, w->thin, w->columns[l], p);
            else if (tokens == 4) dots(4, from, rows, wide, w->thin, w->columns[l], p);
            else dots(8, from, rows, wide, w->thin, w->columns[l], p);
        }
        settle(w, to, out, w->settled, w->in[l]);
        return;
    }
#endif
    product_to(to, out, w->P, M, wide, 1, x, w->P, w->in[l], w->out[l], w->P);
}

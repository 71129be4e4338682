/* Matrix products in registers, and transposes. Matrices are row by row, rows padded to whole vectors. */

static long padded(long n) { return (n + LANES - 1) / LANES * LANES; }

/* What is needed of a product p[m][n] = sum_k a[m][k] b[k][n] where tokens only see the past, in whole strips of columns:
   all of it; p for m <= n; p where b[k][n] = 0 for k > n; p where b[k][n] = 0 for k < n; p for m <= n where b[k][n] = 0 for
   k > n. What is not needed is left as it is, what is zero is not read. */
enum { WHOLE = 0, EARLIER_ROWS = 1, EARLIER_SUM = 2, LATER_SUM = 4 };
#define STRIP (2 * LANES)

/* What becomes of it: out[m][n] = scale[n] p + keep[n] out + share other[m][n]. A scale or keep that is the same for all
   columns is `scale_all` or `keep_all`, with NULL for the array; with keep 0 out need hold nothing. */
typedef struct {
    real scale_all, keep_all;
    const real *scale, *keep, *other;
    real share;
    int part;
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

#define ROWS(vectors, rows)       \
    for (; m + rows <= last; m += rows) \
        tile(rows, vectors, out, ldo, a + begin * ak, am, ak, b + begin * ldb, ldb, end - begin, &to, m, n);
#define COLUMNS(vectors, most)                                                      \
    for (; n + vectors * LANES <= N; n += vectors * LANES) {                        \
        long m = 0, next = n + vectors * LANES;                                     \
        long last = to.part & EARLIER_ROWS && next < M ? next : M;                  \
        long begin = to.part & LATER_SUM ? n : 0, end = to.part & EARLIER_SUM && next < K ? next : K; \
        ROWS(vectors, most) ROWS(vectors, 4) ROWS(vectors, 2) ROWS(vectors, 1)      \
    }

static void product_to(Epilogue to, real *out, long ldo, const real *a, long am, long ak, const real *b, long ldb, long M,
                       long K, long N) {
    long n = 0;
#if WIDTH == 64
    if (to.part == WHOLE) COLUMNS(4, 6) /* 24 of 32 registers; the others have 16 */
#endif
    COLUMNS(2, 6)
    COLUMNS(1, 8)
}

static void product(real *out, long ldo, const real *a, long am, long ak, const real *b, long ldb, long M, long K,
                    long N, real sign, int add) {
    product_to((Epilogue){.scale_all = sign, .keep_all = add}, out, ldo, a, am, ak, b, ldb, M, K, N);
}

/* The first column of the strip that column n is in. */
static long strip_of(long n) { return n / STRIP * STRIP; }

/* out[m][n] for m >= n (and more), of a symmetric result; strips of `STRIP` columns begin at their diagonal. */
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

/* Matrix products in registers, and transposes. Matrices are row by row, rows padded to whole vectors.

   With ROUNDED, on a processor that has instructions for it, factors are rounded to bfloat16 and summed in float32. These
   instructions multiply pairs, two numbers one after the other along k, so both factors are packed into pairs first. */

static long padded(long n) { return (n + LANES - 1) / LANES * LANES; }

#if defined(ROUNDED) && defined(__AVX512BF16__)
#include <immintrin.h>
#define PAIRS 2
typedef uint32_t factor;
typedef __m512bh X;
typedef __m512 Sum;  /* as V the compiler (GCC 12) keeps sums in memory */
static _Thread_local factor *packed_a, *packed_b;
INLINE X load_factor(const factor *x) { return (X)_mm512_loadu_si512(x); }
INLINE X fill_factor(factor x) { return (X)_mm512_set1_epi32((int)x); }
INLINE Sum plus_product(Sum sum, X a, X b) { return _mm512_dpbf16_ps(sum, a, b); }

/* Where a thread packs the factors of its products, and room for a factor of which no side is longer than `widest`. */
static void pack_in(real *a, real *b) { packed_a = (factor *)a, packed_b = (factor *)b; }
static long packed_room(long widest) { return padded(widest) * (padded(widest) / PAIRS); }
#else
#define PAIRS 1
typedef real factor;
typedef V X, Sum;
INLINE X load_factor(const factor *x) { return load(x); }
INLINE X fill_factor(factor x) { return fill(x); }
INLINE Sum plus_product(Sum sum, X a, X b) { return sum + a * b; }
static void pack_in(real *a, real *b) {}
static long packed_room(long widest) { return 0; }
#endif

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
INLINE void tile(const long rows, const long vectors, real *out, long ldo, const factor *a, long am, long ak,
                 const factor *b, long ldb, long K, const Epilogue *to, long row, long column) {
    Sum acc[8][4];
    UNROLLED for (long m = 0; m < rows; m++)
        UNROLLED for (long v = 0; v < vectors; v++) acc[m][v] = (Sum){0};
    a += row * am, b += column, out += row * ldo + column;
    const factor *third[3] = {a, a + 3 * am, a + 6 * am};  /* a row's address is one of these and at most two strides */
    for (long k = 0; k < K; k++) {
        X x[4];
        UNROLLED for (long v = 0; v < vectors; v++) x[v] = load_factor(b + v * LANES);
        UNROLLED for (long m = 0; m < rows; m++) {
            X scalar = fill_factor(third[m / 3][m % 3 * am]);
            UNROLLED for (long v = 0; v < vectors; v++) acc[m][v] = plus_product(acc[m][v], scalar, x[v]);
        }
        b += ldb;
        UNROLLED for (long i = 0; i < 3; i++) third[i] += ak;
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
        long begin = to.part & LATER_SUM ? n / PAIRS : 0;                           \
        long end = to.part & EARLIER_SUM && next / PAIRS < K ? next / PAIRS : K;    \
        ROWS(vectors, most) ROWS(vectors, 4) ROWS(vectors, 2) ROWS(vectors, 1)      \
    }

static void multiply(Epilogue to, real *out, long ldo, const factor *a, long am, long ak, const factor *b, long ldb, long M,
                     long K, long N) {
    long n = 0;
#if WIDTH == 64
    if (to.part == WHOLE) COLUMNS(4, 6) /* 24 of 32 registers; the others have 16 */
#endif
    COLUMNS(2, 6)
    COLUMNS(1, 8)
}

#if PAIRS == 2
/* The first n numbers, zero after them. */
INLINE __m512 load_some(const real *x, long n) {
    return _mm512_maskz_loadu_ps(n < LANES ? (__mmask16)((1 << n) - 1) : 0xffff, x);
}

/* The numbers of two rows in turn, [n] each: pairs where they are the same column of rows k and k + 1. */
INLINE void pack_rows(factor *to, const real *row, const real *next, long n) {
    const __m512i in_turn = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                             20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (long i = 0; i < n; i += LANES) {
        __m512 x = load_some(row + i, n - i), y = next ? load_some(next + i, n - i) : _mm512_setzero_ps();
        _mm512_storeu_si512(to + i, _mm512_permutexvar_epi16(in_turn, (__m512i)_mm512_cvtne2ps_pbh(y, x)));
    }
}

/* One row's numbers as they are: pairs where k runs along the row. */
INLINE void pack_row(factor *to, const real *row, long n) {
    for (long i = 0; i < n; i += LANES)
        _mm256_storeu_si256((__m256i *)(to + i / PAIRS), (__m256i)_mm512_cvtneps_pbh(load_some(row + i, n - i)));
}

static void product_to(Epilogue to, real *out, long ldo, const real *a, long am, long ak, const real *b, long ldb, long M,
                       long K, long N) {
    long pairs = (K + 1) / PAIRS, along = ak == 1, lda = along ? padded(K) / PAIRS : padded(M);
    for (long m = 0; along && m < M; m++) pack_row(packed_a + m * lda, a + m * am, K);
    for (long k = 0; k < K; k += PAIRS) {
        if (!along) pack_rows(packed_a + k / PAIRS * lda, a + k * ak, k + 1 < K ? a + (k + 1) * ak : NULL, M);
        pack_rows(packed_b + k / PAIRS * N, b + k * ldb, k + 1 < K ? b + (k + 1) * ldb : NULL, N);
    }
    multiply(to, out, ldo, packed_a, along ? lda : 1, along ? 1 : lda, packed_b, N, M, pairs, N);
}
#else
static void product_to(Epilogue to, real *out, long ldo, const real *a, long am, long ak, const real *b, long ldb, long M,
                       long K, long N) {
    multiply(to, out, ldo, a, am, ak, b, ldb, M, K, N);
}
#endif

static void product(real *out, long ldo, const real *a, long am, long ak, const real *b, long ldb, long M, long K,
                    long N, real sign, int add) {
    product_to((Epilogue){.scale_all = sign, .keep_all = add}, out, ldo, a, am, ak, b, ldb, M, K, N);
}

/* The first column of the strip that column n is in. */
static long strip_of(long n) { return n / STRIP * STRIP; }

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

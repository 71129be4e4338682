/* One token of a memory layer on a processor, all that is between its projections, in place on a state that the caller
   owns: convolution, normalisation, gates, the memory itself (token.h), output norm and gate.

   The arithmetic is that of layer.py and recurrent.py. Rows and heads are independent.

   REAL is float or double. Letters: B rows, H heads, d head dimension, L memory layers, C chunk length. */

#include "vectors.h"
#include "activations.h"
#include "products.h"
#include "token.h"

static real *part(Row *r, long count) {
    real *at = r->next;
    r->next += padded(count);
    return at;
}

/* Sets the buffers out in `block`, or with block NULL only counts them. */
static long lay_out_row(Row *r, const Step *step, real *block) {
    long widest = step->d > step->hidden ? step->d : step->hidden, C = step->C;
    memset(r, 0, sizeof *r);
    r->step = step, r->d = step->d, r->L = step->L, r->C = C;
    r->G = step->forgets > step->steps ? step->forgets : step->steps;
    r->next = block;
    r->keep = part(r, C * step->forgets), r->eta = part(r, C * step->steps);
    for (long g = 0; g < r->G; g++) r->write[g] = part(r, C), r->push[g] = part(r, C);
    for (long l = 0; l < r->L; l++) {
        r->in[l] = l == 0 ? step->d : step->hidden, r->out[l] = l == r->L - 1 ? step->d : step->hidden;
        r->bend[l] = part(r, widest);
    }
    r->q = part(r, step->d), r->k = part(r, step->d), r->v = part(r, step->d);
    r->z = part(r, widest), r->x = part(r, widest), r->zq = part(r, widest), r->unit = part(r, widest);
    r->back = part(r, widest), r->bound = part(r, C);
    return r->next - block;
}

static void go_to(Row *r, long job) {
    const Step *step = r->step;
    r->b = job / step->H, r->h = job % step->H, r->c = step->position[r->b] % r->C;
    for (long l = 0; l < r->L; l++) {
        long size = r->in[l] * r->out[l];
        r->w[l] = step->w[l] + job * size, r->s[l] = step->momentum ? step->s[l] + job * size : NULL;
        r->a[l] = step->a[l] + job * r->C * r->in[l], r->e[l] = step->e[l] + job * r->C * r->out[l];
    }
    r->miss = step->miss + job * r->C, r->pending = step->pending + job * r->L;
    r->g = step->open_g + job * r->C * step->forgets, r->theta = step->open_theta + job * r->C * step->steps;
    r->log_eta = step->momentum ? step->open_eta + job * r->C * step->steps : NULL;
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
/* `closing` of layer.py */
static double closing(double gate, double margin) {
    double x = (1 + 2 * margin) * gate - margin;
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

/* The token's gates, into its slot of the open chunk (`GateProjections`). */
static void open_gates(Row *r, long job) {
    const Step *step = r->step;
    long steps = step->steps, forgets = step->forgets;
    for (long i = 0; i < steps; i++) {
        double theta = closing(sigmoid(step->step[job * steps + i]), step->step_margin) * step->max_step;
        if (step->momentum) {
            double logit = step->momentum[job * steps + i];
            r->log_eta[r->c * steps + i] = (real)(logit < 0 ? logit - log1p(exp(logit)) : -log1p(exp(-logit)));
            theta *= sigmoid(-logit);
        }
        r->theta[r->c * steps + i] = (real)theta;
    }
    for (long i = 0; i < forgets; i++) {
        double alpha = step->forget ? closing(sigmoid(step->forget[job * forgets + i]), step->forget_margin) : 0;
        r->g[r->c * forgets + i] = (real)log1p(-(alpha < step->max_forget ? alpha : step->max_forget));
    }
    exponentials(r->keep, r->g, (r->c + 1) * forgets);
    if (step->momentum) exponentials(r->eta, r->log_eta, (r->c + 1) * steps);
}

/* x = SiLU(x) */
static void silu(real *x, long count) {
    long i = 0;
    for (; i + LANES <= count; i += LANES) {
        V z = load(x + i);
        store(x + i, z * logistic(z));
    }
    for (; i < count; i++) x[i] = (real)(x[i] * sigmoid(x[i]));
}

/* Convolution and SiLU of query, key or value (part 0, 1, 2), and its new tail (`causal_convolution`). */
static void convolve_token(Row *r, long part, real *x) {
    const Step *step = r->step;
    long d = r->d, J = step->J, channels = 3 * step->H * d, at = (part * step->H + r->h) * d;
    memcpy(x, step->qkv + r->b * channels + at, d * sizeof(real));
    if (step->taps) {
        real *tail = step->tail + r->b * (J - 1) * channels + at;
        const real *taps = step->taps + at * J;
        for (long f = 0; f < d; f++) {
            real now = x[f], y = taps[f * J] * now;
            for (long j = 1; j < J; j++) y += taps[f * J + j] * tail[(J - 1 - j) * channels + f];
            for (long j = 0; j + 2 < J; j++) tail[j * channels + f] = tail[(j + 1) * channels + f];
            if (J > 1) tail[(J - 2) * channels + f] = now;
            x[f] = y;
        }
    }
    silu(x, d);
}

static void to_unit_length(real *x, long d) {
    real scale = 1 / length(x, d);
    for (long f = 0; f < d; f++) x[f] *= scale;
}

/* Output norm and gate, in place (`NeuralMemory.output`). */
static void finish_output(Row *r, long job, real *y) {
    const Step *step = r->step;
    long d = r->d;
    real scale = (real)(1 / sqrt((double)dot(y, y, d) / d + step->epsilon)), *gate = r->unit;
    memcpy(gate, step->gate + job * d, d * sizeof(real));
    silu(gate, d);
    for (long f = 0; f < d; f++) y[f] *= scale * step->output_norm[f] * gate[f];
}

static int step_row(Row *r, long job) {
    const Step *step = r->step;
    go_to(r, job);
    long c = r->c;
    real *y = step->y + job * r->d;
    if (step->present && !step->present[r->b]) {
        memset(y, 0, r->d * sizeof(real));
        return 0;
    }
    if (step->begins && step->begins[r->b]) begin_document_here(r);
    open_gates(r, job);
    convolve_token(r, 0, r->q), convolve_token(r, 1, r->k), convolve_token(r, 2, r->v);
    to_unit_length(r->q, r->d), to_unit_length(r->k, r->d);
    surprise_of_token(r);
    r->n = r->m = 1;
    if (step->limit > 0) {
        int fits = c > 0 && step->known[job] == step->position[r->b];
        for (long t = fits ? c : 0; t <= c; t++) add_gates(r, t), add_to_guard(r, t);
        divide(r);
    } else {
        add_gates(r, c);
    }
    read_token(r, y);
    finish_output(r, job, y);
    if (c == r->C - 1) {
        if (close_full_chunk(r)) return 1;
        clear_chunk(r);
    }
    step->known[job] = step->position[r->b] + 1;
    return 0;
}

/* Rows and heads `begin` to `end` (of B H); 1 if there is no memory for the buffers. */
int run(const Step *step, int64_t begin, int64_t end, int backward) {
    (void)backward;
    Row r;
    long size = lay_out_row(&r, step, NULL) * sizeof(real);
    real *block = aligned_alloc(64, (size + 63) / 64 * 64);
    if (!block) return 1;
    memset(block, 0, size);
    lay_out_row(&r, step, block);
    int failed = 0;
    for (long job = begin; job < end && !failed; job++) failed = step_row(&r, job);
    free(block);
    return failed;
}

#include "team.h"

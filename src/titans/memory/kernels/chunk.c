/* The chunked memory on a processor: forward and backward of the whole loop over chunks, for one row and head at a time.

   The arithmetic is that of chunked.py and networks.py, which say what it means; names are theirs. What is gained here
   is that a chunk's work stays in the cache, that nothing is allocated and that elementwise work is fused.

   Activations are kept feature by token, [features][tokens], tokens padded to whole vectors, so that products with the
   memory's weights and with their transpose both run along contiguous tokens and nothing has to be packed.

   REAL is float or double. Letters: B rows, T tokens, H heads, d head dimension, L memory layers, C chunk length,
   R rounds (chunks of each row), G gates per head: 1, or L for separate ones per memory layer. */

#include "vectors.h"
#include "activations.h"
#include "products.h"
#include "work.h"
#include "weights.h"
#include "forward.h"
#include "backward.h"

/* Rows and heads `begin` to `end` (of B H); 1 if there is no memory for the buffers. */
int run(const Call *call, int64_t begin, int64_t end, int backward) {
    Work work;
    long size = lay_out(&work, call, NULL, backward) * sizeof(real);
    real *block = aligned_alloc(64, (size + 63) / 64 * 64);
    if (!block) return 1;
    memset(block, 0, size);
    lay_out(&work, call, block, backward);
    pack_in(work.packed_a, work.packed_b);
    for (long job = begin; job < end; job++) backward ? backward_row(&work, job) : forward_row(&work, job);
    free(block);
    return 0;
}

#include "team.h"

/* Numbers of a state in `starts`, and of a round in `reads`. */
void sizes(const Call *call, int64_t *state, int64_t *reads) {
    Work work;
    lay_out(&work, call, NULL, 0);
    *state = work.state, *reads = work.reads;
}

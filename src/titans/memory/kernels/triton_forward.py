"""The chunk loop of a memory of depth 2 as one Triton kernel: `chunked.py` for one row and head.

The running weights and momentum stay in global memory (that is, in the second-level cache): with them the rest of the
chunk would not fit on chip. Each round reads them twice, tile by tile of the hidden width: once to find the chunk's
errors, once to read with them and to write them anew. Letters: triton_shared.py; HIDDEN hidden width, BH width of a
tile. Of a layer's name, the digit is the memory layer: x1 and z1 what goes into and comes out of layer 1.
"""

# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false
# (to a type checker, a kernel's arguments are not tensors)

import triton
import triton.language as tl

from titans.memory.kernels.triton_shared import (
    activate,
    at_end,
    load_line,
    load_matrix,
    load_rows,
    load_square,
    load_tokens,
    normalise,
    own_pending,
    product,
    steps,
    store_line,
    store_matrix,
    store_rows,
    store_tokens,
)


@triton.jit(do_not_specialize=["stride", "begin", "end", "B", "R", "H"])
def deep_forward(
    # tokens [B, R, C, H, D], and sums of the gates (triton_shared.py)
    q,
    k,
    v,
    y,
    kept,
    carried,
    write,
    push,
    survival,
    strain,
    drift,
    # the affine part of the layer norm [H, D]
    gamma,
    beta,
    # weights and momentum, [B, H, D, HIDDEN] and [B, H, HIDDEN, D], before round `begin`; those before the next round
    # are `stride` such states further: none (in place), or one (they are all kept)
    w1,
    w2,
    s1,
    s2,
    stride,
    # what a new document begins with [H, ...], and where one begins [R, B]
    w1_fresh,
    w2_fresh,
    fresh,
    full,
    # the chunk that was open before the call: its filled slots by round [R, B], and their factors [B, H, C, ...]
    filled_before,
    x1_before,
    x2_before,
    e1_before,
    e2_before,
    miss_before,
    # the chunk that is open after it: its filled slots [B], and their factors
    filled_after,
    x1_after,
    x2_after,
    e1_after,
    e2_after,
    miss_after,
    # the guard: pending momentum [B, H, 2], updated; 1 / n and 1 / m of every token [R, B, H, 2, C]
    pending,
    divisors,
    # with REPLAY: z2, z, e2 and x1 of each round [rounds, B, H, 4, C, D], and scores2 [rounds, B, H, C, C]
    record,
    scores,
    begin,
    end,
    B,
    R,
    H,
    D: tl.constexpr,
    HIDDEN: tl.constexpr,
    C: tl.constexpr,
    BD: tl.constexpr,
    BC: tl.constexpr,
    ACT: tl.constexpr,
    P: tl.constexpr,
    MOMENTUM: tl.constexpr,
    NORM: tl.constexpr,
    LIMIT: tl.constexpr,  # of the guard; 0 for none
    SHARE: tl.constexpr,
    FRESH: tl.constexpr,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    REPLAY: tl.constexpr,  # no outputs: everything that the backward pass begins with
    BH: tl.constexpr,
):
    job = tl.program_id(0).to(tl.int64)
    row, head = job // H, job % H
    dtype = w1.dtype.element_ty
    SIZE: tl.constexpr = D * HIDDEN
    c, f, u = tl.arange(0, BC), tl.arange(0, BD), tl.arange(0, BH)
    features = (f < D)[None, :]
    scale, shift = 1.0, 0.0
    if NORM:
        scale = tl.load(gamma + head * D + f, mask=f < D, other=0.0)[None, :]
        shift = tl.load(beta + head * D + f, mask=f < D, other=0.0)[None, :]
    pending1, pending2 = tl.load(pending + job * 2), tl.load(pending + job * 2 + 1)

    r = begin
    while r < end:  # (the interpreter has no `range` of a kernel's argument with NumPy 2.4)
        at = ((r * B + row) * H + head) * 2  # of layer 1; layer 2 follows
        state = ((r - begin) * stride + job) * SIZE
        following = state + stride.to(tl.int64) * SIZE
        if FRESH:
            if tl.load(fresh + r * B + row):
                for j in range(0, HIDDEN, BH):
                    w1_tile = load_matrix(w1_fresh + head * SIZE, f, j + u, D, HIDDEN)
                    w2_tile = load_matrix(w2_fresh + head * SIZE, j + u, f, HIDDEN, D)
                    store_matrix(w1 + state, w1_tile, f, j + u, D, HIDDEN)
                    store_matrix(w2 + state, w2_tile, j + u, f, HIDDEN, D)
                    if MOMENTUM:
                        store_matrix(s1 + state, w1_tile * 0, f, j + u, D, HIDDEN)
                        store_matrix(s2 + state, w2_tile * 0, j + u, f, HIDDEN, D)
                pending1 *= 0
                pending2 *= 0
                tl.debug_barrier()

        # The chunk's gradients in factors, x and e of each layer (eq. 12).
        x1 = load_tokens(k, row, r, head, R, H, dtype, C, D, BC, BD)
        filled = 0
        if BEFORE:
            filled = tl.load(filled_before + r * B + row)
            before = (c < filled)[:, None]
            x1 = tl.where(before, load_rows(x1_before + job * C * D, c, f, filled, D), x1)
        z2 = tl.zeros((BC, BD), dtype)
        overlap = tl.zeros((BC, BC), dtype)
        for j in range(0, HIDDEN, BH):
            w2_tile = load_matrix(w2 + state, j + u, f, HIDDEN, D)
            x2, _ = activate(product(x1, load_matrix(w1 + state, f, j + u, D, HIDDEN), P), ACT)
            z2 += product(x2, w2_tile, P)
            if LIMIT > 0 and not REPLAY:
                if BEFORE:
                    old = load_rows(x2_before + job * C * HIDDEN, c, j + u, filled, HIDDEN)
                    x2 = tl.where(before, old, x2)
                overlap += product(x2, tl.trans(x2), P)
        unit, inverse_std = normalise(z2, features, D)
        want = x1 + unit * scale + shift - load_tokens(v, row, r, head, R, H, dtype, C, D, BC, BD)
        back = want * scale
        mean, along = tl.sum(back, 1) / D, tl.sum(back * unit, 1) / D
        e2 = tl.where(features, inverse_std[:, None] * (back - mean[:, None] - unit * along[:, None]), 0.0)
        miss = tl.sqrt(tl.sum(want * want, 1))
        if BEFORE:
            e2 = tl.where(before, load_rows(e2_before + job * C * D, c, f, filled, D), e2)
            miss = tl.where(c < filled, load_line(miss_before, job, C, BC), miss)

        # The guard (gates.py).
        next1, next2 = pending1, pending2
        if REPLAY:
            over_n = load_line(divisors, at, C, BC)
            over_m = load_line(divisors, at + 1, C, BC)
        else:
            over_n = tl.full((BC,), 1.0, dtype)
            over_m = over_n
            if LIMIT > 0:
                square1 = tl.zeros((BC,), dtype)
                for j in range(0, HIDDEN, BH):
                    _, bend1 = activate(product(x1, load_matrix(w1 + state, f, j + u, D, HIDDEN), P), ACT)
                    e1 = product(e2, tl.trans(load_matrix(w2 + state, j + u, f, HIDDEN, D)), P) * bend1
                    if BEFORE:
                        e1 = tl.where(before, load_rows(e1_before + job * C * HIDDEN, c, j + u, filled, HIDDEN), e1)
                    square1 += tl.sum(e1 * e1, 1)
                least = tl.maximum(miss, 1.2e-38)
                felt1, felt2 = tl.sqrt(square1) / least, tl.sqrt(tl.sum(e2 * e2, 1)) / least
                bound1 = tl.abs(product(x1, tl.trans(x1), P)) * felt1[:, None] * felt1[None, :]
                bound2 = tl.abs(overlap) * felt2[:, None] * felt2[None, :]
                reach = product(load_square(strain, at, C, BC), bound1, P)
                reach += product(load_square(strain, at + 1, C, BC), bound2, P)
                kept_least = tl.minimum(load_line(kept, at, C, BC), load_line(kept, at + 1, C, BC))
                room = LIMIT * (1 + kept_least) / 2
                over_n = 1 / steps(reach, room, BC)
                if MOMENTUM:
                    planned = load_line(drift, at, C, BC) * pending1 + load_line(drift, at + 1, C, BC) * pending2
                    over_m = 1 / tl.maximum(planned / (room * SHARE), 1.0)
                    last_n, last_m = at_end(over_n, C, BC), at_end(over_m, C, BC)
                    own1 = own_pending(bound1, load_line(push, at, C, BC))
                    own2 = own_pending(bound2, load_line(push, at + 1, C, BC))
                    next1 = tl.load(survival + at) * last_m * pending1 + own1 * last_n
                    next2 = tl.load(survival + at + 1) * last_m * pending2 + own2 * last_n
            store_line(divisors, over_n, at, C, BC)
            store_line(divisors, over_m, at + 1, C, BC)

        # Reading with the weights of each token (eq. 15), and the weights and momentum at a full chunk's end.
        closes = tl.load(full + r * B + row) != 0
        last_n, last_m = tl.where(closes, at_end(over_n, C, BC), 0.0), at_end(over_m, C, BC)
        kept1, kept2 = load_line(kept, at, C, BC)[:, None], load_line(kept, at + 1, C, BC)[:, None]
        keep1 = tl.where(closes, tl.load(kept + at * C + C - 1), 1.0)
        keep2 = tl.where(closes, tl.load(kept + at * C + 2 * C - 1), 1.0)
        written1 = (load_line(write + (at * C + C - 1) * C, 0, C, BC) * last_n)[:, None]
        written2 = (load_line(write + (at * C + 2 * C - 1) * C, 0, C, BC) * last_n)[:, None]
        if MOMENTUM:
            carried1 = (load_line(carried, at, C, BC) * over_m)[:, None]
            carried2 = (load_line(carried, at + 1, C, BC) * over_m)[:, None]
            carry1 = tl.where(closes, tl.load(carried + at * C + C - 1) * last_m, 0.0)
            carry2 = tl.where(closes, tl.load(carried + at * C + 2 * C - 1) * last_m, 0.0)
            survive1 = tl.where(closes, tl.load(survival + at) * last_m, 1.0)
            survive2 = tl.where(closes, tl.load(survival + at + 1) * last_m, 1.0)
            pushed1 = (load_line(push, at, C, BC) * last_n)[:, None]
            pushed2 = (load_line(push, at + 1, C, BC) * last_n)[:, None]
        q1 = load_tokens(q, row, r, head, R, H, dtype, C, D, BC, BD)
        weight1 = product(q1, tl.trans(x1), P) * load_square(write, at, C, BC) * over_n[:, None]
        scores2 = tl.zeros((BC, BC), dtype)
        z = tl.zeros((BC, BD), dtype)
        for j in range(0, HIDDEN, BH):
            w1_tile = load_matrix(w1 + state, f, j + u, D, HIDDEN)
            w2_tile = load_matrix(w2 + state, j + u, f, HIDDEN, D)
            x2, bend1 = activate(product(x1, w1_tile, P), ACT)
            e1 = product(e2, tl.trans(w2_tile), P) * bend1
            if BEFORE:
                x2 = tl.where(before, load_rows(x2_before + job * C * HIDDEN, c, j + u, filled, HIDDEN), x2)
                e1 = tl.where(before, load_rows(e1_before + job * C * HIDDEN, c, j + u, filled, HIDDEN), e1)
            if AFTER and not REPLAY:
                if r == R - 1:
                    open_slots = tl.load(filled_after + row)
                    store_rows(x2_after + job * C * HIDDEN, x2, c, j + u, open_slots, HIDDEN)
                    store_rows(e1_after + job * C * HIDDEN, e1, c, j + u, open_slots, HIDDEN)
            zq = kept1 * product(q1, w1_tile, P) - product(weight1, e1, P)
            w1_next = keep1 * w1_tile - product(tl.trans(x1 * written1), e1, P)
            w2_next = keep2 * w2_tile - product(tl.trans(x2 * written2), e2, P)
            if MOMENTUM:
                s1_tile = load_matrix(s1 + state, f, j + u, D, HIDDEN)
                s2_tile = load_matrix(s2 + state, j + u, f, HIDDEN, D)
                zq += carried1 * product(q1, s1_tile, P)
                w1_next += carry1 * s1_tile
                w2_next += carry2 * s2_tile
            q2, _ = activate(zq, ACT)
            scores2 += product(q2, tl.trans(x2), P)
            z += product(q2 * kept2, w2_tile, P)
            if MOMENTUM:
                z += product(q2 * carried2, s2_tile, P)
                s1_next = survive1 * s1_tile - product(tl.trans(x1 * pushed1), e1, P)
                s2_next = survive2 * s2_tile - product(tl.trans(x2 * pushed2), e2, P)
            tl.debug_barrier()  # all threads have read the tiles
            store_matrix(w1 + following, w1_next, f, j + u, D, HIDDEN)
            store_matrix(w2 + following, w2_next, j + u, f, HIDDEN, D)
            if MOMENTUM:
                store_matrix(s1 + following, s1_next, f, j + u, D, HIDDEN)
                store_matrix(s2 + following, s2_next, j + u, f, HIDDEN, D)
        z -= product(scores2 * load_square(write, at + 1, C, BC) * over_n[:, None], e2, P)
        if REPLAY:
            slot = ((r - begin) * B + row) * H + head
            entry = record + slot * 4 * C * D
            store_matrix(scores + slot * C * C, scores2, c, c, C, C)
            store_matrix(entry, z2, c, f, C, D)
            store_matrix(entry + C * D, z, c, f, C, D)
            store_matrix(entry + 2 * C * D, e2, c, f, C, D)
            store_matrix(entry + 3 * C * D, x1, c, f, C, D)
        else:
            unit, _ = normalise(z, features, D)
            store_tokens(y, q1 + unit * scale + shift, row, r, head, R, H, C, D, BC, BD)
        if AFTER and not REPLAY:
            if r == R - 1:
                open_slots = tl.load(filled_after + row)
                store_rows(x1_after + job * C * D, x1, c, f, open_slots, D)
                store_rows(e2_after + job * C * D, e2, c, f, open_slots, D)
                tl.store(miss_after + job * C + c, miss, mask=c < open_slots)
        pending1, pending2 = tl.where(closes, next1, pending1), tl.where(closes, next2, pending2)
        tl.debug_barrier()  # the next round sees what this one has written
        r += 1

    if not REPLAY:
        tl.store(pending + job * 2, pending1)
        tl.store(pending + job * 2 + 1, pending2)

"""The linear memory (depth 1) as Triton kernels, forward and backward. Its weights and momentum stay in registers.

Names as in triton_forward.py and triton_backward.py, without a layer's digit: x what goes into the memory (the keys),
e its error, w and s weights and momentum.
"""

# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false
# (to a type checker, a kernel's arguments are not tensors)

import triton
import triton.language as tl

from titans.memory.kernels.triton_shared import (
    at_end,
    load_line,
    load_matrix,
    load_rows,
    load_square,
    load_tokens,
    own_pending,
    product,
    steps,
    store_line,
    store_matrix,
    store_rows,
    store_tokens,
)


@triton.jit
def factors(k, v, weight, x_before, e_before, filled, row, r, head, job, R, H, D: tl.constexpr, C: tl.constexpr,
            BD: tl.constexpr, BC: tl.constexpr, P: tl.constexpr, BEFORE: tl.constexpr):  # fmt: skip
    """The chunk's gradients in factors x and e (eq. 12); of `filled` slots those that an earlier call found."""
    dtype = weight.dtype
    x = load_tokens(k, row, r, head, R, H, dtype, C, D, BC, BD)
    e = product(x, weight, P) - load_tokens(v, row, r, head, R, H, dtype, C, D, BC, BD)
    if BEFORE:
        c, f = tl.arange(0, BC), tl.arange(0, BD)
        before = (c < filled)[:, None]
        x = tl.where(before, load_rows(x_before + job * C * D, c, f, filled, D), x)
        e = tl.where(before, load_rows(e_before + job * C * D, c, f, filled, D), e)
    return x, e


@triton.jit(do_not_specialize=["stride", "begin", "end", "B", "R", "H"])
def linear_forward(
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
    # weights and momentum [B, H, D, D]: those before round `begin`, and room for those after the last; with REPLAY
    # those before every round, the next ones `stride` states further
    w,
    s,
    stride,
    # what a new document begins with [H, D, D], and where one begins [R, B]
    w_fresh,
    fresh,
    full,
    # the chunk that was open before the call: its filled slots by round [R, B], and their factors [B, H, C, D]
    filled_before,
    x_before,
    e_before,
    # the chunk that is open after it: its filled slots [B], and their factors
    filled_after,
    x_after,
    e_after,
    miss_after,
    # the guard: pending momentum [B, H, 1], updated; 1 / n and 1 / m of every token [R, B, H, 2, C]
    pending,
    divisors,
    begin,
    end,
    B,
    R,
    H,
    D: tl.constexpr,
    C: tl.constexpr,
    BD: tl.constexpr,
    BC: tl.constexpr,
    P: tl.constexpr,
    MOMENTUM: tl.constexpr,
    LIMIT: tl.constexpr,  # of the guard; 0 for none
    SHARE: tl.constexpr,
    FRESH: tl.constexpr,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    REPLAY: tl.constexpr,  # no outputs: everything that the backward pass begins with
):
    job = tl.program_id(0).to(tl.int64)
    row, head = job // H, job % H
    dtype = w.dtype.element_ty
    OPEN: tl.constexpr = C * D
    c, f = tl.arange(0, BC), tl.arange(0, BD)
    weight = load_matrix(w + job * D * D, f, f, D, D)
    momentum = weight * 0
    if MOMENTUM:
        momentum = load_matrix(s + job * D * D, f, f, D, D)
    held = tl.load(pending + job)
    tl.debug_barrier()  # all threads have read them

    r = begin
    while r < end:  # (the interpreter has no `range` of a kernel's argument with NumPy 2.4)
        at = (r * B + row) * H + head
        if FRESH:
            begins = tl.load(fresh + r * B + row) != 0
            weight = tl.where(begins, load_matrix(w_fresh + head * D * D, f, f, D, D), weight)
            momentum = tl.where(begins, 0.0, momentum)
            held = tl.where(begins, 0.0, held)
        if REPLAY:
            state = ((r - begin) * stride + job) * D * D
            store_matrix(w + state, weight, f, f, D, D)
            if MOMENTUM:
                store_matrix(s + state, momentum, f, f, D, D)

        filled = 0
        if BEFORE:
            filled = tl.load(filled_before + r * B + row)
        x, e = factors(k, v, weight, x_before, e_before, filled, row, r, head, job, R, H, D, C, BD, BC, P, BEFORE)

        # The guard (gates.py).
        following = held
        if REPLAY:
            over_n, over_m = load_line(divisors, at * 2, C, BC), load_line(divisors, at * 2 + 1, C, BC)
        else:
            over_n = tl.full((BC,), 1.0, dtype)
            over_m = over_n
            if LIMIT > 0:
                bound = tl.abs(product(x, tl.trans(x), P))
                room = LIMIT * (1 + load_line(kept, at, C, BC)) / 2
                over_n = 1 / steps(product(load_square(strain, at, C, BC), bound, P), room, BC)
                if MOMENTUM:
                    over_m = 1 / tl.maximum(load_line(drift, at, C, BC) * held / (room * SHARE), 1.0)
                    own = own_pending(bound, load_line(push, at, C, BC)) * at_end(over_n, C, BC)
                    following = tl.load(survival + at) * at_end(over_m, C, BC) * held + own
            store_line(divisors, over_n, at * 2, C, BC)
            store_line(divisors, over_m, at * 2 + 1, C, BC)

        if not REPLAY:  # reading with the weights of each token (eq. 15)
            q_tile = load_tokens(q, row, r, head, R, H, dtype, C, D, BC, BD)
            scores = product(q_tile, tl.trans(x), P) * load_square(write, at, C, BC) * over_n[:, None]
            z = load_line(kept, at, C, BC)[:, None] * product(q_tile, weight, P) - product(scores, e, P)
            if MOMENTUM:
                z += (load_line(carried, at, C, BC) * over_m)[:, None] * product(q_tile, momentum, P)
            store_tokens(y, z, row, r, head, R, H, C, D, BC, BD)
            if AFTER:
                if r == R - 1:
                    open_slots = tl.load(filled_after + row)
                    store_rows(x_after + job * OPEN, x, c, f, open_slots, D)
                    store_rows(e_after + job * OPEN, e, c, f, open_slots, D)
                    tl.store(miss_after + job * C + c, over_n * 0 + 1, mask=c < open_slots)

        # Weights and momentum at a full chunk's end.
        closes = tl.load(full + r * B + row) != 0
        last_n, last_m = tl.where(closes, at_end(over_n, C, BC), 0.0), at_end(over_m, C, BC)
        written = (load_line(write + (at * C + C - 1) * C, 0, C, BC) * last_n)[:, None]
        weight = tl.where(closes, tl.load(kept + at * C + C - 1), 1.0) * weight
        weight -= product(tl.trans(x * written), e, P)
        if MOMENTUM:
            weight += tl.where(closes, tl.load(carried + at * C + C - 1) * last_m, 0.0) * momentum
            pushed = (load_line(push, at, C, BC) * last_n)[:, None]
            momentum = tl.where(closes, tl.load(survival + at) * last_m, 1.0) * momentum
            momentum -= product(tl.trans(x * pushed), e, P)
        held = tl.where(closes, following, held)
        r += 1

    if not REPLAY:
        store_matrix(w + job * D * D, weight, f, f, D, D)
        if MOMENTUM:
            store_matrix(s + job * D * D, momentum, f, f, D, D)
        tl.store(pending + job, held)


@triton.jit(do_not_specialize=["stride", "begin", "end", "B", "R", "H"])
def linear_backward(
    # as in `linear_forward`; weights and momentum are those before each of the rounds
    q,
    k,
    v,
    kept,
    carried,
    write,
    push,
    survival,
    w,
    s,
    stride,
    fresh,
    full,
    filled_before,
    x_before,
    e_before,
    filled_after,
    divisors,
    # gradients that are given
    dy,
    dx_after,
    de_after,
    # gradients that are found
    dq,
    dk,
    dv,
    dkept,
    dcarried,
    dwrite,
    dpush,
    dsurvival,
    dx_before,
    de_before,
    # gradients that are updated: of weights and momentum, and of w_fresh for each row, all [B, H, D, D]
    dw,
    ds,
    dw_fresh,
    begin,
    end,
    B,
    R,
    H,
    D: tl.constexpr,
    C: tl.constexpr,
    BD: tl.constexpr,
    BC: tl.constexpr,
    P: tl.constexpr,
    MOMENTUM: tl.constexpr,
    FRESH: tl.constexpr,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
):
    job = tl.program_id(0).to(tl.int64)
    row, head = job // H, job % H
    dtype = w.dtype.element_ty
    OPEN: tl.constexpr = C * D
    c, f = tl.arange(0, BC), tl.arange(0, BD)
    last = c == C - 1
    dw, ds, dw_fresh = dw + job * D * D, ds + job * D * D, dw_fresh + job * D * D
    dweight = load_matrix(dw, f, f, D, D)
    dmomentum = dweight * 0
    if MOMENTUM:
        dmomentum = load_matrix(ds, f, f, D, D)

    r = end - 1
    while r >= begin:
        at = (r * B + row) * H + head
        state = ((r - begin) * stride + job) * D * D
        weight = load_matrix(w + state, f, f, D, D)
        closes = tl.load(full + r * B + row) != 0
        filled = 0
        if BEFORE:
            filled = tl.load(filled_before + r * B + row)
        x, e = factors(k, v, weight, x_before, e_before, filled, row, r, head, job, R, H, D, C, BD, BC, P, BEFORE)
        over_n, over_m = load_line(divisors, at * 2, C, BC), load_line(divisors, at * 2 + 1, C, BC)
        last_n, last_m = tl.where(closes, at_end(over_n, C, BC), 0.0), at_end(over_m, C, BC)

        # The read.
        dz = load_tokens(dy, row, r, head, R, H, dtype, C, D, BC, BD)
        q_tile = load_tokens(q, row, r, head, R, H, dtype, C, D, BC, BD)
        share = load_square(write, at, C, BC) * over_n[:, None]
        scores = product(q_tile, tl.trans(x), P)
        dshared = -product(dz, tl.trans(e), P)
        dscores = dshared * share
        keeps = load_line(kept, at, C, BC)[:, None]
        dq_tile = product(dz * keeps, tl.trans(weight), P) + product(dscores, x, P)
        dkept_line = tl.sum(q_tile * product(dz, tl.trans(weight), P), 1)
        dx = product(tl.trans(dscores), q_tile, P)
        de = -product(tl.trans(scores * share), dz, P)
        dweight_next = product(tl.trans(q_tile * keeps), dz, P)

        # The end of a full chunk.
        keep = tl.where(closes, tl.load(kept + at * C + C - 1), 1.0)
        written = (load_line(write + (at * C + C - 1) * C, 0, C, BC) * last_n)[:, None]
        ends = tl.where(closes, 1.0, 0.0).to(dtype)
        of_e = product(x, dweight, P)
        dwritten = -tl.sum(of_e * e, 1) * last_n
        de -= written * of_e
        dx -= product(e * written, tl.trans(dweight), P)
        dkept_line += tl.where(last, tl.sum(tl.sum(dweight * weight, 1), 0) * ends, 0.0)
        dweight_next += keep * dweight
        if MOMENTUM:
            momentum = load_matrix(s + state, f, f, D, D)
            carries = (load_line(carried, at, C, BC) * over_m)[:, None]
            carry = tl.where(closes, tl.load(carried + at * C + C - 1) * last_m, 0.0)
            survive = tl.where(closes, tl.load(survival + at) * last_m, 1.0)
            pushed = (load_line(push, at, C, BC) * last_n)[:, None]
            of_s = product(dz, tl.trans(momentum), P)
            dq_tile += carries * of_s
            dcarried_line = tl.sum(q_tile * of_s, 1)
            dcarried_line += tl.where(last, tl.sum(tl.sum(dweight * momentum, 1), 0) * ends, 0.0)
            of_e = product(x, dmomentum, P)
            de -= pushed * of_e
            dx -= product(e * pushed, tl.trans(dmomentum), P)
            dsurvive = tl.sum(tl.sum(dmomentum * momentum, 1), 0) * ends
            store_line(dcarried, dcarried_line * over_m, at, C, BC)
            store_line(dpush, -tl.sum(of_e * e, 1) * last_n, at, C, BC)
            tl.store(dsurvival + at, dsurvive * last_m)
            dmomentum = carry * dweight + survive * dmomentum + product(tl.trans(q_tile * carries), dz, P)
        dshared = dshared * scores * over_n[:, None] + tl.where(last[:, None], dwritten[None, :], 0.0)
        store_matrix(dwrite + at * C * C, dshared, c, c, C, C)
        store_line(dkept, dkept_line, at, C, BC)
        store_tokens(dq, dq_tile, row, r, head, R, H, C, D, BC, BD)

        if AFTER:
            if r == R - 1:
                open_slots = tl.load(filled_after + row)
                dx += load_rows(dx_after + job * OPEN, c, f, open_slots, D)
                de += load_rows(de_after + job * OPEN, c, f, open_slots, D)
        if BEFORE:  # what came from an earlier call is an argument, and ends here
            store_rows(dx_before + job * OPEN, dx, c, f, filled, D)
            store_rows(de_before + job * OPEN, de, c, f, filled, D)
            before = (c < filled)[:, None]
            dx, de = tl.where(before, 0.0, dx), tl.where(before, 0.0, de)

        # The error.
        store_tokens(dv, -de, row, r, head, R, H, C, D, BC, BD)
        store_tokens(dk, dx + product(de, tl.trans(weight), P), row, r, head, R, H, C, D, BC, BD)
        dweight = dweight_next + product(tl.trans(x), de, P)
        if FRESH:  # before it there was another document
            begins = tl.load(fresh + r * B + row) != 0
            first = load_matrix(dw_fresh, f, f, D, D) + tl.where(begins, dweight, 0.0)
            store_matrix(dw_fresh, first, f, f, D, D)
            tl.debug_barrier()
            dweight, dmomentum = tl.where(begins, 0.0, dweight), tl.where(begins, 0.0, dmomentum)
        r -= 1

    store_matrix(dw, dweight, f, f, D, D)
    if MOMENTUM:
        store_matrix(ds, dmomentum, f, f, D, D)

"""Backward of `deep_forward` over some rounds, the last first, from what its replay has kept of each.

Each round takes two walks over the tiles of the hidden width: the first from outputs and new weights to the chunk's
factors and, through the inner error's way back, to the error at the last layer; the second from there down again. What
the first need not sum up itself is left to the second, because registers are short.
Names as in triton_forward.py, with `d` for the gradient: de1 is that of e1. The gradients of weights and momentum are
updated where they are. Formulas: kernels/backward.h, in the same order.
"""

# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false
# (to a type checker, a kernel's arguments are not tensors)

import triton
import triton.language as tl

from titans.memory.kernels.triton_shared import (
    activate,
    add_to_matrix,
    at_end,
    bend,
    load_line,
    load_matrix,
    load_rows,
    load_square,
    load_tokens,
    normalise,
    normalise_backward,
    product,
    store_line,
    store_matrix,
    store_rows,
    store_tokens,
)


@triton.jit(do_not_specialize=["stride", "begin", "end", "B", "R", "H"])
def deep_backward(
    # as in `deep_forward`; weights and momentum are those before each of the rounds
    q,
    k,
    v,
    kept,
    carried,
    write,
    push,
    survival,
    gamma,
    beta,
    w1,
    w2,
    s1,
    s2,
    stride,
    fresh,
    full,
    filled_before,
    x2_before,
    e1_before,
    filled_after,
    divisors,
    record,
    scores,
    # gradients that are given
    dy,
    dx1_after,
    dx2_after,
    de1_after,
    de2_after,
    # gradients that are found
    dq,
    dk,
    dv,
    dkept,
    dcarried,
    dwrite,
    dpush,
    dsurvival,
    dx1_before,
    dx2_before,
    de1_before,
    de2_before,
    # gradients that are updated: of weights and momentum [B, H, ...], of w1_fresh and w2_fresh and of the norm for
    # each row [B, H, ...]
    dw1,
    dw2,
    ds1,
    ds2,
    dw1_fresh,
    dw2_fresh,
    dgamma,
    dbeta,
    # room for the first walk to leave something to the second [B, H, 3, C, HIDDEN]
    left,
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
    FRESH: tl.constexpr,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    BH: tl.constexpr,
):
    job = tl.program_id(0).to(tl.int64)
    row, head = job // H, job % H
    dtype = w1.dtype.element_ty
    SIZE: tl.constexpr = D * HIDDEN
    OPEN: tl.constexpr = C * D
    WIDE: tl.constexpr = C * HIDDEN
    c, f, u = tl.arange(0, BC), tl.arange(0, BD), tl.arange(0, BH)
    features = (f < D)[None, :]
    scale, shift = 1.0, 0.0
    if NORM:
        scale = tl.load(gamma + head * D + f, mask=f < D, other=0.0)[None, :]
        shift = tl.load(beta + head * D + f, mask=f < D, other=0.0)[None, :]
        dscale = tl.load(dgamma + job * D + f, mask=f < D, other=0.0)
        dshift = tl.load(dbeta + job * D + f, mask=f < D, other=0.0)
    dw1, dw2, ds1, ds2 = dw1 + job * SIZE, dw2 + job * SIZE, ds1 + job * SIZE, ds2 + job * SIZE
    left += job * 3 * WIDE

    r = end - 1
    while r >= begin:
        at = ((r * B + row) * H + head) * 2  # of layer 1; layer 2 follows
        state = ((r - begin) * stride + job) * SIZE
        slot = ((r - begin) * B + row) * H + head
        entry = record + slot * 4 * OPEN
        closes = tl.load(full + r * B + row) != 0
        filled, open_slots = 0, 0
        if BEFORE:
            filled = tl.load(filled_before + r * B + row)
        if AFTER:
            if r == R - 1:
                open_slots = tl.load(filled_after + row)
        before = (c < filled)[:, None]

        # The read's layer norm; what the walk needs of it takes the place of its input.
        out = load_tokens(dy, row, r, head, R, H, dtype, C, D, BC, BD)
        unit, inverse_std = normalise(load_matrix(entry + OPEN, c, f, C, D), features, D)
        dz = normalise_backward(unit, inverse_std, out * scale, 0.0, features, D)
        if NORM:
            dscale += tl.sum(out * unit, 0)
            dshift += tl.sum(out, 0)
        tl.debug_barrier()
        store_matrix(entry + OPEN, dz, c, f, C, D)

        q1 = load_tokens(q, row, r, head, R, H, dtype, C, D, BC, BD)
        x1 = load_matrix(entry + 3 * OPEN, c, f, C, D)
        e2 = load_matrix(entry + 2 * OPEN, c, f, C, D)
        over_n, over_m = load_line(divisors, at, C, BC), load_line(divisors, at + 1, C, BC)
        last_n, last_m = tl.where(closes, at_end(over_n, C, BC), 0.0), at_end(over_m, C, BC)
        weight1 = product(q1, tl.trans(x1), P) * load_square(write, at, C, BC) * over_n[:, None]
        dscores2 = -product(dz, tl.trans(e2), P) * load_square(write, at + 1, C, BC) * over_n[:, None]
        kept1, kept2 = load_line(kept, at, C, BC)[:, None], load_line(kept, at + 1, C, BC)[:, None]
        keep1 = tl.where(closes, tl.load(kept + at * C + C - 1), 1.0)
        keep2 = tl.where(closes, tl.load(kept + at * C + 2 * C - 1), 1.0)
        written1 = (load_line(write + (at * C + C - 1) * C, 0, C, BC) * last_n)[:, None]
        written2 = (load_line(write + (at * C + 2 * C - 1) * C, 0, C, BC) * last_n)[:, None]
        line, none = tl.zeros((BC,), dtype), tl.sum(tl.zeros((BC,), dtype), 0)
        dkept1, dkept2, dwritten1, dwritten2, dkeep1, dkeep2 = line, line, line, line, none, none
        if MOMENTUM:
            carried1 = (load_line(carried, at, C, BC) * over_m)[:, None]
            carried2 = (load_line(carried, at + 1, C, BC) * over_m)[:, None]
            carry1 = tl.where(closes, tl.load(carried + at * C + C - 1) * last_m, 0.0)
            carry2 = tl.where(closes, tl.load(carried + at * C + 2 * C - 1) * last_m, 0.0)
            survive1 = tl.where(closes, tl.load(survival + at) * last_m, 1.0)
            survive2 = tl.where(closes, tl.load(survival + at + 1) * last_m, 1.0)
            pushed1 = (load_line(push, at, C, BC) * last_n)[:, None]
            pushed2 = (load_line(push, at + 1, C, BC) * last_n)[:, None]
            dcarried1, dcarried2, dpushed1, dpushed2 = line, line, line, line
            dcarry1, dcarry2, dsurvive1, dsurvive2 = none, none, none, none
        dx1, de2 = tl.zeros((BC, BD), dtype), tl.zeros((BC, BD), dtype)
        if AFTER:
            dx1 += load_rows(dx1_after + job * OPEN, c, f, open_slots, D)
            de2 += load_rows(de2_after + job * OPEN, c, f, open_slots, D)

        tl.debug_barrier()
        for j in range(0, HIDDEN, BH):
            # Forward again. What stays the same is read anew for each tile.
            q1 = load_tokens(q, row, r, head, R, H, dtype, C, D, BC, BD)
            x1 = load_matrix(entry + 3 * OPEN, c, f, C, D)
            e2 = load_matrix(entry + 2 * OPEN, c, f, C, D)
            dz = load_matrix(entry + OPEN, c, f, C, D)
            w1_tile = load_matrix(w1 + state, f, j + u, D, HIDDEN)
            w2_tile = load_matrix(w2 + state, j + u, f, HIDDEN, D)
            z1 = product(x1, w1_tile, P)
            x2, bend1 = activate(z1, ACT)
            back1 = product(e2, tl.trans(w2_tile), P)
            e1 = back1 * bend1
            if BEFORE:
                x2 = tl.where(before, load_rows(x2_before + job * WIDE, c, j + u, filled, HIDDEN), x2)
                e1 = tl.where(before, load_rows(e1_before + job * WIDE, c, j + u, filled, HIDDEN), e1)
            of_w1 = product(q1, w1_tile, P)
            zq = kept1 * of_w1 - product(weight1, e1, P)
            if MOMENTUM:
                s1_tile = load_matrix(s1 + state, f, j + u, D, HIDDEN)
                s2_tile = load_matrix(s2 + state, j + u, f, HIDDEN, D)
                of_s1 = product(q1, s1_tile, P)
                zq += carried1 * of_s1
            q2, read_bend = activate(zq, ACT)

            # The read, layer 2 and then layer 1.
            of_w2 = product(dz, tl.trans(w2_tile), P)
            dkept2 += tl.sum(q2 * of_w2, 1)
            dzq = kept2 * of_w2 + product(dscores2, x2, P)
            dw2_tile = product(tl.trans(q2 * kept2), dz, P)
            if MOMENTUM:
                of_s2 = product(dz, tl.trans(s2_tile), P)
                dcarried2 += tl.sum(q2 * of_s2, 1)
                dzq += carried2 * of_s2
                ds2_tile = product(tl.trans(q2 * carried2), dz, P)
            dx2 = product(tl.trans(dscores2), q2, P)
            dzq *= read_bend
            dkept1 += tl.sum(dzq * of_w1, 1)
            dw1_tile = product(tl.trans(q1 * kept1), dzq, P)
            if MOMENTUM:
                dcarried1 += tl.sum(dzq * of_s1, 1)
                ds1_tile = product(tl.trans(q1 * carried1), dzq, P)
            de1 = -product(tl.trans(weight1), dzq, P)
            store_matrix(left + WIDE, dzq, c, j + u, C, HIDDEN)
            store_matrix(left + 2 * WIDE, e1, c, j + u, C, HIDDEN)

            # The end of a full chunk, layer 1 and then layer 2.
            dw1_next = load_matrix(dw1, f, j + u, D, HIDDEN)
            dkeep1 += tl.sum(tl.sum(dw1_next * w1_tile, 1), 0)
            dw1_tile += keep1 * dw1_next
            of_e1 = product(x1, dw1_next, P)
            dwritten1 -= tl.sum(of_e1 * e1, 1)
            de1 -= written1 * of_e1
            dx1 -= product(e1 * written1, tl.trans(dw1_next), P)
            if MOMENTUM:
                ds1_next = load_matrix(ds1, f, j + u, D, HIDDEN)
                dcarry1 += tl.sum(tl.sum(dw1_next * s1_tile, 1), 0)
                dsurvive1 += tl.sum(tl.sum(ds1_next * s1_tile, 1), 0)
                of_e1 = product(x1, ds1_next, P)
                dpushed1 -= tl.sum(of_e1 * e1, 1)
                de1 -= pushed1 * of_e1
                dx1 -= product(e1 * pushed1, tl.trans(ds1_next), P)
                ds1_tile += carry1 * dw1_next + survive1 * ds1_next
            tl.debug_barrier()  # all threads have read the tiles
            store_matrix(dw1, dw1_tile, f, j + u, D, HIDDEN)
            if MOMENTUM:
                store_matrix(ds1, ds1_tile, f, j + u, D, HIDDEN)
            dw2_next = load_matrix(dw2, j + u, f, HIDDEN, D)
            dkeep2 += tl.sum(tl.sum(dw2_next * w2_tile, 1), 0)
            dw2_tile += keep2 * dw2_next
            of_x2 = product(e2, tl.trans(dw2_next), P)
            dwritten2 -= tl.sum(of_x2 * x2, 1)
            dx2 -= written2 * of_x2
            de2 -= product(x2 * written2, dw2_next, P)
            if MOMENTUM:
                ds2_next = load_matrix(ds2, j + u, f, HIDDEN, D)
                dcarry2 += tl.sum(tl.sum(dw2_next * s2_tile, 1), 0)
                dsurvive2 += tl.sum(tl.sum(ds2_next * s2_tile, 1), 0)
                of_x2 = product(e2, tl.trans(ds2_next), P)
                dpushed2 -= tl.sum(of_x2 * x2, 1)
                dx2 -= pushed2 * of_x2
                de2 -= product(x2 * pushed2, ds2_next, P)
                ds2_tile += carry2 * dw2_next + survive2 * ds2_next
            tl.debug_barrier()  # all threads have read the tiles
            if MOMENTUM:
                store_matrix(ds2, ds2_tile, j + u, f, HIDDEN, D)
            if AFTER:
                dx2 += load_rows(dx2_after + job * WIDE, c, j + u, open_slots, HIDDEN)
                de1 += load_rows(de1_after + job * WIDE, c, j + u, open_slots, HIDDEN)
            if BEFORE:  # what came from an earlier call is an argument, and ends here
                store_rows(dx2_before + job * WIDE, dx2, c, j + u, filled, HIDDEN)
                store_rows(de1_before + job * WIDE, de1, c, j + u, filled, HIDDEN)
                dx2, de1 = tl.where(before, 0.0, dx2), tl.where(before, 0.0, de1)

            # The error's way back from e2 to e1.
            dback1 = de1 * bend1
            de2 += product(dback1, w2_tile, P)
            dw2_tile += product(tl.trans(dback1), e2, P)
            store_matrix(left, de1 * back1 * bend(z1, ACT) + dx2 * bend1, c, j + u, C, HIDDEN)
            store_matrix(dw2, dw2_tile, j + u, f, HIDDEN, D)

        x1 = load_matrix(entry + 3 * OPEN, c, f, C, D)
        e2 = load_matrix(entry + 2 * OPEN, c, f, C, D)
        dz = load_matrix(entry + OPEN, c, f, C, D)
        over_n, over_m = load_line(divisors, at, C, BC), load_line(divisors, at + 1, C, BC)
        scores2 = load_matrix(scores + slot * C * C, c, c, C, C) * over_n[:, None]
        de2 -= product(tl.trans(scores2 * load_square(write, at + 1, C, BC)), dz, P)
        dwrite2 = -product(dz, tl.trans(e2), P) * scores2
        if BEFORE:
            store_rows(de2_before + job * OPEN, de2, c, f, filled, D)
            de2 = tl.where(before, 0.0, de2)

        # Gradients of the sums of the gates: of every token's reading, and of the chunk's end.
        last = c == C - 1
        ends = tl.where(closes, 1.0, 0.0).to(dtype)
        store_line(dkept, dkept1 + tl.where(last, dkeep1 * ends, 0.0), at, C, BC)
        store_line(dkept, dkept2 + tl.where(last, dkeep2 * ends, 0.0), at + 1, C, BC)
        dwrite2 += tl.where(last[:, None], (dwritten2 * last_n)[None, :], 0.0)
        store_matrix(dwrite + (at + 1) * C * C, dwrite2, c, c, C, C)
        if MOMENTUM:
            store_line(dcarried, (dcarried1 + tl.where(last, dcarry1 * ends, 0.0)) * over_m, at, C, BC)
            store_line(dcarried, (dcarried2 + tl.where(last, dcarry2 * ends, 0.0)) * over_m, at + 1, C, BC)
            store_line(dpush, dpushed1 * last_n, at, C, BC)
            store_line(dpush, dpushed2 * last_n, at + 1, C, BC)
            tl.store(dsurvival + at, dsurvive1 * ends * last_m)
            tl.store(dsurvival + at + 1, dsurvive2 * ends * last_m)

        # The error at the last layer's output: layer norm twice, once forwards and once on the way back.
        unit, inverse_std = normalise(load_matrix(entry, c, f, C, D), features, D)
        want = x1 + unit * scale + shift - load_tokens(v, row, r, head, R, H, dtype, C, D, BC, BD)
        mean, along = tl.sum(want * scale, 1) / D, tl.sum(want * scale * unit, 1) / D
        dinverse = tl.sum(de2 * (want * scale - mean[:, None] - unit * along[:, None]), 1)
        de2 *= inverse_std[:, None]
        dalong = -tl.sum(de2 * unit, 1) / D
        dback = tl.where(features, de2 - (tl.sum(de2, 1) / D)[:, None] + dalong[:, None] * unit, 0.0)
        dwant = dback * scale
        dunit = dwant * scale + dalong[:, None] * want * scale - along[:, None] * de2
        if NORM:
            dscale += tl.sum(dback * want + dwant * unit, 0)
            dshift += tl.sum(dwant, 0)
        dx1 += dwant
        store_tokens(dv, -dwant, row, r, head, R, H, C, D, BC, BD)
        dz = normalise_backward(unit, inverse_std, dunit, dinverse, features, D)

        tl.debug_barrier()  # the second walk sees what the first has written
        if FRESH:
            begins = tl.load(fresh + r * B + row) != 0
        dq1, dweight1 = tl.zeros((BC, BD), dtype), tl.zeros((BC, BC), dtype)
        for j in range(0, HIDDEN, BH):
            dzq = load_matrix(left + WIDE, c, j + u, C, HIDDEN)
            dweight1 -= product(dzq, tl.trans(load_matrix(left + 2 * WIDE, c, j + u, C, HIDDEN)), P)
            if MOMENTUM:
                dq1 += product(dzq * carried1, tl.trans(load_matrix(s1 + state, f, j + u, D, HIDDEN)), P)
            x1 = load_matrix(entry + 3 * OPEN, c, f, C, D)
            w1_tile = load_matrix(w1 + state, f, j + u, D, HIDDEN)
            w2_tile = load_matrix(w2 + state, j + u, f, HIDDEN, D)
            x2, bend1 = activate(product(x1, w1_tile, P), ACT)
            dq1 += product(dzq * kept1, tl.trans(w1_tile), P)
            dz1 = load_matrix(left, c, j + u, C, HIDDEN) + product(dz, tl.trans(w2_tile), P) * bend1
            dx1 += product(dz1, tl.trans(w1_tile), P)
            dw1_tile = load_matrix(dw1, f, j + u, D, HIDDEN) + product(tl.trans(x1), dz1, P)
            dw2_tile = load_matrix(dw2, j + u, f, HIDDEN, D) + product(tl.trans(x2), dz, P)
            tl.debug_barrier()
            if FRESH:
                if begins:  # before it there was another document
                    add_to_matrix(dw1_fresh + job * SIZE, dw1_tile, f, j + u, D, HIDDEN)
                    add_to_matrix(dw2_fresh + job * SIZE, dw2_tile, j + u, f, HIDDEN, D)
                    dw1_tile, dw2_tile = dw1_tile * 0, dw2_tile * 0
                    if MOMENTUM:
                        store_matrix(ds1, dw1_tile, f, j + u, D, HIDDEN)
                        store_matrix(ds2, dw2_tile, j + u, f, HIDDEN, D)
            store_matrix(dw1, dw1_tile, f, j + u, D, HIDDEN)
            store_matrix(dw2, dw2_tile, j + u, f, HIDDEN, D)
        q1 = load_tokens(q, row, r, head, R, H, dtype, C, D, BC, BD)
        x1 = load_matrix(entry + 3 * OPEN, c, f, C, D)
        dweight1 *= load_line(divisors, at, C, BC)[:, None]
        dwrite1 = dweight1 * product(q1, tl.trans(x1), P)
        dwrite1 += tl.where(last[:, None], (dwritten1 * last_n)[None, :], 0.0)
        store_matrix(dwrite + at * C * C, dwrite1, c, c, C, C)
        dscores1 = dweight1 * load_square(write, at, C, BC)
        dq1 += product(dscores1, x1, P) + load_tokens(dy, row, r, head, R, H, dtype, C, D, BC, BD)
        store_tokens(dq, dq1, row, r, head, R, H, C, D, BC, BD)
        dx1 += product(tl.trans(dscores1), q1, P)
        if BEFORE:
            store_rows(dx1_before + job * OPEN, dx1, c, f, filled, D)
        store_tokens(dk, dx1, row, r, head, R, H, C, D, BC, BD)
        tl.debug_barrier()
        r -= 1

    if NORM:
        tl.store(dgamma + job * D + f, dscale, mask=f < D)
        tl.store(dbeta + job * D + f, dshift, mask=f < D)

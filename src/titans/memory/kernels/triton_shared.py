"""What the Triton kernels have in common: products, activations, layer norm, tiles of tokens, the guard.

A kernel's program has one row and one head to itself and walks over the chunks. Letters: B rows, H heads, R rounds,
C tokens of a chunk, D head dimension, L memory layers; BC and BD are C and D padded to what a matrix product takes, a
power of two from 16. Padded rows and columns hold zeros wherever that matters.

Tokens are [B, R, C, H, D]; sums of the gates (gates.py) are [R, B, H, L, C], [R, B, H, L, C, C] and [R, B, H, L].
`P` names the arithmetic of products: "bf16", "tf32", "ieee" (float32), "fp64", or "bf16 emulated" where the
interpreter, whose products of bfloat16 are wrong, rounds to bfloat16 and multiplies in float32.
"""

# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false
# (to a type checker, a kernel's arguments are not tensors)

import triton
import triton.language as tl

from titans.memory.networks import LAYER_NORM_EPS

_EPS = tl.constexpr(LAYER_NORM_EPS)
_INV_SQRT_2 = tl.constexpr(0.7071067811865476)
_INV_SQRT_2PI = tl.constexpr(0.3989422804014327)


@triton.jit
def product(a, b, P: tl.constexpr):
    """a [M, K] @ b [K, N], summed in float32 (float64 for "fp64")."""
    if P == "bf16":
        found = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    elif P == "bf16 emulated":
        found = tl.dot(a.to(tl.bfloat16).to(tl.float32), b.to(tl.bfloat16).to(tl.float32), input_precision="ieee")
    elif P == "fp64":
        found = tl.dot(a, b, out_dtype=tl.float64)
    else:
        found = tl.dot(a, b, input_precision=P)
    return found


@triton.jit
def activate(z, ACT: tl.constexpr):
    """act(z) and act'(z)."""
    if ACT == "gelu":
        phi = 0.5 * (1 + tl.erf(z * _INV_SQRT_2))
        value = z * phi
        slope = phi + z * tl.exp(-0.5 * z * z) * _INV_SQRT_2PI
    elif ACT == "silu":
        gate = 1 / (1 + tl.exp(-z))
        value = z * gate
        slope = gate * (1 + z * (1 - gate))
    else:
        value = tl.where(z > 0, z, 0.0)
        slope = tl.where(z > 0, 1.0, 0.0).to(z.dtype)
    return value, slope


@triton.jit
def bend(z, ACT: tl.constexpr):
    """act''(z)."""
    if ACT == "gelu":
        found = tl.exp(-0.5 * z * z) * (2 - z * z) * _INV_SQRT_2PI
    elif ACT == "silu":
        gate = 1 / (1 + tl.exp(-z))
        found = gate * (1 - gate) * (2 + z * (1 - 2 * gate))
    else:
        found = z * 0
    return found


@triton.jit
def normalise(z, features, D: tl.constexpr):
    """z [BC, BD] to zero mean and unit variance over its D features, and 1 / std [BC]."""
    centred = tl.where(features, z - (tl.sum(z, 1) / D)[:, None], 0.0)
    inverse_std = 1 / tl.sqrt(tl.sum(centred * centred, 1) / D + _EPS)
    return centred * inverse_std[:, None], inverse_std


@triton.jit
def normalise_backward(unit, inverse_std, dunit, dinverse, features, D: tl.constexpr):
    """Gradient of z, from those of both results of `normalise`."""
    pull = (dinverse * inverse_std + tl.sum(dunit * unit, 1)) * inverse_std / D
    dcentred = dunit * inverse_std[:, None] - pull[:, None] * unit
    return tl.where(features, dcentred - (tl.sum(dcentred, 1) / D)[:, None], 0.0)


@triton.constexpr_function
def fits(size, tile):
    """Whether tiles leave nothing over, so that there is nothing to mask."""
    return size % tile == 0


@triton.jit
def load_matrix(x, i, j, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows i and columns j of the matrix [ROWS, COLUMNS] at x; zero beyond. i and j are tiles, one after the other."""
    at = x + (i[:, None] * COLUMNS + j[None, :])
    if fits(ROWS, i.shape[0]) and fits(COLUMNS, j.shape[0]):
        found = tl.load(at)
    else:
        found = tl.load(at, mask=(i[:, None] < ROWS) & (j[None, :] < COLUMNS), other=0.0)
    return found


@triton.jit
def store_matrix(x, value, i, j, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The opposite of `load_matrix`."""
    at = x + (i[:, None] * COLUMNS + j[None, :])
    if fits(ROWS, i.shape[0]) and fits(COLUMNS, j.shape[0]):
        tl.store(at, value)
    else:
        tl.store(at, value, mask=(i[:, None] < ROWS) & (j[None, :] < COLUMNS))


@triton.jit
def load_rows(x, i, j, rows, COLUMNS: tl.constexpr):
    """`load_matrix` where the number of rows is known only to the device."""
    mask = (i[:, None] < rows) & (j[None, :] < COLUMNS)
    return tl.load(x + (i[:, None] * COLUMNS + j[None, :]), mask=mask, other=0.0)


@triton.jit
def store_rows(x, value, i, j, rows, COLUMNS: tl.constexpr):
    """The opposite of `load_rows`."""
    mask = (i[:, None] < rows) & (j[None, :] < COLUMNS)
    tl.store(x + (i[:, None] * COLUMNS + j[None, :]), value, mask=mask)


@triton.jit
def add_to_matrix(x, value, i, j, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """x[i, j] += value."""
    store_matrix(x, load_matrix(x, i, j, ROWS, COLUMNS) + value, i, j, ROWS, COLUMNS)


@triton.jit
def load_tokens(x, row, r, head, R, H, dtype, C: tl.constexpr, D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr):
    """The chunk's tokens of one head [BC, BD]."""
    c, f = tl.arange(0, BC)[:, None], tl.arange(0, BD)[None, :]
    at = x + ((row * R + r) * C * H + head) * D + (c * H * D + f)
    if C == BC and D == BD:
        found = tl.load(at)
    else:
        found = tl.load(at, mask=(c < C) & (f < D), other=0.0)
    return found.to(dtype)


@triton.jit
def store_tokens(x, value, row, r, head, R, H, C: tl.constexpr, D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr):
    """The opposite of `load_tokens`."""
    c, f = tl.arange(0, BC)[:, None], tl.arange(0, BD)[None, :]
    at = x + ((row * R + r) * C * H + head) * D + (c * H * D + f)
    if C == BC and D == BD:
        tl.store(at, value)
    else:
        tl.store(at, value, mask=(c < C) & (f < D))


@triton.jit
def load_square(x, at, C: tl.constexpr, BC: tl.constexpr):
    """The `at`th of many [C, C] as [BC, BC]."""
    return load_matrix(x + at * C * C, tl.arange(0, BC), tl.arange(0, BC), C, C)


@triton.jit
def load_line(x, at, C: tl.constexpr, BC: tl.constexpr):
    """The `at`th of many [C] as [BC]."""
    c = tl.arange(0, BC)
    return tl.load(x + at * C + c, mask=c < C, other=0.0)


@triton.jit
def store_line(x, value, at, C: tl.constexpr, BC: tl.constexpr):
    """The opposite of `load_line`."""
    c = tl.arange(0, BC)
    tl.store(x + at * C + c, value, mask=c < C)


@triton.jit
def at_end(line, C: tl.constexpr, BC: tl.constexpr):
    """The value of the chunk's last token, from [BC]."""
    return tl.sum(tl.where(tl.arange(0, BC) == C - 1, line, 0.0), 0)


@triton.jit
def steps(reach, room, BC: tl.constexpr):
    """The guard's divisor n of each token's gradients [BC] (`divisors` of gates.py)."""
    t, i = tl.arange(0, BC)[:, None], tl.arange(0, BC)[None, :]
    return tl.maximum(tl.max(tl.where(i <= t, reach, 0.0), 1) / room, 1.0)


@triton.jit
def own_pending(bound, push):
    """What a chunk's own gradients leave pending in the momentum, before its divisor (`next_pending` of gates.py)."""
    return tl.max(tl.sum(bound * push[None, :], 1), 0)

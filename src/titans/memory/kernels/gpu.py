"""The dual form in Triton: forward and backward of the whole loop over chunks, for GPUs.

Each row and head is one program that walks over the chunks (triton_forward.py, triton_linear.py); torch computes the
sums of the gates and their gradient for all chunks at once (gates.py). Kept for the backward pass are the weights and
momentum before every `group`th round; a group's rounds are run again when its turn comes. Products take bfloat16 where
q, k and v were bfloat16, else float32 (TF32 if torch.set_float32_matmul_precision allows it); state and sums are
float32. Equals `chunk_titans`.

Importing this does not import triton. With TRITON_INTERPRET=1 the kernels run on a processor, for tests.
"""

import importlib.util
import os

import torch
from torch import Tensor

from titans.memory.arguments import Call, check_again, memory_operation
from titans.memory.chunked import chunk_gates
from titans.memory.gates import Gates, decays
from titans.memory.layout import Layout, layout
from titans.memory.networks import by_layer
from titans.memory.state import MemoryState

MAX_CHUNK, MAX_HEAD_DIM = 64, 64  # wider heads spill most of what they hold (docs/lab-log.md)


def interpreted() -> bool:
    """Whether kernels are run by Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unsupported(
    device: torch.device, dtype: torch.dtype, depth: int, head_dim: int, chunk_size: int, granularity: str
) -> str | None:
    """Why a memory cannot be computed by these kernels, or None if it can. dtype: of the memory's state."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if device.type != "cuda" and not interpreted():
        return f"they compute on GPUs, not on {device.type}"
    if dtype == torch.float64 and not interpreted():
        return "they compute in float32 and bfloat16, not in float64"
    if granularity == "channel":
        return "they have no channel-wise forgetting"
    if depth > 2:
        return f"they have memories of depth 1 and 2, not {depth}"
    if chunk_size > MAX_CHUNK:
        return f"chunk_size is {chunk_size}, above {MAX_CHUNK}"
    if head_dim > MAX_HEAD_DIM:
        return f"the head dimension is {head_dim}, above {MAX_HEAD_DIM}"
    return None


def _triton_titans(call: Call) -> tuple[Tensor, MemoryState]:
    """The memory over whole sequences, for GPUs. Arguments: see `titans.memory.arguments`."""
    state, network = call.state, call.network
    length = call.q.shape[1]
    if length == 0:
        return call.q, state
    granularity = "head" if call.gates.g.shape[-1] in (1, network.depth) else "channel"
    reason = unsupported(call.q.device, call.q.dtype, network.depth, network.head_dim, state.chunk_size, granularity)
    if reason is not None:
        raise ValueError(f"the Triton kernels cannot be used here: {reason}; chunk_titans can")
    check_again(call)
    from titans.memory.kernels.gpu_function import ChunkLoop, Job

    plan = layout(state.position, length, state.chunk_size, call.mask, call.reset, state.known_position)
    gates = chunk_gates(call, plan)
    sums, strain, drift = _sums(gates, [d_in for d_in, _ in network.layer_dims])

    rows, _, heads, head_dim = call.q.shape
    after = plan.source is not None or length % plan.unit > 0
    fill = (plan.end % plan.unit).to(torch.int32)
    job = Job(
        rows=rows,
        rounds=plan.num_rounds,
        heads=heads,
        head_dim=head_dim,
        hidden=network.layer_dims[-1][0],
        chunk=plan.unit,
        depth=network.depth,
        momentum=gates.log_eta is not None,
        activation=network.activation,
        limit=call.guard_limit or 0.0,
        precision=_precision(call),
        strain=strain,
        drift=drift,
        pending=state.pending.contiguous(),
        miss=state.miss.contiguous(),
        full=plan.full.to(torch.uint8).contiguous(),
        fresh=None if plan.fresh is None else plan.fresh.to(torch.uint8).contiguous(),
        filled_before=None if plan.old is None else plan.old.sum(-1, dtype=torch.int32),
        filled_after=fill if after else None,
    )
    tensors = (
        *(_tokens(x, plan, call) for x in (call.q, call.k, call.v)),
        *sums,
        *((None, None) if call.norm is None or network.depth == 1 else call.norm),
        *(*call.weights, *state.weights, *state.momentum, *state.inputs, *state.errors),
    )
    tensors = tuple(None if x is None else x.contiguous() for x in tensors)
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    with torch.cuda.device_of(call.q):  # where Triton launches
        results = ChunkLoop.apply(job, differentiable, *tensors)  # pyright: ignore[reportArgumentType]
    y, pending, miss, *layered = results
    weights, *momentum, inputs, errors = by_layer(layered, network.depth)
    empty = torch.arange(plan.unit, device=fill.device) >= fill.unsqueeze(1)  # all, where the last chunk is full
    return plan.restore(y.transpose(0, 1)), state.replace(
        position=plan.end,
        known_position=plan.known_end,
        weights=weights,
        momentum=momentum[0] if momentum else (),
        pending=pending,
        inputs=inputs,
        errors=errors,
        miss=miss,
        gates=tuple(x[-1].masked_fill(empty[:, None, :, None], 0) for x in gates.as_state()),
    )


triton_titans = memory_operation(_triton_titans)


def _tokens(x: Tensor, plan: Layout, call: Call) -> Tensor:
    """[B, T, H, d] -> [B, R, C, H, d], in the dtype that the kernels read."""
    return plan.arrange(x.to(torch.bfloat16) if call.given_dtype == torch.bfloat16 else x).transpose(0, 1)


def _sums(gates: Gates, widths: list[int]) -> tuple[tuple[Tensor | None, ...], Tensor, Tensor | None]:
    """kept, carried [R, B, H, L, C], write [R, B, H, L, C, C], push [R, B, H, L, C] and survival [R, B, H, L], which
    have gradients, and strain and drift, which have none. Of `decays`."""
    layers = decays(gates, widths)

    def stack(entries: list[Tensor | None]) -> Tensor | None:
        return None if entries[0] is None else torch.stack([x for x in entries if x is not None], 3)

    def line(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.squeeze(-1)

    sums = (
        stack([line(layer.kept) for layer in layers]),
        stack([line(layer.carried) for layer in layers]),
        stack([layer.write for layer in layers]),
        stack([line(layer.push) for layer in layers]),
        stack([line(line(layer.survival)) for layer in layers]),
    )
    strain = torch.stack([layer.strain for layer in layers], 3)
    return sums, strain, stack([layer.drift for layer in layers])


def _precision(call: Call) -> str:
    """`P` of the kernels."""
    if call.given_dtype == torch.bfloat16:
        return "bf16 emulated" if interpreted() else "bf16"
    if call.given_dtype == torch.float64:
        return "fp64"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"

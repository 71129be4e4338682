"""NeuralMemory: the memory as a layer, from projections to output (paper, sections 3 and 4.4)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans.errors import NonFiniteError
from titans.memory.arguments import MemoryOperation, check_devices, check_shapes, check_state, check_tensors
from titans.memory.chunked import chunk_titans
from titans.memory.config import MemoryConfig
from titans.memory.convolution import (
    causal_convolution,
    convolution_weight,
    finished,
    tie_keys_to_queries,
    tie_output_to_values,
)
from titans.memory.gates import FORGET_MARGIN, MAX_FORGET, STEP_MARGIN
from titans.memory.kernels import gpu
from titans.memory.kernels.native import native_titans, unsupported
from titans.memory.kernels.short_convolution import Finish
from titans.memory.kernels.step import OUTPUT_EPSILON, Parameters, Projections, Workspace, native_step_
from titans.memory.layout import document_positions, may_ask
from titans.memory.networks import MemoryNetwork, Norm
from titans.memory.norm import RMSNorm
from titans.memory.recurrent import recurrent_titans
from titans.memory.reference import reference_titans
from titans.memory.state import MemoryState

Backend = Literal["auto", "reference", "chunked", "recurrent", "native", "triton"]
_OPERATIONS: dict[str, MemoryOperation] = {
    "reference": reference_titans,
    "chunked": chunk_titans,
    "recurrent": recurrent_titans,
    "native": native_titans,
    "triton": gpu.triton_titans,
}
# The memory begins as good as empty: what it is not yet sure of should not have to be unlearned first.
LAST_LAYER_SCALE = 0.02
CHANNEL_GATE_RANK = 32  # of the low-rank projection behind channel-wise gates (as reported in arXiv 2504.13173)


class NeuralMemory(nn.Module):
    """A long-term memory that learns while it reads: every token is a training example for it.

    Example:
        >>> memory = NeuralMemory(64, MemoryConfig(num_heads=2))
        >>> y, state = memory(torch.randn(1, 100, 64))
        >>> z, state = memory(torch.randn(1, 5, 64), state)   # continues where the first call ended
    """

    def __init__(self, dim: int, config: MemoryConfig | None = None) -> None:
        super().__init__()
        config = config or MemoryConfig()
        if type(dim) is not int or dim < 1:
            raise ValueError(f"dim is {dim!r}; it must be a whole number, at least 1")
        if config.head_dim is None and dim % config.num_heads:
            raise ValueError(
                f"dim is {dim}; it must be a multiple of MemoryConfig.num_heads = {config.num_heads}, or head_dim given"
            )
        self.dim, self.config = dim, config
        heads, head_dim = config.num_heads, config.head_dim_in(dim)
        self.inner_dim = heads * head_dim
        self.network = MemoryNetwork.from_config(config, head_dim)

        self.project_qkv = nn.Linear(dim, 3 * self.inner_dim, bias=False)  # W_Q, W_K, W_V
        size = config.conv_size
        self.conv_weight = convolution_weight(self.inner_dim, size, size - 1) if config.convolution else None
        self.gates = GateProjections(dim, config, self.network)
        tie_keys_to_queries(self.project_qkv)
        scales = [1.0] * (config.depth - 1) + [0.0 if config.depth == 1 else LAST_LAYER_SCALE]
        self.initial_weights = nn.ParameterList(
            scale * torch.randn(heads, d_in, d_out) / math.sqrt(d_in)
            for scale, (d_in, d_out) in zip(scales, self.network.layer_dims, strict=True)
        )
        deep = config.depth > 1
        self.norm_weight = nn.Parameter(torch.full((heads, head_dim), 0.5)) if deep else None
        self.norm_bias = nn.Parameter(torch.zeros(heads, head_dim)) if deep else None
        self.output_norm = RMSNorm(head_dim, eps=OUTPUT_EPSILON)
        self.output_gate = nn.Linear(dim, self.inner_dim)
        nn.init.ones_(self.output_gate.bias)  # lets through at first what is read; around 0 SiLU would drown it
        self.project_out = nn.Linear(self.inner_dim, dim, bias=False)
        tie_output_to_values(self.project_out, self.project_qkv)

    def forward(
        self,
        x: Tensor,
        state: MemoryState | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        backend: Backend = "auto",
    ) -> tuple[Tensor, MemoryState]:
        """Writes every token into the memory and reads it back with the weights just written.

        Args:
            x: [B, T, dim].
            state: what an earlier call returned; None begins a document in every row.
            mask: [B, T], 0 where a token is absent: no write, no decay, no momentum, no convolution step.
            reset: [B, T], 1 where a new document begins (ignored where the token is absent).
            backend: "chunked" to train and to read long inputs, "native" for the same in compiled code on a processor,
                "triton" on a GPU, "recurrent" for single tokens, "reference" for the definition; "auto" takes
                "recurrent" for one token and otherwise "native" or "triton" where it can be had, else "chunked".

        Returns:
            y [B, T, dim], zero where a token is absent, and the state after the last token.

        Raises:
            ValueError: x, state, mask or reset have the wrong shape or dtype.
            NonFiniteError: x holds NaN or infinite values. An accelerator is not asked, as it would have to be waited
                for: there they go on into y and the new state, and `state` stays as it was.
        """
        self._check(x, mask, reset)
        state = self.begin(x) if state is None else state
        self._check_state(x, state)
        mask = None if mask is None else mask.to(x.device, torch.bool)
        reset = None if reset is None else reset.to(x.device, torch.bool)
        reads, after = self.absorb(x, state, mask, reset, backend)
        y = self.output(reads, self.output_gate(x))
        return (y if mask is None else y * mask.unsqueeze(-1)), after.apart_from(state)

    def absorb(
        self,
        x: Tensor,
        state: MemoryState,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        backend: Backend = "auto",
    ) -> tuple[Tensor, MemoryState]:
        """What `forward` does up to the output, without its checks: the memory's reads [B, T, H, d] (arbitrary where a
        token is absent) and the state after the last token."""
        projected = self.project_qkv(x)
        (q, k, v), tail = self.heads(projected, state, mask, reset)
        g, log_eta, theta = self.gates(x)
        if backend == "auto":
            backend = self._fastest(x)
        if backend not in _OPERATIONS:
            raise ValueError(f"backend is {backend!r}; it must be auto, {', '.join(_OPERATIONS)}")
        if backend in ("native", "triton"):  # their products are as precise as the projections
            q, k, v = (part.to(projected.dtype) for part in (q, k, v))
        reads, after = _OPERATIONS[backend](
            q,
            k,
            v,
            g,
            log_eta,
            theta,
            tuple(self.initial_weights),
            self.norm,
            activation=self.config.activation,
            chunk_size=self.config.chunk_size,
            guard_limit=self.config.guard_limit if self.config.guard else None,
            initial_state=state,
            output_final_state=True,
            mask=mask,
            reset=reset,
        )
        assert after is not None
        return reads, after.replace(tail=tail)

    def heads(
        self, projected: Tensor, state: MemoryState, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """Queries, keys and values [B, T, H, d] of `project_qkv` of tokens that follow `state`, and the convolution's
        new tail."""
        if reset is not None and mask is not None:
            reset = reset & mask
        position = document_positions(state.position, projected.shape[1], mask, reset)
        return self._convolve(projected, self.conv_weight, state.tail, position, mask, reset)

    @torch.no_grad()
    def step_(
        self,
        x: Tensor,
        state: MemoryState,
        workspace: Workspace | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> Tensor:
        """Reads one token per row and changes `state` in place: to generate with. The same as `forward` on one token.

        Nothing is allocated for the state and no shape depends on a value, so torch.compile(fullgraph=True) and CUDA
        graphs can take it. Values are not checked, as that would have to wait for an accelerator. Records no gradient.

        Args:
            x: [B, dim].
            state: to change; of `MemoryState.own`: whatever shares its tensors changes with it.
            workspace: of `workspace(state)`; without one a processor does part of the open chunk's work again.
            mask, reset: [B] bool, as in `forward`; a row that is absent stays exactly as it is.

        Returns:
            y [B, dim], zero where a row is absent.

        Raises:
            ValueError: x, state, mask or reset have the wrong shape or dtype, or the workspace is another state's.
        """
        check_tensors(x=x)
        if x.dim() != 2 or x.shape[-1] != self.dim:
            raise ValueError(f"x must be [B, dim = {self.dim}], got {tuple(x.shape)}")
        self._check_kind(x)
        self._check_state(x, state)
        check_shapes("[B]", x.shape[:1], mask=mask, reset=reset)
        if workspace is not None and workspace.state is not state:
            raise ValueError("the workspace belongs to another state: make one of this state")
        if workspace is not None and workspace.network is not self.network:
            raise ValueError("the workspace belongs to another memory: make one of this memory's")
        mask, reset = (None if flags is None else flags.to(x.device, torch.bool) for flags in (mask, reset))
        if workspace is None and not torch.compiler.is_compiling():
            workspace = self.workspace(state)
        state.check_own()
        begins = None if reset is None else (reset if mask is None else reset & mask).unsqueeze(1)
        if workspace is None:
            present = None if mask is None else mask.unsqueeze(1)
            reads, after = self.absorb(x.unsqueeze(1), state, present, begins, "recurrent")
            state.copy_(after)
            y = self.output(reads.squeeze(1), self.output_gate(x))
            return y if mask is None else y * mask.unsqueeze(-1)
        with torch.autocast(device_type=x.device.type, enabled=False):
            logits = self.gates.logits(x)
        projections = Projections(self.project_qkv(x), self.output_gate(x), *logits)
        parameters = Parameters(self.conv_weight, self.norm, self.output_norm.weight, tuple(self.initial_weights))
        return self.project_out(native_step_(workspace, projections, parameters, mask, reset).to(x.dtype))

    def workspace(self, state: MemoryState) -> Workspace | None:
        """What `step_` may keep beside a state from token to token; None where the compiled kernel cannot be used.

        Raises:
            ValueError: the state is another memory's, or cannot be changed in place.
        """
        config, rows = self.config, len(state.position)
        widths = (config.chunk_size, self.gates.num_forget, config.depth, config.momentum)
        device = self.project_out.weight.device
        check_state(state, device, config.num_heads, self.network, self._state_dtype, rows, *widths)
        self._check_tail(state)
        if unsupported(state.miss.device, self.config.chunk_size, self.config.gate_granularity):
            return None
        return Workspace(state, self.network, self.config)

    def begin(self, x: Tensor) -> MemoryState:
        """The state before the first token of a document, for the rows of x [B, ...]."""
        return MemoryState.fresh(
            tuple(weight.to(self._state_dtype) for weight in self.initial_weights),
            x.shape[0],
            chunk_size=self.config.chunk_size,
            num_gates=self.gates.num_forget,
            num_steps=self.config.depth,
            momentum=self.config.momentum,
            tail=self._tail_shape,
        )

    @property
    def _state_dtype(self) -> torch.dtype:
        return torch.float64 if self.output_norm.weight.dtype == torch.float64 else torch.float32

    @property
    def _tail_shape(self) -> tuple[int, int]:
        return (0, 0) if self.conv_weight is None else (self.config.conv_size - 1, 3 * self.inner_dim)

    def queries(
        self, x: Tensor, tail: Tensor, position: Tensor, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Queries [B, T, H, d] of a stream that is only read, never written, and its convolution tail [B, ·, H d]."""
        weight = None if self.conv_weight is None else self.conv_weight[: self.inner_dim]
        projected = F.linear(x, self.project_qkv.weight[: self.inner_dim])
        (q,), tail = self._convolve(projected, weight, tail, position, mask, reset)
        return q, tail

    def queries_(self, x: Tensor, tail: Tensor, mask: Tensor | None) -> Tensor:
        """The same for one token x [B, dim], with the tail changed in place -> [B, H, d]."""
        position = torch.zeros(1, 1, dtype=torch.int64, device=x.device)  # of no consequence without resets
        queries, new_tail = self.queries(x.unsqueeze(1), tail, position, None, None)
        tail.copy_(new_tail if mask is None else torch.where(mask[:, None, None], new_tail, tail))
        return queries.squeeze(1)

    def recall(self, queries: Tensor, gate: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """M*(q): reads with given weights [B, H, d_in, d_out], writes nothing; gate: `output_gate` of x [B, T, H d]."""
        with torch.autocast(device_type=gate.device.type, enabled=False):
            reads = self.network(queries.transpose(1, 2).to(weights[0].dtype), weights, self.norm).transpose(1, 2)
        return self.output(reads, gate)

    def output(self, reads: Tensor, gate: Tensor) -> Tensor:
        """Normalisation, gate and projection; reads [B, T, H, d], gate: `output_gate` of x [B, T, H d]."""
        return self.project_out(self.output_norm(reads, gate.unflatten(-1, reads.shape[-2:])).flatten(-2))

    def _convolve(
        self,
        x: Tensor,
        weight: Tensor | None,
        tail: Tensor,
        position: Tensor,
        mask: Tensor | None,
        reset: Tensor | None,
    ) -> tuple[list[Tensor], Tensor]:
        """Queries and, if x [B, T, H d or 3 H d] has them, keys and values [B, T, H, d]; the convolution's new tail."""
        parts = x.shape[-1] // self.inner_dim
        head_dim = self.network.head_dim
        finish = Finish(silu=True, parts=parts, unit_parts=min(parts, 2), head_dim=head_dim)
        if weight is None:
            found = finished(x.to(tail.dtype), finish)
        else:
            found, tail = causal_convolution(x, weight, tail, position, mask, reset, finish)
        return [part.unflatten(-1, (-1, head_dim)) for part in found], tail

    @property
    def norm(self) -> Norm | None:
        """The affine part of the memory network's layer norm; None for the linear memory."""
        if self.norm_weight is None or self.norm_bias is None:
            return None
        dtype = torch.promote_types(self.norm_weight.dtype, torch.float32)
        return Norm(self.norm_weight.to(dtype), self.norm_bias.to(dtype))

    def _fastest(self, x: Tensor) -> Backend:
        if x.shape[1] == 1:
            return "recurrent"
        config = self.config
        if x.device.type == "cuda":
            asked = (self.network.depth, self.network.head_dim, config.chunk_size, config.gate_granularity)
            return "chunked" if gpu.unsupported(x.device, self._state_dtype, *asked) else "triton"
        return "chunked" if unsupported(x.device, config.chunk_size, config.gate_granularity) else "native"

    def _check(self, x: Tensor, mask: Tensor | None, reset: Tensor | None) -> None:
        check_tensors(x=x)
        if x.dim() != 3 or x.shape[-1] != self.dim:
            raise ValueError(f"x must be [B, T, dim = {self.dim}], got {tuple(x.shape)}")
        if x.shape[1] == 0:
            raise ValueError("x has no tokens (T = 0); pass at least one")
        self._check_kind(x)
        check_finite(x)
        check_shapes("[B, T]", x.shape[:2], mask=mask, reset=reset)

    def _check_kind(self, x: Tensor) -> None:
        if not x.dtype.is_floating_point:
            raise ValueError(f"x must be a floating-point tensor, got {x.dtype}")
        dtype, device = self.project_out.weight.dtype, self.project_out.weight.device
        if x.device != device:
            raise ValueError(f"x is on {x.device} and the memory on {device}: move one of them")
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"x is {x.dtype} and the memory {dtype}; convert one of them, or use torch.autocast")

    def _check_state(self, x: Tensor, state: MemoryState) -> None:
        if not isinstance(state, MemoryState):
            raise ValueError(f"state must be the MemoryState of an earlier call, got {type(state).__name__}")
        if len(state.position) != len(x):
            raise ValueError(f"the state has {len(state.position)} rows, x has {len(x)}")
        check_devices(x.device, **{"the state": state.position})
        dtype = self._state_dtype
        if state.weights[0].dtype != dtype:
            raise ValueError(
                f"the state is {state.weights[0].dtype}, this memory keeps {dtype}: pass state.to({dtype})"
            )
        self._check_tail(state)

    def _check_tail(self, state: MemoryState) -> None:
        should, found = (*self._tail_shape, self._state_dtype), (*state.tail.shape[1:], state.tail.dtype)
        if found != should or len(state.tail) != len(state.position):
            raise ValueError(
                f"the state belongs to another memory or is damaged: its convolution tail has {len(state.tail)} rows "
                f"of {found}, this memory's {len(state.position)} of {should}"
            )


def check_finite(x: Tensor) -> None:
    """Raises NonFiniteError unless x is one that a memory may read; takes it to be so where it may not ask."""
    if may_ask(x) and not bool(torch.isfinite(x).all()):
        raise NonFiniteError("x holds NaN or infinite values; the memory would never recover from them")


class GateProjections(nn.Module):
    """Per-token gates of every head and memory layer, from the layer's input.

    Each is a linear map and a sigmoid that can close exactly: stretched a little past 0 and cut off there, so that a
    token can leave the memory untouched. Over millions of tokens a gate that is only nearly closed forgets everything.
    The step is theta = theta_raw (1 - eta), so that momentum does not amplify it.
    """

    def __init__(self, dim: int, config: MemoryConfig, network: MemoryNetwork) -> None:
        super().__init__()
        self.config = config
        heads, depth = config.num_heads, config.depth
        channels = sum(d_in for d_in, _ in network.layer_dims)
        self.num_forget = channels if config.gate_granularity == "channel" and config.forgetting else depth
        self.step = _gate(dim, heads * depth, torch.zeros(heads * depth))
        start = torch.logit(torch.full((heads * depth,), config.initial_momentum))
        self.momentum = _gate(dim, heads * depth, start) if config.momentum else None
        if not config.forgetting:
            self.forget = None
        else:
            # Horizons from about 1,000 tokens, which a single head has, to 10, spread over the heads.
            rate = torch.logspace(-3, -1, heads).repeat_interleave(self.num_forget)
            bias = torch.logit((rate + FORGET_MARGIN) / (1 + 2 * FORGET_MARGIN))
            self.forget = _gate(dim, heads * self.num_forget, bias, config.gate_granularity == "channel")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """x [B, T, dim] -> g = log(1 - alpha), log_eta (None without momentum), theta: [B, T, H, ·], float32 or 64."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            step, momentum, forget = (None if x is None else self._heads(x) for x in self.logits(x))
            assert step is not None
            theta = closing(torch.sigmoid(step), STEP_MARGIN) * self.config.largest_step
            log_eta = None
            if momentum is not None:
                log_eta = F.logsigmoid(momentum)
                theta = theta * torch.sigmoid(-momentum)  # 1 - eta, exact for eta near 1
            if forget is None:
                return torch.zeros_like(theta), log_eta, theta
            alpha = closing(torch.sigmoid(forget), FORGET_MARGIN)
            return torch.log1p(-alpha.clamp_max(MAX_FORGET)), log_eta, theta

    def logits(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x [..., dim] -> what goes into the sigmoids of theta, eta and alpha [..., H * ·]; None for what is off."""
        x = x.to(next(self.step.parameters()).dtype)
        return (
            self.step(x),
            None if self.momentum is None else self.momentum(x),
            None if self.forget is None else self.forget(x),
        )

    def shut(self) -> None:
        """Closes theta and alpha for good, for comparisons: a memory that is fresh now will only be read."""
        for projection in (self.step, self.forget):
            if projection is not None:
                last = [module for module in projection.modules() if isinstance(module, nn.Linear)][-1]
                nn.init.zeros_(last.weight)
                nn.init.constant_(last.bias, -1e4)

    def _heads(self, logits: Tensor) -> Tensor:
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).unflatten(-1, (self.config.num_heads, -1))


def closing(gate: Tensor, margin: float) -> Tensor:
    """A gate in (0, 1) stretched to (-margin, 1 + margin) and cut at 0 and 1, where it is exactly shut or open."""
    return ((1 + 2 * margin) * gate - margin).clamp(0, 1)


def _gate(dim: int, outputs: int, bias: Tensor, low_rank: bool = False) -> nn.Module:
    last = nn.Linear(CHANNEL_GATE_RANK if low_rank else dim, outputs)
    with torch.no_grad():
        last.bias.copy_(bias)
    return nn.Sequential(nn.Linear(dim, CHANNEL_GATE_RANK, bias=False), last) if low_rank else last

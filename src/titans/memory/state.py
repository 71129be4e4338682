"""MemoryState: everything a memory knows, as a value that goes in and comes out."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from titans.errors import TitansError
from titans.files import LAYOUT_KEY, check_layout, load_tensors, save_tensors, spoilt

LAYOUT = 4  # of the tensors in a file; in earlier ones the guard knew other things
_FARTHEST = 2**62  # no text is as long
_KNOWN, _OWNED = "known_position", "owned"  # fields that say something of the tensors


class TensorTree:
    """What frozen dataclasses of tensors, tuples of tensors and further trees can do."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """A copy with `change` applied to every tensor."""
        return _map(self, change)

    def detach(self) -> Self:
        """The same values, cut off from the graph that made them and from the model's parameters."""
        return _map(self, lambda tensor: tensor.detach().clone(), known=True)

    def own(self) -> Self:
        """The same values in memory of their own, to be changed in place: no gradients, nothing shared."""
        return _map(self, lambda tensor: tensor.detach().clone(memory_format=torch.contiguous_format), owned=True)

    def check_own(self) -> None:
        """Raises ValueError if the state cannot be changed in place, as it is not one of `own`.

        Its tensors may be those of others, or one row's for all, as a beginning's are.
        """
        if not getattr(self, _OWNED):
            raise ValueError("the state may share its tensors with others: pass state.own(), to be changed in place")

    def apart_from(self, other: Self) -> Self:
        """Itself, or a copy if `other`, whose tensors may be among its own, can be changed in place."""
        return self.map(torch.clone) if getattr(other, _OWNED) else self

    def copy_(self, other: Self) -> None:
        """Takes the values of a tree of the same structure, in place; ValueError as in `check_own`."""
        self.check_own()
        for mine, theirs in zip(self.tensors().values(), other.tensors().values(), strict=True):
            if mine is not theirs:
                mine.copy_(theirs)

    def to(self, target: torch.device | str | torch.dtype) -> Self:
        """The same values on another device, or in another precision; what is counted stays whole."""
        kept = isinstance(target, torch.dtype)
        return self.map(lambda tensor: tensor if kept and not tensor.is_floating_point() else tensor.to(target))

    def select(self, rows: Tensor) -> Self:
        """The state of some rows of the batch (int64 indices [N]); repeats are allowed."""
        return self.map(lambda tensor: tensor[rows])

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by dotted name, in a fixed order."""
        return dict(_walk(self, ""))

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """A copy of this tree with every tensor taken from `tensors`.

        Raises:
            TitansError: a tensor is missing, foreign, or of another shape (rows and precision may differ).
        """
        expected = self.tensors()
        if expected.keys() != tensors.keys():
            odd = sorted(expected.keys() ^ tensors.keys())
            raise TitansError(f"the state belongs to another model: it differs in {', '.join(odd[:3])}")
        for name, tensor in expected.items():
            found = tensors[name]
            if found.shape[1:] != tensor.shape[1:] or found.is_floating_point() != tensor.is_floating_point():
                raise TitansError(
                    f"the state belongs to another model: {name} is {tuple(found.shape)}, "
                    f"this one needs {('rows', *tensor.shape[1:])}"
                )
        if len(set(map(len, tensors.values()))) > 1:
            raise TitansError("the state is damaged: its tensors are of different numbers of rows")
        names = iter(expected)
        return self.map(lambda _: tensors[next(names)])


@dataclass(frozen=True)
class MemoryState(TensorTree):
    """State of one neural memory for each row of a batch.

    Letters: B rows, H heads, C chunk length, d_in and d_out of each memory layer, G gates per head.

    The open chunk is kept as the rank-one factors of its gradients, which is all that later tokens of the chunk, and
    the weights at its end, need; slots that no token has reached yet are zero.
    """

    position: Tensor
    """tokens since the document began [B] int64; position mod C is the fill of the open chunk"""
    weights: tuple[Tensor, ...]
    """memory weights at the start of the open chunk, one [B, H, d_in, d_out] per memory layer"""
    momentum: tuple[Tensor, ...]
    """past surprise S at the same point; empty without momentum"""
    pending: Tensor
    """how much S can still move the output, per unit of error, as far as the guard knows [B, H, L]"""
    inputs: tuple[Tensor, ...]
    """open chunk: input of each memory layer [B, H, C, d_in]"""
    errors: tuple[Tensor, ...]
    """open chunk: error at the output of each memory layer [B, H, C, d_out]"""
    miss: Tensor
    """open chunk: how far the memory's answer was from the value [B, H, C] (1 at depth 1), for the guard"""
    gates: tuple[Tensor, ...]
    """open chunk: log(1 - alpha) [B, H, C, G], theta [B, H, C, 1 or L] and, with momentum, log(eta) likewise"""
    tail: Tensor
    """the last inputs of the convolution [B, conv_size - 1, channels]; no channels without convolution"""
    known_position: int | None = None
    """`position`, where it is every row's and the processor knows it, so that an accelerator need not be asked. Copies
    by anything but `detach` forget it, as they may be changed in place"""
    owned: bool = False
    """whether nothing else has these tensors (`own`); copies of any kind forget it"""

    @classmethod
    def fresh(
        cls,
        weights: tuple[Tensor, ...],
        rows: int,
        *,
        chunk_size: int,
        num_gates: int,
        num_steps: int,
        momentum: bool,
        tail: tuple[int, int] = (0, 0),
    ) -> "MemoryState":
        """The state before the first token. weights: [H, d_in, d_out] per layer; num_gates and num_steps: width of
        the forget gate and of theta (and eta) per head; tail: taps and channels of the convolution."""
        first = weights[0]

        def zeros(*shape: int) -> Tensor:
            return first.new_zeros(1).expand(rows, *shape)

        heads = first.shape[0]
        expanded = tuple(weight.unsqueeze(0).expand(rows, -1, -1, -1) for weight in weights)
        widths = (num_gates, num_steps, num_steps) if momentum else (num_gates, num_steps)
        return cls(
            position=torch.zeros(rows, dtype=torch.int64, device=first.device),
            weights=expanded,
            momentum=tuple(zeros(*weight.shape) for weight in weights) if momentum else (),
            pending=zeros(heads, len(weights)),
            inputs=tuple(zeros(heads, chunk_size, weight.shape[1]) for weight in weights),
            errors=tuple(zeros(heads, chunk_size, weight.shape[2]) for weight in weights),
            miss=zeros(heads, chunk_size),
            gates=tuple(zeros(heads, chunk_size, width) for width in widths),
            tail=zeros(*tail),
            known_position=0,
        )

    @property
    def chunk_size(self) -> int:
        return self.miss.shape[-1]

    def replace(self, **changes: Any) -> "MemoryState":
        """A copy with some fields changed."""
        if "position" in changes:
            changes = {_KNOWN: None} | changes
        return dataclasses.replace(self, **{_OWNED: False} | changes)

    def save(self, path: str | Path) -> None:
        """Writes the state to one safetensors file, atomically."""
        save_tensors(path, "memory state", self.tensors(), {"depth": len(self.weights), LAYOUT_KEY: LAYOUT})

    @classmethod
    def load(cls, path: str | Path) -> "MemoryState":
        """Reads what `save` wrote. Raises TitansError for any other file."""
        tensors, header = load_tensors(path, "memory state")
        check_layout(path, header, LAYOUT)

        def group(name: str) -> tuple[Tensor, ...]:
            count = sum(key.startswith(f"{name}.") for key in tensors)
            return tuple(tensors[f"{name}.{i}"] for i in range(count))

        try:
            groups = {name: group(name) for name in ("weights", "momentum", "inputs", "errors", "gates")}
            single = {name: tensors[name] for name in ("position", "pending", "miss", "tail")}
        except KeyError as error:
            raise TitansError(f"{path} is incomplete: it has no tensor {error}") from error
        if (name := spoilt(tensors)) is not None:
            raise TitansError(f"{path} is spoilt: {name} holds NaN or infinite values; go on from an earlier state")
        require_places(path, tensors)
        return cls(**single, **groups)  # pyright: ignore[reportArgumentType]


def require_places(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """TitansError if a position in a file is no place in a text: compiled code would look there."""
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] == "position" and not bool(((tensor >= 0) & (tensor < _FARTHEST)).all()):
            raise TitansError(f"{path} is damaged: {name} is {tensor.tolist()}; copy or make it again")


def _map(node: Any, change: Callable[[Tensor], Tensor], *, known: bool = False, owned: bool = False) -> Any:
    """known: what the processor knows of the tensors holds after the change as well; owned: nothing else has them."""
    if isinstance(node, Tensor):
        return change(node)
    if isinstance(node, tuple):
        return tuple(_map(child, change, known=known, owned=owned) for child in node)
    if isinstance(node, TensorTree) and dataclasses.is_dataclass(node):
        fields = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
        said: dict[str, Any] = {_OWNED: owned} if _OWNED in fields else {}
        said |= {_KNOWN: None} if _KNOWN in fields and not known else {}
        return type(node)(
            **{name: _map(child, change, known=known, owned=owned) for name, child in fields.items()} | said
        )
    return node


def _walk(node: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield prefix, node
    elif isinstance(node, tuple):
        for i, child in enumerate(node):
            yield from _walk(child, f"{prefix}.{i}" if prefix else str(i))
    elif isinstance(node, TensorTree) and dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            yield from _walk(getattr(node, field.name), f"{prefix}.{field.name}" if prefix else field.name)

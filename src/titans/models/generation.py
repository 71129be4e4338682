"""Text from a model: prompts of any lengths side by side, one token at a time, with the memory learning on the way."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from titans.models.language_model import TitansLM
from titans.models.loss import check_logits
from titans.models.state import LMState

ROW_STRIDE = 0x9E3779B97F4A7C15  # between the seeds of rows: far apart, and the first row's is the seed itself
COLDEST = 1e-6  # temperature above 0; logits divided by less could overflow


@torch.no_grad()
def generate(
    model: TitansLM,
    prompts: Sequence[Tensor],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Sequence[Tensor] = (),
    seed: int = 0,
    state: LMState | None = None,
    on_token: Callable[[Tensor], None] | None = None,
) -> tuple[list[Tensor], LMState]:
    """Continues every prompt.

    Args:
        prompts: one int64 tensor [length] per row; the lengths may differ, and each row is as if it were alone.
        max_new_tokens: tokens to add at most.
        temperature: 0 takes the likeliest token; above 0 logits are divided by it and a token is drawn.
        top_k: draw from the k likeliest tokens only.
        top_p: draw from the likeliest tokens that together have this probability.
        stop: token sequences that end a row as soon as it ends with one; they stay in the output.
        seed: of the draws; every row has a generator of its own, so that rows do not influence each other.
        state: continue from this state (one row per prompt) instead of from empty memories.
        on_token: called after each step with the new tokens [rows]; -1 in rows that have ended.

    Returns:
        The new tokens of each row, and the state after them: every token returned has been read.

    Raises:
        ValueError: a prompt is empty, a sequence to stop at is none of tokens, or a setting is out of range.
        NonFiniteError: the model or its memory has overflowed.
    """
    check_settings(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    _check_sequences(prompts, stop)
    device = model.embedding.weight.device
    logits, after = prefill(model, [prompt.to(device) for prompt in prompts], state)
    decode = Decoder(model, after)
    generators = [torch.Generator().manual_seed((seed + row * ROW_STRIDE) % 2**63) for row in range(len(prompts))]
    stops = [sequence.tolist() for sequence in stop]
    new: list[list[int]] = [[] for _ in prompts]
    running = torch.ones(len(prompts), dtype=torch.bool)
    for _ in range(max_new_tokens):
        logits = logits.cpu().float()
        check_logits(logits)
        tokens = torch.stack(
            [_draw(row, temperature, top_k, top_p, g) for row, g in zip(logits, generators, strict=True)]
        )
        for row in running.nonzero().flatten().tolist():
            new[row].append(int(tokens[row]))
        if on_token is not None:
            on_token(tokens.masked_fill(~running, -1))
        logits = decode(tokens.to(device), None if running.all() else running.to(device))
        ended = [any(row[len(row) - len(s) :] == s for s in stops if s) for row in new]
        running &= ~torch.tensor(ended)
        if not running.any():
            break
    return [torch.tensor(row, dtype=torch.int64) for row in new], decode.state


def prefill(model: TitansLM, prompts: Sequence[Tensor], state: LMState | None) -> tuple[Tensor, LMState]:
    """Reads prompts of any lengths; returns the logits after each row's last token [rows, vocab] and the state."""
    tokens = torch.nn.utils.rnn.pad_sequence(list(prompts), batch_first=True, padding_side="left")
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=tokens.device)
    mask = None
    if int(lengths.min()) < tokens.shape[1]:
        mask = torch.arange(tokens.shape[1], device=tokens.device) >= tokens.shape[1] - lengths.unsqueeze(1)
    logits, after = model(tokens, state, mask, logits_to_keep=1)
    return logits[:, -1], after


class Decoder:
    """Reads one token per row after the other, in place on a copy of a state that is its own.

    Example:
        >>> decode = Decoder(model, state)
        >>> logits = decode(tokens)     # [rows] int64 -> [rows, vocab]; decode.state has read them
        >>> fork = Decoder(model, decode.state)     # goes its own way from here
    """

    def __init__(self, model: TitansLM, state: LMState) -> None:
        self.model, self.state = model, state.own()
        self.workspaces = model.workspaces(self.state)

    def __call__(self, tokens: Tensor, running: Tensor | None = None) -> Tensor:
        """Reads tokens [rows]; rows that are not `running` [rows] stay as they are. Returns logits [rows, vocab]."""
        return self.model.step_(tokens, self.state, running, self.workspaces)


def _draw(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, g: torch.Generator) -> Tensor:
    """One token from logits [vocab]."""
    if temperature == 0:
        return logits.argmax()
    logits = logits / temperature
    if top_k is not None and top_k < len(logits):
        likeliest = logits.topk(top_k)  # k of them where some are equal, too
        logits = torch.full_like(logits, -torch.inf).scatter(0, likeliest.indices, likeliest.values)
    probabilities = logits.softmax(-1)
    if top_p is not None:
        ranked, order = probabilities.sort(descending=True)
        beyond = ranked.cumsum(-1) - ranked >= top_p
        probabilities[order[beyond]] = 0
    return torch.multinomial(probabilities, 1, generator=g)[0]


def check_settings(
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> None:
    """Raises ValueError where a setting of `generate` is out of range: before a long text is read, not after."""
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be a whole number, at least 1")
    if temperature != 0 and not COLDEST <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or at least {COLDEST}")
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise ValueError(f"top_k is {top_k}; it must be a whole number, at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}; it must be 0 or more, and below 2**63")


def _check_sequences(prompts: Sequence[Tensor], stop: Sequence[Tensor]) -> None:
    for name, sequences, each in (("prompts", prompts, "row"), ("stop", stop, "place to stop at")):
        if isinstance(sequences, Tensor) or not all(isinstance(one, Tensor) and one.dim() == 1 for one in sequences):
            raise ValueError(f"{name} must be a list of int64 tensors [length], one per {each}")
    if not prompts or min(len(prompt) for prompt in prompts) == 0:
        raise ValueError("every prompt needs at least one token")

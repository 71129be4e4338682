"""Let a model write on from a prompt, or from text of any length on standard input, which it reads into its memory.

Example:
    titans generate --checkpoint runs/book --prompt "Once upon a time"
    titans generate --checkpoint runs/book --save-state book.memory < book.txt
    titans generate --checkpoint runs/book --state book.memory --prompt "And then"
"""

import codecs
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from titans.cli import corpus
from titans.cli.imports import import_torch
from titans.cli.soundness import require_sound
from titans.errors import TitansError

if TYPE_CHECKING:
    from torch import Tensor

    from titans.models.language_model import TitansLM
    from titans.models.state import LMState

_BLOCK_BYTES = 4096


def run(
    *,
    checkpoint: Annotated[Path, arg(metavar="DIR")],
    prompt: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="(default: standard input)")] = None,
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None,
    top_p: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: all)")] = None,
    stop: Annotated[tuple[str, ...], arg(metavar="TEXT ...", help_behavior_hint="(default: none)")] = (),
    seed: int = 0,
    state: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: an empty memory)")] = None,
    save_state: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: forget it)")] = None,
    json: bool = False,
) -> None:
    """Reads the prompt and prints what follows as it is made.

    Args:
        checkpoint: folder of a run or of a saved model
        prompt: text to go on from
        max_new_tokens: bytes to write at most
        temperature: 0 takes the likeliest byte; higher is more varied
        top_k: draw from the k likeliest bytes
        top_p: draw from the likeliest bytes that together have this probability
        stop: texts at which to stop
        seed: of the drawing
        state: memory to go on from, as --save-state wrote it
        save_state: where to keep the memory of everything read and written
        json: print the whole text at the end, as JSON
    """
    import_torch()

    from json import dumps

    from titans.baselines import load_model
    from titans.files import require_writable_files
    from titans.models.generation import check_settings, generate
    from titans.models.language_model import TitansLM
    from titans.training.model import best_device

    check_settings(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    blocks = _stdin_blocks() if prompt is None else _blocks(os.fsencode(prompt))
    model = load_model(checkpoint)
    if not isinstance(model, TitansLM):
        raise TitansError(f"{checkpoint} holds the baseline {model.config.name}, which this does not write with")
    if save_state is not None:
        require_writable_files(save_state)
    model = model.to(best_device()).eval()
    corpus.require_bytes(checkpoint, model.config.vocab_size)
    memory = None if state is None else _memory(state, model)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    unheard: OSError | None = None

    def show(token: int) -> None:
        nonlocal unheard
        if json or unheard is not None:
            return
        try:
            print(decoder.decode(bytes([token])), end="", flush=True)
        except OSError as error:  # a reader that has left, a full disk: the memory is saved first
            unheard = error
            if save_state is None:
                raise

    with require_sound(checkpoint):
        last, memory = _read_all_but_last(model, blocks, memory)
        (new,), memory = generate(
            model,
            [_tokens(last, model)],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            stop=[_tokens(os.fsencode(text), model) for text in stop],
            seed=seed,
            state=memory,
            on_token=lambda tokens: show(int(tokens[0])),
        )
    saved = None
    try:
        if save_state is not None:
            memory.save(save_state, model)
            saved = str(save_state)
    finally:  # what has been written is not lost with a memory that cannot be kept
        if json:
            text = bytes(new.tolist()).decode("utf-8", errors="replace")
            print(dumps({"text": text, "bytes": len(new), "state": saved}), flush=True)
        elif unheard is None:
            print(decoder.decode(b"", final=True), flush=True)
    if unheard is not None:
        raise unheard


def _memory(path: Path, model: "TitansLM") -> "LMState":
    from titans.models.state import LMState

    memory = LMState.load(path, model)
    if memory.rows != 1:
        raise TitansError(f"{path} holds {memory.rows} texts side by side; give a memory that has read one")
    return memory.to(model.embedding.weight.device)


def _read_all_but_last(
    model: "TitansLM", blocks: Iterable[bytes], memory: "LMState | None"
) -> "tuple[bytes, LMState | None]":
    """Reads text of any length into the memory, and returns its last block, from which the model writes on."""
    import torch

    from titans.training.progress import Progress

    last = b""
    with Progress("read", unit="bytes") as progress, torch.no_grad():
        for block in blocks:
            if last:
                _, memory = model(_tokens(last, model)[None], memory, logits_to_keep=1)
                progress.advance(len(last))
            last = block
    if not last:
        raise TitansError("the prompt is empty: give at least one character to go on from")
    return last, memory


def _stdin_blocks() -> Iterator[bytes]:
    if sys.stdin.isatty():
        raise TitansError("--prompt is missing: give it, or pipe text in")
    return iter(lambda: sys.stdin.buffer.read(_BLOCK_BYTES), b"")


def _blocks(data: bytes) -> Iterator[bytes]:
    return (data[start : start + _BLOCK_BYTES] for start in range(0, len(data), _BLOCK_BYTES))


def _tokens(data: bytes, model: "TitansLM") -> "Tensor":
    """[T] int64, where the model is."""
    import torch

    from titans.data.tokenizer import ByteTokenizer

    return torch.from_numpy(ByteTokenizer().encode(data)).to(model.embedding.weight.device)

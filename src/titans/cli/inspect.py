"""See what a trained model's memories did at each token of a text: how surprised they were, what they wrote, what they
let go of.

Example:
    titans inspect --checkpoint runs/book --prompt "Once upon a time there was a king"
    titans inspect --checkpoint runs/book --text chapter.txt --block 0 --out chapter.svg
    titans inspect --checkpoint runs/parity --tokens 0 1 1 0 1      (a task whose tokens stand for no text)
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from titans.cli import corpus
from titans.cli.imports import import_torch
from titans.cli.soundness import require_sound
from titans.errors import TitansError

if TYPE_CHECKING:
    import numpy as np

    from titans.data.tokenizer import Tokenizer
    from titans.models.config import TitansConfig
    from titans.models.language_model import TitansLM
    from titans.report.inspection import Inspection

_PICTURES = (".svg", ".png")
_CONTEXT = 10  # tokens before a peak that the table shows


def run(
    *,
    checkpoint: Annotated[Path, arg(metavar="DIR")],
    text: Annotated[str | None, arg(metavar="PATH", help_behavior_hint="(this, --prompt or --tokens)")] = None,
    prompt: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="(this, --text or --tokens)")] = None,
    tokens: Annotated[tuple[int, ...], arg(metavar="ID ...", help_behavior_hint="(this, --text or --prompt)")] = (),
    max_tokens: int = 400,
    block: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all that have a memory)")] = None,
    out: Annotated[Path, arg(metavar="PATH")] = Path("inspect.svg"),
    json: bool = False,
) -> None:
    """Reads the text from an empty memory and draws what every head of every memory did.

    Args:
        checkpoint: folder of a run or of a saved model
        text: text file, .gz or - for standard input
        prompt: the text itself
        tokens: token ids, for a model whose tokens stand for no text
        max_tokens: of the picture and the table; up to 200 stand below their curves, more become colours
        block: number of one block, from 0
        out: the picture, as .svg and as .png beside it
        json: print all numbers as JSON, for the whole text
    """
    if max_tokens < 1:
        raise TitansError(f"--max-tokens is {max_tokens}; it must be at least 1")
    if out.suffix not in _PICTURES:
        raise TitansError(f"--out {out} should end in .svg or .png; both are written")
    import_torch()

    from titans.baselines import load_model
    from titans.files import require_writable_files
    from titans.models.language_model import TitansLM
    from titans.report.inspection_picture import draw
    from titans.training.model import best_device

    if (text is not None) + (prompt is not None) + bool(tokens) != 1:
        raise TitansError("give something to read: either --text, --prompt or --tokens")
    model = load_model(checkpoint)
    if not isinstance(model, TitansLM):
        raise TitansError(f"{checkpoint} holds the baseline {model.config.name}, which has no memory to look into")
    blocks = _blocks(model.config, checkpoint, block)
    read, shown_as = _read(checkpoint, model.config.vocab_size, text, prompt, tokens, None if json else max_tokens)
    pictures = [out.with_suffix(suffix) for suffix in _PICTURES]
    require_writable_files(*pictures)
    model = model.to(best_device()).eval()
    with require_sound(checkpoint):
        found = _inspect(model, read, shown_as, blocks)
    shown = found.first(max_tokens)
    draw(shown, *pictures)
    if json:
        from json import dumps

        print(dumps({"pictures": [str(path) for path in pictures], "drawn": len(shown.text)} | found.to_dict()))
    else:
        _show(shown)
        print(*pictures, sep="\n")


def _read(
    checkpoint: Path, vocab_size: int, text: str | None, prompt: str | None, given: tuple[int, ...], count: int | None
) -> "tuple[np.ndarray, list[str]]":
    """The first `count` tokens to read, None for all, and what each is shown as."""
    import numpy as np

    if given:
        wrong = next((token for token in given if not 0 <= token < vocab_size), None)
        if wrong is not None:
            raise TitansError(f"--tokens has {wrong}; {checkpoint} knows the tokens 0 to {vocab_size - 1:,}")
        return np.array(given[:count]), [f"{token} " for token in given[:count]]
    tokenizer = corpus.text_tokenizer(checkpoint, vocab_size)
    tokens = _text_tokens(text, prompt, tokenizer, count)
    return tokens, tokenizer.characters(tokens.tolist())


def _text_tokens(text: str | None, prompt: str | None, tokenizer: "Tokenizer", count: int | None) -> "np.ndarray":
    import numpy as np

    from titans.data.pieces import encoded

    if prompt is not None:
        return tokenizer.encode(prompt)[:count]
    with tempfile.TemporaryDirectory() as spool:
        documents = corpus.documents(text, spool=Path(spool))
        if len({document.name for document in documents}) > 1:
            raise TitansError(f"{text} holds several texts: name one of its files")
        documents = encoded(documents, tokenizer)
        if count is not None:
            return documents[0].tokens(0, min(count, len(documents[0])))
        return np.concatenate([document.tokens(0, len(document)) for document in documents])


def _blocks(config: "TitansConfig", checkpoint: Path, block: int | None) -> list[int]:
    """The blocks to look at."""
    blocks = [number for number in range(config.num_layers) if config.has_memory(number)]
    if not blocks:
        raise TitansError(f"{checkpoint} has no memory to look into: its variant is {config.variant}")
    if block is not None and block not in blocks:
        raise TitansError(f"--block is {block}; the blocks with a memory are {', '.join(map(str, blocks))}")
    return blocks if block is None else [block]


def _inspect(model: "TitansLM", tokens: "np.ndarray", shown_as: list[str], blocks: list[int]) -> "Inspection":
    import torch

    from titans.models.inspection import memory_traces
    from titans.report.inspection import inspection
    from titans.training.progress import Progress

    with Progress("inspect", total=len(tokens), unit="tokens") as progress:
        stream = torch.from_numpy(tokens).to(model.embedding.weight.device)
        traces = memory_traces(model, stream, blocks=blocks, on_read=progress.advance)
    return inspection(traces, shown_as)


def _show(found: "Inspection") -> None:
    """A table of means, and the text up to where each head was surprised most."""
    from statistics import fmean

    from rich.markup import escape
    from rich.table import Table

    from titans.console import Console
    from titans.report.inspection import QUANTITIES

    table = Table(title=f"Means over {len(found.text):,} tokens", box=None)
    for heading in ("block", "head", *QUANTITIES):
        table.add_column(heading, justify="right", no_wrap=True, min_width=max(6, len(heading)))
    table.add_column("surprise peak", no_wrap=True)  # gives way where there is little room
    for head in found.heads:
        means = (f"{fmean(getattr(head, name)):.3f}" for name in QUANTITIES)
        peak = max(range(len(found.text)), key=head.surprise.__getitem__)
        before = "".join(found.text[max(0, peak - _CONTEXT + 1) : peak + 1])
        table.add_row(str(head.block), str(head.head), *means, escape(repr(before)))
    Console().print(table)

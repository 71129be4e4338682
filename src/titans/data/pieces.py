"""Text in pieces of words: a vocabulary learned from a text, byte-level BPE, in the file format of `tokenizers`.

    tokenizer = learn_pieces(texts, vocab_size=2048)
    tokenizer.save(run)                                  # tokenizer.json, beside the model that reads these tokens
    documents = encoded(documents, tokenizer_of(run))    # bytes where there is no tokenizer.json

`tokenizers` comes with transformers and is only imported when there is a vocabulary: `pip install 'titans[hf]'`.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from titans.data.batches import TokenDocument
from titans.data.tokenizer import ByteTokenizer, Tokenizer
from titans.errors import TitansError
from titans.files import reading, write_atomically

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_NAME = "tokenizer.json"
_log = logging.getLogger("titans")


class PieceTokenizer:
    """Text as pieces of words (a `Tokenizer`). Every byte is a piece too, so that nothing is unknown."""

    def __init__(self, library: "tokenizers.Tokenizer") -> None:
        """library: the tokenizer as `tokenizers` knows it."""
        self._library = library

    @property
    def vocab_size(self) -> int:
        return self._library.get_vocab_size()

    def encode(self, text: str) -> np.ndarray:
        """The pieces of `text` as int64 [T], nothing before and behind; typed bytes that are not UTF-8 are U+FFFD."""
        text = text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")
        return np.array(self._library.encode(text, add_special_tokens=False).ids, np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; bytes that are not UTF-8 become U+FFFD."""
        return self._library.decode([int(token) for token in tokens], skip_special_tokens=False)

    def characters(self, tokens: Iterable[int]) -> list[str]:
        """The text of each token by itself; one that ends within a character has U+FFFD there."""
        return [self.decode([token]) for token in tokens]

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json into `folder`, atomically."""
        write_atomically(Path(folder) / TOKENIZER_NAME, lambda temporary: self._library.save(str(temporary)))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The tokenizer whose tokenizer.json is in `folder`.

        Raises:
            TitansError: the file is missing or damaged, or tokenizers is not installed.
        """
        path = Path(folder) / TOKENIZER_NAME
        library = _library(f"{path} is read by it")
        with reading(path):
            text = path.read_text(encoding="utf-8")
            try:
                return cls(library.Tokenizer.from_str(text))
            except Exception as error:  # the library raises no class of its own
                raise ValueError(error) from error


def learn_pieces(texts: Iterable[str], vocab_size: int) -> PieceTokenizer:
    """A vocabulary of the 256 bytes and of what stands together most often in `texts`.

    Raises:
        TitansError: `texts` are too short for so many pieces, or tokenizers is not installed.
    """
    library = _library("a vocabulary of pieces is learned by it")
    _log.info("learning a vocabulary of %s pieces from the text", f"{vocab_size:,}")
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    found = library.Tokenizer(library.models.BPE())
    found.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    found.decoder = library.decoders.ByteLevel()  # pyright: ignore
    trainer = library.trainers.BpeTrainer(  # pyright: ignore
        vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False
    )
    found.train_from_iterator(texts, trainer)
    tokenizer = PieceTokenizer(found)
    if tokenizer.vocab_size != vocab_size:
        raise TitansError(
            f"the text has {tokenizer.vocab_size:,} different pieces and the model's vocabulary {vocab_size:,}: "
            "give more text"
        )
    return tokenizer


def tokenizer_of(folder: str | Path) -> Tokenizer:
    """What the model in `folder` reads: the pieces of its tokenizer.json, bytes where there is none.

    Raises:
        TitansError: the file is damaged, or tokenizers is not installed.
    """
    return PieceTokenizer.load(folder) if (Path(folder) / TOKENIZER_NAME).exists() else ByteTokenizer()


class Encoded:
    """A text in the tokens of some tokenizer, all of them at hand (a `TokenDocument`)."""

    def __init__(self, name: str, tokens: np.ndarray) -> None:
        """tokens: [T], of any integer type."""
        self.name, self._tokens = name, tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` [stop - start] int64."""
        return self._tokens[start:stop].astype(np.int64)


def text_of(document: TokenDocument) -> str:
    """The whole text of a document of bytes."""
    return ByteTokenizer().decode(document.tokens(0, len(document)))


def encoded(documents: Sequence[TokenDocument], tokenizer: Tokenizer) -> Sequence[TokenDocument]:
    """Documents of bytes in the tokens of `tokenizer`: read as a whole, 4 bytes in memory for each token."""
    if isinstance(tokenizer, ByteTokenizer):
        return documents
    _log.info("cutting %s bytes of text into pieces", f"{sum(map(len, documents)):,}")
    return [Encoded(document.name, tokenizer.encode(text_of(document)).astype(np.int32)) for document in documents]


def _library(why: str):
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ModuleNotFoundError as error:
        raise TitansError(f"tokenizers is not installed, and {why}: run pip install 'titans[hf]'") from error
    return tokenizers

"""What a tokenizer does, and the one that needs no vocabulary: a token is a byte of UTF-8 text."""

import codecs
from collections.abc import Iterable
from typing import Protocol

import numpy as np


class Tokenizer(Protocol):
    """Text to tokens and back."""

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> np.ndarray: ...

    def decode(self, tokens: Iterable[int]) -> str: ...

    def characters(self, tokens: Iterable[int]) -> list[str]: ...


class ByteTokenizer:
    """Text as its UTF-8 bytes: 256 tokens, nothing unknown, nothing to train."""

    vocab_size = 256

    def encode(self, text: str | bytes) -> np.ndarray:
        """The bytes of `text` as int64 [T]. Bytes pass unchanged, whether they are UTF-8 or not."""
        # surrogateescape: a command-line argument that is not UTF-8 keeps the bytes that the user typed.
        data = text.encode("utf-8", errors="surrogateescape") if isinstance(text, str) else text
        return np.frombuffer(data, dtype=np.uint8).astype(np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens in 0..255; bytes that are not UTF-8 become U+FFFD."""
        return bytes(int(token) for token in tokens).decode("utf-8", errors="replace")

    def characters(self, tokens: Iterable[int]) -> list[str]:
        """The text that each token completes: a character at its last byte, "" at those before."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        return [decoder.decode(bytes([int(token)])) for token in tokens]

import numpy as np
import pytest

from titans.data.tokenizer import ByteTokenizer


@pytest.mark.parametrize("text", ["", "plain", "Grüße, 世界 🌍\n"])
def test_any_text_comes_back(text: str) -> None:
    tokens = ByteTokenizer().encode(text)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == list(text.encode())
    assert ByteTokenizer().decode(tokens) == text


def test_all_bytes_are_tokens_and_broken_text_is_marked() -> None:
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(bytes(range(256)))
    assert tokens.tolist() == list(range(tokenizer.vocab_size))
    assert tokenizer.decode([0x41, 0xFF, 0x42]) == "A\ufffdB"


def test_an_argument_that_is_not_utf8_keeps_its_bytes() -> None:
    typed = b"caf\xe9".decode("utf-8", errors="surrogateescape")
    assert ByteTokenizer().encode(typed).tolist() == list(b"caf\xe9")


def test_a_character_stands_at_its_last_byte() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.characters(tokenizer.encode("aü世")) == ["a", "", "ü", "", "", "世"]
    assert tokenizer.characters([0xFF, 0x41]) == ["\ufffd", "A"]

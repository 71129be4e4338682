"""A vocabulary of pieces: any text comes back, equal texts give equal pieces, and files say what is wrong with them."""

import json
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from titans.data.pieces import TOKENIZER_NAME, Encoded, PieceTokenizer, encoded, learn_pieces, tokenizer_of
from titans.data.text import find_documents
from titans.data.tokenizer import ByteTokenizer
from titans.errors import TitansError

TEXTS = ["the stone and the river", "the river over the stone", "and the walker walks"]


@pytest.fixture
def pieces() -> PieceTokenizer:
    return learn_pieces(TEXTS, 270)


@pytest.mark.parametrize("text", ["", "the river", " the\n\triver ", "Grüße, 世界 🌍\n", "\x00\x7f"])
def test_any_text_comes_back(pieces, text):
    tokens = pieces.encode(text)
    assert tokens.dtype == np.int64
    assert pieces.decode(tokens) == text


def test_what_is_frequent_is_one_piece(pieces):
    assert pieces.vocab_size == 270
    assert len(pieces.encode(" the the the")) == 3
    assert len(pieces.encode("xyz")) == 3
    assert pieces.decode(pieces.encode("世")[:1]) == "\ufffd"


def test_equal_texts_give_equal_pieces(pieces):
    again = learn_pieces(TEXTS, 270)
    text = "the walker over the stone and the river"
    assert pieces.encode(text).tolist() == again.encode(text).tolist()


def test_a_tokenizer_that_begins_every_text_with_a_token_of_its_own_does_not_here():
    library = Tokenizer(WordLevel({"[BEGIN]": 0, "the": 1, "river": 2, "[?]": 3}, unk_token="[?]"))
    library.pre_tokenizer = Whitespace()  # pyright: ignore
    library.post_processor = TemplateProcessing(  # pyright: ignore
        single="[BEGIN] $A", special_tokens=[("[BEGIN]", 0)]
    )
    assert library.encode("the river").ids == [0, 1, 2]
    assert PieceTokenizer(library).encode("the river").tolist() == [1, 2]  # a needle is put together of several texts


def test_too_little_text():
    with pytest.raises(TitansError, match=r"the text has 2\d\d different pieces .* vocabulary 2,048: give more text"):
        learn_pieces(TEXTS, 2048)


def test_saved_and_loaded(pieces, tmp_path):
    assert isinstance(tokenizer_of(tmp_path), ByteTokenizer)
    pieces.save(tmp_path)
    found = tokenizer_of(tmp_path)
    assert isinstance(found, PieceTokenizer)
    assert found.encode(TEXTS[2]).tolist() == pieces.encode(TEXTS[2]).tolist()


@pytest.mark.parametrize("damage", [b"", b"{", json.dumps({"version": "1.0"}).encode(), b"\xff"])
def test_a_damaged_file(pieces, tmp_path, damage):
    (tmp_path / TOKENIZER_NAME).write_bytes(damage)
    with pytest.raises(TitansError, match=r"tokenizer.json is damaged, .*: copy or make it again"):
        PieceTokenizer.load(tmp_path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(TitansError, match=r"tokenizer.json does not exist: check the path"):
        PieceTokenizer.load(tmp_path)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TitansError, match=r"tokenizers is not installed.*pip install 'titans\[hf\]'"):
        learn_pieces(TEXTS, 270)


def test_documents_in_pieces(pieces, tmp_path):
    (tmp_path / "a.txt").write_text("the river\n" * 3)
    documents = find_documents(tmp_path / "a.txt")
    assert encoded(documents, ByteTokenizer()) is documents
    (found,) = encoded(documents, pieces)
    assert isinstance(found, Encoded)
    assert (found.name, pieces.decode(found.tokens(0, len(found)))) == (documents[0].name, "the river\n" * 3)
    assert found.tokens(1, 3).dtype == np.int64


def test_typed_bytes_that_are_no_text_are_read_as_such(pieces):
    assert np.array_equal(pieces.encode("the \udcff"), pieces.encode("the \ufffd"))

import gzip
import io
import os
import tracemalloc
from pathlib import Path

import pytest

from titans.data.text import (
    Document,
    find_documents,
    fingerprint,
    local_text,
    split_documents,
    standard_library_sources,
)
from titans.errors import TitansError


def read(documents: list[Document]) -> bytes:
    return b"".join(bytes(document.tokens(0, len(document)).tolist()) for document in documents)


def test_a_file_is_cut_between_characters_and_nothing_is_lost(tmp_path: Path) -> None:
    text = ("aé世🌍" * 50).encode()
    (tmp_path / "a.txt").write_bytes(text)
    documents = find_documents(tmp_path / "a.txt", max_document_bytes=7)
    assert read(documents) == text
    assert all(0 < len(document) <= 7 for document in documents)
    for document in documents:
        bytes(document.tokens(0, len(document)).tolist()).decode()


def test_windows_may_begin_and_end_inside_a_character(tmp_path: Path) -> None:
    text = "aé世🌍".encode()
    (tmp_path / "a.txt").write_bytes(text)
    (document,) = find_documents(tmp_path / "a.txt")
    for start in range(len(text)):
        for stop in range(start + 1, len(text) + 1):
            assert document.tokens(start, stop).tolist() == list(text[start:stop])


def test_a_folder_gives_its_visible_text_in_order(tmp_path: Path) -> None:
    files = {
        "b.txt": b"second",
        "a/x.md": b"first in a",
        "a/empty.txt": b"",
        "a/.hidden": b"no",
        ".git/config": b"no",
        "photo.jpg": b"\xff\xd8\x00\x01",
        "z.py": b"last",
    }
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    os.mkfifo(tmp_path / "pipe")
    documents = find_documents(tmp_path)
    assert [document.name for document in documents] == ["b.txt", "z.py", "a/x.md"]
    assert read(documents) == b"secondlastfirst in a"


def test_gz_and_standard_input_become_a_file_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    with gzip.open(tmp_path / "a.txt.gz", "wb") as file:
        file.write(b"zipped text")
    unzipped = local_text(tmp_path / "a.txt.gz", spool=run)
    assert unzipped.parent == run
    assert unzipped.read_bytes() == b"zipped text"

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"typed text")))
    assert local_text("-", spool=run).read_bytes() == b"typed text"
    # On resume standard input is gone; the copy stays.
    assert local_text("-", spool=run, reuse=True).read_bytes() == b"typed text"
    assert os.listdir(run) == ["text.txt"]


def test_a_plain_file_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    assert local_text(tmp_path / "a.txt", spool=tmp_path / "run") == tmp_path / "a.txt"
    assert not (tmp_path / "run").exists()


def broken_gz(path: Path) -> None:
    path.write_bytes(gzip.compress(os.urandom(5000))[:-1000])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("missing.txt", lambda path: None, "does not exist"),
        ("empty.txt", lambda path: path.write_bytes(b""), "is empty"),
        ("binary.txt", lambda path: path.write_bytes(b"ab\0cd"), "NUL byte at offset 2"),
        ("latin.txt", lambda path: path.write_bytes(b"caf\xe9 noir"), "not UTF-8 at offset 3.*iconv -f WINDOWS-1252"),
        ("cut.txt", lambda path: path.write_bytes("é".encode()[:1]), "not UTF-8 at offset 0"),
        ("folder", lambda path: path.mkdir(), "holds no text"),
        ("broken.gz", broken_gz, "not a whole gzip file"),
        ("plain.gz", lambda path: path.write_bytes(b"not zipped"), "not a whole gzip file"),
    ],
)
def test_what_is_not_text_is_one_clear_line(tmp_path: Path, name: str, make, message: str) -> None:
    make(tmp_path / name)
    with pytest.raises(TitansError, match=message) as caught:
        find_documents(local_text(tmp_path / name, spool=tmp_path / "run"))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "text.txt").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(TitansError, match=r"cannot read .*a\.txt: Permission denied"):
        find_documents(tmp_path)


def test_bad_bytes_beyond_the_first_mebibyte_are_found_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "late.txt"
    path.write_bytes(b"x" * (1 << 20) + b"caf\xe9 noir \0")
    (document,) = find_documents(path)
    document.tokens(0, 1 << 20)
    with pytest.raises(TitansError, match=f"not UTF-8 at offset {(1 << 20) + 3}"):
        document.tokens((1 << 20) - 10, (1 << 20) + 8)
    with pytest.raises(TitansError, match="NUL byte"):
        document.tokens((1 << 20) + 5, len(document))


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"long enough")
    (document,) = find_documents(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"long")
    with pytest.raises(TitansError, match="became shorter"):
        document.tokens(0, len(document))


def test_a_large_file_is_indexed_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        file.write(b"x" * (1 << 20))
        file.truncate(8 << 30)
    tracemalloc.start()
    documents = find_documents(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(documents) == 2048
    assert peak < 8 << 20


def test_files_are_split_as_a_whole_and_the_same_way_every_time(tmp_path: Path) -> None:
    for i in range(60):
        (tmp_path / f"{i}.txt").write_bytes(b"some text" * 3)
    documents = find_documents(tmp_path, max_document_bytes=10)
    train, held_out = split_documents(documents, seed=1)
    assert sorted(train + held_out, key=documents.index) == documents
    assert not {d.name for d in train} & {d.name for d in held_out}
    assert 1 <= len({d.name for d in held_out}) <= 15
    assert split_documents(documents, seed=1) == (train, held_out)
    assert split_documents(documents, seed=2) != (train, held_out)

    (tmp_path / "new.txt").write_bytes(b"more text")
    more_train, more_held_out = split_documents(find_documents(tmp_path, max_document_bytes=10), seed=1)
    assert set(train) <= set(more_train)
    assert set(held_out) <= set(more_held_out)


@pytest.mark.parametrize("seed", range(5))
def test_two_files_give_one_to_each_side(tmp_path: Path, seed: int) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(b"text")
    train, held_out = split_documents(find_documents(tmp_path), seed=seed)
    assert len(train) == len(held_out) == 1


@pytest.mark.parametrize("seed", range(40))
def test_what_is_held_out_of_a_few_files_is_near_a_tenth(tmp_path: Path, seed: int) -> None:
    for name, size in {"bible": 4100, "novel": 3300, "another": 3300, "short": 1250, "readme": 1}.items():
        (tmp_path / name).write_text("x" * size)
    _, held_out = split_documents(find_documents(tmp_path, max_document_bytes=1000), seed=seed)
    assert 1250 <= sum(map(len, held_out)) <= 1251


@pytest.mark.parametrize("max_document_bytes", [16, 1 << 20])
def test_the_end_of_a_single_file_is_held_out(tmp_path: Path, max_document_bytes: int) -> None:
    text = "0123456789é" * 10
    (tmp_path / "a.txt").write_text(text)
    train, held_out = split_documents(find_documents(tmp_path / "a.txt", max_document_bytes=max_document_bytes))
    assert read(train) + read(held_out) == text.encode()
    assert 12 <= len(read(held_out)) <= 13
    assert min(map(len, train + held_out)) > 0


def test_a_single_byte_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(TitansError, match="too few"):
        split_documents(find_documents(tmp_path / "a.txt"))


def test_what_leaves_nothing_to_predict_cannot_be_split(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(TitansError, match="the text has 2 bytes, too few"):
        split_documents(find_documents(tmp_path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "standard input is empty"),
        (b"a\0", "standard input is not text"),
        (b"\xff", "standard input is not UTF-8"),
    ],
)
def test_standard_input_is_checked_before_it_becomes_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, message: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(TitansError, match=message):
        local_text("-", spool=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_letter_in_the_middle_changes_the_fingerprint(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("a" * 30_000)
    before = fingerprint(find_documents(book, max_document_bytes=20_000))
    assert fingerprint(find_documents(book, max_document_bytes=20_000)) == before
    book.write_text("a" * 10_000 + "b" + "a" * 19_999)
    assert fingerprint(find_documents(book, max_document_bytes=20_000)) != before


def test_another_name_is_another_fingerprint(tmp_path: Path) -> None:
    found = set()
    for name in ("one.txt", "other.txt"):
        (tmp_path / name).write_text("the same")
        found.add(fingerprint(find_documents(tmp_path / name)))
    assert len(found) == 2


def test_folders_are_read_in_order(tmp_path: Path) -> None:
    for number in (7, 3, 9, 1, 5, 8, 2, 6, 4):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "text.txt").write_text(f"{number}")
    assert read(find_documents(tmp_path)) == b"123456789"


def test_an_empty_name_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(TitansError, match="the name of the text is empty"):
        local_text("", spool=tmp_path)


def test_the_standard_library_is_there_without_its_tests() -> None:
    documents = standard_library_sources()
    names = {document.name for document in documents}
    assert {"json/decoder.py", "argparse.py"} <= names
    assert all(name.endswith(".py") for name in names)
    assert not any({"test", "tests", "site-packages", "idlelib"} & set(name.split("/")) for name in names)
    assert sum(map(len, documents)) > 5_000_000


def test_a_part_of_the_standard_library_is_of_many_files_and_always_the_same() -> None:
    drawn = standard_library_sources(most=1_000_000)
    assert 900_000 < sum(map(len, drawn)) <= 1_000_000
    assert max(map(len, drawn)) <= 50_000
    assert len({document.name[0] for document in drawn}) > 10  # not the first ones of the alphabet
    assert drawn == standard_library_sources(most=1_000_000)

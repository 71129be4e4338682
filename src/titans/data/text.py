"""Text as documents: pieces of files that are read a window at a time, however large the files are.

    path = local_text("corpus.txt.gz", spool=run_folder)     # gz and standard input become a plain file
    train, held_out = split_documents(find_documents(path))

Finding documents reads the first MiB of every file and nothing else; memory grows with the number of documents only.
"""

import gzip
import hashlib
import os
import sys
import sysconfig
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np

from titans.data.tokenizer import ByteTokenizer
from titans.errors import TitansError
from titans.files import write_atomically

MAX_DOCUMENT_BYTES = 4 << 20
SPOOLED_NAME = "text.txt"
_CHECKED_BYTES = 1 << 20
_TOKENIZER = ByteTokenizer()


@dataclass(frozen=True)
class Document:
    """Bytes `start` to `stop` of a UTF-8 file, cut between characters; `name` is its path inside the corpus."""

    path: Path
    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Bytes `start` to `stop` of the document as int64 [stop - start], checked to be text; errors as in `read`."""
        return _TOKENIZER.encode(self.read(start, stop))

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of the document, checked to be text.

        Raises:
            TitansError: the file cannot be read, has changed, or is not UTF-8 text here.
        """
        data = _read(self.path, self.start + start, stop - start)
        if len(data) < stop - start:
            raise TitansError(f"{self.path} became shorter while it was being read: leave it in place during a run")
        at_end = stop == len(self)
        check_text(self.path, self.start + start, data, starts_inside=start > 0, stops_inside=not at_end)
        return data


def check_text(path: str | Path, offset: int, data: bytes, *, starts_inside: bool, stops_inside: bool) -> None:
    """Refuses `data`, the bytes of `path` from `offset` on, unless it is UTF-8 text without NUL bytes.

    With `starts_inside` or `stops_inside` the slice may begin or end in the middle of a character.

    Raises:
        TitansError: naming the file, the offset and the remedy.
    """
    nul = data.find(b"\0")
    if nul >= 0:
        raise TitansError(
            f"{path} is not text (a NUL byte at offset {offset + nul}): give UTF-8 text, a folder of it or a .gz"
        )
    skipped = 0
    while starts_inside and skipped < min(3, len(data)) and _is_continuation(data[skipped]):
        skipped += 1
    try:
        data[skipped:].decode("utf-8")
    except UnicodeDecodeError as error:
        if stops_inside and error.reason == "unexpected end of data":
            return
        raise TitansError(  # not as Latin-1, which takes every byte and makes control characters of apostrophes
            f"{path} is not UTF-8 at offset {offset + skipped + error.start}: "
            f"convert it first, for example with iconv -f WINDOWS-1252 -t UTF-8"
        ) from error


def local_text(source: str | Path, *, spool: Path, reuse: bool = False) -> Path:
    """The plain file or folder that holds the text of `source`.

    A file or folder is returned as it is. A `.gz` file, a pipe and standard input ("-") are written to
    `spool/text.txt`, a block at a time; `reuse` keeps the one that an earlier call wrote, wherever it came from.

    Raises:
        TitansError: `source` is missing, unreadable, empty, not text or a damaged gz, or the disk is full.
    """
    path = Path(source)
    from_stdin = str(source) == "-"
    if not str(source):
        raise TitansError("the name of the text is empty: give a text file, a folder, a .gz or - for standard input")
    if not from_stdin and (path.is_dir() or (path.is_file() and path.suffix != ".gz")):
        return path
    spooled = spool / SPOOLED_NAME
    if reuse and spooled.exists():
        return spooled
    if not from_stdin and not path.exists():
        raise TitansError(f"{path} does not exist: give a text file, a folder, a .gz or - for standard input")
    write_atomically(spooled, lambda temporary: _spool(source, temporary))
    return spooled


def find_documents(path: Path, *, max_document_bytes: int = MAX_DOCUMENT_BYTES) -> list[Document]:
    """The documents of a text file, or of a folder and its subfolders in sorted order.

    In a folder hidden, binary (a NUL byte in the first MiB) and empty files are skipped. A file longer than
    `max_document_bytes` is cut into several documents.

    Raises:
        TitansError: missing, unreadable, empty, binary or not UTF-8, or a folder without any text.
    """
    if not path.exists():
        raise TitansError(f"{path} does not exist: give a text file or a folder")
    if not path.is_dir():
        head = _read(path, 0, _CHECKED_BYTES)
        _refuse_empty(path, head)
        return list(_cut(path, path.name, head, max_document_bytes))
    documents = _documents_of(path, _visible_files(path), max_document_bytes)
    if not documents:
        raise TitansError(f"{path} holds no text: every file in it is hidden, binary or empty")
    return documents


def fingerprint(documents: Iterable[Document]) -> str:
    """A hash of their names and of all that is in them: another text has another one.

    Raises:
        TitansError: one of them cannot be read, has changed or is not text, wherever in it.
    """
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{document.name}/{document.start}/{document.stop}\n".encode(errors="surrogateescape"))
        digest.update(document.read(0, len(document)))
    return digest.hexdigest()


def standard_library_sources(
    *, max_document_bytes: int = MAX_DOCUMENT_BYTES, most: int | None = None
) -> list[Document]:
    """The Python standard library's own source files: real text that every machine with Python has.

    Args:
        most: bytes, of files as they come by a hash of their names, none of them more than a twentieth; None: all.
    """
    root = Path(sysconfig.get_path("stdlib"))
    left_out = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"})
    files = (file for file in _visible_files(root, left_out) if file.suffix == ".py")
    documents = _documents_of(root, files, max_document_bytes)
    if not documents:
        raise TitansError(f"{root} holds no Python sources: name a text of your own")
    if most is None:
        return documents
    drawn = sorted((one for one in documents if 20 * len(one) <= most), key=lambda one: _fraction(one.name))
    sizes = accumulate(map(len, drawn))
    return [document for document, size in zip(drawn, sizes, strict=True) if size <= most]


def split_documents(
    documents: Sequence[Document], *, held_out: float = 0.1, seed: int = 0
) -> tuple[list[Document], list[Document]]:
    """Splits documents into train and held-out, the same way every time.

    Several files: each goes to one side as a whole, by a hash of its name and `seed`, so that further files seldom
    move it, and either side gets at least one. None is held out by chance that is more than twice `held_out` of the
    text; where chance leaves less than half of that part, so is the one whose size comes nearest to it. One file: its
    last `held_out` part, in bytes.

    Raises:
        TitansError: there is too little text for either side to have anything to predict.
    """
    sides = _split(documents, held_out, seed)
    if any(max(map(len, side), default=0) < 2 for side in sides):
        size = sum(map(len, documents))
        raise TitansError(f"the text has {size} bytes, too few to hold some out and predict them: give a longer text")
    return sides


def _split(documents: Sequence[Document], held_out: float, seed: int) -> tuple[list[Document], list[Document]]:
    sizes = Counter[str]()
    for document in documents:
        sizes[document.name] += len(document)
    if len(sizes) == 1:
        return _split_by_position(documents, held_out)
    ranks = {name: _fraction(f"{seed}/{name}") for name in sizes}
    share = held_out * sizes.total()
    chosen = {name for name, size in sizes.items() if ranks[name] < held_out and size <= 2 * share}
    if sum(sizes[name] for name in chosen) < share / 2:
        chosen.add(min(sizes.keys() - chosen, key=lambda name: (abs(sizes[name] - share), ranks[name])))
    if len(chosen) == len(sizes):
        chosen.remove(max(sizes, key=ranks.__getitem__))
    train = [document for document in documents if document.name not in chosen]
    return train, [document for document in documents if document.name in chosen]


def _split_by_position(documents: Sequence[Document], held_out: float) -> tuple[list[Document], list[Document]]:
    begin, end = documents[0].start, documents[-1].stop
    border = _character_start(documents[0].path, begin + int((end - begin) * (1 - held_out)))
    train = [replace(piece, stop=min(piece.stop, border)) for piece in documents if piece.start < border]
    return train, [replace(piece, start=max(piece.start, border)) for piece in documents if piece.stop > border]


def _documents_of(root: Path, files: Iterator[Path], max_document_bytes: int) -> list[Document]:
    documents: list[Document] = []
    for file in files:
        head = _read(file, 0, _CHECKED_BYTES)
        if b"\0" not in head:
            documents.extend(_cut(file, file.relative_to(root).as_posix(), head, max_document_bytes))
    return documents


def _visible_files(root: Path, left_out: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Regular files under `root`, sorted, without hidden ones and without folders named in `left_out`."""

    def refuse(error: OSError) -> None:
        raise TitansError(f"cannot read {error.filename}: {error.strerror}; check its permissions")

    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name not in left_out)
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and file.is_file():
                yield file


def _cut(path: Path, name: str, head: bytes, max_document_bytes: int) -> Iterator[Document]:
    """The documents of one file; `head` is its beginning, which is checked to be text."""
    if max_document_bytes < 4:
        raise ValueError(f"max_document_bytes is {max_document_bytes}; it must be at least 4, a character's length")
    size = path.stat().st_size
    check_text(path, 0, head, starts_inside=False, stops_inside=size > len(head))
    start = 0
    while start < size:
        stop = size if size - start <= max_document_bytes else _character_start(path, start + max_document_bytes)
        yield Document(path, name, start, stop)
        start = stop


def _character_start(path: Path, offset: int) -> int:
    """The last position at or before `offset` that is not inside a UTF-8 character."""
    following = _read(path, offset, 1)
    before = _read(path, max(0, offset - 3), min(3, offset))
    steps = 0
    while following and _is_continuation(following[0]) and steps < len(before):
        steps += 1
        following = before[-steps:]
    return offset - steps


def _is_continuation(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def _fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", errors="surrogateescape")).digest()[:8]) / 2**64


def _read(path: Path, start: int, count: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(count) or b""
    except OSError as error:
        raise TitansError(f"cannot read {path}: {error.strerror}; check that it exists and may be read") from error


def _refuse_empty(name: str | Path, head: bytes) -> None:
    if not head:
        raise TitansError(f"{name} is empty: give a file with text in it")


def _spool(source: str | Path, temporary: Path) -> None:
    """Writes the unpacked text of `source` to a file, a block at a time."""
    with temporary.open("wb") as target:
        if str(source) == "-":
            _copy_text(sys.stdin.buffer.read1, target, "standard input")  # pyright: ignore[reportAttributeAccessIssue]
            return
        try:
            stream = open(source, "rb")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise TitansError(f"cannot read {source}: {error.strerror}; check its permissions") from error
        with stream:
            try:
                zipped = Path(source).suffix == ".gz"
                # Of a damaged gz a whole block is unpacked first, so that it is not taken for a text of odd bytes.
                _copy_text(gzip.GzipFile(fileobj=stream).read if zipped else stream.read1, target, source)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise TitansError(f"{source} is not a whole gzip file ({error}): copy or compress it again") from error


def _copy_text(read: Callable[[int], bytes], target: BinaryIO, name: str | Path) -> None:
    """Copies all bytes, and refuses them at the first block that is not text."""
    copied = 0
    while block := read(_CHECKED_BYTES):
        check_text(name, copied, block, starts_inside=copied > 0, stops_inside=True)
        target.write(block)
        copied += len(block)
    if not copied:
        _refuse_empty(name, b"")

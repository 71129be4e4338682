"""A folder of texts with everything in it, to train `needles` on: one's own, and beside them Python's sources.

A memory writes where a text has what its training text had not; sources have digits, brackets, colons and quotation
marks everywhere, and nothing to find at most of them (docs/lab-log.md, "a text with everything in it").

    python benchmarks/training_texts.py books --out texts
    titans train --recipe needles --variant mal --text texts --out runs/mal
"""

import argparse
import random
import shutil
import sysconfig
from itertools import accumulate
from pathlib import Path

SMALLEST, LARGEST = 5_000, 120_000  # bytes of a source file


def sources(root: Path, size: int) -> list[Path]:
    """Files of Python's sources under `root`, drawn until they have `size` bytes; the same ones every time."""
    files = sorted(
        file
        for file in root.rglob("*.py")
        if SMALLEST <= file.stat().st_size <= LARGEST
        and "site-packages" not in str(file)
        and "test" not in file.relative_to(root).as_posix()
    )
    random.Random(0).shuffle(files)
    before = accumulate((file.stat().st_size for file in files), initial=0)
    return [file for file, drawn in zip(files, before, strict=False) if drawn < size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="folder of text files")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--size", type=int, default=2_000_000, help="bytes of sources (default: 2,000,000)")
    options = parser.parse_args()
    if not options.texts.is_dir():
        parser.error(f"{options.texts} is no folder")
    if options.out.exists():
        parser.error(f"{options.out} already exists: name another folder by --out")
    shutil.copytree(options.texts, options.out)
    root = Path(sysconfig.get_path("stdlib"))
    beside = options.out / "python"
    beside.mkdir()
    for file in sources(root, options.size):
        shutil.copyfile(file, beside / "_".join(file.relative_to(root).parts))
    own, drawn = (
        sum(one.stat().st_size for one in files if one.is_file())
        for files in (options.texts.rglob("*"), beside.iterdir())
    )
    print(f"{options.out}: {own:,} bytes of {options.texts}, {drawn:,} of Python's sources")


if __name__ == "__main__":
    main()

"""Folders that long work is to fill: asked before torch is imported, and again once they are locked."""

from pathlib import Path

from titans.errors import TitansError


def require_empty(folder: Path) -> None:
    """TitansError if there is anything in it, or it is no folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TitansError(f"{folder} already exists; name another folder with --out, or remove it")

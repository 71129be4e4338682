"""Models from folders, whichever they are."""

from pathlib import Path

from titans.baselines.model import BaselineLM
from titans.errors import TitansError
from titans.files import read_json
from titans.models.language_model import TitansLM
from titans.training.checkpoint import find_checkpoint


def load_model(folder: str | Path) -> TitansLM | BaselineLM:
    """The model in `folder`, which is a run or the folder of a saved model.

    Raises:
        TitansError: there is none, it is neither a `TitansLM` nor a `BaselineLM`, a file is damaged, or it is a
            `BaselineLM` and transformers is not installed.
    """
    folder = find_checkpoint(folder)
    config = read_json(folder / "config.json")
    if "variant" in config:
        return TitansLM.load(folder)
    if "name" in config:
        return BaselineLM.load(folder)
    raise TitansError(f"{folder / 'config.json'} is neither that of a Titans model nor of a baseline: name another")

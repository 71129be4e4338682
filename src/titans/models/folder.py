"""A model in a folder: config.json says what it is, model.safetensors holds its weights."""

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from titans.configuration import Configuration
from titans.errors import TitansError
from titans.files import load_tensors, read_json, save_tensors, spoilt, write_json

Model = TypeVar("Model", bound=nn.Module)


def write_model(folder: str | Path, config: Configuration, weights: dict[str, Tensor]) -> None:
    """Writes config.json and model.safetensors into `folder`, each atomically."""
    folder = Path(folder)
    save_tensors(folder / "model.safetensors", "model", weights, config.to_dict())
    write_json(folder / "config.json", config.to_dict())


def read_model(folder: str | Path, kind: type[Model], config_type: type[Configuration]) -> Model:
    """Builds what `write_model` wrote: a model `kind(config)` with its weights, in their precision.

    Raises:
        TitansError: a file is missing, damaged, of another kind, or does not fit the configuration.
    """
    folder = Path(folder)
    path, weights = folder / "config.json", folder / "model.safetensors"
    config = config_type.from_dict(read_json(path), path)
    tensors, header = load_tensors(weights, "model")
    # Compared before the model is built: a damaged number could ask for more memory than there is.
    if config_type.from_dict(header, weights) != config:
        raise TitansError(f"{weights} does not fit {path}, which is not the one it was saved with: restore it")
    model = kind(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise TitansError(f"{weights} does not fit {path}: copy or make them again")
    if (broken := spoilt(tensors)) is not None:
        raise TitansError(f"{weights} holds NaN or infinite values in {broken}: take an earlier checkpoint")
    name, _ = next(model.named_parameters())
    if (dtype := tensors[name].dtype) != torch.float32:
        model = model.to(dtype)
    model.load_state_dict(tensors)
    return model

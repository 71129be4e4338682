"""AdamW with weight decay on matrices only, and its moments as named tensors."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torch.optim import AdamW

from titans.errors import TitansError
from titans.training.config import TrainConfig
from titans.training.model import StatefulModel

_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}


def make_optimizer(model: StatefulModel, config: TrainConfig) -> AdamW:
    """AdamW over the trained parameters; norms, biases (those of gates too) and other vectors do not decay."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for name, p in trained if decays(name, p)], "weight_decay": config.weight_decay},
        {"params": [p for name, p in trained if not decays(name, p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices, and not to a norm, a bias or Mamba's decay rates of any shape."""
    return parameter.ndim >= 2 and not name.endswith(("bias", "A_log")) and "norm" not in name


def moments(model: StatefulModel, optimizer: AdamW) -> dict[str, Tensor]:
    """The optimiser's tensors under "parameter name/step", "/exp_avg" and "/exp_avg_sq"."""
    return {
        f"{name}/{kind}": tensor
        for name, parameter in model.named_parameters()
        for kind, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_moments(path: Path, model: StatefulModel, optimizer: AdamW, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `moments` gave.

    Args:
        path: the file that they are from, for the messages.

    Raises:
        TitansError: a tensor of another model, or one is missing.
    """
    parameters = dict(model.named_parameters())
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or (kind != "step" and parameter.shape != tensor.shape):
            raise TitansError(f"{path} is of another model: {key} does not fit; copy the checkpoint again, as a whole")
        optimizer.state[parameter][kind] = tensor.to(parameter.device)
    for name, parameter in parameters.items():
        missing = _MOMENTS - optimizer.state.get(parameter, {}).keys()
        if parameter.requires_grad and len(missing) < len(_MOMENTS) and missing:
            raise TitansError(f"{path} is incomplete: it has no {name}/{min(missing)}; copy it again")

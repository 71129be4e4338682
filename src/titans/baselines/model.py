"""BaselineLM: another model with the interface of `TitansLM`."""

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from titans.baselines.config import BaselineConfig
from titans.baselines.state import BaselineState
from titans.errors import TitansError
from titans.models.arguments import check_kept, check_labels, check_state, check_tokens
from titans.models.folder import read_model, write_model
from titans.models.loss import weighted_cross_entropy


class BaselineLM(nn.Module):
    """A language model of transformers with a tied head (a `StatefulModel`).

    Example:
        >>> model = BaselineLM(BaselineConfig(name="mamba2"))
        >>> logits, state = model(tokens)               # [B, T] int64 -> [B, T, vocab_size]
        >>> logits, state = model(more_tokens, state)   # continues; any split equals one call

    The rows of a batch begin together: a document that begins in the middle of a call, or in some rows only, is
    refused, as transformers' models cannot forget there. Mamba continues token by token, which is slow; all others
    continue as fast as they begin.

    Raises:
        TitansError: transformers is not installed.
    """

    state_type = BaselineState

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config
        try:
            from titans.baselines.backbone import Backbone
        except ModuleNotFoundError as error:
            if error.name != "transformers":
                raise
            raise TitansError(f"{config.name} is a model of transformers: run pip install 'titans[hf]'") from error
        self.backbone = Backbone(config)

    def forward(
        self,
        tokens: Tensor,
        state: BaselineState | None = None,
        reset: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> tuple[Tensor, BaselineState]:
        """Reads tokens and predicts the next one at every position.

        Args:
            tokens: [B, T] int64.
            state: what an earlier call returned, which stays as it is; None begins a document in every row.
            reset: [B, T], 1 where a new document begins: nowhere, or at the first token of every row.
            logits_to_keep: predict at that many last positions only; 0 for all.

        Returns:
            logits [B, T, vocab_size], of the last positions if so wanted, and the state after the last token.

        Raises:
            ValueError: tokens, reset or state have the wrong shape or dtype, a token id is out of range, or a document
                begins where it cannot.
        """
        check_tokens(tokens, self.config.vocab_size, reset=reset)
        check_kept(logits_to_keep)
        if state is not None:
            check_state(tokens, state, BaselineState, self.config)
        if reset is not None and _begins(reset):
            state = None
        outputs, after = self.backbone(tokens, state)
        weight = self.backbone.embedding
        return F.linear(outputs[:, -logits_to_keep:].to(weight.dtype), weight), after

    def loss(
        self,
        tokens: Tensor,
        labels: Tensor,
        state: BaselineState | None = None,
        reset: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, BaselineState]:
        """Mean cross-entropy in nats over labels [B, T] int64 that are not -100, and the state; see `forward`.

        Without any label it is 0.

        weights: [B, T], how much each label counts in the mean; None for all the same.
        """
        check_labels(tokens, labels, weights, self.config.vocab_size)
        logits, after = self(tokens, state, reset)
        return weighted_cross_entropy(logits, labels, weights), after

    @property
    def num_parameters(self) -> int:
        """Trainable parameters, the tied head counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors into `folder`, each atomically."""
        write_model(folder, self.config, self.state_dict())

    @classmethod
    def load(cls, folder: str | Path) -> "BaselineLM":
        """Reads what `save` wrote.

        Raises:
            TitansError: a file is missing, damaged, of another kind, or does not fit the configuration; or
                transformers is not installed.
        """
        return read_model(folder, cls, BaselineConfig)


def _begins(reset: Tensor) -> bool:
    """Whether every row [B, T] begins a document with its first token; ValueError if only some do, or a later one."""
    reset = reset.bool()
    if not reset.any():
        return False
    if reset[:, 1:].any() or not reset[:, 0].all():
        raise ValueError(
            "reset marks a document that begins in the middle of a call or in some rows only, where a model of "
            "transformers cannot forget the one before: let all rows begin at the first token of a call"
        )
    return True

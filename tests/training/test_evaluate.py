import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from titans.data.batches import IGNORED, DocumentBatches
from titans.errors import TitansError
from titans.training.evaluate import DISTANCES, evaluate


def test_it_is_the_mean_loss_over_whole_documents(small_model, batches) -> None:
    model = small_model()
    evaluation = evaluate(model, batches(epochs=1))

    model.eval()
    nats, count = 0.0, 0
    for document in batches()._documents:
        tokens = torch.from_numpy(document.tokens(0, len(document)))[None]
        logits, _ = model(tokens)
        nats += functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="sum").item()
        count += len(document) - 1
    assert evaluation.tokens == count
    assert evaluation.loss == pytest.approx(nats / count, rel=1e-5)
    assert evaluation.bits_per_token == pytest.approx(nats / count / math.log(2), rel=1e-5)
    assert sum(bucket.tokens for bucket in evaluation.by_distance) == count


class KnowsDistance(nn.Module):
    """Predicts zeros with a loss of as many nats as tokens of the document lie before: a GRU of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: Tensor, *, state: Tensor | None = None, reset: Tensor | None = None):
        assert reset is not None
        count = torch.zeros(len(tokens)) if state is None else state
        losses = []
        for t in range(tokens.shape[1]):
            count = torch.where(reset[:, t], 0, count) + 1
            losses.append(count)
        wanted = torch.stack(losses, dim=1)
        # Of two classes the first has probability exp(-wanted).
        return torch.stack([-wanted, torch.log(-torch.expm1(-wanted))], dim=-1), count


class Zeros:
    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def tokens(self, start: int, stop: int):
        return torch.zeros(stop - start, dtype=torch.int64).numpy()


def test_every_prediction_is_filed_under_its_own_distance() -> None:
    sizes = [300, 5, 70, 1100, 2]
    source = DocumentBatches([Zeros(str(i), size) for i, size in enumerate(sizes)], 2, 48, epochs=1)
    evaluation = evaluate(KnowsDistance(), source)  # pyright: ignore[reportArgumentType]
    distances = [d for size in sizes for d in range(1, size)]
    for bucket in evaluation.by_distance:
        inside = [d for d in distances if bucket.start <= d < (bucket.stop or math.inf)]
        assert bucket.tokens == len(inside)
        assert bucket.bits_per_token * math.log(2) == pytest.approx(sum(inside) / len(inside), rel=1e-5)
    assert [bucket.label for bucket in evaluation.by_distance] == ["0-64", "64-256", "256-1k", "1k-2k"]
    assert DISTANCES[-1] == 16384


def test_it_stops_at_max_tokens_and_leaves_the_model_as_it_was(small_model, batches) -> None:
    model = small_model()
    model.train()
    evaluation = evaluate(model, batches(), max_tokens=20)
    assert evaluation.tokens == 20
    assert evaluation.loss != evaluate(model, batches(), max_tokens=21).loss
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_to_predict_is_one_clear_line(small_model) -> None:
    with pytest.raises(TitansError, match="nothing to predict"):
        evaluate(small_model(), DocumentBatches([Zeros("a", 1)], 1, 4, epochs=1))


def test_ignored_labels_are_the_loss_functions_default() -> None:
    assert functional.cross_entropy(torch.randn(2, 3), torch.tensor([IGNORED, 1])).isfinite()

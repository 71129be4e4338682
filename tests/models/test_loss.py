"""The mean is over the labels that count, as much as they count."""

import pytest
import torch

from titans.models.loss import IGNORED, weighted_cross_entropy


def test_it_is_the_weighted_mean_over_labels_that_count():
    logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    labels[0, :3] = IGNORED
    weights = torch.rand(2, 5)
    nats = [
        (-logits[row, t].log_softmax(0)[labels[row, t]] * weights[row, t], weights[row, t])
        for row in range(2)
        for t in range(5)
        if labels[row, t] != IGNORED
    ]
    expected = sum(loss for loss, _ in nats) / sum(weight for _, weight in nats)
    torch.testing.assert_close(weighted_cross_entropy(logits, labels, weights), expected)


def test_without_weights_all_labels_count_the_same():
    logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    same = weighted_cross_entropy(logits, labels, torch.full((2, 5), 0.3))
    torch.testing.assert_close(weighted_cross_entropy(logits, labels), same)


def test_nothing_to_learn_is_a_loss_of_zero_with_gradients():
    logits = torch.randn(1, 3, 7, requires_grad=True)
    loss = weighted_cross_entropy(logits, torch.full((1, 3), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single_precision(dtype):
    logits, labels = torch.randn(1, 70_000, 7).to(dtype), torch.randint(0, 7, (1, 70_000))  # more than float16 counts
    assert torch.equal(weighted_cross_entropy(logits, labels), weighted_cross_entropy(logits.float(), labels))

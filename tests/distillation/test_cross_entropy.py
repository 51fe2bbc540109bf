"""The loss on labels is PyTorch's, or timm's for classes as yes-or-no questions."""

import pytest
import torch
from torch.testing import assert_close

from tekapctl.data.batch import Batch
from tekapctl.distillation.objective import cross_entropy

timm_loss = pytest.importorskip("timm.loss")


def batch(targets: torch.Tensor | None = None) -> Batch:
    index = torch.arange(6)
    return Batch(torch.zeros(6, 1, 8, 8), index % 4, index, index, index, 0, targets=targets)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_timms(smoothing):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    published = timm_loss.BinaryCrossEntropy(smoothing)(logits, batch().labels)
    assert_close(cross_entropy(logits, batch(), smoothing, binary=True), published)


def test_both_classes_of_a_mixed_image_are_answers_if_their_shares_are_large_enough():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(4)[batch().labels].lerp(torch.eye(4)[(batch().labels + 1) % 4], 0.3)
    targets[3] = torch.tensor([0.0, 0.0, 0.15, 0.85])
    published = timm_loss.BinaryCrossEntropy(0.0, target_threshold=0.2)(logits, targets)
    assert_close(cross_entropy(logits, batch(targets), 0.0, binary=True), published)

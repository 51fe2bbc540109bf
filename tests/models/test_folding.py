"""A folded network says what the network says."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tekapctl import models
from tekapctl.models.fusing import fold


def trained(name: str) -> models.Network:
    """A network whose batch norms have seen something."""
    torch.manual_seed(0)
    network = models.build(name, 10, 3).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return network


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", ["resnet20", "resnet8x4", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet50"])
def test_all_batch_norms_behind_convolutions_are_folded_and_nothing_changes(name):
    network, images = trained(name), torch.randn(3, 3, 32, 32)
    found = fold(network, images[:2])
    folded = found.network
    assert norms(folded) == 0 < norms(network)
    assert (found.folded, found.kept) == (norms(network), 0)
    with torch.no_grad():
        ours, theirs = folded.knowledge(images), network.knowledge(images)
    assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-4 * float(theirs.logits.abs().max()))
    assert_close(ours.embedding, theirs.embedding, rtol=1e-4, atol=1e-4 * float(theirs.embedding.abs().max()))
    for one, other in zip(ours.feature_maps, theirs.feature_maps, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_a_batch_norm_whose_input_goes_elsewhere_too_stays():
    network, images = trained("wrn_16_2"), torch.randn(3, 3, 32, 32)
    found = fold(network, images[:2])
    folded = found.network
    assert 0 < norms(folded) < norms(network)
    assert found.kept > 0
    assert found.folded == norms(network) - norms(folded)
    with torch.no_grad():
        assert_close(folded(images), network(images), rtol=1e-4, atol=1e-4)

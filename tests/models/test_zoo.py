"""Every network on other images and classes than the published ones."""

import pytest
import torch

from tekapctl.errors import UsageError
from tekapctl.models import build, names
from tekapctl.models.network import macs, parameters


@pytest.mark.parametrize("name", names())
def test_any_number_of_classes_and_channels_on_small_images(name):
    network = build(name, num_classes=7, in_channels=1)
    for shape in ((8, 8), (9, 13)):
        images = torch.randn(2, 1, *shape)
        with torch.no_grad():
            told = network.eval().knowledge(images)
            assert network(images).shape == told.logits.shape == (2, 7)
        torch.testing.assert_close(network.classifier_layer(told.embedding), told.logits)
        assert len(told.feature_maps) >= 4
        assert network.knowledge(images, feature_maps=False).feature_maps == ()


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_asking_for_feature_maps_changes_nothing_that_is_learned(name):
    images, gradients = torch.randn(4, 3, 16, 16), []
    for asked in ({}, {"feature_maps": True, "preactivations": True}):
        torch.manual_seed(0)
        network = build(name, num_classes=5)
        network.knowledge(images, **({"feature_maps": False} | asked)).logits.square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_macs_of_a_small_network_by_hand():
    # resnet8 on 8x8 grey images: first layer, then three stages of one block at 8, 4 and 2 pixels.
    first = 64 * 16 * 9
    stage1 = 2 * 64 * 16 * 16 * 9
    stage2 = 16 * 32 * (16 * 9 + 32 * 9 + 16)
    stage3 = 4 * 64 * (32 * 9 + 64 * 9 + 32)
    network = build("resnet8", num_classes=10, in_channels=1).train()
    assert macs(network, (1, 8, 8)) == first + stage1 + stage2 + stage3 + 64 * 10
    assert network.training
    assert int(network.bn1.num_batches_tracked) == 0


def test_parameters_are_the_published_number():
    assert parameters(build("resnet8x4")) == 1_233_540


def test_an_unknown_network_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="resnet32x4"):
        build("resnet32x5")


@pytest.mark.parametrize(("shape", "word"), [((1, 3, 4, 4), "too small"), ((1, 1, 16, 16), "3 channels")])
def test_images_that_cannot_work_are_refused(shape, word):
    with pytest.raises(UsageError, match=word):
        build("resnet8")(torch.zeros(shape))

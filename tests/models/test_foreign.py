"""Networks from elsewhere: what is found in them is what their own layers say, and what cannot be is said."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models import get_model

from tekapctl import models
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.models.fusing import fold
from tekapctl.models.hooks import ExternalNetwork

FACTORIES = """
from torch import nn
from tekapctl.models import build


def small(num_classes, in_channels, width=4):
    body = [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, num_classes))


def of_the_zoo(num_classes, in_channels):
    return build("resnet8", num_classes, in_channels)


def stubborn(num_classes, in_channels):
    return small(7, in_channels)


def convolutional(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def no_network(num_classes, in_channels):
    return num_classes
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TEKAPCTL_TRUSTED", "*")


def test_resnets_stages_are_those_between_its_layers():
    network = models.build("torchvision:resnet18", 7, 3).eval()
    images = torch.randn(2, 3, 64, 64)
    theirs = network.network
    with torch.no_grad():
        told = network.knowledge(images, preactivations=True)
        stem = theirs.relu(theirs.bn1(theirs.conv1(images)))
        expected = [stem]
        maps = theirs.maxpool(stem)
        for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            maps = layer(maps)
            expected.append(maps)
    assert len(told.feature_maps) == len(told.preactivations) == 5
    for stage, before, own in zip(told.feature_maps, told.preactivations, expected, strict=True):
        assert_close(stage, own)
        assert_close(before.relu(), own)
        assert (before < 0).any()
    assert_close(told.embedding, maps.mean((2, 3)))
    assert_close(told.logits, theirs.fc(told.embedding))
    assert_close(network(images), told.logits)
    assert network.classifier_layer is theirs.fc


@pytest.mark.parametrize(
    ("name", "channels"),
    [("mobilenet_v2", [16, 24, 32, 96, 1280]), ("shufflenet_v2_x0_5", [24, 24, 48, 96, 1024]), ("alexnet", None)],
)
def test_stages_are_of_blocks_and_shrink(name, channels):
    network = models.build(f"torchvision:{name}", 10, 3).eval()
    with torch.no_grad():
        feature_maps = network.knowledge(torch.randn(1, 3, 96, 96)).feature_maps
    sides = [stage.shape[2] for stage in feature_maps]
    assert sides == sorted(sides, reverse=True)
    assert channels is None or [stage.shape[1] for stage in feature_maps] == channels


def test_a_network_of_timm_is_made_for_classes_and_channels():
    pytest.importorskip("timm")
    network = models.build("timm:mobilenetv3_small_050", 5, 1).eval()
    told = network.knowledge(torch.randn(2, 1, 64, 64))
    assert told.logits.shape == (2, 5)
    assert len(told.feature_maps) == 5


def test_copies_and_folded_networks_tell_of_themselves():
    network = models.build("torchvision:resnet18", 4, 1).eval()
    images = torch.randn(2, 1, 32, 32)
    for each in (copy.deepcopy(network), fold(network, images).network):
        with torch.no_grad():
            own, other = network.knowledge(images, preactivations=True), each.knowledge(images, preactivations=True)
        assert_close(own.logits, other.logits, atol=1e-3, rtol=1e-3)
        for one, two in zip(own.preactivations, other.preactivations, strict=True):
            assert_close(one, two, atol=1e-3, rtol=1e-3)
    folded = fold(network, images).network
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    network.classifier_layer.bias.data += 1
    assert not torch.allclose(network(images), folded(images))


def test_grey_images_are_taken_by_summed_kernels():
    torch.manual_seed(0)
    made = ExternalNetwork(get_model("resnet18", num_classes=3), "colour", 3)
    torch.manual_seed(0)
    grey = models.build("torchvision:resnet18", 3, 1)
    assert_close(grey.network.conv1.weight, made.network.conv1.weight.sum(1, keepdim=True))


def test_a_librarys_weights_get_a_new_last_layer_for_other_classes(tmp_path, monkeypatch):
    torch.manual_seed(1)
    theirs = get_model("resnet18").state_dict()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(theirs, tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    network = models.build("torchvision:resnet18", 5, 3, {"weights": "DEFAULT"})
    assert torch.equal(network.network.conv1.weight, theirs["conv1.weight"])
    assert network.knowledge(torch.randn(2, 3, 64, 64)).logits.shape == (2, 5)


def test_factories_of_the_users_own(here):
    network = models.build("my_nets:small", 5, 1, {"width": 6})
    assert network.knowledge(torch.randn(2, 1, 16, 16)).embedding.shape == (2, 24)
    assert type(models.build("my_nets:of_the_zoo", 5, 1)).__name__ == type(models.build("resnet8")).__name__


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("torchvision:resnet19", {}, "no torchvision network named 'resnet19'"),
        ("torchvision:resnet18", {"depth": 3}, "cannot be built: TypeError"),
        ("torchvision:squeezenet1_0", {}, "does not end with a linear layer"),
        ("timm:resnet19", {}, "no timm network named 'resnet19'"),
        ("resnet18", {}, "Did you mean torchvision:resnet18?"),
        ("test_resnet", {}, "Did you mean timm:test_resnet?"),
        ("my_nets:large", {}, "cannot be imported"),
        ("my_nets:stubborn", {}, None),
        ("my_nets:convolutional", {}, "does not end with a linear layer"),
        ("my_nets:no_network", {}, "returned int, not a network"),
        ("resnet8", {"width": 3}, "takes no arguments"),
    ],
)
def test_what_does_not_fit_is_said(here, name, arguments, words):
    if words is None:
        assert models.build(name, 5, 1, arguments).num_classes == 5, "the last layer is replaced"
        return
    with pytest.raises(UsageError, match=words):
        models.build(name, 5, 1, arguments)


def test_images_of_a_size_that_is_not_taken_are_refused():
    network = models.build("torchvision:alexnet", 3, 3).eval()
    with pytest.raises(UsageError, match="torchvision:alexnet does not accept images of 3x8x8"):
        network.knowledge(torch.randn(1, 3, 8, 8))


class Counting(nn.Module):
    """Breaks in a pass that it is told."""

    def __init__(self):
        super().__init__()
        self.conv, self.last, self.other = nn.Conv2d(1, 4, 3), nn.Linear(4, 3), nn.Linear(4, 3)
        self.breaks = None

    def forward(self, images):
        if min(images.shape[2:]) < 16:
            raise ValueError("kernel larger than the image")
        features = self.conv(images).mean((2, 3))
        return self.last(features) if self.breaks is None else self.breaks(features)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: late"), KeyError("x"), StopIteration(), MemoryError()])
def test_what_a_network_raises_later_is_not_blamed_on_the_size_of_images(error):
    network = ExternalNetwork(Counting(), "mine", 1)
    images = torch.randn(2, 1, 16, 16)
    network.knowledge(images)

    def breaks(features):
        raise error

    network.network.breaks = breaks
    with pytest.raises(type(error)) as raised:
        network.knowledge(images)
    assert raised.value is error


def test_a_size_that_is_not_taken_is_told_with_what_the_network_says():
    network = ExternalNetwork(Counting(), "mine", 1)
    network.knowledge(torch.randn(2, 1, 16, 16))
    with pytest.raises(UsageError, match=r"mine does not accept images of 1x8x8: ValueError: kernel larger"):
        network.knowledge(torch.randn(2, 1, 8, 8))


def test_logits_from_another_layer_or_of_other_classes_are_told():
    network = ExternalNetwork(Counting(), "mine", 1)
    images = torch.randn(2, 1, 16, 16)
    network.network.breaks = lambda features: network.network.other(features)
    with pytest.raises(TekapctlError, match="mine did not call its layer last"):
        network.knowledge(images)
    network.network.breaks = lambda features: network.network.last(features)[:, :2]
    with pytest.raises(TekapctlError, match=r"mine returned logits of shape \[2, 2\], but 3 classes in its first pass"):
        network.knowledge(images)

"""Each network normalises pixels with its own constants, and brings images to its own size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.models import ResNet18_Weights

from tekapctl import models
from tekapctl.errors import UsageError
from tekapctl.models import external
from tekapctl.models.normalization import Normalization

PIXELS = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@given(st.floats(-1, 2), st.floats(1e-3, 5))
def test_pixels_become_what_the_formula_says(mean, std):
    found = Normalization((mean,) * 3, (std,) * 3)(PIXELS)
    torch.testing.assert_close(found, (PIXELS / 255 - mean) / std, rtol=1e-4, atol=1e-4)


def test_images_of_another_size_are_resized_and_those_of_its_own_are_not():
    own = Normalization((0.0,) * 3, (1.0,) * 3, (8, 8))
    torch.testing.assert_close(own(PIXELS), PIXELS / 255)
    large = F.interpolate(PIXELS.float(), (16, 24), mode="bilinear", antialias=True)
    torch.testing.assert_close(Normalization((0.0,) * 3, (1.0,) * 3, (16, 24))(PIXELS), large / 255)


def test_gradients_reach_the_pixels():
    pixels = PIXELS.float().requires_grad_()
    Normalization((0.5,) * 3, (0.25,) * 3)(pixels).sum().backward()
    torch.testing.assert_close(pixels.grad, torch.full_like(pixels, 4 / 255))


def test_it_is_no_part_of_the_weights_and_moves_with_the_network():
    network = models.build("resnet8", 10, 3)
    before = set(network.state_dict())
    network.normalization = Normalization((0.5,) * 3, (0.25,) * 3)
    assert set(network.state_dict()) == before
    assert network.to("meta").normalization.scale.device.type == "meta"


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5,), (0.0,)), ((0.5,), (-1.0,)), ((float("nan"),), (1.0,)), ((0.5,), (float("inf"),)), ((0.5, 0.5), (1.0,))],
)
def test_constants_that_make_no_images_are_refused(mean, std):
    with pytest.raises(UsageError):
        Normalization(mean, std)


def test_timms_constants_are_those_of_its_configuration(monkeypatch):
    timm = pytest.importorskip("timm")
    made = timm.create_model("vit_tiny_patch16_224")
    found = external._normalization(made, "timm", "vit_tiny_patch16_224", {"pretrained": True})
    config = made.pretrained_cfg
    assert (found.mean, found.std, found.size) == (config["mean"], config["std"], config["input_size"][1:])
    assert external._normalization(made, "timm", "vit_tiny_patch16_224", {}) is None


def test_torchvisions_constants_are_those_of_its_weights():
    prepare = ResNet18_Weights.DEFAULT.transforms()
    for weights in ("DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"):
        found = external._normalization(torch.nn.Identity(), "torchvision", "resnet18", {"weights": weights})
        assert (list(found.mean), list(found.std), found.size) == (prepare.mean, prepare.std, (224, 224))

"""Our networks against what the published ones compute, weight by weight."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from conformance.fill import fill_state_dict
from tekapctl.models import build, names

HERE = Path(__file__).parent / "models"
PUBLISHED = json.loads((HERE / "models.json").read_text())
SEED = PUBLISHED["seed"]


@pytest.fixture(scope="module")
def tensors():
    return load_file(HERE / "models.safetensors")


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(SEED + 7))


def test_the_zoo_is_the_published_one():
    assert sorted(names()) == sorted(PUBLISHED["models"])


@pytest.mark.parametrize("name", PUBLISHED["models"])
def test_network(name, tensors, images):
    published = PUBLISHED["models"][name]
    network = build(name)
    assert [[key, list(value.shape)] for key, value in network.state_dict().items()] == published["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == published["parameters"]

    fill_state_dict(network, SEED)
    rtol = 1e-3 if name in ("resnet56", "resnet110", "ResNet50") else 1e-4
    with torch.no_grad():
        told = network.eval().knowledge(images, preactivations=True)
        plain = network.knowledge(images)
    for key, value in (("logits", told.logits), ("embedding", told.embedding)):
        expected = tensors[f"{name}.{key}_eval"]
        assert_close(value, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))
    assert_close(plain.logits, told.logits)

    *stages, embedding = published["features"]
    for given, before, expected in zip(told.stages, told.preactivations, stages, strict=True):
        assert list(given.shape[1:]) == expected["shape"]
        assert_close(given.mean().item(), expected["mean"], rtol=rtol, atol=rtol)
        assert_close(given.std().item(), expected["std"], rtol=rtol, atol=rtol)
        assert_close(before.abs().sum().item(), expected["abs_sum_preact"], rtol=rtol, atol=0)
    assert list(told.embedding.shape[1:]) == embedding["shape"]

    with torch.no_grad():
        logits = network.train()(images)
    expected = tensors[f"{name}.logits_train"]
    assert_close(logits, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))

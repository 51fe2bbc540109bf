"""Trained networks, found again in their files."""

import pytest
import torch

from tekapctl import models
from tekapctl.store.weights import save_weights
from tekapctl.train.references import Reference
from tekapctl.train.trained import load


@pytest.mark.parametrize("name", models.names())
def test_a_saved_network_says_the_same_when_it_is_loaded(tmp_path, name):
    torch.manual_seed(0)
    network = models.build(name, 7, 1).eval()
    path = tmp_path / "weights.safetensors"
    save_weights(path, network.state_dict(), {"model": name, "num_classes": "7", "in_channels": "1"})
    found = load(Reference(str(path), path, f"checkpoint {path}")).network
    images = torch.randn(2, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(found(images), network(images))


@pytest.mark.parametrize("lie", [{"num_classes": "1000000"}, {"in_channels": "-3"}, {"num_classes": "seven"}])
def test_a_file_that_states_what_its_weights_are_not_is_taken_at_its_weights(tmp_path, lie):
    path = tmp_path / "weights.safetensors"
    stated = {"model": "resnet8", "num_classes": "7", "in_channels": "1", **lie}
    save_weights(path, models.build("resnet8", 7, 1).state_dict(), stated)
    found = load(Reference(str(path), path, f"checkpoint {path}")).network
    assert (found.num_classes, found.in_channels) == (7, 1)

"""Weights on disk: whole, checked, and never more than data."""

import argparse
import os
import pickle
import resource
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.models import build
from tekapctl.store.atomic import atomic_write
from tekapctl.store.legacy_checkpoint import read_published
from tekapctl.store.weights import load_into, read_metadata, read_weights, save_weights
from tekapctl.train.references import Reference
from tekapctl.train.trained import load


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build("resnet8")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def test_weights_come_back_with_their_metadata(tmp_path, network):
    paths = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for path in paths:
        save_weights(path, network.state_dict(), {"model": "resnet8", "dataset": "digits"})
    state, metadata = read_weights(paths[0])
    assert metadata == read_metadata(paths[0]) == {"model": "resnet8", "dataset": "digits"}
    assert paths[0].read_bytes() == paths[1].read_bytes()
    other = build("resnet8")
    load_into(other, state, source="here")
    assert same(other.state_dict(), network.state_dict())


LAYOUTS = {
    "repdistiller": lambda state: {
        "epoch": 240,
        "model": state,
        "accuracy": torch.tensor(79.42),
        "optimizer": {"state": {}},
    },
    "last": lambda state: {"opt": argparse.Namespace(model="resnet8", lr=0.05), "model": state},
    "numpy accuracy": lambda state: {"model": state, "epoch": 3, "accuracy": np.float64(79.42)},
    "data parallel": lambda state: {"model": OrderedDict((f"module.{k}", v) for k, v in state.items())},
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state},
}


@pytest.mark.parametrize("is_legacy", [False, True], ids=["zip", "PyTorch 0.4"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_load(tmp_path, network, layout, is_legacy):
    path = tmp_path / "ckpt_epoch_240.pth"
    torch.save(LAYOUTS[layout](network.state_dict()), path, _use_new_zipfile_serialization=not is_legacy)
    found = read_published(path)
    assert same(found.state, network.state_dict())
    if "accuracy" in layout or layout == "repdistiller":
        assert found.accuracy == pytest.approx(79.42)
    trained = load(Reference(str(path), path, "a file"))
    assert trained.model == "resnet8"
    assert not trained.network.training


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path, is_legacy):
    path = tmp_path / "evil.pth"
    torch.save({"model": Attack(tmp_path / "ran")}, path, _use_new_zipfile_serialization=not is_legacy)
    with pytest.raises(UsageError, match="mkdir"):
        read_published(path)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Attack(tmp_path / "ran")))
    with pytest.raises(UsageError):
        read_published(tmp_path / "bare.pth")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_architecture_say_which_keys_differ(network):
    with pytest.raises(UsageError, match=r"are unknown \(layer1.1"):
        load_into(network, build("resnet14").state_dict(), source="there")
    with pytest.raises(UsageError, match=r"1 are missing \(fc.bias\)"):
        load_into(network, {k: v for k, v in network.state_dict().items() if k != "fc.bias"}, source="there")
    with pytest.raises(UsageError, match=r"2 have another shape \(fc.weight, fc.bias\)"):
        load_into(network, build("resnet8", num_classes=5).state_dict(), source="there")


def test_weights_that_are_not_finite_are_refused(network):
    state = network.state_dict()
    state["fc.bias"] = torch.full_like(state["fc.bias"], float("nan"))
    with pytest.raises(UsageError, match=r"fc.bias has values that are not finite"):
        load_into(network, state, source="there")


@given(st.binary(max_size=300), st.sampled_from([".pth", ".safetensors"]))
def test_any_bytes_are_weights_or_a_usage_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("fuzz") / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        load(Reference("x", path, "fuzz"))


@given(st.data())
def test_a_damaged_checkpoint_loads_or_is_a_usage_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "x.pth"
    torch.save({"model": {"w": torch.arange(3.0)}, "epoch": 2}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert isinstance(read_published(path).state, dict)
    except UsageError:
        pass


def test_a_file_that_could_not_be_written_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    atomic_write(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(TekapctlError, match="could not be written"):
            atomic_write(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]

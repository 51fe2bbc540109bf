"""Each perturbation as a user runs it."""

import tomllib

import pytest
import torch

from helpers.program import run
from tekapctl import models
from tekapctl.distillation.perturbations import PERTURBATIONS

UNTAUGHT = ["distill", "-s", "resnet8", "--dataset", "digits", "--train-fraction", "0.1", "--epochs", "1", "--json"]
STUDENT = [*UNTAUGHT, "-t", "resnet8"]
FACTORY = """
from torch import nn
from tekapctl.models.network import Network, pool


class Deep(Network):
    def __init__(self, classes, channels):
        super().__init__(classes, channels)
        self.body = nn.Conv2d(channels, 4, 3)
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, classes))

    @property
    def classifier_layer(self):
        return self.head

    def embed(self, images, maps):
        return pool(self.body(images))


def deep(num_classes, in_channels):
    return Deep(num_classes, in_channels)
"""


def perturbed(name: str) -> list[str]:
    return ["--set", f"tekap.logit.perturbation={name}"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    found = tmp_path_factory.mktemp("perturbed") / "home"
    assert run(found, "train-teacher", "--model", "resnet8", "--dataset", "digits", "--epochs", "1").code == 0
    return found


@pytest.fixture(scope="module")
def usual(home) -> bytes:
    """The weights of a student who learned from isotropic noise."""
    return weights(home, run(home, *STUDENT).json)


def weights(home, summary) -> bytes:
    return (home / "runs" / summary["run"] / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("name", PERTURBATIONS.names())
def test_each_trains_a_student_of_its_own(home, usual, name):
    result = run(home, *STUDENT, *perturbed(name))
    assert result.code == 0, result.err
    assert result.json["status"] == "finished"
    spec = tomllib.loads((home / "runs" / result.json["run"] / "spec.toml").read_text())
    assert spec["tekap"]["logit"]["perturbation"] == name
    assert (weights(home, result.json) == usual) == (name == "isotropic")
    assert ("the teacher is asked of 130 training images" in result.err) == (name != "isotropic")


def test_trials_ask_the_teacher_once(home):
    result = run(home, *STUDENT, *perturbed("class-covariance"), "--seeds", "2")
    assert [trial["status"] for trial in result.json] == ["finished", "finished"]
    assert result.err.count("the teacher is asked of") == 1


def test_dropout_in_a_head_that_is_not_linear_is_refused_before_anything_is_written(home, tmp_path, monkeypatch):
    (tmp_path / "my_deep_nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TEKAPCTL_TRUSTED", "*")
    name, path = "my_deep_nets:deep", str(tmp_path / "deep.pt")
    network = models.build(name, 10, 1)
    torch.save(network.state_dict(), path)
    before = len(list((home / "runs").iterdir()))
    result = run(home, *UNTAUGHT, *perturbed("dropout"), "-t", path, "--teacher-model", name)
    assert result.code == 2
    assert "its last layer is a Sequential" in result.err
    assert len(list((home / "runs").iterdir())) == before

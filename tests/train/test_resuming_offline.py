"""A run that began with a library's weights needs them no more once it has a checkpoint of its own."""

import pytest
import torch
from torchvision.models import get_model

from helpers.silent import Silent
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.store.runs import Runs
from tekapctl.store.weights import read_weights
from tekapctl.train.run import execute, resume

SPEC = {
    "kind": "teacher",
    "model": "torchvision:shufflenet_v2_x0_5",
    "model_args": {"pretrained": True},
    "data": {"name": "synthetic", "samples": 64, "test_samples": 32, "classes": 3},
    "epochs": 2,
    "batch_size": 32,
    "device": "cpu",
    "precision": "float32",
}


class StoppedHereError(Exception):
    pass


class StopAfterEpoch(Silent):
    def on_epoch(self, metrics) -> None:
        raise StoppedHereError


def test_it_is_resumed_without_the_librarys_weights(tmp_path, monkeypatch):
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    file = tmp_path / "torch" / "hub" / "checkpoints" / "shufflenetv2_x0.5-f707e7126e.pth"
    torch.save(get_model("shufflenet_v2_x0_5").state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    home = Home(tmp_path / "home")
    whole = execute(parse(SPEC), home, Silent())["run"]
    with pytest.raises(Exception, match="StoppedHereError"):
        execute(parse(SPEC), home, StopAfterEpoch())
    file.unlink()
    resumed = resume("latest", home, Silent())["run"]
    (one, stated), (other, states) = (read_weights(Runs(home.runs).find(run).weights) for run in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (stated["mean"], stated["std"]) == (states["mean"], states["std"])

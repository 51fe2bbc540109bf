"""A run that could not take the last step of its first epoch is refused before its first."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers.silent import Silent
from tekapctl.distillation.methods import METHODS
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.store.runs import Runs
from tekapctl.train.build import build_run
from tekapctl.train.run import execute, resume
from tekapctl.train.sanity_check import check_batch_sizes

BASE = {"epochs": 1, "device": "cpu", "precision": "float32", "data": {"name": "digits", "train_fraction": 0.1}}
STUDENT = {**BASE, "teacher": "resnet14", "student": "resnet8"}
IMAGES = 130


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    execute(parse({**BASE, "kind": "teacher", "model": "resnet14"}), home, Silent())
    return home


def ready(home: Home, **values):
    return build_run(parse({**STUDENT, **values}), home)


@pytest.mark.parametrize("method", METHODS.names())
def test_of_all_methods_two_cannot_train_on_one_image(home, method):
    if method in ("reviewkd", "srrl"):
        with pytest.raises(UsageError, match="last batch has 1 image"):
            ready(home, method=method, batch_size=43)
        return
    trainer = ready(home, method=method, batch_size=43).trainer
    last = list(trainer.train_batches.epoch(0, strong=trainer.objective.requires.strong_view))[-1]
    trainer.start_epoch()
    assert len(last.labels) == 1
    assert all(value.isfinite() for value in trainer.step(last).values())


@pytest.mark.parametrize(
    ("size", "works"), [(43, "42 or 44"), (3, "2 or 4"), (1, "2"), (129, "128 or 130"), (65, None)]
)
def test_the_sizes_that_are_named_are_the_nearest_that_work(home, size, works):
    if works is None:
        ready(home, method="reviewkd", batch_size=size)
        return
    with pytest.raises(UsageError) as raised:
        ready(home, method="reviewkd", batch_size=size)
    assert raised.value.remedy == f"Set `batch_size` to {works}."
    for each in works.split(" or "):
        ready(home, method="reviewkd", batch_size=int(each))


WAYS = {
    "a teacher": {"kind": "teacher", "model": "resnet8"},
    "banks": {"method": {"name": "crd", "negatives": 64}, "alpha": 1.0},
    "a queue": {"method": {"name": "crd", "negatives": 64, "memory": "queue"}},
    "batch norms of the method": {"method": "reviewkd"},
    "learned views": {"method": "at", "angular": {"views": 2}},
    "an init stage": {"method": {"name": "ab", "init_epochs": 1}},
    "a cache": {"method": "kd", "cache_teacher": True},
    "two teachers": {"method": "kd", "ensemble": ["resnet14"]},
    "dropout": {"kind": "teacher", "model": "torchvision:mobilenet_v3_small"},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_check_leaves_no_trace(home, way):
    values = {**(BASE if WAYS[way].get("kind") else STUDENT), **WAYS[way], "batch_size": 48}
    trainer = build_run(parse(values), home).trainer
    modes = [module.training for module in trainer.network.modules()]
    before = copy.deepcopy(trainer.state())
    records = [path.read_bytes() for path in sorted(home.knowledge.rglob("records.bin"))]
    torch.manual_seed(3)
    numbers = torch.rand(4)
    torch.manual_seed(3)
    check_batch_sizes(trainer)
    assert torch.equal(torch.rand(4), numbers)
    assert [module.training for module in trainer.network.modules()] == modes
    assert all(parameter.grad is None for parameter in trainer.network.parameters())
    after = trainer.state()
    for part in ("network", "objective"):
        assert before[part].keys() == after[part].keys()
        assert all(torch.equal(value, after[part][name]) for name, value in before[part].items())
    assert after["optimizer"] == before["optimizer"]
    assert [path.read_bytes() for path in sorted(home.knowledge.rglob("records.bin"))] == records


def test_a_method_that_cannot_be_copied_is_not_tried(home):
    trainer = ready(home, method="reviewkd", batch_size=48).trainer
    scale = nn.Parameter(torch.ones(1))
    trainer.objective.method.scaled = scale * 2  # no leaf of the graph: PyTorch copies none
    trainer.spec = SimpleNamespace(**{**dict(trainer.spec), "batch_size": 43, "init_epochs": 0, "network": "resnet8"})
    check_batch_sizes(trainer)


NETWORK = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.conv, self.last = nn.Conv2d(in_channels, 4, 3), nn.Linear(4, num_classes)
        self.passes = 0

    def forward(self, images):
        self.passes += self.training
        if self.passes > LIMIT:
            raise RuntimeError("the file of weights is gone")
        return self.last(self.conv(images).mean((2, 3)))


def net(num_classes, in_channels):
    return Net(num_classes, in_channels)
"""


def test_a_run_that_a_network_broke_says_where_and_goes_on_to_the_same_bits(home, tmp_path, monkeypatch):
    import sys

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TEKAPCTL_TRUSTED", "broken_net:net")
    spec = parse({**BASE, "kind": "teacher", "model": "broken_net:net", "batch_size": 32, "epochs": 2})

    def run(limit: int, work):
        sys.modules.pop("broken_net", None)
        (tmp_path / "broken_net.py").write_text(NETWORK.replace("LIMIT", str(limit)))
        sys.dont_write_bytecode = True
        return work()

    whole = run(1000, lambda: execute(spec, home, Silent()))
    # The check takes the first pass, an epoch five.
    with pytest.raises(
        TekapctlError, match=r"Step 3 of epoch 2 failed: RuntimeError: the file of weights is gone;"
    ) as e:
        run(8, lambda: execute(spec, home, Silent()))
    assert e.value.exit_code == 1
    assert "the last good checkpoint is after epoch 1" in e.value.problem
    broken = Runs(home.runs).all()[-1]
    assert broken.status == "failed"
    assert f"tekapctl resume {broken.id}" in e.value.remedy
    assert "the file of weights is gone" in (broken.path / "traceback.txt").read_text()
    run(1000, lambda: resume(broken.id, home, Silent()))
    assert not (broken.path / "traceback.txt").exists()
    assert broken.weights.read_bytes() == Runs(home.runs).find(whole["run"]).weights.read_bytes()

"""A run that was broken off at any step goes on as if it had not been, bit for bit."""

import hashlib
import io

import pytest
import torch

from helpers.silent import Silent
from tekapctl.data.augment.augmentation import AUGMENTATIONS
from tekapctl.distillation.methods import METHODS
from tekapctl.errors import TekapctlError
from tekapctl.optim import OPTIMIZERS
from tekapctl.optim.schedules import SCHEDULES
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.store.runs import Runs
from tekapctl.train import checkpoint
from tekapctl.train.build import build_run
from tekapctl.train.run import execute, resume
from tekapctl.train.trainer import Trainer

CPU = torch.device("cpu")
QUICK = {
    "epochs": 2,
    "batch_size": 32,
    "data": {"name": "digits", "train_fraction": 0.1},
    "device": "cpu",
    "precision": "float32",
}
STEPS = 5  # an epoch of 130 images
BREAKS = (2, STEPS, 2 * STEPS - 3)
NO_TEKAP = {"logit": {"teachers": 0}, "feature": {"teachers": 0}}
CRD = {"name": "crd", "negatives": 64}
DEFAULT = parse({})
OTHER_OPTIMIZERS = [name for name in OPTIMIZERS.names() if name != DEFAULT.optimizer.name]
OTHER_SCHEDULES = [name for name in SCHEDULES.names() if name != DEFAULT.schedule.name]
WAYS = {
    "teacher": {"kind": "teacher", "model": "resnet8"},
    "dropout": {"kind": "teacher", "model": "timm:test_resnet", "model_args": {"drop_rate": 0.5}},
    "kd": {"method": "kd", "tekap": NO_TEKAP},
    "tekap-logit": {"method": "kd"},
    "tekap-mixing": {"method": "kd", "tekap": {"logit": {"perturbation": "mixing"}}},
    "tekap-covariance-cached": {
        "method": "kd",
        "tekap": {"logit": {"perturbation": "covariance"}},
        "cache_teacher": True,
    },
    "tekap-dropout-strong-view": {"method": "mlkd", "tekap": {"logit": {"perturbation": "dropout"}}},
    "crd": {"method": CRD, "tekap": NO_TEKAP},
    "crd-relax": {"method": {**CRD, "mode": "relax"}, "tekap": NO_TEKAP},
    "crd-queue": {"method": {**CRD, "memory": "queue"}},
    "tekap-feature": {"method": CRD},
    "tekap-both": {"method": CRD, "alpha": 1.0, "beta": 0.8},
    "tekap-both-cached": {"method": CRD, "alpha": 1.0, "beta": 0.8, "cache_teacher": True},
    "angular-both": {"method": CRD, "alpha": 1.0, "beta": 0.8, "angular": {"views": 3}},
    "angular-pretrained": {"method": "kd", "angular": {"views": 3, "pretrain_epochs": 1, "dropout": 0.3}},
    "angular-maps": {"method": "at", "angular": {"views": 2}},
    "dot": {"method": CRD, "alpha": 1.0, "beta": 0.8, "optimizer": {"name": "dot"}},
    **{f"teacher-{name}": {"kind": "teacher", "model": "resnet8", "optimizer": name} for name in OTHER_OPTIMIZERS},
    **{f"teacher-{name}": {"kind": "teacher", "model": "resnet8", "schedule": name} for name in OTHER_SCHEDULES},
    "dot-init": {"method": {"name": "fsp", "init_epochs": 1}, "optimizer": "dot", "ema": 0.9},
    "recipe": {
        "method": CRD,
        "alpha": 1.0,
        "beta": 0.8,
        "optimizer": {"name": "adamw", "clip_grad": 1.0, "layer_decay": 0.7},
        "schedule": {"name": "cosine", "warmup_epochs": 1},
        "label_smoothing": 0.1,
        "ema": 0.99,
        "accumulate": 3,
        "data": {**QUICK["data"], "augment": AUGMENTATIONS.names()},
    },
    **{name: {"method": name} for name in METHODS.names() if name not in ("kd", "crd", "ab", "fsp", "ft")},
    **{name: {"method": {"name": name, "init_epochs": 1}} for name in ("ab", "fsp", "ft")},
}


class BrokenOffError(Exception):
    """The run is broken off here."""


class Keep:
    """Writes a checkpoint after some steps, into a folder for each.

    Args:
        trainer: The run.
        folder: Holds the folders.
        steps: After which steps.
        breaks: Whether the run is broken off behind the last of them.
    """

    def __init__(self, trainer: Trainer, folder, steps: tuple[int, ...] = (), *, breaks: bool = False):
        self.trainer, self.folder, self.steps, self.breaks = trainer, folder, steps, breaks
        self.done = 0

    def after_step(self):
        self.done += 1
        if self.done in self.steps:
            progress = self.trainer.progress
            checkpoint.save(self.folder / str(self.done), progress.epoch, progress.step, self.trainer.state())
            if self.breaks and self.done == self.steps[-1]:
                raise BrokenOffError

    def after_epoch(self, metrics, is_best): ...


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    execute(parse({**QUICK, "kind": "teacher", "model": "resnet14", "epochs": 2}), home, Silent())
    return home


def trainer(home: Home, way: str) -> Trainer:
    values = {**QUICK, **WAYS[way]}
    if values.get("kind") != "teacher":
        values |= {"teacher": "resnet14", "student": "resnet8"}
    return build_run(parse(values), home).trainer


def everything(state) -> dict:
    """A training state flat, without the times in it."""
    flat = {}

    def walk(path, value):
        if isinstance(value, dict):
            for key, inner in value.items():
                if key not in ("seconds", "train_seconds", "test_seconds", "images_per_second"):
                    walk((*path, key), inner)
        elif isinstance(value, list):
            walk(path, dict(enumerate(value)))
        else:
            flat[path] = value

    walk((), state)
    return flat


BROKEN_EVERYWHERE = ("teacher", "crd-queue", "tekap-both-cached", "angular-pretrained", "dot-init", "recipe")
"""Ways of which each keeps something in checkpoints that the others do not."""


def check_resumed(home: Home, folder, way: str, steps: int, expected: dict) -> None:
    """Resume a run from the checkpoint after so many steps; its end must be the expected one."""
    resumed = trainer(home, way)
    state, damaged = checkpoint.newest(folder / str(steps), CPU)
    assert not damaged
    resumed.restore(state)
    resumed.fit(Silent(), Keep(resumed, folder))
    found = everything(resumed.state())
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        same = torch.equal(found[path], value) if isinstance(value, torch.Tensor) else found[path] == value
        assert same, f"{path} after a break at step {steps}"


def check_breaks(home: Home, folder, way: str) -> None:
    """Break a run off at each place; it must end as one that no checkpoint was written of."""
    whole = trainer(home, way)
    whole.fit(Silent(), Keep(whole, folder))
    expected = everything(whole.state())
    for steps in BREAKS:
        broken = trainer(home, way)
        with pytest.raises(BrokenOffError):
            broken.fit(Silent(), Keep(broken, folder, (steps,), breaks=True))
        check_resumed(home, folder, way, steps, expected)


@pytest.mark.parametrize("way", BROKEN_EVERYWHERE)
def test_weights_banks_optimizer_and_metrics_are_those_of_an_undisturbed_run(home, tmp_path, way):
    check_breaks(home, tmp_path, way)


@pytest.mark.parametrize("way", [way for way in WAYS if way not in BROKEN_EVERYWHERE])
def test_a_checkpoint_in_the_second_epoch_leads_to_the_end_of_the_run_that_wrote_it(home, tmp_path, way):
    whole = trainer(home, way)
    whole.fit(Silent(), Keep(whole, tmp_path, BREAKS[-1:]))
    check_resumed(home, tmp_path, way, BREAKS[-1], everything(whole.state()))


@pytest.mark.exhaustive
@pytest.mark.parametrize("way", [way for way in WAYS if way not in BROKEN_EVERYWHERE])
def test_every_break_is_as_if_it_had_not_been(home, tmp_path, way):
    check_breaks(home, tmp_path, way)


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b[:90] + bytes([b[90] ^ 4]) + b[91:], lambda b: b""])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    for step in (1, 2):
        checkpoint.save(tmp_path, 0, step, {"step": step})
    newest = tmp_path / "epoch-000000-step-00000002.state"
    newest.write_bytes(damage(newest.read_bytes()))
    state, damaged = checkpoint.newest(tmp_path, CPU)
    assert state == {"step": 1}
    assert damaged == [newest]


def test_a_new_checkpoint_stays_where_those_kept_sort_behind_it(tmp_path):
    for epoch in (8, 9):
        checkpoint.save(tmp_path, epoch, 0, {})
    path = checkpoint.save(tmp_path, 1, 0, {})
    assert path.exists()


def test_without_a_whole_checkpoint_nothing_is_overwritten(tmp_path):
    home = Home(tmp_path)
    execute(parse({**QUICK, "kind": "teacher", "model": "resnet8"}), home, Silent())
    run = Runs(home.runs).find("latest")
    (run.path / "summary.json").unlink()
    states = sorted(run.checkpoints.glob("*.state"))
    metrics = (run.path / "metrics.jsonl").read_bytes()
    for state in states:
        state.write_bytes(b"damaged")
    with pytest.raises(TekapctlError, match=f"All checkpoints of the run {run.id} are damaged"):
        resume(run.id, home, Silent())
    assert (run.path / "metrics.jsonl").read_bytes() == metrics


def test_a_checkpoint_that_there_is_no_memory_for_is_not_called_damaged(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, 0, {"step": 1})

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(MemoryError):
        checkpoint.newest(tmp_path, CPU)


def test_a_checkpoint_whose_checksum_fits_but_holds_no_state_is_an_error(tmp_path):
    path = checkpoint.save(tmp_path, 0, 1, {})
    content = io.BytesIO()
    torch.save([1, 2], content)
    head, digest = b"tekapctl training state, sha256 ", hashlib.sha256(content.getvalue()).hexdigest()
    path.write_bytes(head + digest.encode() + b"\n" + content.getvalue())
    with pytest.raises(TekapctlError, match="is damaged"):
        checkpoint.read(path, CPU)


@pytest.mark.parametrize("method", ["dkd", "rld", "wkd-f"])
def test_weights_that_change_by_epochs_count_from_the_end_of_the_views_own_stage(home, method):
    values = {**QUICK, "teacher": "resnet14", "student": "resnet8", "method": method, "epochs": 8}

    def weights(init_epochs: int) -> list[float]:
        spec = parse({**values, "angular": {"views": 2, "pretrain_epochs": init_epochs}})
        made = build_run(spec, home).trainer
        (distillation,) = made.objective.distillations
        weight = getattr(distillation.method, "decay" if method == "wkd-f" else "warmup")
        steps = len(made.train_batches)
        return [weight(epoch * steps) for epoch in range(init_epochs, init_epochs + 8)]

    assert weights(3) == weights(0)
    assert len(set(weights(0))) > 1

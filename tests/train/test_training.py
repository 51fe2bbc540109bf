"""Training on real images: every method learns, and the same seed gives the same numbers."""

from pathlib import Path

import pytest
import torch

from helpers.silent import Silent
from tekapctl.commands.cost import estimate
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.spec import parse
from tekapctl.store.atomic import sha256
from tekapctl.store.home import Home
from tekapctl.store.runs import Runs
from tekapctl.train.build import build_run
from tekapctl.train.run import execute, training_in_words

NO_TEKAP = {"logit": {"teachers": 0}, "feature": {"teachers": 0}}
CRD = {"name": "crd", "negatives": 256}
METHODS = {
    "kd": {"method": "kd", "tekap": NO_TEKAP},
    "tekap-logit": {"method": "kd"},
    "crd": {"method": CRD, "tekap": NO_TEKAP},
    "crd-relax": {"method": {**CRD, "mode": "relax"}, "tekap": NO_TEKAP},
    "tekap-feature": {"method": CRD},
    "tekap-both": {"method": CRD, "alpha": 1.0, "beta": 0.8},
    "angular-logit": {"method": "kd", "angular": {"views": 5}},
    "angular-both": {"method": CRD, "alpha": 1.0, "beta": 0.8, "angular": {"views": 5}},
    "mlkd": {"method": "mlkd", "tekap": NO_TEKAP},
}
QUICK = {"epochs": 6, "batch_size": 64, "data": "digits", "device": "cpu", "precision": "float32"}


def run(home: Home, **values):
    return execute(parse({**QUICK, **values}), home, Silent())


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def teacher(home):
    return run(home, kind="teacher", model="resnet14", epochs=8)


def test_a_teacher_learns_the_digits(teacher):
    assert teacher["last_top1"] > 0.9
    assert teacher["evaluation"]["agreement"] is None


EXHAUSTIVE = ("tekap-logit", "crd", "crd-relax", "tekap-feature", "angular-logit")
"""Variants of which each other one has the parts."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.exhaustive) if name in EXHAUSTIVE else name for name in METHODS]
)
def test_each_method_learns_and_its_loss_falls(home, teacher, name):
    summary = run(home, student="resnet8", teacher=teacher["run"], **METHODS[name])
    metrics = Runs(home.runs).find(summary["run"]).metrics()
    assert len(metrics) == 6
    # Half of mlkd's cross-entropy is of digits of eight pixels that were augmented strongly.
    falls_to = 0.95 if name == "mlkd" else 0.6
    assert metrics[-1]["train_cross_entropy"] < falls_to * metrics[0]["train_cross_entropy"]
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"]
    assert summary["last_top1"] > 0.7, "chance is 0.1"
    assert summary["evaluation"]["agreement"] > 0.7
    assert summary["teacher"]["model"] == "resnet14"


def test_equal_specs_give_equal_numbers_and_another_seed_gives_others(home, teacher):
    values = {"student": "resnet8", "teacher": teacher["run"], **METHODS["tekap-both"], "epochs": 2}
    values["data"] = {"name": "digits", "train_fraction": 0.2}
    weights = []
    for seed in (3, 3, 4):
        summary = run(home, seed=seed, **values)
        weights.append(Runs(home.runs).find(summary["run"]).weights.read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_a_loss_that_is_not_finite_ends_the_run_with_its_parts(home):
    with pytest.raises(
        TekapctlError, match=r"not finite in step \d+ of epoch 1 \(cross_entropy .*there is no checkpoint"
    ):
        run(home, kind="teacher", model="resnet8", optimizer={"learning_rate": 1e6})
    last = Runs(home.runs).all()[-1]
    assert last.status == "failed"


def test_divergence_in_the_last_step_ends_the_run_too(home):
    with pytest.raises(TekapctlError, match="outputs for the test images are not finite after epoch 1"):
        run(
            home,
            kind="teacher",
            model="resnet14",
            epochs=1,
            batch_size=200,
            optimizer={"learning_rate": 1e6},
            data={"name": "digits", "train_fraction": 0.1},
        )


def test_a_device_without_memory_is_answered_with_the_batch_size_to_try(home):
    trainer = build_run(parse({**QUICK, "kind": "teacher", "model": "resnet8"}), home).trainer
    trainer.network.conv1.register_forward_pre_hook(give_out)
    with pytest.raises(TekapctlError, match=r"step 1 of epoch 1.*`batch_size=32`"), training_in_words(trainer):
        trainer.step(next(trainer.batches()))


def give_out(*_: object) -> None:
    """What PyTorch raises where a device's memory does not suffice."""
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_teacher_of_other_classes_is_refused_before_anything_is_written(home, teacher):
    before = len(Runs(home.runs).all())
    small = {"name": "synthetic", "samples": 40, "test_samples": 20, "classes": 4, "size": 8, "channels": 1}
    with pytest.raises(UsageError, match=r"10 classes, and synthetic has 4"):
        run(home, student="resnet8", teacher=teacher["run"], data=small)
    with pytest.raises(UsageError, match="other classes than those of"):
        run(home, student="resnet8", teacher=teacher["run"], data={**small, "classes": 10})
    assert len(Runs(home.runs).all()) == before


def test_a_teachers_name_means_its_newest_finished_run_on_the_data_set(home, teacher, logged):
    build_run(parse({**QUICK, "teacher": "resnet14", "student": "resnet8"}), home)
    assert teacher["run"] in logged[0]
    with pytest.raises(UsageError, match="train-teacher --model resnet14 --dataset cifar100"):
        build_run(parse({"teacher": "resnet14"}), home)
    with pytest.raises(UsageError, match="tekapctl fetch resnet32x4"):
        build_run(parse({}), home)


def teacher_digest(home: Home, teacher) -> str:
    return sha256(Runs(home.runs).find(teacher["run"]).weights)


def test_a_spec_holds_to_the_teacher_it_names(home, teacher):
    values = {**QUICK, "teacher": teacher["run"], "student": "resnet8"}
    pinned = build_run(parse(values), home).spec
    assert pinned.teacher_digest == teacher_digest(home, teacher)
    with pytest.raises(UsageError, match="not those that the spec names"):
        build_run(parse({**values, "teacher_digest": "0" * 64}), home)


def test_the_estimate_counts_what_the_run_will_do(home):
    cost = estimate(parse({"data": {"name": "digits", "train_fraction": 0.5}, "epochs": 3}), Home(Path("nowhere")))
    assert cost.steps_per_epoch == -(-648 // 64)
    assert cost.steps == 3 * cost.steps_per_epoch
    assert cost.teacher_macs > cost.macs > 0
    with_crd = estimate(parse({"method": "crd"}), home)
    assert with_crd.memory_bytes > estimate(parse({}), home).memory_bytes + 2 * 50_000 * 128 * 4

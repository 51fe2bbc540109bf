"""Several teachers: the mean of the losses under each."""

import pytest
import torch

from helpers.silent import Silent
from tekapctl.errors import UsageError
from tekapctl.spec import loads, parse
from tekapctl.store.home import Home
from tekapctl.store.runs import Runs
from tekapctl.train.build import build_run
from tekapctl.train.run import execute

STUDENT = {
    "student": "resnet8",
    "data": {"name": "digits", "train_fraction": 0.1},
    "method": {"name": "crd", "negatives": 64},
    "alpha": 1.0,
    "beta": 0.8,
    "epochs": 1,
    "batch_size": 32,
    "device": "cpu",
    "precision": "float32",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    for model in ("resnet14", "resnet8"):
        spec = {"kind": "teacher", "model": model, "data": "digits", "epochs": 1, "precision": "float32"}
        execute(parse(spec), home, Silent())
    return home


def parts(home: Home, **values) -> dict[str, float]:
    trainer = build_run(parse({**STUDENT, **values}), home).trainer
    batch = next(trainer.train_batches.epoch(0))
    found = trainer.objective(trainer.network.knowledge(trainer.network.normalize(batch.images)), batch)
    return {name: value.item() for name, value in found.items()}


def test_the_parts_are_means_over_the_teachers(home):
    plain = {"tekap": {"logit": {"teachers": 0}, "feature": {"teachers": 0}}, "method": "kd", "beta": 0.0}
    one, other = (parts(home, teacher=name, **plain) for name in ("resnet14", "resnet8"))
    both = parts(home, teacher="resnet14", ensemble=["resnet8"], **plain)
    assert both["kd"] == pytest.approx((one["kd"] + other["kd"]) / 2, rel=1e-5)
    assert both["cross_entropy"] == pytest.approx(one["cross_entropy"])


def test_equal_teachers_have_noise_of_their_own(home):
    values = {"method": "kd", "beta": 0.0, "tekap": {"logit": {"noise_weight": 5.0}}}
    one = parts(home, teacher="resnet14", **values)
    twice = parts(home, teacher="resnet14", ensemble=["resnet14"], **values)
    assert twice["kd"] != pytest.approx(one["kd"], rel=1e-6)


def test_a_run_from_two_teachers_is_pinned_to_both(home):
    summary = execute(parse({**STUDENT, "teacher": "resnet14", "ensemble": ["resnet8"]}), home, Silent())
    run = Runs(home.runs).find(summary["run"])
    spec = loads((run.path / "spec.toml").read_text())
    assert "ensemble2" in run.id
    assert len(spec.ensemble_digests) == 1
    assert spec.ensemble_digests[0] != spec.teacher_digest
    assert summary["teacher"]["ensemble"] == list(spec.ensemble)
    wrong = spec.model_copy(update={"ensemble_digests": ("0" * 64,)})
    with pytest.raises(UsageError, match="teacher_digest"):
        build_run(wrong, home)


def test_each_teacher_has_a_method_with_parts_of_its_own(home):
    spec = parse({**STUDENT, "teacher": "resnet14", "ensemble": ["resnet8"]})
    trainer = build_run(spec, home).trainer
    first, second = trainer.objective.members
    weights = [member.method.project_student.linear.weight for member in (first, second)]
    assert not torch.equal(*weights)
    trainer.step(next(trainer.train_batches.epoch(0)))
    assert all(member.method.project_student.linear.weight.grad is not None for member in (first, second))


def test_a_student_becomes_the_teacher_of_a_smaller_one(home):
    assistant = execute(
        parse({**STUDENT, "student": "resnet14", "teacher": "resnet14", "name": "assistant"}), home, Silent()
    )
    summary = execute(parse({**STUDENT, "teacher": assistant["run"]}), home, Silent())
    assert summary["teacher"]["reference"] == assistant["run"]
    assert summary["teacher"]["model"] == "resnet14"


def test_in_a_first_stage_that_leaves_the_student_alone_its_statistics_stay(home):
    values = {"method": {"name": "ft", "init_epochs": 1}, "teacher": "resnet14", "ensemble": ["resnet14"]}
    trainer = build_run(parse({**STUDENT, **values}), home).trainer
    before = {name: value.clone() for name, value in trainer.network.named_buffers()}
    trainer.start_epoch()
    assert not trainer.network.training
    trainer.train_step(next(trainer.batches()))
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.named_buffers())

"""Several processes compute what one does with the same batches: losses, gradients, memory banks, test results."""

from pathlib import Path

import pytest
import torch

from helpers.processes import together
from tekapctl import data, models
from tekapctl.distillation.methods import METHODS
from tekapctl.distributed.communicator import Communicator, join_process_group
from tekapctl.distributed.shard import spans
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.train.build import assemble
from tekapctl.train.references import Reference
from tekapctl.train.trained import Trained

CPU = torch.device("cpu")
BASE = {
    "data": {"name": "digits", "train_fraction": 0.0285},  # 37 images: the last batch has 7
    "teacher": "resnet20",
    "student": "resnet8",
    "precision": "float32",
    "sync_batch_norm": True,
    "batch_size": 15,
    "seed": 1,
    "alpha": 0.5,
    "optimizer": {"learning_rate": 1e-3},  # at higher rates steps make much of the last digit
}
CRD = {"name": "crd", "negatives": 20}
VARIANTS = {
    "crd, queue": {"method": {**CRD, "memory": "queue"}},
    "crd, more negatives than samples": {"method": {**CRD, "negatives": 100, "mode": "relax"}},
    "views": {"angular": {"views": 2}},
    "views of maps": {"angular": {"views": 2}, "method": "at"},
    "ensemble": {"ensemble": ["resnet14"], "method": "sp"},
    "mixing": {"method": "kd", "tekap": {"logit": {"perturbation": "mixing"}}},
    "class covariance": {"method": "mlkd", "tekap": {"logit": {"perturbation": "class-covariance"}}},
    "dot": {"method": "dkd", "optimizer": {"name": "dot", "learning_rate": 1e-3}},
    "mixed": {
        "method": "rkd",
        "label_smoothing": 0.1,
        "data": {**BASE["data"], "augment": ["trivialaugment", "random-erasing", "mixup", "cutmix"]},
    },
    "accumulated": {"method": CRD, "accumulate": 3, "batch_size": 19, "data": {**BASE["data"], "augment": ["mixup"]}},
    "accumulated, dot": {
        "method": "kd",
        "accumulate": 2,
        "batch_size": 19,
        "optimizer": {"name": "dot", "clip_grad": 0.5},
    },
    "plain": {"method": "kd", "alpha": 0.9, "gamma": 0.1, "tekap": {"logit": {"teachers": 0}}},
}
CASES = {
    **{name: {"method": {"name": name} if name != "crd" else CRD} for name in METHODS.names()},
    **{f"{name}, init stage": {"method": name} for name in ("ab", "ft", "fsp")},
    **VARIANTS,
}


def a_teacher(name: str) -> Trained:
    torch.manual_seed(len(name))
    network = models.build(name, 10, 1).eval()
    return Trained(network, name, None, None, "0" * 64, Reference(name, Path("nowhere"), name))


def train(case: str, comm: Communicator) -> dict[str, torch.Tensor]:
    """A few steps: the loss's parts, what was learned, and all memory."""
    spec = parse(BASE | CASES[case])
    splits = data.load(spec.data, Path("nowhere"), seed=0, in_channels=1)
    teachers = [a_teacher(name) for name in (spec.teacher, *spec.ensemble)]
    trainer = assemble(spec, splits, teachers, CPU, Home(Path("nowhere")), comm)
    trainer.objective.init_stage = case.endswith("init stage")
    found = {}
    for step, batch in enumerate(trainer.train_batches.epoch(0, strong=trainer.objective.requires.strong_view)):
        parts = trainer.step(batch)
        found |= {f"{step}: {name}": comm.all_reduce_sum(value) / comm.world_size for name, value in parts.items()}
        held = trainer.optimizer.state_dict()["state"].values()
        for name in dict.fromkeys(name for each in held for name in each):
            found[f"{step}: {name}"] = torch.cat([each[name].flatten() for each in held])
    found["test"] = torch.tensor(trainer.test()["test_loss"])
    state = trainer.state()
    for kind in ("network", "objective"):
        found |= {f"{kind}: {name}": value for name, value in state[kind].items()}
    return found


def train_all(cases: tuple[str, ...]) -> dict[str, dict[str, torch.Tensor]]:
    torch.set_num_threads(1)
    with join_process_group() as comm:
        return {case: train(case, comm) for case in cases}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, torch.Tensor]]:
    return train_all(tuple(CASES))


@pytest.mark.parametrize(
    ("count", "cases"),
    [
        pytest.param(2, tuple(CASES), id="2"),
        pytest.param(3, tuple(VARIANTS), id="3-variants"),
        pytest.param(3, tuple(CASES), id="3", marks=pytest.mark.exhaustive),
    ],
)
def test_all_methods_learn_on_several_processes_what_they_learn_on_one(alone, count, cases):
    for found in together(count, train_all, cases):
        assert tuple(found) == cases
        for case in cases:
            expected = alone[case]
            assert list(found[case]) == list(expected)
            for name, value in expected.items():
                error = (found[case][name] - value).abs().max()
                assert error <= 1e-3 * value.abs().max() + 1e-5, f"{case}, {name}: off by {error}"


@pytest.mark.parametrize("size", range(1, 9))
def test_shares_are_all_of_a_batch_once_and_of_nearly_one_size(size):
    for count in range(2 * size, 50):
        found = spans(count, size)
        assert [row for first, end in found for row in range(first, end)] == list(range(count))
        assert {end - first for first, end in found} <= {count // size, count // size + 1}
    for count in range(2 * size):
        assert set(spans(count, size)) == {(0, count)}


def averaged_buffers() -> dict[str, torch.Tensor]:
    """The buffers of the average of weights that a process puts into a checkpoint within an epoch."""
    torch.set_num_threads(1)
    with join_process_group() as comm:
        spec = parse(BASE | {"method": "kd", "ema": 0.9, "sync_batch_norm": False})
        splits = data.load(spec.data, Path("nowhere"), seed=0, in_channels=1)
        trainer = assemble(spec, splits, [a_teacher(spec.teacher)], CPU, Home(Path("nowhere")), comm)
        trainer.start_epoch()
        for batch in trainer.train_batches.epoch(0, 0, 2):
            trainer.train_step(batch)
        return {name: value for name, value in trainer.state()["average"].items() if "running" in name}


def test_a_checkpoint_has_the_running_statistics_of_all_processes_in_the_average_of_weights():
    one, other = together(2, averaged_buffers)
    assert all(torch.equal(value, other[name]) for name, value in one.items())

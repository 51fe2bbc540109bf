"""The diagnosis: its numbers are those of plain formulas, and a run with it is the run without it, bit for bit."""

import math
from pathlib import Path

import pytest
import torch

from helpers.processes import together
from helpers.silent import Silent
from tekapctl.distillation.tekap import SeededNoise, Tekap, TekapSpec
from tekapctl.distributed.communicator import join_process_group
from tekapctl.models.knowledge import Knowledge
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.train import checkpoint
from tekapctl.train.build import build_run
from tekapctl.train.diagnosis import PREFIX
from tekapctl.train.diversity import Predictions, TeacherOutputs, augmented_diversity
from tekapctl.train.run import execute
from tekapctl.train.trainer import Trainer

CPU = torch.device("cpu")
IMAGES, CLASSES, WIDTH = 150, 5, 4
LABELS = torch.arange(IMAGES) % CLASSES
CRD = {"name": "crd", "negatives": 64}
QUICK = {
    "student": "resnet8",
    "teacher": "resnet14",
    "data": {"name": "digits", "train_fraction": 0.1},
    "epochs": 2,
    "batch_size": 32,
    "device": "cpu",
    "precision": "float32",
}
WAYS = {
    "kd": {"method": "kd"},
    "crd": {"method": CRD},
    "both-cached": {"method": CRD, "alpha": 1.0, "beta": 0.8, "cache_teacher": True},
    "queue": {"method": {**CRD, "memory": "queue"}},
    "views": {"method": CRD, "alpha": 1.0, "beta": 0.8, "angular": {"views": 3}},
    "two-teachers": {"method": CRD, "alpha": 1.0, "beta": 0.8, "ensemble": ["resnet14"]},
    "first-stage": {"method": {"name": "fsp", "init_epochs": 1}, "tekap": {"feature": {"teachers": 1}}},
    "mixing": {"method": "kd", "tekap": {"logit": {"perturbation": "mixing"}}},
    "with-dropout": {"method": "kd", "student": "torchvision:mobilenet_v3_small", "optimizer": {"learning_rate": 1e-3}},
}


def say(_: str) -> None: ...


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    teacher = {k: v for k, v in QUICK.items() if k not in ("student", "teacher")}
    execute(parse({**teacher, "kind": "teacher", "model": "resnet14", "epochs": 4}), home, Silent())
    return home


def trainer(home: Home, **values) -> Trainer:
    torch.manual_seed(0)  # what networks from elsewhere drop
    return build_run(parse({**QUICK, **values}), home).trainer


class Keep:
    """Keeps a run's training state as it is after a step."""

    def __init__(self, trainer: Trainer, folder=None, after: int | None = None):
        self.trainer, self.folder, self.after = trainer, folder, after

    def after_step(self):
        progress = self.trainer.progress
        if (progress.epoch, progress.step) == self.after:
            checkpoint.save(self.folder, progress.epoch, progress.step, self.trainer.state())

    def after_epoch(self, metrics, is_best): ...


def fitted(trainer: Trainer, **kept) -> Trainer:
    trainer.fit(Silent(), Keep(trainer, **kept))
    return trainer


def diagnosed(home: Home, **values) -> list[dict[str, float]]:
    """What the diagnosis says after each epoch."""
    history = fitted(trainer(home, **values, diagnose=True)).progress.history
    names = {name: name.removeprefix(PREFIX) for entry in history for name in entry if name.startswith(PREFIX)}
    return [{names[name]: value for name, value in entry.items() if name in names} for entry in history]


def tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Everything that training changes: weights, statistics, memories, momentum."""
    found = {**trainer.network.state_dict(), **{f"objective.{k}": v for k, v in trainer.objective.state_dict().items()}}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        found |= {f"{number}.{name}": value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return {name: value.clone() for name, value in found.items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in entry.items() if "second" not in k} for entry in history]


TRACES = ("kd", "both-cached", "views", "first-stage", "with-dropout")
"""Ways that differ in what the diagnosis touches."""
SOME_WAYS = [way if way in TRACES else pytest.param(way, marks=pytest.mark.exhaustive) for way in WAYS]


@pytest.mark.parametrize("way", SOME_WAYS)
def test_a_run_with_it_ends_in_the_bits_of_the_run_without_it_and_so_does_one_that_was_resumed(home, tmp_path, way):
    expected = tensors(fitted(trainer(home, **WAYS[way])))
    whole = fitted(trainer(home, **WAYS[way], diagnose=True), folder=tmp_path, after=(1, 2))
    assert any(name.startswith(PREFIX) for name in whole.progress.history[0])
    assert_equal(tensors(whole), expected)
    if way == "with-dropout":
        return  # what it drops is not drawn by step, so that no such run can be resumed to the bit
    resumed = trainer(home, **WAYS[way], diagnose=True)
    resumed.restore(checkpoint.newest(tmp_path, CPU)[0])
    fitted(resumed)
    assert_equal(tensors(resumed), expected)
    assert without_times(resumed.progress.history) == without_times(whole.progress.history)


@pytest.mark.parametrize("way", SOME_WAYS)
def test_it_leaves_no_trace(home, way):
    one = trainer(home, **WAYS[way], diagnose=True)
    one.start_epoch()
    for batch in one.batches():
        one.train_step(batch)
    before, gradients = tensors(one), [p.grad for p in one.network.parameters()]
    modes = [module.training for root in (one.network, one.objective) for module in root.modules()]
    attributes = [dict(vars(module)) for module in one.objective.modules()]
    numbers = torch.get_rng_state()
    assert one.diagnosis(0)
    assert_equal(tensors(one), before)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(a is p.grad for a, p in zip(gradients, one.network.parameters(), strict=True))
    assert modes == [module.training for root in (one.network, one.objective) for module in root.modules()]
    assert attributes == [vars(module) for module in one.objective.modules()]


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs() -> TeacherOutputs:
    drawn = torch.randn(IMAGES, CLASSES + WIDTH, generator=source(1))
    layer = torch.randn(WIDTH, CLASSES, generator=source(2))
    known = Knowledge(logits=3 * drawn[:, :CLASSES], embedding=drawn[:, CLASSES:])
    return TeacherOutputs(known, LABELS, lambda embedding: embedding @ layer)


def tekap(level: str, **settings) -> Tekap:
    spec = TekapSpec.model_validate({level: {"noise_weight": 0.5, "noise_std": 2.0, **settings}})
    return Tekap(spec, SeededNoise(spec, 3))


@pytest.mark.parametrize("level", ["logit", "feature"])
@pytest.mark.parametrize("teachers", [1, 2, 4])
@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_predictions_are_those_of_plain_formulas_in_float64(level, teachers, distribution):
    one = outputs()
    made = tekap(
        level, teachers=teachers, teacher_scale=0.7, teacher_loss_weight=1.5, loss_weight=0.6, distribution=distribution
    )
    found = {name: value.item() for name, value in augmented_diversity(one, made, level, -1, 64).items()}

    drawn = max(2, teachers)
    source_of = one.knowledge.logits if level == "logit" else one.knowledge.embedding
    noise = made.noise((drawn, *source_of.shape), "logits" if level == "logit" else "embedding", -1, CPU).double()
    teacher, others = source_of.double(), 0.7 * source_of.double() + 0.5 * 2.0 * noise
    if level == "feature":
        layer = one.classify(torch.eye(WIDTH)).double()
        teacher, others = teacher @ layer, others @ layer
    p, own = others.softmax(2), teacher.softmax(1)
    variance = ((p - p.mean(0)) ** 2).sum(0) / (drawn - 1)
    assert found["variance"] == pytest.approx(variance.mean().item(), rel=1e-4)
    differ = p[:teachers].argmax(2) != own.argmax(1)
    assert found["disagreement"] == pytest.approx(differ.double().mean().item(), rel=1e-6)
    ensemble = (1.5 * own + 0.6 * p[:teachers].sum(0)) / (1.5 + 0.6 * teachers)
    confidence, guess = ensemble.max(1)
    right = (guess == LABELS).double()
    assert found["ensemble_top1"] == pytest.approx(right.mean().item(), rel=1e-6)
    slots = (confidence * 15).ceil()
    error = sum(abs((right - confidence)[slots == slot].sum().item()) for slot in range(1, 16)) / IMAGES
    assert found["ensemble_calibration_error"] == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("together_", [64, 50, 1000])
def test_how_many_images_are_looked_at_together_makes_no_difference(together_):
    made = tekap("logit")
    expected, found = (augmented_diversity(outputs(), made, "logit", -1, size) for size in (7, together_))
    assert {k: v.item() for k, v in found.items()} == pytest.approx({k: v.item() for k, v in expected.items()})


def test_a_teacher_of_no_weight_is_not_in_the_ensemble():
    teacher, other = torch.randn(2, 6, 4, generator=source(0))
    alone = Predictions.of(teacher, other.unsqueeze(0), teacher_loss_weight=0.0, weight=0.3)
    torch.testing.assert_close(alone.ensemble, other.log_softmax(1))
    silent = Predictions.of(teacher, other.unsqueeze(0), teacher_loss_weight=2.0, weight=0.0)
    torch.testing.assert_close(silent.ensemble, teacher.log_softmax(1))


NO_NOISE = {"noise_weight": 0.0, "teacher_scale": 1.0}


@pytest.mark.parametrize("level", ["logit", "feature"])
def test_without_noise_nothing_differs_and_the_ensemble_is_the_teacher(home, level):
    method = {"method": "kd"} if level == "logit" else {"method": "at"}
    for found in diagnosed(home, **method, tekap={level: {**NO_NOISE, "teachers": 3}}):
        assert found[f"{level}_variance"] == 0
        assert found[f"{level}_disagreement"] == 0
        assert found[f"{level}_noise_share"] == 0
        assert found[f"{level}_ensemble_top1"] == found["teacher_top1"]
        teacher = found["teacher_calibration_error"]
        assert found[f"{level}_ensemble_calibration_error"] == pytest.approx(teacher, rel=1e-4)


def test_the_noise_of_published_feature_level_crd_reaches_no_gradient_of_the_student(home):
    loud = {"teachers": 2, "noise_std": 3.0}
    values = {"alpha": 1.0, "beta": 0.8, "tekap": {"feature": loud}}
    for found in diagnosed(home, method=CRD, **values):
        assert found["feature_noise_share"] == 0
        assert found["feature_variance"] > 0
        assert found["logit_noise_share"] > 0
    for found in diagnosed(home, method="at", **values):
        assert found["feature_noise_share"] > 0


def test_the_share_is_that_of_gradients_with_and_without_noise(home):
    noisy = {"method": "kd", "tekap": {"logit": {"noise_weight": 2.0}}}
    one = fitted(trainer(home, **noisy, epochs=1, diagnose=True))
    quiet = trainer(home, **noisy | {"tekap": {"logit": {"noise_weight": 0.0}}})
    shares, cosines = [], []
    for step in range(4):
        batch = list(one.train_batches.epoch(0))[step]
        g, g0, of_labels = (
            torch.cat([each.flatten() for each in torch.autograd.grad(loss(one, objective, batch), weights(one))])
            for objective, loss in ((one.objective, total), (quiet.objective, total), (one.objective, labels_alone))
        )
        shares.append(((g - g0).norm() / g.norm()).item())
        cosines.append((g @ of_labels / g.norm() / of_labels.norm()).item())
    found = one.progress.last
    assert found[f"{PREFIX}logit_noise_share"] == pytest.approx(sum(shares) / 4, rel=1e-4)
    assert found[f"{PREFIX}label_cosine"] == pytest.approx(sum(cosines) / 4, rel=1e-4)


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return list(trainer.network.parameters())


def total(trainer: Trainer, objective, batch) -> torch.Tensor:
    return sum(objective(trainer.network.knowledge(trainer.network.normalize(batch.images)), batch).values())


def labels_alone(trainer: Trainer, _, batch) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(trainer.network(trainer.network.normalize(batch.images)), batch.labels)


def test_of_several_teachers_the_figures_are_means(home):
    execute(parse({**QUICK, "kind": "student", "name": "other", "method": "kd"}), home, Silent())
    other = next(run.name for run in home.runs.iterdir() if "other" in run.name)
    one, two = (diagnosed(home, method="kd", teacher=name, epochs=1)[0] for name in ("resnet14", other))
    both = diagnosed(home, method="kd", teacher="resnet14", ensemble=[other], epochs=1)[0]
    for name in ("teacher_top1", "teacher_calibration_error"):
        assert one[name] != two[name]
        assert both[name] == pytest.approx((one[name] + two[name]) / 2)


def test_views_have_predictions_but_no_noise(home):
    (found,) = diagnosed(home, method="kd", angular={"views": 2}, epochs=1)
    assert {name for name in found if name.startswith(("logit", "feature"))} == set()
    assert not any(name.endswith("noise_share") for name in found)
    assert found["views_variance"] > 0
    (single,) = diagnosed(home, method="kd", angular={"views": 1}, epochs=1)
    assert "views_variance" not in single
    assert all(math.isfinite(value) for value in single.values())


def test_where_nobody_is_augmented_it_says_so_and_logs_nothing(home, logged):
    none = {"logit": {"teachers": 0}, "feature": {"teachers": 0}}
    one = build_run(parse({**QUICK, "method": "kd", "tekap": none, "diagnose": True}), home).trainer
    assert any("diagnose has nothing to log" in words for words in logged)
    assert one.diagnosis(0) == {}


def one_of_several(folder: str) -> tuple[list[dict[str, float]], list[str]]:
    """The metrics of a diagnosed run of several processes, and what ends otherwise than in a run without diagnosis."""
    home = Home(Path(folder))
    with join_process_group() as comm:
        values = {**QUICK, "method": CRD, "alpha": 1.0, "beta": 0.8, "sync_batch_norm": True}
        values["optimizer"] = {"learning_rate": 1e-3}  # at higher rates steps make much of the last digit
        histories, last = [], []
        for diagnose in (False, True):
            one = build_run(parse({**values, "diagnose": diagnose}), home, comm).trainer
            one.fit(Silent(), Keep(one))
            histories.append(one.progress.history)
            last.append(tensors(one))
    different = [name for name, value in last[0].items() if not torch.equal(value, last[1][name])]
    return histories[1], different


def test_several_processes_log_what_one_does_and_train_as_without_it(home):
    (alone, _), *_ = together(1, one_of_several, str(home.root))
    found = together(2, one_of_several, str(home.root))
    for history, different in found:
        assert different == []
        for entry, expected in zip(history, alone, strict=True):
            names = [name for name in expected if name.startswith(PREFIX) and not name.endswith("seconds")]
            assert {n: entry[n] for n in names} == pytest.approx({n: expected[n] for n in names}, rel=5e-3, abs=1e-6)

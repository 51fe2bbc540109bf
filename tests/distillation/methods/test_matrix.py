"""Every method with every family of networks, plain, with TeKAP and with views: one step, or a reasoned refusal."""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch

from tekapctl import models
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet
from tekapctl.distillation.angular import AngularViews
from tekapctl.distillation.methods import METHODS, Pair
from tekapctl.distillation.objective import Distillation
from tekapctl.distillation.tekap import SeededNoise, Tekap
from tekapctl.errors import UsageError
from tekapctl.models.knowledge import Requires, of_batch
from tekapctl.models.normalization import Normalization
from tekapctl.spec import parse
from tekapctl.train.teacher_statistics import class_features
from tekapctl.train.trainer import Trainer

CPU = torch.device("cpu")
STUDENTS = ("resnet8", "resnet8x4", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2")
TEACHERS = ("resnet14", "resnet8x4", "wrn_16_2", "vgg8", "ResNet50")
AUGMENTATIONS = {
    "none": {"tekap": {"logit": {"teachers": 0}, "feature": {"teachers": 0}}},
    "tekap": {"tekap": {"logit": {"teachers": 3}, "feature": {"teachers": 1}}},
    "views": {"angular": {"views": 2}},
}
EQUAL_WIDTHS = {"fsp", "kdsvd"}


def knowledge_of(name: str, batches: Batches):
    """A network with what it says of a small probe; made once for all its pairs."""
    torch.manual_seed(0)
    network = built(name).eval()
    with torch.no_grad():
        images = network.normalize(next(iter(batches.in_order())).images[:2])
        return network, network.knowledge(images, preactivations=True)


def built(name: str) -> models.Network:
    network = models.build(name, 10, 3)
    network.normalization = Normalization((0.5,) * 3, (0.25,) * 3)
    return network


@pytest.fixture(scope="module")
def batches() -> Batches:
    images = torch.randint(256, (24, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image_set = ImageSet(images, torch.arange(24) % 10, tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)
    return Batches(image_set, 4, device=CPU, padding=0, flip=False, seed=0)


@pytest.fixture(scope="module")
def networks(batches):
    return {name: knowledge_of(name, batches) for name in {*STUDENTS, *TEACHERS}}


def pair_of(batches: Batches, ours, network: models.Network, theirs) -> Pair:
    """What a run tells a method of both networks and the training set."""
    features = partial(class_features, network, batches.image_set, CPU, torch.float32)
    classifier = network.classifier_layer
    return Pair(ours, theirs, batches.labels, 0, len(batches), classifier=classifier, class_features=features)


def trainer(batches, networks, method: str, student: str, teacher: str, augmentation: str) -> Trainer:
    values = {"student": student, "method": {"name": method} | ({"negatives": 8} if method == "crd" else {})}
    if method == "kd":
        values |= {"alpha": 0.9}
    spec = parse({**values, "batch_size": 4, "precision": "float32", **AUGMENTATIONS[augmentation]})
    (_, ours), (network, theirs) = networks[student], networks[teacher]
    pair = pair_of(batches, ours, network, theirs)
    learner = spec.method.learner(built(student), pair) if spec.beta else built(student)
    with torch.no_grad():
        seen = learner.eval().knowledge(learner.normalize(batches.probe(2)), preactivations=True)
    method_loss = spec.method.build(replace(pair, student=seen)) if spec.beta else None
    requires = Requires() if method_loss is None else method_loss.requires
    sample = of_batch(network.knowledge, network.normalize, next(batches.epoch(0, strong=True)), requires)
    objective = Distillation(
        lambda batch: of_batch(network.knowledge, network.normalize, batch, requires),
        Tekap(spec.tekap, SeededNoise(spec.tekap, 0)),
        method_loss,
        gamma=spec.gamma,
        alpha=spec.alpha,
        beta=spec.beta,
        temperature=4.0,
        views=AngularViews(spec.angular, sample, 4.0, 0) if spec.angular.views else None,
    )
    return Trainer(spec, learner.train(), objective, batches, batches, torch.float32)


def steps_or_refuses(batches, networks, method: str, student: str, teacher: str, augmentation: str) -> None:
    batch = next(batches.epoch(0, strong=True))
    try:
        trained = trainer(batches, networks, method, student, teacher, augmentation)
    except UsageError as error:
        widths = [[s.shape[1] for s in networks[name][1].feature_maps] for name in (student, teacher)]
        assert method in EQUAL_WIDTHS, f"{method} refuses {teacher} > {student}: {error}"
        assert widths[0] != widths[1], f"{method} refuses {teacher} > {student}: {error}"
        return
    stages = [True, False] if trained.spec.init_epochs else [False]
    for trained.objective.init_stage in stages:
        trained.optimizer.state.clear()  # as between the stages of a run
        parts = trained.step(batch)
        assert all(torch.isfinite(value) for value in parts.values()), (method, student, teacher, parts)


@pytest.mark.parametrize("method", METHODS.names())
def test_one_step_with_every_network(batches, networks, method):
    # All networks and augmentations for each method; five methods in a row have all pairs between them.
    number = METHODS.names().index(method)
    for place, student in enumerate(STUDENTS):
        teacher, augmentation = TEACHERS[(place + number) % len(TEACHERS)], [*AUGMENTATIONS][place % len(AUGMENTATIONS)]
        steps_or_refuses(batches, networks, method, student, teacher, augmentation)


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", METHODS.names())
def test_one_step_of_every_pair(batches, networks, method):
    augmentations = itertools.cycle(AUGMENTATIONS)
    for (student, teacher), augmentation in zip(itertools.product(STUDENTS, TEACHERS), augmentations, strict=False):
        steps_or_refuses(batches, networks, method, student, teacher, augmentation)


@pytest.mark.parametrize("method", [name for name in METHODS.names() if name not in ("kd", "ab", "fsp")])
def test_the_methods_loss_reaches_the_student_and_augmentation_changes_it(batches, networks, method):
    found = []
    for augmentation in AUGMENTATIONS:
        torch.manual_seed(1)
        trained = trainer(batches, networks, method, "resnet8", "resnet14", augmentation)
        batch = next(batches.epoch(0, strong=True))
        student = of_batch(trained.network.knowledge, trained.network.normalize, batch, trained.objective.requires)
        loss = trained.objective(student, batch)["method"]
        loss.backward()
        gradient = sum(p.grad.abs().sum() for p in trained.network.parameters() if p.grad is not None)
        assert gradient > 0
        found.append(loss.item())
    assert len(set(found)) == len(AUGMENTATIONS)


@pytest.mark.parametrize("method", METHODS.names())
def test_a_network_of_one_feature_map_works_or_is_refused_before_training(batches, networks, method):
    ours, (network, theirs) = networks["resnet8"][1], networks["resnet14"]
    few = replace(ours, feature_maps=ours.feature_maps[-1:], preactivations=ours.preactivations[-1:])
    try:
        loss = parse({"method": method}).method.build(pair_of(batches, few, network, theirs))
    except UsageError as error:
        assert "has only" in error.problem or "hint_layer" in error.remedy, error
        return
    if loss is not None and loss.requires.feature_maps:
        assert loss.loss(few, theirs, next(batches.in_order())).isfinite()

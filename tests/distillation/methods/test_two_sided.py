"""With several augmented teachers, the student's side of a loss is computed once per step."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from conformance.inputs import built, labelled
from tekapctl import models
from tekapctl.distillation.methods import METHODS
from tekapctl.distillation.methods.method import TwoSidedMethod
from tekapctl.distillation.tekap import AugmentedTeachers, FeatureTekap, SeededNoise, Tekap, TekapSpec
from tekapctl.models.knowledge import Knowledge

LABELS = torch.arange(6) % 3
SPEC = FeatureTekap(teachers=3, teacher_loss_weight=0.7, loss_weight=0.4)
# CRD has a test of its own, and SimKD's student is another network.
FEATURE_METHODS = sorted(
    name for name in {*METHODS.names()} - {"crd", "simkd"} if METHODS[name].requires.level == "feature"
)
SIDED = ("ab", "cc", "embed", "fitnet", "ft", "ofd", "reviewkd", "seed", "srrl", "vid", "wkd-f")


def knowledge(name: str, seed: int) -> tuple[models.Network, Knowledge]:
    torch.manual_seed(seed)
    network = models.build(name, 3, 3).eval()
    with torch.no_grad():
        return network, network.knowledge(torch.randn(6, 3, 16, 16), preactivations=True)


def case(name: str, teacher: str):
    """A method, the student, and its teacher with three augmented ones."""
    (_, student), (network, theirs) = knowledge("resnet8", 0), knowledge(teacher, 1)
    augmented = Tekap(TekapSpec(feature=SPEC), SeededNoise(TekapSpec(feature=SPEC), 0)).augment_features(theirs, 0)
    method = built(METHODS[name](), student, theirs, labels=LABELS, classifier=network.classifier_layer)
    return method.train(), student, augmented


def weighted_losses(loss, student: Knowledge, augmented: AugmentedTeachers) -> torch.Tensor:
    """The losses under each teacher, one after the other."""
    weights = [SPEC.teacher_loss_weight, *[SPEC.loss_weight] * SPEC.teachers]
    return sum(
        w * loss(student, each, labelled(LABELS))
        for w, each in zip(weights, (augmented.teacher, *augmented), strict=True)
    )


@pytest.mark.parametrize("name", FEATURE_METHODS)
def test_the_loss_is_that_of_each_teacher(name):
    method, student, augmented = case(name, "resnet14" if name in ("fsp", "kdsvd") else "resnet8x4")
    each = copy.deepcopy(method)
    stages = [(method.augmented_loss, each.loss)]
    if "init_epochs" in METHODS[name].model_fields:
        stages.append((method.augmented_init_loss, each.init_loss))
    for together, alone in stages:
        leaf = student.map(lambda maps: maps.clone().requires_grad_())
        found = together(leaf, augmented.teacher, augmented, labelled(LABELS))
        torch.testing.assert_close(found, weighted_losses(alone, leaf, augmented), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in FEATURE_METHODS if name not in ("fsp", "kdsvd")])
def test_a_batch_norm_sees_a_batch_once(name):
    method, student, augmented = case(name, "resnet8x4")
    norms = [module for module in method.modules() if isinstance(module, nn.BatchNorm2d)]
    loss = method.augmented_init_loss if method.init_only else method.augmented_loss
    loss(student, augmented.teacher, augmented, labelled(LABELS))
    assert {int(norm.num_batches_tracked) for norm in norms} <= {1}
    if name in ("ab", "fitnet", "ft", "ofd", "reviewkd", "srrl", "wkd-f"):
        assert norms


@pytest.mark.parametrize(
    "name", ["ab", "cc", "embed", "fitnet", "ft", "ofd", "reviewkd", "seed", "srrl", "vid", "wkd-f"]
)
def test_trained_parts_of_the_students_side_run_once(name):
    method, student, augmented = case(name, "resnet8x4")
    assert isinstance(method, TwoSidedMethod)
    runs: dict[str, int] = {}
    for part, module in method.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.register_forward_hook(lambda *_, part=part: runs.update({part: runs.get(part, 0) + 1}))
    loss = method.augmented_init_loss if method.init_only else method.augmented_loss
    loss(replace(student), augmented.teacher, augmented, labelled(LABELS))
    theirs = {part for part in runs if part.startswith(("paraphraser", "embed_teacher"))}
    assert {runs[part] for part in runs if part not in theirs} == {1}
    assert {runs[part] for part in theirs} <= {1 + SPEC.teachers}

"""A student with its teacher's classifier: made, stored, loaded and refused."""

import json

import pytest
import torch

from tekapctl import models
from tekapctl.distillation.methods import Pair
from tekapctl.distillation.methods.simkd import SimKDSpec
from tekapctl.errors import UsageError
from tekapctl.models.network import pool
from tekapctl.models.reused import NAME, ReusedClassifier
from tekapctl.store.weights import save_weights
from tekapctl.train.references import Reference
from tekapctl.train.trained import load

IMAGES = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def made(student: str, teacher: str) -> tuple[ReusedClassifier, models.Network]:
    torch.manual_seed(0)
    ours, theirs = (models.build(name, 7, 1).eval() for name in (student, teacher))
    with torch.no_grad():
        pair = Pair(ours.knowledge(IMAGES), theirs.knowledge(IMAGES), torch.arange(7), 0)
    pair = Pair(pair.student, pair.teacher, pair.labels, 0, classifier=theirs.classifier_layer)
    return SimKDSpec().learner(ours, pair).eval(), theirs


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("resnet8", "resnet8x4"), ("MobileNetV2", "vgg8"), ("vgg8", "MobileNetV2"), ("torchvision:resnet18", "wrn_16_1")],
)
def test_what_is_stored_is_loaded_and_says_the_same(tmp_path, student, teacher):
    network, of_teacher = made(student, teacher)
    model, arguments = network.recipe(student, {})
    assert model == NAME
    stated = {"model": model, "model_args": json.dumps(arguments), "num_classes": "7", "in_channels": "1"}
    path = tmp_path / "weights.safetensors"
    save_weights(path, network.state_dict(), stated)
    found = load(Reference(str(path), path, "a file")).network
    torch.testing.assert_close(found(IMAGES), network(IMAGES))
    knowledge = found.knowledge(IMAGES, preactivations=True)
    torch.testing.assert_close(pool(knowledge.feature_maps[-1]), knowledge.embedding)
    torch.testing.assert_close(knowledge.feature_maps[-1], knowledge.preactivations[-1].relu())
    torch.testing.assert_close(of_teacher.classifier_layer(knowledge.embedding), knowledge.logits)


def test_the_classifier_is_not_trained_and_the_students_own_is_gone():
    network, of_teacher = made("resnet8", "resnet14")
    fixed = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert fixed == ["classifier.weight", "classifier.bias"]
    assert not any(name.startswith("student.fc") for name in network.state_dict())
    assert network.classifier.weight.data_ptr() != of_teacher.classifier_layer.weight.data_ptr()


@pytest.mark.parametrize(
    "damage",
    [{"student": NAME}, {"student": 3}, {"outputs": 0}, {"factor": 2.0}, {"most": [1]}, {"most": 3}, {"bias": 1}],
)
def test_damaged_recipes_are_refused(damage):
    network, _ = made("resnet8", "resnet14")
    model, arguments = network.recipe("resnet8", {})
    with pytest.raises(UsageError, match="damaged"):
        models.build(model, 7, 1, arguments | damage)
    with pytest.raises(UsageError, match="damaged"):
        models.build(model, 7, 1, {key: arguments[key] for key in arguments if key not in damage} | {"other": 1})


def test_nobody_asks_for_one_as_a_student():
    with pytest.raises(UsageError):
        models.check(NAME)

"""What a perturbation knows of its teacher: asked when it is needed, and once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from helpers.logs import recorded
from tekapctl import data, models
from tekapctl.data import data_spec
from tekapctl.data.files.scanning import decode_all
from tekapctl.distillation.perturbations.noise import Isotropic
from tekapctl.models.normalization import Normalization
from tekapctl.spec import parse
from tekapctl.spec.effects import keep
from tekapctl.store.home import Home
from tekapctl.train.build import RunContext, build_trainer, sibling
from tekapctl.train.images import make_batches
from tekapctl.train.references import Reference
from tekapctl.train.source import open_teachers, shared
from tekapctl.train.teacher_statistics import MOST_IMAGES, statistics_of
from tekapctl.train.trained import Trained, fit_to

CPU = torch.device("cpu")
NOWHERE = Path("nowhere")
SPEC = {
    "data": {"name": "digits", "train_fraction": 0.1},
    "teacher": "resnet14",
    "student": "resnet8",
    "precision": "float32",
    "method": "kd",
}
COVARIANCE = {"logit": {"perturbation": "covariance"}}


def a_teacher(name: str = "resnet14") -> Trained:
    torch.manual_seed(len(name))
    return Trained(models.build(name, 10, 1).eval(), name, None, None, "0" * 64, Reference(name, NOWHERE, name))


def prepared(spec) -> tuple[RunContext, list[str]]:
    """What a run of a spec would train with, and how often its teachers were asked for that."""
    splits = data.load(spec.data, NOWHERE, seed=0, in_channels=1)
    teachers = [a_teacher(name) for name in (spec.teacher, *spec.ensemble)]
    with recorded() as said:
        train, test = make_batches(spec, splits, CPU)
        sources = shared(open_teachers(spec, teachers, splits, train, Home(NOWHERE)))
        trainer = build_trainer(spec, splits, sources, train, test)
    return RunContext(spec, splits, tuple(sources), None, None, trainer), [
        line for line in said if "is asked of" in line
    ]


def test_it_is_what_the_teacher_says_of_the_images_as_they_are():
    splits = data.load(parse(SPEC).data, NOWHERE, seed=0, in_channels=1)
    teacher = a_teacher()
    fit_to(teacher, splits.train, "digits")
    network = teacher.network
    found = statistics_of(network, splits.train, CPU, torch.float32)
    pixels = splits.train.images.float() / 255
    with torch.no_grad():
        said = network.knowledge((pixels - splits.train.mean[0]) / splits.train.std[0])
    assert_close(found.logits.float(), said.logits, rtol=1e-3, atol=1e-4)
    assert_close(found.embedding_squares, said.embedding.double().square().mean(0), rtol=1e-3, atol=1e-5)
    assert torch.equal(found.labels, splits.train.labels)


def test_images_that_stay_in_their_files_are_asked_of_too(tmp_path):
    random = np.random.default_rng(0)
    for number in range(26):
        path = tmp_path / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    section = data_spec({"name": f"folder:{tmp_path}", "size": 16, "augmentation": "resized-crop", "workers": 1})
    train = section.load(tmp_path).train
    decoded = replace(train, images=decode_all(train.images)[0])
    torch.manual_seed(0)
    network = models.build("resnet8", 2, 3).eval()
    network.normalization = Normalization(train.mean, train.std)
    streamed, held = (statistics_of(network, images, CPU, torch.float32) for images in (train, decoded))
    assert torch.equal(streamed.logits, held.logits)
    assert torch.equal(streamed.labels, held.labels)


def test_of_a_large_set_some_images_are_asked_of_evenly_spread():
    large = {
        "name": "synthetic",
        "classes": 10,
        "samples": MOST_IMAGES + 5000,
        "test_samples": 10,
        "size": 8,
        "channels": 1,
    }
    setting, asked = prepared(parse({**SPEC, "data": large, "tekap": COVARIANCE, "teacher": "resnet8"}))
    assert f"{MOST_IMAGES:,} training images" in asked[0]
    assert len(setting.splits.train) == MOST_IMAGES + 5000


WITHOUT_NOISE = keep(parse({**SPEC, "tekap": COVARIANCE}), ["weight", "shrink"])


@pytest.mark.parametrize(
    "spec",
    [
        parse(SPEC),
        parse({**SPEC, "tekap": {"logit": {"perturbation": "covariance", "teachers": 0}}}),
        parse({**SPEC, "method": {"name": "crd", "negatives": 20}, "tekap": COVARIANCE}),
        parse({**SPEC, "method": "dkd", "beta": 0.0, "gamma": 1.0, "tekap": COVARIANCE}),
        WITHOUT_NOISE,
    ],
    ids=["isotropic", "no augmented teachers", "features alone", "cross-entropy alone", "control without noise"],
)
def test_nobody_is_asked_where_no_logits_are_perturbed(spec):
    setting, asked = prepared(spec)
    assert not asked
    assert isinstance(setting.trainer.objective.tekap.perturbation, Isotropic)


@pytest.mark.parametrize("method", ["kd", "dkd", "mlkd"])
def test_a_teacher_is_asked_once(method):
    setting, asked = prepared(parse({**SPEC, "method": method, "tekap": COVARIANCE}))
    assert len(asked) == 1
    other = sibling(setting, setting.spec.model_copy(update={"seed": 1}))
    perturbations = [each.trainer.objective.tekap.perturbation for each in (setting, other)]
    assert perturbations[0] is perturbations[1]
    assert len(asked) == 1


def test_each_teacher_of_an_ensemble_has_its_own():
    setting, asked = prepared(parse({**SPEC, "ensemble": ["resnet8"], "tekap": COVARIANCE}))
    assert len(asked) == 2
    first, second = (each.tekap.perturbation.root for each in setting.trainer.objective.distillations)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("kept", [["noise"], ["noise", "shrink"], ["noise", "weight"]])
def test_controls_keep_the_perturbation(kept):
    spec = keep(parse({**SPEC, "tekap": {"logit": {"perturbation": "mixing"}}}), kept)
    assert spec.tekap.logit.perturbation == "mixing"
    assert len(prepared(spec)[1]) == 1

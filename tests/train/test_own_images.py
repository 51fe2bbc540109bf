"""Runs on images of one's own: what is trained on which images, and with which settings."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.logs import recorded
from helpers.silent import Silent
from tekapctl.commands.cost import estimate
from tekapctl.commands.evaluate import evaluate
from tekapctl.data import data_spec
from tekapctl.data.files.listing import list_images
from tekapctl.errors import UsageError
from tekapctl.experiments.comparison.groups import find, group
from tekapctl.experiments.sweeps.plan import plan
from tekapctl.report.predictions import Predictor
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.store.runs import Runs
from tekapctl.train import references
from tekapctl.train.run import execute, resume

QUICK = {"epochs": 1, "batch_size": 16, "device": "cpu", "precision": "float32"}
STUDENT = {**QUICK, "student": "resnet8", "teacher": "resnet8", "name": "taught"}


def pictures(folder: Path, classes: str, count: int = 14) -> str:
    """A folder dataset whose classes differ in brightness."""
    random = np.random.default_rng(len(classes))
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = random.integers(40 * number, 40 * number + 60, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return f"folder:{folder}"


def run(home: Home, **values) -> tuple[str, list[str]]:
    """A run's id, and what it said."""
    with recorded() as lines:
        return execute(parse({**QUICK, **values}), home, Silent())["run"], lines


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def teachers(home, place) -> dict[str, str]:
    """A teacher of one set of images, and then one of another."""
    settings = {"size": 16, "channels": "grey", "test_fraction": 0.3}
    return {
        classes: run(
            home, kind="teacher", model="resnet8", data={"name": pictures(place / classes, classes), **settings}
        )[0]
        for classes in ("abc", "abcd")
    }


def test_a_teacher_by_name_is_the_one_of_the_same_images_and_lends_its_settings(home, place, teachers):
    for classes, teacher in teachers.items():
        student, said = run(home, **STUDENT, data=f"folder:{place / classes}")
        spec = Runs(home.runs).find(student)
        found = references.data_of_run(spec)
        assert (found.size, found.channels, found.test_fraction) == (16, "grey", 0.3)
        assert found == references.data_of_run(Runs(home.runs).find(teacher))
        assert any(f"run of resnet8, {teacher}" in line for line in said), said


def test_a_networks_name_means_the_run_on_the_same_images_wherever_it_is_named(home, place, teachers):
    for classes, teacher in teachers.items():
        data = f"folder:{place / classes}"
        assert evaluate(home, "resnet8", dataset=data)["reference"] == teacher
        assert references.find(home, "resnet8", data=data_spec(data)).name == teacher


def test_the_cost_of_a_student_is_that_with_the_best_weights_of_its_teacher(home, place, teachers):
    student = {**STUDENT, "kind": "student", "data": f"folder:{place / 'abc'}"}
    costs = [estimate(parse({**student, "teacher": f"{teachers['abc']}{which}"}), home) for which in ("", ":best")]
    assert costs[0] == costs[1]


def test_a_run_begins_by_saying_what_it_trains(home, place, teachers):
    _, said = run(home, **STUDENT, data=f"folder:{place / 'abc'}", alpha=2.0, gamma=1.0)
    told = "\n".join(said)
    listing = list_images(place / "abc", 0.3, 0)
    for words in (
        f"{len(listing.train)} training and {len(listing.test)} test images of 3 classes, 16x16 pixels, 1 channel",
        "30% for testing, chosen by a hash of the file names",
        "teacher: resnet8 from newest finished run of resnet8",
        "% on the test images",
        "student: resnet8, ",
        "method: kd, 3 augmented teachers at the logit level",
        "loss: 1 cross-entropy + 2 KD (temperature 4)",
        "training: 1 epoch, batch size 16, learning rate 0.05, seed 0, cpu",
        "float32",
    ):
        assert words in told, told


def test_given_settings_that_differ_from_the_teachers_are_refused_with_both_values(home, place, teachers):
    data = {"name": f"folder:{place / 'abc'}", "size": 32}
    with pytest.raises(UsageError, match=r"data\.size is 32, but the teacher was trained with 16"):
        run(home, **{**STUDENT, "teacher": teachers["abc"]}, data=data)


def test_a_teacher_of_other_images_is_found_by_its_run_alone_and_warned_of(home, place, teachers):
    pictures(place / "more", "abc")
    pictures(place / "more", "abc", count=15)
    with pytest.raises(UsageError) as error:
        run(home, **STUDENT, data=f"folder:{place / 'more'}")
    assert "No resnet8 was trained on these images" in str(error.value)
    assert teachers["abc"] in str(error.value)
    _, said = run(home, **{**STUDENT, "teacher": teachers["abc"]}, data=f"folder:{place / 'more'}")
    assert any(line.startswith("the images of") for line in said), said


def test_a_run_whose_images_have_changed_does_not_go_on(home, place):
    pictures(place / "changing", "ab", 20)
    student, _ = run(home, kind="teacher", model="resnet8", data=f"folder:{place / 'changing'}")
    found = Runs(home.runs).find(student)
    (found.path / "summary.json").unlink()
    (place / "changing" / "a" / "0.png").rename(place / "changing" / "a" / "late.png")
    with pytest.raises(UsageError, match="have changed since the spec was written"):
        resume(student, home, Silent())


def test_weights_are_measured_on_their_own_test_images_wherever_they_are(home, place):
    folder = pictures(place / "split", "abc", 20)
    settings = {"size": 16, "channels": "grey", "test_fraction": 0.5, "split_seed": 7}
    teacher, _ = run(home, kind="teacher", model="resnet8", data={"name": folder, **settings})
    weights = Runs(home.runs).find(teacher).weights
    shutil.copy(weights, place / "elsewhere.safetensors")
    own = evaluate(home, teacher)["evaluation"]
    for name in (teacher, str(weights), str(place / "elsewhere.safetensors")):
        with recorded() as said:
            found = evaluate(home, name, dataset=folder)["evaluation"]
        assert (found["images"], found["top1"]) == (own["images"], own["top1"])
        assert not said
    pictures(place / "split", "abc", 21)
    with recorded() as said:
        evaluate(home, teacher)
    assert "the images of" in said[-1]
    with pytest.raises(UsageError, match="have changed"):
        Predictor(home).student(group(find(home, [teacher]))[0])


def test_runs_on_different_images_are_different_experiments(home, place, teachers):
    found = group(find(home, list(teachers.values())))
    assert len(found) == 2
    assert {each.label for each in found} == {"abc: no distillation", "abcd: no distillation"}
    table = {"name": "x", "spec": QUICK, "grid": {"kind": ["teacher"], "model": ["resnet8"]}}
    digests = []
    for classes in ("abc", "abcd"):
        data = {"name": "folder", "folder": str(place / classes)}
        digests += plan({**table, "spec": {**QUICK, "data": data}}, home.datasets).trials
    assert len(set(digests)) == 2


def test_the_same_images_elsewhere_are_the_same_experiment(home, place, teachers, tmp_path):
    pictures(tmp_path / "copy", "abc")
    one, other = (data_spec(f"folder:{folder}").pinned(tmp_path) for folder in (place / "abc", tmp_path / "copy"))
    assert one.is_same_as(other)


def test_a_network_that_only_guesses_is_warned_of(home, tmp_path):
    random = np.random.default_rng(0)
    for number in range(80):
        path = tmp_path / "noise" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
    _, said = run(home, kind="teacher", model="resnet8", data={"name": f"folder:{tmp_path / 'noise'}", "size": 16})
    assert any("is hardly better than guessing" in line for line in said), said

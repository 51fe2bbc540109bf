"""Every study's design: arms that differ in what they say they differ in, contrasts between arms that are there."""

import itertools
import subprocess
import sys

import pytest

from tekapctl.errors import UsageError
from tekapctl.experiments.studies import STUDIES
from tekapctl.experiments.studies.study import Design, StudySetup
from tekapctl.spec import StudentSpec, TeacherSpec, parse, to_dict

WAYS = {
    "logit": {"method": "kd"},
    "feature": {"method": "crd"},
    "both": {"method": "crd", "alpha": 1.0},
    "other": {"method": "sp", "beta": 3000.0, "tekap": {"feature": {"teachers": 1}}},
}

NOT_FOR = {("perturbations", "feature"), ("perturbations", "other")}
"""Perturbations are of logits."""


def design(name: str, settings=None, **values) -> Design:
    spec = parse({"student": "resnet8", "teacher": "resnet20", "data": "digits", "epochs": 2, **values})
    assert isinstance(spec, StudentSpec)
    return STUDIES[name](**(settings or {})).design(StudySetup(spec))


def specs(made: Design) -> dict[str, dict]:
    return {arm.label: to_dict(arm.spec) for arm in made.arms}


def tekap_weight(spec: dict, level: str) -> float:
    settings = spec["tekap"][level]
    return settings["teacher_loss_weight"] + settings["teachers"] * settings["loss_weight"]


BY_WAY = [(name, way) for name, way in itertools.product(STUDIES, WAYS) if (name, way) not in NOT_FOR]


@pytest.mark.parametrize(("name", "way"), BY_WAY)
def test_arms_have_names_of_their_own_and_contrasts_add_up_to_nothing(name, way):
    made = design(name, **WAYS[way])
    labels = [arm.label for arm in made.arms]
    assert len(set(labels)) == len(labels)
    assert made.contrasts
    for contrast in made.contrasts:
        assert set(contrast.weights) <= set(labels)
        assert sum(contrast.weights.values()) == pytest.approx(0, abs=1e-12)
        assert any(contrast.weights.values())
    told = [contrast.label for contrast in made.contrasts]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(("name", "way"), BY_WAY)
def test_nothing_but_what_a_study_is_about_differs_between_its_arms(name, way):
    """What the user said of the run is in every arm that is a student's."""
    made = design(name, batch_size=32, temperature=3.0, **WAYS[way])
    for arm in made.arms:
        assert arm.spec.batch_size == 32
        assert arm.spec.epochs == 2
        if isinstance(arm.spec, StudentSpec):
            assert arm.spec.temperature == 3.0
            assert arm.spec.method.name == WAYS[way]["method"]


@pytest.mark.parametrize("name", sorted(set(STUDIES) - {"cost"}))
def test_without_augmented_teachers_there_is_nothing_to_study(name):
    with pytest.raises(UsageError, match="no augmented teachers"):
        design(name, tekap={"logit": {"teachers": 0}, "feature": {"teachers": 0}})


def test_controls_of_kd_are_all_combinations_of_its_effects():
    made = specs(design("controls"))
    combinations = {
        (
            tekap_weight(spec, "logit") > 1,
            spec["tekap"]["logit"]["teachers"] > 0 and spec["tekap"]["logit"]["teacher_scale"] < 1,
            spec["tekap"]["logit"]["teachers"] > 0 and spec["tekap"]["logit"]["noise_weight"] > 0,
        )
        for spec in made.values()
    }
    assert len(combinations) == len(made) == 8


def live(spec: StudentSpec) -> dict[tuple[str, str], object]:
    """The settings that mean anything: without augmented teachers only the teacher's own weight does."""
    return {
        (level, field): value
        for level, settings in to_dict(spec)["tekap"].items()
        for field, value in settings.items()
        if settings["teachers"] or field == "teacher_loss_weight"
    }


@pytest.mark.parametrize(
    ("effect", "fields"),
    [
        ("weight", {"teacher_loss_weight", "loss_weight"}),
        ("shrink", {"teacher_scale"}),
        ("noise", {"noise_weight"}),
        ("student-term", {"student_term_weight"}),
        ("bank-updates", {"bank_updates"}),
    ],
)
def test_an_effect_is_looked_at_between_arms_that_differ_in_it_alone(effect, fields):
    made = design("controls", method="crd", alpha=1.0)
    assert len(made.arms) == 12
    arms = {arm.label: arm.spec for arm in made.arms}
    (contrast,) = (each for each in made.contrasts if each.label.startswith(effect))
    more, fewer = (
        [live(arms[label]) for label, weight in contrast.weights.items() if sign * weight > 0] for sign in (1, -1)
    )
    assert len(more) == len(fewer) == 2
    with_all, without = more[0], fewer[0]
    assert with_all == live(arms["CRD + KD + TeKAP"])
    differing = {field for key in with_all | without for field in [key[1]] if with_all.get(key) != without.get(key)}
    assert differing == fields


def test_one_weight_whatever_the_number_of_augmented_teachers():
    made = specs(design("teachers", {"counts": (1, 3, 16)}))
    kept = [
        tekap_weight(spec, "logit") for label, spec in made.items() if ", weight of" in label or label.endswith("of 3")
    ]
    assert kept == pytest.approx([3.4] * len(kept))
    for count in (1, 3, 16):
        growing, alone = made[f"KD + TeKAP of {count}"], made[f"KD with the weight of {count}"]
        assert growing["tekap"]["logit"]["teachers"] == count
        assert tekap_weight(growing, "logit") == pytest.approx(1 + 0.8 * count)
        assert alone["tekap"]["logit"]["teachers"] == 0
        assert tekap_weight(alone, "logit") == pytest.approx(1 + 0.8 * count)


def test_noise_changes_nothing_else():
    made = specs(design("noise", {"factors": (2.0, 5.0)}))
    nothing = made.pop("KD + TeKAP without noise")["tekap"]["logit"]
    assert nothing["noise_weight"] == 0
    for label, spec in made.items():
        distribution, _, factor = label.partition(" x ")
        found = spec["tekap"]["logit"]
        assert found["noise_std"] == pytest.approx(float(factor))
        assert found["distribution"] == distribution
        for field in ("teachers", "teacher_scale", "loss_weight", "teacher_loss_weight"):
            assert found[field] == nothing[field]


@pytest.mark.parametrize(
    ("name", "settings", "field"),
    [("few-shot", {"fractions": (0.25, 0.5)}, "train_fraction"), ("imbalance", {"factors": (10.0, 50.0)}, "imbalance")],
)
def test_training_sets_are_the_same_for_all_ways(name, settings, field):
    made = design(name, settings)
    (values,) = settings.values()
    for value in values:
        assert sum(getattr(arm.spec.data, field) == value for arm in made.arms) == 4
    assert sum(isinstance(arm.spec, TeacherSpec) for arm in made.arms) == len(values)


def test_shares_are_of_what_the_user_takes_of_the_data():
    made = design("few-shot", {"fractions": (0.5,)}, data={"name": "digits", "train_fraction": 0.2})
    assert {arm.spec.data.train_fraction for arm in made.arms} == {0.1}


def test_the_cost_study_trains_the_ensemble_and_the_assistant():
    made = design("cost", {"ensemble": 3}, data={"name": "digits", "train_fraction": 0.2})
    *further, assistant = made.prerequisites
    assert [each.spec.seed for each in further] == [1, 2]
    assert all(each.spec.data.train_fraction == 1 for each in further)
    assert assistant.spec.student == "resnet14"
    assert assistant.spec.tekap == assistant.spec.tekap.without()
    of_many = next(arm.spec for arm in made.arms if "3 teachers" in arm.label)
    by_way = next(arm.spec for arm in made.arms if "assistant" in arm.label)
    assert of_many.ensemble == tuple(each.label for each in further)
    assert by_way.teacher == assistant.label


def test_a_teacher_that_is_a_run_does_not_say_what_further_ones_should_be():
    with pytest.raises(UsageError, match="does not say which network"):
        design("cost", teacher="20260101-run")


@pytest.mark.parametrize("way", ["feature", "other"])
def test_perturbations_of_logits_need_a_loss_that_compares_logits(way):
    with pytest.raises(UsageError, match="at the logit level"):
        design("perturbations", **WAYS[way])


def test_perturbations_are_of_one_size_and_weight():
    made = design("perturbations", {"factors": (2.0, 10.0)})
    arms = {arm.label: arm.spec for arm in made.arms}
    for label, spec in arms.items():
        perturbation, _, factor = label.partition(" x ")
        weight = spec.alpha * tekap_weight(to_dict(spec), "logit") if not spec.angular.views else spec.alpha
        assert weight == pytest.approx(0.9 * 3.4)
        if factor:
            assert spec.tekap.logit.perturbation == perturbation
            assert spec.tekap.logit.noise_std == pytest.approx(float(factor))
            assert spec.tekap.logit.teacher_scale == 0.9
    assert arms["5 learned views"].angular.views == 5
    assert all(set(each.weights) & {"KD + TeKAP without noise"} for each in made.contrasts)


def test_some_perturbations_may_be_chosen():
    made = design("perturbations", {"only": ("dropout",), "views": False})
    assert [arm.label for arm in made.arms] == ["KD + TeKAP without noise", "dropout x 10"]
    with pytest.raises(ValueError, match="no perturbation named 'dropuot'"):
        design("perturbations", {"only": ("dropuot",)})


NEW_STUDY = '''
from typing import ClassVar

from tekapctl.experiments.studies.contrasts import trend
from tekapctl.experiments.studies.study import STUDIES, Arm, Design, Study, changed, name_of


@STUDIES.register("temperature")
class Temperature(Study):
    """Several temperatures."""

    question: ClassVar[str] = "Which temperature is best?"
    temperatures: tuple[float, ...] = (1.0, 2.0, 4.0)

    def design(self, setup):
        labels = {t: f"{name_of(setup.spec)}, T = {t:g}" for t in self.temperatures}
        arms = [Arm(label, changed(setup.spec, temperature=t), "temperature", t) for t, label in labels.items()]
        return Design(arms, [trend("temperature", list(labels.values()), list(labels))], axis="temperature")
'''

PLAN_NEW_STUDY = """
import sys
from pathlib import Path
from tekapctl.experiments import studies

studies.__path__.append(sys.argv[1])
from tekapctl.experiments.studies import planning
from tekapctl.spec import parse
from tekapctl.store.home import Home

planned = planning.plan("temperature", parse({"data": "digits"}), Home(Path(sys.argv[1])), seeds=2, is_dry=True)
print("|".join(trial.label for trial in planned.plan.trials.values()))
"""


def test_a_study_is_one_new_file(tmp_path):
    (tmp_path / "temperature.py").write_text(NEW_STUDY)
    done = subprocess.run(
        [sys.executable, "-c", PLAN_NEW_STUDY, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().split("|") == [f"KD, T = {t}, seed {seed}" for t in (1, 2, 4) for seed in (0, 1)], (
        done.stderr
    )


@pytest.mark.parametrize(
    ("data", "datasets"),
    [("digits", ("fashion-mnist",)), ("fashion-mnist", ("digits",)), ("cifar100", ("stl10", "tiny-imagenet"))],
)
def test_embeddings_are_probed_on_what_the_dataset_declares_or_as_published(data, datasets):
    request = design("transfer", data=data).request
    assert request is not None
    assert request.probes == datasets

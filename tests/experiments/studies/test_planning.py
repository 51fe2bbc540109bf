"""A study as a sweep: each experiment once, under the teacher that the user means."""

import pytest

from tekapctl import train_teacher
from tekapctl.errors import UsageError
from tekapctl.experiments.presets import preset
from tekapctl.experiments.studies import planning
from tekapctl.experiments.studies.result import cost_of
from tekapctl.experiments.sweeps.cost import estimated
from tekapctl.spec import StudentSpec, parse
from tekapctl.store.home import Home


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


def spec(**values) -> StudentSpec:
    found = parse({"student": "resnet8", "teacher": "resnet20", "data": "digits", "epochs": 2, **values})
    assert isinstance(found, StudentSpec)
    return found


def test_arms_that_are_the_same_experiment_share_its_runs(home):
    over = planning.plan("teachers", spec(), home, seeds=2, over={"tekap.logit.noise_weight": [0.1, 0.2]}, is_dry=True)
    plain = [label for label in over.groups if label.endswith(": KD")]
    assert len(plain) == 2
    assert len({over.groups[label] for label in plain}) == 1, "nothing reads the setting"


def test_seeds_begin_with_the_specs(home):
    planned = planning.plan("agreement", spec(seed=7), home, seeds=3, is_dry=True)
    assert {trial.spec.seed for trial in planned.plan.trials.values()} == {7, 8, 9}


def test_a_teacher_that_is_trained_first_sees_all_images_and_is_trained_once(home):
    data = {"name": "digits", "train_fraction": 0.2, "imbalance": 5.0}
    over = {"data.train_fraction": [0.1, 0.2]}
    planned = planning.plan("agreement", spec(data=data), home, teacher_epochs=4, over=over)
    first, *others = planned.plan.trials.values()
    assert (first.spec.kind, first.spec.model, first.spec.epochs, first.spec.seed) == ("teacher", "resnet20", 4, 0)
    assert (first.spec.data.train_fraction, first.spec.data.imbalance) == (1.0, 1.0)
    assert all(trial.spec.kind == "student" for trial in others)
    assert all(list(trial.requires.values()) == [first] for trial in others)


def test_a_teacher_that_is_there_is_not_taken_for_one_that_the_study_trains(home):
    """The ensemble's further teachers are of the same network."""
    planned = planning.plan("cost", spec(), home, settings={"ensemble": 2}, is_dry=True)
    students = [trial for trial in planned.plan.trials.values() if trial.spec.kind == "student"]
    by_label = {trial.group: trial for trial in students}
    assert not by_label["KD"].requires
    assert [*by_label["KD, 2 teachers"].requires] == ["resnet20, seed 1"]
    assert [*by_label["KD, assistant resnet14"].requires] == ["assistant resnet14"]


def test_another_student_learns_at_its_own_published_rate(home):
    networks = ["resnet8", "MobileNetV2"]
    planned = planning.plan("agreement", spec(data="cifar100"), home, over={"student": networks}, is_dry=True)
    rates = {trial.spec.student: trial.spec.optimizer.learning_rate for trial in planned.plan.trials.values()}
    assert rates == {"resnet8": 0.05, "MobileNetV2": 0.01}
    chosen = spec(data="cifar100", optimizer={"learning_rate": 0.1})
    planned = planning.plan("agreement", chosen, home, over={"student": networks}, is_dry=True)
    assert {trial.spec.optimizer.learning_rate for trial in planned.plan.trials.values()} == {0.1}


def test_studies_of_other_settings_have_other_names(home):
    names = {
        planning.plan("noise", spec(), home, seeds=seeds, settings=settings, is_dry=True).plan.name
        for seeds in (1, 2)
        for settings in ({}, {"factors": [1]})
    }
    assert len(names) == 4


def test_a_teacher_must_be_there_unless_nothing_is_run(home):
    with pytest.raises(UsageError, match="`teacher_epochs`"):
        planning.plan("controls", spec(), home)


def test_what_is_exactly_a_published_experiment_has_its_number(home):
    """Settings of a level that no loss meets make no other experiment of it."""
    published = preset("tekap-l/resnet32x4-resnet8x4")
    found = parse(published.table)
    assert isinstance(found, StudentSpec)
    planned = planning.plan("controls", found, home, seeds=1, is_dry=True)
    numbers = {trial.group: trial.published for trial in planned.plan.trials.values() if trial.published is not None}
    assert numbers == pytest.approx({"KD": 0.7333}), "TeKAP's number may be that of the best epoch"


def test_further_teachers_are_trained_as_the_one_that_is_there(home):
    data = {"name": "digits", "train_fraction": 0.1}
    made = train_teacher(model="resnet8", data=data, epochs=1, batch_size=16, device="cpu", home=home.root)
    planned = planning.plan("cost", spec(teacher="resnet8"), home, settings={"ensemble": 2, "assistant": "resnet14"})
    first = next(iter(planned.plan.trials.values()))
    assert (first.spec.seed, first.spec.epochs, first.spec.batch_size) == (1, 1, 16)
    assert first.spec.data.train_fraction == 0.1
    plain = next(trial for trial in planned.plan.trials.values() if trial.group == "KD")
    assert plain.spec.teacher == made["run"], "a run that is finished later does not take its place"


def test_a_teacher_that_is_trained_first_is_none_of_the_students(home):
    twins = spec(teacher="resnet8", data={"name": "digits"})
    with pytest.raises(UsageError, match=r"would be the same run as 'no distillation', seed 0"):
        planning.plan("robustness", twins, home, teacher_epochs=2)
    planned = planning.plan("robustness", twins.model_copy(update={"seed": 1}), home, teacher_epochs=2)
    assert {trial.spec.seed for trial in planned.plan.trials.values()} == {0, 1, 2, 3, 4, 5}


def test_the_cost_of_a_run_is_counted_with_all_that_must_be_trained_before_it(home):
    """Also where nothing has been trained yet: the assistant needs the teacher, and the teacher counts once."""
    planned = planning.plan("cost", spec(), home, settings={"ensemble": 3}, teacher_epochs=4)
    trials = {trial.group: trial for trial in planned.plan.trials.values()}
    macs = {group: estimated(trial, home).total_macs for group, trial in trials.items()}
    teacher, second, third = (macs[name] for name in ("teacher resnet20", "resnet20, seed 1", "resnet20, seed 2"))
    assert teacher == second == third
    assert cost_of(trials["KD"], home) == (macs["KD"], teacher)
    assert cost_of(trials["KD, 3 teachers"], home) == (macs["KD, 3 teachers"], 3 * teacher)
    by_way = cost_of(trials["KD, assistant resnet14"], home)
    assert by_way == (macs["KD, assistant resnet14"], teacher + macs["assistant resnet14"])
    assert macs["KD"] < macs["KD, 3 teachers"]

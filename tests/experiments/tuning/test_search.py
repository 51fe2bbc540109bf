"""A search from rung to rung, with runs that never trained: their accuracies are functions of their settings."""

import itertools
import tomllib
from collections.abc import Callable

import pytest

from helpers.summaries import plain_summary
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.experiments.sweeps.folder import SweepFolder
from tekapctl.experiments.sweeps.plan import Plan
from tekapctl.experiments.sweeps.state import Standing
from tekapctl.experiments.tuning.cost import hours, stage_costs
from tekapctl.experiments.tuning.planning import Tuning, prepare
from tekapctl.experiments.tuning.space import read_axes
from tekapctl.experiments.tuning.tune import Result, tune
from tekapctl.spec import StudentSpec, dumps, load, parse
from tekapctl.store.home import Home
from tekapctl.store.runs import Runs

Top1 = Callable[[StudentSpec], float | None]


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


def spec(**values) -> StudentSpec:
    table = {"student": "resnet8", "teacher": "resnet20", "data": "digits", "epochs": 18, "temperature": 1.0, **values}
    found = parse(table)
    assert isinstance(found, StudentSpec)
    return found


def prepared(home: Home, **values) -> Tuning:
    base = spec(**values)
    axes = read_axes(["temperature=2..12:linear"], base)
    return prepare(base, home, axes, trials=9, seeds=2, confirm_seeds=3, is_dry=True)


class Runner:
    """Finishes the runs of each stage with accuracies that follow from their specs; None is training that diverged."""

    def __init__(self, home: Home, val: Top1, test: Top1 | None = None) -> None:
        self.home, self.val, self.test = home, val, test or val
        self.titles: list[str] = []
        self.begun: dict[str, Standing] = {}
        self.stop_in: str | None = None

    def __call__(self, title: str, plan: Plan) -> dict[str, Standing]:
        self.titles.append(title)
        for number, (digest, trial) in enumerate(plan.trials.items()):
            if title == self.stop_in and number:
                self.begun.setdefault(digest, Standing("interrupted"))
            elif self.begun.get(digest, Standing("waiting")).state in ("waiting", "interrupted"):
                self.begun[digest] = self.run(trial.spec)
        return {digest: self.begun[digest] for digest in plan.trials}

    def run(self, spec: StudentSpec) -> Standing:
        val, test = self.val(spec), self.test(spec)
        if val is None or test is None:
            return Standing("failed", "x", 1, error="The loss is not finite.", diverged=True)
        with Runs(self.home.runs).start(f"made-{next(NUMBERS)}", {"spec.toml": dumps(spec)}) as made:
            made.write_summary(plain_summary(test, run=made.id, seed=spec.seed, last_val_top1=val))
        return Standing("finished", made.id, spec.epochs, test, val)


NUMBERS = itertools.count()


def by_temperature(spec: StudentSpec) -> float:
    """Hotter is better, and seeds differ."""
    return 0.5 + spec.temperature / 40 + 0.001 * (spec.seed % 3)


def numbers(result: Result, rung: int) -> list[int]:
    return [score.candidate.number for score in result.ranking if score.rung.number == rung]


def test_the_best_are_trained_longer_beside_the_defaults_and_confirmed_on_fresh_seeds(home):
    tuning, runner = prepared(home), Runner(home, by_temperature)
    found = tune(tuning, home, runner)
    assert runner.titles == ["rung 1 of 3", "rung 2 of 3", "rung 3 of 3", "confirmation"]
    hottest = sorted(tuning.candidates, key=lambda each: -each.spec.temperature)
    assert found.winner == hottest[0]
    assert numbers(found, 3) == [hottest[0].number, 0], "the defaults, the coldest, are taken to the end"
    assert numbers(found, 2) == [each.number for each in hottest[1:3]]
    assert len(numbers(found, 1)) == 6
    assert found.confirmation is not None
    assert (found.confirmation.seeds, found.seeds) == ((2, 3, 4), [0, 1, 2, 3, 4])
    assert found.confirmation.verdict == "too few seeds", "seeds that differ by the same amount are no measure of noise"
    assert found.runs == tuning.runs == 10 + 4 + 4 + 6
    assert found.epochs == 10 * 2 + 4 * 6 + 4 * 18 + 6 * 18
    for stage in found.stages:
        assert {trial.spec.data.val_fraction for trial in stage.plan.trials.values()} == {0.1}


def test_the_spec_of_the_winner_is_the_users_with_its_settings(home):
    found = tune(
        prepared(home, seed=7, data={"name": "digits", "train_fraction": 0.5}), home, Runner(home, by_temperature)
    )
    assert found.spec_file == home.sweeps / found.tuning.name / "best.toml"
    best = load(found.spec_file)
    assert best == spec(seed=7, data={"name": "digits", "train_fraction": 0.5}, **found.winner.settings)
    assert tomllib.loads(found.spec_file.read_text())["temperature"] == found.winner.spec.temperature
    assert not best.data.val_fraction, "it is trained on all images"


@pytest.mark.parametrize(
    ("gain", "verdict", "words"),
    [
        (0.05, "better", "better than the default settings beyond seed noise"),
        (-0.05, "worse", "worse than the default settings beyond seed noise"),
        (0.0, "no clear difference", "not better than the default settings beyond seed noise"),
    ],
)
def test_the_test_images_decide_whether_the_winner_is_better(home, gain, verdict, words):
    def test_top1(spec: StudentSpec) -> float:
        noise = 0.01 * (spec.seed % 3 - 1) if spec.temperature > 1 else 0.0
        return 0.5 + noise + (gain if spec.temperature > 1 else 0)

    found = tune(prepared(home), home, Runner(home, by_temperature, test_top1))
    assert found.confirmation is not None
    assert found.confirmation.verdict == verdict
    assert words in found.confirmation.sentences[0]
    difference = found.confirmation.test.difference
    assert difference is not None
    assert difference.mean == pytest.approx(gain)
    assert difference.pairs == 3


def test_defaults_that_nothing_beats_are_confirmed_alone(home):
    found = tune(prepared(home), home, Runner(home, lambda spec: 1 / spec.temperature))
    assert found.winner == found.tuning.candidates[0]
    assert found.confirmation is not None
    assert found.confirmation.verdict == "default"
    assert len(found.stages[-1].standings) == 3


def test_candidates_that_diverge_are_dropped_and_defaults_that_diverge_end_the_search(home):
    hot = Runner(home, lambda spec: None if spec.temperature > 8 else by_temperature(spec))
    found = tune(prepared(home), home, hot)
    assert found.winner is not None
    assert 4 < found.winner.spec.temperature <= 8
    assert any(score.diverged and score.val_top1 is None for score in found.ranking)
    all_hot = Runner(home, lambda spec: None if spec.temperature > 1 else 0.5)
    assert tune(prepared(home, seed=50), home, all_hot).winner.number == 0
    cold = Runner(home, lambda spec: None if spec.temperature == 1 else 0.5)
    with pytest.raises(TekapctlError, match="default settings diverged in rung 1 of 3"):
        tune(prepared(home, seed=100), home, cold)


def test_a_winner_that_diverges_on_a_fresh_seed_is_not_recommended(home):
    runner = Runner(home, lambda spec: None if spec.seed == 3 and spec.temperature > 1 else by_temperature(spec))
    found = tune(prepared(home), home, runner)
    assert found.confirmation is not None
    assert (found.confirmation.verdict, found.confirmation.diverged) == ("diverged", (3,))


def test_a_search_stops_at_unfinished_runs_and_continues_there(home):
    tuning, runner = prepared(home), Runner(home, by_temperature)
    runner.stop_in = "rung 2 of 3"
    found = tune(tuning, home, runner)
    assert (found.winner, found.confirmation, found.spec_file) == (None, None, None)
    assert [len(stage.unfinished) for stage in found.stages] == [0, 3]
    assert found.runs == 11
    costs = stage_costs(found, SweepFolder(home, tuning.name), measured=False, report=lambda *_: None)
    assert [(each.runs, each.left) for each in costs] == [(10, 0), (4, 3), (4, 4), (6, 6)]
    assert costs[1].macs == pytest.approx(costs[2].macs / 3)
    assert hours(costs, 1) is None
    runner.stop_in = None
    again = tune(tuning, home, runner)
    assert again.runs == tuning.runs
    assert again.to_dict() == tune(prepared(home), home, runner).to_dict(), "planned again, it is the same search"


def test_rungs_that_are_too_short_to_rank_candidates_are_reported(home, logged):
    short = Runner(home, lambda spec: 0.12 if spec.epochs == 2 else by_temperature(spec))
    assert tune(prepared(home), home, short).confirmation is not None
    assert [line for line in logged if "close to chance" in line] == [
        "half of the runs of rung 1 of 3 are close to chance after 2 epochs, so their ranking says little; begin with "
        "longer runs (min_epochs)"
    ]


@pytest.mark.parametrize(
    ("values", "options", "told"),
    [
        ({"name": "a b"}, {}, "cannot be that of a folder"),
        ({}, {"min_epochs": 19}, "`min_epochs` is 19"),
        ({"teacher": "resnet56"}, {"is_dry": False}, "no trained resnet56"),
    ],
)
def test_what_does_not_fit_is_refused(home, values, options, told):
    base = spec(**values)
    with pytest.raises(UsageError, match=told):
        prepare(base, home, read_axes(["alpha=1,2"], base), **{"is_dry": True, **options})

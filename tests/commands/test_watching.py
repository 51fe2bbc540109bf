"""The progress of a run, read from its files."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tekapctl.cli.watch import following, show_once
from tekapctl.commands.runs import progress_of
from tekapctl.store.run import Run


def entry(epoch: int, **more: float) -> dict[str, float]:
    figures = {"train_loss": 1.0, "train_top1": 0.5, "test_top1": 0.5, "images_per_second": 100.0}
    return {"epoch": epoch, **figures, "train_seconds": 8.0, "test_seconds": 2.0, **more}


@pytest.fixture
def run(tmp_path) -> Run:
    (tmp_path / "spec.toml").touch()
    return Run(tmp_path)


def note(run: Run, epoch: int, step: int) -> None:
    run.write_progress({"epoch": epoch, "epochs": 10, "step": step, "steps": 100, "steps_per_second": 20.0})


def test_the_time_left_is_that_of_steps_and_then_of_the_last_epochs(run):
    with run.lock():
        assert progress_of(run).seconds_left is None
        note(run, 0, 50)
        assert progress_of(run).seconds_left == pytest.approx(9.5 * 100 / 20)
        run.append_metrics(entry(1, train_seconds=1000.0))
        for epoch in range(2, 7):
            run.append_metrics(entry(epoch))
        assert progress_of(run).step == 0, "the note is of an epoch before"
        assert progress_of(run).seconds_left == pytest.approx(4 * 10)
        note(run, 6, 50)
        assert progress_of(run).seconds_left == pytest.approx(3.5 * 10)
    assert progress_of(run).seconds_left is None
    assert progress_of(run).status == "interrupted"


def test_the_best_epoch_is_not_one_of_the_init_stage(run):
    run.append_metrics(entry(1, test_top1=0.9, train_init=1.0))
    assert progress_of(run).best_epoch is None
    run.append_metrics(entry(2, test_top1=0.6))
    run.append_metrics(entry(3, test_top1=0.6))
    assert (progress_of(run).best_epoch, progress_of(run).best_top1) == (2, 0.6)


def test_epochs_that_are_trained_again_are_shown_again(run, capsys):
    with run.lock(), following() as show:
        for last in (2, 3, 1, 2):
            run.write_metrics([entry(epoch) for epoch in range(1, last + 1)])
            show(progress_of(run).to_dict())
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in shown] == ["running, 2 epochs done", "epoch 3", "epoch 2"]


NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -1, 1e308, 5e-324, 0])
NOTES = st.dictionaries(st.sampled_from(["epoch", "epochs", "step", "steps", "steps_per_second"]), NUMBERS)
ENTRIES = st.fixed_dictionaries(dict.fromkeys(entry(1), NUMBERS))


@given(metrics=st.lists(ENTRIES, max_size=3), notes=NOTES, held=st.booleans())
def test_a_run_with_any_numbers_can_be_watched(tmp_path_factory, metrics, notes, held):
    run = Run(Path(tmp_path_factory.mktemp("run")))
    (run.path / "run.json").write_text("{}")
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (run.path / "progress.json").write_text(json.dumps(notes))
    if held:
        with run.lock():
            state = progress_of(run).to_dict()
    else:
        state = progress_of(run).to_dict()
    json.dumps(state, allow_nan=False)
    show_once(state)
    with following() as show:
        show(state)

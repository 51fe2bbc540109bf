"""Runs: found by what a user types, and never outside their folder."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.runs import Runs


@pytest.fixture
def runs(tmp_path) -> Runs:
    return Runs(tmp_path / "runs")


def test_ids_are_unique_sorted_by_time_and_say_what_the_run_is(runs):
    made = [runs.create("kd/resnet8 \x1b[31m..digits") for _ in range(20)]
    assert len({run.id for run in made}) == 20
    assert all("kd-resnet8" in run.id and run.id.isprintable() and "/" not in run.id for run in made)
    assert sorted(run.id for run in made) == [run.id for run in runs.all()]


def test_a_run_is_found_by_id_unique_prefix_and_latest(runs):
    (runs.folder / "20250101-000000-old-aaaa").mkdir(parents=True)
    (runs.folder / "20250101-000000-old-bbbb").mkdir()
    newest = runs.create("new")
    assert runs.find("latest") == newest
    assert runs.find(newest.id) == newest
    assert runs.find("20250101-000000-old-a").id.endswith("aaaa")
    with pytest.raises(UsageError, match=r"2 runs begin with.*aaaa, .*bbbb"):
        runs.find("2025")
    with pytest.raises(UsageError, match="runs list"):
        runs.find("1999")


@given(
    st.one_of(st.text(), st.sampled_from(["..", ".", "", "../runs", "/", "/etc", "a/../b", "\x1b]0;x\x07", "run\n"]))
)
def test_no_reference_leaves_the_runs_folder(tmp_path_factory, reference):
    folder = tmp_path_factory.mktemp("home") / "runs"
    runs = Runs(folder)
    runs.create("x")
    try:
        assert runs.find(reference).path.parent == folder
    except UsageError as error:
        assert str(error).isprintable()


def test_the_lock_tells_running_from_interrupted(runs):
    run = runs.create("x")
    assert run.status == "interrupted"
    with run.lock():
        assert run.status == "running"
        with pytest.raises(UsageError, match="is running"):
            runs.remove(run)
        with pytest.raises(TekapctlError, match="Another process"), run.lock():
            pass
    run.write_summary({"status": "finished"})
    assert run.status == "finished"
    runs.remove(run)
    assert runs.all() == []


def test_a_line_cut_off_by_a_crash_is_left_out(runs):
    run = runs.create("x")
    run.append_metrics({"epoch": 1})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 2})[:-3])
    assert run.metrics() == [{"epoch": 1}]

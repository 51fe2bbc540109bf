"""Runs: found by what a user types, and never outside their folder."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.run import Run
from tekapctl.store.runs import Runs


@pytest.fixture
def runs(tmp_path) -> Runs:
    return Runs(tmp_path / "runs")


def make(runs: Runs, label: str) -> Run:
    """A run that its process has left."""
    with runs.start(label, {"spec.toml": 'kind = "student"\n'}) as run:
        return run


def test_a_run_appears_whole_and_held_by_its_process(runs):
    with runs.start("x", {"spec.toml": "seed = 3\n"}) as run:
        assert runs.all() == [run]
        assert run.status == "running"
        assert (run.path / "spec.toml").read_text() == "seed = 3\n"
    assert run.status == "interrupted"
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "run.json", "spec.toml"]


def test_what_a_dead_process_had_begun_is_swept_away(runs):
    begun = runs.folder / ".new-0123"
    begun.mkdir(parents=True)
    (begun / ".spec.toml.aaaa.part").write_text("see")
    run = make(runs, "x")
    assert [path.name for path in runs.folder.iterdir()] == [run.id]
    (run.path / ".weights.safetensors.0000.part").write_text("half")
    run.checkpoints.mkdir()
    (run.checkpoints / ".epoch-000001-step-00000000.state.0000.part").write_text("half")
    with run.lock():
        assert not list(run.path.rglob("*.part"))


def test_runs_that_begin_at_once_do_not_sweep_each_other_away(runs):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: make(runs, f"run{number}"), range(64)))
    assert len({run.id for run in made}) == 64
    assert all((run.path / "spec.toml").is_file() for run in made)


def test_ids_sort_by_age_though_the_clock_goes_backwards(runs):
    wrong = make(runs, "x").path.rename(runs.folder / "29990101-000000-from-a-wrong-clock-aaaa")
    (wrong / "run.json").write_text(json.dumps({"run": wrong.name}))
    made = make(runs, "zz")
    assert made.id.startswith("29990101-000001-")
    assert runs.find("latest") == made


def test_nothing_is_written_into_a_run_that_somebody_deleted(runs):
    run = make(runs, "x")
    shutil.rmtree(run.path)
    with pytest.raises(TekapctlError, match="was deleted while it ran"):
        run.write_summary({"status": "failed"})
    assert not run.path.exists()


def test_ids_are_unique_sorted_by_time_and_say_what_the_run_is(runs):
    made = [make(runs, "kd/resnet8 \x1b[31m..digits") for _ in range(20)]
    assert len({run.id for run in made}) == 20
    assert all("kd-resnet8" in run.id and run.id.isprintable() and "/" not in run.id for run in made)
    assert sorted(run.id for run in made) == [run.id for run in runs.all()]


def test_ids_sort_by_age_within_a_second_too(runs):
    made = []
    for label in ("c", "a", "b"):
        with runs.start(label, {"spec.toml": ""}) as run:
            made.append(run.id)
    assert [run.id for run in runs.all()] == made


def test_a_run_is_found_by_id_unique_prefix_and_latest(runs):
    (runs.folder / "20250101-000000-old-aaaa").mkdir(parents=True)
    (runs.folder / "20250101-000000-old-bbbb").mkdir()
    newest = make(runs, "new")
    assert runs.find("latest") == newest
    assert runs.find(newest.id) == newest
    assert runs.find("20250101-000000-old-a").id.endswith("aaaa")
    with pytest.raises(UsageError, match=r"matches 2 runs: .*aaaa, .*bbbb"):
        runs.find("2025")
    with pytest.raises(UsageError, match="runs list"):
        runs.find("1999")


def test_a_run_is_found_by_the_unique_end_of_its_id(runs):
    for name in ("20250101-000000-kd-0440", "20250101-000001-kd-2025", "20250101-000002-kd-7777", "x-7777"):
        (runs.folder / name).mkdir(parents=True)
    assert runs.find("0440").id == "20250101-000000-kd-0440"
    assert runs.find("kd-0440").id == "20250101-000000-kd-0440"
    assert runs.find("2025").id == "20250101-000001-kd-2025", "the end of one id, and the beginning of three"
    for shared in ("7777", "440", "20250101"):
        with pytest.raises(UsageError):
            runs.find(shared)


@given(
    st.one_of(st.text(), st.sampled_from(["..", ".", "", "../runs", "/", "/etc", "a/../b", "\x1b]0;x\x07", "run\n"]))
)
def test_no_reference_leaves_the_runs_folder(tmp_path_factory, reference):
    folder = tmp_path_factory.mktemp("home") / "runs"
    runs = Runs(folder)
    make(runs, "x")
    try:
        assert runs.find(reference).path.parent == folder
    except UsageError as error:
        assert str(error).isprintable()


def test_the_lock_tells_running_from_interrupted(runs):
    run = make(runs, "x")
    assert run.status == "interrupted"
    with run.lock():
        assert run.status == "running"
        with pytest.raises(UsageError, match="is running"):
            runs.remove(run)
        with pytest.raises(TekapctlError, match="Another process"), run.lock():
            pass
    run.write_summary({"status": "finished"})
    assert run.status == "damaged", "a finished run has numbers"
    runs.remove(run)
    assert runs.all() == []


def test_whoever_looks_at_a_run_never_keeps_another_from_taking_it(runs):
    run = make(runs, "x")
    over = threading.Event()

    def look() -> set[str]:
        found = set()
        while not over.is_set():
            found.add(run.status)
        return found

    with ThreadPoolExecutor() as pool:
        looking = [pool.submit(look) for _ in range(4)]
        try:
            for _ in range(300):
                with run.lock():
                    assert run.status == "running"
        finally:
            over.set()
    assert set().union(*(each.result() for each in looking)) <= {"running", "interrupted"}


def test_looking_at_a_run_writes_nothing(runs):
    run = make(runs, "x")
    (run.path / ".lock").unlink()
    assert run.status == "interrupted"
    assert sorted(path.name for path in run.path.iterdir()) == ["run.json", "spec.toml"]


def test_a_failed_run_that_is_resumed_is_running(runs):
    run = make(runs, "x")
    run.write_summary({"status": "failed"})
    assert run.status == "failed"
    with run.lock():
        assert run.status == "running"


def test_notes_of_progress_are_read_back_and_hostile_ones_passed_over(runs):
    run = make(runs, "x")
    assert run.progress() == {}
    run.write_progress({"epoch": 1, "steps_per_second": 2.5})
    assert run.progress() == {"epoch": 1, "steps_per_second": 2.5}
    for text in ("[]", "{", '{"epoch": NaN}', "\x00", '{"epoch": "1"}'):
        (run.path / "progress.json").write_text(text)
        assert run.progress() == {}


def test_a_line_cut_off_by_a_crash_is_left_out(runs):
    run = make(runs, "x")
    run.append_metrics({"epoch": 1})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 2})[:-3])
    assert run.metrics() == [{"epoch": 1}]


def test_a_folder_of_the_users_own_is_not_the_latest_run(runs):
    made = make(runs, "x")
    (runs.folder / "29990101-000000-notes").mkdir()
    assert runs.find("latest") == made
    later = make(runs, "a")
    assert later.id < "2999"
    assert runs.find("latest") == later

"""Teacher caches that are filled once, for all runs that share them."""

from functools import partial
from pathlib import Path

import pytest

from helpers.silent import Silent
from tekapctl.experiments.sweeps.folder import SweepFolder
from tekapctl.experiments.sweeps.local import environment
from tekapctl.experiments.sweeps.plan import Plan
from tekapctl.experiments.sweeps.plan import plan as plan_in
from tekapctl.experiments.sweeps.trial import cache_fills, fill_cache, run_trial
from tekapctl.store.home import Home

plan = partial(plan_in, datasets=Path("no-data-sets"))

DATA = {"name": "digits", "train_fraction": 0.05}
TEACHER = {"model": "resnet14", "data": {"name": "digits"}, "epochs": 1, "device": "cpu"}
SPEC = {"student": "resnet8", "teacher": "resnet14", "epochs": 2, "device": "cpu", "cache_teacher": True}
VIEWS = 9
"""Digits are cropped with a pixel of padding, and never flipped."""


def sweep(data: dict, **axes) -> Plan:
    return plan({"name": "x", "spec": {**SPEC, "data": data}, "grid": axes, "before": (TEACHER,)})


def test_runs_share_a_cache_if_they_have_the_same_teacher_and_images():
    methods = ["kd", "crd", "at", "mlkd"]
    made = sweep({"name": "digits"}, method=methods, seed=[0, 1])
    fills, cache_of = cache_fills(made, made.trials)
    (found,) = fills.values()
    assert found.epochs == 4 * SPEC["epochs"]
    # Feature maps and strong views are not cached, and a teacher has no teacher.
    assert [made.trials[digest].spec.method.name for digest in cache_of] == ["kd", "kd", "crd", "crd"]
    # A share of the images is drawn by the seed.
    made = sweep(DATA, method=methods, seed=[0, 1])
    assert len(cache_fills(made, made.trials)[0]) == 2
    live = sweep(DATA, cache_teacher=[False])
    assert cache_fills(live, live.trials) == ({}, {})


def test_a_cache_is_filled_if_its_students_would_use_all_views(tmp_path, logged):
    made = sweep(DATA, method=["kd"])
    teacher, student = made.trials.values()
    folder = SweepFolder(Home(tmp_path), "x")
    run_trial(teacher, folder, Silent())

    def fill(epochs: int, always: bool = False):
        return fill_cache(student, folder, epochs, always=always, report=lambda *_: None)

    assert fill(epochs=3 * VIEWS - 1) is None
    assert f"{3 * VIEWS - 1} epochs do not use all {VIEWS} views" in logged[-1]
    found = fill(epochs=3 * VIEWS)
    images = found["views"] // VIEWS
    assert found["computed"] == found["views"] == images * VIEWS
    assert images == pytest.approx(0.05 * 1297, abs=10)
    assert fill(epochs=1, always=True)["computed"] == 0, "once for all"


def test_a_worker_sees_its_device_alone(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environment("cuda:1", 1) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert int(environment(None, 10_000)["OMP_NUM_THREADS"]) == 1
    assert environment("cpu", 1) == {"CUDA_VISIBLE_DEVICES": ""}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert environment("cuda:1", 1) == {"CUDA_VISIBLE_DEVICES": "7"}

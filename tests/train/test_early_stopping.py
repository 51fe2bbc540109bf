"""Early stopping by the validation accuracy, and the weights that it keeps; and linear probes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tekapctl import evaluate, train_teacher
from tekapctl.errors import UsageError
from tekapctl.models import build
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.train.callbacks import NullCallback
from tekapctl.train.many import execute_seeds

FIELDS = {"model": "resnet8", "batch_size": 128, "data": {"name": "digits", "val_fraction": 0.2, "train_fraction": 0.3}}


def run_folder(home, summary):
    return home / "runs" / summary["run"]


def test_a_run_stops_and_keeps_the_weights_of_its_best_epoch(tmp_path):
    fields = {**FIELDS, "optimizer": {"learning_rate": 0.3}, "epochs": 40, "patience": 2}
    found = train_teacher(home=tmp_path, **fields)
    lines = (run_folder(tmp_path, found) / "metrics.jsonl").read_text().splitlines()
    assert found["epochs_trained"] == len(lines) < 40
    assert found["best_epoch"] == len(lines) - 2
    assert found["last_top1"] == found["best_top1"]
    assert found["last_val_top1"] == found["best_val_top1"]
    assert found["weights_epoch"] == found["best_epoch"]
    weights, best = (
        load_file(run_folder(tmp_path, found) / name) for name in ("weights.safetensors", "best.safetensors")
    )
    assert all(torch.equal(weights[name], best[name]) for name in weights)


def test_with_averaged_weights_they_are_what_is_watched_and_kept(tmp_path):
    found = train_teacher(home=tmp_path, **FIELDS, optimizer={"learning_rate": 0.3}, epochs=30, patience=2, ema=0.9)
    lines = [json.loads(line) for line in (run_folder(tmp_path, found) / "metrics.jsonl").read_text().splitlines()]
    assert found["best_epoch"] == max(lines, key=lambda line: (line["val_top1"], -line["epoch"]))["epoch"]
    assert [line["val_top1"] for line in lines] != [line["raw_top1"] for line in lines]
    kept, best, raw = (
        load_file(run_folder(tmp_path, found) / f"{name}.safetensors") for name in ("weights", "best", "raw")
    )
    assert all(torch.equal(kept[name], best[name]) for name in kept)
    assert not all(torch.equal(kept[name], raw[name]) for name in kept)
    for which in ("", ":raw"):
        found_again = evaluate(f"{found['run']}{which}", home=tmp_path, precision="float32")["evaluation"]["top1"]
        assert found_again == found["raw_top1" if which else "last_top1"]


def test_several_seeds_stop_each_by_itself(tmp_path):
    spec = parse({"kind": "teacher", **FIELDS, "optimizer": {"learning_rate": 0.3}, "epochs": 30, "patience": 2})
    together = execute_seeds(spec, 2, Home(tmp_path / "a"), NullCallback())
    for seed, found in enumerate(together):
        alone = train_teacher(spec.model_copy(update={"seed": seed, "data_seed": 0}), home=tmp_path / "b")
        assert (found["epochs_trained"], found["last_top1"]) == (alone["epochs_trained"], alone["last_top1"])


def test_patience_needs_validation_images():
    with pytest.raises(UsageError, match=r"needs validation images: set `data.val_fraction`"):
        parse({"kind": "teacher", "data": "digits", "patience": 3})


def test_a_linear_probe_changes_the_classifier_alone(tmp_path):
    found = train_teacher(home=tmp_path, **FIELDS, epochs=2, linear_probe=True)
    weights = load_file(run_folder(tmp_path, found) / "weights.safetensors")
    again = train_teacher(home=tmp_path, **FIELDS, epochs=1, linear_probe=True)
    first = load_file(run_folder(tmp_path, again) / "weights.safetensors")
    changed = {name for name in weights if not torch.equal(weights[name], first[name])}
    classifier = build("resnet8").classifier_name
    assert changed == {f"{classifier}.weight", f"{classifier}.bias"}

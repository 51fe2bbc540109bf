"""A sweep over several folders of images: each has the teacher that its name stands for there."""

from helpers.pictures import coloured_noise
from helpers.silent import Silent
from tekapctl.experiments.sweeps.folder import SweepFolder
from tekapctl.experiments.sweeps.plan import plan
from tekapctl.experiments.sweeps.state import Ledger
from tekapctl.experiments.sweeps.trial import run_trial
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.train.run import execute

QUICK = {"epochs": 1, "batch_size": 8, "device": "cpu"}


def test_students_of_a_network_that_was_trained_on_each_folder_all_count(tmp_path):
    home = Home(tmp_path / "home")
    data = [
        {"name": "folder", "folder": str(coloured_noise(tmp_path / name, seed)), "size": 8}
        for seed, name in enumerate(("one", "other"))
    ]
    for each in data:
        execute(parse({**QUICK, "kind": "teacher", "model": "resnet8", "data": each}), home, Silent())
    grid = {"set": [{"label": each["folder"], "data": each} for each in data]}
    spec = {**QUICK, "student": "resnet8", "teacher": "resnet8"}
    made = plan({"name": "folders", "spec": spec, "grid": grid}, home.datasets, by_network=False)
    folder = SweepFolder(home, made.name)
    for trial in made.trials.values():
        run_trial(trial, folder, Silent())
    assert [standing.state for standing in Ledger(home).look(made).values()] == ["finished"] * 2

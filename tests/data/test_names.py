"""What a user writes as a dataset's name follows what the datasets declare, and no name is known to other code."""

import sys
from pathlib import Path

import pytest

from tekapctl.commands import cache
from tekapctl.data import DATASETS, data_spec
from tekapctl.data.names import needs_location, spelled_out
from tekapctl.errors import UsageError
from tekapctl.store.home import Home

WITH_COLON = {name: field for name in DATASETS if (field := DATASETS[name].field_after_colon) is not None}


@pytest.mark.parametrize(("name", "field"), WITH_COLON.items())
def test_what_follows_the_colon_is_a_field_of_the_dataset(name, field):
    assert spelled_out(f"{name}:a/b") == {"name": name, field: "a/b"}
    assert getattr(data_spec(f"{name}:a/b"), field) == "a/b"
    assert spelled_out(name) == {"name": name}


def test_only_the_first_colon_counts():
    assert spelled_out("hf:org/pets:fine_label") == {"name": "hf", "repository": "org/pets:fine_label"}


@pytest.mark.parametrize("name", ["", ":", "nothing", "nothing:here", "cifar100:/data", "my_module:Mine"])
def test_other_names_stay_whole(name):
    assert spelled_out(name) == {"name": name}
    assert not needs_location(name)


def test_the_class_of_a_user_is_not_imported_to_read_its_name(tmp_path, monkeypatch):
    (tmp_path / "never_read.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    assert spelled_out("never_read:Mine") == {"name": "never_read:Mine"}
    assert "never_read" not in sys.modules


def test_a_dataset_without_a_field_after_the_colon_has_no_location():
    with pytest.raises(UsageError, match="cifar100:"):
        data_spec("cifar100:/data")


@pytest.mark.parametrize("name", [name for name in DATASETS if not DATASETS[name].needs_location])
def test_the_folder_of_a_fetched_dataset_tells_which_it_is(name):
    folder = data_spec(name).location(Path("downloads"))
    assert {found.name for each in DATASETS if (found := DATASETS[each].of_fetched(folder)) is not None} == {name}


def test_a_copy_from_the_hub_is_verified_as_class_folders(tmp_path):
    folder = data_spec("hf:org/pets").location(tmp_path / "datasets")
    for name in ("train/cat", "train/dog"):
        (folder / name).mkdir(parents=True)
    (tmp_path / "datasets" / "stray").mkdir()
    problems = {artifact.name: problem for artifact, problem in cache.verify(Home(tmp_path))}
    assert "0 class folders with images" in problems["hf--org--pets"]
    assert problems["stray"] == "There is no dataset named 'stray'."

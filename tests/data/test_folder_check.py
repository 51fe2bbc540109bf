"""The check of a folder of images finds what would spoil a training."""

import shutil

import pytest
from PIL import Image

from tekapctl.data import data_spec
from tekapctl.data.files.check import check_images
from tekapctl.data.files.listing import list_images
from tekapctl.errors import UsageError


@pytest.fixture
def folder(tmp_path):
    for number, (split, name) in enumerate((s, n) for s in ("train", "test") for n in ("cat", "dog")):
        (tmp_path / split / name).mkdir(parents=True)
        for i in range(12 if split == "train" else 3):
            colour = (20 * number, 10 * i, 40)
            Image.new("RGB", (40 + number, 30 + i), colour).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def checked(folder):
    return check_images(list_images(folder, 0.2, 0))


def test_a_clean_folder_is_described(folder):
    found = checked(folder)
    assert found.train == {"cat": 12, "dog": 12}
    assert found.test == {"cat": 3, "dog": 3}
    assert (found.smallest, found.largest) == ((40, 30), (41, 41))
    assert found.formats == {"PNG": 30}
    assert [*found.problems, *found.copies, *found.unreadable] == []


def test_copies_in_both_sets_or_in_two_classes_and_damaged_files_are_found(folder):
    train, test = folder / "train", folder / "test"
    shutil.copy(train / "cat" / "0.png", test / "cat" / "same.png")
    shutil.copy(train / "cat" / "1.png", train / "dog" / "mislabelled.png")
    shutil.copy(train / "dog" / "2.png", train / "dog" / "twice.png")
    (train / "dog" / "half.png").write_bytes((train / "dog" / "3.png").read_bytes()[:60])
    found = checked(folder)
    assert found.leaked == ("test/cat/same.png",)
    assert found.relabelled == (("train/cat/1.png", "train/dog/mislabelled.png"),)
    assert len(found.copies) == 3
    assert [name for name, _ in found.unreadable] == ["train/dog/half.png"]
    assert len(found.problems) == 3


def test_an_empty_class_folder_is_found_and_the_rest_is_checked(folder):
    (folder / "train" / "bird").mkdir()
    (folder / "train" / "dog" / "half.png").write_bytes((folder / "train" / "dog" / "3.png").read_bytes()[:60])
    spec = data_spec(f"folder:{folder}")
    found = check_images(spec.listing_to_check(folder))
    assert found.problems[0] == "1 class folder without images: bird; add some, or remove it"
    assert len(found.problems) == 2
    assert set(found.train) == {"cat", "dog"}
    with pytest.raises(UsageError, match="no images in bird"):
        spec.listing(folder)


def test_small_and_uneven_classes_are_named(folder):
    for i in range(4):
        (folder / "train" / "dog" / f"{i}.png").unlink()
    assert "1 class with fewer than 10 training images: dog" in checked(folder).problems
    for i in range(4):
        Image.new("RGB", (30, 30), (i, i, 99)).save(folder / "train" / "dog" / f"{i}.png")
    for i in range(120):
        Image.new("RGB", (30, 30), (i, 200, 99)).save(folder / "train" / "cat" / f"more{i}.png")
    assert checked(folder).problems == ["imbalanced: 132 training images of cat, 12 of dog"]

"""A folder of one's own images: every file is found, read and counted, or named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tekapctl.data import data_spec
from tekapctl.data.decoding import decode
from tekapctl.data.folder import list_images
from tekapctl.errors import UsageError

CLASSES = ("cat", "dog")


def picture(path: Path, seed: int, size=(40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def make(folder: Path, counts: dict[str, int], suffix: str = ".png") -> Path:
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            picture(folder / name / f"{i}{suffix}", 100 * number + i)
    return folder


def load(folder: Path, **settings):
    return data_spec({"name": f"folder:{folder}", "size": 16, **settings}).load(folder)


def test_a_folder_with_both_sets(tmp_path):
    make(tmp_path / "train", {"cat": 5, "dog": 3})
    make(tmp_path / "val", {"dog": 2, "cat": 1}, ".jpg")
    splits = load(tmp_path)
    assert splits.train.classes == splits.test.classes == CLASSES
    assert splits.train.labels.tolist() == [0] * 5 + [1] * 3
    assert splits.test.labels.tolist() == [0, 1, 1]
    assert splits.train.images.shape == (8, 3, 16, 16)
    pixels = splits.train.images.double() / 255
    assert splits.train.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert splits.train.std == pytest.approx(pixels.transpose(0, 1).flatten(1).std(1, correction=0).tolist())
    spec = data_spec({"name": f"folder:{tmp_path}", "size": 16})
    shape = spec.shape
    assert (shape.train_images, shape.test_images, shape.classes, shape.channels) == (8, 3, 2, 3)
    assert data_spec(spec.model_dump()) == spec


def test_a_split_by_seed_takes_a_share_of_each_class_and_no_image_twice(tmp_path):
    make(tmp_path, {"cat": 20, "dog": 10})
    one, again, other = (list_images(tmp_path, 0.2, seed) for seed in (0, 0, 1))
    assert [label for _, label in one.test] == [0] * 4 + [1] * 2
    assert {path for path, _ in one.test}.isdisjoint(path for path, _ in one.train)
    assert len({*one.test, *one.train}) == 30
    assert one == again
    assert one.test != other.test
    make(tmp_path, {"emu": 4})
    list_images.cache_clear()
    assert [p for p, label in list_images(tmp_path, 0.2, 0).test if label < 2] == [p for p, _ in one.test]


@pytest.mark.parametrize(("width", "height"), [(16, 16), (64, 32), (20, 90)])
def test_an_image_is_made_small_and_cut_to_its_middle(tmp_path, width, height):
    half = np.zeros((height, width, 3), dtype=np.uint8)
    half[: height // 2] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    pixels = decode(tmp_path / "half.png", 3, (16, 16))
    assert pixels.shape == (3, 16, 16)
    assert (pixels[:, :7] == 255).all()
    assert (pixels[:, 9:] == 0).all()
    assert decode(tmp_path / "half.png", 1, (16, 24)).shape == (1, 16, 24)


def test_a_picture_on_its_side_is_turned_as_its_camera_says(tmp_path):
    left = np.zeros((32, 32, 3), dtype=np.uint8)
    left[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(left).save(tmp_path / "turned.png", exif=exif)
    assert (decode(tmp_path / "turned.png", 1, (16, 16))[0, :7] == 255).all()


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"GIF89a" + b[6:], lambda b: b[:40] + b"\0" * 60]
)
def test_a_damaged_image_is_named_or_left_out_and_counted(tmp_path, damage):
    make(tmp_path / "train", {"cat": 3, "dog": 3})
    make(tmp_path / "test", {"cat": 1, "dog": 1})
    bad = tmp_path / "train" / "dog" / "1.png"
    bad.write_bytes(damage(bad.read_bytes()))
    with pytest.raises(UsageError, match=r"1 image of .* cannot be read: .*dog/1\.png"):
        load(tmp_path)
    splits = load(tmp_path, skip_damaged=True)
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert len(splits.train.images) == 5
    assert splits.notes == (f"left out 1 damaged image: {bad}",)


def test_normalisation_may_be_given(tmp_path):
    make(tmp_path, {"cat": 4, "dog": 4})
    given = load(tmp_path, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1)).train
    assert (given.mean, given.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    with pytest.raises(UsageError, match=r"data.mean has 3 values, and the images have 1 channels"):
        load(tmp_path, mean=(0.5, 0.4, 0.3), channels="grey")


def test_images_of_one_colour_can_be_normalised(tmp_path):
    for name in CLASSES:
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (16, 16), (10, 20, 30)).save(tmp_path / name / f"{i}.png")
    train = load(tmp_path).train
    assert min(train.std) > 0
    assert train.mean == pytest.approx((10 / 255, 20 / 255, 30 / 255))
    assert torch.equal(train.images[0, :, 0, 0], torch.tensor([10, 20, 30], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({}, "has 0 folders of classes"),
        ({"cat": 3}, "has 1 folder of classes"),
        ({"cat": 3, "dog": 1}, "class dog has a single image"),
        ({"train/cat": 3, "train/dog": 3, "val/emu": 1}, "has classes that .*train has not: emu"),
        ({"val/cat": 3, "val/dog": 3}, "has the folder val and none named train"),
    ],
)
def test_folders_that_are_no_data_set_say_what_is_missing(tmp_path, counts, words):
    list_images.cache_clear()
    make(tmp_path, counts)
    with pytest.raises(UsageError, match=words):
        load(tmp_path)


def test_a_folder_must_be_there_and_named():
    with pytest.raises(UsageError, match="There is no folder"):
        load(Path("/nowhere/at/all"))
    with pytest.raises(UsageError, match="needs a folder"):
        _ = data_spec("folder").shape

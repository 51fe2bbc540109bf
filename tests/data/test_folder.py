"""A folder of one's own images: every file is found, read and counted, or named."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tekapctl.data import data_spec
from tekapctl.data.files.decoding import DamagedImageError, decode
from tekapctl.data.files.finding import find_images
from tekapctl.data.files.listing import fingerprint_of_unlabelled, images_under, list_images
from tekapctl.errors import TekapctlError, UsageError

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
    shape = spec.shape(tmp_path)
    assert (shape.train_images, shape.test_images, shape.classes, shape.channels) == (8, 3, 2, 3)
    assert data_spec(spec.model_dump()) == spec


def test_copies_in_hidden_folders_are_no_images_of_the_set(tmp_path):
    make(tmp_path, {"cat": 5, "dog": 5})
    whole = list_images(tmp_path, 0.4, 0)
    picture(tmp_path / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png", 0)
    assert list_images(tmp_path, 0.4, 0) == whole


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path):
    assert images_under(tmp_path / "missing") == []
    with pytest.raises(TekapctlError, match="cannot be read"):
        images_under(tmp_path / ("long" * 100))


def test_a_class_without_images_in_the_test_folder_is_named(tmp_path):
    make(tmp_path / "train", {"cat": 2, "dog": 2, "owl": 2})
    make(tmp_path / "test", {"cat": 1, "dog": 1})
    assert load(tmp_path).notes == ("no test images of 1 class: owl",)


def test_a_split_takes_about_its_share_and_no_image_twice(tmp_path):
    for number in range(2000):
        path = tmp_path / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    one, again, other = (list_images(tmp_path, 0.2, seed) for seed in (0, 0, 1))
    assert 340 < len(one.test) < 460  # 400 and three and a third standard deviations
    assert {path for path, _ in one.test}.isdisjoint(path for path, _ in one.train)
    assert len({*one.test, *one.train}) == 2000
    assert one == again
    assert one.test != other.test


def test_further_images_and_classes_leave_every_image_in_its_set(tmp_path):
    make(tmp_path, {"cat": 20, "dog": 15})
    before = list_images(tmp_path, 0.2, 0)
    make(tmp_path, {"ant": 8, "cat": 31, "emu": 9})
    (tmp_path / "dog" / "3.png").unlink()
    after = list_images(tmp_path, 0.2, 0)
    tested, trained = ({path for path, _ in part} for part in (after.test, after.train))
    gone = tmp_path / "dog" / "3.png"
    assert {path for path, _ in before.test} - {gone} <= tested
    assert {path for path, _ in before.train} - {gone} <= trained


def test_the_split_of_a_folder_is_the_same_wherever_it_is(tmp_path):
    for place in ("one", "other/place"):
        make(tmp_path / place, {"cat": 12, "dog": 12})
    one, other = (list_images(tmp_path / place, 0.3, 0) for place in ("one", "other/place"))
    assert [path.name for path, _ in one.test] == [path.name for path, _ in other.test]
    assert one.fingerprint == other.fingerprint


def test_a_class_without_test_images_is_named_and_one_without_training_images_refused(tmp_path):
    make(tmp_path, {"cat": 30, "dog": 1})
    # At a tiny share no image of either class is for testing, at a large one some seed takes the only dog.
    with pytest.raises(UsageError, match=r"leaves no image of .* for testing"):
        list_images(tmp_path, 1e-9, 0)
    seeds = {"trained": 0, "tested": 0}
    for seed in range(40):
        try:
            assert list_images(tmp_path, 0.3, seed).notes == ("no test images of 1 class: dog",)
            seeds["trained"] += 1
        except UsageError as error:
            assert "leaves class dog without training images" in str(error)
            seeds["tested"] += 1
    assert all(seeds.values()), seeds


def test_a_fingerprint_changes_with_names_sizes_and_classes(tmp_path):
    def fingerprint() -> str:
        return list_images(tmp_path, 0.2, 0).fingerprint

    make(tmp_path, {"cat": 20, "dog": 15})
    found = [fingerprint()]
    (tmp_path / "cat" / "0.png").rename(tmp_path / "cat" / "new.png")
    found.append(fingerprint())
    (tmp_path / "cat" / "new.png").rename(tmp_path / "dog" / "new.png")
    found.append(fingerprint())
    with (tmp_path / "dog" / "new.png").open("ab") as file:
        file.write(b"x")
    found.append(fingerprint())
    (tmp_path / "cat").rename(tmp_path / "kitten")
    found.append(fingerprint())
    assert len(set(found)) == 5
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "dog" / "new.png").touch()
    assert fingerprint() == found[-1]


def test_a_version_of_the_images_with_the_same_names_and_sizes_has_another_fingerprint(tmp_path):
    folders = [make(tmp_path / name, {"cat": 300, "dog": 300}, ".bmp") for name in ("one", "copy", "other")]
    for path in folders[2].glob("*/*.bmp"):
        content = path.read_bytes()
        path.write_bytes(content[:54] + bytes(255 - value for value in content[54:]))
    for of in (
        lambda folder: list_images(folder, 0.2, 0).fingerprint,
        lambda folder: fingerprint_of_unlabelled(str(folder)),
    ):
        one, copy, other = map(of, folders)
        assert one == copy != other


def test_a_student_takes_its_teachers_settings_unless_others_are_given(tmp_path):
    make(tmp_path, {"cat": 20, "dog": 15})
    teacher = data_spec({"name": f"folder:{tmp_path}", "size": 32, "channels": "grey", "test_fraction": 0.4}).pinned(
        tmp_path
    )
    student = data_spec(f"folder:{tmp_path}").like(teacher).pinned(tmp_path)
    assert student == teacher
    with pytest.raises(UsageError, match=r"data\.size is 64, but the teacher was trained with 32"):
        data_spec({"name": f"folder:{tmp_path}", "size": 64}).like(teacher)
    alone = data_spec(f"folder:{tmp_path}").pinned(tmp_path)
    assert (alone.size, alone.channels, alone.test_fraction, alone.split_seed) == (64, "colour", 0.2, 0)


def test_settings_are_read_without_the_disk_and_pinned_to_an_absolute_folder(tmp_path, monkeypatch):
    for relative in ("photographs", "~nosuchuser/photographs"):
        assert data_spec(f"folder:{relative}").folder == relative
    make(tmp_path / "photographs", {"cat": 5, "dog": 5})
    section = data_spec({"name": "folder:photographs", "test_fraction": 0.4})
    monkeypatch.chdir(tmp_path)
    pinned = section.pinned(tmp_path)
    monkeypatch.chdir("/")
    assert pinned.folder == str(tmp_path / "photographs")
    assert len(pinned.load(tmp_path).train) + len(pinned.load(tmp_path).test) == 10
    with pytest.raises(UsageError, match="There is no folder"):
        section.load(tmp_path)


def test_settings_bound_to_images_refuse_others(tmp_path):
    make(tmp_path, {"cat": 20, "dog": 15})
    bound = data_spec(f"folder:{tmp_path}").pinned(tmp_path)
    assert bound.pinned(tmp_path) == bound
    picture(tmp_path / "cat" / "late.png", 1)
    with pytest.raises(UsageError, match="have changed since the spec was written"):
        bound.pinned(tmp_path)


@pytest.mark.parametrize("kind", ["16-bit", "32-bit", "float"])
def test_images_of_more_than_8_bits_are_scaled_by_their_range(tmp_path, kind):
    ramp = np.linspace(0, 1, 256).reshape(16, 16)
    values = {"16-bit": (65535 * ramp).astype(np.uint16), "32-bit": (65535 * ramp).astype(np.int32)}
    path = tmp_path / ("x.png" if kind == "16-bit" else "x.tif")
    Image.fromarray(values.get(kind, ramp.astype(np.float32))).save(path)
    assert torch.equal(decode(path, 1, (16, 16))[0], torch.from_numpy((255 * ramp).round()).to(torch.uint8))


@pytest.mark.parametrize(
    ("most", "suffix", "kind"),
    [(255, "png", np.uint16), (4095, "png", np.uint16), (255, "tif", np.int32), (255, "tif", np.float32)],
)
def test_the_depth_of_numbers_is_found_from_the_largest(tmp_path, most, suffix, kind):
    ramp = np.linspace(0, 1, 256).reshape(16, 16)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray((most * ramp).round().astype(kind)).save(path)
    expected = torch.from_numpy(((most * ramp).round() * (255 / most)).round()).to(torch.uint8)
    assert torch.equal(decode(path, 1, (16, 16))[0], expected)


def test_images_that_are_added_are_seen_by_the_same_process(tmp_path):
    make(tmp_path, {"cat": 12, "dog": 12})
    before = load(tmp_path)
    make(tmp_path, {"cat": 15, "dog": 12})
    after = load(tmp_path)
    assert len(after.train) + len(after.test) == len(before.train) + len(before.test) + 3


def test_other_ranges_become_those_of_black_and_white(tmp_path):
    depth = np.linspace(-500, 1500, 256).reshape(16, 16).astype(np.float32)
    Image.fromarray(depth).save(tmp_path / "x.tif")
    found = decode(tmp_path / "x.tif", 1, (16, 16))
    assert (found.min(), found.max()) == (0, 255)
    depth[3, 3] = np.nan
    Image.fromarray(depth).save(tmp_path / "x.tif")
    with pytest.raises(DamagedImageError, match="not finite"):
        decode(tmp_path / "x.tif", 1, (16, 16))


def test_only_the_documented_formats_of_regular_files_are_opened(tmp_path):
    postscript = tmp_path / "x.png"
    Image.new("RGB", (16, 16)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(postscript)
    with pytest.raises(DamagedImageError, match="cannot identify"):
        decode(postscript, 3, (16, 16))
    os.mkfifo(tmp_path / "fifo.png")
    with pytest.raises(DamagedImageError, match="not a regular file"):
        decode(tmp_path / "fifo.png", 3, (16, 16))


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
    with pytest.raises(UsageError, match=r"data.mean has 3 values, but the images have 1 channels"):
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
        ({}, "has 0 class folders"),
        ({"cat": 3}, "has 1 class folder"),
        ({"train/cat": 3, "train/dog": 3, "val/emu": 1}, "has classes that .*train lacks: emu"),
        ({"val/cat": 3, "val/dog": 3}, "has a folder val but no folder train"),
    ],
)
def test_folders_that_are_no_data_set_say_what_is_missing(tmp_path, counts, words):
    make(tmp_path, counts)
    with pytest.raises(UsageError, match=words):
        load(tmp_path)


def test_a_folder_must_be_there_and_named(tmp_path):
    with pytest.raises(UsageError, match="There is no folder"):
        load(Path("/nowhere/at/all"))
    with pytest.raises(UsageError, match="needs a folder"):
        data_spec("folder").shape(tmp_path)


def test_linked_folders_are_read_and_none_leads_back(tmp_path):
    make(tmp_path / "pictures", {"cat": 2, "dog": 2})
    make(tmp_path, {"more": 3})
    (tmp_path / "pictures" / "cat" / "more").symlink_to(tmp_path / "more")
    (tmp_path / "pictures" / "cat" / "all").symlink_to(tmp_path)
    (tmp_path / "more" / "back").symlink_to(tmp_path / "pictures" / "cat")
    found = images_under(tmp_path / "pictures" / "cat")
    assert len(found) == 5
    assert list(find_images([str(tmp_path / "pictures" / "cat")])) == sorted(map(str, found))

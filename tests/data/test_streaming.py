"""Images streamed from their files: the same batches as from memory, and no step is lost or read twice."""

import itertools
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data.test_folder import make, picture
from tekapctl import data
from tekapctl.commands.cache import clear, list_artifacts, verify
from tekapctl.data import Batches, data_spec
from tekapctl.data.files.decoding import decode, random_crop
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.home import Home

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    make(root / "train", {"cat": 13, "dog": 12}, ".jpg")
    make(root / "val", {"cat": 4, "dog": 5})
    return root


def load(folder, scans, **settings):
    return data_spec({"name": f"folder:{folder}", "size": 16, **settings}).load(scans)


def batches(image_set, **settings) -> Batches:
    settings = {"padding": 2, "flip": True, "seed": 3} | settings
    return Batches(image_set, 8, device=CPU, **settings)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("strong", "cache"), [(False, False), (True, False), (True, True)])
def test_streamed_batches_are_those_from_memory(folder, tmp_path, workers, strong, cache):
    stored = load(folder, tmp_path / "datasets")
    streamed = load(folder, tmp_path / "datasets", stream=True, workers=workers, cache=cache)
    assert streamed.train.mean == pytest.approx(stored.train.mean, abs=1e-12)
    assert streamed.train.std == pytest.approx(stored.train.std, abs=1e-12)
    alike = replace(streamed.train, mean=stored.train.mean, std=stored.train.std)
    from_memory, from_files = batches(stored.train), batches(alike)
    for epoch in (0, 1):
        pairs = zip(from_memory.epoch(epoch, 1, strong=strong), from_files.epoch(epoch, 1, strong=strong), strict=True)
        for one, other in pairs:
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.index, other.index)
            assert one.step == other.step
            assert (one.strong is None) == (not strong)
            assert one.strong is None or torch.equal(one.strong, other.strong)
    for one, other in zip(from_memory.in_order(), from_files.in_order(), strict=True):
        assert torch.equal(one.images, other.images)
    assert torch.equal(from_memory.probe(5), from_files.probe(5))


def test_stored_pixels_are_read_in_place_of_the_files(folder, tmp_path):
    home = tmp_path / "home"
    for channels in ("colour", "grey"):
        settings = {"stream": True, "workers": 0, "channels": channels}
        cached, decoded = (load(folder, home / "datasets", cache=cache, **settings) for cache in (True, False))
        assert (cached.train.mean, cached.train.std) == (decoded.train.mean, decoded.train.std)
        chosen = [part.with_channels(3).select(torch.tensor([9, 2, 17])) for part in (cached.train, decoded.train)]
        first, second = (batches(each).probe(3) for each in chosen)
        assert torch.equal(first, second)
    found = [each for each in list_artifacts(Home(home)) if each.kind == "images"]
    assert [each.bytes for each in found] == [each.path.stat().st_size for each in found]
    counts = [f"folder {folder}, {part} images of 16x16" for part in ("training, 25", "test, 9")]
    assert {each.described for each in found} == set(counts)
    assert sum(each.bytes for each in found) == (25 + 9) * 16 * 16 * (3 + 1)
    assert [problem for _, problem in verify(Home(home))] == [None] * len(found)
    with found[0].path.open("r+b") as file:
        file.write(b"x")
    assert [problem for _, problem in verify(Home(home))].count("its checksum is wrong") == 1
    clear(Home(home), ["images"])
    assert list((home / "images").iterdir()) == []


def test_damaged_files_are_known_to_the_stored_pixels(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "pictures")
    (tmp_path / "pictures" / "train" / "cat" / "0.jpg").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(UsageError, match="1 image of folder"):
            load(tmp_path / "pictures", tmp_path / "datasets", cache=True)
        for stream in (True, False):
            found = load(tmp_path / "pictures", tmp_path / "datasets", cache=True, stream=stream, skip_damaged=True)
            assert len(found.train) == 24
            assert "left out 1 damaged image" in found.notes[-1]


def test_an_epoch_that_was_left_early_disturbs_no_later_one(folder, tmp_path):
    train = load(folder, tmp_path, stream=True, workers=2).train
    whole, left = batches(train), batches(train)
    next(left.epoch(0))
    for one, other in zip(whole.epoch(1), left.epoch(1), strict=True):
        assert torch.equal(one.images, other.images)


def test_random_parts_depend_on_seed_and_epoch_alone(folder, tmp_path):
    train = load(folder, tmp_path, augmentation="resized-crop").train
    settings = {"padding": 0, "random_resized_crop": True}

    def images(number, start=0, **more):
        return [batch.images for batch in batches(train, **settings, **more).epoch(number, start)]

    once = images(0)
    assert all(map(torch.equal, once, images(0)))
    assert torch.equal(torch.cat(once[2:]), torch.cat(images(0, 2)))
    assert not torch.equal(torch.cat(once), torch.cat(images(0, seed=4)))
    first = next(batches(train, **settings).epoch(0, strong=True))
    assert torch.equal(first.images, once[0])
    assert first.strong.shape == first.images.shape


@pytest.mark.parametrize(("across", "down"), [(500, 375), (64, 64), (2000, 100), (100, 2000), (9, 8)])
def test_random_parts_are_inside_the_image_and_have_the_published_areas_and_aspects(across, down):
    boxes = torch.tensor([random_crop(across, down, seed) for seed in range(500)], dtype=torch.float64)
    left, top, right, lower = boxes.unbind(1)
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= across).all()
    assert (lower <= down).all()
    wide, high = right - left, lower - top
    if max(across, down) < 4 * min(across, down) and min(across, down) > 50:
        share, aspect = wide * high / (across * down), wide / high
        assert 0.07 < share.min() < 0.15
        assert share.max() > 0.9
        assert 0.7 < aspect.min() < 0.8
        assert 1.25 < aspect.max() < 1.4


def test_a_large_jpeg_shows_the_same_part_whether_or_not_it_is_decoded_smaller(tmp_path):
    x, y = np.meshgrid(np.linspace(0, 255, 800), np.linspace(0, 255, 600))
    smooth = np.stack([x, y, 255 - x], 2).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "large.jpg", quality=95)
    Image.fromarray(smooth).save(tmp_path / "large.png")
    for options in ({}, {"center_crop": 7 / 8}, {"crop": 1}, {"crop": 2}):
        one, other = (decode(tmp_path / f"large.{kind}", 3, (24, 24), **options) for kind in ("jpg", "png"))
        assert (one.int() - other.int()).abs().max() <= 4


def test_tests_of_the_imagenet_recipe_show_the_middle_seven_eighths(tmp_path):
    path = tmp_path / "ring.png"
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[2:62, 2:62] = 200
    Image.fromarray(pixels).save(path)
    assert decode(path, 3, (28, 28)).min() < 100
    assert (decode(path, 3, (28, 28), center_crop=7 / 8) == 200).all()


def test_what_is_known_of_a_stream_is_looked_for_once(folder, tmp_path):
    load(folder, tmp_path, stream=True)
    (kept,) = (tmp_path / ".scans").glob("*.json")
    before = kept.stat().st_mtime_ns
    again = load(folder, tmp_path, stream=True)
    assert kept.stat().st_mtime_ns == before
    kept.write_text("{")
    assert load(folder, tmp_path, stream=True).train.mean == again.train.mean


def test_damaged_files_are_left_out_or_named_wherever_they_are_met(tmp_path):
    make(tmp_path / "pictures", {"cat": 6, "dog": 6})
    bad = tmp_path / "pictures" / "dog" / "3.png"
    stored = load(tmp_path / "pictures", tmp_path)
    bad.write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"dog/3\.png"):
        load(tmp_path / "pictures", tmp_path, stream=True)
    splits = load(tmp_path / "pictures", tmp_path, stream=True, skip_damaged=True)
    assert len(splits.train) + len(splits.test) == 11
    assert "left out 1 damaged image" in " ".join(splits.notes)
    # With the normalisation given, nothing is looked at beforehand.
    given = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "stream": True}
    splits = load(tmp_path / "pictures", tmp_path, **given)
    with pytest.raises(TekapctlError, match=r"dog/3\.png"):
        [list(batches(some).epoch(0)) for some in (splits.train, splits.test)]
    assert len(stored.train) == len(splits.train)


def test_names_that_are_not_utf8_are_streamed_as_from_memory(tmp_path):
    make(tmp_path / "pictures" / "train", {"cat": 3, "dog": 3})
    make(tmp_path / "pictures" / "test", {"cat": 1, "dog": 1})
    picture = tmp_path / "pictures" / "train" / "cat" / "0.png"
    picture.rename(picture.with_name(os.fsdecode(b"\xff.png")))
    stored, streamed = (load(tmp_path / "pictures", tmp_path, stream=stream).train for stream in (False, True))
    assert torch.equal(batches(stored).probe(6), batches(streamed).probe(6))
    assert len(streamed.fingerprint) == 64


def test_the_files_and_their_order_make_the_fingerprint(folder, tmp_path):
    train = load(folder, tmp_path, stream=True).train
    assert train.fingerprint == load(folder, tmp_path, stream=True).train.fingerprint
    assert train.subset(0.5, 0).fingerprint == train.fingerprint
    picture(tmp_path / "other" / "train" / "cat" / "0.png", 1)
    make(tmp_path / "other" / "train", {"cat": 3, "dog": 3})
    make(tmp_path / "other" / "val", {"cat": 1, "dog": 1})
    assert load(tmp_path / "other", tmp_path, stream=True).train.fingerprint != train.fingerprint


def test_grey_streams_are_repeated_for_networks_of_three_channels(folder, tmp_path):
    grey = load(folder, tmp_path, stream=True, channels="grey").train
    three = batches(grey.with_channels(3)).probe(2)
    assert three.shape == (2, 3, 16, 16)
    assert torch.equal(three[:, 0], three[:, 2])
    assert torch.equal(three[:, :1], batches(grey).probe(2))


def test_a_process_that_dies_is_an_error_in_words(folder, tmp_path):
    train = load(folder, tmp_path, stream=True, workers=1).train
    reading = batches(train)
    running = reading.epoch(0)
    next(running)
    (worker,) = reading._loader._loader._iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(TekapctlError, match="has died"):
        list(itertools.chain(running, reading.epoch(1)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"augmentation": "resized-crop", "stream": False}, "from their files"),
        ({"test_size": 24, "stream": False}, "from their files"),
        ({"mean": (0.5,)}, "has 1 values"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(folder, tmp_path, settings, words):
    with pytest.raises(UsageError, match=words):
        load(folder, tmp_path, **settings)


def test_padding_belongs_to_the_other_recipe(folder):
    assert data_spec({"name": f"folder:{folder}", "augmentation": "resized-crop"}).padding == 0
    with pytest.raises(ValueError, match="crops without padding"):
        data_spec({"name": f"folder:{folder}", "augmentation": "resized-crop", "padding": 4})


@pytest.mark.parametrize("settings", [{"augmentation": "resized-crop"}, {}, {"cache": True}])
def test_validation_and_test_images_can_be_larger_than_training_images(folder, tmp_path, settings):
    given = data_spec({"name": f"folder:{folder}", "size": 16, "test_size": 24, **settings})
    held_out = given.model_copy(update={"val_fraction": 0.5, "workers": 0})
    splits = data.load(held_out, tmp_path, seed=0)
    assert splits.val is not None
    assert [each.image_shape[1] for each in (splits.train, splits.val, splits.test)] == [16, 24, 24]
    same = data.load(held_out.model_copy(update={"size": 24, "test_size": None}), tmp_path, seed=0)
    assert torch.equal(Batches(splits.test, 4, device=CPU).probe(2), Batches(same.test, 4, device=CPU).probe(2))


def test_a_student_takes_its_teachers_test_size_and_may_set_one_where_the_teacher_has_none(folder):
    plain, larger = (data_spec({"name": f"folder:{folder}", "size": 16, "test_size": size}) for size in (None, 24))
    assert plain.like(larger).test_image_size == 24
    assert larger.like(plain).test_image_size == 24
    with pytest.raises(UsageError, match="trained with 24"):
        data_spec({"name": f"folder:{folder}", "test_size": 32}).like(larger)

"""Datasets from their real files: embedded, from the system, from a folder, from a server."""

import gzip
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.server import serving
from tekapctl.data import DATASETS, data_spec, load
from tekapctl.data.image_set import ImageSet
from tekapctl.errors import TekapctlError, UsageError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST's files."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_fashion(folder: Path, count: int = 20) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


CIFARS = {
    "cifar10": (
        "cifar-10-batches-py",
        [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"],
        "batches.meta",
        "",
        10,
    ),
    "cifar100": ("cifar-100-python", ["train", "test"], "meta", "fine_", 100),
}


def write_cifar(folder: Path, name: str, count: int = 100) -> Path:
    inner, batches, meta, prefix, classes = CIFARS[name]
    inside = folder / inner
    inside.mkdir(parents=True)
    for batch in batches:
        content = {
            "data": np.random.default_rng(1).integers(0, 256, (count, 3072), dtype=np.uint8),
            f"{prefix}labels": [i % classes for i in range(count)],
        }
        (inside / batch).write_bytes(pickle.dumps(content, protocol=2))
    names = {f"{prefix}label_names": [f"class {i}" for i in range(classes)]}
    (inside / meta).write_bytes(pickle.dumps(names, protocol=2))
    return inside


def pack(folder: Path, inner: Path, name: str) -> Path:
    with tarfile.open(folder / name, "w:gz") as archive:
        archive.add(inner, arcname=inner.name)
    return folder / name


def test_digits_are_in_the_package(tmp_path):
    splits = data_spec("digits").load(tmp_path)
    assert (len(splits.train), len(splits.test)) == (1297, 500)
    assert splits.train.image_shape == (1, 8, 8)
    assert int(splits.train.images.max()) == 255
    assert torch.bincount(torch.cat([splits.train.labels, splits.test.labels])).sum() == 1797
    shown = {tuple(image.flatten().tolist()) for image in splits.train.images}
    assert not any(tuple(image.flatten().tolist()) in shown for image in splits.test.images)


def test_synthetic_images_have_the_asked_shape_and_are_the_same_each_time(tmp_path):
    spec = data_spec({"name": "synthetic", "samples": 30, "test_samples": 10, "classes": 5, "size": 12, "channels": 2})
    one, other = spec.load(tmp_path), spec.load(tmp_path)
    assert one.train.images.shape == (30, 2, 12, 12)
    assert torch.equal(one.train.images, other.train.images)
    assert spec.shape(tmp_path).classes == len(one.test.classes) == 5


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_the_system(tmp_path):
    splits = data_spec("fashion-mnist").load(tmp_path)
    assert (len(splits.train), len(splits.test)) == (60_000, 10_000)
    pixels = splits.train.images.float() / 255
    assert (float(pixels.mean()), float(pixels.std())) == pytest.approx((0.2860, 0.3530), abs=1e-3)
    assert torch.bincount(splits.train.labels).tolist() == [6000] * 10


@pytest.mark.parametrize("unpacked", [False, True])
def test_fashion_mnist_from_a_folder_that_holds_its_files(tmp_path, unpacked):
    folder = write_fashion(tmp_path / "mine")
    if unpacked:
        for packed in folder.glob("*.gz"):
            packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
            packed.unlink()
    splits = data_spec({"name": "fashion-mnist", "folder": str(folder)}).load(tmp_path / "none")
    assert splits.train.images.shape == (20, 1, 28, 28)


@pytest.mark.parametrize("name", CIFARS)
def test_cifar_from_a_folder_and_from_its_archive(tmp_path, name):
    inside = write_cifar(tmp_path, name)
    expected = 500 if name == "cifar10" else 100
    published = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
    archive = pack(tmp_path / "..", inside, published[name])
    packed = tmp_path / "packed"
    packed.mkdir()
    archive.rename(packed / archive.name)
    loaded = [data_spec({"name": name, "folder": str(f)}).load(tmp_path) for f in (tmp_path, inside, packed)]
    for splits in loaded:
        assert splits.train.images.shape == (expected, 3, 32, 32)
        assert torch.equal(splits.train.images, loaded[0].train.images)
        assert splits.train.classes[3] == "class 3"


def test_data_sets_come_from_a_server_in_their_published_formats(tmp_path):
    write_fashion(tmp_path / "served")
    inside = write_cifar(tmp_path, "cifar100")
    pack(tmp_path / "served", inside, "cifar-100-python.tar.gz")
    inside = write_cifar(tmp_path, "cifar10")
    pack(tmp_path / "served", inside, "cifar-10-python.tar.gz")
    with serving(tmp_path / "served") as server:
        for name in ("fashion-mnist", "cifar10", "cifar100"):
            spec = data_spec(name)
            assert "images" in spec.fetch(tmp_path / "home", source=f"{server.address}/ok")
            assert len(spec.load(tmp_path / "home", offline=True).train) > 0


def test_a_page_instead_of_the_file_is_refused(tmp_path):
    with serving(tmp_path) as server, pytest.raises(TekapctlError, match="web page"):
        data_spec("cifar100").fetch(tmp_path / "home", source=f"{server.address}/page")


def break_nothing_there(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def cut(folder: Path) -> None:
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:100])


def lie(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((2, 28, 28), np.uint8))[:50]))


def lose(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()


@pytest.mark.parametrize("damage", [break_nothing_there, cut, lie, lose])
def test_a_damaged_folder_is_refused_with_its_name(tmp_path, damage):
    folder = write_fashion(tmp_path / "mine")
    damage(folder)
    with pytest.raises(UsageError, match="mine"):
        data_spec({"name": "fashion-mnist", "folder": str(folder)}).load(tmp_path)


def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    inside = write_cifar(tmp_path, "cifar100")
    (inside / "train").write_bytes(pickle.dumps({"data": Attack()}))
    with pytest.raises(UsageError, match="would run"):
        data_spec({"name": "cifar100", "folder": str(inside)}).load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_what_is_missing_is_answered_with_the_command_that_gets_it(tmp_path):
    with pytest.raises(UsageError, match="tekapctl fetch cifar100"):
        data_spec("cifar100").load(tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        data_spec({"name": "cifar100", "folder": str(tmp_path / "gone")}).load(tmp_path)
    with pytest.raises(UsageError, match="cifar100"):
        data_spec("cifar101")


def test_a_run_sees_its_fraction_in_the_channels_it_needs(tmp_path):
    spec = data_spec({"name": "digits", "train_fraction": 0.1})
    splits = load(spec, tmp_path, seed=1, in_channels=3)
    assert 120 <= len(splits.train) <= 140
    assert len(splits.test) == 500
    assert splits.train.image_shape == splits.test.image_shape == (3, 8, 8)


@pytest.mark.parametrize("name", [name for name in DATASETS if not DATASETS[name].needs_location])
def test_shapes_for_estimates_name_sensible_numbers(name):
    shape = data_spec(name).shape(Path())
    assert min(shape.train_images, shape.test_images, shape.channels) > 0
    assert shape.classes >= 2


@given(st.integers(2, 12), st.floats(1, 100), st.floats(0.2, 1))
def test_a_long_tail_keeps_what_its_formula_says(classes, imbalance, fraction):
    labels = torch.arange(classes).repeat(60)
    images = torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8)
    whole = ImageSet(images, labels, tuple(map(str, range(classes))), (0.5,), (0.5,))
    counts = torch.bincount(whole.subset(fraction, 3, imbalance).labels, minlength=classes).tolist()
    expected = [max(1, round(60 * fraction * imbalance ** (-i / (classes - 1)))) for i in range(classes)]
    assert counts == expected

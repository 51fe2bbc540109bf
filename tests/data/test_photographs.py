"""STL-10, SVHN, Tiny ImageNet and ImageNet, from files in their published layouts, on disk and from a server."""

import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from data.test_folder import picture
from helpers.server import serving
from tekapctl.data import Batches, data_spec
from tekapctl.errors import UsageError

CPU = torch.device("cpu")


def write_stl10(folder: Path) -> Path:
    """Columns before rows, classes from 1, and the many images without labels last."""
    inner = folder / "stl10_binary"
    inner.mkdir(parents=True)
    for part, count in (("train", 20), ("test", 10)):
        pixels = np.zeros((count, 3, 96, 96), dtype=np.uint8)
        pixels[:, 0, 5, 7] = np.arange(count) + 1  # column 5, row 7
        (inner / f"{part}_X.bin").write_bytes(pixels.tobytes())
        (inner / f"{part}_y.bin").write_bytes((np.arange(count) % 10 + 1).astype(np.uint8).tobytes())
    (inner / "unlabeled_X.bin").write_bytes(b"\0" * 3 * 96 * 96)
    return inner


def write_svhn(folder: Path) -> Path:
    matlab = pytest.importorskip("scipy.io", reason="the extra svhn is not installed")
    folder.mkdir(parents=True)
    for part, count in (("train", 20), ("test", 10)):
        pixels = np.zeros((32, 32, 3, count), dtype=np.uint8)
        pixels[3, 4, 2] = np.arange(count)
        labels = (np.arange(count) % 10 + 1).reshape(-1, 1).astype(np.uint8)  # the digit 0 is class 10
        matlab.savemat(folder / f"{part}_32x32.mat", {"X": pixels, "y": labels})
    return folder


def write_tiny_imagenet(folder: Path) -> Path:
    inner = folder / "tiny-imagenet-200"
    inner.mkdir(parents=True)
    ids = ("n02", "n01", "n03")
    (inner / "wnids.txt").write_text("\n".join(ids))
    (inner / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbull, cow\nn03\tbull, seal\n")
    for number, wnid in enumerate(ids):
        for i in range(4):
            picture(inner / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 10 * number + i, (64, 64))
    lines = []
    for i in range(6):
        picture(inner / "val" / "images" / f"val_{i}.JPEG", 100 + i, (64, 64))
        lines.append(f"val_{i}.JPEG\t{ids[i % 3]}\t0\t0\t10\t10\n")
    (inner / "val" / "val_annotations.txt").write_text("".join(lines))
    return inner


def test_stl10_has_rows_before_columns_and_classes_from_zero(tmp_path):
    folder = write_stl10(tmp_path)
    for place in (folder, tmp_path):
        splits = data_spec({"name": "stl10", "folder": str(place)}).load(tmp_path)
        assert splits.train.images.shape == (20, 3, 96, 96)
        assert splits.train.images[:, 0, 7, 5].tolist() == list(range(1, 21))
        assert splits.train.labels.tolist() == [i % 10 for i in range(20)]
        assert splits.train.classes[9] == "truck"
    (folder / "test_y.bin").write_bytes(b"\x0b" * 10)
    with pytest.raises(UsageError, match="damaged"):
        data_spec({"name": "stl10", "folder": str(folder)}).load(tmp_path)


def test_svhn_has_its_digits_in_order(tmp_path):
    folder = write_svhn(tmp_path / "mine")
    splits = data_spec({"name": "svhn", "folder": str(folder)}).load(tmp_path)
    assert splits.train.images.shape == (20, 3, 32, 32)
    assert splits.train.images[:, 2, 3, 4].tolist() == list(range(20))
    assert splits.train.labels.tolist() == [(i + 1) % 10 for i in range(20)]
    (folder / "test_32x32.mat").write_bytes(b"MATLAB 5.0 MAT-file, or not")
    with pytest.raises(UsageError, match="damaged"):
        data_spec({"name": "svhn", "folder": str(folder)}).load(tmp_path)


@pytest.mark.parametrize("stream", [False, True])
def test_tiny_imagenet_has_its_test_labels_from_the_annotations(tmp_path, stream):
    folder = write_tiny_imagenet(tmp_path)
    splits = data_spec({"name": f"tiny-imagenet:{folder}", "stream": stream, "workers": 0}).load(tmp_path)
    # Classes are sorted by id; names that two have are told apart by it.
    assert splits.train.classes == ("goldfish", "bull (n02)", "bull (n03)")
    assert splits.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert splits.test.labels.tolist() == [1, 0, 2, 1, 0, 2]
    shown = next(Batches(splits.test, 6, device=CPU, padding=0, flip=False, seed=0).in_order()).images
    assert shown.shape == (6, 3, 64, 64)
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99\n")
    with pytest.raises(UsageError, match="damaged"):
        data_spec(f"tiny-imagenet:{folder}").load(tmp_path)


def test_imagenet_is_streamed_with_its_published_normalisation(tmp_path):
    for part, count in (("train", 3), ("val", 2)):
        for number, wnid in enumerate(("n01440764", "n01443537")):
            for i in range(count):
                picture(tmp_path / part / wnid / f"{i}.JPEG", 10 * number + i, (300, 260))
    (tmp_path / "train" / ".cache").mkdir()
    spec = data_spec({"name": f"imagenet:{tmp_path}", "workers": 0})
    assert (spec.padding, spec.random_resized_crop, spec.image_size) == (0, True, 224)
    splits = spec.load(tmp_path / "home")
    assert splits.train.mean == (0.485, 0.456, 0.406)
    assert splits.train.classes == ("n01440764", "n01443537")
    assert not (tmp_path / "home").exists()  # nothing had to be looked at beforehand
    batches = Batches(splits.train, 4, device=CPU, padding=0, flip=True, seed=0, random_resized_crop=True)
    assert [len(batch.images) for batch in batches.epoch(0)] == [4, 2]
    assert spec.shape(tmp_path).train_images == 6
    assert data_spec("imagenet").shape(tmp_path).train_images == 1_281_167


@pytest.fixture
def archives(tmp_path) -> Path:
    """A folder with STL-10 and Tiny ImageNet as they are published, but small."""
    served = tmp_path / "served"
    served.mkdir()
    inner = write_stl10(tmp_path / "one")
    with tarfile.open(served / "stl10_binary.tar.gz", "w:gz") as archive:
        for name in ("test_X.bin", "test_y.bin", "train_X.bin", "train_y.bin", "unlabeled_X.bin"):
            archive.add(inner / name, f"stl10_binary/{name}")
    inner = write_tiny_imagenet(tmp_path / "two")
    with zipfile.ZipFile(served / "tiny-imagenet-200.zip", "w") as archive:
        for path in sorted(inner.rglob("*")):
            archive.write(path, Path("tiny-imagenet-200") / path.relative_to(inner))
    return served


def names_under(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*")]


def test_stl10_and_tiny_imagenet_come_from_a_server(tmp_path, archives):
    with serving(archives) as server:
        for name, count in (("stl10", 30), ("tiny-imagenet", 18)):
            told = data_spec(name).fetch(tmp_path / "home", source=f"{server.address}/ok")
            assert f"{count} images" in told
            splits = data_spec(name).load(tmp_path / "home", offline=True)
            assert len(splits.train) + len(splits.test) == count
    kept = names_under(tmp_path / "home")
    assert "unlabeled_X.bin" not in kept
    assert not any(name.endswith((".zip", ".tar.gz")) for name in kept)


def test_svhn_comes_from_a_server(tmp_path):
    with serving(write_svhn(tmp_path / "served")) as server:
        told = data_spec("svhn").fetch(tmp_path / "home", source=f"{server.address}/ok")
    assert "30 images" in told
    splits = data_spec("svhn").load(tmp_path / "home", offline=True)
    assert len(splits.train) + len(splits.test) == 30


def test_an_archive_that_wants_to_write_elsewhere_is_refused(tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    with zipfile.ZipFile(served / "tiny-imagenet-200.zip", "w") as archive:
        archive.writestr("tiny-imagenet-200/../../../outside", "x")
    with serving(served) as server, pytest.raises(UsageError, match="paths outside its folder"):
        data_spec("tiny-imagenet").fetch(tmp_path / "home", source=f"{server.address}/ok")
    assert not list(tmp_path.rglob("outside"))


def test_what_is_not_there_is_answered_with_how_to_get_it(tmp_path):
    for name in ("stl10", "svhn", "tiny-imagenet"):
        with pytest.raises(UsageError, match=f"tekapctl fetch {name}"):
            data_spec(name).load(tmp_path)
    for act in (data_spec("imagenet").load, data_spec("imagenet").fetch):
        with pytest.raises(UsageError, match=r"ImageNet") as told:
            act(tmp_path)
        assert "train/WNID" in str(told.value)

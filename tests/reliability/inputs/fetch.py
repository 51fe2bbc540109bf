"""Sources to fetch from, and folders of datasets, that are none or mean harm."""

import gzip
import os
import pickle
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from reliability.inputs import maker

CIFAR10 = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]


def device(path: Path) -> None:
    """A device of the test's own, like /dev/null: root may write over the machine's, and a bug would."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:  # no root, to whom the machine's is safe
        path.symlink_to("/dev/null")


@maker
def odd_places(here: Path) -> None:
    """A pipe, a folder, a device, and links to them, to nothing and to themselves."""
    os.mkfifo(here / "pipe")
    (here / "folder").mkdir()
    device(here / "device")
    for name, target in (("pipe", "pipe"), ("folder", "folder"), ("device", "device"), ("zero", "/dev/zero")):
        (here / f"to-{name}").symlink_to(target)
    (here / "to-nothing").symlink_to("nothing")
    (here / "loop").symlink_to("loop")


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """A tar header that may say anything."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


@maker
def bad_archives(here: Path) -> None:
    """Archives of every suffix that datasets come in."""
    contents = {
        "empty": b"",
        "zeros": bytes(10_000),
        "page": b"<html>404 not found</html>",
        "pickle": pickle.dumps({"a": 1}),
        "long-header": header("pax", 8 * 2**30 - 1, b"x") + bytes(1024),
        "long-name": header("././@LongLink", 8 * 2**30 - 1, b"L") + bytes(1024),
        "device": header("cifar-10-batches-py/test_batch", 0, b"3") + bytes(1024),
        "link": header("cifar-10-batches-py/test_batch", 0, b"2") + bytes(1024),
        "cut": header("cifar-10-batches-py/test_batch", 10**6) + bytes(1024),
        "huge": header("cifar-10-batches-py/test_batch", 8 * 2**30 - 1) + bytes(1024),
        "other": header("readme", 5) + b"hello" + bytes(507 + 1024),
    }
    for name, content in contents.items():
        (here / f"{name}.tar").write_bytes(content)
        (here / f"{name}.tar.gz").write_bytes(gzip.compress(content))
        (here / f"{name}.zip").write_bytes(content)
        (here / f"{name}.pth").write_bytes(content)
    (here / "broken.tar.gz").write_bytes(gzip.compress(os.urandom(10_000))[:5000])


@maker
def bad_zips(here: Path) -> None:
    """Archives of Tiny ImageNet that are not."""
    inner = "tiny-imagenet-200"
    with zipfile.ZipFile(here / "elsewhere.zip", "w") as archive:
        archive.writestr(f"{inner}/../../outside", "x")
    with zipfile.ZipFile(here / "no-images.zip", "w") as archive:
        archive.writestr(f"{inner}/wnids.txt", "n01\nn02\n")
        archive.writestr(f"{inner}/val/val_annotations.txt", "")
    with zipfile.ZipFile(here / "other-folder.zip", "w") as archive:
        archive.writestr("cats/x.png", "x")
    with zipfile.ZipFile(here / "twice.zip", "w") as archive:
        archive.writestr(f"{inner}/wnids.txt", "n01")
        archive.writestr(f"{inner}/wnids.txt/x", "n01")
    whole = (here / "no-images.zip").read_bytes()
    (here / "cut.zip").write_bytes(whole[:-30])
    place = whole.rindex(b"PK\x01\x02")
    (here / "encrypted.zip").write_bytes(
        whole[:place] + whole[place:].replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    )
    (here / "claims.zip").write_bytes(whole[: place + 24] + struct.pack("<I", 2**32 - 2) + whole[place + 28 :])


def cifar10(folder: Path, content: bytes) -> None:
    folder.mkdir()
    for name in CIFAR10:
        (folder / name).write_bytes(content)


class Runs:
    """A pickle that would leave a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("ran"),)


@maker
def bad_pickles(here: Path) -> None:
    """CIFAR-10 in folders, of pickles that take memory or run code."""
    laughs: list[object] = [1] * 10
    for _ in range(9):
        laughs = [laughs] * 10
    pixels = np.zeros((2, 3072), np.uint8)
    tables = {
        "shape": b"\x80\x02cnumpy\nndarray\nJ\x00\xe1\xf5\x05\x85\x85R.",
        "class": b"\x80\x02cnumpy\nndarray\nJ\x00\xe1\xf5\x05\x85\x85\x81.",
        "type": b"\x80\x02cnumpy\ndtype\nX\x0b\x00\x00\x00V2147483647\x85R.",
        "memo": b"\x80\x02}r\xff\xff\xff\x3f.",
        "bytes": b"\x80\x05\x96" + (2**44).to_bytes(8, "little") + b".",
        "deep": b"\x80\x02" + b"(" * 10**5 + b"l" * 10**5 + b".",
        "code": pickle.dumps({"data": Runs()}),
        "list": pickle.dumps([1]),
        "empty": b"",
        "laughs": pickle.dumps({"data": pixels, "labels": laughs, "label_names": ["a"] * 10}, 2),
        "no-words": pickle.dumps({"data": pixels, "labels": [0, 1], "label_names": [laughs] * 10}, 2),
        "beyond": pickle.dumps({"data": pixels, "labels": [0, 99], "label_names": ["a"] * 10}, 2),
        "below": pickle.dumps({"data": pixels, "labels": [0, -1], "label_names": ["a"] * 10}, 2),
        "long": pickle.dumps({"data": pixels, "labels": [0, 10**50], "label_names": ["a"] * 10}, 2),
        "few": pickle.dumps({"data": pixels, "labels": [0], "label_names": ["a"] * 10}, 2),
        "other-size": pickle.dumps({"data": pixels[:, :99], "labels": [0, 1], "label_names": ["a"] * 10}, 2),
    }
    for name, content in tables.items():
        cifar10(here / name, content)
    cifar10(here / "pipes", b"")
    (here / "pipes" / "data_batch_2").unlink()
    os.mkfifo(here / "pipes" / "data_batch_2")


@maker
def bad_idx(here: Path) -> None:
    """Fashion-MNIST in folders, of files that claim what they have not."""
    contents = {
        "huge": struct.pack(">HBBIII", 0, 8, 3, 2**31, 2**31, 2**31) + bytes(1000),
        "zero": struct.pack(">HBBIII", 0, 8, 3, 0, 2**31, 2**31),
        "bomb": struct.pack(">HBBIII", 0, 8, 3, 10, 28, 28) + bytes(2**20),
        "floats": struct.pack(">HBBIII", 0, 13, 3, 1, 28, 28) + bytes(4 * 784),
        "dimensions": struct.pack(">HBB", 0, 8, 255) + b"\0\0\0\1" * 255 + b"\0",
        "labels": struct.pack(">HBBI", 0, 8, 1, 2**30),
        "empty": b"",
    }
    for name, content in contents.items():
        (here / name).mkdir()
        packed = gzip.compress(content, 1)
        for part in ("train", "t10k"):
            for what in ("images-idx3", "labels-idx1"):
                (here / name / f"{part}-{what}-ubyte.gz").write_bytes(packed)
    (here / "pipes").mkdir()
    for place, name in enumerate(sorted(path.name for path in (here / "empty").iterdir())):
        if place:
            os.mkfifo(here / "pipes" / name)
        else:
            (here / "pipes" / name).write_bytes(b"")


@maker
def pipe_of_the_right_name(here: Path) -> None:
    """A pipe that is called as an archive is."""
    os.mkfifo(here / "x.tar.gz")


@maker
def deep_records(here: Path) -> None:
    """What the cache knows of its contents, nested so deeply that no reader follows."""
    home = here.parent / "home"
    for path in (home / "teachers" / "sha256.json", home / "knowledge" / "x-1" / "identity.json"):
        path.parent.mkdir(parents=True)
        path.write_text("[" * 100_000)
    (home / "teachers" / "vgg13.safetensors").touch()
    (home / "knowledge" / "x-1" / "records.bin").touch()


@maker
def pipes_in_the_cache(here: Path) -> None:
    """A cache of pipes."""
    home = here.parent / "home"
    names = (
        "teachers/vgg13.safetensors",
        "datasets/cifar10/cifar-10-batches-py.tar.gz",
        "downloads/cifar_teachers.tar",
    )
    for name in (*names, "knowledge/x-1/identity.json", "knowledge/x-1/records.bin"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(home / name)
    (home / "teachers" / "sha256.json").write_text('{"vgg13.safetensors": "0"}')


@maker
def link_to_there(here: Path) -> None:
    """A link to a file that is there."""
    (here / "to-there.onnx").symlink_to("there.onnx")


@maker
def link_to_weights(here: Path) -> None:
    """A link to a run's weights."""
    weights = next(here.parent.glob("home/runs/*/weights.safetensors"))
    (here / "to-weights.safetensors").symlink_to(weights)


@maker
def cards(here: Path) -> None:
    """Links where model cards go, to what is no file of the user's."""
    summary = next(here.parent.glob("home/runs/*/summary.json"))
    for name, target in (("device", "device"), ("folder", "folder"), ("pipe", "pipe"), ("run", summary)):
        (here / f"{name}.onnx.md").symlink_to(target)

"""Files made to do harm: each is one of the program's own errors, before it takes memory or time."""

import gzip
import io
import json
import pickle
import resource
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tekapctl.cli.console import printable
from tekapctl.commands.run_list import row_of
from tekapctl.data.datasets import cifar, fashion_mnist, svhn
from tekapctl.errors import UsageError
from tekapctl.models import build
from tekapctl.store import archive
from tekapctl.store.archive import unpack_zip
from tekapctl.store.legacy_checkpoint import read_published
from tekapctl.store.run import Run
from tekapctl.store.weights import load_into
from tekapctl.train.references import Reference
from tekapctl.train.trained import load


@pytest.fixture(autouse=True)
def little_memory():
    """Whoever believes a lying size gets a MemoryError here instead of the machine's memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 700_000, f"{grown} KiB were taken"


def loaded(path: Path):
    return load(Reference("x", path, "hostile"))


def state(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**build("resnet8", 10, 3).state_dict(), **changes}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fc.weight", torch.empty(2**40, 0)),
        ("fc.weight", torch.empty(0, 64)),
        ("conv1.weight", torch.empty(0, 2**40, 3, 3)),
        ("fc.bias", torch.full((10,), float("inf"))),
        ("fc.bias", torch.ones(10, dtype=torch.int64)),
        ("fc.bias", torch.ones(10, dtype=torch.bool)),
        ("bn1.num_batches_tracked", torch.tensor(0.5)),
        ("fc.bias", torch.ones(10, 10**4)),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_that_lie_about_shapes_and_types_are_refused(tmp_path, name, value, suffix):
    path = tmp_path / f"x{suffix}"
    if suffix == ".pth":
        torch.save({"model": state(**{name: value})}, path)
    else:
        save_file(state(**{name: value}), path)
    with pytest.raises(UsageError):
        loaded(path)


def test_weights_in_another_floating_type_are_taken_as_numbers():
    half = {k: v.half() if v.is_floating_point() else v for k, v in state().items()}
    network = build("resnet8", 10, 3)
    load_into(network, half, source="there")
    assert network.conv1.weight.dtype == torch.float32
    eighth = {k: v.to(torch.float8_e4m3fn) if v.is_floating_point() else v for k, v in state().items()}
    load_into(network, eighth, source="there")


@pytest.mark.parametrize("classes", ["7", "[1, 2]", '{"a": 1}', "[" * 10_000, "nonsense", '["a", NaN]'])
def test_class_names_that_are_none_are_refused(tmp_path, classes):
    save_file(state(), tmp_path / "x.safetensors", {"tekapctl": json.dumps({"model": "resnet8", "classes": classes})})
    with pytest.raises(UsageError, match="class names"):
        loaded(tmp_path / "x.safetensors")


@pytest.mark.parametrize("header", [2**63, 2**40, 200_000_000, 7])
def test_safetensors_with_a_lying_header_are_refused(tmp_path, header):
    path = tmp_path / "x.safetensors"
    save_file(state(), path)
    path.write_bytes(header.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(UsageError):
        loaded(path)


def test_a_checkpoint_that_unpacks_to_more_than_it_has_is_refused(tmp_path):
    plain, path = tmp_path / "plain.pth", tmp_path / "x.pth"
    torch.save({"model": {"w": torch.zeros(10**7)}}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for record in source.infolist():
            packed.writestr(record.filename, source.read(record))
    assert path.stat().st_size < 10**6
    with pytest.raises(UsageError, match="unpacks to more"):
        read_published(path)


class Shaped:
    """An array that says it is larger than memory."""

    def __reduce__(self):
        return np.empty(0).__reduce__()[0], (np.ndarray, (2**44,), "b")


class Runs:
    """A pickle that would run code."""

    def __reduce__(self):
        return print, ("run",)


PICKLES = {
    "an array of sixteen terabytes": pickle.dumps(Shaped()),
    "a memo of a billion places": b"\x80\x02}r\xff\xff\xff\x3f.",
    "code": pickle.dumps(Runs()),
    "deep nesting": b"\x80\x02" + b"(" * 10**5 + b"l" * 10**5 + b".",
    "no table": pickle.dumps([1]),
    "a lying length": b"\x80\x04\x8e" + (2**50).to_bytes(8, "little") + b"x.",
    "nothing": b"",
    "an array of no data by its type": b"\x80\x02cnumpy\nndarray\nJ\x00\xe1\xf5\x05\x85\x85R.",
    "an array of no data by its class": b"\x80\x02cnumpy\nndarray\nJ\x00\xe1\xf5\x05\x85\x85\x81.",
    "a type of two gigabytes": b"\x80\x02cnumpy\ndtype\nX\x0b\x00\x00\x00V2147483647\x85R.",
    "one text encoded again and again": b"\x80\x02X" + (10**5).to_bytes(4, "little") + b"a" * 10**5 + b"q\x00("
    b"c_codecs\nencode\nq\x01h\x00X\x06\x00\x00\x00latin1q\x02\x86R" + b"h\x01h\x00h\x02\x86R" * 30_000 + b"l.",
    "three million sets": b"\x80\x04(" + b"\x8f" * 3 * 10**6 + b"l.",
    "a byte array of sixteen terabytes": b"\x80\x05\x96" + (2**44).to_bytes(8, "little") + b".",
}


def nested(depth: int) -> list:
    """A list that a pickle writes in a few bytes, and that has ten times as many elements with every level."""
    found = [1] * 10
    for _ in range(depth):
        found = [found] * 10
    return found


TABLES = {
    "labels of a billion": {"data": np.zeros((2, 3072), np.uint8), "fine_labels": nested(8)},
    "pixels of a billion": {"data": nested(8), "fine_labels": [1, 2]},
    "pixels that are numbers": {"data": np.zeros((2, 3072)), "fine_labels": [1, 2]},
    "labels beyond all numbers": {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [1, 10**30]},
    "labels that are words": {"data": np.zeros((2, 3072), np.uint8), "fine_labels": "ab"},
    "labels in the other order of bytes": {
        "data": np.zeros((2, 3072), np.uint8),
        "fine_labels": np.zeros(2, ">i8"),
    },
    "images of another size": {"data": np.zeros((2, 3071), np.uint8), "fine_labels": [1, 2]},
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_a_data_set_that_hold_something_else_are_refused(tmp_path, name):
    for file, content in (("train", TABLES[name]), ("test", TABLES[name]), ("meta", {"fine_label_names": ["a"] * 9})):
        (tmp_path / file).write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UsageError, match="damaged"):
        cifar.CIFAR100(folder=str(tmp_path)).load(tmp_path)


def test_names_of_classes_that_are_no_words_are_refused(tmp_path):
    good = {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 1]}
    for file, content in (("train", good), ("test", good), ("meta", {"fine_label_names": [nested(8)] * 9})):
        (tmp_path / file).write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UsageError, match="class names"):
        cifar.CIFAR100(folder=str(tmp_path)).load(tmp_path)


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """A tar header that may say anything."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


def sparse(name: str, claimed: int) -> bytes:
    """A tar member of GNU's sparse kind: no data, and any size."""
    block = bytearray(header(name, 0, b"S"))
    block[483:495] = f"{claimed:011o}\0".encode()  # its real size
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


TARS = {
    "a header of eight gigabytes": header("pax", 8 * 2**30 - 1, b"x") + bytes(10**7),
    "a name of eight gigabytes": header("././@LongLink", 8 * 2**30 - 1, b"L") + bytes(10**7),
    "a sparse file": sparse("wanted", 8 * 2**30 - 1) + bytes(1024),
    "a file that is longer than the archive": header("wanted", 10**5) + bytes(100),
    "a device": header("wanted", 0, b"3") + bytes(1024),
    "a pipe": header("wanted", 0, b"6") + bytes(1024),
    "a hard link": header("wanted", 0, b"1") + bytes(1024),
    "a thousand headers of headers": b"".join(
        header("pax", 512, b"x") + b"9 a=bbbb\n" + bytes(503) for _ in range(2000)
    ),
    "a header of a header that is none": header("pax", 512, b"x") + b"99999999999999999999 a=b\n" + bytes(487),
    "a negative size": header("wanted", 0)[:124] + b"\xff" * 12 + header("wanted", 0)[136:],
    "nothing": b"",
    "no archive": b"wanted" * 1000,
}


@pytest.mark.parametrize("name", TARS)
@pytest.mark.parametrize("is_packed", [True, False])
def test_hostile_archives_are_refused_before_they_take_memory(tmp_path, name, is_packed):
    path = tmp_path / "bad.tar"
    path.write_bytes(gzip.compress(TARS[name], 1) if is_packed else TARS[name])
    with pytest.raises(UsageError, match=r"bad\.tar"):
        archive.extract_member(path, "wanted", tmp_path / "out", max_bytes=10**6, max_total_bytes=10**9)
    with pytest.raises(UsageError, match=r"bad\.tar"):
        cifar._from_archive(path, ".", ["wanted"])


def test_a_bomb_in_a_header_is_refused(tmp_path):
    """Sixteen megabytes of archive that unpack to sixteen gigabytes are not made here: the claim alone is enough."""
    path = tmp_path / "bad.tar.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(header("pax", 2**30, b"x"))
        for _ in range(2**10):
            file.write(bytes(2**20))
    with pytest.raises(UsageError, match="claims an impossible size"):
        archive.extract_member(path, "wanted", tmp_path / "out", max_bytes=10**6, max_total_bytes=10**10)


def zipped(**changes: object) -> bytes:
    """A zip archive whose only file says something else of itself."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("inner/a", b"a" * 1000)
    content = bytearray(file.getvalue())
    central = content.rindex(b"PK\x01\x02")
    offsets = {"flags": (8, 6), "method": (10, 8), "size": (24, 22)}
    for name, value in changes.items():
        width = 4 if name == "size" else 2
        for start, offset in ((central, offsets[name][0]), (0, offsets[name][1])):
            content[start + offset : start + offset + width] = int(value).to_bytes(width, "little")
    return bytes(content)


def two_of_one_name() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("inner/a", b"a")
        packed.writestr("inner/a/b", b"b")
    return file.getvalue()


ZIPS = {
    "encrypted": (zipped(flags=1), "damaged"),
    "packed in an unknown way": (zipped(method=77), "damaged"),
    "larger than allowed": (zipped(size=2**32 - 2), "larger than expected"),
    "another folder": (zipped().replace(b"inner", b"outer"), "no folder"),
    "cut": (zipped()[:-10], "damaged"),
    "a file that is a folder too": (two_of_one_name(), "damaged"),
    "nothing": (b"", "damaged"),
    "damaged data": (zipped().replace(b"inner/a" + zipped()[37:40], b"inner/a\xff\xff\xff", 1), "damaged"),
}


@pytest.mark.parametrize("name", ZIPS)
def test_hostile_zips_are_refused(tmp_path, name):
    path = tmp_path / "bad.zip"
    path.write_bytes(ZIPS[name][0])
    with pytest.raises(UsageError, match=ZIPS[name][1]):
        unpack_zip(path, tmp_path / "out", inside="inner")


def matlab_5(*elements: tuple[int, bytes]) -> bytes:
    """A MATLAB file of elements of some kinds."""
    return b"MATLAB 5.0".ljust(124) + b"\0\1IM" + b"".join(struct.pack("<II", k, len(c)) + c for k, c in elements)


def array(name: bytes, kind: int, shape: tuple[int, ...], content: bytes = b"") -> bytes:
    """An array in a MATLAB file; kinds are 1 for cells, 2 for structures, 4 for letters and 9 for bytes."""

    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<II", number, len(value)) + value + bytes(-len(value) % 8)

    inner = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
    return struct.pack("<II", 14, 0) + inner + element(1, name) + element(2 if kind == 9 else 4, content)


def packed(name: bytes, kind: int, shape: tuple[int, ...]) -> tuple[int, bytes]:
    inner = bytearray(array(name, kind, shape))
    inner[4:8] = struct.pack("<I", len(inner) - 8)
    return (15, zlib.compress(bytes(inner)))


MATLABS = {
    "zeros that unpack to gigabytes": matlab_5((15, zlib.compress(bytes(3 * 10**8), 1))),
    "zeros in two halves": matlab_5(*[(15, zlib.compress(bytes(2 * 10**8), 1))] * 2),
    "letters that are not there": matlab_5(packed(b"X", 4, (32, 32, 3, 10**6)), packed(b"y", 9, (1, 1))),
    "cells that are not there": matlab_5(packed(b"X", 1, (2**30, 2)), packed(b"y", 9, (1, 1))),
    "bytes that are not there": matlab_5(packed(b"X", 9, (32, 32, 3, 10**6)), packed(b"y", 9, (10**6, 1))),
    "an older format": struct.pack("<5i", 50, 2**15, 2**15, 0, 2) + b"X\0",
    "an element of four gigabytes": matlab_5()[:-1] + b"M" + struct.pack("<II", 14, 2**32 - 8),
    "nothing": b"",
}


@pytest.mark.parametrize("name", MATLABS)
def test_hostile_files_of_matlab_are_refused(tmp_path, name):
    pytest.importorskip("scipy.io", reason="the extra svhn is not installed")
    for part in ("train", "test"):
        (tmp_path / f"{part}_32x32.mat").write_bytes(MATLABS[name])
    with pytest.raises(UsageError, match="damaged"):
        svhn.SVHN(folder=str(tmp_path)).load(tmp_path)


@pytest.mark.parametrize("name", PICKLES)
def test_hostile_pickles_of_a_data_set_are_refused(name, capsys):
    with pytest.raises(UsageError, match="damaged"):
        cifar._unpickle(PICKLES[name], "train")
    assert capsys.readouterr().out == ""


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_usage_error(content):
    try:
        assert isinstance(cifar._unpickle(content, "train"), dict)
    except UsageError:
        pass


IDX = {
    "more images than fit": (
        struct.pack(">HBBIII", 0, 8, 3, 2**20, 2**10, 2**10) + bytes(10**7),
        "larger than expected",
    ),
    "more than they claim": (struct.pack(">HBBIII", 0, 8, 3, 10, 28, 28) + bytes(10**7), "damaged"),
    "fewer than they claim": (struct.pack(">HBBIII", 0, 8, 3, 10, 28, 28) + bytes(100), "damaged"),
    "no images at all": (struct.pack(">HBBIII", 0, 8, 3, 0, 2**32 - 1, 2**32 - 1), "damaged"),
    "numbers of eight bytes": (struct.pack(">HBBI", 0, 14, 1, 10) + bytes(80), "damaged"),
    "255 dimensions": (struct.pack(">HBB", 0, 8, 255) + b"\0\0\0\1" * 255 + b"\0", "damaged"),
    "more labels than there are": (struct.pack(">HBBI", 0, 8, 1, 2**25) + bytes(2**25), "larger than expected"),
    "zeros alone": (bytes(10**7), "damaged"),
    "nothing": (b"", "damaged"),
}


@pytest.mark.parametrize("name", IDX)
@pytest.mark.parametrize("is_packed", [True, False])
def test_images_that_claim_what_they_are_not_are_refused(tmp_path, name, is_packed):
    content, words = IDX[name]
    for file in fashion_mnist.FILES:
        path = tmp_path / (f"{file}.gz" if is_packed else file)
        path.write_bytes(gzip.compress(content) if is_packed else content)
    with pytest.raises(UsageError, match=words):
        fashion_mnist.FashionMNIST(folder=str(tmp_path)).load(tmp_path)


def test_an_archive_with_a_huge_member_before_the_one_is_not_read_through(tmp_path, monkeypatch):
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as packed:
        for name, size in (("zeros", 20 * 10**6), ("wanted", 10)):
            entry = tarfile.TarInfo(name)
            entry.size = size
            packed.addfile(entry, io.BytesIO(bytes(size)))
    with pytest.raises(UsageError, match="zeros"):
        archive.extract_member(path, "wanted", tmp_path / "target", max_bytes=10**6, max_total_bytes=10**6)
    monkeypatch.setattr(cifar, "MAX_ARCHIVE", 10**6)
    with pytest.raises(UsageError, match="larger than expected"):
        cifar._from_archive(path, "inner", ["wanted"])
    assert not (tmp_path / "target").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
)
LINES = st.dictionaries(st.sampled_from(["epoch", "test_top1", "seconds", "x"]), JSON)


@given(metrics=st.lists(LINES | JSON, max_size=4), summary=LINES | JSON, raw=st.binary(max_size=40))
def test_a_run_with_any_files_can_be_listed(tmp_path_factory, metrics, summary, raw):
    path = tmp_path_factory.mktemp("runs") / "20260101-000000-x-aaaa"
    path.mkdir()
    text = "\n".join(json.dumps(line) for line in metrics)
    (path / "metrics.jsonl").write_bytes(text.encode() + b"\n" + raw)
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "spec.toml").write_bytes(raw)
    json.dumps(row_of(Run(path), {"folder": "folder"}), allow_nan=False)


@given(st.text())
def test_nothing_that_steers_a_terminal_is_shown_raw(text):
    assert all(c.isprintable() or c == "\n" for c in printable(text))

"""Files made to do harm: each is one of the program's own errors, before it takes memory or time."""

import gzip
import io
import json
import pickle
import resource
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tekapctl.cli.console import printable
from tekapctl.cli.runs import _row
from tekapctl.data import cifar, fashion_mnist
from tekapctl.errors import UsageError
from tekapctl.models import build
from tekapctl.store import archive
from tekapctl.store.published import read_published
from tekapctl.store.runs import Run
from tekapctl.store.weights import load_into
from tekapctl.trained import Reference, load


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
    with pytest.raises(UsageError, match="names of the classes"):
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
        return np._core.multiarray._reconstruct, (np.ndarray, (2**44,), "b")


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
}


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


def test_images_that_unpack_to_gigabytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "MOST_PIXELS", 10**6)
    for name in fashion_mnist.FILES:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(UsageError, match="far larger"):
        fashion_mnist.FashionMNIST(folder=str(tmp_path)).load(tmp_path)


def test_an_archive_with_a_huge_member_before_the_one_is_not_read_through(tmp_path, monkeypatch):
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as packed:
        for name, size in (("zeros", 20 * 10**6), ("wanted", 10)):
            entry = tarfile.TarInfo(name)
            entry.size = size
            packed.addfile(entry, io.BytesIO(bytes(size)))
    with pytest.raises(UsageError, match="zeros"):
        archive.extract_member(path, "wanted", tmp_path / "target", most_bytes=10**6)
    monkeypatch.setattr(cifar, "MOST_ARCHIVE", 10**6)
    with pytest.raises(UsageError, match="far larger"):
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
    json.dumps(_row(Run(path)), allow_nan=False)


@given(st.text())
def test_nothing_that_steers_a_terminal_is_shown_raw(text):
    assert all(c.isprintable() or c == "\n" for c in printable(text))

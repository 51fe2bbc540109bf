"""Fetching datasets: what is there stays until its successor is complete, and goes at no other moment."""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data import test_photographs as photographs
from data import test_sources as sources
from helpers.server import serving
from tekapctl.commands.cache import verify
from tekapctl.data import data_spec
from tekapctl.errors import TekapctlError
from tekapctl.store.atomic import atomic_folder, replacement_lock
from tekapctl.store.download import no_network
from tekapctl.store.home import Home


def cifar(name: str, archive: str) -> Callable[[Path], Path]:
    def publish(folder: Path) -> Path:
        inner = sources.write_cifar(folder / "unpacked", name)
        return sources.pack(folder, inner, archive)

    return publish


def stl10(folder: Path) -> Path:
    return sources.pack(folder, photographs.write_stl10(folder / "unpacked"), "stl10_binary.tar.gz")


def tiny_imagenet(folder: Path) -> Path:
    inner = photographs.write_tiny_imagenet(folder / "unpacked")
    path = folder / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(inner.rglob("*")):
            archive.write(file, Path(inner.name) / file.relative_to(inner))
    return path


def svhn(folder: Path) -> Path:
    return photographs.write_svhn(folder / "files") / "test_32x32.mat"


def fashion(folder: Path) -> Path:
    return sources.write_fashion(folder / "files") / "t10k-labels-idx1-ubyte.gz"


PUBLISHERS = {
    "cifar10": cifar("cifar10", "cifar-10-python.tar.gz"),
    "cifar100": cifar("cifar100", "cifar-100-python.tar.gz"),
    "fashion-mnist": fashion,
    "svhn": svhn,
    "stl10": stl10,
    "tiny-imagenet": tiny_imagenet,
}
"""Write a small dataset as it is published, and return its last file."""


@pytest.fixture(params=PUBLISHERS)
def name(request) -> str:
    return request.param


@pytest.fixture
def published(tmp_path, name) -> Path:
    folder = tmp_path / "published"
    folder.mkdir()
    return PUBLISHERS[name](folder)


@pytest.fixture
def datasets(tmp_path, name, published) -> Path:
    """A home's datasets, with one that was fetched from the user's own files."""
    folder = tmp_path / "home" / "datasets"
    data_spec(name).fetch(folder, source=str(published.parent))
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def is_whole(datasets: Path, name: str) -> bool:
    return [problem for artifact, problem in verify(Home(datasets.parent)) if artifact.name == name] == [None]


def test_a_set_comes_from_a_folder_and_nothing_else_is_left(datasets, name):
    assert is_whole(datasets, name)
    assert all(path.split("/")[0] == name for path in contents(datasets))


def test_a_set_of_the_users_own_stays_when_it_is_fetched_without_a_source(datasets, name):
    before = contents(datasets)
    with no_network(name):
        told = data_spec(name).fetch(datasets)
    assert contents(datasets) == before
    if name not in ("stl10", "tiny-imagenet"):  # of which no published file is kept
        assert "not the published one: `force` replaces it" in told


def test_a_set_stays_when_there_is_no_network(datasets, name):
    before = contents(datasets)
    with no_network(name), pytest.raises(TekapctlError, match="`offline` forbids"):
        data_spec(name).fetch(datasets, force=True)
    assert contents(datasets) == before


def test_a_set_stays_when_the_source_is_not_there(datasets, name, tmp_path):
    before = contents(datasets)
    with pytest.raises(TekapctlError, match="no such file"):
        data_spec(name).fetch(datasets, source=str(tmp_path / "nothing"))
    assert contents(datasets) == before


@pytest.mark.parametrize("damage", ["cut", "emptied", "garbled", "another file"])
def test_a_set_stays_when_the_source_is_damaged(datasets, name, published, damage):
    before = contents(datasets)
    content = published.read_bytes()
    ruined = {
        "cut": content[: len(content) // 2],
        "emptied": b"",
        "garbled": content[:12] + bytes(byte ^ 0x5A for byte in content[12:]),
        "another file": b"<html>not found</html>",
    }
    published.write_bytes(ruined[damage])
    with pytest.raises(TekapctlError, match="stays as it is") as told:
        data_spec(name).fetch(datasets, source=str(published.parent))
    assert ".part" not in str(told.value)
    assert contents(datasets) == before
    assert is_whole(datasets, name)


def test_a_set_stays_when_what_comes_is_not_the_published_file(datasets, name, published, monkeypatch):
    if name == "tiny-imagenet":
        pytest.skip("it has no published checksum")
    before = contents(datasets)
    with serving(published.parent) as server:
        monkeypatch.setenv("TEKAPCTL_MIRROR", f"{server.address}/ok")
        for file in published.parent.iterdir():
            for folder in ("stl10", "kriz", "housenumbers", "fashion-mnist", "data", "~acoates", "~kriz"):
                place = published.parent / folder
                place.mkdir(exist_ok=True)
                if file.is_file():
                    shutil.copy(file, place)
        with pytest.raises(TekapctlError, match="not the file that was published"):
            data_spec(name).fetch(datasets, force=True)
    assert contents(datasets) == before


def test_a_source_inside_the_cache_is_read_before_it_is_replaced(datasets, name, published):
    before = contents(datasets)
    inside = datasets / name
    for file in published.parent.iterdir():
        if file.is_file():
            shutil.copy(file, inside)
    assert "images" in data_spec(name).fetch(datasets, source=str(inside))
    assert contents(datasets) == before


def test_the_file_of_the_cache_itself_is_a_source(datasets, name):
    if not name.startswith("cifar"):
        pytest.skip("its archive is not kept")
    before = contents(datasets)
    (archive,) = (datasets / name).glob("*.tar.gz")
    data_spec(name).fetch(datasets, source=str(archive))
    assert contents(datasets) == before


def test_a_damaged_set_is_replaced_without_force(datasets, name, published, monkeypatch):
    for path in (datasets / name).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(TekapctlError, match="`offline` forbids"), no_network(name):
        data_spec(name).fetch(datasets)
    data_spec(name).fetch(datasets, source=str(published.parent))
    assert is_whole(datasets, name)


def test_a_link_to_a_folder_elsewhere_is_replaced_and_the_folder_stays(datasets, name, published, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (datasets / name).rename(elsewhere)
    (datasets / name).symlink_to(elsewhere)
    before = contents(elsewhere)
    data_spec(name).fetch(datasets, source=str(published.parent))
    assert not (datasets / name).is_symlink()
    assert contents(elsewhere) == before
    assert is_whole(datasets, name)


def fill(stage: Path, name: str, text: str) -> None:
    (stage / name).mkdir()
    (stage / name / "file").write_text(text)


def test_a_process_killed_between_the_renames_leaves_what_the_next_one_puts_back(tmp_path):
    folder = tmp_path / "set"
    with replacement_lock(folder), atomic_folder(folder) as stage:
        fill(stage, "set", "old")
    pid = os.fork()
    if not pid:
        with replacement_lock(folder), atomic_folder(folder) as stage:
            fill(stage, "set", "new")
            rename = Path.rename
            # The next time that a folder comes to its place is the second rename.
            Path.rename = lambda self, target: os._exit(9) if target == folder else rename(self, target)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert not folder.exists()
    with replacement_lock(folder):
        assert (folder / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".set.lock", "set"]


def test_whoever_looks_meanwhile_finds_a_whole_folder_or_none(tmp_path):
    folder = tmp_path / "set"
    names = [str(number) for number in range(200)]

    def fill_all(stage: Path) -> None:
        (stage / "set").mkdir()
        for each in names:
            (stage / "set" / each).touch()

    with replacement_lock(folder), atomic_folder(folder) as stage:
        fill_all(stage)
    pid = os.fork()
    if not pid:
        for _ in range(30):
            with replacement_lock(folder), atomic_folder(folder) as stage:
                fill_all(stage)
        os._exit(0)
    seen = set()
    while not os.waitpid(pid, os.WNOHANG)[0]:
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            # While it is open it may be moved aside and deleted, but it came whole under its name.
            found = len(os.listdir(handle))  # noqa: PTH208
            if os.path.samestat(os.fstat(handle), folder.stat()):
                seen.add(found)
        except FileNotFoundError:
            pass
        finally:
            os.close(handle)
    assert seen == {200}

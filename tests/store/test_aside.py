"""Files that a user named to be written: what is refused, and what a kill leaves."""

import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from reliability.inputs.fetch import device
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.atomic import atomic_entries, atomic_path
from tekapctl.store.home import Home, output_file


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".part" in path.name]


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("folder", "is a folder"),
        ("to-folder", "is a folder"),
        ("pipe", "not a regular file"),
        ("to-pipe", "not a regular file"),
        ("device", "not a regular file"),
        ("to-device", "not a regular file"),
        ("loop", "is a link to itself"),
        ("file/below", "not a folder"),
        ("a" * 300, "too long"),
        ("~nosuchuser/x", "no home folder"),
        ("home/runs/one/weights.safetensors", "keeps its own files"),
        ("home/runs/one/new.html", "keeps its own files"),
        ("home/teachers/new.onnx", "keeps its own files"),
        ("home/images/new.pixels", "keeps its own files"),
        ("home/.runs.lock", "keeps its own files"),
        ("to-weights", "keeps its own files"),
        ("to-runs/one/new.html", "keeps its own files"),
        ("home/elsewhere/../runs/x.html", "keeps its own files"),
    ],
)
def test_what_is_no_file_to_write_is_refused_whatever_is_forced(tmp_path, home, monkeypatch, place, words, force):
    monkeypatch.chdir(tmp_path)
    weights = home.runs / "one" / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    for path in (weights, home.root / ".runs.lock", Path("file")):
        path.write_bytes(b"precious")
    Path("folder").mkdir()
    (home.root / "elsewhere").mkdir()
    os.mkfifo("pipe")
    device(Path("device"))
    for link, target in (
        ("folder",) * 2,
        ("pipe",) * 2,
        ("device", "device"),
        ("weights", weights),
        ("runs", home.runs),
    ):
        Path(f"to-{link}").symlink_to(target)
    Path("loop").symlink_to("loop")
    with pytest.raises(UsageError, match=words):
        output_file(Path(place), home, force=force)
    assert weights.read_bytes() == b"precious"
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)


def test_a_file_that_is_there_needs_force(tmp_path, home):
    path = tmp_path / "page.html"
    assert output_file(path, home, force=False) == path
    path.touch()
    with pytest.raises(UsageError, match="already exists"):
        output_file(path, home, force=False)
    assert output_file(path, home, force=True) == path


def test_a_link_is_written_through(tmp_path, home):
    target, link, dangling = (tmp_path / name for name in ("page.html", "link.html", "dangling.html"))
    target.write_text("old")
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "new.html")
    for path in (link, dangling):
        with atomic_path(output_file(path, home, force=True)) as (part,):
            part.write_text("new")
        assert path.is_symlink()
        assert path.read_text() == "new"
    assert target.read_text() == "new"


@pytest.mark.parametrize("name", ["x" * 250 + ".html", "x." + "y" * 250, b"\xff.html".decode(errors="surrogateescape")])
def test_any_name_that_files_can_have_is_written(tmp_path, home, name):
    with atomic_path(output_file(tmp_path / name, home, force=False)) as (part,):
        part.write_text("new")
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208


def test_what_raises_leaves_everything_as_it_was(tmp_path):
    paths = [tmp_path / name for name in ("net.onnx", "net.onnx.md")]
    for path in paths:
        path.write_text("old")

    def write() -> None:
        with atomic_path(*paths) as parts:
            for part in parts:
                part.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert [path.read_text() for path in paths] == ["old", "old"]
    assert leftovers(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_an_error_in_words(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TekapctlError, match="could not be written"), atomic_path(tmp_path / "file" / "x"):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from tekapctl.store.atomic import atomic_entries, atomic_path

moment, calls = int(sys.argv[1]), 0

def count(event, values):
    global calls
    # Renames and deletions are the moments between which something can be half done.
    if event in ("os.rename", "os.remove") and counting:
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1

counting = False
sys.addaudithook(count)
paths = [Path(sys.argv[2]) / name for name in ("net.onnx", "net.onnx.md")]
with atomic_path(*paths) as parts:
    for part in parts:
        part.write_text("new")
    counting = True
"""


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_at_any_moment_leaves_no_card_of_another_file(tmp_path, moment):
    file, card = (tmp_path / name for name in ("net.onnx", "net.onnx.md"))
    for path in (file, card):
        path.write_text("old")
    pid = os.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", KILLED, str(moment), str(tmp_path)])
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    assert code == -signal.SIGKILL or moment > 2
    assert not card.exists() or card.read_text() == file.read_text()
    with atomic_path(file, card) as parts:
        for part in parts:
            part.write_text("newest")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.onnx.md"]


def test_a_part_that_another_process_writes_is_not_swept(tmp_path):
    with atomic_path(tmp_path / "x.html") as (first,):
        first.write_text("first")
        with atomic_path(tmp_path / "x.html") as (second,):
            second.write_text("second")
            assert first.exists()
    assert (tmp_path / "x.html").read_text() == "first"


KILLED_WITH_PARTS = (
    KILLED.replace("atomic_path", "atomic_entries")
    .replace(
        "with atomic_entries(*paths) as parts:\n    for part in parts:\n", "with atomic_entries(*paths) as stage:\n"
    )
    .replace('        part.write_text("new")', '    for path in paths:\n        (stage / path.name).write_text("new")')
)


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_at_any_moment_leaves_no_companion_of_another_file(tmp_path, moment):
    file, card = (tmp_path / name for name in ("net.onnx", "net.onnx.md"))
    for path in (file, card):
        path.write_text("old")
    pid = os.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", KILLED_WITH_PARTS, str(moment), str(tmp_path)])
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == -signal.SIGKILL or (code == 0 and moment > 2)
    assert not card.exists() or card.read_text() == file.read_text()
    with atomic_entries(file, card) as stage:
        for path in (file, card):
            (stage / path.name).write_text("newest")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.onnx.md"]


def test_folders_are_replaced_as_a_whole_and_companions_that_are_gone_are_deleted(tmp_path):
    package, card = tmp_path / "net.mlpackage", tmp_path / "net.mlpackage.md"
    (package / "old").mkdir(parents=True)
    card.write_text("old")

    def fail() -> None:
        with atomic_entries(package, card) as stage:
            (stage / package.name).mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (package / "old").is_dir()
    with atomic_entries(package, card) as stage:
        (stage / package.name / "new").mkdir(parents=True)
    assert [path.name for path in tmp_path.iterdir()] == ["net.mlpackage"]
    assert [path.name for path in package.iterdir()] == ["new"]

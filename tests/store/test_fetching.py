"""Fetching teachers from real servers, good and bad."""

import io
import tarfile

import pytest
import torch

from server import serving
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.models import build
from tekapctl.store import download as download_module
from tekapctl.store import teachers
from tekapctl.store.archive import extract_member
from tekapctl.store.artifacts import clear, list_artifacts, verify
from tekapctl.store.download import download
from tekapctl.store.files import sha256
from tekapctl.store.home import Home
from tekapctl.store.weights import read_metadata


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def published(tmp_path):
    """The folder of a mirror that serves resnet56 as published."""
    path = tmp_path / "served" / "resnet56_vanilla" / "ckpt_epoch_240.pth"
    path.parent.mkdir(parents=True)
    torch.save({"model": build("resnet56").state_dict(), "epoch": 240, "accuracy": 72.34}, path)
    return path


def get(server, mischief: str, target, **settings):
    settings = {"attempts": 2, "pause": 0.0, "most_bytes": 10**6, **settings}
    return download([f"{server.address}/{mischief}/file"], target, **settings)


@pytest.fixture
def served(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "file").write_bytes(bytes(range(256)) * 400)
    return folder


def test_a_file_comes_whole_and_once(served, tmp_path):
    with serving(served) as server:
        for _ in range(2):
            get(server, "ok", tmp_path / "got")
        assert len(server.requests) == 1
    assert (tmp_path / "got").read_bytes() == (served / "file").read_bytes()


def test_a_broken_download_goes_on_where_it_broke(served, tmp_path):
    with serving(served) as server:
        get(server, "cut", tmp_path / "got", digest=sha256(served / "file"))
        assert [span for _, span in server.requests] == [None, "bytes=51200-"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".part") == []


@pytest.mark.parametrize(
    ("mischief", "words"),
    [
        ("short", "broke off after 102,399 of 102,400"),
        ("page", "web page"),
        ("broken", "answered 503"),
        ("redirects", "in a circle"),
        ("endless", "more than 1,000,000 bytes"),
        ("other", "its SHA-256 is"),
    ],
)
def test_what_a_bad_server_gives_is_never_taken(served, tmp_path, mischief, words):
    with serving(served) as server, pytest.raises(TekapctlError, match=words):
        get(server, mischief, tmp_path / "got", digest=sha256(served / "file"))
    assert not (tmp_path / "got").exists()


def test_a_server_that_dribbles_is_given_up(served, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "PATIENCE", 0.3)
    monkeypatch.setattr(download_module, "SLOWEST", 10**6)
    with serving(served) as server, pytest.raises(TekapctlError, match="too slow"):
        get(server, "dribble", tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_the_next_source_is_asked_and_nobody_listening_is_an_error(served, tmp_path):
    with serving(served) as server:
        urls = ["http://127.0.0.1:9/file", f"{server.address}/ok/missing", f"{server.address}/ok/file"]
        assert download(urls, tmp_path / "got", most_bytes=10**6, attempts=1) == urls[2]
    with pytest.raises(TekapctlError, match=r"no connection.*--from"):
        download(urls[:1], tmp_path / "other", most_bytes=10**6, attempts=1)


def test_a_mirror_of_the_users_own_is_asked_first(home, published, tmp_path, monkeypatch):
    with serving(tmp_path / "served") as server:
        monkeypatch.setenv("TEKAPCTL_MIRROR", f"{server.address}/ok")
        found = teachers.fetch(home, "resnet56")
        again = teachers.fetch(home, "resnet56")
        assert len(server.requests) == 1
    assert found == again
    metadata = read_metadata(found.path)
    assert (metadata["model"], metadata["dataset"], metadata["num_classes"]) == ("resnet56", "cifar100", "100")


def test_the_first_fetch_is_recorded_and_later_ones_are_held_to_it(home, published, tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "ORIGIN", "http://127.0.0.1:9")
    monkeypatch.setattr(teachers, "MIRROR", "http://127.0.0.1:9/teachers.tar")
    with serving(tmp_path / "served") as server:
        monkeypatch.setenv("TEKAPCTL_MIRROR", f"{server.address}/ok")
        teachers.fetch(home, "resnet56")
        torch.save({"model": build("resnet56").state_dict()}, published)
        with pytest.raises(TekapctlError, match="SHA-256"):
            teachers.fetch(home, "resnet56", force=True)
    assert teachers.fetched(home, "resnet56") is not None


def test_a_checkpoint_of_another_network_is_refused(home, tmp_path):
    path = tmp_path / "vgg.pth"
    torch.save({"model": build("vgg8").state_dict()}, path)
    with pytest.raises(UsageError, match="another architecture"):
        teachers.fetch(home, "resnet56", source=str(path))
    assert teachers.fetched(home, "resnet56") is None


def test_a_teacher_comes_out_of_the_mirrors_archive(home, published, tmp_path):
    archive = tmp_path / "cifar_teachers.tar"
    with tarfile.open(archive, "w") as opened:
        opened.add(published, arcname=teachers.CATALOGUE["resnet56"].member)
    teachers.fetch(home, "resnet56", source=str(archive))
    assert teachers.fetched(home, "resnet56") is not None


@pytest.mark.parametrize("kind", ["link", "missing", "cut"])
def test_hostile_archives_are_refused(tmp_path, kind):
    archive = tmp_path / "bad.tar"
    with tarfile.open(archive, "w") as opened:
        entry = tarfile.TarInfo("../wanted" if kind == "missing" else "wanted")
        if kind == "link":
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            opened.addfile(entry)
        else:
            entry.size = 1000
            opened.addfile(entry, io.BytesIO(bytes(1000)))
    if kind == "cut":
        archive.write_bytes(archive.read_bytes()[:700])
    with pytest.raises(UsageError):
        extract_member(archive, "wanted", tmp_path / "out", most_bytes=10**6)
    assert not (tmp_path.parent / "wanted").exists()


def test_offline_never_fetches(home):
    with pytest.raises(UsageError, match="--offline"):
        teachers.fetch(home, "resnet56", offline=True)


def test_the_cache_is_listed_verified_and_cleared(home, published):
    found = teachers.fetch(home, "resnet56", source=str(published))
    assert [(a.kind, a.name) for a in list_artifacts(home)] == [("teachers", "resnet56")]
    assert [problem for _, problem in verify(home)] == [None]
    content = bytearray(found.path.read_bytes())
    content[-1] ^= 1
    found.path.write_bytes(content)
    assert "SHA-256" in verify(home)[0][1]
    teachers.fetch(home, "resnet56", source=str(published))
    assert [problem for _, problem in verify(home)] == [None]
    assert clear(home, ["teachers"]) > 0
    assert list_artifacts(home) == []
    with pytest.raises(UsageError, match="teachers"):
        clear(home, ["teecher"])


def test_what_a_killed_fetch_left_is_swept_away_by_the_next_one(home, published):
    teachers.fetch(home, "resnet56", source=str(published))
    left = [home.teachers / f".{name}.0123abcd.part" for name in ("sha256.json", "resnet56.safetensors")]
    left += [home.downloads / name for name in ("resnet56.published", ".resnet56.published.77.part")]
    for path in left:
        path.write_bytes(b"half")
    teachers.fetch(home, "resnet56", offline=True)
    assert not any(path.exists() for path in left)


def test_clearing_takes_hidden_folders_with_it(home):
    for name in (".scans", ".tiny-imagenet-200.part"):
        (home.datasets / name / "within").mkdir(parents=True)
    (home.datasets / ".lock").touch()
    clear(home, ["datasets"])
    assert list(home.datasets.iterdir()) == []

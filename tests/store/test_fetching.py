"""Fetching teachers from real servers, good and bad."""

import io
import os
import shutil
import socket
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from helpers.server import answering, forever, page, redirect, serving
from tekapctl.commands.cache import clear, list_artifacts, verify
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.models import build, pretrained
from tekapctl.store.archive import extract_member
from tekapctl.store.atomic import sha256
from tekapctl.store.download import download, no_network
from tekapctl.store.home import Home
from tekapctl.store.http import Patience
from tekapctl.store.weights import read_metadata
from tekapctl.train import references, trained


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


QUICK = Patience(attempts=2, pause=0.0)


def get(address: str, target: Path, name: str = "file", **settings) -> bytes:
    """Download a file with its parts in `target`; returns its content."""
    settings = {"max_bytes": 10**6, "patience": QUICK, **settings}
    with download([address], target, name, **settings) as file:
        return file.path.read_bytes()


@pytest.fixture
def served(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "file").write_bytes(bytes(range(256)) * 400)
    return folder


@pytest.fixture
def parts(tmp_path) -> Path:
    return tmp_path / "parts"


def test_a_file_comes_whole_and_leaves_nothing_behind(served, parts):
    with serving(served) as server:
        assert get(f"{server.address}/ok/file", parts) == (served / "file").read_bytes()
    assert list(parts.iterdir()) == []


@pytest.mark.parametrize("mischief", ["cut", "dated"])
def test_a_broken_download_goes_on_where_it_broke(served, parts, mischief):
    with serving(served) as server:
        get(f"{server.address}/{mischief}/file", parts, digest=sha256(served / "file"))
        assert [span for _, span in server.requests] == [None, "bytes=51200-"]
    assert list(parts.iterdir()) == []


@pytest.mark.parametrize("mischief", ["weak", "mute", "fresh"])
def test_a_download_without_a_version_that_can_be_told_starts_over(served, parts, mischief):
    with serving(served) as server, pytest.raises(TekapctlError, match="ended after 51,200"):
        get(f"{server.address}/{mischief}/file", parts)
    assert [span for _, span in server.requests] == [None, None]
    assert list(parts.iterdir()) == []


@pytest.mark.parametrize("mischief", ["cut", "deaf"])
def test_a_download_does_not_go_on_with_another_version_of_the_file(served, parts, mischief):
    once = replace(QUICK, attempts=1)
    with serving(served) as server:
        address = f"{server.address}/{mischief}/file"
        with pytest.raises(TekapctlError, match="it ended after"):
            get(address, parts, patience=once)
        assert len(list(parts.iterdir())) == 2
        (served / "file").write_bytes(bytes(102_400))
        with pytest.raises(TekapctlError, match=r"ended after|does not match"):
            get(address, parts, patience=once)
        assert get(f"{server.address}/ok/file", parts) == bytes(102_400)


def test_parts_of_other_addresses_are_not_gone_on_with_and_are_deleted(served, parts):
    # The sums of these addresses' bytes are equal.
    (served / "run12").mkdir()
    (served / "run21").mkdir()
    (served / "run12" / "file").write_bytes(b"a" * 10_000)
    (served / "run21" / "file").write_bytes(b"b" * 10_000)
    with serving(served) as server:
        with pytest.raises(TekapctlError, match="it ended after"):
            get(f"{server.address}/cut/run12/file", parts, patience=replace(QUICK, attempts=1))
        assert get(f"{server.address}/cut/run21/file", parts) == b"b" * 10_000
    assert list(parts.iterdir()) == []


@pytest.mark.parametrize(
    ("mischief", "words"),
    [
        ("short", "ended after 102,399 of 102,400"),
        ("page", "web page"),
        ("broken", "answered 503"),
        ("redirects", "in a circle"),
        ("endless", "more than 1,000,000 bytes"),
        ("other", "its SHA-256 is"),
    ],
)
def test_what_a_bad_server_gives_is_never_taken(served, parts, mischief, words):
    with serving(served) as server, pytest.raises(TekapctlError, match=words):
        get(f"{server.address}/{mischief}/file", parts, digest=sha256(served / "file"))
    if mischief not in ("short", "broken"):
        assert list(parts.iterdir()) == []


HOST = "a" * 70
ANSWERS = {
    "no length": (page(b"Content-Length: \xb2"), "Content-Length is not a number"),
    "a length of 5,000 digits": (page(b"Content-Length: " + b"9" * 5000), "Content-Length is not a number"),
    "a large length": (page(b"Content-Length: " + b"9" * 18), "it claims to have"),
    "a bad address": (redirect(b"http://[bad"), "redirects to an address that is not valid"),
    "no text": (redirect(b"http://x/\xff\xfe"), "redirects to an address that is not valid"),
    "a long label": (redirect(f"http://{HOST}.b/".encode()), "redirects to an address that is not valid"),
    "a file": (redirect(b"file:///etc/passwd"), "redirects to an address that is not valid"),
    "another protocol": (redirect(b"ftp://127.0.0.1/x"), "redirects to an address that is not valid"),
    "an ESC": (redirect(b"http://\x1b[31m/"), "redirects to an address that is not valid"),
    "no HTTP": (lambda c: c.sendall(b"SSH-2.0-OpenSSH_9.6\r\n"), "violated HTTP"),
    "a long header": (page(b"X: " + b"x" * 70_000), "violated HTTP"),
    "endless headers": (forever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000), "violated HTTP"),
    "nothing": (lambda _: None, "closed the connection"),
    "half a header": (lambda c: c.sendall(b"HTTP/1.1 2"), "violated HTTP|closed the connection"),
    "broken chunks": (page(b"Transfer-Encoding: chunked", body=b"zz\r\nabc"), "violated HTTP"),
    "cut chunks": (page(b"Transfer-Encoding: chunked", body=b"ff\r\nabc"), "stopped sending|violated HTTP|closed"),
    "a part unasked": (lambda c: c.sendall(b"HTTP/1.1 206 X\r\nContent-Length: 3\r\n\r\nabc"), "answered 206"),
    "no content": (lambda c: c.sendall(b"HTTP/1.1 204 X\r\n\r\n"), "answered 204"),
    "a number that is none": (lambda c: c.sendall(b"HTTP/1.1 999 X\r\n\r\n"), "answered 999|violated HTTP"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_hostile_answers_are_answered_in_words(parts, name):
    answer, words = ANSWERS[name]
    with answering(answer) as address, pytest.raises(TekapctlError, match=words) as told:
        get(f"{address}/file", parts)
    assert "the connection failed" not in str(told.value)
    assert not any(path.suffix == ".part" for path in parts.iterdir())


ENDLESS = {
    "headers that dribble": forever(b"HTTP/1.1 200 OK\r\n", b"X"),
    "100 Continue": forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a redirection": forever(b"HTTP/1.1 302 Found\r\nLocation: /file\r\n\r\n", b"x"),
    "a body that dribbles": forever(b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "silence": forever(b"", b""),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_server_that_never_ends_is_given_up(parts, name):
    # The time allowed between two pieces would never end it.
    patience = Patience(attempts=1, silence=3600.0, answer=0.3, deadline=0.6)
    with answering(ENDLESS[name]) as address, pytest.raises(TekapctlError, match=r"in time|in a circle"):
        get(f"{address}/file", parts, patience=patience)


def test_a_server_that_dribbles_is_given_up(served, parts):
    patience = Patience(attempts=1, slow=0.3, slowest=10**6)
    with serving(served) as server, pytest.raises(TekapctlError, match="too slow"):
        get(f"{server.address}/dribble/file", parts, patience=patience)


def test_the_next_source_is_asked_and_nobody_listening_is_an_error(served, parts):
    settings = {"max_bytes": 10**6, "patience": replace(QUICK, attempts=1)}
    with serving(served) as server:
        urls = ["http://127.0.0.1:9/file", f"{server.address}/ok/missing", f"{server.address}/ok/file"]
        with download(urls, parts, "file", **settings) as file:
            assert file.origin == urls[2]
    with pytest.raises(TekapctlError, match=r"the connection failed.*`source`"):
        get(urls[0], parts, **settings)


@pytest.mark.parametrize("written", ["{path}", "file://{path}", "file://localhost{path}", "FILE:{path}"])
def test_a_file_of_the_users_own_is_read_where_it_is(served, parts, written):
    source = written.format(path=served / "file")
    with no_network("this"), download([source], parts, "file", max_bytes=10**6) as file:
        assert file.path == served / "file"
        file.place(parts / "copy")
    assert (served / "file").read_bytes() == (parts / "copy").read_bytes()


def test_without_the_network_nothing_is_asked(served, parts):
    with serving(served) as server:
        with no_network("this"), pytest.raises(UsageError, match="this needs the network, and `offline`"):
            get(f"{server.address}/ok/file", parts)
        assert server.requests == []
        get(f"{server.address}/ok/file", parts)


def test_without_the_network_no_thread_connects_and_no_host_is_looked_up(served):
    asked = []

    def ask(call, *values):
        try:
            call(*values)
        except UsageError:
            asked.append(call.__name__)

    with serving(served) as server, no_network("this"):
        client = socket.socket()
        calls = [
            (client.connect, ("127.0.0.1", server.server_port)),
            (client.connect_ex, ("127.0.0.1", server.server_port)),
            (socket.getaddrinfo, "localhost", 80),
            (socket.gethostbyname, "localhost"),
            (socket.create_connection, ("localhost", server.server_port)),
        ]
        threads = [threading.Thread(target=ask, args=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.close()
        first, second = socket.socketpair()  # processes of one machine may talk
        first.close()
        second.close()
    assert len(asked) == len(calls)


def test_a_mirror_of_the_users_own_is_asked_first(home, published, tmp_path, monkeypatch):
    with serving(tmp_path / "served") as server:
        monkeypatch.setenv("TEKAPCTL_MIRROR", f"{server.address}/ok")
        found = pretrained.fetch(home, "resnet56")
        again = pretrained.fetch(home, "resnet56")
        assert len(server.requests) == 1
    assert found == again
    metadata = read_metadata(found.path)
    assert (metadata["model"], metadata["dataset"], metadata["num_classes"]) == ("resnet56", "cifar100", "100")


def test_the_first_fetch_is_recorded_and_later_ones_are_held_to_it(home, published, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "ORIGIN", "http://127.0.0.1:9")
    monkeypatch.setattr(pretrained, "MIRROR", "http://127.0.0.1:9/teachers.tar")
    with serving(tmp_path / "served") as server:
        monkeypatch.setenv("TEKAPCTL_MIRROR", f"{server.address}/ok")
        pretrained.fetch(home, "resnet56")
        torch.save({"model": build("resnet56").state_dict()}, published)
        with pytest.raises(TekapctlError, match="SHA-256"):
            pretrained.fetch(home, "resnet56", force=True)
    assert pretrained.fetched(home, "resnet56") is not None


def test_a_checkpoint_of_another_network_is_refused(home, tmp_path):
    path = tmp_path / "vgg.pth"
    torch.save({"model": build("vgg8").state_dict()}, path)
    with pytest.raises(UsageError, match="another architecture"):
        pretrained.fetch(home, "resnet56", source=str(path))
    assert pretrained.fetched(home, "resnet56") is None


def test_a_teacher_comes_out_of_the_mirrors_archive(home, published, tmp_path):
    archive = tmp_path / "cifar_teachers.tar"
    with tarfile.open(archive, "w") as opened:
        opened.add(published, arcname=pretrained.CATALOGUE["resnet56"].member)
    pretrained.fetch(home, "resnet56", source=str(archive))
    assert pretrained.fetched(home, "resnet56") is not None


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
        extract_member(archive, "wanted", tmp_path / "out", max_bytes=10**6, max_total_bytes=10**6)
    assert not (tmp_path.parent / "wanted").exists()


def test_offline_never_fetches(home):
    with pytest.raises(UsageError, match="`offline`"):
        pretrained.fetch(home, "resnet56", offline=True)


def test_the_cache_is_listed_verified_and_cleared(home, published):
    found = pretrained.fetch(home, "resnet56", source=str(published))
    assert [(a.kind, a.name) for a in list_artifacts(home)] == [("teachers", "resnet56")]
    assert [problem for _, problem in verify(home)] == [None]
    content = bytearray(found.path.read_bytes())
    content[-1] ^= 1
    found.path.write_bytes(content)
    assert "SHA-256" in verify(home)[0][1]
    pretrained.fetch(home, "resnet56", source=str(published))
    assert [problem for _, problem in verify(home)] == [None]
    assert clear(home, ["teachers"]).bytes > 0
    assert list_artifacts(home) == []
    with pytest.raises(UsageError, match="teachers"):
        clear(home, ["teecher"])


def test_what_a_killed_fetch_left_is_swept_away_by_the_next_one(home, published):
    pretrained.fetch(home, "resnet56", source=str(published))
    left = [home.teachers / f".{name}.0123abcd.part" for name in ("sha256.json", "resnet56.safetensors")]
    left += [home.downloads / f".resnet56.{name}.{64 * '0'}.part" for name in ("published", "tar")]
    left.append(left[-1].with_suffix(".json"))
    left.append(home.downloads / f".{left[-1].name}.0123abcd.part")
    for path in left:
        path.write_bytes(b"half")
    pretrained.fetch(home, "resnet56", offline=True)
    assert not any(path.exists() for path in left)


def test_clearing_takes_hidden_folders_with_it(home):
    for name in (".scans", ".tiny-imagenet-200.part"):
        (home.datasets / name / "within").mkdir(parents=True)
    (home.datasets / ".lock").touch()
    clear(home, ["datasets"])
    assert list(home.datasets.iterdir()) == []


def test_fetched_weights_that_were_damaged_since_are_not_used(home, published):
    found = pretrained.fetch(home, "resnet56", source=str(published))
    content = bytearray(found.path.read_bytes())
    content[-1] ^= 1
    found.path.write_bytes(content)
    with pytest.raises(UsageError, match="SHA-256 is not the recorded one"):
        trained.load(references.find(home, "resnet56"))


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "7", "", '{"resnet56.safetensors": [[]]}', f"[{'9' * 5000}]"])
def test_hostile_records_of_checksums_are_damage_in_words(home, published, text):
    found = pretrained.fetch(home, "resnet56", source=str(published))
    (home.teachers / "sha256.json").write_text(text)
    assert pretrained.damage(home, found)
    pretrained.fetch(home, "resnet56", source=str(published))
    assert pretrained.damage(home, found) is None


def test_a_pipe_for_a_teacher_is_not_opened(home, published):
    found = pretrained.fetch(home, "resnet56", source=str(published))
    found.path.unlink()
    os.mkfifo(found.path)
    assert [problem for _, problem in verify(home)] == ["is not a file"]
    assert pretrained.fetched(home, "resnet56") is None


def test_clearing_leaves_what_another_process_fetches(home, published):
    pretrained.fetch(home, "resnet56", source=str(published))
    (home.downloads / ".resnet56.published.part").write_bytes(b"half")
    with FileLock(home.teachers / ".resnet56.lock"):
        cleared = clear(home, ["teachers", "downloads"])
        assert [artifact.name for artifact in cleared.kept] == ["resnet56"]
        assert (home.downloads / ".resnet56.published.part").exists()
    assert pretrained.fetched(home, "resnet56") is not None
    assert clear(home).kept == ()
    assert list(home.downloads.iterdir()) == []
    assert [path.name for path in home.teachers.iterdir()] == ["sha256.json"]


def test_clearing_deletes_links_and_not_what_they_lead_to(home, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    home.datasets.mkdir(parents=True)
    (home.datasets / "cifar10").symlink_to(tmp_path / "mine")
    (home.datasets / "gone").symlink_to(tmp_path / "gone")
    clear(home)
    assert list(home.datasets.iterdir()) == []
    assert (tmp_path / "mine" / "file").exists()


@pytest.mark.parametrize("source", ["published", "downloads/resnet56.published", "teachers/resnet56.safetensors"])
def test_a_source_inside_the_cache_stays(home, published, source):
    first = pretrained.fetch(home, "resnet56", source=str(published))
    path = home.root / source
    if source != "teachers/resnet56.safetensors":
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(published, path)
    pretrained.fetch(home, "resnet56", source=str(path))
    assert path.exists()
    assert pretrained.damage(home, first) is None


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_teacher_stays_when_what_comes_is_damaged(home, published, content):
    found = pretrained.fetch(home, "resnet56", source=str(published))
    before = sha256(found.path)
    published.write_bytes(published.read_bytes()[:5000] if content is None else content)
    with pytest.raises(TekapctlError):
        pretrained.fetch(home, "resnet56", source=str(published))
    assert sha256(found.path) == before
    assert pretrained.damage(home, found) is None

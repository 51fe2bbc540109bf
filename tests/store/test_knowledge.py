"""The store of teachers' knowledge: what it gives back was put there, whatever happened to it in between."""

import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tekapctl.commands.cache import clear
from tekapctl.store import teacher_cache
from tekapctl.store.home import Home
from tekapctl.store.teacher_cache import Identity, TeacherCache, damage, is_used

WORDS, RECORDS = 7, 500


def identity(teacher: str = "aa") -> Identity:
    return Identity("resnet8-digits", {"teacher": teacher}, records=RECORDS, words=WORDS)


def words_of(places: np.ndarray) -> np.ndarray:
    """What a teacher would say: something that depends on the place alone."""
    return (places[:, None] * 31 + np.arange(WORDS) * 7).astype(np.uint32)


def filled(folder: Path, places: np.ndarray) -> TeacherCache:
    store = TeacherCache(folder, identity())
    store.write(places, words_of(places))
    return store


def test_an_empty_store_holds_nothing_and_takes_no_room(tmp_path):
    store = TeacherCache(tmp_path, identity())
    assert not store.read(np.arange(RECORDS))[1].any()
    assert store.bytes_used < 4096 < store.identity.bytes


def test_records_come_back_in_another_process_life(tmp_path):
    places = np.array([3, 499, 0, 77])
    filled(tmp_path, places)
    words, is_known = TeacherCache(tmp_path, identity()).read(np.array([77, 4, 499]))
    assert is_known.tolist() == [True, False, True]
    assert (words[[0, 2]] == words_of(np.array([77, 499]))).all()


@given(byte=st.integers(0, (WORDS + 1) * 4 - 1), bit=st.integers(0, 7))
def test_no_flipped_bit_is_taken_for_knowledge(tmp_path_factory, byte, bit):
    folder = tmp_path_factory.mktemp("store")
    store = filled(folder, np.array([5, 6]))
    records = store.path / "records.bin"
    content = bytearray(records.read_bytes())
    content[5 * (WORDS + 1) * 4 + byte] ^= 1 << bit
    records.write_bytes(content)
    assert TeacherCache(folder, identity()).read(np.array([5, 6]))[1].tolist() == [False, True]


def test_a_record_at_another_place_or_of_another_teacher_is_not_believed(tmp_path):
    store = filled(tmp_path, np.arange(10))
    other = TeacherCache(tmp_path, identity("bb"))
    assert other.path != store.path
    other.path.joinpath("records.bin").write_bytes(store.path.joinpath("records.bin").read_bytes())
    assert not TeacherCache(tmp_path, identity("bb")).read(np.arange(10))[1].any()
    records = store.path / "records.bin"
    content, length = records.read_bytes(), (WORDS + 1) * 4
    records.write_bytes(content[length:] + content[:length])
    assert not TeacherCache(tmp_path, identity()).read(np.arange(9))[1].any()


@pytest.mark.parametrize("name", ["records.bin", "identity.json"])
def test_a_store_that_was_cut_short_is_made_anew_and_says_so(tmp_path, name, logged):
    store = filled(tmp_path, np.arange(10))
    path = store.path / name
    assert damage(store.path) is None
    path.write_bytes(path.read_bytes()[:-9])
    assert damage(store.path) is not None
    again = TeacherCache(tmp_path, identity())
    assert "starting again" in logged[0]
    assert not again.read(np.arange(10))[1].any()
    assert damage(store.path) is None


def test_a_nearly_full_disk_ends_the_caching_and_nothing_else(tmp_path, monkeypatch, logged):
    monkeypatch.setattr(teacher_cache, "RESERVE", 2**62)
    store = TeacherCache(tmp_path, identity())
    for place in range(3):
        store.write(np.array([place]), words_of(np.array([place])))
    assert store.is_full
    assert len(logged) == 1
    assert not store.read(np.arange(3))[1].any()


def fill_part(folder: Path, first: int) -> None:
    store = TeacherCache(folder, identity())
    for start in range(first, RECORDS, 5):
        places = np.arange(start, min(start + 7, RECORDS))
        words, is_known = store.read(places)
        assert (words[is_known] == words_of(places[is_known])).all()
        store.write(places[~is_known], words_of(places[~is_known]))


def test_processes_that_fill_one_store_at_once_do_not_disturb_each_other(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=fill_part, args=(tmp_path, first)) for first in (0, 1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    words, is_known = TeacherCache(tmp_path, identity()).read(np.arange(RECORDS))
    assert is_known.all()
    assert (words == words_of(np.arange(RECORDS))).all()


@pytest.mark.parametrize("deleted", ["folder", "all"])
def test_a_store_that_is_deleted_while_it_is_filled_ends_the_caching_and_nothing_else(
    tmp_path, monkeypatch, deleted, logged
):
    monkeypatch.setattr(teacher_cache, "_CHECK_EVERY", 0)
    store = TeacherCache(tmp_path / "knowledge", identity())
    store.write(np.arange(3), words_of(np.arange(3)))
    shutil.rmtree(store.path if deleted == "folder" else tmp_path / "knowledge")
    for place in range(3, 6):
        store.write(np.array([place]), words_of(np.array([place])))
    assert store.is_full
    assert len(logged) == 1
    assert "was deleted: no more teacher outputs are cached, the teacher runs instead" in logged[0]
    assert store.read(np.arange(3))[1].all()
    assert store.bytes_used == 0


def test_clearing_leaves_the_store_that_a_process_fills(tmp_path):
    home = Home(tmp_path)
    store = filled(home.knowledge, np.arange(10))
    other = TeacherCache(home.knowledge, identity("bb"))
    other_path = other.path
    del other
    cleared = clear(home, ["knowledge"])
    assert [artifact.path for artifact in cleared.kept] == [store.path]
    assert not other_path.exists()
    assert store.read(np.arange(10))[1].all()
    path = store.path
    del store
    assert clear(home, ["knowledge"]).kept == ()
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{}",
        "[]",
        "7",
        "",
        '{"records": "x", "words": 100000000000}',
        '{"records": [1], "words": 100000000000}',
        '{"records": 1e400, "words": 1}',
        '{"records": null, "words": null}',
        f'{{"records": {"9" * 5000}, "words": 1}}',
        '{"records": 4, "words": -2}',
    ],
    ids=lambda text: text[:30],
)
def test_a_hostile_identity_is_damage_in_words(tmp_path, text):
    path = filled(tmp_path, np.arange(3)).path
    (path / "identity.json").write_text(text)
    assert damage(path)


@pytest.mark.parametrize("name", ["identity.json", "records.bin"])
def test_a_pipe_in_a_store_is_not_opened(tmp_path, name):
    path = filled(tmp_path, np.arange(3)).path
    (path / name).unlink()
    os.mkfifo(path / name)
    assert damage(path)
    assert not is_used(path)

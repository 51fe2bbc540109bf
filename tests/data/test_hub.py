"""Datasets of the Hugging Face hub, from their files on disk: the hub itself is never asked here."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tekapctl.data import data_spec
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.download import no_network

datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("TEKAPCTL_HOME", str(tmp_path / "home"))
    datasets.disable_progress_bars()


@pytest.fixture
def downloads(tmp_path) -> Path:
    return tmp_path / "home" / "datasets"


def encoded(level: int, kind: str = "PNG") -> bytes:
    """An image all of one brightness."""
    file = io.BytesIO()
    Image.fromarray(np.full((24, 20, 3), level, dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def publish(folder: Path, **sets: dict[str, list[object]]) -> Path:
    """A repository with a Parquet file for each set, as the hub has them; lists of bytes are its images."""
    (folder / "data").mkdir(parents=True)
    for name, columns in sets.items():
        kinds = {}
        for column, values in columns.items():
            if isinstance(values[0], bytes):
                kinds[column] = datasets.Image()
                columns[column] = [{"bytes": value, "path": None} for value in values]
            elif column.endswith("label"):
                kinds[column] = datasets.ClassLabel(names=["cat", "a/dog"])
            else:
                kinds[column] = datasets.Value("string")
        made = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
        made.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_images_come_as_they_are_into_folders_of_their_classes(tmp_path, downloads):
    images = [encoded(10), encoded(20, "JPEG"), encoded(30)]
    train = {"img": images, "label": [0, 1, 1]}
    repo = publish(tmp_path / "repo", train=train, test={"img": [encoded(40)], "label": [1]})
    told = data_spec("hf:org/pets").fetch(downloads, source=str(repo))
    folder = downloads / "hf--org--pets"
    assert told == f"4 images at {folder}"
    assert tree(folder) == [
        "test/a_dog/0000000.png",
        "train/a_dog/0000001.jpeg",
        "train/a_dog/0000002.png",
        "train/cat/0000000.png",
    ]
    assert (folder / "train/a_dog/0000001.jpeg").read_bytes() == images[1]
    splits = data_spec("hf:org/pets").load(downloads)
    assert splits.train.classes == ("a_dog", "cat")
    assert splits.train.images[:, 0, 0, 0].tolist() == [20, 30, 10]


def test_a_test_set_without_classes_gives_way_to_one_that_has_them(tmp_path, downloads):
    own = {"img": [encoded(1), encoded(2)], "label": [0, 1]}
    hidden = {"img": [encoded(3)], "label": [-1]}
    repo = publish(tmp_path / "repo", train=dict(own), test=hidden, validation=dict(own))
    data_spec("hf:pets").fetch(downloads, source=str(repo))
    assert len(data_spec("hf:pets").load(downloads).test) == 2


def test_one_of_several_columns_of_classes_is_named(tmp_path, downloads):
    repo = publish(
        tmp_path / "repo",
        train={"img": [encoded(i) for i in range(4)], "label": [0, 1, 1, 0], "fine_label": [0, 1, 0, 1]},
    )
    with pytest.raises(UsageError, match="label, fine_label") as told:
        data_spec("hf:pets").fetch(downloads, source=str(repo))
    assert "hf:pets:COLUMN" in told.value.remedy
    assert not downloads.joinpath("hf--pets").exists()
    data_spec("hf:pets:fine_label").fetch(downloads, source=str(repo))
    assert [path.split("/")[1] for path in tree(downloads / "hf--pets--+fine_label")] == [
        "a_dog",
        "a_dog",
        "cat",
        "cat",
    ]


def test_webdataset_archives_are_read_too(tmp_path, downloads):
    repo = tmp_path / "repo"
    repo.mkdir()
    with tarfile.open(repo / "train-000.tar", "w") as archive:
        for number in range(4):
            for suffix, content in (("png", encoded(number)), ("cls", str(number % 2).encode())):
                entry = tarfile.TarInfo(f"{number:04d}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    data_spec("hf:shards").fetch(downloads, source=str(repo))
    splits = data_spec("hf:shards").load(downloads)  # split by the folder's own seed, since there is no test set
    assert (len(splits.train), len(splits.test)) == (2, 2)
    assert splits.train.classes == ("0", "1")


def test_damaged_images_are_found_out_when_they_are_read(tmp_path, downloads):
    repo = publish(tmp_path / "repo", train={"img": [encoded(1), b"no image", encoded(3)] * 2, "label": [0, 0, 1] * 2})
    data_spec("hf:pets").fetch(downloads, source=str(repo))
    with pytest.raises(UsageError, match=r"2 images .* cannot be read"):
        data_spec("hf:pets").load(downloads)


def test_what_is_no_set_of_images_with_classes_is_refused(tmp_path, downloads):
    images = [encoded(1)]
    for name, columns, problem in (
        ("texts", {"caption": ["a cat"], "label": [0]}, "no image column, only caption, label"),
        ("unlabelled", {"img": images, "caption": ["a cat"]}, "no known class column"),
        ("hidden", {"img": images, "label": [-1]}, "no images with a class in label"),
    ):
        repo = publish(tmp_path / name, train=dict(columns))
        with pytest.raises(UsageError, match=problem):
            data_spec(f"hf:{name}").fetch(downloads, source=str(repo))
    repo = publish(tmp_path / "evaluation", test={"img": images, "label": [0]})
    with pytest.raises(UsageError, match="no split named train, only test"):
        data_spec("hf:evaluation").fetch(downloads, source=str(repo))
    with pytest.raises(TekapctlError, match="hf:nothing could not be fetched"):
        data_spec("hf:nothing").fetch(downloads, source=str(tmp_path / "nothing"))
    assert not [path for path in downloads.iterdir() if path.is_dir()]


def test_a_set_stays_when_its_successor_is_damaged_or_not_there(tmp_path, downloads):
    good = {"img": [encoded(1), encoded(2)] * 2, "label": [0, 1] * 2}
    pets = data_spec("hf:pets")
    pets.fetch(downloads, source=str(publish(tmp_path / "good", train=dict(good))))
    before = tree(downloads / "hf--pets")
    one_class = publish(tmp_path / "one", train={"img": [encoded(1)] * 2, "label": [0, 0]})
    cut = publish(tmp_path / "cut", train=dict(good))
    (parquet,) = cut.glob("data/*")
    parquet.write_bytes(parquet.read_bytes()[:100])
    for source, words in (
        (one_class, "1 class folder"),
        (cut, "could not be fetched"),
        (tmp_path / "no", "no folder"),
    ):
        with pytest.raises(TekapctlError, match=words):
            pets.fetch(downloads, source=str(source))
    with no_network("pets"):
        with pytest.raises(TekapctlError, match="`offline` forbids"):
            pets.fetch(downloads, force=True)
        pets.fetch(downloads)
    assert tree(downloads / "hf--pets") == before
    assert [path.name for path in downloads.iterdir() if path.suffix != ".lock"] == ["hf--pets"]


def test_its_own_folder_is_a_source(tmp_path, downloads):
    pets = data_spec("hf:pets")
    pets.fetch(downloads, source=str(publish(tmp_path / "good", train={"img": [encoded(1)] * 4, "label": [0, 1] * 2})))
    before = tree(downloads / "hf--pets")
    pets.fetch(downloads, source=str(downloads / "hf--pets"))
    assert len(tree(downloads / "hf--pets")) == len(before)


@pytest.mark.parametrize("reference", ["hf:", "hf:a/b/c", "hf:../x", "hf:a b", "hf:a/b@", "hf:a:b:c"])
def test_references_that_name_nothing_are_refused(reference):
    with pytest.raises(UsageError, match="names no dataset"):
        data_spec(reference)


@pytest.mark.parametrize("reference", ["hf:mnist", "hf:org/name", "hf:org/name@small", "hf:org/name@small:fine_label"])
def test_references_are_written_as_they_are_read(reference):
    assert data_spec(reference).described == reference


def test_one_that_was_not_fetched_is_answered_with_how_to(tmp_path):
    with pytest.raises(UsageError, match="tekapctl fetch hf:org/pets"):
        data_spec("hf:org/pets").load(tmp_path)

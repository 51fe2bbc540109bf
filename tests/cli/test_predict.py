"""Many images are classified as they come, from folders, patterns and standard input."""

import csv
import json
import os
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Images in folders of the names of two digits, one of them with a line break in its name."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for name in ("3/a.png", "3/b c.png", "7/d\n.png", "7/deep/e.jpg", "7/notes.txt", ".hidden/f.png"):
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            Image.fromarray(random.integers(0, 256, (12, 9, 3), dtype=np.uint8)).save(path)
    return folder


def test_folders_and_patterns_are_searched(tekapctl, teacher, photographs):
    found = tekapctl("predict", teacher, str(photographs), "--top", "2", "--json").json
    names = ["3/a.png", "3/b c.png", "7/d\n.png", "7/deep/e.jpg"]
    assert [each["image"] for each in found] == [str(photographs / name) for name in names]
    lines = tekapctl("predict", teacher, str(photographs / "**" / "*.png"), "--top", "2", "--format", "jsonl").out
    assert [json.loads(line) for line in lines.splitlines()] == found[:3]
    told = tekapctl("predict", teacher, str(photographs / "3")).out
    assert "a.png" in told
    assert "b c.png" in told


@pytest.mark.parametrize(("file", "options"), [("a.onnx", []), ("b.onnx", ["--no-preprocessing"]), ("c.pt2", [])])
def test_an_exported_file_says_what_its_run_says(tekapctl, teacher, photographs, tmp_path, file, options):
    path = str(tmp_path / file)
    tekapctl("export", teacher, "--output", path, "--images", "50", *options)
    trusting = ["--trust-code"] if file.endswith(".pt2") else []
    expected, found = (
        tekapctl("predict", name, str(photographs), "--json", *trusting).json for name in (teacher, path)
    )
    for one, other in zip(expected, found, strict=True):
        assert one["image"] == other["image"]
        assert [each["class"] for each in one["classes"]] == [each["class"] for each in other["classes"]]
        probabilities = [[each["probability"] for each in side["classes"]] for side in (one, other)]
        assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-4)
    if trusting:
        assert "--trust-code" in tekapctl.refuses("predict", path, str(photographs))
    else:
        assert "on the CPU" in tekapctl.refuses("predict", path, str(photographs), "--device", "cuda")


def test_what_is_no_exported_file_is_refused(tekapctl, photographs, tmp_path):
    (tmp_path / "odd.onnx").write_bytes(b"no graph")
    assert "cannot be read" in tekapctl.refuses("predict", str(tmp_path / "odd.onnx"), str(photographs))
    assert "There is no file" in tekapctl.refuses("predict", "nowhere.pt2", str(photographs))


def test_a_file_is_written_whole_and_damaged_images_cost_nothing(tekapctl, teacher, photographs, tmp_path):
    odd, file = tmp_path / "odd.jpg", tmp_path / "classes.csv"
    odd.write_bytes(b"no image")
    options = ["--top", "2", "--workers", "1", "--batch-size", "2", "--output", str(file)]
    done = tekapctl("predict", teacher, str(odd), str(photographs), *options, code=1)
    assert "odd.jpg cannot be read" in done.err
    with file.open(newline="") as rows:
        first, *others = list(csv.DictReader(rows))
    assert first["image"] == str(odd)
    assert first["problem"]
    assert first["class"] == ""
    expected = tekapctl("predict", teacher, str(photographs), "--top", "2", "--json").json
    for row, each in zip(others, expected, strict=True):
        one, other = each["classes"]
        assert [row["image"], row["class"], row["class_2"]] == [each["image"], one["class"], other["class"]]
        assert float(row["probability"]) == pytest.approx(one["probability"], abs=1e-4)
        assert row["problem"] == ""
    assert "already exists" in tekapctl.refuses("predict", teacher, str(photographs), "--output", str(file))


def test_paths_are_read_from_standard_input_as_they_come(tekapctl, teacher, photographs):
    paths = [str(photographs / name) for name in ("3/a.png", "7/d\n.png", "7/deep/e.jpg")]
    command = [sys.executable, "-m", "tekapctl", "predict", teacher, "-", "-0", "--format", "csv", "--top", "1"]
    environment = os.environ | {"TEKAPCTL_HOME": str(tekapctl.home)}
    with subprocess.Popen(
        [*command, "--batch-size", "1", "--workers", "0"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdin.write(f"{paths[0]}\0")
        running.stdin.flush()
        assert running.stdout.readline() == "image,class,probability,problem\n"
        first = running.stdout.readline()  # though more may come
        running.stdin.write("\0".join(paths[1:]))
        running.stdin.close()
        rest, told = running.stdout.read(), running.stderr.read()
    assert running.returncode == 0, told
    assert [row[0] for row in csv.reader([first, *rest.splitlines(keepends=True)])] == paths


class Pictures(HTMLParser):
    """The pictures of a page, and addresses of anything outside it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.alternatives: list[str] = []
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "img":
            self.alternatives.append(values["alt"])
        self.outside += [value for name, value in attrs if name in ("src", "href") and not value.startswith("data:")]


def test_the_most_confident_mistakes_are_a_page_of_pictures(tekapctl, teacher, photographs, tmp_path):
    expected = [
        each
        for each in tekapctl("predict", teacher, str(photographs), "--top", "1", "--json").json
        if each["classes"][0]["class"] != ("3" if "/3/" in each["image"] else "7")
    ]
    assert len(expected) > 1
    expected.sort(key=lambda each: -each["classes"][0]["probability"])
    page = tmp_path / "mistakes.html"
    tekapctl("predict", teacher, str(photographs), "--worst", str(len(expected) - 1), "--output", str(page))
    found = Pictures(page.read_text())
    assert found.outside == []
    assert [text.rpartition(" ")[2] for text in found.alternatives] == [
        each["classes"][0]["class"] for each in expected[:-1]
    ]
    assert f"{len(expected)} of 4 images" in page.read_text()


def test_the_mistakes_on_test_images_are_those_of_the_evaluation(tekapctl, student, tmp_path):
    page = tmp_path / "mistakes.html"
    evaluated = tekapctl("evaluate", student, "--worst", "500", "--output", str(page), "--json").json["evaluation"]
    wrong = round(500 * (1 - evaluated["top1"]))
    assert len(Pictures(page.read_text()).alternatives) == wrong
    assert f"{wrong} of 500 images" in page.read_text()


def test_what_cannot_be_predicted_is_refused_before_anything_is_computed(tekapctl, teacher, photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    folder = str(photographs)
    for words, told in (
        ([str(tmp_path / "empty")], "has no images"),
        ([str(tmp_path / "*.png")], "matches no image"),
        (["-", "-"], "named twice"),
        ([folder, "--output", "a.txt"], "--format csv"),
        ([folder, "--output", "a.html"], "--worst N"),
        ([folder, "--format", "table", "--output", "a.csv"], "csv"),
        ([folder, "--format", "xml"], "no output format 'xml'"),
        ([folder, "--format", "csv", "--json"], "Leave out one"),
        ([folder, "--json", "--output", "a.jsonl"], "--format jsonl"),
        ([folder, "--worst", "3"], "--output"),
    ):
        assert told in tekapctl.refuses("predict", teacher, *words)
    odd = ["predict", teacher, str(photographs / "3" / "a.png"), "--worst", "3", "--output", str(tmp_path / "p.html")]
    os.rename(photographs / "3", photographs / "three")  # noqa: PTH104
    try:
        odd[2] = str(photographs / "three")
        assert "none has a label" in tekapctl.refuses(*odd)
    finally:
        os.rename(photographs / "three", photographs / "3")  # noqa: PTH104

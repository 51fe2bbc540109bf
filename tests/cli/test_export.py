"""Exported networks predict what the student predicts, and their model cards run as they stand."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from helpers.script import run_python
from models.test_foreign import FACTORIES

FORMATS = {"onnx": ".onnx", "safetensors": ".safetensors", "torch-export": ".pt2"}


def code_of(card: str, folder) -> str:
    """The Python in a model card, which reads an image; puts the image there."""
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(folder / "image.png")
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def run_card(folder, card: str) -> str:
    """Run the Python in a model card beside the file; returns what it prints."""
    script = folder / "card.py"
    script.write_text(code_of(card, folder), encoding="utf-8")
    done = run_python(script, [], folder)
    assert done.code == 0, done.err
    return done.out


@pytest.mark.parametrize("name", FORMATS)
def test_an_exported_student_predicts_what_the_student_predicts(tekapctl, student, tmp_path, name):
    file = tmp_path / f"student{FORMATS[name]}"
    found = tekapctl("export", student, "--output", str(file), "--json").json
    check = found["check"]
    assert found["format"] == name
    assert check["images"] == 500
    assert check["agreement"] == 1
    assert check["largest_difference"] <= 1e-4 * check["largest_logit"]
    assert check["top1"] == check["torch_top1"]
    evaluated = tekapctl("evaluate", student, "--json").json["evaluation"]
    assert check["top1"] == pytest.approx(evaluated["top1"])
    card = (tmp_path / f"{file.name}.md").read_text()
    assert 'method = "kd"' not in card
    assert student in card
    predicted = run_card(tmp_path, card).strip()
    (expected,) = tekapctl("predict", student, str(tmp_path / "image.png"), "--top", "1", "--json").json[0]["classes"]
    assert predicted == expected["class"]


def test_an_onnx_file_needs_neither_torch_nor_this_package(tekapctl, student, tmp_path):
    tekapctl("export", student, "--output", str(tmp_path / "student.onnx"), "--images", "50")
    card = (tmp_path / "student.onnx.md").read_text()
    code = code_of(card, tmp_path) + "import sys\nassert not {'torch', 'tekapctl'} & set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_int8_file_is_smaller_and_checked_too(tekapctl, teacher, tmp_path):
    whole = tekapctl("export", teacher, "--output", str(tmp_path / "whole.onnx"), "--json").json
    small = tekapctl("export", teacher, "--output", str(tmp_path / "small.onnx"), "--int8", "--json").json
    assert small["bytes"] < 0.5 * whole["bytes"]
    assert small["int8"]["agreement"] > 0.9
    assert small["int8"]["top1"] > small["check"]["top1"] - 0.05
    card = (tmp_path / "small.onnx.md").read_text()
    assert "in int8 (QDQ)" in card
    assert run_card(tmp_path, card).strip() in list("0123456789")


def test_exported_weights_are_a_checkpoint(tekapctl, student, tmp_path):
    file = str(tmp_path / "student.safetensors")
    found = tekapctl("export", student, "--output", file, "--best", "--json").json
    evaluated = tekapctl("evaluate", file, "--json").json
    assert evaluated["model"] == "resnet8"
    assert evaluated["evaluation"]["top1"] == pytest.approx(found["check"]["top1"])


def test_a_network_of_the_users_own_is_exported(tekapctl, tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    digits = ["--dataset", "digits", "--train-fraction", "0.2", "--epochs", "1", "--json"]
    run = tekapctl("train-teacher", "--model", "my_nets:small", *digits).json["run"]
    for suffix in (".onnx", ".pt2"):
        found = tekapctl("export", run, "--output", f"own{suffix}", "--images", "100", "--trust-code", "--json").json
        assert found["check"]["agreement"] == 1


def test_a_file_with_other_logits_is_not_kept(tekapctl, student, tmp_path):
    file = tmp_path / "out" / "student.onnx"
    result = tekapctl("export", student, "--output", str(file), "--tolerance", "0", "--images", "100", code=1)
    assert "The exported network differs" in result.err
    assert list(file.parent.iterdir()) == []


def test_what_cannot_be_exported_is_refused_before_anything_is_loaded(tekapctl, student, tmp_path):
    there = tmp_path / "there.onnx"
    there.write_bytes(b"precious")
    (tmp_path / "folder.onnx").mkdir()
    for options, words in (
        (["--output", str(there)], "already exists"),
        (["--output", str(tmp_path / "a.tflite")], "No export format has the suffix"),
        (["--output", str(tmp_path / "a.onnx"), "--format", "safetensors"], "end in .safetensors"),
        (["--output", str(tmp_path / "a.onnx"), "--format", "coreml"], "coreml"),
        (["--output", str(tmp_path / "a.pt2"), "--int8"], "The format torch-export does not support int8"),
        (["--output", str(tmp_path / "folder.onnx")], "is a folder"),
    ):
        assert words in tekapctl.refuses("export", student, *options)
    assert there.read_bytes() == b"precious"
    tekapctl("export", student, "--output", str(there), "--force", "--images", "10")
    assert there.read_bytes() != b"precious"

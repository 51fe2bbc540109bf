"""Exported networks predict what the student predicts, and their model cards run as they stand."""

import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from helpers.script import run_python
from models.test_foreign import FACTORIES

FORMATS = {"onnx": ".onnx", "safetensors": ".safetensors", "torch-export": ".pt2", "openvino": ".xml"}
PACKAGES = {"openvino": "openvino", "coreml": "coremltools"}


def needs(name: str) -> None:
    if name in PACKAGES and find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")


def code_of(card: str, folder) -> str:
    """The Python in a model card, which reads an image; puts one there that has to be cropped and resized."""
    pixels = np.add.outer(np.arange(20), 2 * np.arange(31)) * 3
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "image.png")
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
    needs(name)
    file = tmp_path / f"student{FORMATS[name]}"
    (found,) = tekapctl("export", student, "--output", str(file), "--json").json["files"]
    check = found["check"]
    assert found["format"] == name
    assert found["bytes"] >= file.stat().st_size
    assert check["images"] == 500
    assert check["output"] == ("logits" if name == "safetensors" else "probabilities")
    assert check["agreement"] == 1
    assert check["largest_difference"] <= 1e-4 * check["largest_output"]
    assert check["top1"] == check["torch_top1"]
    assert min(check["seconds_batch_1"], check["seconds_batch_32"]) > 0
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


def test_without_preprocessing_a_graph_takes_normalized_images_and_returns_logits(tekapctl, student, tmp_path):
    file = tmp_path / "student.onnx"
    (found,) = tekapctl("export", student, "--output", str(file), "--no-preprocessing", "--json").json["files"]
    assert found["check"]["output"] == "logits"
    assert found["check"]["agreement"] == 1
    card = (tmp_path / "student.onnx.md").read_text()
    assert "Output `logits`" in card
    predicted = run_card(tmp_path, card).strip()
    (expected,) = tekapctl("predict", student, str(tmp_path / "image.png"), "--top", "1", "--json").json[0]["classes"]
    assert predicted == expected["class"]


def test_all_formats_and_precisions_are_compared_in_one_table(tekapctl, teacher, tmp_path):
    folder = tmp_path / "all"
    export = ["export", teacher, "--output", str(folder), "--format", "all"]
    done = tekapctl(*export, "--license", "mit")
    rows = {line.split()[0]: line.split() for line in done.out.splitlines() if line.startswith(("resnet14", "PyTorch"))}
    assert {"PyTorch", "resnet14.onnx", "resnet14.pt2", "resnet14-float16.pt2", "resnet14.safetensors"} <= rows.keys()

    def size(name: str) -> int:
        return (folder / name).stat().st_size

    *_, difference, agreement, top1, _, _ = rows["resnet14-float16.onnx"]
    assert size("resnet14-float16.onnx") < 0.75 * size("resnet14.onnx")
    assert 0 < float(difference) < 0.01
    assert float(agreement) > 99
    *_, agreement, top1, _, _ = rows["resnet14-int8.onnx"]
    assert size("resnet14-int8.onnx") < 0.5 * size("resnet14.onnx")
    assert float(agreement) > 90
    assert float(top1) > float(rows["PyTorch"][2]) - 5
    card = (folder / "resnet14-int8.onnx.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    assert "in int8 (QDQ)" in card
    assert run_card(folder, card).strip() in list("0123456789")
    assert "already exists" in tekapctl.refuses(*export)


def test_a_core_ml_package_is_made_where_it_cannot_run(tekapctl, student, tmp_path):
    needs("coreml")
    place = tmp_path / "student.mlpackage"
    for force in ([], ["--force"]):
        (found,) = tekapctl("export", student, "--output", str(place), "--float16", *force, "--json").json["files"]
        assert found["check"] is None
        assert found["problem"] is None
    assert (place / "Manifest.json").is_file()
    assert found["bytes"] > 50_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student.mlpackage", "student.mlpackage.md"]
    card = (tmp_path / "student.mlpackage.md").read_text()
    assert "The file was not run" in card
    compile(code_of(card, tmp_path), "card", "exec")


def test_exported_weights_are_a_checkpoint(tekapctl, student, tmp_path):
    file = str(tmp_path / "student.safetensors")
    (found,) = tekapctl("export", student, "--output", file, "--best", "--json").json["files"]
    evaluated = tekapctl("evaluate", file, "--json").json
    assert evaluated["model"] == "resnet8"
    assert evaluated["evaluation"]["top1"] == pytest.approx(found["check"]["top1"])


def test_a_network_of_the_users_own_is_exported(tekapctl, tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    digits = ["--dataset", "digits", "--train-fraction", "0.2", "--epochs", "1", "--json"]
    run = tekapctl("train-teacher", "--model", "my_nets:small", *digits).json["run"]
    for suffix in (".onnx", ".pt2"):
        options = ["--output", f"own{suffix}", "--images", "100", "--trust-code", "--json"]
        (found,) = tekapctl("export", run, *options).json["files"]
        assert found["check"]["agreement"] == 1


def test_a_file_with_other_outputs_is_not_kept(tekapctl, student, tmp_path):
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
        (["--output", str(tmp_path / "a.onnx"), "--format", "tflite"], "tflite"),
        (["--output", str(tmp_path / "a.pt2"), "--int8"], "The format torch-export does not support int8"),
        (["--output", str(tmp_path / "a.onnx"), "--int8", "--float16"], "--float16 or --int8"),
        (["--output", str(tmp_path / "folder.onnx")], "is a folder"),
        (["--output", str(there), "--format", "all"], "is not a folder"),
        (["--output", str(tmp_path), "--format", "all", "--int8"], "Leave out --int8"),
        (["--output", str(tmp_path / "a.onnx"), "--private"], "--push REPO"),
    ):
        assert words in tekapctl.refuses("export", student, *options)
    assert there.read_bytes() == b"precious"
    tekapctl("export", student, "--output", str(there), "--force", "--images", "10")
    assert there.read_bytes() != b"precious"

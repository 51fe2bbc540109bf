"""The examples run as they stand, with fewer epochs and images."""

import json
from pathlib import Path

import pytest

from helpers.script import run_python

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = {
    "compare_methods.py": ["--methods", "kd", "at", "--seeds", "1", "--epochs", "1"],
    "custom_method.py": ["--epochs", "1"],
    "custom_network.py": ["--epochs", "1"],
    "distill_digits.py": ["--epochs", "1"],
    "own_images.py": ["--epochs", "1", "--images", "20"],
}
SHOWS = {
    "compare_methods.py": "at ",
    "custom_method.py": "3 augmented teachers: ",
    "custom_network.py": "embedding (4, 48)",
    "distill_digits.py": "of 500 test images",
    "own_images.py": "checks ",
}


def run(path: Path, arguments: list[str], folder: Path) -> str:
    done = run_python(path, arguments, folder)
    assert done.code == 0, done.err
    return done.out


def test_each_example_is_tried_and_listed():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert names == set(SHORT)
    assert all(f"({name})" in listed for name in [*names, "quickstart.ipynb"])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_an_example_runs(name, tmp_path):
    assert SHOWS[name] in run(EXAMPLES / name, SHORT[name], tmp_path)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    code = "\n".join(cells).replace("EPOCHS = 60", "EPOCHS = 1")
    assert code.count("EPOCHS = 1") == 1
    script = tmp_path / "notebook.py"
    script.write_text(code, encoding="utf-8")
    assert "feature maps (4, " in run(script, [], tmp_path)


def test_the_notebook_has_no_outputs():
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"])

"""The walked examples of CONTRIBUTING.md: each is one new file in the package, and no other file has to change.

So is a dataset whose name is followed by a location.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n# (src/tekapctl/\S+\.py)\n(.*?)^```", re.DOTALL | re.MULTILINE)

ARRAYS = '''
"""A NumPy archive of the user's, `arrays:FILE`."""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.spec import DATASETS, DataSpec, Shape


@DATASETS.register("arrays")
class Arrays(DataSpec):
    """Two classes of grey images."""

    field_after_colon: ClassVar[str | None] = "archive"
    needs_location: ClassVar[bool] = True
    hub_id: ClassVar[str | None] = "someone/arrays"
    name: Literal["arrays"] = "arrays"
    padding: int = 0
    flip: bool = False
    archive: str | None = Field(None, description="The file.")

    def shape(self, downloads: Path) -> Shape:
        images, _ = self._read()
        return Shape(len(images), len(images), classes=2, channels=1, height=12, width=12)

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        found = ImageSet(*self._read(), ("dark", "bright"), mean=(0.5,), std=(0.25,))
        return Splits(found, found)

    def _read(self) -> tuple[torch.Tensor, torch.Tensor]:
        with np.load(self.archive) as arrays:
            return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
'''

USE = """
import json
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from tekapctl.api import distill, train_teacher
from tekapctl.cli.app import app

TRAINING = {"epochs": 4, "batch_size": 20, "device": "cpu"}
STRIPES = {"name": "stripes", "augment": ["posterize"]}


def command(*words):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.stdout


teacher = train_teacher(model="tiny", data=STRIPES, **TRAINING)
student = distill(
    teacher=teacher["run"],
    student="tiny",
    method={"name": "cosine", "power": 2},
    tekap={"logit": {"teachers": 2, "perturbation": "signs"}},
    data=STRIPES,
    **TRAINING,
)
lion = train_teacher(model="tiny", data="stripes", optimizer={"name": "lion", "learning_rate": 0.01}, **TRAINING)
metrics = [json.loads(line) for line in Path("home/runs", student["run"], "metrics.jsonl").read_text().splitlines()]
labels = np.arange(40) % 2
grey = (40 + 160 * labels[:, None, None, None]).repeat(12, 2).repeat(12, 3)
np.savez("mine.npz", images=grey.astype("uint8"), labels=labels)
arrays = train_teacher(model="tiny", data="arrays:mine.npz", **TRAINING)
command("export", arrays["run"], "--output", "arrays.safetensors")
base = ("--teacher", "tiny", "--student", "tiny", "--dataset", "stripes", "--method", "kd", "--dry-run", "--no-measure")
print(json.dumps({
    "teacher": teacher["last_top1"],
    "student": student["last_top1"],
    "lion": lion["last_top1"],
    "run": student["run"],
    "metrics": metrics,
    "exported": json.loads(command("export", student["run"], "--output", "student.npz", "--json")),
    "study": command("study", "temperature", *base, "--no-measure"),
    "methods": command("methods"),
    "models": command("models"),
    "arrays": {
        "top1": arrays["last_top1"],
        "runs": json.loads(command("runs", "list", "--dataset", "arrays:mine.npz", "--json")),
        "shown": json.loads(command("runs", "show", arrays["run"], "--json"))["dataset"],
        "evaluated": json.loads(command("evaluate", arrays["run"], "--json"))["evaluation"]["top1"],
        "card": Path("arrays.safetensors.md").read_text(),
        "fetched": command("fetch", "arrays:mine.npz"),
        "downloads": command("fetch", "--list"),
        "doctor": json.loads(command("doctor", "--json"))["datasets"],
    },
}))
"""


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        assert "://" in target or (ROOT / target).exists(), target


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """The examples by the name of their file."""
    return dict(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def found(files, tmp_path_factory):
    """What the program does when the examples are in a copy of the package."""
    folder = tmp_path_factory.mktemp("extended")
    # With its bytecode, of which other processes of the suite may be writing some.
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.pyc.*"))
    for name, text in files.items():
        assert not (folder / name).exists(), f"{name} is no new file"
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "src/tekapctl/data/datasets/arrays.py").write_text(ARRAYS, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "TEKAPCTL_HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_there_is_an_example_for_each_part(files):
    assert {str(Path(name).parent) for name in files} == {
        "src/tekapctl/distillation/methods",
        "src/tekapctl/models/cifar",
        "src/tekapctl/data/datasets",
        "src/tekapctl/distillation/perturbations",
        "src/tekapctl/experiments/studies",
        "src/tekapctl/commands/export",
        "src/tekapctl/optim",
        "src/tekapctl/data/augment",
    }


def test_no_example_needs_another(files):
    modules = {name: name.removeprefix("src/").removesuffix(".py").replace("/", ".") for name in files}
    for name, text in files.items():
        assert not [module for other, module in modules.items() if other != name and module in text]


def test_examples_meet_the_projects_own_rules(files, tmp_path):
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if ruff is None:
        pytest.skip("ruff is not installed")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [ruff, *arguments, "--no-cache", "--config", str(ROOT / "pyproject.toml"), "."],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_the_network_learns_the_data_set(found):
    assert found["teacher"] > 0.9


def test_the_optimizer_trains(found):
    assert found["lion"] > 0.9


def test_the_method_trains_a_student_under_the_perturbation(found):
    assert found["student"] > 0.9
    assert "tekap" in found["run"]
    assert "cosine" in found["run"]
    first, *_, last = (metrics["train_method"] for metrics in found["metrics"])
    assert last < first


def test_the_export_is_checked(found):
    (file,) = found["exported"]["files"]
    assert file["format"] == "npz"
    assert file["check"]["images"] == 100
    assert file["check"]["largest_difference"] == 0


def test_the_study_is_planned(found):
    for arm in ("T = 4", "T = 1", "T = 2", "T = 8"):
        assert arm in found["study"]


def test_the_parts_are_listed(found):
    assert "cosine" in found["methods"]
    assert "tiny" in found["models"]


def test_a_dataset_with_a_location_after_a_colon_is_one_file_too(found):
    arrays = found["arrays"]
    assert arrays["top1"] == arrays["evaluated"] > 0.9
    (row,) = arrays["runs"]
    assert row["dataset"] == arrays["shown"] == "arrays:mine.npz"
    assert "datasets:\n- someone/arrays\n" in arrays["card"]
    assert "arrays:mine.npz" in arrays["fetched"]
    # Its name alone is no dataset that could be downloaded or be there.
    assert "arrays" not in arrays["downloads"]
    assert "arrays" not in arrays["doctor"]
    assert "stripes" in arrays["doctor"]

"""What the documentation says can be done: every command parses, the tutorial runs, the reference is the program's."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tekapctl.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)


def blocks(text: str) -> list[str]:
    """The indented blocks of a page, in order; fenced ones are code of other kinds."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in INDENTED.findall(plain)]


def commands(text: str) -> list[str]:
    """Every command of this program in a page: in blocks, and between backticks."""
    lines = [line.strip().removeprefix("$ ") for block in blocks(text) for line in block.splitlines()]
    quoted = re.findall(r"`(tekapctl [^`]+)`", text.replace("\n", " "))
    return [re.split(r"\s+#|\s[|>&;]|\s{2,}", line)[0] for line in [*lines, *quoted] if line.startswith("tekapctl ")]


def parse(words: list[str]) -> None:
    """Have the program's own parser take a command, without running it."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="tekapctl")
    while getattr(command, "commands", None):
        name, command, words = command.resolve_command(context, words)
        context = typer.Context(command, info_name=name, parent=context)
    command.parse_args(context, words)


def is_whole(command: str) -> bool:
    """Whether it is a command to be typed, with no place left for the reader's own words."""
    return "..." not in command and "[" not in command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_documentation_is_one(page):
    for command in filter(is_whole, commands(page.read_text(encoding="utf-8"))):
        words = shlex.split(command.replace("$shared", "").replace("$seed", "0"))[1:]
        if not words or words == ["--help"] or len(words) == 1:
            continue  # the mere name of a command
        parse(words)


def test_the_reference_is_the_programs_own():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run `python docs/make_reference.py`"


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.timeout(600)
def test_the_tutorial_does_what_it_says(tekapctl, tmp_path):
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    script = "\n".join(block for block in blocks(text) if "pip install" not in block and "tekapctl" in block)
    environment = os.environ | {
        "TEKAPCTL_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr
    assert "kd + TeKAP" in done.stdout
    assert "pictures/checks/7.jpg" in done.stdout
    for made in ("tutorial.html", "student.onnx", "student.onnx.md"):
        assert (tmp_path / made).stat().st_size > 1000

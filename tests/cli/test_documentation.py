"""The documentation: its tutorial does what it says, its reference is the program's, its links lead somewhere."""

import importlib.util
import re
import subprocess
import sys

from helpers.documentation import PAGES, ROOT, blocks
from helpers.shell import run_script


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


def test_the_tutorial_does_what_it_says(tekapctl, tmp_path):
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    script = "\n".join(block for block in blocks(text) if "pip install" not in block and "tekapctl" in block)
    done = run_script(re.sub(r"--epochs \d+", "--epochs 1", script), tmp_path, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert "kd + TeKAP" in done.stdout
    assert "pictures/checks/7.jpg" in done.stdout
    for made in ("tutorial.html", "student.onnx", "student.onnx.md"):
        assert (tmp_path / made).stat().st_size > 1000

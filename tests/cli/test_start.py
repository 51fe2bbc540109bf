"""Commands that need no tensors do not import PyTorch, once its listings are on disk; completion knows all names."""

import os
import subprocess
import sys

import pytest

from helpers.program import run
from helpers.summaries import plain_summary
from tekapctl.cli.listings import stamp_of
from tekapctl.spec import TeacherSpec, dumps
from tekapctl.store.run import Run
from tekapctl.store.runs import Runs

PROGRAM = """
import sys
from tekapctl.cli.app import app
try:
    app(sys.argv[1:], prog_name="tekapctl")
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


def started(home, *words, **variables) -> subprocess.CompletedProcess:
    environment = os.environ | {"TEKAPCTL_HOME": str(home), "COLUMNS": "80", **variables}
    command = [sys.executable, "-c", PROGRAM, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home in which every listing was asked for once."""
    home = tmp_path_factory.mktemp("listings")
    for words in (["methods"], ["models"], ["schema"], ["study"], ["presets"], ["fetch", "--list"]):
        assert run(home, *words).code == 0
    make_run(home, 0)
    make_run(home, 1)
    assert run(home, "compare", "--all").code == 0
    assert run(home, "runs", "export", "--all", "--no-weights", "--output", f"{home}.tar").code == 0
    return home


def make_run(home, seed) -> Run:
    """A finished run that never trained."""
    spec = TeacherSpec(model="resnet8", data="digits", seed=seed)
    with Runs(home / "runs").start(f"made-{seed}", {"spec.toml": dumps(spec)}) as made:
        made.write_summary(plain_summary(0.5 + seed / 10, run=made.id, kind="teacher", seed=seed))
    return made


def complete(home, line):
    completing = {"_TEKAPCTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    return started(home, **completing)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["distill", "--help"],
        ["methods"],
        ["methods", "show", "crd"],
        ["models", "--json"],
        ["runs", "list"],
        ["runs", "list", "--model", "resnet8", "--sort", "last_top1", "--limit", "1"],
        ["runs", "diff", "{made-0}", "{made-1}"],
        ["runs", "export", "--all", "--no-weights", "--force", "--output", "{home}-again.tar"],
        ["runs", "import", "{home}.tar"],
        ["cache", "list"],
        ["schema"],
        ["study"],
        ["presets", "kd"],
        ["fetch", "--list"],
        ["compare", "--all"],
        ["compare", "--all", "--json"],
    ],
    ids=" ".join,
)
def test_a_command_without_tensors_does_not_import_pytorch(home, words):
    own = {"home": str(home)} | {run.id[16:22]: run.id for run in Runs(home / "runs").all()}
    words = [word.format_map(own) for word in words]
    begun = os.times()
    done = started(home, *words)
    ended = os.times()
    assert done.stderr.splitlines()[-1] == "False"
    assert done.stdout or "no runs" in done.stderr or "is empty" in done.stderr
    # Processor time, not wall-clock time; 0.3 s where this was written.
    spent = ended.children_user + ended.children_system - begun.children_user - begun.children_system
    assert spent < 1.5


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("tekapctl distill --method rk", "rkd"),
        ("tekapctl distill --student resnet8", "resnet8x4"),
        ("tekapctl distill --preset kd/resnet56", "kd/resnet56-resnet20"),
        ("tekapctl distill --dataset cif", "cifar100"),
        ("tekapctl evaluate lat", "latest"),
        ("tekapctl study cont", "controls"),
        ("tekapctl runs show 2026", "20260101-000000-kd-0440"),
        ("tekapctl runs list --sort last", "last_top1"),
        ("tekapctl runs list --status fin", "finished"),
    ],
)
def test_names_are_completed_without_pytorch(home, line, word):
    (home / "runs" / "20260101-000000-kd-0440").mkdir(parents=True, exist_ok=True)
    done = complete(home, line)
    assert word in done.stdout.split()
    assert done.stderr.splitlines()[-1] == "False"


def test_a_comparison_is_made_again_when_a_run_or_the_request_changes(home):
    assert "55.00" in run(home, "compare", "--all").out
    assert started(home, "compare", "--all", "--csv").stderr.splitlines()[-1] == "False"
    made = make_run(home, 2)
    changed = started(home, "compare", "--all")
    assert "60.00" in changed.stdout
    assert changed.stderr.splitlines()[-1] == "True"
    assert run(home, "compare", made.id).out.count("70.00") == 2
    (made.path / "spec.toml").write_text("kind = 3")
    for _ in range(2):  # what is left out is said each time
        again = run(home, "compare", "--all")
        assert "55.00" in again.out
        assert f"left out {made.id}" in again.err


def test_a_damaged_listing_is_made_again(home):
    kept = home / "listings.json"
    before = kept.read_bytes()
    for damaged in (b"{", b"[]", b'{"stamp": 3}'):
        kept.write_bytes(damaged)
        assert "crd" in run(home, "methods").out
        assert b"methods" in kept.read_bytes()
    kept.write_bytes(before)


def test_listings_are_made_again_after_any_change_of_the_source(tmp_path):
    part = tmp_path / "parts" / "one.py"
    part.parent.mkdir()
    part.write_text("1")
    stamps = [stamp_of(tmp_path)]
    part.write_text("12")
    stamps.append(stamp_of(tmp_path))
    part.with_name("two.py").write_text("1")
    stamps.append(stamp_of(tmp_path))
    part.with_name("notes.txt").write_text("1")
    assert stamp_of(tmp_path) == stamps[-1]
    part.unlink()
    stamps.append(stamp_of(tmp_path))
    assert len(set(stamps)) == 4

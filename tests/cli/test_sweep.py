"""Sweeps as a user starts, breaks off and repeats them."""

import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from helpers.program import run, start
from helpers.quick_python import quick_python
from helpers.result import Result
from helpers.waiting import until
from tekapctl import train_teacher
from tekapctl.data.datasets.digits import Digits

SWEEP = """
name = "tiny"

[spec]
data = { name = "digits", train_fraction = 0.2 }
student = "resnet8"
teacher = "resnet14"
epochs = EPOCHS
batch_size = 16
device = "cpu"

[grid]
way = [{ label = "KD", method = "kd" }, { label = "alone", kind = "teacher" }]
seed = [0, 1]

[[before]]
model = "resnet14"
data = { name = "digits", train_fraction = 0.2 }
epochs = 2
"""


SINGLE_PROCESS = """
name = "alone"
[spec]
kind = "teacher"
model = "resnet8"
data = "digits"
epochs = EPOCHS
device = "cpu"
[[grid.way]]
label = "alone"
"""


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(SWEEP.replace("EPOCHS", "3"))
    return path


def sweep(home, *arguments: str, code: int = 0, **variables: str) -> Result:
    """Run `tekapctl sweep` to its end."""
    done = run(home, "sweep", *map(str, arguments), **{"QUICK_PYTHON": quick_python(), **variables})
    assert done.code == code, done.err
    return done


def refuses(home, *arguments: str, **variables: str) -> str:
    told = sweep(home, *arguments, code=2, **variables)
    assert "Traceback" not in told.err
    assert told.out == ""
    return " ".join(told.err.split())


def epochs(home, words: str) -> int:
    return sum(len(path.read_text().splitlines()) for path in home.glob(f"runs/*{words}*/metrics.jsonl"))


def states(result) -> dict[str, str]:
    return {trial["label"]: trial["state"] for trial in result.json["trials"]}


def test_a_sweep_that_is_killed_and_repeated_loses_and_repeats_nothing(home, file):
    text = SWEEP.replace("epochs = 2", "epochs = 15").replace("EPOCHS", "20").replace("[0, 1]", "[0]")
    file.write_text(text.replace('{ label = "KD", method = "kd" }, ', ""))
    # Its workers are processes that start as they do for users.
    killed = start(home, "sweep", str(file), "--workers", "2")
    until(lambda: epochs(home, "resnet8") > 2 and epochs(home, "resnet14") > 2)
    killed.kill()
    assert killed.wait().code == -signal.SIGKILL
    begun = {path.name: path.stat().st_ino for path in home.glob("runs/*")}
    before = {path: path.stat().st_mtime_ns for path in home.glob("runs/*/weights.safetensors")}
    done = sweep(home, file, "--workers", "2", "--json")
    assert states(done) == {"resnet14 on digits": "finished", "alone, seed 0": "finished"}
    assert {path.name: path.stat().st_ino for path in home.glob("runs/*")} == begun, "the same runs went on"
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "what is finished stays"
    assert epochs(home, "") == 20 + 15
    logs = [path.read_text() for path in home.glob("sweeps/tiny/logs/*.log")]
    assert sum("Stopped by SIGTERM" in log for log in logs) == 2 - len(before), "workers end with their sweep"
    told = [line for log in logs for line in log.splitlines() if line.startswith("epoch")]
    # A worker that is stopped right after an epoch keeps it, and does not come to say so.
    assert 20 + 15 - 2 <= len(told) <= 20 + 15, "no epoch was computed again"


def test_a_sweep_that_is_cancelled_stops_its_workers_after_their_step(home, file):
    file.write_text(SINGLE_PROCESS.replace("EPOCHS", "2000"))
    sweeping = start(home, "sweep", str(file), QUICK_PYTHON=quick_python())
    until(lambda: epochs(home, "resnet8") > 2)
    assert sweep(home, "cancel", file, "--json").json == {"processes": 1, "jobs": 0}
    ended = sweeping.wait()
    assert ended.code == 128 + signal.SIGTERM
    assert f"tekapctl sweep {file}" in ended.err
    assert states(sweep(home, "status", file, "--json")) == {"alone": "interrupted"}
    (log,) = home.glob("sweeps/alone/logs/*.log")
    assert "Stopped by SIGTERM" in log.read_text()
    assert sweep(home, "cancel", file, "--json").json == {"processes": 0, "jobs": 0}


def test_what_fails_is_listed_with_its_reason_and_tried_again_on_request(home, file, tmp_path):
    late = tmp_path / "late.safetensors"
    assistant = f'label = "assistant"\nkind = "student"\nteacher = "{late}"\nstudent = "resnet14"'
    text = SWEEP.replace("EPOCHS", "1").replace("[0, 1]", "[0]").replace('model = "resnet14"', assistant)
    file.write_text(text.replace(', { label = "alone", kind = "teacher" }', ""))
    failed = sweep(home, file, "--workers", "2", code=1)
    why = f"failed: assistant: There is no checkpoint file '{late}'"
    assert failed.err.count(why) == 2, "as it happens and in the end"
    assert "1 of 2 runs failed, and 1 more are not finished" in failed.err
    assert f"tekapctl sweep {file} --retry" in failed.err
    assert why in sweep(home, file, code=1).err, "only on request"
    data = Digits(train_fraction=0.05)
    made = train_teacher(model="resnet20", data=data, epochs=1, device="cpu", home=tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "runs" / made["run"] / "weights.safetensors").rename(late)
    again = sweep(home, file, "--retry", "--json")
    assert states(again) == {"assistant": "finished", "KD, seed 0": "finished"}
    (first, second), trials = again.json["groups"], again.json["trials"]
    assert [row["top1"]["mean"] for row in (first, second)] == [pytest.approx(trial["top1"]) for trial in trials]
    spec = (home / "runs" / trials[1]["run"] / "spec.toml").read_text()
    assert f'teacher = "{trials[0]["run"]}"' in spec, "students learn from the assistant"
    page = tmp_path / "page.html"
    sweep(home, "report", file, "--output", str(page))
    assert "Δ vs. assistant" in page.read_text()


def test_a_dry_run_shows_the_plan_and_its_cost_and_starts_nothing(home, file):
    found = sweep(home, "--dry-run", file, "--workers", "2", "--json").json
    assert (found["trials"], found["left"]) == (5, 5)
    assert [group["trials"] for group in found["groups"]] == [1, 2, 2]
    seconds = sum(group["trials"] * group["seconds"] for group in found["groups"])
    assert found["hours"] == pytest.approx(seconds / 2 / 3600)
    # Twice the epochs, twice the multiplications.
    file.write_text(SWEEP.replace("EPOCHS", "6"))
    other = sweep(home, file, "--dry-run", "--no-measure", "--json").json
    assert other["groups"][1]["macs"] == 2 * found["groups"][1]["macs"]
    assert other["hours"] is None
    assert not (home / "runs").exists()


SHADOW = """import pathlib, sys
if any("submitit" in word for word in sys.orig_argv):
    pathlib.Path(__file__).with_name("ran").touch()
raise ImportError("this is not the installed module")
"""


def test_jobs_of_a_cluster_carry_out_a_sweep(home, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Jobs import this module; one of the working folder does not take the installed one's place.
    (tmp_path / "typing_extensions.py").write_text(SHADOW)
    text = SWEEP.replace("EPOCHS", "1").replace("[0, 1]", "[0]")
    file.write_text(text.replace(', { label = "alone", kind = "teacher" }', ""))
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    told = sweep(home, file, "--executor", "local-jobs", "--json")
    assert set(states(told).values()) <= {"queued", "running", "finished"}
    assert "2 jobs submitted" in told.err
    until(lambda: len(list(home.glob("runs/*/summary.json"))) == 2)
    until(lambda: len(list(home.glob("sweeps/tiny/submitit/*_result.pkl"))) == 2)
    assert set(states(sweep(home, "status", file, "--json")).values()) == {"finished"}
    assert len(list(home.glob("runs/*"))) == 2, "students found their teacher, or waited for it"
    assert "0 jobs" in sweep(home, file, "--executor", "local-jobs").err
    assert not (tmp_path / "ran").exists()


def test_a_job_that_is_preempted_goes_on_and_one_that_is_cancelled_does_not(home, file):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    file.write_text(SINGLE_PROCESS.replace("EPOCHS", "2000"))
    sweep(home, file, "--executor", "local-jobs")
    until(lambda: epochs(home, "") > 2)
    ((job, log),) = [(path.name.split("_")[0], path) for path in home.glob("sweeps/alone/submitit/*.err")]
    (task,) = Path(f"/proc/{job}/task/{job}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    (made,) = home.glob("runs/*")
    until(lambda: f"run: {made.name}, after epoch" in log.read_text())
    done = epochs(home, "")
    until(lambda: epochs(home, "") > done)
    assert sweep(home, "cancel", file, "--json").json == {"processes": 0, "jobs": 1}
    until(lambda: list(home.glob("sweeps/alone/submitit/*_result.pkl")))
    assert states(sweep(home, "status", file, "--json")) == {"alone": "interrupted"}
    assert len(list(home.glob("runs/*"))) == 1


SBATCH = """#!{python}
import pathlib, sys
folder = pathlib.Path(__file__).parent
number = 100 + len(list(folder.glob("*.sbatch")))
(folder / f"{{number}}.sbatch").write_text(pathlib.Path(sys.argv[1]).read_text())
print(f"Submitted batch job {{number}}")
"""
SACCT = """#!{python}
import sys
print("JobID|State|NodeList")
for number in [word for word in sys.argv if word.isdigit()]:
    for task in range(4):
        print(f"{{number}}_{{task}}|PENDING|")
    print(f"{{number}}|PENDING|")
"""
SQUEUE = """#!{python}
import pathlib, re
folder = pathlib.Path(__file__).parent
cancelled = (folder / "cancelled").read_text().split() if (folder / "cancelled").exists() else []
for script in folder.glob("*.sbatch"):
    last = int(re.search(r"--array=0-([0-9]+)", script.read_text())[1])
    for job in [f"{{script.stem}}_{{task}}" for task in range(last + 1)]:
        if job not in cancelled: print(job)
"""
SCANCEL = """#!{python}
import pathlib, sys
with (pathlib.Path(__file__).parent / "cancelled").open("a") as file: print(sys.argv[1], file=file)
"""


@pytest.mark.parametrize("accounts", ["sacct", "squeue"])
def test_a_slurm_cluster_is_told_what_waits_for_what(home, file, tmp_path, accounts):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    slurm = tmp_path / "slurm"
    slurm.mkdir()
    # Where a cluster keeps no accounts sacct fails.
    answers = {"sacct": SACCT, "squeue": SQUEUE}
    answering = {name: text if name == accounts else "#!/bin/false\n" for name, text in answers.items()}
    for name, text in {"sbatch": SBATCH, "scancel": SCANCEL, "srun": "#!{python}\n", **answering}.items():
        (slurm / name).write_text(text.format(python=sys.executable))
        (slurm / name).chmod(stat.S_IRWXU)
    path = {"PATH": f"{slurm}{os.pathsep}{os.environ['PATH']}"}
    asked = ["--slurm", "partition=fast", "--slurm", "time=90", "--workers", "3"]
    told = sweep(home, file, "--executor", "slurm", *asked, "--json", **path)
    assert set(states(told).values()) == {"queued"}
    scripts = {path.stem: path.read_text() for path in sorted(slurm.glob("*.sbatch"))}
    first, students = (
        {line.split("--", 1)[1] for line in text.splitlines() if line.startswith("#SBATCH --")}
        for text in scripts.values()
    )
    assert {"partition=fast", "time=90", "gpus-per-node=1", "job-name=tiny"} <= first & students
    # The teacher and the networks alone, three at a time; then the students of the teacher, whose job is the first.
    assert "array=0-2%3" in first
    assert {"array=0-1%2", "dependency=afterany:100_0"} <= students
    assert not [line for line in first if line.startswith("dependency")]
    assert all(" -P -u -m submitit" in text for text in scripts.values())
    again = sweep(home, file, "--executor", "slurm", **path)
    assert "0 jobs submitted" in again.err
    assert sweep(home, "cancel", file, "--json", **path).json["jobs"] == 5
    assert len(set((slurm / "cancelled").read_text().split())) == 5
    if accounts == "squeue":
        assert "5 jobs submitted" in sweep(home, file, "--executor", "slurm", **path).err
    assert "partitoin" in refuses(home, file, "--executor", "slurm", "--slurm", "partitoin=x", **path)


DEEP = ".".join("a" * 3000)


@pytest.mark.parametrize(
    "text", [f"[grid.{DEEP}]\nb = [1]", f"[grid]\narm = [{{{DEEP} = 1}}]", f"[spec.{DEEP}]\nb = 1\n[grid]\nseed = [0]"]
)
def test_a_file_of_deeply_nested_tables_is_refused(home, file, text):
    file.write_text(f'name = "deep"\n{text}\n')
    assert "nested too deeply" in refuses(home, "--dry-run", file)


def test_what_cannot_be_is_refused_in_words(home, file, tmp_path):
    assert "There is no sweep file 'nowhere.toml'" in refuses(home, "nowhere.toml")
    assert "no srun" in refuses(home, file, "--executor", "slurm", PATH=str(tmp_path))
    assert "--executor slurm" in refuses(home, file, "--slurm", "partition=x")
    assert "'tpu'" in refuses(home, file, "--devices", "tpu")
    assert "sets its own device" in refuses(home, file, "--devices", "cuda:0")
    assert "No run of tiny is finished" in refuses(home, "report", file)
    assert not (home / "runs").exists()

"""`tekapctl runs` as a user types it, on runs that never trained; and a run that is trained longer elsewhere."""

import pytest

from cli.conftest import Program
from helpers.summaries import plain_summary
from tekapctl.spec import TeacherSpec, dumps, parse
from tekapctl.store.run import Run
from tekapctl.store.runs import Runs


def make(program: Program, top1: float, spec) -> Run:
    """A finished run without weights worth the name."""
    with Runs(program.home / "runs").start(spec.name, {"spec.toml": dumps(spec), "environment.json": "{}"}) as made:
        for epoch in (1, 2):
            made.append_metrics({"epoch": epoch, "test_top1": top1 * epoch / 2})
        made.write_weights("weights.safetensors", b"weights")
        teacher = {"model": "resnet14", "reference": "x", "top1": 0.9, "digest": "0" * 64}
        more = {} if isinstance(spec, TeacherSpec) else {"teacher": teacher}
        made.write_summary(plain_summary(top1, run=made.id, seed=spec.seed, **more))
    return made


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Program:
    """A home with a teacher, two of its students under other names, and the student without a teacher."""
    program = Program(tmp_path_factory.mktemp("home"))
    shared = {"data": "digits", "epochs": 2}
    teacher = make(program, 0.9, parse({**shared, "kind": "teacher", "model": "resnet14", "name": "teacher"}))
    student = {**shared, "student": "resnet8", "teacher": teacher.id}
    for top1, method, name in ((0.7, "rkd", "first"), (0.8, "dkd", "second")):
        for seed in (0, 1):
            made = parse({**student, "method": method, "name": name, "seed": seed})
            make(program, top1 + 0.01 * seed * (1 + seed), made)
    make(program, 0.6, parse({**shared, "kind": "teacher", "model": "resnet8", "name": "first"}))
    return program


def ids(program: Program, *options: str) -> list[str]:
    return [row["id"] for row in program("runs", "list", *options, "--json").json]


def test_the_list_is_filtered_sorted_and_limited(program):
    everything = ids(program)
    assert ids(program, "--limit", "2") == everything[-2:]
    assert ids(program, "--reverse", "-n", "2") == everything[:-3:-1]
    assert ids(program, "--sort", "last_top1", "--reverse", "--limit", "2") == [everything[0], everything[4]]
    assert ids(program, "--method", "rkd", "--method", "dkd", "--name", "second") == everything[3:5]
    assert ids(program, "--teacher", everything[0]) == everything[1:5]
    assert everything[1] in program("runs", "list", "--method", "rkd", COLUMNS="80").out
    assert "the runs have: dkd, rkd" in program("runs", "list", "--method", "kd").err
    assert ids(program, "--status", "interrupted") == []
    assert "Did you mean last_top1" in program.refuses("runs", "list", "--sort", "last_top")
    assert "Did you mean finished" in program.refuses("runs", "list", "--status", "finish")


def test_two_runs_are_set_side_by_side(program):
    everything = ids(program)
    told = program("runs", "diff", everything[1], everything[3], COLUMNS="80").out
    assert "method.name" in told
    assert "rkd" in told
    assert "+10.00" in told
    found = program("runs", "diff", everything[1], everything[3], "--json").json
    assert found["spec"]["method.name"] == ["rkd", "dkd"]
    assert found["results"]["last_top1"] == [0.7, 0.8]
    assert [entry["epoch"] for entry in found["epochs"]] == [1, 2]
    assert "Both runs are" in program.refuses("runs", "diff", everything[0], everything[0])


def test_several_names_are_compared_by_pair(program):
    words = ["compare", "--name", "first", "--name", "second", "--by-pair"]
    table = program(*words).out
    assert "resnet14 > resnet8" in table
    assert [line.split("  ")[0] for line in table.splitlines()[2:]] == ["teacher", "no distillation", "rkd", "dkd"]
    assert r"\caption{Top-1" in program(*words, "--latex").out
    found = program(*words, "--baseline", "rkd", "--json").json
    assert (found["baseline"], len(found["rows"])) == ("rkd", 3)
    assert len(program("compare", "--name", "first", "--name", "second", "--json").json["groups"]) == 3
    assert "no pairs" in program.refuses("compare", "--name", "teacher", "--by-pair")


def test_tables_are_merged_and_teachers_kept(program, tmp_path):
    other = Program(tmp_path / "other")
    bundle, teacher = str(tmp_path / "mine.tar.gz"), ids(program)[0]
    told = program("runs", "export", "--name", "second", "--no-weights", "--output", bundle)
    assert "--teachers includes it" in told.err
    assert "already exists" in program.refuses("runs", "export", teacher, "--output", bundle)
    told = program("runs", "export", "--name", "second", "--teachers", "--output", bundle, "--force", "--json").json
    assert (len(told["runs"]), told["teachers_left_out"]) == (3, [])
    program("runs", "export", "--name", "first", "--no-weights", "--output", str(tmp_path / "first.tar"))
    assert other("runs", "import", bundle, str(tmp_path / "first.tar")).out.count(": imported") == 6
    assert ids(other) == ids(program)
    words = ["compare", "--name", "first", "--name", "second", "--json"]
    assert other(*words).json == program(*words).json
    assert (
        other("runs", "verify", *ids(other, "--name", "first")).out.count("imported without weights.safetensors") == 3
    )
    first = ids(other, "--name", "first")[0]
    assert "was imported without its weights" in other.refuses("evaluate", first)
    assert "without weights.safetensors" in other("runs", "show", first).out
    other("report", "--name", "first", "--output", str(tmp_path / "report.html"))
    assert "taught 4 of the other runs" in other.refuses("runs", "rm", teacher, "--yes")
    other("runs", "rm", *ids(other, "--teacher", teacher), teacher, "--yes")
    assert ids(other) == ids(program)[5:]
    assert "No runs were selected" in program.refuses("runs", "export", "--name", "nothing")
    assert "hold the weights" in program.refuses("runs", "export", "latest", "--no-weights", "--checkpoints")
    assert "a file that `tekapctl runs export` wrote" in other.refuses("runs", "import", str(tmp_path / "report.html"))


def test_a_run_is_trained_longer_on_another_machine(tekapctl, teacher, tmp_path):
    bundle, other = str(tmp_path / "run.tar"), Program(tmp_path / "other")
    tekapctl("runs", "export", teacher, "--checkpoints", "--output", bundle)
    other("runs", "import", bundle)
    told = other("resume", teacher, "--epochs", "7", "--json")
    assert told.json["continues"] == teacher
    assert told.json["epochs"] == 7
    assert "by the schedule for 7 epochs" in told.err
    assert "Set --epochs to the new total" in other.refuses("resume", teacher, "--epochs", "6")
    assert "or set --epochs to train it longer" in other.refuses("resume", teacher)
    (row,) = [row for row in other("runs", "list", "--json").json if row["continues"]]
    assert (row["continues"], row["epoch"]) == (teacher, 7)
    assert other("runs", "verify", "latest").code == 0

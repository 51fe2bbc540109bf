"""Bundles of runs: what is exported is imported as it was, and a bundle that is not whole imports nothing."""

import gzip
import hashlib
import io
import json
import resource
import signal
import tarfile
from pathlib import Path

import pytest

from helpers.program import Started
from helpers.program import run as run_program
from helpers.summaries import plain_summary
from tekapctl.commands.runs import verify
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.bundle import MANIFEST, read_manifest, write_bundle
from tekapctl.store.importing import import_bundle
from tekapctl.store.run import IMPORTED, Run
from tekapctl.store.runs import Runs, missing_teachers, taught_by, with_teachers

STATE = "checkpoints/epoch-000002-step-00000000.state"


@pytest.fixture
def runs(tmp_path) -> Runs:
    return Runs(tmp_path / "home" / "runs")


@pytest.fixture
def others(tmp_path) -> Runs:
    return Runs(tmp_path / "elsewhere" / "runs")


def make(runs: Runs, spec: str = 'kind = "teacher"\nname = "mine"\n', *, ended: bool = True) -> Run:
    """A run that never trained, with weights, a checkpoint and a file of a sweep."""
    with runs.start("made", {"spec.toml": spec, "environment.json": "{}", "trial.json": '{"trial": "0"}\n'}) as made:
        made.append_metrics({"epoch": 1, "test_top1": 0.5})
        for name in ("best.safetensors", "weights.safetensors"):
            made.write_weights(name, name.encode() * 1000)
        made.checkpoints.mkdir()
        (made.path / STATE).write_bytes(b"state" * 100)
        (made.path / "tensorboard").mkdir()
        if ended:
            made.write_summary(plain_summary(run=made.id))
    return made


def contents(run: Run) -> dict[str, bytes]:
    """All files of a run but its lock and the note of its import."""
    files = (path for path in run.path.rglob("*") if path.is_file() and path.name not in (".lock", IMPORTED))
    return {str(path.relative_to(run.path)): path.read_bytes() for path in files}


def in_home(runs: Runs) -> list[str]:
    """Everything in the runs' folder, hidden or not."""
    return sorted(path.name for path in runs.folder.iterdir()) if runs.folder.is_dir() else []


@pytest.mark.parametrize("name", ["bundle.tar", "bundle.tar.gz", "bundle.tgz"])
def test_what_is_imported_is_what_was_exported(tmp_path, runs, others, name):
    made = [make(runs), make(runs)]
    bundle = tmp_path / name
    write_bundle(made, bundle, checkpoints=True)
    assert [each.outcome for each in import_bundle(bundle, others)] == ["imported", "imported"]
    for one, other in zip(made, others.all(), strict=True):
        assert one.id == other.id
        assert contents(one) == contents(other)
        assert other.status == "finished"
    assert [each.outcome for each in import_bundle(bundle, others)] == ["identical", "identical"]
    again = tmp_path / f"again-{name}"
    write_bundle(others.all(), again, checkpoints=True)
    assert again.read_bytes() == bundle.read_bytes(), "the same runs give the same bytes"


def test_an_imported_run_is_not_the_latest(tmp_path, runs, others):
    write_bundle([make(runs)], tmp_path / "bundle.tar")
    import_bundle(tmp_path / "bundle.tar", others)
    with pytest.raises(UsageError, match="imported and copied runs are not `latest`"):
        others.find("latest")
    own = make(others)
    assert others.find("latest") == own


def test_weights_that_were_left_out_can_follow(tmp_path, runs, others):
    made = make(runs)
    small, whole = tmp_path / "small.tar.gz", tmp_path / "whole.tar"
    write_bundle([made], small, weights=False)
    write_bundle([made], whole)
    assert small.stat().st_size < 2000
    (imported,) = import_bundle(small, others)
    assert imported.left_out == ("best.safetensors", "weights.safetensors")
    (there,) = others.all()
    verified = verify(there)
    assert verified.problems == ()
    assert verified.left_out == imported.left_out
    write_bundle([there], tmp_path / "passed-on.tar")
    assert [each.outcome for each in import_bundle(tmp_path / "passed-on.tar", others)] == ["identical"]
    (completed,) = import_bundle(whole, others)
    assert (completed.outcome, completed.left_out) == ("completed", ())
    assert contents(there) == {name: text for name, text in contents(made).items() if name != STATE}
    assert [each.outcome for each in import_bundle(small, others)] == ["identical"]


def test_weights_that_are_not_those_left_out_are_refused(tmp_path, runs, others):
    made = make(runs)
    write_bundle([made], tmp_path / "small.tar", weights=False)
    import_bundle(tmp_path / "small.tar", others)
    (others.all()[0].path / "weights.safetensors").write_bytes(b"others")
    write_bundle([made], tmp_path / "whole.tar")
    with pytest.raises(UsageError, match=r"its weights\.safetensors is not that of"):
        import_bundle(tmp_path / "whole.tar", others)


@pytest.mark.parametrize("name", ["spec.toml", "summary.json", "metrics.jsonl", "checksums.json"])
def test_a_different_run_of_the_same_id_is_refused_before_anything_is_imported(tmp_path, runs, others, name):
    made = [make(runs), make(runs)]
    write_bundle(made[1:], tmp_path / "one.tar")
    import_bundle(tmp_path / "one.tar", others)
    write_bundle(made, tmp_path / "both.tar")
    changed = others.all()[0].path / name
    changed.write_bytes(changed.read_bytes() + b"\n")
    before = contents(others.all()[0])
    with pytest.raises(UsageError, match=f"A different run of the id {made[1].id} is here: its {name}"):
        import_bundle(tmp_path / "both.tar", others)
    assert [run.id for run in others.all()] == [made[1].id]
    assert contents(others.all()[0]) == before


def test_an_unfinished_run_is_exported_with_its_checkpoints_or_not_at_all(tmp_path, runs, others):
    made, bundle = make(runs, ended=False), tmp_path / "bundle.tar"
    with pytest.raises(UsageError, match="is interrupted"):
        write_bundle([made], bundle)
    assert not bundle.exists()
    with made.lock(), pytest.raises(UsageError, match="is running"):
        write_bundle([made], bundle, checkpoints=True)
    write_bundle([made], bundle, checkpoints=True)
    import_bundle(bundle, others)
    assert others.all()[0].status == "interrupted"
    assert contents(others.all()[0]) == contents(made)
    made.write_summary(plain_summary(run=made.id))
    write_bundle([made], bundle)
    with pytest.raises(UsageError, match=r"its summary\.json"):
        import_bundle(bundle, others)


def test_damaged_runs_are_not_exported(tmp_path, runs):
    made = make(runs)
    weights = made.path / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"x")
    with pytest.raises(UsageError, match="are damaged"):
        write_bundle([made], tmp_path / "bundle.tar")
    weights.unlink()
    with pytest.raises(UsageError, match="is damaged"):
        write_bundle([made], tmp_path / "bundle.tar")
    write_bundle([made], tmp_path / "bundle.tar", weights=False)
    with pytest.raises(UsageError, match="not the name of a bundle"):
        write_bundle([made], tmp_path / "bundle.zip")
    assert [path.name for path in tmp_path.glob("*bundle*")] == ["bundle.tar"]


def rewritten(bundle: Path, change) -> Path:
    """A bundle whose entries, pairs of a header and its content, were changed."""
    with tarfile.open(bundle) as archive:
        entries = [(entry, archive.extractfile(entry).read()) for entry in archive]
    with tarfile.open(bundle, "w") as archive:
        for entry, content in change(entries):
            entry.size = len(content) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(content))
    return bundle


def header(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def manifested(change):
    """Changes the manifest and leaves the files alone."""

    def apply(entries):
        manifest = json.loads(entries[0][1])
        change(manifest)
        return [(entries[0][0], json.dumps(manifest).encode()), *entries[1:]]

    return apply


def named(name: str, content: bytes = b"hostile"):
    """Adds a file to the archive and to the manifest, with the right checksum."""

    def apply(entries):
        manifest = json.loads(entries[0][1])
        run = manifest["runs"][0]
        run["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return [
            (entries[0][0], json.dumps(manifest).encode()),
            *entries[1:],
            (header(f"{run['run']}/{name}"), content),
        ]

    return apply


def renamed(run: str):
    def apply(entries):
        old = json.loads(entries[0][1])["runs"][0]["run"]
        entries[0] = (entries[0][0], entries[0][1].replace(old.encode(), run.encode()))
        return [entries[0], *((header(entry.name.replace(old, run)), content) for entry, content in entries[1:])]

    return apply


def with_content(entries, name: str, content: bytes):
    """A file with other content, and the manifest with its checksum."""
    manifest = json.loads(entries[0][1])
    file = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["runs"][0]["files"][name] = file
    return [
        (entries[0][0], json.dumps(manifest).encode()),
        *((entry, content if entry.name.endswith(f"/{name}") else old) for entry, old in entries[1:]),
    ]


HOSTILE = {
    "a byte of a file": lambda entries: [*entries[:-1], (entries[-1][0], b"x" + entries[-1][1][1:])],
    "a shorter file": lambda entries: [*entries[:-1], (entries[-1][0], entries[-1][1][1:])],
    "a missing file": lambda entries: entries[:-1],
    "a file twice": lambda entries: [*entries, entries[-1]],
    "a file that the manifest does not name": lambda entries: [*entries, (header("20260101-000000-x/a.json"), b"{}")],
    "a path outside": lambda entries: [*entries, (header("../../outside.json"), b"{}")],
    "an absolute path": lambda entries: [*entries, (header("/tmp/outside.json"), b"{}")],
    "a link": lambda entries: [*entries, (header("link", tarfile.SYMTYPE, "/etc/passwd"), b"")],
    "a hard link": lambda entries: [*entries, (header("link", tarfile.LNKTYPE, MANIFEST), b"")],
    "a device": lambda entries: [*entries, (header("null", tarfile.CHRTYPE), b"")],
    "no manifest": lambda entries: entries[1:],
    "a manifest at the end": lambda entries: [*entries[1:], entries[0]],
    "a manifest that is no JSON": lambda entries: [(entries[0][0], b"{"), *entries[1:]],
    "a manifest nested too deeply": lambda entries: [(entries[0][0], b"[" * 10**5), *entries[1:]],
    "another format": manifested(lambda manifest: manifest.update(format="tekapctl runs 99")),
    "no runs": manifested(lambda manifest: manifest.update(runs=[])),
    "a run twice": manifested(lambda manifest: manifest["runs"].append(manifest["runs"][0])),
    "a run without its spec": manifested(lambda manifest: manifest["runs"][0]["files"].pop("spec.toml")),
    "a negative size": manifested(lambda manifest: manifest["runs"][0]["files"]["spec.toml"].update(size=-1)),
    "a path in the manifest": named("../outside.json"),
    "an absolute path in the manifest": named("/tmp/outside.json"),
    "a hidden file": named(".lock"),
    "a program": named("run.py"),
    "a file below a folder": named("tensorboard/a.json"),
    "the note of an import": named(IMPORTED),
    "a checkpoint outside": named("checkpoints/../../epoch-000001-step-00000000.state"),
    "an id that is a path": renamed("../20260101-000000-x"),
    "an id without a time": renamed("folder"),
    "an id of another run": renamed("20260101-000000-x-0000"),
    "a spec that is no TOML": lambda entries: with_content(entries, "spec.toml", b"\x00"),
    "a spec without a kind": lambda entries: with_content(entries, "spec.toml", b"seed = 3"),
    "a summary that is none": lambda entries: with_content(entries, "summary.json", b'{"status": "finished"}'),
    "weights that the checksums do not fit": lambda entries: with_content(entries, "weights.safetensors", b"others"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_damaged_or_hostile_bundle_imports_nothing(tmp_path, runs, others, change):
    bundle = tmp_path / "bundle.tar"
    write_bundle([make(runs), make(runs)], bundle)
    rewritten(bundle, change)
    outside = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError):
        import_bundle(bundle, others)
    assert in_home(others) == []
    assert not Path("/tmp/outside.json").exists()
    allowed = {others.folder, others.folder.parent, others.folder.with_name(".runs.lock")}
    assert set(tmp_path.rglob("*")) - set(outside) <= allowed


@pytest.mark.parametrize("fraction", [0, 0.01, 0.5, 0.75])
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_bundle_that_was_cut_off_imports_nothing(tmp_path, runs, others, fraction, is_packed):
    bundle = tmp_path / f"bundle.tar{'.gz' * is_packed}"
    write_bundle([make(runs)], bundle)
    content = bundle.read_bytes()
    bundle.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(UsageError):
        import_bundle(bundle, others)
    assert in_home(others) == []


def test_a_bundle_that_claims_more_than_the_disk_has_is_refused_at_once(tmp_path, runs, others):
    bundle = tmp_path / "bundle.tar"
    write_bundle([make(runs)], bundle)
    size = {"size": 10**18}
    rewritten(bundle, manifested(lambda manifest: manifest["runs"][0]["files"]["weights.safetensors"].update(size)))
    with pytest.raises(TekapctlError, match="are free"):
        import_bundle(bundle, others)
    bundle.write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(UsageError):
        import_bundle(bundle, others)
    assert in_home(others) == []


def test_what_is_no_file_is_no_bundle(tmp_path, others):
    for path in (tmp_path, tmp_path / "nothing.tar"):
        with pytest.raises(UsageError, match="There is no file"):
            import_bundle(path, others)
    assert not others.folder.exists()


def _dies_of_large_files() -> None:
    """The process is killed in the middle of writing the first file of more than 100 KB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_an_import_that_is_killed_leaves_nothing_and_can_be_repeated(tmp_path, runs):
    small, large = make(runs), make(runs)
    (large.path / STATE).write_bytes(b"s" * 300_000)
    bundle, home = tmp_path / "bundle.tar", tmp_path / "elsewhere"
    write_bundle([small, large], bundle, checkpoints=True)
    command = ("runs", "import", str(bundle))
    killed = Started(home, command, tmp_path / "output", {}, _dies_of_large_files).wait()
    assert killed.code == -signal.SIGXFSZ
    others = Runs(home / "runs")
    assert others.all() == []
    assert len(in_home(others)) == 1, "a hidden folder"
    assert run_program(home, *command).code == 0
    assert in_home(others) == [small.id, large.id]
    assert contents(others.find(large.id)) == contents(large)


def test_teachers_are_found_and_go_along(tmp_path, runs, others):
    teacher = make(runs)
    assistant = make(runs, f'kind = "student"\nteacher = "{teacher.id}:best"\n')
    student = make(runs, f'kind = "student"\nteacher = "resnet32x4"\nensemble = ["{assistant.id}"]\n')
    by_file = make(runs, f'kind = "student"\nteacher = "{teacher.path / "best.safetensors"}"\n')
    assert taught_by(teacher, runs) == [assistant, by_file]
    assert taught_by(student, runs) == []
    assert with_teachers([student], runs) == [student, assistant, teacher]
    assert missing_teachers(student, {student.id}) == [assistant.id]
    write_bundle([student, assistant], tmp_path / "bundle.tar")
    found = {each.run: each.missing_teachers for each in import_bundle(tmp_path / "bundle.tar", others)}
    assert found == {student.id: (), assistant.id: (teacher.id,)}
    assert taught_by(others.find(assistant.id), others) == [others.find(student.id)]


def test_a_manifest_names_every_file_with_its_checksum(tmp_path, runs):
    made = make(runs)
    (tmp_path / "private.txt").write_text("elsewhere")
    link = made.path / "link.txt"
    link.symlink_to(tmp_path / "private.txt")
    write_bundle([made], tmp_path / "bundle.tar")
    (entry,) = read_manifest(tmp_path / "bundle.tar").runs
    assert set(entry.files) == contents(made).keys() - {STATE, link.name}
    for name, file in entry.files.items():
        assert hashlib.sha256((made.path / name).read_bytes()).hexdigest() == file.sha256

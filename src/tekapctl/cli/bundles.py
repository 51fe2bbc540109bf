"""`tekapctl runs export` and `tekapctl runs import`."""

from pathlib import Path
from typing import Annotated

from tekapctl.cli import complete, console, options
from tekapctl.cli.options import argument, option
from tekapctl.errors import UsageError
from tekapctl.store.home import Home, output_file


def export_runs(
    references: Annotated[
        list[str] | None,
        argument("[RUN]...", "Runs to export: IDs, unique prefixes or suffixes, or `latest`.", complete=complete.runs),
    ] = None,
    output: Annotated[
        Path, option("-o --output FILE", "Bundle to write: .tar, or .tar.gz to compress it.", "Output")
    ] = Path("runs.tar"),
    names: options.RunsNamed = None,
    every: options.EveryRun = False,
    no_weights: Annotated[
        bool, option("--no-weights", "Leave out the weights: a small bundle, for tables and learning curves.")
    ] = False,
    checkpoints: Annotated[
        bool,
        option(
            "--checkpoints",
            "Include checkpoints, to resume runs there or train them longer; unfinished runs need them.",
        ),
    ] = False,
    teachers: Annotated[bool, option("--teachers", "Include the runs that taught these runs.")] = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Write runs to a bundle, to import them on another machine.

    A bundle is a tar archive with the SHA-256 of each file. The same runs give the same bytes.

    Examples:
    tekapctl runs export latest --teachers --output student.tar
    tekapctl runs export --name mine --no-weights --output tables.tar.gz
    """
    from tekapctl.store.atomic import sha256
    from tekapctl.store.bundle import write_bundle
    from tekapctl.store.runs import Runs, missing_teachers, with_teachers

    if no_weights and checkpoints:
        raise UsageError("Checkpoints hold the weights too.", "Leave out --no-weights or --checkpoints.")
    home = Home.default()
    runs = Runs(home.runs)
    found = runs.select(references or [], names or [], every=every)
    if not found:
        raise UsageError(
            "No runs were selected.", "Name runs of `tekapctl runs list`, or use --name or --all for finished ones."
        )
    if teachers:
        found = with_teachers(found, runs)
    output = output_file(output, home, force=force)
    manifest = write_bundle(found, output, weights=not no_weights, checkpoints=checkpoints)
    size, digest = output.stat().st_size, sha256(output)
    ids = frozenset(run.id for run in found)
    without = {run.id: names for run in found if (names := missing_teachers(run, ids))}
    if as_json:
        console.show_json(
            {
                "output": str(output),
                "bytes": size,
                "sha256": digest,
                "runs": [{"run": run.run, "files": list(run.files)} for run in manifest.runs],
                "teachers_left_out": sorted({name for names in without.values() for name in names}),
            }
        )
        return
    console.show_fields(
        {
            "bundle": f"{output}, {console.format_bytes(size)}",
            "runs": str(len(found)),
            "files": str(len(manifest.files)),
            "sha256": digest,
        }
    )
    for name in sorted({name for names in without.values() for name in names}):
        console.say(f"the teacher {name} is not in the bundle; --teachers includes it")


def import_runs(
    bundles: Annotated[list[Path], argument("FILE...", "Bundles that `runs export` wrote.")],
    as_json: options.Json = False,
) -> None:
    """Import the runs of bundles.

    All files of a bundle are checked against their checksums before any of its runs appears. Runs that are already here
    are skipped; weights or checkpoints that they lack are added. If there is a different run of the same ID, nothing is
    imported.

    Example: tekapctl runs import student.tar
    """
    from tekapctl.store.home import expand_user
    from tekapctl.store.importing import import_bundle
    from tekapctl.store.runs import Runs

    runs, found = Runs(Home.default().runs), []
    words = {"imported": "imported", "completed": "completed", "identical": "already here"}
    for bundle in bundles:
        for each in import_bundle(expand_user(str(bundle)), runs):
            found.append(each)
            without = f", without {', '.join(each.left_out)}" if each.left_out else ""
            if not as_json:
                console.show_text(console.printable(f"{each.run}: {words[each.outcome]}{without}"))
    if as_json:
        console.show_json(found)
        return
    there = {run.id for run in runs.all()}
    for name in sorted({name for each in found for name in each.missing_teachers if name not in there}):
        console.say(f"the teacher {name} is not here; import it too to resume or report on its students")

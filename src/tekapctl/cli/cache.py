"""`tekapctl cache`."""

from typing import Annotated, Any

import typer

from tekapctl.cli import console, options
from tekapctl.cli.build_spec import with_spec_options
from tekapctl.cli.options import argument, option
from tekapctl.cli.progress import counting
from tekapctl.errors import TekapctlError
from tekapctl.store.home import Home

app = typer.Typer(
    no_args_is_help=True,
    help="List, verify and clear downloads, cached teacher outputs (knowledge) and decoded images. Runs are never "
    "touched.\n\n"
    "Example: tekapctl cache list",
)


@app.command("list")
def list_cache(as_json: options.Json = False) -> None:
    """List the contents of the cache.

    Example: tekapctl cache list
    """
    from tekapctl.commands.cache import list_artifacts

    root, found = Home.default().root, list_artifacts(Home.default())
    if as_json:
        fields = ("kind", "name", "described", "bytes")
        console.show_json([{**{name: getattr(a, name) for name in fields}, "path": str(a.path)} for a in found])
        return
    if not found:
        console.say(f"The cache in {root} is empty. Download something with `tekapctl fetch resnet32x4`.")
        return
    rows = [{"kind": a.kind, "name": a.described or a.name, "size>": console.format_bytes(a.bytes)} for a in found]
    console.show_table(str(root), rows)


@app.command("warm")
@with_spec_options("student")
def warm_cache(
    spec: Any,
    dry_run: Annotated[
        bool, option("--dry-run", "Show the location and final size of the cache, and exit.", "Output")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Precompute teacher outputs for all views of the training images, or for all epochs of a run.

    Takes the options of `distill` that describe a run; runs with --cache-teacher use the cache. You can interrupt it:
    outputs that are already cached are not computed again.

    Example: tekapctl cache warm --teacher resnet32x4 --dataset cifar100
    """
    from tekapctl.commands.warm_cache import open_cache, warm

    cached = open_cache(spec, Home.default())
    console.say(f"teacher cache: {cached.store.described}")
    if dry_run:
        found: dict[str, Any] = {
            "store": str(cached.store.path),
            "bytes": cached.store.bytes_used,
            "bytes_when_full": cached.store.identity.bytes,
        }
    else:
        with counting("views", "caching teacher outputs") as report:
            found = warm(cached, report)
    if as_json:
        console.show_json(found)
    else:
        size, full = (console.format_bytes(found[name]) for name in ("bytes", "bytes_when_full"))
        fields = {"cache": found["store"], "size": f"{size} of {full}"}
        if "views" in found:
            fields["views"] = f"{found['views']:,}, {found['computed']:,} of them computed now"
            fields["state"] = "complete" if found["complete"] else "incomplete: training computes the rest"
        console.show_fields(fields)


@app.command("verify")
def verify_cache(as_json: options.Json = False) -> None:
    """Check cached files against their recorded checksums. Exits with 1 if any is damaged.

    Example: tekapctl cache verify
    """
    from tekapctl.commands.cache import verify

    checked = verify(Home.default())
    if as_json:
        console.show_json([{"kind": a.kind, "name": a.name, "problem": problem} for a, problem in checked])
    else:
        for artifact, problem in checked:
            console.show_text(console.printable(f"{artifact.kind}/{artifact.name}: {problem or 'ok'}"))
    damaged = sum(problem is not None for _, problem in checked)
    if damaged:
        raise TekapctlError(
            f"{damaged} of {len(checked)} cached items are damaged.",
            "Download them again with `tekapctl fetch --force`.",
        )


@app.command("clear")
def clear_cache(
    kinds: Annotated[
        list[str] | None, argument("[KIND]...", "teachers, datasets, downloads, knowledge or images. [default: all]")
    ] = None,
    yes: options.Yes = False,
) -> None:
    """Delete downloads, cached teacher outputs and decoded images.

    Example: tekapctl cache clear downloads --yes
    """
    from tekapctl.commands.cache import clear

    home = Home.default()
    if yes or typer.confirm(f"Delete {', '.join(kinds) if kinds else 'everything cached'} in {home.root}?", err=True):
        cleared = clear(home, kinds)
        for artifact in cleared.kept:
            console.say(f"{artifact.kind}/{artifact.name} was kept: another process is using it")
        console.say(f"freed {console.format_bytes(cleared.bytes)}")

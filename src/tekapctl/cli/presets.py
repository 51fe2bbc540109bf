"""`tekapctl presets`."""

import difflib
from typing import Annotated

import typer

from tekapctl.cli import complete, console, listings, options
from tekapctl.errors import UsageError


def presets(
    prefix: Annotated[
        str | None,
        typer.Argument(
            metavar="[PREFIX]",
            help="Only presets whose names begin with this, e.g. dkd or imagenet/kd.",
            autocompletion=complete.presets,
        ),
    ] = None,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="List the presets without published numbers instead.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the published experiments, with their published accuracy where it is known.

    Examples:
    tekapctl presets tekap-fl
    tekapctl presets imagenet/kd
    tekapctl distill --preset kd/resnet32x4-resnet8x4
    """
    found = listings.presets()
    if prefix is not None:
        whole = [row for row in found if row["preset"].startswith(f"{prefix.rstrip('/')}/")]
        near = [row["preset"] for row in found]
        found = whole or [row for row in found if row["preset"].startswith(prefix)]
        if not found:
            groups = list(dict.fromkeys(name.rpartition("/")[0] for name in near))
            hits = difflib.get_close_matches(prefix, [*groups, *near], n=3, cutoff=0.5)
            guess = f"Did you mean {' or '.join(hits)}? " if hits else ""
            problem = f"No preset's name begins with {prefix!r}."
            raise UsageError(problem, f"{guess}`tekapctl presets` lists them all.")
    if as_json:
        console.show_json(found)
        return
    rest = [row for row in found if not row["published"]]
    if defaults:
        console.show_table("Nothing published: the method's defaults", ["preset"], [(row["preset"],) for row in rest])
        return
    for epoch, title in _TITLES.items():
        rows = [
            (
                row["preset"],
                "" if row["published_top1"] is None else console.percent(row["published_top1"]),
                "" if row["spec"] is not None else "no",
            )
            for row in found
            if row["published"] and row["epoch"] == epoch
        ]
        if rows:
            console.show_table(title, ["preset=", "top-1 %>", "--preset"], rows)
    if any(row["spec"] is None for row in found):
        console.say("no: only the accuracy is published, or a network is not available; --preset refuses it")
    if rest:
        console.say(f"{len(rest)} more presets have no published numbers; --defaults lists them")
    console.say("names without imagenet/ are for CIFAR-100; --json has the sources and the settings")


_TITLES = {
    "last": "Published test accuracy of the last epoch",
    "best": "Published test accuracy of the best epoch on the test set",
    "not stated": "Published test accuracy, last or best epoch not stated",
    None: "Published settings without an accuracy",
}
"""One table for each kind of number: they do not compare."""

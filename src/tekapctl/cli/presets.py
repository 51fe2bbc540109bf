"""`tekapctl presets`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tekapctl.cli import console, options
from tekapctl.errors import UsageError

if TYPE_CHECKING:
    from tekapctl.experiments.presets import Preset


def presets(
    prefix: Annotated[
        str | None, typer.Argument(metavar="[PREFIX]", help="Only those whose names begin so: dkd, imagenet/kd.")
    ] = None,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="List those of which nothing is published: the methods' defaults.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the published experiments, with their published accuracy where it is known.

    Examples: tekapctl presets tekap-fl; tekapctl presets imagenet/kd; tekapctl distill --preset kd/resnet56-resnet20
    """
    from tekapctl.experiments.presets import presets as all_presets

    found = list(all_presets())
    if prefix is not None:
        whole = [one for one in found if one.name.startswith(f"{prefix.rstrip('/')}/")]
        found = whole or [one for one in found if one.name.startswith(prefix)]
        if not found:
            raise UsageError(f"No preset's name begins with {prefix!r}.", "`tekapctl presets` lists them all.")
    if as_json:
        console.show_json([_row(one) for one in found])
        return
    rest = [one for one in found if one.published is None]
    if defaults:
        console.show_table("Nothing published: the method's defaults", ["preset"], [(one.name,) for one in rest])
        return
    for epoch, title in _TITLES.items():
        rows = [
            (one.name, "" if row.top1 is None else f"{row.top1:.2f}", "" if one.is_runnable else "no")
            for one in found
            if (row := one.published) is not None and row.epoch == epoch
        ]
        if rows:
            console.show_table(title, ["preset", "top-1 %>", "--preset"], rows)
    if any(not one.is_runnable for one in found):
        console.say("no: only the accuracy is published, or a network is not available; --preset refuses it")
    if rest:
        console.say(f"{len(rest)} more have no published row, only the method's defaults: add --defaults to list them")
    console.say("names without imagenet/ are of CIFAR-100; --json has the sources and the settings")


_TITLES = {
    "last": "Published test accuracy of the last epoch",
    "best": "Published test accuracy of the best epoch on the test set",
    "not stated": "Published test accuracy, last or best epoch not stated",
    None: "Published settings without an accuracy",
}
"""One table for each kind of number: they do not compare."""


def _row(one: "Preset") -> dict[str, Any]:
    row = one.published
    return {
        "preset": one.name,
        "published": row is not None,
        "published_top1": None if row is None else row.top1,
        "deviation": None if row is None else row.deviation,
        "epoch": None if row is None else row.epoch,
        "source": None if row is None else row.source,
        "settings_source": None if row is None else row.settings_source,
        "settings": one.settings if one.is_runnable else None,
        "spec": one.table if one.is_runnable else None,
    }

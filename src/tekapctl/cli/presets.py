"""`tekapctl presets`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tekapctl.cli import console, options

if TYPE_CHECKING:
    from tekapctl.experiments.presets import Preset


def presets(
    way: Annotated[
        str | None, typer.Argument(metavar="[WAY]", help="Only those of a way, such as tekap-fl or dkd.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the published experiments that `distill --preset` knows, with their published accuracy where it is known.

    Examples: tekapctl presets tekap-fl; tekapctl distill --preset tekap-fl/resnet32x4-resnet8x4
    """
    from tekapctl.experiments.presets import presets as all_presets
    from tekapctl.registry import unknown_name

    found = list(all_presets())
    if way is not None:
        ways = list(dict.fromkeys(one.way for one in found))
        if way not in ways:
            raise unknown_name("way of distilling", way, ways)
        found = [one for one in found if one.way == way]
    if as_json:
        console.show_json([_row(one) for one in found])
        return
    console.show_table(
        "Published test accuracy, on CIFAR-100 unless the name says otherwise",
        ["preset", "top-1 %>", "epoch"],
        [(each["preset"], _percent(each["published_top1"]), each["epoch"] or "") for each in map(_row, found)],
    )
    console.say("epoch: whether it is the last epoch's accuracy or the best on the test set; the two do not compare")
    console.say("--json has the source of each number, and the settings")


def _row(one: "Preset") -> dict[str, Any]:
    row = one.published
    return {
        "preset": one.name,
        "published_top1": None if row is None else row.top1,
        "deviation": None if row is None else row.deviation,
        "epoch": None if row is None else row.epoch,
        "source": None if row is None else row.source,
        "spec": one.table,
    }


def _percent(top1: float | None) -> str:
    return "" if top1 is None else f"{top1:.2f}"

"""`tekapctl presets`."""

from typing import Annotated

import typer

from tekapctl.cli import console, options


def presets(
    way: Annotated[
        str | None, typer.Argument(metavar="[WAY]", help="Only those of a way, such as tekap-fl or dkd.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the published experiments that `distill --preset` knows, with their published accuracy where it is known.

    Examples: tekapctl presets tekap-fl; tekapctl distill --preset tekap-fl/resnet32x4-resnet8x4
    """
    from tekapctl.presets import presets as all_presets
    from tekapctl.registry import unknown_name

    found = list(all_presets())
    if way is not None:
        ways = list(dict.fromkeys(one.way for one in found))
        if way not in ways:
            raise unknown_name("way of distilling", way, ways)
        found = [one for one in found if one.way == way]
    if as_json:
        console.show_json([{"preset": one.name, "published_top1": one.published, "spec": one.table} for one in found])
        return
    console.show_table(
        "on CIFAR-100, or on ImageNet where the name says so",
        ["preset", "published top-1 %>"],
        [(one.name, "" if one.published is None else f"{one.published:.2f}") for one in found],
    )

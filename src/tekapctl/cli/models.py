"""`tekapctl models`."""

from typing import Annotated

import typer

from tekapctl.cli import complete, console, listings, options

_HELP = """List the built-in networks, or show one.

Examples:
tekapctl models
tekapctl models show resnet8x4
"""
app = typer.Typer(invoke_without_command=True, help=_HELP)


@app.callback(help=_HELP)
def list_models(
    context: typer.Context,
    classes: Annotated[
        int, typer.Option("--classes", metavar="N", min=1, max=1_000_000, help="Number of classes.")
    ] = 100,
    size: Annotated[int, typer.Option("--size", metavar="PX", min=8, max=1024, help="Image size in pixels.")] = 32,
    as_json: options.Json = False,
) -> None:
    """List the built-in networks."""
    if context.invoked_subcommand is not None:
        return
    rows = listings.models(classes, size)
    if as_json:
        console.show_json(rows)
        return
    console.show_table(
        f"For {classes} classes and images of {size}x{size} pixels",
        ["network=", "parameters>", "MACs>", "lr>", "pretrained"],
        [
            (
                row["network"],
                f"{row['parameters']:,}",
                f"{row['macs']:,}",
                f"{row['learning_rate']:g}",
                f"{row['pretrained']['dataset']}, {console.percent(row['pretrained']['top1'])} %"
                if row["pretrained"]
                else "",
            )
            for row in rows
        ],
    )


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a network.", autocompletion=complete.models)],
    as_json: options.Json = False,
) -> None:
    """Show the size of a network and the shapes of its feature maps.

    Example: tekapctl models show vgg8
    """
    import torch

    from tekapctl import models

    row = listings.model_row(name, 100, 32)
    with torch.no_grad():
        found = models.build(name, 100).eval().knowledge(torch.zeros(1, 3, 32, 32))
    row["feature_maps"] = [list(each.shape[1:]) for each in found.feature_maps]
    row["embedding"] = found.embedding.shape[1]
    if as_json:
        console.show_json(row)
        return
    console.show_fields({field: str(value) for field, value in row.items() if value is not None})

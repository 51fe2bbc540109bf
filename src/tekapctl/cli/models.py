"""`tekapctl models`."""

from typing import Annotated, Any

import typer

from tekapctl.cli import console, options

app = typer.Typer(
    invoke_without_command=True, help="List the networks of the zoo, or show one.\n\nExample: tekapctl models"
)


def _row(name: str, classes: int, size: int) -> dict[str, Any]:
    from tekapctl import models
    from tekapctl.models.network import macs, parameters
    from tekapctl.models.pretrained import CATALOGUE

    network = models.build(name, classes)
    pretrained = CATALOGUE.get(name)
    return {
        "network": name,
        "parameters": parameters(network),
        "macs": macs(network, (3, size, size)),
        "learning_rate": models.learning_rate(name),
        "pretrained": None if pretrained is None else {"dataset": pretrained.dataset, "top1": pretrained.accuracy},
    }


@app.callback()
def list_models(
    context: typer.Context,
    classes: Annotated[int, typer.Option("--classes", min=1, max=1_000_000, help="Number of classes.")] = 100,
    size: Annotated[int, typer.Option("--size", min=8, max=1024, help="Pixels a side.")] = 32,
    as_json: options.Json = False,
) -> None:
    """List the networks of the zoo, or show one.

    Example: tekapctl models; tekapctl models show resnet8x4
    """
    if context.invoked_subcommand is not None:
        return
    from tekapctl import models

    rows = [_row(name, classes, size) for name in models.names()]
    if as_json:
        console.show_json(rows)
        return
    console.show_table(
        f"for {classes} classes and images of {size}x{size}",
        ["network", "parameters>", "MACs an image>", "first rate>", "pretrained"],
        [
            (
                row["network"],
                f"{row['parameters']:,}",
                f"{row['macs']:,}",
                f"{row['learning_rate']:g}",
                "{dataset}, top-1 {top1} %".format(**row["pretrained"]) if row["pretrained"] else "",
            )
            for row in rows
        ],
    )


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A network's name.")], as_json: options.Json = False
) -> None:
    """Show a network: its size, and the feature maps that methods read of it.

    Example: tekapctl models show vgg8
    """
    import torch

    from tekapctl import models

    row = _row(name, 100, 32)
    with torch.no_grad():
        found = models.build(name, 100).eval().knowledge(torch.zeros(1, 3, 32, 32))
    row["stages"] = [list(stage.shape[1:]) for stage in found.feature_maps]
    row["embedding"] = found.embedding.shape[1]
    if as_json:
        console.show_json(row)
        return
    console.show_fields({field: str(value) for field, value in row.items() if value is not None})

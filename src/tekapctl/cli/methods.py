"""`tekapctl methods`."""

from typing import Annotated, Any

import typer

from tekapctl.cli import complete, console, listings, options

_HELP = """List the distillation methods, or explain one.

Examples:
tekapctl methods
tekapctl methods show crd
"""
app = typer.Typer(invoke_without_command=True, help=_HELP)


@app.callback(help=_HELP)
def list_methods(context: typer.Context, as_json: options.Json = False) -> None:
    """List the distillation methods."""
    if context.invoked_subcommand is not None:
        return
    rows = listings.methods()
    if as_json:
        console.show_json(rows)
        return
    console.show_table(
        "",
        ["method=", "year>", "uses", "γ, α, β=", "paper"],
        [
            (
                row["method"],
                str(row["year"]),
                ", ".join(row["uses"]),
                "{gamma:g}, {alpha:g}, {beta:g}".format(**row["weights"]),
                row["paper"],
            )
            for row in rows
        ],
    )
    console.say("`tekapctl methods show NAME` prints the formula and the settings of a method")


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Method name, or module:Class.", autocompletion=complete.methods),
    ],
    as_json: options.Json = False,
) -> None:
    """Explain a method: its loss, its settings and how TeKAP augments it.

    Example: tekapctl methods show rkd
    """
    row = next((row for row in listings.methods() if row["method"] == name), None) or _own(name)
    augmented = "logits" if row["level"] == "logit" else "features"
    row |= {
        "tekap": f"augments the teacher's {augmented}: fresh noise in each step, one loss term per augmented teacher",
        "angular": f"averages the teacher's {augmented} with those of its learned views, in one loss term",
        "example": f"tekapctl distill --teacher resnet56 --student resnet20 --method {name}",
    }
    if as_json:
        console.show_json(row)
        return
    descriptions = row.pop("descriptions")
    settings = {
        f"  method.{field}": f"{value}" + (f" ({descriptions[field]})" if descriptions[field] else "")
        for field, value in row.pop("settings").items()
    }
    weights = "gamma {gamma:g}, alpha {alpha:g}, beta {beta:g}".format(**row.pop("weights"))
    row |= {"uses": ", ".join(row["uses"]), "weights": weights}
    console.show_fields({field: str(value) for field, value in row.items() if value} | settings)


def _own(name: str) -> dict[str, Any]:
    from tekapctl.distillation.methods import METHODS

    return listings.method_row(name, METHODS[name])

"""`tekapctl methods`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tekapctl.cli import console, options

if TYPE_CHECKING:
    from tekapctl.distill.methods import MethodSpec

app = typer.Typer(
    invoke_without_command=True, help="List the distillation methods, or explain one.\n\nExample: tekapctl methods"
)


def _defaults(method: "type[MethodSpec]") -> dict[str, Any]:
    return {name: field.default for name, field in method.model_fields.items() if name != "name"}


def _row(name: str, method: "type[MethodSpec]") -> dict[str, Any]:
    weights, about = method.weights, method.about
    return {
        "method": name,
        "paper": about.paper,
        "year": about.year,
        "uses": method.requires.described,
        "weights": {"gamma": weights.gamma, "alpha": weights.alpha, "beta": weights.beta},
        "settings": _defaults(method),
        "formula": about.formula,
        "note": about.note,
    }


@app.callback()
def list_methods(context: typer.Context, as_json: options.Json = False) -> None:
    """List the distillation methods, or explain one.

    Example: tekapctl methods; tekapctl methods show crd
    """
    if context.invoked_subcommand is not None:
        return
    from tekapctl.distill.methods import METHODS

    rows = [_row(name, METHODS[name]) for name in sorted(METHODS.names())]
    if as_json:
        console.show_json(rows)
        return
    console.show_table(
        "",
        ["method", "year>", "uses", "gamma, alpha, beta", "settings", "paper"],
        [
            (
                row["method"],
                str(row["year"]),
                ", ".join(row["uses"]),
                "{gamma:g}, {alpha:g}, {beta:g}".format(**row["weights"]),
                ", ".join(f"{name} {value}" for name, value in row["settings"].items()),
                row["paper"],
            )
            for row in rows
        ],
    )


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A method's name, or module:Class of your own.")],
    as_json: options.Json = False,
) -> None:
    """Explain a method: its loss, its settings, and what TeKAP augments for it.

    Example: tekapctl methods show rkd
    """
    from tekapctl.distill.methods import METHODS

    method = METHODS[name]
    row = _row(name, method)
    augmented = "logits" if METHODS[row["method"]].requires.level == "logit" else "what it reads of the teacher"
    row["tekap"] = f"{augmented}: noise anew in each step, one loss more for each augmented teacher"
    row["angular"] = f"{augmented}: the mean with learned views, one loss in all"
    row["example"] = f"tekapctl distill --teacher resnet56 --student resnet20 --method {name}"
    if as_json:
        console.show_json(row)
        return
    row["uses"] = ", ".join(row["uses"])
    row["weights"] = "gamma {gamma:g}, alpha {alpha:g}, beta {beta:g}".format(**row["weights"])
    settings = {
        f"  method.{field}": f"{value} ({method.model_fields[field].description})"
        for field, value in row.pop("settings").items()
    }
    console.show_fields({field: str(value) for field, value in row.items() if value} | settings)

"""`tekapctl methods`, `models`, `presets`, `schema` and `doctor`: what there is, and what this machine can do."""

from typing import Annotated, Any

import typer

from tekapctl.cli import complete, console, listings, options
from tekapctl.cli.options import argument, option
from tekapctl.errors import UsageError
from tekapctl.registry import did_you_mean
from tekapctl.store.home import Home

_METHODS = """List the distillation methods, or explain one.

Examples:
tekapctl methods
tekapctl methods show crd
"""
_MODELS = """List the built-in networks, or show one.

Examples:
tekapctl models
tekapctl models show resnet8x4
"""
methods = typer.Typer(invoke_without_command=True, help=_METHODS)
models = typer.Typer(invoke_without_command=True, help=_MODELS)


@methods.callback(help=_METHODS)
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
        [
            {
                "method=": row["method"],
                "year>": str(row["year"]),
                "uses": ", ".join(row["uses"]),
                "γ, α, β=": "{gamma:g}, {alpha:g}, {beta:g}".format(**row["weights"]),
                "paper": row["paper"],
            }
            for row in rows
        ],
    )
    console.say("`tekapctl methods show NAME` prints the formula and the settings of a method")


@methods.command("show")
def show_method(
    name: Annotated[str, argument("NAME", "Method name, or module:Class.", complete=complete.methods)],
    as_json: options.Json = False,
) -> None:
    """Explain a method: its loss, its settings and how TeKAP augments it.

    Example: tekapctl methods show rkd
    """
    row = next((row for row in listings.methods() if row["method"] == name), None)
    if row is None:
        from tekapctl.distillation.methods import METHODS

        row = listings.method_row(name, METHODS[name])
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
    row["uses"] = ", ".join(row["uses"])
    row["weights"] = "gamma {gamma:g}, alpha {alpha:g}, beta {beta:g}".format(**row["weights"])
    console.show_fields({field: str(value) for field, value in row.items() if value} | settings)


@models.callback(help=_MODELS)
def list_models(
    context: typer.Context,
    classes: Annotated[int, option("--classes N", "Number of classes.", min=1, max=1000000)] = 100,
    size: Annotated[int, option("--size PX", "Image size in pixels.", min=8, max=1024)] = 32,
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
        [
            {
                "network=": row["network"],
                "parameters>": f"{row['parameters']:,}",
                "MACs>": f"{row['macs']:,}",
                "lr>": f"{row['learning_rate']:g}",
                "pretrained": f"{found['dataset']}, {console.percent(found['top1'])} %"
                if (found := row["pretrained"])
                else "",
            }
            for row in rows
        ],
    )


@models.command("show")
def show_model(
    name: Annotated[str, argument("NAME", "Name of a network.", complete=complete.models)],
    as_json: options.Json = False,
) -> None:
    """Show the size of a network and the shapes of its feature maps.

    Example: tekapctl models show vgg8
    """
    import torch

    from tekapctl.models import build

    row = listings.model_row(name, 100, 32)
    with torch.no_grad():
        found = build(name, 100).eval().knowledge(torch.zeros(1, 3, 32, 32))
    row["feature_maps"] = [list(each.shape[1:]) for each in found.feature_maps]
    row["embedding"] = found.embedding.shape[1]
    if as_json:
        console.show_json(row)
    else:
        console.show_fields({field: str(value) for field, value in row.items() if value is not None})


_PRESET_TABLES = {
    "last": "Published test accuracy of the last epoch",
    "best": "Published test accuracy of the best epoch on the test set",
    "not stated": "Published test accuracy, last or best epoch not stated",
    None: "Published settings without an accuracy",
}
"""One table for each kind of number: they do not compare."""


def presets(
    prefix: Annotated[
        str | None,
        argument(
            "[PREFIX]", "Show only names that begin with this, e.g. dkd or imagenet/kd.", complete=complete.presets
        ),
    ] = None,
    defaults: Annotated[bool, option("--defaults", "List the presets without published numbers instead.")] = False,
    as_json: options.Json = False,
) -> None:
    """List the published experiments and their accuracies.

    Examples:
    tekapctl presets tekap-fl
    tekapctl presets imagenet/kd
    tekapctl distill --preset kd/resnet32x4-resnet8x4
    """
    rows = listings.presets() if prefix is None else _presets_named(prefix)
    if as_json:
        console.show_json(rows)
        return
    rest = [row for row in rows if not row["published"]]
    if defaults:
        console.show_table("Nothing published: the method's defaults", [{"preset": row["preset"]} for row in rest])
        return
    for epoch, title in _PRESET_TABLES.items():
        console.show_table(
            title,
            [
                {
                    "preset=": row["preset"],
                    "top-1 %>": console.percent(row["published_top1"]),
                    "--preset": "" if row["spec"] else "no",
                }
                for row in rows
                if row["published"] and row["epoch"] == epoch
            ],
        )
    if any(row["spec"] is None for row in rows):
        console.say("no: only the accuracy is published, or a network is not available; --preset refuses it")
    if rest:
        console.say(f"{len(rest)} more presets have no published numbers; --defaults lists them")
    console.say("names without imagenet/ are for CIFAR-100; --json has the sources and the settings")


def _presets_named(prefix: str) -> listings.Rows:
    rows = listings.presets()
    for start in (f"{prefix.rstrip('/')}/", prefix):
        if found := [row for row in rows if row["preset"].startswith(start)]:
            return found
    names = [row["preset"] for row in rows]
    groups = dict.fromkeys(name.rpartition("/")[0] for name in names)
    remedy = f"{did_you_mean(prefix, [*groups, *names])} `tekapctl presets` lists them all.".lstrip()
    raise UsageError(f"No preset's name begins with {prefix!r}.", remedy)


def schema() -> None:
    """Print the JSON Schema of run specs, for completion in an editor.

    Example: tekapctl schema > tekapctl.schema.json
    """
    console.show_json(listings.schema())


def doctor(as_json: options.Json = False) -> None:
    """Check the installation and hardware, and point out what will be slow.

    Example: tekapctl doctor
    """
    from tekapctl.commands.doctor import examine

    found: dict[str, Any] = examine(Home.default())
    if as_json:
        console.show_json(found)
        return
    fields = {name: str(version) for name, version in found["versions"].items()}
    for device in found["devices"]:
        words = [device["description"].removeprefix(f"{device['name']} ")]
        if "cores" in device:
            words.append(f"{device['cores']} cores, {device['threads']} threads")
        if device["memory_bytes"] is not None:
            words.append(console.format_bytes(device["memory_bytes"]))
        fields[device["name"]] = f"{', '.join(words)}; --precision auto uses {device['precision']}"
    home = found["home"]
    cached = ", ".join(f"{kind} {console.format_bytes(count)}" for kind, count in home["cached"].items())
    ready = ", ".join(name for name, is_ready in found["datasets"].items() if is_ready)
    missing = ", ".join(name for name, is_ready in found["datasets"].items() if not is_ready)
    fields |= {
        "C++ compiler": found["compiler"] or "none",
        "home": f"{home['path']}, {console.format_bytes(home['free_bytes'])} free",
        "cached": cached or "nothing",
        "datasets": ready + (f"; not downloaded: {missing}" if missing else ""),
        "extras": ", ".join(f"{name} {version or 'not installed'}" for name, version in found["extras"].items()),
    }
    console.show_fields(fields)
    for warning in found["warnings"]:
        console.say(warning)

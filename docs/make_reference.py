"""Writes docs/reference.md from the program itself: `python docs/make_reference.py`."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tekapctl.cli.app import app
from tekapctl.cli.help import split_help
from tekapctl.data import DATASETS
from tekapctl.data.augment.augmentation import AUGMENTATIONS
from tekapctl.distillation.methods import METHODS
from tekapctl.experiments.studies import STUDIES
from tekapctl.optim import OPTIMIZERS
from tekapctl.optim.schedules import SCHEDULES
from tekapctl.spec import StudentSpec, TeacherSpec
from tekapctl.spec.run import CHOICES

PAGE = Path(__file__).parent / "reference.md"


def commands() -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    context = typer.Context(group, info_name="tekapctl")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command.hidden:
            continue
        named = getattr(command, "commands", {})
        inner = {f"{name} {own}": each for own, each in named.items() if not each.hidden}
        for full, each in (inner or {name: command}).items():
            yield from one_command(full, each)


def one_command(name: str, command: Any) -> Iterator[str]:
    yield f"\n### tekapctl {name}\n"
    description, examples = split_help(command.help or "")
    for paragraph in description.split("\n\n"):
        yield re.sub(r"\s+", " ", paragraph) + "\n"
    if examples:
        yield "\n".join(f"    {line}" for line in examples) + "\n"
    rows = []
    for parameter in command.params:
        if parameter.name == "help":
            continue
        names = ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.name.upper()}`"
        default = parameter.default
        shown = "" if default in (None, False, ()) or callable(default) else f" Default: {plain(default)}."
        text = re.sub(r" \[default: (.*)\]$", r" Default: \1.", getattr(parameter, "help", "") or "")
        rows.append(f"| {names} | {cell(text)}{shown} |")
    if rows:
        yield "| option | meaning |\n| --- | --- |\n" + "\n".join(rows) + "\n"


def fields(model: type[BaseModel], path: str = "", seen: frozenset[str] = frozenset()) -> Iterator[str]:
    for name, field in model.model_fields.items():
        full = f"{path}{name}"
        if full in seen:
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, BaseModel) and full not in CHOICES:
            yield from fields(type(default), f"{full}.")
            continue
        shown = "required" if default is PydanticUndefined else "" if default is None else plain(default)
        if isinstance(default, BaseModel):
            shown = plain(getattr(default, "name", ""))
        kind = "table, see below" if full in CHOICES else type_of(field.annotation)
        yield f"| `{full}` | {kind} | {shown} | {cell(field.description or '')} |"


def type_of(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_of(inner[0])
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(type_of(each) for each in inner if each is not type(None)))
    if origin in (tuple, list):
        return f"list of {type_of(inner[0])}"
    is_table = (
        origin is dict or annotation is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel))
    )
    return "table" if is_table else cell(getattr(annotation, "__name__", str(annotation)))


def plain(value: object) -> str:
    return cell(f"`{str(value).lower() if isinstance(value, bool) else value}`")


def cell(text: str) -> str:
    return text.replace("|", "\\|")


HEAD = "| field | type | default | meaning |\n| --- | --- | --- | --- |"


def page() -> str:
    parts = ["# Reference\n", "Made from the program by `python docs/make_reference.py`.\n"]
    parts += ["## Commands\n", *commands()]
    parts += ["\n## The spec\n", "Fields are set by options, by `--set FIELD=VALUE`, or in a file (`--spec FILE`)."]
    for title, model in (("A student's run", StudentSpec), ("A run without a teacher", TeacherSpec)):
        parts += [f"\n### {title}\n", HEAD, *fields(model)]
    shared = frozenset({"name", "folder", "train_fraction", "val_fraction", "augment"})
    parts += [
        "\n### Datasets (`data`)\n",
        "All have `folder`, `train_fraction`, `val_fraction` and `augment` too.\n",
        HEAD,
    ]
    for name in sorted(DATASETS):
        parts += [row.replace("| `", f"| {name}: `", 1) for row in fields(DATASETS[name], seen=shared)]
    for title, registry in (
        ("Augmentations (`data.augment`)", AUGMENTATIONS),
        ("Methods (`method`)", METHODS),
        ("Optimizers (`optimizer`)", OPTIMIZERS),
        ("Schedules (`schedule`)", SCHEDULES),
    ):
        parts += [f"\n### {title}\n", HEAD]
        for name in sorted(registry):
            rows = list(fields(registry[name], seen=frozenset({"name"})))
            parts += [row.replace("| `", f"| {name}: `", 1) for row in rows] or [f"| {name} |  |  |  |"]
    parts += ["\n### Studies (`tekapctl study NAME --set study.SETTING=VALUE`)\n", HEAD]
    for name in sorted(STUDIES):
        parts += [row.replace("| `", f"| {name}: `", 1) for row in fields(STUDIES[name])]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).strip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""Options that commands share, and how they become a spec: a file, then options, then `--set`."""

import os
import sys
import tomllib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from tekapctl.cli import console
from tekapctl.cli.console import say
from tekapctl.errors import UsageError

if TYPE_CHECKING:
    from tekapctl.spec import StudentSpec, TeacherSpec

Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable result on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the complete spec and a cost estimate; train nothing.")]
SpecFile = Annotated[Path | None, typer.Option("--spec", help="Start from this TOML or JSON file.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Set any field of the spec; may be repeated.")
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="A data set that `tekapctl fetch --list` lists, folder:PATH, hf:NAME or module:Class. (default: cifar100)",
    ),
]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="Compile the networks first. (default: no-compile)")
]
CheckpointMinutes = Annotated[
    float | None,
    typer.Option("--checkpoint-minutes", help="Minutes between checkpoints within an epoch. (default: 10)"),
]
DataDir = Annotated[str | None, typer.Option("--data-dir", help="A folder that holds the data set's files.")]
TrainFraction = Annotated[
    float | None,
    typer.Option("--train-fraction", help="Share of each class's training images, drawn by seed. (default: 1.0)"),
]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the training set. (default: 240)")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Images a step. (default: 64)")]
LearningRate = Annotated[
    float | None, typer.Option("--lr", help="Learning rate before the first decay. (default: published)")
]
Seed = Annotated[int | None, typer.Option("--seed", "--trial", help="Seed of every random choice. (default: 0)")]
ELSEWHERE = ": of the zoo, torchvision:NAME, timm:NAME or module:factory."
ModelArguments = Annotated[
    list[str] | None,
    typer.Option("--model-arg", metavar="KEY=VALUE", help="Give this to a network from elsewhere; may be repeated."),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N. (default: auto)")]
Precision = Annotated[str | None, typer.Option("--precision", help="auto, float32, tf32 or bfloat16. (default: auto)")]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track", help="Let tensorboard, wandb or mlflow follow the run too; may be repeated. (default: none)"
    ),
]
FinishedRuns = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN]...", help="Finished runs: ids, unique prefixes or latest.")
]
RunsNamed = Annotated[str | None, typer.Option("--name", help="All finished runs that were given this --name.")]
EveryRun = Annotated[bool, typer.Option("--all", help="All finished runs.")]
Baseline = Annotated[
    str | None,
    typer.Option("--baseline", help="A group or a run to compare with. (default: training alone, or the first)"),
]
Name = Annotated[str | None, typer.Option("--name", help="A word of your own in the run's id.")]


def assign(table: dict[str, Any], path: str, value: Any) -> None:
    """Set a field of a nested table by its dotted path; a name on the way becomes a table with that name.

    Raises:
        UsageError: A part of the path is no table.
    """
    *parents, last = path.split(".")
    for depth, part in enumerate(parents):
        inner = table.setdefault(part, {})
        if isinstance(inner, str) and part in ("data", "method"):
            inner = table[part] = {"name": inner}
        if not isinstance(inner, dict):
            raise UsageError(
                f"{'.'.join(parents[: depth + 1])} has no fields to set.", "`tekapctl schema` lists fields."
            )
        table = inner
    table[last] = value


def read_assignment(text: str, option: str = "--set") -> tuple[str, Any]:
    """The path and the value of `a.b=c`; the value is read as TOML, and as a plain string where it is none.

    Raises:
        UsageError: There is no path or no `=`.
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path or not all(path.split(".")):
        example = "optimizer.momentum=0.8" if option == "--set" else "width=2"
        raise UsageError(f"{option} {text!r} is no assignment.", f"Write it as {option} {example}.")
    if "\n" in text:
        raise UsageError(f"{option} {text!r} has several lines.", f"Give {option} once for each field.")
    try:
        return path, tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):  # no TOML, or a number of too many digits
        return path, value.strip()


def named_values(texts: list[str] | None, option: str) -> dict[str, Any]:
    """The values of `KEY=VALUE` texts.

    Raises:
        UsageError: One has no `=`.
    """
    return dict(read_assignment(text, option) for text in texts or [])


def build_spec(
    kind: str,
    file: Path | None,
    options: dict[str, Any],
    assignments: list[str] | None,
    preset: dict[str, Any] | None = None,
) -> "TeacherSpec | StudentSpec":
    """The spec of a run: the file's fields, over them the options that were given, over them the assignments.

    Args:
        kind: `teacher` or `student`.
        file: The spec file to start from, if any.
        options: Values by dotted path; those that are None were not given.
        assignments: Texts like `a.b=c`.
        preset: The fields of a published experiment to start from, in place of a file.

    Raises:
        UsageError: The file, an assignment or the spec is not valid, or the file is a spec of the other kind.
    """
    from tekapctl import spec as specs

    if preset is not None and file is not None:
        raise UsageError("--preset and --spec both are where to start from.", "Give one of them.")
    table = specs.read_file(file) if file else preset if preset else {}
    if table.setdefault("kind", kind) != kind:
        command = "train-teacher" if kind == "student" else "distill"
        raise UsageError(f"{file} is a spec of kind {table['kind']!r}.", f"Use it with `tekapctl {command}`.")
    for choice in ("data", "method"):
        # Another data set or method than the file's starts from its own defaults.
        chosen, given = options.pop(f"{choice}.name", None), table.get(choice)
        if chosen is not None and (given.get("name") if isinstance(given, dict) else given) != chosen:
            table[choice] = {"name": chosen}
    for path, value in options.items():
        if value is not None:
            if path.startswith("data."):
                table.setdefault("data", {"name": "cifar100"})
            assign(table, path, value)
    for text in assignments or []:
        path, value = read_assignment(text)
        if path.startswith("data."):
            table.setdefault("data", {"name": "cifar100"})
        if path.startswith("method."):
            table.setdefault("method", {"name": "kd"})
        assign(table, path, value)
    return specs.parse(table)


class WarningCommand(TyperCommand):
    """Warns of an option that is given twice, as an alias and its user may do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line; of an option that cannot be repeated the last value counts."""
        given = args[: args.index("--")] if "--" in args else args
        for option in self.params:
            if not isinstance(option, TyperOption) or option.multiple or option.is_flag or option.count:
                continue
            found = [arg for arg in given if arg.partition("=")[0] in option.opts]
            if len(found) > 1:
                say(f"{option.opts[0]} is given {len(found)} times: the last one counts")
        return super().parse_args(ctx, args)


def warn_of_repeated_options(app: Any) -> None:
    """Let all commands of an app, and of the apps in it, say if an option is given twice."""
    for command in app.registered_commands:
        if command.cls in (None, TyperCommand):
            command.cls = WarningCommand
    for group in app.registered_groups:
        warn_of_repeated_options(group.typer_instance)


_BY_SIGNAL = 128
"""Exit codes above it are 128 and a signal's number."""
Processes = Annotated[
    int,
    typer.Option("--nproc", min=1, max=1024, help="Train with so many processes on this machine, a GPU each if any."),
]


def is_main() -> bool:
    """Whether this process is the one that shows what comes of a command."""
    return os.environ.get("RANK", "0") == "0"


def divide(processes: int) -> None:
    """Carry out this very command as several processes, and end; go on if there is to be one, or this is one of them.

    Args:
        processes: How many.
    """
    from tekapctl.distributed.communicator import check_environment, was_launched

    if (ignored := check_environment()) is not None:
        console.say(f"{ignored} in the environment is ignored: this run was not started as one of several processes")
    if processes == 1 or was_launched():
        return
    from tekapctl.distributed.launch import launch

    code = launch(sys.argv[1:], processes)
    if code > _BY_SIGNAL:
        # The first process says so too, unless it was killed because another did not answer.
        console.say(f"stopped; `tekapctl resume latest --nproc {processes}` goes on from the last checkpoint")
    raise typer.Exit(code)


def progress(label: str) -> AbstractContextManager[Any]:
    """Who is told how a run goes on."""
    if is_main():
        return console.TrainingProgress(label)
    from tekapctl.train.callbacks import NullCallback

    return nullcontext(NullCallback())

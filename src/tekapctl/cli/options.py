"""Shared options, and how they become a spec: first a file, then options, then `--set`."""

import os
import sys
import tomllib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tekapctl.cli import complete, console
from tekapctl.errors import UsageError

if TYPE_CHECKING:
    from tekapctl.spec import StudentSpec, TeacherSpec

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.", rich_help_panel="Output")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the full spec and a cost estimate without training.", rich_help_panel="Output"
    ),
]
SpecFile = Annotated[
    Path | None,
    typer.Option(
        "--spec", metavar="FILE", help="Read the spec from a TOML or JSON file.", rich_help_panel="Configuration"
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a field of the spec, e.g. optimizer.momentum=0.8. Repeatable.",
        rich_help_panel="Configuration",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        "-d",
        metavar="NAME",
        help="Dataset name, folder:PATH, hf:NAME or module:Class. `tekapctl fetch --list` lists the names. "
        "[default: cifar100]",
        rich_help_panel="Data",
        autocompletion=complete.datasets,
    ),
]
TrainedDataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        "-d",
        metavar="NAME",
        help="Dataset to use. [default: the training dataset]",
        rich_help_panel="Data",
        autocompletion=complete.datasets,
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option("--data-dir", metavar="DIR", help="Folder with the dataset files.", rich_help_panel="Data"),
]
TrainFraction = Annotated[
    float | None,
    typer.Option(
        "--train-fraction",
        metavar="FRACTION",
        help="Train on a random fraction (0-1) of each class. [default: 1.0]",
        rich_help_panel="Data",
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile", help="Use torch.compile. [default: no-compile]", rich_help_panel="Execution"
    ),
]
CheckpointMinutes = Annotated[
    float | None,
    typer.Option(
        "--checkpoint-minutes",
        metavar="MINUTES",
        help="Interval between checkpoints within an epoch. [default: 10]",
        rich_help_panel="Run",
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", metavar="N", help="Training epochs. [default: 240]", rich_help_panel="Optimization"),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", help="Batch size. [default: 64]", rich_help_panel="Optimization"),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        metavar="LR",
        help="Initial learning rate. [default: as published for the network]",
        rich_help_panel="Optimization",
    ),
]
WeightDecay = Annotated[
    float | None,
    typer.Option(
        "--weight-decay", metavar="WD", help="Weight decay. [default: 0.0005]", rich_help_panel="Optimization"
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Random seed. [default: 0]", rich_help_panel="Run")
]
EXTERNAL = "`tekapctl models` lists the built-in ones; or torchvision:NAME, timm:NAME, module:function."
ModelArguments = Annotated[
    list[str] | None,
    typer.Option(
        "--model-arg",
        metavar="KEY=VALUE",
        help="Keyword argument for an external network. Repeatable.",
        rich_help_panel="Networks",
    ),
]
CheckpointModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="Architecture of a checkpoint file that does not name it.",
        rich_help_panel="Networks",
        autocompletion=complete.models,
    ),
]
Best = Annotated[
    bool,
    typer.Option("--best", help="Use the weights of the best epoch instead of the last.", rich_help_panel="Networks"),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:N or mps. [default: auto]",
        rich_help_panel="Execution",
        autocompletion=complete.devices,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="PRECISION",
        help="auto, float32, tf32 or bfloat16. [default: auto]",
        rich_help_panel="Execution",
        autocompletion=complete.precisions,
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="TRACKER",
        help="Also log to tensorboard, wandb or mlflow. Repeatable.",
        rich_help_panel="Run",
        autocompletion=complete.trackers,
    ),
]
RUN_HELP = "Run ID, unique prefix or suffix, or `latest`."
MODEL_HELP = "Run (ID, unique prefix or suffix, or `latest`), checkpoint file, or pretrained network."
RunReference = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP, autocompletion=complete.runs)]
FinishedRuns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...",
        help="Finished runs: IDs, unique prefixes or suffixes, or `latest`.",
        autocompletion=complete.runs,
    ),
]
RunsNamed = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Include all finished runs with this --name.")
]
EveryRun = Annotated[bool, typer.Option("--all", help="Include all finished runs.")]
Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="LABEL",
        help="Group or run to compare with. [default: training without a teacher, else the first group]",
    ),
]
Name = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Name that becomes part of the run ID.", rich_help_panel="Run"),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write an HTML report.", rich_help_panel="Output"),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.", rich_help_panel="Output")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


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
        raise UsageError(f"{option} {text!r} is not an assignment.", f"Write it as {option} {example}.")
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
        raise UsageError("--preset and --spec cannot be combined.", "Give one of them.")
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


_BY_SIGNAL = 128
"""Exit codes above it are 128 and a signal's number."""
Processes = Annotated[
    int,
    typer.Option(
        "--nproc",
        metavar="N",
        min=1,
        max=1024,
        help="Data-parallel processes on this machine, one GPU each.",
        rich_help_panel="Execution",
    ),
]


def is_main() -> bool:
    """Whether this process is the one that prints results."""
    return os.environ.get("RANK", "0") == "0"


def divide(processes: int) -> None:
    """Run this command as several processes and exit; return if one is enough or this is one of them.

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
        console.say(f"stopped; `tekapctl resume latest --nproc {processes}` continues from the last checkpoint")
    raise typer.Exit(code)


def progress(label: str) -> AbstractContextManager[Any]:
    """The callback that shows the progress of a run."""
    if is_main():
        return console.TrainingProgress(label)
    from tekapctl.train.callbacks import NullCallback

    return nullcontext(NullCallback())

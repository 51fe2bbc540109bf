"""Options that several commands share, and running a command as several processes."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from tekapctl.cli import complete, console
from tekapctl.cli.spec_options import option

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.", rich_help_panel="Output")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the full spec and a cost estimate without training.", rich_help_panel="Output"
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
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write an HTML report.", rich_help_panel="Output"),
]
ModelArguments = Annotated[list[str] | None, option("--model-arg")]
DataDir = Annotated[str | None, option("--data-dir")]
Device = Annotated[str | None, option("--device")]
Track = Annotated[list[str] | None, option("--track")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.", rich_help_panel="Output")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


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

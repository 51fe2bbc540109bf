"""Options that several commands share, besides those that set fields of a spec."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tekapctl.cli import complete
from tekapctl.cli.complete import Completer
from tekapctl.cli.spec_options import spec_option, split_usage


def option(usage: str, text: str, panel: str | None = None, *, complete: Completer | None = None, **more: Any) -> Any:
    """An option of a command; `usage` has its flags and value as on the help page: `-o --output FILE`."""
    flags, metavar = split_usage(usage)
    return typer.Option(*flags, metavar=metavar, help=text, rich_help_panel=panel, autocompletion=complete, **more)


def argument(metavar: str, text: str, complete: Completer | None = None) -> Any:
    """An argument of a command."""
    return typer.Argument(metavar=metavar, help=text, autocompletion=complete)


Json = Annotated[bool, option("--json", "Print the result as JSON on stdout.", "Output")]
TrainedDataset = Annotated[
    str | None,
    option("-d --dataset NAME", "Dataset to use. [default: the training dataset]", "Data", complete=complete.datasets),
]
CheckpointModel = Annotated[
    str | None,
    option(
        "-m --model NAME",
        "Architecture of a checkpoint file that does not name it.",
        "Networks",
        complete=complete.models,
    ),
]
Best = Annotated[bool, option("--best", "Use the weights of the best epoch instead of the last.", "Networks")]
Precision = Annotated[
    str,
    option("--precision PRECISION", "auto, float32, tf32 or bfloat16.", "Execution", complete=complete.precisions),
]
RUN_HELP = "Run ID, unique prefix or suffix, or `latest`."
MODEL_HELP = "Run (ID, unique prefix or suffix, or `latest`), checkpoint file, or pretrained network."
RunReference = Annotated[str, argument("RUN", RUN_HELP, complete=complete.runs)]
FinishedRuns = Annotated[
    list[str] | None,
    argument("[RUN]...", "Finished runs: IDs, unique prefixes or suffixes, or `latest`.", complete=complete.runs),
]
RunsNamed = Annotated[
    list[str] | None, option("--name NAME", "Include all finished runs with this --name. Repeatable.")
]
EveryRun = Annotated[bool, option("--all", "Include all finished runs.")]
Baseline = Annotated[
    str | None,
    option(
        "--baseline LABEL", "Group or run to compare with. [default: training without a teacher, else the first group]"
    ),
]
Output = Annotated[Path | None, option("-o --output FILE", "Write an HTML report.", "Output")]
ModelArguments = Annotated[list[str] | None, spec_option("--model-arg")]
DataDir = Annotated[str | None, spec_option("--data-dir")]
Device = Annotated[str | None, spec_option("--device")]
Track = Annotated[list[str] | None, spec_option("--track")]
Force = Annotated[bool, option("--force", "Overwrite existing files.", "Output")]
Yes = Annotated[bool, option("-y --yes", "Do not ask for confirmation.")]


def is_main() -> bool:
    """Whether this process is the one that prints results."""
    return os.environ.get("RANK", "0") == "0"

"""`--nproc`: a command as several processes."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

import typer

from tekapctl.cli import console

_BY_SIGNAL = 128
"""Exit codes above it are 128 and a signal's number."""
Processes = Annotated[
    int,
    typer.Option("--nproc", min=1, max=1024, help="Train with so many processes on this machine, a GPU each if any."),
]


def leads() -> bool:
    """Whether this process is the one that shows what comes of a command."""
    return os.environ.get("RANK", "0") == "0"


def divide(processes: int) -> None:
    """Carry out this very command as several processes, and end; go on if there is to be one, or this is one of them.

    Args:
        processes: How many.
    """
    from tekapctl.parallel.team import check_environment, was_launched

    if (ignored := check_environment()) is not None:
        console.say(f"{ignored} in the environment is ignored: this run was not started as one of several processes")
    if processes == 1 or was_launched():
        return
    from tekapctl.parallel.launch import launch

    code = launch(sys.argv[1:], processes)
    if code > _BY_SIGNAL:
        # The first process says so too, unless it was killed because another did not answer.
        console.say(f"stopped; `tekapctl resume latest --nproc {processes}` goes on from the last checkpoint")
    raise typer.Exit(code)


def progress(label: str) -> AbstractContextManager[Any]:
    """Who is told how a run goes on."""
    if leads():
        return console.TrainingProgress(label)
    from tekapctl.engine.telling import Unheard

    return nullcontext(Unheard())

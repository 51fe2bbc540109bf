"""`tekapctl watch`."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from tekapctl.cli import console, options
from tekapctl.errors import TekapctlError, UsageError

if TYPE_CHECKING:
    from tekapctl.commands.runs import Progress


def watch(
    reference: options.RunReference = "latest",
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, max=3600, help="Seconds between updates.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show the current state and exit.")] = False,
    as_json: options.Json = False,
) -> None:
    """Follow a run in another terminal until it ends. Exits with 0 if it finished, else with 1.

    Example: tekapctl watch
    """
    from tekapctl.commands.runs import progress_of
    from tekapctl.store.home import Home
    from tekapctl.store.runs import Runs

    if as_json and not once:
        raise UsageError("--json prints a single result.", "Add --once.")
    run = Runs(Home.default().runs).find(reference)
    if once:
        state = progress_of(run)
        if as_json:
            console.show_json(state.to_dict())
        else:
            console.show_watched(state.to_dict())
        return
    try:
        with console.WatchDisplay() as show:
            while True:
                state = progress_of(run)
                show(state.to_dict())
                if state.status != "running":
                    break
                time.sleep(interval)
    except KeyboardInterrupt:
        console.say("Stopped watching; the run continues.")
        raise typer.Exit(130) from None
    _conclude(state)


def _conclude(state: "Progress") -> None:
    """Say how the run ended.

    Raises:
        TekapctlError: It did not finish.
    """
    if state.status == "finished":
        top1 = console.percent(state.metrics[-1]["test_top1"]) if state.metrics else "unknown"
        console.say(f"finished: top-1 {top1} % after the last epoch; `tekapctl evaluate {state.run}` shows more")
        return
    if state.status == "failed":
        problem = f"The run {state.run} failed: {(state.error or 'unknown reason').rstrip('.')}."
        raise TekapctlError(problem, f"Fix the cause, then continue with `tekapctl resume {state.run}`.")
    where = f"after epoch {state.epoch}" + (f" of {state.epochs}" if state.epochs else "")
    raise TekapctlError(
        f"The run {state.run} was interrupted {where}.", f"Continue with `tekapctl resume {state.run}`."
    )

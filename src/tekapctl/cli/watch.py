"""`tekapctl watch`."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from tekapctl.cli import console, options
from tekapctl.cli.options import option
from tekapctl.cli.progress import epoch_line
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.home import Home
from tekapctl.store.metrics import split_of, top1_of

if TYPE_CHECKING:
    from tekapctl.commands.runs import Progress


def watch(
    reference: options.RunReference = "latest",
    interval: Annotated[float, option("--interval SECONDS", "Seconds between updates.", min=0.1, max=3600)] = 2.0,
    once: Annotated[bool, option("--once", "Show the current state and exit.")] = False,
    as_json: options.Json = False,
) -> None:
    """Follow a run in another terminal until it ends. Exits with 0 if the run finished, else with 1.

    Example: tekapctl watch
    """
    from tekapctl.commands.runs import progress_of
    from tekapctl.store.runs import Runs

    if as_json and not once:
        raise UsageError("--json prints a single result.", "Add --once.")
    run = Runs(Home.default().runs).find(reference)
    state = progress_of(run)
    if as_json:
        console.show_json(state.to_dict())
    elif once:
        show_once(state.to_dict())
    if once:
        return
    try:
        with following() as show:
            show(state.to_dict())
            while state.status == "running":
                time.sleep(interval)
                state = progress_of(run)
                show(state.to_dict())
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
        top1 = console.percent(top1_of(state.metrics[-1])) if state.metrics else "unknown"
        where = "validation " if state.metrics and split_of(state.metrics[-1]) == "val" else ""
        console.say(f"finished: {where}top-1 {top1} % after the last epoch; `tekapctl evaluate {state.run}` shows more")
        return
    if state.status == "failed":
        problem = f"The run {state.run} failed: {(state.error or 'unknown reason').rstrip('.')}."
        raise TekapctlError(problem, f"Fix the cause, then continue with `tekapctl resume {state.run}`.")
    where = f"after epoch {state.epoch}" + (f" of {state.epochs}" if state.epochs else "")
    raise TekapctlError(
        f"The run {state.run} was interrupted {where}.", f"Continue with `tekapctl resume {state.run}`."
    )


State = Mapping[str, Any]


@contextmanager
def following() -> Iterator[Callable[[State], None]]:
    """Shows a run of another process on stdout: live on a terminal, else a line per epoch."""
    if sys.stdout.isatty():
        with Live(console=console.stdout, auto_refresh=False) as live:
            yield lambda state: live.update(_display(state), refresh=True)
        return
    shown: int | None = None

    def show(state: State) -> None:
        nonlocal shown
        if shown is None:
            shown = state["epoch"]
            console.show_text(_position(state))
        for metrics in state["metrics"]:
            if metrics["epoch"] > shown:
                is_last = metrics["epoch"] == state["epoch"]
                console.show_text(epoch_line(metrics, state["epochs"], state["seconds_left"] if is_last else None))
        shown = state["epoch"]
        sys.stdout.flush()

    yield show


def show_once(state: State) -> None:
    """A run's state, on stdout."""
    (console.stdout if sys.stdout.isatty() else Console(highlight=False, width=160)).print(_display(state))


def _display(state: State) -> Group:
    fields = Table.grid(padding=(0, 2))
    fields.add_row("run", escape(console.printable(state["run"])))
    fields.add_row("status", escape(console.printable(_position(state))))
    if state["seconds_left"] is not None:
        fields.add_row("left", f"about {console.duration(state['seconds_left'])}")
    if state["best_epoch"] is not None:
        fields.add_row("best", f"top-1 {console.percent(state['best_top1'])} % in epoch {state['best_epoch']}")
    if state["epochs"]:
        done = state["epoch"] + (state["step"] / state["steps"] if state["steps"] else 0)
        fields.add_row("", ProgressBar(total=state["epochs"], completed=done, width=50))
    shown: list[RenderableType] = [fields]
    if state["metrics"]:
        rows = [
            {
                "epoch>": str(metrics["epoch"]),
                "loss>": f"{metrics['train_loss']:.4f}",
                "train %>": console.percent(metrics.get("train_top1")),
                "test %>": console.percent(metrics["test_top1"]),
                "images/s>": f"{metrics['images_per_second']:,.0f}",
                "time>": console.duration(metrics["train_seconds"] + metrics["test_seconds"]),
            }
            for metrics in state["metrics"][-8:]
        ]
        shown += ["", console.table_of(rows), "", escape(epoch_line(state["metrics"][-1], state["epochs"]))]
    return Group(*shown)


def _position(state: State) -> str:
    """How far a run is, as `running, 3 of 20 epochs done, step 17 of 41 of the next`."""
    of = f" of {state['epochs']}" if state["epochs"] else ""
    steps = f", step {state['step']:,} of {state['steps']:,} of the next" if state["step"] else ""
    return f"{state['status']}, {state['epoch']}{of} epochs done{steps}"

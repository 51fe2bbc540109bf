"""Everything the program prints: results on stdout, the rest on stderr."""

import errno
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tekapctl.errors import TekapctlError
from tekapctl.logging import ROOT
from tekapctl.store.atomic import format_bytes as format_bytes
from tekapctl.store.metrics import split_of, top1_of

_stderr = Console(stderr=True, highlight=False)
_stdout = Console(highlight=False)


def printable(text: str) -> str:
    """The text with control characters escaped."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def say(text: str) -> None:
    """A line for the user, on stderr."""
    _stderr.print(escape(printable(text)), soft_wrap=True)


class LogHandler(logging.Handler):
    """Prints log records as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; a warning says that it is one."""
        say(f"warning: {record.getMessage()}" if record.levelno >= logging.WARNING else record.getMessage())


def show_error(problem: str, remedy: str, *, as_json: bool = False) -> None:
    """What is wrong and what to do, on stderr; also as JSON on stdout unless a result was printed."""
    if as_json and not _printed_json:
        show_json({"error": problem, "remedy": remedy})
    _stderr.print(f"[bold red]error:[/] {escape(printable(problem))}", soft_wrap=True)
    if remedy:
        _stderr.print(escape(printable(remedy)), soft_wrap=True)


_printed_json = False


def show_json(result: Any) -> None:
    """One machine-readable result on stdout."""
    global _printed_json
    _printed_json = True
    sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def show_text(text: str) -> None:
    """A text on stdout as it is."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, optional: Sequence[str] = ()
) -> None:
    """A table on stdout.

    Numbers are never broken over two lines; where the terminal is narrow, texts wrap and optional columns are left out.

    Args:
        title: Above the table; may be empty.
        columns: Names. `NAME>` is right-aligned and, like `NAME=`, never wrapped.
        rows: Cells.
        optional: Columns that are left out where there is no room, the least important first.
    """
    lines = [[printable(cell) for cell in row] for row in rows]
    # A table in a file or a pipe is as wide as it needs to be.
    width = _stdout.width if sys.stdout.isatty() else 10_000
    shown = list(range(len(columns)))
    hidden = []
    names = [column.rstrip(">=") for column in columns]
    for name in optional:
        if _narrowest(columns, lines, shown, text=16) <= width:
            break
        if name in names:
            shown.remove(names.index(name))
            hidden.append(name)
    table = _table(title, [columns[i] for i in shown], [[line[i] for i in shown] for line in lines])
    needed = max(_narrowest(columns, lines, shown, text=6), width)
    Console(highlight=False, width=needed).print(table, crop=False)
    if hidden:
        say(f"not shown on a narrow terminal: {', '.join(hidden)} (--json prints all)")


def _narrowest(columns: Sequence[str], lines: Sequence[Sequence[str]], shown: Sequence[int], *, text: int) -> int:
    """The width below which a table's numbers, or its texts of more than so many letters, would break."""
    total = 2 * len(shown)
    for i in shown:
        width = max(len(columns[i].rstrip(">=")), *(len(line[i]) for line in lines), 0)
        total += width if columns[i].endswith((">", "=")) else min(width, text)
    return total


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for column in columns:
        table.add_column(
            column.rstrip(">="),
            justify="right" if column.endswith(">") else "left",
            no_wrap=column.endswith((">", "=")),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    return table


def show_fields(fields: Mapping[str, str]) -> None:
    """Names and values below each other, on stdout."""
    width = max(map(len, fields))
    for name, value in fields.items():
        show_text(f"{printable(name):<{width}}  {printable(value)}")


def duration(seconds: float) -> str:
    """A human-readable time."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def percent(share: float) -> str:
    """A fraction as a percentage."""
    return f"{100 * share:.2f}"


class DownloadProgress:
    """Shows the progress of a download: a bar on a terminal, else a line.

    Args:
        name: What is fetched.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._live = Progress(*columns, console=_stderr, transient=True) if _stderr.is_terminal else None

    def __enter__(self) -> Callable[[int, int | None], None]:
        if self._live is None:
            say(f"fetching {self.name}")
            return lambda _, __: None
        self._live.start()
        self._task = self._live.add_task(f"fetching {self.name}", total=None)
        return self._report

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _report(self, have: int, total: int | None) -> None:
        if self._live is not None:
            self._live.update(self._task, completed=have, total=total)


class CountProgress:
    """Counts up to a known number: a bar on a terminal, else a line for each tenth.

    Args:
        unit: What is counted.
        label: Text before the bar.
    """

    def __init__(self, unit: str, label: str) -> None:
        self.unit = unit
        self.label = label
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._live = Progress(*columns, console=_stderr, transient=True) if _stderr.is_terminal else None
        self._tenths = 0

    def __enter__(self) -> Callable[[int, int], None]:
        if self._live is not None:
            self._live.start()
            self._task = self._live.add_task(self.label, total=None)
        return self._report

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _report(self, done: int, total: int) -> None:
        if self._live is not None:
            self._live.update(self._task, completed=done, total=total)
        elif 10 * done // total > self._tenths:
            self._tenths = 10 * done // total
            say(f"{self.label}: {done:,} of {total:,} {self.unit}")


class TrainingProgress:
    """Shows the progress of a run on stderr: a bar on a terminal, and a line per epoch.

    Args:
        label: What is trained.
        quiet: Print no line per epoch.

    Attributes:
        top1: On the test images, after the newest epoch.
    """

    def __init__(self, label: str, *, quiet: bool = False) -> None:
        self.label = escape(label)
        self.quiet = quiet
        self.top1 = 0.0
        self._live: Progress | None = None
        if _stderr.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TaskProgressColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=_stderr,
                transient=quiet,
            )
        self._shown = 0.0

    def __enter__(self) -> "TrainingProgress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def on_start(self, epochs: int, steps: int, first_epoch: int) -> None:
        """Training begins."""
        self.epochs, self.steps = epochs, steps
        if self._live is not None:
            self._task = self._live.add_task(self.label, total=epochs * steps, completed=first_epoch * steps, rate="")

    def on_step(self, epoch: int, step: int) -> None:
        """A step was queued."""
        now = time.monotonic()
        if self._live is not None and now - self._shown > 0.1:
            self._shown = now
            self._live.update(self._task, completed=epoch * self.steps + step + 1)

    def on_epoch(self, metrics: Mapping[str, float | int]) -> None:
        """An epoch ended."""
        self.top1 = top1_of(metrics)
        if self._live is not None:
            rate = f"{metrics['images_per_second']:,.0f} img/s"
            self._live.update(self._task, completed=int(metrics["epoch"]) * self.steps, rate=rate)
        if self.quiet:
            return
        left = (metrics["train_seconds"] + metrics["test_seconds"]) * (self.epochs - metrics["epoch"])
        say(epoch_line(metrics, self.epochs, left or None))


class WatchDisplay:
    """Follows a run of another process on stdout: live on a terminal, else a line per epoch."""

    def __init__(self) -> None:
        # Drawn when there is something new, and not in between.
        self._live = Live(console=_stdout, auto_refresh=False) if sys.stdout.isatty() else None
        self._shown: int | None = None

    def __enter__(self) -> Callable[[Mapping[str, Any]], None]:
        if self._live is not None:
            self._live.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _show(self, state: Mapping[str, Any]) -> None:
        if self._live is not None:
            self._live.update(_watched(state), refresh=True)
            return
        if self._shown is None:
            self._shown = state["epoch"]
            show_text(_position(state))
        for metrics in state["metrics"]:
            if metrics["epoch"] > self._shown:
                is_last = metrics["epoch"] == state["epoch"] and state["seconds_left"] is not None
                show_text(epoch_line(metrics, state["epochs"], state["seconds_left"] if is_last else None))
        self._shown = state["epoch"]
        sys.stdout.flush()


SWEEP_COLUMNS = ("", "done>", "running>", "failed>", "waiting>", "top-1 %>", "std>", "paper %>")


class SweepDisplay:
    """Shows the progress of a sweep on stderr: a live table on a terminal, else a line for each run that ends."""

    def __init__(self) -> None:
        self._live = Live(console=_stderr, auto_refresh=False, transient=True) if _stderr.is_terminal else None
        self._shown: Sequence[Sequence[str]] | None = None
        self._lines: dict[str, str] = {}

    def __enter__(self) -> "SweepDisplay":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line above the table."""
        say(text)

    def show(self, rows: Sequence[Sequence[str]], lines: Mapping[str, str], moving: Sequence[str]) -> None:
        """How it stands now.

        Args:
            rows: The table's.
            lines: A line for each run.
            moving: How far those are that are under way.
        """
        if self._live is not None:
            if (shown := [*rows, moving]) != self._shown:
                # What is finished needs no room where there is little.
                most = max(5, _stderr.height - 6 - len(moving))
                active = [row for row in rows if row[2] or row[3]] or list(rows)
                table = _table("", SWEEP_COLUMNS, rows if len(rows) <= most else active[:most])
                self._live.update(Group(table, *(Text(printable(line)) for line in moving)), refresh=True)
                self._shown = shown
            return
        if self._lines:
            done = sum(line.startswith("finished") for line in lines.values())
            for name, line in lines.items():
                if line != self._lines[name] and not line.startswith("waiting"):
                    say(f"{done} of {len(lines)} done; {line}")
        else:
            done = sum(line.startswith("finished") for line in lines.values())
            say(f"{done} of {len(lines)} done")
        self._lines = dict(lines)


def show_watched(state: Mapping[str, Any]) -> None:
    """A run's state, on stdout."""
    (_stdout if sys.stdout.isatty() else Console(highlight=False, width=160)).print(_watched(state))


def _watched(state: Mapping[str, Any]) -> Group:
    fields = Table.grid(padding=(0, 2))
    rows = {"run": state["run"], "status": _position(state)}
    if state["seconds_left"] is not None:
        rows["left"] = f"about {duration(state['seconds_left'])}"
    if state["best_epoch"] is not None:
        rows["best"] = f"top-1 {percent(state['best_top1'])} % in epoch {state['best_epoch']}"
    for name, value in rows.items():
        fields.add_row(name, escape(printable(value)))
    if state["epochs"]:
        done = state["epoch"] + (state["step"] / state["steps"] if state["steps"] else 0)
        fields.add_row("", ProgressBar(total=state["epochs"], completed=done, width=50))
    shown: list[RenderableType] = [fields]
    if state["metrics"]:
        table = Table(header_style="bold")
        for column in ("epoch", "loss", "train %", f"{split_of(state['metrics'][-1])} %", "images/s", "time"):
            table.add_column(column, justify="right")
        for metrics in state["metrics"][-8:]:
            table.add_row(*_cells(metrics))
        shown += [table, Text(epoch_line(state["metrics"][-1], state["epochs"]))]
    return Group(*shown)


def _cells(metrics: Mapping[str, float | int]) -> list[str]:
    seconds = metrics["train_seconds"] + metrics["test_seconds"]
    return [
        str(metrics["epoch"]),
        f"{metrics['train_loss']:.4f}",
        percent(metrics["train_top1"]),
        percent(top1_of(metrics)),
        f"{metrics['images_per_second']:,.0f}",
        duration(seconds),
    ]


def _position(state: Mapping[str, Any]) -> str:
    """How far a run is, as `running, 3 of 20 epochs done, step 17 of 41 of the next`."""
    of = f" of {state['epochs']}" if state["epochs"] else ""
    steps = f", step {state['step']:,} of {state['steps']:,} of the next" if state["step"] else ""
    return f"{state['status']}, {state['epoch']}{of} epochs done{steps}"


_LINE = 80
_LOSSES = {"train_cross_entropy": "ce", "train_kd": "kd", "train_method": "method", "train_init": "init"}


def epoch_line(metrics: Mapping[str, float | int], epochs: int | None, seconds_left: float | None = None) -> str:
    """An epoch's results in a line of at most 80 columns; accuracies are in percent."""
    parts = [f"{short} {metrics[name]:.3g}" for name, short in _LOSSES.items() if name in metrics]
    of_parts = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    line = (
        f"epoch {metrics['epoch']}{f'/{epochs}' if epochs else ''}: loss {metrics['train_loss']:.3g}{of_parts}, "
        f"train {percent(metrics['train_top1'])}, {split_of(metrics)} {percent(top1_of(metrics))}"
    )
    left = "" if seconds_left is None else f", {duration(seconds_left)} left"
    return line + left if len(line + left) <= _LINE else line


class Output:
    """A standard stream that drops what nobody can read any more, instead of ending the program.

    Args:
        stream: The stream.
        must_arrive: Whether anything but a reader who left is an error: a result on a full disk is lost, a line of
            progress is not missed.
    """

    def __init__(self, stream: TextIO, *, must_arrive: bool) -> None:
        self._stream = stream
        self._must_arrive = must_arrive
        self._is_lost = False

    def write(self, text: str) -> int:
        """Write a text, unless the reader is gone."""
        if not self._is_lost:
            try:
                self._stream.write(text)
            except (OSError, ValueError) as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written, unless the reader is gone."""
        if not self._is_lost:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def _lose(self, error: OSError | ValueError) -> None:
        self._is_lost = True
        with suppress(OSError, ValueError):
            # Python itself writes the rest of its buffer when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        if self._must_arrive and isinstance(error, OSError) and error.errno != errno.EPIPE:
            raise TekapctlError(
                f"The output cannot be written: {error.strerror}.", "Free space, or write it elsewhere."
            ) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def prepare() -> None:
    """Make standard output and error safe to write to, whatever the program was started with."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, so that no file of ours gets it
    for name, must_arrive in (("stdout", True), ("stderr", False)):
        stream = getattr(sys, name)
        if isinstance(stream, Output):
            continue
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - as long as the program
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Output(stream, must_arrive=must_arrive))
    ROOT.setLevel(logging.INFO)
    ROOT.handlers[:] = [LogHandler()]

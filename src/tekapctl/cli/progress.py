"""Progress on stderr: bars on a terminal, else a few lines."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tekapctl.cli import console
from tekapctl.store.metrics import split_of, top1_of


def _bar(*columns: ProgressColumn, keep: bool = False) -> Progress:
    err = console.stderr
    return Progress(
        TextColumn("{task.description}"), *columns, console=err, transient=not keep, disable=not err.is_terminal
    )


@contextmanager
def download(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Shows a download; yields a function that takes the bytes so far and in total."""
    with _bar(BarColumn(), DownloadColumn(), TransferSpeedColumn()) as bar:
        if bar.disable:
            console.say(f"fetching {name}")
        task = bar.add_task(f"fetching {escape(name)}", total=None)
        yield lambda have, total: bar.update(task, completed=have, total=total)


@contextmanager
def counting(unit: str, label: str) -> Iterator[Callable[[int, int], None]]:
    """Counts to a known number; yields a function that takes the number so far and in total."""
    tenths = 0

    def report(done: int, total: int) -> None:
        nonlocal tenths
        bar.update(task, completed=done, total=total)
        if bar.disable and 10 * done // total > tenths:
            tenths = 10 * done // total
            console.say(f"{label}: {done:,} of {total:,} {unit}")

    with _bar(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(label, total=None)
        yield report


class Training:
    """Shows a run: a bar on a terminal, and a line per epoch unless `quiet`.

    Attributes:
        top1: On the test images, after the newest epoch.
    """

    def __init__(self, label: str, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.top1 = 0.0
        rate = TextColumn("{task.fields[rate]}")
        columns = (BarColumn(bar_width=20), TaskProgressColumn(), rate, TimeRemainingColumn(), TextColumn("left"))
        self._bar = _bar(*columns, keep=not quiet)
        self._label = escape(label)
        self._shown = 0.0

    def __enter__(self) -> "Training":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_start(self, epochs: int, steps: int, first_epoch: int) -> None:
        """Training begins."""
        self.epochs, self.steps = epochs, steps
        self._task = self._bar.add_task(self._label, total=epochs * steps, completed=first_epoch * steps, rate="")

    def on_step(self, epoch: int, step: int) -> None:
        """A step was queued."""
        if not self._bar.disable and time.monotonic() - self._shown > 0.1:
            self._shown = time.monotonic()
            self._bar.update(self._task, completed=epoch * self.steps + step + 1)

    def on_epoch(self, metrics: Mapping[str, float | int]) -> None:
        """An epoch ended."""
        self.top1 = top1_of(metrics)
        rate = f"{metrics['images_per_second']:,.0f} img/s"
        self._bar.update(self._task, completed=int(metrics["epoch"]) * self.steps, rate=rate)
        if not self.quiet:
            left = (metrics["train_seconds"] + metrics["test_seconds"]) * (self.epochs - metrics["epoch"])
            console.say(epoch_line(metrics, self.epochs, left or None))


_LINE = 80
_LOSSES = {"train_cross_entropy": "ce", "train_kd": "kd", "train_method": "method", "train_init": "init"}


def _training(metrics: Mapping[str, float | int]) -> str:
    """The accuracy on training images; nothing where none has a label."""
    return f"train {console.percent(metrics['train_top1'])}, " if "train_top1" in metrics else ""


def epoch_line(metrics: Mapping[str, float | int], epochs: int | None, seconds_left: float | None = None) -> str:
    """An epoch's results in a line of at most 80 columns; accuracies are in percent."""
    parts = [f"{short} {metrics[name]:.3g}" for name, short in _LOSSES.items() if name in metrics]
    of_parts = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    line = (
        f"epoch {metrics['epoch']}{f'/{epochs}' if epochs else ''}: loss {metrics['train_loss']:.3g}{of_parts}, "
        f"{_training(metrics)}{split_of(metrics)} {console.percent(top1_of(metrics))}"
    )
    if "raw_top1" in metrics:
        line += f" (raw {console.percent(metrics['raw_top1'])})"
    left = "" if seconds_left is None else f", {console.duration(seconds_left)} left"
    return line + left if len(line + left) <= _LINE else line

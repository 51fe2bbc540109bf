"""Everything the program prints: results on stdout, the rest on stderr; errors name settings as options."""

import errno
import json
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tekapctl.cli.spec_options import TABLE
from tekapctl.errors import TekapctlError
from tekapctl.logging import ROOT
from tekapctl.store.atomic import format_bytes as format_bytes

_SETTING = re.compile(r"`([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*)(?:=([^`\s]+))?`")


class Wording:
    """Turns names of settings, in errors, into options of the command that a program's arguments name.

    Library code names a setting as `batch_size` or `tekap.logit.teachers=0`, in backquotes. Who runs a command reads
    --batch-size, or --set tekap.logit.teachers=0.
    """

    def __init__(self, group: Any = None, arguments: Sequence[str] = ()) -> None:
        commands = [group] if group is not None else []
        for argument in arguments:
            if argument in getattr(commands[-1], "commands", ()):
                commands.append(commands[-1].commands[argument])
        options = [each for command in commands for each in command.params if each.param_type_name == "option"]
        flags = {flag for each in options for flag in each.opts}
        self._given = {argument.partition("=")[0] for argument in arguments}
        self._sets_fields = "--set" in flags
        self._flags = {each.name: max(each.opts, key=len) for each in options}
        self._flags |= {
            each.path: each.flag for each in TABLE if each.path and each.fields is None and each.flag in flags
        }
        for each in TABLE:  # such as --mixup, one of several that set data.augment
            if each.path and each.flag in self._given:
                self._flags.setdefault(each.path, each.flag)
        if self._sets_fields:
            self._flags |= {"data": "--dataset"}

    def problem(self, text: str) -> str:
        """A sentence that says what is wrong: it names the options that were given; other settings are from a file."""
        return _SETTING.sub(lambda match: self._option(match, only_given=True), text)

    def remedy(self, text: str) -> str:
        """A sentence that says what to do: it names options wherever the command has them."""
        return _SETTING.sub(lambda match: self._option(match, only_given=False), text)

    def _option(self, match: re.Match[str], *, only_given: bool) -> str:
        path, value = match[1], match[2]
        flag = self._flags.get(path)
        if flag is not None and (flag in self._given or not only_given):
            return flag if value is None else f"{flag} {value}"
        if value is not None and self._sets_fields and not only_given:
            return f"--set {path}={value}"
        return match[0]


stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)
wording = Wording()
"""Of the command that was run."""


def printable(text: str) -> str:
    """The text with control characters escaped."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def say(text: str) -> None:
    """A line for the user, on stderr."""
    stderr.print(escape(printable(text)), soft_wrap=True)


class LogHandler(logging.Handler):
    """Prints log records as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        say(f"warning: {record.getMessage()}" if record.levelno >= logging.WARNING else record.getMessage())


def show_error(problem: str, remedy: str, *, as_json: bool = False) -> None:
    """What is wrong and what to do, on stderr; also as JSON on stdout unless a result was printed."""
    problem, remedy = wording.problem(problem), wording.remedy(remedy or "`debug` shows where it was raised.")
    if as_json and not _printed_json:
        show_json({"error": problem, "remedy": remedy})
    stderr.print(f"[bold red]error:[/] {escape(printable(problem))}", soft_wrap=True)
    say(remedy)


_printed_json = False


def show_json(result: Any) -> None:
    """One machine-readable result on stdout; dataclasses become objects."""
    global _printed_json
    _printed_json = True
    sys.stdout.write(json.dumps(result, indent=2, allow_nan=False, default=asdict) + "\n")
    sys.stdout.flush()


def show_text(text: str) -> None:
    """A text on stdout as it is."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def show_fields(fields: Mapping[str, str]) -> None:
    """Names and values below each other, on stdout; on a terminal, long values continue below their beginning."""
    width = max(map(len, fields))
    room = max(40, stdout.width) if sys.stdout.isatty() else 10_000
    for name, value in fields.items():
        line = f"{printable(name):<{width}}  {printable(value)}"
        show_text(
            textwrap.fill(
                line, room, subsequent_indent=" " * (width + 2), break_long_words=False, break_on_hyphens=False
            )
            if len(line) > room
            else line
        )


def confused(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Pairs of classes that are confused, with their frequencies."""
    return ", ".join(
        f"{pair['label']} as {pair['predicted']} {percent(pair['fraction'])} % ({pair['images']})" for pair in pairs
    )


Row = Mapping[str, str]
_LONGEST_WORD = 32
"""Longer words, such as paths, may be broken to show more columns on a narrow terminal."""


def show_table(title: str, rows: Sequence[Row], *, optional: Sequence[str] = ()) -> None:
    """A table on stdout; nothing if it has no rows.

    Numbers are never broken over two lines; where the terminal is narrow, texts wrap and optional columns are left out.

    Args:
        title: Above the table; may be empty.
        rows: Cells by column. `NAME>` is right-aligned and, like `NAME=`, never wrapped.
        optional: Columns that are left out where there is no room, the least important first.
    """
    if not rows:
        return
    widths = {name: max(len(_name(name)), *(len(printable(row[name])) for row in rows)) for name in rows[0]}
    words = {name: max((len(word) for row in rows for word in row[name].split()), default=0) for name in rows[0]}

    def needed(texts: int) -> int:
        """The width at which no number is broken, and no word or text of up to so many letters."""
        return sum(
            2 + (width if name != _name(name) else min(width, max(texts, min(words[name], _LONGEST_WORD))))
            for name, width in widths.items()
        )

    # A table in a file or a pipe is as wide as it needs to be.
    room = stdout.width if sys.stdout.isatty() else 10_000
    hidden = []
    for name in optional:
        if name in widths and needed(16) > room:
            del widths[name]
            hidden.append(_name(name))
    if title:
        stdout.print(f"[bold]{escape(printable(title))}[/]", soft_wrap=True)
    table = table_of([{name: row[name] for name in widths} for row in rows])
    Console(highlight=False, width=max(needed(6), room)).print(table, crop=False)
    if hidden:
        say(f"not shown on a narrow terminal: {', '.join(hidden)} (--json prints all)")


def _name(column: str) -> str:
    return column.rstrip(">=")


def table_of(rows: Sequence[Row]) -> Table:
    """A table in the program's style, with rows as in `show_table`."""
    table = Table(
        header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False
    )
    for column in rows[0]:
        table.add_column(
            _name(column),
            justify="right" if column.endswith(">") else "left",
            no_wrap=column.endswith((">", "=")),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row.values()))
    return table


def duration(seconds: float) -> str:
    """A human-readable time."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def number(value: object) -> str:
    """A value for people: of a float six digits, as none is known more exactly."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def percent(fraction: float | None) -> str:
    """A fraction as a percentage; empty for None."""
    return "" if fraction is None else f"{100 * fraction:.2f}"


class Output:
    """A standard stream that discards what its reader no longer reads, instead of ending the program.

    Args:
        stream: The stream.
        must_arrive: Whether other failures are errors: a full disk loses a result, but lines of progress do not matter.
    """

    def __init__(self, stream: TextIO, *, must_arrive: bool) -> None:
        self._stream = stream
        self._must_arrive = must_arrive
        self._is_lost = False

    @property
    def is_lost(self) -> bool:
        """Whether nobody reads it any more."""
        return self._is_lost

    def write(self, text: str) -> int:
        """Write a text."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._try(self._stream.flush)

    def _try(self, call: Callable[..., Any], *arguments: str) -> None:
        if self._is_lost:
            return
        try:
            call(*arguments)
        except (OSError, ValueError) as error:
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

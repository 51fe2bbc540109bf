"""Help pages: one paragraph, options in groups, examples last; also the check for options that are given twice."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from tekapctl.cli.console import say

PANELS = (
    *("Options", "Search", "Networks", "Data", "Method", "TeKAP", "Optimization", "Run", "Execution", "Robustness"),
    *("Filter", "Configuration", "Output", "Global options"),
)
"""Option groups in the order in which a help page shows them."""
_WIDTH = 80
_FIRST_COLUMN = 27
_GLOBAL = ("debug", "trust_code")


class Command(TyperCommand):
    """A command with a grouped help page that warns about options that are given twice."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line; of an option that cannot be repeated the last value counts."""
        given = args[: args.index("--")] if "--" in args else args
        for option in self.params:
            if not isinstance(option, TyperOption) or option.multiple or option.is_flag or option.count:
                continue
            found = [arg for arg in given if arg.partition("=")[0] in option.opts]
            if len(found) > 1:
                say(f"{option.opts[0]} is given {len(found)} times: the last one counts")
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:  # the library reports its own exceptions word by word
            error.message = error.message.removeprefix("Value error, ")
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        _format(self, ctx, formatter)


class Group(TyperGroup):
    """A group of commands with the same help page; commands are grouped too."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        _format(self, ctx, formatter)


def _format(command: Any, ctx: Any, formatter: Any) -> None:
    text, examples = split_help(command.help or "")
    formatter.write(f"Usage: {' '.join([ctx.command_path, '[OPTIONS]', *_usage(command)])}\n")
    for paragraph in text.split("\n\n"):
        formatter.write(f"\n{_wrapped(' '.join(paragraph.split()))}\n")
    sections: dict[str, list[tuple[str, str]]] = {}
    for panel, name, description in (*_commands(command, ctx), *_parameters(command, ctx)):
        sections.setdefault(panel, []).append((name, description))
    for title in sorted(sections, key=lambda title: PANELS.index(title) if title in PANELS else -1):
        formatter.write(f"\n{title}:\n")
        for name, description in sections[title]:
            wrapped = _wrapped(description, " " * (_FIRST_COLUMN + 4))
            fits = len(name) <= _FIRST_COLUMN
            formatter.write(f"  {name:<{_FIRST_COLUMN}}  {wrapped.lstrip()}\n" if fits else f"  {name}\n{wrapped}\n")
    if examples:
        lines = "".join(f"  {line}\n" for line in examples)
        formatter.write(f"\nExample{'s' * (len(examples) > 1)}:\n{lines}")


def _usage(command: Any) -> list[str]:
    pieces = []
    for argument in command.params:
        if isinstance(argument, TyperArgument):
            name = argument.metavar or argument.name.upper()
            pieces.append(name if argument.required or name.startswith("[") else f"[{name}]")
    if isinstance(command, TyperGroup):
        pieces.append("[COMMAND]" if command.invoke_without_command else "COMMAND")
    return pieces


def _wrapped(text: str, indent: str = "") -> str:
    # Commands and the beginning of a default are not broken.
    whole = re.sub(r"`[^`]+`|\[default: ", lambda found: found[0].replace(" ", "\xa0"), text)
    lines = textwrap.fill(
        whole, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
    return lines.replace("\xa0", " ")


def split_help(text: str) -> tuple[str, list[str]]:
    """A command's description, and the lines of its examples."""
    description, _, examples = inspect.cleandoc(text).partition("Example")
    lines = examples.partition(":")[2].strip().splitlines()
    return description.strip(), [line.strip() for line in lines if line.strip()]


def _commands(group: Any, ctx: Any) -> Iterator[tuple[str, str, str]]:
    """The panel, name and summary of each command."""
    for name in getattr(group, "commands", {}):
        command = group.get_command(ctx, name)
        if not command.hidden:
            panel = getattr(command, "rich_help_panel", None)
            summary = " ".join((command.help or "").partition("\n\n")[0].split()).partition(". ")[0].removesuffix(".")
            yield panel if isinstance(panel, str) else "Commands", name, summary


def _parameters(command: Any, ctx: Any) -> Iterator[tuple[str, str, str]]:
    """The panel, name and description of each argument and option."""
    if ctx.parent is not None:
        for option in ctx.find_root().command.params:
            if option.name in _GLOBAL:
                yield "Global options", _names(option), _described(option)
    for parameter in command.get_params(ctx):
        if getattr(parameter, "hidden", False):
            continue
        if isinstance(parameter, TyperArgument):
            name = (parameter.metavar or str(parameter.name).upper()).strip("[]").replace("]...", "...")
            yield "Arguments", name, _described(parameter)
        elif parameter.name == "help":
            yield "Global options", _names(parameter), "Show this help page."
        else:
            yield getattr(parameter, "rich_help_panel", None) or "Options", _names(parameter), _described(parameter)


def _names(option: Any) -> str:
    short = "".join(f"{name}, " for name in option.opts if not name.startswith("--")) or "    "
    long = next(name for name in option.opts if name.startswith("--"))
    if option.secondary_opts:
        (off,) = option.secondary_opts
        long = f"--[no-]{long[2:]}" if off == f"--no-{long[2:]}" else f"{long}/{off}"
    return f"{short}{long}" + ("" if option.is_flag else f" {option.metavar or 'VALUE'}")


def _described(parameter: Any) -> str:
    text, default = parameter.help or "", parameter.default
    if default in (None, False, ()) or callable(default) or "[default:" in text:
        return text
    if default is True:
        shown = parameter.opts[0].lstrip("-")
    else:
        shown = f"{default:g}" if isinstance(default, float) else str(default)
    return f"{text} [default: {shown}]"


def use_own_help(app: Any) -> None:
    """Give all commands of an app, and of the apps in it, the program's help pages."""
    for command in app.registered_commands:
        command.cls = Command
    for group in app.registered_groups:
        if not issubclass(group.typer_instance.info.cls or object, Group):
            group.typer_instance.info.cls = Group
        use_own_help(group.typer_instance)

"""Commands that say so where an option is given several times and only the last one counts."""

from typing import Any

from typer.core import TyperCommand, TyperOption

from tekapctl.cli.console import say


class WarningCommand(TyperCommand):
    """Warns of an option that is given twice, as an alias and its user may do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line; of an option that cannot be repeated the last value counts."""
        given = args[: args.index("--")] if "--" in args else args
        for option in self.params:
            if not isinstance(option, TyperOption) or option.multiple or option.is_flag or option.count:
                continue
            found = [arg for arg in given if arg.partition("=")[0] in option.opts]
            if len(found) > 1:
                say(f"{option.opts[0]} is given {len(found)} times: the last one counts")
        return super().parse_args(ctx, args)


def warn_of_repeated_options(app: Any) -> None:
    """Let all commands of an app, and of the apps in it, say if an option is given twice."""
    for command in app.registered_commands:
        if command.cls in (None, TyperCommand):
            command.cls = WarningCommand
    for group in app.registered_groups:
        warn_of_repeated_options(group.typer_instance)

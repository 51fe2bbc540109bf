"""Commands whose options may be given once, unless they say that they may be repeated."""

from typing import Any

from typer.core import TyperCommand, TyperOption

from tekapctl.errors import UsageError


class OnceCommand(TyperCommand):
    """Refuses an option that is given twice: the last would win without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line whose single options are given once."""
        given = args[: args.index("--")] if "--" in args else args
        for option in self.params:
            if not isinstance(option, TyperOption) or option.multiple or option.is_flag or option.count:
                continue
            found = [arg for arg in given if arg.partition("=")[0] in option.opts]
            if len(found) > 1:
                raise UsageError(f"{option.opts[0]} is given {len(found)} times.", "Give it once.")
        return super().parse_args(ctx, args)


def give_options_once(app: Any) -> None:
    """Let no command of an app, or of the apps in it, take an option twice."""
    for command in app.registered_commands:
        if command.cls in (None, TyperCommand):
            command.cls = OnceCommand
    for group in app.registered_groups:
        give_options_once(group.typer_instance)

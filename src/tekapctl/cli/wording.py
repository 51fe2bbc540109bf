"""Settings that an error names, as options of the command that was run.

Library code names a setting as `batch_size` or `tekap.logit.teachers=0`, in backquotes. Who runs a command reads
--batch-size, or --set tekap.logit.teachers=0.
"""

import re
from collections.abc import Sequence
from typing import Any

from tekapctl.cli.spec_options import TABLE

_SETTING = re.compile(r"`([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*)(?:=([^`\s]+))?`")


class Wording:
    """Turns names of settings into options of the command that a program's arguments name."""

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

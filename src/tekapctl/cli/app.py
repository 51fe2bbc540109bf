"""The program: its commands, and the one place where errors are shown."""

import errno
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tekapctl import __version__, registry
from tekapctl.cli import (
    bench,
    cache,
    check,
    compare,
    console,
    demo,
    evaluate,
    export,
    fetch,
    information,
    predict,
    report,
    runs,
    study,
    sweep,
    train,
    tune,
    watch,
)
from tekapctl.cli.console import Wording
from tekapctl.cli.help import Group, use_own_help
from tekapctl.cli.options import option
from tekapctl.errors import TekapctlError


class UserInterruptError(TekapctlError):
    """The user pressed Ctrl-C."""

    exit_code = 130


class ErrorBoundary(Group):
    """Turns the program's own errors into a sentence, a next step and an exit code."""

    debug = False
    as_json = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept the program's own options behind a command too, and trust the code that the arguments name."""
        registry.allow_named_in(args)
        self.debug, self.as_json = "--debug" in args, "--json" in args
        console.wording = Wording(self, args)
        own = [arg for arg in args if arg in ("--debug", "--trust-code")]
        return super().parse_args(ctx, [*own, *(arg for arg in args if arg not in own)])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program with output that outlives its readers."""
        console.prepare()
        try:
            return super().main(*args, **kwargs)
        except TekapctlError as error:
            if self.debug:
                raise
            if not error.is_told:
                console.show_error(error.problem, error.remedy, as_json=self.as_json)
            sys.exit(error.exit_code)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what only the system reports becomes an error of the program."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if self.debug:
                raise
            remedy = "If a run had started, continue it with `tekapctl resume latest`; else repeat the command."
            raise UserInterruptError("Interrupted.", remedy) from None
        except OSError as error:
            if self.debug:
                raise
            what = str(error)
            if isinstance(error.filename, str):
                what = f"{error.strerror}: {Path(error.filename).absolute()}"
            remedy = _REMEDIES.get(error.errno or 0, "--debug shows where.")
            raise TekapctlError(f"The system refused: {what}.", remedy) from None


_REMEDIES = {errno.ENAMETOOLONG: "Use a shorter name."}
_REMEDIES |= dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free space; `tekapctl cache list` helps.")
_REMEDIES |= dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), "Change the permissions of this path, or use another."
)
app = typer.Typer(
    cls=ErrorBoundary,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Knowledge distillation of image classifiers: TeKAP, KD, CRD and other published methods.\n\n"
    "Examples:\n"
    "tekapctl demo                                   # a minute, no downloads\n"
    "tekapctl fetch cifar100 resnet32x4              # dataset and teacher\n"
    "tekapctl distill --method crd --alpha 1 --beta 0.8\n"
    "tekapctl evaluate latest",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tekapctl {__version__}")
        raise typer.Exit


def _trust_code(wanted: bool) -> None:
    if wanted:
        registry.allow_everything()


@app.callback()
def options(
    debug: Annotated[bool, option("--debug", "Show the traceback of an error.", "Global options")] = False,
    trust_code: Annotated[
        bool,
        option(
            "--trust-code",
            "Allow specs and checkpoints to import code (module:Name).",
            "Global options",
            callback=_trust_code,
        ),
    ] = False,
    version: Annotated[
        bool, option("--version", "Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command."""


def _add(panel: str, **commands: Any) -> None:
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name.replace("_", "-"), rich_help_panel=panel)(command)


_add(
    "Train",
    demo=demo.demo,
    train_teacher=train.train_teacher,
    distill=train.distill,
    resume=train.resume,
    watch=watch.watch,
    bench=bench.bench,
)
_add("Evaluate and deploy", evaluate=evaluate.evaluate, predict=predict.predict, export=export.export)
_add(
    "Experiments",
    compare=compare.compare,
    report=report.report,
    sweep=sweep.app,
    study=study.study,
    tune=tune.tune,
)
_add(
    "Information",
    methods=information.methods,
    models=information.models,
    presets=information.presets,
    schema=information.schema,
    doctor=information.doctor,
)
_add("Files", check=check.check, runs=runs.app, fetch=fetch.fetch, cache=cache.app)
use_own_help(app)

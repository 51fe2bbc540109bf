"""The program's commands, each in a file of its own, and the one place where errors become words."""

import errno
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tekapctl import __version__, registry
from tekapctl.cli import (
    bench,
    cache,
    compare,
    console,
    demo,
    distill,
    doctor,
    evaluate,
    export,
    fetch,
    methods,
    models,
    predict,
    presets,
    report,
    resume,
    runs,
    schema,
    study,
    sweep,
    train_teacher,
    watch,
)
from tekapctl.cli.console import show_error
from tekapctl.cli.options import warn_of_repeated_options
from tekapctl.errors import TekapctlError

INTERRUPTED = 130


class ErrorBoundary(TyperGroup):
    """Turns the program's own errors into a sentence, a next step and an exit code."""

    debug = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept the program's own options behind a command too, and trust the code that the arguments name."""
        registry.allow_named_in(args)
        self.debug = "--debug" in args
        own = [arg for arg in args if arg in ("--debug", "--trust-code")]
        return super().parse_args(ctx, [*own, *(arg for arg in args if arg not in own)])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program with output that outlives its readers."""
        console.prepare()
        try:
            return super().main(*args, **kwargs)
        except TekapctlError as error:  # before there is a command: its options, or its help
            if self.debug:
                raise
            show_error(error.problem, error.remedy)
            sys.exit(error.exit_code)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TekapctlError as error:
            if self.debug:
                raise
            if not error.is_told:
                show_error(error.problem, error.remedy)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            if self.debug:
                raise
            show_error(
                "Interrupted.",
                "An interrupted run goes on with `tekapctl resume latest`; `tekapctl runs list` lists all.",
            )
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Exit, typer.Abort):
            raise
        except OSError as error:
            if self.debug:
                raise
            show_error(f"The system refused: {_in_full(error)}.", _remedy(error))
            raise typer.Exit(1) from None


def _in_full(error: OSError) -> str:
    """The system's error with the whole path of its file."""
    if not isinstance(error.filename, str):
        return str(error)
    return f"{error.strerror}: {Path(error.filename).absolute()}"


def _remedy(error: OSError) -> str:
    if error.errno == errno.ENAMETOOLONG:
        return "Use a shorter name."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free space; `tekapctl cache list` helps."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Change the rights of this path, or use another."
    return "--debug shows where."


app = typer.Typer(
    cls=ErrorBoundary,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distil image classifiers: TeKAP (one teacher, many perspectives) over KD, CRD and the field.\n\n"
    "Example: [bold]tekapctl fetch resnet32x4[/bold], then [bold]tekapctl distill --method crd --alpha 1 --beta 0.8"
    "[/bold], then [bold]tekapctl evaluate latest[/bold]. With nothing downloaded: [bold]tekapctl demo[/bold].",
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
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where an error ends the program.")] = False,
    trust_code: Annotated[
        bool,
        typer.Option(
            "--trust-code",
            callback=_trust_code,
            help="Import the networks, methods and data sets that a file names as module:Name. Their code runs.",
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


app.command("fetch")(fetch.fetch)
app.command("train-teacher")(train_teacher.train_teacher)
app.command("distill")(distill.distill)
app.command("resume")(resume.resume)
app.command("watch")(watch.watch)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("predict")(predict.predict)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("study")(study.study)
app.command("bench")(bench.bench)
app.command("demo")(demo.demo)
app.command("presets")(presets.presets)
app.command("doctor")(doctor.doctor)
app.command("schema")(schema.schema)
app.add_typer(methods.app, name="methods")
app.add_typer(models.app, name="models")
app.add_typer(runs.app, name="runs")
app.add_typer(cache.app, name="cache")
app.add_typer(sweep.app, name="sweep")
warn_of_repeated_options(app)

"""The program's commands, each in a file of its own, and the one place where errors become words."""

import errno
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

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
from tekapctl.cli.help import Group, use_own_help
from tekapctl.errors import TekapctlError

INTERRUPTED = 130


class ErrorBoundary(Group):
    """Turns the program's own errors into a sentence, a next step and an exit code."""

    debug = False
    as_json = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept the program's own options behind a command too, and trust the code that the arguments name."""
        registry.allow_named_in(args)
        self.debug, self.as_json = "--debug" in args, "--json" in args
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
            show_error(error.problem, error.remedy, as_json=self.as_json)
            sys.exit(error.exit_code)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TekapctlError as error:
            if self.debug:
                raise
            if not error.is_told:
                show_error(error.problem, error.remedy, as_json=self.as_json)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            if self.debug:
                raise
            show_error(
                "Interrupted.",
                "Continue a run with `tekapctl resume latest`; `tekapctl runs list` lists all runs.",
                as_json=self.as_json,
            )
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Exit, typer.Abort):
            raise
        except OSError as error:
            if self.debug:
                raise
            show_error(f"The system refused: {_in_full(error)}.", _remedy(error), as_json=self.as_json)
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
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Knowledge distillation of image classifiers: TeKAP, KD, CRD and other published methods.\n\n"
    "Examples:\n"
    "tekapctl demo                                   # two minutes, no downloads\n"
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
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel="Global options")
    ] = False,
    trust_code: Annotated[
        bool,
        typer.Option(
            "--trust-code",
            callback=_trust_code,
            help="Allow specs and checkpoints to import code (module:Name).",
            rich_help_panel="Global options",
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""


TRAIN, USE, EXPERIMENTS, INFORMATION, FILES = (
    "Train",
    "Evaluate and deploy",
    "Experiments",
    "Information",
    "Files",
)
app.command("demo", rich_help_panel=TRAIN)(demo.demo)
app.command("train-teacher", rich_help_panel=TRAIN)(train_teacher.train_teacher)
app.command("distill", rich_help_panel=TRAIN)(distill.distill)
app.command("resume", rich_help_panel=TRAIN)(resume.resume)
app.command("watch", rich_help_panel=TRAIN)(watch.watch)
app.command("bench", rich_help_panel=TRAIN)(bench.bench)
app.command("evaluate", rich_help_panel=USE)(evaluate.evaluate)
app.command("predict", rich_help_panel=USE)(predict.predict)
app.command("export", rich_help_panel=USE)(export.export)
app.command("compare", rich_help_panel=EXPERIMENTS)(compare.compare)
app.command("report", rich_help_panel=EXPERIMENTS)(report.report)
app.add_typer(sweep.app, name="sweep", rich_help_panel=EXPERIMENTS)
app.command("study", rich_help_panel=EXPERIMENTS)(study.study)
app.add_typer(methods.app, name="methods", rich_help_panel=INFORMATION)
app.add_typer(models.app, name="models", rich_help_panel=INFORMATION)
app.command("presets", rich_help_panel=INFORMATION)(presets.presets)
app.command("schema", rich_help_panel=INFORMATION)(schema.schema)
app.command("doctor", rich_help_panel=INFORMATION)(doctor.doctor)
app.add_typer(runs.app, name="runs", rich_help_panel=FILES)
app.command("fetch", rich_help_panel=FILES)(fetch.fetch)
app.add_typer(cache.app, name="cache", rich_help_panel=FILES)
use_own_help(app)

"""The options that describe a student's run, for every command that takes one."""

import copy
import difflib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tekapctl.cli import console, options
from tekapctl.errors import UsageError

if TYPE_CHECKING:
    from tekapctl.experiments.presets import Preset
    from tekapctl.spec import StudentSpec


def student_spec(
    preset: Annotated[
        str | None, typer.Option("--preset", help="A published experiment: `tekapctl presets` lists them.")
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            "-t",
            help="A network's name, a run, or a checkpoint file; several make an ensemble. (default: resnet32x4)",
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            "--student",
            "-s",
            help=f"The network that learns{options.ELSEWHERE} (default: resnet8x4)",
        ),
    ] = None,
    model_args: options.ModelArguments = None,
    teacher_model: Annotated[
        str | None, typer.Option("--teacher-model", help="The network of a teacher's file that does not say it.")
    ] = None,
    teacher_args: Annotated[
        list[str] | None,
        typer.Option("--teacher-arg", metavar="KEY=VALUE", help="Give this to a teacher's network from elsewhere."),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="`tekapctl methods` lists them; or module:Class. (default: kd)")
    ] = None,
    init_epochs: Annotated[
        int | None, typer.Option("--init-epochs", help="Epochs of the first stage of ab, ft and fsp. (default: 30)")
    ] = None,
    tekap: Annotated[
        bool | None,
        typer.Option("--tekap/--no-tekap", help="With augmented teachers, or without any. (default: with kd and crd)"),
    ] = None,
    angular: Annotated[
        bool | None,
        typer.Option("--angular", help="With learned views of the teacher (Angular-KD) in place of TeKAP."),
    ] = None,
    gamma: Annotated[
        float | None, typer.Option("--gamma", "-r", help="Weight of the cross-entropy. (default: method's)")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", "-a", help="Weight of KD's logit loss. (default: method's)")
    ] = None,
    beta: Annotated[
        float | None, typer.Option("--beta", "-b", help="Weight of the method's loss. (default: method's)")
    ] = None,
    dataset: options.Dataset = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.LearningRate = None,
    train_fraction: options.TrainFraction = None,
    seed: options.Seed = None,
    device: options.Device = None,
    precision: options.Precision = None,
    compile_networks: options.Compile = None,
    checkpoint_minutes: options.CheckpointMinutes = None,
    cache_teacher: Annotated[
        bool | None,
        typer.Option(
            "--cache-teacher/--live-teacher",
            help="Keep what the teacher says on disk, for all runs with it. (default: live-teacher)",
        ),
    ] = None,
    diagnose: Annotated[
        bool | None,
        typer.Option(
            "--diagnose",
            help="After each epoch, log how augmented teachers differ and what their noise does to the student.",
        ),
    ] = None,
    data_dir: options.DataDir = None,
    track: options.Track = None,
    name: options.Name = None,
    spec_file: options.SpecFile = None,
    assignments: options.Set = None,
) -> "StudentSpec":
    """The spec that the options describe."""
    from tekapctl.distill.angular import PUBLISHED_VIEWS
    from tekapctl.distill.methods import METHODS
    from tekapctl.distill.tekap import TekapSpec
    from tekapctl.experiments import presets
    from tekapctl.spec import StudentSpec

    if method is not None and method not in METHODS:
        near = difflib.get_close_matches(method.casefold(), METHODS.names(), n=3, cutoff=0.5)
        guess = f"Did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(f"There is no method named {method!r}.", f"{guess}`tekapctl methods` lists them.")
    values = {
        "teacher": teacher[0] if teacher else None,
        "ensemble": teacher[1:] if teacher and len(teacher) > 1 else None,
        "student": student,
        "model_args": options.named_values(model_args, "--model-arg") or None,
        "teacher_model": teacher_model,
        "teacher_args": options.named_values(teacher_args, "--teacher-arg") or None,
        "method.name": method,
        "method.init_epochs": init_epochs,
        "gamma": gamma,
        "alpha": alpha,
        "beta": beta,
        "data.name": dataset,
        "data.folder": data_dir,
        "data.train_fraction": train_fraction,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer.learning_rate": lr,
        "seed": seed,
        "device": device,
        "precision": precision,
        "compile": compile_networks,
        "checkpoint_minutes": checkpoint_minutes,
        "cache_teacher": cache_teacher,
        "diagnose": diagnose,
        "track": track or None,
        "name": name,
    }
    if angular:
        values["angular.views"] = PUBLISHED_VIEWS
    if tekap is False or (angular and tekap is None):
        values |= {"tekap.logit.teachers": 0, "tekap.feature.teachers": 0}

    def build(more: dict[str, Any], start: dict[str, Any] | None) -> StudentSpec:
        spec = options.build_spec("student", spec_file, values | more, assignments, copy.deepcopy(start))
        assert isinstance(spec, StudentSpec)
        return spec

    known = presets.preset(preset) if preset is not None else None
    start = known.table if known is not None else None
    spec = build({}, start)
    given = {path for path, value in values.items() if value is not None}
    given |= {options.read_assignment(text)[0] for text in assignments or []}
    if known is None and method is not None and spec_file is None and (known := presets.for_pair(spec)) is not None:
        start = _without_levels(known.table)
    if known is not None and "epochs" in given:
        table = known.table_for(spec.epochs)
        start = table if preset is not None else _without_levels(table)
    spec = build({}, start)
    for level, is_read in (("logit", "logit" in spec.levels), ("feature", "feature" in spec.levels)):
        if not is_read and any(text.startswith(f"tekap.{level}.") for text in assignments or []):
            console.say(f"warning: tekap.{level} has no effect: no loss of this run compares at the {level} level")
    if tekap and spec.tekap == spec.tekap.without():
        # A file, a preset or learned views left it off.
        usual = TekapSpec()
        spec = build(
            {f"tekap.{level}.teachers": getattr(usual, level).teachers for level in ("logit", "feature")}, start
        )
        given |= {"tekap.logit.teachers", "tekap.feature.teachers"}
    if preset is not None:
        assert known is not None
        _say_what_a_preset_lost(known, spec)
    elif method is not None:
        _say_what_is_published(known, spec, given, spec_file)
    _warn_of_long_warmups(spec)
    return spec


def _without_levels(table: dict[str, Any]) -> dict[str, Any]:
    """A preset's fields without TeKAP and learned views, which only the user switches on or off."""
    return {name: value for name, value in table.items() if name not in ("tekap", "angular")}


def _say_what_a_preset_lost(known: "Preset", spec: "StudentSpec") -> None:
    from tekapctl.experiments import presets

    if changed := presets.changed(known, spec):
        _say_once(f"no longer the published experiment {known.name}: {presets.listed(changed)}")


def _say_what_is_published(known: "Preset | None", spec: "StudentSpec", given: set[str], file: Path | None) -> None:
    """The one line on published settings of a run that was started with --method."""
    from tekapctl.experiments import presets

    if file is not None:
        _say_once(f"the settings are those of {file}: published ones are not taken beside a file")
    elif known is None or known.published is None:
        _say_once("no published settings for this method and pair: the method's CIFAR-100 defaults are used")
    else:
        taken = presets.listed(presets.taken(known, spec, given)) or "the method's defaults"
        added = ""
        if spec.augmented and not known.way.startswith("tekap"):
            added = ", with TeKAP added (--no-tekap leaves it out)"
        elif spec.angular.views and not known.way.startswith("angular"):
            added = ", with learned views added"
        changed = presets.listed(presets.by_hand(presets.changed(known, spec), given))
        by_you = f"; changed by you: {changed}" if changed else ""
        _say_once(f"settings of {known.name} as published in {known.published.settings_source}: {taken}{added}{by_you}")


def _warn_of_long_warmups(spec: "StudentSpec") -> None:
    warmup = getattr(spec.method, "warmup_epochs", 0) if spec.beta else 0
    for path, epochs in (("method.warmup_epochs", warmup), ("optimizer.warmup_epochs", spec.optimizer.warmup_epochs)):
        if epochs > 1 and epochs >= spec.epochs:
            _say_once(
                f"warning: {path} is {epochs} and the run has {spec.epochs} epochs: the warm-up lasts the whole run"
            )


_SAID = "TEKAPCTL_SAID"
"""Set by a process that has printed its notices, for those that it starts with the same command line."""


def _say_once(text: str) -> None:
    from tekapctl.distributed.communicator import was_launched

    if options.is_main() and not (was_launched() and _SAID in os.environ):
        console.say(text)
        if not was_launched():
            os.environ[_SAID] = "1"


def with_student_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, whose first parameter is a student's spec, the options that describe one."""
    shared = list(inspect.signature(student_spec).parameters.values())
    _, *own = inspect.signature(command).parameters.values()

    def call(**values: Any) -> None:
        command(student_spec(**{option.name: values.pop(option.name) for option in shared}), **values)

    parameters = [*shared, *own]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__doc__, call.__name__ = command.__doc__, command.__name__
    return call

"""The options that describe a student's run, for every command that takes one."""

import copy
import difflib
import inspect
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tekapctl.cli import complete, console, options
from tekapctl.errors import UsageError

if TYPE_CHECKING:
    from tekapctl.experiments.presets import Preset
    from tekapctl.spec import StudentSpec


def student_spec(
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="Start from a published experiment; see `tekapctl presets`.",
            rich_help_panel="Configuration",
            autocompletion=complete.presets,
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            "-t",
            metavar="MODEL",
            help="Pretrained network, run or checkpoint file. Repeat for an ensemble. [default: resnet32x4]",
            rich_help_panel="Networks",
            autocompletion=complete.teachers,
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            "--student",
            "-s",
            metavar="MODEL",
            help=f"Student architecture: {options.EXTERNAL} [default: resnet8x4]",
            rich_help_panel="Networks",
            autocompletion=complete.models,
        ),
    ] = None,
    model_args: options.ModelArguments = None,
    teacher_model: Annotated[
        str | None,
        typer.Option(
            "--teacher-model",
            metavar="MODEL",
            help="Architecture of a teacher checkpoint that does not name it.",
            rich_help_panel="Networks",
            autocompletion=complete.models,
        ),
    ] = None,
    teacher_args: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher-arg",
            metavar="KEY=VALUE",
            help="Keyword argument for an external teacher. Repeatable.",
            rich_help_panel="Networks",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Distillation method; see `tekapctl methods`. Or module:Class. [default: kd]",
            rich_help_panel="Method",
            autocompletion=complete.methods,
        ),
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option(
            "--gamma",
            "-r",
            metavar="WEIGHT",
            help="Weight of the cross-entropy loss. [default: set by the method]",
            rich_help_panel="Method",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            "--alpha",
            "-a",
            metavar="WEIGHT",
            help="Weight of the KD loss on logits. [default: set by the method]",
            rich_help_panel="Method",
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            "--beta",
            "-b",
            metavar="WEIGHT",
            help="Weight of the method's own loss. [default: set by the method]",
            rich_help_panel="Method",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            "-T",
            metavar="T",
            help="Softmax temperature of the KD loss. [default: 4]",
            rich_help_panel="Method",
        ),
    ] = None,
    init_epochs: Annotated[
        int | None,
        typer.Option(
            "--init-epochs",
            metavar="N",
            help="Epochs of the init stage of ab, fsp and ft. [default: 30]",
            rich_help_panel="Method",
        ),
    ] = None,
    tekap: Annotated[
        bool | None,
        typer.Option(
            "--tekap/--no-tekap",
            help="Distill from augmented teachers. [default: tekap for kd and crd, else no-tekap]",
            rich_help_panel="TeKAP",
        ),
    ] = None,
    angular: Annotated[
        bool | None,
        typer.Option(
            "--angular",
            help="Use learned views of the teacher (Angular-KD) instead of TeKAP.",
            rich_help_panel="TeKAP",
        ),
    ] = None,
    dataset: options.Dataset = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.LearningRate = None,
    weight_decay: options.WeightDecay = None,
    train_fraction: options.TrainFraction = None,
    seed: options.Seed = None,
    device: options.Device = None,
    precision: options.Precision = None,
    compile_networks: options.Compile = None,
    checkpoint_minutes: options.CheckpointMinutes = None,
    cache_teacher: Annotated[
        bool | None,
        typer.Option(
            "--cache-teacher/--no-cache-teacher",
            help="Cache teacher outputs on disk and reuse them across runs. [default: no-cache-teacher]",
            rich_help_panel="Execution",
        ),
    ] = None,
    diagnose: Annotated[
        bool | None,
        typer.Option(
            "--diagnose",
            help="Log per epoch how augmented teachers differ and how their noise affects the student.",
            rich_help_panel="TeKAP",
        ),
    ] = None,
    data_dir: options.DataDir = None,
    track: options.Track = None,
    name: options.Name = None,
    spec_file: options.SpecFile = None,
    assignments: options.Set = None,
) -> "StudentSpec":
    """The spec that the options describe."""
    from tekapctl.distillation.angular import PUBLISHED_VIEWS
    from tekapctl.distillation.methods import METHODS
    from tekapctl.distillation.tekap import TekapSpec
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
        "optimizer.weight_decay": weight_decay,
        "temperature": temperature,
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
    for path, epochs in (("method.warmup_epochs", warmup), ("schedule.warmup_epochs", spec.schedule.warmup_epochs)):
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


def with_student_options(
    command: Callable[..., None] | None = None, *, section: str | None = None
) -> Callable[..., Any]:
    """Give a command, whose first parameter is a student's spec, the options that describe one.

    Args:
        command: The command.
        section: Assignments `--set SECTION.KEY=VALUE` become its second parameter, a table; its first one then is a
            function that makes the spec.
    """
    if command is None:
        return lambda command: with_student_options(command, section=section)
    shared = list(inspect.signature(student_spec).parameters.values())
    own = list(inspect.signature(command).parameters.values())[1 if section is None else 2 :]

    def call(**values: Any) -> None:
        spec_options = {option.name: values.pop(option.name) for option in shared}
        if section is None:
            command(student_spec(**spec_options), **values)
            return
        texts = spec_options["assignments"] or []
        own_texts = [text for text in texts if text.strip().startswith(f"{section}.")]
        spec_options["assignments"] = [text for text in texts if text not in own_texts]
        table = {path.removeprefix(f"{section}."): value for path, value in map(options.read_assignment, own_texts)}
        command(partial(student_spec, **spec_options), table, **values)

    parameters = [*shared, *own]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__doc__, call.__name__ = command.__doc__, command.__name__
    return call

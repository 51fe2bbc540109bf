"""The options that describe a student's run, for every command that takes one."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tekapctl.cli import console, options

if TYPE_CHECKING:
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
    from tekapctl.distill.tekap import TekapSpec
    from tekapctl.experiments.presets import for_pair
    from tekapctl.spec import StudentSpec

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

    def build(more: dict[str, Any]) -> StudentSpec:
        spec = options.build_spec("student", spec_file, values | more, assignments, preset)
        assert isinstance(spec, StudentSpec)
        return spec

    spec = build({})
    if method is not None and spec_file is None and preset is None and (known := for_pair(spec)) is not None:
        preset = known.name
        spec = build({})
        console.say(f"settings of {known.name} as published by {known.source}: {known.settings}")
    for level, is_read in (("logit", "logit" in spec.levels), ("feature", "feature" in spec.levels)):
        if not is_read and any(text.startswith(f"tekap.{level}.") for text in assignments or []):
            console.say(f"warning: tekap.{level} has no effect: no loss of this run compares at the {level} level")
    if tekap and spec.tekap == spec.tekap.without():
        # A file, a preset or learned views left it off.
        usual = TekapSpec()
        return build({f"tekap.{level}.teachers": getattr(usual, level).teachers for level in ("logit", "feature")})
    return spec


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

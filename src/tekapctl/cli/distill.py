"""`tekapctl distill`."""

from typing import Annotated

import typer

from tekapctl.cli import options, train


def distill(
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", "-t", help="A network's name, a run, or a checkpoint file. (default: resnet32x4)"),
    ] = None,
    student: Annotated[
        str | None, typer.Option("--student", "-s", help="The network that learns. (default: resnet8x4)")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help="kd or crd. (default: kd)")] = None,
    tekap: Annotated[
        bool | None,
        typer.Option("--tekap/--no-tekap", help="With augmented teachers, or without any. (default: tekap)"),
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
    cache_teacher: Annotated[
        bool | None,
        typer.Option(
            "--cache-teacher/--live-teacher",
            help="Keep what the teacher says on disk, for all runs with it. (default: live-teacher)",
        ),
    ] = None,
    data_dir: options.DataDir = None,
    name: options.Name = None,
    spec: options.SpecFile = None,
    assignments: options.Set = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Distil a student from a teacher, and by default from its augmented teachers (TeKAP).

    Examples:
    tekapctl distill --method kd -r 0.1 -a 0.9 -b 0          TeKAP at the logit level

    tekapctl distill --method crd --alpha 0 --beta 0.8       TeKAP at the feature level

    tekapctl distill --method crd --alpha 1 --beta 0.8       both

    tekapctl distill --method crd --no-tekap                 plain CRD
    """
    values = {
        "teacher": teacher,
        "student": student,
        "method.name": method,
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
        "cache_teacher": cache_teacher,
        "name": name,
    }
    if tekap is False:
        values |= {"tekap.logit.teachers": 0, "tekap.feature.teachers": 0}
    train.run(options.build_spec("student", spec, values, assignments), as_json=as_json, dry_run=dry_run)

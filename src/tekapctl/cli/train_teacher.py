"""`tekapctl train-teacher`."""

from typing import Annotated

import typer

from tekapctl.cli import complete, options, train


def train_teacher(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help=f"Architecture: {options.EXTERNAL} [default: resnet32x4]",
            rich_help_panel="Networks",
            autocompletion=complete.models,
        ),
    ] = None,
    model_args: options.ModelArguments = None,
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
    data_dir: options.DataDir = None,
    track: options.Track = None,
    name: options.Name = None,
    spec: options.SpecFile = None,
    assignments: options.Set = None,
    processes: options.Processes = 1,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Train a network without a teacher: a teacher, or the baseline of a student.

    Examples:
    tekapctl train-teacher --model resnet32x4 --dataset cifar100
    tekapctl train-teacher --model timm:resnet18 --dataset folder:photographs
    """
    built = options.build_spec(
        "teacher",
        spec,
        {
            "model": model,
            "model_args": options.named_values(model_args, "--model-arg") or None,
            "data.name": dataset,
            "data.folder": data_dir,
            "data.train_fraction": train_fraction,
            "epochs": epochs,
            "batch_size": batch_size,
            "optimizer.learning_rate": lr,
            "optimizer.weight_decay": weight_decay,
            "seed": seed,
            "device": device,
            "precision": precision,
            "compile": compile_networks,
            "checkpoint_minutes": checkpoint_minutes,
            "track": track or None,
            "name": name,
        },
        assignments,
    )
    train.run(built, as_json=as_json, dry_run=dry_run, processes=processes)

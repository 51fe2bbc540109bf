"""`tekapctl evaluate`."""

from typing import Annotated, Any

import typer

from tekapctl.cli import complete, console, options
from tekapctl.cli.spec_options import named_values


def evaluate(
    reference: Annotated[
        str,
        typer.Argument(metavar="MODEL", help=options.MODEL_HELP, autocompletion=complete.teachers),
    ],
    model: options.CheckpointModel = None,
    model_args: options.ModelArguments = None,
    best: options.Best = False,
    dataset: options.TrainedDataset = None,
    data_dir: options.DataDir = None,
    device: options.Device = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="PRECISION",
            help="auto, float32, tf32 or bfloat16.",
            rich_help_panel="Execution",
            autocompletion=complete.precisions,
        ),
    ] = "float32",
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", min=1, help="Batch size.", rich_help_panel="Execution")
    ] = 500,
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            metavar="NAME",
            help="Adversarial attack: fgsm or pgd. Repeatable.",
            rich_help_panel="Robustness",
        ),
    ] = None,
    epsilons: Annotated[
        list[float] | None,
        typer.Option(
            "--epsilon",
            metavar="EPS",
            help="L-inf perturbation budget of the attacks, for pixels in 0-1. Repeatable. [default: 8/255]",
            rich_help_panel="Robustness",
        ),
    ] = None,
    corruptions: Annotated[
        list[str] | None,
        typer.Option(
            "--corruption",
            metavar="NAME",
            help="Common corruption, e.g. fog or jpeg, or all. Repeatable.",
            rich_help_panel="Robustness",
        ),
    ] = None,
    severities: Annotated[
        list[int] | None,
        typer.Option(
            "--severity",
            metavar="N",
            help="Severity of the corruptions, 1 to 5. Repeatable. [default: all five]",
            rich_help_panel="Robustness",
        ),
    ] = None,
    occlusions: Annotated[
        list[float] | None,
        typer.Option(
            "--occlusion",
            metavar="FRACTION",
            help="Occlude this fraction of each image. Repeatable.",
            rich_help_panel="Robustness",
        ),
    ] = None,
    probes: Annotated[
        list[str] | None,
        typer.Option(
            "--probe",
            metavar="DATASET",
            help="Train a linear probe on the embeddings of another dataset. Repeatable.",
            rich_help_panel="Robustness",
            autocompletion=complete.datasets,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            min=1,
            help="Evaluate robustness on at most N test images. [default: all]",
            rich_help_panel="Robustness",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Evaluate a network on its test images, and compare a student with its teacher.

    Examples:
    tekapctl evaluate latest
    tekapctl evaluate resnet32x4 --dataset cifar100
    tekapctl evaluate latest --attack pgd --corruption all --probe digits
    """
    from tekapctl.commands import evaluate as command
    from tekapctl.commands.robustness import EPSILON, SEVERITIES, Request
    from tekapctl.store.home import Home

    result = command.evaluate(
        Home.default(),
        reference,
        model=model,
        model_args=named_values(model_args, "--model-arg"),
        best=best,
        dataset=dataset,
        folder=data_dir,
        device=device or "auto",
        precision=precision,
        batch_size=batch_size,
        robustness=Request(
            attacks=attacks or (),
            epsilons=epsilons or (EPSILON,),
            corruptions=corruptions or (),
            severities=severities or SEVERITIES,
            occlusions=occlusions or (),
            probes=probes or (),
        ),
        limit=limit,
    )
    if as_json:
        console.show_json(result)
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    found = result["evaluation"]
    fields = {
        "network": f"{result['model']} from {result['source']}",
        "data": f"{result['dataset']}, {found['images']:,} test images",
        "top-1": f"{console.percent(found['top1'])} %",
        "top-5": f"{console.percent(found['top5'])} %",
        "negative log-likelihood": f"{found['negative_log_likelihood']:.4f} nats",
        "ECE": f"{console.percent(found['calibration_error'])} %",
        "parameters": f"{found['parameters']:,}",
        "MACs per image": f"{found['macs']:,}",
        "speed": f"{found['images_per_second']:,.0f} images/s",
    }
    if found["agreement"] is not None:
        fields["teacher"] = result["teacher"]
        fields["agreement"] = f"{console.percent(found['agreement'])} % of predictions match the teacher's"
        fields["KL to teacher"] = f"{found['kl_from_teacher']:.4f} nats"
        fields["class correlation"] = f"{found['correlation_distance']:.4f} mean distance from the teacher's"
    console.show_fields(fields)
    per_class = sorted(found["per_class"].items(), key=lambda item: item[1])
    if len(per_class) > 12:
        console.say(f"the 10 hardest of {len(per_class)} classes (--json prints all):")
    console.show_table(
        "",
        ["class", "top-1 %>"],
        [(name, console.percent(share)) for name, share in per_class[: 12 if len(per_class) <= 12 else 10]],
    )
    _show_robustness(result["robustness"], result["transfer"])


def _show_robustness(shifted: list[dict[str, Any]], probed: list[dict[str, Any]]) -> None:
    if shifted:
        columns = ["shift", "top-1 %>", "unchanged %>"]
        keys = ["top1", "consistency"]
        if shifted[0]["teacher_top1"] is not None:
            columns += ["teacher %>", "agreement %>"]
            keys += ["teacher_top1", "agreement"]
        rows = [[each["shift"], *(console.percent(each[key]) for key in keys)] for each in shifted]
        console.show_table("Robustness", columns, rows)
    if probed:
        rows = [
            [
                each["dataset"],
                console.percent(each["top1"]),
                "" if each["teacher_top1"] is None else console.percent(each["teacher_top1"]),
            ]
            for each in probed
        ]
        console.show_table("Linear probes", ["dataset", "top-1 %>", "teacher %>"], rows)

"""`tekapctl evaluate`."""

from typing import Annotated, Any

import typer

from tekapctl.cli import console, options


def evaluate(
    reference: Annotated[
        str,
        typer.Argument(help="A run (id, unique prefix or latest), a checkpoint file, or a fetched teacher's name."),
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="The network of a checkpoint file that does not say it.")
    ] = None,
    model_args: options.ModelArguments = None,
    best: Annotated[bool, typer.Option("--best", help="The best epoch's weights of a run, not the last's.")] = False,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="The data set. (default: the one it was trained on)")
    ] = None,
    data_dir: options.DataDir = None,
    device: options.Device = None,
    precision: options.Precision = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images at a time.")] = 500,
    as_json: options.Json = False,
) -> None:
    """Measure a trained network on the test images, and a student against its teacher.

    Examples: tekapctl evaluate latest; tekapctl evaluate resnet32x4 --dataset cifar100
    """
    from tekapctl.engine.measure import measure
    from tekapctl.store.home import Home

    result = measure(
        Home.default(),
        reference,
        model=model,
        arguments=options.named_values(model_args, "--model-arg"),
        best=best,
        dataset=dataset,
        folder=data_dir,
        device=device or "auto",
        precision=precision or "float32",
        batch_size=batch_size,
        say=console.say,
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
        "calibration error": f"{console.percent(found['calibration_error'])} %",
        "parameters": f"{found['parameters']:,}",
        "MACs an image": f"{found['macs']:,}",
        "speed": f"{found['images_per_second']:,.0f} images/s",
    }
    if found["agreement"] is not None:
        fields["teacher"] = result["teacher"]
        fields["agreement"] = f"{console.percent(found['agreement'])} % of images get the teacher's class"
        fields["KL from teacher"] = f"{found['kl_from_teacher']:.4f} nats"
    console.show_fields(fields)
    per_class = sorted(found["per_class"].items(), key=lambda item: item[1])
    if len(per_class) > 12:
        console.say(f"the 10 hardest of {len(per_class)} classes (--json gives all):")
    console.show_table(
        "",
        ["class", "top-1 %>"],
        [(name, console.percent(share)) for name, share in per_class[: 12 if len(per_class) <= 12 else 10]],
    )

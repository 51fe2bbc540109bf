"""`tekapctl export`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tekapctl.cli import console, options


def export(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run (id, unique prefix or latest), a checkpoint file, or a fetched teacher's name."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; a model card goes beside it.")],
    model: Annotated[
        str | None, typer.Option("--model", help="The network of a checkpoint file that does not say it.")
    ] = None,
    model_args: options.ModelArguments = None,
    format_name: Annotated[
        str | None,
        typer.Option("--format", help="Export format. (default: chosen by the file's suffix; a wrong name lists all)"),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise weights and activations to eight bits; ONNX alone.")
    ] = False,
    best: Annotated[bool, typer.Option("--best", help="The best epoch's weights of a run, not the last's.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file and its card if they are there.")] = False,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="The data set. (default: the one it was trained on)")
    ] = None,
    data_dir: options.DataDir = None,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Test images to check the file with. (default: all)")
    ] = None,
    calibration_images: Annotated[
        int, typer.Option("--calibration-images", min=1, help="Training images that --int8 finds ranges with.")
    ] = 512,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Largest difference of logits, as a share of the largest logit.")
    ] = 1e-4,
    most_lost: Annotated[
        float, typer.Option("--most-lost", min=0, max=1, help="Share of test images by which --int8 may be worse.")
    ] = 0.05,
    as_json: options.Json = False,
) -> None:
    """Write a trained network to a file for other programs, checked against PyTorch, with a model card.

    The file takes normalised float32 images and gives logits. It is loaded again and compared on the test images; one
    that says something else is not kept.

    Examples: tekapctl export latest --output student.onnx; tekapctl export latest --output small.onnx --int8
    """
    from tekapctl.commands.export.exporting import ExportOptions
    from tekapctl.commands.export.exporting import export as carry_out
    from tekapctl.store.home import Home

    wanted = ExportOptions(
        output=output,
        format=format_name,
        int8=int8,
        force=force,
        images=images,
        calibration_images=calibration_images,
        tolerance=tolerance,
        max_accuracy_drop=most_lost,
    )
    result = carry_out(
        Home.default(),
        reference,
        wanted,
        model=model,
        model_args=options.named_values(model_args, "--model-arg"),
        best=best,
        dataset=dataset,
        folder=data_dir,
    )
    if as_json:
        console.show_json(result)
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    check, int8, threads = result["check"], result["int8"], result["threads"]
    console.show_fields(
        {
            "file": f"{result['file']}, {console.format_bytes(result['bytes'])}",
            "model card": result["card"],
            "network": f"{result['model']} from {result['source']}",
            "checked on": f"{check['images']:,} test images of {result['dataset']}, on the CPU in batches of "
            f"{check['batch_size']} with {threads} thread{'s' if threads > 1 else ''}",
            "largest difference": f"{check['largest_difference']:.3g}, with logits up to {check['largest_logit']:.3g}",
            "equal predictions": f"{console.percent(check['agreement'])} %",
        }
        | ({} if int8 is None else {"equal in int8": f"{console.percent(int8['agreement'])} %"})
    )
    rows = [("PyTorch, float32", check["torch_top1"], check["torch_images_per_second"])]
    rows.append((f"{result['runtime']}, float32", check["top1"], check["images_per_second"]))
    if int8 is not None:
        rows.append((f"{result['runtime']}, int8: the file", int8["top1"], int8["images_per_second"]))
    console.show_table(
        "",
        ["network", "top-1 %>", "images/s>"],
        [(name, console.percent(top1), f"{speed:,.0f}") for name, top1, speed in rows],
    )

"""`tekapctl export`."""

from pathlib import Path
from typing import Annotated, Any

from tekapctl.cli import complete, console, options
from tekapctl.cli.options import argument, option
from tekapctl.cli.spec_options import named_values
from tekapctl.store.home import Home


def export(
    reference: Annotated[str, argument("MODEL", options.MODEL_HELP, complete=complete.teachers)],
    output: Annotated[Path, option("-o --output FILE", "File to write; a model card is written beside it.", "Output")],
    model: options.CheckpointModel = None,
    model_args: options.ModelArguments = None,
    format_name: Annotated[
        str | None,
        option("--format FORMAT", "onnx, safetensors or torch-export. [default: from the file extension]", "Output"),
    ] = None,
    int8: Annotated[bool, option("--int8", "Quantize weights and activations to int8 (ONNX only).")] = False,
    best: options.Best = False,
    force: options.Force = False,
    dataset: options.TrainedDataset = None,
    data_dir: options.DataDir = None,
    images: Annotated[
        int | None, option("--images N", "Test images used to check the file. [default: all]", min=1)
    ] = None,
    calibration_images: Annotated[
        int, option("--calibration-images N", "Training images used to calibrate --int8.", min=1)
    ] = 512,
    tolerance: Annotated[
        float, option("--tolerance T", "Maximum difference in logits, relative to the largest logit.", min=0)
    ] = 1e-4,
    max_accuracy_drop: Annotated[
        float,
        option(
            "--max-accuracy-drop FRACTION",
            "Maximum loss of accuracy with --int8, as a fraction of the test images.",
            min=0,
            max=1,
        ),
    ] = 0.05,
    as_json: options.Json = False,
) -> None:
    """Export a trained network to ONNX, safetensors or torch.export, with a model card.

    The exported network takes normalized float32 images and returns logits. It is checked against PyTorch on the test
    images, and discarded if its outputs differ.

    Examples:
    tekapctl export latest --output student.onnx
    tekapctl export latest --output small.onnx --int8
    """
    from tekapctl.commands.export.exporting import ExportOptions
    from tekapctl.commands.export.exporting import export as carry_out

    wanted = ExportOptions(
        output=output,
        format=format_name,
        int8=int8,
        force=force,
        images=images,
        calibration_images=calibration_images,
        tolerance=tolerance,
        max_accuracy_drop=max_accuracy_drop,
    )
    result = carry_out(
        Home.default(),
        reference,
        wanted,
        model=model,
        model_args=named_values(model_args, "--model-arg"),
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
        [
            {"network": name, "top-1 %>": console.percent(top1), "images/s>": f"{speed:,.0f}"}
            for name, top1, speed in rows
        ],
    )

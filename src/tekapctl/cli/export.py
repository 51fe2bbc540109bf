"""`tekapctl export`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tekapctl.cli import complete, console, options
from tekapctl.cli.options import argument, option
from tekapctl.cli.spec_options import named_values
from tekapctl.errors import UsageError, counted
from tekapctl.store.home import Home


def export(
    reference: Annotated[str, argument("MODEL", options.MODEL_HELP, complete=complete.teachers)],
    output: Annotated[
        Path,
        option(
            "-o --output FILE",
            "File to write, or a folder with --format all; a model card is written beside each file.",
            "Output",
        ),
    ],
    model: options.CheckpointModel = None,
    model_args: options.ModelArguments = None,
    format_name: Annotated[
        str | None,
        option(
            "--format FORMAT",
            "onnx, safetensors, torch-export, openvino, coreml, or all of them in all their precisions: all. "
            "[default: from the file extension]",
            "Output",
        ),
    ] = None,
    float16: Annotated[
        bool, option("--float16", "Store weights in float16 (ONNX, torch.export, OpenVINO, Core ML).", "Output")
    ] = False,
    int8: Annotated[bool, option("--int8", "Quantize weights and activations to int8 (ONNX).", "Output")] = False,
    no_preprocessing: Annotated[
        bool,
        option(
            "--no-preprocessing",
            "Leave resizing, normalization and softmax out of the graph: normalized images in, logits out.",
            "Output",
        ),
    ] = False,
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
        float | None,
        option(
            "--tolerance T",
            "Maximum difference of outputs, relative to the largest. [default: 1e-4; with --float16 2e-2]",
            min=0,
        ),
    ] = None,
    max_accuracy_drop: Annotated[
        float,
        option(
            "--max-accuracy-drop FRACTION",
            "Maximum loss of accuracy with --int8, as a fraction of the test images.",
            min=0,
            max=1,
        ),
    ] = 0.05,
    license_name: Annotated[
        str | None, option("--license ID", "License of the weights for the model card, e.g. mit.", "Output")
    ] = None,
    push: Annotated[
        str | None,
        option("--push REPO", "Upload files, card and configuration to this repository.", "Output"),
    ] = None,
    private: Annotated[
        bool, option("--private", "Make the repository private when --push creates it.", "Output")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Export a trained network to ONNX, OpenVINO, Core ML, torch.export or safetensors, with a model card.

    By default a graph takes RGB or gray images of any size as uint8 and returns probabilities. Each file is compared
    with PyTorch on the test images, and discarded if its outputs differ.

    Examples:
    tekapctl export latest --output student.onnx
    tekapctl export latest --output small.onnx --int8
    tekapctl export latest --output deploy --format all
    """
    from tekapctl.commands.export.exporting import ExportOptions
    from tekapctl.commands.export.exporting import export as carry_out

    if float16 and int8:
        raise UsageError("A file has one precision, --float16 or --int8.", "Leave out one, or use --format all.")
    if private and push is None:
        raise UsageError("--private is about a repository, and there is no --push.", "Add --push REPO.")
    wanted = ExportOptions(
        output=output,
        format=format_name,
        precision="int8" if int8 else "float16" if float16 else "float32",
        preprocessing=not no_preprocessing,
        force=force,
        images=images,
        calibration_images=calibration_images,
        tolerance=tolerance,
        max_accuracy_drop=max_accuracy_drop,
        license=license_name,
        push=push,
        private=private,
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
    if any(file["problem"] for file in result["files"]):
        raise typer.Exit(1)


def _show(result: dict[str, Any]) -> None:
    threads, files = result["threads"], result["files"]
    fields = {
        "network": f"{result['model']} from {result['source']}",
        "checked on": f"{result['images']:,} test images of {result['dataset']}, CPU, {counted(threads, 'thread')}",
    }
    if len(files) == 1:
        fields["file"] = files[0]["file"]
        fields["model card"] = files[0]["card"]
    if result["pushed"]:
        fields["pushed to"] = result["pushed"]
    full = next((file["full_size"] for file in files if file["full_size"]), None)
    if full:
        fields["at full size"] = (
            f"{full['images']:,} files resized in the graph: {console.percent(full['agreement'])} % classified as by "
            f"the evaluation, probabilities differ by up to {full['largest_difference']:.2g}"
        )
    console.show_fields(fields)
    torch = result["pytorch"]
    rows = [_row("PyTorch", "float32", "", "", "", torch)]
    for file in files:
        check, size = file["check"], console.format_bytes(file["bytes"]) if file["bytes"] else ""
        name = file["format"] if len(files) == 1 else file["file"].rpartition("/")[2]
        if check is None:
            note = "failed" if file["problem"] else "not run here"
            rows.append(_row(name, file["precision"], size, "", note, {}))
        else:
            difference = f"{check['largest_difference']:.1e}"
            rows.append(_row(name, file["precision"], size, difference, console.percent(check["agreement"]), check))
    console.show_table("", rows, optional=["precision="])
    if any(file["check"] is None and not file["problem"] for file in files):
        console.say("Core ML files run on Apple's systems only")


def _row(name: str, precision: str, size: str, difference: str, agreement: str, found: dict[str, Any]) -> console.Row:
    def milliseconds(batch: int) -> str:
        seconds = found.get(f"seconds_batch_{batch}")
        return "" if seconds is None else f"{1000 * seconds:,.2f}"

    return {
        "format": name,
        "precision=": precision,
        "size>": size,
        "max diff>": difference,
        "agree %>": agreement,
        "top-1 %>": console.percent(found.get("top1")),
        "ms, 1>": milliseconds(1),
        "ms, 32>": milliseconds(32),
    }

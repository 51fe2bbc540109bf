"""`tekapctl evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tekapctl.cli import complete, console, options
from tekapctl.cli.options import argument, option
from tekapctl.cli.spec_options import named_values
from tekapctl.errors import UsageError
from tekapctl.store.home import Home, output_file

if TYPE_CHECKING:
    from tekapctl.commands.mistakes import Mistake


def evaluate(
    reference: Annotated[str, argument("MODEL", options.MODEL_HELP, complete=complete.teachers)],
    model: options.CheckpointModel = None,
    model_args: options.ModelArguments = None,
    best: options.Best = False,
    dataset: options.TrainedDataset = None,
    data_dir: options.DataDir = None,
    device: options.Device = None,
    precision: options.Precision = "float32",
    batch_size: Annotated[int, option("--batch-size N", "Batch size.", "Execution", min=1)] = 500,
    attacks: Annotated[
        list[str] | None, option("--attack NAME", "Adversarial attack: fgsm or pgd. Repeatable.", "Robustness")
    ] = None,
    epsilons: Annotated[
        list[float] | None,
        option(
            "--epsilon EPS",
            "L-inf budget of the attacks, for pixels from 0 to 1. Repeatable. [default: 8/255]",
            "Robustness",
        ),
    ] = None,
    corruptions: Annotated[
        list[str] | None,
        option(
            "--corruption NAME", "Common corruption, e.g. fog or jpeg, or all of them: all. Repeatable.", "Robustness"
        ),
    ] = None,
    severities: Annotated[
        list[int] | None,
        option("--severity N", "Severity of the corruptions, 1 to 5. Repeatable. [default: all five]", "Robustness"),
    ] = None,
    occlusions: Annotated[
        list[float] | None,
        option("--occlusion FRACTION", "Occlude this fraction of each image. Repeatable.", "Robustness"),
    ] = None,
    probes: Annotated[
        list[str] | None,
        option(
            "--probe DATASET",
            "Train a linear probe on the embeddings of another dataset. Repeatable.",
            "Robustness",
            complete=complete.datasets,
        ),
    ] = None,
    limit: Annotated[
        int | None, option("--limit N", "Test robustness on at most N test images. [default: all]", "Robustness", min=1)
    ] = None,
    worst: Annotated[
        int | None,
        option("--worst N", "Write the N most confident mistakes to --output as a page of pictures.", "Output", min=1),
    ] = None,
    output: Annotated[Path | None, option("-o --output FILE", "HTML file to write the pictures to.", "Output")] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Evaluate a network on its test images, and compare a student with its teacher.

    Examples:
    tekapctl evaluate latest
    tekapctl evaluate resnet32x4 --dataset cifar100
    tekapctl evaluate latest --attack pgd --corruption all --probe digits
    tekapctl evaluate latest --worst 50 --output mistakes.html
    """
    from tekapctl.commands import evaluate as command
    from tekapctl.commands.robustness import EPSILON, SEVERITIES, Request

    page = mistakes_page(worst, output, force=force)
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
        worst=worst or 0,
    )
    found = result.pop("mistakes")
    if page is not None:
        evaluation = result["evaluation"]
        wrong = round((1 - evaluation["top1"]) * evaluation["images"])
        source = f"{result['model']} on {result['dataset']}"
        write_mistakes(page, found, source, images=evaluation["images"], wrong=wrong)
    if as_json:
        console.show_json(result)
    else:
        _show(result)


def mistakes_page(worst: int | None, output: Path | None, *, force: bool) -> Path | None:
    """Where the page of mistakes goes, if there will be one.

    Raises:
        UsageError: The number or the file is missing, or the file must not be overwritten.
    """
    if worst is None and output is None:
        return None
    if worst is None or output is None:
        missing = "--output FILE.html" if output is None else "--worst N"
        raise UsageError("A page of mistakes needs --worst and --output.", f"Add {missing}.")
    return output_file(output, Home.default(), force=force)


def write_mistakes(page: Path, found: "list[Mistake]", source: str, *, images: int, wrong: int) -> None:
    """Write the page of mistakes, and say so on stderr.

    Args:
        page: The file.
        found: The mistakes, most confident first.
        source: Network and data, for the title.
        images: Number of images that were predicted.
        wrong: Number of mistakes among them.
    """
    from tekapctl.cli.report import write_page
    from tekapctl.report.mistakes import page as render

    write_page(page, render(found, source, images=images, wrong=wrong), quiet=True)


def _show(result: dict[str, Any]) -> None:
    found = result["evaluation"]
    fields = {
        "network": f"{result['model']} from {result['source']}",
        "data": f"{result['dataset']}, {found['images']:,} test images, in {result['precision']}",
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
    if pairs := console.confused(found["confusions"][:5]):
        fields["confused"] = pairs
    console.show_fields(fields)
    classes = sorted(found["per_class"].items(), key=lambda item: item[1])
    if len(classes) > 12:
        console.say(f"the 10 hardest of {len(classes)} classes (--json prints all):")
        classes = classes[:10]
    console.show_table("", [{"class": name, "top-1 %>": console.percent(top1)} for name, top1 in classes])
    columns = {"shift": "shift", "top1": "top-1 %>", "consistency": "unchanged %>"}
    _show_shifts(
        "Robustness", columns | {"teacher_top1": "teacher %>", "agreement": "agreement %>"}, result["robustness"]
    )
    columns = {"dataset": "dataset", "top1": "top-1 %>", "teacher_top1": "teacher %>"}
    _show_shifts("Linear probes", columns, result["transfer"])


def _show_shifts(title: str, columns: dict[str, str], rows: list[dict[str, Any]]) -> None:
    """Show accuracies under shifts, with the teacher's where there is a teacher."""
    shown = {key: column for key, column in columns.items() if rows and rows[0].get(key) is not None}
    console.show_table(
        title,
        [
            {column: row[key] if key == column else console.percent(row[key]) for key, column in shown.items()}
            for row in rows
        ],
    )

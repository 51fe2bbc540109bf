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
    precision: Annotated[str, typer.Option("--precision", help="auto, float32, tf32 or bfloat16.")] = "float32",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images at a time.")] = 500,
    attacks: Annotated[
        list[str] | None, typer.Option("--attack", help="Measure under adversarial noise too: fgsm, pgd.")
    ] = None,
    epsilons: Annotated[
        list[float] | None,
        typer.Option("--epsilon", help="Most that a pixel is changed by, black to white being 1. (default: 8/255)"),
    ] = None,
    corruptions: Annotated[
        list[str] | None, typer.Option("--corruption", help="Measure under a common corruption too, or all of them.")
    ] = None,
    severities: Annotated[
        list[int] | None, typer.Option("--severity", help="Severities of corruptions. (default: 1 2 3 4 5)")
    ] = None,
    occlusions: Annotated[
        list[float] | None, typer.Option("--occlude", help="Measure with so much of each image's area grey, too.")
    ] = None,
    probes: Annotated[
        list[str] | None, typer.Option("--probe", help="Train a linear probe on another data set's embeddings.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="So many of the test images for shifts of them. (default: all)")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure a trained network on the test images, and a student against its teacher.

    Examples: tekapctl evaluate latest; tekapctl evaluate latest --attack pgd --corruption all --probe digits
    """
    from tekapctl.commands import evaluate as command
    from tekapctl.commands.robustness import EPSILON, SEVERITIES, Request
    from tekapctl.store.home import Home

    result = command.evaluate(
        Home.default(),
        reference,
        model=model,
        model_args=options.named_values(model_args, "--model-arg"),
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
        "calibration error": f"{console.percent(found['calibration_error'])} %",
        "parameters": f"{found['parameters']:,}",
        "MACs an image": f"{found['macs']:,}",
        "speed": f"{found['images_per_second']:,.0f} images/s",
    }
    if found["agreement"] is not None:
        fields["teacher"] = result["teacher"]
        fields["agreement"] = f"{console.percent(found['agreement'])} % of images get the teacher's class"
        fields["KL from teacher"] = f"{found['kl_from_teacher']:.4f} nats"
        fields["correlations of classes"] = f"{found['correlation_distance']:.4f} from the teacher's in the mean"
    console.show_fields(fields)
    per_class = sorted(found["per_class"].items(), key=lambda item: item[1])
    if len(per_class) > 12:
        console.say(f"the 10 hardest of {len(per_class)} classes (--json gives all):")
    console.show_table(
        "",
        ["class", "top-1 %>"],
        [(name, console.percent(share)) for name, share in per_class[: 12 if len(per_class) <= 12 else 10]],
    )
    _show_robustness(result["robustness"], result["transfer"])


def _show_robustness(shifted: list[dict[str, Any]], probed: list[dict[str, Any]]) -> None:
    if shifted:
        columns = ["shift", "top-1 %>", "unchanged prediction %>"]
        keys = ["top1", "consistency"]
        if shifted[0]["teacher_top1"] is not None:
            columns += ["teacher's top-1 %>", "agreement %>"]
            keys += ["teacher_top1", "agreement"]
        rows = [[each["shift"], *(console.percent(each[key]) for key in keys)] for each in shifted]
        console.show_table("under shifts of the test images", columns, rows)
    if probed:
        rows = [
            [
                each["dataset"],
                console.percent(each["top1"]),
                "" if each["teacher_top1"] is None else console.percent(each["teacher_top1"]),
            ]
            for each in probed
        ]
        console.show_table("linear probes", ["data set", "top-1 %>", "teacher's top-1 %>"], rows)

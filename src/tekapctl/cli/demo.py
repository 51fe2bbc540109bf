"""`tekapctl demo`."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from logging import WARNING
from typing import Annotated, Any

from tekapctl import logging
from tekapctl.cli import console, options
from tekapctl.cli.options import option
from tekapctl.cli.progress import Training
from tekapctl.errors import counted
from tekapctl.store.home import Home


def demo(
    seeds: Annotated[int, option("--seeds N", "Students per method.", min=1, max=100)] = 5,
    epochs: Annotated[int, option("--epochs N", "Training epochs of a student.", min=1)] = 80,
    fraction: Annotated[
        float,
        option(
            "--train-fraction FRACTION",
            "Fraction of the training images that students are trained on.",
            min=0.01,
            max=1.0,
        ),
    ] = 0.05,
    as_json: options.Json = False,
) -> None:
    """Compare KD, TeKAP and training without a teacher on a bundled dataset of digits.

    Takes about a minute on two CPU cores and downloads nothing.

    Example: tekapctl demo --seeds 3
    """
    from tekapctl.experiments.demo import ARMS, demonstrate, verdict

    console.say("UCI optical digits: 1,297 training and 500 test images of 8x8 pixels.")
    total, started = 1 + len(ARMS) * seeds, 0

    @contextmanager
    def watched(title: str) -> Iterator[Any]:
        nonlocal started
        started += 1
        with Training(f"[{started}/{total}] {title}", quiet=True) as shown:
            yield shown
        console.say(f"[{started}/{total}] {title}: top-1 {console.percent(shown.top1)} %")

    with logging.level(WARNING):  # the runs' own lines would hide the demo's
        teacher, results = demonstrate(Home.default(), seeds=seeds, epochs=epochs, fraction=fraction, watch=watched)
    baseline, kd, tekap = results
    verdicts = [verdict(one, other) for one, other in ((kd, baseline), (tekap, baseline), (tekap, kd))]
    if as_json:
        arms = [{"title": r.arm.title, "top1": r.accuracies, "runs": r.summaries} for r in results]
        console.show_json({"teacher": teacher, "arms": arms, "verdicts": verdicts})
        return

    def row(name: str, summary: dict[str, Any], accuracies: list[float], seconds: float) -> console.Row:
        return {
            "network": name,
            "images>": f"{summary['train_images']:,}",
            "mean %>": console.percent(statistics.mean(accuracies)),
            "std>": console.percent(statistics.stdev(accuracies)) if len(accuracies) > 1 else "",
            "parameters>": f"{summary['evaluation']['parameters']:,}",
            "time>": console.duration(seconds),
        }

    rows = [row(f"teacher {teacher['model']}", teacher, [teacher["last_top1"]], teacher["seconds"])]
    for result in results:
        summary = result.summaries[0]
        rows.append(row(f"{summary['model']}, {result.arm.title}", summary, result.accuracies, result.seconds))
    console.show_table(f"Top-1 on 500 test images after the last epoch, {counted(seeds, 'seed')}", rows)
    console.show_text("\nDifferences, paired by seed, with 95 % confidence intervals:")
    for sentence in verdicts:
        console.show_text(f"  {sentence}")
    if not any("clearly" in sentence for sentence in verdicts):
        console.show_text("The seeds vary more than the methods differ, so this run shows no winner.")
    last = results[-1].summaries[0]["run"]
    console.show_text(
        "\nNext:\n"
        f"  tekapctl evaluate {last.rpartition('-')[2]}\n"
        "  tekapctl runs list\n"
        "  tekapctl fetch cifar100 resnet32x4 && tekapctl distill      # CIFAR-100"
    )

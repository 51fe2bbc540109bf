"""`tekapctl demo`."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from logging import WARNING
from typing import Annotated, Any

import typer

from tekapctl import logging
from tekapctl.cli import console, options


def demo(
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, max=100, help="Students per method.")] = 5,
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="Training epochs of a student.")] = 80,
    fraction: Annotated[
        float,
        typer.Option(
            "--train-fraction",
            metavar="FRACTION",
            min=0.01,
            max=1.0,
            help="Fraction of the digits that students are trained on.",
        ),
    ] = 0.05,
    as_json: options.Json = False,
) -> None:
    """Compare a student with KD, with TeKAP and without a teacher, on embedded digits.

    Takes about two minutes on two CPU cores and downloads nothing.

    Example: tekapctl demo --seeds 3
    """
    from tekapctl.commands.demo import ARMS, demonstrate, verdict
    from tekapctl.store.home import Home

    console.say("UCI optical digits: 1,297 training and 500 test images of 8x8 pixels.")
    total, started = 1 + len(ARMS) * seeds, 0

    @contextmanager
    def watched(title: str) -> Iterator[Any]:
        nonlocal started
        started += 1
        with console.TrainingProgress(f"[{started}/{total}] {title}", quiet=True) as progress:
            yield progress
        console.say(f"[{started}/{total}] {title}: top-1 {console.percent(progress.top1)} %")

    with logging.level(WARNING):  # the runs' own lines would hide the demo's
        teacher, results = demonstrate(Home.default(), seeds=seeds, epochs=epochs, fraction=fraction, watch=watched)
    baseline, kd, tekap = results
    verdicts = [verdict(one, other) for one, other in ((kd, baseline), (tekap, baseline), (tekap, kd))]
    if as_json:
        console.show_json(
            {
                "teacher": teacher,
                "arms": [{"title": r.arm.title, "top1": r.accuracies, "runs": r.summaries} for r in results],
                "verdicts": verdicts,
            }
        )
        return
    images = results[0].summaries[0]["train_images"]
    rows = [
        (
            f"teacher {teacher['model']}",
            f"{teacher['train_images']:,}",
            console.percent(teacher["last_top1"]),
            "",
            f"{teacher['evaluation']['parameters']:,}",
            console.duration(teacher["seconds"]),
        )
    ]
    rows += [
        (
            f"{result.summaries[0]['model']}, {result.arm.title}",
            f"{images:,}",
            console.percent(statistics.mean(result.accuracies)),
            console.percent(statistics.stdev(result.accuracies)) if seeds > 1 else "",
            f"{result.summaries[0]['evaluation']['parameters']:,}",
            console.duration(result.seconds),
        )
        for result in results
    ]
    console.show_table(
        f"Top-1 on 500 test images after the last epoch, {seeds} seed{'s' if seeds > 1 else ''}",
        ["network", "images>", "mean %>", "std>", "parameters>", "time>"],
        rows,
    )
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

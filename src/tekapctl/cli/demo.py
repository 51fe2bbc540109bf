"""`tekapctl demo`."""

import statistics
from logging import WARNING
from typing import Annotated

import typer

from tekapctl import logging
from tekapctl.cli import console, options


def demo(
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="Runs of each way of training.")] = 5,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs of each student.")] = 60,
    fraction: Annotated[
        float, typer.Option("--train-fraction", min=0.01, max=1.0, help="Share of the digits that students see.")
    ] = 0.1,
    as_json: options.Json = False,
) -> None:
    """Train a teacher and students on the embedded digits, in a few minutes, and compare them.

    Example: tekapctl demo --seeds 3
    """
    from tekapctl.commands.demo import demonstrate, verdict
    from tekapctl.store.home import Home

    console.say("UCI optical digits: 1,297 training and 500 test images of 8x8 pixels, in the package.")

    class Watched:
        def __call__(self, title: str) -> console.TrainingProgress:
            console.say(f"training: {title}")
            return console.TrainingProgress(title, quiet=True, live=False)

    with logging.level(WARNING):  # the runs' own lines would hide the demo's
        teacher, results = demonstrate(Home.default(), seeds=seeds, epochs=epochs, fraction=fraction, watch=Watched())
    verdicts = [verdict(results[-1], other) for other in results[-2::-1]]
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
            teacher["run"],
        )
    ]
    for result in results:
        spread = console.percent(statistics.stdev(result.accuracies)) if seeds > 1 else ""
        rows.append(
            (
                f"student {result.summaries[0]['model']}, {result.arm.title}",
                f"{images:,}",
                console.percent(statistics.mean(result.accuracies)),
                spread,
                f"{result.summaries[0]['evaluation']['parameters']:,}",
                console.duration(result.seconds),
                result.summaries[0]["run"],
            )
        )
    console.show_table(
        f"Top-1 on 500 test images after the last epoch, {seeds} seed{'s' if seeds > 1 else ''} of each student",
        ["network", "images>", "mean %>", "deviation>", "parameters>", "time a run>", "(first) run"],
        rows,
    )
    for sentence in verdicts:
        console.show_text(sentence)
    last = results[-1].summaries[0]["run"]
    console.show_text(
        "\nNext:\n"
        f"  tekapctl evaluate {last}\n"
        "  tekapctl runs list\n"
        f"  tekapctl distill --teacher {teacher['run']} --student resnet8 --dataset digits --epochs 20 --method crd\n"
        "  tekapctl fetch cifar100 resnet32x4 && tekapctl distill        the published experiment, on CIFAR-100"
    )

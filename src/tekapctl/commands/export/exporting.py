"""Export of a trained network by name: what `tekapctl export` does."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tekapctl.commands.evaluate import say_if_changed
from tekapctl.commands.export.card import Card
from tekapctl.commands.export.comparison import BATCH_SIZE, Answers, Comparison, ask, compare
from tekapctl.commands.export.format import Format, Runner, choose
from tekapctl.commands.export.onnx import quantise
from tekapctl.commands.export.subject import Subject, load_subject, spread
from tekapctl.data.batches import CPU
from tekapctl.device import place
from tekapctl.errors import UsageError, failures_in_words
from tekapctl.models.external import Arguments
from tekapctl.store.atomic import atomic_path, sha256
from tekapctl.store.home import Home, output_file

logger = logging.getLogger(__name__)

CALIBRATION_IMAGES = 512
TOLERANCE = 1e-4
MOST_LOST = 0.05


@dataclass(frozen=True)
class ExportOptions:
    """How a network is to be exported.

    Attributes:
        output: The file to write.
        format: Name of the format; found by the file's suffix if None.
        int8: Quantise it to eight bits; ONNX alone.
        force: Replace the file and its card if they are there.
        images: How many test images to check it with; all if None.
        calibration_images: How many training images to find the ranges of activations with.
        tolerance: Largest difference of logits allowed, as a share of the largest logit.
        most_lost: Share of the test images by which accuracy may be lower in eight bits.
    """

    output: Path
    format: str | None = None
    int8: bool = False
    force: bool = False
    images: int | None = None
    calibration_images: int = CALIBRATION_IMAGES
    tolerance: float = TOLERANCE
    most_lost: float = MOST_LOST


@failures_in_words("exporting the network")
def export(
    home: Home,
    name: str,
    wanted: ExportOptions,
    *,
    model: str | None = None,
    arguments: Arguments | None = None,
    best: bool = False,
    dataset: str | None = None,
    folder: str | None = None,
) -> dict[str, Any]:
    """Write a trained network to a file, check the file against the network, and write a model card beside it.

    Args:
        home: Where runs and fetched teachers are.
        name: A run, a checkpoint file, or a fetched teacher.
        wanted: Where to, and how.
        model: The network of a checkpoint file that does not say it.
        arguments: Its arguments, where it is from elsewhere.
        best: Take a run's best epoch's weights, not the last's.
        dataset: The data set's name; the one it was trained on if None.
        folder: A folder with the data set's files.

    Raises:
        UsageError: Network or data are not to be had, something is not installed, or the file is there already.
        TekapctlError: The exported network says something else than the network, or cannot be written; there is no
            file then.
    """
    output = output_file(wanted.output, home, force=wanted.force)
    page = output_file(_beside(output), home, force=wanted.force, what=", where the model card goes,")
    kind, chosen = choose(wanted.format, output)
    if wanted.int8 and kind != "onnx":
        raise UsageError(f"There is no int8 in the format {kind}.", "Use --format onnx, or leave out --int8.")
    chosen.check()
    subject = load_subject(home, name, model=model, arguments=arguments, best=best, dataset=dataset, folder=folder)
    say_if_changed(subject.trained, subject.data, home.datasets)
    logger.info(f"exporting {subject.trained.model} from {subject.trained.reference.described} as {kind}")
    content = chosen.encode(subject)
    images = spread(subject.splits.test, wanted.images)
    logger.info(f"checking it with {len(images):,} test images of {subject.data.described}")
    network = subject.trained.network
    expected = ask(_network(subject), images, network)
    with atomic_path(output, page) as (part, card):
        part.write_bytes(content)
        check = compare(ask(chosen.open(part), images, network), expected)
        check.check_same(wanted.tolerance)
        eight = _to_int8(subject, chosen, content, part, expected, check, wanted) if wanted.int8 else None
        text = Card(subject, kind, chosen, output.name, check, eight).text()
        card.write_text(text, encoding="utf-8", errors="backslashreplace")
    return {
        "file": str(output),
        "card": str(page),
        "format": kind,
        "bytes": output.stat().st_size,
        "sha256": sha256(output),
        "reference": subject.trained.reference.name,
        "source": subject.trained.reference.described,
        "model": subject.trained.model,
        "dataset": subject.data.name,
        "runtime": chosen.runtime(),
        "threads": torch.get_num_threads(),
        "tolerance": wanted.tolerance,
        "check": check.to_dict(),
        "int8": None if eight is None else eight.to_dict(),
    }


def _beside(output: Path) -> Path:
    """Where the model card of a file goes."""
    return output.with_name(f"{output.name}.md")


def _network(subject: Subject) -> Runner:
    """The PyTorch network as `evaluate` runs it on the CPU."""
    network = subject.trained.network
    place(network, CPU)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(images)

    return run


def _to_int8(
    subject: Subject,
    chosen: Format,
    content: bytes,
    part: Path,
    expected: Answers,
    in_float32: Comparison,
    wanted: ExportOptions,
) -> Comparison:
    """Put the network in eight bits in the place of the one in float32."""
    calibration = spread(subject.splits.train, wanted.calibration_images)
    logger.info(f"quantising it with {len(calibration):,} training images")
    part.write_bytes(quantise(content, calibration, subject.trained.network, subject.metadata | {"precision": "int8"}))
    images = spread(subject.splits.test, wanted.images)
    found = compare(ask(chosen.open(part), images, subject.trained.network), expected)
    found.check_accurate(wanted.most_lost)
    if found.images_per_second < in_float32.images_per_second:
        logger.info("in eight bits it is slower on this processor than in float32, only smaller")
    return found


__all__ = ["BATCH_SIZE", "CALIBRATION_IMAGES", "MOST_LOST", "TOLERANCE", "ExportOptions", "export"]

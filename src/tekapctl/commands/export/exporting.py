"""Export a trained network to a file, checked against the network and described by a model card."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tekapctl.commands.evaluate import load_network
from tekapctl.commands.export.card import model_card
from tekapctl.commands.export.format import choose, compare, export_source, run_all, run_module
from tekapctl.data.batches import CPU
from tekapctl.device import place
from tekapctl.errors import UsageError, failures_in_words
from tekapctl.models.external import Arguments
from tekapctl.store.atomic import atomic_path, sha256
from tekapctl.store.home import Home, output_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportOptions:
    """How to export a network.

    Attributes:
        output: The file to write.
        format: Name of the format; None chooses it by the file's suffix.
        int8: Quantise weights and activations to int8.
        force: Overwrite the file and its model card.
        images: Number of test images to check the file with; None for all.
        calibration_images: Number of training images to calibrate the ranges of activations on.
        tolerance: Largest allowed difference between logits, relative to the largest logit.
        max_accuracy_drop: Largest allowed drop of top-1 in int8, as a fraction of the test images.
    """

    output: Path
    format: str | None = None
    int8: bool = False
    force: bool = False
    images: int | None = None
    calibration_images: int = 512
    tolerance: float = 1e-4
    max_accuracy_drop: float = 0.05


@failures_in_words("the export")
def export(
    home: Home,
    name: str,
    options: ExportOptions,
    *,
    model: str | None = None,
    model_args: Arguments | None = None,
    best: bool = False,
    dataset: str | None = None,
    folder: str | None = None,
) -> dict[str, Any]:
    """Write a trained network to a file, check the file against the network, and write a model card.

    The network is chosen as for `evaluate`.

    Returns:
        Plain values. `check` has the fields of `Comparison` for the float32 file, `int8` those for the int8 file.

    Raises:
        UsageError: Network or data are unavailable, a library is missing, or the file already exists.
        TekapctlError: The exported network differs from the network, or cannot be written; no file is left behind.
    """
    output = output_file(options.output, home, force=options.force)
    card_path = output.with_name(f"{output.name}.md")
    card_path = output_file(card_path, home, force=options.force, what=", where the model card goes,")
    kind, chosen = choose(options.format, output)
    if options.int8 and not chosen.supports_int8:
        raise UsageError(f"The format {kind} does not support int8.", "Use the format onnx, or export in float32.")
    chosen.check_installed()
    network = load_network(home, name, model=model, model_args=model_args, best=best, dataset=dataset, folder=folder)
    source = export_source(*network, model_args)
    reference = source.trained.reference
    logger.info(f"exporting {source.trained.model} from {reference.described} as {kind}")
    content = chosen.encode(source)
    images = source.splits.test if options.images is None else source.splits.test.subsample(options.images)
    logger.info(f"checking it on {len(images):,} test images of {source.data.described}")
    place(source.trained.network, CPU)
    expected = run_all(run_module(source.trained.network), source, images)
    int8 = None
    with atomic_path(output, card_path) as (part, card_part):
        part.write_bytes(content)
        check = compare(run_all(chosen.open(part), source, images), expected, images)
        check.check_logits(options.tolerance)
        if options.int8:
            calibration = source.splits.train.subsample(options.calibration_images)
            logger.info(f"calibrating int8 on {len(calibration):,} training images")
            part.write_bytes(chosen.quantize(content, source, calibration))
            int8 = compare(run_all(chosen.open(part), source, images), expected, images)
            int8.check_accuracy(options.max_accuracy_drop)
            if int8.images_per_second < check.images_per_second:
                logger.info("on this CPU the int8 file is smaller, but slower than float32")
        text = model_card(source, kind, chosen, output.name, check, int8)
        card_part.write_text(text, encoding="utf-8", errors="backslashreplace")
    return {
        "file": str(output),
        "card": str(card_path),
        "format": kind,
        "bytes": output.stat().st_size,
        "sha256": sha256(output),
        "reference": reference.name,
        "source": reference.described,
        "model": source.trained.model,
        "dataset": source.data.name,
        "runtime": chosen.runtime(),
        "threads": torch.get_num_threads(),
        "tolerance": options.tolerance,
        "check": asdict(check),
        "int8": None if int8 is None else asdict(int8),
    }

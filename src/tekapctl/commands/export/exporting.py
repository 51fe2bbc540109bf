"""Export a trained network to files, each checked against the network and described by a model card."""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tekapctl.commands.evaluate import load_network
from tekapctl.commands.export.card import Sheet, model_card
from tekapctl.commands.export.check import Check, Comparison, FullSize
from tekapctl.commands.export.format import FORMATS, ExportSource, Format, choose, export_source
from tekapctl.commands.export.hub import Hub
from tekapctl.data.batches import CPU
from tekapctl.device import place
from tekapctl.errors import TekapctlError, UsageError, failures_in_words
from tekapctl.models.external import Arguments
from tekapctl.store.atomic import atomic_entries, sha256
from tekapctl.store.home import Home, expand_user, output_file

logger = logging.getLogger(__name__)

ALL = "all"
"""In place of a format: every format and precision whose packages are installed."""
_CARD = ", where the model card goes,"
_TOLERANCES = {"float32": 1e-4, "float16": 2e-2}


@dataclass(frozen=True)
class ExportOptions:
    """How to export a network.

    Attributes:
        output: The file to write, or the folder for all formats.
        format: Name of the format, or `all`; None chooses it by the file's suffix.
        precision: float32, float16, or int8 for weights and activations.
        preprocessing: Whether graphs resize, normalise and return probabilities.
        force: Overwrite files and their model cards.
        images: Number of test images to check files with; None for all.
        calibration_images: Number of training images to calibrate the ranges of activations on.
        tolerance: Largest allowed difference between outputs, relative to the largest output; None for 1e-4, and 2e-2
            in float16.
        max_accuracy_drop: Largest allowed drop of top-1 in int8, as a fraction of the test images.
        license: Of the weights, as the Hugging Face hub names it, such as `mit`; None leaves it out of the card.
        push: A repository of the hub to upload the files to; None uploads nothing.
        private: Create this repository as a private one.
    """

    output: Path
    format: str | None = None
    precision: str = "float32"
    preprocessing: bool = True
    force: bool = False
    images: int | None = None
    calibration_images: int = 512
    tolerance: float | None = None
    max_accuracy_drop: float = 0.05
    license: str | None = None
    push: str | None = None
    private: bool = False

    def tolerance_of(self, precision: str) -> float:
        """The largest allowed relative difference in a precision."""
        return _TOLERANCES[precision] if self.tolerance is None else self.tolerance


@dataclass(frozen=True)
class Target:
    """A file to write."""

    path: Path
    kind: str
    format: Format
    precision: str

    @property
    def card(self) -> Path:
        """Where its model card goes."""
        return self.path.with_name(f"{self.path.name}.md")

    @property
    def files(self) -> tuple[Path, ...]:
        """All its files; the first one may be a folder."""
        return self.format.parts(self.path)


@dataclass(frozen=True)
class Exported:
    """A file that was written, and its comparisons; None where this machine cannot run it."""

    target: Target
    check: Comparison | None
    full_size: FullSize | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        target = self.target
        return {
            "file": str(target.path),
            "card": str(target.card),
            "format": target.kind,
            "precision": target.precision,
            "bytes": sum(_size(file) for file in target.files),
            "sha256": sha256(target.path) if target.path.is_file() else None,
            "runtime": target.format.runtime(),
            "check": None if self.check is None else asdict(self.check),
            "full_size": None if self.full_size is None else asdict(self.full_size),
            "problem": None,
        }


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
    """Write a trained network to a file or to files of all formats, check each, and write a model card beside each.

    The network is chosen as for `evaluate`.

    Returns:
        Plain values. `files` has one entry for each file, in which `check` has the fields of `Comparison`, and
        `full_size` those of `FullSize`. Of several files one may have failed: its `problem` says why.

    Raises:
        UsageError: Network or data are unavailable, a library is missing, or the file already exists.
        TekapctlError: The exported network differs from the network, or cannot be written; no file is left behind.
    """
    hub = None if options.push is None else Hub(options.push, private=options.private)
    single = None if options.format == ALL else _target(home, options)
    if single is None:
        _check_all(options)
    network = load_network(home, name, model=model, model_args=model_args, best=best, dataset=dataset, folder=folder)
    source = export_source(*network, model_args)
    targets = [single] if single is not None else list(_every_target(source, home, options))
    images = source.splits.test if options.images is None else source.splits.test.subsample(options.images)
    reference = source.trained.reference
    logger.info(f"exporting {source.trained.model} from {reference.described}")
    logger.info(f"checking on {len(images):,} test images of {source.data.described}")
    place(source.trained.network, CPU)
    check = Check(source, images, home.datasets)
    found, written = [], []
    for target in targets:
        try:
            exported = _write(target, source, check, options)
        except TekapctlError as error:
            if single is not None:
                raise
            logger.warning(f"{target.path.name} was not written: {error}")
            found.append(_failed(target, error))
            continue
        written.append(exported)
        found.append(exported.to_dict())
    pushed = None
    if hub is not None and written:
        written.sort(key=lambda one: not one.target.format.leads)  # the first one's card is the repository's
        pushed = hub.upload([(one.target.files, one.target.card) for one in written], source)
    return {
        "reference": reference.name,
        "source": reference.described,
        "model": source.trained.model,
        "dataset": source.data.name,
        "images": len(images),
        "threads": torch.get_num_threads(),
        "pytorch": {
            "runtime": f"PyTorch {torch.__version__.partition('+')[0]}",
            "top1": check.top1,
            "seconds_batch_1": check.seconds[0],
            "seconds_batch_32": check.seconds[1],
        },
        "files": found,
        "pushed": pushed,
    }


def _write(target: Target, source: ExportSource, check: Check, options: ExportOptions) -> Exported:
    """Write a file with its card, unless the check fails."""
    chosen, precision = target.format, target.precision
    source = source.having(precision, includes_preprocessing=options.preprocessing and chosen.has_graph)
    with atomic_entries(*target.files, target.card) as stage:
        part = stage / target.path.name
        chosen.write(source, part)
        runner = chosen.open(part)
        found = None if runner is None else check.compare(runner, source, has_graph=chosen.has_graph)
        if found is not None and precision == "int8":
            found.check_outputs(options.tolerance_of("float32"))
            calibration = source.splits.train.subsample(options.calibration_images)
            logger.info(f"calibrating int8 on {len(calibration):,} training images")
            chosen.quantize(part, source, calibration)
            runner, before = chosen.open(part), found.seconds_batch_32
            assert runner is not None
            found = check.compare(runner, source, has_graph=chosen.has_graph)
            found.check_accuracy(options.max_accuracy_drop)
            if found.seconds_batch_32 > before:
                logger.info("on this CPU the int8 file is smaller, but slower than float32")
        elif found is not None:
            found.check_outputs(options.tolerance_of(precision))
        is_whole = runner is not None and source.includes_preprocessing
        full_size = check.compare_files(runner) if runner is not None and is_whole else None
        size = sum(_size(stage / file.name) for file in target.files)
        sheet = Sheet(target.path.name, target.kind, chosen, size, found, full_size, check.seconds, options.license)
        text = model_card(source, sheet)
        (stage / target.card.name).write_text(text, encoding="utf-8", errors="backslashreplace")
    return Exported(target, found, full_size)


def _target(home: Home, options: ExportOptions) -> Target:
    """The one file to write.

    Raises:
        UsageError: Its path cannot be used, there is no such format, it does not support the precision, or its packages
            are missing.
    """
    output = expand_user(str(options.output))
    if not any(FORMATS[known]().replaces(output) for known in FORMATS):
        output = output_file(options.output, home, force=options.force)
    output_file(output.with_name(f"{output.name}.md"), home, force=options.force, what=_CARD)
    kind, chosen = choose(options.format, output)
    if options.precision not in chosen.precisions:
        able = ", ".join(name for name in FORMATS if options.precision in FORMATS[name].precisions)
        raise UsageError(
            f"The format {kind} does not support {options.precision}.", f"Use {able}, or export in float32."
        )
    chosen.check_installed()
    target = Target(output, kind, chosen, options.precision)
    _check_paths(target, home, options)
    return target


def _every_target(source: ExportSource, home: Home, options: ExportOptions) -> Iterator[Target]:
    """A file for every format and precision whose packages are installed."""
    folder, stem = expand_user(str(options.output)), source.trained.model.replace(":", "-").replace("/", "-")
    for kind in FORMATS:
        chosen = FORMATS[kind]()
        try:
            chosen.check_installed()
        except UsageError as error:
            logger.info(f"left out {kind}: {error.remedy}")
            continue
        for precision in chosen.precisions:
            name = stem if precision == "float32" else f"{stem}-{precision}"
            target = Target(folder / f"{name}{chosen.suffix}", kind, chosen, precision)
            _check_paths(target, home, options)
            yield target


def _check_all(options: ExportOptions) -> None:
    output = expand_user(str(options.output))
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is not a folder, into which all formats are written.", "Name a folder.")
    if options.precision != "float32":
        raise UsageError(
            "All formats are written in all their precisions.", f"Leave out `{options.precision}`, or name a format."
        )


def _check_paths(target: Target, home: Home, options: ExportOptions) -> None:
    """Refuse to overwrite what must be kept."""
    if target.format.replaces(target.path):  # a folder, as output files never are
        if not options.force:
            raise UsageError(f"{target.path} already exists.", "Choose another `output`, or replace it with `force`.")
    else:
        for file in target.files:
            output_file(file, home, force=options.force)
    output_file(target.card, home, force=options.force, what=_CARD)


def _failed(target: Target, error: TekapctlError) -> dict[str, Any]:
    empty = dict.fromkeys(("card", "bytes", "sha256", "runtime", "check", "full_size"))
    return {
        "file": str(target.path),
        "format": target.kind,
        "precision": target.precision,
        **empty,
        "problem": error.problem,
    }


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)

"""What a format of exported networks is; each is one file beside this one."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from tekapctl.commands.export.comparison import BATCH_SIZE
from tekapctl.commands.export.onnx import INPUT
from tekapctl.commands.export.subject import Subject, normalized
from tekapctl.data.image_set import ImageSet
from tekapctl.errors import UsageError, require
from tekapctl.logging import quiet
from tekapctl.models import Network
from tekapctl.registry import Registry

Runner = Callable[[Tensor], Tensor]
"""Normalised float32 images `[batch, c, h, w]` on the CPU, to logits `[batch, classes]`."""


class Format(ABC):
    """A way to write a network to a file and to read it back; each has a subclass in its own file."""

    suffix: ClassVar[str]
    """How names of its files end."""

    @abstractmethod
    def check(self) -> None:
        """See to it that what it needs is installed.

        Raises:
            UsageError: Something is missing.
        """

    @abstractmethod
    def encode(self, subject: Subject) -> bytes:
        """The content of the file.

        Raises:
            TekapctlError: The network cannot be expressed in the format.
        """

    @abstractmethod
    def open(self, path: Path) -> Runner:
        """The network in a file, as those who get it will run it, on the CPU."""

    @abstractmethod
    def runtime(self) -> str:
        """What runs it, with its version."""

    @abstractmethod
    def snippet(self, file: str) -> str:
        """Python that, after `images` (a float32 array `[batch, c, h, w]`), gives `classes` and `logits`.

        Args:
            file: The file's name.
        """


FORMATS: Registry[type[Format]] = Registry("export format", "tekapctl.commands.export")


def choose(name: str | None, path: Path) -> tuple[str, Format]:
    """The format of this name, else the one whose files end as the path does; with its name.

    Raises:
        UsageError: There is none, or its files end in another way.
    """
    if name is None:
        found = [known for known in FORMATS if FORMATS[known].suffix == path.suffix]
        if not found:
            known = ", ".join(f"{FORMATS[known].suffix} ({known})" for known in FORMATS)
            raise UsageError(f"{path.name!r} does not end as files of any format do.", f"Name one of {known}.")
        name = found[0]
    chosen = FORMATS[name]
    if path.suffix != chosen.suffix:
        raise UsageError(
            f"Files of the format {name} end in {chosen.suffix}, and {path.name!r} does not.",
            f"Write to {path.with_suffix(chosen.suffix).name!r}, or choose another --format.",
        )
    return name, chosen()


def quantise(model: bytes, images: ImageSet, network: Network, metadata: dict[str, str]) -> bytes:
    """An ONNX network in eight bits, with quantise and dequantise nodes (QDQ), a scale for each channel of weights.

    Args:
        model: The network in float32.
        images: Training images, by which the ranges of activations are found.
        network: Whose normalization the images get.
        metadata: What is written into the file.

    Raises:
        UsageError: The optional part `export` is missing.
    """
    with quiet(), tempfile.TemporaryDirectory() as folder:
        library = require("export", "onnxruntime.quantization")
        given, ready, done = (Path(folder) / name for name in ("given.onnx", "ready.onnx", "done.onnx"))
        given.write_bytes(model)
        library.quant_pre_process(given, ready, skip_symbolic_shape=True)
        library.quantize_static(
            ready,
            done,
            _reader(library.CalibrationDataReader, images, network),
            quant_format=library.QuantFormat.QDQ,
            per_channel=True,
        )
        onnx = require("export", "onnx")
        quantised = onnx.load(done)
        del quantised.metadata_props[:]
        onnx.helper.set_model_props(quantised, metadata)
        return bytes(quantised.SerializeToString())


def _reader(base: Any, images: ImageSet, network: Network) -> Any:
    """What the library asks for images, a batch at a time, until there is none."""

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest: Iterator[Any] = normalized(images, network, BATCH_SIZE)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.rest, None)
            return None if batch is None else {INPUT: batch.numpy()}

    return Reader()

"""Onnxruntime's static quantisation: weights and activations in eight bits, ranges found on training images."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tekapctl.data.image_set import ImageSet
from tekapctl.export.comparison import BATCH_SIZE
from tekapctl.export.onnx import INPUT
from tekapctl.export.subject import normalized
from tekapctl.extras import require
from tekapctl.models import Network
from tekapctl.quiet import quiet


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

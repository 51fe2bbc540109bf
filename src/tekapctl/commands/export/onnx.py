"""ONNX, which onnxruntime and many others run."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tekapctl.commands.export.comparison import BATCH_SIZE
from tekapctl.commands.export.format import FORMATS, Format, Runner
from tekapctl.commands.export.subject import Subject, normalized
from tekapctl.data.image_set import ImageSet
from tekapctl.errors import TekapctlError, require
from tekapctl.logging import silence_libraries
from tekapctl.models import Network

INPUT, OUTPUT = "images", "logits"
_ONLY_ERRORS = 3


@FORMATS.register("onnx")
class Onnx(Format):
    """One file with all weights in it, batch norms folded; classes and normalisation are in its metadata."""

    suffix: ClassVar[str] = ".onnx"

    def check(self) -> None:
        """The optional part `export` must be there."""
        with silence_libraries():
            for module in ("onnx", "onnxscript", "onnxruntime"):
                require("export", module)

    def encode(self, subject: Subject) -> bytes:
        """The network traced by PyTorch, for batches of any size."""
        bare, example = subject.bare(), subject.example
        batch = torch.export.Dim("batch", min=1)
        with silence_libraries(), torch.no_grad():
            try:
                program = torch.onnx.export(
                    bare,
                    (example,),
                    dynamo=True,
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    dynamic_shapes=({0: batch},),
                    verbose=False,
                )
            except Exception as error:  # what the tracer of any network may raise
                raise untraceable(subject, error) from error
            assert program is not None
            model = program.model_proto
        _describe(model, subject.metadata)
        return bytes(model.SerializeToString())

    def open(self, path: Path) -> Runner:
        """A session of onnxruntime with as many threads as PyTorch has."""
        session = open_session(path)

        def run(images: Tensor) -> Tensor:
            (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
            return torch.from_numpy(logits)

        return run

    def runtime(self) -> str:
        """Onnxruntime on the CPU."""
        return f"onnxruntime {require('export', 'onnxruntime').__version__}"

    def snippet(self, file: str) -> str:
        """Onnxruntime alone, without PyTorch."""
        return (
            "import json\n"
            "import onnxruntime\n\n"
            f"session = onnxruntime.InferenceSession({file!r}, providers=['CPUExecutionProvider'])\n"
            "classes = json.loads(session.get_modelmeta().custom_metadata_map['classes'])\n"
            f"(logits,) = session.run(['{OUTPUT}'], {{'{INPUT}': images}})\n"
        )


def untraceable(subject: Subject, error: Exception) -> TekapctlError:
    """The error for a network that PyTorch cannot write down."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return TekapctlError(
        f"PyTorch cannot trace {subject.trained.model}: {reason}.", "Use --format safetensors; --debug shows where."
    )


def open_session(path: Path) -> Any:
    """A session of onnxruntime on the CPU, silent but for errors."""
    runtime = require("export", "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ONLY_ERRORS
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _describe(model: Any, metadata: dict[str, str]) -> None:
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


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
    with silence_libraries(), tempfile.TemporaryDirectory() as folder:
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

"""ONNX, for onnxruntime and many other runtimes."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tekapctl.commands.export.format import FORMATS, ExportSource, Format, Runner
from tekapctl.data.image_set import ImageSet
from tekapctl.errors import require
from tekapctl.logging import silence_libraries

INPUT, OUTPUT = "images", "logits"
_ONLY_ERRORS = 3


@FORMATS.register("onnx")
class Onnx(Format):
    """One file with all weights, batch norms folded; classes and normalisation are in its metadata."""

    suffix: ClassVar[str] = ".onnx"
    modules: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")

    def encode(self, source: ExportSource) -> bytes:
        """The network traced by PyTorch, for any batch size."""
        module, example = source.inference_module(), source.example
        with silence_libraries(), torch.no_grad():
            try:
                program = torch.onnx.export(
                    module,
                    (example,),
                    dynamo=True,
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                    verbose=False,
                )
            except Exception as error:  # a tracer may raise anything
                raise source.tracing_error(error) from error
            assert program is not None
        return _with_metadata(program.model_proto, source.metadata)

    def quantize(self, content: bytes, source: ExportSource, images: ImageSet) -> bytes:
        """The network with quantise and dequantise nodes (QDQ) and a scale for each channel of the weights."""
        with silence_libraries(), tempfile.TemporaryDirectory() as folder:
            onnx, library = require("export", "onnx"), require("export", "onnxruntime.quantization")
            original, prepared, quantized = (Path(folder) / f"{number}.onnx" for number in range(3))
            original.write_bytes(content)
            library.quant_pre_process(original, prepared, skip_symbolic_shape=True)
            library.quantize_static(
                prepared,
                quantized,
                _calibration_reader(library.CalibrationDataReader, source.normalized(images)),
                quant_format=library.QuantFormat.QDQ,
                per_channel=True,
            )
            return _with_metadata(onnx.load(quantized), source.metadata | {"precision": "int8"})

    def open(self, path: Path) -> Runner:
        """An onnxruntime session with as many threads as PyTorch."""
        runtime = require("export", "onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = _ONLY_ERRORS
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> Tensor:
            (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
            return torch.from_numpy(logits)

        return run

    def runtime(self) -> str:
        """Onnxruntime on the CPU."""
        return f"onnxruntime {require('export', 'onnxruntime').__version__}"

    def snippet(self, file: str) -> str:
        """Needs onnxruntime alone."""
        return (
            "import json\n"
            "import onnxruntime\n\n"
            f"session = onnxruntime.InferenceSession({file!r}, providers=['CPUExecutionProvider'])\n"
            "classes = json.loads(session.get_modelmeta().custom_metadata_map['classes'])\n"
            f"(logits,) = session.run(['{OUTPUT}'], {{'{INPUT}': images}})\n"
        )


def _with_metadata(model: Any, metadata: dict[str, str]) -> bytes:
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString())


def _calibration_reader(base: Any, batches: Iterator[Tensor]) -> Any:
    """The library's reader, which is asked for one batch after the other until it returns None."""

    class Reader(base):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    return Reader()

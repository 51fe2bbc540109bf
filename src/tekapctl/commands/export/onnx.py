"""ONNX, for onnxruntime and many other runtimes."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tekapctl.commands.export.format import FORMATS, INPUT, ExportSource, Format, Runner
from tekapctl.data.image_set import ImageSet
from tekapctl.errors import require
from tekapctl.logging import silence_libraries

_ONLY_ERRORS = 3
_KEPT = "float32/"
"""Begins the names of nodes that int8 leaves as they are."""


@FORMATS.register("onnx")
class Onnx(Format):
    """One file with all weights, batch norms folded; classes and normalisation are in its metadata."""

    suffix: ClassVar[str] = ".onnx"
    has_graph: ClassVar[bool] = True
    leads: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16", "int8")
    modules: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")

    def write(self, source: ExportSource, path: Path) -> None:
        program = source.program()
        with source.tracing():
            exported = torch.onnx.export(
                program, input_names=[INPUT], output_names=[source.output], dynamo=True, verbose=False
            )
        assert exported is not None
        model = exported.model_proto
        if source.includes_preprocessing:
            _mark_preprocessing(model)
        path.write_bytes(_with_metadata(model, source.metadata))

    def quantize(self, path: Path, source: ExportSource, images: ImageSet) -> None:
        """The network with quantise and dequantise nodes (QDQ) and a scale for each channel of the weights."""
        with silence_libraries(), tempfile.TemporaryDirectory() as folder:
            onnx, library = require("export", "onnx"), require("export", "onnxruntime.quantization")
            prepared, quantized = (Path(folder) / f"{number}.onnx" for number in range(2))
            library.quant_pre_process(path, prepared, skip_symbolic_shape=True)
            library.quantize_static(
                prepared,
                quantized,
                _calibration_reader(library.CalibrationDataReader, source.batches(images, has_graph=True)),
                quant_format=library.QuantFormat.QDQ,
                per_channel=True,
                nodes_to_exclude=[node.name for node in onnx.load(prepared).graph.node if node.name.startswith(_KEPT)],
            )
            path.write_bytes(_with_metadata(onnx.load(quantized), source.metadata))

    def open(self, path: Path) -> Runner:
        """An onnxruntime session with as many threads as PyTorch."""
        session = _session(path)

        def run(images: Tensor) -> Tensor:
            (outputs,) = session.run(None, {INPUT: images.numpy()})
            return torch.from_numpy(outputs)

        return run

    def metadata(self, path: Path) -> dict[str, str]:
        """The properties of the model."""
        return dict(_session(path).get_modelmeta().custom_metadata_map)

    def runtime(self) -> str:
        return f"onnxruntime {require('export', 'onnxruntime').__version__}"

    def snippet(self, file: str) -> str:
        """Needs onnxruntime alone."""
        return (
            "import json\n"
            "import onnxruntime\n\n"
            f"session = onnxruntime.InferenceSession({file!r}, providers=['CPUExecutionProvider'])\n"
            "classes = json.loads(session.get_modelmeta().custom_metadata_map['classes'])\n"
            f"(outputs,) = session.run(None, {{'{INPUT}': images}})\n"
        )


def _session(path: Path) -> Any:
    runtime = require("export", "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ONLY_ERRORS
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _mark_preprocessing(model: Any) -> None:
    """Name the nodes of resizing and softmax so that int8 leaves them out: rounding there costs accuracy, not time."""
    nodes = model.graph.node
    made_by = {output: node for node in nodes for output in node.output}
    rounded = [node for node in nodes if node.op_type == "Floor"][1]  # the second of `Resize`, which comes first
    waiting, kept = [rounded], [made_by[model.graph.output[0].name]]
    while waiting:
        node = waiting.pop()
        kept.append(node)
        waiting += [made_by[name] for name in node.input if name in made_by and made_by[name] not in kept]
    for node in kept:
        if not node.name.startswith(_KEPT):
            node.name = _KEPT + node.name


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

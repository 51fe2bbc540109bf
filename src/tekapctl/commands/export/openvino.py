"""OpenVINO's intermediate representation, for Intel CPUs, GPUs and NPUs."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tekapctl.commands.export.format import FORMATS, INPUT, ExportSource, Format, Runner
from tekapctl.errors import require
from tekapctl.logging import silence_libraries


@FORMATS.register("openvino")
class OpenVino(Format):
    """An `.xml` file with the graph and a `.bin` file with the weights; the metadata is below `tekapctl` in both."""

    suffix: ClassVar[str] = ".xml"
    note: ClassVar[str] = (
        "The weights are in the `.bin` file of the same name, which belongs beside it. On some CPUs OpenVINO computes "
        "in bfloat16 unless it is told not to, as above: that is faster and less exact."
    )
    has_graph: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16")
    extra: ClassVar[str] = "openvino"
    modules: ClassVar[tuple[str, ...]] = ("openvino",)

    def write(self, source: ExportSource, path: Path) -> None:
        """The traced network; float16 stores its weights, and devices choose how they compute."""
        openvino = require(self.extra, "openvino")
        program = source.having("float32", includes_preprocessing=source.includes_preprocessing).program()
        with source.tracing():
            model = openvino.convert_model(program)
            model.input(0).get_tensor().set_names({INPUT})
            model.output(0).get_tensor().set_names({source.output})
            for key, value in source.metadata.items():
                model.set_rt_info(value, ["tekapctl", key])
            openvino.save_model(model, path, compress_to_fp16=source.precision == "float16")

    def parts(self, path: Path) -> tuple[Path, ...]:
        return (path, path.with_suffix(".bin"))

    def open(self, path: Path) -> Runner:
        """Compiled for the CPU, computing in float32, with as many threads as PyTorch."""
        openvino = require(self.extra, "openvino")
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        with silence_libraries():
            compiled = openvino.compile_model(path, "CPU", settings)

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(compiled(images.numpy())[0])

        return run

    def runtime(self) -> str:
        return f"OpenVINO {require(self.extra, 'openvino').__version__.partition('-')[0]}"

    def snippet(self, file: str) -> str:
        """Needs OpenVINO alone."""
        return (
            "import json\n"
            "import openvino\n\n"
            f"model = openvino.Core().read_model({file!r})\n"
            "classes = json.loads(model.get_rt_info(['tekapctl', 'classes']).astype(str))\n"
            "network = openvino.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})\n"
            "outputs = network(images)[0]\n"
        )

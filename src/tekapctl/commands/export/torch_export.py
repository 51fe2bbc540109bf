"""PyTorch's exported programs, which run without this package."""

import io
import json
from pathlib import Path
from typing import ClassVar

import torch

from tekapctl import registry
from tekapctl.commands.export.format import FORMATS, ExportSource, Format, Runner, run_module
from tekapctl.logging import silence_libraries

METADATA = "tekapctl.json"


@FORMATS.register("torch-export")
class TorchExport(Format):
    """A `.pt2` file with the traced network, and the metadata as `tekapctl.json`."""

    suffix: ClassVar[str] = ".pt2"
    has_graph: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16")

    def write(self, source: ExportSource, path: Path) -> None:
        """The traced network, batch norms folded."""
        program, file = source.program(), io.BytesIO()
        with source.tracing():
            torch.export.save(program, file, extra_files={METADATA: json.dumps(source.metadata)})
        path.write_bytes(file.getvalue())

    def open(self, path: Path) -> Runner:
        with silence_libraries():
            return run_module(torch.export.load(io.BytesIO(path.read_bytes())).module())

    def metadata(self, path: Path) -> dict[str, str]:
        """The extra file.

        Raises:
            UsageError: The file is not trusted: PyTorch may run code in it.
        """
        registry.check_trusted(f"PyTorch runs code that the file {path} may hold.")
        extra = {METADATA: ""}
        with silence_libraries():
            torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra)
        return {str(key): str(value) for key, value in json.loads(extra[METADATA] or "{}").items()}

    def runtime(self) -> str:
        return f"PyTorch {torch.__version__}, exported program"

    def snippet(self, file: str) -> str:
        """Needs PyTorch alone."""
        return (
            "import json\n"
            "import torch\n\n"
            f"extra = {{{METADATA!r}: ''}}\n"
            f"network = torch.export.load({file!r}, extra_files=extra).module()\n"
            f"classes = json.loads(json.loads(extra[{METADATA!r}])['classes'])\n"
            "with torch.no_grad():\n"
            "    outputs = network(torch.from_numpy(images)).numpy()\n"
        )

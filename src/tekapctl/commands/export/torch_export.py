"""PyTorch's own exported programs, which run without this package."""

import io
import json
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from tekapctl.commands.export.format import FORMATS, Format, Runner
from tekapctl.commands.export.onnx import untraceable
from tekapctl.commands.export.subject import Subject
from tekapctl.logging import silence_libraries

EXTRA = "tekapctl.json"


@FORMATS.register("torch-export")
class TorchExport(Format):
    """A `.pt2` file; what is known of the network is in it as `tekapctl.json`."""

    suffix: ClassVar[str] = ".pt2"

    def check(self) -> None:
        """Nothing but PyTorch is needed."""

    def encode(self, subject: Subject) -> bytes:
        """The network traced, for batches of any size, batch norms folded."""
        bare, example = subject.bare(), subject.example
        written = io.BytesIO()
        with silence_libraries(), torch.no_grad():
            try:
                program = torch.export.export(bare, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
            except Exception as error:  # what the tracer of any network may raise
                raise untraceable(subject, error) from error
            torch.export.save(program, written, extra_files={EXTRA: json.dumps(subject.metadata)})
        return written.getvalue()

    def open(self, path: Path) -> Runner:
        """The program as PyTorch runs it."""
        with silence_libraries():
            module = torch.export.load(io.BytesIO(path.read_bytes())).module()

        def run(images: Tensor) -> Tensor:
            with torch.inference_mode():
                return module(images)

        return run

    def runtime(self) -> str:
        """PyTorch."""
        return f"PyTorch {torch.__version__}, exported program"

    def snippet(self, file: str) -> str:
        """PyTorch alone."""
        return (
            "import json\n"
            "import torch\n\n"
            f"extra = {{{EXTRA!r}: ''}}\n"
            f"network = torch.export.load({file!r}, extra_files=extra).module()\n"
            f"classes = json.loads(json.loads(extra[{EXTRA!r}])['classes'])\n"
            "with torch.no_grad():\n"
            "    logits = network(torch.from_numpy(images)).numpy()\n"
        )

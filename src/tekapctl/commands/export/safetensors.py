"""Safetensors: the weights alone, a checkpoint that every command accepts."""

from pathlib import Path
from typing import ClassVar

import torch

from tekapctl.commands.export.format import FORMATS, ExportSource, Format, Runner, run_module
from tekapctl.store.weights import encode_weights
from tekapctl.train import trained
from tekapctl.train.references import Reference


@FORMATS.register("safetensors")
class Safetensors(Format):
    """The state dict under the network's own names; the metadata tells how to build the network."""

    suffix: ClassVar[str] = ".safetensors"
    note: ClassVar[str] = "The file is also a checkpoint for tekapctl: `tekapctl predict {file} IMAGE`."

    def write(self, source: ExportSource, path: Path) -> None:
        """The weights as trained, without folding."""
        path.write_bytes(encode_weights(source.trained.network.state_dict(), source.metadata))

    def open(self, path: Path) -> Runner:
        """The network as every command loads it."""
        return run_module(trained.load(Reference(str(path), path, f"checkpoint {path}")).network)

    def runtime(self) -> str:
        return f"PyTorch {torch.__version__}"

    def snippet(self, file: str) -> str:
        """Needs this package."""
        return (
            "import torch\n"
            "from tekapctl.store.home import Home\n"
            "from tekapctl.train import references, trained\n\n"
            f"loaded = trained.load(references.find(Home.default(), {file!r}))\n"
            "classes = loaded.classes\n"
            "with torch.no_grad():\n"
            "    outputs = loaded.network(torch.from_numpy(images)).numpy()\n"
        )

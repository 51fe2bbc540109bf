"""Safetensors: the weights alone, which every command of this program takes as a checkpoint."""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from tekapctl.commands.export.format import FORMATS, Format, Runner
from tekapctl.commands.export.subject import Subject
from tekapctl.store.weights import encode_weights
from tekapctl.train import trained
from tekapctl.train.trained import Reference


@FORMATS.register("safetensors")
class Safetensors(Format):
    """The state dict under the network's own names; its metadata says what is needed to build the network again."""

    suffix: ClassVar[str] = ".safetensors"

    def check(self) -> None:
        """The package needs the library anyway."""

    def encode(self, subject: Subject) -> bytes:
        """The weights as they are, no batch norm folded."""
        return encode_weights(subject.trained.network.state_dict(), subject.metadata)

    def open(self, path: Path) -> Runner:
        """The network that `tekapctl evaluate FILE` would measure."""
        network = trained.load(Reference(str(path), path, f"checkpoint {path}")).network

        def run(images: Tensor) -> Tensor:
            with torch.inference_mode():
                return network(images)

        return run

    def runtime(self) -> str:
        """PyTorch."""
        return f"PyTorch {torch.__version__}"

    def snippet(self, file: str) -> str:
        """This package."""
        return (
            "import torch\n"
            "from tekapctl import trained\n"
            "from tekapctl.store.home import Home\n\n"
            f"found = trained.load(trained.find(Home.default(), {file!r}))\n"
            "classes = found.classes\n"
            "with torch.no_grad():\n"
            "    logits = found.network(torch.from_numpy(images)).numpy()\n"
        )

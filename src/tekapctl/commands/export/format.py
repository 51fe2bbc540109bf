"""Export formats, one file each in this package, and the network that they write."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from tekapctl.commands.export.graph import Classifier, Deployed, Half, Resize
from tekapctl.data.batches import CPU, Batches
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.spec import DataSpec
from tekapctl.errors import TekapctlError, UsageError, first_line, require
from tekapctl.logging import silence_libraries
from tekapctl.models.external import Arguments
from tekapctl.models.fusing import fold
from tekapctl.models.hooks import ExternalNetwork, ForwardHook
from tekapctl.registry import Registry
from tekapctl.store.weights import read_metadata
from tekapctl.train.metadata import Preprocessing
from tekapctl.train.trained import Trained

BATCH_SIZE = 100
"""Images per batch of checks and calibration."""
INPUT = "images"
"""Name of a graph's input."""


@dataclass(frozen=True)
class ExportSource:
    """A trained network, on the CPU, with what its export needs.

    The images have as many channels as the network takes. `metadata` are stored in the file. The precision is float32,
    float16, or int8, which starts from a file in float32. With `includes_preprocessing`, a graph takes images of any
    size and returns probabilities; else it takes normalised images and returns logits.
    """

    trained: Trained
    data: DataSpec
    splits: Splits
    preprocessing: Preprocessing
    metadata: dict[str, str]
    precision: str = "float32"
    includes_preprocessing: bool = True

    def having(self, precision: str, *, includes_preprocessing: bool) -> "ExportSource":
        """The same network for a file in this precision, with or without preprocessing in its graph."""
        stated = {
            "precision": precision,
            "preprocessing": "inside" if includes_preprocessing else "outside",
            "image_channels": str(self.channels),
        }
        metadata = self.metadata | stated
        return replace(self, metadata=metadata, precision=precision, includes_preprocessing=includes_preprocessing)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order."""
        return self.splits.test.classes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the dataset's images, to which a graph resizes."""
        _, height, width = self.splits.test.image_shape
        return height, width

    @property
    def channels(self) -> int:
        """Number of channels of the images that a graph takes: 1 where the network sees grey images thrice."""
        return 1 if self.splits.test.is_grey else self.splits.test.image_shape[0]

    @property
    def input_shape(self) -> str:
        """The shape of a graph's input, in words."""
        if self.includes_preprocessing:
            return f"[batch, height, width, {self.channels}]"
        height, width = self.preprocessing.size
        return f"[batch, {len(self.preprocessing.mean)}, {height}, {width}]"

    @property
    def output(self) -> str:
        """Name of a graph's output."""
        return "probabilities" if self.includes_preprocessing else "logits"

    @property
    def example(self) -> Float[Tensor, "batch c h w"]:
        """Normalised images to trace the network with: two, as a batch of one would fix the batch size to one."""
        index = torch.arange(2) % len(self.splits.test)
        batches = Batches(self.splits.test, 2, device=CPU)
        return self.trained.network.normalize(batches.at(index, torch.zeros_like(index)))

    def inference_module(self) -> nn.Module:
        """A module from normalised images to logits, with batch norms folded where results stay the same."""
        folded: nn.Module = fold(self.trained.network, self.example).network
        if isinstance(folded, ExternalNetwork):
            # Tracers do not support the hooks that read feature maps, and the export does not need them.
            for module in folded.network.modules():
                for key, hook in list(module._forward_hooks.items()):
                    if isinstance(hook, ForwardHook):
                        del module._forward_hooks[key]
            folded = folded.network
        return Half(folded) if self.precision == "float16" else folded

    def classifier(self) -> Classifier:
        """A module from pixels at the dataset's size, `[batch, channels, h, w]` from 0 to 255, to probabilities."""
        normalization = self.trained.network.normalization
        assert normalization is not None
        return Classifier(self.inference_module(), normalization, self.channels, self.size).eval()

    def deployed(self) -> Deployed:
        """A module from images of any size, as image libraries return them, to probabilities."""
        return Deployed(Resize(self.size, self.preprocessing.crop_fraction), self.classifier()).eval()

    def program(self) -> Any:
        """The graph as traced by `torch.export`, for any batch size, and any image size if it resizes.

        Raises:
            TekapctlError: PyTorch cannot trace the network.
        """
        batch = torch.export.Dim("batch", min=1)
        if self.includes_preprocessing:
            module: nn.Module = self.deployed()
            # Sides that differ from each other and from the network's own are not taken for constants.
            example = torch.zeros(2, self.size[0] + 5, self.size[1] + 11, self.channels, dtype=torch.uint8)
            sides = (torch.export.Dim(name, min=1, max=2**15) for name in ("height", "width"))
            shapes = dict(enumerate((batch, *sides)))
        else:
            module, example, shapes = self.inference_module(), self.example, {0: batch}
        with self.tracing():
            return torch.export.export(module.eval(), (example,), dynamic_shapes=(shapes,))

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Trace or convert the network in the block, which may raise anything.

        Raises:
            TekapctlError: It did.
        """
        with silence_libraries(), torch.no_grad():
            try:
                yield
            except Exception as error:
                raise TekapctlError(
                    f"{self.trained.model} cannot be traced: {first_line(error)}.",
                    "Use the format safetensors; `debug` shows where it failed.",
                ) from error

    def batches(self, images: ImageSet, *, has_graph: bool, size: int = BATCH_SIZE) -> Iterator[Tensor]:
        """Images as a runner takes them, in batches and in order, on the CPU."""
        for batch in Batches(images, size, device=CPU).in_order():
            if has_graph and self.includes_preprocessing:
                yield batch.images[:, : self.channels].permute(0, 2, 3, 1).contiguous()
            else:
                yield self.trained.network.normalize(batch.images).contiguous()


Runner = Callable[[Shaped[Tensor, "batch ..."]], Float[Tensor, "batch classes"]]
"""Maps images on the CPU to the file's output: uint8 `[batch, h, w, c]` to probabilities if the file has a graph with
preprocessing, else normalised float32 `[batch, c, h, w]` to logits."""


def run_module(module: Callable[[Tensor], Tensor]) -> Runner:
    """A runner of a module or network, without gradients."""
    return torch.inference_mode()(lambda images: module(images))


def export_source(loaded: Trained, spec: DataSpec, splits: Splits, model_args: Arguments | None) -> ExportSource:
    """A network with what its export needs; `model_args` are those that an external model was built with."""
    reference, normalization = loaded.reference, loaded.network.normalization
    assert normalization is not None
    channels, height, width = splits.test.image_shape
    height, width = normalization.size or (height, width)
    preprocessing = Preprocessing((height, width), normalization.mean, normalization.std, splits.test.center_crop)
    stated = read_metadata(reference.path) if reference.path.suffix == ".safetensors" else {}
    metadata = {
        "model_args": json.dumps(dict(model_args or {})),
        **stated,
        "format": "tekapctl weights 1",
        "model": loaded.model,
        "dataset": spec.name,
        "num_classes": str(len(splits.test.classes)),
        "classes": json.dumps(splits.test.classes),
        "in_channels": str(channels),
        "image_size": f"{height}x{width}",
        "mean": json.dumps(preprocessing.mean),
        "std": json.dumps(preprocessing.std),
        "middle": str(preprocessing.crop_fraction),
        "source_sha256": loaded.digest,
    }
    return ExportSource(loaded, spec, splits, preprocessing, metadata)


class Format(ABC):
    """A file format for trained networks."""

    suffix: ClassVar[str]
    """Suffix of its files."""
    note: ClassVar[str] = ""
    """What else its model card says about use, in Markdown; `{file}` stands for the file's name."""
    has_graph: ClassVar[bool] = False
    """Whether files hold the network's graph, which `ExportSource.program` traces, and not its weights alone."""
    leads: ClassVar[bool] = False
    """Whether its model card is that of a repository to which files of several formats are pushed."""
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    """Of float32, float16 and int8, those that it supports."""
    extra: ClassVar[str] = "export"
    """The extra of this package that installs its modules."""
    modules: ClassVar[tuple[str, ...]] = ()
    """Modules that it needs."""

    def check_installed(self) -> None:
        """Check that its modules can be imported.

        Raises:
            UsageError: One is missing.
        """
        with silence_libraries():
            for module in self.modules:
                require(self.extra, module)

    @abstractmethod
    def write(self, source: ExportSource, path: Path) -> None:
        """Write the file; int8 starts from a file in float32.

        Raises:
            TekapctlError: The format cannot express the network.
        """

    def quantize(self, path: Path, source: ExportSource, images: ImageSet) -> None:
        """Replace a file by one in int8, calibrated on training images; formats with int8 override this method."""
        raise NotImplementedError

    def parts(self, path: Path) -> tuple[Path, ...]:
        """All files that belong to a file: it comes first, and may be a folder."""
        return (path,)

    def replaces(self, folder: Path) -> bool:
        """Whether a folder is an earlier export in this format, which may be replaced."""
        return False

    @abstractmethod
    def open(self, path: Path) -> Runner | None:
        """Load a file the way its users will, on the CPU; None if this machine cannot run it."""

    def metadata(self, path: Path) -> dict[str, str]:
        """What a file states of its network; formats with a graph that `predict` can run override this method.

        Raises:
            UsageError: They are not read from this format, or the file is not trusted.
        """
        raise UsageError(
            f"Files that end in {self.suffix} cannot be used here.", "Use the run, or export it to .onnx or .pt2."
        )

    @abstractmethod
    def runtime(self) -> str:
        """Name and version of the library that runs the file."""

    @abstractmethod
    def snippet(self, file: str) -> str:
        """Python for the model card that computes `classes` and `outputs` from `images`, a runner's input in NumPy."""


FORMATS: Registry[type[Format]] = Registry("export format", "tekapctl.commands.export")


def choose(name: str | None, path: Path) -> tuple[str, Format]:
    """Name and instance of the format with this name, or of the one with the path's suffix.

    Raises:
        UsageError: There is none, or the suffix is not the format's.
    """
    if name is None:
        name = next((known for known in FORMATS if FORMATS[known].suffix == path.suffix), None)
    if name is None:
        known = ", ".join(f"{FORMATS[known].suffix} ({known})" for known in FORMATS)
        raise UsageError(f"No export format has the suffix of {path.name!r}.", f"Use one of {known}.")
    chosen = FORMATS[name]
    if path.suffix != chosen.suffix:
        raise UsageError(
            f"Files of the format {name} end in {chosen.suffix}, and {path.name!r} does not.",
            f"Write to {path.with_suffix(chosen.suffix).name!r}, or choose another format.",
        )
    return name, chosen()

"""Core ML, for Apple's devices."""

import os
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from tekapctl.commands.export.format import FORMATS, ExportSource, Format, Runner
from tekapctl.errors import UsageError, require
from tekapctl.logging import silence_libraries

_LAYOUTS = {1: "GRAYSCALE", 3: "RGB"}


class _Cropped(nn.Module):
    """A classifier of the middle of images: Vision resizes them to a size, and the network was tested on their middle.

    Args:
        classifier: From pixels to probabilities.
        size: Height and width of the middle.
    """

    def __init__(self, classifier: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.classifier, self.size = classifier, size

    def forward(self, pixels: Tensor) -> Tensor:
        (height, width), (down, across) = self.size, pixels.shape[2:]
        top, left = (down - height) // 2, (across - width) // 2
        return self.classifier(pixels[:, :, top : top + height, left : left + width])


@FORMATS.register("coreml")
class CoreMl(Format):
    """An `.mlpackage` folder with an image classifier, which Vision and Xcode know how to feed."""

    suffix: ClassVar[str] = ".mlpackage"
    has_graph: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16")
    extra: ClassVar[str] = "coreml"
    modules: ClassVar[tuple[str, ...]] = ("coremltools",)
    note: ClassVar[str] = (
        "The input is one image at the network's size: Vision crops and resizes photographs with "
        "`VNImageCropAndScaleOption.centerCrop`. The file was made and not run: Core ML runs on Apple's systems only."
    )

    def write(self, source: ExportSource, path: Path) -> None:
        """The traced network as an ML program for iOS 15, macOS 12 and later, with the classes' names."""
        if not source.includes_preprocessing:
            raise UsageError("Core ML files take images.", "Leave out `no_preprocessing`, or use the format onnx.")
        if source.channels not in _LAYOUTS:
            raise UsageError(
                f"Core ML has no images with {source.channels} channels.", "Export to another format, such as onnx."
            )
        with silence_libraries():
            tools = require(self.extra, "coremltools")
        classifier = source.having("float32", includes_preprocessing=True).classifier()
        height, width = (round(side / source.preprocessing.crop_fraction) for side in source.size)
        shape = (1, source.channels, height, width)
        # Its progress bars go to stderr.
        with source.tracing(), redirect_stderr(StringIO()):
            module = classifier if (height, width) == source.size else _Cropped(classifier, source.size).eval()
            program = torch.export.export(module, (torch.zeros(shape),)).run_decompositions({})
            layout = getattr(tools.colorlayout, _LAYOUTS[source.channels])
            model = tools.convert(
                program,
                inputs=[tools.ImageType(name="image", shape=shape, color_layout=layout)],
                classifier_config=tools.ClassifierConfig(list(source.classes)),
                convert_to="mlprogram",
                compute_precision=getattr(tools.precision, source.precision.upper()),
                minimum_deployment_target=tools.target.iOS15,
                skip_model_load=True,
            )
            model.user_defined_metadata.update(source.metadata)
            model.save(str(path))

    def replaces(self, folder: Path) -> bool:
        """Packages have a manifest."""
        return folder.suffix == self.suffix and os.path.isfile(folder / "Manifest.json")  # noqa: PTH113 - any name

    def open(self, path: Path) -> Runner | None:
        """Not here: the framework runs on Apple's systems only."""
        return None

    def runtime(self) -> str:
        with silence_libraries():
            return f"Core ML (coremltools {require(self.extra, 'coremltools').__version__})"

    def snippet(self, file: str) -> str:
        """Runs on macOS only."""
        return (
            "import coremltools\n\n"
            f"model = coremltools.models.MLModel({file!r})\n"
            "size = model.get_spec().description.input[0].type.imageType\n"
            "image = ImageOps.fit(image, (size.width, size.height), Image.Resampling.BILINEAR)\n"
            "found = model.predict({'image': image})['classLabel_probs']\n"
            "classes, outputs = list(found), np.array([list(found.values())])\n"
        )

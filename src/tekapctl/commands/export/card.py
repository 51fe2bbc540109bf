"""The model card beside an exported network: facts, accuracy, usage and origin, in Markdown."""

import json
import math
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import torch

from tekapctl import __version__
from tekapctl.commands.export.format import Comparison, ExportSource, Format
from tekapctl.models.network import macs, parameters
from tekapctl.store.run import Run
from tekapctl.train.metadata import Preprocessing

_FENCE = re.compile(r"`{3,}")


@dataclass(frozen=True)
class Card:
    """The content of a model card: a network and its file, compared in float32 and, if it was quantised, in int8."""

    source: ExportSource
    kind: str
    format: Format
    file: str
    check: Comparison
    int8: Comparison | None

    def text(self) -> str:
        """The card, in Markdown."""
        run = self.source.trained.reference.run
        summary = (run.summary() if run else None) or {}
        parts = [
            f"# {_plain(self.source.trained.model)}, {_plain(self.source.data.name)}",
            self._opening(summary),
            _table(self._facts()),
            "## Input and output",
            self._interface(),
            fence(json.dumps(self.source.classes), "json"),
            "## Accuracy and speed",
            _table(self._accuracy(summary)),
            "## Usage",
            self._usage(),
            "## Origin",
            _table(self._origin(run, summary)),
        ]
        spec = run.path / "spec.toml" if run else None
        if spec is not None and spec.is_file():
            parts += [
                "The run's complete spec:",
                fence(spec.read_text(encoding="utf-8", errors="replace"), "toml"),
            ]
        return "\n\n".join(part.rstrip() for part in parts) + "\n"

    def _opening(self, summary: dict[str, Any]) -> str:
        trained = {"student": ", distilled from a teacher", "teacher": ", trained without a teacher"}
        training = trained.get(str(summary.get("kind")), "")
        precision = "int8 (QDQ)" if self.int8 else "float32"
        return (
            f"An image classifier{training}, in {precision}, stored as `{_code(self.file)}`. "
            f"Exported by tekapctl {__version__}."
        )

    def _facts(self) -> list[tuple[str, str]]:
        network, images = self.source.trained.network, self.source.splits.test
        return [
            ("network", self.source.trained.model),
            ("data set", self.source.data.name),
            ("classes", f"{len(self.source.classes):,}"),
            ("format", f"{self.kind}{', int8' if self.int8 else ''}"),
            ("parameters", f"{parameters(network):,}"),
            ("multiply-accumulates per image", f"{macs(network, images.image_shape):,}"),
        ]

    def _interface(self) -> str:
        images = self.source.preprocessing
        channels, (height, width) = len(images.mean), images.size
        return (
            f"Input `images`: float32 `[batch, {channels}, {height}, {width}]`, any batch size. Scale pixels to 0..1, "
            f"subtract the channel mean `{list(images.mean)}` and divide by the channel standard deviation "
            f"`{list(images.std)}`.\n\n"
            f"Output `logits`: float32 `[batch, {len(self.source.classes)}]`; a softmax turns them into probabilities. "
            "The classes in order:"
        )

    def _accuracy(self, summary: dict[str, Any]) -> list[tuple[str, str]]:
        check, runtime = self.check, self.format.runtime()
        rows = [
            ("PyTorch, float32", f"top-1 {_percent(check.torch_top1)} on {check.images:,} test images"),
            (f"{runtime}, float32", f"top-1 {_percent(check.top1)}"),
            ("largest logit, PyTorch", f"{check.largest_logit:.3g}"),
            ("largest difference between logits", f"{check.largest_difference:.3g}"),
            ("agreement of predictions", _percent(check.agreement)),
            ("speed on the exporting CPU", _speeds(check)),
        ]
        if self.int8 is not None:
            rows += [
                (f"{runtime}, int8 (this file)", f"top-1 {_percent(self.int8.top1)}"),
                ("agreement of predictions, int8", _percent(self.int8.agreement)),
                ("speed on the exporting CPU, int8", _speeds(self.int8)),
            ]
        evaluation = _table_of(summary, "evaluation")
        of_run: tuple[tuple[str, Any, Callable[[Any], str]], ...] = (
            ("run: final top-1", summary.get("last_top1"), _percent),
            ("run: best top-1", summary.get("best_top1"), _percent),
            ("run: best epoch", summary.get("best_epoch"), str),
            ("run: final top-5", evaluation.get("top5"), _percent),
            ("run: negative log-likelihood", evaluation.get("negative_log_likelihood"), "{:.4f} nats".format),
            ("run: expected calibration error", evaluation.get("calibration_error"), _percent),
            ("run: agreement with the teacher", evaluation.get("agreement"), _percent),
        )
        rows += [(name, form(value)) for name, value, form in of_run if _is_number(value)]
        published = self.source.metadata.get("published_top1")
        return [*rows, ("published top-1", f"{published} %")] if published else rows

    def _usage(self) -> str:
        code = f"{preprocessing_snippet(self.source.preprocessing)}\n{self.format.snippet(self.file)}{_PRINT}"
        note = self.format.note.replace("{file}", _code(self.file))
        return f"{fence(code, 'python')}\n\n{note}"

    def _origin(self, run: Run | None, summary: dict[str, Any]) -> list[tuple[str, str]]:
        trained, teacher = self.source.trained, _table_of(summary, "teacher")
        rows = [("weights", trained.reference.described), ("SHA-256 of the weights", trained.digest)]
        if "epoch" in self.source.metadata:
            rows.append(("epoch of the weights", self.source.metadata["epoch"]))
        if summary.get("method"):
            rows.append(("method", str(summary["method"])))
        if teacher:
            rows.append(("teacher", f"{teacher.get('model')} from {teacher.get('reference')}"))
        if _is_number(teacher.get("top1")):
            rows.append(("teacher's top-1", _percent(teacher["top1"])))
        environment = {name: value for name, value in _environment(run).items() if value is not None}
        rows += [(f"trained with: {name}", str(value)) for name, value in environment.items()]
        versions = f"tekapctl {__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}"
        return [
            *rows,
            ("exported with", versions),
            ("checked with", self.format.runtime()),
            ("exported on", f"{datetime.now().astimezone():%Y-%m-%d}"),
        ]


_PRINT = "print(classes[int(logits[0].argmax())])\n"


def preprocessing_snippet(preprocessing: Preprocessing) -> str:
    """Python that turns an image file into `images` as this program does; zeros for unusual numbers of channels."""
    mean, std, fraction = preprocessing.mean, preprocessing.std, preprocessing.crop_fraction
    channels, (height, width) = len(mean), preprocessing.size
    if channels not in (1, 3):
        shape = (1, channels, height, width)
        return f"import numpy as np\n\nimages = np.zeros({shape}, dtype=np.float32)  # your normalised images\n"
    side = math.ceil(max(height, width) / fraction)
    bleed = f", {(1 - fraction) / 2:g}" if fraction < 1 else ""
    return (
        "import numpy as np\n"
        "from PIL import Image, ImageOps\n\n"
        'image = Image.open("image.png")\n'
        f"image.draft('RGB', ({side}, {side}))  # decode large JPEGs at reduced size\n"
        f"image = ImageOps.exif_transpose(image).convert({'L' if channels == 1 else 'RGB'!r})\n"
        f"image = ImageOps.fit(image, ({width}, {height}), Image.Resampling.BILINEAR{bleed})\n"
        f"pixels = np.asarray(image, dtype=np.float32).reshape({height}, {width}, {channels}) / 255\n"
        f"pixels = (pixels - np.float32({list(mean)})) / np.float32({list(std)})\n"
        "images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])\n"
    )


def fence(text: str, language: str) -> str:
    """A Markdown code block, whatever backticks the text contains."""
    longest = max((len(run) for run in _FENCE.findall(text)), default=2)
    bar = "`" * (longest + 1)
    return f"{bar}{language}\n{text.rstrip()}\n{bar}"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {_plain(name)} | {_plain(value)} |" for name, value in rows)])


def _plain(text: str) -> str:
    """Text in one line, escaped for Markdown."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", printable)


def _code(text: str) -> str:
    return "".join(c if c.isprintable() and c != "`" else "?" for c in text)


def _table_of(summary: dict[str, Any], name: str) -> dict[str, Any]:
    value = summary.get(name)
    return value if isinstance(value, dict) else {}


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _environment(run: Run | None) -> dict[str, Any]:
    try:
        found = json.loads((run.path / "environment.json").read_text(encoding="utf-8")) if run else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _speeds(comparison: Comparison) -> str:
    threads = torch.get_num_threads()
    return (
        f"{comparison.images_per_second:,.0f} images/s, PyTorch {comparison.torch_images_per_second:,.0f} "
        f"({threads} thread{'s' if threads > 1 else ''}, batches of {comparison.batch_size})"
    )

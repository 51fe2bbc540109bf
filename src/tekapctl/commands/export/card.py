"""The model card beside an exported network: what it is, how good it is, where it comes from, how to run it."""

import json
import math
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import torch

from tekapctl import __version__
from tekapctl.commands.export.comparison import Comparison
from tekapctl.commands.export.format import Format
from tekapctl.commands.export.subject import Subject
from tekapctl.models.network import macs, parameters
from tekapctl.store.run import Run
from tekapctl.train.trained import Preparation

_FENCE = re.compile(r"`{3,}")


@dataclass(frozen=True)
class Card:
    """Everything that a model card tells.

    Attributes:
        subject: What was exported.
        kind: Name of the format.
        format: The format.
        file: Name of the file.
        check: The file in float32 beside the PyTorch network.
        int8: The file in eight bits beside the PyTorch network, if it was quantised.
    """

    subject: Subject
    kind: str
    format: Format
    file: str
    check: Comparison
    int8: Comparison | None

    def text(self) -> str:
        """The card, in Markdown."""
        run = self.subject.trained.reference.run
        parts = [
            f"# {_plain(self.subject.trained.model)}, {_plain(self.subject.data.name)}",
            self._opening(),
            _table(self._facts()),
            "## Input and output",
            self._interface(),
            fence(json.dumps(self.subject.classes), "json"),
            "## How good it is",
            _table(self._accuracy(run)),
            "## How to run it",
            *self._usage(),
            "## Where it comes from",
            _table(self._origin(run)),
        ]
        spec = run.path / "spec.toml" if run else None
        if spec is not None and spec.is_file():
            parts += [
                "The complete spec of the run:",
                fence(spec.read_text(encoding="utf-8", errors="replace"), "toml"),
            ]
        return "\n\n".join(part.rstrip() for part in parts) + "\n"

    def _opening(self) -> str:
        summary = _summary(self.subject.trained.reference.run)
        learned = {"student": "distilled from a teacher", "teacher": "trained alone"}.get(str(summary.get("kind")))
        precision = "in eight bits (QDQ)" if self.int8 else "in float32"
        what = f"An image classifier{f', {learned}' if learned else ''}, {precision}, as `{_code(self.file)}`"
        return f"{what}, written by tekapctl {__version__}."

    def _facts(self) -> list[tuple[str, str]]:
        network, images = self.subject.trained.network, self.subject.splits.test
        return [
            ("network", self.subject.trained.model),
            ("data set", self.subject.data.name),
            ("classes", f"{len(self.subject.classes):,}"),
            ("format", f"{self.kind}{', int8' if self.int8 else ''}"),
            ("parameters", f"{parameters(network):,}"),
            ("multiply-accumulates an image", f"{macs(network, images.image_shape):,}"),
        ]

    def _interface(self) -> str:
        made = self.subject.preparation
        channels, (height, width) = len(made.mean), made.size
        return (
            f"Input `images`: float32 `[batch, {channels}, {height}, {width}]`, any batch size, "
            f"{channels} channel{'s' if channels > 1 else ''}. Pixels from 0 to 1, less the mean "
            f"`{list(made.mean)}`, divided by the standard deviation `{list(made.std)}`, a number a channel.\n\n"
            f"Output `logits`: float32 `[batch, {len(self.subject.classes)}]`; a softmax makes probabilities of them. "
            "The classes in order:"
        )

    def _accuracy(self, run: Run | None) -> list[tuple[str, str]]:
        check, summary = self.check, _summary(run)
        rows = [
            ("PyTorch, float32", f"top-1 {_percent(check.torch_top1)} on {check.images:,} test images"),
            (f"{self.format.runtime()}, float32", f"top-1 {_percent(check.top1)}"),
            (
                "largest difference of logits",
                f"{check.largest_difference:.3g}, with logits up to {check.largest_logit:.3g}",
            ),
            ("equal top-1 predictions", _percent(check.agreement)),
            ("speed on the CPU it was checked on", _speeds(check)),
        ]
        if self.int8 is not None:
            rows += [
                (f"{self.format.runtime()}, int8: the file", f"top-1 {_percent(self.int8.top1)}"),
                ("int8, equal top-1 predictions", _percent(self.int8.agreement)),
                ("int8, speed on that CPU", _speeds(self.int8)),
            ]
        evaluation = summary.get("evaluation")
        evaluation = evaluation if isinstance(evaluation, dict) else {}
        told: tuple[tuple[str, Any, Callable[[Any], str]], ...] = (
            ("run, last epoch, top-1", summary.get("last_top1"), _percent),
            ("run, best epoch, top-1", summary.get("best_top1"), _percent),
            ("run, best epoch", summary.get("best_epoch"), str),
            ("run, last epoch, top-5", evaluation.get("top5"), _percent),
            ("run, negative log-likelihood", evaluation.get("negative_log_likelihood"), "{:.4f} nats".format),
            ("run, calibration error", evaluation.get("calibration_error"), _percent),
            ("run, agreement with the teacher", evaluation.get("agreement"), _percent),
        )
        for name, value, form in told:
            if type(value) in (int, float):
                rows.append((name, form(value)))
        published = self.subject.metadata.get("published_top1")
        return [*rows, ("published top-1", f"{published} %")] if published else rows

    def _usage(self) -> Sequence[str]:
        made = self.subject.preparation
        parts = [fence(f"{picture_snippet(made)}\n{self.format.snippet(self.file)}{_ANSWER}", "python")]
        if self.kind == "safetensors":
            parts.append(f"It is a checkpoint of tekapctl too: `tekapctl predict {_code(self.file)} IMAGE`.")
        return parts

    def _origin(self, run: Run | None) -> list[tuple[str, str]]:
        trained, summary = self.subject.trained, _summary(run)
        teacher = summary.get("teacher")
        teacher = teacher if isinstance(teacher, dict) else {}
        rows = [("weights", trained.reference.described), ("SHA-256 of the weights", trained.digest)]
        if "epoch" in self.subject.metadata:
            rows.append(("weights of epoch", self.subject.metadata["epoch"]))
        if summary.get("method"):
            rows.append(("method", str(summary["method"])))
        if teacher:
            rows.append(("teacher", f"{teacher.get('model')} from {teacher.get('reference')}"))
        if type(teacher.get("top1")) in (int, float):
            rows.append(("teacher, top-1", _percent(teacher["top1"])))
        for name, value in _environment(run).items():
            if value is not None:
                rows.append((f"trained with: {name}", str(value)))
        return [
            *rows,
            (
                "exported with",
                f"tekapctl {__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}",
            ),
            ("checked with", self.format.runtime()),
            ("exported on", f"{datetime.now().astimezone():%Y-%m-%d}"),
        ]


_ANSWER = "print(classes[int(logits[0].argmax())])\n"


def picture_snippet(made: Preparation) -> str:
    """Python that makes `images` of a picture as this program does; of zeros where no picture has such channels."""
    channels, (height, width) = len(made.mean), made.size
    if channels not in (1, 3):
        shape = (1, channels, height, width)
        return f"import numpy as np\n\nimages = np.zeros({shape}, dtype=np.float32)  # yours, normalised\n"
    side = math.ceil(max(height, width) / made.middle)
    bleed = f", {(1 - made.middle) / 2:g}" if made.middle < 1 else ""
    return (
        "import numpy as np\n"
        "from PIL import Image, ImageOps\n\n"
        'picture = Image.open("image.png")\n'
        f"picture.draft('RGB', ({side}, {side}))  # for JPEGs far larger than that\n"
        f"picture = ImageOps.exif_transpose(picture).convert({'L' if channels == 1 else 'RGB'!r})\n"
        f"picture = ImageOps.fit(picture, ({width}, {height}), Image.Resampling.BILINEAR{bleed})\n"
        f"pixels = np.asarray(picture, dtype=np.float32).reshape({height}, {width}, {channels}) / 255\n"
        f"pixels = (pixels - np.float32({list(made.mean)})) / np.float32({list(made.std)})\n"
        "images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])\n"
    )


def fence(text: str, language: str) -> str:
    """A text as a block of code, whatever backticks are in it."""
    longest = max((len(found) for found in _FENCE.findall(text)), default=2)
    bar = "`" * (longest + 1)
    return f"{bar}{language}\n{text.rstrip()}\n{bar}"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = ["| | |", "| --- | --- |", *(f"| {_plain(name)} | {_plain(value)} |" for name, value in rows)]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A text that Markdown shows as it is, in one line."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", shown)


def _code(text: str) -> str:
    return "".join(c if c.isprintable() and c != "`" else "?" for c in text)


def _summary(run: Run | None) -> dict[str, Any]:
    return (run.summary() if run else None) or {}


def _environment(run: Run | None) -> Mapping[str, Any]:
    try:
        text = (run.path / "environment.json").read_text(encoding="utf-8") if run else "{}"
        found = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _percent(share: float | int) -> str:
    return f"{100 * share:.2f} %"


def _speeds(found: Comparison) -> str:
    threads = torch.get_num_threads()
    return (
        f"{found.images_per_second:,.0f} images/s, PyTorch {found.torch_images_per_second:,.0f} "
        f"({threads} thread{'s' if threads > 1 else ''}, batches of {found.batch_size})"
    )

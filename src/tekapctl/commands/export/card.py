"""The model card beside an exported network: facts, accuracy, usage and origin, in Markdown."""

import json
import math
import platform
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from tekapctl import __version__
from tekapctl.commands.export.format import Comparison, ExportSource, Format
from tekapctl.models.network import macs, parameters
from tekapctl.store.run import Run
from tekapctl.train.metadata import Preprocessing


def model_card(
    source: ExportSource, kind: str, chosen: Format, file: str, check: Comparison, int8: Comparison | None
) -> str:
    """The model card of a file, from `card.md`; a file in int8 has a comparison for float32 and one for int8."""
    trained, preprocessing = source.trained, source.preprocessing
    run = trained.reference.run
    summary = (run.summary() if run else None) or {}
    spec = run.path / "spec.toml" if run else None
    trainings = {"student": ", distilled from a teacher", "teacher": ", trained without a teacher"}
    height, width = preprocessing.size
    code = f"{_preprocessing_code(preprocessing)}\n{chosen.snippet(file)}print(classes[int(logits[0].argmax())])\n"
    values = {
        "source": source,
        "trained": trained,
        "kind": kind,
        "file": file,
        "check": check,
        "int8": int8,
        "channels": len(preprocessing.mean),
        "height": height,
        "width": width,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "published": source.metadata.get("published_top1"),
        "training": trainings.get(str(summary.get("kind")), ""),
        "parameters": parameters(trained.network),
        "macs": macs(trained.network, source.splits.test.image_shape),
        "runtime": chosen.runtime(),
        "of_run": list(_results(summary)),
        "origin": list(_origin(source, run, summary)),
        "code": code,
        "note": chosen.note.replace("{file}", _code(file)),
        "spec": spec.read_text(encoding="utf-8", errors="replace") if spec is not None and spec.is_file() else "",
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": f"{datetime.now().astimezone():%Y-%m-%d}",
    }
    return _environment().get_template("card.md").render(**values).rstrip() + "\n"


def _results(summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The results of the run that trained the network."""
    evaluation = _table_of(summary, "evaluation")
    known: tuple[tuple[str, Any, Callable[[Any], str]], ...] = (
        ("final top-1", summary.get("last_top1"), _percent),
        ("best top-1", summary.get("best_top1"), _percent),
        ("best epoch", summary.get("best_epoch"), str),
        ("final top-5", evaluation.get("top5"), _percent),
        ("negative log-likelihood", evaluation.get("negative_log_likelihood"), "{:.4f} nats".format),
        ("expected calibration error", evaluation.get("calibration_error"), _percent),
        ("agreement with the teacher", evaluation.get("agreement"), _percent),
    )
    yield from ((name, form(value)) for name, value, form in known if _is_number(value))


def _origin(source: ExportSource, run: Run | None, summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """How the weights were trained, as far as that is known."""
    teacher = _table_of(summary, "teacher")
    if "epoch" in source.metadata:
        yield "epoch of the weights", source.metadata["epoch"]
    if summary.get("method"):
        yield "method", str(summary["method"])
    if teacher:
        yield "teacher", f"{teacher.get('model')} from {teacher.get('reference')}"
    if _is_number(teacher.get("top1")):
        yield "teacher's top-1", _percent(teacher["top1"])
    for name, value in _training_environment(run).items():
        if value is not None:
            yield f"trained with: {name}", str(value)


def _preprocessing_code(preprocessing: Preprocessing) -> str:
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


def _fence(text: str, language: str) -> str:
    """A Markdown code block, whatever backticks the text contains."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    bar = "`" * (longest + 1)
    return f"{bar}{language}\n{text.rstrip()}\n{bar}"


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


def _training_environment(run: Run | None) -> dict[str, Any]:
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


@cache
def _environment() -> Environment:
    found = Environment(  # of Markdown, whose values are escaped by `plain` and `code`
        loader=PackageLoader("tekapctl.commands.export", ""),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    found.filters |= {"plain": _plain, "code": _code, "fence": _fence, "percent": _percent, "speed": _speeds}
    found.filters["tojson_plain"] = json.dumps
    return found

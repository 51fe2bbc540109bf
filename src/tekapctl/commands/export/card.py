"""The model card beside an exported file, in Markdown with the front matter that the Hugging Face hub reads."""

import json
import math
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from tekapctl import __version__
from tekapctl.commands.export.check import Comparison, FullSize
from tekapctl.commands.export.format import ExportSource, Format
from tekapctl.data.image_files import ImageFilesSpec
from tekapctl.models.network import macs, parameters
from tekapctl.store.atomic import format_bytes
from tekapctl.store.run import Run
from tekapctl.train.metadata import Preprocessing

_NOT_STRINGS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
"""Words that YAML takes for other values unless they are quoted."""


@dataclass(frozen=True)
class Sheet:
    """What a card says of the file itself; what cannot be run here is not checked.

    `torch_seconds` are PyTorch's latencies at batch 1 and 32. The license is named as on the hub.
    """

    file: str
    kind: str
    format: Format
    bytes: int
    check: Comparison | None
    full_size: FullSize | None
    torch_seconds: tuple[float, ...]
    license: str | None = None


def model_card(source: ExportSource, sheet: Sheet) -> str:
    """The model card of a file, from `card.md`."""
    trained, preprocessing = source.trained, source.preprocessing
    run = trained.reference.run
    summary = (run.summary() if run else None) or {}
    spec = run.path / "spec.toml" if run else None
    trainings = {"student": ", distilled from a teacher", "teacher": ", trained without a teacher"}
    height, width = source.size if source.includes_preprocessing else preprocessing.size
    snippet = sheet.format.snippet(sheet.file)
    code = f"{_input_code(source)}\n{snippet}print(classes[int(outputs[0].argmax())])\n"
    values = {
        "source": source,
        "sheet": sheet,
        "trained": trained,
        "front": _front_matter(source, sheet, summary),
        "height": height,
        "width": width,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "published": source.metadata.get("published_top1"),
        "training": trainings.get(str(summary.get("kind")), ""),
        "parameters": parameters(trained.network),
        "macs": macs(trained.network, source.splits.test.image_shape),
        "threads": torch.get_num_threads(),
        "runtime": sheet.format.runtime(),
        "of_run": list(_results(summary)),
        "origin": list(_origin(source, run, summary)),
        "code": code,
        "note": sheet.format.note.replace("{file}", _code(sheet.file)),
        "spec": spec.read_text(encoding="utf-8", errors="replace") if spec is not None and spec.is_file() else "",
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": f"{datetime.now().astimezone():%Y-%m-%d}",
    }
    return _environment().get_template("card.md").render(**values).rstrip() + "\n"


def _front_matter(source: ExportSource, sheet: Sheet, summary: dict[str, Any]) -> dict[str, Any]:
    """The card's metadata, as the hub names it."""
    data, model = source.data, source.trained.model
    is_files = isinstance(data, ImageFilesSpec)
    on_hub = data.hub_repository
    distilled = ["knowledge-distillation"] if summary.get("kind") == "student" else []
    front: dict[str, Any] = {} if sheet.license is None else {"license": sheet.license}
    front["library_name"] = "tekapctl"
    front["pipeline_tag"] = "image-classification"
    front["tags"] = ["image-classification", *distilled, sheet.kind, source.precision]
    if on_hub:
        front["datasets"] = [on_hub]
    front["metrics"] = ["accuracy"]
    if sheet.check is not None:
        front["model-index"] = [
            {
                "name": model,
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {
                            "name": on_hub or data.name,
                            "type": on_hub or ("imagefolder" if is_files else data.name),
                            "split": "test",
                        },
                        "metrics": [{"type": "accuracy", "value": round(sheet.check.top1, 6), "name": "top-1"}],
                    }
                ],
            }
        ]
    return front


def _yaml(value: Any, indent: int = 0) -> str:
    """Plain values as YAML, whose strings may be written as those of JSON."""
    space = "  " * indent
    if isinstance(value, dict):
        return "".join(
            f"{space}{key}:{_nested(each, indent) if isinstance(each, dict | list) else ' ' + _scalar(each)}\n"
            for key, each in value.items()
        )
    lines = []
    for each in value:
        text = _yaml(each, indent + 1) if isinstance(each, dict) else f"{space}  {_scalar(each)}\n"
        lines.append(f"{space}- {text.removeprefix(space + '  ')}")
    return "".join(lines)


def _nested(value: Any, indent: int) -> str:
    return "\n" + _yaml(value, indent + isinstance(value, dict)).rstrip("\n")


def _scalar(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value, re.ASCII):
        return f'"{value}"' if value.lower() in _NOT_STRINGS else value
    printable = "".join(c if c.isprintable() else "?" for c in value) if isinstance(value, str) else value
    return json.dumps(printable, ensure_ascii=False)


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
    for name, value in (run.environment() if run else {}).items():
        if value is not None:
            yield f"trained with: {name}", str(value)


def _input_code(source: ExportSource) -> str:
    """Python that turns an image file into `images`, as a runner takes them."""
    if not source.includes_preprocessing:
        return _preprocessing_code(source.preprocessing)
    channels, (height, width) = source.channels, source.size
    if channels not in (1, 3):
        shape = (1, height, width, channels)
        return f"import numpy as np\n\nimages = np.zeros({shape}, dtype=np.uint8)  # your images\n"
    grey = channels == 1
    return (
        "import numpy as np\n"
        "from PIL import Image, ImageOps\n\n"
        f'image = ImageOps.exif_transpose(Image.open("image.png")).convert({"L" if grey else "RGB"!r})\n'
        f"images = np.array(image)[None{', ..., None' if grey else ''}]\n"
    )


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


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


@cache
def _environment() -> Environment:
    found = Environment(  # of Markdown, whose values are escaped by `plain` and `code`
        loader=PackageLoader("tekapctl.commands.export", ""),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    found.filters |= {"plain": _plain, "code": _code, "fence": _fence, "percent": _percent, "yaml": _yaml}
    found.filters |= {"tojson_plain": json.dumps, "bytes": format_bytes, "ms": lambda s: f"{1000 * s:.3g}"}
    return found

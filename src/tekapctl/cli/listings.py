"""Listings of methods, networks and datasets that are kept on disk, so that showing them does not import PyTorch."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tekapctl import __version__
from tekapctl.errors import TekapctlError
from tekapctl.store.home import Home

_FILE = "listings.json"
_MOST_BYTES = 4 * 2**20


def cached(name: str, compute: Callable[[], Any]) -> Any:
    """A listing, computed once and kept until any source file of the package changes.

    Args:
        name: Of the listing.
        compute: Makes it from plain JSON values; may import PyTorch.
    """
    path, stamp = Home.default().root / _FILE, stamp_of(Path(__file__).parents[1])
    kept = _read(path)
    if kept.get("stamp") != stamp:
        kept = {"stamp": stamp}
    if name not in kept:
        # As it will be read: tuples become lists.
        kept[name] = json.loads(json.dumps(compute()))
        with suppress(OSError, TekapctlError):
            from tekapctl.store.atomic import atomic_write, make_folder

            make_folder(path.parent)
            atomic_write(path, json.dumps(kept).encode())
    return kept[name]


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def stamp_of(folder: Path) -> str:
    """Changes with any source file in a folder: a part is added by adding a file."""
    digest = hashlib.sha256(__version__.encode())
    for entry in _files(folder):
        status = entry.stat()
        digest.update(f"{entry.path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _files(Path(entry.path))
            elif entry.name.endswith((".py", ".json")):
                yield entry


def models(classes: int = 100, size: int = 32) -> list[dict[str, Any]]:
    """The built-in networks with their sizes."""

    def compute() -> list[dict[str, Any]]:
        from tekapctl import models

        return [model_row(name, classes, size) for name in models.names()]

    rows: list[dict[str, Any]] = cached(f"models {classes} {size}", compute)
    return rows


def model_row(name: str, classes: int, size: int) -> dict[str, Any]:
    """A network and its size."""
    from tekapctl import models
    from tekapctl.models.network import macs, parameters
    from tekapctl.models.pretrained import CATALOGUE

    network = models.build(name, classes)
    pretrained = CATALOGUE.get(name)
    return {
        "network": name,
        "parameters": parameters(network),
        "macs": macs(network, (3, size, size)),
        "learning_rate": models.learning_rate(name),
        "pretrained": None
        if pretrained is None
        else {"dataset": pretrained.dataset, "top1": round(pretrained.accuracy / 100, 6)},
    }


def training() -> dict[str, list[str]]:
    """The names of optimizers, schedules, augmentations and recipes."""

    def compute() -> dict[str, list[str]]:
        from tekapctl.data.augment.augmentation import AUGMENTATIONS
        from tekapctl.optim import OPTIMIZERS
        from tekapctl.optim.schedules import SCHEDULES
        from tekapctl.spec import RECIPES

        return {
            "optimizers": OPTIMIZERS.names(),
            "schedules": SCHEDULES.names(),
            "augmentations": AUGMENTATIONS.names(),
            "recipes": list(RECIPES),
        }

    rows: dict[str, list[str]] = cached("training", compute)
    return rows


def methods() -> list[dict[str, Any]]:
    """The built-in methods with their papers, formulas and settings."""

    def compute() -> list[dict[str, Any]]:
        from tekapctl.distillation.methods import METHODS

        return [method_row(name, METHODS[name]) for name in sorted(METHODS.names())]

    rows: list[dict[str, Any]] = cached("methods", compute)
    return rows


def method_row(name: str, method: Any) -> dict[str, Any]:
    """A method, its paper, its formula and its settings."""
    weights, about = method.weights, method.about
    return {
        "method": name,
        "paper": about.paper,
        "year": about.year,
        "uses": list(method.requires.described),
        "level": method.requires.level,
        "weights": {"gamma": weights.gamma, "alpha": weights.alpha, "beta": weights.beta},
        "settings": {field: info.default for field, info in method.model_fields.items() if field != "name"},
        "descriptions": {field: info.description for field, info in method.model_fields.items() if field != "name"},
        "formula": about.formula,
        "note": about.note,
    }


def presets() -> list[dict[str, Any]]:
    """The published experiments with their accuracies, sources and specs."""

    def compute() -> list[dict[str, Any]]:
        from tekapctl.experiments.presets import presets

        return [_preset_row(preset) for preset in presets()]

    rows: list[dict[str, Any]] = cached("presets", compute)
    return rows


def _preset_row(preset: Any) -> dict[str, Any]:
    def fraction(percent: float | None) -> float | None:
        return None if percent is None else round(percent / 100, 6)

    row = preset.published
    return {
        "preset": preset.name,
        "published": row is not None,
        "published_top1": None if row is None else fraction(row.top1),
        "deviation": None if row is None else fraction(row.deviation),
        "epoch": None if row is None else row.epoch,
        "source": None if row is None else row.source,
        "settings_source": None if row is None else row.settings_source,
        "settings": preset.settings if preset.is_runnable else None,
        "spec": preset.table if preset.is_runnable else None,
    }


def datasets() -> list[str]:
    """The names of the built-in datasets."""

    def compute() -> list[str]:
        from tekapctl.data import DATASETS

        return list(DATASETS)

    names: list[str] = cached("datasets", compute)
    return names


def studies() -> list[dict[str, Any]]:
    """The studies with their questions and settings."""

    def compute() -> list[dict[str, Any]]:
        from tekapctl.experiments.studies import STUDIES

        return [
            {"study": name, "question": STUDIES[name].question, "settings": STUDIES[name].defaults()}
            for name in STUDIES
        ]

    rows: list[dict[str, Any]] = cached("studies", compute)
    return rows


def schema() -> dict[str, Any]:
    """The JSON Schema of run specs."""

    def compute() -> dict[str, Any]:
        from tekapctl.spec import json_schema

        return json_schema()

    found: dict[str, Any] = cached("schema", compute)
    return found

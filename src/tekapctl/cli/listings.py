"""Listings of methods, networks and datasets that are kept on disk, so that showing them does not import PyTorch."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tekapctl import __version__
from tekapctl.errors import TekapctlError
from tekapctl.store.home import Home

_FILE = "listings.json"
_MOST_BYTES = 4 * 2**20
P = ParamSpec("P")
T = TypeVar("T")


def kept(name: str, of: object = None) -> Any:
    """What was kept under a name and made from `of`; None if there is nothing.

    If a source file of the package has changed since, it does not count.
    """
    entry = _read().get(name)
    return entry["value"] if isinstance(entry, dict) and entry.get("of") == of and "value" in entry else None


def keep(name: str, value: Any, of: object = None) -> Any:
    """Keep plain values on disk, and return them as `kept` will: tuples become lists."""
    found = json.loads(json.dumps({"of": of, "value": value}))
    with suppress(OSError, TekapctlError):
        from tekapctl.store.atomic import atomic_write, make_folder

        make_folder(_path().parent)
        atomic_write(_path(), json.dumps({**_read(), name: found}).encode())
    return found["value"]


def _path() -> Path:
    return Home.default().root / _FILE


def _read() -> dict[str, Any]:
    """All that is kept, for this state of the source."""
    stamp, found = stamp_of(Path(__file__).parents[1]), None
    with suppress(OSError, ValueError, RecursionError):
        if _path().is_file() and _path().stat().st_size <= _MOST_BYTES:
            found = json.loads(_path().read_bytes())
    return found if isinstance(found, dict) and found.get("stamp") == stamp else {"stamp": stamp}


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


def _listing(compute: Callable[P, T]) -> Callable[P, T]:
    """Keep what a function returns, which may import PyTorch."""

    @wraps(compute)
    def read(*arguments: P.args, **named: P.kwargs) -> T:
        name = " ".join(map(str, [compute.__name__, *arguments]))
        found: T | None = kept(name)
        return keep(name, compute(*arguments, **named)) if found is None else found

    return read


Rows = list[dict[str, Any]]


@_listing
def models(classes: int, size: int) -> Rows:
    """The built-in networks with their sizes."""
    from tekapctl import models

    return [model_row(name, classes, size) for name in models.names()]


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


@_listing
def training() -> dict[str, list[str]]:
    """The names of optimizers, schedules, augmentations, recipes and trackers."""
    from tekapctl.data.augment.augmentation import AUGMENTATIONS
    from tekapctl.optim import OPTIMIZERS
    from tekapctl.optim.schedules import SCHEDULES
    from tekapctl.spec import RECIPES
    from tekapctl.tracking.tracker import TRACKERS

    return {
        "optimizers": OPTIMIZERS.names(),
        "schedules": SCHEDULES.names(),
        "augmentations": AUGMENTATIONS.names(),
        "recipes": list(RECIPES),
        "trackers": TRACKERS.names(),
    }


@_listing
def methods() -> Rows:
    """The built-in methods with their papers, formulas and settings."""
    from tekapctl.distillation.methods import METHODS

    return [method_row(name, METHODS[name]) for name in sorted(METHODS.names())]


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


@_listing
def presets() -> Rows:
    """The published experiments with their accuracies, sources and specs."""
    from tekapctl.experiments.presets import presets

    return [_preset_row(preset) for preset in presets()]


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


@_listing
def datasets() -> Rows:
    """The datasets, with what they declare about their names and images."""
    from tekapctl.data import DATASETS

    fields = ("is_included", "needs_location", "field_after_colon")
    return [{"name": name, **{field: getattr(DATASETS[name], field) for field in fields}} for name in DATASETS]


def fields_after_colon() -> dict[str, str]:
    """The field that may follow a dataset's name after a colon, by dataset."""
    return {row["name"]: row["field_after_colon"] for row in datasets() if row["field_after_colon"] is not None}


@_listing
def downloads() -> Rows:
    """The pretrained networks and the datasets that can be downloaded by name or come with the program."""
    from tekapctl.models.pretrained import CATALOGUE

    teachers = [
        {"name": name, "kind": "teacher", "dataset": each.dataset, "top1": round(each.accuracy / 100, 6)}
        for name, each in CATALOGUE.items()
    ]
    named = [row for row in datasets() if not row["needs_location"]]
    return teachers + [
        {"name": row["name"], "kind": "dataset", "dataset": row["name"], "top1": None, "included": row["is_included"]}
        for row in named
    ]


@_listing
def studies() -> Rows:
    """The studies with their questions and settings."""
    from tekapctl.experiments.studies import STUDIES

    return [
        {"study": name, "question": STUDIES[name].question, "settings": STUDIES[name].defaults()} for name in STUDIES
    ]


@_listing
def schema() -> dict[str, Any]:
    """The JSON Schema of run specs."""
    from tekapctl.spec import json_schema

    return json_schema()

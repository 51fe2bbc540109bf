"""Shell completion of names; nothing here imports PyTorch once the listings are on disk."""

from collections.abc import Callable, Iterable

from tekapctl.cli import listings
from tekapctl.store.home import Home

Completer = Callable[[str], list[str]]


def _matching(names: Callable[[], Iterable[str]]) -> Completer:
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def _runs() -> list[str]:
    from tekapctl.store.runs import Runs

    return ["latest", *(run.id for run in reversed(Runs(Home.default().runs).all()))]


def _models() -> list[str]:
    return [row["network"] for row in listings.models(100, 32)]


def _run_columns() -> tuple[str, ...]:
    from tekapctl.commands.run_list import COLUMNS

    return COLUMNS


def _statuses() -> tuple[str, ...]:
    from tekapctl.commands.run_list import STATUSES

    return STATUSES


models = _matching(_models)
methods = _matching(lambda: (row["method"] for row in listings.methods()))
presets = _matching(lambda: (row["preset"] for row in listings.presets() if row["spec"] is not None))
datasets = _matching(lambda: (row["name"] for row in listings.datasets()))
studies = _matching(lambda: (row["study"] for row in listings.studies()))
fetchable = _matching(lambda: (row["name"] for row in listings.downloads()))
optimizers = _matching(lambda: listings.training()["optimizers"])
schedules = _matching(lambda: listings.training()["schedules"])
augmentations = _matching(lambda: listings.training()["augmentations"])
recipes = _matching(lambda: listings.training()["recipes"])
runs = _matching(_runs)
run_columns = _matching(_run_columns)
statuses = _matching(_statuses)
teachers = _matching(lambda: [*_models(), *_runs()])
devices = _matching(lambda: ["auto", "cpu", "cuda", "mps"])
precisions = _matching(lambda: ["auto", "float32", "tf32", "bfloat16"])
trackers = _matching(lambda: listings.training()["trackers"])
effects = _matching(lambda: ["weight", "shrink", "noise", "student-term", "bank-updates"])

"""Shell completion of names; nothing here imports PyTorch once the listings are on disk."""

from collections.abc import Iterable


def _matching(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Built-in networks."""
    from tekapctl.cli import listings

    return _matching(incomplete, (row["network"] for row in listings.models()))


def methods(incomplete: str) -> list[str]:
    """Distillation methods."""
    from tekapctl.cli import listings

    return _matching(incomplete, (row["method"] for row in listings.methods()))


def presets(incomplete: str) -> list[str]:
    """Published experiments."""
    from tekapctl.cli import listings

    return _matching(incomplete, (row["preset"] for row in listings.presets() if row["spec"] is not None))


def datasets(incomplete: str) -> list[str]:
    """Datasets."""
    from tekapctl.cli import listings

    return _matching(incomplete, listings.datasets())


def optimizers(incomplete: str) -> list[str]:
    """Optimizers."""
    from tekapctl.cli import listings

    return _matching(incomplete, listings.training()["optimizers"])


def schedules(incomplete: str) -> list[str]:
    """Learning rate schedules."""
    from tekapctl.cli import listings

    return _matching(incomplete, listings.training()["schedules"])


def augmentations(incomplete: str) -> list[str]:
    """Augmentations."""
    from tekapctl.cli import listings

    return _matching(incomplete, listings.training()["augmentations"])


def recipes(incomplete: str) -> list[str]:
    """Training recipes."""
    from tekapctl.cli import listings

    return _matching(incomplete, listings.training()["recipes"])


def studies(incomplete: str) -> list[str]:
    """Studies."""
    from tekapctl.cli import listings

    return _matching(incomplete, (row["study"] for row in listings.studies()))


def fetchable(incomplete: str) -> list[str]:
    """Pretrained networks and datasets."""
    from tekapctl.cli import listings

    pretrained = (row["network"] for row in listings.models() if row["pretrained"])
    return _matching(incomplete, [*pretrained, *listings.datasets()])


def runs(incomplete: str) -> list[str]:
    """Runs, newest first."""
    from tekapctl.store.home import Home
    from tekapctl.store.runs import Runs

    return _matching(incomplete, ["latest", *(run.id for run in reversed(Runs(Home.default().runs).all()))])


def teachers(incomplete: str) -> list[str]:
    """Networks and runs."""
    return [*models(incomplete), *runs(incomplete)]


def devices(incomplete: str) -> list[str]:
    """Devices."""
    return _matching(incomplete, ["auto", "cpu", "cuda", "mps"])


def precisions(incomplete: str) -> list[str]:
    """Precisions."""
    return _matching(incomplete, ["auto", "float32", "tf32", "bfloat16"])


def trackers(incomplete: str) -> list[str]:
    """Trackers."""
    return _matching(incomplete, ["tensorboard", "wandb", "mlflow"])


def effects(incomplete: str) -> list[str]:
    """Effects of TeKAP that can be kept alone."""
    return _matching(incomplete, ["weight", "shrink", "noise", "student-term", "bank-updates"])

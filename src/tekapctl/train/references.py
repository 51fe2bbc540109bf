"""What a trained network's name stands for: a run, a checkpoint file, a fetched or a library's network."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tekapctl import models
from tekapctl.data import data_spec
from tekapctl.data.spec import DataSpec
from tekapctl.errors import UsageError
from tekapctl.models import external
from tekapctl.models.pretrained import CATALOGUE, fetched, recorded
from tekapctl.spec import load_of_run
from tekapctl.store.home import Home, expand_user
from tekapctl.store.run import WEIGHTS, Run
from tekapctl.store.runs import Runs
from tekapctl.store.weights import read_metadata

DEFAULT_DATASET = "cifar100"
"""What the published checkpoints, which do not state their dataset, were trained on."""
_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin")
_DESCRIBED = {"last": "last epoch", "best": "best epoch", "raw": "last epoch, not averaged"}


@dataclass(frozen=True)
class Reference:
    """Where a trained network is.

    Attributes:
        name: Finds the same weights again: a run's id, a file's path, or a fetched teacher's name.
        path: The weights file.
        described: A description for messages.
        run: The run that produced it, if it is in this home folder.
        is_library: Whether torchvision or timm provides the weights, so that there is no file of ours.
        digests: The SHA-256 values that the file may have; empty if none is recorded.
    """

    name: str
    path: Path
    described: str
    run: Run | None = None
    is_library: bool = False
    digests: tuple[str, ...] = ()


def find(
    home: Home,
    name: str,
    *,
    data: DataSpec | None = None,
    kind: Literal["teacher", "student"] | None = None,
) -> Reference:
    """Find a trained network.

    Args:
        home: Holds runs and fetched teachers.
        name: A checkpoint file, a network's name, or a run's id, unique prefix, or `latest`; `:best` or `:raw` after a
            run chooses other weights than its last. A network's name means the fetched pretrained weights, else the
            newest finished teacher run of that network, else a library's pretrained weights.
        data: Where a network is named: the dataset on whose images it must be trained; None accepts any.
        kind: The kind of run that `latest` means; None for any.

    Raises:
        UsageError: There is none; the message names the command that produces one.
    """
    path = expand_user(name)
    if name.endswith(_WEIGHTS_SUFFIXES) or ("/" in name and path.is_file()):
        if not path.is_file():
            raise UsageError(f"There is no checkpoint file {name!r}.", "Name a .safetensors or .pth file.")
        run = Run(path.resolve().parent)
        is_of_run = run.kind() is not None and path.name in WEIGHTS.values()
        return Reference(str(path.resolve()), path, f"checkpoint {path}", run if is_of_run else None)
    run_name, colon, which = name.partition(":")
    if colon and which not in WEIGHTS and (run_name == "latest" or run_name[:2].isdigit()):
        raise UsageError(f"A run has no weights named {which!r}.", f"Name {', '.join(WEIGHTS)}.")
    if models.is_known(name):
        return _find_model(home, name, data)
    runs = Runs(home.runs)
    try:
        run = runs.latest(kind) if run_name == "latest" else runs.find(run_name)
    except UsageError:
        if (meant := external.in_library(name)) is None:
            raise
        raise UsageError(f"There is no run and no network {name!r}.", f"Did you mean {meant}?") from None
    if run.weights.name in run.left_out and not run.weights.is_file():
        raise UsageError(
            f"The run {run.id} was imported without its weights.",
            "Export it with its weights where it was trained, and import it again.",
        )
    if not run.weights.is_file():
        raise UsageError(
            f"The run {run.id} has no weights yet: it is {run.status}.",
            f"Finish it with `tekapctl resume {run.id}`."
            if run.status in ("interrupted", "failed")
            else f"See it with `tekapctl runs show {run.id}`.",
        )
    reference = Reference(run.id, run.weights, f"run {run.id}", run)
    return weights_of(reference, which) if which else reference


def _find_model(home: Home, name: str, data: DataSpec | None) -> Reference:
    dataset = None if data is None else data.name
    if name in CATALOGUE and dataset in (None, CATALOGUE[name].dataset):
        teacher = fetched(home, name)
        if teacher is not None:
            return Reference(name, teacher.path, f"pretrained {name} (fetched)", digests=recorded(home, teacher))
    others = []
    for run in reversed(Runs(home.runs).all()):
        if run.status != "finished" or not run.weights.is_file():
            continue
        try:
            metadata = read_metadata(run.weights)
        except UsageError:
            continue  # a damaged run must not hide an older one
        fits = dataset in (None, metadata.get("dataset"))
        if fits and metadata.get("model") == name and metadata.get("kind") == "teacher":
            if data is None or _is_on(run, data, home):
                try:
                    run.check_weights(run.weights)
                except UsageError:
                    continue
                return Reference(run.id, run.weights, f"newest finished run of {name}, {run.id}", run)
            others.append(run.id)
    if name.partition(":")[0] in external.LIBRARIES:
        return Reference(name, Path(name), "its library's pretrained weights", is_library=True)
    wanted = dataset or DEFAULT_DATASET
    if data is not None and data.needs_location and data.folder:
        wanted = f"{data.name}:{data.folder}"
    if others:
        raise UsageError(
            f"No {name} was trained on these images of {wanted}. These runs used other images, or another split or "
            f"size: {', '.join(others[:5])}{', ...' if len(others) > 5 else ''}.",
            "Name one of them as the teacher, or train one on these images.",
        )
    commands = [f"`tekapctl train-teacher --model {name} --dataset {wanted}`"]
    if name in CATALOGUE and wanted == CATALOGUE[name].dataset:
        commands.insert(0, f"`tekapctl fetch {name}`")
    raise UsageError(f"There is no trained {name} for {wanted} yet.", f"Get one with {' or '.join(commands)}.")


def weights_of(reference: Reference, which: str) -> Reference:
    """The same run with other weights.

    Args:
        reference: The run.
        which: `last`, `best` or `raw`.

    Raises:
        UsageError: The reference is not a run, or the run has no such weights.
    """
    if which not in WEIGHTS:
        raise UsageError(f"A run has no weights named {which!r}.", f"Name {', '.join(WEIGHTS)}.")
    path = reference.run.path / WEIGHTS[which] if reference.run else None
    if reference.run is None or path is None or not path.is_file():
        raise UsageError(
            f"There are no weights {which!r} ({_DESCRIBED[which]}) of {reference.described}.",
            "Use the last epoch's weights, or name a run that has them.",
        )
    name = reference.run.id if which == "last" else f"{reference.run.id}:{which}"
    return replace(reference, name=name, path=path, described=f"{reference.described}, {_DESCRIBED[which]}")


def data_of_run(run: Run) -> DataSpec:
    """The dataset that a run was trained on, with its settings, for its teachers and its evaluation.

    Raises:
        UsageError: Its spec is damaged, or names code that is not trusted.
    """
    return load_of_run(run.path).data.labelled


def named_data(dataset: str, folder: str | None) -> DataSpec:
    """The dataset of a name, such as `folder:PATH`, and the folder of its files.

    Raises:
        UsageError: There is no such dataset.
    """
    return data_spec(dataset if folder is None else {"name": dataset, "folder": folder})


def _is_on(run: Run, data: DataSpec, home: Home) -> bool:
    """Whether a run was trained on the images that the dataset's settings select now."""
    try:
        theirs = data_of_run(run)
        ours = data.labelled.like(theirs).pinned(home.datasets)
    except UsageError:
        return False
    return ours.is_same_as(theirs)

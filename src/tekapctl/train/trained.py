"""Find and load trained networks by name: a run, a checkpoint file, a fetched or library network."""

import hashlib
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from tekapctl import models
from tekapctl.data import data_spec
from tekapctl.data.image_set import ImageSet
from tekapctl.data.spec import DataSpec
from tekapctl.errors import UsageError
from tekapctl.models import Network, external
from tekapctl.models.hooks import ExternalNetwork
from tekapctl.models.normalization import Normalization
from tekapctl.models.pretrained import CATALOGUE, fetched, recorded
from tekapctl.spec import load_of_run
from tekapctl.store.atomic import sha256
from tekapctl.store.home import Home, expand_user
from tekapctl.store.legacy_checkpoint import read_published
from tekapctl.store.run import WEIGHTS, Run
from tekapctl.store.runs import Runs
from tekapctl.store.weights import MemoryBudget, classifier_shape, load_into, read_metadata, read_weights
from tekapctl.train.metadata import (
    Preprocessing,
    read_arguments,
    read_class_names,
    read_data,
    read_preprocessing,
    read_shape,
)

DEFAULT_DATASET = "cifar100"
"""What the published checkpoints, which do not state their dataset, were trained on."""
logger = logging.getLogger(__name__)

_SPARE_BYTES = 64 * 2**20
_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin")


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


@dataclass(frozen=True)
class Trained:
    """A network with trained weights.

    Attributes:
        network: The network, on the CPU, in evaluation mode.
        model: Name of its architecture.
        dataset: Name of the dataset it was trained on, if the file states it.
        classes: Names of its classes in order, if the file states them.
        digest: SHA-256 of the weights file.
        reference: Where it was found.
        preprocessing: How its images are prepared, if the file states it.
        fingerprint: Fingerprint of the images it was trained on, if the file states it.
        data: The dataset it was trained on, with its settings, if its run or the file states them.
        arguments: Keyword arguments of an external network, without those for pretrained weights.
    """

    network: Network
    model: str
    dataset: str | None
    classes: tuple[str, ...] | None
    digest: str
    reference: Reference
    preprocessing: Preprocessing | None = None
    fingerprint: str | None = None
    data: DataSpec | None = None
    arguments: external.Arguments = field(default_factory=dict)


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


_DESCRIBED = {"last": "last epoch", "best": "best epoch", "raw": "last epoch, not averaged"}


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


def data_of(trained: Trained, dataset: str | None, folder: str | None) -> DataSpec:
    """The dataset to evaluate a network on.

    Args:
        trained: The network.
        dataset: Name of the dataset; None for the one it was trained on.
        folder: Folder with the dataset's files.

    Raises:
        UsageError: There is no such dataset.
    """
    known = trained.data
    if trained.reference.run is not None and known is not None and dataset in (None, known.name):
        return known if folder is None else known.model_copy(update={"folder": folder})
    spec = named_data(dataset or trained.dataset or DEFAULT_DATASET, folder)
    return spec if known is None else spec.like(known)


def warn_if_changed(trained: Trained, data: DataSpec, downloads: Path) -> None:
    """Warn if a dataset's images have changed since a network was trained on them: it may have seen test images."""
    if trained.fingerprint is None or trained.data is None or trained.data.name != data.name:
        return
    now = data.model_copy(update={"fingerprint": None}).with_fingerprint(downloads).fingerprint
    if now != trained.fingerprint:
        logger.warning(
            f"the images of {data.described} have changed since the network was trained; it may have been trained on "
            "some of these test images"
        )


def _is_on(run: Run, data: DataSpec, home: Home) -> bool:
    """Whether a run was trained on the images that the dataset's settings select now."""
    try:
        theirs = data_of_run(run)
        ours = data.labelled.like(theirs).pinned(home.datasets)
    except UsageError:
        return False
    return ours.is_same_as(theirs)


def load(reference: Reference, *, model: str | None = None, arguments: external.Arguments | None = None) -> Trained:
    """Load a trained network onto the CPU, in evaluation mode.

    Args:
        reference: Where it is.
        model: Name of its architecture, if the file states none; identified by the weights' names and shapes if None.
        arguments: Keyword arguments of an external model, if the file states none.

    Raises:
        UsageError: The file is damaged, refused, or of another architecture.
    """
    if reference.is_library:
        return _of_library(reference, arguments or {})
    path, source = reference.path, str(reference.path)
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        state, metadata = read_weights(path)
    else:
        state = read_published(path).state
    if "model" in metadata:
        model, arguments = metadata["model"], read_arguments(metadata, source)
    if model is None:
        model = identify(state, source)
    num_classes, in_channels = read_shape(metadata, state) or classifier_shape(state, source)
    if (arguments or {}).get("num_classes") == 0:  # a network without classifier, whose file cannot say so
        num_classes = 0
    preprocessing = read_preprocessing(metadata, in_channels, source)
    classes = read_class_names(metadata, num_classes, source)
    digest = sha256(path)
    if reference.run is not None:
        reference.run.check_weights(path, digest)
    if reference.digests and digest not in reference.digests:
        raise UsageError(
            f"The fetched weights in {path} are damaged: their SHA-256 is not the recorded one.",
            f"Get them again with `tekapctl fetch {reference.name} --force`.",
        )
    with MemoryBudget(_budget(state), source):
        # Pretrained weights would only be overwritten.
        network = models.build(model, num_classes, in_channels, external.without_weights(arguments or {}))
    load_into(network, _named_as_in(network, state), source=source)
    if preprocessing is not None:
        network.normalization = Normalization(preprocessing.mean, preprocessing.std, preprocessing.size)
    return Trained(
        network=network.eval(),
        model=model,
        dataset=metadata.get("dataset"),
        classes=classes,
        digest=digest,
        reference=reference,
        preprocessing=preprocessing,
        fingerprint=metadata.get("data_fingerprint"),
        data=data_of_run(reference.run) if reference.run is not None else read_data(metadata, source),
        arguments=external.without_weights(arguments or {}),
    )


def _budget(state: dict[str, Tensor]) -> int:
    """Bytes that building a network may take before its shapes are checked against the file's."""
    return _SPARE_BYTES + 4 * sum(value.numel() * value.itemsize for value in state.values())


def _of_library(reference: Reference, arguments: external.Arguments) -> Trained:
    network = external.pretrained(reference.name, arguments).eval()
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    arguments = external.without_weights(arguments)
    return Trained(network, reference.name, None, None, digest.hexdigest(), reference, arguments=arguments)


def _named_as_in(network: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names of an external model's parameters, whether saved by us or by its own library."""
    own = network.state_dict().keys()
    if isinstance(network, ExternalNetwork) and not own & state.keys():
        return {f"network.{key}": value for key, value in state.items()}
    return state


def identify(state: dict[str, Tensor], source: str) -> str:
    """Name of the built-in network whose weights have these names and shapes.

    Raises:
        UsageError: There is none.
    """
    num_classes, in_channels = classifier_shape(state, source)
    shapes = {key: value.shape for key, value in state.items()}
    shared: dict[str, int] = {}
    for name in models.names():
        with torch.device("meta"):
            candidate: nn.Module = models.build(name, num_classes, in_channels)
        own = {key: value.shape for key, value in candidate.state_dict().items()}
        if own == shapes:
            return name
        shared[name] = len(own.items() & shapes.items()) - abs(len(own) - len(shapes))
    nearest = max(shared, key=lambda name: shared[name])
    try:
        load_into(models.build(nearest, num_classes, in_channels), state, source=source)
    except UsageError as error:
        raise UsageError(
            f"{error.problem.rstrip('.')}, compared with {nearest}, the most similar built-in network.",
            f"Known: {', '.join(models.names())}.",
        ) from None
    return nearest


def _differing(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """The first class in which two lists of equal length differ."""
    number = next(n for n, name in enumerate(ours) if name != theirs[n])
    return f"class {number} is {ours[number]!r} there and {theirs[number]!r} here"


def fit_to(trained: Trained, images: ImageSet, dataset: str, *, needs_classes: bool = True) -> bool:
    """Check whether a network has the dataset's classes; a network without a normalization gets the dataset's.

    Published checkpoints state none: they were trained with the normalization of their dataset.

    Args:
        trained: The network.
        images: The dataset's images.
        dataset: Name of the dataset, for the error.
        needs_classes: Whether other classes are an error.

    Raises:
        UsageError: The number, names or order of the classes differ.
    """
    classes, network = images.classes, trained.network
    if network.normalization is None:
        network.normalization = Normalization(images.mean, images.std)
    who = f"The {trained.model} of {trained.reference.described}"
    if trained.reference.is_library:
        who = f"{trained.model} with {trained.reference.described}"
    if network.num_classes != len(classes):
        problem = f"{who} has {network.num_classes} classes, and {dataset} has {len(classes)}."
    elif trained.classes is not None and trained.classes != classes:
        first = _differing(trained.classes, classes)
        problem = f"{who} was trained on other classes than those of {dataset}: {first}."
    else:
        return True
    if needs_classes:
        raise UsageError(
            problem,
            f"Train one on these classes with `tekapctl train-teacher --model {trained.model}`, or distill from its "
            "features alone (alpha 0), as the methods embed and seed do.",
        )
    return False

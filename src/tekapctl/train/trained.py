"""Trained networks by name: a run, a checkpoint file, or a network of the zoo."""

import hashlib
import json
from dataclasses import dataclass
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
from tekapctl.models.hooks import Adapted
from tekapctl.models.network import SMALLEST_IMAGE
from tekapctl.models.normalization import Normalization, check_normalization
from tekapctl.spec import load_of_run
from tekapctl.store.atomic import sha256
from tekapctl.store.catalogue import CATALOGUE, fetched, recorded
from tekapctl.store.home import Home, expand_user
from tekapctl.store.legacy_checkpoint import read_published
from tekapctl.store.runs import Run, Runs
from tekapctl.store.weights import MemoryBudget, classifier_shape, load_into, read_metadata, read_weights

LARGEST_IMAGE = 1024
"""Pixels a side of the images that a network of ours takes, at most."""
_SPARE_BYTES = 64 * 2**20
_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin")


@dataclass(frozen=True)
class Reference:
    """Where a trained network was found.

    Attributes:
        name: What finds the same weights again: a run's id, a file's path, or a fetched teacher's name.
        path: The file of weights.
        described: What it is, for the user.
        run: The run that made it, if it is one of this home's.
        digests: The SHA-256 that the file may have; empty if nothing is known of it.
    """

    name: str
    path: Path
    described: str
    run: Run | None = None
    is_library: bool = False
    """Whether a library brings the weights, and there is no file of ours."""
    digests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preparation:
    """How images are prepared for a network.

    Attributes:
        size: Height and width in pixels.
        mean: Of each channel, of full brightness 1.
        std: Standard deviation of each channel.
        middle: How much of the largest middle part is shown, as a share of its side.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    middle: float = 1.0


@dataclass(frozen=True)
class Trained:
    """A network with trained weights.

    Attributes:
        network: The network, on the CPU, in evaluation mode.
        model: Its name in the zoo.
        dataset: The data set it was trained on, if the file says.
        classes: Names of its classes in order, if the file says.
        digest: SHA-256 of the file of weights.
        reference: Where it was found.
        preparation: How its images are prepared, if the file says.
        fingerprint: Of the images that it was trained on, if the file says.
        data: The data set that it was trained on with its settings, if its run or the file says.
    """

    network: Network
    model: str
    dataset: str | None
    classes: tuple[str, ...] | None
    digest: str
    reference: Reference
    preparation: Preparation | None = None
    fingerprint: str | None = None
    data: DataSpec | None = None


def find(
    home: Home,
    name: str,
    *,
    dataset: str | None = None,
    data: DataSpec | None = None,
    kind: Literal["teacher", "student"] | None = None,
) -> Reference:
    """The trained network that a user means.

    Args:
        home: Where runs and fetched teachers are.
        name: A checkpoint file, a network's name, or a run's id, unique prefix, or `latest`. A network's name means the
            fetched pretrained one, else the newest finished teacher run of it on the data set.
        dataset: The data set that a network's name is meant for; None takes any.
        data: The settings of that data set, where the network has to be trained on the very same images.
        kind: The kind of run that `latest` means; None for any.

    Raises:
        UsageError: There is none; the message says which command makes one.
    """
    path = expand_user(name)
    if name.endswith(_WEIGHTS_SUFFIXES) or ("/" in name and path.is_file()):
        if not path.is_file():
            raise UsageError(f"There is no checkpoint file {name!r}.", "Name a .safetensors or .pth file.")
        run = Run(path.resolve().parent)
        is_of_run = run.kind() is not None and path.name in (run.weights.name, "best.safetensors")
        return Reference(str(path.resolve()), path, f"checkpoint {path}", run if is_of_run else None)
    if models.is_known(name):
        return _find_model(home, name, dataset if data is None else data.name, data)
    runs = Runs(home.runs)
    run = runs.latest(kind) if name == "latest" else runs.find(name)
    if not run.weights.is_file():
        raise UsageError(
            f"The run {run.id} has no weights yet: it is {run.status}.", f"See it with `tekapctl runs show {run.id}`."
        )
    return Reference(run.id, run.weights, f"run {run.id}", run)


def _find_model(home: Home, name: str, dataset: str | None, data: DataSpec | None) -> Reference:
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
            continue  # a damaged run hides no other
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
        return Reference(name, Path(name), f"{name} with its library's weights", is_library=True)
    wanted = dataset or "cifar100"
    if others:
        raise UsageError(
            f"No {name} was trained on these images of {wanted}; on other images, or with another split or size of "
            f"them: {', '.join(others[:5])}{', ...' if len(others) > 5 else ''}.",
            "Name one of them as the teacher, or train one on these.",
        )
    commands = [f"`tekapctl train-teacher --model {name} --dataset {wanted}`"]
    if name in CATALOGUE and wanted == CATALOGUE[name].dataset:
        commands.insert(0, f"`tekapctl fetch {name}`")
    raise UsageError(f"There is no trained {name} for {wanted} yet.", f"Get one with {' or '.join(commands)}.")


def data_of_run(run: Run) -> DataSpec:
    """The data set that a run was trained on, with its settings.

    Raises:
        UsageError: Its spec is damaged, or names code that is not trusted.
    """
    return load_of_run(run.path).data


def _is_on(run: Run, data: DataSpec, home: Home) -> bool:
    """Whether a run was trained on the images that a data set's settings mean now."""
    try:
        theirs = data_of_run(run)
        ours = data.like(theirs).pinned(home.datasets)
    except UsageError:
        return False
    return ours.is_same_as(theirs)


def load(reference: Reference, *, model: str | None = None, arguments: external.Arguments | None = None) -> Trained:
    """The trained network of a reference.

    Args:
        reference: Where it is.
        model: Its network, where the file does not say; found from the weights' names and shapes if None.
        arguments: Arguments of a network from elsewhere, where the file does not say.

    Raises:
        UsageError: The file is damaged, refused, or of another architecture.
    """
    if reference.is_library:
        return _of_library(reference, arguments or {})
    path = reference.path
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        state, metadata = read_weights(path)
    else:
        state = read_published(path).state
    if "model" in metadata:
        model, arguments = metadata["model"], _arguments(metadata.get("model_args"), str(path))
    if model is None:
        model = identify(state, str(path))
    num_classes, in_channels = _built_for(metadata, state) or classifier_shape(state, str(path))
    preparation = _preparation(metadata, in_channels, str(path))
    classes = _class_names(metadata.get("classes"), num_classes, str(path))
    digest = sha256(path)
    if reference.run is not None:
        reference.run.check_weights(path, digest)
    if reference.digests and digest not in reference.digests:
        raise UsageError(
            f"The fetched weights in {path} are damaged: their SHA-256 is not the recorded one.",
            f"Get them again with `tekapctl fetch {reference.name} --force`.",
        )
    with MemoryBudget(_budget(state), str(path)):
        network = models.build(model, num_classes, in_channels, _without_weights(arguments or {}))
    load_into(network, _named_as_in(network, state), source=str(path))
    if preparation is not None:
        network.normalization = Normalization(preparation.mean, preparation.std, preparation.size)
    return Trained(
        network=network.eval(),
        model=model,
        dataset=metadata.get("dataset"),
        classes=classes,
        digest=digest,
        reference=reference,
        preparation=preparation,
        fingerprint=metadata.get("data_fingerprint"),
        data=data_of_run(reference.run) if reference.run is not None else _data(metadata, str(path)),
    )


def _data(metadata: dict[str, str], source: str) -> DataSpec | None:
    """The data set that a file names with its settings.

    Raises:
        UsageError: The settings are damaged.
    """
    name = metadata.get("dataset", "")
    is_code = ":" in name and not name.startswith("hf:")  # a class of its author's, which need not be at hand
    if "data_settings" not in metadata or is_code:
        return None
    settings = _read(metadata["data_settings"], source, "data")
    try:
        if not isinstance(settings, dict) or not settings.keys() <= data_spec({"name": name}).shared.keys():
            raise ValueError
        return data_spec({"name": name, **settings})
    except ValueError:  # of pydantic too
        raise UsageError(f"What {source} says of its data is damaged.", "Train or export it again.") from None


def _budget(state: dict[str, Tensor]) -> int:
    """Bytes that building a network may take before its weights are compared with those of a file."""
    return _SPARE_BYTES + 4 * sum(value.numel() * value.itemsize for value in state.values())


def _built_for(metadata: dict[str, str], state: dict[str, Tensor]) -> tuple[int, int] | None:
    """Number of classes and of input channels that a file states, if its weights have such.

    Their shapes alone do not say: safetensors keeps them in an order of its own, so that the first may be of any layer.
    """
    rows = {str(value.shape[0]) for value in state.values() if value.dim() == 2 and value.numel()}
    channels = {str(value.shape[1]) for value in state.values() if value.dim() == 4 and value.numel()}
    classes, stated = metadata.get("num_classes", ""), metadata.get("in_channels", "")
    return (int(classes), int(stated)) if classes in rows and stated in channels else None


def _preparation(metadata: dict[str, str], channels: int, source: str) -> Preparation | None:
    if "mean" not in metadata:
        return None
    height, _, width = metadata.get("image_size", "").partition("x")
    found = [_read(metadata.get(key, ""), source, what) for key, what in (("mean", "mean"), ("std", "deviation"))]
    numbers = [value for value in found if isinstance(value, list) and len(value) == channels]
    try:
        mean, std = (tuple(float(number) for number in value) for value in numbers)
        check_normalization(mean, std)
        middle = float(metadata.get("middle", 1))
        size = int(height), int(width)
        if not 0 < middle <= 1 or not all(SMALLEST_IMAGE <= side <= LARGEST_IMAGE for side in size):
            raise ValueError
        return Preparation(size, mean, std, middle)
    except (TypeError, ValueError, OverflowError, UsageError) as error:
        why = f": {error.problem}" if isinstance(error, UsageError) else "."
        raise UsageError(f"What {source} says of its images is damaged{why}", "Train or export it again.") from None


def _of_library(reference: Reference, arguments: external.Arguments) -> Trained:
    network = external.pretrained(reference.name, arguments).eval()
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return Trained(network, reference.name, None, None, digest.hexdigest(), reference)


def _without_weights(arguments: external.Arguments) -> external.Arguments:
    """Arguments without the wish for pretrained weights, where the trained ones are loaded next."""
    return {key: value for key, value in arguments.items() if key not in ("weights", "pretrained")}


def _named_as_in(network: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as a network from elsewhere has them, whether they were saved by us or by its own library."""
    own = network.state_dict().keys()
    if isinstance(network, Adapted) and not own & state.keys():
        return {f"network.{key}": value for key, value in state.items()}
    return state


def _arguments(text: str | None, source: str) -> external.Arguments:
    found = _read(text, source, "network's arguments") if text else {}
    if not isinstance(found, dict):
        raise UsageError(f"The network's arguments in {source} are damaged.", "Train or fetch it anew.")
    return found


def _read(text: str, source: str, what: str) -> object:
    try:
        found: object = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise UsageError(f"The {what} in {source} are damaged.", "Train or fetch it anew.") from None
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a finite number")


def _class_names(text: str | None, count: int, source: str) -> tuple[str, ...] | None:
    if not text:
        return None
    found = _read(text, source, "names of the classes")
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"The names of the classes in {source} are damaged.", "Train or fetch it anew.")
    if len(found) != count:
        raise UsageError(
            f"{source} has names for {len(found)} classes, and its network has {count}.", "Train or export it again."
        )
    return tuple(found)


def identify(state: dict[str, Tensor], source: str) -> str:
    """The network of the zoo whose weights have these names and shapes.

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
            f"{error.problem.rstrip('.')}, compared with {nearest}, the nearest of the zoo.",
            f"Known: {', '.join(models.names())}.",
        ) from None
    return nearest


def _differing(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """The first class in which two lists of equal length differ."""
    number, (one, other) = next(
        (n, pair) for n, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]
    )
    return f"class {number} is {one!r} there and {other!r} here"


def fit_to(trained: Trained, images: ImageSet, dataset: str) -> None:
    """Refuse a network whose classes are not the data set's; one without a normalization gets the data set's.

    Published checkpoints do not state theirs: they were trained with that of their data set.

    Raises:
        UsageError: The classes' number, names or order differ.
    """
    classes = images.classes
    if trained.network.normalization is None:
        trained.network.normalization = Normalization(images.mean, images.std)
    if trained.network.num_classes != len(classes):
        raise UsageError(
            f"The {trained.model} of {trained.reference.described} has {trained.network.num_classes} classes, "
            f"and {dataset} has {len(classes)}.",
            f"Train one on these classes with `tekapctl train-teacher --model {trained.model}`.",
        )
    if trained.classes is not None and trained.classes != classes:
        raise UsageError(
            f"The {trained.model} of {trained.reference.described} was trained on other classes than those of "
            f"{dataset}: {_differing(trained.classes, classes)}.",
            f"Train one on these classes with `tekapctl train-teacher --model {trained.model}`.",
        )

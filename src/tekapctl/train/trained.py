"""Trained networks, loaded with what their files state about them."""

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from tekapctl import models
from tekapctl.data.image_set import ImageSet
from tekapctl.data.spec import DataSpec
from tekapctl.errors import UsageError
from tekapctl.models import Network, external
from tekapctl.models.hooks import ExternalNetwork
from tekapctl.models.normalization import Normalization
from tekapctl.store.atomic import sha256
from tekapctl.store.legacy_checkpoint import read_published
from tekapctl.store.weights import MemoryBudget, classifier_shape, load_into, read_weights
from tekapctl.train import references
from tekapctl.train.metadata import (
    Preprocessing,
    read_arguments,
    read_class_names,
    read_data,
    read_preprocessing,
    read_shape,
)
from tekapctl.train.references import Reference

logger = logging.getLogger(__name__)

_SPARE_BYTES = 64 * 2**20


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
    spec = references.named_data(dataset or trained.dataset or references.DEFAULT_DATASET, folder)
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
        sizes = (preprocessing.size, preprocessing.train_size)
        network.normalization = Normalization(preprocessing.mean, preprocessing.std, *sizes)
    return Trained(
        network=network.eval(),
        model=model,
        dataset=metadata.get("dataset"),
        classes=classes,
        digest=digest,
        reference=reference,
        preprocessing=preprocessing,
        fingerprint=metadata.get("data_fingerprint"),
        data=references.data_of_run(reference.run) if reference.run is not None else read_data(metadata, source),
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

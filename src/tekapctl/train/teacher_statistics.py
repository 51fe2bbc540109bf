"""Statistics of the teacher's outputs on training images, for perturbations and methods that need them."""

import logging
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet
from tekapctl.device import autocast, resolve_precision
from tekapctl.distillation.perturbations import PERTURBATIONS, LogitPerturbation, PerturbationContext, TeacherStatistics
from tekapctl.errors import UsageError
from tekapctl.models import Network
from tekapctl.spec import StudentSpec
from tekapctl.train.trained import Trained

logger = logging.getLogger(__name__)

MOST_IMAGES = 20_000
_TOGETHER = 100


def chosen(spec: StudentSpec) -> type[LogitPerturbation]:
    """The perturbation of a run's logits; isotropic noise where the setting has no effect."""
    settings = spec.tekap.logit
    return PERTURBATIONS[settings.perturbation if settings.has_noise and "logit" in spec.levels else "isotropic"]


def images_asked(spec: StudentSpec, train_images: int) -> int:
    """How many training images pass through the teacher before a run."""
    return min(MOST_IMAGES, train_images) if chosen(spec).needs_statistics else 0


def perturbation_of(spec: StudentSpec, teacher: Trained, train: Batches) -> LogitPerturbation:
    """The perturbation of a teacher's logits.

    Images pass through the teacher only if the run has augmented logits with noise. Each process computes them itself.

    Raises:
        UsageError: The perturbation cannot be made of this teacher.
    """

    def compute() -> TeacherStatistics:
        images = train.image_set.subsample(MOST_IMAGES)
        logger.info(
            f"perturbation {spec.tekap.logit.perturbation}: the teacher is asked of {len(images):,} training images"
        )
        precision = resolve_precision(spec.precision, train.device, teacher.network, trains=False)
        return statistics_of(teacher.network, images, train.device, precision)

    context = PerturbationContext(teacher.network.classifier_layer, train.device, spec.tekap.logit.dropout, compute)
    return chosen(spec)(context)


@torch.no_grad()
def statistics_of(
    network: Network, images: ImageSet, device: torch.device, precision: torch.dtype
) -> TeacherStatistics:
    """Logits and mean squared embeddings of unaugmented images, with the network in evaluation mode."""
    batches = Batches(images, _TOGETHER, device=device)
    logits: list[Tensor] = []
    squares: list[Tensor] = []
    for batch in batches.in_order():
        with autocast(device, precision):
            output = network.knowledge(network.normalize(batch.images), feature_maps=False)
        logits.append(output.logits.float())
        squares.append(output.embedding.float().square().sum(0))
    # Not every device has float64.
    mean_squares = torch.stack(squares).cpu().double().sum(0) / len(images)
    return TeacherStatistics(torch.cat(logits).cpu().double(), images.labels, mean_squares)


@torch.no_grad()
def class_features(
    network: Network, images: ImageSet, device: torch.device, precision: torch.dtype, most: int
) -> Float[Tensor, "classes images width"]:
    """Embeddings of the same number of unaugmented images of each class, at most `most`.

    Raises:
        UsageError: A class has fewer than two.
    """
    chosen = chosen_images(images.labels, len(images.classes), most)
    part = replace(images.select(chosen), source_index=None, full_images=None)
    found = []
    for batch in Batches(part, _TOGETHER, device=device).in_order():
        with autocast(device, precision):
            output = network.knowledge(network.normalize(batch.images), feature_maps=False)
        found.append(output.embedding.float())
    return torch.cat(found).unflatten(0, (len(images.classes), -1))


def chosen_images(labels: Int64[Tensor, " n"], classes: int, most: int) -> Int64[Tensor, " chosen"]:
    """The first images of each class, class by class.

    Raises:
        UsageError: A class has fewer than two.
    """
    counts = labels.bincount(minlength=classes)
    count = min(most, int(counts.min()))
    if count < 2:
        raise UsageError(
            "The method compares classes by at least two training images of each, and one class has fewer.",
            "Use more of the training set, or another method.",
        )
    starts = counts.cumsum(0) - counts
    order = labels.argsort(stable=True)
    return order[(starts.unsqueeze(1) + torch.arange(count)).flatten()]

"""Predict a whole image set and compute metrics of the logits: accuracy, calibration, agreement with the teacher."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet
from tekapctl.device import autocast, synchronize
from tekapctl.models import Network
from tekapctl.models.network import macs, parameters

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Confusion:
    """Images of one class that are predicted as another, and their fraction of the images of their class."""

    label: str
    predicted: str
    images: int
    fraction: float


@dataclass(frozen=True)
class Evaluation:
    """How well a network does on an image set. Rates are fractions from 0 to 1, entropies are in nats.

    Agreement, KL and correlation compare the network with its teacher and are None without one.

    Attributes:
        top1: Top-1 accuracy.
        top5: Top-5 accuracy.
        negative_log_likelihood: Mean over the images.
        calibration_error: Expected calibration error over 15 bins of equal width (Guo et al., ICML 2017, equation 3).
        per_class: Top-1 accuracy of each class that has images, by class name.
        images: Number of images.
        parameters: Number of parameters.
        macs: Multiply-accumulates per image.
        images_per_second: Speed of this evaluation.
        agreement: Fraction of images that network and teacher classify alike.
        kl_from_teacher: Mean KL(teacher || network) at temperature 1.
        correlation_distance: Mean absolute difference between the entries of both class-correlation matrices.
        confusions: The pairs of classes that are confused most, by the number of images.
    """

    top1: float
    top5: float
    negative_log_likelihood: float
    calibration_error: float
    per_class: dict[str, float]
    images: int
    parameters: int
    macs: int
    images_per_second: float
    agreement: float | None = None
    kl_from_teacher: float | None = None
    correlation_distance: float | None = None
    confusions: tuple[Confusion, ...] = ()


@torch.inference_mode()
def predict(
    network: Network, images: Batches, precision: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
    """Logits and labels of a whole image set, in order; restores the network's training mode.

    Several processes split the batches among them and all get the result of a single process, bit for bit.
    """
    was_training = network.training
    network.eval()
    try:
        with autocast(images.device, precision):
            logits = [network(network.normalize(batch.images)).float() for batch in images.in_order()]
            if not logits:  # the other processes have all batches
                logits = [network(network.normalize(images.probe(1)))[:0].float()]
    finally:
        network.train(was_training)
    return images.gather(torch.cat(logits)), images.labels


def top_k(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], k: int) -> Float[Tensor, ""]:
    """Top-k accuracy, a fraction; 1 if there are at most k classes."""
    predictions = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (predictions == labels.unsqueeze(1)).any(1).float().mean()


def calibration_error(
    logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], bins: int = CALIBRATION_BINS
) -> Float[Tensor, ""]:
    """Expected calibration error: mean gap between confidence and accuracy over bins of equal width."""
    confidence, prediction = logits.softmax(1).max(1)
    gap = (prediction == labels).float() - confidence
    slot = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return torch.zeros(bins, device=logits.device).index_add_(0, slot, gap).abs().sum() / len(labels)


def class_correlation(logits: Float[Tensor, "n classes"]) -> Float[Tensor, "classes classes"]:
    """Correlation of the logits of each pair of classes over the images (Tian et al., CRD, ICLR 2020, figure 2)."""
    # Constant logits have no correlation: NaN becomes 0. On the CPU, as not every device has float64.
    return torch.corrcoef(logits.cpu().double().T).nan_to_num()


def evaluate(
    network: Network,
    image_set: ImageSet,
    *,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    teacher_logits: Float[Tensor, "n classes"] | None = None,
    batch_size: int = 500,
) -> Evaluation:
    """Evaluate a network on images in as many channels as it takes, and compare it with its teacher's logits."""
    batches = Batches(image_set, batch_size, device=device)
    began = time.perf_counter()
    logits, labels = predict(network, batches, precision)
    if device.type != "cpu":
        # The first pass warmed the device up. Time a second one, from idle to idle.
        synchronize(device)
        began = time.perf_counter()
        predict(network, batches, precision)
        synchronize(device)
    speed = len(image_set) / (time.perf_counter() - began)
    hits = (logits.argmax(1) == labels).float()
    classes = len(image_set.classes)
    counts = torch.bincount(labels, minlength=classes)
    per_class = torch.zeros(classes, device=device).index_add_(0, labels, hits) / counts
    agreement = divergence = distance = None
    if teacher_logits is not None:
        agreement = (teacher_logits.argmax(1) == logits.argmax(1)).float().mean().item()
        divergence = F.kl_div(
            logits.log_softmax(1), teacher_logits.log_softmax(1), reduction="batchmean", log_target=True
        ).item()
        distance = (class_correlation(logits) - class_correlation(teacher_logits)).abs().mean().item()
    return Evaluation(
        top1=hits.mean().item(),
        top5=top_k(logits, labels, 5).item(),
        negative_log_likelihood=F.cross_entropy(logits, labels).item(),
        calibration_error=calibration_error(logits, labels).item(),
        per_class={
            name: value
            for name, value, count in zip(image_set.classes, per_class.tolist(), counts.tolist(), strict=True)
            if count
        },
        images=len(image_set),
        parameters=parameters(network),
        macs=macs(network, image_set.image_shape),
        images_per_second=speed,
        agreement=agreement,
        kl_from_teacher=divergence,
        correlation_distance=distance,
        confusions=confusions(logits.argmax(1), labels, image_set.classes),
    )


def confusions(
    predicted: Int[Tensor, " n"], labels: Int[Tensor, " n"], classes: Sequence[str], most: int = 10
) -> tuple[Confusion, ...]:
    """The pairs of classes that are confused most, by the number of images; at most `most`."""
    count = len(classes)
    wrong = predicted != labels
    pairs, images = (labels * count + predicted)[wrong].cpu().unique(return_counts=True)
    order = images.sort(descending=True, stable=True).indices[:most]
    totals = torch.bincount(labels.cpu(), minlength=count)
    found = []
    for pair, number in zip(pairs[order].tolist(), images[order].tolist(), strict=True):
        label, other = divmod(pair, count)
        found.append(Confusion(classes[label], classes[other], number, number / int(totals[label])))
    return tuple(found)

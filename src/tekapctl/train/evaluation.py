"""How good a network is on an image set, and how near to its teacher."""

import time
from dataclasses import asdict, dataclass
from typing import Any

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
class Evaluation:
    """What a network reaches on an image set; rates are fractions of 1, entropies in nats.

    Attributes:
        top1: Share of images whose label is the likeliest class.
        top5: Share of images whose label is among the five likeliest classes.
        negative_log_likelihood: Mean over images.
        calibration_error: Expected calibration error over 15 bins of equal width (Guo et al., ICML 2017, equation 3).
        per_class: Top-1 accuracy on each class's images, by class name.
        images: Number of images.
        parameters: Number of the network's parameters.
        macs: Multiply-accumulates for one image.
        images_per_second: Speed of this evaluation.
        agreement: Share of images to which the teacher gives the same class; None without a teacher.
        kl_from_teacher: Mean KL(teacher || network) at temperature 1; None without a teacher.
        correlation_distance: Mean absolute difference of the entries of both class-correlation matrices; None without a
            teacher.
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

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


@torch.inference_mode()
def predict(
    network: Network, images: Batches, precision: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
    """Logits and labels of a whole set in order; the network is left in the mode it was in.

    Several processes share the work, each batch whole, so that the result is that of one process.
    """
    was_training = network.training
    network.eval()
    try:
        with autocast(images.device, precision):
            found = [network(network.normalize(batch.images)).float() for batch in images.in_order()]
            if not found:  # another process has all there is
                found = [network(network.normalize(images.probe(1)))[:0].float()]
    finally:
        network.train(was_training)
    return images.gather(torch.cat(found)), images.labels


def top_k(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], k: int) -> Float[Tensor, ""]:
    """Share of samples whose label is among the k likeliest classes; 1 where there are no more than k classes."""
    likeliest = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (likeliest == labels.unsqueeze(1)).any(1).float().mean()


def calibration_error(
    logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], bins: int = CALIBRATION_BINS
) -> Float[Tensor, ""]:
    """Expected calibration error: mean gap between confidence and accuracy, over bins of confidence."""
    confidence, prediction = logits.softmax(1).max(1)
    gap = (prediction == labels).float() - confidence
    slot = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return torch.zeros(bins, device=logits.device).index_add_(0, slot, gap).abs().sum() / len(labels)


def class_correlation(logits: Float[Tensor, "n classes"]) -> Float[Tensor, "classes classes"]:
    """Correlation of the logits of each two classes over the images (Tian et al., CRD, ICLR 2020, figure 2)."""
    # A class whose logit is always the same has none. Not every device has float64.
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
    """Measure a network on an image set; the network must be on the device.

    Args:
        network: The network to measure.
        image_set: The images, with as many channels as the network takes.
        device: Where to compute.
        precision: Precision of the forward passes.
        teacher_logits: What its teacher says of the images, to compare with, if there is a teacher.
        batch_size: Images at a time.
    """
    batches = Batches(image_set, batch_size, device=device, padding=0, flip=False, seed=0)
    began = time.perf_counter()
    logits, labels = predict(network, batches, precision)
    if device.type != "cpu":
        # The first pass has made the device ready; the second is timed from an idle device to its last number.
        synchronize(device)
        began = time.perf_counter()
        predict(network, batches, precision)
        synchronize(device)
    speed = len(image_set) / (time.perf_counter() - began)
    hits = (logits.argmax(1) == labels).float()
    classes = len(image_set.classes)
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
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
        per_class=dict(zip(image_set.classes, per_class.tolist(), strict=True)),
        images=len(image_set),
        parameters=parameters(network),
        macs=macs(network, image_set.image_shape),
        images_per_second=speed,
        agreement=agreement,
        kl_from_teacher=divergence,
        correlation_distance=distance,
    )

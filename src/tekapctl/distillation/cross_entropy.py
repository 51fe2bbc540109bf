"""The loss on labels: cross-entropy of hard, smoothed or mixed ones, or a binary one for each class."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tekapctl.data.batch import Batch

_YES = 0.2
"""Classes with a larger share in a mixed image are among its answers, as in timm's procedure A3."""


def cross_entropy(
    logits: Float[Tensor, "batch classes"], batch: Batch, label_smoothing: float, *, binary: bool = False
) -> Float[Tensor, ""]:
    """The cross-entropy with the labels, or with the probabilities of mixed images; images without a label count 0.

    Args:
        logits: Of the student.
        batch: The labels or probabilities, and the weights of the labels.
        label_smoothing: Share of each label that is spread over all classes.
        binary: Whether to average the binary cross-entropies of the classes instead.
    """
    if binary:
        targets = F.one_hot(batch.labels, logits.shape[1]).float() if batch.targets is None else batch.targets
        targets = targets.lerp(targets.mean(1, keepdim=True).expand_as(targets), label_smoothing)
        if batch.targets is not None:
            targets = (targets > _YES).float()
        each = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(1)
        return (each if batch.label_weights is None else each * batch.label_weights).mean()
    if batch.label_weights is None:
        targets = batch.labels if batch.targets is None else batch.targets
        return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
    log_p = logits.float().log_softmax(1)
    if batch.targets is None:
        targets = F.one_hot(batch.labels, logits.shape[1]) * batch.label_weights.unsqueeze(1)
    else:
        targets = batch.targets
    smoothed = targets.lerp(targets.mean(1, keepdim=True).expand_as(targets), label_smoothing)
    return -(smoothed * log_p).sum(1).mean()

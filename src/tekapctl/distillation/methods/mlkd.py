"""MLKD: match logits at the level of samples, of the batch and of classes.

Jin, Wang and Lin, CVPR 2023: alignment of instances, batches and classes, each at several temperatures, on a weakly and
a strongly augmented version of each image.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.losses import Logits, entropy_weights, kl, softened_kl_of_each, standardized
from tekapctl.settings import Temperature, Weight

Temperatures = tuple[Temperature, ...]


@METHODS.register("mlkd")
class MLKDSpec(MethodSpec):
    """MLKD's settings; the defaults are what the published code computes.

    That code masks the more confident half of samples and of classes after taking the mean over them. What is left of
    the mask is a factor on the weak images' levels: the fraction of unmasked samples or classes, one half for even
    numbers. It also computes the weak images' divergence again where the strong images' was meant
    (`again_temperatures`). `standardize_logits` applies to the divergences only.
    """

    weights = Weights(gamma=0.1, beta=0.9)
    requires = Requires(logits=True, strong_view=True)
    about = About(
        "Multi-Level Logit Distillation",
        2023,
        "sum over T of T^2 * KL(p_t || p_s) + |P_t P_t' - P_s P_s'|^2 / batch + |P_t' P_t - P_s' P_s|^2 / classes, "
        "P = a batch's softmax(logits / T)",
        "sees a strongly augmented view of each image too, in its KL and in the cross-entropy; published with "
        "learning rate 0.025 (0.01 for mobile networks) and 240 or 480 epochs",
    )
    name: Literal["mlkd"] = "mlkd"
    temperatures: Temperatures = Field(
        (2.0, 3.0, 4.0, 5.0, 6.0), description="Temperatures of the weak images' levels."
    )
    weak_weight: Weight = Field(1.0, description="Weight of the three levels of weak images.")
    strong_temperatures: Temperatures = Field((3.0, 4.0, 5.0), description="Temperatures of the strong images' KL.")
    again_temperatures: Temperatures = Field((2.0, 6.0), description="Temperatures of the weak images' second KL.")
    entropy_weights: bool = Field(False, description="Weight the samples of divergences by entropy, as in EA-KD.")

    @model_validator(mode="after")
    def _check_temperatures(self) -> "MLKDSpec":
        if not (self.temperatures or self.strong_temperatures or self.again_temperatures):
            raise ValueError("temperatures, strong_temperatures and again_temperatures are all empty: there is no loss")
        return self

    def make(self, pair: Pair) -> "MLKD":
        return MLKD(self, standardize=pair.standardize_logits)


class MLKD(Method):
    """The three levels.

    Args:
        spec: The settings.
        standardize: Whether the divergences see standardized logits.
    """

    standardizes_logits = True

    def __init__(self, spec: MLKDSpec, *, standardize: bool = False) -> None:
        super().__init__(spec)
        self.standardize = standardize

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        assert student.strong is not None
        assert teacher.strong is not None
        spec, ours, theirs = self.spec, student.logits, teacher.logits
        of_batch, of_classification = (spec.weak_weight * unmasked_fraction(count) for count in ours.shape)
        parts = []
        for temperature in spec.temperatures:
            parts.append(of_batch * self._divergence(ours, theirs, temperature))
            parts.append(of_batch * of_samples(ours, theirs, temperature))
            parts.append(of_classification * of_classes(ours, theirs, temperature))
        strong = student.strong.logits, teacher.strong.logits
        parts += [self._divergence(*strong, each) for each in spec.strong_temperatures]
        parts += [self._divergence(ours, theirs, each) for each in spec.again_temperatures]
        return torch.stack(parts).sum()

    def _divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Float[Tensor, ""]:
        seen = (standardized(student), standardized(teacher)) if self.standardize else (student, teacher)
        if not self.spec.entropy_weights:
            return kl(*seen, temperature)
        # As published: the weights see the raw logits even if the divergences see standardized ones.
        return (entropy_weights(student, teacher) * softened_kl_of_each(*seen, temperature)).mean()


def unmasked_fraction(count: int) -> float:
    """The fraction of samples, or of classes, whose confidence is not above the median."""
    return (count + 1) // 2 / count


def of_samples(student: Logits, teacher: Logits, temperature: float) -> Float[Tensor, ""]:
    """Squared difference of the samples' relations to one another, over the number of samples: the batch level."""
    ours, theirs = ((logits / temperature).softmax(1) for logits in (student, teacher))
    return (theirs @ theirs.T - ours @ ours.T).square().sum() / len(ours)


def of_classes(student: Logits, teacher: Logits, temperature: float) -> Float[Tensor, ""]:
    """Squared difference of the classes' relations to one another, over the number of classes: the class level."""
    ours, theirs = ((logits / temperature).softmax(1) for logits in (student, teacher))
    return (theirs.T @ theirs - ours.T @ ours).square().sum() / ours.shape[1]

"""How diverse the predictions of augmented teachers are, and how good their ensemble is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.distillation.angular import AngularViews
from tekapctl.distillation.tekap import Tekap
from tekapctl.models.knowledge import Knowledge, Level
from tekapctl.train.evaluation import calibration_error, top_k

TensorMetrics = dict[str, Float[Tensor, ""]]
Classifier = Callable[[Float[Tensor, "*batch width"]], Float[Tensor, "*batch classes"]]


@dataclass(frozen=True)
class TeacherOutputs:
    """A teacher's outputs for test images, in float32, and its classifier layer, from embedding to logits."""

    knowledge: Knowledge
    labels: Int64[Tensor, " n"]
    classify: Classifier

    def batches(self, size: int) -> Iterator[tuple[int, Knowledge, Int64[Tensor, " some"]]]:
        """Batches of a size: the position of the first image, the knowledge, the labels."""
        knowledge = self.knowledge
        for first in range(0, len(self.labels), size):
            rows = slice(first, first + size)
            yield (
                first,
                Knowledge(logits=knowledge.logits[rows], embedding=knowledge.embedding[rows]),
                self.labels[rows],
            )


@dataclass(frozen=True)
class Predictions:
    """Predictions of a teacher's augmented teachers, at temperature 1.

    Attributes:
        ensemble: Log of the weighted mean of the teacher's and the augmented teachers' probabilities.
        variance: Unbiased variance of a class's probability over the augmented teachers, averaged over the classes;
            NaN for a single augmented teacher.
        disagreement: Fraction of the augmented teachers that predict another class than the teacher.
    """

    ensemble: Float[Tensor, "n classes"]
    variance: Float[Tensor, " n"]
    disagreement: Float[Tensor, " n"]

    @classmethod
    def of(
        cls,
        teacher: Float[Tensor, "n classes"],
        others: Float[Tensor, "drawn n classes"],
        *,
        teacher_loss_weight: float,
        weight: float,
        count: int | None = None,
    ) -> "Predictions":
        """The predictions from logits; the ensemble has the teacher and `count` augmented teachers, by default all."""
        log_probabilities, rows = others.log_softmax(2), others.shape[1:2]
        members = torch.cat([teacher.log_softmax(1).unsqueeze(0), log_probabilities[:count]])
        weights = members.new_full((len(members), 1, 1), weight)
        weights[0] = teacher_loss_weight
        return cls(
            ensemble=(members + (weights / weights.sum()).log()).logsumexp(0),
            variance=log_probabilities.exp().var(0).mean(1) if len(others) > 1 else others.new_full(rows, torch.nan),
            disagreement=(others[:count].argmax(2) != teacher.argmax(1)).float().mean(0),
        )

    @classmethod
    def concatenated(cls, parts: "list[Predictions]") -> "Predictions":
        """The predictions of all images, from those of batches."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def metrics(self, labels: Int64[Tensor, " n"]) -> TensorMetrics:
        """Means over the images; accuracy and calibration error (15 bins) of the ensemble."""
        return {
            "variance": self.variance.mean(),
            "disagreement": self.disagreement.mean(),
            "ensemble_top1": top_k(self.ensemble, labels, 1),
            "ensemble_calibration_error": calibration_error(self.ensemble, labels),
        }


def augmented_diversity(
    outputs: TeacherOutputs, tekap: Tekap, level: Level, step: int, batch_size: int
) -> TensorMetrics:
    """Diversity of the augmented teachers at a level, whose noise the step seeds.

    At the feature level, the teacher's classifier turns their embeddings into logits. The variance is that over at
    least two draws of the noise, also if there is a single augmented teacher.
    """
    spec = getattr(tekap.spec, level)
    drawn = spec.model_copy(update={"teachers": max(2, spec.teachers)})
    drawing = tekap.with_spec(tekap.spec.model_copy(update={level: drawn}))
    parts = []
    for first, teacher, labels in outputs.batches(batch_size):
        if level == "logit":
            others, own = drawing.augment_logits(teacher, step, first, labels).logits, teacher.logits
        else:
            embeddings = drawing.augment_features(teacher, step, first).embeddings
            assert embeddings is not None
            others, own = outputs.classify(embeddings), outputs.classify(teacher.embedding)
        assert others is not None
        weights = {"teacher_loss_weight": spec.teacher_loss_weight, "weight": spec.loss_weight}
        parts.append(Predictions.of(own, others, **weights, count=spec.teachers))
    return Predictions.concatenated(parts).metrics(outputs.labels)


def view_diversity(outputs: TeacherOutputs, views: AngularViews, step: int) -> TensorMetrics:
    """Diversity of learned views in training mode: with dropout, and batch norms over all these images.

    Their running statistics change; the step seeds the dropout.
    """
    teacher, others = outputs.knowledge.logits, views.logits_of(outputs.knowledge.embedding, step)
    predictions = Predictions.of(teacher, others, teacher_loss_weight=1.0, weight=views.spec.view_weight)
    return predictions.metrics(outputs.labels)


def teacher_accuracy(outputs: TeacherOutputs) -> TensorMetrics:
    """Accuracy and calibration error of the teacher itself."""
    logits, labels = outputs.knowledge.logits, outputs.labels
    return {"top1": top_k(logits, labels, 1), "calibration_error": calibration_error(logits, labels)}

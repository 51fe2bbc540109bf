"""How much the augmented teachers of one teacher differ in what they predict, and what they predict together."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.distill.angular import AngularViews
from tekapctl.distill.tekap import Tekap
from tekapctl.models.network import Knowledge, Level
from tekapctl.train.evaluation import calibration_error, top_k

Figures = dict[str, Float[Tensor, ""]]
Classifier = Callable[[Float[Tensor, "*batch width"]], Float[Tensor, "*batch classes"]]


@dataclass(frozen=True)
class Examined:
    """What a teacher says of test images.

    Attributes:
        knowledge: Its logits and embeddings, in float32.
        labels: The images'.
        classify: Its layer from embedding to logits.
    """

    knowledge: Knowledge
    labels: Int64[Tensor, " n"]
    classify: Classifier

    def in_parts(self, size: int) -> Iterator[tuple[int, Knowledge, Int64[Tensor, " some"]]]:
        """The knowledge of so many images at a time and their labels, with the place of the first."""
        known = self.knowledge
        for first in range(0, len(self.labels), size):
            rows = slice(first, first + size)
            yield first, Knowledge(logits=known.logits[rows], embedding=known.embedding[rows]), self.labels[rows]


@dataclass(frozen=True)
class Predictions:
    """What the augmented teachers of a teacher predict, at temperature 1.

    Attributes:
        ensemble: Logarithms of the weighted mean of the teacher's and the augmented teachers' probabilities.
        variance: Variance of a class's probability over the augmented teachers, as a mean over the classes; unbiased,
            and so NaN of a single one.
        disagreement: Share of the augmented teachers whose class is not the teacher's.
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
        """The predictions that logits stand for.

        Args:
            teacher: The teacher's logits.
            others: Those of the augmented teachers.
            teacher_loss_weight: What the teacher weighs in the ensemble.
            weight: What each augmented teacher weighs in it.
            count: How many of the first are the ensemble's; None for all.
        """
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
    def join_process_group(cls, parts: "list[Predictions]") -> "Predictions":
        """Those of all images, from those of parts of them."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def figures(self, labels: Int64[Tensor, " n"]) -> Figures:
        """Means over the images; how good the ensemble is, and how well its confidence fits (15 bins)."""
        return {
            "variance": self.variance.mean(),
            "disagreement": self.disagreement.mean(),
            "ensemble_top1": top_k(self.ensemble, labels, 1),
            "ensemble_calibration_error": calibration_error(self.ensemble, labels),
        }


def of_augmented(examined: Examined, tekap: Tekap, level: Level, step: int, together: int) -> Figures:
    """How augmented teachers of a level differ.

    At the logit level they say their logits, at the feature level what the teacher's classifier makes of their
    embeddings. All are draws from one distribution, so that the variance over a single one is that over two draws.

    Args:
        examined: What the teacher says.
        tekap: Makes the augmented teachers.
        level: Of the two.
        step: What the noise depends on, beside the seed and the image's place.
        together: Images at a time.
    """
    spec = getattr(tekap.spec, level)
    drawn = spec.model_copy(update={"teachers": max(2, spec.teachers)})
    drawing = tekap.with_spec(tekap.spec.model_copy(update={level: drawn}))
    parts = []
    for first, teacher, labels in examined.in_parts(together):
        if level == "logit":
            others, own = drawing.augment_logits(teacher, step, first, labels).logits, teacher.logits
        else:
            embeddings = drawing.augment_features(teacher, step, first).embeddings
            assert embeddings is not None
            others, own = examined.classify(embeddings), examined.classify(teacher.embedding)
        assert others is not None
        weights = {"teacher_loss_weight": spec.teacher_loss_weight, "weight": spec.loss_weight}
        parts.append(Predictions.of(own, others, **weights, count=spec.teachers))
    return Predictions.join_process_group(parts).figures(examined.labels)


def of_views(examined: Examined, views: AngularViews, step: int) -> Figures:
    """How learned views differ, as they are in training: with dropout, and normalised over all these images.

    Args:
        examined: What the teacher says.
        views: The views; their running statistics move.
        step: What the dropout depends on, beside the seed.
    """
    others = views.logits_of(examined.knowledge.embedding, step)
    found = Predictions.of(examined.knowledge.logits, others, teacher_loss_weight=1.0, weight=views.spec.view_weight)
    return found.figures(examined.labels)


def of_teacher(examined: Examined) -> Figures:
    """How good the teacher itself is, and how well its confidence fits."""
    logits, labels = examined.knowledge.logits, examined.labels
    return {"top1": top_k(logits, labels, 1), "calibration_error": calibration_error(logits, labels)}

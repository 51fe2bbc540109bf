"""TeKAP: many perspectives of one teacher, made by perturbing its knowledge.

Hossain et al., "Single Teacher, Multiple Perspectives: Teacher Knowledge Augmentation for Enhanced Knowledge
Distillation", ICLR 2025. The output of an augmented teacher is `(1 - a) * teacher + a * noise`, for logits and for
features, with new noise in every step. Here the teacher's scale and the noise's weight are two settings.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

import torch
from jaxtyping import Float, Int64
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from tekapctl.distillation.perturbations import HALF_WIDTH, PERTURBATIONS, LogitPerturbation
from tekapctl.distillation.perturbations.noise import Isotropic
from tekapctl.models.knowledge import Knowledge, Level
from tekapctl.randomness import by_rows
from tekapctl.registry import unknown_name
from tekapctl.settings import Settings, Weight

Distribution = Literal["gaussian", "uniform"]
NO_TEKAP = {"logit": {"teachers": 0}, "feature": {"teachers": 0}}
"""The settings of TeKAP that switch it off."""
LEVELS: tuple[Level, ...] = get_args(Level)
NoiseSource = Callable[[Sequence[int], str, int, torch.device, int], Tensor]
"""Draws unit-variance noise from a shape (teachers, batch, ...), the name of its target (`logits`, `embedding`,
`feature map N` or `preactivation N`), the step, the device, and the first row's place in the batch."""
Teachers = Annotated[int, Field(ge=0, le=4096, description="Number of augmented teachers; 0 switches the level off.")]
NoiseStd = Annotated[Weight, Field(description="Standard deviation of the noise before `noise_weight`.")]
LossWeight = Annotated[Weight, Field(description="Weight of the loss under each augmented teacher.")]


class LevelSettings(Settings):
    """How the augmented teachers of one level are made, and the weights of their losses."""

    teachers: Teachers
    teacher_scale: Weight = Field(0.9, description="Factor of the teacher's output in an augmented teacher's.")
    noise_weight: Weight = Field(0.1, description="Factor of the noise in an augmented teacher's output.")
    noise_std: NoiseStd
    distribution: Distribution = Field("gaussian", description="Distribution of the noise.")
    loss_weight: LossWeight
    teacher_loss_weight: Weight = Field(1.0, description="Weight of the loss under the teacher itself.")

    @property
    def has_noise(self) -> bool:
        """Whether there are augmented teachers with any noise."""
        return bool(self.teachers and self.noise_weight and self.noise_std)


def _known_perturbation(name: str) -> str:
    if name not in PERTURBATIONS:
        raise ValueError(str(unknown_name(PERTURBATIONS.kind, name, PERTURBATIONS.names())))
    return name


KnownPerturbation = Annotated[str, AfterValidator(_known_perturbation)]
"""The name of a perturbation of the logits."""


class LogitTekap(LevelSettings):
    """TeKAP at the logit level; the defaults are the published code's."""

    teachers: Teachers = 3
    noise_std: NoiseStd = 1.0
    loss_weight: LossWeight = 0.8
    perturbation: KnownPerturbation = Field(
        "isotropic",
        description="Kind of noise: isotropic, covariance, class-covariance, temperature, relative, dropout or mixing, "
        "all of the same size (docs/tekap.md).",
    )
    dropout: float = Field(0.1, gt=0, lt=1, description="Dropout rate of the embedding in the perturbation `dropout`.")

    @model_validator(mode="after")
    def _check_distribution(self) -> "LogitTekap":
        if self.distribution != "gaussian" and not PERTURBATIONS[self.perturbation].takes_distribution:
            raise ValueError(
                f"the perturbation {self.perturbation} always draws uniform numbers: leave out `distribution`"
            )
        return self

    @property
    def noise_distribution(self) -> Distribution:
        """Distribution of the random numbers that the perturbation draws."""
        return self.distribution if PERTURBATIONS[self.perturbation].takes_distribution else "uniform"


class FeatureTekap(LevelSettings):
    """TeKAP at the feature level; the defaults are the published code's.

    The published code runs the whole contrastive loss again for the augmented teacher. That counts the student's term
    again and updates the memory banks again; both effects have a setting of their own.
    """

    teachers: Teachers = 1
    noise_std: NoiseStd = 0.1
    loss_weight: LossWeight = 1.0
    student_term_weight: Weight = Field(
        1.0, description="Weight of the student's term (CRD), which each augmented teacher adds again."
    )
    bank_updates: bool = Field(True, description="Whether each augmented teacher updates the memory banks (CRD) again.")


class TekapSpec(Settings):
    """Both levels of TeKAP."""

    logit: LogitTekap = LogitTekap()
    feature: FeatureTekap = FeatureTekap()

    def without_noise(self, level: Level) -> "TekapSpec":
        """The same spec with no noise at a level."""
        return self.model_copy(update={level: getattr(self, level).model_copy(update={"noise_weight": 0.0})})

    def without(self) -> "TekapSpec":
        """The same spec with no augmented teachers."""
        off = {"teachers": 0}
        return TekapSpec(logit=self.logit.model_copy(update=off), feature=self.feature.model_copy(update=off))


def perturb(
    spec: LevelSettings, knowledge: Float[Tensor, "..."], noise: Float[Tensor, "teachers ..."]
) -> Float[Tensor, "teachers ..."]:
    """The augmented teachers' outputs: `teacher_scale * knowledge + noise_weight * noise_std * noise`.

    Args:
        spec: The level's settings.
        knowledge: The teacher's logits, embedding or feature map.
        noise: Unit-variance noise or a perturbation's sample: for each augmented teacher, the knowledge's shape.
    """
    scaled = knowledge.float() * spec.teacher_scale
    return torch.add(scaled.unsqueeze(0), noise, alpha=spec.noise_weight * spec.noise_std)


@dataclass(frozen=True)
class AugmentedTeachers:
    """The augmented teachers of one level for one batch.

    Iterating gives the knowledge of one augmented teacher after the other.

    Attributes:
        spec: The level's settings, with the weights of the losses.
        teacher: The teacher's own knowledge of the batch.
        logits: Their logits; None at the feature level.
        embeddings: Their embeddings; None at the logit level.
        feature_maps: Their feature maps; empty at the logit level.
        preactivations: Their feature maps before the ReLU; empty at the logit level.
        strong_logits: Their logits of strongly augmented images; None at the feature level, or without such images.
    """

    spec: LevelSettings
    teacher: Knowledge
    logits: Float[Tensor, "teachers batch classes"] | None = None
    embeddings: Float[Tensor, "teachers batch width"] | None = None
    feature_maps: tuple[Float[Tensor, "teachers batch _c _h _w"], ...] = ()
    preactivations: tuple[Float[Tensor, "teachers batch _c _h _w"], ...] = ()
    strong_logits: Float[Tensor, "teachers batch classes"] | None = None

    def __len__(self) -> int:
        return self.spec.teachers

    def __iter__(self) -> Iterator[Knowledge]:
        for i in range(len(self)):
            strong = self.teacher.strong
            if strong is not None and self.strong_logits is not None:
                strong = replace(strong, logits=self.strong_logits[i])
            yield Knowledge(
                logits=self.teacher.logits if self.logits is None else self.logits[i],
                embedding=self.teacher.embedding if self.embeddings is None else self.embeddings[i],
                feature_maps=tuple(maps[i] for maps in self.feature_maps) or self.teacher.feature_maps,
                preactivations=tuple(maps[i] for maps in self.preactivations) or self.teacher.preactivations,
                strong=strong,
            )


class SeededNoise:
    """Unit-variance noise that depends only on the run's seed, its target, the step and the place in the batch.

    The embedding's noise, for instance, is the same whichever feature maps a method reads as well.
    """

    def __init__(self, spec: TekapSpec, seed: int) -> None:
        self.spec = spec
        self.seed = seed

    def __call__(self, shape: Sequence[int], to: str, step: int, device: torch.device, first: int = 0) -> Tensor:
        """Draw noise of `shape` (teachers, batch, ...) on `device`, for a batch's rows from `first` on."""
        teachers, count, *rest = shape
        distribution = self.spec.logit.noise_distribution if to == "logits" else self.spec.feature.distribution

        def draw(rows: int, source: torch.Generator) -> Tensor:
            whole = (teachers, rows, *rest)
            if distribution == "gaussian":
                return torch.randn(whole, generator=source, device=device)
            return torch.empty(whole, device=device).uniform_(-HALF_WIDTH, HALF_WIDTH, generator=source)

        return by_rows(draw, device, first, count, self.seed, "tekap", to, step, dim=1)


_ISOTROPIC = Isotropic()


class Tekap:
    """Turns the teacher's knowledge into that of its augmented teachers.

    Args:
        spec: The settings of both levels.
        noise: Draws the noise; `SeededNoise` in a run.
        perturbation: Turns noise into perturbations of this teacher's logits; isotropic noise is used as it is.
    """

    def __init__(self, spec: TekapSpec, noise: NoiseSource, perturbation: LogitPerturbation = _ISOTROPIC) -> None:
        self.spec = spec
        self.noise = noise
        self.perturbation = perturbation

    def with_spec(self, spec: TekapSpec) -> "Tekap":
        """Other settings with the same noise and perturbation."""
        return Tekap(spec, self.noise, self.perturbation)

    def augment_logits(
        self, teacher: Knowledge, step: int, first: int = 0, labels: Int64[Tensor, " batch"] | None = None
    ) -> AugmentedTeachers:
        """Augmented teachers at the logit level.

        Args:
            teacher: The teacher's knowledge of a batch, or of this process's rows of it.
            step: Number of the step in the run.
            first: The first row's place in the batch.
            labels: The rows' class numbers, for perturbations that read them.
        """
        spec = self.spec.logit
        if not spec.teachers:
            return AugmentedTeachers(spec, teacher)
        images = (teacher,) if teacher.strong is None else (teacher, teacher.strong)
        dims = [self.perturbation.noise_dim(knowledge) for knowledge in images]
        shape = (spec.teachers, len(teacher.logits), sum(dims))
        noise = self.noise(shape, "logits", step, teacher.logits.device, first)
        parts = (noise,) if len(images) == 1 else noise.split(dims, dim=2)  # a split of one is an operator for nothing
        logits, *strong = (
            perturb(spec, knowledge.logits, self.perturbation.sample(knowledge, labels, part))
            for knowledge, part in zip(images, parts, strict=True)
        )
        return AugmentedTeachers(spec, teacher, logits=logits, strong_logits=strong[0] if strong else None)

    def augment_features(self, teacher: Knowledge, step: int, first: int = 0) -> AugmentedTeachers:
        """Augmented teachers at the feature level, with embeddings and feature maps; arguments as `augment_logits`."""
        spec = self.spec.feature
        if not spec.teachers:
            return AugmentedTeachers(spec, teacher)
        maps = {
            "embedding": teacher.embedding,
            **{f"feature map {number}": each for number, each in enumerate(teacher.feature_maps)},
            **{f"preactivation {number}": each for number, each in enumerate(teacher.preactivations)},
        }
        embeddings, *others = (
            perturb(spec, each, self.noise((spec.teachers, *each.shape), name, step, each.device, first))
            for name, each in maps.items()
        )
        stages = len(teacher.feature_maps)
        after, before = tuple(others[:stages]), tuple(others[stages:])
        return AugmentedTeachers(spec, teacher, embeddings=embeddings, feature_maps=after, preactivations=before)

"""TeKAP: many perspectives of one teacher, made by perturbing its knowledge.

Hossain et al., "Single Teacher, Multiple Perspectives: Teacher Knowledge Augmentation for Enhanced Knowledge
Distillation", ICLR 2025. An augmented teacher says `(1 - a) * teacher + a * noise` (its equation for logits and, alike,
for features), with noise drawn anew in every step. The share of the teacher and the weight of the noise are two
settings here, so that each can be studied without the other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

import torch
from jaxtyping import Float, Int64
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from tekapctl.distill.perturbations import PERTURBATIONS, LogitPerturbation
from tekapctl.distill.perturbations.gaussian import Isotropic
from tekapctl.distill.perturbations.perturbation import HALF_WIDTH
from tekapctl.models.network import Knowledge, Level
from tekapctl.randomness import by_rows
from tekapctl.registry import unknown_name
from tekapctl.settings import Settings, Weight

Distribution = Literal["gaussian", "uniform"]
LEVELS: tuple[Level, ...] = get_args(Level)
NoiseSource = Callable[[Sequence[int], str, int, torch.device, int], Tensor]
"""Draws unit-variance noise of a shape (teachers, batch, ...) at a step, on a device, for a batch's rows from a given
one on. The text says what it is added to: `logits`, `embedding`, `feature map N` or `preactivation N`."""


class Perturbation(Settings):
    """How the augmented teachers of one level are made, and what their losses weigh."""

    teachers: int = Field(ge=0, le=4096, description="Number of augmented teachers; 0 switches the level off.")
    teacher_scale: Weight = Field(0.9, description="Share of the teacher's own output in an augmented teacher's.")
    noise_weight: Weight = Field(0.1, description="Weight of the noise in an augmented teacher's output.")
    noise_std: Weight = Field(description="Standard deviation of the noise before it is weighted.")
    distribution: Distribution = Field("gaussian", description="Distribution of the noise.")
    loss_weight: Weight = Field(description="Weight of each augmented teacher's loss; the teacher's own is 1.")
    teacher_loss_weight: Weight = Field(1.0, description="Weight of the teacher's own loss beside them.")

    @property
    def has_noise(self) -> bool:
        """Whether there are augmented teachers who say something else than a share of what the teacher says."""
        return bool(self.teachers and self.noise_weight and self.noise_std)


def _known_perturbation(name: str) -> str:
    if name not in PERTURBATIONS:
        raise ValueError(str(unknown_name(PERTURBATIONS.kind, name, PERTURBATIONS.names())))
    return name


KnownPerturbation = Annotated[str, AfterValidator(_known_perturbation)]
"""The name of a perturbation of the logits."""


class LogitTekap(Perturbation):
    """TeKAP at the logit level; the defaults are the published code's."""

    teachers: int = Field(3, ge=0, le=4096, description="Number of augmented teachers; 0 switches the level off.")
    noise_std: Weight = Field(1.0, description="Standard deviation of the noise before it is weighted.")
    loss_weight: Weight = Field(0.8, description="Weight of each augmented teacher's loss; the teacher's own is 1.")
    perturbation: KnownPerturbation = Field(
        "isotropic",
        description="What is weighted as noise: isotropic, covariance, class-covariance, temperature, relative, "
        "dropout or mixing, each of the same size (docs/tekap.md).",
    )
    dropout: float = Field(
        0.1, gt=0, lt=1, description="Share of the teacher's embedding that the perturbation dropout drops."
    )

    @model_validator(mode="after")
    def _check_distribution(self) -> "LogitTekap":
        if self.distribution != "gaussian" and not PERTURBATIONS[self.perturbation].takes_distribution:
            raise ValueError(
                f"the perturbation {self.perturbation} decides by chance and has no distribution: leave it out"
            )
        return self

    @property
    def numbers(self) -> Distribution:
        """Distribution of the random numbers that the perturbation is made of."""
        return self.distribution if PERTURBATIONS[self.perturbation].takes_distribution else "uniform"


class FeatureTekap(Perturbation):
    """TeKAP at the feature level; the defaults are the published code's.

    The published code runs the whole contrastive loss once more for the augmented teacher, which counts the student's
    term again and updates the memory banks again. Both effects are settings of their own.
    """

    teachers: int = Field(1, ge=0, le=4096, description="Number of augmented teachers; 0 switches the level off.")
    noise_std: Weight = Field(0.1, description="Standard deviation of the noise before it is weighted.")
    loss_weight: Weight = Field(1.0, description="Weight of each augmented teacher's loss; the teacher's own is 1.")
    student_term_weight: Weight = Field(
        1.0, description="How much of the student's term (CRD) each augmented teacher adds once more."
    )
    bank_updates: bool = Field(True, description="Whether each augmented teacher updates the memory banks (CRD) again.")


class TekapSpec(Settings):
    """Both levels of TeKAP."""

    logit: LogitTekap = LogitTekap()
    feature: FeatureTekap = FeatureTekap()

    def quiet(self, level: Level) -> "TekapSpec":
        """The same spec with no noise at a level.

        Args:
            level: Of the two.
        """
        return self.model_copy(update={level: getattr(self, level).model_copy(update={"noise_weight": 0.0})})

    def without(self) -> "TekapSpec":
        """The same spec with no augmented teachers."""
        return TekapSpec(
            logit=self.logit.model_copy(update={"teachers": 0}), feature=self.feature.model_copy(update={"teachers": 0})
        )


def perturb(
    spec: Perturbation, knowledge: Float[Tensor, "..."], noise: Float[Tensor, "teachers ..."]
) -> Float[Tensor, "teachers ..."]:
    """What each augmented teacher says: `teacher_scale * knowledge + noise_weight * noise_std * noise`.

    Args:
        spec: The level's settings.
        knowledge: The teacher's logits, embedding or feature map.
        noise: Unit-variance noise, or what a perturbation made of it, one of the knowledge's shape for each augmented
            teacher.
    """
    scaled = knowledge.float() * spec.teacher_scale
    return torch.add(scaled.unsqueeze(0), noise, alpha=spec.noise_weight * spec.noise_std)


@dataclass(frozen=True)
class AugmentedTeachers:
    """The augmented teachers of one level for one batch.

    Attributes:
        logits: Their logits, where the level is the logits, else None.
        embeddings: Their embeddings, where the level is the features and embeddings are used, else None.
        feature_maps: Their feature maps, where the level is the features, else empty.
        preactivations: Their feature maps before the ReLU, likewise.
        strong_logits: Their logits of the strong views, where the level is the logits and there are strong views.
        spec: The level's settings, the weight of their losses among them.
    """

    spec: Perturbation
    teacher: Knowledge
    logits: Float[Tensor, "teachers batch classes"] | None = None
    embeddings: Float[Tensor, "teachers batch width"] | None = None
    feature_maps: tuple[Float[Tensor, "teachers batch _c _h _w"], ...] = ()
    preactivations: tuple[Float[Tensor, "teachers batch _c _h _w"], ...] = ()
    strong_logits: Float[Tensor, "teachers batch classes"] | None = None

    def __len__(self) -> int:
        return self.spec.teachers

    def __iter__(self) -> Iterator[Knowledge]:
        strong = self.teacher.strong
        for i in range(len(self)):
            yield Knowledge(
                logits=self.teacher.logits if self.logits is None else self.logits[i],
                embedding=self.teacher.embedding if self.embeddings is None else self.embeddings[i],
                feature_maps=tuple(stage[i] for stage in self.feature_maps)
                if self.feature_maps
                else self.teacher.feature_maps,
                preactivations=(
                    tuple(maps[i] for maps in self.preactivations)
                    if self.preactivations
                    else self.teacher.preactivations
                ),
                strong=(
                    strong
                    if strong is None or self.strong_logits is None
                    else replace(strong, logits=self.strong_logits[i])
                ),
            )


class SeededNoise:
    """Unit-variance noise that depends on the run's seed, what it is added to, the step and the place in the batch.

    It depends on nothing else: that of the embedding is the same whichever feature maps a method reads besides.

    Args:
        spec: TeKAP's settings; each level has its distribution, and the logits' perturbation may ask for one.
        seed: The run's seed.
    """

    def __init__(self, spec: TekapSpec, seed: int) -> None:
        self.spec = spec
        self.seed = seed

    def __call__(self, shape: Sequence[int], to: str, step: int, device: torch.device, first: int = 0) -> Tensor:
        """Draw noise of `shape` (teachers, batch, ...) on `device`, for a batch's rows from `first` on."""
        teachers, count, *rest = shape
        distribution = self.spec.logit.numbers if to == "logits" else self.spec.feature.distribution

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
        noise: Where the noise comes from; `SeededNoise` in a run.
        perturbation: What the noise makes of this teacher's logits; isotropic noise is itself.
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
            teacher: The teacher's knowledge of a batch, or of some of its rows.
            step: Number of the step in the run.
            first: The first row's place in the batch.
            labels: The rows' class numbers, for perturbations that read them.
        """
        spec = self.spec.logit
        if not spec.teachers:
            return AugmentedTeachers(spec, teacher)
        strong = teacher.strong
        views = (teacher,) if strong is None else (teacher, strong)
        logits = teacher.logits if strong is None else torch.cat((teacher.logits, strong.logits), dim=1)
        shape = (spec.teachers, len(logits), sum(self.perturbation.numbers(view) for view in views))
        noise = self.noise(shape, "logits", step, logits.device, first)
        augmented = perturb(spec, logits, self.perturbation.of_views(views, labels, noise))
        if strong is None:
            return AugmentedTeachers(spec, teacher, logits=augmented)
        weak, of_strong = augmented.split(teacher.logits.shape[1], dim=2)
        return AugmentedTeachers(spec, teacher, logits=weak, strong_logits=of_strong)

    def augment_features(self, teacher: Knowledge, step: int, first: int = 0) -> AugmentedTeachers:
        """Augmented teachers at the feature level: their embeddings, and all feature maps that the teacher gave.

        Args:
            teacher: The teacher's knowledge of a batch, or of some of its rows.
            step: Number of the step in the run.
            first: The first row's place in the batch.
        """
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
        count = len(teacher.feature_maps)
        return AugmentedTeachers(
            spec,
            teacher,
            embeddings=embeddings,
            feature_maps=tuple(others[:count]),
            preactivations=tuple(others[count:]),
        )

"""The spec of a student's run: what every run depends on, and the teacher, the method and TeKAP."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from tekapctl.distillation.angular import AngularSpec
from tekapctl.distillation.methods import METHODS, MethodSpec
from tekapctl.distillation.methods.kd import KDSpec
from tekapctl.distillation.tekap import NO_TEKAP, FeatureTekap, LogitTekap, TekapSpec
from tekapctl.models.external import Argument
from tekapctl.models.knowledge import Level, Requires
from tekapctl.settings import Temperature, Weight, chosen_by_name
from tekapctl.spec.run import NetworkName, RunSpec

AnyMethod = Annotated[
    SerializeAsAny[MethodSpec], chosen_by_name(METHODS), Field(description="The method, by name, and its settings.")
]

_PRETRAINING_RATE = 0.1
"""Of learned views, as published."""


def _method_name(values: Mapping[str, Any]) -> str:
    """The method's name in a spec's values (a name, a table or ready settings), or ""."""
    method = values.get("method", "kd")
    name = method.get("name") if isinstance(method, Mapping) else getattr(method, "name", method)
    return name if isinstance(name, str) else ""


class StudentSpec(RunSpec):
    """A student distilled from a teacher: `gamma * cross-entropy + alpha * KD + beta * method`."""

    learner: ClassVar[str] = "student"
    kind: Literal["student"] = "student"
    student: NetworkName = Field(
        "resnet8x4",
        description="Student architecture: a built-in network, torchvision:NAME, timm:NAME or module:factory.",
    )
    teacher: str = Field(
        "resnet32x4",
        min_length=1,
        max_length=4096,
        description="The teacher: a run, a checkpoint file, or a network's name.",
    )
    teacher_model: NetworkName | None = Field(
        None, description="Architecture of the teacher's checkpoint file, if the file does not name it."
    )
    teacher_args: dict[str, Argument] = Field({}, description="Keyword arguments of an external teacher network.")
    teacher_digest: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="Expected SHA-256 of the teacher's weights."
    )
    ensemble: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = Field(
        (),
        max_length=64,
        description="Further teachers with equal weights, each with augmented teachers of its own.",
    )
    ensemble_digests: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = Field(
        (), max_length=64, description="Expected SHA-256 of their weights, in the same order."
    )
    method: AnyMethod = KDSpec()
    gamma: Weight = Field(description="Weight of the cross-entropy.")
    alpha: Weight = Field(description="Weight of KD's logit loss.")
    beta: Weight = Field(description="Weight of the method's own loss.")
    temperature: Temperature = Field(4.0, description="Temperature of KD's logit loss.")
    standardize_logits: bool = Field(
        False, description="Standardize logits to mean 0 and std 1 in logit losses (Sun et al., CVPR 2024)."
    )
    tekap: TekapSpec = TekapSpec()
    angular: AngularSpec = AngularSpec()
    cache_teacher: bool = Field(False, description="Cache the teacher's outputs on disk and reuse them across runs.")
    diagnose: bool = Field(
        False,
        description="After each epoch, log the diversity of the augmented teachers and the effect of their noise.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_tekap(cls, values: Any) -> Any:
        """Switch TeKAP on for the methods it was published with, and off with learned views."""
        if not isinstance(values, Mapping):
            return values
        angular = values.get("angular")
        views = angular.get("views", 0) if isinstance(angular, Mapping) else getattr(angular, "views", 0)
        name = _method_name(values)
        given = values.get("tekap", {})
        if (name in METHODS and METHODS[name].tekap and not views) or not isinstance(given, Mapping):
            return values
        # A level with any setting given stays on.
        return {**values, "tekap": {**NO_TEKAP, **given}}

    @model_validator(mode="before")
    @classmethod
    def _fill_weights(cls, values: Any) -> Any:
        """Fill in the method's published loss weights."""
        if not isinstance(values, Mapping):
            return values
        name = _method_name(values)
        if name not in METHODS:
            return {"gamma": 1.0, "alpha": 0.0, "beta": 0.0, **values}
        weights = METHODS[name].weights
        return {"gamma": weights.gamma, "alpha": weights.alpha, "beta": weights.beta, **values}

    @property
    def init_epochs(self) -> int:
        """Epochs of the method's init stage, or of pretraining the learned views."""
        return self.pretrain_epochs or (int(getattr(self.method, "init_epochs", 0)) if self.beta else 0)

    @property
    def pretrain_epochs(self) -> int:
        """Epochs of pretraining the learned views."""
        return self.angular.pretrain_epochs if self.angular.views else 0

    def init_lr(self, epoch: int) -> float:
        """The learning rate of an epoch of the init stage, as published for the method and the student."""
        if self.pretrain_epochs:
            rate = _PRETRAINING_RATE * 0.1 ** (3 * epoch // self.pretrain_epochs)
        else:
            rate = self.method.init_lr(self.student) or self.optimizer.learning_rate
        return rate * self.optimizer.scale(self.batch_size)

    @model_validator(mode="after")
    def _check_labels(self) -> "StudentSpec":
        if not self.data.train_fraction and self.gamma:
            raise ValueError("`data.train_fraction` is 0, so no image has a label: set `gamma` to 0")
        if self.data.unlabelled is not None and self.binary_targets:
            raise ValueError("binary_targets needs a label for every image; leave out `data.unlabelled`")
        return self

    @model_validator(mode="after")
    def _check_repeats(self) -> "StudentSpec":
        if self.data.repeats > 1 and self.beta and (why := self.method.refuses_repeats) is not None:
            raise ValueError(f"`data.repeats` puts an image into a batch several times, but {why}")
        return self

    @model_validator(mode="after")
    def _check_init_stages(self) -> "StudentSpec":
        if self.pretrain_epochs and self.beta and getattr(self.method, "init_epochs", 0):
            raise ValueError(
                f"{self.method.name} has an init stage, so views cannot be pretrained: set angular.pretrain_epochs or "
                "method.init_epochs to 0"
            )
        return self

    @property
    def requires(self) -> Requires:
        """What the losses with a weight read."""
        method = self.method.requires if self.beta else Requires()
        return method | Requires(logits=bool(self.alpha))

    @property
    def uncached(self) -> str | None:
        """Why the cache of teacher outputs cannot hold what the losses read; None if it can."""
        if (what := self.requires.uncached) is not None:
            return f"the method {self.method.name} reads {what}"
        if self.data.repeats > 1 and not self.data.repeats_views:
            return "data.repeats shows an image several times in an epoch, always in another view"
        return None

    @property
    def levels(self) -> set[Level]:
        """The levels at which a loss reads something that TeKAP can augment."""
        levels: set[Level] = {"logit"} if self.alpha else set()
        return levels | ({self.method.requires.level} if self.beta else set())

    @property
    def augmented(self) -> bool:
        """Whether a loss sees augmented teachers."""
        tekap = self.canonical.tekap
        return bool(tekap.logit.teachers or tekap.feature.teachers)

    @property
    def canonical(self) -> "StudentSpec":
        """The same experiment, with TeKAP's settings at their defaults where they have no effect."""
        logit = self.tekap.logit if "logit" in self.levels else LogitTekap(teachers=0)
        feature = self.tekap.feature if "feature" in self.levels else FeatureTekap(teachers=0)
        tekap = TekapSpec(
            logit=logit if logit.teachers else LogitTekap(teachers=0, teacher_loss_weight=logit.teacher_loss_weight),
            feature=feature
            if feature.teachers
            else FeatureTekap(teachers=0, teacher_loss_weight=feature.teacher_loss_weight),
        )
        return self.model_copy(update={"tekap": tekap})

    @model_validator(mode="after")
    def _check_weights(self) -> "StudentSpec":
        if self.angular.views and (self.tekap.logit.teachers or self.tekap.feature.teachers):
            raise ValueError("learned views replace TeKAP's noise: switch TeKAP off, or set angular.views to 0")
        if self.beta and not self.method.has_loss:
            raise ValueError(f"the method {self.method.name} has no loss for beta to weigh: set alpha, and beta to 0")
        if self.ensemble_digests and len(self.ensemble_digests) != len(self.ensemble):
            raise ValueError("ensemble_digests and ensemble differ in length")
        if not (self.gamma or self.alpha or self.beta):
            raise ValueError("gamma, alpha and beta are all 0: nothing would be learned")
        return self

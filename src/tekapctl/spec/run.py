"""Run specs: everything that a run depends on, checked, frozen, and kept with the run."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from tekapctl import models
from tekapctl.data.datasets.cifar import CIFAR100
from tekapctl.data.spec import DATASETS, DataSpec, spelled_out
from tekapctl.distillation.angular import AngularSpec
from tekapctl.distillation.methods import METHODS, MethodSpec
from tekapctl.distillation.methods.kd import KDSpec
from tekapctl.distillation.tekap import FeatureTekap, LogitTekap, TekapSpec
from tekapctl.errors import UsageError
from tekapctl.models.external import Argument
from tekapctl.models.network import Level, Requires
from tekapctl.optim import OPTIMIZERS, OptimizerSpec
from tekapctl.optim.schedules import SCHEDULES, ScheduleSpec
from tekapctl.optim.schedules.step import Step
from tekapctl.optim.sgd import SGDSpec
from tekapctl.registry import Registry
from tekapctl.settings import Settings, Temperature, Weight, chosen_by_name

AnyData = Annotated[
    SerializeAsAny[DataSpec],
    chosen_by_name(DATASETS, spelled_out=spelled_out),
    Field(description="The data set, by name, and its settings."),
]
AnyMethod = Annotated[
    SerializeAsAny[MethodSpec], chosen_by_name(METHODS), Field(description="The method, by name, and its settings.")
]

AnyOptimizer = Annotated[
    SerializeAsAny[OptimizerSpec],
    chosen_by_name(OPTIMIZERS, "sgd"),
    Field(description="The optimizer, by name, and its settings."),
]
AnySchedule = Annotated[
    SerializeAsAny[ScheduleSpec],
    chosen_by_name(SCHEDULES, "step"),
    Field(description="The learning rate schedule, by name, and its settings."),
]

CHOICES: dict[str, tuple[Registry[Any], str]] = {
    "data": (DATASETS, "cifar100"),
    "method": (METHODS, "kd"),
    "optimizer": (OPTIMIZERS, "sgd"),
    "schedule": (SCHEDULES, "step"),
}
"""Fields that are a name or a table with a name, and the name by default."""

_PUBLISHED_OPTIMIZERS = ("sgd", "dot")
"""The networks' published learning rates are meant for these."""
_PRETRAINING_RATE = 0.1
"""Of learned views, as published."""


class RunSpec(Settings):
    """Settings of every run."""

    learner: ClassVar[str]
    """The field that names the network to train."""

    data: AnyData = Field(default_factory=lambda: CIFAR100())
    epochs: int = Field(240, ge=1, le=1_000_000, description="Training epochs, after an init stage.")
    batch_size: int = Field(64, ge=1, le=1_000_000, description="Batch size, over all processes.")
    optimizer: AnyOptimizer = SGDSpec()
    schedule: AnySchedule = Step()
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each label that is spread evenly over all classes."
    )
    accumulate: int = Field(
        1,
        ge=1,
        le=1_000_000,
        description="Parts into which each batch is split; their gradients are accumulated, which needs less memory.",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay per step of an average of the weights, evaluated beside them; 0 disables it.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Random seed of the run.")
    data_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Seed of the sampling, order and augmentation of training images (default: seed). Runs with the "
        "same data_seed see the same batches.",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?|mps)$", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = Field(
        "auto",
        description="Precision of the forward passes. On CUDA, float32 is IEEE float32 and tf32 rounds the factors of "
        "convolutions and matrix products to 10 bits.",
    )
    sync_batch_norm: bool = Field(
        False,
        description="With several processes: compute batch norm statistics over the full batch.",
    )
    compile: bool = Field(False, description="Compile the networks with torch.compile.")
    graph: bool = Field(
        True,
        description="On CUDA, record the training step as one CUDA graph and replay it. Results are the same without.",
    )
    checkpoint_minutes: float = Field(
        10.0,
        gt=0,
        le=1e6,
        description="Minutes between checkpoints within an epoch; one is written after every epoch as well.",
    )
    model_args: dict[str, Argument] = Field(
        {}, description="Keyword arguments of an external network (torchvision, timm or your own)."
    )
    track: tuple[str, ...] = Field((), description="Experiment trackers to log to, besides the run's metrics.jsonl.")
    name: str | None = Field(None, min_length=1, max_length=80, description="A label to put into the run's id.")

    @model_validator(mode="before")
    @classmethod
    def _fill_learning_rate(cls, values: Any) -> Any:
        """Fill in the network's published learning rate."""
        if not isinstance(values, Mapping):
            return values
        network = values.get(cls.learner, cls.model_fields[cls.learner].default)
        optimizer = values.get("optimizer", {})
        if isinstance(optimizer, str):
            optimizer = {"name": optimizer}
        if (
            isinstance(optimizer, Mapping)
            and "learning_rate" not in optimizer
            and optimizer.get("name", "sgd") in _PUBLISHED_OPTIMIZERS
            and isinstance(network, str)
            and models.is_known(network)
        ):
            return {**values, "optimizer": {"learning_rate": models.learning_rate(network), **optimizer}}
        return values

    @model_validator(mode="after")
    def _check_accumulation(self) -> "RunSpec":
        if self.accumulate > max(1, self.batch_size // 2):
            raise ValueError(f"accumulate splits batches of {self.batch_size} into parts of less than two images")
        return self

    @field_validator("track")
    @classmethod
    def _track_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))

    @property
    def batch_seed(self) -> int:
        """Seed of the sampling, order and augmentation of training images."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def init_epochs(self) -> int:
        """Epochs of the init stage, before the run's own."""
        return 0

    def init_lr(self, epoch: int) -> float:
        """The learning rate of an epoch of the init stage, counted from 0."""
        return self.optimizer.learning_rate * self.optimizer.scale(self.batch_size)

    def rate(self, epoch: float | int) -> float:
        """The learning rate at a point after the init stage, in epochs; a step may be in the middle of one."""
        factor = self.schedule.factor(epoch, self.epochs) * self.optimizer.scale(self.batch_size)
        return self.optimizer.learning_rate * factor

    @property
    def total_epochs(self) -> int:
        """Epochs of the init stage and after it."""
        return self.init_epochs + self.epochs

    @property
    def network(self) -> str:
        """Name of the network to train."""
        return str(getattr(self, self.learner))


def _known_network(name: str) -> str:
    try:
        models.check(name)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return name


NetworkName = Annotated[str, AfterValidator(_known_network)]


class TeacherSpec(RunSpec):
    """A network trained alone: a teacher, or a student's baseline."""

    learner: ClassVar[str] = "model"
    kind: Literal["teacher"] = "teacher"
    model: NetworkName = Field(
        "resnet32x4",
        description="Architecture to train: a built-in network, torchvision:NAME, timm:NAME or module:factory.",
    )


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
        return {**values, "tekap": {"logit": {"teachers": 0}, "feature": {"teachers": 0}, **given}}

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
        if self.method.name == "kd" and self.beta:
            raise ValueError("the method kd has no loss for beta to weigh: set alpha, and beta to 0")
        if self.ensemble_digests and len(self.ensemble_digests) != len(self.ensemble):
            raise ValueError("ensemble_digests and ensemble differ in length")
        if not (self.gamma or self.alpha or self.beta):
            raise ValueError("gamma, alpha and beta are all 0: nothing would be learned")
        return self

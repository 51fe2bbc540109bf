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
from tekapctl.data.names import spelled_out
from tekapctl.data.spec import DATASETS, DataSpec
from tekapctl.distillation.methods import METHODS
from tekapctl.errors import UsageError
from tekapctl.models.external import Argument
from tekapctl.optim import OPTIMIZERS, OptimizerSpec
from tekapctl.optim.schedules import SCHEDULES, ScheduleSpec
from tekapctl.optim.schedules.step import Step
from tekapctl.optim.sgd import SGDSpec
from tekapctl.registry import Registry
from tekapctl.settings import Settings, chosen_by_name

AnyData = Annotated[
    SerializeAsAny[DataSpec],
    chosen_by_name(DATASETS, spelled_out=spelled_out),
    Field(description="The dataset, by name, and its settings."),
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


class Continued(Settings):
    """The finished run that a run trains longer."""

    run: str = Field(max_length=200, description="Its ID.")
    epochs: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, description="Its epochs, after those of the runs that it continues itself."
    )


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
    binary_targets: bool = Field(
        False,
        description="Train each class as a yes-or-no question: the mean binary cross-entropy over the classes, where "
        "every class with a share above 0.2 in a mixed image counts as a yes (Wightman et al., 2021).",
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
        description="Decay per step of an average of the weights, which then are the run's weights; 0 disables it.",
    )
    patience: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Stop when the validation accuracy has not improved for this many epochs, and keep the weights of "
        "the best epoch; 0 trains all epochs. Needs data.val_fraction.",
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
        description="Minutes between checkpoints within an epoch. One is written after an epoch as well, unless they "
        "would take more than a twentieth of the time.",
    )
    model_args: dict[str, Argument] = Field(
        {}, description="Keyword arguments of an external network (torchvision, timm or your own)."
    )
    track: tuple[str, ...] = Field((), description="Experiment trackers to log to, besides the run's metrics.jsonl.")
    name: str | None = Field(None, min_length=1, max_length=80, description="A label to put into the run's id.")
    continues: Continued | None = Field(
        None, description="The finished run that this one trains longer; written by `tekapctl resume RUN --epochs N`."
    )

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
        if not isinstance(optimizer, Mapping):
            return values
        name = optimizer.get("name", CHOICES["optimizer"][1])
        if (
            "learning_rate" not in optimizer
            and name in OPTIMIZERS
            and OPTIMIZERS[name].takes_published_rate
            and isinstance(network, str)
            and models.is_known(network)
        ):
            return {**values, "optimizer": {"learning_rate": models.learning_rate(network), **optimizer}}
        return values

    @model_validator(mode="after")
    def _check_accumulation(self) -> "RunSpec":
        if self.accumulate > max(1, self.batch_size // 2):
            raise ValueError(f"`accumulate` splits batches of {self.batch_size} into parts of fewer than two images")
        return self

    @model_validator(mode="after")
    def _check_patience(self) -> "RunSpec":
        if self.patience and not self.data.val_fraction:
            raise ValueError("`patience` needs validation images: set `data.val_fraction` as well")
        return self

    @model_validator(mode="after")
    def _check_continued(self) -> "RunSpec":
        if self.continues is not None and self.epochs <= self.continues.epochs[-1]:
            raise ValueError(f"`epochs` must be more than {self.continues.epochs[-1]}, those of the run it continues")
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
    linear_probe: bool = Field(
        False, description="Train the classifier alone: the rest of the network keeps its pretrained weights."
    )

    @model_validator(mode="after")
    def _check_labels(self) -> "TeacherSpec":
        if self.data.unlabelled is not None:
            raise ValueError("unlabelled images need a teacher that names their classes; leave out data.unlabelled")
        return self

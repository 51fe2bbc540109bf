"""Run specs: everything that a run depends on, checked, frozen, and kept with the run."""

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tomli_w
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from tekapctl import models
from tekapctl.commands.tracking.tracker import TRACKERS
from tekapctl.data.datasets.cifar import CIFAR100
from tekapctl.data.spec import DATASETS, DataSpec, spelled_out
from tekapctl.distill.angular import AngularSpec
from tekapctl.distill.methods import METHODS, MethodSpec
from tekapctl.distill.methods.kd import KDSpec
from tekapctl.distill.tekap import FeatureTekap, LogitTekap, TekapSpec
from tekapctl.errors import UsageError
from tekapctl.models.external import Argument
from tekapctl.models.network import Level, Requires
from tekapctl.registry import Epochs, Registry, Settings, Temperature, Weight, unknown_name


def _chosen_by_name(registry: Registry[Any]) -> BeforeValidator:
    """Reads a name, a table with a `name`, or a ready section as the registry's section of that name."""

    def choose(value: Any) -> Any:
        if isinstance(value, Settings):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if registry is DATASETS and isinstance(value, Mapping) and isinstance(value.get("name"), str):
            value = {**value, **spelled_out(value["name"])}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ValueError(f"a {registry.kind} is a name or a table with a name")
        try:
            return registry[value["name"]].model_validate(value)
        except UsageError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(choose)


AnyData = Annotated[
    SerializeAsAny[DataSpec], _chosen_by_name(DATASETS), Field(description="The data set, by name, and its settings.")
]
AnyMethod = Annotated[
    SerializeAsAny[MethodSpec], _chosen_by_name(METHODS), Field(description="The method, by name, and its settings.")
]


def _known_tracker(name: str) -> str:
    if name not in TRACKERS:
        raise ValueError(str(unknown_name(TRACKERS.kind, name, TRACKERS.names())))
    return name


TrackerName = Annotated[str, AfterValidator(_known_tracker)]


_PRETRAINING_RATE = 0.1
"""Of learned views, as published."""


class OptimizerSpec(Settings):
    """SGD with momentum and a step schedule; the defaults are the published CIFAR-100 ones."""

    learning_rate: float = Field(0.05, gt=0, le=1e6, description="Learning rate before the first decay.")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: Weight = 5e-4
    nesterov: bool = False
    dot_delta: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="DOT (ICCV 2023): momentum that distillation has more and the task less; published 0.075.",
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.625, 0.75, 0.875), description="Fractions of the epochs after which the rate decays (150, 180, 210 of 240)."
    )
    lr_gamma: float = Field(0.1, gt=0, le=1, description="What each decay multiplies the rate by.")

    lr_batch_size: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="The batch size that learning_rate is meant for: it is scaled linearly to the run's "
        "(Goyal et al., 2017); off unless given.",
    )
    warmup_epochs: Epochs = Field(0, description="Epochs over which the rate rises linearly to its first value.")

    @model_validator(mode="after")
    def _check_dot(self) -> "OptimizerSpec":
        if self.dot_delta and not (self.dot_delta <= self.momentum < 1 - self.dot_delta):
            raise ValueError("momentum less and plus dot_delta must both be at least 0 and below 1")
        if self.dot_delta and self.nesterov:
            raise ValueError("DOT has no Nesterov momentum: set nesterov to false")
        return self

    def scale(self, batch_size: int) -> float:
        """What rates are multiplied by for batches of a size."""
        return 1.0 if self.lr_batch_size is None else batch_size / self.lr_batch_size

    def rate(self, epoch: int, epochs: int, batch_size: int) -> float:
        """The learning rate of an epoch.

        Args:
            epoch: Counted from 0.
            epochs: Of the run.
            batch_size: Images in a batch, of all processes.
        """
        decays = sum(epoch >= round(fraction * epochs) for fraction in self.milestones)
        risen = min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else 1.0
        return self.learning_rate * self.lr_gamma**decays * risen * self.scale(batch_size)


class RunSpec(Settings):
    """What runs of teachers and of students have in common."""

    learner: ClassVar[str]
    """The field that names the network that learns."""

    data: AnyData = Field(default_factory=lambda: CIFAR100())
    epochs: int = Field(240, ge=1, le=1_000_000)
    batch_size: int = Field(64, ge=1, le=1_000_000)
    optimizer: OptimizerSpec = OptimizerSpec()
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of every random choice of the run.")
    data_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Seed of the choice, order and augmentation of training images: `seed`, unless given. Runs that "
        "share it see the same batches.",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?|mps)$", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = Field(
        "auto",
        description="Precision of the networks. On CUDA float32 is IEEE float32; tf32 rounds what convolutions and "
        "matrix products multiply to 10 bits.",
    )
    sync_batch_norm: bool = Field(
        False, description="Of several processes: batch norms use the statistics of the whole batch, not of each share."
    )
    compile: bool = Field(False, description="Compile the networks with torch.compile before training.")
    checkpoint_minutes: float = Field(
        10.0,
        gt=0,
        le=1e6,
        description="The training state is kept after every epoch, and within one every so many minutes.",
    )
    model_args: dict[str, Argument] = Field(
        {}, description="Arguments of the learning network, where it is from elsewhere."
    )
    track: tuple[TrackerName, ...] = Field((), description="Trackers that follow the run beside its metrics.jsonl.")
    name: str | None = Field(None, min_length=1, max_length=80, description="A word of the user's own in the run's id.")

    @model_validator(mode="before")
    @classmethod
    def _fill_learning_rate(cls, values: Any) -> Any:
        """The published rate depends on the network that learns."""
        if not isinstance(values, Mapping):
            return values
        network = values.get(cls.learner, cls.model_fields[cls.learner].default)
        optimizer = values.get("optimizer", {})
        if (
            isinstance(optimizer, Mapping)
            and "learning_rate" not in optimizer
            and isinstance(network, str)
            and models.is_known(network)
        ):
            return {**values, "optimizer": {"learning_rate": models.learning_rate(network), **optimizer}}
        return values

    @field_validator("track")
    @classmethod
    def _track_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))

    @property
    def batch_seed(self) -> int:
        """The seed of everything about training images."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def init_epochs(self) -> int:
        """Epochs of a method's first stage, before the run's own."""
        return 0

    def init_lr(self, epoch: int) -> float:
        """The learning rate of an epoch of the first stage, counted from 0."""
        return self.optimizer.learning_rate * self.optimizer.scale(self.batch_size)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch after the first stage, counted from 0."""
        return self.optimizer.rate(epoch, self.epochs, self.batch_size)

    @property
    def total_epochs(self) -> int:
        """Epochs of both."""
        return self.init_epochs + self.epochs

    @property
    def network(self) -> str:
        """Name of the network that learns."""
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
        "resnet32x4", description="The network to train: of the zoo, torchvision:NAME, timm:NAME or module:factory."
    )


def _method_name(values: Mapping[str, Any]) -> str:
    """The method's name in a spec's values, which may be a name, a table or a ready section; "" of anything else."""
    method = values.get("method", "kd")
    name = method.get("name") if isinstance(method, Mapping) else getattr(method, "name", method)
    return name if isinstance(name, str) else ""


class StudentSpec(RunSpec):
    """A student distilled from a teacher: `gamma * cross-entropy + alpha * KD + beta * method`."""

    learner: ClassVar[str] = "student"
    kind: Literal["student"] = "student"
    student: NetworkName = Field(
        "resnet8x4", description="The network that learns: of the zoo, torchvision:NAME, timm:NAME or module:factory."
    )
    teacher: str = Field(
        "resnet32x4", min_length=1, max_length=4096, description="A run, a checkpoint file, or a network's name."
    )
    teacher_model: NetworkName | None = Field(
        None, description="The network of a teacher's checkpoint file, where neither the file nor its weights say."
    )
    teacher_args: dict[str, Argument] = Field({}, description="Arguments of a teacher's network from elsewhere.")
    teacher_digest: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="SHA-256 of the teacher's weights; held to where it is given."
    )
    ensemble: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = Field(
        (),
        max_length=64,
        description="Further teachers, each of the weight of the first, with augmented ones of its own.",
    )
    ensemble_digests: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = Field(
        (), max_length=64, description="SHA-256 of their weights, in their order; held to where given."
    )
    method: AnyMethod = KDSpec()
    gamma: Weight = Field(description="Weight of the cross-entropy.")
    alpha: Weight = Field(description="Weight of KD's logit loss.")
    beta: Weight = Field(description="Weight of the method's own loss.")
    temperature: Temperature = Field(4.0, description="Temperature of KD's logit loss.")
    standardize_logits: bool = Field(
        False, description="Logit losses see logits of mean 0 and deviation 1 (Sun et al., CVPR 2024)."
    )
    tekap: TekapSpec = TekapSpec()
    angular: AngularSpec = AngularSpec()
    cache_teacher: bool = Field(
        False, description="Keep what the teacher says of each view of each image on disk, for all runs with it."
    )
    diagnose: bool = Field(
        False,
        description="After each epoch, log how augmented teachers differ and what their noise does to the student.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_tekap(cls, values: Any) -> Any:
        """TeKAP is on by default for the methods it was published with, and gives way to learned views."""
        if not isinstance(values, Mapping):
            return values
        angular = values.get("angular")
        views = angular.get("views", 0) if isinstance(angular, Mapping) else getattr(angular, "views", 0)
        name = _method_name(values)
        given = values.get("tekap", {})
        if (name in METHODS and METHODS[name].tekap and not views) or not isinstance(given, Mapping):
            return values
        # A level of which anything is given is asked for.
        return {**values, "tekap": {"logit": {"teachers": 0}, "feature": {"teachers": 0}, **given}}

    @model_validator(mode="before")
    @classmethod
    def _fill_weights(cls, values: Any) -> Any:
        """Weights that are not given are the method's published ones."""
        if not isinstance(values, Mapping):
            return values
        name = _method_name(values)
        if name not in METHODS:
            return {"gamma": 1.0, "alpha": 0.0, "beta": 0.0, **values}
        weights = METHODS[name].weights
        return {"gamma": weights.gamma, "alpha": weights.alpha, "beta": weights.beta, **values}

    @property
    def init_epochs(self) -> int:
        """Epochs of the method's first stage, or of the views' pretraining."""
        return self.pretrain_epochs or (int(getattr(self.method, "init_epochs", 0)) if self.beta else 0)

    @property
    def pretrain_epochs(self) -> int:
        """Epochs in which learned views are trained before the student."""
        return self.angular.pretrain_epochs if self.angular.views else 0

    def init_lr(self, epoch: int) -> float:
        """The learning rate of an epoch of the first stage, as published for the method and the student."""
        if self.pretrain_epochs:
            rate = _PRETRAINING_RATE * 0.1 ** (3 * epoch // self.pretrain_epochs)
        else:
            rate = self.method.init_lr(self.student) or self.optimizer.learning_rate
        return rate * self.optimizer.scale(self.batch_size)

    @model_validator(mode="after")
    def _check_first_stages(self) -> "StudentSpec":
        if self.pretrain_epochs and self.beta and getattr(self.method, "init_epochs", 0):
            raise ValueError(
                f"{self.method.name} has a first stage of its own, beside which views cannot be pretrained: set "
                "angular.pretrain_epochs or method.init_epochs to 0"
            )
        return self

    @property
    def requires(self) -> Requires:
        """What the losses read, of those that have a weight."""
        method = self.method.requires if self.beta else Requires()
        return method | Requires(logits=bool(self.alpha))

    @property
    def levels(self) -> set[Level]:
        """Where TeKAP has something to augment."""
        levels: set[Level] = {"logit"} if self.alpha else set()
        return levels | ({self.method.requires.level} if self.beta else set())

    @property
    def augmented(self) -> bool:
        """Whether a loss sees augmented teachers."""
        tekap = self.canonical.tekap
        return bool(tekap.logit.teachers or tekap.feature.teachers)

    @property
    def canonical(self) -> "StudentSpec":
        """The same experiment with TeKAP's settings at their defaults where nothing reads them."""
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
            raise ValueError("learned views take the place of TeKAP's noise: give --no-tekap, or angular.views 0")
        if self.method.name == "kd" and self.beta:
            raise ValueError("the method kd has no loss for beta to weigh: give alpha its weight, and beta 0")
        if self.ensemble_digests and len(self.ensemble_digests) != len(self.ensemble):
            raise ValueError("ensemble_digests has another number of teachers than ensemble")
        if not (self.gamma or self.alpha or self.beta):
            raise ValueError("gamma, alpha and beta are all 0: nothing would be learned")
        return self


AnySpec = Annotated[TeacherSpec | StudentSpec, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[TeacherSpec | StudentSpec] = TypeAdapter(AnySpec)


def parse(values: Mapping[str, Any]) -> TeacherSpec | StudentSpec:
    """The spec that a mapping describes; a mapping without a `kind` describes a student's run.

    Raises:
        UsageError: A field is unknown, missing or out of range; the message has each field's path.
    """
    try:
        return _ADAPTER.validate_python({"kind": "student", **values})
    except ValidationError as error:
        raise UsageError(f"The spec is not valid: {'; '.join(_complaints(error, values))}.", _REMEDY) from None
    except RecursionError:
        raise UsageError("The spec is nested too deeply.", _REMEDY) from None


_REMEDY = "`tekapctl schema` prints what a spec may hold."


def _complaints(error: ValidationError, values: Mapping[str, Any]) -> list[str]:
    complaints = []
    for entry in error.errors(include_url=False):
        # The first part says which kind of spec was meant.
        path = ".".join(str(part) for part in entry["loc"][1:])
        what = entry["msg"].removeprefix("Value error, ").rstrip(".?")
        if entry["type"] == "extra_forbidden":
            near = nearest_field(path, list(_fields(entry["loc"][0], values)))
            what = f"unknown field (did you mean {near}?)" if near else "unknown field"
        complaints.append(f"{path or 'spec'}: {what}")
    return complaints


def nearest_field(path: str, known: Sequence[str]) -> str | None:
    """The known field path that a user most likely meant; None if none is near."""
    last = path.rpartition(".")[2]
    elsewhere = [each for each in known if each.rpartition(".")[2] == last]
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.75) or elsewhere
    return near[0] if near else None


def _fields(kind: object, values: Mapping[str, Any]) -> Iterator[str]:
    """The paths of all fields of a spec with a mapping's data set and method."""
    model = TeacherSpec if kind == "teacher" else StudentSpec
    for name, field in model.model_fields.items():
        yield name
        section = field.get_default(call_default_factory=True, validated_data={})
        registry: Registry[Any] | None = {"data": DATASETS, "method": METHODS}.get(name)  # type: ignore[assignment]
        if registry is not None:
            given = values.get(name)
            chosen = given.get("name") if isinstance(given, Mapping) else given
            section_model: Any = registry[chosen] if chosen in registry.names() else type(section)
            yield from (f"{name}.{inner}" for inner in section_model.model_fields)
        elif isinstance(section, Settings):
            yield from _nested(name, section)


def _nested(path: str, section: Settings) -> Iterator[str]:
    for name in type(section).model_fields:
        yield f"{path}.{name}"
        inner = getattr(section, name)
        if isinstance(inner, Settings):
            yield from _nested(f"{path}.{name}", inner)


def to_dict(spec: RunSpec) -> dict[str, Any]:
    """The spec as plain values, without the fields that are none."""
    values: dict[str, Any] = spec.model_dump(mode="json", exclude_none=True)
    return values


def loads(text: str, kind: Literal["toml", "json"] = "toml") -> TeacherSpec | StudentSpec:
    """The spec in a TOML or JSON text.

    Raises:
        UsageError: The text does not parse, or its spec is not valid.
    """
    return parse(read_table(text, kind))


def dumps(spec: RunSpec, kind: Literal["toml", "json"] = "toml") -> str:
    """The spec as TOML or JSON; `loads` gives it back without loss."""
    values = to_dict(spec)
    return tomli_w.dumps(values) if kind == "toml" else json.dumps(values, indent=2) + "\n"


def read_table(text: str, kind: Literal["toml", "json"] = "toml") -> dict[str, Any]:
    """The table in a TOML or JSON text, not yet checked against the spec.

    Raises:
        UsageError: The text does not parse, or is no table.
    """
    try:
        table = tomllib.loads(text) if kind == "toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"The spec is not {kind.upper()}: {problem}.", "Correct the file.") from None
    if not isinstance(table, dict):
        raise UsageError(f"The spec's {kind.upper()} is no table.", "Write fields with their values.")
    return table


def read_file(path: Path) -> dict[str, Any]:
    """The table in a spec file, not yet checked: JSON if its name ends so, else TOML.

    Raises:
        UsageError: The file cannot be read, is too large, or does not parse.
    """
    try:
        if path.stat().st_size > 1_000_000:
            raise UsageError(f"The spec file {path} is larger than a megabyte.", "Name a spec file.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The spec file {path} cannot be read: {error}.", "Name a TOML or JSON file.") from None
    return read_table(text, "json" if path.suffix == ".json" else "toml")


def load(path: Path | str) -> TeacherSpec | StudentSpec:
    """The spec in a TOML or JSON file.

    Raises:
        UsageError: The file cannot be read or its spec is not valid.
    """
    return parse(read_file(Path(path)))


def load_of_run(folder: Path) -> TeacherSpec | StudentSpec:
    """The spec in a run's folder.

    Raises:
        UsageError: It cannot be read, is not valid, or is not a run's, which says of which kind it is.
    """
    table = read_file(folder / "spec.toml")
    if "kind" not in table:
        raise UsageError(f"The spec of the run {folder.name} is damaged: it has no kind.", "Leave the run out.")
    return parse(table)


def dump(spec: RunSpec, path: Path | str) -> None:
    """Write the spec to a TOML file, or to a JSON file if its name ends so."""
    path = Path(path)
    path.write_text(dumps(spec, "json" if path.suffix == ".json" else "toml"), encoding="utf-8")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of run specs."""
    schema = _ADAPTER.json_schema()
    definitions = schema.setdefault("$defs", {})
    for registry, base in ((DATASETS, "DataSpec"), (METHODS, "MethodSpec")):
        chosen = []
        for name in registry:
            section: dict[str, Any] = registry[name].model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(section.pop("$defs", {}))
            definitions[section["title"]] = section
            chosen.append({"$ref": f"#/$defs/{section['title']}"})
        definitions[base] = {"anyOf": chosen}
    return schema

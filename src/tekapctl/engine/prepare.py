"""Gets everything ready that a run trains with, before anything is written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tekapctl import data, models, trained
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import Splits
from tekapctl.engine.device import place, resolve_device, resolve_precision
from tekapctl.engine.objective import Classification, Distillation, Objective, Teacher
from tekapctl.engine.teaching import CachedTeacher, LiveTeacher
from tekapctl.engine.trainer import Trainer
from tekapctl.errors import UsageError
from tekapctl.evaluation import predict, top_k
from tekapctl.methods import Method, Pair
from tekapctl.models import Network
from tekapctl.spec import RunSpec, StudentSpec, TeacherSpec
from tekapctl.store.home import Home
from tekapctl.tekap import SeededNoise, Tekap
from tekapctl.trained import Trained

Say = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """Everything that a run trains with.

    Attributes:
        spec: The spec, with the teacher pinned to the weights that were found.
        splits: The image sets, in the channels that the networks take.
        teacher: The teacher of a student's run, else None.
        teacher_logits: What the teacher says of the test images.
        teacher_top1: How good it is on them.
        trainer: The trainer, with the learner and its objective.
    """

    spec: RunSpec
    splits: Splits
    teacher: Trained | None
    teacher_logits: Float[Tensor, "n classes"] | None
    teacher_top1: float | None
    trainer: Trainer


def prepare(spec: TeacherSpec | StudentSpec, home: Home, say: Say) -> Setting:
    """Load the data and the teacher, check that all fits together, and build the learner.

    Raises:
        UsageError: Data, teacher or device are not to be had, or do not fit.
    """
    device = resolve_device(spec.device)
    teacher: Trained | None = None
    if isinstance(spec, StudentSpec):
        teacher, spec = find_teacher(spec, home, say)
    channels = teacher.network.in_channels if teacher else None
    splits = data.load(spec.data, home.datasets, seed=spec.seed, in_channels=channels)
    if teacher is not None:
        trained.check_classes(teacher, splits.test.classes, spec.data.name)
    trainer = assemble(spec, splits, teacher, device, home, say)
    logits, top1 = None, None
    if teacher is not None:
        asked = resolve_precision(spec.precision, device, teacher.network, trains=False)
        logits, labels = predict(teacher.network, trainer.test_batches, asked)
        top1 = top_k(logits, labels, 1).item()
        say(f"teacher: top-1 {100 * top1:.2f} on the {len(labels):,} test images of {spec.data.name}")
    return Setting(spec, splits, teacher, logits, top1, trainer)


def find_teacher(spec: StudentSpec, home: Home, say: Say) -> tuple[Trained, StudentSpec]:
    """The teacher that a spec names, and the spec with it pinned.

    Raises:
        UsageError: There is no such teacher, or its weights are not those of the spec's digest.
    """
    teacher = trained.load(trained.find(home, spec.teacher, dataset=spec.data.name))
    if spec.teacher_digest not in (None, teacher.digest):
        raise UsageError(
            f"The weights of {teacher.reference.described} are not those that the spec names by teacher_digest.",
            "Name the teacher by the run or file that has them, or remove teacher_digest from the spec.",
        )
    say(f"teacher: {teacher.model} from {teacher.reference.described}")
    return teacher, spec.model_copy(update={"teacher": teacher.reference.name, "teacher_digest": teacher.digest})


def assemble(
    spec: RunSpec, splits: Splits, teacher: Trained | None, device: torch.device, home: Home, say: Say
) -> Trainer:
    """The trainer of a run, from its parts; the teacher is placed on the device."""
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True  # equal specs give equal numbers
    learner = build_learner(spec, splits, device)
    train = training_batches(spec, splits, device)
    test = Batches(splits.test, 500, device=device, padding=0, flip=False, seed=spec.seed, channels_last=True)
    objective: Objective = Classification()
    if isinstance(spec, StudentSpec) and teacher is not None:
        place(teacher.network, device)
        objective = build_distillation(spec, teacher, learner, train, home.knowledge, say)
    place(objective, device)
    precision = resolve_precision(spec.precision, device, learner, trains=True)
    return Trainer(spec, learner, objective, train, test, precision)


def asked_teacher(
    spec: StudentSpec, teacher: Trained, train: Batches, knowledge: Path, say: Say, method: Method | None
) -> Teacher:
    """The teacher as the spec wants it: live, or with its knowledge cached.

    Args:
        spec: The run's spec.
        teacher: The teacher, on its device.
        train: The training batches.
        knowledge: Where cached knowledge is kept.
        say: Is told of the cache.
        method: What it is asked for; feature maps are not cached.
    """
    precision = resolve_precision(spec.precision, train.device, teacher.network, trains=False)
    live = LiveTeacher(
        teacher.network,
        train,
        precision,
        stages=method is not None and method.needs_stages,
        preactivations=method is not None and method.needs_preactivations,
        compiled=spec.compile,
    )
    if not spec.cache_teacher:
        return live
    if method is not None and method.needs_maps:
        say(f"the method {spec.method.name} reads feature maps, which are not cached: the teacher stays live")
        return live
    cached = CachedTeacher(live, train, knowledge, teacher, spec.data.name, say)
    say(f"cached knowledge: {cached.store.described}")
    return cached


def training_batches(spec: RunSpec, splits: Splits, device: torch.device) -> Batches:
    """The training set in the batches of a run."""
    return Batches(
        splits.train,
        spec.batch_size,
        device=device,
        padding=spec.data.padding,
        flip=spec.data.flip,
        seed=spec.seed,
        channels_last=True,
    )


def build_learner(spec: RunSpec, splits: Splits, device: torch.device) -> Network:
    """The network that learns, its first weights drawn from the run's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network = models.build(spec.network, len(splits.train.classes), splits.train.image_shape[0])
    place(network, device)
    return network


def build_distillation(
    spec: StudentSpec, teacher: Trained, learner: Network, train: Batches, knowledge: Path, say: Say
) -> Distillation:
    """The objective of a student's run."""
    learner.eval()  # the probe must not touch the student's running statistics
    with torch.no_grad():
        probe = next(iter(train.in_order())).images[:2]
        ours, theirs = (network.knowledge(probe, preactivations=True) for network in (learner, teacher.network))
        pair = Pair(ours, theirs, train.image_set.labels, spec.seed, len(train))
    learner.train()
    method = spec.method.build(pair) if spec.beta else None
    if method is not None and method.only_first_stage and not (spec.gamma or spec.alpha):
        raise UsageError(
            f"Nothing is learned after the first stage of {spec.method.name}: gamma and alpha are 0.",
            "Give --gamma or --alpha a weight.",
        )
    return Distillation(
        asked_teacher(spec, teacher, train, knowledge, say, method),
        Tekap(spec.tekap, SeededNoise(spec.tekap, spec.seed)),
        method,
        gamma=spec.gamma,
        alpha=spec.alpha,
        beta=spec.beta,
        temperature=spec.temperature,
        standardize_logits=spec.standardize_logits,
    )

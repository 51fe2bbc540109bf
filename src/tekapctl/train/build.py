"""Builds everything a run needs, before any file is written.

`build_run` reads from top to bottom: the device, the teachers, the data, the student, the objective, the trainer.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from tekapctl import models
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import Splits
from tekapctl.device import (
    check_one_gpu_each,
    place,
    resolve_device,
    resolve_precision,
)
from tekapctl.distillation.angular import AngularViews
from tekapctl.distillation.methods import Pair
from tekapctl.distillation.objective import Classification, Distillation, Objective, combine
from tekapctl.distillation.tekap import SeededNoise, Tekap
from tekapctl.distributed.communicator import SINGLE_PROCESS, Communicator
from tekapctl.distributed.data_parallel import convert_sync_batchnorm
from tekapctl.errors import UsageError, failures_in_words
from tekapctl.models import Network
from tekapctl.models.normalization import Normalization
from tekapctl.randomness import derive, seeded
from tekapctl.spec import RunSpec, StudentSpec, TeacherSpec
from tekapctl.store.home import Home
from tekapctl.train.diagnosis import DiagnosedTeacher, Diagnosis
from tekapctl.train.images import evaluation_batches, load_data, make_batches, with_unlabelled
from tekapctl.train.sanity_check import check_batch_sizes
from tekapctl.train.source import (
    TeacherSource,
    evaluate_teachers,
    find_teachers,
    open_teachers,
    shared,
    warn_if_on_other_images,
)
from tekapctl.train.teacher_statistics import class_features
from tekapctl.train.trained import Trained
from tekapctl.train.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunContext:
    """Everything a run trains with; in its spec, the teacher is pinned to the weights that were found.

    `teacher_logits` are the teacher's for the test images; of an ensemble, the log of its mean probabilities.
    `teacher_top1` is its accuracy on them, as a fraction.
    """

    spec: RunSpec
    splits: Splits
    sources: tuple[TeacherSource, ...]
    teacher_logits: Float[Tensor, "n classes"] | None
    teacher_top1: float | None
    trainer: Trainer

    @property
    def teachers(self) -> list[Trained]:
        """The teachers' networks, with where they came from."""
        return [source.trained for source in self.sources]

    @property
    def teacher(self) -> Trained | None:
        """The teacher, the first of an ensemble; None where there is none."""
        return self.sources[0].trained if self.sources else None


@failures_in_words("preparing the run")
def build_run(
    spec: RunSpec,
    home: Home,
    comm: Communicator = SINGLE_PROCESS,
    *,
    share_teachers: bool = False,
    is_restored: bool = False,
) -> RunContext:
    """Build everything a run needs before writing any files.

    With `share_teachers`, `sibling` runs will use the teachers' outputs for the same batches. With `is_restored`, the
    network gets its weights from a checkpoint afterwards and needs no pretrained ones.

    Raises:
        UsageError: Data, teacher or device are missing, or do not fit together.
    """
    with comm.raise_together():
        device = resolve_device(spec.device, comm)
        teachers, spec = find_teachers(spec, home)
        spec = spec.model_copy(update={"data": spec.data.pinned(home.datasets)})
        for teacher in teachers:
            warn_if_on_other_images(teacher, spec)
    with comm.raise_together():
        check_one_gpu_each(device, comm)
    splits = load_data(spec, home, teachers, comm)
    splits = with_unlabelled(spec, splits, teachers[0] if teachers else None, device, comm)
    with comm.raise_together():
        train, evaluated = make_batches(spec, splits, device, comm)
        sources = open_teachers(spec, teachers, splits, train, home)
        if share_teachers:
            sources = shared(sources)
        trainer = build_trainer(spec, splits, sources, train, evaluated, is_restored=is_restored)
        check_batch_sizes(trainer)
        test = evaluated if splits.val is None else evaluation_batches(spec, splits.test, device, comm)
    if trainer.diagnosis is not None and not trainer.diagnosis.has_metrics:
        logger.info("there are no augmented teachers and no learned views: diagnose has nothing to log")
    return RunContext(spec, splits, tuple(sources), *evaluate_teachers(spec, teachers, test), trainer)


def assemble(
    spec: RunSpec,
    splits: Splits,
    teachers: Sequence[Trained],
    device: torch.device,
    home: Home,
    comm: Communicator = SINGLE_PROCESS,
) -> Trainer:
    """The trainer of a run, from data and teachers that are loaded already.

    Raises:
        UsageError: A teacher's classes are not the dataset's, or the networks do not fit together.
    """
    train, evaluated = make_batches(spec, splits, device, comm)
    return build_trainer(spec, splits, open_teachers(spec, teachers, splits, train, home), train, evaluated)


def sibling(context: RunContext, spec: RunSpec) -> RunContext:
    """A run that differs from another one, built with `share_teachers`, in its seed only."""
    batches = context.trainer.train_batches, context.trainer.eval_batches
    trainer = build_trainer(spec, context.splits, context.sources, *batches)
    return replace(context, spec=spec, trainer=trainer)


def build_trainer(
    spec: RunSpec,
    splits: Splits,
    sources: Sequence[TeacherSource],
    train: Batches,
    evaluated: Batches,
    *,
    is_restored: bool = False,
) -> Trainer:
    """The network, its objective and the trainer of both.

    Raises:
        UsageError: The networks do not fit together.
    """
    student = build_student(spec, splits, sources, train, is_restored=is_restored)
    objective = build_objective(spec, sources, student, train)
    if train.comm.world_size > 1 and spec.sync_batch_norm:
        for module in (student, objective):
            convert_sync_batchnorm(module, train.comm, train.device)
    precision = resolve_precision(spec.precision, train.device, student, trains=True)
    trainer = Trainer(spec, student, objective, train, evaluated, precision)
    if isinstance(spec, StudentSpec) and spec.diagnose:
        asked = [DiagnosedTeacher(source.trained.network, teacher_precision(spec, source, train)) for source in sources]
        trainer.diagnosis = Diagnosis(student, objective, asked, train, evaluated, precision)
    return trainer


def build_student(
    spec: RunSpec, splits: Splits, sources: Sequence[TeacherSource], train: Batches, *, is_restored: bool = False
) -> Network:
    """The network to train, initialised from the run's seed alone; some methods build it from the teacher's parts.

    Raises:
        UsageError: The method builds it from one teacher's parts, and there are several.
    """
    with seeded(spec.seed):
        network = models.build(
            spec.network,
            len(splits.train.classes),
            splits.train.image_shape[0],
            spec.model_args,
            loads_weights=not is_restored,
        )
    if network.normalization is None:
        network.normalization = Normalization(splits.train.mean, splits.train.std)
    place(network, train.device)
    if isinstance(spec, TeacherSpec) and spec.linear_probe:
        network.requires_grad_(False)
        network.classifier_layer.requires_grad_(True)
    if not isinstance(spec, StudentSpec) or not spec.beta:
        return network
    with seeded(spec.seed):
        student = spec.method.learner(network, probe_pair(spec, sources[0], network, train, spec.seed))
    if student is network:
        return network
    if len(sources) > 1:
        raise UsageError(f"{spec.method.name} builds the student from one teacher's parts.", "Give a single teacher.")
    place(student, train.device)
    return student.train()


def build_objective(spec: RunSpec, sources: Sequence[TeacherSource], student: Network, train: Batches) -> Objective:
    """Cross-entropy for a network trained alone; for a student, the distillation from each teacher."""
    objective: Objective = Classification(spec.label_smoothing, binary=spec.binary_targets)
    if isinstance(spec, StudentSpec):
        # The first teacher's noise is that of a run with this teacher alone.
        seeds = [derive(spec.seed, "teacher", number) if number else spec.seed for number in range(len(sources))]
        members = [
            build_distillation(spec, source, student, train, seed=seed)
            for source, seed in zip(sources, seeds, strict=True)
        ]
        objective = combine(members)
    place(objective, train.device)
    return objective


def build_distillation(
    spec: StudentSpec, source: TeacherSource, student: Network, train: Batches, *, seed: int
) -> Distillation:
    """The distillation from one teacher; the seed is that of the method's parts and of TeKAP's noise.

    Raises:
        UsageError: The networks do not fit together, or nothing would be learned.
    """
    pair = probe_pair(spec, source, student, train, seed)
    method = spec.method.build(pair) if spec.beta else None
    if method is not None and method.init_only and not (spec.gamma or spec.alpha):
        raise UsageError(
            f"Nothing is learned after the init stage of {spec.method.name}: gamma and alpha are 0.",
            "Give `gamma` or `alpha` a weight.",
        )
    views = None
    if spec.angular.views:
        reads = spec.requires
        probe = replace(
            pair.teacher,
            feature_maps=pair.teacher.feature_maps if reads.feature_maps else (),
            preactivations=pair.teacher.preactivations if reads.preactivations else (),
        )
        views = AngularViews(spec.angular, probe, spec.temperature, seed)
    return Distillation(
        source.forward,
        Tekap(spec.tekap, SeededNoise(spec.tekap, seed), source.perturbation),
        method,
        gamma=spec.gamma,
        alpha=spec.alpha,
        beta=spec.beta,
        temperature=spec.temperature,
        label_smoothing=spec.label_smoothing,
        binary=spec.binary_targets,
        standardize_logits=spec.standardize_logits,
        views=views,
    )


def probe_pair(spec: StudentSpec, source: TeacherSource, student: Network, train: Batches, seed: int) -> Pair:
    """What a method may know of both networks when it is built: their outputs for two images, and more."""
    teacher = source.trained.network
    was_training = student.training
    student.eval()  # the probe must not touch the student's running statistics
    with torch.no_grad():
        probe = train.probe(2)
        ours, theirs = (
            network.knowledge(network.normalize(probe), preactivations=True) for network in (student, teacher)
        )
    student.train(was_training)
    precision = teacher_precision(spec, source, train)
    return Pair(
        ours,
        theirs,
        train.image_set.labels,
        seed,
        len(train),
        standardize_logits=spec.standardize_logits,
        teacher_norms=teacher.norms_before_relu(),
        epochs=spec.epochs,
        init_epochs=spec.init_epochs,
        classifier=teacher.classifier_layer,
        class_features=partial(class_features, teacher, train.image_set, train.device, precision),
    )


def teacher_precision(spec: RunSpec, source: TeacherSource, train: Batches) -> torch.dtype:
    """Precision of a teacher's passes."""
    return resolve_precision(spec.precision, train.device, source.trained.network, trains=False)

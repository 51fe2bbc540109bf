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

from tekapctl import data, models
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.device import (
    check_one_gpu_each,
    exact_float32,
    make_deterministic,
    place,
    resolve_device,
    resolve_precision,
    set_float32_precision,
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
from tekapctl.train import trained
from tekapctl.train.diagnosis import DiagnosedTeacher, Diagnosis
from tekapctl.train.evaluation import predict, top_k
from tekapctl.train.sanity_check import check_batch_sizes
from tekapctl.train.source import TeacherSource, find_teachers, open_teacher, shared
from tekapctl.train.teacher_statistics import class_features
from tekapctl.train.trained import Trained
from tekapctl.train.trainer import Trainer
from tekapctl.train.unlabelled import with_unlabelled

logger = logging.getLogger(__name__)

_TEST_BATCH = 500
"""Test images at a time, at most."""


@dataclass(frozen=True)
class RunContext:
    """Everything a run trains with.

    Attributes:
        spec: The spec, with the teacher pinned to the weights that were found.
        splits: The image sets, in the channels that the networks take.
        sources: The teachers of a student's run.
        teacher_logits: The teacher's logits for the test images; of an ensemble, the log of its mean probabilities.
        teacher_top1: Its accuracy on them, as a fraction.
        trainer: The trainer, with the network and its objective.
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

    Args:
        spec: The run's spec.
        home: Where datasets, teachers and runs are.
        comm: The processes of the run.
        share_teachers: Whether `sibling` runs will use the teachers' outputs for the same batches.
        is_restored: Whether the network gets its weights from a checkpoint afterwards, so that it needs no pretrained
            ones.

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
    """A run that differs from another one, built with `share_teachers`, in its seed only.

    Args:
        context: The first run's.
        spec: The other's spec.
    """
    batches = context.trainer.train_batches, context.trainer.eval_batches
    trainer = build_trainer(spec, context.splits, context.sources, *batches)
    return replace(context, spec=spec, trainer=trainer)


def load_data(spec: RunSpec, home: Home, teachers: Sequence[Trained], comm: Communicator) -> Splits:
    """The image sets, in the channels that the networks take; one process reads them before the others."""
    channels = teachers[0].network.in_channels if teachers else None
    splits = comm.main_process_first(
        lambda: data.load(spec.data, home.datasets, seed=spec.batch_seed, in_channels=channels)
    )
    for note in splits.notes:
        logger.info(note)
    return splits


def make_batches(
    spec: RunSpec, splits: Splits, device: torch.device, comm: Communicator = SINGLE_PROCESS
) -> tuple[Batches, Batches]:
    """The training images, and those that epochs are evaluated on, in the batches of a run, on its device."""
    make_deterministic(device)
    set_float32_precision(spec.precision, device)
    evaluated = splits.test if splits.val is None else splits.val
    return training_batches(spec, splits, device, comm), evaluation_batches(spec, evaluated, device, comm)


def evaluation_batches(
    spec: RunSpec, images: ImageSet, device: torch.device, comm: Communicator = SINGLE_PROCESS
) -> Batches:
    """Images without augmentation, in batches."""
    # No more images than a training step has memory for: it keeps what its backward pass needs.
    together = min(_TEST_BATCH, 8 * spec.batch_size)
    return Batches(images, together, device=device, padding=0, flip=False, seed=0, comm=comm)


def training_batches(
    spec: RunSpec, splits: Splits, device: torch.device, comm: Communicator = SINGLE_PROCESS
) -> Batches:
    """The training set in the batches of a run."""
    return Batches(
        splits.train,
        spec.batch_size,
        device=device,
        padding=spec.data.padding,
        flip=spec.data.flip,
        seed=spec.batch_seed,
        random_resized_crop=spec.data.random_resized_crop,
        augment=spec.data.augment,
        repeats=spec.data.repeats,
        accumulate=spec.accumulate,
        comm=comm,
    )


def open_teachers(
    spec: RunSpec, teachers: Sequence[Trained], splits: Splits, train: Batches, home: Home
) -> list[TeacherSource]:
    """The teachers on the run's device, live or cached, with their perturbations.

    Raises:
        UsageError: A teacher's classes are not the dataset's, or its perturbation cannot be made.
    """
    if not isinstance(spec, StudentSpec):
        return []
    for teacher in teachers:
        if not trained.fit_to(teacher, splits.test, spec.data.described, needs_classes=spec.requires.classes):
            logger.info(f"teacher: {teacher.model} has other classes than the data; only its features are used")
        place(teacher.network, train.device)
    return [open_teacher(spec, teacher, train, home.knowledge) for teacher in teachers]


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
    """The distillation from one teacher.

    Args:
        spec: The run's spec.
        source: The teacher, on its device.
        student: The student.
        train: The training batches.
        seed: Seed of the method's parts and of TeKAP's noise.

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


def evaluate_teachers(
    spec: RunSpec, teachers: Sequence[Trained], test: Batches
) -> tuple[Float[Tensor, "n classes"] | None, float | None]:
    """The teachers' logits for the test images and their top-1 accuracy; an ensemble averages probabilities.

    In float32, whatever the run's precision, as `tekapctl evaluate` measures them.

    None if there are no teachers, or one of them has other classes.
    """
    described = spec.data.described
    if (
        not all(trained.fit_to(each, test.image_set, described, needs_classes=False) for each in teachers)
        or not teachers
    ):
        return None, None
    outputs = []
    with exact_float32(test.device, spec.precision):
        for teacher in teachers:
            logits, labels = predict(teacher.network, test)
            outputs.append(logits.log_softmax(1) if len(teachers) > 1 else logits)
    logits = torch.stack(outputs).logsumexp(0) if len(outputs) > 1 else outputs[0]
    return logits, top_k(logits, labels, 1).item()


def teacher_precision(spec: RunSpec, source: TeacherSource, train: Batches) -> torch.dtype:
    """Precision of a teacher's passes."""
    return resolve_precision(spec.precision, train.device, source.trained.network, trains=False)


def warn_if_on_other_images(teacher: Trained, spec: RunSpec) -> None:
    """Warn of a teacher that was trained on other images than the student will be."""
    if teacher.fingerprint is None or spec.data.fingerprint in (None, teacher.fingerprint):
        return
    logger.warning(
        f"the images of {spec.data.described} are not those that the teacher was trained on; it may have been "
        "trained on some of the test images, so that its accuracy and the student's agreement with it mean little"
    )

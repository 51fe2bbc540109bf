"""Gets everything ready that a run trains with, before anything is written."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tekapctl import data, models
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import Splits
from tekapctl.data.spec import DataSpec
from tekapctl.device import (
    check_one_gpu_each,
    make_deterministic,
    place,
    resolve_device,
    resolve_precision,
    set_float32_precision,
)
from tekapctl.distill.angular import AngularViews
from tekapctl.distill.methods import Method, Pair
from tekapctl.distill.methods.feature_maps import no_maps
from tekapctl.distill.objective import Classification, Distillation, Objective, Teacher, of_teachers
from tekapctl.distill.perturbations import LogitPerturbation
from tekapctl.distill.tekap import SeededNoise, Tekap
from tekapctl.distributed.batch_norm import convert_sync_batchnorm
from tekapctl.distributed.communicator import SINGLE_PROCESS, Communicator
from tekapctl.errors import UsageError, failures_in_words
from tekapctl.models import Network
from tekapctl.models.network import Requires
from tekapctl.models.normalization import Normalization
from tekapctl.randomness import derive
from tekapctl.spec.run import RunSpec, StudentSpec, TeacherSpec
from tekapctl.store.home import Home
from tekapctl.train import trained
from tekapctl.train.diagnosis import DiagnosedTeacher, Diagnosis
from tekapctl.train.evaluation import predict, top_k
from tekapctl.train.sanity_check import check_batch_sizes
from tekapctl.train.teacher import CachedTeacher, LiveTeacher, SharedForward
from tekapctl.train.teacher_statistics import class_features, perturbation_of
from tekapctl.train.trained import Trained
from tekapctl.train.trainer import Trainer

logger = logging.getLogger(__name__)

_TEST_BATCH = 500
"""Test images at a time, at most."""
Asks = Callable[[Trained, Method | None], tuple[Teacher, LogitPerturbation]]
"""Gives a trained teacher as it is asked for what a method reads, and what its augmented logits deviate by."""


@dataclass(frozen=True)
class RunContext:
    """Everything that a run trains with.

    Attributes:
        spec: The spec, with the teacher pinned to the weights that were found.
        splits: The image sets, in the channels that the networks take.
        teachers: The teachers of a student's run.
        teacher_logits: What the teacher says of the test images, or the mean of what an ensemble says.
        teacher_top1: How good it is on them.
        trainer: The trainer, with the learner and its objective.
    """

    spec: RunSpec
    splits: Splits
    teachers: tuple[Trained, ...]
    teacher_logits: Float[Tensor, "n classes"] | None
    teacher_top1: float | None
    trainer: Trainer

    @property
    def teacher(self) -> Trained | None:
        """The teacher, the first of an ensemble; None where there is none."""
        return self.teachers[0] if self.teachers else None


@failures_in_words("preparing the run")
def prepare(spec: TeacherSpec | StudentSpec, home: Home, comm: Communicator = SINGLE_PROCESS) -> RunContext:
    """Load the data and the teacher, check that all fits together, and build the learner.

    Args:
        spec: The run's spec.
        home: Where data sets, teachers and runs are.
        comm: The processes of the run.

    Raises:
        UsageError: Data, teacher or device are not to be had, or do not fit.
    """
    with comm.raise_together():
        device = resolve_device(spec.device, comm)
        teachers: list[Trained] = []
        if isinstance(spec, StudentSpec):
            first, spec = find_teacher(spec, home)
            others, spec = find_ensemble(spec, home)
            teachers = [first, *others]
        spec = spec.model_copy(update={"data": spec.data.pinned(home.datasets)})
        for teacher in teachers:
            say_if_on_other_images(teacher, spec.data)
    with comm.raise_together():
        check_one_gpu_each(device, comm)
    channels = teachers[0].network.in_channels if teachers else None
    splits = comm.main_process_first(
        lambda: data.load(spec.data, home.datasets, seed=spec.batch_seed, in_channels=channels)
    )
    for note in splits.notes:
        logger.info(note)
    with comm.raise_together():
        trainer = assemble(spec, splits, teachers, device, home, comm)
        check_batch_sizes(trainer)
    if trainer.diagnosis is not None and not trainer.diagnosis.has_metrics:
        logger.info("there are no augmented teachers and no learned views: --diagnose has nothing to log")
    if not teachers:
        return RunContext(spec, splits, (), None, None, trainer)
    said = []
    for teacher in teachers:
        asked = resolve_precision(spec.precision, device, teacher.network, trains=False)
        logits, labels = predict(teacher.network, trainer.test_batches, asked)
        said.append(logits.log_softmax(1) if len(teachers) > 1 else logits)
    # An ensemble says the mean of its teachers' probabilities.
    together = torch.stack(said).logsumexp(0) if len(said) > 1 else said[0]
    top1 = top_k(together, labels, 1).item()
    return RunContext(spec, splits, tuple(teachers), together, top1, trainer)


def find_ensemble(
    spec: StudentSpec,
    home: Home,
) -> tuple[list[Trained], StudentSpec]:
    """The further teachers that a spec names, and the spec with them pinned.

    Raises:
        UsageError: One is not there, has other weights than the spec says, or takes images of other channels.
    """
    found = []
    for number, name in enumerate(spec.ensemble):
        digest = spec.ensemble_digests[number] if spec.ensemble_digests else None
        teacher, _ = find_teacher(spec.model_copy(update={"teacher": name, "teacher_digest": digest}), home)
        found.append(teacher)
    names, digests = [one.reference.name for one in found], [one.digest for one in found]
    return found, spec.model_copy(update={"ensemble": tuple(names), "ensemble_digests": tuple(digests)})


def find_teacher(
    spec: StudentSpec,
    home: Home,
) -> tuple[Trained, StudentSpec]:
    """The teacher that a spec names, and the spec with it pinned and with its data set's settings.

    Raises:
        UsageError: There is no such teacher, its weights are not those of the spec's digest, or it was trained with
            other settings of the data set than the spec gives.
    """
    reference = trained.find(home, spec.teacher, data=spec.data, kind="teacher")
    teacher = trained.load(reference, model=spec.teacher_model, arguments=spec.teacher_args)
    if spec.teacher_digest not in (None, teacher.digest):
        raise UsageError(
            f"The weights of {teacher.reference.described} are not those that the spec names by teacher_digest.",
            "Name the teacher by the run or file that has them, or remove teacher_digest from the spec.",
        )
    logger.info(f"teacher: {teacher.model} from {teacher.reference.described}")
    data = spec.data if teacher.data is None else spec.data.like(teacher.data)
    pinned = {"teacher": teacher.reference.name, "teacher_digest": teacher.digest, "data": data}
    return teacher, spec.model_copy(update=pinned)


def say_if_on_other_images(
    teacher: Trained,
    data: DataSpec,
) -> None:
    """Warn of a teacher that was trained on other images than the student will be."""
    if teacher.fingerprint is None or data.fingerprint in (None, teacher.fingerprint):
        return
    logger.warning(
        f"the images of {data.described} are not those that the teacher was trained on; it may have been "
        "trained on some of the test images, so that its accuracy and the student's agreement with it say little"
    )


def assemble(
    spec: RunSpec,
    splits: Splits,
    teachers: Sequence[Trained],
    device: torch.device,
    home: Home,
    comm: Communicator = SINGLE_PROCESS,
) -> Trainer:
    """The trainer of a run, from its parts; the teachers are placed on the device.

    Raises:
        UsageError: A teacher's classes are not the data set's, or the networks do not fit together.
    """
    make_deterministic(device)
    set_float32_precision(spec.precision, device)
    train = training_batches(spec, splits, device, comm)
    # No more images than a training step has memory for: it keeps what its backward pass needs.
    together = min(_TEST_BATCH, 8 * spec.batch_size)
    test = Batches(splits.test, together, device=device, padding=0, flip=False, seed=0, comm=comm)
    for teacher in teachers:
        trained.fit_to(teacher, splits.test, spec.data.described)
        place(teacher.network, device)

    def ask(teacher: Trained, method: Method | None) -> tuple[Teacher, LogitPerturbation]:
        assert isinstance(spec, StudentSpec)
        perturbation = perturbation_of(spec, teacher, train)
        return teacher_forward(spec, teacher, train, home.knowledge, method), perturbation

    return _assemble(spec, splits, teachers, ask, train, test)


def beside(context: RunContext, spec: StudentSpec) -> RunContext:
    """What another run trains with that differs in its seed only: the same batches, and teachers that are asked once.

    Args:
        context: The first run's.
        spec: The other's spec.
    """
    trainer = context.trainer
    for distillation in trainer.objective.distillations:
        if not isinstance(distillation.teacher, SharedForward):
            distillation.teacher = SharedForward(distillation.teacher)
    asked = iter([(each.teacher, each.tekap.perturbation) for each in trainer.objective.distillations])
    batches = trainer.train_batches, trainer.test_batches
    other = _assemble(spec, context.splits, context.teachers, lambda *_: next(asked), *batches)
    return replace(context, spec=spec, trainer=other)


def _assemble(
    spec: RunSpec,
    splits: Splits,
    teachers: Sequence[Trained],
    ask: Asks,
    train: Batches,
    test: Batches,
) -> Trainer:
    device, comm = train.device, train.comm
    learner = build_learner(spec, splits, device)
    if isinstance(spec, StudentSpec):
        learner = _learner_of_method(spec, learner, teachers, train)
    objective: Objective = Classification()
    if isinstance(spec, StudentSpec):
        members = []
        for number, teacher in enumerate(teachers):
            # The first teacher's noise is that of a run with this teacher alone.
            seed = derive(spec.seed, "teacher", number) if number else spec.seed
            members.append(build_distillation(spec, teacher, ask, learner, train, seed=seed))
        objective = of_teachers(members)
    place(objective, device)
    if comm.size > 1 and spec.sync_batch_norm:
        for module in (learner, objective):
            convert_sync_batchnorm(module, comm, device)
    precision = resolve_precision(spec.precision, device, learner, trains=True)
    trainer = Trainer(spec, learner, objective, train, test, precision)
    if isinstance(spec, StudentSpec) and spec.diagnose:
        asked = [
            DiagnosedTeacher(teacher.network, resolve_precision(spec.precision, device, teacher.network, trains=False))
            for teacher in teachers
        ]
        trainer.diagnosis = Diagnosis(learner, objective, asked, train, test, precision)
    return trainer


def teacher_forward(
    spec: StudentSpec, teacher: Trained, train: Batches, knowledge: Path, method: Method | None
) -> Teacher:
    """The teacher as the spec wants it: live, or with its knowledge cached.

    Args:
        spec: The run's spec.
        teacher: The teacher, on its device.
        train: The training batches.
        knowledge: Where cached knowledge is kept.
        method: What it is asked for; feature maps are not cached.
    """
    precision = resolve_precision(spec.precision, train.device, teacher.network, trains=False)
    live = LiveTeacher(
        teacher.network,
        train,
        precision,
        requires=Requires() if method is None else method.requires,
        compiled=spec.compile,
    )
    if live.folding.kept:
        kept, total = live.folding.kept, live.folding.kept + live.folding.folded
        logger.info(
            f"teacher: {kept} of {total} batch norms cannot be folded into the convolutions before them, and stay"
        )
    if not spec.cache_teacher:
        return live
    if train.recrop:
        logger.info("no two random parts of an image are alike, and none is cached: the teacher stays live")
        return live
    if live.requires != Requires():
        what = "strongly augmented images, of which no two are alike" if live.requires.strong_view else "feature maps"
        logger.info(f"the method {spec.method.name} reads {what}, which are not cached: the teacher stays live")
        return live
    cached = CachedTeacher(live, train, knowledge, teacher, spec.data.name)
    logger.info(f"cached knowledge: {cached.store.described}")
    return cached


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
        recrop=spec.data.recrop,
        comm=comm,
    )


def build_learner(spec: RunSpec, splits: Splits, device: torch.device) -> Network:
    """The network that learns, its first weights drawn from the run's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network = models.build(spec.network, len(splits.train.classes), splits.train.image_shape[0], spec.model_args)
    if network.normalization is None:
        network.normalization = Normalization(splits.train.mean, splits.train.std)
    place(network, device)
    return network


def _pair(spec: StudentSpec, teacher: Trained, learner: Network, train: Batches, seed: int) -> Pair:
    """What a method may know when it is built."""
    precision = resolve_precision(spec.precision, train.device, teacher.network, trains=False)
    learner.eval()  # the probe must not touch the student's running statistics
    with torch.no_grad():
        probe = train.probe(2)
        ours, theirs = (
            network.knowledge(network.normalize(probe), preactivations=True) for network in (learner, teacher.network)
        )
    learner.train()
    return Pair(
        ours,
        theirs,
        train.image_set.labels,
        seed,
        len(train),
        standardize_logits=spec.standardize_logits,
        teacher_norms=teacher.network.norms_before_relu(),
        epochs=spec.epochs,
        init_epochs=spec.init_epochs,
        classifier=teacher.network.classifier_layer,
        class_features=partial(class_features, teacher.network, train.image_set, train.device, precision),
    )


def _learner_of_method(spec: StudentSpec, learner: Network, teachers: Sequence[Trained], train: Batches) -> Network:
    """The network that learns, as the method wants it.

    Raises:
        UsageError: The method makes it of the teacher, and there are several.
    """
    made = spec.method.learner(learner, _pair(spec, teachers[0], learner, train, spec.seed)) if spec.beta else learner
    if made is learner:
        return learner
    if len(teachers) > 1:
        raise UsageError(f"{spec.method.name} makes the student of one teacher.", "Give a single --teacher.")
    place(made, train.device)
    return made.train()


def _build_method(spec: StudentSpec, pair: Pair, teacher: str) -> Method | None:
    """The method's own loss, if both networks tell what it reads.

    Raises:
        UsageError: One does not, or the networks do not fit together.
    """
    method = spec.method.build(pair)
    requires = Requires() if method is None else method.requires
    for name, knowledge in ((spec.student, pair.student), (teacher, pair.teacher)):
        if (requires.feature_maps and not knowledge.feature_maps) or (
            requires.preactivations and not knowledge.preactivations
        ):
            raise no_maps(f"the network {name}")
    return method


def build_distillation(
    spec: StudentSpec,
    teacher: Trained,
    ask: Asks,
    learner: Network,
    train: Batches,
    *,
    seed: int,
) -> Distillation:
    """The objective of a student's run under one teacher.

    Args:
        spec: The run's spec.
        teacher: The teacher, on its device.
        ask: How the teacher is asked, and perturbed.
        learner: The student.
        train: The training batches.
        seed: Seed of the method's parts and of TeKAP's noise.
    """
    pair = _pair(spec, teacher, learner, train, seed)
    theirs = pair.teacher
    method = _build_method(spec, pair, teacher.model) if spec.beta else None
    if method is not None and method.init_only and not (spec.gamma or spec.alpha):
        raise UsageError(
            f"Nothing is learned after the first stage of {spec.method.name}: gamma and alpha are 0.",
            "Give --gamma or --alpha a weight.",
        )
    requires = Requires() if method is None else method.requires
    seen = replace(
        theirs,
        feature_maps=theirs.feature_maps if requires.feature_maps else (),
        preactivations=theirs.preactivations if requires.preactivations else (),
    )
    asked, perturbation = ask(teacher, method)
    return Distillation(
        asked,
        Tekap(spec.tekap, SeededNoise(spec.tekap, seed), perturbation),
        method,
        gamma=spec.gamma,
        alpha=spec.alpha,
        beta=spec.beta,
        temperature=spec.temperature,
        standardize_logits=spec.standardize_logits,
        views=AngularViews(spec.angular, seen, spec.temperature, seed) if spec.angular.views else None,
    )

"""The teachers of a run: found, pinned to their weights, and ready to be asked for every batch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from tekapctl.data.batch import Batch
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import Splits
from tekapctl.device import exact_float32, place, resolve_precision
from tekapctl.distillation.objective import TeacherForward
from tekapctl.distillation.perturbations import LogitPerturbation
from tekapctl.errors import UsageError
from tekapctl.models.knowledge import Knowledge
from tekapctl.spec import RunSpec, StudentSpec
from tekapctl.store.home import Home
from tekapctl.train import references, trained
from tekapctl.train.evaluation import predict, top_k
from tekapctl.train.teacher import CachedTeacher, LiveTeacher, SharedForward
from tekapctl.train.teacher_statistics import perturbation_of
from tekapctl.train.trained import Trained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherSource:
    """A teacher of a run: its network, its forward pass, live or from the cache, and its perturbation."""

    trained: Trained
    forward: TeacherForward
    perturbation: LogitPerturbation


def find_teachers(spec: RunSpec, home: Home) -> tuple[list[Trained], RunSpec]:
    """The teachers that a spec names, and the spec with them pinned.

    Raises:
        UsageError: One is missing, has other weights than the spec says, or does not fit its data.
    """
    if not isinstance(spec, StudentSpec):
        return [], spec
    first, spec = find_teacher(spec, home)
    others = []
    for number, name in enumerate(spec.ensemble):
        digest = spec.ensemble_digests[number] if spec.ensemble_digests else None
        one = spec.model_copy(update={"teacher": name, "teacher_digest": digest})
        others.append(find_teacher(one, home)[0])
    pinned = {
        "ensemble": tuple(other.reference.name for other in others),
        "ensemble_digests": tuple(other.digest for other in others),
    }
    return [first, *others], spec.model_copy(update=pinned)


def find_teacher(spec: StudentSpec, home: Home) -> tuple[Trained, StudentSpec]:
    """The teacher that a spec names, and the spec with it pinned and with its dataset's settings.

    Raises:
        UsageError: There is no such teacher, its weights are not those of the spec's digest, or it was trained with
            other settings of the dataset than the spec gives.
    """
    reference = references.find(home, spec.teacher, data=spec.data, kind="teacher")
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


def open_teacher(spec: StudentSpec, teacher: Trained, train: Batches, cache: Path) -> TeacherSource:
    """A teacher that can be asked: live, or with its outputs cached where the spec wants that and they can be."""
    perturbation = perturbation_of(spec, teacher, train)
    precision = resolve_precision(spec.precision, train.device, teacher.network, trains=False)
    live = LiveTeacher(teacher.network, train, precision, requires=spec.requires, compiled=spec.compile)
    if live.folding.kept:
        kept, total = live.folding.kept, live.folding.kept + live.folding.folded
        logger.info(f"teacher: {kept} of {total} batch norms do not follow a convolution, and are not folded")
    if not spec.cache_teacher:
        return TeacherSource(teacher, live, perturbation)
    if spec.uncached is not None:
        logger.info(f"{spec.uncached}; this is not cached: the teacher stays live")
        return TeacherSource(teacher, live, perturbation)
    cached = CachedTeacher(live, train, cache, teacher, spec.data.name, spec.total_epochs)
    logger.info(f"teacher cache: {cached.store.described}")
    if (table := table_of(cached)) is not None:
        logger.info("the cache is complete: it is kept in the memory of the device")
        return TeacherSource(teacher, table, perturbation)
    return TeacherSource(teacher, cached, perturbation)


def evaluate_teachers(
    spec: RunSpec, teachers: Sequence[Trained], test: Batches
) -> tuple[Float[Tensor, "n classes"] | None, float | None]:
    """The teachers' logits for the test images and their top-1 accuracy; an ensemble averages probabilities.

    They are computed in float32, whatever the run's precision, as `tekapctl evaluate` measures them. None if there are
    no teachers, or one of them has other classes.
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


def warn_if_on_other_images(teacher: Trained, spec: RunSpec) -> None:
    """Warn of a teacher that was trained on other images than the student will be."""
    if teacher.fingerprint is None or spec.data.fingerprint in (None, teacher.fingerprint):
        return
    logger.warning(
        f"the images of {spec.data.described} are not those that the teacher was trained on; it may have been "
        "trained on some of the test images, so that its accuracy and the student's agreement with it mean little"
    )


def shared(sources: Sequence[TeacherSource]) -> list[TeacherSource]:
    """The same teachers, each asked once for a batch that several students see."""
    return [replace(source, forward=SharedForward(source.forward)) for source in sources]


_SHARE = 0.5
"""Of the free memory of the device, at most."""
_TOGETHER = 16_384
"""Records that are read at a time."""


class TeacherTable:
    """The teacher's logits and embeddings of every view of every training image, on the device."""

    def __init__(self, cached: CachedTeacher, values: Shaped[Tensor, "views width"]) -> None:
        self.cached = cached
        self.live = cached.live
        self.values = values

    def __call__(self, batch: Batch) -> Knowledge:
        """The teacher's knowledge of a batch."""
        batches = self.cached.batches
        view = batch.view if batches.flip else batch.view // 2
        places = batch.index * batches.distinct_views + view.to(self.values.device, non_blocking=True)
        return self.cached.knowledge(self.values[places])


def table_of(cached: CachedTeacher) -> TeacherTable | None:
    """The table of a cache; None if views do not repeat, one is not cached, or the device has too little memory."""
    batches = cached.batches
    if batches.device.type != "cuda" or not batches.repeats_views:
        return None
    count, width = len(batches.image_set) * batches.distinct_views, cached.width
    free = torch.cuda.mem_get_info(batches.device)[0]
    if count * width * cached.dtype.itemsize > _SHARE * free:
        return None
    numbers = batches.image_set.source_index
    values: Tensor | None = None
    for rows in torch.arange(count).split(_TOGETHER):
        index, view = rows // batches.distinct_views, rows % batches.distinct_views
        number = index if numbers is None else numbers[index]
        words, is_known = cached.store.read((number * batches.distinct_views + view).numpy())
        if not is_known.all():
            return None
        if values is None:  # only now: most caches are not complete
            values = torch.empty(count, width, dtype=cached.dtype, device=batches.device)
        values[rows[0] : rows[-1] + 1] = cached.values(words).to(batches.device)
    return None if values is None else TeacherTable(cached, values)

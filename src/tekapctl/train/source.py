"""The teachers of a run: found, pinned to their weights, and ready to be asked for every batch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tekapctl.data.batches import Batches
from tekapctl.device import resolve_precision
from tekapctl.distillation.objective import TeacherForward
from tekapctl.distillation.perturbations import LogitPerturbation
from tekapctl.errors import UsageError
from tekapctl.spec import RunSpec, StudentSpec
from tekapctl.store.home import Home
from tekapctl.train import trained
from tekapctl.train.teacher import CachedTeacher, LiveTeacher, SharedForward
from tekapctl.train.teacher_statistics import perturbation_of
from tekapctl.train.teacher_table import table_of
from tekapctl.train.trained import Trained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherSource:
    """A teacher of a run.

    Attributes:
        trained: Its network, with where it came from.
        forward: Gives its knowledge of a batch, live or from the cache.
        perturbation: What its augmented teachers' logits differ by.
    """

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


def open_teacher(spec: StudentSpec, teacher: Trained, train: Batches, cache: Path) -> TeacherSource:
    """A teacher that can be asked: live, or with its outputs cached where the spec wants that and they can be.

    Args:
        spec: The run's spec.
        teacher: The teacher, on its device.
        train: The training batches.
        cache: Where cached outputs are kept.
    """
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


def shared(sources: Sequence[TeacherSource]) -> list[TeacherSource]:
    """The same teachers, each asked once for a batch that several students see."""
    return [replace(source, forward=SharedForward(source.forward)) for source in sources]

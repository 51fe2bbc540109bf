"""A queue of recent embeddings in place of CRD's memory banks, for training sets whose banks would be too large."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.distillation.methods.crd.contrast import Moved, contrast
from tekapctl.distillation.methods.crd.negatives import ContrastSampler
from tekapctl.distributed.shard import FULL_BATCH, BatchShard
from tekapctl.randomness import generator

_NO_CLASS = -1


@dataclass(frozen=True)
class Terms:
    """The two sides of the contrastive loss.

    Attributes:
        student: The student's embeddings told apart by the teacher's entries.
        teachers: Each teacher's embeddings told apart by the student's entries; first the teacher's, then those of the
            augmented teachers.
    """

    student: Float[Tensor, ""]
    teachers: Float[Tensor, " teachers"]


class Memory(nn.Module, ABC):
    """Entries of both networks, part of the training state."""

    @abstractmethod
    def terms(
        self,
        of_student: Float[Tensor, "batch width"],
        of_teachers: Float[Tensor, "teachers batch width"],
        index: Int[Tensor, " batch"],
        labels: Int[Tensor, " batch"],
        step: int,
        *,
        updates: int,
        shard: BatchShard = FULL_BATCH,
    ) -> Terms:
        """The terms of a batch against the entries as they are; then the entries take in the batch.

        Of several processes each finds the terms of its share, and all take in the same whole batch.

        Args:
            of_student: The student's embeddings, of unit length.
            of_teachers: The teacher's, and those of the augmented teachers.
            index: The samples' numbers in the training set.
            labels: Their classes.
            step: Number of the step in the run.
            updates: How many of the teachers update the memory, from the first on.
            shard: Which part of a batch these samples are.
        """


def first_entries(entries: int, width: int, seed: int, side: str) -> Float[Tensor, "entries width"]:
    """Random entries for the start, as published: uniform, of about unit length."""
    bound = (width / 3) ** -0.5
    source = generator(torch.device("cpu"), seed, "bank", side)
    return torch.empty(entries, width).uniform_(-bound, bound, generator=source)


class MemoryQueue(Memory):
    """First in, first out: the negatives are all queued samples of other classes.

    A sample has no entry of its own here. Its positive is what the other network says of it in this step, not what the
    networks said of it an epoch ago, and negatives are recent, not drawn from the whole set. Memory and time depend on
    the queue's length, not on the number of samples (as in MoCo, He et al., CVPR 2020, for one network).

    Args:
        length: Entries of each side.
        width: Width of the entries.
        temperature: The scores' temperature.
        seed: Seed of the first entries, which are of no class.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor
    head: Tensor
    normalizer_student: Tensor
    normalizer_teacher: Tensor

    def __init__(self, length: int, width: int, *, temperature: float, seed: int) -> None:
        super().__init__()
        self.temperature = temperature
        self.length = length
        self._are_settled = False
        for side in ("student", "teacher"):
            self.register_buffer(side, first_entries(length, width, seed, side))
            self.register_buffer(f"normalizer_{side}", torch.tensor(-1.0))
        self.register_buffer("labels", torch.full((length,), _NO_CLASS))
        self.register_buffer("head", torch.tensor(0))

    def terms(
        self,
        of_student: Float[Tensor, "batch width"],
        of_teachers: Float[Tensor, "teachers batch width"],
        index: Int[Tensor, " batch"],
        labels: Int[Tensor, " batch"],
        step: int,
        *,
        updates: int,
        shard: BatchShard = FULL_BATCH,
    ) -> Terms:
        """Both sides' terms; each sample enters the queue once, whatever `updates` says."""
        is_negative = self.labels.unsqueeze(0) != labels.unsqueeze(1)
        positive = (of_student * of_teachers[0].detach()).sum(1)
        student_term, self.normalizer_student = self._contrast(
            of_student.unsqueeze(0), positive.unsqueeze(0), self.teacher, is_negative, self.normalizer_student, shard
        )
        positives = (of_teachers * of_student.detach()).sum(2)
        teacher_terms, self.normalizer_teacher = self._contrast(
            of_teachers, positives, self.student, is_negative, self.normalizer_teacher, shard
        )
        with torch.no_grad():
            of_student, of_teacher, labels = (shard.gather(rows) for rows in (of_student, of_teachers[0], labels))
            # A batch longer than the queue leaves its last samples in it.
            kept = min(len(labels), self.length)
            places = (self.head + torch.arange(kept, device=labels.device)) % self.length
            self.student[places] = of_student[-kept:]
            self.teacher[places] = of_teacher[-kept:]
            self.labels[places] = labels[-kept:]
            self._are_settled = True
            self.head.add_(kept).remainder_(self.length)
        return Terms(student_term[0], teacher_terms)

    def _contrast(
        self,
        embeddings: Tensor,
        positive: Tensor,
        entries: Tensor,
        is_negative: Tensor,
        normalizer: Tensor,
        shard: BatchShard,
    ) -> tuple[Tensor, Tensor]:
        """Equation 17 of CRD with the queue as the set that noise is drawn from: a loss for each teacher."""
        # The clone keeps what the backward pass needs from the update that follows.
        scores = (embeddings @ entries.clone().T / self.temperature).exp() * is_negative
        own = positive / self.temperature
        settled = normalizer
        if shard.is_full_batch or not self._are_settled:
            sums = torch.stack([scores[0].sum() + own[0].exp().sum(), is_negative.sum() + len(own[0])]).detach()
            total, count = shard.sum(sums)
            settled = torch.where(normalizer < 0, total / count * self.length, normalizer)
        # The set that noise is drawn from is the queue, of which all are drawn: K / samples is 1.
        losses = (scores / settled).log1p().sum(2) + F.softplus(settled.log() - own)
        return losses.mean(1), settled


class MemoryBanks(Memory):
    """Two banks with an entry for every training sample, of which K are drawn for each sample of a batch.

    Args:
        samples: Number of training samples.
        width: Width of the entries.
        sampler: Draws the contrasted samples.
        temperature: The scores' temperature.
        momentum: Share of the old entry when one is updated.
        seed: Seed of the first entries.
    """

    student: Tensor
    teacher: Tensor
    normalizer_student: Tensor
    normalizer_teacher: Tensor

    def __init__(
        self, samples: int, width: int, *, sampler: ContrastSampler, temperature: float, momentum: float, seed: int
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.temperature = temperature
        self.momentum = momentum
        self._are_settled = False
        for side in ("student", "teacher"):
            self.register_buffer(side, first_entries(samples, width, seed, side))
            # Negative until the first scores set it.
            self.register_buffer(f"normalizer_{side}", torch.tensor(-1.0))

    def terms(
        self,
        of_student: Float[Tensor, "batch width"],
        of_teachers: Float[Tensor, "teachers batch width"],
        index: Int[Tensor, " batch"],
        labels: Int[Tensor, " batch"],
        step: int,
        *,
        updates: int,
        shard: BatchShard = FULL_BATCH,
    ) -> Terms:
        """Both sides' terms, as if each teacher's were found in its turn, with an update of the banks behind it."""
        drawn = self.sampler(index, step, shard.start)
        if not (shard.is_full_batch or self._are_settled):
            self._settle("student", of_student.unsqueeze(0), self.teacher, drawn, shard)
            self._settle("teacher", of_teachers[:1], self.student, drawn, shard)
            self._are_settled = True
        with torch.no_grad():
            all_students, all_teachers = shard.gather(of_student), shard.gather(of_teachers, dim=1)
            index = shard.gather(index)
        student_term, self.normalizer_student = contrast(
            of_student.unsqueeze(0), self.teacher, drawn, self.normalizer_student, self.temperature
        )
        with torch.no_grad():
            # The student's bank as each teacher finds it: what an update makes of it depends on the student alone.
            versions = [self.student[index]]
            for _ in range(updates):
                versions.append(self._moved(versions[-1], all_students))
            found = torch.stack([versions[min(turn, updates)] for turn in range(len(of_teachers))])
        teacher_terms, self.normalizer_teacher = contrast(
            of_teachers,
            self.student,
            drawn,
            self.normalizer_teacher,
            self.temperature,
            Moved(index, found) if len(of_teachers) > 1 else None,
        )
        with torch.no_grad():
            self.student[index] = versions[-1]
            rows = self.teacher[index]
            for teacher in all_teachers[:updates]:
                rows = self._moved(rows, teacher)
            self.teacher[index] = rows
        return Terms(student_term[0], teacher_terms)

    @torch.no_grad()
    def _settle(self, side: str, embeddings: Tensor, bank: Tensor, drawn: Tensor, shard: BatchShard) -> None:
        """Set a normaliser that is not set yet from the scores of the whole batch, not of the share alone."""
        normalizer = getattr(self, f"normalizer_{side}")
        if normalizer < 0:
            _, found = contrast(embeddings, bank, drawn, normalizer, self.temperature)
            setattr(self, f"normalizer_{side}", shard.mean(found))

    def _moved(self, rows: Tensor, towards: Tensor) -> Tensor:
        return F.normalize(torch.lerp(towards, rows, self.momentum), dim=1, eps=1e-12)

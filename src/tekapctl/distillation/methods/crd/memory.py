"""What CRD contrasts a batch with: memory banks, or a queue for training sets whose banks would be too large."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.data.batch import Batch
from tekapctl.distillation.methods.crd.contrast import Moved, contrast
from tekapctl.distributed.shard import BatchShard
from tekapctl.randomness import generator

Embedding = Float[Tensor, "batch width"]
Embeddings = Float[Tensor, "teachers batch width"]
Sampler = Callable[[Tensor, int, int], Tensor]
_NO_CLASS = -1


@dataclass(frozen=True)
class Terms:
    """The two sides of the contrastive loss.

    Attributes:
        student: The loss of the student's embeddings against the teacher's entries.
        teachers: The loss of each teacher's embeddings against the student's entries; first the teacher, then the
            augmented teachers.
    """

    student: Float[Tensor, ""]
    teachers: Float[Tensor, " teachers"]


class Memory(nn.Module, ABC):
    """Embeddings of both networks from earlier steps, part of the training state.

    They start as published: uniformly random, of about unit length.

    Args:
        entries: Number of entries of each network.
        width: Width of an entry.
        temperature: The scores' temperature.
        seed: Seed of the first entries.
    """

    student: Tensor
    teacher: Tensor
    normalizer_student: Tensor
    normalizer_teacher: Tensor

    def __init__(self, entries: int, width: int, *, temperature: float, seed: int) -> None:
        super().__init__()
        self.temperature = temperature
        self._are_settled = False
        bound = (width / 3) ** -0.5
        for side in ("student", "teacher"):
            source = generator(torch.device("cpu"), seed, "bank", side)
            self.register_buffer(side, torch.empty(entries, width).uniform_(-bound, bound, generator=source))
            # Negative until the first scores set it.
            self.register_buffer(f"normalizer_{side}", torch.tensor(-1.0))

    @abstractmethod
    def terms(self, of_student: Embedding, of_teachers: Embeddings, batch: Batch, *, updates: int) -> Terms:
        """The loss of a batch against the entries; then the batch updates the entries.

        Each of several processes computes the terms of its shard; all of them update with the full batch.

        Args:
            of_student: The student's embeddings, of unit length.
            of_teachers: The embeddings of the teacher and of the augmented teachers, of unit length.
            batch: The samples' indices and classes, the step, and the shard.
            updates: How many of the teachers update the memory, from the first on.
        """


class MemoryQueue(Memory):
    """First in, first out: the negatives of a sample are all queued samples of other classes.

    A sample has no entry of its own: its positive is the other network's embedding in the same step, not one from an
    epoch ago. Memory and time depend on the queue's length, not on the number of samples (as in MoCo, He et al., CVPR
    2020, for one network).
    """

    labels: Tensor
    head: Tensor

    def __init__(self, entries: int, width: int, *, temperature: float, seed: int) -> None:
        super().__init__(entries, width, temperature=temperature, seed=seed)
        self.length = entries
        self.register_buffer("labels", torch.full((entries,), _NO_CLASS))
        self.register_buffer("head", torch.tensor(0))

    def terms(self, of_student: Embedding, of_teachers: Embeddings, batch: Batch, *, updates: int) -> Terms:
        """The terms of a batch; each sample enters the queue once, whatever `updates` is."""
        shard = batch.shard
        is_negative = self.labels.unsqueeze(0) != batch.labels.unsqueeze(1)
        positive = (of_student * of_teachers[0].detach()).sum(1)
        of_one = self._contrast("student", of_student.unsqueeze(0), positive.unsqueeze(0), is_negative, shard)
        positives = (of_teachers * of_student.detach()).sum(2)
        of_all = self._contrast("teacher", of_teachers, positives, is_negative, shard)
        with torch.no_grad():
            all_rows = [shard.gather(rows) for rows in (of_student, of_teachers[0], batch.labels)]
            # A batch longer than the queue leaves its last samples in it.
            kept = min(len(all_rows[0]), self.length)
            places = (self.head + torch.arange(kept, device=batch.labels.device)) % self.length
            for entries, rows in zip((self.student, self.teacher, self.labels), all_rows, strict=True):
                entries[places] = rows[-kept:]
            self._are_settled = True
            self.head.add_(kept).remainder_(self.length)
        return Terms(of_one[0], of_all)

    def _contrast(
        self, side: str, embeddings: Tensor, positive: Tensor, is_negative: Tensor, shard: BatchShard
    ) -> Tensor:
        """CRD's equation 17 for each teacher, with the queue as the set that noise is drawn from: K / samples is 1."""
        entries = self.teacher if side == "student" else self.student
        settled = getattr(self, f"normalizer_{side}")
        # The clone keeps what the backward pass needs from the update that follows.
        scores = (embeddings @ entries.clone().T / self.temperature).exp() * is_negative
        own = positive / self.temperature
        if shard.is_full_batch or not self._are_settled:
            sums = torch.stack([scores[0].sum() + own[0].exp().sum(), is_negative.sum() + len(own[0])]).detach()
            total, count = shard.sum(sums)
            settled = torch.where(settled < 0, total / count * self.length, settled)
            getattr(self, f"normalizer_{side}").copy_(settled)
        losses = (scores / settled).log1p().sum(2) + F.softplus(settled.log() - own)
        return losses.mean(1)


class MemoryBanks(Memory):
    """An entry for every training sample, of which K are drawn for each sample of a batch.

    Args:
        entries: Number of training samples.
        width: Width of an entry.
        sampler: Draws the contrasted samples, as `ClassNegatives` does.
        momentum: Weight of the old entry when one is updated.
        temperature: The scores' temperature.
        seed: Seed of the first entries.
    """

    def __init__(
        self, entries: int, width: int, *, sampler: Sampler, momentum: float, temperature: float, seed: int
    ) -> None:
        super().__init__(entries, width, temperature=temperature, seed=seed)
        self.sampler = sampler
        self.momentum = momentum

    def terms(self, of_student: Embedding, of_teachers: Embeddings, batch: Batch, *, updates: int) -> Terms:
        """The terms of a batch, as if the teachers were contrasted one after the other, each followed by its update."""
        shard = batch.shard
        drawn = self.sampler(batch.index, batch.step, shard.start)
        if not (shard.is_full_batch or self._are_settled):
            self._settle("student", of_student.unsqueeze(0), self.teacher, drawn, shard)
            self._settle("teacher", of_teachers[:1], self.student, drawn, shard)
            self._are_settled = True
        with torch.no_grad():
            all_students, all_teachers = shard.gather(of_student), shard.gather(of_teachers, dim=1)
            index = shard.gather(batch.index)
            # The student's entries as each teacher finds them: their updates depend on the student alone.
            versions = [self.student[index]]
            for _ in range(updates):
                versions.append(self._moved(versions[-1], all_students))
            found = torch.stack([versions[min(turn, updates)] for turn in range(len(of_teachers))])
        student_term, settled_student = contrast(
            of_student.unsqueeze(0), self.teacher, drawn, self.normalizer_student, self.temperature
        )
        moved = Moved(index, found) if len(of_teachers) > 1 else None
        teacher_terms, settled_teacher = contrast(
            of_teachers, self.student, drawn, self.normalizer_teacher, self.temperature, moved
        )
        with torch.no_grad():
            # In place, as all of the memory, so that a CUDA graph that has recorded this finds it.
            self.normalizer_student.copy_(settled_student)
            self.normalizer_teacher.copy_(settled_teacher)
            self.student[index] = versions[-1]
            rows = self.teacher[index]
            for teacher in all_teachers[:updates]:
                rows = self._moved(rows, teacher)
            self.teacher[index] = rows
        return Terms(student_term[0], teacher_terms)

    @torch.no_grad()
    def _settle(self, side: str, embeddings: Tensor, bank: Tensor, drawn: Tensor, shard: BatchShard) -> None:
        """Set a normaliser that is not set yet from the scores of the full batch instead of the shard alone."""
        normalizer = getattr(self, f"normalizer_{side}")
        if normalizer < 0:
            _, found = contrast(embeddings, bank, drawn, normalizer, self.temperature)
            normalizer.copy_(shard.mean(found))

    def _moved(self, rows: Tensor, towards: Tensor) -> Tensor:
        return F.normalize(torch.lerp(towards, rows, self.momentum), dim=1, eps=1e-12)

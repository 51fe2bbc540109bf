"""A queue of recent embeddings in place of CRD's memory banks, for training sets whose banks would be too large."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from tekapctl.methods.memory import Memory, Terms, first_entries
from tekapctl.parallel.share import ALL, Share

_NO_CLASS = -1


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
        share: Share = ALL,
    ) -> Terms:
        """Both sides' terms; each sample enters the queue once, whatever `updates` says."""
        is_negative = self.labels.unsqueeze(0) != labels.unsqueeze(1)
        positive = (of_student * of_teachers[0].detach()).sum(1)
        student_term, self.normalizer_student = self._contrast(
            of_student.unsqueeze(0), positive.unsqueeze(0), self.teacher, is_negative, self.normalizer_student, share
        )
        positives = (of_teachers * of_student.detach()).sum(2)
        teacher_terms, self.normalizer_teacher = self._contrast(
            of_teachers, positives, self.student, is_negative, self.normalizer_teacher, share
        )
        with torch.no_grad():
            of_student, of_teacher, labels = (share.whole(rows) for rows in (of_student, of_teachers[0], labels))
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
        share: Share,
    ) -> tuple[Tensor, Tensor]:
        """Equation 17 of CRD with the queue as the set that noise is drawn from: a loss for each teacher."""
        # The clone keeps what the backward pass needs from the update that follows.
        scores = (embeddings @ entries.clone().T / self.temperature).exp() * is_negative
        own = positive / self.temperature
        settled = normalizer
        if share.is_whole or not self._are_settled:
            sums = torch.stack([scores[0].sum() + own[0].exp().sum(), is_negative.sum() + len(own[0])]).detach()
            total, count = share.total(sums)
            settled = torch.where(normalizer < 0, total / count * self.length, normalizer)
        # The set that noise is drawn from is the queue, of which all are drawn: K / samples is 1.
        losses = (scores / settled).log1p().sum(2) + F.softplus(settled.log() - own)
        return losses.mean(1), settled

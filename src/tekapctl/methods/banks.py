"""CRD's memory banks: one entry for each training sample and network."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from tekapctl.methods.contrast import Moved, contrast
from tekapctl.methods.memory import Memory, Terms, first_entries
from tekapctl.methods.negatives import ContrastSampler
from tekapctl.parallel.share import ALL, Share


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
        share: Share = ALL,
    ) -> Terms:
        """Both sides' terms, as if each teacher's were found in its turn, with an update of the banks behind it."""
        drawn = self.sampler(index, step, share.first)
        if not (share.is_whole or self._are_settled):
            self._settle("student", of_student.unsqueeze(0), self.teacher, drawn, share)
            self._settle("teacher", of_teachers[:1], self.student, drawn, share)
            self._are_settled = True
        with torch.no_grad():
            all_students, all_teachers = share.whole(of_student), share.whole(of_teachers, dim=1)
            index = share.whole(index)
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
    def _settle(self, side: str, embeddings: Tensor, bank: Tensor, drawn: Tensor, share: Share) -> None:
        """Set a normaliser that is not set yet from the scores of the whole batch, not of the share alone."""
        normalizer = getattr(self, f"normalizer_{side}")
        if normalizer < 0:
            _, found = contrast(embeddings, bank, drawn, normalizer, self.temperature)
            setattr(self, f"normalizer_{side}", share.mean(found))

    def _moved(self, rows: Tensor, towards: Tensor) -> Tensor:
        return F.normalize(torch.lerp(towards, rows, self.momentum), dim=1, eps=1e-12)

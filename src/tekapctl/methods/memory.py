"""What CRD remembers of earlier batches to contrast a batch with."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tekapctl.parallel.share import ALL, Share
from tekapctl.randomness import generator


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
        share: Share = ALL,
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
            share: Which part of a batch these samples are.
        """


def first_entries(entries: int, width: int, seed: int, side: str) -> Float[Tensor, "entries width"]:
    """Random entries for the start, as published: uniform, of about unit length."""
    bound = (width / 3) ** -0.5
    source = generator(torch.device("cpu"), seed, "bank", side)
    return torch.empty(entries, width).uniform_(-bound, bound, generator=source)

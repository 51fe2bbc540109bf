"""SEED: match similarities to a queue of the teacher's embeddings; the teacher needs no classes.

Fang et al., "SEED: Self-supervised Distillation for Visual Representation", ICLR 2021, equations 3 to 5.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.method import TwoSidedMethod
from tekapctl.distillation.tekap import AugmentedTeachers
from tekapctl.settings import Temperature

Unit = Float[Tensor, "batch width"]
Similarities = Float[Tensor, "batch queue"]
Queue = Float[Tensor, "entries width"]


@METHODS.register("seed")
class SEEDSpec(MethodSpec):
    """SEED's settings."""

    weights = Weights(beta=1.0)
    requires = Requires(embedding=True)
    about = About(
        "SEED: Self-supervised Distillation for Visual Representation",
        2021,
        "cross-entropy of softmax(z_s D / T_s) under softmax(z_t D / T_t), D = queue and z_t",
        "The teacher may have other classes than the dataset, or none.",
    )
    name: Literal["seed"] = "seed"
    queue: int = Field(65536, ge=1, le=2**24, description="Number of teacher embeddings in the queue.")
    student_temperature: Temperature = Field(0.2, description="Temperature of the student's similarities.")
    teacher_temperature: Temperature = Field(0.01, description="Temperature of the teacher's similarities.")

    def memory_bytes(self, samples: int, batch_size: int, teachers: int) -> int:
        """Similarities of both networks and their gradients; the queue's width is not known here."""
        return 4 * 3 * batch_size * (self.queue + 1) * teachers

    def make(self, pair: Pair) -> "SEED":
        """SEED for a pair of networks."""
        return SEED(self, pair.student.embedding.shape[1], pair.teacher.embedding.shape[1])


class SEED(TwoSidedMethod):
    """Cross-entropy of similarities, with a queue that begins with random unit vectors.

    Args:
        spec: The settings.
        student: Width of the student's embedding.
        teacher: Width of the teacher's.
    """

    queue: Tensor
    next_row: Tensor

    def __init__(self, spec: SEEDSpec, student: int, teacher: int) -> None:
        super().__init__()
        self.spec = spec
        self.projector = nn.Sequential(nn.Linear(student, student), nn.ReLU(), nn.Linear(student, teacher))
        self.register_buffer("queue", F.normalize(torch.randn(spec.queue, teacher), dim=1))
        self.register_buffer("next_row", torch.zeros((), dtype=torch.int64))

    def student_side(self, student: Knowledge, teacher: Knowledge) -> tuple[Unit, Similarities, Queue]:
        """The student's projected unit embedding, its similarities to the queue, and the queue."""
        ours = F.normalize(self.projector(student.embedding), dim=1)
        queue = self.queue.clone()  # backward passes, those of learned views too, need it as it is before this batch
        return ours, ours @ queue.T, queue

    def compare(self, ours: tuple[Unit, Similarities, Queue], teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The mean over samples."""
        unit, similarities, queue = ours
        theirs = F.normalize(teacher.embedding, dim=1)
        found, wanted = (
            torch.cat([queued, (one * theirs).sum(1, keepdim=True)], 1)
            for one, queued in ((unit, similarities), (theirs, theirs @ queue.T))
        )
        wanted = (wanted / self.spec.teacher_temperature).softmax(1)
        return F.cross_entropy(found / self.spec.student_temperature, wanted)

    def augmented_loss(
        self, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers, batch: Batch
    ) -> Float[Tensor, ""]:
        """The loss under all teachers; then the teacher's own embeddings replace the oldest ones of the queue."""
        total = super().augmented_loss(student, teacher, augmented, batch)
        with torch.no_grad():
            newest = F.normalize(teacher.embedding, dim=1)[-len(self.queue) :]
            rows = (self.next_row + torch.arange(len(newest), device=newest.device)) % len(self.queue)
            self.queue.index_copy_(0, rows, newest)
            self.next_row.add_(len(newest)).remainder_(len(self.queue))
        return total

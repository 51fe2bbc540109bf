"""CRD: the student's embedding of an image must be told apart from other images' by the teacher's, and the reverse.

Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020: the critic of equation 17 over memory
banks, with noise-contrastive estimation as in the authors' code.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.crd.memory import Memory, MemoryBanks, MemoryQueue, Terms
from tekapctl.distillation.methods.crd.negatives import ClassNegatives
from tekapctl.distillation.tekap import AugmentedTeachers, FeatureTekap


@METHODS.register("crd")
class CRDSpec(MethodSpec):
    """The settings of CRD; the defaults are the published ones."""

    tekap = True
    weights = Weights(beta=0.8)
    requires = Requires(embedding=True)
    about = About(
        "Contrastive Representation Distillation",
        2020,
        "-log p0 / (p0 + c) - sum over K negatives of log c / (p + c), p = exp(embedding . bank entry / T) / Z, "
        "c = K / samples, for both sides",
    )
    name: Literal["crd"] = "crd"
    embedding_width: int = Field(128, ge=1, le=65536, description="Width of the space of the comparison.")
    negatives: int = Field(16384, ge=1, le=2**24, description="Negatives of each sample in each step.")
    temperature: float = Field(0.07, ge=0.02, le=1e4, description="Temperature of the scores.")
    momentum: float = Field(0.5, ge=0, lt=1, description="Weight of the old entry when a bank is updated.")
    mode: Literal["exact", "relax"] = Field(
        "exact", description="Positive: the sample itself (exact) or any sample of its class (relax)."
    )
    memory: Literal["bank", "queue"] = Field(
        "bank",
        description="An entry for every training sample (bank, as published), or the last `negatives` samples (queue).",
    )

    @model_validator(mode="after")
    def _check_queue(self) -> "CRDSpec":
        if self.memory == "queue" and self.mode == "relax":
            raise ValueError("a queue has no entry for other samples of the class: use mode 'exact'")
        return self

    def memory_bytes(self, samples: int, batch_size: int, teachers: int) -> int:
        """Two memories per teacher, and a batch's scores and gathered negatives, in float32."""
        entries = self.negatives if self.memory == "queue" else samples
        return 8 * (teachers * entries * self.embedding_width + batch_size * (2 * entries + 3 * self.negatives))

    def make(self, pair: Pair) -> "CRD":
        """CRD for a pair of networks and a training set."""
        return CRD(
            self,
            student_width=pair.student.embedding.shape[1],
            teacher_width=pair.teacher.embedding.shape[1],
            memory=self._memory(pair),
        )

    def _memory(self, pair: Pair) -> Memory:
        if self.memory == "queue":
            return MemoryQueue(self.negatives, self.embedding_width, temperature=self.temperature, seed=pair.seed)
        return MemoryBanks(
            len(pair.labels),
            self.embedding_width,
            sampler=ClassNegatives(pair.labels, self.negatives, self.mode, pair.seed),
            temperature=self.temperature,
            momentum=self.momentum,
            seed=pair.seed,
        )


class Projection(nn.Module):
    """A linear layer onto the unit sphere, where student and teacher are compared.

    Args:
        width: Width of the network's embedding.
        out: Width of the compared embedding.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)

    def forward(self, embedding: Float[Tensor, "batch width"]) -> Float[Tensor, "batch out"]:
        """Project and normalise."""
        return F.normalize(self.linear(embedding.flatten(1).float()), dim=1, eps=1e-12)


class CRD(Method):
    """The contrastive loss over a memory of the student's embeddings and one of the teacher's.

    Args:
        spec: The settings.
        student_width: Width of the student's embedding.
        teacher_width: Width of the teacher's embedding.
        memory: What batches are contrasted with.
    """

    couples_samples = False

    def __init__(self, spec: CRDSpec, *, student_width: int, teacher_width: int, memory: Memory) -> None:
        super().__init__()
        self.spec = spec
        self.memory = memory
        self.project_student = Projection(student_width, spec.embedding_width)
        self.project_teacher = Projection(teacher_width, spec.embedding_width)

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The student's term plus the teacher's term; updates the memory."""
        terms = self._terms(student, teacher.embedding.unsqueeze(0), batch, updates=1)
        return terms.student + terms.teachers[0]

    def augmented_loss(
        self, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers, batch: Batch
    ) -> Float[Tensor, ""]:
        """TeKAP at the feature level: every augmented teacher adds its own term, against the memory as it then is.

        As published, the student's term of the first pass counts again for each augmented teacher
        (`student_term_weight`) and each updates the banks again (`bank_updates`).
        """
        spec = augmented.spec
        assert isinstance(spec, FeatureTekap)
        if augmented.embeddings is None:
            terms = self._terms(student, teacher.embedding.unsqueeze(0), batch, updates=1)
            return terms.student + spec.teacher_loss_weight * terms.teachers[0]
        embeddings = torch.cat([teacher.embedding.float().unsqueeze(0), augmented.embeddings])
        updates = len(embeddings) if spec.bank_updates else 1
        terms = self._terms(student, embeddings, batch, updates=updates)
        of_augmented = spec.loss_weight * terms.teachers[1:].sum()
        of_teacher = spec.teacher_loss_weight * terms.teachers[0]
        return terms.student * (1 + spec.student_term_weight * len(augmented)) + of_teacher + of_augmented

    def _terms(
        self, student: Knowledge, teachers: Float[Tensor, "teachers batch width"], batch: Batch, *, updates: int
    ) -> Terms:
        with torch.autocast(batch.index.device.type, enabled=False):
            return self.memory.terms(
                self.project_student(student.embedding),
                self.project_teacher(teachers.flatten(0, 1)).unflatten(0, teachers.shape[:2]),
                batch.index,
                batch.labels,
                batch.step,
                updates=updates,
                shard=batch.shard,
            )

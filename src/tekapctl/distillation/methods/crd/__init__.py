"""CRD: the student's embedding of an image must be told apart from other images' by the teacher's, and the reverse.

Tian, Krishnan and Isola, ICLR 2020: the critic of equation 17 over memory banks, with noise-contrastive estimation as
in the authors' code.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.crd.memory import Memory, MemoryBanks, MemoryQueue, Terms
from tekapctl.distillation.methods.crd.negatives import ClassNegatives
from tekapctl.distillation.methods.method import scaled
from tekapctl.distillation.tekap import AugmentedTeachers, FeatureTekap


@METHODS.register("crd")
class CRDSpec(MethodSpec):
    """The settings of CRD; the defaults are the published ones."""

    tekap = True
    weights = Weights(beta=0.8)
    requires = Requires(embedding=True)
    reads_labels = True
    own_effects = frozenset({"student-term", "bank-updates"})
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

    @property
    def refuses_repeats(self) -> str | None:
        """The banks have one entry for each image, which a step can update only once."""
        return "CRD's banks have one entry for each: set `method.memory` to queue" if self.memory == "bank" else None

    def memory_bytes(self, samples: int, batch_size: int, teachers: int) -> int:
        """Two memories per teacher, and a batch's scores and gathered negatives, in float32."""
        entries = self.negatives if self.memory == "queue" else samples
        return 8 * (teachers * entries * self.embedding_width + batch_size * (2 * entries + 3 * self.negatives))

    def make(self, pair: Pair) -> "CRD":
        return CRD(self, pair)


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
        unit: Float[Tensor, "batch out"] = _Unit.apply(self.linear(embedding.flatten(1).float()))
        return unit


class _Unit(torch.autograd.Function):
    """`F.normalize` of rows, whose own backward pass needs three times as many operations."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        length = rows.norm(dim=1, keepdim=True).clamp_(min=1e-12)
        unit = rows / length
        ctx.save_for_backward(unit, length)
        return unit

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        unit, length = ctx.saved_tensors
        (gradient,) = gradients
        along = (gradient * unit).sum(1, keepdim=True)
        return torch.addcmul(gradient, unit, along, value=-1).div_(length)


class CRD(Method):
    """The contrastive loss over a memory of the student's embeddings and one of the teacher's."""

    couples_samples = False

    def __init__(self, spec: CRDSpec, pair: Pair) -> None:
        super().__init__(spec)
        width = spec.embedding_width
        common: dict[str, Any] = {"temperature": spec.temperature, "seed": pair.seed}
        self.memory: Memory
        if spec.memory == "queue":
            self.memory = MemoryQueue(spec.negatives, width, **common)
        else:
            sampler = ClassNegatives(pair.labels, spec.negatives, spec.mode, pair.seed)
            self.memory = MemoryBanks(len(pair.labels), width, sampler=sampler, momentum=spec.momentum, **common)
        self.project_student = Projection(pair.student.embedding.shape[1], width)
        self.project_teacher = Projection(pair.teacher.embedding.shape[1], width)

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The student's term plus the teacher's; updates the memory."""
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
        terms = self._terms(student, embeddings, batch, updates=len(embeddings) if spec.bank_updates else 1)
        of_student = terms.student * (1 + spec.student_term_weight * len(augmented))
        first, *others = terms.teachers.unbind()
        of_augmented = sum(others[1:], start=others[0])
        return of_student + scaled(first, spec.teacher_loss_weight) + scaled(of_augmented, spec.loss_weight)

    def _terms(
        self, student: Knowledge, teachers: Float[Tensor, "teachers batch width"], batch: Batch, *, updates: int
    ) -> Terms:
        with torch.autocast(batch.index.device.type, enabled=False):
            of_student = self.project_student(student.embedding)
            of_teachers = self.project_teacher(teachers.flatten(0, 1)).unflatten(0, teachers.shape[:2])
            return self.memory.terms(of_student, of_teachers, batch, updates=updates)

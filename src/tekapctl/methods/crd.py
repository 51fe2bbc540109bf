"""CRD: the student's embedding of an image must be told apart from other images' by the teacher's, and the reverse.

Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020: the critic of equation 17 over memory
banks, with noise-contrastive estimation as in the authors' code.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.data.batches import Batch
from tekapctl.knowledge import Knowledge
from tekapctl.methods.contrast import contrast
from tekapctl.methods.method import METHODS, Method, MethodSpec, Pair, Weights
from tekapctl.methods.negatives import ClassNegatives, ContrastSampler
from tekapctl.randomness import generator
from tekapctl.tekap import AugmentedTeachers, FeatureTekap


@METHODS.register("crd")
class CRDSpec(MethodSpec):
    """The settings of CRD; the defaults are the published ones."""

    weights: ClassVar[Weights] = Weights(gamma=1.0, alpha=0.0, beta=0.8)
    name: Literal["crd"] = "crd"
    embedding_width: int = Field(128, ge=1, le=65536, description="Width of the space in which both are compared.")
    negatives: int = Field(16384, ge=1, le=2**24, description="Negatives of each sample in each step.")
    temperature: float = Field(0.07, gt=0, description="Temperature of the scores.")
    momentum: float = Field(0.5, ge=0, lt=1, description="Share of the old entry when a bank is updated.")
    mode: Literal["exact", "relax"] = Field(
        "exact", description="Positive: the sample itself (exact) or any sample of its class (relax)."
    )

    def build(self, pair: Pair) -> "CRD":
        """CRD for a pair of networks and a training set."""
        return CRD(
            self,
            student_width=pair.student.embedding.shape[1],
            teacher_width=pair.teacher.embedding.shape[1],
            samples=len(pair.labels),
            sampler=ClassNegatives(pair.labels, self.negatives, self.mode, pair.seed),
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
    """The contrastive loss over two memory banks, one of the student's embeddings and one of the teacher's.

    Args:
        spec: The settings.
        student_width: Width of the student's embedding.
        teacher_width: Width of the teacher's embedding.
        samples: Number of training samples, the length of the banks.
        sampler: Draws the contrasted samples.
        seed: Seed of the banks' first entries and of the projections.
    """

    bank_student: Tensor
    bank_teacher: Tensor
    normalizer_student: Tensor
    normalizer_teacher: Tensor

    def __init__(
        self,
        spec: CRDSpec,
        *,
        student_width: int,
        teacher_width: int,
        samples: int,
        sampler: ContrastSampler,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.samples = samples
        self.sampler = sampler
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.project_student = Projection(student_width, spec.embedding_width)
            self.project_teacher = Projection(teacher_width, spec.embedding_width)
        bound = (spec.embedding_width / 3) ** -0.5
        for side in ("student", "teacher"):
            source = generator(torch.device("cpu"), seed, "bank", side)
            bank = torch.empty(samples, spec.embedding_width).uniform_(-bound, bound, generator=source)
            self.register_buffer(f"bank_{side}", bank)
            # Negative until the first scores set it.
            self.register_buffer(f"normalizer_{side}", torch.tensor(-1.0))

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The student's term plus the teacher's term; updates both banks."""
        return self._total(student, teacher, None, batch)

    def augmented_loss(
        self, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers, batch: Batch
    ) -> Float[Tensor, ""]:
        """TeKAP at the feature level: every augmented teacher adds its own term, against the banks as they then are.

        As published, the student's term of the first pass counts again for each augmented teacher
        (`student_term_weight`) and each updates the banks again (`bank_updates`).
        """
        return self._total(student, teacher, augmented, batch)

    def _total(
        self, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers | None, batch: Batch
    ) -> Float[Tensor, ""]:
        with torch.autocast(batch.index.device.type, enabled=False):
            drawn = self.sampler(batch.index, batch.step)
            of_student = self.project_student(student.embedding)
            of_teacher = self.project_teacher(teacher.embedding)
            student_term = self.student_term(of_student, drawn)
            teacher_term = self.teacher_term(of_teacher, drawn)
            self.update_banks(of_student, of_teacher, batch.index)
            if augmented is None or augmented.embeddings is None:
                return student_term + teacher_term
            assert isinstance(augmented.spec, FeatureTekap)
            total = student_term * (1 + augmented.spec.student_term_weight * len(augmented)) + teacher_term
            for embedding in augmented.embeddings:
                of_augmented = self.project_teacher(embedding)
                if augmented.spec.loss_weight:
                    total = total + augmented.spec.loss_weight * self.teacher_term(of_augmented, drawn)
                if augmented.spec.bank_updates:
                    self.update_banks(of_student, of_augmented, batch.index)
            return total

    def student_term(
        self, projected: Float[Tensor, "batch out"], drawn: Int[Tensor, "batch draws"]
    ) -> Float[Tensor, ""]:
        """The student's embeddings told apart by the teacher's bank."""
        term, self.normalizer_student = contrast(
            projected, self.bank_teacher, drawn, self.normalizer_student, self.spec.temperature
        )
        return term

    def teacher_term(
        self, projected: Float[Tensor, "batch out"], drawn: Int[Tensor, "batch draws"]
    ) -> Float[Tensor, ""]:
        """The teacher's embeddings told apart by the student's bank."""
        term, self.normalizer_teacher = contrast(
            projected, self.bank_student, drawn, self.normalizer_teacher, self.spec.temperature
        )
        return term

    @torch.no_grad()
    def update_banks(
        self,
        of_student: Float[Tensor, "batch out"],
        of_teacher: Float[Tensor, "batch out"],
        index: Int[Tensor, " batch"],
    ) -> None:
        """Move the batch's entries towards its embeddings and back onto the unit sphere."""
        momentum = self.spec.momentum
        for bank, new in ((self.bank_student, of_student), (self.bank_teacher, of_teacher)):
            moved = torch.lerp(new, bank.index_select(0, index), momentum)
            bank.index_copy_(0, index, F.normalize(moved, dim=1, eps=1e-12))

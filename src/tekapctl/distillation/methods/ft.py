"""FT: match factors of the last feature map: the student's translator's to the teacher's paraphraser's.

Kim, Park and Kwak, NeurIPS 2018, equation 3 with p = 1. The paraphraser is first trained alone, as an autoencoder of
the teacher's last feature map.
"""

from itertools import chain, pairwise
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import Map, of_one_size
from tekapctl.distillation.methods.losses import attention
from tekapctl.distillation.methods.method import InitEpochs, TwoSidedMethod


@METHODS.register("ft")
class FTSpec(MethodSpec):
    """FT's settings."""

    weights = Weights(beta=200.0)
    requires = Requires(feature_maps=True)
    about = About(
        "Paraphrasing Complex Network: Network Compression via Factor Transfer",
        2018,
        "mean |n(translator(student)) - n(paraphraser(teacher))|, n = the channels' mean square, of unit length",
        "the paraphraser learns from the teacher alone in the init stage",
    )
    name: Literal["ft"] = "ft"
    init_epochs: InitEpochs = 30
    rate: float = Field(0.5, gt=0, le=4, description="Channels of a factor, as a fraction of the teacher map's.")

    def init_lr(self, student: str) -> float | None:
        """0.01 for the resnet and wrn students."""
        return 0.01 if student.startswith(("resnet", "wrn")) else None

    def make(self, pair: Pair) -> "FT":
        return FT(self, pair)


class FT(TwoSidedMethod):
    """Factor transfer at the last stage."""

    couples_samples = False
    init_trains_student = False

    def __init__(self, spec: FTSpec, pair: Pair) -> None:
        super().__init__(spec)
        student_channels, teacher_channels = (k.feature_maps[-1].shape[1] for k in (pair.student, pair.teacher))
        factors = max(1, int(teacher_channels * spec.rate))
        self.paraphraser = encoder(teacher_channels, factors, norm=False)
        widths = pairwise((factors, factors, teacher_channels, teacher_channels))
        self.restorer = nn.Sequential(*chain(*(step(nn.ConvTranspose2d(i, o, 3, padding=1)) for i, o in widths)))
        self.translator = encoder(student_channels, factors, norm=True)

    def init_loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The paraphraser's reconstruction error of the teacher's map."""
        maps = teacher.feature_maps[-1]
        return F.mse_loss(self.restorer(self.paraphraser(maps)), maps)

    def student_side(self, student: Knowledge, teacher: Knowledge) -> Map:
        """The student's factors."""
        found: Tensor = self.translator(student.feature_maps[-1])
        return found

    def compare(self, ours: Map, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The distance of the student's factors from the teacher's."""
        with torch.no_grad():
            theirs = self.paraphraser(teacher.feature_maps[-1])
        return factor_loss(ours, theirs)


def encoder(channels: int, factors: int, *, norm: bool) -> nn.Sequential:
    """Three convolutions to the factors, with or without batch norms."""
    widths = pairwise((channels, channels, factors, factors))
    return nn.Sequential(*chain(*(step(nn.Conv2d(i, o, 3, padding=1), norm=norm) for i, o in widths)))


def step(conv: nn.Conv2d | nn.ConvTranspose2d, *, norm: bool = False) -> list[nn.Module]:
    """A convolution, a batch norm or nothing, and the activation."""
    return [conv, nn.BatchNorm2d(conv.out_channels) if norm else nn.Identity(), nn.LeakyReLU(0.1)]


def factor_loss(student: Map, teacher: Map) -> Float[Tensor, ""]:
    """The mean distance of both factors' unit attention maps, the larger factor pooled to the smaller's size."""
    ours, theirs = of_one_size(student, teacher)
    return (attention(ours) - attention(theirs)).abs().mean()

"""A distillation method of your own, with and without TeKAP.

python examples/custom_method.py
"""

import argparse
from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from tekapctl.api import distill, train_teacher
from tekapctl.data import Batch
from tekapctl.distillation.methods import About, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.models.knowledge import Knowledge


class CosineSpec(MethodSpec):
    """The settings, and what the method reads."""

    weights: ClassVar[Weights] = Weights(beta=2.0)
    requires: ClassVar[Requires] = Requires(logits=True)
    about: ClassVar[About] = About("An example", 2026, "mean of (1 - cos(student, teacher))^power")
    name: str = "custom_method:CosineSpec"
    power: float = Field(1.0, gt=0, le=100, description="Exponent of the distance.")

    def make(self, pair: Pair) -> "Cosine":
        return Cosine(self)


class Cosine(Method):
    """The student's logits point in the same direction as the teacher's."""

    couples_samples: ClassVar[bool] = False

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Tensor:
        return (1 - F.cosine_similarity(student.logits, teacher.logits)).clamp(min=1e-6).pow(self.spec.power).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    epochs = parser.parse_args().epochs

    teacher = train_teacher(model="resnet20", data="digits", epochs=epochs)
    for teachers in (0, 3):
        student = distill(
            teacher=teacher["run"],
            student="resnet8",
            data="digits",
            method={"name": "custom_method:CosineSpec", "power": 0.5},
            tekap={"logit": {"teachers": teachers}},
            epochs=epochs,
        )
        print(f"{teachers} augmented teachers: {student['last_top1']:.1%}")


if __name__ == "__main__":
    main()

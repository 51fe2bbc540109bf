"""Three steps of training a small network."""

from collections.abc import Iterator
from typing import Any

import torch

from conformance.fill import fill_state_dict
from conformance.inputs import batch_of, built, of_embedding
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.distillation.methods.crd import CRD, CRDSpec
from tekapctl.distillation.objective import Distillation
from tekapctl.distillation.tekap import Tekap, TekapSpec
from tekapctl.models import build

SAMPLES, WIDTH = 64, 16


@evaluates("trace_*")
def trace(x: Case) -> Iterator[tuple[str, Any]]:
    student, teacher = build("resnet8"), build("resnet14").eval()
    fill_state_dict(student, x.file.seed + 11)
    fill_state_dict(teacher, x.file.seed + 12)
    spec = TekapSpec() if "tekap" in x.name else TekapSpec().without()

    def noise(shape: Any, to: str, step: int, device: Any, first: int) -> torch.Tensor:
        draws = range(3) if to == "logits" else [3]
        return torch.stack([x.at("noise", step, i) for i in draws])

    objective = Distillation(
        lambda batch: teacher.knowledge(batch.images, feature_maps=False),
        Tekap(spec, noise),
        _crd(x) if x.beta else None,
        gamma=float(x.gamma),
        alpha=float(x.alpha),
        beta=float(x.beta),
        temperature=4.0,
    )
    parameters = [*student.parameters(), *objective.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)
    if not x.beta:
        x.leave_out("what CRD would contrast", "contrast_index_*")
    if not x.alpha:
        x.leave_out("drawn for the logits in any case", "noise_*_[0-2]")
    losses = []
    for step in range(x.length("losses")):
        batch = batch_of(x.at("sample_index", step), step, x.at("images", step), x.at("labels", step))
        losses.append(torch.stack(list(objective(student.train().knowledge(batch.images), batch).values())).sum())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    yield "losses", losses
    yield "conv1_weight_after", student.conv1.weight
    yield "fc_weight_after", student.fc.weight
    yield "bn_running_mean_after", student.bn1.running_mean


def _crd(x: Case) -> CRD:
    spec = CRDSpec(embedding_width=WIDTH, negatives=32)
    crd = built(spec, of_embedding(torch.zeros(2, 64)), labels=torch.arange(SAMPLES) % 2)
    crd.memory.sampler = lambda _, step, first: x.at("contrast_index", step)
    for side, offset in (("student", 13), ("teacher", 14)):
        filled = torch.nn.ModuleDict({"linear": getattr(crd, f"project_{side}").linear})
        fill_state_dict(filled, x.file.seed + offset)
        getattr(crd.memory, side).copy_(x.at(f"memory_{side}", 0))
    return crd

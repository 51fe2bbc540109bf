"""CRD, alone and with TeKAP at the feature level."""

from collections.abc import Iterator
from typing import Any

import torch

from conformance.inputs import batch_of, built, of_embedding
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.distillation.methods.crd import CRD, CRDSpec
from tekapctl.distillation.tekap import FeatureTekap, Tekap, TekapSpec

SIDES = ("student", "teacher")


def crd_of(x: Case, student_width: int, teacher_width: int) -> CRD:
    """CRD with the case's banks, projections and contrasted samples."""
    temperature = x.contrast_temperature if x.has("contrast_temperature") else x.temperature
    method = built(
        CRDSpec(embedding_width=x.embed_dim, negatives=x.negatives, temperature=temperature, momentum=x.momentum),
        *(of_embedding(torch.zeros(2, width)) for width in (student_width, teacher_width)),
        labels=torch.arange(x.samples) % 2,
    )
    method.memory.sampler = lambda _, step, first: x.at("contrast_index", *((step,) if x.has("losses") else ()))
    for side in SIDES:
        projection = getattr(method, f"project_{side}").linear
        projection.weight.data = getattr(x, f"embed_{side}_weight")
        projection.bias.data = getattr(x, f"embed_{side}_bias")
        getattr(method.memory, side).copy_(x.at(f"memory_{side}", 0))
    return method


@evaluates("crd*", "tekap_crd*")
def crd(x: Case) -> Iterator[tuple[str, Any]]:
    """Steps on one pair of memory banks; whether the positive is relaxed is in what is contrasted."""
    tekap = x.name.startswith("tekap")
    spec = FeatureTekap(teachers=0)
    if tekap:
        spec = FeatureTekap(
            teachers=1, teacher_scale=x.feature_weight, noise_weight=x.noise_weight, noise_std=x.noise_std
        )
    method = crd_of(x, x.student_dim, x.teacher_dim)
    if not tekap:
        x.leave_out("settings of TeKAP, which the case is without", "feature_weight", "noise_weight", "noise_std")
    losses = []
    for step in range(x.length("losses")):
        student = of_embedding(x.at("student_features", step).requires_grad_())
        teacher = of_embedding(x.at("teacher_features", step))
        noise = x.at("noise", step).unsqueeze(0) if tekap else None
        augmented = Tekap(TekapSpec(feature=spec), lambda *_, noise=noise: noise).augment_features(teacher, step)
        method.zero_grad()
        losses.append(method.augmented_loss(student, teacher, augmented, batch_of(x.at("sample_index", step), step)))
        losses[-1].backward()
        yield f"grad_student_features_{step}", student.embedding.grad
        for side in SIDES:
            yield f"grad_embed_{side}_weight_{step}", getattr(method, f"project_{side}").linear.weight.grad
    yield "losses", losses
    for side in SIDES:
        yield f"memory_{side}_{len(losses)}", getattr(method.memory, side)
        yield f"normalizer_{side}", getattr(method.memory, f"normalizer_{side}")

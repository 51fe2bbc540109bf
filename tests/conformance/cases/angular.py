"""Angular-KD's learned views."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from conformance.cases.contrast import SIDES, crd_of
from conformance.inputs import batch_of, labelled, of_embedding
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.distill.angular import AngularSpec, AngularViews
from tekapctl.distill.methods.kd import kl
from tekapctl.models.network import Knowledge

Found = Iterator[tuple[str, Any]]
GENERATOR = "view_generator."


def views_of(x: Case, teacher: Knowledge, *, batch_statistics: bool) -> AngularViews:
    """Views with the case's parameters."""
    spec = AngularSpec(views=x.views, dropout=0.0, batch_statistics=batch_statistics)
    views = AngularViews(spec, teacher, x.temperature, seed=0)
    views.features[0].kept.fill_(1.0)
    for ours, part, name in parameters(views):
        if f"{GENERATOR}{part}.0.{name}" in x.tensors:
            theirs = torch.stack([x.tensors[f"{GENERATOR}{part}.{number}.{name}"] for number in range(x.views)])
            ours.data = theirs.reshape(ours.shape).clone()
    return views


def parameters(views: AngularViews) -> list[tuple[Tensor, str, str]]:
    """Ours, for all views together, with the published module and name."""
    maker = views.features[0]
    return [
        (maker.weight, "generators", "weight"),
        (maker.bias, "generators", "bias"),
        (maker.gain, "batch_norm", "weight"),
        (maker.shift, "batch_norm", "bias"),
        (maker.running_mean, "batch_norm", "running_mean"),
        (maker.running_var, "batch_norm", "running_var"),
        (views.classifiers, "classifiers", "weight"),
        (views.biases, "classifiers", "bias"),
    ]


def gradients_of(x: Case, views: AngularViews, label: str) -> Found:
    """Those that the case has, a tensor for each view."""
    for ours, part, name in parameters(views):
        for number, gradient in enumerate(ours.grad.reshape(x.views, -1) if ours.grad is not None else ()):
            key = f"grad_{label}.{GENERATOR}{part}.{number}.{name}"
            if key in x.tensors or key in x.scalars.get("sampled", {}):
                yield key, gradient.reshape(x.tensors[f"{GENERATOR}{part}.{number}.{name}"].shape)


@evaluates("angular_*")
def angular(x: Case) -> Found:
    teacher = Knowledge(x.teacher_logits, x.teacher_features)
    views = views_of(x, teacher, batch_statistics="batch_statistics" in x.name)
    said, loss = views(teacher, labelled(x.labels))
    yield "view_loss", loss
    loss.backward(retain_graph=True)
    yield from gradients_of(x, views, "views")
    views.zero_grad()
    student = x.student_logits.requires_grad_()
    target = views.logit_scale * (said.logits / x.temperature).softmax(1)
    yield "target", target
    yield "mean_features", said.embedding
    ours = views.logit_scale * kl(student, said.logits, x.temperature)
    ours.backward()
    yield "grad_student_0", student.grad
    yield from gradients_of(x, views, "kd")
    # The published loss has the entropy of the target as it is, whose sum is not 1: a constant more.
    yield "loss", ours + views.logit_scale * math.log(views.logit_scale) * x.temperature**2
    yield "loss_ce", x.ce_weight * F.cross_entropy(student, x.labels)


@evaluates("angular_crd")
def crd(x: Case) -> Found:
    """CRD with the mean of the teacher's features and its views'."""
    teacher = Knowledge(x.teacher_logits, x.teacher_features)
    views = views_of(x, teacher, batch_statistics=False)
    said, _ = views(teacher, labelled(x.labels))
    student = of_embedding(x.student_features.requires_grad_())
    method = crd_of(x, student.embedding.shape[1], teacher.embedding.shape[1])
    loss = x.feature_weight * method.loss(student, said, batch_of(x.sample_index))
    loss.backward()
    yield "loss", loss
    yield "grad_student_features", student.embedding.grad
    for side in SIDES:
        yield f"grad_embed_{side}_weight", getattr(method, f"project_{side}").linear.weight.grad
        yield f"memory_{side}_1", getattr(method.memory, side)
        yield f"normalizer_{side}", getattr(method.memory, f"normalizer_{side}")
    yield from gradients_of(x, views, "crd")
    logits = x.student_logits.requires_grad_()
    of_kd = views.logit_scale * kl(logits, said.logits.detach(), x.temperature)
    of_kd.backward()
    yield "grad_student_0", logits.grad
    yield "kd_loss", of_kd + views.logit_scale * math.log(views.logit_scale) * x.temperature**2

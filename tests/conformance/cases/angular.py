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
from tekapctl.distillation.angular import _SHARPNESS, AngularSpec, AngularViews, inter_angle, inter_product, intra_angle
from tekapctl.distillation.methods.losses import kl
from tekapctl.models.knowledge import Knowledge

Found = Iterator[tuple[str, Any]]
GENERATOR = "view_generator."


def views_of(x: Case, teacher: Knowledge, *, batch_statistics: bool) -> AngularViews:
    """Views with the case's parameters."""
    names = ("margin", "logit_inter_weight", "logit_intra_weight", "feature_inter_weight", "feature_intra_weight")
    weights = {name: getattr(x, name) for name in names if x.has(name)}
    weights |= {"view_weight": x.share_view} if x.has("share_view") else {}
    spec = AngularSpec(views=x.views, dropout=0.0, batch_statistics=batch_statistics, **weights)
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
    yield from shares_and_parts(x, views, teacher)
    said, loss = views(teacher, labelled(x.labels))
    yield "view_loss", loss
    loss.backward(retain_graph=True)
    yield from gradients_of(x, views, "views")
    views.zero_grad()
    student = x.student_logits.requires_grad_()
    target = views.logit_scale * (said.logits / x.temperature).softmax(1)
    yield "target", target
    yield "target_sum", target.sum(1).mean()
    yield "mean_features", said.embedding
    ours = x.kd_weight_used * views.logit_scale * kl(student, said.logits, x.temperature)
    ours.backward()
    yield "grad_student_0", student.grad
    yield from gradients_of(x, views, "kd")
    # The published loss has the entropy of the target as it is, whose sum is not 1: a constant more.
    constant = x.kd_weight_used * views.logit_scale * math.log(views.logit_scale) * x.temperature**2
    of_labels = x.ce_weight * F.cross_entropy(student, x.labels)
    yield "loss", ours + constant
    yield "loss_ce", of_labels
    yield "total_loss", ours + constant + of_labels + loss


def shares_and_parts(x: Case, views: AngularViews, teacher: Knowledge) -> Found:
    """The weights of the mean, the views, and the parts of their loss."""
    spec, shares = views.spec, views._weights
    yield "share_teacher", 1.0
    yield "view_ce_weight", spec.view_weight
    yield "contrast_temperature", _SHARPNESS
    yield "share_teacher_normalised", shares[0]
    yield "share_view_normalised", shares[1]
    chance = teacher.embedding.new_zeros(spec.views, *teacher.embedding.shape) if spec.batch_statistics else None
    features = views.features[0](teacher.embedding, chance)
    logits = views._classified(features)
    yield "view_features", features
    yield "view_logits", logits
    of_labels = F.cross_entropy(logits.flatten(0, 1), x.labels.repeat(spec.views))
    yield "view_ce_loss", spec.view_weight * spec.views * of_labels
    own, others = ((each / x.temperature).softmax(-1) for each in (teacher.logits, logits))
    yield "logit_inter_loss", spec.logit_inter_weight * inter_product(others, own, spec.margin)
    yield "logit_intra_loss", spec.logit_intra_weight * intra_angle(others, own)
    inter = inter_angle(features, teacher.embedding, spec.margin, over_views=True)
    yield "feature_inter_loss", spec.feature_inter_weight * inter
    yield "feature_intra_loss", spec.feature_intra_weight * intra_angle(features, teacher.embedding)
    near = {
        "features": F.cosine_similarity(features, teacher.embedding, dim=2) >= 1 - spec.margin,
        "logits": (others * own).sum(2) >= 1 - spec.margin,
    }
    counts = {name: int(each.sum()) for name, each in near.items()}
    counts |= {"of": near["logits"].numel(), "samples": len(own)}
    over_views = F.normalize(features, dim=0) * F.normalize(teacher.embedding, dim=1)
    near["features"] = over_views.sum(2) >= 1 - spec.margin  # as the published code normalises for this part
    counts |= {f"samples_with_{name[:-1]}_diversity": int(each.all(0).sum()) for name, each in near.items()}
    if counts != x.within_margin:
        raise ValueError(f"{counts} are within the margin, not {x.within_margin}")


@evaluates("angular_crd*")
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
    yield "loss_ce", x.get("ce_weight", 1.0) * F.cross_entropy(logits, x.labels)
    yield "kd_loss", of_kd + views.logit_scale * math.log(views.logit_scale) * x.temperature**2

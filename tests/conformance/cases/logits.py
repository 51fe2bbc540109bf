"""Losses of logits."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from conformance.inputs import built, labelled, of_logits
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.distillation.methods import Method, MethodSpec
from tekapctl.distillation.methods.dist import DISTSpec
from tekapctl.distillation.methods.dkd import DKDSpec
from tekapctl.distillation.methods.kd import KD
from tekapctl.distillation.methods.mlkd import MLKDSpec, of_classes, of_samples, unmasked_fraction
from tekapctl.distillation.objective import Distillation
from tekapctl.distillation.tekap import LogitTekap, Tekap, TekapSpec

Found = Iterator[tuple[str, Any]]
NONE = TekapSpec().without()


def no_noise(*_: object) -> torch.Tensor:
    raise AssertionError("nothing is augmented")


def labels_of(x: Case) -> torch.Tensor:
    return x.labels if x.has("labels") else torch.zeros(len(x.teacher_logits), dtype=torch.long)


def of_one_view(x: Case, method: Method) -> Found:
    """The loss of a method of logits, its gradient, and the cross-entropy beside it."""
    student, labels = x.student_logits.requires_grad_(), labels_of(x)
    batch = labelled(labels, step=x.get("epoch", 1) - 1)
    loss = x.get("warm_up_factor", 1.0) * method.loss(of_logits(student), of_logits(x.teacher_logits), batch)
    loss.backward()
    yield "loss", loss
    yield ("grad_student_0" if x.has("grad_student_0") else "grad_student"), student.grad
    if x.has("loss_ce"):
        yield "loss_ce", x.ce_weight * F.cross_entropy(student, labels)
    else:
        x.leave_out("the weight of the cross-entropy, which the case does not have", "ce_weight")


@evaluates("kl_*")
def kd(x: Case) -> Found:
    return of_one_view(x, KD(x.temperature))


@evaluates("tekap_kl_*")
def tekap_of_logits(x: Case) -> Found:
    spec = LogitTekap(
        teachers=len(x.noise),
        teacher_scale=x.logit_weight,
        noise_weight=x.noise_weight,
        loss_weight=x.augmented_loss_weight,
    )
    student, teacher = of_logits(x.student_logits.requires_grad_()), of_logits(x.teacher_logits)
    augmented = Tekap(TekapSpec(logit=spec), lambda *_: x.noise).augment_logits(teacher, step=0)
    loss = KD(x.temperature).augmented_loss(student, teacher, augmented, labelled(labels_of(x)))
    loss.backward()
    yield "loss", loss
    yield "grad_student", student.logits.grad


def of_case(x: Case, spec: MethodSpec, **more: Any) -> Method:
    """A method for a network with the case's logits."""
    return built(spec, of_logits(x.teacher_logits), **more)


def dkd_spec(x: Case, **more: Any) -> DKDSpec:
    return DKDSpec(target_weight=x.alpha, non_target_weight=x.beta, temperature=x.temperature, warmup_epochs=0, **more)


@evaluates("dkd*")
def dkd(x: Case) -> Found:
    return of_one_view(x, of_case(x, dkd_spec(x)))


@evaluates("dist*")
def dist(x: Case) -> Found:
    def of_weights(between: float, within: float) -> Method:
        return of_case(x, DISTSpec(between_weight=between, within_weight=within, temperature=x.temperature))

    yield from of_one_view(x, of_weights(x.beta, x.gamma))
    for name, weights in (("inter", (1.0, 0.0)), ("intra", (0.0, 1.0))):
        part = of_weights(*weights)
        yield name, part.loss(of_logits(x.student_logits), of_logits(x.teacher_logits), labelled(labels_of(x)))


@evaluates("logit_standardization_kd*", "ls_kd*", "ls_dkd*")
def standardized_logits(x: Case) -> Found:
    """Through the run's objective, which standardises."""
    method, weights = None, {"alpha": x.kd_weight if x.has("kd_weight") else 1.0, "beta": 0.0}
    if x.has("alpha"):
        method = of_case(x, dkd_spec(x))
        weights = {"alpha": 0.0, "beta": 1.0}
    gamma = x.ce_weight if x.has("ce_weight") else 0.0
    student = x.student_logits.requires_grad_()
    objective = Distillation(
        lambda _: of_logits(x.teacher_logits),
        Tekap(NONE, no_noise),
        method,
        gamma=gamma,
        temperature=x.temperature,
        standardize_logits=True,
        **weights,
    )
    parts = objective(of_logits(student), labelled(labels_of(x)))
    loss = x.get("warm_up_factor", 1.0) * parts["kd" if method is None else "method"]
    loss.backward()
    yield "loss", loss
    yield "grad_student_0", student.grad
    if x.has("loss_ce"):
        yield "loss_ce", parts["cross_entropy"]


@evaluates("mlkd*", "ls_mlkd*")
def mlkd(x: Case) -> Found:
    return of_two_views(x, MLKDSpec(), standardize=x.name.startswith("ls_"))


def of_two_views(x: Case, spec: MLKDSpec, *, standardize: bool) -> Found:
    """MLKD's loss at the case's temperatures, its gradients, and the cross-entropy beside it."""
    weak, strong = x.student_weak_logits.requires_grad_(), x.student_strong_logits.requires_grad_()
    every = tuple(x.temperatures)
    at = {"temperatures": every, "strong_temperatures": every[:3], "again_temperatures": every[3:]}
    method = built(spec.model_copy(update=at), of_logits(weak.detach()), standardize_logits=standardize)
    objective = Distillation(
        lambda _: of_logits(x.teacher_weak_logits, x.teacher_strong_logits),
        Tekap(NONE, no_noise),
        method,
        gamma=x.ce_weight,
        alpha=0.0,
        beta=x.kd_weight,
        temperature=4.0,
        standardize_logits=standardize,
    )
    parts = objective(of_logits(weak, strong), labelled(x.labels))
    loss = torch.stack(list(parts.values())).sum()
    loss.backward()
    yield "loss", loss
    yield "loss_ce", parts["cross_entropy"]
    relations = {}
    for name, part, count in (("loss_bc", of_samples, len(weak)), ("loss_cc", of_classes, weak.shape[1])):
        every_temperature = torch.stack([part(weak, x.teacher_weak_logits, each) for each in every])
        relations[name] = x.kd_weight * unmasked_fraction(count) * every_temperature.sum()
    if x.has("loss_kd"):
        yield from relations.items()
        yield "loss_kd", parts["method"] - sum(relations.values())
    yield "grad_student_weak", weak.grad
    yield "grad_student_strong", strong.grad

"""Losses of logits that weigh or mask samples and classes."""

import math

from conformance.cases.logits import NONE, Found, dkd_spec, no_noise, of_case, of_one_view, of_two_views
from conformance.inputs import labelled, of_logits
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.distillation.methods import Method
from tekapctl.distillation.methods.eakd import EAKDSpec
from tekapctl.distillation.methods.losses import entropy_weights
from tekapctl.distillation.methods.mlkd import MLKDSpec
from tekapctl.distillation.methods.rld import RLDSpec
from tekapctl.distillation.methods.wttm import WTTMSpec
from tekapctl.distillation.objective import Distillation
from tekapctl.distillation.tekap import Tekap

ENTROPY_TEMPERATURE = 3.0
"""Of the methods that take EA-KD's weights as an option."""


@evaluates("ttm*", "wttm*")
def wttm(x: Case) -> Found:
    return of_one_view(x, of_case(x, WTTMSpec(exponent=x.exponent, weighted=x.name.startswith("wttm"))))


@evaluates("rld*")
def rld(x: Case) -> Found:
    spec = RLDSpec(
        confidence_weight=x.alpha,
        correlation_weight=x.beta,
        confidence_temperature=x.alpha_temperature,
        temperature=x.temperature,
        warmup_epochs=0,
    )
    return of_one_view(x, of_case(x, spec))


@evaluates("ea_kd*")
def eakd(x: Case) -> Found:
    yield "weights", entropy_weights(x.student_logits, x.teacher_logits, x.entropy_temperature, x.entropy_bound)
    spec = EAKDSpec(temperature=x.temperature, entropy_temperature=x.entropy_temperature, entropy_bound=x.entropy_bound)
    yield from of_objective(x, of_case(x, spec), gamma=x.ce_weight, beta=x.kd_weight)


@evaluates("ea_dkd*")
def entropy_weighted_dkd(x: Case) -> Found:
    method = of_case(x, dkd_spec(x, entropy_weights=True, entropy_bound=x.entropy_bound))
    yield "entropy_temperature", ENTROPY_TEMPERATURE
    yield from of_objective(x, method, gamma=x.ce_weight, standardize_logits=x.standardised)


def of_objective(
    x: Case, method: Method, *, gamma: float, beta: float = 1.0, standardize_logits: bool = False
) -> Found:
    """The weighted loss of a method of logits, its gradient, and the cross-entropy, by the run's objective."""
    student = x.student_logits.requires_grad_()
    objective = Distillation(
        lambda _: of_logits(x.teacher_logits),
        Tekap(NONE, no_noise),
        method,
        gamma=gamma,
        alpha=0.0,
        beta=beta,
        temperature=4.0,
        standardize_logits=standardize_logits,
    )
    parts = objective(of_logits(student), labelled(x.labels))
    loss = x.get("warm_up_factor", 1.0) * parts["method"]
    loss.backward()
    yield "loss", loss
    yield "loss_ce", parts["cross_entropy"]
    yield "grad_student_0", student.grad


@evaluates("ea_mlkd*")
def entropy_weighted_mlkd(x: Case) -> Found:
    yield "entropy_temperature", ENTROPY_TEMPERATURE
    yield "entropy_bound", math.log(x.student_weak_logits.shape[1])
    yield from of_two_views(x, MLKDSpec(entropy_weights=True), standardize=bool(x.standardised))

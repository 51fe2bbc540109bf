"""Losses of logits that weigh or mask samples and classes."""

import math

from conformance.cases.logits import NONE, Found, no_noise, of_one_view, of_two_views
from conformance.inputs import labelled, of_logits
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.distillation.methods.dkd import DKD
from tekapctl.distillation.methods.eakd import EAKD, entropy_weights
from tekapctl.distillation.methods.method import Method, Warmup
from tekapctl.distillation.methods.mlkd import MLKDSpec
from tekapctl.distillation.methods.rld import RLD, RLDSpec
from tekapctl.distillation.methods.wttm import WTTM
from tekapctl.distillation.objective import Distillation
from tekapctl.distillation.tekap import Tekap
from tekapctl.models.network import Requires

ENTROPY_TEMPERATURE = 3.0
"""Of the methods that take EA-KD's weights as an option."""


@evaluates("ttm*", "wttm*")
def wttm(x: Case) -> Found:
    return of_one_view(x, WTTM(x.exponent, weighted=x.name.startswith("wttm")))


@evaluates("rld*")
def rld(x: Case) -> Found:
    spec = RLDSpec(
        confidence_weight=x.alpha,
        correlation_weight=x.beta,
        confidence_temperature=x.alpha_temperature,
        temperature=x.temperature,
    )
    return of_one_view(x, RLD(spec, Warmup(0, 1)))


@evaluates("ea_kd*")
def eakd(x: Case) -> Found:
    yield "weights", entropy_weights(x.student_logits, x.teacher_logits, x.entropy_temperature, x.entropy_bound)
    method = EAKD(x.temperature, x.entropy_temperature, x.entropy_bound)
    yield from of_objective(x, method, gamma=x.ce_weight, beta=x.kd_weight)


@evaluates("ea_dkd*")
def entropy_weighted_dkd(x: Case) -> Found:
    weighting = {"entropy_weights": True, "entropy_bound": x.entropy_bound}
    method = DKD(x.alpha, x.beta, x.temperature, Warmup(0, 1), **weighting)
    yield "entropy_temperature", ENTROPY_TEMPERATURE
    yield from of_objective(x, method, gamma=x.ce_weight, standardize_logits=x.standardised)


def of_objective(
    x: Case, method: Method, *, gamma: float, beta: float = 1.0, standardize_logits: bool = False
) -> Found:
    """The weighted loss of a method of logits, its gradient, and the cross-entropy, by the run's objective."""
    method.requires = Requires(logits=True)
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

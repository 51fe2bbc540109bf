"""Losses of logits that weigh or mask samples and classes."""

from conformance.cases.logits import Found, of_one_view
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.methods.method import WarmUp
from tekapctl.methods.rld import RLD, RLDSpec
from tekapctl.methods.wttm import WTTM


@evaluates("ttm", "wttm")
def wttm(x: Case) -> Found:
    return of_one_view(x, WTTM(x.exponent, weighted=x.name == "wttm"))


@evaluates("rld*")
def rld(x: Case) -> Found:
    spec = RLDSpec(
        confidence_weight=x.alpha,
        correlation_weight=x.beta,
        confidence_temperature=x.alpha_temperature,
        temperature=x.temperature,
    )
    return of_one_view(x, RLD(spec, WarmUp(0, 1)))

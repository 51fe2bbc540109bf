"""Losses of logits that weigh or mask samples and classes."""

from conformance.cases.logits import Found, of_one_view
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.methods.wttm import WTTM


@evaluates("ttm", "wttm")
def wttm(x: Case) -> Found:
    return of_one_view(x, WTTM(x.exponent, weighted=x.name == "wttm"))

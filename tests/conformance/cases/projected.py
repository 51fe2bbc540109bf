"""Losses of maps that a projector or connector makes comparable, and the optimal transport between classes."""

from collections.abc import Iterator
from typing import Any

import torch

from conformance.cases.maps import batch, built, gradients_of, gradients_to, load, own
from conformance.inputs import of_maps
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.methods.wkd_f import WKDFSpec, distances

Found = Iterator[tuple[Any, ...]]


@evaluates("wkd_f", "wkd_f_grid")
def wkd_f(x: Case) -> Found:
    ours, theirs = own(x, "student"), own(x, "teacher")
    spec = WKDFSpec(mean_weight=x.mean_cov_ratio, grid=x.grid)
    method = built(spec, of_maps(ours), of_maps(theirs))
    load(x, "connector", method.connector, str)
    with torch.no_grad():
        means, deviations = distances(method.connector(ours[0]), theirs[0], x.grid)
    yield "mean_loss", means
    yield "deviation_loss", deviations
    loss = x.weight * method.loss(of_maps(ours), of_maps(theirs), batch(ours))
    loss.backward()
    yield "loss", loss
    yield from gradients_to(ours)
    yield from gradients_of(x, "connector", method.connector, str)

"""The report's numbers are those of plain formulas, its figures hold whatever they are given, its page stands alone."""

from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tekapctl.report.drawing import (
    Interval,
    Line,
    Point,
    bars,
    heat,
    intervals,
    legend,
    lines,
    scatter,
)
from tekapctl.report.predictions import Predictions
from tekapctl.report.svg import COLOURS, ticks

VOID = {"meta", "br", "img"}
HOSTILE = "<script>alert('&')</script>\""


class Balanced(HTMLParser):
    """Sees to it that all elements are closed in order, and lists what a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [v for k, v in attrs if k in ("src", "href") and not v.startswith("data:")]

    def handle_startendtag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href") and not v.startswith("data:")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(html: str) -> Balanced:
    parser = Balanced()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    assert parser.fetched == []
    return parser


def said(images: int = 200, classes: int = 5, width: int = 8) -> Predictions:
    torch.manual_seed(0)
    labels = torch.arange(images) % classes
    logits = torch.randn(images, classes) + 2 * torch.nn.functional.one_hot(labels, classes)
    return Predictions(logits, torch.randn(images, width), labels, tuple(f"class {i}" for i in range(classes)))


def test_confusions_are_shares_of_each_class():
    found = said()
    for label in range(5):
        got = found.logits[found.labels == label].argmax(1)
        shares = [(got == other).double().mean().item() for other in range(5)]
        assert found.confusion[label].tolist() == pytest.approx(shares)


def test_correlations_are_numpys():
    found = said()
    expected = np.corrcoef(found.logits.double().numpy(), rowvar=False)
    assert np.allclose(found.correlation.numpy(), expected, atol=1e-10)


def test_the_plane_is_that_of_the_largest_variance():
    found = said(images=300)
    points, labels, share = found.plane(1000)
    centred = found.embeddings.double() - found.embeddings.double().mean(0)
    variances = torch.linalg.eigvalsh(centred.T @ centred).flip(0)
    assert points.square().sum(0).tolist() == pytest.approx(variances[:2].tolist())
    assert share == pytest.approx((variances[:2].sum() / variances.sum()).item())
    assert torch.equal(labels, found.labels)
    some, of_these, _ = found.plane(30)
    assert len(some) == 30
    assert torch.equal(of_these, found.labels[torch.arange(30) * 10])


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_inside(low, extent):
    found = ticks(low, low + extent)
    assert len(found) <= 12
    assert all(low - 1e-6 * extent <= tick <= low + extent * (1 + 1e-6) for tick in found)


def test_names_of_the_users_own_are_never_markup():
    line = Line(HOSTILE, [Point(1, 1.0, 0.5, 1.5), Point(2, 2.0, 1.5, 2.5)])
    square = torch.tensor([[0.5, -0.5], [0.1, 0.0]])
    drawn = [
        lines("loss", "nats", [line]),
        intervals("differences", [Interval(HOSTILE, 0.5, 0.1, 0.9), Interval("one pair", -0.1, None, None)]),
        bars("gains", [HOSTILE, "b"], [1.5, -0.5]),
        heat("confusion", square, [HOSTILE, "b"], most=1.0, percent=True),
        scatter("embeddings", torch.randn(4, 2), torch.tensor([0, 1, 0, 1]), [0, 1], [HOSTILE, "b"]),
        legend([HOSTILE]),
    ]
    for figure in drawn:
        parsed(figure)
        assert "<script" not in figure.lower()
    assert all(HOSTILE[:5] in "".join(parsed(figure).text) for figure in drawn)


@pytest.mark.parametrize("values", [[], [float("nan")], [3.0, 3.0, 3.0], [float("inf"), 1.0]])
def test_curves_of_odd_values_are_drawn_or_left_out(values):
    series = [Line("a", [Point(epoch, value, value, value) for epoch, value in enumerate(values, 1)])] if values else []
    drawn = lines("loss", "nats", series)
    parsed(drawn)
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_many_classes_become_a_picture_and_many_groups_differ_in_more_than_colour():
    drawn = heat("correlation", torch.randn(100, 100), [str(i) for i in range(100)], most=2.0)
    assert "data:image/png;base64," in drawn
    assert len(drawn) < 60_000
    names = [f"group {number}" for number in range(2 * len(COLOURS))]
    marks = [mark.split("</svg>")[0] for mark in legend(names).split("<svg")[1:]]
    assert len(set(marks)) == len(names)
    points = [mark.split("</svg>")[0] for mark in legend(names, points=True).split("<svg")[1:]]
    assert len(points) == len(names)
    assert set(points).isdisjoint(marks)


def test_a_curve_without_points_leaves_the_others_their_colours_and_the_legend_can_leave_it_out():
    none, some = Line("none", []), Line("some", [Point(at, at, at, at) for at in (1.0, 2.0)])
    drawn = lines("share", "percent", [none, some])
    assert "var(--c1)" in drawn
    assert "var(--c0)" not in drawn
    assert lines("share", "percent", [none]) == ""
    words = legend(["none", "some"], only={"some"})
    assert "var(--c1)" in words
    assert "none</li>" not in words

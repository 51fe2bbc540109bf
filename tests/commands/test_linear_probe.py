"""Linear probes find what can be found, and no more."""

import torch
from torch.nn import functional as F

from tekapctl.commands.robustness import fit


def data(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = torch.randn(3, 6, generator=source) * 2
    return centres[labels] + noise * torch.randn(300, 6, generator=source), labels


def test_what_is_separable_is_separated():
    features, labels = data(0.1)
    weights = fit(features, labels, 3, 1e-4)
    assert (F.linear(features, weights[:, :-1], weights[:, -1]).argmax(1) == labels).all()


def test_the_gradient_at_the_solution_is_zero():
    features, labels = data(2.0)
    weights = fit(features.double(), labels, 3, 0.1)
    probabilities = F.linear(features.double(), weights[:, :-1], weights[:, -1]).softmax(1) - F.one_hot(labels, 3)
    gradient = probabilities.T @ features.double() / 300 + 0.1 * weights[:, :-1]
    assert gradient.abs().max() < 1e-4
    assert probabilities.mean(0).abs().max() < 1e-4

"""Augmented teachers: what they say, and which controls are settings."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from tekapctl.knowledge import Knowledge
from tekapctl.tekap import FeatureTekap, LogitTekap, SeededNoise, Tekap, TekapSpec, perturb

CPU = torch.device("cpu")


def teacher(batch: int = 4, classes: int = 5, width: int = 6) -> Knowledge:
    torch.manual_seed(0)
    stages = (torch.randn(batch, 2, 3, 3), torch.randn(batch, 4, 2, 2))
    return Knowledge(logits=torch.randn(batch, classes), embedding=torch.randn(batch, width), stages=stages)


def tekap(**settings) -> Tekap:
    spec = TekapSpec(**settings)
    return Tekap(spec, SeededNoise(spec, seed=3))


@given(st.floats(0, 2), st.floats(0, 2), st.floats(0, 2), st.integers(1, 5))
def test_an_augmented_teacher_is_a_share_of_the_teacher_plus_weighted_noise(share, weight, deviation, teachers):
    spec = LogitTekap(teachers=teachers, teacher_share=share, noise_weight=weight, noise_deviation=deviation)
    z, noise = torch.randn(3, 4), torch.randn(teachers, 3, 4)
    assert_close(perturb(spec, z, noise), share * z + weight * deviation * noise)


def test_without_noise_and_shrink_the_augmented_teachers_are_the_teacher():
    same = LogitTekap(teachers=2, teacher_share=1, noise_weight=0)
    for augmented in tekap(logit=same).augment_logits(teacher(), step=0):
        assert_close(augmented.logits, teacher().logits)


def test_no_augmented_teachers_leaves_nothing_to_iterate():
    nothing = tekap(**dict(TekapSpec().without()))
    assert len(list(nothing.augment_logits(teacher(), 0))) == 0
    assert len(list(nothing.augment_features(teacher(), 0))) == 0


def test_levels_touch_only_their_own_knowledge():
    at_logits = next(iter(tekap().augment_logits(teacher(), 0)))
    at_features = next(iter(tekap().augment_features(teacher(), 0)))
    assert torch.equal(at_logits.embedding, teacher().embedding)
    assert not torch.equal(at_logits.logits, teacher().logits)
    assert torch.equal(at_features.logits, teacher().logits)
    assert not torch.equal(at_features.embedding, teacher().embedding)
    assert not torch.equal(at_features.stages[1], teacher().stages[1])


def test_noise_depends_on_seed_step_and_level_and_on_nothing_else():
    spec = TekapSpec()

    def draw(seed: int, level, step: int) -> torch.Tensor:
        return SeededNoise(spec, seed)((2, 3), level, step, CPU)

    assert torch.equal(draw(1, "logit", 5), draw(1, "logit", 5))
    others = [draw(2, "logit", 5), draw(1, "feature", 5), draw(1, "logit", 6)]
    assert not any(torch.equal(draw(1, "logit", 5), other) for other in others)


def test_the_embeddings_noise_does_not_depend_on_whether_stages_were_asked_for():
    full = teacher()
    bare = Knowledge(logits=full.logits, embedding=full.embedding)
    spec = TekapSpec()
    noise = SeededNoise(spec, 0)
    augmented = [Tekap(spec, noise).augment_features(k, 0).embeddings for k in (full, bare)]
    assert augmented[0].shape == augmented[1].shape


@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_noise_has_mean_zero_and_variance_one(distribution):
    spec = TekapSpec(logit=LogitTekap(distribution=distribution))
    noise = SeededNoise(spec, 0)((1, 1, 200_000), "logit", 0, CPU)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.var() - 1) < 0.02
    if distribution == "uniform":
        assert noise.abs().max() <= 3**0.5


def test_the_published_settings_are_the_defaults():
    logit, feature = LogitTekap(), FeatureTekap()
    assert (logit.teachers, logit.teacher_share, logit.noise_weight, logit.noise_deviation) == (3, 0.9, 0.1, 1.0)
    assert logit.loss_weight == 0.8
    assert (feature.teachers, feature.teacher_share, feature.noise_weight, feature.noise_deviation) == (
        1,
        0.9,
        0.1,
        0.1,
    )
    assert feature.loss_weight == 1.0

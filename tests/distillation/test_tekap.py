"""Augmented teachers: what they say, and which controls are settings."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from tekapctl.distillation.tekap import FeatureTekap, LogitTekap, SeededNoise, Tekap, TekapSpec, perturb
from tekapctl.models.knowledge import Knowledge

CPU = torch.device("cpu")


def teacher(batch: int = 4, classes: int = 5, width: int = 6) -> Knowledge:
    torch.manual_seed(0)
    feature_maps = (torch.randn(batch, 2, 3, 3), torch.randn(batch, 4, 2, 2))
    return Knowledge(logits=torch.randn(batch, classes), embedding=torch.randn(batch, width), feature_maps=feature_maps)


def tekap(**settings) -> Tekap:
    spec = TekapSpec(**settings)
    return Tekap(spec, SeededNoise(spec, seed=3))


@given(st.floats(0, 2), st.floats(0, 2), st.floats(0, 2), st.integers(1, 5))
def test_an_augmented_teacher_is_a_share_of_the_teacher_plus_weighted_noise(share, weight, deviation, teachers):
    spec = LogitTekap(teachers=teachers, teacher_scale=share, noise_weight=weight, noise_std=deviation)
    z, noise = torch.randn(3, 4), torch.randn(teachers, 3, 4)
    assert_close(perturb(spec, z, noise), share * z + weight * deviation * noise)


def test_without_noise_and_shrink_the_augmented_teachers_are_the_teacher():
    same = LogitTekap(teachers=2, teacher_scale=1, noise_weight=0)
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
    assert not torch.equal(at_features.feature_maps[1], teacher().feature_maps[1])


def test_noise_depends_on_seed_step_and_what_it_is_added_to_and_on_nothing_else():
    spec = TekapSpec()

    def draw(seed: int, to: str, step: int) -> torch.Tensor:
        return SeededNoise(spec, seed)((2, 3), to, step, CPU)

    assert torch.equal(draw(1, "logits", 5), draw(1, "logits", 5))
    others = [draw(2, "logits", 5), draw(1, "embedding", 5), draw(1, "logits", 6), draw(1, "feature map 0", 5)]
    assert not any(torch.equal(draw(1, "logits", 5), other) for other in others)


def test_the_noise_of_a_map_does_not_depend_on_which_others_were_asked_for():
    full = replace(teacher(), preactivations=teacher().feature_maps)
    parts = [
        replace(full, feature_maps=(), preactivations=()),
        replace(full, preactivations=()),
        replace(full, feature_maps=()),
    ]
    whole = tekap().augment_features(full, 0)
    for part in parts:
        found = tekap().augment_features(part, 0)
        assert torch.equal(found.embeddings, whole.embeddings)
        assert len(found.feature_maps) == len(part.feature_maps)
        assert all(map(torch.equal, found.feature_maps, whole.feature_maps))
        assert len(found.preactivations) == len(part.preactivations)
        assert all(map(torch.equal, found.preactivations, whole.preactivations))
    assert not torch.equal(whole.feature_maps[0], whole.preactivations[0])


@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_noise_has_mean_zero_and_variance_one(distribution):
    spec = TekapSpec(logit=LogitTekap(distribution=distribution))
    noise = SeededNoise(spec, 0)((1, 1, 200_000), "logits", 0, CPU)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.var() - 1) < 0.02
    if distribution == "uniform":
        assert noise.abs().max() <= 3**0.5


def test_the_published_settings_are_the_defaults():
    logit, feature = LogitTekap(), FeatureTekap()
    assert (logit.teachers, logit.teacher_scale, logit.noise_weight, logit.noise_std) == (3, 0.9, 0.1, 1.0)
    assert logit.loss_weight == 0.8
    assert (feature.teachers, feature.teacher_scale, feature.noise_weight, feature.noise_std) == (
        1,
        0.9,
        0.1,
        0.1,
    )
    assert feature.loss_weight == 1.0

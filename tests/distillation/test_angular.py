"""Angular-KD: its losses are the paper's, its views are a teacher's, and they are trained with the student."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from conformance.inputs import batch_of
from tekapctl.distillation.angular import AngularSpec, AngularViews, FeatureViews, inter_angle, intra_angle
from tekapctl.distillation.methods.losses import kl
from tekapctl.distillation.objective import Distillation
from tekapctl.distillation.tekap import SeededNoise, Tekap, TekapSpec
from tekapctl.distributed.shard import BatchShard
from tekapctl.errors import UsageError
from tekapctl.models.knowledge import Knowledge
from tekapctl.spec import parse

BATCH, WIDTH, CLASSES = 6, 8, 4
NONE = TekapSpec().without()


def random(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def teacher(**more) -> Knowledge:
    return Knowledge(random(BATCH, CLASSES, seed=1, dtype=torch.float32), random(BATCH, WIDTH).float(), **more)


def batch(step: int = 0):
    return batch_of(torch.arange(BATCH), step, labels=torch.arange(BATCH) % CLASSES)


def views(spec: AngularSpec, of: Knowledge) -> AngularViews:
    return AngularViews(spec, of, 4.0, seed=0)


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


@pytest.mark.parametrize("spread", [0.05, 0.5, 3.0])
def test_the_inter_angle_loss_keeps_views_near_and_apart(spread):
    own = random(BATCH, WIDTH)
    seen = own + spread * random(3, BATCH, WIDTH, seed=1)
    expected = 0.0
    for n in range(BATCH):
        for v in range(3):
            cosines = [cosine(seen[v, n].tolist(), own[k].tolist()) for k in range(BATCH)]
            cosines[n] = 1.0 if cosines[n] >= 0.8 else cosines[n]
            contrast = math.log(sum(math.exp(c / 0.07) for c in cosines)) - cosines[n] / 0.07
            expected += contrast / (3 * BATCH) / 3
        if all(cosine(seen[v, n].tolist(), own[n].tolist()) >= 0.8 for v in range(3)):
            pairs = [(v, u) for v in range(3) for u in range(3) if v != u]
            apart = sum(softplus(cosine(seen[v, n].tolist(), seen[u, n].tolist())) for v, u in pairs)
            expected += apart / (3 * 2 * BATCH)
    assert inter_angle(seen, own, 0.2).item() == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda z: inter_angle(z, own, 0.2), seen.requires_grad_())


def test_the_intra_angle_loss_is_of_the_directions_from_the_views_to_the_teacher():
    own, seen = random(BATCH, WIDTH), random(3, BATCH, WIDTH, seed=1)
    expected = 0.0
    for v in range(3):
        for u in range(3):
            if u != v:
                directions = [[(own[n] - seen[w, n]).tolist() for n in range(BATCH)] for w in (v, u)]
                expected += softplus(sum(cosine(a, b) for a, b in zip(*directions, strict=True)) / BATCH) / 6
    assert intra_angle(seen, own).item() == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda z: intra_angle(z, own), seen.requires_grad_())


def test_the_views_of_a_feature_are_dropout_a_linear_map_and_normalisation():
    torch.manual_seed(0)
    module, feature = FeatureViews(WIDTH, AngularSpec(views=3)), random(BATCH, WIDTH).float()
    chance = torch.rand(3, BATCH, WIDTH)
    found = module(feature, chance)
    for v, dropout in enumerate((0.15, 0.2, 0.25)):
        kept = feature * (chance[v] < 1 - dropout) / (1 - dropout)
        mapped = kept @ module.weight[v].T + module.bias[v]
        gain, shift = (each.view(3, WIDTH)[v] for each in (module.gain, module.shift))
        assert_close(found[v], F.batch_norm(mapped, None, None, gain, shift, training=True))


def test_rows_of_one_number_are_orthogonal_between_views():
    weight = FeatureViews(WIDTH, AngularSpec(views=5)).weight
    products = torch.einsum("voc,uoc->ovu", weight, weight)
    assert_close(products, torch.eye(5).expand(WIDTH, 5, 5), atol=1e-5, rtol=0)


def test_a_map_is_seen_like_an_embedding_at_each_of_its_places():
    torch.manual_seed(0)
    module = FeatureViews(WIDTH, AngularSpec(views=2))
    flat, chance = random(BATCH, WIDTH).float(), torch.rand(2, BATCH, WIDTH)
    spread = flat.view(BATCH, WIDTH, 1, 1).expand(-1, -1, 3, 2)
    assert_close(module(spread, chance), module(flat, chance)[..., None, None].expand(-1, -1, -1, 3, 2))


def test_the_student_learns_the_weighted_mean_of_all_probabilities_and_features():
    own = teacher()
    said, _ = views(AngularSpec(views=3), own)(own, batch())
    total = (said.logits / 4).exp().sum(1)
    assert_close(total, torch.ones(BATCH), msg="a mean of probabilities sums to 1 without another softmax")
    only = views(AngularSpec(views=3, view_weight=0.0), own)(own, batch())[0]
    assert_close((only.logits / 4).softmax(1), (own.logits / 4).softmax(1))
    assert_close(only.embedding, own.embedding)


def test_views_depend_on_seed_and_step_alone():
    own = teacher()
    first, again = (views(AngularSpec(views=2, batch_statistics=True), own) for _ in range(2))
    torch.rand(5)
    assert torch.equal(first(own, batch(3))[0].embedding, again(own, batch(3))[0].embedding)
    assert not torch.equal(first(own, batch(3))[0].embedding, again(own, batch(4))[0].embedding)


def test_a_last_batch_of_one_image_is_seen_too():
    module, one = views(AngularSpec(views=2), teacher()), teacher()
    alone = Knowledge(one.logits[:1], one.embedding[:1])
    said, loss = module(alone, batch_of(torch.zeros(1, dtype=torch.long)))
    assert said.embedding.isfinite().all()
    assert loss.isfinite()


@pytest.mark.parametrize("trained", [True, False])
def test_views_learn_from_the_distillation_loss_only_where_that_is_asked_for(trained):
    own = teacher()
    module = views(AngularSpec(views=2, trained_by_distillation=trained), own)
    said, _ = module(own, batch())
    student = random(BATCH, CLASSES, seed=5, dtype=torch.float32).requires_grad_()
    kl(student, said.logits, 4.0).backward()
    assert student.grad.abs().sum() > 0
    assert (module.classifiers.grad is not None and module.classifiers.grad.abs().sum() > 0) == trained


def test_training_the_views_makes_them_classify_and_point_apart():
    own, spec = teacher(), AngularSpec(views=3)
    module = views(spec, own)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(60):
        _, loss = module(own, batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_both_views_of_an_image_have_views_of_the_teacher():
    own = teacher(strong=replace(teacher(), embedding=random(BATCH, WIDTH, seed=7).float()))
    said, loss = views(AngularSpec(views=2), own)(own, batch())
    assert said.strong is not None
    assert not torch.equal(said.strong.embedding, own.strong.embedding)
    assert loss.isfinite()


def test_the_objective_has_a_part_for_the_views():
    own = teacher()
    objective = Distillation(
        lambda _: own,
        Tekap(NONE, SeededNoise(NONE, 0)),
        None,
        gamma=0.1,
        alpha=0.9,
        beta=0.0,
        temperature=4.0,
        views=views(AngularSpec(views=2), own),
    )
    parts = objective(teacher(), batch())
    assert set(parts) == {"cross_entropy", "kd", "views"}
    assert {name.split(".")[0] for name, _ in objective.named_parameters()} == {"views"}


def test_pretraining_trains_the_views_alone_and_finds_their_statistics():
    own = teacher()
    made = views(AngularSpec(views=2, pretrain_epochs=3), own)
    objective = Distillation(
        lambda _: own,
        Tekap(NONE, SeededNoise(NONE, 0)),
        None,
        gamma=1.0,
        alpha=1.0,
        beta=0.0,
        temperature=4.0,
        views=made,
    )
    objective.init_stage = True
    before = made.features[0].running_mean.clone()
    assert set(objective(teacher(), batch())) == {"init"}
    assert objective.needs_teacher
    assert not objective.trains_learner
    assert not torch.equal(made.features[0].running_mean, before)


def test_the_rate_of_pretraining_falls_after_each_third():
    spec = parse({"method": "kd", "angular": {"views": 5, "pretrain_epochs": 30}})
    assert spec.init_epochs == 30
    assert [spec.init_lr(epoch) for epoch in (0, 9, 10, 29)] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    with pytest.raises(UsageError, match="ab has an init stage"):
        parse({"method": "ab", "angular": {"views": 5, "pretrain_epochs": 30}})


def test_more_views_than_channels_are_refused():
    with pytest.raises(UsageError, match="9 orthogonal views do not fit into a teacher's feature of 8 channels"):
        views(AngularSpec(views=9), teacher())


def test_a_spec_has_learned_views_or_noise():
    assert parse({"angular": {"views": 5}}).tekap == NONE
    with pytest.raises(UsageError, match="learned views replace TeKAP's noise"):
        parse({"angular": {"views": 5}, "tekap": {"logit": {"teachers": 3}}})


def test_parts_of_a_step_have_dropout_of_their_own():
    spec = AngularSpec(views=2, dropout=0.5, batch_statistics=True)
    first, second = batch(), replace(batch(), shard=BatchShard(offset=BATCH))
    seen = [views(spec, teacher())(teacher(), each)[0].logits for each in (first, first, second)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])

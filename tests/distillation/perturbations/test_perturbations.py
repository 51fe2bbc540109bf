"""What augmented logits deviate by: each perturbation against its formula in float64, and all of the same size."""

import itertools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tekapctl.data.batch import Batch
from tekapctl.distillation.methods.losses import kl_of_many, standardized
from tekapctl.distillation.objective import Distillation
from tekapctl.distillation.perturbations import (
    HALF_WIDTH,
    PERTURBATIONS,
    LogitPerturbation,
    PerturbationContext,
    TeacherStatistics,
)
from tekapctl.distillation.tekap import LogitTekap, SeededNoise, Tekap, TekapSpec, perturb
from tekapctl.errors import UsageError
from tekapctl.models.knowledge import Knowledge
from tekapctl.spec import StudentSpec, parse

CPU = torch.device("cpu")
IMAGES, CLASSES, WIDTH = 90, 5, 8
DROPOUT = 0.3
OTHERS = [name for name in PERTURBATIONS.names() if name != "isotropic"]


@pytest.fixture
def head() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(WIDTH, CLASSES)


@pytest.fixture
def labels() -> torch.Tensor:
    """Classes of different sizes, in no order; the smallest has two images."""
    sizes = torch.tensor([40, 25, 15, 8, 2])
    return torch.arange(CLASSES).repeat_interleave(sizes)[torch.randperm(IMAGES, generator=source(2))]


@pytest.fixture
def teacher(head, labels) -> Knowledge:
    """What the teacher says of all training images; each class has a middle of its own."""
    random = source(3)
    middles = torch.randn(CLASSES, WIDTH, generator=random)
    embedding = 3 * (middles[labels] + 0.5 * torch.randn(IMAGES, WIDTH, generator=random)).relu()
    with torch.no_grad():
        return Knowledge(logits=head(embedding), embedding=embedding)


@pytest.fixture
def basis(head, teacher, labels) -> PerturbationContext:
    squares = teacher.embedding.double().square().mean(0)
    return PerturbationContext(head, CPU, DROPOUT, lambda: TeacherStatistics(teacher.logits.double(), labels, squares))


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spec_of(name: str, **settings) -> TekapSpec:
    return TekapSpec(logit=LogitTekap(perturbation=name, dropout=DROPOUT, **settings))


def tekap(name: str, basis: PerturbationContext, **settings) -> Tekap:
    spec = spec_of(name, **settings)
    return Tekap(spec, SeededNoise(spec, 0), PERTURBATIONS[name](basis))


def deviations(name: str, basis: PerturbationContext, teacher: Knowledge, labels, teachers: int) -> torch.Tensor:
    """The deviations alone, of augmented teachers with a `teacher_scale` of 0."""
    alone = tekap(name, basis, teachers=teachers, teacher_scale=0, noise_weight=1)
    return alone.augment_logits(teacher, 0, 0, labels).logits


def made(name: str, basis: PerturbationContext) -> LogitPerturbation:
    return PERTURBATIONS[name](basis)


@pytest.mark.parametrize("name", PERTURBATIONS.names())
def test_its_root_mean_square_over_the_training_images_is_one(name, basis, teacher, labels):
    found = deviations(name, basis, teacher, labels, teachers=4000)
    assert found.square().mean().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", PERTURBATIONS.names())
def test_its_mean_over_the_training_images_is_zero(name, basis, teacher, labels):
    found = deviations(name, basis, teacher, labels, teachers=4000)
    assert found.mean((0, 1)).abs().max() < 0.03


@pytest.mark.parametrize("name", OTHERS)
def test_each_perturbation_is_another(name, basis, teacher, labels):
    settings = {"basis": basis, "teacher": teacher, "labels": labels, "teachers": 2}
    assert not any(
        torch.allclose(deviations(name, **settings), deviations(other, **settings))
        for other in PERTURBATIONS.names()
        if other != name
    )


def overall(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.cov(logits.T, correction=0)


def within_classes(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The classes' own covariances, weighted by their sizes."""
    shares = [(labels == label).double().mean() for label in range(CLASSES)]
    return sum(
        share * torch.cov(logits[labels == label].T, correction=0)
        for label, share in zip(range(CLASSES), shares, strict=True)
    )


@pytest.mark.parametrize(("name", "covariance"), [("covariance", overall), ("class-covariance", within_classes)])
def test_the_covariance_of_the_noise_is_the_teachers_at_a_mean_variance_of_one(
    name, covariance, basis, teacher, labels
):
    expected = covariance(teacher.logits.double(), labels)
    expected = expected * CLASSES / expected.trace()
    # Rows whose mean square is exactly the identity stand in for all draws.
    white = (CLASSES**0.5 * torch.eye(CLASSES)).unsqueeze(0)
    some = Knowledge(teacher.logits[:CLASSES], teacher.embedding[:CLASSES])
    drawn = made(name, basis).sample(some, None, white)[0].double()
    assert_close(drawn.T @ drawn / CLASSES, expected, rtol=1e-4, atol=1e-5)


def test_logits_that_vary_in_a_plane_are_perturbed_within_it(basis, teacher, labels):
    """A covariance need not have full rank."""
    plane = torch.randn(2, CLASSES, generator=source(4), dtype=torch.float64)
    logits = torch.randn(IMAGES, 2, generator=source(5), dtype=torch.float64) @ plane
    flat = PerturbationContext(
        basis.classifier, CPU, DROPOUT, lambda: TeacherStatistics(logits, labels, torch.ones(WIDTH).double())
    )
    found = deviations("covariance", flat, teacher, labels, teachers=2)[0].double()
    outside = found - found @ torch.linalg.pinv(plane) @ plane
    assert outside.abs().max() < 1e-5
    assert found.square().mean() > 0.1


def test_relative_noise_is_that_of_noisy_teachers(basis, teacher):
    noise = torch.randn(3, len(teacher.logits), CLASSES, generator=torch.Generator().manual_seed(0))
    size = basis.statistics().logits.square().mean().sqrt().float()
    spec = spec_of("relative", teachers=3, teacher_scale=1.0, noise_weight=0.2).logit
    augmented = perturb(spec, teacher.logits, made("relative", basis).sample(teacher, None, noise))
    torch.testing.assert_close(augmented, (1 + 0.2 / size * noise) * teacher.logits)


def test_temperature_is_exactly_another_temperature(basis, teacher, labels):
    noise = torch.randn(3, IMAGES, 1, generator=source(6))
    spec = spec_of("temperature", teachers=3).logit
    augmented = perturb(spec, teacher.logits, made("temperature", basis).sample(teacher, labels, noise))
    z = teacher.logits.double()
    size = (z - z.mean(1, keepdim=True)).square().mean().sqrt()
    inverse = (spec.teacher_scale + spec.noise_weight * spec.noise_std * noise.double() / size) / 4
    assert_close((augmented.double() / 4).softmax(2), (z * inverse).softmax(2), rtol=1e-4, atol=1e-6)
    assert (inverse > 0).all()
    assert torch.equal(augmented.argsort(2), z.float().argsort(1).expand_as(augmented))


def test_dropouts_scale_is_that_of_all_masks(basis, teacher, head):
    said = head(teacher.embedding).double()
    mean_square = 0.0
    for mask in itertools.product((0.0, 1.0), repeat=WIDTH):
        chance = (1 - DROPOUT) ** sum(mask) * DROPOUT ** (WIDTH - sum(mask))
        without = head(teacher.embedding * torch.tensor(mask) / (1 - DROPOUT)).double()
        mean_square += chance * (without - said).square().mean().item()
    rows = made("dropout", basis).rows
    assert_close(rows * mean_square**0.5, head.weight.T, rtol=1e-4, atol=1e-6)


def test_dropout_is_what_the_classifier_says_of_what_is_left(basis, teacher, labels, head):
    noise = HALF_WIDTH * (2 * torch.rand(2, IMAGES, WIDTH, generator=source(7)) - 1)
    kept = (noise / (2 * HALF_WIDTH) + 0.5 >= DROPOUT).float()
    change = head(kept * teacher.embedding / (1 - DROPOUT)) - head(teacher.embedding)
    found = made("dropout", basis).sample(teacher, labels, noise)
    scale = (head.weight.T / made("dropout", basis).rows)[0, 0]
    assert_close(found * scale, change.detach(), rtol=1e-4, atol=1e-5)
    assert kept.mean().item() == pytest.approx(1 - DROPOUT, abs=0.03)


def test_mixing_leads_to_images_of_the_same_class_and_to_all_of_them(basis, teacher, labels):
    logits = teacher.logits.double()
    size = (2 * within_classes(logits, labels).diagonal().mean()).sqrt()
    mixed = logits + size * deviations("mixing", basis, teacher, labels, teachers=400).double()
    for label in range(CLASSES):
        theirs = logits[labels == label]
        distances = torch.cdist(mixed[:, labels == label].flatten(0, 1), theirs)
        assert distances.amin(1).max() < 1e-4
        assert set(distances.argmin(1).tolist()) == set(range(len(theirs)))


@pytest.mark.parametrize("end", [-HALF_WIDTH, HALF_WIDTH])
def test_mixing_stays_within_the_class_at_the_ends_of_the_draw(end, basis, teacher, labels):
    found = made("mixing", basis).sample(teacher, labels, torch.full((1, IMAGES, 1), end))[0]
    for label in range(CLASSES):
        members = (labels == label).nonzero().flatten()
        partner = members[0 if end < 0 else -1]
        way = teacher.logits[partner] - teacher.logits[members]
        cosines = nn.functional.cosine_similarity(found[members], way, dim=1)
        assert (cosines[way.abs().sum(1) > 0] > 0.999).all()


def test_mixing_leaves_a_class_of_which_no_image_was_surveyed(basis, teacher, labels):
    seen = labels != 4
    some = TeacherStatistics(teacher.logits[seen].double(), labels[seen], torch.ones(WIDTH).double())
    few = PerturbationContext(basis.classifier, CPU, DROPOUT, lambda: some)
    found = deviations("mixing", few, teacher, labels, teachers=3)
    assert (found[:, ~seen] == 0).all()
    assert (found[:, seen] != 0).any(2).float().mean() > 0.8


def strongly(knowledge: Knowledge) -> Knowledge:
    strong = Knowledge(knowledge.logits.flip(0), knowledge.embedding.flip(0))
    return Knowledge(knowledge.logits, knowledge.embedding, strong=strong)


def rows(knowledge: Knowledge, chosen: slice) -> Knowledge:
    strong = None if knowledge.strong is None else rows(knowledge.strong, chosen)
    return Knowledge(knowledge.logits[chosen], knowledge.embedding[chosen], strong=strong)


@pytest.mark.parametrize("name", PERTURBATIONS.names())
@pytest.mark.parametrize("first", [0, 3, 64, 70])
def test_a_share_of_a_batch_is_perturbed_as_within_the_whole(name, first, basis, teacher, labels):
    own, both = slice(first, first + 20), strongly(teacher)
    perturbed = tekap(name, basis)
    whole = perturbed.augment_logits(both, 5, 0, labels)
    share = perturbed.augment_logits(rows(both, own), 5, first, labels[own])
    assert_close(share.logits, whole.logits[:, own])
    assert_close(share.strong_logits, whole.strong_logits[:, own])


@pytest.mark.parametrize("name", OTHERS)
def test_the_strong_view_is_perturbed_by_draws_of_its_own(name, basis, teacher, labels):
    same = Knowledge(teacher.logits, teacher.embedding, strong=teacher)
    augmented = tekap(name, basis).augment_logits(same, 0, 0, labels)
    assert augmented.logits.shape == augmented.strong_logits.shape
    assert not torch.allclose(augmented.logits, augmented.strong_logits)


@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_isotropic_noise_is_to_the_bit_what_it_was(distribution, teacher):
    """One draw for both views, weighted and added."""

    def unasked() -> TeacherStatistics:
        raise AssertionError("isotropic noise needs no statistics")

    basis = PerturbationContext(nn.Identity(), CPU, 0.1, unasked)
    both = strongly(teacher)
    perturbed = tekap("isotropic", basis, distribution=distribution)
    for knowledge, shown in ((teacher, teacher.logits), (both, torch.cat([both.logits, both.strong.logits], dim=1))):
        noise = SeededNoise(perturbed.spec, 0)((3, *shown.shape), "logits", 7, CPU, 0)
        expected = torch.add((shown.float() * 0.9).unsqueeze(0), noise, alpha=0.1)
        found = perturbed.augment_logits(knowledge, 7)
        views = [found.logits] if found.strong_logits is None else [found.logits, found.strong_logits]
        assert torch.equal(torch.cat(views, dim=2), expected)


@pytest.mark.parametrize("name", OTHERS)
def test_logits_are_standardised_after_they_are_perturbed(name, basis, teacher, labels):
    index = torch.arange(IMAGES)
    batch = Batch(torch.zeros(IMAGES, 1, 1, 1), labels, index, index, index, 0)
    made = tekap(name, basis)
    objective = Distillation(
        lambda _: teacher,
        made,
        None,
        gamma=0.0,
        alpha=1.0,
        beta=0.0,
        temperature=4.0,
        standardize_logits=True,
    )
    student = teacher.logits.flip(1)
    augmented = made.augment_logits(teacher, 0, 0, labels)
    seen = [standardized(logits) for logits in (student, teacher.logits, augmented.logits)]
    expected = kl_of_many(*seen, augmented.spec.loss_weight, 4.0)
    assert_close(objective(Knowledge(student, teacher.embedding), batch)["kd"], expected)


def with_logits(logits: torch.Tensor, labels: torch.Tensor, head: nn.Module) -> PerturbationContext:
    return PerturbationContext(
        head, CPU, DROPOUT, lambda: TeacherStatistics(logits.double(), labels, torch.zeros(WIDTH).double())
    )


@pytest.mark.parametrize(
    ("name", "logits", "said"),
    [
        ("covariance", torch.ones(6, CLASSES), "do not vary over the training images"),
        ("covariance", torch.full((6, CLASSES), torch.nan), "do not vary"),
        ("class-covariance", torch.eye(CLASSES), "of any one class"),
        ("mixing", torch.eye(CLASSES), "of any one class"),
        ("temperature", torch.ones(6, CLASSES), "same for all classes"),
        ("relative", torch.zeros(6, CLASSES), "logits are all 0"),
        ("dropout", torch.eye(CLASSES), "are all 0"),
    ],
)
def test_a_teacher_that_leaves_nothing_to_go_by_is_refused(name, logits, said, head):
    with pytest.raises(UsageError, match=said) as refused:
        made(name, with_logits(logits, torch.arange(len(logits)) % CLASSES, head))
    assert "tekap.logit.perturbation" in refused.value.remedy


def test_dropout_needs_a_linear_classifier_and_asks_no_other(basis):
    def unasked() -> TeacherStatistics:
        raise AssertionError("asked before the classifier was looked at")

    with pytest.raises(UsageError, match="its last layer is a Sequential"):
        made("dropout", PerturbationContext(nn.Sequential(basis.classifier), CPU, DROPOUT, unasked))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"perturbation": "covarience"}, "Did you mean covariance"),
        ({"perturbation": "mixing", "distribution": "uniform"}, "mixing always draws uniform numbers"),
        ({"perturbation": "dropout", "distribution": "uniform"}, "dropout always draws uniform numbers"),
        ({"perturbation": "dropout", "dropout": 1.0}, "less than 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(UsageError, match=said):
        parse({"tekap": {"logit": settings}})


@pytest.mark.parametrize("name", ["covariance", "class-covariance", "temperature", "relative"])
def test_perturbations_that_are_made_of_noise_take_either_distribution(name, basis, teacher, labels):
    found = parse({"tekap": {"logit": {"perturbation": name, "distribution": "uniform"}}})
    assert isinstance(found, StudentSpec)
    drawn = tekap(name, basis, distribution="uniform", teachers=4000, teacher_scale=0, noise_weight=1)
    assert drawn.augment_logits(teacher, 0, 0, labels).logits.square().mean().item() == pytest.approx(1, abs=0.03)

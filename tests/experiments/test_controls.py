"""Controls: what is left of TeKAP's loss when effects are taken away, against the formulas in float64."""

from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from tekapctl.data.batch import Batch
from tekapctl.distillation.methods import Pair
from tekapctl.distillation.methods.kd import KD
from tekapctl.distillation.tekap import Tekap
from tekapctl.errors import UsageError
from tekapctl.models.knowledge import Knowledge
from tekapctl.spec import parse
from tekapctl.spec.effects import EFFECTS, keep

CPU = torch.device("cpu")
BATCH, CLASSES, WIDTH = 6, 5, 4
LABELS = torch.arange(30) % CLASSES
BASIC = EFFECTS[:3]
LOGIT = parse({"method": "kd", "data": "digits"})
FEATURE = parse({"method": {"name": "crd", "negatives": 12}, "data": "digits", "tekap": {"feature": {"teachers": 2}}})


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def knowledge(seed: int) -> Knowledge:
    drawn = torch.randn(BATCH, CLASSES + WIDTH, generator=source(seed))
    return Knowledge(logits=3 * drawn[:, :CLASSES], embedding=drawn[:, CLASSES:])


def noise(shape, to, step, device, first):
    return torch.randn(shape, generator=source(7))


def batch() -> Batch:
    index = torch.arange(BATCH)
    return Batch(torch.zeros(BATCH, 1, 1, 1), LABELS[index], index, index, index, 0)


def logit_loss(spec) -> float:
    augmented = Tekap(spec.tekap, noise).augment_logits(knowledge(1), 0)
    return KD(4.0).augmented_loss(knowledge(0), knowledge(1), augmented, batch()).item()


def kl(target, student) -> torch.Tensor:
    target, student = ((logits.double() / 4).log_softmax(1) for logits in (target, student))
    return 16 * (target.exp() * (target - student)).sum() / BATCH


@pytest.mark.parametrize("kept", [c for size in range(4) for c in combinations(BASIC, size)], ids="+".join)
def test_at_the_logit_level_what_is_kept_is_what_the_formula_says(kept):
    student, teacher = knowledge(0).logits, knowledge(1).logits
    share, amount = (0.9 if "shrink" in kept else 1.0), (0.1 if "noise" in kept else 0.0)
    drawn = noise((3, BATCH, CLASSES), "logits", 0, CPU, 0).double()
    of_augmented = sum(kl(share * teacher.double() + amount * each, student) for each in drawn)
    expected = kl(teacher, student) + 0.8 * of_augmented
    total = 3.4 if "weight" in kept else 1.0
    assert logit_loss(keep(LOGIT, kept)) == pytest.approx(float(expected) * total / 3.4, rel=1e-5)


def test_without_any_effect_it_is_plain_kd_and_with_all_the_spec_itself():
    plain = kl(knowledge(1).logits, knowledge(0).logits)
    assert logit_loss(keep(LOGIT, ())) == pytest.approx(float(plain), rel=1e-5)
    assert keep(LOGIT, ()).tekap.logit.teachers == 0
    assert keep(LOGIT, BASIC).tekap.logit == LOGIT.tekap.logit
    assert keep(FEATURE, EFFECTS) == FEATURE


def crd_loss(spec, plain: bool = False) -> tuple[float, torch.Tensor]:
    """CRD's loss, and the teacher's bank after its update."""
    pair = Pair(knowledge(0), knowledge(1), LABELS, 0)
    method = spec.method.build(pair)
    augmented = Tekap(spec.tekap, noise).augment_features(knowledge(1), 0)
    student, teacher = knowledge(0), knowledge(1)
    found = (
        method.loss(student, teacher, batch()) if plain else method.augmented_loss(student, teacher, augmented, batch())
    )
    return found.item(), method.memory.teacher


def test_crd_without_any_effect_is_plain_crd_banks_and_all():
    (found, bank), (expected, plain_bank) = crd_loss(keep(FEATURE, ())), crd_loss(FEATURE, plain=True)
    assert found == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(bank, plain_bank)


def test_each_effect_on_crd_is_its_part_of_the_loss():
    plain, bank = crd_loss(FEATURE, plain=True)
    pair = Pair(knowledge(0), knowledge(1), LABELS, 0)
    method = FEATURE.method.build(pair)
    terms = method._terms(knowledge(0), knowledge(1).embedding.unsqueeze(0), batch(), updates=1)
    assert crd_loss(keep(FEATURE, ["student-term"]))[0] == pytest.approx(plain + 2 * terms.student.item(), rel=1e-5)
    assert crd_loss(keep(FEATURE, ["weight"]))[0] == pytest.approx(plain + 2 * terms.teachers[0].item(), rel=1e-5)
    moved = crd_loss(keep(FEATURE, ["bank-updates"]))
    assert moved[0] == pytest.approx(plain, rel=1e-5)
    index = torch.arange(BATCH)
    theirs = F.normalize(method.project_teacher(knowledge(1).embedding), dim=1)
    nearer = [(F.cosine_similarity(b[index], theirs, dim=1)).mean() for b in (bank, moved[1])]
    assert nearer[1] > nearer[0], "two more updates with the same embedding"


@pytest.mark.parametrize(
    ("spec", "kept", "said"),
    [
        (LOGIT, ["nois"], "noise"),
        (LOGIT, ["student-term"], "TeKAP has no effect student-term on the method kd"),
        (parse({"tekap": {"logit": {"teachers": 0}, "feature": {"teachers": 0}}}), ["noise"], "no augmented teachers"),
    ],
)
def test_what_has_no_such_effect_is_refused(spec, kept, said):
    with pytest.raises(UsageError, match=said):
        keep(spec, kept)

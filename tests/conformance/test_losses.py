"""Our losses against what the published implementations compute."""

import pytest
import torch
from torch.testing import assert_close

from conformance.fill import fill_state_dict
from conformance.vectors import case, names, seed
from tekapctl.data.batches import Batch
from tekapctl.engine.objective import Distillation
from tekapctl.knowledge import Knowledge
from tekapctl.methods.banks import MemoryBanks
from tekapctl.methods.crd import CRD, CRDSpec
from tekapctl.methods.kd import KD
from tekapctl.models import build
from tekapctl.tekap import FeatureTekap, LogitTekap, Tekap, TekapSpec

close = {"rtol": 1e-4, "atol": 1e-6}
close_gradients = {"rtol": 1e-3, "atol": 1e-6}


def knowledge(logits=None, embedding=None) -> Knowledge:
    logits = torch.zeros(embedding.shape[0], 2) if logits is None else logits
    embedding = torch.zeros(logits.shape[0], 2) if embedding is None else embedding
    return Knowledge(logits=logits, embedding=embedding)


def batch_of(index: torch.Tensor, step: int = 0, images: torch.Tensor | None = None, labels=None) -> Batch:
    count = len(index)
    return Batch(
        images=torch.zeros(count, 1, 8, 8) if images is None else images,
        labels=torch.zeros(count, dtype=torch.long) if labels is None else labels,
        index=index,
        number=index,
        view=torch.zeros(count, dtype=torch.long),
        step=step,
    )


@pytest.mark.parametrize("name", names("kl_"))
def test_kd(name: str) -> None:
    x = case(name)
    student = x.student_logits.requires_grad_()
    batch = batch_of(torch.arange(len(student)))
    loss = KD(x.temperature).loss(knowledge(student), knowledge(x.teacher_logits), batch)
    loss.backward()
    assert_close(loss.item(), x.loss, **close)
    assert_close(student.grad, x.grad_student, **close_gradients)


@pytest.mark.parametrize("name", names("tekap_kl_"))
def test_tekap_at_the_logit_level(name: str) -> None:
    x = case(name)
    spec = LogitTekap(
        teachers=len(x.noise),
        teacher_share=x.logit_weight,
        noise_weight=x.noise_weight,
        loss_weight=x.augmented_loss_weight,
    )
    student, teacher = knowledge(x.student_logits.requires_grad_()), knowledge(x.teacher_logits)
    augmented = Tekap(TekapSpec(logit=spec), lambda *_: x.noise).augment_logits(teacher, step=0)
    loss = KD(x.temperature).augmented_loss(student, teacher, augmented, batch_of(torch.arange(len(x.teacher_logits))))
    loss.backward()
    assert_close(loss.item(), x.loss, **close)
    assert_close(student.logits.grad, x.grad_student, **close_gradients)


@pytest.mark.parametrize("name", ["crd", "tekap_crd", "tekap_crd_b"])
def test_crd_and_tekap_at_the_feature_level(name: str) -> None:
    x = case(name)
    tekap = name.startswith("tekap")
    spec = FeatureTekap(
        teachers=1 if tekap else 0,
        teacher_share=x.feature_weight,
        noise_weight=x.noise_weight,
        noise_deviation=x.noise_std,
    )
    crd = CRD(
        CRDSpec(embedding_width=x.embed_dim, negatives=x.negatives, temperature=x.temperature, momentum=x.momentum),
        student_width=x.student_dim,
        teacher_width=x.teacher_dim,
        memory=MemoryBanks(
            x.samples,
            x.embed_dim,
            sampler=lambda _, step, first: x.at("contrast_index", step),
            temperature=x.temperature,
            momentum=x.momentum,
            seed=0,
        ),
    )
    for side in ("student", "teacher"):
        projection = getattr(crd, f"project_{side}").linear
        projection.weight.data = getattr(x, f"embed_{side}_weight")
        projection.bias.data = getattr(x, f"embed_{side}_bias")
        getattr(crd.memory, side).copy_(x.at(f"memory_{side}", 0))
    for step, expected in enumerate(x.losses):
        student = knowledge(embedding=x.at("student_features", step).requires_grad_())
        teacher = knowledge(embedding=x.at("teacher_features", step))
        noise = x.at("noise", step).unsqueeze(0) if tekap else None
        augmented = Tekap(TekapSpec(feature=spec), lambda *_, noise=noise: noise).augment_features(teacher, step)
        crd.zero_grad()
        loss = crd.augmented_loss(student, teacher, augmented, batch_of(x.at("sample_index", step), step))
        loss.backward()
        assert_close(loss.item(), expected, **close)
        assert_close(student.embedding.grad, x.at("grad_student_features", step), **close_gradients)
        for side in ("student", "teacher"):
            gradient = getattr(crd, f"project_{side}").linear.weight.grad
            assert_close(gradient, x.at(f"grad_embed_{side}_weight", step), **close_gradients)
    for side in ("student", "teacher"):
        assert_close(getattr(crd.memory, side), x.at(f"memory_{side}", 3), **close)
        assert_close(getattr(crd.memory, f"normalizer_{side}").item(), getattr(x, f"normalizer_{side}"), **close)


@pytest.mark.parametrize("name", names("trace_"))
def test_three_steps_of_training(name: str) -> None:
    x = case(name)
    student, teacher = build("resnet8"), build("resnet14").eval()
    fill_state_dict(student, seed() + 11)
    fill_state_dict(teacher, seed() + 12)
    tekap = "tekap" in name
    spec = TekapSpec() if tekap else TekapSpec().without()

    def noise(shape, to, step, device, first):
        draws = range(3) if to == "logits" else [3]
        return torch.stack([x.at("noise", step, i) for i in draws])

    crd = None
    if x.beta:
        crd = CRD(
            CRDSpec(embedding_width=16, negatives=32),
            student_width=64,
            teacher_width=64,
            memory=MemoryBanks(
                64,
                16,
                sampler=lambda _, step, first: x.at("contrast_index", step),
                temperature=0.07,
                momentum=0.5,
                seed=0,
            ),
        )
        for side, offset in (("student", 13), ("teacher", 14)):
            filled = torch.nn.ModuleDict({"linear": getattr(crd, f"project_{side}").linear})
            fill_state_dict(filled, seed() + offset)
            getattr(crd.memory, side).copy_(x.at(f"memory_{side}", 0))
    objective = Distillation(
        lambda batch: teacher.knowledge(batch.images, stages=False),
        Tekap(spec, noise),
        crd,
        gamma=float(x.gamma),
        alpha=float(x.alpha),
        beta=float(x.beta),
        temperature=4.0,
    )
    optimizer = torch.optim.SGD(
        [*student.parameters(), *objective.parameters()], lr=0.05, momentum=0.9, weight_decay=5e-4
    )
    for step, expected in enumerate(x.losses):
        batch = batch_of(x.at("sample_index", step), step, x.at("images", step).float(), x.at("labels", step))
        loss = torch.stack(list(objective(student.train().knowledge(batch.images), batch).values())).sum()
        assert_close(loss.item(), expected, **close)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Weights near zero are compared on the scale of a step.
    for ours, theirs in (
        (student.conv1.weight.data, x.conv1_weight_after),
        (student.fc.weight.data, x.fc_weight_after),
        (student.bn1.running_mean, x.bn_running_mean_after),
    ):
        assert_close(ours, theirs, rtol=1e-3, atol=1e-5)

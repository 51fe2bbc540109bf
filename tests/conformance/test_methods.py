"""The feature methods and the newer logit methods against what the published implementations compute."""

import pytest
import torch
from torch.testing import assert_close

from conformance.test_losses import batch_of, close, close_gradients
from conformance.vectors import case
from tekapctl.engine.objective import standardized
from tekapctl.knowledge import Knowledge
from tekapctl.methods import Pair
from tekapctl.methods.ab import ABSpec
from tekapctl.methods.at import AT
from tekapctl.methods.cc import CC
from tekapctl.methods.dkd import DKD
from tekapctl.methods.fitnet import FitNet
from tekapctl.methods.fsp import FSP
from tekapctl.methods.ft import factor_loss
from tekapctl.methods.kd import kl
from tekapctl.methods.kdsvd import KDSVD
from tekapctl.methods.maps import MapPair
from tekapctl.methods.method import WarmUp
from tekapctl.methods.nst import NST
from tekapctl.methods.pkt import PKT
from tekapctl.methods.reviewkd import Fusion, context_loss
from tekapctl.methods.rkd import RKD
from tekapctl.methods.sp import similarity_loss
from tekapctl.methods.vid import Predictor


def maps_of(side: str) -> tuple[torch.Tensor, ...]:
    x = case("features")
    return tuple(x.at(f"{side}_map", number) for number in range(3))


def knowledge(stages=(), embedding=None, preactivations=()) -> Knowledge:
    embedding = torch.zeros(4, 2) if embedding is None else embedding
    return Knowledge(torch.zeros(4, 2), embedding, tuple(stages), tuple(preactivations))


def with_stem(stages) -> tuple[torch.Tensor, ...]:
    """The published code leaves out the first stage."""
    return (torch.zeros(4, 3, 16, 16), *stages)


def check_gradients(x, inputs: list[torch.Tensor], loss: torch.Tensor) -> None:
    assert_close(loss.item(), x.loss, **close)
    loss.backward()
    for number, tensor in enumerate(inputs):
        assert_close(tensor.grad, x.at("grad_student", number), **close_gradients)


@pytest.mark.parametrize(("name", "method"), [("attention_transfer", AT()), ("nst", NST())])
def test_losses_of_all_stages(name, method):
    ours = [maps.requires_grad_() for maps in maps_of("student")]
    loss = method.loss(knowledge(with_stem(ours)), knowledge(with_stem(maps_of("teacher"))), batch_of(torch.arange(4)))
    check_gradients(case(name), ours, loss)


def test_similarity_preserving():
    ours = [maps.requires_grad_() for maps in maps_of("student")]
    losses = [similarity_loss(a, b) for a, b in zip(ours, maps_of("teacher"), strict=True)]
    check_gradients(case("similarity_preserving"), ours, sum(losses))


@pytest.mark.parametrize(("name", "method"), [("rkd", RKD(25.0, 50.0)), ("pkt", PKT())])
def test_losses_of_embeddings(name, method):
    features = case("features")
    ours = features.student_embedding.requires_grad_()
    loss = method.loss(
        knowledge(embedding=ours), knowledge(embedding=features.teacher_embedding), batch_of(torch.arange(4))
    )
    check_gradients(case(name), [ours], loss)


def test_correlation_congruence():
    features, x = case("features"), case("correlation_congruence")
    method = CC(64, 128, 32)
    for side in ("student", "teacher"):
        layer = getattr(method, f"embed_{side}")
        layer.weight.data, layer.bias.data = getattr(x, f"embed_{side}_weight"), getattr(x, f"embed_{side}_bias")
    ours = features.student_embedding.requires_grad_()
    teacher = knowledge(embedding=features.teacher_embedding)
    check_gradients(x, [ours], method.loss(knowledge(embedding=ours), teacher, batch_of(torch.arange(4))))


def test_fitnet():
    x = case("fitnet_hint")
    method = FitNet(1, 32, 64)
    for name in ("conv", "bn"):
        layer = getattr(method, name)
        layer.weight.data, layer.bias.data = getattr(x, f"{name}_weight"), getattr(x, f"{name}_bias")
    ours = maps_of("student")
    ours[1].requires_grad_()
    loss = method.loss(knowledge(ours), knowledge(maps_of("teacher")), batch_of(torch.arange(4)))
    check_gradients(x, [ours[1]], loss)


def test_vid():
    x = case("vid")
    predictor = Predictor(32, 64, 5.0)
    predictor.log_scale.data = x.log_scale
    for number, layer in enumerate((0, 2, 4)):
        predictor.regressor[layer].weight.data = x.at("regressor", number)
    ours = maps_of("student")[1].requires_grad_()
    check_gradients(x, [ours], predictor(MapPair(ours, maps_of("teacher")[1])))


def test_activation_boundary():
    x = case("activation_boundary")
    ours = [maps.requires_grad_() for maps in maps_of("student")]
    student = knowledge(preactivations=with_stem(ours))
    teacher = knowledge(preactivations=with_stem(maps_of("teacher")))
    method = ABSpec().build(Pair(student, teacher, torch.zeros(4, dtype=torch.long), 0))
    for number, connector in enumerate(method.connectors):
        for layer, kind in ((0, "conv"), (1, "bn")):
            for part in ("weight", "bias"):
                value = vars(x)[f"connector.connectors.{number}.{kind}.{part}"]
                getattr(connector[layer], part).data = value
    check_gradients(x, ours, method.first_loss(student, teacher, batch_of(torch.arange(4))))


def test_kdsvd():
    x = case("kdsvd")
    ours = [case("fsp").at("student_map", number) for number in range(3)]
    loss = KDSVD(1).loss(
        knowledge(with_stem(ours)), knowledge(with_stem(maps_of("teacher"))), batch_of(torch.arange(4))
    )
    assert_close(loss.item(), x.loss, **close)


def test_fsp():
    x = case("fsp")
    ours = [x.at("student_map", number).requires_grad_() for number in range(3)]
    loss = FSP(1).first_loss(knowledge(ours), knowledge(maps_of("teacher")), batch_of(torch.arange(4)))
    check_gradients(x, ours, loss)


def test_factor_transfer():
    x = case("factor_transfer")
    ours = x.student_factor.requires_grad_()
    check_gradients(x, [ours], factor_loss(ours, x.teacher_factor))


def test_dkd():
    x = case("dkd")
    ours = x.student_logits.requires_grad_()
    student, teacher = (Knowledge(logits, torch.zeros(16, 2)) for logits in (ours, x.teacher_logits))
    method = DKD(x.alpha, x.beta, x.temperature, WarmUp(0, 1))
    check_gradients(x, [ours], method.loss(student, teacher, batch_of(torch.arange(16), labels=x.labels)))


def test_reviewkd_context_loss():
    x = case("reviewkd_hcl")
    ours = [case("fsp").at("student_map", number).requires_grad_() for number in range(3)]
    check_gradients(x, ours, sum(context_loss(a, b) for a, b in zip(ours, maps_of("teacher"), strict=True)))


def test_reviewkd_fusion():
    x = case("reviewkd_abf")
    fusion = Fusion(32, 48, 64, fuses=True)
    state = {}
    for name, value in vars(x).items():
        if name.startswith("abf."):
            state[name.removeprefix("abf.").replace("att_conv", "attention")] = value
    missing, unexpected = fusion.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("running" in name or "num_batches" in name for name in missing)
    out, fused = fusion(x.input, x.residual)
    assert_close(out, x.output, **close_gradients)
    assert_close(fused, x.residual_out, **close_gradients)


def test_logit_standardization():
    x = case("logit_standardization_kd")
    ours = x.student_logits.requires_grad_()
    loss = kl(standardized(ours), standardized(x.teacher_logits), x.temperature)
    check_gradients(x, [ours], loss)

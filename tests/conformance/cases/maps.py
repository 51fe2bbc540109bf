"""Losses of feature maps."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conformance.inputs import built, labelled, of_maps, with_first
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.distillation.methods import MethodSpec
from tekapctl.distillation.methods.ab import ABSpec
from tekapctl.distillation.methods.at import ATSpec
from tekapctl.distillation.methods.fitnet import FitNetSpec
from tekapctl.distillation.methods.fsp import FSPSpec
from tekapctl.distillation.methods.ft import FTSpec, factor_loss
from tekapctl.distillation.methods.kdsvd import KDSVDSpec
from tekapctl.distillation.methods.nst import NSTSpec
from tekapctl.distillation.methods.ofd import OFDSpec
from tekapctl.distillation.methods.reviewkd import Fusion, ReviewKDSpec, context_loss, pooled
from tekapctl.distillation.methods.sp import similarities
from tekapctl.distillation.methods.vid import Predictor

Found = Iterator[tuple[str, Any]]
Published = Callable[[str], str]
"""The published name of a parameter of ours."""


def batch(maps: list[Tensor]) -> Any:
    return labelled(torch.zeros(len(maps[0]), dtype=torch.long))


def load(x: Case, label: str, module: nn.Module, published: Published) -> None:
    """Fill a module with the case's values; all of them must find their place."""
    state = x.state(label)
    own = {name: state.pop(published(name)) for name in module.state_dict()}
    assert not state, f"{label}: {', '.join(state)} are nowhere in our module"
    module.load_state_dict(own)


def gradients_of(x: Case, label: str, module: nn.Module, published: Published) -> Found:
    for name, parameter in module.named_parameters():
        yield f"grad_{label}.{published(name)}", parameter.grad


def gradients_to(maps: list[Tensor]) -> Found:
    for number, tensor in enumerate(maps):
        yield f"grad_student_{number}", tensor.grad


def shared(x: Case, side: str) -> list[Tensor]:
    """The maps that several cases have in common."""
    return [maps.requires_grad_(side == "student") for maps in x.file.case("features").all(f"{side}_map")]


def own(x: Case, side: str) -> list[Tensor]:
    """The case's own maps, or else the common ones."""
    found = x.all(f"{side}_map") or ([getattr(x, f"{side}_map")] if x.has(f"{side}_map") else [])
    return [maps.requires_grad_(side == "student") for maps in found] or shared(x, side)


def loss_of(spec: MethodSpec, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """The loss of the maps after those of a first stage."""
    student, teacher = of_maps(with_first(ours)), of_maps(with_first(theirs))
    return built(spec, student, teacher).loss(student, teacher, batch(ours))


def of_all_stages(x: Case, spec: MethodSpec) -> Found:
    ours, theirs = own(x, "student"), own(x, "teacher")
    loss = loss_of(spec, ours, theirs)
    loss.backward()
    yield "loss", loss
    yield from gradients_to(ours)


@evaluates("attention_transfer*")
def at(x: Case) -> Found:
    return of_all_stages(x, ATSpec())


@evaluates("nst*")
def nst(x: Case) -> Found:
    return of_all_stages(x, NSTSpec())


@evaluates("kdsvd*")
def kdsvd(x: Case) -> Found:
    if not x.has("student_map_0"):  # the file with the common maps has no gradient of it
        ours = x.file.case("fsp").all("student_map")
        yield "loss", loss_of(KDSVDSpec(), ours, own(x, "teacher"))
        return
    spec = KDSVDSpec(vectors=x.vectors)
    yield from of_all_stages(x, spec)
    if x.has("losses"):
        neighbours = zip(pairwise(own(x, "student")), pairwise(own(x, "teacher")), strict=True)
        yield "losses", [loss_of(spec, [*a], [*b]) for a, b in neighbours]


@evaluates("similarity_preserving*")
def sp(x: Case) -> Found:
    ours = own(x, "student")
    loss = torch.stack(
        [(similarities(a) - similarities(b)).square().mean() for a, b in zip(ours, own(x, "teacher"), strict=True)]
    ).sum()
    loss.backward()
    yield "loss", loss
    yield from gradients_to(ours)


@evaluates("fsp*")
def fsp(x: Case) -> Found:
    ours = own(x, "student")
    student, teacher = of_maps(ours), of_maps(own(x, "teacher"))
    loss = built(FSPSpec(), student, teacher).init_loss(student, teacher, batch(ours))
    loss.backward()
    yield "loss", loss
    yield from gradients_to(ours)


@evaluates("vid*")
def vid(x: Case) -> Found:
    ours, theirs = shared(x, "student")[1], shared(x, "teacher")[1]
    predictor = Predictor(ours.shape[1], theirs.shape[1], 5.0)
    predictor.log_scale.data = x.log_scale
    for number, layer in enumerate((0, 2, 4)):
        predictor.regressor[layer].weight.data = x.at("regressor", number)
    loss = predictor(ours).loss(theirs)
    loss.backward()
    yield "loss", loss
    yield from gradients_to([ours])


@evaluates("fitnet_hint*")
def fitnet_of_shared_maps(x: Case) -> Found:
    ours, theirs = shared(x, "student"), shared(x, "teacher")
    method = built(FitNetSpec(hint_layer=1), of_maps(ours), of_maps(theirs))
    for name in ("conv", "bn"):
        layer = getattr(method.connector, name)
        layer.weight.data, layer.bias.data = getattr(x, f"{name}_weight"), getattr(x, f"{name}_bias")
    loss = method.loss(of_maps(ours), of_maps(theirs), batch(ours))
    loss.backward()
    yield "loss", loss
    yield from gradients_to([ours[1]])


@evaluates("fitnet_*")
def fitnet(x: Case) -> Found:
    ours, theirs = own(x, "student"), own(x, "teacher")
    method = built(FitNetSpec(hint_layer=0), of_maps(ours), of_maps(theirs))
    load(x, "connector", method.connector, str)
    loss = method.loss(of_maps(ours), of_maps(theirs), batch(ours))
    loss.backward()
    yield "loss", loss
    yield from gradients_to(ours)
    yield from gradients_of(x, "connector", method.connector, str)


@evaluates("activation_boundary*")
def ab_of_shared_maps(x: Case) -> Found:
    ours, theirs = shared(x, "student"), shared(x, "teacher")
    student, teacher = of_maps(before=with_first(ours)), of_maps(before=with_first(theirs))
    method = built(ABSpec(), student, teacher)
    for name, parameter in method.connectors.named_parameters():
        parameter.data = x.tensors[f"connector.connectors.{name}"]
    loss = method.init_loss(student, teacher, batch(ours))
    loss.backward()
    yield "loss", loss
    yield from gradients_to(ours)


@evaluates("ab_*")
def ab(x: Case) -> Found:
    ours, theirs = own(x, "student"), own(x, "teacher")
    student, teacher = of_maps(before=with_first(ours)), of_maps(before=with_first(theirs))
    method = built(ABSpec(margin=x.margin), student, teacher)
    published = "connectors.{}".format
    if x.has_filled("connector"):
        load(x, "connector", method.connectors, published)
    loss = method.init_loss(student, teacher, batch(ours))
    loss.backward()
    yield "loss", loss
    yield from gradients_to(ours)
    yield from gradients_of(x, "connector", method.connectors, published)
    yield "losses", method.pair_losses(method.student_side(student, teacher), teacher, batch(ours))


@evaluates("factor_transfer*")
def factors(x: Case) -> Found:
    ours = x.student_factor.requires_grad_()
    loss = factor_loss(ours, x.teacher_factor)
    loss.backward()
    yield "loss", loss
    yield from gradients_to([ours])


def ft_spec(x: Case, channels: int) -> FTSpec:
    """With the factors that the filled paraphraser has."""
    return FTSpec(rate=len(x.state("paraphraser")["encoder.3.bias"]) / channels)


@evaluates("ft*")
def ft(x: Case) -> Found:
    """The paraphraser's own stage, and then the factors."""
    ours, theirs = own(x, "student"), own(x, "teacher")
    student, teacher = of_maps(ours), of_maps(theirs)
    method = built(ft_spec(x, theirs[-1].shape[1]), student, teacher)
    paraphraser = nn.ModuleDict({"encoder": method.paraphraser, "decoder": method.restorer})
    load(x, "paraphraser", paraphraser, str)
    load(x, "translator", method.translator, "encoder.{}".format)
    first = method.init_loss(student, teacher, batch(ours))
    first.backward()
    yield "first_stage_loss", first
    yield from gradients_of(x, "paraphraser", paraphraser, str)
    factors = method.translator(ours[-1]), method.paraphraser(theirs[-1])
    yield from zip(("student_factor", "teacher_factor"), factors, strict=True)
    loss = method.loss(student, teacher, batch(ours))
    loss.backward()
    yield "loss", loss
    yield from gradients_to(ours)
    yield from gradients_of(x, "translator", method.translator, "encoder.{}".format)


def published_fusion(count: int) -> Published:
    """The published names begin with the deepest fusion."""

    def published(name: str) -> str:
        number, rest = name.split(".", 1)
        return f"{count - 1 - int(number)}.{rest.replace('attention', 'att_conv')}"

    return published


def sizes(ours: list[Tensor], theirs: list[Tensor], student: Tensor, teacher: Tensor) -> Found:
    """Sizes, deepest first, and channels, deepest last; the embedding is the deepest."""
    yield "shapes", [1, *(maps.shape[2] for maps in reversed(ours))]
    yield "out_shapes", [1, *(maps.shape[2] for maps in reversed(theirs))]
    yield "in_channels", [*(maps.shape[1] for maps in ours), student.shape[1]]
    yield "out_channels", [*(maps.shape[1] for maps in theirs), teacher.shape[1]]


@evaluates("reviewkd*", "ea_reviewkd*")
def reviewkd(x: Case) -> Found:
    ours, theirs = own(x, "student"), own(x, "teacher")
    embedding = x.student_embedding.requires_grad_()
    maps = with_first(ours)
    student = of_maps(maps, maps, embedding)
    teacher = of_maps(before=with_first(theirs), embedding=x.teacher_embedding)
    spec = ReviewKDSpec(
        student_maps="before" if x.student_preactivation else "after",
        warmup_epochs=0,
        most_channels=x.mid_channels,
        entropy_weights=x.name.startswith("ea_"),
    )
    yield from sizes(ours, theirs, embedding, x.teacher_embedding)
    if x.has("student_logits"):
        student, teacher = replace(student, logits=x.student_logits), replace(teacher, logits=x.teacher_logits)
    method = built(spec, student, teacher)
    published = published_fusion(len(method.fusions))
    load(x, "fusions", method.fusions, published)
    if spec.entropy_weights:
        yield "entropy_temperature", 3.0
        yield "entropy_bound", math.log(x.student_logits.shape[1])
        yield "loss_ce", x.get("ce_weight", 1.0) * F.cross_entropy(x.student_logits, x.labels)
    loss = x.warm_up_factor * method.loss(student, teacher, batch(ours))
    loss.backward()
    yield "loss", loss
    yield from gradients_to(ours)
    yield "grad_student_embedding", embedding.grad
    yield from gradients_of(x, "fusions", method.fusions, published)


@evaluates("reviewkd_hcl*")
def context(x: Case) -> Found:
    ours = x.file.case("fsp").all("student_map")
    ours = [maps.requires_grad_() for maps in ours]
    loss = torch.stack([context_loss(pooled(a), b) for a, b in zip(ours, shared(x, "teacher"), strict=True)]).sum()
    loss.backward()
    yield "loss", loss
    yield from gradients_to(ours)


@evaluates("reviewkd_abf*")
def fusion(x: Case) -> Found:
    module = Fusion(x.input.shape[1], x.residual.shape[1], x.expected("output").shape[1], fuses=True)
    state = {
        name.removeprefix("abf.").replace("att_conv", "attention"): x.tensors[name]
        for name in x.tensors
        if name.startswith("abf.")
    }
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("running" in name or "num_batches" in name for name in missing)
    out, fused = module(x.input, x.residual, x.expected("output").shape[2:])
    yield "output", out
    yield "residual_out", fused


@evaluates("ofd*")
def ofd(x: Case) -> Found:
    ours, theirs = own(x, "student"), own(x, "teacher")
    student, teacher = of_maps(before=with_first(ours)), of_maps(before=with_first(theirs))
    method = built(OFDSpec(), student, teacher, teacher_norms=norms_of(x))
    load(x, "connectors", method.connectors, "connectors.{}".format)
    for number in range(len(ours)):
        yield f"margin_{number}", getattr(method, f"margin_{number}")
    loss = method.loss(student, teacher, batch(ours))
    loss.backward()
    yield "loss", loss
    yield from gradients_to(ours)
    yield from gradients_of(x, "connectors", method.connectors, "connectors.{}".format)


def norms_of(x: Case) -> tuple[nn.BatchNorm2d, ...]:
    """The teacher's batch norms."""
    norms = []
    for weight, bias in zip(x.all("teacher_bn_weight"), x.all("teacher_bn_bias"), strict=True):
        norms.append(nn.BatchNorm2d(len(weight)))
        norms[-1].weight.data, norms[-1].bias.data = weight, bias
    return tuple(norms)

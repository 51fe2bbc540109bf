"""Whole methods on pairs of networks of the zoo, from images on, in float64."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conformance.cases.maps import Published, ft_spec, load, published_fusion, sizes
from conformance.inputs import built, labelled, of_maps
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.distillation.methods.ab import ABSpec
from tekapctl.distillation.methods.fitnet import FitNetSpec
from tekapctl.distillation.methods.fsp import FSPSpec
from tekapctl.distillation.methods.method import MethodSpec
from tekapctl.distillation.methods.ofd import OFDSpec
from tekapctl.distillation.methods.reviewkd import ReviewKDSpec
from tekapctl.models import Network, build
from tekapctl.models.knowledge import Knowledge

Found = Iterator[tuple[str, Any]]


class NetworkPair:
    """Both networks of a case, with what they make of its images.

    Args:
        x: The case.
    """

    def __init__(self, x: Case) -> None:
        self.case = x
        self.student, self.teacher = (self._network(side) for side in ("student", "teacher"))
        assert x.precision == "float64", "pairs of networks are computed in float64"
        source = torch.Generator().manual_seed(x.image_seed)
        self.images = torch.randn(x.batch, 3, 32, 32, generator=source).double()
        if x.name.startswith(("pair_ab", "pair_fsp")):  # as a first stage trains the student
            for module in self.student.modules_after_feature_maps():
                module.eval()  # nor is it trained there
            norms = [name for name, each in self.student.named_modules() if isinstance(each, nn.BatchNorm2d)]
            frozen = [name for name in norms if not self.student.get_submodule(name).training]
            assert frozen == x.batch_norms_in_eval, f"batch norms {frozen} are in evaluation mode"

    def _network(self, side: str) -> Network:
        network = build(getattr(self.case, side), self.case.classes)
        self.case.fill(side, network)
        mode = getattr(self.case, f"{side}_mode")
        return network.double().train(side == "student" or mode.startswith("train"))

    def knowledge(self, network: Network) -> Knowledge:
        return network.knowledge(self.images, preactivations=True)

    def method(self, spec: MethodSpec) -> Any:
        """The method for both networks."""
        norms = self.teacher.norms_before_relu()
        running = {name: value.clone() for name, value in self.student.state_dict().items()}
        with torch.no_grad():
            method = built(spec, self.knowledge(self.student), self.teacher_knowledge(), teacher_norms=norms)
        self.student.load_state_dict(running)
        return method.double()

    def teacher_knowledge(self) -> Knowledge:
        with torch.no_grad():
            return self.knowledge(self.teacher)

    def gradients(self) -> Found:
        """Of the student: the norms of all and the entries of some."""
        named = dict(self.student.named_parameters())
        yield "parameters_student", float(len(named))
        if self.case.has("trained_in_first_stage"):
            modules = [each for each in self.student.modules() if each.training]
            trained = sum(len([*each.parameters(recurse=False)]) for each in modules)
            yield "trained_in_first_stage", float(trained)
        yield "grad_norms_student", [norm(each) for each in named.values()]
        for name in self.case.tensors:
            if name.startswith("grad_student."):
                yield name, named[name.removeprefix("grad_student.")].grad

    def norms(self, label: str, module: nn.Module, published: Published) -> Found:
        """The norms of the gradients of a part of the method, in the published order."""
        ours = {published(name): norm(each) for name, each in module.named_parameters()}
        order = [name for name, _ in self.case.scalars["filled"][label]["state"] if name in ours]
        yield f"grad_norms_{label}", [ours[name] for name in order]


def norm(parameter: nn.Parameter) -> Tensor:
    return parameter.new_zeros(()) if parameter.grad is None else parameter.grad.norm()


@evaluates("pair_reviewkd_*")
def reviewkd(x: Case) -> Found:
    pair = NetworkPair(x)
    method = pair.method(
        ReviewKDSpec(
            warmup_epochs=0,
            most_channels=x.mid_channels,
            student_maps="before" if x.student_preactivation else "after",
        )
    )
    student, teacher = pair.knowledge(pair.student), pair.teacher_knowledge()
    ours, theirs = ([*each.feature_maps[1:]] for each in (student, teacher))
    yield from sizes(ours, theirs, student.embedding, teacher.embedding)
    published = published_fusion(len(method.fusions))
    load(x, "fusions", method.fusions, published)
    yield from _of_run(pair, method)
    yield from pair.norms("fusions", method.fusions, published)


@evaluates("pair_ofd_*")
def ofd(x: Case) -> Found:
    """With the teacher in training mode, as the published code leaves it; ours is in evaluation mode."""
    pair = NetworkPair(x)
    method = pair.method(OFDSpec())
    load(x, "connectors", method.connectors, "connectors.{}".format)
    for number in range(3):
        yield f"margin_{number}", getattr(method, f"margin_{number}")
    yield from _of_run(pair, method)
    yield from pair.norms("connectors", method.connectors, "connectors.{}".format)
    x.fill("teacher", pair.teacher.eval())
    yield "loss_with_eval_teacher", method.loss(pair.knowledge(pair.student), pair.teacher_knowledge(), _batch(pair))


@evaluates("pair_fitnet_*")
def fitnet(x: Case) -> Found:
    pair = NetworkPair(x)
    method = pair.method(FitNetSpec())
    load(x, "connector", method.connector, str)
    yield from _of_run(pair, method)
    yield from pair.norms("connector", method.connector, str)


@evaluates("pair_ft_*")
def ft(x: Case) -> Found:
    pair = NetworkPair(x)
    method = pair.method(ft_spec(x, pair.teacher_knowledge().feature_maps[-1].shape[1]))
    paraphraser = nn.ModuleDict({"encoder": method.paraphraser, "decoder": method.restorer})
    load(x, "paraphraser", paraphraser, str)
    load(x, "translator", method.translator, "encoder.{}".format)
    teacher = pair.teacher_knowledge()
    first = method.init_loss(teacher, teacher, _batch(pair))
    first.backward()
    yield "first_stage_loss", first
    yield from pair.norms("paraphraser", paraphraser, str)
    yield from _of_run(pair, method)
    yield from pair.norms("translator", method.translator, "encoder.{}".format)


@evaluates("pair_ab_*")
def ab(x: Case) -> Found:
    pair = NetworkPair(x)
    method = pair.method(ABSpec())
    if x.has_filled("connector"):
        load(x, "connector", method.connectors, "connectors.{}".format)
    student, teacher = pair.knowledge(pair.student), pair.teacher_knowledge()
    yield "losses", method.pair_losses(method.student_side(student, teacher), teacher, _batch(pair))
    loss = method.init_loss(student, teacher, _batch(pair))
    loss.backward()
    yield "loss", loss
    yield from pair.gradients()
    if x.has_filled("connector"):
        yield from pair.norms("connector", method.connectors, "connectors.{}".format)


@evaluates("pair_fsp_*")
def fsp(x: Case) -> Found:
    pair = NetworkPair(x)
    method, student, teacher = pair.method(FSPSpec()), pair.knowledge(pair.student), pair.teacher_knowledge()
    loss = method.init_loss(student, teacher, _batch(pair))
    loss.backward()
    yield "loss", loss
    neighbours = zip(pairwise(student.feature_maps), pairwise(teacher.feature_maps), strict=True)
    yield "losses", [method.init_loss(of_maps([*a]), of_maps([*b]), _batch(pair)) for a, b in neighbours]
    yield from pair.gradients()


def _of_run(pair: NetworkPair, method: Any) -> Found:
    student = pair.knowledge(pair.student)
    if pair.case.has("loss_ce"):
        yield "loss_ce", F.cross_entropy(student.logits, pair.case.labels)
    loss = method.loss(student, pair.teacher_knowledge(), _batch(pair))
    loss.backward()
    yield "loss", loss
    yield from pair.gradients()


def _batch(pair: NetworkPair) -> Any:
    return labelled(pair.case.labels)

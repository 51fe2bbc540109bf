"""Losses of embeddings; their inputs are the case `features` of the same file."""

from collections.abc import Iterator
from typing import Any

from conformance.inputs import labelled, of_embedding
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.distillation.methods.cc import CC
from tekapctl.distillation.methods.method import Method
from tekapctl.distillation.methods.pkt import PKT
from tekapctl.distillation.methods.rkd import RKD

Found = Iterator[tuple[str, Any]]


def of_embeddings(x: Case, method: Method) -> Found:
    features = x.file.case("features")
    student = features.student_embedding.requires_grad_()
    loss = method.loss(
        of_embedding(student),
        of_embedding(features.teacher_embedding),
        labelled(student.new_zeros(len(student)).long()),
    )
    loss.backward()
    yield "loss", loss
    yield "grad_student_0", student.grad


@evaluates("rkd*")
def rkd(x: Case) -> Found:
    return of_embeddings(x, RKD(float(x.get("distance_weight", 25.0)), float(x.get("angle_weight", 50.0))))


@evaluates("pkt*")
def pkt(x: Case) -> Found:
    return of_embeddings(x, PKT())


@evaluates("correlation_congruence*")
def cc(x: Case) -> Found:
    width, out = x.embed_student_weight.shape[1], len(x.embed_student_bias)
    method = CC(width, x.embed_teacher_weight.shape[1], out)
    for side in ("student", "teacher"):
        layer = getattr(method, f"embed_{side}")
        layer.weight.data, layer.bias.data = getattr(x, f"embed_{side}_weight"), getattr(x, f"embed_{side}_bias")
    return of_embeddings(x, method)

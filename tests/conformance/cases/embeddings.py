"""Losses of embeddings; their inputs are the case `features` of the same file."""

from collections.abc import Iterator
from typing import Any

from conformance.inputs import built, labelled, of_embedding
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.distillation.methods import Method, MethodSpec
from tekapctl.distillation.methods.cc import CCSpec
from tekapctl.distillation.methods.pkt import PKTSpec
from tekapctl.distillation.methods.rkd import RKDSpec

Found = Iterator[tuple[str, Any]]


def of_embeddings(x: Case, spec: MethodSpec) -> Found:
    features = x.file.case("features")
    return compared(features, built(spec, of_embedding(features.student_embedding)))


def compared(features: Case, method: Method) -> Found:
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
    return of_embeddings(
        x, RKDSpec(distance_weight=x.get("distance_weight", 25.0), angle_weight=x.get("angle_weight", 50.0))
    )


@evaluates("pkt*")
def pkt(x: Case) -> Found:
    return of_embeddings(x, PKTSpec())


@evaluates("correlation_congruence*")
def cc(x: Case) -> Found:
    features = x.file.case("features")
    networks = of_embedding(features.student_embedding), of_embedding(features.teacher_embedding)
    method = built(CCSpec(embedding_width=len(x.embed_student_bias)), *networks)
    for side in ("student", "teacher"):
        layer = getattr(method, f"embed_{side}")
        layer.weight.data, layer.bias.data = getattr(x, f"embed_{side}_weight"), getattr(x, f"embed_{side}_bias")
    return compared(features, method)

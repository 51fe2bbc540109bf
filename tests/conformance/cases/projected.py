"""Losses of maps that a projector or connector makes comparable, and the optimal transport between classes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from conformance.cases.logits import of_one_view
from conformance.cases.maps import batch, gradients_of, gradients_to, load, own
from conformance.inputs import built, labelled, of_embedding, of_logits, of_maps
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl import models
from tekapctl.distillation.methods.simkd import SimKD
from tekapctl.distillation.methods.srrl import SRRLSpec
from tekapctl.distillation.methods.wkd import _VARIANCE_EPS, WKDFSpec, WKDLSpec, class_distances, distances, gaussians
from tekapctl.models.knowledge import Knowledge
from tekapctl.models.network import Maps, pool
from tekapctl.models.reused import Projection, ReusedClassifier

Found = Iterator[tuple[Any, ...]]


@evaluates("wkd_f*")
def wkd_f(x: Case) -> Found:
    ours, theirs = own(x, "student"), own(x, "teacher")
    spec = WKDFSpec(mean_weight=x.mean_cov_ratio, grid=x.grid)
    method = built(spec, of_maps(ours), of_maps(theirs))
    load(x, "connector", method.connector, str)
    with torch.no_grad():
        means, deviations = distances(*(gaussians(maps, x.grid) for maps in (method.connector(ours[0]), theirs[0])))
    yield "eps", _VARIANCE_EPS
    yield "mean_loss", means
    yield "deviation_loss", deviations
    loss = x.weight * method.loss(of_maps(ours), of_maps(theirs), batch(ours))
    loss.backward()
    yield "loss", loss
    yield from gradients_to(ours)
    yield from gradients_of(x, "connector", method.connector, str)


@evaluates("wkd_l*")
def wkd_l(x: Case) -> Found:
    yield "class_distances", class_distances(x.class_features)
    spec = WKDLSpec(
        distance_weight=x.weight,
        temperature=x.temperature,
        entropy_weight=x.sinkhorn_lambda,
        iterations=x.sinkhorn_iterations,
        sharpen=x.sharpen,
        decay_start=x.cosine_decay_epoch / x.epochs,
    )
    method = built(spec, of_logits(x.teacher_logits), epochs=x.epochs, class_features=lambda _: x.class_features)
    yield "cost", method.costs
    target, distance = method.parts(x.student_logits, x.teacher_logits, x.labels)
    yield "target_loss", target
    yield "distance", distance
    yield from of_one_view(x, method)
    for name, epoch in (("weight_used", x.epoch), ("weight_used_later", x.later_epoch)):
        yield name, x.weight * method.decay(epoch - 1)
    later = labelled(x.labels, step=x.later_epoch - 1)
    yield "loss_later", method.loss(of_logits(x.student_logits), of_logits(x.teacher_logits), later)


@evaluates("simkd*")
def simkd(x: Case) -> Found:
    ours, theirs = own(x, "student"), own(x, "teacher")
    classifier = nn.Linear(x.classifier_weight.shape[1], len(x.classifier_weight))
    classifier.load_state_dict({"weight": x.classifier_weight, "bias": x.classifier_bias})
    projection = Projection(ours[0].shape[1], theirs[0].shape[1], x.factor, most=tuple(theirs[0].shape[2:]))
    network = ReusedClassifier(models.build("resnet8", len(x.classifier_weight)), projection).train()
    network.take(classifier)
    load(x, "projector", network.projector, "transfer.{}".format)
    projected = network.project(ours[0], Maps(False, False))
    loss = SimKD(of_maps=True).loss(of_maps([projected]), of_maps(theirs), batch(ours))
    loss.backward()
    yield "loss", loss
    yield "student_logits", network.classifier(pool(projected))
    yield from gradients_to(ours)
    yield from gradients_of(x, "projector", network.projector, "transfer.{}".format)


@evaluates("srrl*")
def srrl(x: Case) -> Found:
    ours = x.student_embedding.requires_grad_()
    classifier = nn.Linear(x.classifier_weight.shape[1], len(x.classifier_weight))
    classifier.load_state_dict({"weight": x.classifier_weight, "bias": x.classifier_bias})
    student, teacher = of_embedding(ours), Knowledge(x.teacher_logits, x.teacher_embedding)
    method = built(SRRLSpec(), student, teacher, classifier=classifier)
    load(x, "projector", method.project, "transfer.{}".format)
    loss = method.loss(student, teacher, batch([ours]))
    loss.backward()
    yield "loss", loss
    yield "grad_student_0", ours.grad
    yield from gradients_of(x, "projector", method.project, "transfer.{}".format)

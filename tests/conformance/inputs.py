"""Batches and knowledge of given tensors, and methods for them."""

from typing import Any

import torch
from torch import Tensor

from tekapctl.data.batch import Batch
from tekapctl.distillation.methods import MethodSpec, Pair
from tekapctl.models.knowledge import Knowledge


def batch_of(index: Tensor, step: int = 0, images: Tensor | None = None, labels: Tensor | None = None) -> Batch:
    """A batch of the samples of that index."""
    count = len(index)
    return Batch(
        images=torch.zeros(count, 1, 8, 8) if images is None else images,
        labels=torch.zeros(count, dtype=torch.long) if labels is None else labels,
        index=index,
        source_index=index,
        view=torch.zeros(count, dtype=torch.long),
        step=step,
    )


def labelled(labels: Tensor, step: int = 0) -> Batch:
    """A batch of samples with these labels."""
    return batch_of(torch.arange(len(labels)), step, labels=labels)


def of_logits(logits: Tensor, strong: Tensor | None = None) -> Knowledge:
    """Knowledge whose embeddings do not matter."""
    seen_strong = None if strong is None else of_logits(strong)
    return Knowledge(logits, logits.new_zeros(len(logits), 2), strong=seen_strong)


def of_embedding(embedding: Tensor) -> Knowledge:
    """Knowledge whose logits do not matter."""
    return Knowledge(embedding.new_zeros(len(embedding), 2), embedding)


def of_maps(
    feature_maps: list[Tensor] | None = None, before: list[Tensor] | None = None, embedding: Tensor | None = None
) -> Knowledge:
    """Knowledge of feature maps, behind their ReLU and before it."""
    first = (feature_maps or before or [])[0]
    embedding = first.new_zeros(len(first), 2) if embedding is None else embedding
    return Knowledge(first.new_zeros(len(first), 2), embedding, tuple(feature_maps or ()), tuple(before or ()))


def with_first(maps: list[Tensor]) -> list[Tensor]:
    """The published codes leave out the first stage; ours is given one."""
    return [maps[0].new_zeros(len(maps[0]), 3, *maps[0].shape[2:]), *maps]


def built(spec: MethodSpec, student: Knowledge, teacher: Knowledge | None = None, **more: Any) -> Any:
    """A method for these networks, by default two that know the same, as a run builds it in training mode."""
    labels = torch.arange(4) % 2
    method = spec.build(Pair(student, teacher or student, **{"labels": labels, "seed": 0, **more}))
    assert method is not None
    return method.train()

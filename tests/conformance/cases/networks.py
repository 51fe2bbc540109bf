"""The networks of the zoo."""

from collections.abc import Iterator
from typing import Any

import torch

from conformance.fill import fill_state_dict
from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.models import build


@evaluates("network")
def network(x: Case) -> Iterator[tuple[str, Any]]:
    """Shapes, stages and outputs of one."""
    model = build(x.name)
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == x.scalars["state_dict"]
    yield "parameters", float(sum(p.numel() for p in model.parameters()))
    fill_state_dict(model, x.file.seed)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(x.file.seed + 7))
    with torch.no_grad():
        told = model.eval().knowledge(images, preactivations=True)
    yield "logits_eval", told.logits
    yield "embedding_eval", told.embedding
    *feature_maps, embedding = x.features
    assert [list(maps.shape[1:]) for maps in told.feature_maps] == [stage["shape"] for stage in feature_maps]
    assert list(told.embedding.shape[1:]) == embedding["shape"]
    known = {"shape", "mean", "std", "abs_sum_preact"}
    assert all(known == stage.keys() for stage in x.features), "a feature has entries that are not compared"
    for name, ours in (("mean", told.embedding.mean()), ("std", told.embedding.std())):
        yield f"embedding {name}", ours, embedding[name]
    yield "embedding abs_sum_preact", told.embedding.abs().sum(), embedding["abs_sum_preact"]
    yield "mean", [maps.mean() for maps in told.feature_maps], [stage["mean"] for stage in feature_maps]
    yield "deviation", [maps.std() for maps in told.feature_maps], [stage["std"] for stage in feature_maps]
    before = [maps.abs().sum() for maps in told.preactivations]
    yield "before ReLU", before, [stage["abs_sum_preact"] for stage in feature_maps]
    with torch.no_grad():
        yield "logits_train", model.train()(images)

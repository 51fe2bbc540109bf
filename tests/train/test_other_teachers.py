"""Teachers without the student's classes: of other data, self-supervised, or transformers."""

import sys

import pytest
import torch

from helpers.silent import Silent
from tekapctl import registry
from tekapctl.commands.evaluate import evaluate
from tekapctl.distillation.methods import METHODS, Batch, Knowledge, Pair
from tekapctl.distillation.methods.seed import SEEDSpec
from tekapctl.errors import UsageError
from tekapctl.models.external import ExternalNetwork
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.store.weights import save_weights
from tekapctl.train.run import execute

timm = pytest.importorskip("timm")
QUICK = {
    "student": "resnet8",
    "data": {"name": "digits", "train_fraction": 0.1},
    "epochs": 1,
    "batch_size": 32,
    "device": "cpu",
    "precision": "float32",
}
FACTORY = """
import timm


def features(num_classes=None, in_channels=1):
    return timm.create_model("test_vit", num_classes=0, in_chans=1, img_size=32)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    teacher = {"kind": "teacher", "model": "resnet8", "data": {"name": "synthetic", "samples": 64}, "epochs": 1}
    execute(parse(teacher), home, Silent())
    return home


@pytest.mark.parametrize("method", ["embed", "seed", "rkd", "at"])
def test_a_teacher_of_other_classes_teaches_by_its_features(home, method):
    summary = execute(parse({**QUICK, "teacher": "latest", "method": method, "alpha": 0.0}), home, Silent())
    assert summary["teacher"]["top1"] is None
    assert summary["evaluation"]["agreement"] is None
    assert evaluate(home, summary["run"], device="cpu")["teacher"] is None


@pytest.mark.parametrize("method", ["kd", "dkd", "srrl"])
def test_methods_that_read_its_classes_refuse_it(home, method):
    with pytest.raises(UsageError, match=r"classes.*distill from its features alone"):
        execute(parse({**QUICK, "teacher": "latest", "method": method}), home, Silent())


@pytest.mark.parametrize(
    ("name", "arguments", "embedding", "maps"),
    [
        ("test_vit", {"num_classes": 0, "img_size": 64}, 64, [(64, 4, 4)]),
        ("vit_tiny_patch16_224", {"num_classes": 10, "img_size": 64}, 192, [(192, 4, 4)]),
        ("vit_small_patch14_reg4_dinov2", {"num_classes": 0, "img_size": 56}, 384, [(384, 4, 4)]),
    ],
)
def test_tokens_of_a_transformer_are_a_feature_map(name, arguments, embedding, maps):
    model = timm.create_model(name, **arguments).eval()
    size = arguments["img_size"]
    adapted = ExternalNetwork(model, name, 3).eval()
    images = torch.rand(2, 3, size, size)
    found = adapted.knowledge(images)
    assert found.logits.shape == (2, arguments["num_classes"])
    assert found.embedding.shape == (2, embedding)
    assert [tuple(each.shape[1:]) for each in found.feature_maps] == maps
    tokens = model.forward_features(images)
    side = maps[0][1]
    prefix = tokens.shape[1] - side**2
    assert prefix == model.num_prefix_tokens
    expected = tokens[:, prefix:].transpose(1, 2).reshape(2, -1, side, side)
    torch.testing.assert_close(found.feature_maps[0], expected)


@pytest.mark.parametrize("method", ["embed", "seed", "sp", "fitnet"])
def test_a_self_supervised_transformer_teaches(home, method, tmp_path, monkeypatch):
    (tmp_path / "selfsup.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "selfsup", raising=False)
    registry.allow(["selfsup:features"])
    torch.manual_seed(0)
    from selfsup import features

    path = tmp_path / "teacher.safetensors"
    adapted = ExternalNetwork(features(), "selfsup:features", 1)
    metadata = {"model": "selfsup:features", "num_classes": "0", "in_channels": "1", "image_size": "32x32"}
    save_weights(path, adapted.state_dict(), {**metadata, "mean": "[0.5]", "std": "[0.25]"})
    values = {**QUICK, "data": {"name": "synthetic", "samples": 64, "test_samples": 64, "size": 32, "channels": 1}}
    method_settings = {"name": "fitnet", "hint_layer": 0} if method == "fitnet" else method
    summary = execute(parse({**values, "teacher": str(path), "method": method_settings}), home, Silent())
    assert summary["teacher"]["top1"] is None


def knowledge(width: int, seed: int) -> Knowledge:
    source = torch.Generator().manual_seed(seed)
    return Knowledge(torch.zeros(6, 3), torch.randn(6, width, generator=source))


def a_batch() -> Batch:
    numbers = torch.arange(6)
    return Batch(torch.empty(6, 1, 1, 1), torch.zeros(6).long(), numbers, numbers, torch.zeros(6).long(), 0)


def test_embed_is_zero_for_a_projection_onto_the_teacher():
    method = METHODS["embed"](projectors=1).build(Pair(knowledge(5, 0), knowledge(5, 0), torch.zeros(6).long(), 0))
    method.projectors[0].weight.data.copy_(2 * torch.eye(5))
    method.projectors[0].bias.data.zero_()
    batch = a_batch()
    same, other = knowledge(5, 0), knowledge(5, 1)
    assert method.loss(same, same, batch).item() == pytest.approx(0.0, abs=1e-6)
    expected = (2 - 2 * torch.nn.functional.cosine_similarity(same.embedding, other.embedding)).mean()
    torch.testing.assert_close(method.loss(same, other, batch), expected)


def test_seeds_queue_holds_the_newest_teacher_embeddings():
    from tekapctl.distillation.tekap import AugmentedTeachers, FeatureTekap

    spec = SEEDSpec(queue=10)
    method = spec.build(Pair(knowledge(5, 0), knowledge(4, 0), torch.zeros(6).long(), 0))
    batch = a_batch()
    for seed in range(3):
        teacher = knowledge(4, seed)
        before = method.queue.clone()
        loss = method.augmented_loss(
            knowledge(5, 9), teacher, AugmentedTeachers(FeatureTekap(teachers=0), teacher), batch
        )
        unit = torch.nn.functional.normalize(teacher.embedding, dim=1)
        ours = torch.nn.functional.normalize(method.projector(knowledge(5, 9).embedding), dim=1)
        # Equations 3 to 5, a sample at a time.
        losses = []
        for mine, theirs in zip(ours, unit, strict=True):
            entries = torch.cat([before, theirs.unsqueeze(0)])
            wanted = (entries @ theirs / 0.01).softmax(0)
            losses.append(-(wanted * (entries @ mine / 0.2).log_softmax(0)).sum())
        torch.testing.assert_close(loss, torch.stack(losses).mean())
        rows = torch.arange(6 * seed, 6 * seed + 6) % 10
        assert torch.equal(method.queue[rows], unit)

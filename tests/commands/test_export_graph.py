"""Graphs prepare images as the evaluation does, and model cards are read by the Hugging Face hub."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tekapctl.commands.export.card import _yaml
from tekapctl.commands.export.graph import Classifier, Deployed, Resize
from tekapctl.data.files.decoding import decode, decode_whole
from tekapctl.models.normalization import Normalization


def photograph(path, width: int, height: int, mode: str = "RGB"):
    """An image with structure of all sizes."""
    random = np.random.default_rng(width)
    coarse = Image.fromarray(random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    noisy = (smooth + random.normal(0, 10, smooth.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).convert(mode).save(path)
    return path


@pytest.mark.parametrize("crop", [1.0, 7 / 8])
@pytest.mark.parametrize(
    ("across", "down", "size"), [(500, 375, (64, 64)), (97, 301, (32, 48)), (40, 30, (64, 64)), (1200, 801, (224, 224))]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_are_resized_as_their_files_are(tmp_path, across, down, size, crop, mode):
    path, channels = photograph(tmp_path / "photo.png", across, down, mode), 3 if mode == "RGB" else 1
    expected = decode(path, channels, size, center_crop=crop).float()
    (found,) = Resize(size, crop)(decode_whole(path, channels)[None].float())
    difference = (found - expected).abs()
    # Pillow computes with whole numbers, and resizes some tall images first by column, then by row.
    assert difference.max() <= 2
    assert (difference > 1).float().mean() < 0.001
    assert difference.mean() < (0.001 if across == 500 else 0.25)


def test_images_of_the_right_size_stay_as_they_are():
    images = torch.randint(256, (3, 3, 33, 47)).float()
    assert torch.equal(Resize((33, 47), 1.0)(images), images)


@pytest.mark.parametrize("size", [None, (40, 56)])
def test_pixels_are_normalized_as_the_network_normalizes_them(size):
    network, normalization = nn.Sequential(nn.Flatten(), nn.LazyLinear(7)), Normalization((0.4,) * 3, (0.2,) * 3, size)
    images = torch.randint(256, (2, 1, 24, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = network(normalization(images.repeat(1, 3, 1, 1))).softmax(1)
        deployed = Deployed(Resize((24, 32), 1.0), Classifier(network, normalization, 1, (24, 32)))
        torch.testing.assert_close(deployed(images.permute(0, 2, 3, 1)), expected, rtol=1e-4, atol=1e-5)


def test_front_matter_is_what_the_hub_reads(tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    names = ["plain", "null", "a: b", "- x", "ü\u2028", "3", "#"]
    front = {
        "license": "mit",
        "tags": names,
        "model-index": [
            {
                "name": "timm:resnet18",
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": "my: photos", "type": "imagefolder", "split": "test"},
                        "metrics": [{"type": "accuracy", "value": 0.875, "name": "top-1"}],
                    }
                ],
            }
        ],
    }
    card = huggingface_hub.ModelCard(f"---\n{_yaml(front)}---\n\n# Title\n")
    assert card.data.license == "mit"
    assert card.data.tags == [name.replace("\u2028", "?") for name in names]
    (result,) = card.data.eval_results
    assert result.metric_value == 0.875
    assert result.dataset_name == "my: photos"
    assert card.data.model_name == "timm:resnet18"

"""The published experiments, with their settings, accuracies and sources."""

from tekapctl.presets.preset import PAIRS, Preset, for_pair, preset, presets
from tekapctl.presets.published import Published, published

__all__ = ["PAIRS", "Preset", "Published", "for_pair", "preset", "presets", "published"]

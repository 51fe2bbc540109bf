"""Published experiments: settings, accuracies and sources."""

from tekapctl.experiments.presets.preset import PAIRS, Preset, Published, for_pair, preset, presets, published

__all__ = ["PAIRS", "Preset", "Published", "for_pair", "preset", "presets", "published"]

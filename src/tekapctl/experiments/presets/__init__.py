"""Published experiments: settings, accuracies and sources."""

from tekapctl.experiments.presets.notice import by_hand, changed, listed, taken
from tekapctl.experiments.presets.preset import PAIRS, Preset, Published, for_pair, preset, presets, published

__all__ = [
    "PAIRS",
    "Preset",
    "Published",
    "by_hand",
    "changed",
    "for_pair",
    "listed",
    "preset",
    "presets",
    "published",
    "taken",
]

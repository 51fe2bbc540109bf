"""The winner of a search against the default settings, on seeds that the search has not used."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tekapctl.experiments.comparison.groups import Finished
from tekapctl.experiments.comparison.statistics import ALPHA, Difference, Summary, paired
from tekapctl.experiments.comparison.table import difference_cells
from tekapctl.experiments.tuning.candidates import Candidate

Split = Literal["val", "test"]
Verdict = Literal["better", "worse", "no clear difference", "too few seeds", "diverged", "default"]

_KEEP = "Keep the default settings."


@dataclass(frozen=True)
class Compared:
    """Top-1 accuracies (0 to 1) on one set of images, of the winner and of the default settings.

    The difference is paired by seed. It is None if the winner is the default settings, as is `default`.
    """

    winner: Summary | None
    default: Summary | None
    difference: Difference | None


@dataclass(frozen=True)
class Confirmation:
    """What fresh seeds say of the winner.

    Attributes:
        winner: The winner; the default settings if no candidate was better in the search.
        seeds: The fresh seeds.
        diverged: The seeds with which the winner's training diverged.
        val: On the validation images, on which the winner was chosen.
        test: On the test images, which the search has not looked at.
    """

    winner: Candidate
    seeds: tuple[int, ...]
    diverged: tuple[int, ...]
    val: Compared
    test: Compared

    @property
    def verdict(self) -> Verdict:
        """The conclusion, from the test images: the choice of the winner has made its validation images too easy."""
        if not self.winner.number:
            return "default"
        if self.diverged:
            return "diverged"
        found = self.test.difference
        if found is None or found.p_value is None:
            return "too few seeds"
        if found.p_value >= ALPHA:
            return "no clear difference"
        return "better" if found.mean > 0 else "worse"

    @property
    def sentences(self) -> list[str]:
        """The verdict in words, and what to do."""
        mean, interval = difference_cells(self.test.difference, 100.0, unit="points")
        count = f"{len(self.seeds)} fresh seed{'s' * (len(self.seeds) > 1)}"
        measured = f"Test top-1: {mean}{f' (95 % CI {interval})' if interval else ''}, {count}."
        match self.verdict:
            case "default":
                return ["No candidate beat the default settings on the validation images: keep them."]
            case "diverged":
                seeds = ", ".join(map(str, self.diverged))
                return [f"The winner is not reliable: its training diverged with seed {seeds}.", _KEEP]
            case "better":
                return ["The winner is better than the default settings beyond seed noise.", measured]
            case "worse":
                return ["The winner is worse than the default settings beyond seed noise.", measured, _KEEP]
            case "too few seeds":
                return ["Too few seeds to tell the winner from the default settings.", measured, "Confirm on more."]
            case _:
                advice = f"{_KEEP[:-1]}, or confirm on more seeds."
                return ["The winner is not better than the default settings beyond seed noise.", measured, advice]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "seeds": list(self.seeds),
            "diverged": list(self.diverged),
            "val_top1": asdict(self.val),
            "test_top1": asdict(self.test),
            "verdict": self.verdict,
            "conclusions": self.sentences,
        }


def confirm(
    winner: Candidate,
    seeds: tuple[int, ...],
    of_winner: Mapping[int, Finished],
    of_default: Mapping[int, Finished],
) -> Confirmation:
    """Compare finished runs of the winner and of the default settings, by seed; a missing one of the winner diverged.

    `of_default` is empty if the winner is the default settings.
    """
    shared = sorted(of_winner.keys() & of_default.keys())

    def compared(split: Split) -> Compared:
        field = "last_val_top1" if split == "val" else "last_top1"
        ours, theirs = (
            {seed: float(run.summary[field]) for seed, run in runs.items()} for runs in (of_winner, of_default)
        )
        difference = paired([ours[seed] for seed in shared], [theirs[seed] for seed in shared]) if shared else None
        return Compared(Summary.of(list(ours.values())), Summary.of(list(theirs.values())), difference)

    diverged = tuple(seed for seed in seeds if seed not in of_winner)
    return Confirmation(winner, seeds, diverged, compared("val"), compared("test"))

"""What robustness a user asks to be measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from tekapctl.errors import UsageError
from tekapctl.registry import unknown_name
from tekapctl.robustness.attacks import FGSM, PGD
from tekapctl.robustness.corruptions import CORRUPTIONS, SEVERITIES, Corruption
from tekapctl.robustness.occlusion import Occlusion
from tekapctl.robustness.shift import Shift

EPSILON = 8 / 255
_ATTACKS = {"fgsm": FGSM, "pgd": PGD}


@dataclass(frozen=True)
class Request:
    """Shifts of the test images, and data sets for a linear probe.

    Attributes:
        attacks: `fgsm`, `pgd`.
        epsilons: Their bounds, in the range from black to white.
        corruptions: Names of corruptions, or `all`.
        severities: Theirs, 1 to 5.
        occlusions: Shares of the images' area.
        probes: Names of data sets.
    """

    attacks: Sequence[str] = ()
    epsilons: Sequence[float] = (EPSILON,)
    corruptions: Sequence[str] = ()
    severities: Sequence[int] = SEVERITIES
    occlusions: Sequence[float] = ()
    probes: Sequence[str] = ()

    def shifts(self) -> list[Shift]:
        """The shifts, in this order.

        Raises:
            UsageError: A name is unknown, or a number is out of range.
        """
        for name, known in ((each, _ATTACKS) for each in self.attacks):
            if name not in known:
                raise unknown_name("attack", name, list(known))
        kinds = list(CORRUPTIONS) if "all" in self.corruptions else list(self.corruptions)
        for kind in kinds:
            if kind not in CORRUPTIONS:
                raise unknown_name("corruption", kind, [*CORRUPTIONS, "all"])
        _check("severity", self.severities, 1, 5)
        _check("epsilon", self.epsilons, 0, 1)
        _check("share of the area", self.occlusions, 0, 1)
        attacks: list[Shift] = [_ATTACKS[name](epsilon) for name in self.attacks for epsilon in self.epsilons]
        corrupted = [Corruption(kind, severity) for kind in kinds for severity in self.severities]
        return [*attacks, *corrupted, *(Occlusion(share) for share in self.occlusions)]


def _check(what: str, values: Sequence[float | int], low: float | int, high: float | int) -> None:
    for value in values:
        if not low <= value <= high:
            raise UsageError(f"{value:g} is no {what}.", f"Give a number from {low} to {high}.")

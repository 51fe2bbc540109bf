"""TeKAP's own noise: independent for each logit, the same for every teacher."""

from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.knowledge import Knowledge
from tekapctl.perturbations.perturbation import PERTURBATIONS, Basis, LogitPerturbation


@PERTURBATIONS.register("isotropic")
class Isotropic(LogitPerturbation):
    """`d = n`, with `n` the noise itself: Hossain et al., ICLR 2025."""

    asks: ClassVar[bool] = False

    @classmethod
    def of(cls, basis: Basis) -> "Isotropic":
        """The same for any teacher, who is asked nothing."""
        return cls()

    def deviate(
        self, view: Knowledge, labels: Int64[Tensor, " batch"] | None, noise: Float[Tensor, "teachers batch classes"]
    ) -> Float[Tensor, "teachers batch classes"]:
        """The noise as it is."""
        return noise

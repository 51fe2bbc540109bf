"""How much of the student's gradient is due to the noise of augmented teachers."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tekapctl.data.batches import Batch
from tekapctl.engine.diversity import Figures
from tekapctl.engine.isolation import buffers_kept, copied
from tekapctl.engine.learning import Learning
from tekapctl.engine.objective import Objective
from tekapctl.models import Network
from tekapctl.parallel.team import Team
from tekapctl.tekap import Level


class StudentGradients:
    """Gradients of a loss by the student's parameters; the student and its loss are left as they were.

    The process's random numbers are seeded anew.

    Args:
        network: The student, in the mode that it trains in.
        objective: Its loss; copies of it are asked, so that memories and statistics stay as they are.
        device: Where both are.
        precision: Precision of the student's passes.
        team: The processes, each of which has its share of a batch.
    """

    def __init__(
        self, network: Network, objective: Objective, device: torch.device, precision: torch.dtype, team: Team
    ) -> None:
        self.network = network
        self.objective = objective
        self.device = device
        self.precision = precision
        self.team = team

    def figures(self, batch: Batch, levels: Sequence[Level]) -> Figures:
        """What a batch's gradient g is made of.

        - `LEVEL_noise_share`: `norm(g - g0) / norm(g)`, with g0 the gradient where the level's noise weighs 0 and all
          else is equal: weights, memories, negatives, dropout.
        - `label_cosine`: the cosine of g and the gradient of the cross-entropy alone, where that is a part of the loss.

        Args:
            batch: What the loss is of.
            levels: Those whose noise is looked at.
        """
        found: Figures = {}
        whole, *of_labels = self._of(batch)
        for level in levels:
            due = (whole - self._of(batch, without=level)[0]).norm()
            found[f"{level}_noise_share"] = torch.where(due == 0, due, due / whole.norm())
        for each in of_labels:
            found["label_cosine"] = F.cosine_similarity(whole, each, dim=0)
        return found

    def _of(self, batch: Batch, without: Level | None = None) -> list[Float[Tensor, " parameters"]]:
        """The loss's gradient, each in one row and averaged over the processes.

        The cross-entropy's gradient follows it, but where the noise of a level is left out.
        """
        objective = copied(self.objective, self.team)
        if without is not None:
            for member in objective.distillations:
                member.tekap = member.tekap.with_spec(member.tekap.spec.quiet(without))
        learning = Learning(self.network, objective, self.device, self.precision, compiled=False)
        with buffers_kept(self.network):
            torch.manual_seed(batch.step)  # networks from elsewhere drop the same each time
            parts, _ = learning(batch)
            found = [self._gradient(torch.stack(list(parts.values())).sum())]
            if without is None and "cross_entropy" in parts:
                found.append(self._gradient(parts["cross_entropy"]))
        self.team.average(found)
        return found

    def _gradient(self, loss: Tensor) -> Tensor:
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        found = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([each.flatten() for each in found])

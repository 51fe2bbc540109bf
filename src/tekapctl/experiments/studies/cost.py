"""TeKAP against what it claims to replace: ensembles of real teachers, and teacher assistants."""

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from tekapctl import models
from tekapctl.errors import UsageError
from tekapctl.experiments.studies.baselines import changed, name_of, noiseless, plain, relevant
from tekapctl.experiments.studies.contrast import less
from tekapctl.experiments.studies.outcome import CALIBRATION, MACS, MACS_WITH_TEACHERS, TOP1
from tekapctl.experiments.studies.study import STUDIES, Arm, Base, Before, Design, Study
from tekapctl.models.external import is_foreign
from tekapctl.models.network import parameters


@STUDIES.register("cost")
class Cost(Study):
    """The method under the teacher, under an ensemble of several, and by way of an assistant, beside TeKAP.

    You et al., "Learning from Multiple Teacher Networks", KDD 2017; Mirzadeh et al., "Improved Knowledge Distillation
    via Teacher Assistant", AAAI 2020.
    """

    question: ClassVar[str] = "Does TeKAP reach what ensembles of teachers and teacher assistants do, and at what cost?"
    ensemble: int = Field(3, ge=2, le=64, description="Teachers of the ensemble, the study's among them.")
    assistant: Annotated[
        str | None,
        Field(description="The assistant's network; none means the one of the teacher's family nearest to the middle."),
    ] = None

    def design(self, base: Base) -> Design:
        """KD or another method, its TeKAP form with and without noise, the ensemble and the assistant."""
        spec = relevant(base.spec)
        name, simple = name_of(spec), plain(spec)
        network = base.recipe.model
        assistant = self.assistant or _between(network, spec.student)
        further = [
            Before(f"{network}, seed {seed}", base.recipe.model_copy(update={"seed": seed}))
            for seed in range(base.recipe.seed + 1, base.recipe.seed + self.ensemble)
        ]
        helped = Before(f"assistant {assistant}", changed(simple, student=assistant))
        of_many = f"{name}, {self.ensemble} teachers"
        by_way = f"{name}, by way of {assistant}"
        tekap, without = f"{name} + TeKAP", f"{name} + TeKAP without noise"
        arms = [
            Arm(name, simple),
            Arm(tekap, spec),
            Arm(without, noiseless(spec)),
            Arm(of_many, changed(simple, ensemble=[each.label for each in further])),
            Arm(by_way, changed(simple, teacher=helped.label, teacher_model=None, teacher_args={})),
        ]
        return Design(
            arms,
            [
                less(f"{tekap} less {name}", tekap, name),
                less(f"{tekap} less without noise", tekap, without),
                less(f"{tekap} less {self.ensemble} teachers", tekap, of_many),
                less(f"{tekap} less by way of {assistant}", tekap, by_way),
            ],
            outcomes=[TOP1, CALIBRATION, MACS, MACS_WITH_TEACHERS],
            before=[*further, helped],
            counts_macs=True,
        )


def _between(teacher: str, student: str) -> str:
    """The network whose number of parameters is nearest to the middle of both, of the teacher's family if it has one.

    Raises:
        UsageError: There is none between them, or the networks are not the zoo's.
    """
    remedy = "Name one: --set study.assistant=NETWORK."
    if is_foreign(teacher) or is_foreign(student):
        raise UsageError("An assistant between networks from elsewhere is for the user to choose.", remedy)
    with torch.device("meta"):  # as sizes go, weights need not be there
        networks = {name: models.build(name) for name in [*models.names(), teacher, student]}
    sizes = {name: parameters(network) for name, network in networks.items()}
    low, high = sorted((sizes[student], sizes[teacher]))
    between = [name for name, count in sizes.items() if low < count < high]
    kin = [name for name in between if type(networks[name]).__module__ == type(networks[teacher]).__module__]
    middle = math.log(low * high) / 2
    found = min(kin or between, key=lambda name: abs(math.log(sizes[name]) - middle), default=None)
    if found is None:
        raise UsageError(f"No network of the zoo is between {teacher} and {student}.", remedy)
    return found

"""TeKAP against what it claims to replace: ensembles of real teachers, and teacher assistants."""

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from tekapctl import models
from tekapctl.errors import UsageError
from tekapctl.experiments.studies.contrasts import CALIBRATION, MACS, MACS_WITH_TEACHERS, TOP1, versus
from tekapctl.experiments.studies.study import STUDIES, Arm, Design, Study, StudySetup, changed, standard_arms
from tekapctl.models.external import is_external
from tekapctl.models.network import parameters
from tekapctl.spec import StudentSpec


@STUDIES.register("cost")
class Cost(Study):
    """The method with one teacher, with a teacher ensemble and with a teacher assistant, against TeKAP.

    You et al., "Learning from Multiple Teacher Networks", KDD 2017; Mirzadeh et al., "Improved Knowledge Distillation
    via Teacher Assistant", AAAI 2020.
    """

    question: ClassVar[str] = "Does TeKAP match teacher ensembles and teacher assistants, and at what training cost?"
    ensemble: int = Field(3, ge=2, le=64, description="Teachers of the ensemble, including the study's own.")
    assistant: Annotated[
        str | None,
        Field(description="The assistant's network; unset for the mid-sized network of the teacher's family."),
    ] = None

    def design(self, setup: StudySetup) -> Design:
        """The standard arms without the undistilled one, the ensemble and the assistant."""
        standard, labels = standard_arms(setup.spec)
        simple = standard[0].spec
        assert isinstance(simple, StudentSpec)
        network, seed = setup.recipe.model, setup.recipe.seed
        assistant = self.assistant or _between(network, simple.student)
        further = [
            Arm(f"{network}, seed {number}", setup.recipe.model_copy(update={"seed": number}))
            for number in range(seed + 1, seed + self.ensemble)
        ]
        helper = Arm(f"assistant {assistant}", changed(simple, student=assistant))
        ensembled = f"{labels.method}, {self.ensemble} teachers"
        assisted = f"{labels.method}, assistant {assistant}"
        return Design(
            [
                *standard[:-1],
                Arm(ensembled, changed(simple, ensemble=[each.label for each in further])),
                Arm(assisted, changed(simple, teacher=helper.label, teacher_model=None, teacher_args={})),
            ],
            [
                *labels.contrasts()[:-1],
                versus(labels.tekap, ensembled, f"TeKAP vs. {self.ensemble} teachers"),
                versus(labels.tekap, assisted, f"TeKAP vs. assistant {assistant}"),
            ],
            outcomes=[TOP1, CALIBRATION, MACS, MACS_WITH_TEACHERS],
            prerequisites=[*further, helper],
        )


def _between(teacher: str, student: str) -> str:
    """The network whose size is nearest to the geometric mean of both, of the teacher's family if possible.

    Raises:
        UsageError: No built-in network is between them, or one of them is not built in.
    """
    remedy = "Name one: `study.assistant=NETWORK`."
    if is_external(teacher) or is_external(student):
        raise UsageError("There is no default assistant between external models.", remedy)
    with torch.device("meta"):  # sizes do not need weights
        networks = {name: models.build(name) for name in [*models.names(), teacher, student]}
    sizes = {name: parameters(network) for name, network in networks.items()}
    low, high = sorted((sizes[student], sizes[teacher]))
    between = [name for name, count in sizes.items() if low < count < high]
    family = [name for name in between if type(networks[name]).__module__ == type(networks[teacher]).__module__]
    middle = math.log(low * high) / 2
    found = min(family or between, key=lambda name: abs(math.log(sizes[name]) - middle), default=None)
    if found is None:
        raise UsageError(f"No built-in network is larger than {student} and smaller than {teacher}.", remedy)
    return found

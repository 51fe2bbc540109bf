"""No step of the training loop mixes devices or waits for the device, and each launches no more kernels than recorded.

The first step of each epoch and what happens between epochs may wait.
"""

import pytest

from helpers.emulated_cuda.steps import train
from tekapctl.data.augment.augmentation import AUGMENTATIONS
from tekapctl.distillation.methods import METHODS
from tekapctl.distillation.perturbations import PERTURBATIONS
from tekapctl.optim import OPTIMIZERS
from tekapctl.train.build import build_run

CRD = {"name": "crd", "negatives": 8}
BOTH = {"method": CRD, "alpha": 1.0, "beta": 0.8}
PERSPECTIVES = {"logit": {"teachers": 2}, "feature": {"teachers": 2}}
WITH_INIT_STAGE = {"name": "", "init_epochs": 1}
CASES = {
    "kd": {"method": "kd"},
}


def method(name: str) -> dict:
    stage = {"init_epochs": 1} if "init_epochs" in METHODS[name].model_fields else {}
    return {"method": {"name": name, **stage}, "alpha": 0.5, "tekap": PERSPECTIVES}


CASES = {
    **{f"method {name}": method(name) for name in METHODS.names()},
}


@pytest.mark.parametrize("name", CASES)
def test_step(name, home, student, gpu):
    trainer = build_run(student(**CASES[name]), home).trainer
    steps = train(trainer, gpu)
    print(name, [step.kernels.total() for step in steps], steps[-1].kernels.most_common(6))
    waits = [wait for step in steps for wait in step.waits]
    assert not waits, "\n".join(dict.fromkeys(waits))

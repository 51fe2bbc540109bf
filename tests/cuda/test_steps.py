"""No step of the training loop mixes devices or waits for the device, and each launches no more kernels than recorded.

The first step of each epoch and what happens between epochs may wait.
"""

from collections.abc import Mapping
from typing import Any

import pytest

from helpers.emulated_cuda.steps import DATA, SLACK, train
from tekapctl.data.augment.augmentation import AUGMENTATIONS
from tekapctl.distillation.methods import METHODS
from tekapctl.distillation.perturbations import PERTURBATIONS
from tekapctl.optim import OPTIMIZERS
from tekapctl.train.build import build_run

CRD = {"name": "crd", "negatives": 8}
BOTH = {"method": CRD, "alpha": 1.0, "beta": 0.8}
TWO_EACH = {"logit": {"teachers": 2}, "feature": {"teachers": 2}}
WAITING = {"method kdsvd": "status of a solver"}
"""Steps that wait, and what for."""


def method(name: str) -> dict[str, Any]:
    stage = {"init_epochs": 1} if "init_epochs" in METHODS[name].model_fields else {}
    return {"method": {"name": name, **stage}, "alpha": 0.5, "tekap": TWO_EACH}


def augmented(*names: str) -> dict[str, Any]:
    return {"data": {**DATA, "augment": [{"name": name} for name in names]}}


CASES: Mapping[str, dict[str, Any]] = {
    **{f"method {name}": method(name) for name in METHODS.names() if name != "crd"},
    **{f"perturbation {name}": {"tekap": {"logit": {"perturbation": name}}} for name in PERTURBATIONS.names()},
    **{f"augmentation {name}": augmented(name) for name in AUGMENTATIONS.names()},
    **{f"optimizer {name}": {**BOTH, "optimizer": {"name": name}} for name in OPTIMIZERS.names()},
    "crd, relax": {"method": {**CRD, "mode": "relax"}},
    "crd, drawn with replacement": {"method": {**CRD, "negatives": 40}},
    "crd, few of many": {"method": {**CRD, "negatives": 1}, "data": {**DATA, "samples": 200}, "batch_size": 80},
    "crd, queue": {"method": {**CRD, "memory": "queue"}},
    "ensemble": {**BOTH, "ensemble": ["resnet14"]},
    "angular, kd": {"method": "kd", "angular": {"views": 2, "pretrain_epochs": 1}},
    "angular, reviewkd, diagnosed": {"method": "reviewkd", "angular": {"views": 2}, "diagnose": True},
    "uniform noise": {**BOTH, "tekap": {"logit": {"distribution": "uniform"}, "feature": {"distribution": "uniform"}}},
    "standardized logits": {"method": "dkd", "standardize_logits": True},
    "float32": {**BOTH, "precision": "float32"},
    "two parts, average, clipping": {**BOTH, "accumulate": 2, "ema": 0.9, "optimizer": {"clip_grad": 1.0}},
    "two parts, dot, clipping": {**BOTH, "accumulate": 2, "optimizer": {"name": "dot", "clip_grad": 1.0}},
    "mlkd, mixed": {"method": "mlkd", **augmented("cutmix", "mixup"), "label_smoothing": 0.1},
    "subset": {"data": {**DATA, "samples": 40, "train_fraction": 0.8, "val_fraction": 0.2, "imbalance": 2}},
}

KERNELS = {
    "method kd": 267,
    "method ab": 494,
    "method abkd": 411,
    "method at": 647,
    "method cc": 363,
    "method dist": 513,
    "method dkd": 483,
    "method eakd": 381,
    "method embed": 454,
    "method fitnet": 360,
    "method fsp": 430,
    "method ft": 585,
    "method kdsvd": 1682,
    "method mlkd": 1885,
    "method nst": 755,
    "method ofd": 578,
    "method pkt": 439,
    "method reviewkd": 1198,
    "method rkd": 604,
    "method rld": 504,
    "method seed": 465,
    "method simkd": 338,
    "method sp": 417,
    "method srrl": 350,
    "method vid": 689,
    "method wkd-f": 483,
    "method wkd-l": 930,
    "method wttm": 330,
    "perturbation covariance": 268,
    "perturbation isotropic": 267,
    "perturbation class-covariance": 268,
    "perturbation relative": 269,
    "perturbation temperature": 271,
    "perturbation dropout": 273,
    "perturbation mixing": 281,
    "augmentation augmix": 896,
    "augmentation color-jitter": 284,
    "augmentation cutmix": 287,
    "augmentation mixup": 288,
    "augmentation randaugment": 438,
    "augmentation random-erasing": 270,
    "augmentation trivialaugment": 359,
    "optimizer sgd": 444,
    "optimizer adamw": 447,
    "optimizer dot": 519,
    "optimizer lamb": 471,
    "optimizer muon": 747,
    "crd, relax": 420,
    "crd, drawn with replacement": 414,
    "crd, few of many": 436,
    "crd, queue": 399,
    "ensemble": 715,
    "angular, kd": 550,
    "angular, reviewkd, diagnosed": 2086,
    "uniform noise": 444,
    "standardized logits": 341,
    "float32": 423,
    "two parts, average, clipping": 950,
    "two parts, dot, clipping": 1049,
    "mlkd, mixed": 1057,
    "subset": 267,
}
"""The largest number of kernels of a step of resnet14 > resnet8, by case; a higher number needs a reason."""


@pytest.mark.parametrize("name", CASES)
def test_a_step_queues_its_work_and_no_more_kernels_than_recorded(name, home, student, gpu, record_property):
    steps = train(build_run(student(**CASES[name]), home).trainer, gpu)
    waits = {wait for step in steps for wait in step.waits}
    unknown = [wait for wait in waits if not wait.startswith(WAITING.get(name, "nothing"))]
    kernels = max(step.kernels.total() for step in steps)
    print(f'    "{name}": {kernels},')
    assert not unknown, "\n".join(unknown)
    assert kernels <= SLACK * KERNELS[name], steps[-1].kernels.most_common()

"""What a step may cost, counted: operators, the bytes they make, teacher passes, and reads from the device."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from conformance.inputs import batch_of
from tekapctl import models
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet
from tekapctl.distillation.methods import Pair
from tekapctl.distillation.methods.crd.memory import MemoryBanks
from tekapctl.distillation.methods.crd.negatives import ClassNegatives
from tekapctl.distillation.objective import Distillation
from tekapctl.distillation.perturbations import PERTURBATIONS, PerturbationContext
from tekapctl.distillation.tekap import SeededNoise, Tekap
from tekapctl.models.normalization import Normalization
from tekapctl.spec import StudentSpec, parse
from tekapctl.train.teacher_statistics import statistics_of
from tekapctl.train.trainer import Trainer

CPU = torch.device("cpu")
READS = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.is_nonzero.default"}


class Count(TorchDispatchMode):
    """Counts operators and the bytes of what they make."""

    def __init__(self):
        super().__init__()
        self.operators = Counter()
        self.largest = 0
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.operators[str(function)] += 1
        given = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:
            size = made.untyped_storage().nbytes()
            self.bytes += size
            self.largest = max(self.largest, size)
        return made


def trainer(**values) -> Trainer:
    spec = parse({"student": "resnet8", "batch_size": 16, "precision": "float32", **values})
    assert isinstance(spec, StudentSpec)
    images = torch.randint(256, (160, 3, 16, 16), dtype=torch.uint8)
    image_set = ImageSet(images, torch.arange(160) % 10, tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)
    batches = Batches(image_set, 16, device=CPU, padding=2, flip=True, seed=0)
    teacher, student = models.build("resnet14", 10, 3).eval(), models.build("resnet8", 10, 3)
    for network in (teacher, student):
        network.normalization = Normalization(image_set.mean, image_set.std)
    with torch.no_grad():
        probe = torch.randn(2, 3, 16, 16)
        pair = Pair(student.knowledge(probe), teacher.knowledge(probe), image_set.labels, 0)
    asked = statistics_of(teacher, image_set, CPU, torch.float32)
    basis = PerturbationContext(teacher.classifier_layer, CPU, spec.tekap.logit.dropout, lambda: asked)
    perturbation = PERTURBATIONS[spec.tekap.logit.perturbation](basis)
    objective = Distillation(
        lambda batch: teacher.knowledge(teacher.normalize(batch.images), feature_maps=False),
        Tekap(spec.tekap, SeededNoise(spec.tekap, 0), perturbation),
        spec.method.build(pair) if spec.beta else None,
        gamma=spec.gamma,
        alpha=spec.alpha,
        beta=spec.beta,
        temperature=4.0,
    )
    return Trainer(spec, student, objective, batches, batches, torch.float32)


def count_step(trained: Trainer) -> Count:
    batches = trained.train_batches.epoch(0)
    trained.step(next(batches))
    batch = next(batches)
    with Count() as count:
        trained.step(batch)
    return count


LEVELS = {
    "logit": {"method": "kd"},
    "feature": {"method": {"name": "crd", "negatives": 64}},
    "both": {"method": {"name": "crd", "negatives": 64}, "alpha": 1.0, "beta": 0.8},
    **{
        f"logit, {name}": {"method": "kd", "tekap": {"logit": {"perturbation": name}}} for name in PERTURBATIONS.names()
    },
    "queue": {"method": {"name": "crd", "negatives": 64, "memory": "queue"}, "alpha": 1.0, "beta": 0.8},
}


@pytest.mark.parametrize("level", LEVELS)
def test_no_step_reads_anything_back_from_the_device(level):
    assert not READS & set(count_step(trainer(**LEVELS[level])).operators)


def test_sixteen_augmented_teachers_at_the_logit_level_cost_no_more_operators_than_one():
    one, sixteen = (count_step(trainer(method="kd", tekap={"logit": {"teachers": n}})) for n in (1, 16))
    assert one.operators == sixteen.operators
    plain = count_step(trainer(method="kd", tekap={"logit": {"teachers": 0}}))
    added = sixteen.operators.total() - plain.operators.total()
    assert added <= 12
    assert sixteen.bytes < 1.02 * plain.bytes


def test_crd_makes_nothing_of_the_size_of_the_gathered_rows():
    samples, negatives, batch, width = 4000, 1000, 16, 128
    labels = torch.arange(samples) % 10
    sampler = ClassNegatives(labels, negatives, "exact", 0)
    banks = MemoryBanks(samples, width, sampler=sampler, temperature=0.07, momentum=0.5, seed=0)
    index = torch.arange(batch)
    of_student = torch.nn.functional.normalize(torch.randn(batch, width)).requires_grad_()
    of_teachers = torch.nn.functional.normalize(torch.randn(2, batch, width), dim=2).requires_grad_()
    with Count() as count, FlopCounterMode(display=False) as flops:
        terms = banks.terms(of_student, of_teachers, batch_of(index, labels=labels[index]), updates=2)
        (terms.student + terms.teachers.sum()).backward()
    gathered = batch * (negatives + 1) * width * 4
    assert count.largest <= 2 * batch * samples * 4 < gathered / 10
    # Scores and gradients: two products with the bank for each of student, teacher and augmented teacher.
    assert flops.get_total_flops() < 1.05 * 3 * 2 * (2 * batch * samples * width)


def test_a_step_asks_the_teacher_once_whatever_the_number_of_augmented_teachers():
    trained = trainer(**LEVELS["both"], tekap={"logit": {"teachers": 5}, "feature": {"teachers": 3}})
    asked = []
    teacher = trained.objective.teacher
    trained.objective.teacher = lambda batch: asked.append(len(batch.labels)) or teacher(batch)
    trained.step(next(trained.train_batches.epoch(0)))
    assert asked == [16]


def test_negatives_come_in_the_order_in_which_memory_is_read():
    labels = torch.arange(2000) % 10
    drawn = ClassNegatives(labels, 800, "exact", 0)(torch.arange(16), 0)[:, 1:]
    assert (drawn.diff(dim=1) > 0).all()

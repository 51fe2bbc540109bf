"""Training objectives: weighted sums of named losses, the first of which is that on labels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.data.batch import Batch
from tekapctl.distillation.angular import AngularViews
from tekapctl.distillation.methods.kd import KD
from tekapctl.distillation.methods.losses import standardized
from tekapctl.distillation.methods.method import Method
from tekapctl.distillation.tekap import LEVELS, AugmentedTeachers, Tekap
from tekapctl.models.knowledge import Knowledge, Level, Requires
from tekapctl.timing import Clock, no_clock

Parts = dict[str, Float[Tensor, ""]]
"""Weighted losses by name; the training loss is their sum."""
TeacherForward = Callable[[Batch], Knowledge]
"""Returns the frozen teacher's knowledge of a batch, without gradients."""


class Objective(nn.Module, ABC):
    """The loss of the network in training, with any trainable parts and buffers of its own."""

    requires: Requires = Requires()
    init_stage: bool = False
    """Whether the init stage, before the student's epochs, is under way."""
    clock: Clock = staticmethod(no_clock)

    @property
    def trains_learner(self) -> bool:
        """Whether the network is trained in this stage, and not only parts of a method or the views."""
        return True

    @property
    def distillations(self) -> "list[Distillation]":
        """The distillation from each teacher."""
        return []

    @abstractmethod
    def forward(self, student: Knowledge, batch: Batch) -> Parts:
        """The weighted losses of a batch; several processes average them."""


_YES = 0.2
"""Classes with a larger share in a mixed image are among its answers, as in timm's procedure A3."""


def cross_entropy(
    logits: Float[Tensor, "batch classes"], batch: Batch, label_smoothing: float, *, binary: bool = False
) -> Float[Tensor, ""]:
    """The cross-entropy with the labels, or with the probabilities of mixed images; images without a label count 0.

    Args:
        logits: Of the student.
        batch: The labels or probabilities, and the weights of the labels.
        label_smoothing: Share of each label that is spread over all classes.
        binary: Whether to average the binary cross-entropies of the classes instead.
    """
    if binary:
        targets = F.one_hot(batch.labels, logits.shape[1]).float() if batch.targets is None else batch.targets
        targets = targets.lerp(targets.mean(1, keepdim=True).expand_as(targets), label_smoothing)
        if batch.targets is not None:
            targets = (targets > _YES).float()
        each = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(1)
        return (each if batch.label_weights is None else each * batch.label_weights).mean()
    if batch.label_weights is None:
        targets = batch.labels if batch.targets is None else batch.targets
        return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
    log_p = logits.float().log_softmax(1)
    if batch.targets is None:
        targets = F.one_hot(batch.labels, logits.shape[1]) * batch.label_weights.unsqueeze(1)
    else:
        targets = batch.targets
    smoothed = targets.lerp(targets.mean(1, keepdim=True).expand_as(targets), label_smoothing)
    return -(smoothed * log_p).sum(1).mean()


class Classification(Objective):
    """Cross-entropy with the labels."""

    def __init__(self, label_smoothing: float = 0.0, *, binary: bool = False) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.binary = binary

    def forward(self, student: Knowledge, batch: Batch) -> Parts:
        """The cross-entropy alone."""
        loss = cross_entropy(student.logits, batch, self.label_smoothing, binary=self.binary)
        return {"cross_entropy": batch.shard.rescale(loss)}


class Distillation(Objective):
    """`gamma * cross-entropy + alpha * KD + beta * method`, the last two under the teacher and its augmented teachers.

    In the init stage the loss is the method's `init_loss` alone, or the loss of the learned views (Angular-KD), whose
    mean with the teacher replaces it. The method is None for KD alone. If `binary`, the cross-entropy is the mean of
    binary ones of the classes. With `standardize_logits`, losses of logits see logits of mean 0 and deviation 1.
    """

    def __init__(
        self,
        teacher: TeacherForward,
        tekap: Tekap,
        method: Method | None,
        *,
        gamma: float,
        alpha: float,
        beta: float,
        temperature: float,
        label_smoothing: float = 0.0,
        binary: bool = False,
        standardize_logits: bool = False,
        views: AngularViews | None = None,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.tekap = tekap
        self.kd = KD(temperature)
        self.method = method
        self.gamma, self.alpha, self.beta = gamma, alpha, beta
        self.label_smoothing = label_smoothing
        self.binary = binary
        self.standardize_logits = standardize_logits
        self.views = views
        self.requires = Requires() if method is None else method.requires

    def forward(self, student: Knowledge, batch: Batch) -> Parts:
        """The losses with a weight above 0.

        A loss that compares samples is computed from the full batch in every process; others from this process's
        samples, rescaled so that the mean over processes is the full batch's loss.
        """
        local = batch
        if self.couples_samples:
            student, batch = student.gather(local.shard), local.gather()
        student = student.float()
        parts: Parts = {}
        if self.gamma and not self.init_stage:
            seen = [student.logits] if student.strong is None else [student.logits, student.strong.logits]
            errors = [cross_entropy(logits, batch, self.label_smoothing, binary=self.binary) for logits in seen]
            parts["cross_entropy"] = self.gamma * sum(errors[1:], start=errors[0])
        if self.needs_teacher:
            with self.clock("teacher"), torch.no_grad():
                teacher = self.teacher(local)
                teacher = (teacher.gather(local.shard) if self.couples_samples else teacher).float()
            with torch.autocast(batch.index.device.type, enabled=False):
                parts |= self._distillation_losses(student, teacher, batch)
        return parts if self.couples_samples else {name: local.shard.rescale(loss) for name, loss in parts.items()}

    def _distillation_losses(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Parts:
        parts: Parts = {}
        kd_scale = 1.0
        if self.views is not None:
            with self.clock("views"):
                if self._pretrains_views:
                    return {"init": self.views.pretraining_loss(teacher, batch)}
                teacher, parts["views"] = self.views(teacher, batch)
            kd_scale = self.views.logit_scale
        augmented = {level: self._augment(level, teacher, batch) for level in self._levels_read}
        if self._uses_kd:
            loss = self._method_loss(self.kd, student, teacher, augmented["logit"], batch)
            parts["kd"] = self.alpha * kd_scale * loss
        if (method := self._current_method) is not None:
            loss = self._method_loss(method, student, teacher, augmented[method.level], batch)
            parts |= {"init": loss} if self.init_stage else {"method": self.beta * loss}
        return parts

    def _augment(self, level: Level, teacher: Knowledge, batch: Batch) -> AugmentedTeachers:
        with self.clock("TeKAP"), torch.no_grad():
            if level == "logit":
                return self.tekap.augment_logits(teacher, batch.step, batch.shard.start, batch.labels)
            return self.tekap.augment_features(teacher, batch.step, batch.shard.start)

    def _method_loss(
        self, method: Method, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers, batch: Batch
    ) -> Float[Tensor, ""]:
        with self.clock("method"):
            if self.init_stage:
                return method.augmented_init_loss(student, teacher, augmented, batch)
            if self.standardize_logits and method.level == "logit" and not method.standardizes_logits:
                student, teacher = _standardized(student), _standardized(teacher)
                augmented = _standardized_teachers(augmented)
            return method.augmented_loss(student, teacher, augmented, batch)

    @property
    def distillations(self) -> "list[Distillation]":
        """This one."""
        return [self]

    @property
    def trains_learner(self) -> bool:
        """Whether the student is trained in this stage, and not only parts of the method or the views."""
        if not self.init_stage:
            return True
        return not self._pretrains_views and (self.method is None or self.method.init_trains_student)

    @property
    def couples_samples(self) -> bool:
        """Whether the loss compares samples of a batch with each other, so that it must see all of them."""
        return self.views is not None or (self.method is not None and self.method.couples_samples)

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss of this stage reads the teacher."""
        return self._pretrains_views or bool(self._levels_read)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels at which the loss of this stage has augmented teachers."""
        return tuple(level for level in self._levels_read if getattr(self.tekap.spec, level).teachers)

    @property
    def _levels_read(self) -> tuple[Level, ...]:
        """The levels that the losses of this stage read the teacher at."""
        read = {"logit"} if self._uses_kd else set()
        read |= {self._current_method.level} if self._current_method else set()
        return tuple(level for level in LEVELS if level in read)

    @property
    def _pretrains_views(self) -> bool:
        """Whether this is the init stage of the learned views, which trains nothing else."""
        return self.init_stage and self.views is not None and self.views.spec.pretrain_epochs > 0

    @property
    def _uses_kd(self) -> bool:
        return bool(self.alpha) and not self.init_stage

    @property
    def _current_method(self) -> Method | None:
        """The method, if its loss counts in this stage."""
        if self.method is None or self._pretrains_views:
            return None
        counts = self.init_stage or (bool(self.beta) and not self.method.init_only)
        return self.method if counts else None


def _standardized(knowledge: Knowledge) -> Knowledge:
    strong = None if knowledge.strong is None else _standardized(knowledge.strong)
    return replace(knowledge, logits=standardized(knowledge.logits), strong=strong)


def _standardized_teachers(augmented: AugmentedTeachers) -> AugmentedTeachers:
    logits, strong = (z if z is None else standardized(z) for z in (augmented.logits, augmented.strong_logits))
    return replace(augmented, logits=logits, strong_logits=strong)


class Ensemble(Objective):
    """The mean of the losses under several teachers, so that their number does not change the weight of distillation.

    Each teacher has its own augmented teachers and its own trainable parts of the method. You et al., "Learning from
    Multiple Teacher Networks", KDD 2017, with equal weights. The cross-entropy is the first member's.
    """

    def __init__(self, members: Sequence[Distillation]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        for member in members:
            self.requires |= member.requires

    @property
    def trains_learner(self) -> bool:
        """Whether the student is trained in this stage."""
        for member in self.distillations:
            member.init_stage = self.init_stage
        return any(member.trains_learner for member in self.distillations)

    def forward(self, student: Knowledge, batch: Batch) -> Parts:
        """The cross-entropy, and the mean of each other loss."""
        found = []
        for member in self.distillations:
            member.init_stage = self.init_stage
            member.clock = self.clock
            found.append(member(student, batch))
        parts: Parts = {}
        for name in dict.fromkeys(name for each in found for name in each):
            values = [each[name] for each in found if name in each]
            parts[name] = values[0] if name == "cross_entropy" else torch.stack(values).mean()
        return parts

    @property
    def distillations(self) -> list[Distillation]:
        """The members."""
        return [member for member in self.members if isinstance(member, Distillation)]


def combine(members: Sequence[Distillation]) -> Objective:
    """The objective of one teacher, or the ensemble of several; only the first one keeps its cross-entropy."""
    if len(members) == 1:
        return members[0]
    for member in members[1:]:
        member.gamma = 0.0
    return Ensemble(members)

"""What a learner is trained towards: the parts of its loss, each with its weight."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.data.batches import Batch
from tekapctl.distill.angular import AngularViews
from tekapctl.distill.methods.kd import KD, standardized
from tekapctl.distill.methods.method import Method, sum_over_teachers
from tekapctl.distill.tekap import LEVELS, AugmentedTeachers, Tekap
from tekapctl.models.network import Knowledge, Level, Requires
from tekapctl.timing import Clock, no_clock

Parts = dict[str, Float[Tensor, ""]]
"""Weighted parts of a loss by name; the loss is their sum."""
Teacher = Callable[[Batch], Knowledge]
"""Gives the frozen teacher's knowledge of a batch, without gradients."""


class Objective(nn.Module, ABC):
    """The loss of a learner, with whatever trainable parts and buffers it has of its own."""

    requires: Requires = Requires()
    init_stage: bool = False
    """Whether the method's first stage is under way."""
    clock: Clock = staticmethod(no_clock)

    @property
    def trains_learner(self) -> bool:
        """Whether the learner is trained now."""
        return True

    @property
    def distillations(self) -> "list[Distillation]":
        """The distillation from each teacher."""
        return []

    @abstractmethod
    def forward(self, learner: Knowledge, batch: Batch) -> Parts:
        """The weighted parts of the loss for a batch; several processes average them."""


class Classification(Objective):
    """Cross-entropy with the labels."""

    def forward(self, learner: Knowledge, batch: Batch) -> Parts:
        """The cross-entropy alone."""
        return {"cross_entropy": batch.shard.rescale(F.cross_entropy(learner.logits.float(), batch.labels))}


class Distillation(Objective):
    """`gamma * cross-entropy + alpha * KD + beta * method`, each under the teacher and its augmented teachers.

    Where the method has a first stage, its loss is all there is while `init_stage` is set.

    Args:
        teacher: Gives the teacher's knowledge of a batch.
        tekap: Makes the augmented teachers.
        method: The method's own loss, or None where KD is all.
        gamma: Weight of the cross-entropy.
        alpha: Weight of KD.
        beta: Weight of the method's own loss.
        temperature: Temperature of KD.
        standardize_logits: Whether logit losses see logits of mean 0 and deviation 1.
        views: Learned views of the teacher (Angular-KD), whose mean with it takes its place; None for none.
    """

    def __init__(
        self,
        teacher: Teacher,
        tekap: Tekap,
        method: Method | None,
        *,
        gamma: float,
        alpha: float,
        beta: float,
        temperature: float,
        standardize_logits: bool = False,
        views: AngularViews | None = None,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.tekap = tekap
        self.kd = KD(temperature)
        self.method = method
        self.gamma, self.alpha, self.beta = gamma, alpha, beta
        self.standardize_logits = standardize_logits
        self.views = views
        self.requires = Requires() if method is None else method.requires

    @property
    def trains_learner(self) -> bool:
        """Whether the learner is trained now, and not only what the method has of its own."""
        if self._pretrains_views:
            return False
        return not (self.init_stage and self.method is not None and not self.method.init_trains_student)

    @property
    def _pretrains_views(self) -> bool:
        """Whether only the views are trained now."""
        return self.init_stage and self.views is not None and self.views.spec.pretrain_epochs > 0

    @property
    def distillations(self) -> "list[Distillation]":
        """This one."""
        return [self]

    @property
    def couples_samples(self) -> bool:
        """Whether the loss compares samples of a batch with each other, so that it must see all of it."""
        return self.views is not None or (self.method is not None and self.method.couples_samples)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels of augmented teachers that the loss asks now."""
        asked = set()
        if self.alpha and not self.init_stage:
            asked.add("logit")
        if self._method is not None:
            asked.add(self._method.level)
        return tuple(level for level in LEVELS if level in asked and getattr(self.tekap.spec, level).teachers)

    @property
    def asks_teacher(self) -> bool:
        """Whether anything is distilled now."""
        return self._pretrains_views or self._method is not None or bool(self.alpha and not self.init_stage)

    @property
    def _method(self) -> Method | None:
        """The method, where its loss counts now."""
        if self._pretrains_views:
            return None
        if self.method is None or self.init_stage:
            return self.method
        return None if self.method.init_only or not self.beta else self.method

    def forward(self, learner: Knowledge, batch: Batch) -> Parts:
        """The parts whose weight is above 0; their mean over all processes is the batch's."""
        if not self.couples_samples:
            parts = self._parts(learner, batch, self.teacher, batch)
            return {name: batch.shard.rescale(value) for name, value in parts.items()}
        return self._parts(learner.gather(batch.shard), batch.gather(), self._teacher_of_all, batch)

    def _teacher_of_all(self, own: Batch) -> Knowledge:
        return self.teacher(own).gather(own.shard)

    def _parts(self, learner: Knowledge, batch: Batch, teacher_of: Teacher, own: Batch) -> Parts:
        """The parts for a batch, whose teacher is asked with the samples that this process has of it."""
        parts: Parts = {}
        if self._pretrains_views:
            assert self.views is not None
            with self.clock("teacher"), torch.no_grad():
                teacher = teacher_of(own)
            with self.clock("views"), torch.autocast(batch.index.device.type, enabled=False):
                parts["first_stage"] = self.views.pretraining_loss(teacher.float(), batch)
            return parts
        if self.init_stage and self.method is not None:
            teacher = self._ask(teacher_of, own, batch, parts)
            parts["first_stage"] = self._method_loss(self.method, learner.float(), teacher, batch)
            return parts
        if self.gamma:
            views = [view.logits.float() for view in (learner, learner.strong) if view is not None]
            errors = [F.cross_entropy(logits, batch.labels) for logits in views]
            parts["cross_entropy"] = self.gamma * sum(errors[1:], start=errors[0])
        method = self._method
        if not self.asks_teacher:
            return parts
        teacher = self._ask(teacher_of, own, batch, parts)
        with torch.autocast(batch.index.device.type, enabled=False):
            learner = learner.float()
            if self.alpha:
                augmented = self._augmented(teacher, batch, "logit")
                with self.clock("method"):
                    student, target = self._for_logit_loss(learner), self._for_logit_loss(teacher)
                    scale = 1.0 if self.views is None else self.views.logit_scale
                    parts["kd"] = self.alpha * scale * self.kd.augmented_loss(student, target, augmented, batch)
            if method is not None:
                parts["method"] = self.beta * self._method_loss(method, learner, teacher, batch)
        return parts

    def _ask(self, teacher_of: Teacher, own: Batch, batch: Batch, parts: Parts) -> Knowledge:
        """What the teacher says, or its mean with its learned views, whose own loss becomes a part."""
        with self.clock("teacher"), torch.no_grad():
            teacher = teacher_of(own)
        if self.views is not None:
            with self.clock("views"), torch.autocast(batch.index.device.type, enabled=False):
                teacher, parts["views"] = self.views(teacher.float(), batch)
        return teacher

    def _method_loss(self, method: Method, learner: Knowledge, teacher: Knowledge, batch: Batch) -> Tensor:
        augmented = self._augmented(teacher, batch, method.level, standardize=not method.standardizes_logits)
        with self.clock("method"), torch.autocast(batch.index.device.type, enabled=False):
            teacher = teacher.float()
            if self.init_stage:
                return sum_over_teachers(method.init_loss, learner, teacher, augmented, batch)
            if method.level == "logit" and not method.standardizes_logits:
                learner, teacher = self._for_logit_loss(learner), self._for_logit_loss(teacher)
            return method.augmented_loss(learner, teacher, augmented, batch)

    def _augmented(
        self, teacher: Knowledge, batch: Batch, level: Level, *, standardize: bool = True
    ) -> AugmentedTeachers:
        with self.clock("TeKAP"), torch.no_grad():
            if level == "feature":
                return self.tekap.augment_features(teacher, batch.step, batch.shard.first)
            augmented = self.tekap.augment_logits(teacher, batch.step, batch.shard.first, batch.labels)
            if standardize and self.standardize_logits and augmented.logits is not None:
                strong = augmented.strong_logits
                augmented = replace(
                    augmented,
                    logits=standardized(augmented.logits),
                    strong_logits=None if strong is None else standardized(strong),
                )
            return augmented

    def _for_logit_loss(self, knowledge: Knowledge) -> Knowledge:
        if not self.standardize_logits:
            return knowledge
        strong = None if knowledge.strong is None else self._for_logit_loss(knowledge.strong)
        return replace(knowledge, logits=standardized(knowledge.logits), strong=strong)


class Ensemble(Objective):
    """The mean of the losses under each teacher, so that their number does not change the weight of what is distilled.

    Each teacher has augmented teachers and a method's trainable parts of its own. You et al., "Learning from Multiple
    Teacher Networks", KDD 2017, with equal weights.

    Args:
        members: The distillation from each teacher; the cross-entropy is the first one's.
    """

    def __init__(self, members: Sequence[Distillation]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        for member in members:
            self.requires |= member.requires

    @property
    def trains_learner(self) -> bool:
        """Whether the learner is trained now."""
        for member in self.distillations:
            member.init_stage = self.init_stage
        return any(member.trains_learner for member in self.distillations)

    def forward(self, learner: Knowledge, batch: Batch) -> Parts:
        """The cross-entropy, and the mean of each other part."""
        found = []
        for member in self.distillations:
            member.init_stage = self.init_stage
            member.clock = self.clock
            found.append(member(learner, batch))
        parts: Parts = {}
        for name in dict.fromkeys(name for each in found for name in each):
            values = [each[name] for each in found if name in each]
            parts[name] = values[0] if name == "cross_entropy" else torch.stack(values).mean()
        return parts

    @property
    def distillations(self) -> list[Distillation]:
        """The members."""
        return [member for member in self.members if isinstance(member, Distillation)]


def of_teachers(members: Sequence[Distillation]) -> Objective:
    """One distillation as it is, several as an ensemble."""
    if len(members) == 1:
        return members[0]
    for member in members[1:]:
        member.gamma = 0.0
    return Ensemble(members)

"""Ablations of TeKAP: its effects, the number of augmented teachers, the noise, and other perturbations."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from tekapctl.distillation.angular import PUBLISHED_VIEWS
from tekapctl.distillation.perturbations import PERTURBATIONS
from tekapctl.distillation.tekap import NO_TEKAP, Distribution, KnownPerturbation
from tekapctl.errors import UsageError
from tekapctl.experiments.studies.contrasts import Contrast, mean_of, trend, versus
from tekapctl.experiments.studies.study import (
    STUDIES,
    Arm,
    Design,
    Labels,
    Study,
    StudySetup,
    changed,
    effects_of,
    noiseless,
    plain,
    relevant,
    with_tekap,
)
from tekapctl.spec import StudentSpec, to_dict
from tekapctl.spec.effects import keep

Factor = Annotated[float, Field(gt=0)]


@STUDIES.register("controls")
class Controls(Study):
    """The method, TeKAP, each effect of TeKAP alone, and TeKAP without each effect.

    The contrast of an effect averages over all pairs of arms that differ only in that effect.
    """

    question: ClassVar[str] = (
        "How much does TeKAP help, and how much of the gain comes from the noise, the scaling and the loss weight?"
    )

    def design(self, setup: StudySetup) -> Design:
        """All arms, TeKAP against the method, and each effect."""
        spec = relevant(setup.spec)
        labels, effects = Labels.of(spec), effects_of(spec)
        everything, nothing = frozenset(effects), frozenset[str]()
        named = {
            nothing: labels.method,
            everything: labels.tekap,
            **{frozenset({effect}): f"{labels.method} + {effect}" for effect in effects},
            **{everything - {effect}: f"{labels.tekap} without {effect}" for effect in effects},
        }
        arms = [
            Arm(label, spec if kept == everything else keep(spec, kept) if kept else plain(spec))
            for kept, label in named.items()
        ]
        contrasts = [versus(labels.tekap, labels.method, f"TeKAP vs. {labels.method}")]
        for effect in effects:
            pairs = [
                (label, named[kept - {effect}])
                for kept, label in named.items()
                if effect in kept and kept - {effect} in named
            ]
            contrasts.append(mean_of(f"{effect}, all else equal", pairs))
        return Design(arms, contrasts)


@STUDIES.register("teachers")
class Teachers(Study):
    """Several numbers of augmented teachers, at the published (growing) and at a constant total loss weight."""

    question: ClassVar[str] = "How many augmented teachers should there be, and is it their number or their weight?"
    counts: Annotated[
        tuple[Annotated[int, Field(ge=1, le=4096)], ...],
        Field(min_length=2, description="Numbers of augmented teachers, besides none."),
    ] = (1, 3, 8, 16)

    def design(self, setup: StudySetup) -> Design:
        """Each number with the published weight, at a constant weight, and that weight without augmented teachers."""
        spec = relevant(setup.spec)
        name, counts = Labels.of(spec).method, sorted(set(self.counts))
        usual = spec.tekap.logit.teachers or spec.tekap.feature.teachers
        growing = {count: f"{name} + TeKAP of {count}" for count in counts}
        weight = {count: f"{name} with the weight of {count}" for count in counts}
        constant = {
            count: growing[count] if count == usual else f"{growing[count]}, weight of {usual}" for count in counts
        }
        arms = [Arm(name, plain(spec))]
        for count in counts:
            many = _with_teachers(spec, count, 1.0)
            arms.append(Arm(growing[count], many, "TeKAP, growing weight", count))
            arms.append(Arm(weight[count], keep(many, ["weight"]), "same weight, no augmented teachers", count))
            if count != usual:
                arms.append(
                    Arm(constant[count], _with_teachers(spec, count, usual / count), "TeKAP, constant weight", count)
                )
        least, most = counts[0], counts[-1]
        return Design(
            arms,
            [
                mean_of("augmented teachers, same weight", [(growing[count], weight[count]) for count in counts]),
                trend("number, growing weight", list(growing.values()), counts),
                trend("weight alone", list(weight.values()), counts),
                trend("number, constant weight", list(constant.values()), counts),
                versus(constant[most], constant[least], f"{most} vs. {least}, constant weight"),
            ],
            axis="augmented teachers",
        )


def _with_teachers(spec: StudentSpec, count: int, scale: float) -> StudentSpec:
    """The spec with a number of augmented teachers at each level that has any, with scaled loss weights."""
    levels: dict[str, dict[str, Any]] = {}
    for level, settings in to_dict(spec)["tekap"].items():
        if settings["teachers"]:
            weights = {key: scale * settings[key] for key in ("loss_weight", "student_term_weight") if key in settings}
            levels[level] = {"teachers": count, **weights}
    return with_tekap(spec, levels)


@STUDIES.register("noise")
class Noise(Study):
    """Noise of several strengths and distributions against no noise, at the same weight and scaling."""

    question: ClassVar[str] = "How strong should the noise be, and does its distribution matter?"
    factors: Annotated[
        tuple[Factor, ...], Field(min_length=1, description="Noise strengths, as multiples of the spec's noise_std.")
    ] = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
    distributions: Annotated[
        tuple[Distribution, ...], Field(min_length=1, description="Distributions of the noise.")
    ] = ("gaussian", "uniform")

    def design(self, setup: StudySetup) -> Design:
        """TeKAP without noise, and with noise of each strength and distribution."""
        spec = relevant(setup.spec)
        control = Labels.of(spec).noiseless
        arms = [Arm(control, noiseless(spec))]
        for distribution in self.distributions:
            for factor in self.factors:
                levels = {
                    level: {"noise_std": factor * settings["noise_std"], "distribution": distribution}
                    for level, settings in to_dict(spec)["tekap"].items()
                }
                arms.append(Arm(f"{distribution} x {factor:g}", with_tekap(spec, levels), distribution, factor))
        contrasts: list[Contrast] = [_vs_no_noise(arm, control) for arm in arms[1:]]
        first, *others = self.distributions
        for other in others:
            pairs = [(f"{other} x {factor:g}", f"{first} x {factor:g}") for factor in self.factors]
            contrasts.append(mean_of(f"{other} vs. {first} noise", pairs))
        return Design(arms, contrasts, axis="noise std, multiple of the published value")


def _vs_no_noise(arm: Arm, control: str) -> Contrast:
    return versus(arm.label, control, f"{arm.label} vs. no noise")


@STUDIES.register("perturbations")
class Perturbations(Study):
    """Perturbations of one size at the same total weight, and learned views (Angular-KD), against none."""

    question: ClassVar[str] = "Does any perturbation of the teacher's logits help beyond its weight and scaling?"
    factors: Annotated[
        tuple[Factor, ...], Field(min_length=1, description="Sizes, as multiples of the published noise_std.")
    ] = (10.0,)
    only: Annotated[tuple[KnownPerturbation, ...], Field(description="Perturbations to compare; empty for all.")] = ()
    views: bool = Field(True, description="Include learned views (Angular-KD).")

    def design(self, setup: StudySetup) -> Design:
        """TeKAP without noise, and with each perturbation of each size in its place.

        Raises:
            UsageError: There are no augmented teachers at the logit level.
        """
        spec = relevant(setup.spec)
        logit = spec.tekap.logit
        if not logit.teachers:
            raise UsageError(
                "The study's runs would have no augmented teachers at the logit level.",
                "Use the method kd, or set `alpha`.",
            )
        control = Labels.of(spec).noiseless
        arms = [Arm(control, noiseless(spec))]
        for perturbation in self.only or PERTURBATIONS:
            for factor in self.factors:
                settings = {"perturbation": perturbation, "noise_std": factor * logit.noise_std}
                made = with_tekap(spec, {"logit": settings})
                arms.append(Arm(f"{perturbation} x {factor:g}", made, perturbation, factor))
        if self.views:
            arms.append(Arm(f"{PUBLISHED_VIEWS} learned views", _with_views(spec)))
        axis = "size, multiple of the published noise std" if len(self.factors) > 1 else None
        return Design(arms, [_vs_no_noise(arm, control) for arm in arms[1:]], axis=axis)


def _with_views(spec: StudentSpec) -> StudentSpec:
    """Learned views in place of the augmented teachers, with their total weight."""
    found = spec.tekap.logit
    weight = found.teacher_loss_weight + found.teachers * found.loss_weight
    weights = {"alpha": spec.alpha * weight}
    if spec.method.requires.level == "logit":
        weights["beta"] = spec.beta * weight
    views = {**to_dict(spec)["angular"], "views": PUBLISHED_VIEWS}
    without = with_tekap(spec, NO_TEKAP)
    return changed(without, angular=views, **weights)

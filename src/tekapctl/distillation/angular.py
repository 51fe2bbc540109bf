"""Angular-KD: learned views of a single teacher instead of noise.

Yu et al., "Single-Teacher View Augmentation: Boosting Knowledge Distillation via Angular Diversity", NeurIPS 2025.
A view is a linear branch on the teacher's features. Views learn to classify, to point apart from each other within a
cone around the teacher (inter-angle loss), and to spread evenly around it (intra-angle loss). The student learns from
the weighted mean of the teacher and its views.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.data.batch import Batch
from tekapctl.errors import UsageError
from tekapctl.models.knowledge import Knowledge
from tekapctl.randomness import by_rows
from tekapctl.settings import Settings, Weight

PUBLISHED_VIEWS = 5
_SHARPNESS = 0.07
"""Temperature of the contrastive loss that keeps views near their own sample's teacher."""
_DROPOUT_STEP, _MOST_DROPOUT = 0.05, 0.4


class AngularSpec(Settings):
    """Angular-KD's settings; the defaults are the published code's, except for `views`, which is 0 (off)."""

    views: int = Field(0, ge=0, le=64, description="Number of learned views; 0 switches them off, 5 is published.")
    view_weight: Weight = Field(0.8, description="Weight of each view in the mean; the teacher has weight 1.")
    logit_inter_weight: Weight = Field(1.0, description="Weight of the inter-angle loss of the views' logits.")
    logit_intra_weight: Weight = Field(1.0, description="Weight of the intra-angle loss of the views' logits.")
    feature_inter_weight: Weight = Field(0.1, description="Weight of the inter-angle loss of the views' features.")
    feature_intra_weight: Weight = Field(1.0, description="Weight of the intra-angle loss of the views' features.")
    margin: float = Field(0.2, ge=0, le=2, description="Largest distance, 1 - cosine, of a view from the teacher.")
    dropout: float = Field(
        0.15, ge=0, lt=1, description="Dropout rate of the first view; each further view has 0.05 more, up to 0.4."
    )
    variant: Literal["code", "paper"] = Field(
        "code",
        description="Variant of the losses: as in the published code (products of probabilities, features normalized "
        "over the views, weights divided by their Euclidean norm) or in the paper (cosines, weights that sum to 1).",
    )
    batch_statistics: bool = Field(
        False,
        description="Use dropout and batch statistics in the views while the student trains; the published code does "
        "not.",
    )
    pretrain_epochs: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Epochs before the run that train the views alone, with dropout and batch statistics, at a "
        "learning rate of 0.1 that falls tenfold after each third. The published code has 30.",
    )
    trained_by_distillation: bool = Field(
        True, description="Train the views with the distillation loss as well, as in the published code."
    )


class FeatureViews(nn.Module):
    """Views of one of the teacher's features: dropout, a linear map of its channels, batch normalization.

    At initialization, the i-th rows of the linear maps of different views are orthogonal, and the gains and shifts of
    each view's normalization are drawn around different values.

    Args:
        channels: Channels of the feature.
        spec: The settings.

    Raises:
        UsageError: There are more views than channels.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, spec: AngularSpec) -> None:
        super().__init__()
        if spec.views > channels:
            raise UsageError(
                f"{spec.views} orthogonal views do not fit into a teacher's feature of {channels} channels.",
                f"Set `angular.views` to {channels} at most.",
            )
        self.views = spec.views
        rows = torch.linalg.qr(torch.randn(channels, channels, spec.views))[0]
        self.weight = nn.Parameter(rows.permute(2, 0, 1).contiguous())
        self.bias = nn.Parameter(torch.empty(spec.views, channels).uniform_(-1, 1) / channels**0.5)
        number = torch.arange(spec.views)
        mean, deviation = (1 - 0.1 * number).clamp(min=0.5), (0.1 + 0.1 * number).clamp(max=0.6)
        gain, shift = (torch.normal(mean, deviation).unsqueeze(1).expand(-1, channels).flatten() for _ in range(2))
        self.gain, self.shift = nn.Parameter(gain.clone()), nn.Parameter(shift.clone())
        self.register_buffer("running_mean", torch.zeros(spec.views * channels))
        self.register_buffer("running_var", torch.ones(spec.views * channels))
        kept = 1 - (spec.dropout + _DROPOUT_STEP * number).clamp(max=max(spec.dropout, _MOST_DROPOUT))
        self.register_buffer("kept", kept.view(-1, 1, 1), persistent=False)
        self.kept: Tensor

    def forward(
        self, feature: Float[Tensor, "batch channels *space"], chance: Float[Tensor, "views batch channels"] | None
    ) -> Float[Tensor, "views batch channels *space"]:
        """All views of a batch.

        Args:
            feature: The teacher's feature.
            chance: Uniform numbers that decide which channels are dropped. None drops nothing, and normalizes with the
                running statistics.
        """
        if chance is None:
            kept = feature.new_ones(self.views, *feature.shape[:2])
        else:
            kept = (chance < self.kept).float() / self.kept
        # Dropping channels of the input drops columns of each sample's linear map.
        flat = feature.flatten(2) if feature.dim() > 2 else feature.unsqueeze(2)
        mapped = torch.einsum("vbc,bcs,voc->bvos", kept, flat, self.weight) + self.bias.unsqueeze(2)
        together = mapped.flatten(1, 2)
        alone = together.shape[0] * together.shape[2] == 1  # a single value per channel has no variance
        statistics, trains = (self.running_mean, self.running_var), chance is not None and not alone
        normalised = F.batch_norm(together, *statistics, self.gain, self.shift, training=trains)
        return normalised.view_as(mapped).transpose(0, 1).reshape(self.views, *feature.shape)


class AngularViews(nn.Module):
    """Turns a teacher into the weighted mean of the teacher and its views.

    Args:
        spec: The settings, with at least one view.
        teacher: The teacher's knowledge of any batch; features that are missing in it get no views.
        temperature: The temperature at which the probabilities of views and teacher are averaged.
        seed: Seed of the initial weights and of the dropout.
    """

    def __init__(self, spec: AngularSpec, teacher: Knowledge, temperature: float, seed: int) -> None:
        super().__init__()
        self.spec = spec
        self.temperature = temperature
        self.seed = seed
        width, classes = teacher.embedding.shape[1], teacher.logits.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.features = nn.ModuleList(FeatureViews(feature.shape[1], spec) for feature in _features(teacher))
            classifiers = torch.empty(spec.views, classes, width)
            for one in classifiers:
                nn.init.xavier_uniform_(one)
        self.classifiers = nn.Parameter(classifiers)
        self.biases = nn.Parameter(torch.zeros(spec.views, 1, classes))

    def forward(self, teacher: Knowledge, batch: Batch) -> tuple[Knowledge, Float[Tensor, ""]]:
        """The mean of the teacher and its views, and the loss that trains the views."""
        mean, loss = self._mean_and_loss(teacher, batch, "views", self.spec.batch_statistics)
        if teacher.strong is not None:
            strong, strong_loss = self._mean_and_loss(teacher.strong, batch, "strong views", self.spec.batch_statistics)
            mean, loss = replace(mean, strong=strong), (loss + strong_loss) / 2
        return mean, loss

    def pretraining_loss(self, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The loss that trains the views before the student."""
        return self._mean_and_loss(teacher, batch, "views", True)[1]

    @property
    def logit_scale(self) -> float:
        """Factor of KD's loss: the sum of the published code's target probabilities, which is not 1."""
        return sum(self._weights)

    @property
    def _weights(self) -> list[float]:
        """The weights of the teacher and of each of its views in the mean."""
        weights = [1.0, *[self.spec.view_weight] * self.spec.views]
        total = math.hypot(*weights) if self.spec.variant == "code" else sum(weights)
        return [weight / total for weight in weights]

    @torch.no_grad()
    def logits_of(self, embedding: Float[Tensor, "batch width"], step: int) -> Float[Tensor, "views batch classes"]:
        """The views' logits of the teacher's embedding, with the dropout of a step while the student trains."""
        (chance,) = self._chances([embedding], "views", step, self.spec.batch_statistics)
        return self._classified(self.features[0](embedding, chance))

    def _chances(
        self, features: Sequence[Tensor], name: str, step: int, trains: bool, first: int = 0
    ) -> Sequence[Tensor | None]:
        """Uniform numbers for the dropout of each feature's views; None for no dropout.

        They are those of the rows from `first` on in the step's batch, however the batch is split.
        """
        if not trains:
            return [None] * len(features)
        widths, device = [feature.shape[1] for feature in features], features[0].device

        def draw(rows: int, source: torch.Generator) -> Tensor:
            return torch.rand((self.spec.views, rows, sum(widths)), generator=source, device=device)

        return by_rows(draw, device, first, len(features[0]), self.seed, name, step, dim=1).split(widths, dim=2)

    def _classified(self, embeddings: Float[Tensor, "views batch width"]) -> Float[Tensor, "views batch classes"]:
        return torch.einsum("vbc,voc->vbo", embeddings, self.classifiers) + self.biases

    def _mean_and_loss(self, teacher: Knowledge, batch: Batch, name: str, trains: bool) -> tuple[Knowledge, Tensor]:
        spec, features = self.spec, _features(teacher)
        chances = self._chances(features, name, batch.step, trains, batch.shard.start)
        viewed = [views(f, c) for views, f, c in zip(self.features, features, chances, strict=True)]
        logits = self._classified(viewed[0])

        loss = spec.view_weight * spec.views * F.cross_entropy(logits.flatten(0, 1), batch.labels.repeat(spec.views))
        own, others = ((each / self.temperature).softmax(-1) for each in (teacher.logits, logits))
        is_code = spec.variant == "code"
        inter = inter_product(others, own, spec.margin) if is_code else inter_angle(others, own, spec.margin)
        loss = loss + spec.logit_inter_weight * inter + spec.logit_intra_weight * intra_angle(others, own)
        for feature, views in zip(features, viewed, strict=True):
            of_teacher, of_views = _pooled(feature, 2), _pooled(views, 3)
            intra = intra_angle(of_views, of_teacher)
            inter = inter_angle(of_views, of_teacher, spec.margin, over_views=is_code)
            loss = loss + (spec.feature_inter_weight * inter + spec.feature_intra_weight * intra) / len(features)
        return self._mean(teacher, logits, viewed), loss

    def _mean(self, teacher: Knowledge, logits: Tensor, viewed: list[Tensor]) -> Knowledge:
        """The weighted mean of teacher and views; the softmax of its logits at T is the normalized mean probability."""
        if not self.spec.trained_by_distillation:
            logits, viewed = logits.detach(), [views.detach() for views in viewed]
        own, *others = self._weights
        total = own + sum(others)
        log_probabilities = (torch.cat([teacher.logits.unsqueeze(0), logits]) / self.temperature).log_softmax(2)
        weights = logits.new_full((len(log_probabilities), 1, 1), others[0] / total)
        weights[0] = own / total
        mixed = (log_probabilities + weights.log()).logsumexp(0) * self.temperature
        embedding, *maps = (
            own * feature + others[0] * views.sum(0) for feature, views in zip(_features(teacher), viewed, strict=True)
        )
        stages = len(teacher.feature_maps)
        after, before = tuple(maps[:stages]), tuple(maps[stages:])
        return replace(teacher, logits=mixed, embedding=embedding, feature_maps=after, preactivations=before)


Views = Float[Tensor, "views batch width"]
Feature = Float[Tensor, "batch width"]


def inter_angle(views: Views, teacher: Feature, margin: float, *, over_views: bool = False) -> Float[Tensor, ""]:
    """The constrained inter-angle loss: views stay near their own sample's teacher and, there, point apart.

    Args:
        views: The views.
        teacher: The teacher's feature.
        margin: Largest distance, 1 - cosine, of a view from the teacher.
        over_views: In the second part, normalize each entry over the views instead of each view, as published.
    """
    units, teacher = F.normalize(views, dim=2), F.normalize(teacher, dim=1)
    nearness = _nearness(units, teacher, margin)
    return nearness + _diversity(F.normalize(views, dim=0) if over_views else units, teacher, margin)


def inter_product(views: Views, teacher: Feature, margin: float) -> Float[Tensor, ""]:
    """The inter-angle loss with products of probabilities instead of cosines, as in the published code."""
    return _nearness(views, teacher, margin) + _diversity(views, teacher, margin)


def _nearness(views: Views, teacher: Feature, margin: float) -> Float[Tensor, ""]:
    """Contrasts each view with the teacher's features of all samples.

    A view within the margin of its own sample's counts as equal to it. As published, the mean over the views is divided
    by their number again.
    """
    count, batch, _ = views.shape
    similarity = views @ teacher.T
    own = similarity.diagonal(dim1=1, dim2=2)
    is_near = own >= 1 - margin
    similarity = similarity + torch.diag_embed(torch.where(is_near, 1 - own, 0.0))
    numbers: Int64[Tensor, " all"] = torch.arange(batch, device=views.device).repeat(count)
    return F.cross_entropy(similarity.flatten(0, 1) / _SHARPNESS, numbers) / count


def _diversity(views: Views, teacher: Feature, margin: float) -> Float[Tensor, ""]:
    """Softplus of the similarity of two views of a sample, for samples with all views within the margin."""
    count, batch, _ = views.shape
    if count < 2:
        return views.sum() * 0
    is_near = (views * teacher).sum(2) >= 1 - margin
    cosines = torch.einsum("vbw,ubw->bvu", views, views)
    apart = F.softplus(cosines).sum((1, 2)) - F.softplus(cosines.diagonal(dim1=1, dim2=2)).sum(1)
    return (apart * is_near.all(0)).sum() / (count * (count - 1) * batch)


def intra_angle(views: Views, teacher: Feature) -> Float[Tensor, ""]:
    """The intra-angle loss: the directions from views to the teacher point apart.

    The mean over pairs of views of the softplus of the directions' cosine, averaged over the batch.
    """
    count, batch, _ = views.shape
    if count < 2:
        return views.sum() * 0
    directions = F.normalize(teacher - views, dim=2)
    cosines = torch.einsum("vbw,ubw->vu", directions, directions) / batch
    apart = F.softplus(cosines)
    return (apart.sum() - apart.diagonal().sum()) / (count * (count - 1))


def _features(teacher: Knowledge) -> tuple[Tensor, ...]:
    return (teacher.embedding, *teacher.feature_maps, *teacher.preactivations)


def _pooled(feature: Tensor, space: int) -> Tensor:
    return feature.flatten(space).mean(space) if feature.dim() > space else feature

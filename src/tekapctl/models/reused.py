"""A student that uses its teacher's classifier after a projector to the teacher's feature map (SimKD)."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field, StrictBool, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.errors import UsageError
from tekapctl.models.hooks import ExternalNetwork
from tekapctl.models.network import Maps, Network, conv, pool

NAME = "reused-classifier"
"""Name of such networks in weight files; it is not the name of a student."""
Size = Annotated[int, Field(strict=True, ge=1, le=65_536)]
_OF_STUDENT = "student."


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Projection:
    """The dimensions of a projector.

    Attributes:
        inputs: Channels of the student's last feature map.
        outputs: Channels of the teacher's, which is the width of its classifier's input.
        factor: Reduction of the channels in the hidden layers.
        bias: Whether the classifier has a bias.
        most: Larger student maps are pooled to this height and width. Default: no pooling.
    """

    inputs: Size
    outputs: Size
    factor: Size
    bias: StrictBool = True
    most: tuple[Size, Size] | None = None

    def build(self) -> nn.Sequential:
        """Convolutions of 1x1, 3x3 and 1x1 with batch norms and ReLUs, without the last ReLU."""
        hidden = max(1, self.outputs // self.factor)
        return nn.Sequential(
            *(conv(self.inputs, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU()),
            *(conv(hidden, hidden, 3), nn.BatchNorm2d(hidden), nn.ReLU()),
            *(conv(hidden, self.outputs, 1), nn.BatchNorm2d(self.outputs)),
        )


class ReusedClassifier(Network):
    """A student without its classifier, a projector, and a frozen classifier.

    Its last feature map is the projected one.
    """

    def __init__(self, student: Network, projection: Projection) -> None:
        super().__init__(student.num_classes, student.in_channels)
        self.normalization, student.normalization = student.normalization, None
        self.student = student
        self.runs_layers_once = student.runs_layers_once
        self.projection = projection
        self.projector = projection.build()
        self.classifier = nn.Linear(projection.outputs, student.num_classes, bias=projection.bias).requires_grad_(False)
        _drop_classifier(student)

    def take(self, classifier: nn.Linear) -> None:
        """Copy the weights of the teacher's classifier."""
        self.classifier.load_state_dict(classifier.state_dict())

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        """The pooled projected map."""
        own = Maps(True, maps.wants_preactivations)
        self.student.embed(images, own)
        maps.feature_maps += own.feature_maps if maps.wants_feature_maps else []
        maps.preactivations += own.preactivations
        return pool(self.project(own.feature_maps[-1], maps))

    def project(self, last: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch _c _h _w"]:
        """Project the student's last feature map, and collect the result in `maps`."""
        if self.projection.most is not None:
            height, width = (min(pair) for pair in zip(last.shape[2:], self.projection.most, strict=True))
            last = last if last.shape[2:] == (height, width) else F.adaptive_avg_pool2d(last, (height, width))
        return maps.activate(self.projector(last))

    def recipe(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The name and arguments with which `models.build` builds it again, from those of the student."""
        own = {key: value for key, value in asdict(self.projection).items() if value is not None}
        own |= {"most": list(self.projection.most)} if self.projection.most else {}
        of_student = {_OF_STUDENT + key: value for key, value in arguments.items()}
        return NAME, {"student": name, **own, **of_student}


def split_arguments(arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any], Projection]:
    """The student's name, its arguments, and the projection, from a recipe's arguments.

    Raises:
        UsageError: They are damaged.
    """
    own = {key: value for key, value in arguments.items() if not key.startswith(_OF_STUDENT)}
    of_student = {key.removeprefix(_OF_STUDENT): value for key, value in arguments.items() if key not in own}
    student = own.pop("student", None)
    try:
        projection = Projection(**own)
    except ValidationError:
        student = None
    if not isinstance(student, str) or student == NAME:
        raise UsageError("The metadata of the reused classifier are damaged.", "Train the student again.")
    return student, of_student, projection


def linear_of(classifier: nn.Module) -> nn.Linear:
    """A frozen copy of the only linear layer of a teacher's classifier, without hooks.

    Raises:
        UsageError: The classifier has other layers, so it cannot be reused.
    """
    layers = [module for module in classifier.modules() if not isinstance(module, nn.Sequential | nn.Dropout)]
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear):
        raise UsageError(
            "The teacher's classifier is more than a linear layer, and cannot be reused.",
            "Choose another teacher or another method.",
        )
    layer = layers[0]
    with torch.random.fork_rng(devices=[]):
        made = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    made.load_state_dict(layer.state_dict())
    return made.requires_grad_(False)


@torch.no_grad()
def _drop_classifier(student: Network) -> None:
    """Remove a student's classifier; external models keep it frozen, since their forward pass needs it."""
    layer = student.classifier_layer
    if isinstance(student, ExternalNetwork):
        layer.requires_grad_(False)
        return
    for name, module in list(student.named_modules()):
        if module is layer and name:
            student.set_submodule(name, nn.Identity())

"""A student that classifies with its teacher's classifier, behind a projector to the teacher's feature map (SimKD)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.errors import UsageError
from tekapctl.models.hooks import Adapted
from tekapctl.models.network import Maps, Network, conv, pool

NAME = "reused-classifier"
"""What files of weights call such a network; no student is asked for by it."""
_MOST = 65_536
_OF_STUDENT = "student."


@dataclass(frozen=True)
class Projection:
    """What a projector is built from.

    Attributes:
        inputs: Channels of the student's last map.
        outputs: Channels of the teacher's, which are the width of its classifier's input.
        factor: How many times fewer channels there are in the middle.
        most: Height and width beyond which the student's map is pooled first; None never pools it.
        bias: Whether the classifier has a bias.
    """

    inputs: int
    outputs: int
    factor: int
    most: tuple[int, int] | None = None
    bias: bool = True


class Projector(nn.Sequential):
    """Convolutions of 1x1, 3x3 and 1x1, each with a batch norm and a ReLU; the last ReLU is not among its layers.

    Args:
        projection: Its channels.
    """

    def __init__(self, projection: Projection) -> None:
        middle = max(1, projection.outputs // projection.factor)
        super().__init__(
            *(conv(projection.inputs, middle, 1), nn.BatchNorm2d(middle), nn.ReLU()),
            *(conv(middle, middle, 3), nn.BatchNorm2d(middle), nn.ReLU()),
            *(conv(middle, projection.outputs, 1), nn.BatchNorm2d(projection.outputs)),
        )


class ReusedClassifier(Network):
    """A student without its classifier, a projector, and a classifier that is not trained.

    Its last stage is the projected map, behind the student's own stages.

    Args:
        student: The student; it loses its classifier.
        projection: Channels and size of the projector.
    """

    def __init__(self, student: Network, projection: Projection) -> None:
        super().__init__(student.num_classes, student.in_channels)
        self.normalization, student.normalization = student.normalization, None
        self.student = student
        self.projection = projection
        self.projector = Projector(projection)
        self.classifier = nn.Linear(projection.outputs, student.num_classes, bias=projection.bias).requires_grad_(False)
        _drop_classifier(student)

    @property
    def classifier_layer(self) -> nn.Module:
        """The layer from embedding to logits."""
        return self.classifier

    def take(self, classifier: nn.Linear) -> None:
        """Classify as a teacher's classifier does from now on."""
        self.classifier.load_state_dict(classifier.state_dict())

    def embed(self, images: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch width"]:
        """The pooled projected map."""
        own = Maps(feature_maps=True, preactivations=maps.wants_preactivations)
        self.student.embed(images, own)
        maps.feature_maps += own.feature_maps if maps.wants_feature_maps else []
        maps.preactivations += own.preactivations
        return pool(self.project(own.feature_maps[-1], maps))

    def project(self, last: Float[Tensor, "batch c h w"], maps: Maps) -> Float[Tensor, "batch _c _h _w"]:
        """The student's last map in the channels of the teacher's, noted in `maps`."""
        if self.projection.most is not None:
            height, width = (min(pair) for pair in zip(last.shape[2:], self.projection.most, strict=True))
            last = last if last.shape[2:] == (height, width) else F.adaptive_avg_pool2d(last, (height, width))
        return maps.activate(self.projector(last))

    def recipe(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """What `models.build` makes the network of again.

        Args:
            name: The student's name.
            arguments: The student's arguments.
        """
        shape = self.projection
        found = {"student": name, "inputs": shape.inputs, "outputs": shape.outputs, "factor": shape.factor}
        most = {} if shape.most is None else {"most": list(shape.most)}
        of_student = {_OF_STUDENT + key: value for key, value in arguments.items()}
        return NAME, {**found, "bias": shape.bias, **most, **of_student}


def parted(arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any], Projection]:
    """The student's name, its arguments, and the projection, from a recipe's arguments.

    Raises:
        UsageError: They are damaged.
    """
    own = {key: value for key, value in arguments.items() if not key.startswith(_OF_STUDENT)}
    of_student = {key.removeprefix(_OF_STUDENT): value for key, value in arguments.items() if key not in own}
    student, most, bias = own.pop("student", None), own.pop("most", None), own.pop("bias", None)
    sizes = [*own.values(), *(most if isinstance(most, list) else [])]
    fits = all(type(each) is int and 1 <= each <= _MOST for each in sizes)
    fits &= own.keys() == {"inputs", "outputs", "factor"} and isinstance(bias, bool)
    fits &= most is None or (isinstance(most, list) and len(most) == 2)
    if not fits or not isinstance(student, str) or student == NAME:
        raise UsageError("What the weights say of their reused classifier is damaged.", "Train the student again.")
    return student, of_student, Projection(**own, most=None if most is None else (most[0], most[1]), bias=bias)


def linear_of(classifier: nn.Module) -> nn.Linear:
    """A copy of the only linear layer of a teacher's classifier, not trained and without hooks.

    Raises:
        UsageError: There is more in it, so that it cannot be reused.
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
    """Take a student's classifier away; a network from elsewhere keeps it untrained: its pass goes through it."""
    layer = student.classifier_layer
    if isinstance(student, Adapted):
        layer.requires_grad_(False)
        return
    for name, module in list(student.named_modules()):
        if module is layer and name:
            student.set_submodule(name, nn.Identity())

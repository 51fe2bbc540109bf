"""Reads files of numbers that published implementations computed (their format: README.md)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from conformance.fill import fill_state_dict, filled_value


@dataclass(frozen=True)
class Case:
    """The inputs and the expected results of one case.

    Attributes:
        name: Its name in the file.
        file: The file.
        scalars: Numbers, texts and lists by name.
        tensors: Tensors by name, those of half precision in float32.
    """

    name: str
    file: "Vectors"
    scalars: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)

    def __getattr__(self, name: str) -> Any:
        """A scalar, or a copy of a tensor, by its name."""
        if name in self.scalars:
            return self.scalars[name]
        if name in self.tensors:
            return self.tensors[name].clone()
        raise AttributeError(f"The case {self.name} has no {name}.")

    def has(self, name: str) -> bool:
        """Whether there is a scalar or a tensor of that name."""
        return name in self.scalars or name in self.tensors

    def at(self, prefix: str, *numbers: int) -> Tensor:
        """A tensor by its name and numbers: `at("noise", 0)` is `noise_0`."""
        return self.tensors["_".join([prefix, *map(str, numbers)])].clone()

    def all(self, prefix: str) -> list[Tensor]:
        """The tensors `prefix_0`, `prefix_1`, ... in order."""
        found = []
        while f"{prefix}_{len(found)}" in self.tensors:
            found.append(self.at(prefix, len(found)))
        return found

    def state(self, label: str) -> dict[str, Tensor]:
        """The filled values of a module, by their published names."""
        filled = self.scalars["filled"][label]
        return {key: filled_value(key, torch.Size(shape), filled["seed"]) for key, shape in filled["state"]}

    def fill(self, label: str, module: nn.Module) -> None:
        """Fill a module whose state has the published names."""
        fill_state_dict(module, self.scalars["filled"][label]["seed"])


class Vectors:
    """A JSON file of cases with its tensors beside it.

    Args:
        path: The JSON file; the tensors are in the file of the same name that ends in `.safetensors`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.seed: int = self.data["seed"]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the file."""
        return load_file(self.path.with_suffix(".safetensors"))

    @property
    def names(self) -> list[str]:
        """The cases' names."""
        if "models" in self.data:
            return list(self.data["models"])
        of_tensors = dict.fromkeys(key.partition("/")[0] for key in self.tensors)
        inputs = {
            name for name in of_tensors if name not in self.data["cases"] and f"{name}/output" not in self.tensors
        }
        return [name for name in {**self.data["cases"], **of_tensors} if name not in inputs]

    def case(self, name: str) -> Case:
        """A case by its name."""
        of_models = "models" in self.data
        start = name + ("." if of_models else "/")
        tensors = {
            key.removeprefix(start): value.float() if value.dtype == torch.float16 else value
            for key, value in self.tensors.items()
            if key.startswith(start)
        }
        return Case(name, self, self.data["models" if of_models else "cases"].get(name, {}), tensors)

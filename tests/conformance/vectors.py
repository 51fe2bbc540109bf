"""Reads files of numbers that published implementations computed (their format: README.md)."""

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from conformance.fill import fill_state_dict, filled_value


class Watched(Mapping[str, Any]):
    """Entries that remember which of them were read.

    Args:
        entries: The entries.
    """

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = dict(entries)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        value = self._entries[name]
        self.read.add(name)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Case:
    """The inputs and the expected results of one case.

    Args:
        name: Its name in the file.
        file: The file.
        scalars: Numbers, texts and lists by name.
        tensors: Tensors by name, those of half precision in float32.
    """

    def __init__(self, name: str, file: "Vectors", scalars: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.name = name
        self.file = file
        self.scalars = Watched(scalars)
        self.tensors = Watched(tensors)
        self.filled_read: set[str] = set()

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

    def get(self, name: str, default: Any) -> Any:
        """A scalar or a tensor, or something else where there is none of that name."""
        return getattr(self, name) if self.has(name) else default

    def length(self, name: str) -> int:
        """Entries of a list that is only compared."""
        return len(self.scalars._entries[name])

    def expected(self, name: str) -> Any:
        """A scalar or tensor that is compared, not read."""
        return self.scalars._entries[name] if name in self.scalars else self.tensors._entries[name]

    def leave_out(self, why: str, *patterns: str) -> None:
        """Count entries as read that this case has no use for.

        Args:
            why: The reason, for whoever reads the code.
            patterns: Their names.
        """
        assert why
        for entries in (self.scalars, self.tensors):
            entries.read.update(name for name in entries for pattern in patterns if fnmatchcase(name, pattern))

    def at(self, prefix: str, *numbers: int) -> Tensor:
        """A tensor by its name and numbers: `at("noise", 0)` is `noise_0`."""
        return self.tensors["_".join([prefix, *map(str, numbers)])].clone()

    def all(self, prefix: str) -> list[Tensor]:
        """The tensors `prefix_0`, `prefix_1`, ... in order."""
        found = []
        while f"{prefix}_{len(found)}" in self.tensors:
            found.append(self.at(prefix, len(found)))
        return found

    def has_filled(self, label: str) -> bool:
        """Whether a module of that label is filled."""
        return label in self.scalars._entries.get("filled", {})

    def _filled(self, label: str) -> dict[str, Any]:
        self.filled_read.add(label)
        found: dict[str, Any] = self.scalars["filled"][label]
        return found

    def state(self, label: str) -> dict[str, Tensor]:
        """The filled values of a module, by their published names."""
        filled = self._filled(label)
        return {key: filled_value(key, torch.Size(shape), filled["seed"]) for key, shape in filled["state"]}

    def fill(self, label: str, module: nn.Module) -> None:
        """Fill a module whose state has the published names and shapes.

        Raises:
            ValueError: It has others.
        """
        filled = self._filled(label)
        ours = [[key, list(value.shape)] for key, value in module.state_dict().items()]
        if ours != filled.get("state", ours):
            raise ValueError(f"our {label} has other parameters")
        fill_state_dict(module, filled["seed"])


class Vectors:
    """A JSON file of cases with its tensors beside it.

    Args:
        path: The JSON file; the tensors are in the file of the same name that ends in `.safetensors`.

    Raises:
        ValueError: The file does not hold cases.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        data = json.loads(path.read_text(encoding="utf-8"))
        self.of_models = isinstance(data, dict) and "models" in data
        cases = data.get("models" if self.of_models else "cases") if isinstance(data, dict) else None
        if not isinstance(cases, dict) or not all(isinstance(case, dict) for case in cases.values()):
            raise ValueError("it has no table of cases")
        if not isinstance(data.get("seed"), int):
            raise ValueError("it has no seed")
        self.cases: dict[str, dict[str, Any]] = cases
        self.seed: int = data["seed"]
        self.inputs_read: set[str] = set()

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the file."""
        return load_file(self.path.with_suffix(".safetensors"))

    @property
    def inputs(self) -> list[str]:
        """Groups of tensors without a result of their own, which cases have in common."""
        if self.of_models:
            return []
        found: dict[str, list[str]] = {}
        for key in self.tensors:
            case, _, name = key.partition("/")
            found.setdefault(case, []).append(name)
        return [
            case
            for case, tensors in found.items()
            if case not in self.cases and not any(name == "output" or name.startswith("grad_") for name in tensors)
        ]

    @property
    def names(self) -> list[str]:
        """The cases' names."""
        inputs = self.inputs
        of_tensors = [] if self.of_models else [key.partition("/")[0] for key in self.tensors]
        return [name for name in dict.fromkeys([*self.cases, *of_tensors]) if name not in inputs]

    def case(self, name: str) -> Case:
        """A case, or a group of inputs, by its name."""
        self.inputs_read.add(name)
        start = name + ("." if self.of_models else "/")
        tensors = {
            key.removeprefix(start): value.float() if value.dtype == torch.float16 else value
            for key, value in self.tensors.items()
            if key.startswith(start)
        }
        return Case(name, self, self.cases.get(name, {}), tensors)

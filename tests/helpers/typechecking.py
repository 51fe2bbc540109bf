"""Types and shapes in signatures are checked at run time, once for calls that are alike.

jaxtyping's import hook checks each call, which takes as long as what a small network computes. Whether a call passes
depends on the types of what it takes and returns, and on the dtypes and shapes of tensors; so this hook has jaxtyping
check the first call of each kind. Functions within functions are not checked.
"""

import ast
import dataclasses
import functools
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

import torch
from beartype import beartype
from jaxtyping import jaxtyped

CHECKED = "_checked"
"""The decorator's name in the modules."""
SEEN = 4
"""How many entries of a list tell its kind; beartype looks at one."""

Function = Callable[..., Any]
held = threading.local()


def kind(value: object) -> Any:
    """What calls that are alike have in common of a value."""
    if isinstance(value, torch.Tensor):
        return type(value), value.dtype, value.shape
    if value is None or isinstance(value, bool | str):
        return value  # a type may be one of some texts
    if isinstance(value, list | tuple):
        return type(value), *map(kind, value[:SEEN])
    if isinstance(value, dict):
        return dict, *((kind(key), kind(value[key])) for key in [*value][:SEEN])
    return type(value)


def checked(function: Function) -> Function:
    """A function whose arguments and result are checked."""

    @functools.wraps(function)
    def returned(*_: Any, **__: Any) -> Any:
        return held.result

    check: Function | None = None
    passed: set[Any] = set()

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal check
        result = function(*args, **kwargs)
        alike = kind(result), *map(kind, args), *((name, kind(kwargs[name])) for name in kwargs)
        if alike not in passed:
            check = check or jaxtyped(returned, typechecker=beartype)
            held.result = result
            try:
                check(*args, **kwargs)
            finally:
                del held.result
            passed.add(alike)
        return result

    return call


class Decorate(ast.NodeTransformer):
    """Puts the decorator next to each function of a module and each method."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Decorate a function, and none in it."""
        name = ast.Name(CHECKED, ast.Load())
        node.decorator_list.append(ast.copy_location(name, node))
        return node


class Loader(SourceFileLoader):
    """Loads a module with its functions decorated; the bytecode with the decorators has files of its own."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        """Compile the module with the decorators."""
        tree = Decorate().visit(ast.parse(data, path))
        return super().source_to_code(tree, path, _optimize=_optimize)

    def get_data(self, path: str) -> bytes:
        """Read the source, or the bytecode's own file."""
        return super().get_data(_own(path))

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write the bytecode's own file."""
        super().set_data(_own(path), data, _mode=_mode)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module; fields of its dataclasses are checked when one is made."""
        setattr(module, CHECKED, checked)
        super().exec_module(module)
        for value in [*vars(module).values()]:
            if isinstance(value, type) and value.__module__ == module.__name__ and dataclasses.is_dataclass(value):
                made = vars(value).get("__init__")
                if made is not None and not hasattr(made, "__wrapped__"):
                    value.__init__ = checked(made)  # type: ignore[method-assign]


def _own(path: str) -> str:
    return f"{path.removesuffix('.pyc')}.checked.pyc" if path.endswith(".pyc") else path


class Finder(MetaPathFinder):
    """Finds the modules of a package for the loader."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module of the package."""
        if f"{fullname}.".startswith(f"{self.package}.") and (spec := PathFinder.find_spec(fullname, path, target)):
            if isinstance(spec.loader, SourceFileLoader):
                spec.loader = Loader(spec.loader.name, spec.loader.path)
            return spec
        return None


def check_signatures(package: str) -> None:
    """Check the functions of a package that is not imported yet."""
    sys.meta_path.insert(0, Finder(package))

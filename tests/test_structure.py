"""The packages form layers: modules import only what is below them, and no imports go in circles."""

import ast
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
LAYERS = (
    ("errors", "logging", "randomness", "registry", "settings"),
    ("distributed",),
    ("device", "timing"),
    ("store",),
    ("data",),
    ("models",),
    ("distillation", "optim"),
    ("spec", "tracking"),
    ("train",),
    ("commands",),
    ("experiments",),
    ("report",),
    ("api",),
    ("cli",),
    ("__main__",),
)
"""From the lowest to the highest; packages of one layer may import each other."""
PARTS = {
    ("data", "augment"): 0,
    ("data", "files"): 0,
    ("data", "image_set"): 1,
    ("data", "spec"): 2,
    ("data", "image_files"): 3,
    ("data", "in_memory"): 3,
    ("data", "datasets"): 4,
}
"""Layers within the package of datasets; the file decoders know nothing of settings, settings nothing of datasets."""


def modules() -> dict[str, Path]:
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> dict[str, set[str]]:
    """What each module imports of this package, also inside functions and for type checking only."""
    known = modules()
    found: dict[str, set[str]] = defaultdict(set)
    for module, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} has a relative import"
                base = node.module or ""
                # The version is a constant of the root package, which imports the rest only when it is asked for.
                imported = [alias.name for alias in node.names if (base, alias.name) != ("tekapctl", "__version__")]
                names = [f"{base}.{name}" if f"{base}.{name}" in known else base for name in imported]
            found[module] |= {name for name in names if name in known and name != module}
    return found


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def level(module: str) -> int | None:
    """The number of a module's layer; None for the root package, which only offers the API."""
    return next((number for number, layer in enumerate(LAYERS) if package(module) in layer), None)


def test_every_module_has_a_layer():
    assert [name for name in modules() if name != "tekapctl" and level(name) is None] == []


def test_no_module_imports_what_is_above_it():
    up = {
        f"{module} -> {other}"
        for module, others in imports().items()
        for other in others
        if module != "tekapctl" and (level(other) is None or (level(other) or 0) > (level(module) or 0))
    }
    assert sorted(up) == []


def test_the_data_package_has_layers_of_its_own():
    def part(module: str) -> int | None:
        return PARTS.get(tuple(module.split(".")[1:3]))

    up = [
        f"{module} -> {other}"
        for module, others in imports().items()
        for other in others
        if None not in (part(module), part(other)) and (part(other) or 0) > (part(module) or 0)
    ]
    assert up == []


def test_no_imports_go_in_a_circle():
    edges = imports()
    state: dict[str, int] = {}
    circles: list[list[str]] = []

    def visit(module: str, path: list[str]) -> None:
        state[module] = 1
        for other in sorted(edges[module]):
            if state.get(other) == 1:
                circles.append([*path[path.index(other) :], other])
            elif other not in state:
                visit(other, [*path, other])
        state[module] = 2

    for module in sorted(edges):
        if module not in state:
            visit(module, [module])
    assert circles == []

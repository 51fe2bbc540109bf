"""What the fork server of `program` holds: all modules of the program, slow libraries and the built command line."""

import contextlib
import gc
import importlib
import pkgutil

import typer

import tekapctl
from tekapctl.cli.app import app

for _name in (
    "helpers.program",
    "helpers.processes",
    "helpers.quick_python",
    "helpers.script",
    "helpers.stand_ins",
    "pytest",
    "reliability.limit",
    "timm",
    "torch._dynamo",
    "torchvision.datasets",
    "torchvision.models",
    "onnx.reference",
    "pandas",
    "rich._emoji_codes",
    "typer._click",
    "markdown_it",
):
    with contextlib.suppress(ImportError):  # some are only in newer versions of their libraries
        importlib.import_module(_name)
for _module in pkgutil.walk_packages(tekapctl.__path__, "tekapctl."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)

COMMAND = typer.main.get_command(app)

gc.collect()
gc.freeze()  # a child that collects would copy the pages of all that is here

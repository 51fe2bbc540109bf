"""Feeds mutated files to the readers, led by coverage: `python tests/reliability/fuzz.py spec -max_total_time=60`.

Needs atheris (`pip install atheris`), which is no dependency. A reader may give a value or one of the program's own
errors; anything else is a crash, whose input libFuzzer writes down. Targets: spec, checkpoint, weights, published.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tekapctl", "safetensors", "tomllib", "pickle"]):
    from tekapctl import spec as run
    from tekapctl.errors import TekapctlError
    from tekapctl.store import legacy_checkpoint
    from tekapctl.train import checkpoint
    from tekapctl.train.references import Reference
    from tekapctl.train.trained import load

import torch

FOLDER = Path(tempfile.mkdtemp())
CPU = torch.device("cpu")


def read_spec(content: bytes) -> None:
    """A spec as TOML and as JSON."""
    text = content.decode("utf-8", "replace")
    for kind in ("toml", "json"):
        try:
            found = run.loads(text, kind)
        except TekapctlError:
            continue
        assert run.loads(run.dumps(found)) == found


def read_checkpoint(content: bytes) -> None:
    """A training state."""
    path = FOLDER / "epoch-000001-step-00000000.state"
    path.write_bytes(content)
    checkpoint.newest(FOLDER, CPU)


def read_weights(content: bytes) -> None:
    """Weights as safetensors."""
    path = FOLDER / "x.safetensors"
    path.write_bytes(content)
    load(Reference("x", path, "fuzz"))


def read_published(content: bytes) -> None:
    """A published checkpoint."""
    path = FOLDER / "x.pth"
    path.write_bytes(content)
    legacy_checkpoint.read_published(path)


TARGETS = {"spec": read_spec, "checkpoint": read_checkpoint, "weights": read_weights, "published": read_published}


def main() -> None:
    """Fuzz the target that the first argument names."""
    warnings.simplefilter("ignore")
    target = TARGETS[sys.argv.pop(1)]

    def one(content: bytes) -> None:
        try:
            target(content)
        except TekapctlError:
            pass

    atheris.Setup([*sys.argv, str(seeds(target.__name__))], one)
    atheris.Fuzz()


def seeds(name: str) -> Path:
    """A folder with a good file to start from."""
    from safetensors.torch import save_file

    folder = Path(tempfile.mkdtemp())
    weights = {"conv.weight": torch.zeros(2, 1, 3, 3), "fc.weight": torch.zeros(2, 2)}
    if name == "read_spec":
        (folder / "a").write_text(run.dumps(run.parse({})))
        (folder / "b").write_text(run.dumps(run.parse({"method": "crd"}), "json"))
    elif name == "read_checkpoint":
        checkpoint.save(folder, 1, 0, {"network": weights})
    elif name == "read_weights":
        save_file(weights, folder / "a", {"tekapctl": '{"model": "resnet8"}'})
    else:
        torch.save({"model": weights, "epoch": 1}, folder / "a")
        torch.save(weights, folder / "b", _use_new_zipfile_serialization=False)
    return folder


if __name__ == "__main__":
    main()

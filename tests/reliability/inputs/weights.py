"""Weights files that lie, or that want code to be run."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from reliability.inputs import maker
from tekapctl.models import build

CODE = """
from pathlib import Path

Path({mark!r}).write_text("this ran")


def load(**_):
    raise SystemExit(0)


class Net:
    pass
"""


def state(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**build("resnet8", 10, 1).state_dict(), **changes}


def stated(path: Path, state: dict[str, torch.Tensor] | None = None, **metadata: object) -> None:
    """A resnet8 of the digits, with what its metadata says changed."""
    usual = {
        "format": "tekapctl weights 1",
        "kind": "teacher",
        "model": "resnet8",
        "model_args": {},
        "dataset": "digits",
        "num_classes": "10",
        "in_channels": "1",
        "image_size": "8x8",
        "classes": [str(number) for number in range(10)],
        "mean": [0.3],
        "std": [0.4],
        "middle": "1.0",
    }
    told = {k: v if isinstance(v, str) else json.dumps(v) for k, v in {**usual, **metadata}.items()}
    save_file(state or build("resnet8", 10, 1).state_dict(), path, {"tekapctl": json.dumps(told)})


@maker
def code(here: Path) -> None:
    """Modules that leave a mark where they are imported, under names that files will give."""
    for name in ("evil", "hubconf", "json", "torchvision"):
        (here / f"{name}.py").write_text(CODE.format(mark=str(here / "ran")))


@maker
def weights_that_name_code(here: Path) -> None:
    """Safetensors whose metadata name factories."""
    for number, (model, arguments) in enumerate(
        {
            "evil:load": {},
            "evil:Net": {},
            "torch.hub:load": {"repo_or_dir": str(here), "source": "local", "model": "load"},
            "os:system": {"command": f"touch {here / 'ran'}"},
            "builtins:exec": {"source": f"open({str(here / 'ran')!r}, 'w')"},
            "subprocess:run": {"args": f"touch {here / 'ran'}"},
            "json:load": {},
            "evil.evil:load": {},
        }.items()
    ):
        stated(here / f"{number}.safetensors", model=model, model_args=arguments)


@maker
def specs_that_name_code(here: Path) -> None:
    """Specs with a method, a dataset and networks of somebody's own."""
    for part, text in {
        "method": 'method = "evil:Net"',
        "data": 'data = "evil:Net"',
        "student": 'student = "evil:load"\nteacher = "resnet14"\ndata = "digits"',
        "sweep": 'name = "x"\n[spec]\ndata = "digits"\nteacher = "resnet14"\nmethod = "evil:Net"\n[grid]\nseed = [0]',
    }.items():
        (here / f"{part}.toml").write_text(text if part == "sweep" else f"{text}\n")


@maker
def libraries(here: Path) -> None:
    """Safetensors of library networks, with arguments that read other files or ask for much."""
    network = build("torchvision:resnet18", 10, 3)
    plain = {key.removeprefix("network."): value for key, value in network.state_dict().items()}
    for name, model, arguments in (
        ("hub", "timm:hf-hub:somebody/resnet18", {}),
        ("local", "timm:local-dir:/tmp", {}),
        ("checkpoint", "timm:resnet18", {"checkpoint_path": "/etc/passwd"}),
        ("config", "timm:resnet18", {"pretrained_cfg": "x"}),
        ("cache", "timm:resnet18", {"cache_dir": "/tmp"}),
        ("wide", "torchvision:resnet50", {"width_per_group": 60_000}),
        ("huge", "timm:resnet18", {"block_args": 10**9}),
        ("table", "timm:resnet18", {"block_args": {"x": 1}}),
        ("unknown", "torchvision:resnet18", {"nothing": 1}),
        ("large", "torchvision:vit_h_14", {}),
    ):
        stated(
            here / f"{name}.safetensors",
            plain,
            model=model,
            model_args=arguments,
            in_channels="3",
            mean=[0.3] * 3,
            std=[0.4] * 3,
        )


@maker
def metadata(here: Path) -> None:
    """Safetensors whose metadata state what cannot be."""
    for name, changes in {
        "mean-nan": {"mean": "[NaN]"},
        "mean-infinite": {"mean": "[1e400]"},
        "mean-huge": {"mean": f"[{10**400}]"},
        "mean-text": {"mean": '["x"]'},
        "mean-none": {"mean": "null"},
        "mean-two": {"mean": "[0.1, 0.2]"},
        "mean-deep": {"mean": "[" * 100_000},
        "std-zero": {"std": "[0]"},
        "std-negative": {"std": "[-1]"},
        "std-infinite": {"std": "[Infinity]"},
        "std-nan": {"std": "[NaN]"},
        "std-tiny": {"std": "[1e-300]"},
        "classes-one": {"classes": ["x"]},
        "classes-fifty": {"classes": [str(number) for number in range(50)]},
        "classes-numbers": {"classes": list(range(10))},
        "classes-table": {"classes": {}},
        "classes-deep": {"classes": "[" * 100_000},
        "size-huge": {"image_size": "30000x30000"},
        "size-zero": {"image_size": "0x0"},
        "size-negative": {"image_size": "-8x-8"},
        "size-text": {"image_size": "largexlarge"},
        "size-empty": {"image_size": ""},
        "middle-zero": {"middle": "0"},
        "middle-nan": {"middle": "nan"},
        "middle-large": {"middle": "17"},
        "arguments-list": {"model_args": "[]"},
        "arguments-deep": {"model_args": "[" * 100_000},
        "arguments-of-the-zoo": {"model_args": {"width": 9}},
        "model-unknown": {"model": "resnet9"},
        "model-empty": {"model": ""},
        "model-path": {"model": "../../etc/passwd"},
    }.items():
        stated(here / f"{name}.safetensors", **changes)
    many = {**state(), "fc.weight": torch.zeros(10, 64)}
    stated(here / "classes-claimed.safetensors", many, num_classes="1000000")


@maker
def tensors(here: Path) -> None:
    """Checkpoints whose tensors are none, or claim more than the file holds."""
    for name, value in {
        "meta": torch.empty(10, 64, device="meta"),
        "sparse": torch.eye(10, 64).to_sparse(),
        "complex": torch.zeros(10, 64, dtype=torch.complex64),
        "views": torch.zeros(1).expand(1_000_000, 2048),
        "nan": torch.full((10, 64), torch.nan),
        "whole": torch.zeros(10, 64, dtype=torch.int64),
    }.items():
        torch.save({"model": state(**{"fc.weight": value})}, here / f"{name}.pth")
    shared = torch.zeros(1 << 20)
    torch.save({"model": {f"layer{number}": shared.view(1024, 1024) for number in range(200)}}, here / "shared.pth")
    with zipfile.ZipFile(here / "script.pth", "w") as archive:
        for record in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"script/{record}", "")


@maker
def accuracies(here: Path) -> None:
    """Whole checkpoints whose accuracy is no number."""
    for name, value in {
        "text": "high",
        "list": [1, 2],
        "two": torch.zeros(2),
        "huge": 10**400,
        "bytes": b"99",
        "complex": 1j,
        "nan": float("nan"),
        "negative": -5.0,
    }.items():
        torch.save({"model": state(), "accuracy": value}, here / f"accuracy-{name}.pth")


class Asks:
    """Pickles as a call."""

    def __init__(self, function: object, *arguments: object):
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@maker
def pickles(here: Path) -> None:
    """Pickles that call what would run code or take memory, in PyTorch's zip format and as they are."""
    for name, call in {
        "bytearray": Asks(bytearray, 10**10),
        "system": Asks(os.system, f"touch {here / 'ran'}"),
        "eval": Asks(eval, f"open({str(here / 'ran')!r}, 'w')"),
        "void": Asks(np.dtype, "V1000000000"),
    }.items():
        content = pickle.dumps({"model": {"fc.weight": call}}, protocol=2)
        (here / f"{name}.pt").write_bytes(content)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3\n")
        (here / f"{name}.pth").write_bytes(packed.getvalue())
    (here / "version.pth").write_bytes(bytes(_of_another_zip((here / "bytearray.pth").read_bytes())))
    large = torch.zeros(1).expand(10**9)
    rebuilt = Asks(torch._utils._rebuild_device_tensor_from_cpu_tensor, large, torch.float32, "cpu", False)
    torch.save({"fc.weight": rebuilt}, here / "rebuilt.pth")


def _of_another_zip(content: bytes) -> bytes:
    """An archive that needs version 10 of the format, which Python's reader refuses and PyTorch's does not."""
    changed = bytearray(content)
    place = content.find(b"PK\x01\x02")
    while place >= 0:
        changed[place + 6] = 100
        place = content.find(b"PK\x01\x02", place + 1)
    return bytes(changed)


@maker
def not_weights(here: Path) -> None:
    """What is called a checkpoint and is none."""
    (here / "empty.pth").touch()
    (here / "empty.safetensors").touch()
    (here / "text.pth").write_text("no weights")
    (here / "text.safetensors").write_text("no weights")
    (here / "header.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    (here / "folder.pth").mkdir()
    os.mkfifo(here / "fifo.pth")
    os.mkfifo(here / "fifo.safetensors")
    (here / "loop.pth").symlink_to("loop.pth")
    (here / "none.safetensors").symlink_to("nowhere")
    (here / "device.pth").symlink_to("/dev/zero")
    torch.save([1, 2], here / "list.pth")
    torch.save({"model": {}}, here / "nothing.pth")
    torch.save({"model": {"x": 1}}, here / "number.pth")
    torch.save({"model": {"x": torch.zeros(2)}}, here / "vector.pth")
    torch.save({f"layer{number}": torch.zeros(2, 2) for number in range(2000)}, here / "many.pth")


@maker
def digit(here: Path) -> None:
    """A picture of the size of the digits."""
    from PIL import Image

    Image.new("L", (8, 8), 100).save(here / "digit.png")


@maker
def odd_data_settings(here: Path) -> None:
    """Weights of images of a folder, with settings that cannot be."""
    settings: dict[str, object] = {
        "number": 7,
        "list": [],
        "name": {"name": "evil:Net"},
        "folder": {"folder": "/"},
        "text": {"size": "x"},
        "huge": {"size": 10**12},
        "share": {"test_fraction": -1},
    }
    for name, value in settings.items():
        stated(here / f"{name}.safetensors", dataset="folder", data_settings=value)

"""Devices that this machine does not have, by what PyTorch says of them."""

import sys
from types import SimpleNamespace

import pytest
import torch

from tekapctl import device as devices
from tekapctl.device import (
    compile_for,
    describe_passes,
    missing_for_compile,
    resolve_device,
    set_float32_precision,
    unusable_gpu,
)
from tekapctl.distributed.communicator import Communicator
from tekapctl.errors import UsageError

CUDA = torch.device("cuda", 0)


@pytest.fixture
def gpus(monkeypatch):
    """So many GPUs; says which one was made the current one."""
    found = SimpleNamespace(count=1, current=[], capability=(9, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found.count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found.count)
    monkeypatch.setattr(torch.cuda, "set_device", found.current.append)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: found.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _=None: "Test GPU")
    return found


@pytest.fixture
def second_of_two(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    return Communicator(1, 2)


@pytest.fixture
def flags():
    """TF32 as it was before, afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    precisions = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision
    yield
    cudnn.allow_tf32, matmul.allow_tf32 = before
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision = precisions


def test_the_gpu_of_a_run_is_the_current_one(gpus):
    gpus.count = 2
    for name, number in (("cuda", None), ("cuda:1", 1), ("auto", None)):
        assert resolve_device(name) == torch.device("cuda", number)
        assert gpus.current.pop() == torch.device("cuda", number)


def test_a_process_that_sees_one_gpu_has_that_one(gpus, second_of_two):
    assert resolve_device("cuda", second_of_two) == torch.device("cuda", 0)
    gpus.count = 2
    assert resolve_device("cuda", second_of_two) == torch.device("cuda", 1)
    assert gpus.current == [torch.device("cuda", 0), torch.device("cuda", 1)]


def test_more_processes_than_gpus_are_too_many(gpus, monkeypatch):
    for name, value in {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    gpus.count = 2
    with pytest.raises(UsageError, match="no device cuda:2"):
        resolve_device("cuda", Communicator(2, 3))


@pytest.fixture
def old_driver(gpus, monkeypatch, tmp_path):
    """A machine with a driver that PyTorch cannot use."""
    gpus.count = 0
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n")

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).\nPlease update.")

    monkeypatch.setattr(devices, "_DRIVER", driver)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_auto_says_why_it_is_the_cpu_where_the_driver_is_too_old(old_driver, logged):
    assert resolve_device("auto").type == "cpu"
    (line,) = logged
    assert "driver on your system is too old (found version 12020)." in line
    assert "CUDA 13.0 needs NVIDIA driver 580 or newer; 535.104.05 is installed." in line
    assert line.endswith("Using the CPU.")
    with pytest.raises(UsageError, match="needs NVIDIA driver 580 or newer"):
        resolve_device("cuda")


def test_a_build_without_cuda_on_a_machine_with_a_driver_is_told(old_driver, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is a build without CUDA" in unusable_gpu()


def test_nothing_is_said_where_the_gpu_is_hidden_or_there_is_none(old_driver, monkeypatch, tmp_path, logged):
    assert unusable_gpu() is not None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert unusable_gpu() is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "nothing")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert unusable_gpu() is None
    resolve_device("auto")
    assert not logged


@pytest.mark.parametrize(
    ("name", "convolutions", "products"),
    [
        ("float32", "ieee", "ieee"),
        ("tf32", "tf32", "tf32"),
        ("auto", "tf32", "ieee"),
        ("bfloat16", "tf32", "ieee"),
    ],
)
def test_float32_means_ieee_float32_on_cuda(gpus, flags, name, convolutions, products):
    for before in ("float32", "tf32"):
        set_float32_precision(before, CUDA)
        set_float32_precision(name, CUDA)
        assert torch.backends.cudnn.conv.fp32_precision == convolutions
        assert torch.backends.cuda.matmul.fp32_precision == products
        # PyTorch raises here where its older switches and its newer ones disagree.
        assert torch.backends.cudnn.allow_tf32 == (convolutions == "tf32")
        assert torch.backends.cuda.matmul.allow_tf32 == (products == "tf32")
        torch.get_float32_matmul_precision()
    assert describe_passes(CUDA, torch.float32) == ("tf32" if convolutions == "tf32" else "float32")
    assert describe_passes(CUDA, torch.bfloat16) == "bfloat16"


def test_tf32_is_refused_where_there_is_none(gpus, flags):
    gpus.capability = (7, 5)
    with pytest.raises(UsageError, match="Test GPU has no TF32"):
        set_float32_precision("tf32", CUDA)
    with pytest.raises(UsageError, match="NVIDIA GPUs"):
        set_float32_precision("tf32", torch.device("cpu"))


def test_compiling_for_cuda_needs_a_c_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UsageError, match=r"for CUDA needs a C compiler\. Install gcc, or do not compile"):
        compile_for(CUDA, torch.relu)
    compiler = tmp_path / "mycc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", f"{compiler} -O2")
    assert missing_for_compile("cuda") is None or "headers" in missing_for_compile("cuda")[0]


def test_compiling_needs_pythons_headers(monkeypatch, tmp_path):
    import sysconfig

    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    for compiler in ("gcc", "g++"):
        (tmp_path / compiler).write_text("#!/bin/sh\n")
        (tmp_path / compiler).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    for kind in ("cpu", "cuda"):
        assert missing_for_compile(kind) is not None
        assert "needs Python's headers" in missing_for_compile(kind)[0]


@pytest.mark.skipif(sys.platform == "darwin", reason="there may be an MPS device")
def test_mps_is_refused_where_it_is_not():
    with pytest.raises(UsageError, match="no MPS device"):
        resolve_device("mps")

"""A teacher on disk, and runs with it on the emulated device."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from helpers.emulated_cuda import EmulatedGPU, emulated_cuda
from helpers.emulated_cuda.steps import BASE
from helpers.silent import Silent
from tekapctl.spec import StudentSpec, TeacherSpec, parse
from tekapctl.store.home import Home
from tekapctl.train.run import execute

Spec = Callable[..., StudentSpec]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Holds a teacher that was trained on the CPU."""
    home = Home(tmp_path_factory.mktemp("cuda"))
    spec = parse({**BASE, "kind": "teacher", "model": "resnet14", "device": "cpu", "precision": "float32"})
    assert isinstance(spec, TeacherSpec)
    execute(spec, home, Silent())
    return home


@pytest.fixture
def student(home: Home) -> Spec:
    """Makes the spec of a student on the emulated device."""

    def made(**values: Any) -> StudentSpec:
        spec = parse({**BASE, "student": "resnet8", "teacher": "latest", "device": "cuda", **values})
        assert isinstance(spec, StudentSpec)
        return spec

    return made


@pytest.fixture
def gpu() -> Iterator[EmulatedGPU]:
    with emulated_cuda() as found:
        yield found

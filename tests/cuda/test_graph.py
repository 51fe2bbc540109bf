"""Steps from CUDA graphs give the results of steps without, bit for bit, on an emulated GPU."""

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from helpers.emulated_cuda import EmulatedGPU
from helpers.emulated_cuda.steps import BASE, DATA, StepRecorder
from helpers.silent import Silent
from tekapctl.commands.bench import measure_steps
from tekapctl.distributed.communicator import SINGLE_PROCESS, Communicator
from tekapctl.optim.adamw import AdamWSpec
from tekapctl.optim.optimizer import Trainable
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.store.runs import Runs
from tekapctl.train.build import build_run
from tekapctl.train.callbacks import StoppedError
from tekapctl.train.graph import why_not_recorded
from tekapctl.train.many import execute_seeds
from tekapctl.train.run import execute, resume

CRD = {"name": "crd", "negatives": 8}
BOTH = {"method": CRD, "alpha": 1.0, "beta": 0.8}
FULL = 4
"""Full batches of two epochs. The first is trained on without a graph; the second is recorded and then replayed."""

CASES: Mapping[str, tuple[dict[str, Any], int]] = {
    "tekap at the logit level": ({"method": "kd"}, FULL - 1),
    "tekap at both levels, crd with memory banks, ema": ({**BOTH, "ema": 0.9}, FULL - 1),
    "crd with a queue, dot": ({**BOTH, "method": {**CRD, "memory": "queue"}, "optimizer": "dot"}, FULL - 1),
    "adamw, cosine, mixup": (
        {
            **BOTH,
            "optimizer": {"name": "adamw", "clip_grad": 1.0},
            "schedule": {"name": "cosine", "warmup_epochs": 1},
            "data": {**DATA, "augment": [{"name": "random-erasing"}, {"name": "mixup"}]},
        },
        FULL - 1,
    ),
    "muon, which is not recorded": ({"method": "kd", "optimizer": "muon"}, FULL - 1),
    "a warm-up weight, so that each epoch has a graph": ({"method": "dkd"}, FULL - 2),
    "feature maps, an init stage with a graph of its own": (
        {"method": {"name": "fsp", "init_epochs": 1}, "tekap": {"feature": {"teachers": 2}}},
        FULL - 1 + 1,
    ),
    "strong views": ({"method": "mlkd"}, FULL - 1),
    "learned views, several teachers": (
        {"method": "kd", "angular": {"views": 2, "batch_statistics": True}, "ensemble": ["resnet14"]},
        FULL - 1,
    ),
    "a cached teacher": ({**BOTH, "cache_teacher": True}, FULL - 1),
}
"""Settings, and the number of steps that are replayed."""

Found = tuple[list[dict[str, Any]], bytes]


class StopAt(Silent):
    """Stops a run after a step."""

    def __init__(self, epoch: int, step: int) -> None:
        self.place = epoch, step

    def on_step(self, epoch: int, step: int) -> None:
        if (epoch, step) == self.place:
            os.kill(os.getpid(), signal.SIGTERM)


def results(home: Home, run: str) -> Found:
    found = Runs(home.runs).find(run)
    timed = ("train_seconds", "test_seconds", "images_per_second")
    return [{k: v for k, v in each.items() if k not in timed} for each in found.metrics()], found.weights.read_bytes()


@pytest.fixture
def graph(student: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the spec of a student whose steps are recorded."""
    return lambda **values: student(**{"epochs": 2, "graph": True, **values})


@pytest.mark.parametrize("name", CASES)
def test_steps_are_replayed_with_the_results_of_steps_without_graphs(name, home, graph, gpu: EmulatedGPU):
    values, replays = CASES[name]
    plain = execute(graph(**values, graph=False), home, Silent())["run"]
    assert gpu.replays == 0
    recorded = execute(graph(**values), home, Silent())["run"]
    assert gpu.replays == replays
    assert results(home, recorded) == results(home, plain)


def test_a_network_alone_is_trained_from_a_graph(home, gpu: EmulatedGPU):
    values = {**BASE, "kind": "teacher", "model": "resnet8", "device": "cuda", "epochs": 2}
    recorded = execute(parse({**values, "graph": True}), home, Silent())["run"]
    assert gpu.replays == FULL - 1
    assert results(home, recorded) == results(home, execute(parse(values), home, Silent())["run"])


def test_a_run_resumed_within_an_epoch_has_the_results_of_one_without_graphs(home, graph, gpu: EmulatedGPU):
    plain = execute(graph(**BOTH, graph=False, ema=0.9), home, Silent())["run"]
    with pytest.raises(StoppedError):
        execute(graph(**BOTH, ema=0.9), home, StopAt(0, 1))
    assert gpu.replays == 1
    resumed = resume("latest", home, Silent())["run"]
    assert gpu.replays == 2
    assert results(home, resumed) == results(home, plain)


def test_seeds_that_share_a_teacher_have_a_graph_each(home, graph, gpu: EmulatedGPU):
    plain = execute_seeds(graph(**BOTH, graph=False), 2, home, Silent())
    recorded = execute_seeds(graph(**BOTH), 2, home, Silent())
    assert (gpu.captures, gpu.replays) == (2, 2 * (FULL - 1))
    for one, other in zip(plain, recorded, strict=True):
        assert results(home, one["run"]) == results(home, other["run"])


def test_a_replayed_step_neither_waits_nor_launches_many_kernels(home, graph, gpu: EmulatedGPU):
    recorder = StepRecorder(gpu)
    build_run(graph(**BOTH), home).trainer.fit(recorder, recorder)
    replayed = [step for step in recorder.hot if step.kernels["graph"]][1:]
    assert replayed
    for step in replayed:
        assert step.waits == []
        assert step.kernels.total() <= 40, step.kernels


NETWORK = """
from torch import nn

def make(num_classes, in_channels):
    maps = nn.Conv2d(in_channels, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*maps, nn.Linear(8, num_classes))
"""


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"accumulate": 2}, "gradients are accumulated over several batches"),
        ({"student": "own_network:make"}, "own_network:make is not a built-in network"),
    ],
)
def test_a_run_that_cannot_be_recorded_says_why(values, reason, home, graph, gpu, logged, tmp_path, monkeypatch):
    (tmp_path / "own_network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TEKAPCTL_TRUSTED", "own_network:make")
    build_run(graph(**values), home)
    assert f"training without a CUDA graph: {reason}" in logged


def test_several_processes_and_compiled_networks_are_not_recorded(home, graph, gpu):
    context = build_run(graph(**BOTH), home)
    spec, network, objective = context.spec, context.trainer.network, context.trainer.objective
    assert why_not_recorded(spec, network, objective, SINGLE_PROCESS) is None
    assert why_not_recorded(spec, network, objective, Communicator(0, 2)) == "several processes train together"
    compiled = spec.model_copy(update={"compile": True})
    assert (
        why_not_recorded(compiled, network, objective, SINGLE_PROCESS) == "compiled networks have graphs of their own"
    )


METHODS = """
import torch

from tekapctl.distillation.methods import Method, MethodSpec, Requires

class Own(MethodSpec):
    requires = Requires(logits=True)

    def make(self, pair):
        return OwnMethod(self)

class OwnMethod(Method):
    def loss(self, student, teacher, batch):
        return (student.logits - teacher.logits).square().mean()

class Reading(Own):
    def make(self, pair):
        return ReadingMethod(self)

class ReadingMethod(OwnMethod):
    is_recordable = True

    def loss(self, student, teacher, batch):
        loss = super().loss(student, teacher, batch)
        return loss if loss.item() > 1 else 2 * loss

class Replacing(Own):
    def make(self, pair):
        return ReplacingMethod(self)

class ReplacingMethod(OwnMethod):
    is_recordable = True

    def __init__(self, spec):
        super().__init__(spec)
        self.register_buffer("mean", torch.zeros(()))

    def loss(self, student, teacher, batch):
        loss = super().loss(student, teacher, batch)
        self.mean = self.mean.lerp(loss.detach(), 0.5)
        return loss * self.mean

class Writing(Replacing):
    def make(self, pair):
        return WritingMethod(self)

class WritingMethod(ReplacingMethod):
    def loss(self, student, teacher, batch):
        loss = OwnMethod.loss(self, student, teacher, batch)
        return loss * self.mean.lerp_(loss.detach(), 0.5).clone()
"""


@pytest.mark.parametrize(
    ("name", "replays", "reason"),
    [
        ("Own", 0, "OwnMethod is not a built-in method and does not set is_recordable"),
        ("Reading", 0, "recording one failed with RuntimeError: operation not permitted when stream is capturing"),
        ("Replacing", 0, "recording one failed with RuntimeError: a step changes mean on the host"),
        ("Writing", FULL - 1, ""),
    ],
)
def test_an_own_method_is_recorded_if_it_can_be(
    name, replays, reason, home, graph, gpu: EmulatedGPU, logged, tmp_path, monkeypatch
):
    (tmp_path / "own_methods.py").write_text(METHODS)
    monkeypatch.syspath_prepend(tmp_path)
    method = f"own_methods:{name}"
    monkeypatch.setenv("TEKAPCTL_TRUSTED", method)
    recorded = execute(graph(method=method), home, Silent())["run"]
    assert gpu.replays == replays
    said = [line for line in logged if line.startswith("training without a CUDA graph: ")]
    assert [reason in line for line in said] == ([True] if reason else [])
    assert results(home, recorded) == results(home, execute(graph(method=method, graph=False), home, Silent())["run"])


def test_a_graph_leaves_memory_for_steps_without_it(home, graph, gpu: EmulatedGPU, logged, monkeypatch):
    free = iter([50 * 2**30, 20 * 2**30])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (next(free), 80 * 2**30))
    recorder = StepRecorder(gpu)
    build_run(graph(method="kd"), home).trainer.fit(recorder, recorder)
    assert gpu.replays == 0
    assert "RuntimeError: the graph takes 30.0 GiB and leaves 20.0 GiB" in logged[-1]


def test_graphs_are_benchmarked(home, graph, gpu: EmulatedGPU):
    assert measure_steps(graph(**BOTH), home, 2).step_seconds > 0
    assert gpu.replays > 0


def test_an_optimizer_of_the_cpu_goes_on_in_graphs(gpu: EmulatedGPU):
    def build(device: str) -> Any:
        weight = torch.nn.Parameter(torch.ones(3, device=device))
        weight.grad = torch.ones(3, device=device)
        return AdamWSpec().build([Trainable(weight)], torch.device(device))

    before, after = build("cpu"), build("cuda")
    before.set_learning_rate(0.5)
    before.step()
    after.load_state_dict(before.state_dict())
    after.set_learning_rate(0.25)
    (group,) = after.param_groups
    assert group["capturable"]
    assert (group["lr"].device.type, group["lr"].tolist()) == ("cuda", 0.25)
    after.step()
    assert torch.isfinite(group["params"][0]).all()


def record(work: Callable[[], Any], *generators: torch.Generator) -> Any:
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        work()
    return graph


def test_an_emulated_capture_computes_nothing_and_a_replay_all(gpu: EmulatedGPU):
    total, source = torch.zeros(3, device="cuda"), torch.Generator("cuda")
    graph = record(lambda: total.add_(torch.rand(3, generator=source, device="cuda")), source)
    assert total.tolist() == [0.0] * 3
    found = []
    for seed in (1, 2, 1):
        total.zero_()
        source.manual_seed(seed)
        graph.replay()
        found.append(total.tolist())
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    "work",
    [
        lambda there: there.sum().item(),
        lambda there: there.cpu(),
        lambda there: there + torch.ones(3).to("cuda", non_blocking=True),
        lambda there: there[there > 0],
        lambda there: torch.rand(3, generator=torch.Generator("cuda"), device="cuda"),
    ],
)
def test_what_cuda_does_not_record_is_refused(work, gpu: EmulatedGPU):
    there = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError):
        record(lambda: work(there))

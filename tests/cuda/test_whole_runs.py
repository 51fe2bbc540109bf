"""Whole runs on an emulated GPU: what a command does from its spec to its results, and the hot loops within."""

import os
import signal

import pytest
import torch

from helpers.emulated_cuda import EmulatedGPU
from helpers.emulated_cuda.steps import BASE, DATA, SLACK, StepRecorder, train
from helpers.logs import recorded
from helpers.silent import Silent
from tekapctl import models
from tekapctl.commands.bench import measure_alone, measure_steps
from tekapctl.commands.evaluate import evaluate
from tekapctl.commands.robustness import Request
from tekapctl.commands.warm_cache import open_cache, warm
from tekapctl.spec import parse
from tekapctl.train.build import build_run
from tekapctl.train.callbacks import StoppedError
from tekapctl.train.many import execute_seeds
from tekapctl.train.run import execute, resume

BOTH = {"method": {"name": "crd", "negatives": 8}, "alpha": 1.0, "beta": 0.8}
ONE_VIEW = {**DATA, "padding": 0, "flip": False}

LOGIT_LEVEL = 214
"""A step of resnet32x4 > resnet8x4 with TeKAP at the logit level, bfloat16."""
BOTH_LEVELS = 349
"""The same with TeKAP at both levels."""


def waits(recorder: StepRecorder) -> list[str]:
    assert recorder.hot
    return [wait for step in recorder.hot for wait in step.waits]


def test_a_network_alone_is_trained_and_evaluated(home, gpu):
    recorder = StepRecorder(gpu)
    found = execute(parse({**BASE, "kind": "teacher", "model": "resnet8", "device": "cuda"}), home, recorder)
    assert found["status"] == "finished"
    assert waits(recorder) == []
    request = Request(attacks=("fgsm",), corruptions=("gaussian-noise",), severities=(3,), occlusions=(0.2,))
    assert evaluate(home, found["run"], device="cuda", robustness=request)["robustness"]


def test_a_stopped_run_is_resumed(home, student, gpu):
    class Stop(Silent):
        def on_step(self, epoch: int, step: int) -> None:
            if step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError):
        execute(student(**BOTH, ema=0.9), home, Stop())
    assert resume("latest", home, Silent())["status"] == "finished"


def test_seeds_share_a_step_that_does_not_wait(home, student, gpu):
    recorder = StepRecorder(gpu)
    found = execute_seeds(student(**BOTH), 2, home, recorder)
    assert [each["status"] for each in found] == ["finished"] * 2
    assert waits(recorder) == []


def test_a_filled_cache_is_read_without_waiting(home, student, gpu):
    spec = student(data=ONE_VIEW, cache_teacher=True)
    assert warm(open_cache(spec, home), lambda *_: None)["complete"]
    recorder = StepRecorder(gpu)
    execute(spec, home, recorder)
    assert waits(recorder) == []
    assert all("convolution" in step.kernels for step in recorder.hot)


def test_a_complete_cache_is_kept_on_the_device_and_gives_the_live_teachers_bits(home, student, gpu):
    data = {**DATA, "padding": 1, "train_fraction": 0.5}
    spec = student(**BOTH, data=data)
    cached = spec.model_copy(update={"cache_teacher": True})
    assert warm(open_cache(cached, home), lambda *_: None)["complete"]
    with recorded() as lines:
        runs = [execute(each, home, Silent())["run"] for each in (spec, cached)]
    assert "the cache is complete: it is kept in the memory of the device" in lines
    weights = [(home.runs / run / "weights.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]


def test_steps_are_benchmarked_live_and_cached(home, student, gpu):
    for cached in (False, True):
        found = measure_steps(student(**BOTH, data=ONE_VIEW, cache_teacher=cached), home, 2)
        assert found.step_seconds > 0
    assert measure_alone(parse({**BASE, "kind": "teacher", "model": "resnet8", "device": "cuda"}), home, 1) > 0


@pytest.mark.parametrize(
    ("level", "values", "budget"), [("logit", {"method": "kd"}, LOGIT_LEVEL), ("both levels", BOTH, BOTH_LEVELS)]
)
def test_tekap_at_the_published_networks_launches_what_is_recorded(level, values, budget, home, student, gpu, tmp_path):
    networks = {"student": "resnet8x4", "teacher": str(tmp_path / "resnet32x4.pth"), "teacher_model": "resnet32x4"}
    torch.save(models.build("resnet32x4", 4, 3).state_dict(), networks["teacher"])
    step = train(build_run(student(**networks, **values), home).trainer, gpu)[0]
    print(f"TeKAP, {level}: {step.kernels.total()} kernels a step")
    assert step.waits == []
    assert step.kernels.total() <= SLACK * budget, step.kernels.most_common()


def test_what_cuda_refuses_is_refused(gpu: EmulatedGPU):
    here, there = torch.ones(3), torch.ones(3).cuda()
    with pytest.raises(RuntimeError, match="same device"):
        here + there
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


@pytest.mark.parametrize(
    "work",
    [
        lambda there: there.sum().item(),
        lambda there: bool(there[0] > 0),
        lambda there: there.tolist(),
        lambda there: there.nonzero(),
        lambda there: there[there > 0],
        lambda there: there.cpu(),
        lambda there: there + torch.tensor([1.0, 2.0, 3.0], device="cuda"),
        lambda there: there[torch.tensor([0, 2])],
    ],
)
def test_what_waits_is_recorded(work, gpu: EmulatedGPU):
    there = torch.ones(3).to("cuda", non_blocking=True)
    assert not any(event.waits for event in gpu.events)
    work(there)
    assert any(event.waits for event in gpu.events)

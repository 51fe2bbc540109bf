"""Checks and measures tekapctl on a GPU: equal bits with and without CUDA graphs, tests, times, a profile, a run.

Each part is a process of its own, so that one that fails or takes too long costs the others nothing. The results are
written after each part. `benchmarks/gpu.sh` starts it.
"""

import argparse
import datetime
import importlib.util
import itertools
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
NO_TEKAP = {"logit": {"teachers": 0}, "feature": {"teachers": 0}}
CRD = {"method": {"name": "crd", "negatives": 256}, "alpha": 1.0, "beta": 0.8}
BITS: dict[str, dict[str, Any]] = {
    "alone": {"kind": "teacher", "model": "resnet8x4"},
    "KD": {"method": "kd", "tekap": NO_TEKAP},
    "TeKAP logit": {"method": "kd"},
    "TeKAP both": CRD,
    "TeKAP both, queue": {**CRD, "method": {"name": "crd", "negatives": 256, "memory": "queue"}},
    "DKD": {"method": "dkd"},
    "ReviewKD": {"method": "reviewkd"},
    "ABound, init stage": {"method": {"name": "ab", "init_epochs": 1}},
    "cached teacher": {**CRD, "cache_teacher": True},
    "DOT": {**CRD, "optimizer": "dot"},
    "AdamW, cosine, mixup, EMA": {
        "method": "kd",
        "optimizer": "adamw",
        "schedule": {"name": "cosine", "warmup_epochs": 1},
        "augment": ["mixup"],
        "ema": 0.99,
    },
    "Angular-KD": {"method": "kd", "tekap": NO_TEKAP, "angular": {"views": 3}},
}
LEVELS = {
    "logit": ["--method", "kd", "--gamma", "0.1", "--alpha", "0.9", "--beta", "0"],
    "both": ["--method", "crd", "--gamma", "1", "--alpha", "1", "--beta", "0.8"],
}
WAYS = {
    "eager": ["--no-graph"],
    "graph": ["--graph"],
    "graph, teacher cached in a file": ["--graph", "--cache-teacher"],
    "compile": ["--no-graph", "--compile"],
}
Part = Callable[[argparse.Namespace], Any]
NEEDED = ("torch", "torchvision", "numpy", "PIL", "typer", "rich", "pydantic", "platformdirs", "requests", "jinja2")
NEEDED += ("filelock", "jaxtyping", "safetensors", "tomli_w")


def keep(options: argparse.Namespace, found: Any) -> None:
    """Keep what a part has found so far: it may run out of time."""
    options.into.write_text(json.dumps(found))


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """The card, the driver and the versions."""
    found: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
        "card": "CPU",
    }
    if options.device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(0)
        found |= {"card": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        found["driver"] = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return found


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def bits(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs with and without CUDA graphs must give equal weights and metrics."""
    from tekapctl.spec import parse
    from tekapctl.store.home import Home
    from tekapctl.train.callbacks import NullCallback
    from tekapctl.train.run import execute

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        common = {"epochs": 2, "batch_size": 64, "device": options.device}
        data = {"name": "synthetic", "samples": 64 * 12 + 20, "test_samples": 200}
        execute(parse({"kind": "teacher", "model": "resnet8x4", "data": data, **common}), home, NullCallback())
        for name, values in BITS.items():
            row: dict[str, Any] = {"run": name}
            try:
                found = []
                for graph in (False, True):
                    own = {key: value for key, value in values.items() if key != "augment"}
                    networks = {} if "kind" in own else {"teacher": "latest", "student": "resnet8x4"}
                    spec = {**common, **networks, **own, "data": {**data, "augment": values.get("augment", [])}}
                    summary = execute(parse({**spec, "graph": graph}), home, NullCallback())
                    run = home.runs / summary["run"]
                    losses = [json.loads(line)["train_loss"] for line in (run / "metrics.jsonl").open()]
                    found.append(((run / "weights.safetensors").read_bytes(), losses))
                row |= {"weights": found[0][0] == found[1][0], "losses": found[0][1] == found[1][1]}
            except Exception as error:
                row["problem"] = f"{type(error).__name__}: {error}"[:300]
            rows.append(row)
            keep(options, rows)
    return rows


def tests(options: argparse.Namespace) -> dict[str, Any]:
    """The tests of the CUDA paths, which emulate a device, with this machine's PyTorch."""
    if missing := [name for name in ("pytest", "beartype", "hypothesis") if importlib.util.find_spec(name) is None]:
        return {"problem": f"not installed: {', '.join(missing)}"}
    workers = ["-n", "8"] if importlib.util.find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "tests/cuda", *workers]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return {"passed": done.returncode == 0, "last": lines[-1] if lines else "", "tail": lines[-25:]}


def times(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds a step of the published procedure and of tekapctl, in every way, at both levels."""
    rows = []
    steps = str(options.steps)
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "TEKAPCTL_HOME": home}

        def measure(level: str, way: str, *command: str) -> None:
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *command], capture_output=True, text=True, check=False, env=environment
            )
            row: dict[str, Any] = {"level": level, "way": way, "seconds": round(time.perf_counter() - began)}
            if done.returncode:
                row["problem"] = done.stderr.strip()[-300:]
            else:
                found = json.loads(done.stdout)
                row["step_ms"] = 1000 * found["step_seconds"]
                row |= {key: found[key] for key in ("phase_seconds", "peak_memory_bytes") if key in found}
            rows.append(row)
            keep(options, rows)

        for level in LEVELS:
            reference = [str(HERE / "reference.py"), "--level", level, "--steps", str(max(10, options.steps // 3))]
            measure(level, "published", *reference, "--device", options.device)
        for way, flags in WAYS.items():  # the slowest to compile last
            for level, settings in LEVELS.items():
                bench = ["-m", "tekapctl", "bench", *settings, *flags, "--steps", steps, "--json"]
                measure(level, way, *bench, "--device", options.device)
    return rows


def _steps(values: dict[str, Any]) -> tuple[Callable[[], object], int]:
    """Takes eager steps of a run with an untrained teacher on random images; and the teacher's fused convolutions."""
    from tekapctl import data, models
    from tekapctl.device import resolve_device
    from tekapctl.spec import parse
    from tekapctl.store.home import Home
    from tekapctl.train.build import assemble
    from tekapctl.train.references import Reference
    from tekapctl.train.teacher import LiveTeacher, live_teacher
    from tekapctl.train.trained import Trained

    images = {"name": "synthetic", "classes": 100, "size": 32, "samples": 50_000, "test_samples": 500}
    spec = parse({"data": images, "teacher": "resnet32x4", "student": "resnet8x4", **values})
    network, nowhere = models.build("resnet32x4", 100, 3).eval(), Path("nowhere")
    teacher = Trained(network, "resnet32x4", None, None, "0" * 64, Reference("resnet32x4", nowhere, "resnet32x4"))
    splits = data.load(spec.data, nowhere, seed=0, in_channels=3)
    trainer = assemble(spec, splits, [teacher], resolve_device(spec.device), Home(nowhere))
    trainer.start_epoch()
    batches = itertools.chain.from_iterable(trainer.train_batches.epoch(epoch) for epoch in itertools.count())
    live = live_teacher(trainer.objective.distillations[0].teacher)
    assert isinstance(live, LiveTeacher)
    return lambda: trainer.step(next(batches)), live.fused


def profile(options: argparse.Namespace) -> dict[str, Any]:
    """Kernels of an eager step at both levels, and where it waits for the device."""
    found: dict[str, Any] = {}
    for level, values in {"logit": {"method": "kd"}, "both": {"method": "crd", "alpha": 1.0, "beta": 0.8}}.items():
        step, fused = _steps({**values, "device": options.device, "graph": False})
        for _ in range(10):
            step()
        activities = [torch.profiler.ProfilerActivity.CPU]
        if options.device.startswith("cuda"):
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as record:
            for _ in range(3):
                step()
            if options.device.startswith("cuda"):
                torch.cuda.synchronize()
        kernels = [each for each in record.events() if each.device_type == torch.autograd.DeviceType.CUDA]
        by_name: dict[str, list[float]] = {}
        for each in kernels:
            by_name.setdefault(each.name, []).append(each.device_time)
        slowest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:12]
        waits = []
        if options.device.startswith("cuda"):
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step()
            torch.cuda.set_sync_debug_mode("default")
            waits = sorted({f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)})
        found[level] = {
            "kernels": len(kernels) / 3,
            "fused": fused,
            "kernel_ms": sum(sum(each) for each in by_name.values()) / 3e3,
            "slowest": [[name[:80], len(each) / 3, sum(each) / 3e3] for name, each in slowest],
            "waits": waits,
        }
        keep(options, found)
    return found


def training(options: argparse.Namespace) -> dict[str, Any]:
    """A short run of the program: a teacher and a student at both levels, on CIFAR-100 if its folder is given."""
    data = ["--dataset", "cifar100", "--data-dir", options.data_dir] if options.data_dir else ["--dataset", "synthetic"]
    if not options.data_dir:
        data += ["--set", f"data.samples={options.samples}", "--set", "data.classes=100"]
        data += ["--set", "data.test_samples=500", "--set", "data.size=32"]
    common = [*data, "--epochs", str(options.epochs), "--device", options.device, "--json"]
    found: dict[str, Any] = {"images": "CIFAR-100" if options.data_dir else "random images"}
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "TEKAPCTL_HOME": home}
        for name, words in {
            "resnet32x4 alone": ["train-teacher", "--model", "resnet32x4"],
            "resnet8x4, TeKAP logit": ["distill", "--teacher", "resnet32x4", "--student", "resnet8x4"],
            "resnet8x4, TeKAP both": [
                *("distill", "--teacher", "resnet32x4", "--student", "resnet8x4"),
                *("--method", "crd", "--alpha", "1", "--beta", "0.8"),
            ],
        }.items():
            command = [sys.executable, "-m", "tekapctl", *words, *common]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                found[name] = {"problem": done.stderr.strip()[-300:]}
                continue
            summary = json.loads(done.stdout)
            lines = (Path(home) / "runs" / summary["run"] / "metrics.jsonl").read_text().splitlines()
            epochs = [json.loads(line) for line in lines]
            found[name] = {
                "train_seconds": [round(each["train_seconds"], 2) for each in epochs],
                "test_seconds": [round(each["test_seconds"], 2) for each in epochs],
                "top1": [round(each["test_top1"], 4) for each in epochs],
                "seconds": round(summary["seconds"], 1),
            }
            keep(options, found)
    return found


PARTS: dict[str, tuple[Part, int]] = {
    "environment": (environment, 20),
    "bits": (bits, 100),
    "times": (times, 190),
    "profile": (profile, 40),
    "training": (training, 80),
    "tests": (tests, 100),
}
"""What is done, in this order, and the most seconds that each may take."""


def as_markdown(results: dict[str, Any]) -> str:
    """The results for people."""
    about = results.get("environment", {})
    lines = [
        f"# {about.get('card')}",
        "",
        f"{about.get('date')}, commit {about.get('commit')}, PyTorch {about.get('torch')}, CUDA {about.get('cuda')}, "
        f"driver {about.get('driver', 'none')}, Python {about.get('python')}, {about.get('cores')} cores. "
        "Command: `benchmarks/gpu.sh`.",
    ]
    for name, found in results.items():
        if isinstance(found, dict) and "problem" in found:
            lines += ["", f"**{name}**: {found['problem']}"]
    for name, found in results.items():
        if isinstance(found, list):
            lines += [f"\n**{name}**: {row['problem']}" for row in found if set(row) == {"problem"}]
    measured = {
        name: [row for row in found if set(row) != {"problem"}]
        for name, found in results.items()
        if isinstance(found, list)
    }
    if rows := measured.get("times"):
        published = {row["level"]: row["step_ms"] for row in rows if row["way"] == "published" and "step_ms" in row}
        lines += ["", "## Step", "", "resnet32x4 > resnet8x4, batch 64, 50,000 images of 32x32 pixels.", ""]
        lines += [
            "| level | way | ms/step | speed-up | 240 epochs |",
            "| --- | --- | --- | --- | --- |",
        ]
        for row in rows:
            if "problem" in row:
                lines.append(f"| {row['level']} | {row['way']} | failed: {' '.join(row['problem'].split())} | | |")
                continue
            ratio = published[row["level"]] / row["step_ms"] if row["level"] in published else float("nan")
            minutes = row["step_ms"] * 782 * 240 / 60_000
            lines.append(f"| {row['level']} | {row['way']} | {row['step_ms']:.3f} | {ratio:.2f} | {minutes:.1f} min |")
    if rows := measured.get("bits"):
        lines += ["", "## With and without CUDA graphs", "", "| run | weights | losses |", "| --- | --- | --- |"]
        words = {True: "equal", False: "**differ**", None: ""}
        for row in rows:
            last = row.get("problem") or words[row.get("losses")]
            lines.append(f"| {row['run']} | {words[row.get('weights')]} | {last} |")
    if isinstance(found := results.get("profile"), dict):
        lines += ["", "## Kernels of an eager step"]
        for level, each in found.items():
            if level == "problem":
                continue
            lines += ["", f"{level}: {each['kernels']:.0f} kernels, {each['kernel_ms']:.2f} ms; "]
            lines += [f"{each['fused']} of the teacher's convolutions are fused with what follows."]
            lines += [f"Waits for the device: {', '.join(each['waits']) or 'none'}.", "", "| kernel | calls | ms |"]
            lines += ["| --- | --- | --- |", *(f"| `{n}` | {c:.0f} | {ms:.3f} |" for n, c, ms in each["slowest"])]
    if isinstance(found := results.get("training"), dict) and "images" in found:
        lines += ["", f"## Runs on {found['images']}", "", "| run | training, s by epoch | test, s | top-1, % |"]
        lines += ["| --- | --- | --- | --- |"]
        for name, each in found.items():
            if isinstance(each, dict) and "problem" not in each:
                top1 = ", ".join(f"{100 * value:.2f}" for value in each["top1"])
                lines.append(f"| {name} | {each['train_seconds']} | {each['test_seconds']} | {top1} |")
            elif isinstance(each, dict):
                lines.append(f"| {name} | failed: {' '.join(each['problem'].split())} | | |")
    if isinstance(found := results.get("tests"), dict) and "last" in found:
        lines += ["", f"Tests of the CUDA paths: {found['last']}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do every part in a process of its own, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with CIFAR-100's files; random images without it")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--steps", type=int, default=200, help="steps that are timed")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the short runs")
    parser.add_argument("--samples", type=int, default=50_000, help="random images of the short runs")
    parser.add_argument("--patience", type=float, default=1.0, help="factor of the time that each part may take")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to do, separated by commas")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for the results")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        keep(options, PARTS[options.part][0](options))
        return
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        sys.exit(f"These packages are missing: {', '.join(missing)}. Install them, or put them on PYTHONPATH.")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU. Install the driver and a CUDA build of PyTorch, or try --device cpu.")
    results: dict[str, Any] = {}
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.parts.split(","):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            results[name] = run_part(name, options.patience * PARTS[name][1], Path(folder))
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        card = re.sub(r"[^a-z0-9]+", "-", str(results.get("environment", {}).get("card", "card")).lower()).strip("-")
        (options.output / f"gpu-{card}.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.output / f"gpu-{card}.md").write_text(as_markdown(results))
    print(as_markdown(results))


def run_part(name: str, limit: float, folder: Path) -> Any:
    """What a part found in a process of its own, as far as it came within a number of seconds."""
    found = folder / f"{name}.json"
    command = [sys.executable, __file__, "--part", name, "--into", str(found), *sys.argv[1:]]
    errors = (folder / "errors").open("w+")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)
    try:
        process.wait(limit)
        problem = f"it failed with exit code {process.returncode}" if process.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"it was stopped after {limit:.0f} s"
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
        process.wait()
    errors.seek(0)
    if problem:
        problem = f"{problem}. {errors.read().strip()[-600:]}".strip()
    result = json.loads(found.read_text()) if found.is_file() else {}
    if isinstance(result, list):
        return [*result, {"problem": problem}] if problem else result
    return result | ({"problem": problem} if problem else {})


if __name__ == "__main__":
    main()

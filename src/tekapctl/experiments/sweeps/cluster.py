"""Run a sweep as jobs of a Slurm cluster, through submitit."""

import getpass
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from tekapctl.errors import TekapctlError, UsageError, require
from tekapctl.experiments.sweeps.folder import SweepFolder, read_trial
from tekapctl.experiments.sweeps.plan import Plan
from tekapctl.experiments.sweeps.state import Standing
from tekapctl.experiments.sweeps.trial import run_trial
from tekapctl.logging import ROOT
from tekapctl.store.home import Home
from tekapctl.store.metrics import split_of, top1_of
from tekapctl.train.callbacks import NullCallback, StoppedError

Cluster = Literal["slurm", "local-jobs"]
_EXECUTORS: dict[Cluster, str] = {"slurm": "slurm", "local-jobs": "local"}
_SAFE_PATH = "PYTHONSAFEPATH"
"""The variable for Python's option -P; submitit starts processes without the option."""
_MINUTES = 24 * 60
"""Default time limit of a job; longer runs continue in another job."""
_MOST_REQUEUES = 1000
_SHARED = ("cpus_per_task", "gpus_per_node", "mem_gb", "name", "nodes", "tasks_per_node", "timeout_min")
"""Options that submitit translates for each kind of cluster."""


class Job:
    """A trial as a submitit job, which is requeued when its time is up."""

    def __init__(self, home: Path, name: str, digest: str, *, retry: bool) -> None:
        self.home, self.name, self.digest, self.retry = home, name, digest, retry

    def __call__(self) -> str:
        """Run the trial; returns its run's id."""
        folder = SweepFolder(Home(self.home), self.name)
        warning = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
        requeue = signal.getsignal(warning)
        warned: list[int] = []

        def warn(number: int, _: FrameType | None) -> None:
            warned.append(number)
            os.kill(os.getpid(), signal.SIGTERM)

        def stop(number: int, _: FrameType | None) -> None:
            raise SystemExit(128 + number)

        ROOT.setLevel(logging.INFO)
        ROOT.handlers[:] = [logging.StreamHandler()]
        # SIGTERM ends training after the current step and keeps the run; submitit would ignore it.
        signal.signal(signal.SIGTERM, stop)
        signal.signal(warning, warn)
        try:
            return run_trial(read_trial(folder.trial_file(self.digest)), folder, _Log(), retry=self.retry)
        except (StoppedError, SystemExit):
            if warned and callable(requeue):
                # Slurm sends SIGTERM to a requeued job, which is about to exit anyway.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                requeue(warned[0], None)
            raise

    def checkpoint(self) -> Any:
        """The job to requeue: the same trial, which resumes."""
        self.retry = False
        return require("slurm", "submitit").helpers.DelayedSubmission(self)


class _Log(NullCallback):
    """Logs a line per epoch."""

    def on_epoch(self, metrics: Mapping[str, float | int]) -> None:
        os.write(2, f"epoch {metrics['epoch']}: {split_of(metrics)} top-1 {100 * top1_of(metrics):.2f} %\n".encode())


def submit(
    plan: Plan,
    folder: SweepFolder,
    standings: Mapping[str, Standing],
    on: Cluster,
    options: Mapping[str, Any],
    *,
    retry: bool,
    at_once: int | None,
) -> list[str]:
    """Submit the remaining trials to a cluster; returns their digests.

    Args:
        plan: The sweep.
        folder: Its folder.
        standings: The states of its trials; finished, running and queued ones are skipped.
        on: Slurm, or processes of this machine that are handled like jobs.
        options: Options of submitit's executor, such as `partition`, `time` in minutes, `gpus_per_node`.
        retry: Submit failed trials too.
        at_once: Maximum number of running jobs; None for no limit.

    Raises:
        UsageError: submitit is not installed, there is no such cluster, or an option is unknown.
        TekapctlError: The cluster rejected the jobs.
    """
    states = ("waiting", "interrupted", *(("failed",) if retry else ()))
    left = [digest for digest in plan.trials if standings[digest].state in states]
    hopeless = {digest for digest, standing in standings.items() if standing.state == "failed" and digest not in left}
    requires = {digest: {need.digest for need in plan.trials[digest].requires.values()} for digest in left}
    left = [digest for digest in left if not hopeless & requires[digest]]
    _executor(folder, on, options, at_once, ())
    folder.write_trials(plan)
    submitted = {digest: job["id"] for digest, job in folder.jobs().items()}
    # Teachers are submitted first, so that their students can depend on their jobs.
    parts: dict[tuple[str, ...], list[str]] = {}
    for digest in left:
        parts.setdefault(tuple(sorted(requires[digest])), []).append(digest)
    for needs, part in parts.items():
        awaited = [submitted[need] for need in needs if need in submitted and standings[need].state != "finished"]
        executor = _executor(folder, on, {"name": plan.name, **options}, at_once, awaited)
        ids = _submit(executor, plan, folder, part, retry=retry)
        submitted |= ids
        folder.add_jobs({digest: {"id": job, "cluster": on} for digest, job in ids.items()})
    return left


def queued(folder: SweepFolder) -> set[str]:
    """The trials whose jobs have not ended.

    Raises:
        UsageError: There are jobs, and submitit is not installed.
    """
    jobs = _jobs(folder)
    of_slurm = {digest: job for digest, job in jobs.items() if not _is_process(job)}
    found = {digest for digest, job in jobs.items() if digest not in of_slurm and not _process_has_ended(job)}
    known = _in_the_queue() if of_slurm else None
    if known is not None:
        return found | {digest for digest, job in of_slurm.items() if str(job.job_id) in known}
    # The first query refreshes the accounting data of all jobs.
    asked = enumerate(of_slurm.items())
    return found | {digest for number, (digest, job) in asked if not job.done(force_check=not number)}


def cancel(folder: SweepFolder) -> int:
    """Cancel all jobs of a sweep; returns how many.

    Raises:
        UsageError: There are jobs, and submitit is not installed.
    """
    waiting, jobs = queued(folder), _jobs(folder)
    for job in (jobs[digest] for digest in waiting):
        if _is_process(job):
            os.kill(int(job.job_id), signal.SIGTERM)  # submitit forwards it to the job
        else:
            job.cancel(check=False)
    return len(waiting)


def _executor(
    folder: SweepFolder, on: Cluster, options: Mapping[str, Any], at_once: int | None, awaited: Sequence[str]
) -> Any:
    submitit = require("slurm", "submitit")
    try:
        times = {f"{kind}_max_num_timeout": _MOST_REQUEUES for kind in _EXECUTORS.values()}
        # -P: files in the working folder do not shadow installed modules.
        python = {f"{kind}_python": f"{shlex.quote(sys.executable)} -P" for kind in _EXECUTORS.values()}
        executor = submitit.AutoExecutor(folder.path / "submitit", cluster=_EXECUTORS[on], **times, **python)
    except RuntimeError:
        raise UsageError(
            "This machine has no srun: it is not part of a Slurm cluster.", "Run the sweep without an executor."
        ) from None
    given: dict[str, Any] = {"timeout_min": _MINUTES, "gpus_per_node": 1 if on == "slurm" else 0}
    for name, value in options.items():
        shared = "timeout_min" if name == "time" else name
        given[shared if shared in _SHARED else f"slurm_{name}"] = value
    if not given["gpus_per_node"]:
        del given["gpus_per_node"]
    if at_once is not None:
        given["slurm_array_parallelism"] = at_once
    if awaited:
        # Even if they fail: the trial itself reports a missing teacher.
        given["slurm_dependency"] = f"afterany:{':'.join(awaited)}"
    try:
        executor.update_parameters(**given)
    except (NameError, AssertionError, ValueError) as error:
        what = str(error).partition(" Valid arguments")[0].replace("slurm_", "").splitlines()[0]
        raise UsageError(
            f"Invalid cluster option: {what}", "Use options of submitit, such as `slurm=partition=gpu`."
        ) from None
    return executor


def _submit(executor: Any, plan: Plan, folder: SweepFolder, part: Sequence[str], *, retry: bool) -> dict[str, str]:
    """Submit trials as one array; returns their job ids."""
    try:
        with _detached(executor.cluster == "local"), executor.batch():
            jobs = [executor.submit(Job(folder.home.root, plan.name, digest, retry=retry)) for digest in part]
    except Exception as error:  # the cluster's programs may raise anything
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise TekapctlError(
            f"The cluster rejected the jobs: {words[-1]}",
            "Set cluster options with `slurm`; nodes without GPUs need `slurm=gpus_per_node=0`.",
        ) from None
    return {digest: str(job.job_id) for digest, job in zip(part, jobs, strict=True)}


@contextmanager
def _detached(processes: bool) -> Iterator[None]:
    """Detach processes that are started inside from this process's input and output, which they outlive.

    They do not import modules from the working folder either.
    """
    if not processes:
        yield
        return
    safe = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    sys.stdout.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    kept = [os.dup(number) for number in range(3)]
    try:
        for number in range(3):
            os.dup2(nothing, number)
        yield
    finally:
        for number, own in enumerate(kept):
            os.dup2(own, number)
            os.close(own)
        os.close(nothing)
        if safe is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = safe


def _jobs(folder: SweepFolder) -> dict[str, Any]:
    known = folder.jobs()
    if not known:
        return {}
    submitit = require("slurm", "submitit")
    kinds = {"slurm": submitit.SlurmJob, "local-jobs": submitit.LocalJob}
    return {digest: kinds[job["cluster"]](folder.path / "submitit", job["id"]) for digest, job in known.items()}


def _in_the_queue() -> set[str] | None:
    """The user's jobs in the Slurm queue; None if `squeue` fails.

    submitit uses `sacct`, which knows nothing on clusters without accounting.
    """
    command = ["squeue", "--noheader", "--array", "--format=%i", "--user", getpass.getuser()]
    try:
        return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split())
    except (OSError, subprocess.SubprocessError):
        return None


def _is_process(job: Any) -> bool:
    return type(job).__name__ == "LocalJob"


def _process_has_ended(job: Any) -> bool:
    if job.paths.result_pickle.exists():
        return True
    try:  # its id may have been reused
        return b"submitit" not in Path(f"/proc/{int(job.job_id)}/cmdline").read_bytes()
    except OSError:
        return True

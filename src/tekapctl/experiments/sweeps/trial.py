"""Run one trial of a sweep in this process, unless it is already finished."""

from tekapctl.errors import TekapctlError
from tekapctl.experiments.sweeps.folder import MARK, NotYetError, SweepFolder, lock, mark
from tekapctl.experiments.sweeps.plan import Trial
from tekapctl.experiments.sweeps.state import Ledger
from tekapctl.spec import StudentSpec, TeacherSpec, parse, to_dict
from tekapctl.train.callbacks import Callback, StoppedError
from tekapctl.train.run import execute, resume


def run_trial(trial: Trial, folder: SweepFolder, callback: Callback, *, retry: bool = False, wait: bool = False) -> str:
    """Run or resume a trial, after the trials that it requires; returns its run's id.

    Args:
        trial: The trial.
        folder: The sweep's folder.
        callback: Training callback.
        retry: Retry a failed trial.
        wait: Wait for another process that runs the trial.

    Raises:
        NotYetError: Another process runs the trial, or one that it requires has failed.
        StoppedError: It was interrupted; its progress is kept.
        TekapctlError: It failed, now or before.
    """
    digest = trial.digest
    with lock(folder.home, digest, wait=wait):
        standing = Ledger(folder.home).find(digest, trial)
        if standing.state == "finished" and standing.run is not None:
            return standing.run
        if standing.state == "running":
            raise NotYetError(f"Another process is training the run {standing.run}.", "Wait for it, or stop it.")
        problem = standing.error if standing.state == "failed" else folder.problem(digest)
        if problem is not None and standing.state != "interrupted" and not retry:
            raise TekapctlError(f"It failed before: {problem}", "Retry it with --retry.")
        teachers = {name: _need(name, need, folder, callback) for name, need in trial.requires.items()}
        folder.problem_file(digest).unlink(missing_ok=True)
        try:
            if standing.run is not None:
                summary = resume(standing.run, folder.home, callback)
            else:
                summary = execute(taught_by(trial, teachers), folder.home, callback, {MARK: mark(trial)})
        except (StoppedError, NotYetError):
            raise
        except TekapctlError as error:
            if Ledger(folder.home).find(digest, trial).state != "failed":
                folder.write_problem(digest, str(error))
            raise
        return str(summary["run"])


def taught_by(trial: Trial, teachers: dict[str, str]) -> TeacherSpec | StudentSpec:
    """A trial's spec with run ids in place of its teachers' labels."""
    spec = trial.spec
    if not isinstance(spec, StudentSpec) or not teachers:
        return spec
    ensemble = [teachers.get(name, name) for name in spec.ensemble]
    return parse({**to_dict(spec), "teacher": teachers.get(spec.teacher, spec.teacher), "ensemble": ensemble})


def _need(name: str, need: Trial, folder: SweepFolder, callback: Callback) -> str:
    try:
        return run_trial(need, folder, callback, wait=True)
    except StoppedError:
        raise
    except TekapctlError as error:
        raise NotYetError(f"Its teacher {name} is not ready: {error.problem}", error.remedy) from None

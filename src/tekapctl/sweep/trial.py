"""One trial of a sweep, carried out by this process, or found to be done."""

from tekapctl.engine.execute import execute, resume
from tekapctl.engine.interruption import StoppedError
from tekapctl.engine.prepare import Say
from tekapctl.engine.trainer import Listener
from tekapctl.errors import TekapctlError
from tekapctl.spec import StudentSpec, TeacherSpec, parse, to_dict
from tekapctl.sweep.folder import MARK, NotYetError, SweepFolder, lock, mark
from tekapctl.sweep.plan import Trial
from tekapctl.sweep.state import Ledger


def carry_out(
    trial: Trial, folder: SweepFolder, listener: Listener, say: Say, *, retry: bool = False, wait: bool = False
) -> str:
    """Bring a trial to its end from wherever it stands, and those that it needs before it; returns its run's id.

    Args:
        trial: The trial.
        folder: The sweep's folder.
        listener: Is told how runs go on.
        say: Is told what is going on.
        retry: Try again although it failed.
        wait: Wait for another process that carries it out.

    Raises:
        NotYetError: Another process carries it out, or one that it needs has failed.
        StoppedError: It was told to stop; all of it is kept.
        TekapctlError: It failed, now or before.
    """
    digest = trial.digest
    with lock(folder.home, digest, wait=wait):
        standing = Ledger(folder.home).find(digest, trial)
        if standing.state == "finished" and standing.run is not None:
            return standing.run
        if standing.state == "running":
            raise NotYetError(f"Another process works on the run {standing.run}.", "Wait for it, or stop it.")
        problem = standing.error if standing.state == "failed" else folder.problem(digest)
        if problem is not None and standing.state != "interrupted" and not retry:
            raise TekapctlError(f"It failed before: {problem}", "Try again with --retry.")
        teachers = {name: _need(name, need, folder, listener, say) for name, need in trial.needs.items()}
        folder.problem_file(digest).unlink(missing_ok=True)
        try:
            if standing.run is not None:
                summary = resume(standing.run, folder.home, listener, say)
            else:
                summary = execute(taught_by(trial, teachers), folder.home, listener, say, {MARK: mark(trial)})
        except (StoppedError, NotYetError):
            raise
        except TekapctlError as error:
            if Ledger(folder.home).find(digest, trial).state != "failed":
                folder.write_problem(digest, str(error))
            raise
        return str(summary["run"])


def taught_by(trial: Trial, teachers: dict[str, str]) -> TeacherSpec | StudentSpec:
    """A trial's spec with its teachers by the runs that made them.

    Args:
        trial: The trial.
        teachers: Ids of runs, by what the spec calls them.
    """
    spec = trial.spec
    if not isinstance(spec, StudentSpec) or not teachers:
        return spec
    names = [teachers.get(name, name) for name in spec.ensemble]
    return parse({**to_dict(spec), "teacher": teachers.get(spec.teacher, spec.teacher), "ensemble": names})


def _need(name: str, need: Trial, folder: SweepFolder, listener: Listener, say: Say) -> str:
    try:
        return carry_out(need, folder, listener, say, wait=True)
    except StoppedError:
        raise
    except TekapctlError as error:
        raise NotYetError(f"Its teacher {name} is not there yet: {error.problem}", error.remedy) from None

"""`tekapctl resume`."""

from collections.abc import Sequence

from tekapctl.cli import console, options, train


def resume(
    reference: options.RunReference,
    track: options.Track = None,
    processes: options.Processes = 1,
    as_json: options.Json = False,
) -> None:
    """Resume an interrupted or failed run from its newest checkpoint.

    Example: tekapctl resume latest
    """
    go_on(reference, as_json=as_json, processes=processes, track=track or ())


def go_on(reference: str, *, as_json: bool, processes: int, track: Sequence[str] = ()) -> None:
    """Resume a run, with further trackers, and show its results."""
    from tekapctl.store.home import Home
    from tekapctl.train.run import resume as resume_run

    options.divide(processes)
    with options.progress("resumed") as progress:
        summary = resume_run(reference, Home.default(), progress, track)
    if not options.is_main():
        return
    if as_json:
        console.show_json(summary)
    else:
        train.show_summary(summary)

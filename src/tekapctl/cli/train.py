"""`tekapctl train-teacher`, `distill` and `resume`."""

import statistics
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from tekapctl.cli import complete, console, options
from tekapctl.cli.bench import estimate
from tekapctl.cli.build_spec import with_spec_options
from tekapctl.cli.check import say_what_is_there
from tekapctl.cli.options import option
from tekapctl.cli.own_images import Fit, FitTeacher, with_fitted_teacher
from tekapctl.cli.progress import Training
from tekapctl.errors import UsageError
from tekapctl.store.home import Home

DryRun = Annotated[
    bool,
    option("--dry-run", "Print the full spec, its cost, and its time on this machine without training.", "Output"),
]
Measure = Annotated[
    bool, option("--measure/--no-measure", "In a dry run, time a few steps to estimate the whole run.", "Output")
]
Processes = Annotated[
    int, option("--nproc N", "Data-parallel processes on this machine, one GPU each.", "Execution", min=1, max=1024)
]
Seeds = Annotated[
    int,
    option(
        "--seeds N",
        "Train N seeds at once, starting with --seed, on the same batches and with one forward pass of any teacher.",
        "Run",
        min=1,
        max=1000,
    ),
]


@with_spec_options("teacher")
def train_teacher(
    spec: Any,
    processes: Processes = 1,
    seeds: Seeds = 1,
    dry_run: DryRun = False,
    measured: Measure = True,
    as_json: options.Json = False,
) -> None:
    """Train a network on its own: a teacher, or the baseline of a student.

    With a folder of images and a network of torchvision or timm, pretrained weights are fine-tuned, and the defaults
    after "fine-tuning" apply.

    Examples:
    tekapctl train-teacher --model resnet32x4 --dataset cifar100
    tekapctl train-teacher -m torchvision:resnet34 -d folder:photographs
    """
    _train(spec, processes=processes, seeds=seeds, dry_run=dry_run, measured=measured, as_json=as_json)


@with_spec_options("student")
def distill(
    spec: Any,
    resumed: Annotated[
        str | None,
        option(
            "--resume RUN",
            "Resume this run with its own spec; other options are not allowed.",
            "Run",
            complete=complete.runs,
        ),
    ] = None,
    effects: Annotated[
        list[str] | None,
        option(
            "--keep-effect EFFECT",
            "Keep only this effect of TeKAP: weight, shrink or noise; with crd also student-term or "
            "bank-updates. Repeatable.",
            "TeKAP",
            complete=complete.effects,
        ),
    ] = None,
    fit_teacher: FitTeacher = "finetune",
    processes: Processes = 1,
    seeds: Seeds = 1,
    dry_run: DryRun = False,
    measured: Measure = True,
    as_json: options.Json = False,
) -> None:
    """Distill a student from a teacher.

    With kd and crd the student also learns from augmented teachers (TeKAP); --no-tekap turns that off. With a folder of
    images, a pretrained teacher is first fine-tuned on their classes. A student with pretrained weights is fine-tuned
    too, and the defaults after "fine-tuning" apply.

    Examples:
    tekapctl distill --method kd                            # KD + TeKAP
    tekapctl distill --method kd --no-tekap                 # plain KD
    tekapctl distill --method crd --alpha 1 --beta 0.8      # CRD + KD + TeKAP
    tekapctl distill --teacher resnet32x4 --student resnet8x4 --method dkd
    tekapctl distill --preset dkd/resnet32x4-resnet8x4      # as published
    tekapctl distill --schedule cosine --augment trivialaugment --ema 0.999
    tekapctl distill --method kd --keep-effect weight       # ablation of TeKAP
    tekapctl distill --dataset folder:photographs --teacher torchvision:resnet34
    """
    if resumed is not None:
        if spec != type(spec).model_validate({"kind": "student"}) or dry_run:
            raise UsageError("--resume continues a run with its own spec.", "Leave out the other options.")
        resume(resumed, processes=processes, as_json=as_json)
        return
    if effects:
        from tekapctl.spec.effects import keep

        spec = keep(spec, effects)
    _train(
        spec,
        processes=processes,
        seeds=seeds,
        dry_run=dry_run,
        measured=measured,
        as_json=as_json,
        fit_teacher=fit_teacher,
    )


def resume(
    reference: options.RunReference,
    epochs: Annotated[
        int | None,
        option("--epochs N", "Train a finished run longer, for N epochs in total, as a new run.", "Run", min=1),
    ] = None,
    track: options.Track = None,
    processes: Processes = 1,
    as_json: options.Json = False,
) -> None:
    """Resume an interrupted or failed run from its newest checkpoint, or train a finished run longer.

    With --epochs the finished run stays as it is. The new run starts from its last state, follows the learning rate
    schedule for N epochs from there, and is compared separately from runs that were trained in one go.

    Examples:
    tekapctl resume latest
    tekapctl resume 0440 --epochs 300
    """
    from tekapctl.train.run import resume as resume_run
    from tekapctl.train.run import train_longer

    def train(callback: Any) -> dict[str, Any]:
        if epochs is None:
            return resume_run(reference, Home.default(), callback, track or ())
        return train_longer(reference, epochs, Home.default(), callback, track or ())

    _run(train, "resumed", processes=processes, as_json=as_json)


def _train(
    spec: Any,
    *,
    processes: int,
    seeds: int,
    dry_run: bool,
    measured: bool,
    as_json: bool,
    fit_teacher: Fit = "none",
) -> None:
    from tekapctl.train.run import execute

    if dry_run:
        estimate(spec, measured=measured, as_json=as_json, fit_teacher=fit_teacher)
        return
    if seeds > 1 and processes > 1:
        raise UsageError("--seeds trains in one process, and --nproc asks for several.", "Leave out one of them.")
    if options.is_main():
        say_what_is_there(spec)
    if spec.kind == "student":
        spec = with_fitted_teacher(spec, fit_teacher, processes)
    if seeds > 1:
        _train_seeds(spec, seeds, as_json=as_json)
        return
    _run(lambda callback: execute(spec, Home.default(), callback), spec.network, processes=processes, as_json=as_json)


def _run(train: Callable[[Any], dict[str, Any]], label: str, *, processes: int, as_json: bool) -> None:
    """Train with one or more processes, and show the results."""
    from tekapctl.data.names import needs_location
    from tekapctl.train.callbacks import NullCallback

    _divide(processes)
    with Training(label) if options.is_main() else nullcontext(NullCallback()) as callback:
        summary = train(callback)
    if not options.is_main():
        return
    if as_json:
        console.show_json(summary)
        return
    evaluation = summary["evaluation"]
    fields = {
        "run": summary["run"],
        "top-1": _accuracy(summary),
        "parameters": f"{evaluation['parameters']:,}",
        "time": console.duration(summary["seconds"]),
    }
    if "raw_top1" in summary:
        fields["top-1"] += f"; averaged weights, raw {console.percent(summary['raw_top1'])} %"
    if "teacher" in summary:
        fields["teacher"] = summary["teacher"]["model"]
        if summary["teacher"]["top1"] is not None:
            fields["teacher"] += f", top-1 {console.percent(summary['teacher']['top1'])} %"
            fields["agreement"] = f"{console.percent(evaluation['agreement'])} % with the teacher"
    if pairs := console.confused(evaluation["confusions"][:3]):
        fields["confused"] = pairs
    is_product = summary["kind"] == "student" and needs_location(summary["dataset"])
    following = f"tekapctl export {summary['run']} --output student.onnx" if is_product else None
    console.show_fields({**fields, "next": following or f"tekapctl evaluate {summary['run']}"})


def _accuracy(summary: Mapping[str, Any]) -> str:
    """The test accuracies of a run, in words."""
    last, epoch = console.percent(summary["last_top1"]), summary["best_epoch"]
    if "epochs_trained" in summary:
        trained = f"trained {summary['epochs_trained']} of {summary['epochs']} epochs"
        return f"{last} % with the weights of epoch {summary['weights_epoch']}, chosen by validation ({trained})"
    chosen = "chosen by validation" if "best_val_top1" in summary else "best"
    return f"{last} % after the last epoch ({chosen}: {console.percent(summary['best_top1'])} % in epoch {epoch})"


_BY_SIGNAL = 128
"""Exit codes above it are 128 and a signal's number."""


def _divide(processes: int) -> None:
    """Run this command as several processes and exit; return if one is enough or this is one of them."""
    from tekapctl.distributed.communicator import check_environment, was_launched

    if (ignored := check_environment()) is not None:
        console.say(f"{ignored} in the environment is ignored: this run was not started as one of several processes")
    if processes == 1 or was_launched():
        return
    from tekapctl.distributed.launch import launch

    code = launch(sys.argv[1:], processes)
    if code > _BY_SIGNAL:
        # The first process says so too, unless it was killed because another did not answer.
        console.say(f"stopped; `tekapctl resume latest --nproc {processes}` continues from the last checkpoint")
    raise typer.Exit(code)


def _train_seeds(spec: Any, count: int, *, as_json: bool) -> None:
    """Train several seeds of a spec at once, and show their results and their mean."""
    from tekapctl.train.many import execute_seeds

    with Training(f"{count} x {spec.network}") as callback:
        summaries = execute_seeds(spec, count, Home.default(), callback)
    finished = [summary for summary in summaries if summary["status"] == "finished"]
    if as_json:
        console.show_json(summaries)
    else:
        rows = [
            {
                "run=": each["run"],
                "seed>": str(each["seed"]),
                "top-1 %>" if spec.patience else "last %>": console.percent(each["last_top1"]),
                "best %>": console.percent(each["best_top1"]),
            }
            for each in finished
        ]
        console.show_table("Top-1 accuracy", rows, optional=["best %>"])
    if not as_json and len(finished) > 1:
        found = [100 * summary["last_top1"] for summary in finished]
        weights = "with the weights of the best epochs" if spec.patience else "after the last epoch"
        mean = f"{statistics.mean(found):.2f} % {weights}, std {statistics.stdev(found):.2f}"
        console.say(
            "the seeds share their batches, and so the subset and the augmentation: separate runs with these seeds "
            "would vary more"
        )
        console.show_fields({"mean": mean, "time": console.duration(max(each["seconds"] for each in finished))})
    if len(finished) < count:
        raise typer.Exit(1)

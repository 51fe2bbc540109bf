"""`tekapctl predict`."""

import csv
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tekapctl.cli import complete, console, options
from tekapctl.cli.evaluate import mistakes_page, write_mistakes
from tekapctl.cli.options import argument, option
from tekapctl.errors import UsageError
from tekapctl.store.home import Home, expand_user, output_file

if TYPE_CHECKING:
    from tekapctl.commands.predict import Prediction

_FORMATS = {"table": "", "csv": ".csv", "jsonl": ".jsonl"}
"""With the suffixes of their files."""
_ROWS = 64
"""Images per table, which are printed as they come."""
_NAMED = 20
"""Unreadable images that are named on stderr."""


def predict(
    reference: Annotated[
        str,
        argument("MODEL", f"{options.MODEL_HELP[:-1]}, or an exported .onnx or .pt2 file.", complete=complete.teachers),
    ],
    images: Annotated[
        list[str],
        argument("IMAGE...", "Images, folders (searched recursively), quoted patterns, or - for paths on stdin."),
    ],
    top: Annotated[int, option("--top K", "Number of classes per image.", min=1)] = 5,
    best: options.Best = False,
    null: Annotated[bool, option("-0 --null", "Paths on stdin end with a null byte, as from find -print0.")] = False,
    device: options.Device = None,
    precision: options.Precision = "float32",
    batch_size: Annotated[int, option("--batch-size N", "Batch size.", "Execution", min=1)] = 64,
    workers: Annotated[
        int | None,
        option(
            "--workers N",
            "Processes that decode images; 0 decodes in the main one. [default: one per core, for few images 0]",
            "Execution",
            min=0,
            max=256,
        ),
    ] = None,
    form: Annotated[
        str | None,
        option(
            "--format FORMAT", "table, csv or jsonl. [default: from the extension of the file, else table]", "Output"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        option("-o --output FILE", "File to write, .csv or .jsonl; with --worst the .html page.", "Output"),
    ] = None,
    worst: Annotated[
        int | None,
        option(
            "--worst N",
            "Write the N most confident mistakes to --output as a page of pictures; an image's folder names its class.",
            "Output",
            min=1,
        ),
    ] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Classify images. Unreadable files are reported, and the exit code is then 1.

    Examples:
    tekapctl predict latest photograph.jpg --top 3
    tekapctl predict latest holiday --output classes.csv
    tekapctl predict deployed.onnx holiday --format csv
    find holiday -name "*.jpg" | tekapctl predict latest - --format jsonl
    """
    sink = _sink(form, output, has_page=worst is not None, as_json=as_json, force=force)
    page = mistakes_page(worst, output, force=force) if worst is not None else None

    from tekapctl.commands.export.predict import exported_file, predictor_of_file
    from tekapctl.commands.mistakes import Mistakes
    from tekapctl.commands.predict import predictor_of
    from tekapctl.data.files.finding import check_sources, find_images
    from tekapctl.train import references, trained

    sources = [str(expand_user(each)) if each.startswith("~") else each for each in images]
    check_sources(sources)
    if (exported := exported_file(reference)) is not None:
        if best or device not in (None, "auto", "cpu") or precision != "float32":
            raise UsageError(
                f"{reference} is one network in its own precision, run on the CPU.",
                "Leave out --best, --device and --precision.",
            )
        predictor = predictor_of_file(*exported, batch_size=batch_size, workers=workers)
    else:
        found = references.find(Home.default(), reference)
        network = trained.load(references.weights_of(found, "best") if best else found)
        predictor = predictor_of(
            network, device=device or "auto", precision=precision, batch_size=batch_size, workers=workers
        )
    began = time.monotonic()
    tally = _Tally(predictor.predict(find_images(sources, sys.stdin.buffer, null=null), top=top))
    predictions: Iterable[Prediction] = tally
    mistakes = None
    if worst is not None:
        mistakes = Mistakes(predictor.classes, worst)
        predictions = mistakes.passing(predictions)
    sink(predictions, min(top, len(predictor.classes)))
    if mistakes is not None and page is not None:
        described = f"{predictor.name} on {', '.join(sources[:3])}"
        write_mistakes(page, mistakes.worst(), described, images=mistakes.images, wrong=mistakes.wrong)
    seconds = time.monotonic() - began
    if output is not None:
        console.say(f"{tally.images:,} images in {console.duration(seconds)}, {tally.images / seconds:,.0f} images/s")
    if tally.unreadable > _NAMED:
        console.say(f"{tally.unreadable:,} images cannot be read")
    if tally.unreadable:
        raise typer.Exit(1)


class _Tally:
    """Counts predictions that pass by, and names the first unreadable images on stderr."""

    def __init__(self, predictions: "Iterable[Prediction]") -> None:
        self.images = self.unreadable = 0
        self._predictions = predictions

    def __iter__(self) -> "Iterator[Prediction]":
        for each in self._predictions:
            self.images += 1
            if each.problem is not None:
                self.unreadable += 1
                if self.unreadable <= _NAMED:
                    console.say(f"{each.image} cannot be read: {each.problem}")
            yield each


Sink = Callable[["Iterable[Prediction]", int], None]
"""Writes predictions with so many classes each."""


def _sink(form: str | None, output: Path | None, *, has_page: bool, as_json: bool, force: bool) -> Sink:
    """Where predictions go and in which form.

    Raises:
        UsageError: The form is unknown, or does not suit the file.
    """
    if form is not None and form not in _FORMATS:
        raise UsageError(f"There is no output format {form!r}.", f"Use {', '.join(_FORMATS)}.")
    if as_json and form is not None:
        raise UsageError("--json and --format both choose the form of the output.", "Leave out one.")
    if as_json and output is not None and not has_page:
        raise UsageError("--json prints on stdout, and --output names a file.", "Use --format jsonl for the file.")
    if as_json:
        return _print_json
    if output is None or has_page:
        return _print_nothing if has_page and form is None else _PRINTERS[form or "table"]
    if form is None:
        form = next((name for name, suffix in _FORMATS.items() if suffix and suffix == output.suffix), None)
    if form is None or form == "table":
        raise UsageError(
            f"{output.name!r} is not the name of a .csv or .jsonl file.",
            "Choose one, add --format csv or jsonl, or --worst N for a page of mistakes.",
        )
    path, line = output_file(output, Home.default(), force=force), _LINES[form]

    def write(predictions: "Iterable[Prediction]", count: int) -> None:
        from tekapctl.store.atomic import atomic_path

        with atomic_path(path) as (part,), part.open("wb") as file:
            for text in _texts(predictions, count, form, line):
                file.write(text.encode("utf-8", "surrogateescape"))

    return write


def _print_nothing(predictions: "Iterable[Prediction]", _: int) -> None:
    for _each in predictions:
        pass


def _print_json(predictions: "Iterable[Prediction]", _: int) -> None:
    console.show_json([each.to_dict() for each in predictions])


def _print_table(predictions: "Iterable[Prediction]", _: int) -> None:
    remaining = iter(predictions)
    while rows := list(islice(remaining, _ROWS)):
        console.show_table(
            "",
            [
                {"image": "" if rank else each.image, "class": name, "probability %>": console.percent(probability)}
                for each in rows
                for rank, (name, probability) in enumerate(each.classes)
            ],
        )
        if _nobody_reads():
            return


def _print_lines(form: str) -> Sink:
    def write(predictions: "Iterable[Prediction]", count: int) -> None:
        for text in _texts(predictions, count, form, _LINES[form]):
            sys.stdout.write(text)
            sys.stdout.flush()
            if _nobody_reads():
                return

    return write


def _nobody_reads() -> bool:
    return bool(getattr(sys.stdout, "is_lost", False))


def _texts(
    predictions: "Iterable[Prediction]", count: int, form: str, line: "Callable[[Prediction, int], str]"
) -> Iterator[str]:
    """The lines of a file; CSV has one with names first."""
    if form == "csv":
        more = [f"{name}_{rank}" for rank in range(2, count + 1) for name in ("class", "probability")]
        yield _csv(["image", "class", "probability", *more, "problem"])
    for each in predictions:
        yield line(each, count)


def _csv_line(prediction: "Prediction", count: int) -> str:
    cells = [text for name, probability in prediction.classes for text in (name, f"{probability:.6g}")]
    return _csv([prediction.image, *cells, *[""] * (2 * count - len(cells)), prediction.problem or ""])


def _csv(cells: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _json_line(prediction: "Prediction", _: int) -> str:
    return json.dumps(prediction.to_dict(), allow_nan=False) + "\n"


_LINES: "dict[str, Callable[[Prediction, int], str]]" = {"csv": _csv_line, "jsonl": _json_line}
_PRINTERS: dict[str, Sink] = {"table": _print_table, "csv": _print_lines("csv"), "jsonl": _print_lines("jsonl")}

"""`tekapctl runs diff`."""

import json
from typing import Annotated, Any

from tekapctl.cli import complete, console, options
from tekapctl.cli.options import argument
from tekapctl.store.home import Home

_REFERENCE = "an ID, unique prefix or suffix, or `latest`."


def diff(
    first: Annotated[str, argument("A", f"First run: {_REFERENCE}", complete=complete.runs)],
    second: Annotated[str, argument("B", f"Second run: {_REFERENCE}", complete=complete.runs)],
    as_json: options.Json = False,
) -> None:
    """Show how two runs differ: their specs, environments and results.

    Example: tekapctl runs diff 0440 latest
    """
    from tekapctl.commands.run_list import difference
    from tekapctl.store.runs import Runs

    runs = Runs(Home.default().runs)
    found = difference(runs.find(first), runs.find(second))
    if as_json:
        console.show_json(found)
        return
    a, b = found["runs"]
    console.show_fields({"A": f"{a} ({found['status'][0]})", "B": f"{b} ({found['status'][1]})"})
    for title, key in (("Spec", "spec"), ("Environment", "environment")):
        if found[key]:
            console.show_text("")
            rows = [
                {"field=": path, "A": _in_words(pair[0]), "B": _in_words(pair[1])} for path, pair in found[key].items()
            ]
            console.show_table(title, rows)
    if not found["spec"]:
        console.say("their specs are the same")
    if found["results"]:
        console.show_text("")
        console.show_table("Results", [_result(field, pair) for field, pair in found["results"].items()])
    if found["epochs"]:
        console.show_text("")
        rows = [
            {"epoch>": str(entry["epoch"]), **_sides([100 * value for value in entry["top1"]], "{:.2f}")}
            for entry in found["epochs"]
        ]
        console.show_table("Top-1 (%) after each epoch", rows)


_COUNTS = {"best_epoch": "best epoch", "parameters": "parameters", "macs": "MACs"}


def _result(field: str, pair: list[Any]) -> dict[str, str]:
    """A row of the results; accuracies in percent."""
    if field in _COUNTS:
        return {"result": _COUNTS[field], **_sides(pair, "{:,}")}
    if field == "seconds":
        return {"result": "time (s)", **_sides(pair, "{:,.1f}")}
    if field == "negative_log_likelihood":
        return {"result": "negative log-likelihood", **_sides(pair, "{:.4f}")}
    percent = [None if value is None else 100 * value for value in pair]
    return {"result": f"{field.replace('_', ' ')} (%)", **_sides(percent, "{:.2f}")}


def _sides(pair: list[Any], form: str) -> dict[str, str]:
    """Both values and their difference."""
    one, other = pair
    both = None not in pair
    signed = form.replace("{:", "{:+")
    return {
        "A>": "" if one is None else form.format(one),
        "B>": "" if other is None else form.format(other),
        "B - A>": signed.format(other - one) if both and other != one else "0" if both else "",
    }


def _in_words(value: Any) -> str:
    if isinstance(value, float):
        return console.number(value)
    return "unset" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)

"""`tekapctl fetch`."""

from contextlib import nullcontext
from typing import Annotated, Any

from tekapctl.cli import complete, console, listings, options, progress
from tekapctl.cli.options import argument, option
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.registry import unknown_name
from tekapctl.store.home import Home


def fetch(
    names: Annotated[
        list[str] | None,
        argument(
            "[NAME]...",
            "Pretrained networks and datasets, or hf:NAME for a dataset on the Hugging Face Hub.",
            complete=complete.fetchable,
        ),
    ] = None,
    everything: Annotated[bool, option("--all", "Download all pretrained networks.")] = False,
    listing: Annotated[bool, option("--list", "List what is available and what is downloaded.")] = False,
    force: Annotated[bool, option("--force", "Download again even if present.")] = False,
    source: Annotated[
        str | None, option("--from SOURCE", "Use this file, folder or URL instead of the published one.")
    ] = None,
    offline: Annotated[bool, option("--offline", "Do not access the network.")] = False,
    as_json: options.Json = False,
) -> None:
    """Download datasets and pretrained CIFAR-100 networks.

    Examples:
    tekapctl fetch resnet32x4 cifar100
    tekapctl fetch --list
    tekapctl fetch vgg13 --from vgg13.pth
    """
    home = Home.default()
    if listing:
        _list(home, as_json)
        return
    from tekapctl.data import DATASETS, data_spec
    from tekapctl.data.names import needs_location
    from tekapctl.models.pretrained import CATALOGUE
    from tekapctl.store.download import check_source

    wanted = [*(names or []), *(CATALOGUE if everything else [])]
    if not wanted:
        raise UsageError("There is nothing to fetch.", "Name a network or dataset; `tekapctl fetch --list` lists them.")
    known = [*CATALOGUE, *DATASETS]
    for name in wanted:
        if ":" in name and needs_location(name):
            data_spec(name)
        elif name not in known:
            raise unknown_name("pretrained network or dataset", name, known)
    if source is not None and len(wanted) > 1:
        raise UsageError("--from is the source of one item, and several were named.", "Fetch them one at a time.")
    if source is not None:
        check_source(source, "--from")
    fetched, failures = [], []
    for name in dict.fromkeys(wanted):
        try:
            fetched.append(_fetch_one(home, name, force=force, source=source, offline=offline))
        except TekapctlError as error:
            # One that fails must not cost the others.
            if len(wanted) == 1:
                raise
            console.show_error(error.problem, error.remedy)
            failures.append(name)
    if as_json:
        console.show_json({"fetched": fetched, "failed": failures})
    else:
        for entry in fetched:
            console.show_text(console.printable(f"{entry['name']}: {console.wording.remedy(entry['what'])}"))
    if failures:
        raise TekapctlError(f"Not fetched: {', '.join(failures)}.", "Try again, or give another source with --from.")


def _fetch_one(home: Home, name: str, *, force: bool, source: str | None, offline: bool) -> dict[str, Any]:
    from tekapctl.data import data_spec
    from tekapctl.models import pretrained
    from tekapctl.store.download import no_network

    if name in pretrained.CATALOGUE:
        with progress.download(name) as report:
            teacher = pretrained.fetch(home, name, force=force, source=source, offline=offline, report=report)
        entry = pretrained.CATALOGUE[name]
        return {
            "name": name,
            "path": str(teacher.path),
            "what": f"pretrained on {entry.dataset}, published top-1 {entry.accuracy:.2f} %, at {teacher.path}",
        }
    with no_network(name) if offline else nullcontext():
        section = data_spec(name)
        if section.shows_progress:
            console.say(f"fetching {name}")
            what = section.fetch(home.datasets, force=force, source=source)
        else:
            with progress.download(name) as report:
                what = section.fetch(home.datasets, force=force, source=source, report=report)
    return {"name": name, "path": str(section.location(home.datasets)), "what": what}


def _list(home: Home, as_json: bool) -> None:
    rows = []
    for row in listings.downloads():
        included = row.pop("included", False)
        is_teacher = row["kind"] == "teacher"
        place = home.teachers / f"{row['name']}.safetensors" if is_teacher else home.datasets / row["name"]
        rows.append({**row, "fetched": included or place.exists()})
    if as_json:
        console.show_json(rows)
        return
    console.show_table(
        "",
        [
            {
                "name": row["name"],
                "kind": row["kind"],
                "trained on": row["dataset"] if row["kind"] == "teacher" else "",
                "top-1 %>": console.percent(row["top1"]),
                "downloaded": "yes" if row["fetched"] else "",
            }
            for row in rows
        ],
    )

"""`tekapctl predict`."""

from typing import Annotated

import typer

from tekapctl.cli import console, options


def predict(
    reference: Annotated[str, typer.Argument(metavar="RUN", help="A run: id, unique prefix or latest.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes to name.")] = 5,
    best: Annotated[bool, typer.Option("--best", help="The best epoch's weights, not the last's.")] = False,
    as_json: options.Json = False,
) -> None:
    """Name the classes of images; one that cannot be read is named, and the exit code is then 1.

    Example: tekapctl predict latest photograph.jpg --top 3
    """
    from tekapctl.commands.predict import predict_files
    from tekapctl.store.home import Home
    from tekapctl.train import trained

    found = trained.find(Home.default(), reference)
    network = trained.load(trained.best_of(found) if best else found)
    said = list(predict_files(network, images, top=top))
    if as_json:
        console.show_json([each.to_dict() for each in said])
    else:
        console.show_table(
            "",
            ["image", "class", "probability %>"],
            [
                (each.image if rank == 0 else "", name, console.percent(share))
                for each in said
                for rank, (name, share) in enumerate(each.classes)
            ],
        )
    for each in said:
        if each.problem is not None:
            console.say(f"{each.image} cannot be read: {each.problem}")
    if any(each.problem is not None for each in said):
        raise typer.Exit(1)

"""`tekapctl predict`."""

from typing import Annotated

import typer

from tekapctl.cli import complete, console, options


def predict(
    reference: Annotated[
        str, typer.Argument(metavar="MODEL", help=options.MODEL_HELP, autocompletion=complete.teachers)
    ],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, typer.Option("--top", metavar="K", min=1, help="Number of classes to print per image.")] = 5,
    best: options.Best = False,
    as_json: options.Json = False,
) -> None:
    """Classify images. Unreadable files are reported and the exit code is 1.

    Example: tekapctl predict latest photograph.jpg --top 3
    """
    from tekapctl.commands.evaluate import predict_files
    from tekapctl.store.home import Home
    from tekapctl.train import trained

    found = trained.find(Home.default(), reference)
    network = trained.load(trained.weights_of(found, "best") if best else found)
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

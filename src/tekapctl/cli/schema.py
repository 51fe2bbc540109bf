"""`tekapctl schema`."""

from tekapctl.cli import console, listings


def schema() -> None:
    """Print the JSON Schema of run specs, for completion in an editor.

    Example: tekapctl schema > tekapctl.schema.json
    """
    console.show_json(listings.schema())

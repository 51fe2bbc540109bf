"""`tekapctl schema`."""

from tekapctl.cli import console


def schema() -> None:
    """Print the JSON Schema of run specs.

    Example: tekapctl schema > tekapctl.schema.json
    """
    from tekapctl.spec import json_schema

    console.show_json(json_schema())

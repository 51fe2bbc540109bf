"""What a run depends on: its settings, their files, their schema and their identity."""

from tekapctl.spec.io import (
    dump,
    dumps,
    json_schema,
    load,
    load_of_run,
    loads,
    merged,
    parse,
    read_file,
    read_table,
    to_dict,
)
from tekapctl.spec.recipes import RECIPES, Recipe, recipe
from tekapctl.spec.run import RunSpec, TeacherSpec
from tekapctl.spec.student import StudentSpec

__all__ = [
    "RECIPES",
    "Recipe",
    "RunSpec",
    "StudentSpec",
    "TeacherSpec",
    "dump",
    "dumps",
    "json_schema",
    "load",
    "load_of_run",
    "loads",
    "merged",
    "parse",
    "read_file",
    "read_table",
    "recipe",
    "to_dict",
]

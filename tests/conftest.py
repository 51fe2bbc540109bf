"""Shapes in signatures are checked at run time in every test."""

from jaxtyping import install_import_hook

install_import_hook("tekapctl", "beartype.beartype")

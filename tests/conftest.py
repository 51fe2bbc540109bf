"""Shapes in signatures are checked at run time in every test."""

import os

# The suite runs a process a core: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("tekapctl", "beartype.beartype")

# How long an example takes depends on what else the machine does.
settings.register_profile("tekapctl", deadline=None)
settings.load_profile("tekapctl")

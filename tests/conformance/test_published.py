"""Our losses, networks and optimizers compute what the published implementations compute."""

from pathlib import Path

import pytest

from conformance.check import check
from conformance.vectors import Vectors
from tekapctl.models import names

PUBLISHED = {path.stem: Vectors(path) for path in sorted((Path(__file__).parent / "published").glob("*.json"))}
CASES = [(kind, name) for kind, vectors in PUBLISHED.items() for name in vectors.names]


def test_the_zoo_is_the_published_one():
    assert sorted(names()) == sorted(PUBLISHED["models"].names)


@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda each: each)
def test_published_numbers(kind, name):
    result = check(PUBLISHED[kind].case(name))
    assert result.agrees, str(result)

"""The glossary names classes and files that exist, once each word, in the order of its chapters."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
ENTRY = re.compile(r"^(\*\*.+\*\*)\n: ((?:.+\n)+)", re.MULTILINE)
PLACE = re.compile(r"\(([^()]*`[\w/]+\.py`)\)\s*$")


def test_each_word_is_explained_once_with_its_place():
    words = [word for names, _ in ENTRY.findall(TEXT) for word in re.findall(r"\*\*(.+?)\*\*", names)]
    assert len(words) > 40
    assert len(words) == len(set(words))
    assert len(ENTRY.findall(TEXT)) == len(re.findall(r"^\*\*", TEXT, re.MULTILINE))


def test_what_an_entry_names_is_in_the_file_it_names():
    for word, meaning in ENTRY.findall(TEXT):
        place = PLACE.search(meaning)
        assert place, f"{word} says no file"
        *names, file = re.findall(r"`([^`]+)`", place[1])
        source = (ROOT / "src" / "tekapctl" / file).read_text(encoding="utf-8")
        for name in names:
            assert re.search(rf"\b{name}\b", source), f"{word}: {name} is not in {file}"

"""The pages of the documentation, and the commands in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)


def blocks(text: str) -> list[str]:
    """The indented blocks of a page, in order; fenced ones are code of other kinds."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in INDENTED.findall(plain)]


def commands(page: Path) -> list[str]:
    """Every command of this program in a page, in order and once: in blocks, and between backticks.

    Those with a place for the reader's own words (`RUN...`, `[NAME]`) are no commands to be typed, nor is a mere name
    in the text (`tekapctl watch`).
    """
    text = page.read_text(encoding="utf-8")
    lines = [line.strip().removeprefix("$ ") for block in blocks(text) for line in block.splitlines()]
    quoted = re.findall(r"`(tekapctl [^` ]+ [^`]+)`", text.replace("\n", " "))
    found = [re.split(r"\s+#|\s[|>&;]|\s{2,}", line)[0] for line in [*lines, *quoted] if line.startswith("tekapctl ")]
    return [each for each in dict.fromkeys(found) if not re.search(r"\.\.\.|\[[A-Z]", each)]

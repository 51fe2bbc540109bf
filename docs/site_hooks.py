"""Hooks of the documentation site: pages from the repository's root, and links that lead out of this folder."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}
"""Files of the root and the pages of the site that show them; the site has a home page of its own."""
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+://|#|mailto:)([^)\s]+)\)")


def on_files(files, config):
    for source, page in PAGES.items():
        if page != "index.md":
            files.append(File.generated(config, page, content=from_root((ROOT / source).read_text(encoding="utf-8"))))
    return files


def from_root(text: str) -> str:
    """A page of the root with its links as they are from this folder."""
    return LINK.sub(lambda link: f"[{link[1]}]({within_site(f'../{link[2]}')})", text)


def within_site(target: str) -> str:
    """A link's target with what the site shows elsewhere, or otherwise named, in its place."""
    target = target.removeprefix("../docs/")
    path, anchor, name = target.removeprefix("../").partition("#")
    return f"{PAGES[path]}{anchor}{name}" if path in PAGES else target


def on_page_markdown(markdown, page, config, files):
    """Links to files that only the repository has become their text: the site does not know where it is hosted."""

    def shown(link: re.Match[str]) -> str:
        target = within_site(link[2])
        return link[1] if target.startswith("../") else f"[{link[1]}]({target})"

    return LINK.sub(shown, markdown)

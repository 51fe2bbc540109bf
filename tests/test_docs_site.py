"""The documentation site: it builds without a warning, and reads well in a browser."""

import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import pytest

from helpers.browser import chromium, find_chromium

ROOT = Path(__file__).parents[1]
PHONE = (390, 844)
DESK = (1280, 900)
DARK = 80
"""The brightest that the background of a dark page may be, of 255."""

pytestmark = pytest.mark.slow
without_mkdocs = pytest.mark.skipif(
    find_spec("material") is None or find_spec("mkdocstrings") is None,
    reason='the documentation tools are not installed: pip install "tekapctl[docs]"',
)
without_chromium = pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium or Chrome on this machine")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Keep the test's output clean."""


@pytest.fixture(scope="module")
def address(site):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    with chromium(find_chromium()) as page:
        yield page


@pytest.fixture
def page(browser):
    browser.errors.clear()
    browser.resize(*DESK)
    browser.prefer("light")
    return browser


@without_mkdocs
def test_each_page_of_the_documentation_is_on_the_site(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"contributing", "changelog"}
    assert pages <= {path.stem for path in site.glob("*.html")}


@without_mkdocs
def test_the_python_reference_comes_from_the_docstrings(site):
    text = (site / "api.html").read_text(encoding="utf-8")
    for name in ("train_teacher", "distill", "resume_run", "evaluate", "load_student"):
        assert f'id="tekapctl.api.{name}"' in text
    assert "Distill a student from a teacher" in text


@without_mkdocs
def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'src="http' not in text
        assert 'rel="stylesheet" href="http' not in text


@without_mkdocs
@without_chromium
def test_the_home_page_leads_to_the_tutorial(page, address):
    page.open(f"{address}/index.html")
    assert page.run("document.querySelector('h1').innerText.trim()").startswith("tekapctl")
    page.click("[...document.querySelectorAll('article a')].find(a => a.innerText == 'Tutorial')")
    assert page.run("location.pathname") == "/tutorial.html"
    assert not page.errors


@without_mkdocs
@without_chromium
def test_the_search_finds_a_method(page, address):
    page.open(f"{address}/index.html")
    page.run("document.querySelector('.md-search__input').focus()")
    page.call("Input.insertText", text="ReviewKD")
    page.wait_for("document.querySelectorAll('.md-search-result__item a').length > 0")
    targets = page.run("[...document.querySelectorAll('.md-search-result__item a')].map(a => a.pathname)")
    assert any(target.endswith("/methods.html") for target in targets)
    assert not page.errors


@without_mkdocs
@without_chromium
def test_a_page_is_dark_where_the_system_is(page, address):
    page.prefer("dark")
    page.open(f"{address}/methods.html")
    page.wait_for("document.body.dataset.mdColorScheme == 'slate'")
    colours = page.run(
        "[document.body, document.querySelector('article p')].map((each, i) => "
        "getComputedStyle(each)[i ? 'color' : 'backgroundColor'].match(/[\\d.]+/g).slice(0, 3).map(Number))"
    )
    assert max(colours[0]) < DARK
    assert min(colours[1]) > max(colours[0]) + 60
    assert not page.errors


@without_mkdocs
@without_chromium
def test_no_page_is_wider_than_a_phone(page, address, site):
    page.resize(*PHONE)
    for path in sorted(site.glob("*.html")):
        page.open(f"{address}/{path.name}")
        assert page.run("document.documentElement.scrollWidth") <= PHONE[0], path.name
        assert not page.errors, path.name

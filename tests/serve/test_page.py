"""The playground in a real browser, on a real server of the embedded model, and its files as they are served."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_server import Running

import cm3.serve

FILES = Path(cm3.serve.__file__).parent / "page"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def test_each_file_has_its_type_a_tag_and_a_policy(server: Running) -> None:
    for path, name in (("/", "index.html"), *((f"/page/{f.name}", f.name) for f in FILES.iterdir())):
        answer = server.ask(path)
        assert answer.status == 200 and answer.data == (FILES / name).read_bytes()
        kind = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        assert answer.headers["content-type"].startswith(kind[name.rpartition(".")[2]])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        tag = answer.headers["etag"]
        again = server.ask(path, headers={"If-None-Match": f'"other", W/{tag}'})
        assert again.status == 304 and not again.data and again.headers["etag"] == tag
        assert server.ask(path, headers={"If-None-Match": '"other"'}).status == 200


@pytest.mark.parametrize("name", ["nothing.js", "../app.py", "..%2fapp.py", "%2e%2e/app.py", "", "a%00"])
def test_a_name_that_is_no_file_of_the_page_is_told(server: Running, name: str) -> None:
    answer = server.ask(f"/page/{name}")
    assert answer.status == 404 and answer.error["message"]


def test_the_page_names_only_files_of_its_own() -> None:
    page = (FILES / "index.html").read_text(encoding="utf-8")
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {n for n in named if not n.startswith("#")} <= {f"page/{f.name}" for f in FILES.iterdir()}
    assert "<style" not in page and not re.search(r"\s(?:style|on\w+)=|<script>", page)
    for script in FILES.glob("*.js"):
        assert set(re.findall(r'from "(.+?)"', script.read_text())) <= {f"./{f.name}" for f in FILES.iterdir()}
        assert (
            script.name == "theme.js"
            or f"./{script.name}" in "".join(f.read_text() for f in FILES.glob("*.js"))
            or (f"page/{script.name}" in page)
        )


class Tab:
    """A page of the browser that is open at the playground, and what went wrong in it."""

    def __init__(self, context: Any, url: str) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(30_000)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda line: line.type == "error" and self.wrong.append(line.text))
        self.asked: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("html[data-ready]")

    def axe(self) -> list[str]:
        """What the accessibility rules find: rule and places."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in found]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    pytest.importorskip("axe_playwright_python")
    if BROWSER is None:
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield launched
        launched.close()


WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 360, "height": 740}


@pytest.fixture
def tab(browser: Any, server: Running) -> Iterator[Tab]:
    context = browser.new_context(viewport=WIDE, permissions=["clipboard-read", "clipboard-write"])
    opened = Tab(context, server.url)
    yield opened
    context.close()
    assert opened.wrong == []
    assert {url for url in opened.asked if not url.startswith((server.url, "blob:"))} == set()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_view_fits_any_screen_and_breaks_no_rule(browser: Any, server: Running, scheme: str) -> None:
    for size in (WIDE, PHONE):
        context = browser.new_context(viewport=size, color_scheme=scheme)
        tab = Tab(context, server.url)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        box = tab.page.locator("#go").bounding_box()
        assert box["y"] + box["height"] < size["height"]
        assert tab.axe() == [] and tab.wrong == []
        context.close()


def test_the_theme_is_chosen_and_kept(tab: Tab) -> None:
    def paper() -> str:
        return tab.page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = paper()
    while "dark" not in tab.page.locator("#theme").inner_text():
        tab.page.click("#theme")
    dark = paper()
    assert dark != light and tab.axe() == []
    tab.page.reload()
    tab.page.wait_for_selector("html[data-ready]")
    assert paper() == dark

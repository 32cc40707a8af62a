"""Takes docs/images/playground-*.png, the playground of a server that runs, in a real browser.

cm3 serve
python docs/images/playground.py http://127.0.0.1:8000 docs/images
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import PIL.Image
from playwright.sync_api import sync_playwright

from cm3.files import write

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PROMPT = "a large yellow triangle at the bottom right and a small black circle at the top left on a pink background"
TRIES = 20


def keep(data: bytes, path: Path) -> None:
    """Write a screenshot with the 128 colours that it has."""
    held = io.BytesIO()
    with PIL.Image.open(io.BytesIO(data)) as opened:
        opened.convert("RGB").quantize(128).save(held, "PNG", optimize=True)
    write(path, held.getvalue())


def ask(page: Any) -> None:
    """Ask for what the form says, and wait for it."""
    page.click("#go")
    page.wait_for_selector("#results > .done")
    page.wait_for_selector("#go:not(.stop)")


def half_drawn(page: Any) -> bytes:
    """Draw until a screenshot falls between two rows of the middle."""
    for _ in range(TRIES):
        page.click("#go")
        page.wait_for_selector(".busy .said:text-matches('row [3-6]'), .done .said")
        before = page.inner_text(".said")
        data = page.screenshot()
        if before == page.inner_text(".said") and before.startswith("row"):
            page.click("#go")
            return data
        page.wait_for_selector("#go:not(.stop)")
    raise TimeoutError("no screenshot fell between two rows")


def main(url: str, folder: Path) -> None:
    """Take a light one, a dark one, and one of a phone."""
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for name, wide, high, scheme in (
            ("light", 1200, 820, "light"),
            ("dark", 1200, 820, "dark"),
            ("phone", 360, 740, "light"),
        ):
            page = launched.new_page(viewport={"width": wide, "height": high}, color_scheme=scheme)
            page.goto(url)
            page.wait_for_selector("html[data-ready]")
            if name == "light":
                page.fill("#prompt", PROMPT)
                data = half_drawn(page)
            elif name == "dark":
                page.click(".modes label:has([value=place])")
                page.click(".chip")
                ask(page)
                page.click("text=Show boxes")
                data = page.screenshot()
            else:
                page.fill("#prompt", PROMPT)
                ask(page)
                page.evaluate("scrollTo(0, 0)")
                data = page.screenshot()
            keep(data, folder / f"playground-{name}.png")
        launched.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

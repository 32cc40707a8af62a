"""Takes docs/images/playground-*.png, the playground of a server that runs, in a real browser.

    cm3 serve
    python docs/images/playground.py http://127.0.0.1:8000 docs/images

All are drawn with one seed: a light one half way, a dark one with boxes, and one of a phone.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from cm3.files import write
from cm3.picture import open_picture, rgb

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PROMPT = "a large lion at the top left and a small teapot at the bottom right, on a sky ground"


def keep(data: bytes, path: Path) -> None:
    """Write a screenshot in 256 colours."""
    held = io.BytesIO()
    with open_picture(data) as opened:
        rgb(opened).quantize(256).save(held, "PNG", optimize=True)
    write(path, held.getvalue())


def ask(page: Any) -> None:
    """Ask for what the form says, and wait for it."""
    page.click("#go")
    page.wait_for_selector("#results > .done")
    page.wait_for_selector("#go:not(.stop)")


def stop_after(page: Any, rows: int) -> None:
    """Let the page draw so many rows and no more."""
    page.evaluate(
        """rows => {
            const draw = createImageBitmap;
            window.createImageBitmap = (...given) => (rows-- > 0 ? draw(...given) : new Promise(() => {}));
        }""",
        rows,
    )


def main(url: str, folder: Path) -> None:
    """Take a light one, a dark one, and one of a phone."""
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for name, wide, high, scheme in (
            ("light", 1200, 820, "light"),
            ("dark", 1200, 940, "dark"),
            ("phone", 360, 740, "light"),
        ):
            page = launched.new_page(viewport={"width": wide, "height": high}, color_scheme=scheme)
            page.goto(url)
            page.wait_for_selector("html[data-ready]")
            page.evaluate("document.getElementById('seed').value = 3")
            if name == "light":
                page.fill("#prompt", PROMPT)
                stop_after(page, 12)
                page.click("#go")
                page.wait_for_selector(".said:text-is('row 12 of 16')")
                data = page.screenshot()
            elif name == "dark":
                page.click(".modes label:has([value=place])")
                page.click(".chip")
                ask(page)
                page.click("text=Show boxes")
                page.evaluate("scrollTo(0, 0)")
                data = page.screenshot()
            else:
                page.fill("#prompt", PROMPT)
                ask(page)
                data = page.screenshot()
            keep(data, folder / f"playground-{name}.png")
        launched.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""A tab of a real browser at the playground, and what the interface gives, to compare with."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from running_server import Running

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 360, "height": 740}
RED = "a large red circle at the top left on a grey background"
STAR = "a small white star at the bottom right on a pink ground"


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

    def mode(self, name: str) -> None:
        """Choose a task as a hand does, by its label."""
        self.page.click(f".modes label:has([value={name}])")

    def settings(self, **values: str) -> None:
        """Open the settings and fill some in."""
        self.page.evaluate("document.getElementById('more').open = true")
        for name, value in values.items():
            field = self.page.locator(f"#{name}")
            field.select_option(value) if field.evaluate("e => e.tagName") == "SELECT" else field.fill(value)

    def go(self, number: int = 1) -> None:
        """Ask for what the form says, and wait until so many results are whole and the form can be used again."""
        self.page.click("#go")
        self.page.wait_for_selector(f"#results > :is(.done, .answer:not(.busy)) >> nth={number - 1}")
        self.page.wait_for_selector("#go:not(.stop)")

    def download(self, number: int = 0) -> np.ndarray:
        """The pixels of a result's file."""
        with self.page.expect_download() as download:
            self.page.click(f".actions a >> nth={number}")
        with PIL.Image.open(download.value.path()) as opened:
            return np.asarray(opened.convert("RGB"))


def pixels(b64: str) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(base64.b64decode(b64))) as opened:
        return np.asarray(opened.convert("RGB"))


def file_of(picture: PIL.Image.Image) -> bytes:
    saved = io.BytesIO()
    picture.save(saved, "PNG")
    return saved.getvalue()


def drawn(server: Running, **body: Any) -> np.ndarray:
    """The picture that the interface gives, without a stream."""
    answer = server.ask("/v1/images/generations", body)
    assert answer.status == 200, answer.data
    return pixels(answer.json["data"][0]["b64_json"])


def run_code(tab: Tab, folder: Path) -> Iterator[str]:
    """Copy the code in each language and run it, in the folder; gives what each wrote."""
    shells = {"python": [sys.executable, "-c"], "curl": ["bash", "-euc"]}
    for language, shell in shells.items():
        if language == "curl" and not (shutil.which("curl") and shutil.which("jq")):
            continue
        tab.page.click(f"#code label:has([value={language}])")
        tab.page.bring_to_front()  # a browser lets the tab in front copy, and a download may have taken its place
        tab.page.click("#code-copy")
        tab.page.wait_for_selector("#code-copied:has-text('Copied')")
        code = tab.page.evaluate("navigator.clipboard.readText()")
        env = {**os.environ, "NO_PROXY": "127.0.0.1"}
        done = subprocess.run([*shell, code], cwd=folder, capture_output=True, text=True, timeout=100, env=env)
        assert done.returncode == 0, done.stderr
        yield done.stdout


def taken(path: Path) -> np.ndarray:
    """The pixels of a file, which is then gone."""
    with PIL.Image.open(path) as opened:
        found = np.asarray(opened.convert("RGB"))
    path.unlink()
    return found

"""The pages' commands and code for serving, as they stand: the real command, and the official client against it."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("openai")

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
DEFAULT = "http://127.0.0.1:8000"


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def code(page: str) -> str:
    """The lines of a page's block that imports the client, to its end."""
    block = re.search(r"(?:^    .*\n|^\n)*^    from openai import OpenAI\n(?:^    .*\n|^\n)*", page, re.MULTILINE)
    assert block, "the page shows no client"
    return re.sub(r"(?m)^    ", "", block[0].partition("    from openai")[1] + block[0].partition("    from openai")[2])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of `cm3 serve`, run as a newcomer would, on a free port; SIGTERM ends it without an error."""
    assert "\n    .venv/bin/cm3 serve\n" in README
    command = [sys.executable, "-m", "cm3", "serve", "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(), text=True, **pipes) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            assert re.fullmatch(r"stickers is served at http://127\.0\.0\.1:\d+\n", said), said
            yield said.split()[-1]
        finally:
            server.send_signal(signal.SIGTERM)
            _, errors = server.communicate(timeout=60)
    assert server.returncode == 0 and "Traceback" not in errors, errors


def put_pictures(folder: Path) -> None:
    """Write the pictures that the pages name."""
    picture = PIL.Image.new("RGB", (128, 128), "gray")
    picture.save(folder / "in.png")
    alpha = np.full((128, 128), 255, np.uint8)
    alpha[32:64, 32:64] = 0
    picture.putalpha(PIL.Image.fromarray(alpha))
    picture.save(folder / "mask.png")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("command", re.findall(r"^    (curl .*)", PAGE, re.MULTILINE))
def test_a_command_of_the_page_draws(url: str, tmp_path: Path, command: str) -> None:
    put_pictures(tmp_path)
    command = command.replace(DEFAULT, url).replace("curl ", "curl -sS --fail ", 1)
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and '"b64_json":"' in done.stdout and '"error"' not in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, PAGE], ids=["README", "serving"])
def test_the_client_of_a_page_runs(url: str, tmp_path: Path, page: str) -> None:
    """With pictures of its own where it names some."""
    put_pictures(tmp_path)
    sent = base64.b64encode((tmp_path / "in.png").read_bytes()).decode()
    asked = code(page)
    assert DEFAULT in asked and "client." in asked
    asked = asked.replace(DEFAULT, url).replace("base64,...", f"base64,{sent}")
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", asked + "\nprint(len(drawn.data[0].b64_json))"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0 and int(done.stdout) > 100, f"{asked}\n{done.stderr}"

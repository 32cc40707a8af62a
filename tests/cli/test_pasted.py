"""Commands that are printed anywhere can be pasted: the shell and the verb take the whole line as it stands."""

from __future__ import annotations

import importlib
import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cm3.cli.main import VERBS, _words
from cm3.cli.parse import names_of

ROOT = Path(__file__).resolve().parents[2]
BEGINS = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:cm3|torchrun|python|pip) \S|make [a-z-]+( |$)(?! )")


def written() -> Iterator[tuple[str, str]]:
    """(file, command) of every line of a page or a docstring that begins with one, continued lines joined."""
    pages = [p for d in ("cm3", "recipes", "docs", "benchmarks") for p in (ROOT / d).rglob("*")]
    for path in sorted([*pages, ROOT / "README.md"]):
        if path.suffix not in (".py", ".md") or path.name == "log.md":
            continue
        text = re.sub(r"\\\\?\n\s*", "", path.read_text())
        for line in text.splitlines():
            line = re.sub(r"^(command|measure): ", "", line.strip().removeprefix("$ "))
            if BEGINS.match(line) and "->" not in line:
                yield str(path.relative_to(ROOT)), line


def test_there_are_many() -> None:
    assert len(list(written())) > 120


def test_no_command_has_prose_on_its_line() -> None:
    """On a page nothing but the command stands there; in a docstring a comment may follow it."""
    for file, line in written():
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "x", line)
        column = r"\S {2,}\S|#" if file.endswith(".md") else r"\S {3,}(?!#)\S"
        assert not re.search(column, bare) or re.match(r"cm3 \w+ {3,}", line), (file, line)


def test_the_shell_takes_every_command() -> None:
    """Checked, and not run. What stands for a choice, `[--resume]`, is not a command but how one is made."""
    for file, line in written():
        if "`" not in line:
            checked = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True)
            assert checked.returncode == 0, (file, line, checked.stderr)


def options(line: str) -> tuple[str, list[str]]:
    """(verb, options) of a command of ours; the verb is empty for another's."""
    words = shlex.split(line, comments=True)
    words = list(itertools.dropwhile(lambda word: Path(word).name != "cm3", words))[1:]
    verb = _words(words)
    return verb if verb in VERBS else "", [w.split("=")[0] for w in words if w.startswith("--")]


@pytest.mark.parametrize("verb", [v for v in VERBS if v not in ("train", "plan", "tokenizer image train")])
def test_every_option_that_is_printed_is_the_verbs(verb: str) -> None:
    module, name = VERBS[verb][0].split(":")
    known = {f"--{n}".replace("_", "-") for n in names_of(getattr(importlib.import_module(module), name))} | {"--help"}
    for file, line in written():
        if "`" not in line and "'" not in re.sub(r"'[^']*'", "", line):
            found, given = options(line)
            assert found != verb or set(given) <= known, (file, line)


def test_the_design_lists_the_verbs_that_there_are() -> None:
    page = (ROOT / "docs" / "design.md").read_text()
    listed = set(re.findall(r"`([a-z ]+)`", page.split("one verb a job")[1].split("\n\n")[1]))
    first = {" ".join(verb.split()[:n]) for verb in VERBS for n in (1, 2)}  # `tokenizer text` stands for train and eval
    assert listed - {"cm3"} <= first
    assert all(any(f"{verb} ".startswith(f"{name} ") for name in listed) for verb in VERBS)

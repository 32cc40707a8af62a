"""The container file against the package: no engine builds it here, so all that it names is looked up."""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from packaging.specifiers import SpecifierSet

pytest.importorskip("fastapi")

from cm3.cli.serve import Serve
from cm3.registry import VERBS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """The file as (instruction, words), with lines joined that go on and comments left out."""
    text = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", (ROOT / "Containerfile").read_text(), flags=re.MULTILINE))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def told(name: str) -> list[str]:
    return [words for instruction, words in instructions() if instruction == name]


def test_only_instructions_that_there_are() -> None:
    known = "FROM ARG WORKDIR COPY RUN ENV USER VOLUME EXPOSE STOPSIGNAL HEALTHCHECK ENTRYPOINT".split()
    assert {name for name, _ in instructions()} == set(known)


def test_its_python_is_one_of_ours() -> None:
    versions = [re.fullmatch(r"python:(3\.\d+)-slim( AS build)?", image) for image in told("FROM")]
    assert len(versions) == 2 and all(versions)
    (version,) = {found[1] for found in versions if found}
    assert version in SpecifierSet(PROJECT["requires-python"])
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_it_copies_what_there_is_and_all_that_an_install_needs() -> None:
    own = [words.split()[:-1] for words in told("COPY") if "--from" not in words]
    copied = {name for names in own for name in names}
    assert all((ROOT / name).exists() for name in copied)
    assert {"pyproject.toml", "setup.py", "cm3", "recipes", PROJECT["readme"], *PROJECT["license-files"]} <= copied
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == copied


def test_it_installs_extras_that_there_are() -> None:
    (install,) = [run for run in told("RUN") if "pip install" in run]
    extras = re.search(r"'\.\[([a-z,]+)\]'", install)
    assert extras and "serve" in extras[1].split(",")
    assert set(extras[1].split(",")) <= PROJECT["optional-dependencies"].keys()
    (index,) = told("ARG")
    assert index.split("=")[1] in (ROOT / "Makefile").read_text() and "-c constraints.txt" in install


def test_it_is_not_run_as_root() -> None:
    names = [name for name, _ in instructions()]
    (user,) = told("USER")
    assert int(user) > 0 and f"--uid {user}" in " ".join(told("RUN"))
    assert names.index("USER") < names.index("ENTRYPOINT")


def test_its_command_is_ours_and_takes_a_model_behind_it() -> None:
    (entry,) = told("ENTRYPOINT")
    command, verb, *options = json.loads(entry)
    assert command in PROJECT["scripts"] and verb in VERBS
    for more, model in ([], "stickers"), (["/models/mine", "--device", "cuda"], "/models/mine"):
        parsed = Serve.parse([*options, *more], f"cm3 {verb}")
        assert (parsed.host, parsed.model) == ("0.0.0.0", model)
        assert [str(parsed.port)] == told("EXPOSE")
    assert any(path in " ".join(told("ENV")) for path in ("PATH=/opt/cm3/bin:",))


def test_its_health_check_asks_a_route_that_there_is() -> None:
    (check,) = told("HEALTHCHECK")
    python, flag, code = json.loads(check.split("CMD ")[1])
    assert (python, flag) == ("python", "-c")
    (url,) = [n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Constant) and "http" in str(n.value)]
    asked = urlsplit(str(url))
    assert [str(asked.port)] == told("EXPOSE") and asked.hostname == "127.0.0.1"
    assert f'"{asked.path}"' in (ROOT / "cm3/serve/app.py").read_text()
    assert shlex.split(check.split("CMD ")[0]) == ["--start-period=120s", "--interval=15s", "--timeout=5s"]

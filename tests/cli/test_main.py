"""Words to verbs, help without torch, exit codes, and what an error looks like."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from command import Cm3

from cm3.cli import main as entry
from cm3.cli.main import VERBS
from cm3.errors import DataError


def test_help_of_every_verb_loads_no_torch() -> None:
    code = """
import sys
from cm3.cli.main import VERBS, main
for words in ["--help", "", "tokenizer", "tokenizer --help", "--version", *(f"{v} --help" for v in VERBS)]:
    print("===", words)
    assert main(words.split()) == 0, words
sys.exit(any(m in sys.modules for m in ("torch", "numpy", "tokenizers", "huggingface_hub")))
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    told = {part.split("\n")[0]: part for part in made.stdout.split("=== ")[1:]}
    for verb in VERBS:
        assert f"usage: cm3 {verb}" in told[f"{verb} --help"]
        assert "examples:" in told[f"{verb} --help"]
        assert f"  cm3 {verb}" in told[f"{verb} --help"].split("examples:")[1]


def test_every_verb_is_listed(cm3: Cm3) -> None:
    listed = cm3("--help").out
    assert all(verb in listed for verb in VERBS)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["genrate", "x"], "no verb 'genrate'. Did you mean 'generate'?"),
        (["tokenizer", "txt"], "cm3 tokenizer: no verb 'txt'. Did you mean 'text'?"),
        (["generate", "x", "--gudance", "3"], "--gudance: no such option. Did you mean '--guidance'?"),
        (["generate", "x", "-n", "3"], "-n: no such option. Did you mean '--n'? See cm3 generate --help"),
        (["generate", "x", "--no-json"], "--no-json: no such option. Did you mean '--json'?"),
        (["generate", "x", "--json=yes"], "cm3 generate --help"),
        (["generate", "x", "--unconditional", "keep"], "invalid choice 'keep' for argument '--unconditional'; choose"),
        (["export", "a"], "missing --out: Folder of the bundle"),
        (["generate", "x", "--n", "many"], "--n: 'many' is not a whole number"),
        (["generate", "x", "--temperature", "warm"], "--temperature: 'warm' is not a number"),
        (["generate", "x", "--contrast", "mix"], "invalid choice 'mix' for argument '--contrast'"),
        (["generate", "x", "--seed"], "Missing value for argument '--seed'"),
        (["generate"], "nothing to draw; give a prompt in quotes, or --prompts FILE"),
        (["edit"], "missing IMAGE"),
        (["generate", "a red", "circle"], "'circle': one argument too many; put several words in quotes"),
        (["describe"], "no picture given"),
        (["train"], "no recipe"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(cm3: Cm3, command: list[str], told: str) -> None:
    assert told in cm3(*command).refusal


@pytest.mark.parametrize("command", [["generate", "a circle"], ["infill", "--text", "a <gap>"], ["eval", "scenes"]])
def test_threads_below_one_are_refused(cm3: Cm3, command: list[str]) -> None:
    assert "--threads 0: must be at least 1" in cm3(*command, "--threads", "0").refusal


@pytest.mark.parametrize(("given", "taken"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_leave_the_cores_to_others(
    monkeypatch: pytest.MonkeyPatch, given: str | None, taken: str
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")  # to be put back afterwards
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert entry.main(["--version"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == taken


def test_an_error_under_json_is_an_object_too(cm3: Cm3) -> None:
    ran = cm3("generate", "", "--json")
    assert ran.code == 2
    assert ran.json == {"error": "the prompt is empty; say in words what to draw"}
    assert ran.refusal == ran.json["error"]


def test_our_own_fault_is_exit_code_1(cm3: Cm3, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(args: list[str]) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(entry, "_run", fails)
    ran = cm3("demo")
    assert ran.code == 1
    assert ran.err == "cm3: internal error: ZeroDivisionError: of ours; run with --debug, and report it\n"
    assert "Traceback" in cm3("demo", "--debug").err


def test_errors_of_the_disk_are_the_users(cm3: Cm3, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(args: list[str]) -> None:
        raise OSError(28, "No space left on device", "out/a.png")

    monkeypatch.setattr(entry, "_run", fails)
    ran = cm3("demo")
    assert (ran.code, ran.err) == (2, "cm3: error: out/a.png: No space left on device\n")


def test_interrupted(cm3: Cm3, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(args: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "_run", stopped)
    assert cm3("demo").code == 130


def test_a_message_of_many_lines_becomes_one(cm3: Cm3, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(args: list[str]) -> None:
        raise DataError("first\n  second")

    monkeypatch.setattr(entry, "_run", fails)
    assert cm3("demo").refusal == "first second"


def test_debug_shows_the_traceback(cm3: Cm3) -> None:
    ran = cm3("describe", "nowhere.png", "--debug")
    assert ran.code == 2
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1].startswith("cm3: error: image 'nowhere.png': no such file")


def test_a_reader_that_stops_is_no_error() -> None:
    command = f"{sys.executable} -m cm3 --help | true; echo ${{PIPESTATUS[0]}}"
    made = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert made.stdout.strip() == "0"
    assert made.stderr == ""

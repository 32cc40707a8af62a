"""METEOR of captions: its own program, Denkowski and Lavie 2014, run with Java on words of `cm3.score.ptb`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from cm3.errors import DataError
from cm3.score.ngrams import Pairs

JAR, PARAPHRASES = "meteor-1.5.jar", "data/paraphrase-en.gz"
"""Files of the folder."""


def java(folder: Path, needed: tuple[str, ...], score: str) -> str:
    """Return the Java program. Raises `DataError` where there is none, or the folder lacks a file that is needed."""
    if lacking := next((name for name in needed if not (folder / name).is_file()), None):
        raise DataError(
            f"{score}: {str(folder)!r} has no {lacking}; give the folder of pycocoevalcap's {score.lower()}"
        )
    if found := shutil.which("java"):
        return found
    raise DataError(f"{score}: there is no command java on this machine; install a Java runtime, or leave it out")


def meteor(pairs: Pairs, folder: Path) -> float:
    """Return METEOR 1.5 of English over all pictures, 0..1: its statistics summed, so no mean of the captions' own.

    `folder` has `JAR` and `PARAPHRASES`, as pycocoevalcap's folder meteor. Raises `DataError` where it has not, where
    there is no Java, and where the program stops.
    """
    program = java(folder, (JAR, PARAPHRASES), "METEOR")
    command = [program, "-jar", "-Xmx2G", JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
    pipe = subprocess.PIPE
    try:
        with subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
            try:
                return _answers(process, pairs)
            finally:
                process.kill()
    except (BrokenPipeError, ValueError) as error:  # also as the pipe is closed, with what was not read yet
        raise DataError(f"METEOR: {JAR} stopped or gave no number; run java -jar on it to see why") from error


def _answers(process: subprocess.Popen[bytes], pairs: Pairs) -> float:
    """Take the statistics of each caption from the program, then the figure of all."""
    asks, answers = process.stdin, process.stdout
    assert asks is not None and answers is not None

    def ask(*fields: str) -> None:
        asks.write(f"{' ||| '.join(fields)}\n".encode())
        asks.flush()

    def answer() -> str:
        if not (line := answers.readline()):
            raise BrokenPipeError
        return line.decode().strip()

    found = []
    for given, references in zip(pairs.given, pairs.references, strict=True):
        # The bars part fields; a caption cannot have them.
        ask("SCORE", *(" ".join(words).replace("|||", "").replace("  ", " ") for words in (*references, given)))
        found.append(answer())
    ask("EVAL", *found)
    for _ in pairs.given:
        answer()  # that of each caption
    return float(answer())

"""SPICE of captions: its own program, Anderson et al. 2016, run with Java on words of `cm3.score.ptb`."""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cm3.errors import DataError
from cm3.files import parse_json
from cm3.score.meteor import java
from cm3.score.ngrams import Pairs

JAR = "spice-1.0.jar"
PARSER = ("lib/stanford-corenlp-3.6.0.jar", "lib/stanford-corenlp-3.6.0-models.jar")
"""The parser, which pycocoevalcap fetches when SPICE is first used."""


def spice(pairs: Pairs, folder: Path) -> list[float]:
    """Return SPICE of each picture, 0..1; their mean is the figure.

    `folder` has `JAR` and `PARSER`, as pycocoevalcap's folder spice. Raises `DataError` where it has not, where there
    is no Java, and where the program fails.
    """
    program = java(folder, (JAR, *PARSER), "SPICE")
    cases = [
        {"image_id": number, "test": " ".join(given), "refs": [" ".join(words) for words in references]}
        for number, (given, references) in enumerate(zip(pairs.given, pairs.references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as place:
        asked, told = Path(place, "in.json"), Path(place, "out.json")
        asked.write_text(json.dumps(cases))
        command = [program, "-jar", "-Xmx8G", JAR, str(asked), "-out", str(told), "-subset", "-silent"]
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode or not told.is_file():
            last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it says nothing")
            raise DataError(
                f"SPICE: {JAR} failed with code {done.returncode} ({last.strip():.100}); it was written for Java 8"
            )
        return read_scores(parse_json(told.read_bytes(), f"SPICE: {told.name}"), len(cases))


def read_scores(found: Any, n: int) -> list[float]:
    """Return the F-score of each case of what the program writes. Raises `DataError` for a case that it left out."""
    try:
        scores = {case["image_id"]: float(case["scores"]["All"]["f"]) for case in found}
        given = [scores[number] for number in range(n)]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"SPICE: {JAR} did not score all of {n} captions; run it again") from error
    if any(math.isnan(score) for score in given):
        raise DataError(f"SPICE: {JAR} gave no number for a caption; see that none is empty")
    return given

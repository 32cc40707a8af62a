"""`cm3 eval captions`: captions made anywhere against those that people wrote."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import Verb
from cm3.cli.results import check_result_file, keep, lines
from cm3.errors import RequestError

VERSION = 1
"""It rises whenever the same predictions would get another figure."""


@dataclass(frozen=True, kw_only=True)
class EvalCaptions(Verb):
    """Score captions as COCO's scorer does: CIDEr-D, CIDEr, BLEU-1 to BLEU-4, ROUGE-L; METEOR and SPICE where they are.

    The CIDEr of papers on COCO is CIDEr-D. Words are those of the PTB tokenizer that the scorer runs, without Java.
    METEOR and SPICE are programs of their own: give the folders that pycocoevalcap has of them. Only pictures with a
    prediction are scored, and how many have none is said.

    examples:
      cm3 eval captions captions_val2014_fakecap_results.json captions_val2014.json
      cm3 eval captions made.jsonl said.jsonl --out result.json
      cm3 eval captions made.json captions_val2014.json --meteor site-packages/pycocoevalcap/meteor --json
    """

    predictions: Annotated[Positional[Path], arg(metavar="PREDICTIONS")]
    """Captions to score, [{image_id, caption}, ...], or such an object on each line of a .jsonl."""
    references: Annotated[Positional[Path | None], arg(metavar="REFERENCES", help_behavior_hint="")] = None
    """Captions of people: COCO's captions_*.json, or a list or lines as PREDICTIONS."""
    meteor: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder of meteor-1.5.jar and its data."""
    spice: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder of spice-1.0.jar and its lib."""
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the result here, JSON."""

    def run(self) -> dict[str, Any]:
        """Score, print the figures."""
        from cm3.score.captions import read_predictions, read_references, score_captions

        if self.references is None:
            raise RequestError(
                "no REFERENCES given; name the captions of people (how many photographs a model knows is cm3 eval "
                "by-heart now)"
            )
        check_result_file(self.out)
        began = time.perf_counter()
        result = score_captions(
            read_predictions(self.predictions),
            read_references(self.references),
            meteor_folder=self.meteor,
            spice_folder=self.spice,
        )
        references, predictions = {"captions": self.references}, {"captions": self.predictions}
        page = keep(self.out, result, "captions", VERSION, references, predictions, began)
        print(f"captions of {result.n} pictures", *lines(page), sep="\n")
        return page

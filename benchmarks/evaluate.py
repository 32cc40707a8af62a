"""Scoring predictions: this package against the reference programs, in one run.

    python benchmarks/evaluate.py captions --peer SITE-PACKAGES --json            # 40,504 predictions, as val2014 has
    python benchmarks/evaluate.py captions --n 4000 --captions captions_val2017.json
    taskset -c 0 python benchmarks/evaluate.py captions ...                       # on one core, Java's threads too

captions    CIDEr-D, BLEU-1 to BLEU-4 and ROUGE-L of n pictures with five references each, from texts to figures:
            the words and the scores. The peer is pycocoevalcap with its Java tokenizer, imported from this Python or
            from the folder --peer; without it the row has ours alone. Ours computes plain CIDEr besides. Where a figure
            of the two differs by more than 1e-6 nothing is reported.

Captions are those of a file in COCO's layout, else sentences on drawn scenes; both are varied, a word of each exchanged
for another of the same file, until there are enough. Seconds are those of the processor, of this process and of those
that it started, so that other work on the machine disturbs them little.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cm3.score.captions import read_references, score_captions

VAL2014, REFERENCES, SEED = 40_504, 5, 3
CLOSE = 1e-6


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor's seconds that some work took, with what it gave."""

    def spent() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in used)

    before = spent()
    given = work()
    return spent() - before, given


def corpus(path: Path | None, n: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return predictions and references of n pictures, made of the captions of a file or of sentences on scenes."""
    draw = random.Random(SEED)
    if path is None:
        import numpy as np

        from cm3.scenes import describe, random_scene

        rng = np.random.default_rng(SEED)
        scenes = [random_scene(rng) for _ in range(min(n, 2000))]
        sources = [[describe(scene, rng) for _ in range(REFERENCES)] for scene in scenes]
    else:
        sources = [some for some in read_references(path).values() if some]
    words = [word for some in sources for text in some for word in text.split()]

    def varied(text: str) -> str:
        parts = text.split() or ["nothing"]
        parts[draw.randrange(len(parts))] = draw.choice(words)
        return " ".join(parts)

    predictions, references = {}, {}
    for number in range(n):
        some = sources[number % len(sources)]
        references[str(number)] = [varied(draw.choice(some)) for _ in range(REFERENCES)]
        predictions[str(number)] = varied(draw.choice(some))
    return predictions, references


def reference(predictions: dict[str, str], references: dict[str, list[str]]) -> dict[str, float]:
    """Return the figures of pycocoevalcap. Raises `ImportError` where it is not."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with contextlib.redirect_stdout(io.StringIO()):
        tokenizer = PTBTokenizer()
        said = tokenizer.tokenize({id: [{"caption": text} for text in some] for id, some in references.items()})
        made = tokenizer.tokenize({id: [{"caption": text}] for id, text in predictions.items()})
        bleu = Bleu(4).compute_score(said, made, 0)[0]
        figures = {f"BLEU-{number}": float(one) for number, one in enumerate(bleu, 1)}
        figures["ROUGE-L"] = float(Rouge().compute_score(said, made)[0])
        figures["CIDEr-D"] = float(Cider().compute_score(said, made)[0])
    return figures


def captions(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the row of captions."""
    predictions, references = corpus(args.captions, args.n)
    score_captions(dict(list(predictions.items())[:2]), references)  # what is made once, is made
    ours, result = seconds(lambda: score_captions(predictions, references))
    row: dict[str, Any] = {"row": "captions", "n": args.n, "source": str(args.captions or "scenes"), "ours": ours}
    row["figures"] = dict(result.figures)
    if args.peer is not None:
        sys.path.append(str(args.peer))
    try:
        peer, figures = seconds(lambda: reference(predictions, references))
    except ImportError as error:
        return {**row, "peer": None, "why": f"pycocoevalcap cannot be imported ({error}); give its folder with --peer"}
    apart = max(abs(result.figures[name] - value) for name, value in figures.items())
    if apart > CLOSE:
        raise SystemExit(f"captions: the figures differ by {apart:.3g}, ours {row['figures']}, the peer's {figures}")
    return {**row, "peer": peer, "times": peer / ours, "largest difference": apart}


def told(row: dict[str, Any]) -> str:
    """Return a row as a line."""
    head = f"{row['row']}  {row['n']} predictions from {row['source']}  ours {row['ours']:.1f} s"
    if row["peer"] is None:
        return f"{head}  {row['why']}"
    return (
        f"{head}  pycocoevalcap {row['peer']:.1f} s  {row['times']:.1f} times as fast  figures differ by at most "
        f"{row['largest difference']:.1e}"
    )


def main() -> None:
    """Measure one row and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = parser.add_subparsers(required=True)
    of_captions = rows.add_parser("captions", help="captions against pycocoevalcap")
    of_captions.add_argument("--n", type=int, default=VAL2014, help="pictures")
    of_captions.add_argument("--captions", type=Path, help="a file of captions in COCO's layout")
    of_captions.add_argument("--peer", type=Path, help="the folder that holds pycocoevalcap")
    of_captions.add_argument("--json", action="store_true", help="print the row as JSON")
    of_captions.set_defaults(measure=captions)
    args = parser.parse_args()
    row = args.measure(args)
    print(json.dumps(row) if args.json else told(row))


if __name__ == "__main__":
    main()

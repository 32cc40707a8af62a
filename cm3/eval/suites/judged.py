"""Prompts of benchmarks whose judges are programs of their own, and pictures as those want them: no score is made.

GenEval 2   geneval2_data.jsonl    {"prompt": ..., "vqa_list": [...], "skills": [...]} a line, CC BY-NC 4.0
            -> image_paths.json    {prompt: file}, for its evaluation.py --image_filepath_data
DPG-Bench   prompts/NAME.txt       a prompt each, the folder dpg_bench/prompts of ELLA
            -> grids/NAME.png      four pictures in a grid of two by two, for its dist_eval.sh grids RESOLUTION

The prompts are the user's own copies: none comes with this package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import PIL.Image

from cm3.document import Image
from cm3.errors import DataError
from cm3.eval.suites.suite import Line, Suite
from cm3.files import parse_json, write
from cm3.read.base import content, field
from cm3.score.result import Result

FOUR = 4
"""Pictures of a prompt of DPG-Bench."""


def place(suite: Suite) -> Path:
    """Return where a suite's prompts are. Raises `DataError` where no place was given, or nothing is there."""
    path = Path(suite.asking.source)
    if not suite.asking.source or not path.exists():
        raise DataError(
            f"suite {suite.name}: {str(suite.asking.source)!r} holds no prompts; give SOURCE, your copy of the owners'"
        )
    return path


class GenEval2(Suite):
    """One picture of each prompt of GenEval 2."""

    name = "geneval2"

    def lines(self) -> Iterator[Line]:
        path = place(self)
        path = path / "geneval2_data.jsonl" if path.is_dir() else path
        prompts: list[str] = []
        for number, line in enumerate(content(path, str(path)).splitlines(), 1):
            if line.strip():
                where = f"{path.name}:{number}"
                prompt = field(parse_json(line, where), "prompt", str, where)
                if prompt in prompts:
                    raise DataError(f"{where}: has the prompt of line {prompts.index(prompt) + 1}; each stands once")
                prompts.append(prompt)
        self.check(len(prompts))
        self.prompts = prompts
        self.references["prompts"] = path
        yield from ({"id": n, "seed": self.seed(n), "prompt": prompts[n]} for n in self.chosen(len(prompts)))

    def score(self, records: Iterable[dict[str, Any]]) -> Result:
        drawn = Path(self.out, "predictions").resolve()
        paths = {self.prompts[record["id"]]: str(drawn / record["files"][0]) for record in self.made(records)}
        self.predictions["pictures"] = self.keep("image_paths.json", paths)
        judge = "evaluation.py --benchmark_data geneval2_data.jsonl --image_filepath_data image_paths.json"
        return self.result(Result({}, len(paths)), pictures_per_prompt=1, judge=f"{judge} --method soft_tifa_gm")


class Dpg(Suite):
    """Four pictures of each prompt of DPG-Bench, in a grid: left to right, then down, as its judge crops it."""

    name = "dpg"

    def lines(self) -> Iterator[Line]:
        folder = place(self)
        folder = next((p for p in (folder / "dpg_bench/prompts", folder / "prompts") if p.is_dir()), folder)
        files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
        listed: list[Line] = []
        chosen = set(self.chosen(len(files)))
        for number, path in enumerate(files):
            try:
                prompt = " ".join(content(path).decode().split())
            except UnicodeDecodeError as error:
                raise DataError(f"{path}: is not UTF-8 at byte {error.start}; download it again") from error
            if not prompt:
                raise DataError(f"{path}: is empty, must be a prompt; download it again")
            if number in chosen:
                listed.append({"id": path.stem, "seed": self.seed(number), "n": FOUR, "prompt": prompt})
        self.check(len(listed))
        self.references["prompts"] = self.keep("prompts.json", {line["id"]: line["prompt"] for line in listed})
        yield from listed

    def score(self, records: Iterable[dict[str, Any]]) -> Result:
        size = 0
        grids: dict[str, str] = {}
        for record in self.made(records):
            squares = [Image.open(self.out / "predictions" / name).pixels for name in record["files"]]
            size = squares[0].width
            grid = PIL.Image.new("RGB", (2 * size, 2 * size))
            for at, square in enumerate(squares):
                grid.paste(square, (at % 2 * size, at // 2 * size))
            buffer = BytesIO()
            grid.save(buffer, "PNG", compress_level=1)
            write(self.out / "grids" / f"{record['id']}.png", buffer.getvalue())
            grids[record["id"]] = f"grids/{record['id']}.png"
            self.update(len(grids), len(grids))
        self.predictions["pictures"] = self.keep("grids.json", grids)
        self.warnings.append(
            "DPG-Bench's judge counts the last picture alone in its categories, L1 and L2, and leaves the first row of "
            "its questions out: compare the score of all with others', and categories only of the same program"
        )
        judge = f"dist_eval.sh grids {size}"
        seeds = "seed + the number of the prompt, and three that are drawn of it"
        return self.result(Result({}, len(grids)), pictures_per_prompt=FOUR, resolution=size, seeds=seeds, judge=judge)

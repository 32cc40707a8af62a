"""docs/walkthrough.md: its commands run one after another, as they stand, at the smallest size."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from cm3.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/walkthrough.md").read_text(encoding="utf-8")
SHARED = ROOT.parent / "shared" / "data"
COMMANDS = [shlex.split(c.replace("\\\n", " ")) for c in re.findall(r"^    cm3 ((?:.*\\\n)*.*)$", PAGE, re.MULTILINE)]
SMALL = {
    "train photos:image_tokenizer": "--steps 2 --batch 4 --size 32 --sample-every 0",
    "train photos:clip": "--steps 2 --batch 4 --model.image-size 32 --model.channels 8 8 8",
    "tokenizer text": "--entries 300",
    "train photos:pretrain": (
        "--steps 2 --windows 1 --length 600 --validate-every 1 --validate-batches 1 --log-every 1 --sample-every 2 "
        "--model.d-model 32 --model.layers 1 --model.heads 2"
    ),
    "train photos:instruct": "--steps 2 --windows 1 --validate-every 1 --validate-batches 1 --log-every 1",
    "eval tasks": "--n 2",
    "generate": "--n 1",
    "train photos:by_heart": "--steps 2 --windows 1 --model.d-model 32 --model.layers 1 --model.heads 2",
}
"""What is added to a command that begins so; of an option that is given twice the last counts."""


def smaller(command: list[str]) -> list[str]:
    """Return a command with what makes it small."""
    added = [more for name, more in SMALL.items() if " ".join(command).startswith(name)]
    return command + [word for more in added for word in more.split()]


def pictures(number: int) -> list[PIL.Image.Image]:
    """Return photographs; smooth noise where there are none."""
    paths = sorted((SHARED / "photos").glob("*.jpg"))[:number]
    if paths:
        return [PIL.Image.open(path).convert("RGB") for path in paths]
    drawn = np.random.default_rng(0).integers(0, 256, (number, 4, 5, 3), dtype=np.uint8)
    return [PIL.Image.fromarray(one).resize((80, 64), PIL.Image.Resampling.BICUBIC) for one in drawn]


def coco(root: Path, split: str, shown: list[PIL.Image.Image]) -> None:
    """Write pictures in COCO's layout, with two captions each."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    for i, picture in enumerate(shown):
        picture.save(root / split / f"{i:012}.jpg")
    page = {
        "images": [{"id": i, "file_name": f"{i:012}.jpg", "license": 1} for i in range(len(shown))],
        "licenses": [{"id": 1, "name": "any", "url": "http://example.com/"}],
        "annotations": [
            {"id": 2 * i + j, "image_id": i, "caption": f"A {word} picture, number {i} of {split}."}
            for i in range(len(shown))
            for j, word in enumerate(("large", "small"))
        ],
    }
    (root / "annotations" / f"captions_{split}.json").write_text(json.dumps(page))


@pytest.mark.slow
def test_its_commands_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    some = pictures(20)
    Path("PHOTOS").mkdir()
    for i, picture in enumerate(some[:8]):
        picture.save(f"PHOTOS/n{i:08}_great_thing_{i}.jpg")
    coco(Path("coco"), "train2017", some[8:16])
    coco(Path("coco"), "val2017", some[16:])
    shutil.copyfile("coco/val2017/000000000001.jpg", "one.jpg")
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(snippet, "docs/walkthrough.md", "exec"), {})
    assert Path("PHOTOS/n00000003_great_thing_3.txt").read_text() == "a photo of a great thing 3"
    where = {"CAPTIONED": "coco:coco@train2017", "UNSEEN": "coco:coco@val2017"}
    for command in COMMANDS:
        words = smaller([re.sub("CAPTIONED|UNSEEN", lambda found: where[found[0]], word) for word in command])
        capfd.readouterr()
        code = main(words)
        out, err = capfd.readouterr()
        assert code == 0, f"{' '.join(words)}\n{out}\n{err}"
        if command[1] == "photos:clip":
            assert "held_out_pairs: 1\n" in out, "a share is told with how many pairs it is of"
    logged = [json.loads(line) for line in Path("runs/photos/instruct/log.jsonl").read_text().splitlines()]
    assert any("val_loss_text" in line for line in logged)
    made = {name for command in COMMANDS for name in command if name.endswith(".png")}
    assert made and all(Path(name).is_file() for name in made)


def test_every_stage_is_there_in_order() -> None:
    stages = [" ".join(command[: 3 if command[0] == "tokenizer" else 2]) for command in COMMANDS]
    road = (
        "train photos:image_tokenizer", "train photos:clip", "tokenizer text train", "prepare CAPTIONED", "neighbours",
        "train photos:pretrain", "train photos:instruct", "eval tasks", "generate", "describe",
    )  # fmt: skip
    places = [next(i for i, stage in enumerate(stages) if stage.startswith(name)) for name in road]
    assert places == sorted(places)


def test_its_links_and_pictures_are_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if "://" not in link]
    assert len(links) >= 5 and all((ROOT / "docs" / link).is_file() for link in links), links

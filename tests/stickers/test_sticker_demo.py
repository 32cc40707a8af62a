"""The demo of stickers: one who knows all is marked right throughout, a tiny model is marked wrong and told why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import PIL.Image
import pytest
import tiny_stickers
import torch
from tiny_stickers import sheet_of

from cm3.document import Document, Image
from cm3.errors import RequestError
from cm3.generate import Retrieved
from cm3.generate.tasks import Reply
from cm3.model import bundle
from cm3.stickers.cli.demo import (
    GROUPS,
    MISSING,
    PROMPTS,
    READ,
    SENTENCE,
    SHEET,
    UNSEEN,
    UNSEEN_TWO,
    WANTED,
    Demo,
    drawn_as,
    not_shown,
)
from cm3.stickers.data.sticker_examples import TASKS, sticker_example
from cm3.stickers.drawing import draw
from cm3.stickers.sentences import parse
from cm3.stickers.verify import read
from cm3.stickers.world import HELD_OUT, split_of
from cm3.tasks import Task


def true(sentence: str) -> PIL.Image.Image:
    """A picture of a sentence, whatever it leaves open."""
    return draw(sheet_of(parse(sentence)))


EVERY = (*PROMPTS, READ, MISSING.join(SENTENCE), SHEET, WANTED, UNSEEN, UNSEEN_TWO)


class Knows:
    """Draws and says all as it is; knows the unseen kinds from their documents alone."""

    image_size = 256

    def __init__(self, tasks: Sequence[str] = TASKS, bank: bool = True) -> None:
        self.tasks, self.bank = tasks, bank

    def generate_many(self, prompts: Sequence[str], *, seeds: Any, documents: Any = None, **given: Any) -> list[Any]:
        if documents is None:
            documents = [[]] * len(prompts)
        return [
            SimpleNamespace(image=true(p if self.known(p, d) else PROMPTS[1]))
            for p, d in zip(prompts, documents, strict=True)
        ]

    def known(self, prompt: str, documents: Sequence[Retrieved]) -> bool:
        texts = " ".join(found.document.text for found in documents)
        return all(kind in texts for kind in HELD_OUT if kind in prompt)

    def generate(self, prompt: list[Any], **given: Any) -> Any:
        if prompt[0] == WANTED:
            return SimpleNamespace(image=drawn_as(WANTED, 256))
        return SimpleNamespace(text=READ if len(prompt) == 1 else MISSING.join(SENTENCE))

    def retrieve(self, prompt: str, k: int) -> list[Retrieved]:
        if not self.bank:
            raise RequestError("memory: there is no bank")
        names = [m.kind for m in parse(prompt).mentions if m.kind in HELD_OUT]
        texts = [f"a small {name} on a sky ground" for name in names[:k]]
        return [Retrieved(Document.of(text, true(text), source="us", license="MIT"), 1.0, "text")
                for text in texts]  # fmt: skip

    def ask_many(
        self, task: Task, requests: Sequence[Mapping[str, Any]], *, seeds: Sequence[int], **given: Any
    ) -> list[Reply]:
        replies = []
        for request, seed in zip(requests, seeds, strict=True):
            example = sticker_example(task.name, 0, seed, 256, "test")
            assert all(example.fields[name] == value for name, value in request.items())
            fields = {n: v.pixels if isinstance(v, Image) else v for n, v in example.fields.items() if n in task.gives}
            replies.append(Reply((fields,), None))  # type: ignore[arg-type]
        return replies


def run(model: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(Demo, "open_model", lambda self: model)
    return Demo(out=out).run()


def test_the_sentences_are_of_the_grammar_and_of_sheets_that_no_training_showed() -> None:
    assert len(PROMPTS) == 6 and {len(parse(p).mentions) for p in PROMPTS} == {1, 2, 3, 4}
    assert any(parse(p).relations for p in PROMPTS)
    for sentence in EVERY:
        sheet = read(true(sentence)).sheet
        assert sheet is not None and not_shown(true(sentence), sentence) == ""
        unseen = sentence in (UNSEEN, UNSEEN_TWO)
        assert split_of(sheet) == (None if unseen else "held_out" if sentence == PROMPTS[2] else "test"), sentence
    assert "zebra" in not_shown(drawn_as(SHEET, 256), WANTED)
    assert not_shown(drawn_as(SHEET, 256), "no sentence of this world")
    assert "must be a square of at least 128" in not_shown(drawn_as(SHEET, 64), SHEET)


def test_all_that_is_right_is_marked_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(Knows(), tmp_path / "demo", monkeypatch)
    number = sum(shown.number for group in GROUPS for shown in group.tasks)
    assert report["of"] == len(PROMPTS) + 3 + 3 + number and report["right"] == report["of"] - 1
    # without its document nobody knows an unseen kind
    (guess,) = report["made"]["guess"]
    assert not guess["ok"] and guess["reason"] == "there are 2 stickers, not 1"
    told = capsys.readouterr().out
    assert told.count("missed") == 1 and f"{report['right']} of {report['of']} right" in told
    page = Path(report["page"]).read_text()
    assert page.count('class="right"') == report["right"] and page.count('class="wrong"') == 1
    # nothing of the program's own names
    assert not [task for task in TASKS if "_" in task and task in page] and "vqa2" not in page
    with PIL.Image.open(report["sheet"]) as sheet:
        assert 1200 < sheet.width < 1800 and sheet.height < 1.3 * sheet.width
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == ["index.html", "sheet.png"]


def test_an_answer_with_wrong_reasons_is_no_right_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Guesses(Knows):
        def ask_many(self, *args: Any, **given: Any) -> list[Reply]:
            return [
                Reply(({**reply.fields, "explanation": "at the top left is a large sock."},), None)
                if "explanation" in reply.fields
                else reply
                for reply in super().ask_many(*args, **given)
            ]

    report = run(Guesses(("vqa2", "scienceqa"), bank=False), tmp_path / "demo", monkeypatch)
    assert all(one["ok"] for one in report["made"]["question"])
    (reason,) = report["made"]["reason"]
    assert not reason["ok"] and "step 1" in reason["reason"] and report["right"] == report["of"] - 1


def test_what_a_model_cannot_do_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run(Knows((), bank=False), tmp_path / "demo", monkeypatch)
    assert list(report["made"]) == ["draw", "describe", "words", "region"]
    page = Path(report["page"]).read_text()
    assert "found in the bank" not in page and all(group.title not in page for group in GROUPS)
    report = run(Knows(("vqa2",), bank=False), tmp_path / "demo", monkeypatch)
    assert list(report["made"]) == ["draw", "describe", "words", "region", "question"]


def test_a_model_of_chance_is_marked_wrong_and_told_why(tmp_path: Path) -> None:
    bundle.save(tiny_stickers.bundle(tasks=("boxes", "vqa2")), tmp_path / "model", torch.float32)
    args = ("--model", str(tmp_path / "model"), "--out", str(tmp_path / "demo"), "--max-tokens", "4")
    report = Demo.parse(args, prog="cm3 demo").run()
    assert report["right"] == 0
    every = [one for some in report["made"].values() for one in some]
    assert len(every) == report["of"] and all(one["reason"] and not one["ok"] for one in every)
    assert set(report["made"]) == {"draw", "describe", "words", "region", "unseen", "guess", "boxes", "question"}
    assert json.dumps(report)

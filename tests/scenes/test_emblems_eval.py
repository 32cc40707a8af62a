"""The scorer of emblems under test: who reads the document scores 1, who does not scores what guessing scores."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from exact_bank import Letters

from cm3.cli.sheet import sheet as sheet_of
from cm3.document import Document
from cm3.errors import ConfigError
from cm3.generate import Retrieved, as_document
from cm3.retrieval.live import Retriever
from cm3.retrieval.memory import Memory
from cm3.scenes.cli.emblem_section import emblem_section
from cm3.scenes.cli.eval_verbs import emblem_table
from cm3.scenes.data.emblem_bank import build_emblem_bank, emblem_bank_documents
from cm3.scenes.drawing import draw
from cm3.scenes.emblems import EMBLEMS, emblem, emblem_document, parse_emblem, place_of
from cm3.scenes.eval.emblem_scores import TASKS, evaluate_emblems, make_cases, make_examples
from cm3.scenes.scene import Scene
from cm3.scenes.verify import read

N, SIZE = 8, 64


@dataclass(frozen=True)
class Made:
    document: Document


Hand = Callable[["Reader", str, Sequence[Retrieved], str], PIL.Image.Image]
"""(model, prompt, documents, what becomes of them without the prompt) -> picture."""


class Reader:
    """Looks documents up in a real bank, and draws by a rule of what it was given."""

    def __init__(self, memory: Memory, hand: Hand, unconditional: str = "kept") -> None:
        self.retriever, self.hand, self.unconditional = Retriever(memory, Letters()), hand, unconditional
        self.asked: list[dict[str, Any]] = []

    @property
    def memory(self) -> Memory:
        return self.retriever.memory

    def with_memory(self, memory: Memory, encoder: Any = None) -> Reader:
        other = copy.copy(self)
        other.retriever = Retriever(memory, encoder or Letters())
        return other

    def retrieve(self, prompt: str, k: int) -> list[Retrieved]:
        return self.retriever.search(as_document(prompt), k)

    def generate_many(
        self, prompts: Sequence[str], *, seeds: Sequence[int], documents: Any, unconditional: str = "kept", **more: Any
    ) -> list[Made]:
        assert len(prompts) == len(seeds) == len(documents)
        self.asked.append({"prompts": prompts, "seeds": seeds, "k": len(documents[0]), "by": unconditional, **more})
        drawn = [self.hand(self, p, d, unconditional) for p, d in zip(prompts, documents, strict=True)]
        return [Made(Document.of(p, picture)) for p, picture in zip(prompts, drawn, strict=True)]


BLANK = PIL.Image.new("RGB", (SIZE, SIZE), (150, 150, 155))


def reads(model: Reader, prompt: str, documents: Sequence[Retrieved], unconditional: str) -> PIL.Image.Image:
    """Draws what the document shows that names the prompt's emblem, and nothing where there is none."""
    word = parse_emblem(prompt)
    return next((d.document.images[0].pixels for d in documents if parse_emblem(d.document.text) == word), BLANK)


def knows(model: Reader, prompt: str, documents: Sequence[Retrieved], unconditional: str) -> PIL.Image.Image:
    """Draws what the prompt's emblem stands for, documents or not."""
    return draw(scene_of(prompt), SIZE)


def scene_of(prompt: str) -> Scene:
    return emblem(place_of(parse_emblem(prompt) or "")[1], "test").scene


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    return build_emblem_bank(
        tmp_path_factory.mktemp("emblems") / "bank", Letters(), test=2 * N, train=6, scenes=6, size=SIZE
    )


def test_who_reads_the_document_is_always_right(memory: Memory) -> None:
    seen: list[tuple[str, int, int]] = []
    model = Reader(memory, reads)
    report = evaluate_emblems(model, N, seed=3, batch=5, progress=lambda *at: seen.append(at))
    assert {name: report[name] for name in (*TASKS, "k1", "k2")} == dict.fromkeys(TASKS, 1) | {
        "k0": 0,
        "k1": 1,
        "k2": 1,
    }
    assert (report["retriever_first"], report["guess"], report["n"], report["seed"]) == (1, 0, N, 3)
    assert list(report)[:3] == ["k0", "k1", "k2"]
    assert seen == [(task, done, N) for task in TASKS for done in (5, N)]
    details = report["details"]["k1_kept"]
    assert details["objects"] == details["shape"] == details["background"] == details["right_when_first"] == 1
    assert set(details["by_objects"]) == {"2", "3"} and details["images_per_s"] > 0
    assert report["details"]["k0"]["readable"] == 0
    # Every task has the same prompts and seeds, so that they differ in the documents alone.
    assert all(
        [a["prompts"] for a in model.asked[i : i + 2]] == [a["prompts"] for a in model.asked[:2]]
        for i in range(0, 10, 2)
    )
    assert all(
        [a["seeds"] for a in model.asked[i : i + 2]] == [a["seeds"] for a in model.asked[:2]] for i in range(0, 10, 2)
    )
    assert [(a["k"], a["by"]) for a in model.asked[::2]] == [
        (0, "kept"), (1, "kept"), (1, "dropped"), (2, "kept"), (2, "dropped")
    ]  # fmt: skip


def test_who_does_not_read_scores_nothing(memory: Memory) -> None:
    report = evaluate_emblems(Reader(memory, lambda *_: BLANK), N)
    assert all(report[task] == 0 for task in TASKS) and report["retriever_first"] == 1


@pytest.mark.parametrize("default", ["kept", "dropped"])
def test_the_treatments_are_told_apart_and_the_models_own_is_the_figure(memory: Memory, default: str) -> None:
    def half(model: Reader, prompt: str, documents: Sequence[Retrieved], unconditional: str) -> PIL.Image.Image:
        return reads(model, prompt, documents, unconditional) if unconditional == "dropped" else BLANK

    report = evaluate_emblems(Reader(memory, half, default), N, sampling={"guidance": 3.0})
    assert (report["k1_dropped"], report["k1_kept"], report["k2_dropped"], report["k2_kept"]) == (1, 0, 1, 0)
    assert report["k1"] == report["k2"] == (1 if default == "dropped" else 0)
    assert (report["unconditional"], report["sampling"]) == (default, {"guidance": 3.0})


def test_who_reads_the_last_document_is_right_with_one(memory: Memory) -> None:
    def last(model: Reader, prompt: str, documents: Sequence[Retrieved], unconditional: str) -> PIL.Image.Image:
        return documents[-1].document.images[0].pixels if documents else BLANK

    report = evaluate_emblems(Reader(memory, last), N, tasks=("k2_kept", "k1_kept"))
    assert (report["k1"], report["k2"]) == (1, 0)
    assert "k0" not in report and "guess" not in report and "k1_dropped" not in report


def test_one_wrong_object_is_not_right_but_counts_in_the_details(memory: Memory) -> None:
    def but_one(model: Reader, prompt: str, documents: Sequence[Retrieved], unconditional: str) -> PIL.Image.Image:
        scene = scene_of(prompt)
        other = "blue" if scene.objects[0].colour != "blue" else "red"
        spoiled = replace(scene.objects[0], colour=other)
        return draw(replace(scene, objects=(spoiled, *scene.objects[1:])), SIZE)

    report = evaluate_emblems(Reader(memory, but_one), N, tasks=("k1_kept",))
    details = report["details"]["k1_kept"]
    assert report["k1"] == 0 and details["shape"] == details["place"] == details["background"] == 1
    objects = [len(emblem(i, "test").scene.objects) for i in range(N)]
    assert details["objects"] == details["colour"] == pytest.approx(np.mean([(o - 1) / o for o in objects]))


def test_guessing_is_measured_on_other_emblems(memory: Memory) -> None:
    """A model that draws the next emblem of the eight, whatever the prompt: right for one of seven others."""

    def next_one(model: Reader, prompt: str, documents: Sequence[Retrieved], unconditional: str) -> PIL.Image.Image:
        at = place_of(parse_emblem(prompt) or "")[1]
        return draw(emblem((at + 1) % N, "test").scene, SIZE)

    report = evaluate_emblems(Reader(memory, next_one), N, tasks=("k0",))
    assert report["k0"] == 0 and report["guess"] == pytest.approx(1 / (N - 1))
    own = evaluate_emblems(Reader(memory, knows), N, tasks=("k0",))
    assert own["k0"] == 1 and own["guess"] == 0
    assert evaluate_emblems(Reader(memory, reads), 1, tasks=("k0",))["guess"] is None


def test_a_wrong_document_is_seen_as_such(memory: Memory, tmp_path: Path) -> None:
    """A bank whose first three documents bear each other's names."""
    documents = [emblem_document(i, "test", SIZE, 1) for i in range(N)]
    for i in range(3):
        documents[i] = Document(documents[(i + 1) % 3].parts, id=f"emblem/test/{i}")
    spoiled = Memory.build(tmp_path / "spoiled", documents, Letters())
    report = evaluate_emblems(Reader(memory, reads), N, memory=spoiled, tasks=("k1_kept",))
    assert report["retriever_first"] == (N - 3) / N
    assert report["details"]["k1_kept"]["right_when_first"] == 1


def test_cases_are_phrases_of_the_first_unseen_emblems() -> None:
    cases, again, others = make_cases(40, 1), make_cases(50, 1), make_cases(40, 2)
    assert [(c.prompt, c.seed) for c in cases] == [(c.prompt, c.seed) for c in again[:40]]
    assert [c.scene for c in cases] == [c.scene for c in others] == [emblem(i, "test").scene for i in range(40)]
    assert all(place_of(parse_emblem(c.prompt) or "") == ("test", i) for i, c in enumerate(cases))
    assert [c.document for c in cases] == [f"emblem/test/{i}" for i in range(40)]
    assert sum(a.prompt != b.prompt for a, b in zip(cases, others, strict=True)) > 20
    assert len({c.seed for c in [*cases, *others]}) == 80


def test_what_the_bank_holds(memory: Memory) -> None:
    assert len(memory) == 2 * N + 12
    ids = list(memory)
    assert [sum(i.startswith(kind) for i in ids) for kind in ("emblem/test/", "emblem/train/", "scene/")] == [
        2 * N,
        6,
        6,
    ]
    for id in ids:
        document = memory[id]
        assert document.source and document.meta["license"] == "MIT" and document.images[0].pixels.size == (SIZE, SIZE)
        kind, split, number = id.split("/")
        if kind == "emblem":
            wanted = emblem(int(number), "test" if split == "test" else "train").scene
            assert read(document.images[0].pixels).scene == wanted
    said = [d.text for d in emblem_bank_documents(40, 0, 0, SIZE)]
    assert sum(a == c.prompt for a, c in zip(said, make_cases(40, 0), strict=True)) < 20, "said by another chance"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n=0: must be at least 1"),
        ({"batch": 0}, "batch=0: must be at least 1"),
        ({"tasks": ("k1_keep",)}, "tasks='k1_keep': must be among k0, .* Did you mean 'k1_kept'?"),
        ({"n": EMBLEMS["test"] + 1}, f"n={EMBLEMS['test'] + 1}: there are {EMBLEMS['test']} test emblems"),
        ({"n": 2 * N + 2}, f"the memory bank lacks 'emblem/test/{2 * N}' and 1 more; give a bank with the documents"),
    ],
)
def test_refusals(memory: Memory, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_emblems(Reader(memory, reads), **settings)


def test_examples_and_their_sheet(memory: Memory) -> None:
    examples = make_examples(Reader(memory, reads), 3, seed=3)
    assert [(e.drawn_right, e.guessed_right) for e in examples] == [(True, False)] * 3
    assert [e.case.prompt for e in examples] == [c.prompt for c in make_cases(3, 3)]
    assert [e.found.document.id for e in examples] == [e.case.document for e in examples]
    sheet = sheet_of([emblem_section(examples)], "emblems", columns=3)
    assert sheet.width > 3 * 256 and sheet.height > 3 * 256


def test_the_table(memory: Memory) -> None:
    lines = emblem_table(evaluate_emblems(Reader(memory, reads, "dropped"), 1, tasks=("k0", "k1_dropped")))
    assert [line.split()[0] for line in lines] == ["k0", "k1", "k1_dropped", "retriever_first", "guess", "1"]
    assert "dropped (the default)" in lines[1] and lines[1].endswith("100.0%") and lines[4].endswith(" -")

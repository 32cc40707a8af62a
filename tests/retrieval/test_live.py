"""Retrieval at generation, by itself: what a prompt is searched with, and which documents its context has room for."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from exact_bank import Letters

from cm3.document import Document, Gap, Image, Text
from cm3.errors import CheckpointError, RequestError
from cm3.generate import as_document
from cm3.retrieval.live import Retriever, layout, mentions, query_of
from cm3.retrieval.memory import Memory
from cm3.retrieval.select import Retrieved
from cm3.vocab import Tokens, Vocab

SIZE = 32
PICTURE = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
DOCUMENTS = [Document.of(f"a {name}", PICTURE, id=name) for name in ("blosk", "drump", "fimmel")]


def found(*documents: Document, scores: Sequence[float] = ()) -> list[Retrieved]:
    return [Retrieved(d, s, "text") for d, s in zip(documents, scores or [0.5] * len(documents), strict=True)]


def test_what_is_searched_with_leaves_the_gaps_out() -> None:
    words = query_of(as_document(["one ", Gap(), " and  a cat\n", Gap("image")]))
    assert words.parts == (Text("one and a cat"),)
    assert query_of(as_document("a cat")).parts == (Text("a cat"),)
    assert query_of(as_document(PICTURE)).parts == (Image(PICTURE),)
    assert query_of(as_document(Document.of("a cat", id="7"))).id == "7"
    assert query_of(as_document([Gap(), Gap("image")])).parts == ()


def test_what_a_picture_shows_in_its_gap_is_not_searched_for() -> None:
    plain = PIL.Image.new("RGB", (SIZE, SIZE), (10, 200, 30))
    odd = plain.copy()
    odd.paste((250, 0, 0), (4, 4, 20, 30))
    image = Image(odd).with_gap((4, 4, 20, 30))
    assert query_of(as_document(["a cat", image])).parts == (Text("a cat"), Image(plain))
    assert query_of(Document.of(Image(odd).with_gap((0, 0, SIZE, SIZE)))).parts == ()
    assert odd.getpixel((5, 5)) == (250, 0, 0), "the prompt's own picture stays as it is"


@pytest.mark.parametrize(
    ("text", "things"),
    [
        (
            "a panda at the top left and a robot, on a mint ground",
            ["a panda at the top left, on a mint ground", "a robot, on a mint ground"],
        ),
        (
            "on a mint ground, a panda above a cat, and two owls",
            ["a panda, on a mint ground", "a cat, on a mint ground", "two owls, on a mint ground"],
        ),
        ("an owl to the left of another owl", ["an owl", "another owl"]),
        ("A dog in the snow with a man on skis", ["A dog in the snow", "a man on skis"]),
        ("on a ground, a panda", ["a panda, on a ground"]),
        ("a dog and a cat, in the snow, at night", ["a dog, in the snow, at night", "a cat, in the snow, at night"]),
        ("a black and white dog, on the grass", ["a black and white dog, on the grass"]),
        ("a picture of a blosk", ["a picture of a blosk"]),
        ("a panda and a cat below it", ["a panda", "a cat below it"]),
        ("a panda and the cat", ["a panda and the cat"]),
        ("on a mint ground", ["on a mint ground"]),
        (", a cat", ["", "a cat"]),
        ("", [""]),
    ],
)
def test_a_prompt_is_split_where_it_names_another_thing(text: str, things: list[str]) -> None:
    assert mentions(text) == things


def test_each_thing_of_a_prompt_finds_its_document(tmp_path: Path) -> None:
    """Whole, the prompt would find what is most like all of its words."""
    both = [Document.of(f"a {name} and a {name} and a {name}", id=name * 3) for name in ("blosk", "drump")]
    bank = Memory.build(tmp_path / "bank", [*DOCUMENTS, *both], Letters())
    retriever = Retriever(bank, Letters())
    for prompt in ("a drump and a fimmel", "a fimmel above a drump, on a hill"):
        found = retriever.search(Document.of(prompt), 2)
        assert {f.document.id.removesuffix("drumpdrump") for f in found} == {"drump", "fimmel"}
        assert found[0].score >= found[1].score
    three = retriever.search(Document.of("a drump and another drump and a fimmel"), 3)
    assert len({f.document.id for f in three}) == 3, "none comes twice"
    (one,) = retriever.search(Document.of("a drump and a fimmel"), 1)
    alone = [retriever.search(Document.of(name), 1)[0] for name in ("a drump", "a fimmel")]
    assert one == max(alone, key=lambda each: each.score), "of one, the best that any thing has"
    (also,) = retriever.search(Document.of(", a fimmel"), 1)
    assert also.document.id == "fimmel"
    mine = retriever.search(Document.of("a drump and a fimmel", id="fimmel"), 2)
    assert "fimmel" not in {f.document.id for f in mine}, "never the prompt itself"


def test_a_prompt_with_pictures_is_searched_with_them_too(tmp_path: Path) -> None:
    other = PIL.Image.fromarray(np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    alike = other.copy()
    alike.putpixel((0, 0), (0, 0, 0))
    bank = Memory.build(tmp_path / "bank", [*DOCUMENTS, Document.of("nothing", alike, id="alike")], Letters())
    found = Retriever(bank, Letters()).search(Document.of("a drump and a fimmel", other), 3)
    assert "drump" in {f.document.id for f in found} and "fimmel" in {f.document.id for f in found}
    assert len(found) == 3


V = Vocab(text=256, image=64, masks=16, reserved=0)


def whole(length: int) -> Tokens:
    """A document of words that takes `length` tokens in a context."""
    return Tokens.of([V.eos, *[V.text_start] * (length - 1), V.eos])


@pytest.mark.parametrize(
    ("scores", "room", "used"),
    [
        ([0.9, 0.5, 0.7], 30, [0, 1, 2]),
        ([0.9, 0.5, 0.7], 29, [0, 2]),
        ([0.5, 0.9, 0.7], 20, [1, 2]),
        ([0.5, 0.9, 0.7], 19, [1]),
        ([0.7, 0.7, 0.7], 20, [0, 1]),
        ([math.nan, math.nan, 0.1], 20, [0, 2]),
        ([math.nan, math.nan, math.nan], 10, [0]),
    ],
)
def test_the_least_relevant_are_left_out_first(scores: list[float], room: int, used: list[int]) -> None:
    documents = found(*DOCUMENTS[:3], scores=scores)
    got = layout(documents, [whole(10)] * 3, V, room)
    assert [documents.index(u) for u in got.used] == used
    assert [documents.index(u) for u in got.left_out] == [i for i in range(3) if i not in used]
    assert got.tokens.length == 10 * len(used)


def test_a_long_one_gives_way_to_one_that_fits() -> None:
    got = layout(found(*DOCUMENTS[:2], scores=[0.9, 0.1]), [whole(40), whole(10)], V, 20)
    assert got.used[0].document == DOCUMENTS[1] and got.left_out[0].document == DOCUMENTS[0]
    with pytest.raises(
        RequestError, match="documents: the shortest found takes 10 tokens, .* leaves 9 of this model's"
    ):
        layout(found(*DOCUMENTS[:2]), [whole(40), whole(10)], V, 9)
    assert layout([], [], V, -5).tokens.length == 0


def named(name: str) -> Letters:
    encoder = Letters()
    encoder.name = name
    return encoder


def test_a_bank_of_the_hub_names_its_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That one is taken, not the model's own; the hub itself is not there in tests."""
    asked: list[object] = []

    def load(name: object, *, device: str, fetch: bool) -> Letters:
        asked.append((name, device, fetch))
        return named("clip:nobody/clip")

    Memory.build(tmp_path / "bank", DOCUMENTS, named("clip:nobody/clip"))
    if importlib.util.find_spec("transformers"):
        missing = Retriever(tmp_path / "bank", own=tmp_path / "own")
        for _ in range(2):  # asking again is not asking for it by name
            with pytest.raises(CheckpointError, match="is fetched only for who asks for it; name it yourself"):
                missing.search(Document.of("one drump"), 1)
    monkeypatch.setattr("cm3.retrieval.live.load_encoder", load)
    retriever = Retriever(tmp_path / "bank", own=tmp_path / "own")
    assert retriever.search(Document.of("one drump"), 1)[0].document.id == "drump"
    assert asked == [("nobody/clip", "cpu", False)], "a bank's word fetches nothing"
    assert Retriever(tmp_path / "bank", "mine", device="cuda:1").encoder.name == "clip:nobody/clip"
    assert asked[-1] == ("mine", "cuda:1", True)


def test_a_batch_of_prompts_is_looked_at_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pictures of one size there are, none is compared with all others; without retrieval, none at all."""
    bank = Memory.build(tmp_path / "bank", [Document.of("a blosk", id="blosk")], Letters())
    retriever = Retriever(bank, Letters())
    pictures = [
        PIL.Image.fromarray(np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
        for i in range(60)
    ]
    prompts = [Document.of(picture) for picture in [*pictures, *(picture.copy() for picture in pictures)]]
    read, asked = [0], list[Document]()
    tobytes, search = PIL.Image.Image.tobytes, Retriever.search

    def counted(self: PIL.Image.Image, *args: object) -> bytes:
        read[0] += 1
        return tobytes(self, *args)

    def told(self: Retriever, prompt: Document, k: int) -> list[Retrieved]:
        asked.append(prompt)
        return search(self, prompt, k)

    monkeypatch.setattr(PIL.Image.Image, "tobytes", counted)
    monkeypatch.setattr(Retriever, "search", told)
    assert retriever.find(prompts, 0) == [[] for _ in prompts] and read == [0]
    assert all([r.document.id for r in found] == ["blosk"] for found in retriever.find(prompts, 1))
    assert len(asked) == 60, "equal prompts are searched for once"
    # Once to be compared with the others, and once more by the search.
    assert read[0] <= 2 * len(prompts)

"""Generation with retrieved documents: where they stand, what is told of them, and that every way gives the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_model
from exact_bank import Letters
from tiny_model import SIZE

from cm3.document import Document, Gap, Image, Text
from cm3.errors import CheckpointError, DataError, RequestError
from cm3.generate import CM3Leon, Retrieved, as_document
from cm3.model.bundle import Bundle
from cm3.retrieval.live import layout
from cm3.retrieval.memory import Memory
from cm3.sequence.before import with_documents
from cm3.vocab import Tokens

NAMES = ("blosk", "drump", "fimmel", "grelt")


def noise(seed: int = 0, size: int = SIZE) -> PIL.Image.Image:
    """A picture of coarse random colours."""
    rng = np.random.default_rng(seed)
    return PIL.Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)).resize((size, size), 0)


def document(i: int) -> Document:
    return Document.of(f"a {NAMES[i]}", noise(i), id=f"doc/{i}", source="tests", license="MIT")


DOCUMENTS = [document(i) for i in range(4)]
PICTURE = noise(9)
BOXED = Image(PICTURE).with_gap((0, 0, 9, 9))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retrieval") / "bank"
    Memory.build(folder, DOCUMENTS, Letters())
    return folder


def tiny(**sampling: Any) -> Bundle:
    made = tiny_model.bundle(context=300)
    made.sampling = sampling
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> CM3Leon:
    return CM3Leon(tiny(image={"guidance": 2.0}), memory=folder, encoder=Letters())


PROMPTS: dict[str, Any] = {
    "words": "a drump",
    "picture": PICTURE,
    "gap": ["one ", Gap(), " and a fimmel"],
    "region": ["a grelt", BOXED],
    "interleaved": [PICTURE, "the same as a blosk"],
}


def found(*documents: Document, scores: Sequence[float] = ()) -> list[Retrieved]:
    return [Retrieved(d, s, "text") for d, s in zip(documents, scores or [0.5] * len(documents), strict=True)]


class Listening(Letters):
    """Remembers every text."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        self.seen += texts
        return super().texts(texts)


# What is found, and what is told of it


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_the_best_document_comes_first_and_is_named(model: CM3Leon, k: int) -> None:
    made = model.generate("one drump", retrieve=k, n=2)
    assert len(made.retrieved) == len(made.attribution) == k and made.left_out == ()
    assert [r.document for r in made.retrieved] == [r.document for r in model.retrieve("one drump", k)]
    if k:
        told = made.attribution[0]
        assert told == {
            "id": "doc/1", "score": pytest.approx(made.retrieved[0].score, abs=1e-4), "by": "text",
            "source": "tests", "license": "MIT", "text": "a drump",
        }  # fmt: skip
        scores = [r.score for r in made.retrieved]
        assert scores == sorted(scores, reverse=True)
    assert json.loads(json.dumps(made.attribution)) == made.attribution


def test_a_picture_finds_its_like(model: CM3Leon) -> None:
    own, like = noise(2), noise(2)
    like.paste(noise(3).crop((0, 0, 32, 16)))
    made = model.generate(like, retrieve=1, max_tokens=8)
    assert (made.attribution[0]["id"], made.attribution[0]["by"]) == ("doc/2", "image")
    # Its very picture is no other document, as it was none in training.
    made = model.generate(own, retrieve=1, max_tokens=8)
    assert made.attribution[0]["id"] != "doc/2" and made.attribution[0]["by"] == "image"


def test_equal_prompts_are_searched_for_once_and_documents_encoded_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Listening()
    model = CM3Leon(tiny(), memory=folder, encoder=encoder)
    encoded: list[list[str]] = []
    inner = model.codec.encode_many

    def counted(documents: Sequence[Document]) -> list[Tokens]:
        encoded.append([d.id for d in documents])
        return inner(documents)

    monkeypatch.setattr(model.codec, "encode_many", counted)
    model.generate("a drump", n=3, retrieve=2)
    model.generate_many(["a drump", "a drump", "one drump"], seeds=[1, 2, 3], retrieve=3)
    assert encoder.seen == ["a drump", "a drump", "one drump"]
    assert [len(ids) for ids in encoded] == [2, 3] and all(len(set(ids)) == len(ids) for ids in encoded)


def test_a_prompt_from_the_bank_does_not_find_itself(model: CM3Leon) -> None:
    prompt = Document.of("a drump", id="doc/1")
    assert "doc/1" not in {a["id"] for a in model.generate(prompt, retrieve=3).attribution}


# Where documents stand


def spelled(model: CM3Leon, tokens: Tokens) -> str:
    """Names of tokens, runs of text and of codes as one word."""
    v, names = model.vocab, []
    for token in tokens.ids.tolist():
        name = v.name(token) if token < v.text_start else v.name(token).split(":")[0].replace("text", "TEXT")
        names += [] if names and name == names[-1] and name in ("TEXT", "image") else [name]
    return " ".join(names)


def asked(model: CM3Leon, prompt: Any, documents: Sequence[Document], unconditional: str | None = None) -> list[str]:
    """The streams of the engine's request."""
    encoded = model.codec.encode_prompt(as_document(prompt))
    context = model._contexts([encoded], [found(*documents)], 20, 1)[0]
    request = model._request(encoded, 0, 20, 1, {"guidance": 2.0}, context.tokens, unconditional)
    return [spelled(model, s) for s in request.streams]


def test_documents_stand_before_the_prompt_in_their_order(model: CM3Leon) -> None:
    whole = "TEXT <break> image <break> "
    words = Document.of("words alone")
    assert asked(model, "a cat", DOCUMENTS[:2])[0] == "</s> " + whole * 2 + "TEXT <break>"
    assert asked(model, "a cat", [DOCUMENTS[0], words])[0] == "</s> " + whole + "TEXT <break> TEXT <break>"
    assert asked(model, "a cat", [Document.of(PICTURE)])[0] == "</s> image <break> TEXT <break>"
    assert asked(model, PICTURE, DOCUMENTS[:1]) == ["</s> " + whole + "<mask:0> <break> image </s>"]


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_the_layout_is_that_of_training(model: CM3Leon, k: int) -> None:
    query = Document.of("a cat", PICTURE)
    tokens = model.codec.encode_many(DOCUMENTS[:k])
    want = with_documents(model.codec.encode(query), tokens, model.vocab)
    encoded = model.codec.encode_prompt(as_document("a cat"))
    context = layout(found(*DOCUMENTS[:k]), tokens, model.vocab, 999)
    got = model._request(encoded, 0, 20, 1, {}, context.tokens).streams[0]
    assert (
        got.ids.tolist() == want.ids[: got.length].tolist() and got.cells.tolist() == want.cells[: got.length].tolist()
    )
    assert want.length - got.length == 16 + 1  # the picture that is to be drawn, and `</s>`


def test_the_unconditional_stream_keeps_documents_or_drops_them(model: CM3Leon) -> None:
    whole = "TEXT <break> image <break> "
    for words, kept in (
        ("a cat", "<mask:0> <break>"),
        (["a cat", BOXED], "<mask:2> <break> <mask:0> image <mask:1> image </s>"),
    ):
        assert asked(model, words, DOCUMENTS[:2], "kept")[1] == "</s> " + whole * 2 + kept
        assert asked(model, words, DOCUMENTS[:2], "dropped")[1] == "</s> " + kept
    assert asked(model, "a cat", [], "kept") == asked(model, "a cat", [], "dropped")


@pytest.mark.parametrize("kind", ["image", "region"])
def test_the_bundle_recommends_a_treatment(kind: str) -> None:
    prompt = "a cat" if kind == "image" else ["a cat", BOXED]
    by_default = CM3Leon(tiny())
    dropping = CM3Leon(tiny(**{kind: {"unconditional": "dropped", "guidance": 2.0}}))
    kept, dropped = (asked(by_default, prompt, DOCUMENTS[:1], u) for u in ("kept", "dropped"))
    assert kept != dropped
    assert asked(by_default, prompt, DOCUMENTS[:1]) == kept and by_default.unconditional == "kept"
    assert asked(dropping, prompt, DOCUMENTS[:1]) == dropped
    assert asked(dropping, prompt, DOCUMENTS[:1], "kept") == kept
    with pytest.raises(CheckpointError, match=f"sampling.{kind}.unconditional='keep'; must be 'kept' or 'dropped'"):
        CM3Leon(tiny(**{kind: {"unconditional": "keep"}}))


# One result, however it is asked for


@pytest.mark.parametrize(("name", "k"), [("words", 1), ("words", 3), ("picture", 2), ("region", 2), ("gap", 1)])
def test_what_is_retrieved_may_as_well_be_given_by_hand(model: CM3Leon, name: str, k: int) -> None:
    prompt = PROMPTS[name]
    live = model.generate(prompt, n=2, seed=3, retrieve=k, max_tokens=4)
    by_hand = model.generate(prompt, n=2, seed=3, documents=[r.document for r in live.retrieved], max_tokens=4)
    again = model.generate(prompt, n=2, seed=3, documents=live.retrieved, max_tokens=4)
    assert live.documents == by_hand.documents == again.documents
    assert live.scores == by_hand.scores == again.scores
    assert again.attribution == live.attribution
    assert {(a["by"], a["score"]) for a in by_hand.attribution} == {("hand", None)}
    assert live.documents != model.generate(prompt, n=2, seed=3, max_tokens=4).documents, "documents make a difference"


@pytest.mark.parametrize("unconditional", ["kept", "dropped"])
def test_batched_equals_one_by_one(model: CM3Leon, unconditional: str) -> None:
    prompts, seeds = list(PROMPTS.values()), [5, 6, 7, 8, 9]
    settings: dict[str, Any] = {"max_tokens": 4, "guidance": 2.0, "unconditional": unconditional}
    together = model.generate_many(prompts, seeds=seeds, retrieve=2, **settings)
    for prompt, seed, one in zip(prompts, seeds, together, strict=True):
        alone = model.generate_many([prompt], seeds=[seed], retrieve=2, **settings)[0]
        assert alone.document == one.document and alone.attribution == one.attribution
    mixed = model.generate_many(prompts, seeds=seeds, documents=[DOCUMENTS[:i] for i in (0, 1, 2, 3, 0)], **settings)
    for i, (prompt, seed, one) in enumerate(zip(prompts, seeds, mixed, strict=True)):
        alone = model.generate_many([prompt], seeds=[seed], documents=[DOCUMENTS[: i % 4]], **settings)[0]
        assert alone.document == one.document and len(one.retrieved) == i % 4


@pytest.mark.parametrize("name", PROMPTS)
def test_without_documents_nothing_has_changed(model: CM3Leon, name: str) -> None:
    plain = CM3Leon(tiny(image={"guidance": 2.0})).generate(PROMPTS[name], n=2, seed=4, max_tokens=4)
    for settings in ({}, {"retrieve": 0}, {"documents": []}, {"unconditional": "dropped"}):
        made = model.generate(PROMPTS[name], n=2, seed=4, max_tokens=4, **settings)
        assert made == plain
        pictures = [[i.pixels.tobytes() for i in d.images] for d in made.documents]
        assert pictures == [[i.pixels.tobytes() for i in d.images] for d in plain.documents]


def test_the_treatment_makes_a_difference_with_guidance_only(model: CM3Leon) -> None:
    def drawn(unconditional: str, guidance: float) -> Document:
        made = model.generate("a drump", seed=1, retrieve=2, unconditional=unconditional, guidance=guidance)
        return made.document

    assert drawn("kept", 3.0) != drawn("dropped", 3.0)
    assert drawn("kept", 1.0) == drawn("dropped", 1.0)


def test_a_region_is_filled_and_nothing_else_touched(model: CM3Leon) -> None:
    made = model.generate(["a grelt", BOXED], retrieve=2)
    before, after = np.asarray(PICTURE), np.asarray(made.image)
    assert (before[16:] == after[16:]).all() and (before[:, 16:] == after[:, 16:]).all()
    assert made.document.parts[0] == Text("a grelt") and len(made.document.images) == 1, "no document among the parts"


# Where the context has no room


def test_what_had_no_room_is_told(folder: Path) -> None:
    """A context that holds the prompt and its picture, and so many tokens of documents."""
    roomy = CM3Leon(tiny(), memory=folder, encoder=Letters())
    best = roomy.retrieve("a drump", 3)
    lengths = [t.length - 1 for t in roomy.codec.encode_many([r.document for r in best])]
    prompt = roomy.codec.encode_prompt(as_document("a drump")).tokens.length - 2
    for context, used in ((sum(lengths), 3), (sum(lengths) - 1, 2), (lengths[0], 1)):
        bundle = tiny_model.bundle(context=prompt + 16 + context)
        made = CM3Leon(bundle, memory=folder, encoder=Letters()).generate("a drump", retrieve=3)
        assert [r.document for r in made.retrieved] == [r.document for r in best[:used]]
        assert [r.document for r in made.left_out] == [r.document for r in best[used:]]
    bundle = tiny_model.bundle(context=prompt + 16 + min(lengths) - 1)
    with pytest.raises(
        RequestError, match=f"shortest found takes {min(lengths)} tokens, .* leaves {min(lengths) - 1} of"
    ):
        CM3Leon(bundle, memory=folder, encoder=Letters()).generate("a drump", retrieve=3)


def test_room_for_what_is_to_be_written_goes_before_documents(model: CM3Leon) -> None:
    few = model.generate(["one ", Gap(), " and a fimmel"], retrieve=3, max_tokens=225)
    assert len(few.retrieved) < 3 and len(few.retrieved) + len(few.left_out) == 3
    with pytest.raises(RequestError, match=r"shorten the prompt, lower max_tokens \(.*\), or ask for no documents"):
        model.generate(["one ", Gap(), " and a fimmel"], retrieve=3, max_tokens=280)


# Banks and encoders


def test_nothing_is_opened_before_it_is_needed(tmp_path: Path) -> None:
    model = CM3Leon(tiny(), memory=tmp_path / "nothing", encoder=tmp_path / "neither")
    assert model.generate("a drump").image.size == (SIZE, SIZE)
    with pytest.raises(DataError, match="nothing"):
        model.generate("a drump", retrieve=1)


def test_a_bundle_brings_its_own_bank(folder: Path, model: CM3Leon) -> None:
    bundle = tiny(image={"guidance": 2.0})
    bundle.memory = folder
    own = CM3Leon(bundle, encoder=Letters())
    want = model.generate("a drump", retrieve=1).document
    assert own.generate("a drump", retrieve=1).document == want
    # An open bank will do as well as its folder.
    opened = CM3Leon(tiny(image={"guidance": 2.0}), memory=Memory.open(folder), encoder=Letters())
    assert opened.generate("a drump", retrieve=1).document == want
    assert "doc/1" in own.memory and "doc/9" not in own.memory


def test_the_same_model_with_another_bank(tmp_path: Path, model: CM3Leon) -> None:
    other = Memory.build(tmp_path / "other", [Document.of("one drump", PICTURE, id="new")], Letters())
    beside = model.with_memory(other, Letters())
    assert beside.decoder is model.decoder
    assert [a["id"] for a in beside.generate("a drump", retrieve=2).attribution] == ["new"], "a bank of one gives one"
    assert model.generate("a drump", retrieve=1).attribution[0]["id"] == "doc/1"


def test_a_bank_needs_the_encoder_that_made_it(folder: Path, tmp_path: Path) -> None:
    other = Letters()
    other.name = "words"
    with pytest.raises(CheckpointError, match="letters.*words"):
        CM3Leon(tiny(), memory=folder, encoder=other).generate("a drump", retrieve=1)
    with pytest.raises(RequestError, match="was made with encoder letters, and this model has none; give its folder"):
        CM3Leon(tiny(), memory=folder).generate("a drump", retrieve=1)
    bundle = tiny()
    bundle.encoder = tmp_path / "own"
    with pytest.raises(CheckpointError, match="own"):  # the model's own is tried, which is not there
        CM3Leon(bundle, memory=folder).generate("a drump", retrieve=1)


GAPPED = Document.of("a ", Gap(), " cat", id="g")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retrieve": -1}, "retrieve=-1: must be an integer, 0 to 3 documents"),
        ({"retrieve": 4}, "retrieve=4: must be an integer, 0 to 3 documents"),
        ({"documents": [*DOCUMENTS]}, "documents=4: must be an integer, 0 to 3 documents"),
        ({"retrieve": 1, "documents": DOCUMENTS[:1]}, "retrieve=1: documents= are given as well; give one of the two"),
        ({"documents": [GAPPED]}, "documents: 'g' has a gap; give whole documents"),
        ({"documents": [Document.of(" ")]}, "documents: 'one of them' has no part; give whole documents"),
        ({"unconditional": "keep"}, "unconditional='keep': must be 'kept' or 'dropped'"),
    ],
)  # fmt: skip
def test_refusals(model: CM3Leon, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        model.generate("a drump", **settings)


def test_more_refusals(model: CM3Leon) -> None:
    with pytest.raises(RequestError, match=r"no memory bank; give memory=FOLDER \(--memory FOLDER\), or retrieve=0"):
        CM3Leon(tiny()).generate("a drump", retrieve=1)
    with pytest.raises(RequestError, match="has neither text nor a picture"):
        model.generate(Gap("image"), retrieve=1)
    with pytest.raises(RequestError, match="documents: 1 for 2 prompts; give one for each"):
        model.generate_many(["a", "b"], seeds=[1, 2], documents=[[]])
    with pytest.raises(RequestError, match="retrieve=4: must be an integer, 0 to 3"):
        model.retrieve("a drump", 4)

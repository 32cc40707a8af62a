"""What a stream brings piece by piece is what a call brings at once, and what nobody waits for is given back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_model
from test_generate import BOXED, PICTURE

from cm3.document import Gap, Image, Text
from cm3.engine import Engine
from cm3.errors import ConfigError, RequestError
from cm3.generate import Chunk, CM3Leon

PROMPTS: list[Any] = [
    "a cat",
    PICTURE,
    ["a ", Gap(), " cat ", Gap()],
    ["a cat ", BOXED, " at ", Gap()],
    [Gap("image"), Gap(), Image(PICTURE)],
]


@pytest.fixture(scope="module")
def model() -> CM3Leon:
    return CM3Leon(tiny_model.bundle())


def ends(chunks: list[Chunk]) -> tuple[dict[int, str], dict[int, list[Chunk]]]:
    """The text, and the chunks with pictures, of each part."""
    texts: dict[int, str] = {}
    pictures: dict[int, list[Chunk]] = {}
    for chunk in chunks[:-1]:
        assert (chunk.image is None) == bool(chunk.text) and chunk.generation is None
        if chunk.text:
            texts[chunk.part] = texts.get(chunk.part, "") + chunk.text
        else:
            pictures.setdefault(chunk.part, []).append(chunk)
    return texts, pictures


@pytest.mark.parametrize(("ahead", "parallel"), [(1, 0), (5, 0), (1, "auto")])
@pytest.mark.parametrize("prompt", PROMPTS, ids=["image", "text", "two texts", "region and text", "image and text"])
def test_a_stream_is_what_generate_gives(
    model: CM3Leon, prompt: Any, ahead: int, parallel: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = [Engine(model.decoder, model.vocab, ahead=n, parallel=parallel) for n in (1, ahead)]
    monkeypatch.setattr(model, "_idle", engines[:1])
    expected = model.generate(prompt, seed=3, candidates=1, max_tokens=24)
    monkeypatch.setattr(model, "_idle", engines[1:])
    chunks = list(model.stream(prompt, seed=3, max_tokens=24))
    made = chunks[-1].generation
    assert made is not None and made.scores == expected.scores and chunks[-1].image is None
    assert [d.text for d in made.documents] == [d.text for d in expected.documents]
    for a, b in zip(made.document.images, expected.document.images, strict=True):
        np.testing.assert_array_equal(np.asarray(a.pixels), np.asarray(b.pixels))
    texts, pictures = ends(chunks)
    asked = model.generate(prompt, seed=3, candidates=1, max_tokens=24).prompt.parts
    gaps = [at for at, part in enumerate(asked) if isinstance(part, Gap)]
    for at, filled in zip(gaps, expected.filled[0], strict=True):
        if isinstance(filled, Text):
            assert texts.pop(at, "") == filled.text
    assert not texts
    drawn = [p.pixels for p in expected.document.images]
    whole = [at for at, part in enumerate(asked) if isinstance(part, Image) or part == Gap("image")]
    for at, some in pictures.items():
        rows = [chunk.rows for chunk in some]
        assert rows == sorted(set(rows)) and rows[-1] == model.grid[0]
        final = np.asarray(drawn[whole.index(at)])
        np.testing.assert_array_equal(np.asarray(some[-1].image), final)
        for chunk in some:
            assert chunk.image is not None and chunk.image.height == chunk.rows * final.shape[0] // model.grid[0]
    kinds = {at for at in whole if asked[at] == Gap("image") or getattr(asked[at], "gap", None) is not None}
    assert pictures.keys() == kinds


def test_rows_of_a_picture_come_one_by_one_and_a_character_in_one_piece(model: CM3Leon) -> None:
    chunks = list(model.stream("a cat", seed=1))
    assert [chunk.rows for chunk in chunks[:-1]] == [1, 2, 3, 4]
    codes = np.asarray([np.asarray(chunk.image)[0] for chunk in chunks[:-1]])
    assert codes.std() > 1, "pictures are of something"
    written = list(model.stream(PICTURE, seed=5, temperature=3.0, max_tokens=60))
    text = "".join(chunk.text for chunk in written)
    assert written[-1].generation is not None
    assert text == written[-1].generation.filled[0][0].text and "\ufffd" in text, "of random bytes, in whole characters"


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_stream_that_is_left_is_cancelled(model: CM3Leon, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model.decoder, model.vocab)
    monkeypatch.setattr(model, "_idle", [engine])
    stream = model.stream("a cat", seed=1)
    for _ in range(after):
        next(stream)
    assert engine.busy == bool(after)
    stream.close()
    assert not engine.busy and not engine._schedule.rows and not engine.reserved
    assert model._idle == ([] if after else [engine]), "an engine that a consumer left is not kept"


def test_a_stream_refuses_when_it_is_called(model: CM3Leon) -> None:
    with pytest.raises(RequestError, match="candidates=4: a stream shows the one that it makes; leave it out"):
        model.stream("a cat", candidates=4)
    with pytest.raises(RequestError, match="progress: a stream tells how far it is by its chunks"):
        model.stream("a cat", progress=lambda done, total: None)
    with pytest.raises(RequestError, match="prompt: is empty"):
        model.stream("")
    with pytest.raises(ConfigError, match="temprature: is no setting.*Did you mean 'temperature'"):
        model.stream("a cat", temprature=1.0)  # type: ignore[call-arg]
    with pytest.raises(RequestError, match="k=1000: must be at most 64"):
        next(model.stream("a cat", contrast="kmax", k=1000))

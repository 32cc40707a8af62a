"""Candidates: the likelihood of a whole document is the model's own, and the likeliest one is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_model
import torch

from cm3.document import Document, Gap
from cm3.engine.engine import Engine
from cm3.errors import RequestError
from cm3.generate import CM3Leon
from cm3.generate.cm3leon import _sub_seed
from cm3.generate.rank import canonical, log_likelihoods
from cm3.model.decoder import Decoder
from cm3.scenes import draw, random_scene
from cm3.vocab import Tokens


@pytest.fixture(scope="module")
def model() -> CM3Leon:
    return CM3Leon(tiny_model.bundle())


def documents(model: CM3Leon, n: int = 3) -> list[Tokens]:
    rng = np.random.default_rng(3)
    pictures = [draw(random_scene(rng), model.image_size, rng) for _ in range(n)]
    texts = ["a red circle", "a much longer caption, of a blue star", "b"]
    return model.codec.encode_many([Document.of(t, p) for t, p in zip(texts, pictures, strict=False)])


def by_hand(model: CM3Leon, tokens: Tokens, start: int) -> float:
    scores = torch.log_softmax(model.logits(tokens), -1)
    return sum(float(scores[i - 1, int(tokens.ids[i])]) for i in range(start, tokens.length))


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_a_likelihood_is_the_sum_over_tokens_whatever_stands_beside_it(model: CM3Leon, batch: int) -> None:
    some = documents(model)
    found = log_likelihoods(model.decoder, some, [1, 4, 2], batch)
    assert found == pytest.approx([by_hand(model, t, s) for t, s in zip(some, (1, 4, 2), strict=True)], abs=1e-3)


def test_what_is_longer_than_the_context_is_never_kept(model: CM3Leon) -> None:
    long = Tokens.of([model.vocab.eos] * (model.decoder.config.context + 1))
    short = documents(model)[0]
    found = log_likelihoods(model.decoder, [long, short], [1, 1])
    assert found[0] == -math.inf and found[1] == pytest.approx(by_hand(model, short, 1), abs=1e-3)


def test_seams_are_closed(model: CM3Leon) -> None:
    whole = documents(model)[1]
    text = model.codec.text
    words = [t for t in whole.ids.tolist() if model.vocab.is_text(np.array([t]))[0]]
    bytes_ = text.decode_bytes([i - model.vocab.text_start for i in words])
    single = [model.vocab.text_start + i for b in bytes_ for i in text.encode_bytes(bytes([b]))]
    cut = Tokens.concat([whole.slice(0, 1), Tokens.of(single), whole.slice(1 + len(words), whole.length)])
    assert cut.length > whole.length
    closed = canonical(cut, text, model.vocab)
    assert np.array_equal(closed.ids, whole.ids) and np.array_equal(closed.cells, whole.cells)


def test_the_likeliest_of_the_candidates_is_kept(model: CM3Leon, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[Tokens], list[float]]] = []

    def watched(decoder: Decoder, sequences: list[Tokens], starts: list[int]) -> list[float]:
        seen.append((sequences, log_likelihoods(decoder, sequences, starts)))
        return seen[-1][1]

    monkeypatch.setattr("cm3.generate.cm3leon.log_likelihoods", watched)
    picture = draw(random_scene(np.random.default_rng(0)), model.image_size)
    for prompt in ("a red circle", [Gap("text"), picture], ["a ", Gap(), " star", picture]):
        settings = {"temperature": 1.0, "max_tokens": 12, "candidates": 1}
        drawn = model.generate_many([prompt] * 6, seeds=[_sub_seed(4, i) for i in range(6)], **settings)
        all_six = [one.document for one in drawn]
        kept = model.generate_many([prompt], seeds=[4], temperature=1.0, max_tokens=12, candidates=6)[0].document
        sequences, scores = seen.pop()
        assert not seen and len(set(scores)) > 1
        assert kept == all_six[int(np.argmax(scores))]
        assert scores == pytest.approx([by_hand(model, s, 1) for s in sequences], abs=1e-3)


def test_candidates_do_not_depend_on_their_company(model: CM3Leon) -> None:
    prompts = ["a red circle", "a blue star above a green square"]
    together = model.generate_many(prompts, seeds=[1, 2], candidates=2)
    alone = [model.generate_many([p], seeds=[s], candidates=2)[0] for p, s in zip(prompts, (1, 2), strict=True)]
    assert [t.image.tobytes() for t in together] == [a.image.tobytes() for a in alone]


def test_a_bundle_may_recommend_candidates() -> None:
    plain, ranked = tiny_model.bundle(), tiny_model.bundle()
    ranked.sampling = {"text": {"temperature": 1.0, "candidates": 5}}
    plain.sampling = {"text": {"temperature": 1.0}}
    rng = np.random.default_rng(0)
    picture = draw(random_scene(rng), plain.image_size, rng)
    given = CM3Leon(plain).generate([Gap("text"), picture], seed=4, max_tokens=12, candidates=5)
    assert CM3Leon(ranked).generate([Gap("text"), picture], seed=4, max_tokens=12).text == given.text


@pytest.mark.parametrize("temperature", [0.0, 1e-310, 9e-7])
def test_at_temperature_zero_one_candidate_is_drawn(
    model: CM3Leon, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    """Below a millionth is zero; of eight equal ones nothing is to be chosen. Just above it there are eight."""
    served: list[int] = []
    run = Engine.run
    monkeypatch.setattr(Engine, "run", lambda self, some, *more: served.append(len(some)) or run(self, some, *more))
    made = model.generate("a red circle", seed=1, temperature=temperature, candidates=8)
    assert made.document == model.generate("a red circle", seed=2, temperature=0.0).document
    model.generate("a red circle", temperature=1e-6, candidates=8)
    assert served == [1, 1, 8]


def test_no_candidates_is_refused(model: CM3Leon) -> None:
    with pytest.raises(RequestError, match="candidates=0: must be an integer, 1 to 1000000"):
        model.generate("a red circle", candidates=0)

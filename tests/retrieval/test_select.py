"""Selection: equals a naive walk by the rules, and each rule by hand on vectors that show it."""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from exact_bank import ExactBank, Letters
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3.document import Document, Gap
from cm3.errors import CheckpointError, ConfigError, RequestError
from cm3.retrieval.memory import Memory
from cm3.retrieval.select import Candidate, SelectLaw, as_query, choose, drop_words, select, shortlists


def picture(seed: int = 0, size: int = 8) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8))


def made(kind: str, id: str) -> Document:
    """A document that is whole ("w"), or text ("t") or a picture ("i") alone."""
    return Document.of(*(["words"] if kind in "wt" else []), *([picture()] if kind in "wi" else []), id=id)


def unit(*rows: Any) -> np.ndarray:
    array = np.array(rows, np.float32)
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-9)


def naive(
    bank: ExactBank, kinds: dict[str, str], text: np.ndarray, image: np.ndarray, skip: set[str], law: SelectLaw
) -> list[tuple[str, str]]:
    """The rules, one after the other, over the whole bank: (id, by) in order of choice."""
    queries = {by: v for by, v in (("text", text), ("image", image)) if v.any()}
    room = {"text": law.by_text, "image": law.by_image}
    if len(queries) == 1:
        room = {by: law.by_text + law.by_image for by in queries}
    score = {(id, by): float(bank.vectors([id])[0] @ v) for id in bank for by, v in queries.items()}
    order = sorted(score, key=lambda key: (-score[key], key[0]))
    limit = law.highest + 1e-5

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) if a.any() and b.any() else -1.0

    def shown(id: str) -> np.ndarray:
        return bank.images([id])[0]

    chosen: list[tuple[str, str]] = []
    for whole in (True, False):
        for id, by in order:
            a = bank.vectors([id])[0]
            alike = any(
                cosine(a, bank.vectors([c])[0]) > limit or cosine(shown(id), shown(c)) > limit for c, _ in chosen
            )
            own = cosine(shown(id), image) > limit or (
                kinds[id] == "w" and len(queries) == 2 and cosine(a, (text + image) / 2) > limit
            )
            if (
                (kinds[id] == "w") == whole
                and room[by]
                and id not in skip
                and id not in [c for c, _ in chosen]
                and score[id, by] <= limit
                and not alike
                and not own
            ):
                chosen.append((id, by))
                room[by] -= 1
    return chosen


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    number=st.integers(1, 40),
    has=st.sampled_from(["text", "image", "both"]),
    by=st.sampled_from([(2, 2), (1, 3), (0, 2), (3, 0), (4, 4)]),
    highest=st.sampled_from([0.3, 0.6, 0.9]),
    spread=st.sampled_from([0.3, 1.0]),
)
def test_shortlists_are_those_of_a_naive_walk(
    seed: int, number: int, has: str, by: tuple[int, int], highest: float, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    kinds = {f"d{i}": "wwti"[int(rng.integers(4))] for i in range(number)}
    middle = rng.normal(size=6)
    bank = ExactBank([made(k, id) for id, k in kinds.items()], unit(*(middle + spread * rng.normal(size=(number, 6)))))
    bank.matrix *= rng.uniform(0.4, 1, (number, 1)).astype(np.float32)  # means of two unit vectors are shorter
    bank.shown = unit(*(middle + rng.normal(size=(number, 6))))
    bank.shown[[kind == "t" for kind in kinds.values()]] = 0
    texts, images = unit(*(middle + rng.normal(size=(3, 6)))), unit(*(middle + rng.normal(size=(3, 6))))
    if has != "both":
        (images if has == "text" else texts)[:] = 0
    skip = [set(), {"d0", "d5"}, {"d1"}]
    # No window: a bank this small is looked at as a whole.
    law = SelectLaw(by_text=by[0], by_image=by[1], highest=highest, candidates=64)
    found = shortlists(bank, texts, images, skip, law)
    for i in range(3):
        assert [(c.id, c.by) for c in found[i]] == naive(bank, kinds, texts[i], images[i], skip[i], law)
        for c in found[i]:
            query = (texts if c.by == "text" else images)[i]
            assert c.score == pytest.approx(float(bank.vectors([c.id])[0] @ query), abs=1e-5)
            assert c.whole == (kinds[c.id] == "w")
        # Asked alone, a query gets what it gets in company.
        alone = shortlists(bank, texts[i : i + 1], images[i : i + 1], skip[i : i + 1], law)[0]
        assert ids(alone) == ids(found[i])


def ids(found: list[Candidate]) -> list[str]:
    return [c.id for c in found]


def lists(kinds: str, vectors: Any, query: Any, **law: Any) -> list[str]:
    """Ids "0", "1", ... found by a text query alone."""
    bank = ExactBank([made(k, str(i)) for i, k in enumerate(kinds)], np.array(vectors, np.float32))
    texts = np.array([query], np.float32)
    return ids(shortlists(bank, texts, np.zeros_like(texts), [set()], SelectLaw(**law))[0])


def test_what_is_too_much_like_the_query_is_left_out() -> None:
    vectors = [[0.95, 0], [0.9, 0], [0.5, 0.5], [0.1, 0.4]]
    assert lists("wwww", vectors, [1, 0]) == ["1", "2", "3"]
    assert lists("wwww", vectors, [1, 0], highest=0.6) == ["2"]  # whose cosine with 3 is 0.86
    assert lists("wwww", vectors, [1, 0], highest=1.0) == ["0", "1", "2", "3"]


def test_what_is_too_much_like_a_chosen_document_is_left_out() -> None:
    vectors = [[0.6, 0.1], [0.5, 0.1], [0.3, 0.6], [0.1, -0.5]]
    assert lists("wwww", vectors, [1, 0]) == ["0", "2", "3"]


def test_whole_documents_come_first_and_parts_where_nothing_else_is_left() -> None:
    vectors = np.diag([0.8, 0.7, 0.6, 0.5]) + 0.0
    query = [0.5, 0.5, 0.5, 0.5]
    assert lists("twiw", vectors, query) == ["1", "3", "0", "2"]
    assert lists("ttii", vectors, query) == ["0", "1", "2", "3"]
    found = [Candidate(str(i), 1 - i / 10, "text", k == "w") for i, k in enumerate("wwtt")]
    for k in (1, 2):
        assert all(c.whole for seed in range(20) for c in choose(found, k, np.random.default_rng(seed)))
    assert ids(choose(found, 3)) == ["0", "1", "2"]


def test_two_by_text_and_two_by_picture() -> None:
    vectors = np.eye(8, dtype=np.float32) * 0.8
    bank = ExactBank([made("w", str(i)) for i in range(8)], vectors)
    text, image = unit([4, 3, 2, 1, 0, 0, 0, 0]), unit([0, 0, 0, 1, 2, 3, 4, 5])
    both = shortlists(bank, text, image, [set()], SelectLaw())[0]
    assert {(c.id, c.by) for c in both} == {("0", "text"), ("1", "text"), ("7", "image"), ("6", "image")}
    assert [c.score for c in both] == sorted((c.score for c in both), reverse=True)
    # A query that has one of the two gets all its documents by that one.
    assert ids(shortlists(bank, text, 0 * image, [set()], SelectLaw())[0]) == ["0", "1", "2", "3"]


def test_where_the_first_candidates_are_all_alike_more_are_looked_at() -> None:
    vectors = [[0.8, 0.0]] * 10 + [[0.1, 0.7], [0.1, -0.7]]
    assert lists("w" * 12, vectors, [1, 0], candidates=4) == ["0", "10", "11"]


TEXTS = ("a red circle", "a blue star", "a red star", "two blue circles", "a large green square", "one small dog")


@functools.cache
def bank_of(texts: tuple[str, ...] = TEXTS) -> Memory:
    documents = [Document.of(t, picture(i), id=str(i), source="here", license="MIT") for i, t in enumerate(texts)]
    folder = Path(tempfile.mkdtemp(prefix="cm3-test-")) / "bank"
    return Memory.build(folder, documents, Letters())


def test_a_query_of_words_finds_the_document_that_says_them() -> None:
    bank = bank_of()
    for i, text in enumerate(TEXTS):
        found = select(bank, Letters(), Document.of(text, Gap("image")), 2)
        assert found[0].document == bank[str(i)] and found[0].by == "text" and len(found) == 2
        assert found[0].score == pytest.approx(0.5, abs=1e-3) and found[0].score > found[1].score
        assert found[0].document.meta["license"] == "MIT"


def test_a_picture_finds_its_like_and_never_itself() -> None:
    bank, like = bank_of(), picture(3)
    like.paste(picture(4).crop((0, 0, 8, 3)))
    found = select(bank, Letters(), Document.of(like), 1)[0]
    assert (found.document.id, found.by) == ("3", "image")
    for own in (Document.of(TEXTS[3], picture(3), id="3"), Document.of("other words", picture(3))):
        # Also where nothing but the picture itself is a limit.
        for law in (SelectLaw(), SelectLaw(highest=1)):
            assert all(r.document.id != "3" for r in select(bank, Letters(), own, 3, law=law))
    own = Document.of(TEXTS[3], picture(3), id="3")
    assert all(r.document.id not in "12" for r in select(bank, Letters(), own, 3, exclude=["1", "2"]))


def test_like_is_compared_with_like() -> None:
    """The picture and the words of one thing are far apart, as CLIP's are: a score says little of likeness."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    word, image, other = axes[0], unit(0.3 * axes[0] + axes[1])[0], axes[2]
    near = unit(image + 0.3 * axes[3])[0]  # at a cosine of 0.96
    shown = np.stack([image, near, unit(image + axes[4])[0], 0 * image])
    words = np.stack([other, axes[5], axes[6], axes[7]])
    bank = ExactBank(
        [made("wwwt"[i], "abcd"[i]) for i in range(4)],
        np.stack([(w + i) / 2 for w, i in zip(words, shown, strict=True)]),
    )
    scores = bank.vectors("abcd") @ image
    assert scores.max() < 0.7, "which the own picture does not exceed"

    def found(**law: float) -> list[str]:
        return ids(shortlists(bank, word[None], image[None], [set()], SelectLaw(**law))[0])

    assert {"a", "b"} <= set(found()), "where nothing is known of the pictures alone"
    bank.shown = shown
    assert set(found()) == {"c", "d"}
    assert set(found(highest=0.97)) >= {"b", "c"} and "a" not in found(highest=0.97)
    # The same words and a picture that is somewhat like it, whose mean is too much like the query's.
    bank.matrix[2] = (word + unit(image + 0.6 * axes[4])[0]) / 2
    bank.shown[2] = unit(image + 0.6 * axes[4])[0]
    assert "c" not in found()


def test_training_draws_by_its_generator_alone() -> None:
    bank, query = bank_of(), Document.of("a red circle and a blue star", picture(9))
    draws = [
        [r.document.id for r in select(bank, Letters(), query, 2, rng=np.random.default_rng(s))] for s in range(40)
    ]
    again = [
        [r.document.id for r in select(bank, Letters(), query, 2, rng=np.random.default_rng(s))] for s in range(40)
    ]
    assert draws == again and len({tuple(d) for d in draws}) > 5
    assert all(len(set(d)) == 2 for d in draws)
    plain = [[r.document.id for r in select(bank, Letters(), query, 2)] for _ in range(3)]
    assert plain[0] == plain[1] == plain[2]


def test_k_larger_than_what_is_left_gives_what_is_left() -> None:
    bank, query = bank_of(TEXTS[:2]), Document.of("a red circle")
    assert [r.document.id for r in select(bank, Letters(), query, 3)] == ["0", "1"]
    assert select(bank, Letters(), query, 3, exclude=["0", "1"]) == []
    assert select(bank, Letters(), query, 0) == []


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.sampled_from(["red", "a", "dog"]), min_size=1, max_size=9), seed=st.integers(0, 1000))
def test_dropout_keeps_order_and_at_least_one_word(words: list[str], seed: int) -> None:
    kept = drop_words(" ".join(words), 0.8, np.random.default_rng(seed)).split()
    rest = iter(words)
    assert kept and all(word in rest for word in kept)  # a subsequence
    assert kept == drop_words("  ".join(words), 0.8, np.random.default_rng(seed)).split()
    assert drop_words(" ".join(words), 0.0, np.random.default_rng(seed)).split() == words


def test_dropout_is_a_share_and_only_with_a_generator() -> None:
    rng, text = np.random.default_rng(0), " ".join(f"w{i}" for i in range(10))
    query = Document.of(text, picture())
    lengths = Counter(len(as_query(query, SelectLaw(), rng).text.split()) for _ in range(400))
    mean = sum(n * count for n, count in lengths.items()) / 400
    assert 7.8 < mean < 8.2
    assert as_query(query, SelectLaw()).text == text
    assert as_query(query, SelectLaw(), rng).images == query.images
    # The word that stays where all would go is by chance too.
    assert len({drop_words("a b c", 0.99, np.random.default_rng(s)) for s in range(50)}) == 3


@pytest.mark.parametrize("query", [Document(()), Document.of("  \n "), Document.of(Gap("image"))])
def test_a_query_of_nothing_is_refused(query: Document) -> None:
    with pytest.raises(RequestError, match="query: has neither text nor a picture; give words or a picture"):
        select(bank_of(), Letters(), query, 1)


def test_what_cannot_be_asked_is_refused() -> None:
    query = Document.of("a red circle")
    for k in (-1, 4):
        with pytest.raises(RequestError, match=f"retrieve={k}: must be 0 to 3 documents"):
            select(bank_of(), Letters(), query, k)
    with pytest.raises(RequestError, match="memory bank: is empty, there is nothing to retrieve; add documents"):
        select(ExactBank([], np.zeros((0, 112))), Letters(), query, 1)
    other = Memory.open(bank_of().folder)
    other.encoder_name = "clip:x"
    with pytest.raises(
        CheckpointError, match="memory bank: was built with the encoder 'clip:x', this one is 'letters'"
    ):
        select(other, Letters(), query, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"by_text": -1}, "select.by_text=-1, select.by_image=2: must be 0 or more, and one at least 1"),
        ({"by_text": 0, "by_image": 0}, "select.by_text=0, select.by_image=0: must be 0 or more"),
        ({"highest": 1.5}, "select.highest=1.5: is a cosine, must be in -1..1"),
        ({"dropout": 1.0}, "select.dropout=1.0: is a share of words, must be at least 0 and below 1"),
        ({"candidates": 3}, r"select.candidates=3: must be at least by_text \+ by_image = 4"),
    ],
)
def test_a_law_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SelectLaw(**values)

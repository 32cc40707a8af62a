"""Words and pictures in one answer, in both grammars, with and without marks in pictures: what a loop draws that reads
everything anew for each token."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from engine_reference import make_decoder

from cm3.engine import Engine, Force, FreeText, Interleaved, Request, Result, Sampling
from cm3.engine.grammar import Choice, Codes, Cursor, check_plan, fed, size
from cm3.engine.sample import uniform
from cm3.errors import RequestError
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder
from cm3.vocab import Marks, Tokens, Vocab

CHAMELEON = Vocab(text=256, image=48, masks=0, reserved=4, grammar="chameleon", turn=8)
CM3 = Vocab(text=256, image=48, masks=4, reserved=2)
LUMINA = Vocab(text=256, image=48, masks=0, reserved=6, grammar="chameleon", turn=8, marks=Marks(9, 11, 10))
GRAMMARS = pytest.mark.parametrize("vocab", [CHAMELEON, LUMINA, CM3], ids=["chameleon", "lumina", "cm3"])
CODES = 6
CELLS = tuple(range(1, CODES + 1))
ROWS = (1, 2, 3, 0, 4, 5, 6, 0)
"""The same in rows of three, with a mark behind each."""


@functools.cache
def decoder(vocab: Vocab) -> Decoder:
    """One that often begins a picture, and sometimes ends."""
    made = make_decoder(vocab, positions="rope", qk_norm=True, grid=None, layers=1)
    with torch.no_grad():
        made.embed.weight[vocab.brk] *= 14.0
        made.embed.weight[vocab.eos] *= 1.2
    return made


def ends(vocab: Vocab) -> tuple[int, ...]:
    return (vocab.eos,) if vocab.turn is None else (vocab.eos, vocab.turn)


def step(vocab: Vocab, limit: int = 16, pictures: int = 3, **settings: Any) -> Interleaved:
    if vocab.marks is not None:
        return Interleaved(
            limit, ends(vocab), ROWS, pictures, behind=(vocab.marks.height, vocab.marks.width), **settings
        )
    return Interleaved(limit, ends(vocab), CELLS, pictures, **settings)


def streams(vocab: Vocab, number: int, seed: int, picture: bool = False) -> tuple[Tokens, ...]:
    """A prompt of words, and perhaps a picture before them; nothing; the pictures alone."""
    rng = np.random.default_rng(seed)
    words = Tokens.of(rng.integers(vocab.text_start, vocab.image_start, 3 + seed))
    codes = Tokens.of(rng.integers(vocab.image_start, vocab.size, CODES), range(1, CODES + 1))
    first, brk = Tokens.of([vocab.opens]), Tokens.of([vocab.brk])
    after = Tokens.of([vocab.eoss if vocab.grammar == "chameleon" else vocab.brk])
    shown = [brk, codes, after] if picture else []
    hidden = [first] if vocab.grammar == "chameleon" else [first, Tokens.of([vocab.mask(0)])]
    # With marks a picture has nothing before it, and `<break>` is the prompt.
    made = ([first, *shown, words], hidden if vocab.marks is None else [brk], [first, *shown])
    return tuple(Tokens.concat(pieces) for pieces in made[:number])


def requests(vocab: Vocab) -> list[Request]:
    hot = {"temperature": 1.3}
    return [
        Request(streams(vocab, 1, 1), (step(vocab),), Sampling(seed=1)),
        Request(streams(vocab, 2, 2), (step(vocab),), Sampling(seed=2, guidance=3.0), Sampling(seed=3, **hot)),
        Request(streams(vocab, 3, 3, True), (step(vocab),), Sampling(seed=4, guidance=3.0, image_guidance=1.2)),
        Request(streams(vocab, 2, 4, True), (step(vocab, pictures=1),), Sampling(seed=5, guidance=2.0, top_p=0.9)),
        Request(streams(vocab, 2, 5), (step(vocab, limit=12, min_tokens=2),), Sampling(seed=6, contrast="max")),
        Request(streams(vocab, 1, 6), (step(vocab, pictures=0),), Sampling(seed=7)),
        Request(streams(vocab, 2, 2), (step(vocab),), Sampling(seed=8, temperature=0.0, guidance=3.0)),
        Request(streams(vocab, 3, 3, True), (step(vocab),), Sampling(seed=9, guidance=4.0, image_guidance=1.5, **hot)),
    ]


def naive(model: Decoder, v: Vocab, request: Request) -> list[int]:
    """Draw by the words of the docstring: read each stream afresh for every token, with a state of its own."""
    (asked,) = request.plan
    assert isinstance(asked, Interleaved)
    words = request.text_sampling or request.sampling
    written: list[tuple[int, int]] = []  # ids and cells
    blocks: list[tuple[int, int]] = []  # those of pictures and what is around them
    block: list[tuple[int, int]] = []  # the picture at hand

    def scores(prompt: Tokens, behind: list[tuple[int, int]]) -> np.ndarray:
        ids = torch.tensor([prompt.ids.tolist() + [i for i, _ in behind]])
        with torch.no_grad():
            return model(ids, torch.arange(ids.shape[1])[None], Causal(), None)[0, -1].double().numpy()

    def draw(allowed: np.ndarray, s: Sampling, guided: bool) -> int:
        c = np.where(allowed, scores(request.streams[0], written), -np.inf)
        mixed = c.copy()
        if guided and len(request.streams) > 1:
            u = scores(request.streams[1], block)
            if s.contrast is not None:
                p = np.exp(c - c.max()) / np.exp(c - c.max()).sum()
                mixed = np.where(p < s.alpha * p.max(), -np.inf, c - u)
            elif len(request.streams) == 2:
                mixed = u + s.guidance * (c - u)
            else:
                i = scores(request.streams[2], blocks)
                mixed = u + s.image_guidance * (i - u) + s.guidance * (c - i)
            mixed[~allowed] = -np.inf
        if s.temperature == 0:
            return int(mixed.argmax())
        q = np.exp((mixed - mixed.max()) / s.temperature)
        q /= q.sum()
        order = np.argsort(-q, kind="stable")
        q[order[np.cumsum(q[order]) - q[order] >= s.top_p]] = 0
        chance = float(uniform(torch.tensor(s.seed), torch.tensor(len(written))))
        return int(np.searchsorted(np.cumsum(q), chance * q.sum(), side="right"))

    every, left, pictures, least = np.arange(v.size), asked.limit, asked.pictures, asked.min_tokens
    while True:
        free = np.isin(every, [*asked.end, *([v.brk] if pictures else [])]) & (least <= 0)
        token = draw(v.is_text(every) | free, words, False)
        written.append((token, 0))
        if token in asked.end:
            break
        if token != v.brk:
            left, least = left - 1, least - 1
            if left == 0:
                written.append((asked.end[0], 0))
                break
            continue
        block = [(token, 0)] if v.marks is None else []
        blocks.append((token, 0))
        for forced in asked.behind:
            for some in (written, block, blocks):
                some.append((forced, 0))
        for cell in asked.cells:
            mark = v.marks.row if v.marks is not None else -1
            code = (draw(v.is_image(every), request.sampling, asked.guided) if cell else mark), cell
            for some in (written, block, blocks):
                some.append(code)
        pictures -= 1
        if v.grammar == "chameleon":
            written.append((v.eoss, 0))
            blocks.append((v.eoss, 0))
            continue
        token = draw(np.isin(every, [v.brk, *asked.end]), words, False)
        written.append((token, 0))
        if token in asked.end:
            break
        least = 1
    assert all((cell > 0) == v.is_image(np.array(token)) for token, cell in written)
    return [token for token, _ in written]


@functools.cache
def expected(vocab: Vocab) -> list[list[int]]:
    return [naive(decoder(vocab), vocab, request) for request in requests(vocab)]


def begun(ids: list[int], vocab: Vocab) -> int:
    """How many pictures there are."""
    first = vocab.brk if vocab.marks is None else vocab.marks.width
    return sum(i == first and vocab.is_image(np.array(j)).item() for i, j in zip(ids, ids[1:], strict=False))


@GRAMMARS
def test_the_reference_draws_pictures_and_words(vocab: Vocab) -> None:
    found = [begun(ids, vocab) for ids in expected(vocab)]
    assert max(found) >= 2 and sum(n > 0 for n in found) >= 4 and found[5] == 0


@GRAMMARS
@pytest.mark.parametrize("parallel", [0, 4, "auto"])
def test_tokens_are_those_of_the_naive_loop(vocab: Vocab, parallel: int | str) -> None:
    """All at once, with rows for some of them, so that requests join, leave and move."""
    engine = Engine(decoder(vocab), vocab, max_streams=6, parallel=parallel)
    made = engine.run(requests(vocab))
    assert [m.tokens.ids.tolist() for m in made] == expected(vocab)
    for one in made:
        places = [list(range(1, CODES + 1))] * begun(one.tokens.ids.tolist(), vocab)
        assert one.tokens.cells[one.tokens.cells > 0].tolist() == sum(places, [])
    assert engine.reserved == 0


@GRAMMARS
def test_alone_and_streamed_it_is_the_same(vocab: Vocab) -> None:
    engine = Engine(decoder(vocab), vocab, ahead=4)
    for request, ids in zip(requests(vocab), expected(vocab), strict=True):
        events = list(engine.stream([request]))
        assert [i for e in events for i in e.tokens.ids.tolist()] == ids
        result = events[-1].result
        assert result is not None and result.tokens.ids.tolist() == ids


@GRAMMARS
def test_beside_requests_of_other_kinds(vocab: Vocab) -> None:
    """Pictures and words of fixed plans run in the same steps; a prompt that is shared is read once."""
    engine = Engine(decoder(vocab), vocab, max_streams=12)
    long = Tokens.concat([streams(vocab, 1, 1)[0], *[streams(vocab, 1, 1)[0].slice(1, 4)] * 30])
    text = Request((long,), (FreeText(9, ends(vocab)),), Sampling(seed=3))
    both = [Request((long,), (step(vocab, limit=8, pictures=2),), Sampling(seed=s)) for s in (1, 2)]
    alone = [engine.run([one])[0].tokens.ids.tolist() for one in (text, *both)]
    together = [m.tokens.ids.tolist() for m in engine.run([text, *both, *requests(vocab)])]
    assert together == alone + expected(vocab)


@GRAMMARS
def test_what_is_written_is_bounded_and_has_its_form(vocab: Vocab) -> None:
    for request, ids in zip(requests(vocab), expected(vocab), strict=True):
        (asked,) = request.plan
        assert isinstance(asked, Interleaved)
        text = vocab.is_text(np.array(ids))
        assert text.sum() <= asked.limit and begun(ids, vocab) <= asked.pictures
        assert len(ids) <= size(asked) and ids[-1] in asked.end
        assert len(ids) - 1 <= fed(request.plan) + 1
        codes = vocab.is_image(np.array(ids))
        assert codes.sum() == CODES * begun(ids, vocab)


@GRAMMARS
def test_a_cursor_tells_spans_and_reasons(vocab: Vocab) -> None:
    """Each step that it became has a span; where the words run out behind a picture, the end is forced."""
    cursor = Cursor((Interleaved(2, ends(vocab), (1, 2), 1, behind=vocab.begins[1:]),), vocab)
    cursor.accept(vocab.text_start)
    assert cursor.picture is None and (vocab.brk, vocab.brk + 1) in cursor.ranges
    cursor.accept(vocab.brk)
    assert cursor.picture == 1 + (vocab.marks is not None)
    assert cursor.ranges == ((vocab.image_start, vocab.size),) and cursor.cell == 1
    cursor.accept(vocab.image_start)
    cursor.accept(vocab.image_start + 1)
    if vocab.grammar == "cm3":
        assert isinstance(cursor.step, Choice) and cursor.ranges == (
            (vocab.eos, vocab.eos + 1),
            (vocab.brk, vocab.brk + 1),
        )
        cursor.accept(vocab.brk)
        assert cursor.ranges == ((vocab.text_start, vocab.image_start),)  # words come after it, not an end
    assert cursor.picture is None and (vocab.brk, vocab.brk + 1) not in cursor.ranges
    cursor.accept(vocab.text_start + 3)
    assert cursor.done and cursor.ids[-1] == vocab.eos
    assert [r for r in cursor.reasons if r != "end"] == ["codes", "limit"]
    spans = [s.ids.tolist() for s in cursor.spans if s.length]
    assert spans == [[vocab.text_start], [vocab.image_start, vocab.image_start + 1], [vocab.text_start + 3]] or (
        vocab.grammar == "cm3" and len(spans) == 3
    )
    full = Cursor((Interleaved(1, ends(vocab), (1,), 2, min_tokens=1),), vocab)
    full.accept(vocab.text_start)
    assert full.done


@GRAMMARS
def test_bad_plans_are_refused(vocab: Vocab) -> None:
    engine = Engine(decoder(vocab), vocab)
    for plan, message in [
        (lambda: (Interleaved(0, (2,), CELLS, 1),), "Interleaved.limit=0: must be an integer, at least 1"),
        (lambda: (Interleaved(4, (), CELLS, 1),), r"Interleaved\(end=\(\)\): name at least one id that ends it"),
        (lambda: (Interleaved(4, (vocab.brk,), CELLS, 1),), "<break> begins a picture, so it cannot be its end"),
        (lambda: (Interleaved(4, (vocab.size - 1,), CELLS, 1),), "Interleaved: end id .* is not a special id"),
        (lambda: (Interleaved(90, (2,), CELLS * 5, 4, behind=vocab.begins[1:]),), "needs .* tokens of context"),
        (lambda: (FreeText(3, (2,)), step(vocab)), "Interleaved stands with Force alone"),
        (lambda: (step(vocab), step(vocab)), "Interleaved stands with Force alone"),
        (lambda: (Choice(()),), r"Choice\(ids=\(\)\): name at least one id"),
        (lambda: (Choice((vocab.size - 1,)),), "Choice: end id .* is not a special id"),
    ]:
        with pytest.raises(RequestError, match=message):
            engine.run([Request(streams(vocab, 1, 1), plan(), Sampling())])


def test_marks_are_forced_and_stand_in_the_span_of_a_picture() -> None:
    v, marks = LUMINA, LUMINA.marks
    assert marks is not None
    cursor = Cursor((Interleaved(4, ends(v), (1, 2, 0, 3, 4, 0), 1, behind=v.begins[1:]),), v)
    assert not cursor.accept(v.brk)
    assert cursor.ids == [v.brk, marks.height, marks.width] and cursor.picture == 1
    codes = [v.image_start + i for i in range(4)]
    for code, left, same in zip(codes, (2, 1, 2, 1), (True, False, True, False), strict=True):
        assert cursor.left == left and cursor.ranges == ((v.image_start, v.size),)
        assert cursor.accept(code) == same  # behind a row more is read than what was drawn
    picture = [*codes[:2], marks.row, *codes[2:], marks.row]
    assert cursor.ids[3:] == [*picture, v.eoss] and cursor.cells[3:] == [1, 2, 0, 3, 4, 0, 0]
    assert cursor.spans[1].ids.tolist() == picture and cursor.reasons == ["end", "codes"]
    plan = (Codes((1, 2, 0, 3, 4, 0)),)
    assert size(plan[0]) == 6 and fed(plan) == 4  # nothing behind the last code is read
    for wrong, vocab, message in (
        (plan, CHAMELEON, "Codes: cell 0 is a mark behind codes, and this vocabulary has none"),
        ((Interleaved(4, ends(v), ROWS, 1),), CHAMELEON, "Interleaved: cell 0 is a mark behind codes"),
        ((Interleaved(4, ends(v), ROWS, 1),), v, r"Interleaved.behind=\(\): must be the marks of a size, \(9, 11\)"),
    ):
        with pytest.raises(RequestError, match=message):
            check_plan(wrong, vocab)


def test_a_forced_start_and_a_cancelled_request_leave_nothing() -> None:
    engine = Engine(decoder(CHAMELEON), CHAMELEON)
    plan = (Force((CHAMELEON.turn or 0,)), step(CHAMELEON))
    request = Request(streams(CHAMELEON, 3, 3, True), plan, Sampling(seed=4, guidance=3.0, image_guidance=1.2))
    whole: Result = engine.run([request])[0]
    assert whole.tokens.ids[0] == CHAMELEON.turn
    stream = engine.stream([request])
    next(stream)
    stream.close()
    assert engine.reserved == 0 and engine.run([request])[0].tokens.ids.tolist() == whole.tokens.ids.tolist()


@GRAMMARS
@pytest.mark.parametrize("parallel", [0, 4])
def test_one_is_cancelled_in_a_picture_and_the_others_go_on(vocab: Vocab, parallel: int) -> None:
    """Rows that read different parts of an answer are moved, with what they have read."""
    wanted = expected(vocab)
    first = next(i for i, r in enumerate(requests(vocab)) if len(r.streams) == 3 and begun(wanted[i], vocab) > 1)
    engine = Engine(decoder(vocab), vocab, max_streams=9, parallel=parallel)
    some = [requests(vocab)[first], *requests(vocab)]
    ids, stopped, found = [engine.add(request) for request in some], 0, dict[int, list[int]]()
    while engine.busy:
        found |= {id: result.tokens.ids.tolist() for id, result in engine.step()}
        stopped += 1
        if stopped == 2 + wanted[first].index(vocab.brk):
            assert engine.cancel(ids[0])
    assert ids[0] not in found and engine.reserved == 0
    assert [found[id] for id in ids[1:]] == wanted

"""A batched run equals one by one equals the naive loop, for the same seeds; bad requests are refused."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
import pytest
import torch
from engine_reference import make_decoder, mixed, naive, nothing, prompt, same
from scipy import stats

from cm3.engine import Codes, Engine, Force, FreeText, Request, Result, Sampling
from cm3.engine.request import Dropped
from cm3.engine.schedule import Job
from cm3.errors import ConfigError, RequestError
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder
from cm3.vocab import Tokens, Vocab


def test_batched_equals_one_by_one_equals_naive(decoder: Decoder, vocab: Vocab) -> None:
    requests = mixed(vocab)
    together = Engine(decoder, vocab).run(requests)
    for request, result in zip(requests, together, strict=True):
        same(result, Engine(decoder, vocab).run([request])[0])
        ids, cells, logprobs = naive(decoder, vocab, request)
        assert result.tokens.ids.tolist() == ids
        assert result.tokens.cells.tolist() == cells
        np.testing.assert_allclose(result.logprobs, logprobs, atol=1e-4)
    # The test would say little if the model always said the same.
    assert len({tuple(r.tokens.ids[-10:]) for r in together}) == len(together)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_heads_equal_the_naive_loop(vocab: Vocab, kv_heads: int) -> None:
    decoder = make_decoder(vocab, kv_heads=kv_heads, positions="rope", qk_norm=True)
    requests = mixed(vocab)
    engine = Engine(decoder, vocab)
    for request, result in zip(requests, engine.run(requests), strict=True):
        ids, cells, logprobs = naive(decoder, vocab, request)
        assert (result.tokens.ids.tolist(), result.tokens.cells.tolist()) == (ids, cells)
        np.testing.assert_allclose(result.logprobs, logprobs, atol=1e-4)
    keys, values = engine._cache._layers[0]
    assert keys.shape[1] == values.shape[1] == kv_heads, "each is stored once"


def test_of_requests_that_must_give_the_same_one_is_served(one_decoder: Decoder, vocab: Vocab) -> None:
    def ask(seed: int, temperature: float, words: int = 1) -> Request:
        return Request((prompt(vocab, 5, words),), (Codes.image(6),), Sampling(seed=seed, temperature=temperature))

    requests = [ask(1, 0.0), ask(2, 0.0), ask(3, 1e-9), ask(1, 1.0), ask(2, 1.0), ask(1, 1.0), ask(1, 0.0, 2)]
    engine, totals = Engine(one_decoder, vocab), []
    found = engine.run(requests, lambda done, total: totals.append(total))
    assert {total // 6 for total in totals} == {4 + 1}, "greedy at two temperatures, two seeds, and another prompt"
    for request, result in zip(requests, found, strict=True):
        same(result, Engine(one_decoder, vocab).run([request])[0])
    assert found[0].tokens.ids.tolist() == found[2].tokens.ids.tolist() != found[6].tokens.ids.tolist()


def test_k_beyond_the_ids_to_draw_from_is_refused(one_decoder: Decoder, vocab: Vocab) -> None:
    streams = (prompt(vocab, 5, 1), nothing(vocab))
    for plan in ((Codes.image(2),), (FreeText(3, end=(vocab.eos,), guided=True),)):
        most = vocab.image if isinstance(plan[0], Codes) else vocab.text + 1
        Engine(one_decoder, vocab).run([Request(streams, plan, Sampling(contrast="kmax", k=most))])
        for k in (most + 1, 10**30, 10**5000):
            with pytest.raises(RequestError, match=rf"sampling.k=.*: must be at most {most}, the ids to draw from"):
                Engine(one_decoder, vocab).add(Request(streams, plan, Sampling(contrast="kmax", k=k)))


def test_float32_batched_equals_one_by_one(one_decoder: Decoder, vocab: Vocab) -> None:
    decoder = copy.deepcopy(one_decoder).float()
    requests = mixed(vocab)
    for request, result in zip(requests, Engine(decoder, vocab).run(requests), strict=True):
        same(result, Engine(decoder, vocab).run([request])[0])


@pytest.mark.parametrize("max_streams", [3, 8])
def test_order_of_arrival_and_room_do_not_matter(one_decoder: Decoder, vocab: Vocab, max_streams: int) -> None:
    requests = mixed(vocab) * 2
    expected = Engine(one_decoder, vocab).run(requests)
    engine = Engine(one_decoder, vocab, max_streams=max_streams)
    order = np.random.default_rng(max_streams).permutation(len(requests)).tolist()
    ids: dict[int, int] = {}
    results: dict[int, Result] = {}
    while order or engine.busy:
        if order and engine._next_id <= len(results) + 3:
            i = order.pop()
            ids[engine.add(requests[i])] = i
        for id, result in engine.step():
            results[ids[id]] = result
    assert len(results) == len(requests)
    for i, result in results.items():
        same(result, expected[i])


def test_one_engine_serves_again_after_its_rows_were_used(one_decoder: Decoder, vocab: Vocab) -> None:
    engine = Engine(one_decoder, vocab, max_streams=6)
    requests = mixed(vocab)
    for a, b in zip(engine.run(requests), engine.run(requests), strict=True):
        same(a, b)
    assert not engine.busy


def test_first_come_first_served(one_decoder: Decoder, vocab: Vocab) -> None:
    one = (prompt(vocab, 2, 0),)
    pair = (prompt(vocab, 2, 0), nothing(vocab))
    plan, guided = (Codes((1, 2)),), Sampling(guidance=2.0)
    engine = Engine(one_decoder, vocab, max_streams=3)
    for streams in (pair, pair, one, one):
        engine.add(Request(streams, plan, guided if len(streams) == 2 else Sampling()))
    # The second pair does not fit beside the first, and the single ones behind it do not overtake it.
    assert [[id for id, _ in engine.step()] for _ in range(6)] == [[], [0], [], [1, 2], [], [3]]


def test_streams_without_weight_are_not_run(one_decoder: Decoder, vocab: Vocab) -> None:
    pair = (prompt(vocab, 4, 0), nothing(vocab))
    engine = Engine(one_decoder, vocab, max_streams=1)
    results = engine.run([Request(pair, (Codes.image(4),)), Request(pair[:1], (Codes.image(4),))])
    same(*results)
    with pytest.raises(RequestError, match="2 streams, the engine has max_streams=1; raise max_streams"):
        engine.add(Request(pair, (Codes.image(4),), Sampling(guidance=2.0)))


def test_greedy_equals_argmax(one_decoder: Decoder, vocab: Vocab) -> None:
    start = prompt(vocab, 6, 3)
    result = Engine(one_decoder, vocab).run([Request((start,), (Codes.image(8),), Sampling(temperature=0.0))])[0]
    tokens = Tokens.concat([start, result.tokens])
    ids, cells = (torch.from_numpy(x.astype(np.int64))[None] for x in tokens)
    with torch.no_grad():
        logits = one_decoder(ids, torch.arange(ids.shape[1])[None], Causal(), cells)[0]
    best = logits[start.length - 1 : -1, vocab.image_start :].argmax(-1) + vocab.image_start
    assert result.tokens.ids.tolist() == best.tolist()


def test_frequencies_match_the_model(one_decoder: Decoder, vocab: Vocab) -> None:
    start, n = prompt(vocab, 6, 3), 1500
    requests = [Request((start,), (Codes((1,)),), Sampling(temperature=1.3, seed=i)) for i in range(n)]
    results = Engine(one_decoder, vocab, max_streams=256).run(requests)
    with torch.no_grad():
        ids = torch.from_numpy(start.ids.astype(np.int64))[None]
        logits = one_decoder(ids, torch.arange(start.length)[None], Causal(), ids * 0)[0, -1, vocab.image_start :]
    p = (logits / 1.3).softmax(-1).numpy()
    counts = np.bincount([int(r.tokens.ids[0]) - vocab.image_start for r in results], minlength=vocab.image)
    rare = n * p < 5
    observed, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, n * p))
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_cancel_queued_and_running(one_decoder: Decoder, vocab: Vocab) -> None:
    requests = mixed(vocab)[:4]
    expected = Engine(one_decoder, vocab).run(requests)
    engine = Engine(one_decoder, vocab, max_streams=5)
    ids = [engine.add(r) for r in requests]
    for _ in range(2):
        engine.step()
    assert engine.cancel(ids[0])  # running; its rows are filled by others
    assert engine.cancel(ids[3])  # queued
    assert not engine.cancel(ids[0]) and not engine.cancel(99)
    done: dict[int, Result] = {}
    while engine.busy:
        done |= engine.step()
    assert sorted(done) == [ids[1], ids[2]]
    same(done[ids[1]], expected[1])
    same(done[ids[2]], expected[2])


def test_run_keeps_what_others_asked_for(one_decoder: Decoder, vocab: Vocab) -> None:
    requests = mixed(vocab)
    engine = Engine(one_decoder, vocab)
    other = engine.add(requests[5])
    forced = engine.add(Request((nothing(vocab),), (Force((2,)),)))
    seen: list[tuple[int, int]] = []
    result = engine.run([requests[0]], progress=lambda done, total: seen.append((done, total)))[0]
    same(result, Engine(one_decoder, vocab).run([requests[0]])[0])
    assert seen == [(i + 1 + (i == 15), 17) for i in range(16)]
    assert result.steps == 16
    held = dict(engine.step())
    assert sorted(held) == [other, forced] and held[forced].tokens.ids.tolist() == [2]


def test_an_interrupted_run_leaves_nothing_behind(one_decoder: Decoder, vocab: Vocab) -> None:
    engine = Engine(one_decoder, vocab)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(mixed(vocab), progress=interrupt)
    assert not engine.busy
    with pytest.raises(RequestError):
        engine.run([mixed(vocab)[0], Request((Tokens.of([10_000]),), (Codes((1,)),))])
    assert not engine.busy


def test_a_request_fits_the_context_to_the_last_token(one_decoder: Decoder, vocab: Vocab) -> None:
    context = one_decoder.config.context
    engine = Engine(one_decoder, vocab)
    plan = (Codes.image(16), Force((vocab.eos,)))
    room = context - 15  # the last code is not read, nor what is forced after it
    result = engine.run([Request((prompt(vocab, room - 2, 0),), plan)])[0]
    assert result.tokens.length == 17
    with pytest.raises(
        RequestError, match=rf"streams\[0\] needs {context + 1} tokens of context \(prompt {room + 1}, "
    ):
        engine.add(Request((prompt(vocab, room - 1, 0),), plan))
    with pytest.raises(RequestError, match=r"plan 499\), this model has 192; shorten the prompt"):
        engine.add(Request((nothing(vocab),), (FreeText(500, end=(2,)),)))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (Tokens.of([2, 10_000]), "id 10000 in streams\\[0\\]: must be 0 to"),
        (Tokens.of([2, -1]), "id -1 in"),
        (Tokens.of([2, 4], [0, 17]), "cell 17 in streams\\[0\\]: must be 0 to 16"),
    ],
)
def test_foreign_ids_are_refused(one_decoder: Decoder, vocab: Vocab, tokens: Tokens, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Engine(one_decoder, vocab).add(Request((tokens,), (Codes((1,)),)))


def test_a_request_that_is_refused_when_added_leaves_the_others_alone(one_decoder: Decoder, vocab: Vocab) -> None:
    requests = mixed(vocab)[:3]
    expected = Engine(one_decoder, vocab).run(requests)
    engine, plan = Engine(one_decoder, vocab, max_streams=5), (Codes.image(8),)
    two = (prompt(vocab, 5, 1), nothing(vocab))
    refused = [
        (two, Sampling(contrast="kmax", k=vocab.image + 1), "sampling.k=49: must be at most 48"),
        (two, Sampling(guidance=2.0, image_guidance=2.0), "sampling.image_guidance=2.0: needs three streams"),
        (two[:1], Sampling(guidance=2.0), "sampling.guidance=2.0: needs a second stream"),
        (two[:1], Sampling(contrast="max"), "sampling.contrast='max' needs a second stream"),
        ((prompt(vocab, 190, 0),), Sampling(), r"streams\[0\] needs \d+ tokens of context"),
        ((Tokens.of([2, 10_000]),), Sampling(), "id 10000 in streams"),
        (two * 2, Sampling(), "4 streams; must be 1, 2 or 3"),
    ]
    ids, done = [engine.add(requests[0])], {}
    for streams, sampling, message in refused:
        with pytest.raises(RequestError, match=message):
            engine.add(Request(streams, plan, sampling))
        done |= engine.step()
    ids += [engine.add(request) for request in requests[1:]]
    while engine.busy:
        done |= engine.step()
    assert sorted(done) == ids
    for id, result in zip(ids, expected, strict=True):
        same(done[id], result)


def test_an_engine_that_does_not_fit_its_model_is_refused(one_decoder: Decoder, vocab: Vocab) -> None:
    with pytest.raises(ConfigError, match="max_streams=0: must be an integer, at least 1"):
        Engine(one_decoder, vocab, max_streams=0)
    with pytest.raises(ConfigError, match="smaller than the vocabulary"):
        Engine(one_decoder, Vocab(text=512, image=48, masks=4, reserved=2))


def test_logits_that_are_not_finite_drop_their_request_only(one_decoder: Decoder, vocab: Vocab) -> None:
    decoder = copy.deepcopy(one_decoder)
    bad = vocab.text_start
    with torch.no_grad():
        decoder.embed.weight[bad] = float("nan")
    engine = Engine(decoder, vocab)
    good = Request((nothing(vocab),), (Codes.image(4),), Sampling(seed=1))
    long = Request((Tokens.of([vocab.eos] + [vocab.brk] * 30),), (Codes.image(2),), Sampling(seed=2))
    expected = Engine(decoder, vocab).run([good, long])
    spoiled = engine.add(Request((Tokens.of([vocab.eos] + [bad] * 20),), (Codes.image(4),)))
    engine.add(good)
    with pytest.raises(RequestError, match=f"request {spoiled}: the model gave logits that are not finite"):
        engine.step()
    # It left no trace in its row, which now holds `good`, and is read past the end of that beside a longer one.
    engine.add(long)
    done: dict[int, Result] = {}
    while engine.busy:
        done |= engine.step()
    assert sorted(done) == [spoiled + 1, spoiled + 2]
    same(done[spoiled + 1], expected[0])
    same(done[spoiled + 2], expected[1])


@pytest.mark.parametrize("ahead", [2, 5, 100])
def test_steps_that_are_issued_ahead_change_no_token(one_decoder: Decoder, vocab: Vocab, ahead: int) -> None:
    requests = mixed(vocab) * 2
    expected = Engine(one_decoder, vocab).run(requests)
    for max_streams in (3, 32):
        for a, b in zip(Engine(one_decoder, vocab, max_streams, ahead).run(requests), expected, strict=True):
            same(a, b)
    engine = Engine(one_decoder, vocab, ahead=ahead)
    engine.add(requests[0])
    steps = 0
    while engine.busy:
        engine.step()
        steps += 1
    assert steps == -(-16 // ahead), "sixteen codes are read back in so many pieces"


def test_events_of_a_stream_are_the_results_piece_by_piece(one_decoder: Decoder, vocab: Vocab) -> None:
    requests = mixed(vocab)
    requests.insert(3, Request((nothing(vocab),), (Force((2, 3)),)))
    expected = Engine(one_decoder, vocab).run(requests)
    for ahead in (1, 4):
        engine = Engine(one_decoder, vocab, max_streams=5, ahead=ahead)
        other = engine.add(requests[5])
        written: list[list[Tokens]] = [[] for _ in requests]
        results: dict[int, Result] = {}
        for event in engine.stream(requests):
            assert event.index not in results, "the result is in the last event"
            written[event.index].append(event.tokens)
            if event.result is not None:
                results[event.index] = event.result
        for i, (some, result) in enumerate(zip(written, expected, strict=True)):
            same(results[i], result)
            together = Tokens.concat(some)
            assert together.ids.tolist() == result.tokens.ids.tolist()
            assert together.cells.tolist() == result.tokens.cells.tolist()
            assert len(some) > 3 or result.tokens.length < 17
        assert [id for id, _ in engine.step()] == [other] and not engine.busy


def test_a_stream_can_lose_requests_and_be_left(one_decoder: Decoder, vocab: Vocab) -> None:
    requests = mixed(vocab)
    expected = Engine(one_decoder, vocab).run(requests)
    engine = Engine(one_decoder, vocab, max_streams=6)
    other = engine.add(requests[9])
    left = set(range(len(requests)))
    for event in engine.stream(requests):
        assert event.index in left, "a request that was cancelled says nothing more"
        if event.index % 2 and event.tokens.length and event.result is None:
            assert engine.cancel(event.id) and not engine.cancel(event.id)
            left.remove(event.index)
        elif event.result is not None:
            same(event.result, expected[event.index])
            left.remove(event.index)
    assert not left
    stream = engine.stream(requests)
    next(stream)
    assert engine._schedule.size == len(requests)
    stream.close()
    assert not engine._schedule.size and not engine._schedule.rows and not engine.reserved
    same(dict(engine.step())[other], expected[9])
    for later in engine.stream([]):
        pytest.fail(f"nothing was asked for: {later}")


def test_a_run_of_which_a_request_was_cancelled_says_so(one_decoder: Decoder, vocab: Vocab) -> None:
    engine = Engine(one_decoder, vocab)
    with pytest.raises(RequestError, match="was cancelled while it ran"):
        engine.run(mixed(vocab)[:2], lambda done, total: engine.cancel(0) and None)
    assert not engine.busy


def test_random_mixes_with_random_joins_and_cancellations_equal_the_naive_loop(decoder: Decoder, vocab: Vocab) -> None:
    rng = np.random.default_rng(11)
    eos, eoss = vocab.eos, vocab.eoss

    def request() -> Request:
        start = prompt(vocab, int(rng.integers(0, 90)), int(rng.integers(6)), int(rng.integers(0, 9)))
        streams = (start, nothing(vocab), prompt(vocab, 0, 2, 8))[: rng.integers(1, 4)]
        cells = tuple(rng.permutation(16)[: rng.integers(1, 17)] + 1)
        text = FreeText(int(rng.integers(2, 9)), (eoss, eos), int(rng.integers(0, 3)), bool(rng.integers(2)))
        plan = [(Codes(cells),), (text,), (Force((vocab.mask(0),)), text, Force((eoss, *range(6, 18))), Codes(cells))]
        contrast = [None, "max", "kmax"][rng.integers(3)]
        # One is the scale at which guidance is none; the contrastive score itself is None.
        scales: dict[str, float | None] = {
            "guidance": [1.0, 2.5, -0.5, None][rng.integers(4)] if len(streams) > 1 else 1.0
        }
        if len(streams) == 3 and scales["guidance"] is not None:
            scales["image_guidance"] = float(rng.choice([1.0, 1.7]))
        sampling = Sampling(
            temperature=float(rng.choice([0.0, 0.6, 1.0])), top_p=float(rng.choice([0.8, 1.0])), contrast=contrast,
            alpha=float(rng.choice([0.0, 0.2])), k=int(rng.integers(1, 9)), seed=int(rng.integers(2**62)), **scales,
        )  # fmt: skip
        return Request(streams, plan[rng.integers(3)], sampling)

    requests = [request() for _ in range(40)]
    engine = Engine(decoder, vocab, max_streams=7, ahead=3)
    ids: dict[int, int] = {}
    done: dict[int, Result] = {}
    cancelled: set[int] = set()
    while len(done) + len(cancelled) < len(requests):
        while len(ids) < len(requests) and rng.random() < 0.5:
            ids[engine.add(requests[len(ids)])] = len(ids)
        if ids and rng.random() < 0.3 and engine.cancel(gone := int(rng.choice(list(ids)))):
            cancelled.add(gone)
        done |= engine.step()
    assert not engine.busy and not engine._schedule.rows and not engine.reserved, "nothing is left allocated"
    assert len(cancelled) > 3 and len(done) > 20
    for id, result in done.items():
        tokens, cells, logprobs = naive(decoder, vocab, requests[ids[id]])
        assert (result.tokens.ids.tolist(), result.tokens.cells.tolist()) == (tokens, cells)
        np.testing.assert_allclose(result.logprobs, logprobs, atol=1e-4)


def test_a_scale_of_one_is_no_guidance_bit_for_bit_and_others_change_what_comes(
    one_decoder: Decoder, vocab: Vocab
) -> None:
    decoder = copy.deepcopy(one_decoder).float()
    pair = (prompt(vocab, 5, 1), nothing(vocab))

    def ask(scale: float | None, streams: tuple[Tokens, ...] = pair) -> Result:
        return Engine(decoder, vocab).run([Request(streams, (Codes.image(16),), Sampling(seed=4, guidance=scale))])[0]

    plain = ask(None, pair[:1])
    for other in (ask(1.0), ask(None), ask(1.0, pair[:1])):
        assert other.tokens.ids.tolist() == plain.tokens.ids.tolist() and other.logprobs == plain.logprobs
    told = {tuple(ask(scale).tokens.ids.tolist()) for scale in (1.0, 0.0, 2.0, 5.0, -1.0)}
    assert len(told) == 5


@pytest.mark.parametrize("ahead", [1, 4])
def test_a_step_that_is_interrupted_is_taken_again(one_decoder: Decoder, vocab: Vocab, ahead: int) -> None:
    requests = mixed(vocab)
    expected = Engine(one_decoder, vocab).run(requests)
    decoder = copy.deepcopy(one_decoder)
    calls, whole = 0, decoder.hidden

    def hidden(*given: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls % 5 == 0:
            raise KeyboardInterrupt
        return whole(*given)

    decoder.hidden = hidden  # type: ignore[method-assign, assignment]
    engine = Engine(decoder, vocab, max_streams=8, ahead=ahead)
    ids = [engine.add(request) for request in requests]
    done: dict[int, Result] = {}
    while engine.busy:
        with contextlib.suppress(KeyboardInterrupt):
            done |= engine.step()
    assert calls > 20
    for id, result in zip(ids, expected, strict=True):
        assert done[id].tokens.ids.tolist() == result.tokens.ids.tolist()


def _sharing(vocab: Vocab) -> list[Request]:
    """Guided requests whose prompts begin alike, in one block, in two, and wholly, and end apart by many tokens."""
    start, plan = prompt(vocab, 70, 5), (Codes.image(8),)
    ends = [prompt(vocab, length, seed).ids[1:] for length, seed in ((20, 1), (90, 2), (90, 2), (95, 3))]
    whole = [Tokens.of([*start.ids, *end], [*start.cells, *[0] * len(end)]) for end in ends]
    return [Request((one, nothing(vocab)), plan, Sampling(seed=i, guidance=2.0)) for i, one in enumerate(whole)]


def test_prompts_whose_reading_is_interrupted_are_read_again(one_decoder: Decoder, vocab: Vocab) -> None:
    requests = _sharing(vocab)
    expected = Engine(one_decoder, vocab).run(requests)
    assert expected[0].tokens.ids.tolist() == naive(one_decoder, vocab, requests[0])[0]
    decoder = copy.deepcopy(one_decoder)
    left = 0

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    decoder.blocks[1].register_forward_pre_hook(count)
    for left_at_first in range(1, 12):
        left, engine = left_at_first, Engine(decoder, vocab)
        ids = [engine.add(request) for request in requests]
        with pytest.raises(KeyboardInterrupt):
            for _ in range(9):
                engine.step()
        done: dict[int, Result] = {}
        while engine.busy:
            done |= engine.step()
        for id, result in zip(ids, expected, strict=True):
            assert done[id].tokens.ids.tolist() == result.tokens.ids.tolist(), left_at_first
        assert engine.reserved == 0


def test_an_engine_whose_own_notes_are_torn_serves_no_more(
    one_decoder: Decoder, vocab: Vocab, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, whole = Engine(one_decoder, vocab), Job.take

    def take(job: Job, *given: Any) -> tuple[int, bool]:
        if len(job.ids) == 3:
            raise KeyboardInterrupt
        return whole(job, *given)

    monkeypatch.setattr(Job, "take", take)
    with pytest.raises(KeyboardInterrupt):
        engine.run(mixed(vocab))
    monkeypatch.undo()
    for again in (lambda: engine.run(mixed(vocab)), engine.step):
        with pytest.raises(RequestError, match="engine: was interrupted while it wrote down .* make another"):
            again()
    assert not engine.cancel(0)


def test_polling_tells_each_step_what_every_request_wrote(one_decoder: Decoder, vocab: Vocab) -> None:
    """As a server does: requests join while others run, and all that is told of one, joined, is its result."""
    some = mixed(vocab)
    engine, left = Engine(one_decoder, vocab, ahead=1), list(some)
    told: dict[int, list[int]] = {}
    results, ids, polls = {}, [], 0
    while engine.busy or left:
        if left and polls % 2 == 0:
            ids.append(engine.add(left.pop(0)))
        for event in engine.poll():
            told.setdefault(event.id, []).extend(event.tokens.ids.tolist())
            if event.result is not None:
                results[event.id] = event.result
        polls += 1
    assert polls > len(some)
    for id, expected in zip(ids, Engine(one_decoder, vocab).run(some), strict=True):
        same(results[id], expected)
        assert told[id] == expected.tokens.ids.tolist()
    assert engine.load[:4] == (0, 0, 0, 0)


def test_polling_names_all_that_are_dropped_and_loses_nothing_of_others(one_decoder: Decoder, vocab: Vocab) -> None:
    decoder = copy.deepcopy(one_decoder)
    bad = vocab.text_start
    with torch.no_grad():
        decoder.embed.weight[bad] = float("nan")
    engine = Engine(decoder, vocab)
    good = Request((nothing(vocab),), (Codes.image(4),), Sampling(seed=1))
    expected = Engine(decoder, vocab).run([good])[0]
    spoiled = [engine.add(Request((Tokens.of([vocab.eos, bad]),), (Codes.image(4),), Sampling(seed=i))) for i in (0, 1)]
    id, told = engine.add(good), []
    with pytest.raises(Dropped) as dropped:
        engine.poll()
    assert sorted(dropped.value.ids) == spoiled
    while engine.busy:
        told += engine.poll()
    assert {event.id for event in told} == {id}
    same(told[-1].result, expected)
    assert [x for event in told for x in event.tokens.ids] == expected.tokens.ids.tolist()

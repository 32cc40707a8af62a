"""What requests leave behind spares others the reading, changes no token, and never takes room that one needs."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_reference import make_decoder, naive, nothing, prompt, same
from test_prefix import Counted, drain, family, gb

from cm3.engine import Codes, Engine, Force, FreeText, Interleaved, Request, Result, Sampling
from cm3.engine.cache import BLOCK
from cm3.errors import ConfigError, RequestError
from cm3.model.decoder import Decoder
from cm3.vocab import Tokens, Vocab

IMAGE = (Codes.image(9),)


@pytest.fixture(scope="module")
def long_decoder(vocab: Vocab) -> Decoder:
    return make_decoder(vocab, context=512)


def turn(before: Request, result: Result, more: Tokens) -> Request:
    """The next turn: what was read and written, and more words. Streams to lead away from stay."""
    first = Tokens.concat([before.streams[0], result.tokens, more])
    return replace(before, streams=(first, *before.streams[1:])).seeded(before.sampling.seed + 1)


def whole(engine: Engine) -> None:
    """All that is kept can be begun with, and none but its blocks count."""
    load, cache = engine.load, engine._cache
    assert load.kept == len(cache.kept) == len(cache.kept._blocks)
    assert engine.memory <= engine._bytes and engine.reserved + load.kept <= load.most_blocks


@pytest.mark.timeout(600)  # the naive loop, where two threads each share a busy core
@pytest.mark.parametrize(
    "settings",
    [{}, {"kv_heads": 2}, {"positions": "rope", "qk_norm": True}, {"positions": "rope", "near": 2.0}],
    ids=str,
)
@pytest.mark.parametrize("parallel", [0, 4])
def test_conversations_in_turns_give_the_tokens_of_the_naive_loop(
    vocab: Vocab, settings: dict[str, object], parallel: int
) -> None:
    decoder = make_decoder(vocab, context=512, **settings)
    rng = np.random.default_rng(1)
    docs, none = prompt(vocab, 90, 7), nothing(vocab)
    text = (FreeText(6, end=(vocab.eos,)),)
    starts = [
        Request((prompt(vocab, 61, 1),), text, Sampling(seed=10)),
        Request((prompt(vocab, 140, 1), none), IMAGE, Sampling(seed=20, guidance=2.0)),
        Request((Tokens.concat([docs, none]), docs), (*IMAGE, *text), Sampling(seed=30, guidance=1.5)),
        Request((Tokens.concat([docs, prompt(vocab, 9, 2)]), docs, none), IMAGE,
                Sampling(seed=40, guidance=2.0, image_guidance=1.5)),
    ]  # fmt: skip
    for blocks, streams in ((16, 5), (200, 12)):
        engine = Engine(decoder, vocab, streams, cache_gb=gb(decoder, blocks), parallel=parallel, keep_gb=1.0)
        left = [4] * len(starts)
        asked = {engine.add(request): (i, request) for i, request in enumerate(starts)}
        found = 0
        while engine.busy:
            for id, result in engine.step():
                i, request = asked.pop(id)
                assert result.tokens.ids.tolist() == naive(decoder, vocab, request)[0]
                found += result.cached
                left[i] -= 1
                if left[i]:
                    more = prompt(vocab, int(rng.integers(1, 60)), int(rng.integers(99)))
                    request = turn(request, result, more)
                    asked[engine.add(request)] = i, request
            if asked and rng.random() < 0.1:  # one leaves, and asks again
                id = int(rng.choice(list(asked)))
                assert engine.cancel(id)
                i, request = asked.pop(id)
                asked[engine.add(request)] = i, request
            whole(engine)
        assert not asked and engine.reserved == 0 and found > 4 * BLOCK
        assert not engine._cache.prefixes and (blocks == 16 or engine.load.kept)


def test_a_second_turn_reads_what_is_new_alone(long_decoder: Decoder, vocab: Vocab) -> None:
    counted = Counted(long_decoder)
    engine = Engine(counted, vocab, keep_gb=1.0)
    first = Request((prompt(vocab, 120, 1),), (Codes.image(10),), Sampling(seed=1))
    (one,) = engine.run([first])
    assert one.cached == 0 and engine.load.kept == 131 // BLOCK
    second = turn(first, one, prompt(vocab, 5, 2))
    counted.read = 0
    (two,) = engine.run([second])
    assert two.cached == 128, "of the answer too"
    assert counted.read == second.streams[0].length - 128 + 10 - 1
    counted.read = 0
    (again,) = engine.run([second])
    assert again.cached == 128 and counted.read == second.streams[0].length - 128 + 10 - 1
    same(again, two)
    assert engine.load.kept == 2, "nothing is held twice"
    plain = Engine(counted, vocab)
    counted.read = 0
    same(plain.run([second])[0], two)
    assert counted.read == second.streams[0].length + 10 - 1 and plain.load.kept == 0


def test_conversations_that_part_share_what_they_begin_with(long_decoder: Decoder, vocab: Vocab) -> None:
    counted = Counted(long_decoder)
    engine = Engine(counted, vocab, keep_gb=1.0)
    system = prompt(vocab, 126, 1)
    for i in range(4):  # one after another
        ask = Request((Tokens.concat([system, prompt(vocab, 70, i)]),), IMAGE, Sampling(seed=i))
        counted.read = 0
        assert engine.run([ask])[0].tokens.ids.tolist() == naive(long_decoder, vocab, ask)[0]
        assert counted.read == ask.streams[0].length + 9 - 1 - (128 if i else 0)
        assert engine.load.kept == 2 + (i + 1), "the two blocks in common once"
    many = [Request((Tokens.concat([system, prompt(vocab, 70, i)]),), IMAGE, Sampling(seed=9 + i)) for i in range(4)]
    counted.read = 0
    for ask, result in zip(many, engine.run(many), strict=True):  # together: a prefix of what is kept
        assert result.tokens.ids.tolist() == naive(long_decoder, vocab, ask)[0] and result.cached == 192
    assert counted.widest and counted.read <= 4 * (200 - 192 + 9) and engine.load.kept == 6


def test_the_streams_to_lead_away_from_keep_their_prompts_alone(long_decoder: Decoder, vocab: Vocab) -> None:
    engine = Engine(long_decoder, vocab, keep_gb=1.0)
    streams = (prompt(vocab, 100, 1), prompt(vocab, 60, 2))
    engine.run([Request(streams, (Codes.image(16), Force((vocab.brk,)), Codes.image(16)), Sampling(guidance=2.0))])
    assert engine.load.kept == 134 // BLOCK + 62 // BLOCK


def test_those_used_longest_ago_go_first_and_of_one_its_end(long_decoder: Decoder, vocab: Vocab) -> None:
    engine = Engine(long_decoder, vocab, cache_gb=gb(long_decoder, 7), keep_gb=1.0)
    asks = [Request((prompt(vocab, 120, i),), (Codes.image(7),)) for i in range(4)]  # two blocks each

    def cached(i: int) -> int:
        (result,) = engine.run([asks[i]])
        whole(engine)
        return result.cached

    assert [cached(i) for i in (0, 1)] == [0, 0] and engine.load.kept == 4
    assert cached(0) == 64, "the second block is half of what was written"
    assert cached(2) == 0 and engine.load.kept == 5, "two stay free for the row, so the end of the oldest went"
    assert cached(1) == 64, "its beginning is there"
    assert cached(3) == 0 and cached(0) == 0, "each of the others was used later"


def test_no_more_is_kept_than_asked_for(long_decoder: Decoder, vocab: Vocab) -> None:
    engine = Engine(long_decoder, vocab, keep_gb=gb(long_decoder, 3))
    for i in range(4):  # two blocks each
        engine.run([Request((prompt(vocab, 120, i),), (Codes.image(7),))])
        whole(engine)
        assert engine.load.kept == (2 if i == 0 else 3)
    (result,) = engine.run([Request((prompt(vocab, 120, 3),), (Codes.image(7),))])
    assert result.cached == BLOCK, "the last is there"
    with pytest.raises(ConfigError, match=r"^keep_gb=-1: must be 0 to 1e6 gigabytes$"):
        Engine(long_decoder, vocab, keep_gb=-1)


def test_nothing_kept_stops_a_request_or_lets_it_wait_longer(long_decoder: Decoder, vocab: Vocab) -> None:
    rng = np.random.default_rng(3)
    asks = [*family(vocab), *(Request((prompt(vocab, int(n), int(n) % 3),), IMAGE, Sampling(seed=int(n)))
                              for n in rng.integers(1, 300, 30))]  # fmt: skip
    order = rng.permutation(len(asks)).tolist()

    def ends(keep: bool) -> list[list[int]]:
        engine = Engine(long_decoder, vocab, 8, cache_gb=gb(long_decoder, 12), keep_gb=float(keep))
        made: list[list[int]] = []
        for round in (order, order[::-1]):
            for i in round:
                engine.add(asks[i])
            while engine.busy:
                made.append([id for id, _ in engine.step()])
                whole(engine)
        assert engine.reserved == 0 and (engine.load.kept > 0) == keep
        return made

    assert ends(True) == ends(False)
    engine = Engine(long_decoder, vocab, cache_gb=gb(long_decoder, 6), keep_gb=1.0)
    engine.run([Request((prompt(vocab, 300, 1),), IMAGE)])
    engine.add(Request((prompt(vocab, 370, 2),), (Codes((1,)),)))  # all blocks there are
    assert len(engine.step()) == 1


def test_forget_drops_all_and_keeps_nothing_of_what_runs(long_decoder: Decoder, vocab: Vocab) -> None:
    decoder = copy.deepcopy(long_decoder)
    engine = Engine(decoder, vocab, keep_gb=1.0)
    ask = Request((prompt(vocab, 120, 1),), IMAGE, Sampling(seed=1, temperature=0.0))
    engine.run([ask])
    assert engine.load.kept
    engine.add(ask.seeded(2))
    engine.step()
    engine.forget()
    assert engine.load.kept == 0
    drain(engine)
    assert engine.load.kept == 0
    engine.run([ask])
    with torch.no_grad():  # as training does
        decoder.blocks[0].wv.weight.mul_(-1)
    engine.forget()
    (result,) = engine.run([ask])
    assert result.cached == 0 and result.tokens.ids.tolist() == naive(decoder, vocab, ask)[0]


def test_a_decoder_of_another_type_finds_nothing(long_decoder: Decoder, vocab: Vocab) -> None:
    decoder = copy.deepcopy(long_decoder)
    engine = Engine(decoder, vocab, cache_gb=1.0, keep_gb=1.0)
    ask = Request((prompt(vocab, 120, 1),), IMAGE, Sampling(seed=1))
    engine.run([ask])
    decoder.float()
    (result,) = engine.run([ask])
    assert result.cached == 0 and engine.load.kept == 2
    decoder.double()
    (result,) = engine.run([ask])
    assert result.cached == 0 and result.tokens.ids.tolist() == naive(decoder, vocab, ask)[0]


def test_nothing_stays_of_what_is_not_finite(long_decoder: Decoder, vocab: Vocab) -> None:
    decoder, bad = copy.deepcopy(long_decoder), vocab.image_start - 1
    with torch.no_grad():
        decoder.embed.weight[bad] = float("nan")
    engine = Engine(decoder, vocab, keep_gb=1.0)
    good = Request((prompt(vocab, 63, 1),), IMAGE)
    engine.run([good])
    engine.add(Request((Tokens.concat([good.streams[0], Tokens.of([bad] * 70)]),), IMAGE))
    with pytest.raises(RequestError, match="not finite"):
        engine.step()
    assert engine.load.kept == 0 and engine.reserved == 0
    assert engine.run([good])[0].tokens.ids.tolist() == naive(decoder, vocab, good)[0]


def test_an_interrupted_step_leaves_nothing_wrong(long_decoder: Decoder, vocab: Vocab) -> None:
    class Interrupted(Counted):
        left = 0

        def hidden(self, *args: object) -> torch.Tensor:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return super().hidden(*args)

    asks = family(vocab)[:5]
    first, second = (Engine(long_decoder, vocab) for _ in range(2))
    for left in range(1, 9):
        decoder = Interrupted(long_decoder)
        engine = Engine(decoder, vocab, keep_gb=1.0)
        decoder.left = left
        ids = [engine.add(request) for request in asks]
        with pytest.raises(KeyboardInterrupt):
            while True:
                engine.step()
        for id in ids[::2]:  # perhaps before its prompt was read
            engine.cancel(id)
        drain(engine)
        results = engine.run(asks)
        decoder.left = 2  # in what is read behind kept blocks
        turns = [turn(a, r, prompt(vocab, 3, 4)) for a, r in zip(asks, results, strict=True)]
        ids = [engine.add(request) for request in turns]
        with pytest.raises(KeyboardInterrupt):
            while True:
                engine.step()
        done = drain(engine)
        for result, wanted in zip(results, first.run(asks), strict=True):
            same(result, wanted)
        for id, wanted in zip(ids, second.run(turns), strict=True):
            same(done[id], wanted)
        assert engine.reserved == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_smaller_types_are_kept_as_they_are(long_decoder: Decoder, vocab: Vocab, dtype: str) -> None:
    decoder = copy.deepcopy(long_decoder).float()
    engine = Engine(decoder, vocab, cache_gb=gb(decoder, 20), cache_dtype=dtype, keep_gb=1.0)
    ask = Request((prompt(vocab, 200, 1),), (Codes.image(16),), Sampling(temperature=0.0))
    held: list[torch.Tensor] = []
    for _ in range(2):
        engine.add(ask)
        engine.step()
        held.append(engine._cache._layers[1][0][0, :, :192].clone())
        (result,) = drain(engine).values()
        whole(engine)
    assert result.cached == 192 and torch.equal(*held), "bit for bit"
    assert held[0].dtype == getattr(torch, dtype)


def test_an_interleaved_answer_is_a_beginning_too(long_decoder: Decoder, vocab: Vocab) -> None:
    plan = (Interleaved(40, (vocab.eos,), (1, 2, 3, 4), 2),)
    streams = (prompt(vocab, 70, 1), nothing(vocab), prompt(vocab, 70, 2))
    ask = Request(streams, plan, Sampling(seed=3, guidance=2.0, image_guidance=1.5))
    kept, plain = Engine(long_decoder, vocab, keep_gb=1.0), Engine(long_decoder, vocab)
    for _ in range(3):
        (a,), (b,) = kept.run([ask]), plain.run([ask])
        same(a, b)
        ask = turn(ask, a, prompt(vocab, 20, 5))
    assert a.cached >= 64 and kept.reserved == 0

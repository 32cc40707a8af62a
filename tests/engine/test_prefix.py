"""What prompts have in common is held and read once, and changes no token; blocks come back; memory stays in bounds."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_reference import make_decoder, naive, nothing, prompt, same

from cm3.engine import Codes, Engine, Force, FreeText, Request, Result, Sampling
from cm3.engine.budget import block_bytes
from cm3.engine.cache import BLOCK
from cm3.errors import ConfigError, RequestError
from cm3.model.decoder import Decoder
from cm3.vocab import Tokens, Vocab


class Counted(torch.nn.Module):
    """A decoder that counts the tokens that it reads, padding too."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder, self.config, self.read, self.widest = decoder, decoder.config, 0, 0
        self.head, self.device, self.embed = decoder.head, decoder.device, decoder.embed

    def hidden(self, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        self.read += ids.numel()
        self.widest = max(self.widest, ids.shape[1])
        return self.decoder.hidden(ids, *rest)


def gb(decoder: Decoder, blocks: int) -> float:
    return blocks * block_bytes(decoder, None) / 1e9


def drain(engine: Engine) -> dict[int, Result]:
    done: dict[int, Result] = {}
    while engine.busy:
        done |= engine.step()
    return done


def behind(vocab: Vocab, length: int, seed: int, last: int) -> Tokens:
    """A prompt of `length` tokens of one seed, and a few of its own."""
    return Tokens.concat([prompt(vocab, length - 2, seed), prompt(vocab, last % 5, 100 + last)])


def family(vocab: Vocab) -> list[Request]:
    """Samples of one prompt, guided ones behind the same documents, prompts alike in some blocks, and others."""
    image = (Codes.image(5), Force((vocab.eos,)))
    docs = prompt(vocab, 100, 1)
    guided = (Tokens.concat([docs, prompt(vocab, 8, 2)]), Tokens.concat([docs, nothing(vocab)]))
    three = (*guided, behind(vocab, 64, 3, 1))
    text = (FreeText(4, end=(vocab.eos,)),)
    return [
        *(Request(guided, image, Sampling(seed=i, guidance=3.0)) for i in range(3)),
        Request((behind(vocab, 64, 3, 0),), image, Sampling(seed=4)),
        Request((behind(vocab, 128, 3, 2),), text, Sampling(seed=5)),
        Request((prompt(vocab, 63, 1),), image, Sampling(seed=6)),  # the block, and the token to continue from
        Request((prompt(vocab, 62, 1),), image, Sampling(seed=7)),  # a block, but its last token is to continue from
        Request((prompt(vocab, 5, 1), nothing(vocab)), image, Sampling(seed=8, guidance=2.0)),
        Request(three, image, Sampling(seed=9, guidance=2.0, image_guidance=1.5, contrast="max")),
        Request((nothing(vocab),), text, Sampling(seed=10)),
    ]


@pytest.mark.parametrize("heads", [{}, {"kv_heads": 2}, {"positions": "rope", "qk_norm": True}, {"near": 3.0}], ids=str)
def test_shared_gives_the_tokens_of_unshared_and_of_the_naive_loop(vocab: Vocab, heads: dict[str, object]) -> None:
    decoder = make_decoder(vocab, **heads)
    requests = family(vocab)
    rng = np.random.default_rng(0)
    for max_streams in (3, 7, 32):
        engine = Engine(decoder, vocab, max_streams=max_streams)
        ids, prefixes = {}, 0
        for i in rng.permutation(len(requests)).tolist():
            ids[engine.add(requests[i])] = i
            for id, result in engine.step():  # they come while others run
                same(result, Engine(decoder, vocab).run([requests[ids[id]]])[0])
            prefixes = max(prefixes, len(engine._cache.shared))
        for id, result in drain(engine).items():
            request = requests[ids[id]]
            assert result.tokens.ids.tolist() == naive(decoder, vocab, request)[0]
        assert prefixes >= 2 and engine.reserved == 0 and not engine._cache.prefixes


def test_a_prefix_is_read_once_and_held_once(one_decoder: Decoder, vocab: Vocab) -> None:
    counted = Counted(one_decoder)
    long = prompt(vocab, 126, 1)  # two blocks
    plan = (Codes((1,)),)
    requests = [Request((Tokens.concat([long, prompt(vocab, 3, i)]),), plan, Sampling(seed=i)) for i in range(8)]
    engine = Engine(counted, vocab)
    for request in requests:
        engine.add(request)
    engine.step()
    assert counted.read <= 128 + 8 * (5 + 1)
    engine = Engine(counted, vocab)
    engine.add(Request(requests[0].streams, (Codes.image(14),)))
    engine.step()
    counted.read, counted.widest = 0, 0
    for request in requests:  # the first runs already
        engine.add(Request(request.streams, (Codes.image(14),)))
        engine.step()
    assert counted.widest < BLOCK, "what a running row has read is copied"
    cache = engine._cache
    assert [p.readers for p in cache.prefixes.values()] == [8]
    assert engine.reserved == 2 + 9 * 3, "the first row is as long as it began"
    prefix = next(iter(cache.prefixes.values()))
    assert {tensor.shape[1] for kept in prefix.layers.values() for tensor in kept} == {128}
    drain(engine)
    assert engine.reserved == 0


def test_prefixes_that_begin_alike_are_read_from_one_another(one_decoder: Decoder, vocab: Vocab) -> None:
    counted = Counted(one_decoder)
    first, second = behind(vocab, 64, 1, 0), behind(vocab, 128, 1, 0)
    assert (first.ids[:63] == second.ids[:63]).all()
    docs = prompt(vocab, 62, 9)
    other = [Tokens.concat([docs, prompt(vocab, 70, i)]) for i in (1, 2)]
    requests = [Request((p,), (Codes((1,)),), Sampling(seed=s)) for p in other for s in (1, 2)]
    engine = Engine(counted, vocab)
    results = engine.run(requests)
    assert counted.read < 64 + 2 * 64 + 4 * 12, "the block that both prefixes begin with was read once"
    for request, result in zip(requests, results, strict=True):
        assert result.tokens.ids.tolist() == naive(one_decoder, vocab, request)[0]


@pytest.mark.slow
def test_ten_thousand_requests_with_cancellations_leave_no_block(vocab: Vocab) -> None:
    decoder = make_decoder(vocab, d_model=8, heads=2, layers=1).float()
    rng = np.random.default_rng(5)
    image, text = (Codes((1, 2)),), (FreeText(3, end=(vocab.eos,)),)
    prompts = [prompt(vocab, n, seed) for seed in range(2) for n in (3, 61, 63, 90, 127)]
    engine = Engine(decoder, vocab, max_streams=48, cache_gb=gb(decoder, 140))
    alive: set[int] = set()
    added = finished = cancelled = 0
    while added < 10_000 or alive:
        for _ in range(int(rng.integers(0, 60)) if added < 10_000 and len(alive) < 100 else 0):
            streams = tuple(prompts[i] for i in rng.integers(0, len(prompts), rng.integers(1, 3)))
            guided = Sampling(seed=added, guidance=2.0 if len(streams) > 1 else None)
            alive.add(engine.add(Request(streams, image if rng.random() < 0.8 else text, guided)))
            added += 1
        for id in rng.choice(sorted(alive), min(len(alive), int(rng.integers(0, 20))), replace=False).tolist():
            assert engine.cancel(id)
            alive.remove(id)
            cancelled += 1
        for id, _ in engine.step():
            alive.remove(id)
            finished += 1
        assert engine.memory <= engine._bytes and engine.reserved <= engine._cache.blocks
    assert (
        not engine.busy and engine.reserved == 0 and finished + cancelled == added and min(finished, cancelled) > 1000
    )
    cache, queue = engine._cache, engine._schedule
    assert not (cache.prefixes or cache.shared or queue._wanted or queue.rows)


def test_memory_stays_in_its_bounds_and_changes_no_token(one_decoder: Decoder, vocab: Vocab) -> None:
    requests = [
        *family(vocab),
        *(replace(r, sampling=replace(r.sampling, seed=50 + i)) for i, r in enumerate(family(vocab))),
    ]
    expected = Engine(one_decoder, vocab).run(requests)
    for blocks in (9, 12, 20):
        engine = Engine(one_decoder, vocab, cache_gb=gb(one_decoder, blocks))
        ids = [engine.add(request) for request in requests]
        done: dict[int, Result] = {}
        while engine.busy:
            done |= engine.step()
            assert engine.memory <= engine._bytes and engine.reserved <= blocks
        for id, result in zip(ids, expected, strict=True):
            same(done[id], result)


def test_a_request_over_the_memory_is_refused_when_added_and_the_others_go_on(
    one_decoder: Decoder, vocab: Vocab
) -> None:
    engine = Engine(one_decoder, vocab, cache_gb=gb(one_decoder, 4))
    small = Request((prompt(vocab, 5, 1), nothing(vocab)), (Codes.image(8),), Sampling(seed=1, guidance=2.0))
    ids = [engine.add(small), engine.add(small)]
    large = Request((prompt(vocab, 140, 2), nothing(vocab)), (Codes.image(8),), Sampling(guidance=2.0))
    with pytest.raises(
        RequestError, match=r"request: 2 x 149 tokens of keys and values take 0.000\d+ GB, the engine"
    ) as e:
        engine.add(large)
    assert re.search(r"cache_gb=0.000\d+; raise cache_gb, shorten the prompt, or ask without guidance", str(e.value))
    engine.step()
    with pytest.raises(RequestError, match="cache_gb"):
        engine.add(large)
    done = drain(engine)
    assert sorted(done) == ids
    for id in ids:
        same(done[id], Engine(one_decoder, vocab).run([small])[0])
    assert engine.run([Request(large.streams[:1], large.plan)])[0].tokens.length == 8, "a stream less, and it fits"


def test_one_that_needs_all_blocks_waits_for_them(one_decoder: Decoder, vocab: Vocab) -> None:
    engine = Engine(one_decoder, vocab, cache_gb=gb(one_decoder, 3))
    short = Request((prompt(vocab, 5, 1),), (Codes.image(3),))
    all_of_it = Request((prompt(vocab, 140, 2),), (Codes.image(2),))
    for request in (short, all_of_it, short):
        engine.add(request)
    assert [[id for id, _ in engine.step()] for _ in range(8)] == [[], [], [0], [], [1], [], [], [2]]


@pytest.mark.parametrize("cancel", [False, True])
def test_what_is_not_finite_reaches_no_other_stream(one_decoder: Decoder, vocab: Vocab, cancel: bool) -> None:
    decoder, bad = copy.deepcopy(one_decoder), vocab.image_start - 1
    with torch.no_grad():
        decoder.embed.weight[bad] = float("nan")
    clean = [
        r for r in family(vocab) if isinstance(r.plan[0], Codes) and not any((s.ids == bad).any() for s in r.streams)
    ]
    assert len(clean) >= 6, "pictures alone, as a text might write that id"
    expected = Engine(decoder, vocab).run(clean)
    good = prompt(vocab, 63, 1)
    assert not (good.ids == bad).any()
    engine = Engine(decoder, vocab, max_streams=9)
    if cancel:  # what is read a few tokens at a time is not drawn from yet
        written = Force((bad,) * 20)
        spoiled = [Request((good,), (Codes((1,)), written, Codes((2,))), Sampling(seed=i)) for i in range(3)]
    else:  # in the prefix itself, and behind it
        begins = [Tokens.of([bad] * 80), Tokens.of([bad] * 90), Tokens.concat([good, Tokens.of([bad] * 40)])]
        spoiled = [Request((begin,), (Codes.image(2),), Sampling(seed=1)) for begin in begins]
    dropped = [engine.add(request) for request in spoiled]
    if cancel:
        engine.step()
        engine.step()
        assert not engine._cache._layers[1][0].isfinite().all() and all(map(engine.cancel, dropped))
    ids = [engine.add(request) for request in clean]
    done, refused = {}, 0
    while engine.busy:
        try:
            done |= engine.step()
        except RequestError as error:
            refused += 1
            assert f"request {dropped[0]}: the model gave logits that are not finite" in str(error)
    assert refused == (0 if cancel else 1) and sorted(done) == ids
    for id, result in zip(ids, expected, strict=True):
        same(done[id], result)


def test_an_interrupted_prefill_leaves_no_half_a_prefix(one_decoder: Decoder, vocab: Vocab) -> None:
    class Interrupted(Counted):
        left = 2

        def hidden(self, *args: object) -> torch.Tensor:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return super().hidden(*args)

    requests = family(vocab)[:5]
    expected = Engine(one_decoder, vocab).run(requests)
    for left in range(1, 6):
        decoder = Interrupted(one_decoder)
        decoder.left = left
        engine = Engine(decoder, vocab)
        ids = [engine.add(request) for request in requests]
        with pytest.raises(KeyboardInterrupt):
            engine.step()
        done = drain(engine)  # others than the one who interrupted still wait
        for id, result in zip(ids, expected, strict=True):
            same(done[id], result)
        assert engine.reserved == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_smaller_keys_and_values_take_less_memory_and_say_nearly_the_same(
    one_decoder: Decoder, vocab: Vocab, dtype: str
) -> None:
    decoder = copy.deepcopy(one_decoder).float()
    requests = [replace(r, sampling=Sampling(seed=i, temperature=0.0, guidance=2.0 if len(r.streams) > 1 else None))
                for i, r in enumerate(family(vocab)[:8])]  # fmt: skip
    plain, small = Engine(decoder, vocab), Engine(decoder, vocab, cache_dtype=dtype)
    exact, near = plain.run(requests), small.run(requests)
    assert small.memory < plain.memory * {"bfloat16": 0.51, "int8": 0.4}[dtype]
    assert block_bytes(decoder, getattr(torch, dtype)) < block_bytes(decoder, None)
    alike = [a == b for x, y in zip(exact, near, strict=True) for a, b in zip(x.tokens.ids, y.tokens.ids, strict=True)]
    assert np.mean(alike) > 0.7, "chance is 1 of 48"
    assert small.reserved == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cache_gb": 0}, "cache_gb=0: must be above 0 and at most 1e6 gigabytes"),
        ({"cache_gb": float("nan")}, "cache_gb=nan: must be above 0"),
        ({"cache_gb": "8"}, "cache_gb='8': must be above 0"),
        ({"cache_dtype": "int4"}, "cache_dtype='int4': must be one of auto, float32, .*int8"),
    ],
)
def test_settings_of_the_cache_are_checked(
    one_decoder: Decoder, vocab: Vocab, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine(one_decoder, vocab, **settings)

"""Recorded steps draw what steps draw one kernel at a time, are made once, bounded, and never lose a request."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils._pytree as tree
from engine_reference import make_decoder, mixed, naive, nothing, prompt, same

from cm3.engine import Codes, Engine, FreeText, Request, Result, Sampling, graphs
from cm3.engine.graphs import bucket
from cm3.errors import ConfigError
from cm3.model.decoder import Decoder
from cm3.vocab import Tokens, Vocab


class Counted:
    """Counts what is recorded and what is replayed, and keeps the programs."""

    def __init__(self, patch: pytest.MonkeyPatch, after: int = 1) -> None:
        self.programs: list[Any] = []
        self.replays = 0
        self.plain = taped = graphs._taped

        def record(step: Callable[[], None], reset: Callable[[], None]) -> Callable[[], None]:
            made: Any = taped(step, reset)
            self.programs.append(made.__self__)

            def replay() -> None:
                self.replays += 1
                made()

            return replay

        patch.setattr(graphs, "_taped", record)
        patch.setattr(graphs, "AFTER", after)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.fixture(autouse=True)
def no_warning() -> Any:
    """A recording that fails warns, and would leave nothing to test."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "engine: a step could not be recorded")
        yield


def pictures(vocab: Vocab, count: int, first: int = 0, length: int = 5) -> list[Request]:
    """Guided pictures, each with settings of its own."""
    settings = [Sampling(seed=first + i, guidance=1.5 + first + i, temperature=1 + i / 10) for i in range(count)]
    return [
        Request((prompt(vocab, length, first + i), nothing(vocab)), (Codes.image(16),), s)
        for i, s in enumerate(settings)
    ]


def check(decoder: Decoder, vocab: Vocab, requests: list[Request], results: list[Result]) -> None:
    for request, result in zip(requests, results, strict=True):
        ids, cells, logprobs = naive(decoder, vocab, request)
        assert (result.tokens.ids.tolist(), result.tokens.cells.tolist()) == (ids, cells)
        np.testing.assert_allclose(result.logprobs, logprobs, atol=1e-4)


@pytest.mark.parametrize("ahead", [1, 4])
def test_recorded_steps_give_the_tokens_of_the_naive_loop(
    decoder: Decoder, vocab: Vocab, ahead: int, counted: Counted
) -> None:
    requests = mixed(vocab)
    engine = Engine(decoder, vocab, graphs=True, ahead=ahead)
    check(decoder, vocab, requests, engine.run(requests))
    assert counted.replays > len(counted.programs) > 3


@pytest.mark.parametrize("settings", [{"kv_heads": 1}, {"kv_heads": 2, "positions": "rope", "qk_norm": True}])
def test_recorded_steps_of_grouped_heads(vocab: Vocab, settings: dict[str, Any], counted: Counted) -> None:
    decoder = make_decoder(vocab, **settings)
    requests = pictures(vocab, 3) + mixed(vocab)[3:6]
    check(decoder, vocab, requests, Engine(decoder, vocab, graphs=True).run(requests))
    assert counted.replays


@pytest.mark.parametrize("settings", [{"kv_heads": 4}, {"kv_heads": 2}])
def test_recorded_steps_read_prefixes_and_grow_over_buckets(
    vocab: Vocab, settings: dict[str, Any], counted: Counted
) -> None:
    decoder = make_decoder(vocab, context=320, **settings)
    long, other = prompt(vocab, 150, 1), prompt(vocab, 58, 2)
    alike = [Tokens.concat([long, prompt(vocab, 3 + 5 * i, i)]) for i in range(3)]
    streams = [(alike[0], nothing(vocab)), (alike[1],), (alike[2], other), (other,)]
    text = FreeText(70, end=(vocab.eos,), min_tokens=60)
    requests = [
        Request(some, (Codes.image(16),) if i % 2 else (text,), Sampling(seed=i, guidance=len(some), top_p=0.9))
        for i, some in enumerate(streams)
    ]
    engine = Engine(decoder, vocab, graphs=True)
    found = engine.run(requests)
    assert counted.replays > 40
    check(decoder, vocab, requests, found)
    assert {length for _, length in engine._graphs.recordings}  # type: ignore[union-attr] >= {64, 128}


@pytest.mark.parametrize("seed", range(3))
def test_recorded_steps_of_requests_that_join_and_leave(
    one_decoder: Decoder, vocab: Vocab, seed: int, counted: Counted
) -> None:
    """At random, with cancellations: what is left gives what each gives alone."""
    rng = np.random.default_rng(seed)
    requests = [*mixed(vocab), *pictures(vocab, 4, 20)]
    expected = Engine(one_decoder, vocab).run(requests)
    engine = Engine(
        one_decoder, vocab, max_streams=int(rng.integers(5, 12)), graphs=True, ahead=int(rng.integers(1, 5))
    )
    order = rng.permutation(len(requests)).tolist()
    ids: dict[int, int] = {}
    done: dict[int, Result] = {}
    gone: set[int] = set()
    while order or engine.busy:
        for _ in range(int(rng.integers(0, 3))):
            if order:
                i = order.pop()
                ids[engine.add(requests[i])] = i
        if rng.random() < 0.05 and engine.running:
            gone.add(engine.running[0])
            engine.cancel(engine.running[0])
        done |= engine.step()
    assert len(done) + len(gone) == len(requests) and counted.replays
    for id, result in done.items():
        same(result, expected[ids[id]])


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_recorded_steps_read_a_cache_of_another_type(
    one_decoder: Decoder, vocab: Vocab, kind: str, counted: Counted
) -> None:
    requests = pictures(vocab, 2)
    expected = Engine(one_decoder, vocab, cache_dtype=kind).run(requests)
    for a, b in zip(Engine(one_decoder, vocab, cache_dtype=kind, graphs=True).run(requests), expected, strict=True):
        same(a, b)
    assert counted.replays


def test_other_requests_of_a_signature_are_replayed_and_not_recorded(
    one_decoder: Decoder, vocab: Vocab, counted: Counted
) -> None:
    engine = Engine(one_decoder, vocab, graphs=True)
    engine.run(pictures(vocab, 3))
    assert len(counted.programs) == 1, "of 16 steps, all in one bucket"
    replays = counted.replays
    for first in (10, 20):
        requests = pictures(vocab, 3, first, length=first)
        check(one_decoder, vocab, requests, engine.run(requests))
    assert len(counted.programs) == 1 and counted.replays == replays + 32
    engine.run([Request(r.streams, r.plan, Sampling(seed=1, guidance=2.0, top_p=0.5)) for r in pictures(vocab, 3)])
    assert len(counted.programs) == 2, "top-p is another program"


def test_a_step_is_recorded_once_it_came_often_enough(
    one_decoder: Decoder, vocab: Vocab, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch, after=graphs.AFTER)
    engine = Engine(one_decoder, vocab, graphs=True)
    engine.run(pictures(vocab, 1))
    assert counted.replays == 16 - graphs.AFTER and len(counted.programs) == 1


def test_recordings_are_bounded_and_the_one_not_used_for_longest_goes(
    one_decoder: Decoder, vocab: Vocab, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "MOST", 2)
    engine = Engine(one_decoder, vocab, graphs=True)
    assert engine._graphs is not None
    engine.run(pictures(vocab, 4))  # rows are made once
    for count, made in ((1, 2), (2, 3), (1, 3), (3, 4), (1, 4), (2, 5)):
        requests = pictures(vocab, count)
        check(one_decoder, vocab, requests, engine.run(requests))
        assert len(engine._graphs.recordings) == 2 and len(counted.programs) == made


def test_recordings_go_where_weights_or_the_cache_lie_elsewhere(
    one_decoder: Decoder, vocab: Vocab, counted: Counted
) -> None:
    decoder = copy.deepcopy(one_decoder)
    engine = Engine(decoder, vocab, graphs=True)

    def run(requests: list[Request]) -> int:
        before = len(counted.programs)
        check(decoder, vocab, requests, engine.run(requests))
        return len(counted.programs) - before

    assert [run(pictures(vocab, 2)) for _ in range(2)] == [1, 0]
    with torch.no_grad():
        decoder.blocks[0].wq.weight *= 1.5  # type: ignore[union-attr]
    assert run(pictures(vocab, 2)) == 0, "other values at the same place"
    decoder.blocks[1].wq.weight = torch.nn.Parameter(decoder.blocks[1].wq.weight * 0.5)  # type: ignore[union-attr]
    assert run(pictures(vocab, 2)) == 1
    decoder.lay_out()
    assert run(pictures(vocab, 2)) == 1
    assert run(pictures(vocab, 2, length=100)) == 1 and run(pictures(vocab, 2)) == 1, "the rows grew"
    assert run(pictures(vocab, 2)) == 0


def test_a_decoder_with_hooks_is_not_recorded(one_decoder: Decoder, vocab: Vocab, counted: Counted) -> None:
    decoder, calls = copy.deepcopy(one_decoder), []
    engine = Engine(decoder, vocab, graphs=True)
    engine.run(pictures(vocab, 1))
    replays = counted.replays
    decoder.blocks[1].register_forward_hook(lambda *given: calls.append(1))
    check(one_decoder, vocab, pictures(vocab, 1), engine.run(pictures(vocab, 1)))
    assert counted.replays == replays and len(calls) >= 16


@pytest.mark.parametrize("at", [0, 1])
def test_a_recorder_that_fails_warns_once_and_loses_nothing(
    one_decoder: Decoder, vocab: Vocab, at: int, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    works, tries = graphs._taped, []

    def record(step: Callable[[], None], reset: Callable[[], None]) -> Any:
        tries.append(1)
        if len(tries) > at:
            step()
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return works(step, reset)

    monkeypatch.setattr(graphs, "_taped", record)
    requests = [*mixed(vocab), *pictures(vocab, 2, length=60)]
    engine = Engine(one_decoder, vocab, graphs=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check(one_decoder, vocab, requests, engine.run(requests))
        check(one_decoder, vocab, requests, engine.run(requests))
    assert len(tries) == at + 1
    told = [str(w.message) for w in said if "recorded" in str(w.message)]
    assert len(told) == 1 and "RuntimeError: CUDA error: operation not permitted" in told[0]
    assert "issues its steps kernel by kernel" in told[0]


def test_a_step_that_reads_its_device_cannot_be_recorded(one_decoder: Decoder, vocab: Vocab, counted: Counted) -> None:
    decoder = copy.deepcopy(one_decoder)
    norm = decoder.norm.forward
    decoder.norm.forward = lambda x: norm(x) * (1 if x.sum().item() < 1e9 else 2)  # type: ignore[method-assign]
    with pytest.warns(
        RuntimeWarning, match="a step could not be recorded .*(item|_local_scalar_dense).default waits for"
    ):
        found = Engine(decoder, vocab, graphs=True).run(pictures(vocab, 2))
    check(one_decoder, vocab, pictures(vocab, 2), found)


def test_a_recording_copies_nothing_from_the_host_and_waits_for_nothing(
    one_decoder: Decoder, vocab: Vocab, counted: Counted
) -> None:
    Engine(one_decoder, vocab, graphs=True).run([*mixed(vocab), *pictures(vocab, 2)])
    calls = [call for program in counted.programs for call in program.calls]
    kept = {id(x) for call in calls for x in tree.tree_leaves(call[-1])}
    copies = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
    assert not {str(func) for func, _, kwargs, _ in calls if func in copies and kwargs.get("device")}
    assert kept and len(calls) > 100


def test_the_tape_refuses_what_a_gpu_cannot_record(counted: Counted) -> None:
    x = torch.arange(4.0)
    steps = (
        lambda: x.add_(x.sum().item()),
        lambda: x.add_(x[x > 1].sum()),
        lambda: x.add_(torch.tensor([1.0, 2.0, 3.0, 4.0])),
        lambda: x.add_(len(x.nonzero())),
        lambda: x.add_(float(torch.equal(x, x))),
    )
    for step in steps:
        with pytest.raises(RuntimeError, match="waits for the device, or copies to it"):
            counted.plain(step, lambda: None)
    replay = counted.plain(lambda: x.mul_(2), lambda: x.div_(2))
    assert x.tolist() == [0, 1, 2, 3] and replay() is None and x.tolist() == [0, 2, 4, 6]


def test_an_interrupted_recording_is_a_step_that_is_taken_again(
    one_decoder: Decoder, vocab: Vocab, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    works, tries = graphs._taped, []

    def record(step: Callable[[], None], reset: Callable[[], None]) -> Any:
        tries.append(1)
        made = works(step, reset)
        if len(tries) == 1:
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(graphs, "_taped", record)
    engine, requests = Engine(one_decoder, vocab, graphs=True), pictures(vocab, 3)
    ids = [engine.add(request) for request in requests]
    done: dict[int, Result] = {}
    with pytest.raises(KeyboardInterrupt):
        while engine.busy:
            done |= engine.step()
    while engine.busy:
        done |= engine.step()
    check(one_decoder, vocab, requests, [done[id] for id in ids])
    assert len(tries) == 2 and counted.replays


def test_steps_are_recorded_on_cuda_alone_unless_it_is_asked_for(
    one_decoder: Decoder, vocab: Vocab, counted: Counted
) -> None:
    for setting in ("auto", False):
        Engine(one_decoder, vocab, graphs=setting).run(pictures(vocab, 1))
    assert not counted.programs
    assert graphs.recorder("auto", torch.device("cuda")) is not None
    assert graphs.recorder(False, torch.device("cuda")) is None
    for setting in ("on", 1, None, 0.0):
        with pytest.raises(ConfigError, match="engine.graphs=.*: must be 'auto', True or False"):
            graphs.recorder(setting, torch.device("cuda"))
    with pytest.raises(ConfigError, match="engine.graphs=True: steps can be recorded on cuda, .* not on mps; give"):
        graphs.recorder(True, torch.device("mps"))


def test_buckets_waste_at_most_a_half_and_grow() -> None:
    found = [bucket(n) for n in range(1, 65)]
    assert sorted(set(found)) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64] and found == sorted(found)
    assert all(n <= found[n - 1] < 1.5 * n + 1 for n in range(1, 65))

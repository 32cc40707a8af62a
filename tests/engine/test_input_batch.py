"""A step waits for its device only where ids are read back, and how a request draws is no part of its program."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from engine_reference import mixed, nothing, prompt, same
from second_device import DEVICE, Held, SecondDevice

from cm3.engine import Codes, Engine, Request, Sampling
from cm3.engine.input_batch import InputBatch
from cm3.model.decoder import Decoder
from cm3.vocab import Vocab

WAITS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default}


class Watched(SecondDevice):
    """Writes down the operations for which a host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        back = (
            func is torch.ops.aten._to_copy.default and torch.device((kwargs or {}).get("device") or DEVICE) != DEVICE
        )
        if isinstance(args[0] if args else None, Held) and (func in WAITS or back):
            self.waits.append(str(func))
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.parametrize("ahead", [1, 4])
def test_a_device_is_waited_for_once_in_so_many_steps(
    one_decoder: Decoder, vocab: Vocab, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = (prompt(vocab, 5, 1), nothing(vocab))
    settings = [
        Sampling(seed=1, guidance=3.0, top_p=0.9),
        Sampling(seed=2, contrast="kmax", k=4, alpha=0.2, temperature=0.7),
        Sampling(seed=3, temperature=0.0),
    ]
    requests = [Request(pair, (Codes.image(16),), s) for s in settings]
    expected = Engine(one_decoder, vocab).run(requests)
    reads: list[int] = []
    monkeypatch.setattr(Held, "tolist", lambda self: reads.append(self.numel()) or self.inner.tolist())
    with Watched() as device:
        engine = Engine(copy.deepcopy(one_decoder).to(DEVICE), vocab, ahead=ahead)
        ids = [engine.add(request) for request in requests]
        done = {}
        while engine.busy:
            done |= engine.step()
        assert device.waits == []
    assert reads == [2 * ahead * 3] * (16 // ahead), "ids and log-probabilities of three requests"
    for id, result in zip(ids, expected, strict=True):
        same(done[id], result)


def test_a_mix_of_requests_on_another_device_gives_the_same(one_decoder: Decoder, vocab: Vocab) -> None:
    requests = mixed(vocab)
    expected = Engine(one_decoder, vocab).run(requests)
    with SecondDevice():
        engine = Engine(copy.deepcopy(one_decoder).to(DEVICE), vocab)
        assert engine.ahead > 1
        for a, b in zip(engine.run(requests), expected, strict=True):
            same(a, b)


def test_requests_with_other_settings_draw_by_the_same_program(one_decoder: Decoder, vocab: Vocab) -> None:
    pair = (prompt(vocab, 5, 1), nothing(vocab))
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def batch(seed: int) -> InputBatch:
        engine = Engine(one_decoder, vocab)
        for i in range(3):
            scale = 1.5 + seed + i
            sampling = Sampling(
                seed=seed + i, guidance=scale, temperature=1 + 0.1 * i, contrast="max", alpha=0.02 * scale
            )
            engine.add(Request(pair, (Codes.image(16),), sampling))
        engine.step()
        assert engine._batch is not None
        return engine._batch

    torch._dynamo.reset()
    compiled = torch.compile(
        lambda group, hidden: group.draw(hidden, one_decoder), backend=backend, fullgraph=True, dynamic=False
    )
    generator = torch.Generator().manual_seed(0)
    for seed in (0, 7, 20):
        mine, other = batch(seed).now.groups[0], batch(seed).now.groups[0]
        for _ in range(4):
            hidden = torch.randn(6, one_decoder.config.d_model, generator=generator, dtype=torch.float64)
            with torch.inference_mode():
                torch.testing.assert_close(compiled(mine, hidden), other.draw(hidden, one_decoder))
    assert len(graphs) == 1, "one graph, without a break, for requests that come and go"

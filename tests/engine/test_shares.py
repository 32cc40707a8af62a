"""A decoder in shares draws what the whole one does: engine, scores and all, on two processes; and what is refused."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_reference import make_decoder, mixed, nothing, prompt, same
from safetensors.torch import save_file

from cm3.engine import Codes, Engine, Request, Result, Sampling
from cm3.errors import Cm3Error, ConfigError
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder
from cm3.model.int8 import Int8Decoder
from cm3.parallel import Mesh, decoding
from cm3.vocab import Tokens, Vocab
from cm3.weights import load_into

sys.path.append(str(Path(__file__).parents[1] / "parallel"))
import processes  # noqa: E402
from processes import Crew  # noqa: E402

VOCABULARY = Vocab(text=256, image=48, masks=4, reserved=2)
KINDS: dict[str, dict[str, Any]] = {
    "paper": {},
    "grouped": {"kv_heads": 2, "hidden": 44, "activation": "swiglu", "norm": "rms", "norm_affine": True},
    "chameleon": {"norm_order": "swin", "qk_norm": True, "positions": "rope", "tied": False, "norm_eps": 1e-2},
}


@pytest.fixture(scope="module")
def two() -> Iterator[Crew]:
    crew = Crew(2)
    yield crew
    crew.close()


def whole(kind: str) -> Decoder:
    """In float32, as it is read from a file."""
    decoder = make_decoder(VOCABULARY, **KINDS[kind])
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if "_norm." in name:
                weight.copy_(torch.linspace(0.5, 1.5, weight.numel()).view(weight.shape))
    return decoder.float()


def share(kind: str, file: str, mesh: Mesh) -> Decoder:
    """That of this process, read from a file of the whole."""
    config = whole(kind).config
    cut = decoding.shares(Decoder, config, mesh)
    return decoding.join(load_into(lambda: Decoder(config), file, "test", cut).double(), mesh)


def drawn(kind: str, file: str) -> tuple[list[Result], torch.Tensor, int]:
    """What this process makes of the requests, all logits of a prompt, and the numbers that it holds in its blocks."""
    with processes.joined(tp=2) as mesh:
        decoder = share(kind, file, mesh)
        results = Engine(decoder, VOCABULARY, max_streams=7).run(mixed(VOCABULARY))
        return results, all_logits(decoder), sum(p.numel() for p in decoder.blocks.parameters())


def talked(engine: Engine) -> list[Result]:
    """Two turns of two who ask, the second behind what was kept of the first, in little memory."""
    streams = [(prompt(VOCABULARY, 100, 1), nothing(VOCABULARY)), (prompt(VOCABULARY, 100, 2),)]
    asks = [Request(some, (Codes.image(9),), Sampling(seed=3, guidance=2.0 if some[1:] else None)) for some in streams]
    first = engine.run(asks)
    turns = [
        replace(ask, streams=(Tokens.concat([ask.streams[0], result.tokens, prompt(VOCABULARY, 40, 3)]),
                              *ask.streams[1:]))
        for ask, result in zip(asks, first, strict=True)
    ]  # fmt: skip
    return [*first, *engine.run(turns)]


def kept(kind: str, file: str) -> tuple[list[Result], int]:
    with processes.joined(tp=2) as mesh:
        engine = Engine(share(kind, file, mesh), VOCABULARY, keep_gb=1.0, cache_gb=2e-3)
        return talked(engine), engine.load.kept


def all_logits(decoder: Decoder) -> torch.Tensor:
    ids = torch.arange(24).view(2, 12) * 3
    with torch.inference_mode():
        return decoder(ids, torch.arange(12).expand(2, -1), Causal(), torch.zeros_like(ids)).clone()


def test_two_processes_keep_the_same_and_draw_the_same_behind_it(two: Crew, tmp_path: Path) -> None:
    one = whole("grouped")
    save_file(one.state_dict(), tmp_path / "decoder.safetensors")
    expected = talked(Engine(one.double(), VOCABULARY))
    found = two.call(kept, "grouped", str(tmp_path / "decoder.safetensors"))
    for results, blocks in found:
        assert blocks == found[0][1] > 0 and [r.cached for r in results] == [0, 0, 64, 64]
        for result, wanted in zip(results, expected, strict=True):
            same(result, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_draw_what_one_does(two: Crew, tmp_path: Path, kind: str) -> None:
    """Of all kinds of requests: pictures, captions, infilling, unguided, guided by two streams and by three."""
    one = whole(kind)
    save_file(one.state_dict(), tmp_path / "decoder.safetensors")
    one = one.double()
    expected, logits = Engine(one, VOCABULARY, max_streams=7).run(mixed(VOCABULARY)), all_logits(one)
    found = two.call(drawn, kind, str(tmp_path / "decoder.safetensors"))
    for results, _, _ in found:
        for result, wanted in zip(results, expected, strict=True):
            same(result, wanted)
    assert torch.equal(found[0][1], found[1][1]), "a logit is computed by one process"
    torch.testing.assert_close(found[0][1], logits, rtol=1e-9, atol=1e-9)
    matrices = sum(p.numel() for n, p in one.blocks.named_parameters() if "norm1" not in n and "norm2" not in n)
    norms = sum(p.numel() for n, p in one.blocks.named_parameters() if "norm1" in n or "norm2" in n)
    assert [held for _, _, held in found] == [matrices / 2 + norms] * 2


def test_a_network_of_which_no_part_is_cut_is_read_whole(tmp_path: Path) -> None:
    one = whole("grouped")
    save_file(one.state_dict(), tmp_path / "decoder.safetensors")
    read = load_into(
        lambda: Decoder(one.config), tmp_path / "decoder.safetensors", "test", lambda _, shape: tuple(map(slice, shape))
    )
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in read.state_dict().items())


@pytest.mark.parametrize(
    ("tp", "changes", "message"),
    [
        (3, {}, "mesh.tp=3: does not divide model.heads=4"),
        (8, {}, "mesh.tp=8: does not divide model.heads=4"),
        (4, {"kv_heads": 2}, "mesh.tp=4: does not divide model.kv_heads=2"),
        (4, {"hidden": 42}, "mesh.tp=4: does not divide model.hidden=42"),
        (2, {"near": 4.0}, "mesh.tp=2: a model of near=4.0 is not split; use tp=1, or near=0"),
    ],
)
def test_what_does_not_split_is_refused(tp: int, changes: dict[str, Any], message: str) -> None:
    mesh = Mesh((1, 1, tp), 0, torch.device("cpu"), None)
    config = dataclasses.replace(whole("paper").config, **changes)
    with pytest.raises(ConfigError, match=f"^{message}$"):
        decoding.shares(Decoder, config, mesh)


def test_int8_is_refused() -> None:
    with pytest.raises(ConfigError, match="tp=2: the model's weights are in int8, which one process decodes; leave tp"):
        decoding.shares(Int8Decoder, whole("paper").config, Mesh((1, 1, 2), 0, torch.device("cpu"), None))


def asked(numbers: list[int]) -> tuple[str, Any]:
    """The refusal where each process asks for its number; then what the first one says."""
    with processes.joined(tp=2) as mesh:
        try:
            decoding.check_same([("a", numbers[mesh.part]), "b"], mesh)
        except Cm3Error as error:
            return str(error), None
        return "", decoding.told([mesh.part + 7], mesh)


def test_processes_that_ask_for_different_things_are_told(two: Crew) -> None:
    assert two.call(asked, [4, 4]) == [("", [7])] * 2
    told = "tp=2: process 1 of those that share the model was asked for another thing than process 0; give all the same"
    for message, _ in two.call(asked, [4, 5]):
        assert message.startswith(told) and "\n" not in message


def left(kind: str, file: str, report: str) -> None:
    """The second process dies between two steps; what the first one is told goes to a file."""
    mesh = processes.joined(tp=2)
    engine = Engine(share(kind, file, mesh), VOCABULARY)
    engine.add(mixed(VOCABULARY)[0])
    engine.step()
    if mesh.part == 1:
        os._exit(1)
    began = time.monotonic()
    try:
        while engine.busy:
            engine.step()
    except Cm3Error as error:
        Path(report).write_text(f"{time.monotonic() - began:.0f} {error}")


def test_a_process_that_dies_is_told_by_the_others_at_once(tmp_path: Path) -> None:
    save_file(whole("paper").state_dict(), tmp_path / "decoder.safetensors")
    crew = Crew(2)
    with pytest.raises((EOFError, ConnectionError)):
        crew.call(left, "paper", str(tmp_path / "decoder.safetensors"), str(tmp_path / "report"))
    crew.close()
    waited, _, message = (tmp_path / "report").read_text().partition(" ")
    assert int(waited) < 60, "by the closed connection, and not by the timeout"
    assert message.startswith("tp=2: another process that shares the model is gone, or did not answer for")
    assert message.endswith("see what it said, and start all again") and "\n" not in message

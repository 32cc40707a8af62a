"""Rounds of the engine and its peer: both compute the same, serve what is asked, and figures are of what was timed."""

from __future__ import annotations

import copy
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cm3.bench import decode
from cm3.bench.decode import CASES, STREAMS, Figures, Ours, Peer, Work, measure, ours, prepared, table, untold
from cm3.bench.machine import WIDTH, Stream, about, place
from cm3.bench.shapes import SHAPES, drawn, shape, words
from cm3.bench.windows import measure_windows
from cm3.bench.windows import told as windows_told
from cm3.engine import Sampling
from cm3.errors import ConfigError
from cm3.model.decoder import Decoder
from cm3.model.int8 import placed
from cm3.precision import Choice

CPU = torch.device("cpu")
peer = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra clip")
SMALL = {"prompt": 8, "new": 4, "rounds": 2, "streamed": 1}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small() -> tuple[Decoder, Work]:
    return prepared("test", 8, 6, CPU)


def test_shapes_are_of_their_size() -> None:
    from cm3.model.sizes import parameters

    told = {"10m": 10e6, "85m": 85e6, "350m": 435e6, "760m": 880e6, "7b": 7e9}
    for name in SHAPES.keys() - {"test"}:
        config = shape(name, 64)
        assert 0.9 < parameters(config) / told[name] < 1.15, name
        assert words(config).size == config.vocab_size and words(config).image == config.vocab_size // 2


def test_weights_are_drawn_the_same_each_time_and_none_is_zero() -> None:
    one, other = (drawn(shape("test", 16), CPU).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(float(value.abs().mean()) > 0.01 for value in one.values())
    assert 0.9 < float(one["blocks.0.norm1.weight"].mean()) < 1.1


def test_requests_are_mixed(small: tuple[Decoder, Work]) -> None:
    work = small[1]
    for name, case in CASES.items():
        made = work.requests(case)
        scales = [r.sampling.guidance for r in made if len(r.streams) == 2]
        assert len(scales) == case.guided == len(set(scales)) and len(made) == case.plain + case.guided, name
        assert len({r.streams[0].ids.tobytes() for r in made}) == len(made)
        assert all(r.streams[0].length == 8 and len(r.plan[0].cells) == 6 for r in made)  # type: ignore[union-attr]
    assert sum(len(r.streams) for r in work.requests(CASES["mixed"])) == STREAMS
    at = work.arrivals(32)
    assert at[0] == 0 and at == sorted(at) and 0 < at[-1] < 32 * work.new / 8


def test_our_side_serves_all_that_arrive_together(small: tuple[Decoder, Work]) -> None:
    side = ours(small[0], "float32", small[1])
    assert side.measure("one")[1] == side.measure("guided")[1] == side.measure("mixed")[1] == 6
    seconds, passes = side.measure("arrivals")
    assert seconds > 0 and 4 * 6 <= passes < 32 * 6 / 2
    assert not side.engine.busy


def test_int8_is_another_decoder(small: tuple[Decoder, Work]) -> None:
    plain, other = (ours(small[0], dtype, small[1]) for dtype in ("float32", "int8"))
    assert isinstance(other, Ours) and plain.engine.decoder is small[0]
    assert not small[0].blocks[0].wq.weight.is_contiguous(), "laid out for drawing, as a model that is loaded"  # type: ignore[union-attr]
    assert type(other.engine.decoder).__name__ == "Int8Decoder" and other.measure("one")[1] == 6


@peer
def test_the_peer_computes_the_same_or_nothing_is_timed(small: tuple[Decoder, Work]) -> None:
    side = Peer(small[0], "float32", small[1])
    assert side.generator.cache in side.probed and set(side.probed) == {"dynamic", "static"}
    head = side.generator.model.lm_head
    assert all(weight.is_contiguous() for weight in side.generator.model.parameters()), "as transformers has them"
    head.weight = torch.nn.Parameter(head.weight * 1.01, requires_grad=False)
    with pytest.raises(RuntimeError, match=r"^peer float32: its logits are 0.01 apart from ours; nothing was timed$"):
        side._check(small[0])
    head.weight.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="are nan apart"):
        side._check(small[0])


@peer
def test_the_peer_draws_codes_and_is_guided(small: tuple[Decoder, Work]) -> None:
    decoder, work = small
    side = Peer(decoder, "float32", work)
    assert [side.measure(case)[1] for case in ("one", "guided", "eight", "mixed", "level")] == [6, 12, 6, 54, 18]
    prompts, away = (torch.from_numpy(ids) for ids in (work.prompts(1), work.away))

    def generate(scale: float) -> list[int]:
        torch.manual_seed(0)
        return side.generator.generate(prompts, 40, scale, away)[0].tolist()

    assert len(generate(1.0)) == 40 and max(generate(1.0)) >= work.vocab.image_start
    assert generate(3.0) == generate(3.0) != generate(1.0)


@peer
def test_rows_are_of_what_was_timed(small: tuple[Decoder, Work]) -> None:
    told: list[tuple[int, int, str]] = []
    other = ours(small[0], "float32", Work(small[1].vocab, 8, 4), "before")
    report = measure(
        "test", **SMALL, dtypes=("float32", "int8"), before=lambda dtype: other if dtype == "float32" else Plain(dtype),
        progress=lambda *state: told.append(state),
    )  # fmt: skip
    rows = {row["name"]: row for row in report["rows"]}
    assert len(rows) == 3 * len(CASES) == len(report["rows"])
    seconds = report["seconds"]
    for case, (says, plain, guided) in CASES.items():
        own, count = "mixed" if case == "level" else case, (plain + guided) * 4
        row = rows[f"test; {says}; float32"]
        assert row["ours"] == pytest.approx(count / np.median(seconds[f"ours float32, {own}"]), abs=0.01)
        theirs = ("ours float32, mixed", 8 * 4) if case == "arrivals" else (f"peer float32, {case}", count)
        assert row["peer"] == pytest.approx(theirs[1] / np.median(seconds[theirs[0]]), abs=0.01)
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"], rel=1e-3)
        assert row["before"] == pytest.approx(count / np.median(seconds[f"before float32, {own}"]), abs=0.01)
        assert rows[f"test; {says}; int8"]["before"] == pytest.approx(count / 2.0, abs=0.01)
        best = rows[f"test; {says}; best"]
        assert best["ours"] == max(rows[f"test; {says}; {dtype}"]["ours"] for dtype in ("float32", "int8"))
    for row in report["rows"]:
        assert row["torch"] == torch.__version__ and row["flags"] == about(CPU)["flags"] and row["clock"] == "processor"
        assert row["dtype"] in ("float32", "int8") and row["why"] and row["auto"].startswith("float32: ")
    assert [done for done, _, _ in told] == list(range(told[0][1])) and len(told) == 2 * 25
    printed = table(report["rows"]).splitlines()
    assert len(printed) == 1 + len(rows) and len(printed[1]) == len(printed[0])


class Plain:
    """A side of two seconds for all."""

    cases = ("one", "guided", "eight", "mixed", "arrivals")

    def __init__(self, dtype: str) -> None:
        self.name, self.dtype = f"before {dtype}", dtype

    def measure(self, case: str) -> tuple[float, int]:
        return 2.0, 4


def test_a_share_of_one_is_the_streaming_rate(small: tuple[Decoder, Work]) -> None:
    """Weights that are read in a second, at a machine that streams just so many bytes a second; int8 has a fourth."""
    decoder, work = small
    d, hidden = decoder.config.d_model, decoder.config.ffn
    norms = sum(p.numel() for n, p in decoder.blocks.named_parameters() if "norm" in n)
    bytes_ = 4 * (4 * d * d + 3 * d * hidden + norms + work.vocab.image * d)
    took, passes = {("ours float32", "one"): [1.0], ("ours int8", "one"): [1.0]}, {}
    passes = {key: 1 for key in took}
    streaming = {"float32": float(bytes_), "int8": bytes_ / 2}
    made = Figures("test", work, decoder, took, passes, streaming, Choice("float32", "as set"), {})
    rows = made.rows("one", {})
    assert [row["share"] for row in rows[:2]] == [1.0, 0.5] and rows[1]["share_of_fastest"] == 0.25


def test_windows_are_compared_with_one_by_one(small: tuple[Decoder, Work]) -> None:
    """Random weights keep guesses rarely, and the ids are those of plain decoding; a repeating model keeps them all."""
    decoder, work = small
    requests = work.requests(CASES["eight"])[:3]
    told: list[tuple[int, int, str]] = []
    report = measure_windows(placed(decoder, None, None), work.vocab, requests, "test", lambda *s: told.append(s))
    plain, fixed, auto = report["rows"]
    assert plain["passes"] == 3 * 6 and plain["ids_a_pass"] == plain["fewer_passes"] == 1 and plain["ratio"] is None
    for row in (fixed, auto):
        assert row["same"] == row["requests"] == 3 and row["peer"] == plain["ours"]
        assert 3 * 1 < row["passes"] <= 3 * 6 and row["fewer_passes"] == pytest.approx(18 / row["passes"], abs=0.01)
        times = np.divide(report["seconds"]["0"], report["seconds"][row["name"].split()[-1]])
        assert row["ratio"] == pytest.approx(np.median(times), abs=1e-3)
    assert [done for done, _, _ in told] == list(range(9)) and len(windows_told(report["rows"])) == 2
    printed = table(report["rows"]).splitlines()
    assert len({len(line) for line in printed}) == 1 and printed[1].split()[-2] == "-"

    always = copy.deepcopy(decoder)
    always.output.weight.data.zero_()  # type: ignore[union-attr]
    greedy = [replace(request, sampling=Sampling(temperature=0)) for request in requests[:1]]
    rows = measure_windows(placed(always, None, None), work.vocab, greedy, "test")["rows"]
    assert rows[1]["passes"] == 2 and rows[1]["ids_a_pass"] == 3 and rows[1]["same"] == 1


def test_types_that_are_not_there_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "has_bfloat16", lambda device: (False, "it has none"))
    report = measure("test", **SMALL, cases=("one",), peer=False)
    rows = {row["dtype"]: row for row in report["rows"] if not row["name"].endswith("best")}
    assert rows["bfloat16"]["ours"] is None and rows["bfloat16"]["why"] == "it has none"
    assert rows["float32"]["ours"] > 0 and rows["float32"]["peer"] is None and rows["float32"]["ratio"] is None
    assert "not measured: it has none" in table(report["rows"])


def test_without_transformers_ours_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (row,) = measure("test", **SMALL, cases=("one",), dtypes=("float32",))["rows"]
    assert row["ours"] > 0 and row["peer"] is None
    assert row["why_no_peer"] == "the peer needs transformers, which is not installed: pip install transformers"


def test_a_row_that_is_not_measured_has_all_columns() -> None:
    assert {"name", "ours", "peer", "ratio", "unit"} <= untold("x", "no GPU").keys()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"size": "9m"}, "shape='9m': must be one of test, 10m, "),
        ({"size": "test", "new": 0}, "new=0: must be an integer"),
        ({"size": "test", "prompt": 0}, "prompt=0: must be an integer"),
        ({"size": "test", "rounds": 0}, "rounds=0: must be an integer"),
        ({"size": "test", "cases": ("two",)}, "cases='two': must be of one, guided"),
        ({"size": "test", "dtypes": ("float8",)}, "dtypes='float8': must be of float32, bfloat16, int8"),
    ],
)
def test_settings_that_are_none_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        measure(**settings)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_device_that_is_not_there_is_refused() -> None:
    assert place("cpu") == CPU
    with pytest.raises(ConfigError, match="device='nowhere': cannot be used"):
        place("nowhere")


def test_streams_are_of_their_bytes() -> None:
    plain, small_one = (Stream(dtype, CPU, 128 << 20) for dtype in ("float32", "int8"))
    assert plain.bytes == 128 << 20 and small_one.bytes == 32 << 20
    assert plain.rate() > 0 and small_one.rate() > 0


def test_nothing_of_benchmarks_is_needed() -> None:
    """The verb is in a wheel, which has no benchmarks."""
    files = [*Path(decode.__file__).parent.glob("*.py")]
    assert len(files) > 5 and not any("benchmarks." in path.read_text().replace("benchmarks/", "") for path in files)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_rate_of_streaming_is_measured_in_each_type(dtype: str) -> None:
    stream = Stream(dtype, torch.device("cpu"), 1)
    assert stream.bytes == WIDTH * WIDTH * {"float32": 4, "bfloat16": 2, "int8": 1}[dtype]
    assert 0 < stream.rate() < 1e13

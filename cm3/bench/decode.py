"""Decoding: our engine and transformers' `generate` on the same weights and requests, by turns in one run.

    case        requests                            the peer
    one         one, no guidance                    `generate`
    guided      one, guided                         its guidance processor
    eight       eight, no guidance                  one batch
    mixed       eight, half of them guided,         a batch of those without, then the guided one after the other:
                each at a scale of its own          its processor has one scale, and guides all of a batch or none
    level       those of mixed                      its guided ones in one batch, at one scale
    arrivals    32, half of them guided, that       none: compared with the rate of mixed, the batch that fills the
                arrive at random                    same rows from the first step to the last

A request has a prompt of `prompt` text tokens and draws `new` image codes at temperature 1. Ours computes the logits of
codes alone, as its grammar allows no other id; the peer has no such way and draws from all ids. Seconds are of a whole
case, prompts included; sides alternate, and a figure is the median of the rounds. `share` is the part of the measured
rate of streaming weights (machine.py) at which a side read its own: matrices that multiply a token, once a pass.
"""

from __future__ import annotations

import copy
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from cm3.bench.machine import STREAMED, Stream, about, seconds
from cm3.bench.peer import Generator
from cm3.bench.shapes import SHAPES, drawn, shape, words
from cm3.engine import Codes, Engine, Request, Sampling
from cm3.errors import ConfigError, did_you_mean, whole_number
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder
from cm3.model.int8 import placed, reach
from cm3.precision import for_drawing, has_bfloat16
from cm3.vocab import Tokens, Vocab

TYPES = ("float32", "bfloat16", "int8")
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
CLOSE = {"float32": 1e-4, "bfloat16": 0.05}
"""Relative distance of the peer's logits from ours, over which nothing is timed."""
STREAMS = 12
"""Rows of the engine: those of `mixed`."""
PACE = 2.0
"""How many times as fast as they are served requests arrive."""
Progress = Callable[[int, int, str], None]


class Case(NamedTuple):
    """Requests without and with guidance."""

    says: str
    plain: int
    guided: int


CASES = {
    "one": Case("one", 1, 0),
    "guided": Case("one, guided", 0, 1),
    "eight": Case("eight", 8, 0),
    "mixed": Case("eight, half guided, own scales", 4, 4),
    "level": Case("eight, half guided, peer's one scale", 4, 4),
    "arrivals": Case("32 at random, half guided, of a full batch", 16, 16),
}


@dataclass(frozen=True)
class Work:
    """The requests: the length of a prompt, and the codes that each draws."""

    vocab: Vocab
    prompt: int
    new: int

    def prompts(self, n: int) -> np.ndarray:
        """Return `n` prompts, int64 (n, prompt)."""
        ids = np.random.default_rng(0).integers(self.vocab.text_start, self.vocab.image_start, (n, self.prompt))
        ids[:, 0] = self.vocab.opens
        return ids

    @property
    def away(self) -> np.ndarray:
        """Return the prompt that guidance leads away from, int64 (1, 3), or (1, 2) where there are no masks."""
        mask = [self.vocab.mask(0)] if self.vocab.masks else []
        return np.array([[self.vocab.opens, *mask, self.vocab.brk]])

    def scales(self, n: int) -> list[float]:
        """Return a scale for each of `n` guided requests, none like another."""
        return [1.5 + 4.0 * i / n for i in range(n)]

    def requests(self, case: Case) -> list[Request]:
        """Return the requests of a case, guided ones among the others."""
        prompts, plan = self.prompts(case.plain + case.guided), (Codes.image(self.new),)
        made, scales = [], deque(self.scales(case.guided))
        for i, prompt in enumerate(prompts):
            guided = bool(scales) and (i % 2 == 1 or not case.plain)
            streams = (prompt, *self.away) if guided else (prompt,)
            sampling = Sampling(seed=i, guidance=scales.popleft() if guided else None)
            made.append(Request(tuple(Tokens.of(ids) for ids in streams), plan, sampling))
        return made

    def arrivals(self, n: int) -> list[int]:
        """Return the step before which each of `n` requests arrives: the first at once, gaps exponential."""
        full = CASES["mixed"].plain + CASES["mixed"].guided
        gaps = np.random.default_rng(1).exponential(self.new / full / PACE, n)
        return [int(at) for at in np.cumsum(gaps) - gaps[0]]


class Side(Protocol):
    """One that is measured. `name` begins with ours, peer or before."""

    name: str
    dtype: str
    cases: tuple[str, ...]

    def measure(self, case: str) -> tuple[float, int]:
        """Return the seconds of a case, and how often all weights were read."""


class Ours:
    """Our engine; one for all cases, as its cache is kept."""

    cases: tuple[str, ...] = ("one", "guided", "eight", "mixed", "arrivals")

    def __init__(
        self, decoder: Decoder, dtype: str, work: Work, name: str = "ours", graphs: bool | str = "auto"
    ) -> None:
        self.name, self.dtype, self.work = f"{name} {dtype}", dtype, work
        # An engine of an earlier checkout knows no graphs.
        more: dict[str, Any] = {} if graphs == "auto" else {"graphs": graphs}
        self.engine = Engine(decoder, work.vocab, max_streams=STREAMS, **more)
        self._ran: set[str] = set()
        self._run("mixed", replace(work, new=min(work.new, 4)))

    def measure(self, case: str) -> tuple[float, int]:
        """Serve the requests of a case; on a GPU once before, as the first of a kind have their steps recorded."""
        if self.engine.decoder.device.type == "cuda" and case not in self._ran:
            self._run(case, self.work)
        self._ran.add(case)
        passes: list[int] = []
        took = seconds(lambda: passes.append(self._run(case, self.work)), self.engine.decoder.device)
        return took, passes[0]

    def _run(self, case: str, work: Work) -> int:
        waiting = deque(work.requests(CASES[case]))
        arrive = deque(work.arrivals(len(waiting)) if case == "arrivals" else [0] * len(waiting))
        step = passes = 0
        while waiting or self.engine.busy:
            if not self.engine.busy:
                step = max(step, arrive[0])  # nothing is asked for: the time until then does not count
            while waiting and arrive[0] <= step:
                arrive.popleft()
                self.engine.add(waiting.popleft())
            for _, result in self.engine.step():
                if result.tokens.length != work.new:
                    raise RuntimeError(f"the engine wrote {result.tokens.length} codes of {work.new}")
            step, passes = step + 1, passes + 1
        return passes


class Peer:
    """transformers' `generate` on the weights of a decoder, with the faster of its caches.

    `generator` is one that has the weights already. Raises `ConfigError` without transformers.
    """

    cases: tuple[str, ...] = ("one", "guided", "eight", "mixed", "level")

    def __init__(self, decoder: Decoder, dtype: str, work: Work, generator: Generator | None = None) -> None:
        self.name, self.dtype, self.work, self.device = f"peer {dtype}", dtype, work, decoder.device
        self.generator = Generator(decoder) if generator is None else generator
        self._check(decoder)
        self.probed = self._probe()
        self.generator.cache = min(self.probed, key=self.probed.__getitem__)

    def measure(self, case: str) -> tuple[float, int]:
        """Serve the requests of a case."""
        guided = CASES[case].guided
        passes = (CASES[case].plain > 0) + 2 * (min(guided, 1) if case == "level" else guided)
        return seconds(lambda: self._run(case, self.work), self.device), passes * self.work.new

    def _run(self, case: str, work: Work) -> None:
        plain, guided = CASES[case].plain, CASES[case].guided
        prompts, away = (self._ids(ids) for ids in (work.prompts(plain + guided), work.away))
        torch.manual_seed(0)
        made = [self.generator.generate(prompts[:plain], work.new)] if plain else []
        if case == "level":
            made.append(self.generator.generate(prompts[plain:], work.new, 3.0, away.expand(guided, -1)))
        else:
            one_each = zip(prompts[plain:, None], work.scales(guided), strict=True)
            made += [self.generator.generate(prompt, work.new, scale, away) for prompt, scale in one_each]
        if any(ids.shape[1] != work.new for ids in made):
            raise RuntimeError(f"the peer wrote {[ids.shape[1] for ids in made]} ids of {work.new}")

    def _ids(self, ids: np.ndarray) -> Tensor:
        return torch.from_numpy(ids).to(self.device)

    @torch.inference_mode()
    def _check(self, decoder: Decoder) -> None:
        """Raise RuntimeError where its logits are not ours."""
        ids = self._ids(self.work.prompts(1))
        ours = decoder(ids, torch.arange(ids.shape[1], device=self.device)[None], Causal()).float()
        apart = float((ours - self.generator.logits(ids).float()).norm() / ours.norm())
        if not apart < CLOSE[self.dtype]:  # not a number is not less
            raise RuntimeError(f"{self.name}: its logits are {apart:.2g} apart from ours; nothing was timed")

    def _probe(self) -> dict[str, float]:
        """Return the seconds of a few tokens with each cache, the least of two tries after one to warm up."""
        took: dict[str, list[float]] = {"dynamic": [], "static": []}
        few = replace(self.work, new=min(self.work.new, 24))
        for _ in range(3):
            for self.generator.cache, tries in took.items():
                tries.append(seconds(lambda: self._run("one", few), self.device))
        return {cache: min(tries[1:]) for cache, tries in took.items()}


def ours(decoder: Decoder, dtype: str, work: Work, name: str = "ours", graphs: bool | str = "auto") -> Ours:
    """Return our side in a number type. Raises `ConfigError` for one that the device has not."""
    if dtype not in ("float32", "int8"):
        decoder = copy.deepcopy(decoder)
    device = decoder.device
    made = placed(decoder, device, None if dtype == "float32" else dtype)
    return Ours(made if made.is_laid_out else made.lay_out(), dtype, work, name, graphs)


def prepared(size: str, prompt: int, new: int, device: torch.device) -> tuple[Decoder, Work]:
    """Return the drawn weights of a shape, and the requests.

    Raises `ConfigError` for a shape or a length that is none.
    """
    if size not in SHAPES:
        raise ConfigError(f"shape={size!r}: must be one of {', '.join(SHAPES)}.{did_you_mean(size, SHAPES)}")
    for name, value in (("prompt", prompt), ("new", new)):
        whole_number(name, value, high=1 << 16)
    config = shape(size, prompt + new + 8)
    return drawn(config, device), Work(words(config), prompt, new)


def measure(
    size: str,
    *,
    prompt: int = 64,
    new: int = 256,
    rounds: int = 3,
    cases: Sequence[str] = tuple(CASES),
    dtypes: Sequence[str] | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008
    peer: bool = True,
    graphs: bool | str = "auto",
    before: Callable[[str], Side] | None = None,
    streamed: int = STREAMED,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the rows of a shape, and every figure that they are made of.

    `dtypes`: the types to measure whether the device computes in them or not; None is those that it does. `before`
    makes the side of another checkout in a number type; `graphs` is ours. A row that cannot be measured says why.
    """
    whole_number("rounds", rounds)
    for name, given, known in (("cases", cases, tuple(CASES)), ("dtypes", dtypes or (), TYPES)):
        if odd := [one for one in given if one not in known]:
            raise ConfigError(f"{name}={odd[0]!r}: must be of {', '.join(known)}.{did_you_mean(odd[0], known)}")
    decoder, work = prepared(size, prompt, new, device)
    sides: list[Side] = []
    left: dict[str, str] = {}
    for dtype in TYPES if dtypes is None else dtypes:
        native, why = has_bfloat16(device) if dtype == "bfloat16" and dtypes is None else (True, "")
        try:
            if not native:
                raise ConfigError(why)
            sides.append(ours(decoder, dtype, work, graphs=graphs))
        except ConfigError as error:
            left[dtype] = str(error)
            continue
        if before is not None:
            sides.append(before(dtype))
        if peer and dtype in CLOSE:
            try:
                sides.append(Peer(_floats(sides, dtype), dtype, work))
            except ConfigError as error:
                left["peer"], peer = str(error), False
    asked = [case for case in CASES if case in cases or (case == "mixed" and {"level", "arrivals"} & set(cases))]
    kept = [side.dtype for side in sides if side.name.startswith("ours")]
    streams = {dtype: Stream(dtype, device, streamed) for dtype in kept}
    rates: dict[str, list[float]] = {dtype: [] for dtype in kept}
    took: dict[tuple[str, str], list[float]] = {}
    passes: dict[tuple[str, str], int] = {}
    turns = [(side, case) for case in asked for side in sides if case in side.cases]
    for turn in range(rounds):
        for dtype, stream in streams.items():
            rates[dtype].append(stream.rate())
        # Forwards, then backwards, so that nobody always follows the same one.
        for i, (side, case) in enumerate(turns[:: 1 if turn % 2 else -1]):
            if progress is not None:
                progress(turn * len(turns) + i, rounds * len(turns), f"{size} {side.name}, {CASES[case].says}")
            spent, passes[side.name, case] = side.measure(case)
            took.setdefault((side.name, case), []).append(spent)
    streaming = {dtype: statistics.median(found) for dtype, found in rates.items()}
    made = Figures(size, work, decoder, took, passes, streaming, for_drawing("auto", device), about(device))
    rows = [row for case in asked if case in cases for row in made.rows(case, left)]
    return {
        "rows": rows,
        "shape": size,
        "prompt": prompt,
        "new": new,
        "rounds": rounds,
        "streaming_gb_s": {dtype: round(rate / 1e9, 2) for dtype, rate in streaming.items()},
        "peer_caches_s": {side.dtype: side.probed for side in sides if isinstance(side, Peer)},
        "seconds": {f"{side}, {case}": found for (side, case), found in took.items()},
    }


def _floats(sides: Sequence[Side], dtype: str) -> Decoder:
    """Return the decoder of our side in a floating type, whose weights the peer shares."""
    return next(side.engine.decoder for side in sides if isinstance(side, Ours) and side.dtype == dtype)


@dataclass
class Figures:
    """Seconds of sides and cases, as rows."""

    size: str
    work: Work
    decoder: Decoder
    took: dict[tuple[str, str], list[float]]
    passes: dict[tuple[str, str], int]
    streaming: dict[str, float]
    auto: Any
    about: dict[str, Any]

    def rows(self, case: str, left: dict[str, str]) -> list[dict[str, Any]]:
        """Return a row for each number type, and one of the best type of each side."""
        title, own = f"{self.size}; {CASES[case].says}", "mixed" if case == "level" else case
        kept = list(self.streaming)
        there = [dtype for dtype in kept if (f"peer {dtype}", case) in self.took]
        theirs = min(there, key=lambda dtype: self.median(f"peer {dtype}", case), default=None)
        rows = []
        for dtype in TYPES:
            if dtype in kept:
                against = dtype if dtype in there else theirs
                rows.append(self._row(f"{title}; {dtype}", own, case, dtype, self.why(dtype), against, left))
            elif dtype in left:
                rows.append(untold(f"{title}; {dtype}", left[dtype], dtype, self.about))
        if len(kept) > 1:
            best = min(kept, key=lambda dtype: self.median(f"ours {dtype}", own))
            why = f"the fastest of {', '.join(kept)} in this run"
            rows.append(self._row(f"{title}; best", own, case, best, why, theirs, left))
        return rows

    def _row(
        self, name: str, own: str, case: str, dtype: str, why: str, against: str | None, left: dict[str, str]
    ) -> dict[str, Any]:
        mine, before = f"ours {dtype}", f"before {dtype}"
        spent = self.median(mine, own)
        count = (CASES[case].plain + CASES[case].guided) * self.work.new
        steps = self.passes[mine, own]
        rate, peer_rate = count / spent, None
        peer: dict[str, Any] = {}
        if case == "arrivals":
            full = CASES["mixed"].plain + CASES["mixed"].guided
            peer_rate, peer = full * self.work.new / self.median(mine, "mixed"), {"peer_name": "the full batch, ours"}
        elif against is not None:
            theirs = self.median(f"peer {against}", case)
            peer_rate = count / theirs
            peer = {
                "peer_name": "transformers' Chameleon",
                "peer_dtype": against,
                "peer_ms_step": round(1e3 * theirs / self.work.new, 3),
                "peer_share": self.share(f"peer {against}", case, against, self.decoder.config.vocab_size),
            }
        elif "peer" in left:
            peer = {"why_no_peer": left["peer"]}
        was = count / self.median(before, own) if (before, own) in self.took else None
        return {
            "name": name,
            "ours": round(rate, 2),
            "peer": peer_rate and round(peer_rate, 2),
            "ratio": peer_rate and round(rate / peer_rate, 3),
            "unit": "tokens/s",
            "before": was and round(was, 2),
            "before_ratio": was and round(rate / was, 3),
            "seconds": round(spent, 4),
            "spread": round(max(self.took[mine, own]) / min(self.took[mine, own]), 3),
            "ms_step": round(1e3 * spent / steps, 3),
            "ms_token": round(1e3 * spent / count, 3),
            "share": self.share(mine, own, dtype, self.work.vocab.image),
            "share_of_fastest": self.share(mine, own, dtype, self.work.vocab.image, fastest=True),
            "dtype": dtype,
            "why": why,
            "auto": f"{self.auto.name}: {self.auto.why}",
            **peer,
            **self.about,
        }

    def median(self, side: str, case: str) -> float:
        """Return the seconds of a case."""
        return statistics.median(self.took[side, case])

    def share(self, side: str, case: str, dtype: str, ids: int, fastest: bool = False) -> float:
        """Return the rate at which a side read its weights, those of `ids` ids in the head, as a part of how fast
        weights of that type are streamed; with `fastest`, of any type in the run."""
        config = self.decoder.config
        numbers = sum(weight.numel() for weight in self.decoder.blocks.parameters()) + ids * config.d_model
        rate = numbers * BYTES[dtype] * self.passes[side, case] / self.median(side, case)
        return round(rate / (max(self.streaming.values()) if fastest else self.streaming[dtype]), 3)

    def why(self, dtype: str) -> str:
        """Say why a type is there, or how it computes."""
        if dtype == "bfloat16":
            return has_bfloat16(self.decoder.device)[1]
        if dtype == "int8" and self.decoder.device.type == "cuda":
            return "weights alone"
        return f"{2 * reach() + 1} levels of an activation" if dtype == "int8" else "every device has it"


def untold(name: str, why: str, dtype: str | None = None, more: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a row without a measurement."""
    empty = {"ours": None, "peer": None, "ratio": None, "unit": "tokens/s", "before": None, "before_ratio": None}
    return {"name": name, **empty, "dtype": dtype, "why": why, **(more or {})}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as lines for a person."""
    heads = ("tokens/s", "peer", "ratio", "ms/step", "share", "before")
    lines = [" " * 60 + "".join(f"{head:>10}" for head in heads)]
    for row in rows:
        if row["ours"] is None:
            lines.append(f"{row['name']:<60}  not measured: {row['why']}")
            continue
        ratio, before = (f"x{value:.2f}" if value else "-" for value in (row["ratio"], row["before_ratio"]))
        share = "-" if row["share"] is None else f"{row['share']:.0%}"
        name = row["name"] + (f" ({row['dtype']})" if row["name"].endswith("best") else "")
        lines.append(
            f"{name:<60}{row['ours']:>10.1f}{row['peer'] or 0:>10.1f}{ratio:>10}{row['ms_step']:>10.2f}"
            f"{share:>10}{before:>10}"
        )
    return "\n".join(lines)

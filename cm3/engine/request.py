"""Request and Result: what the engine is asked for and what it gives back, in ids only.

A request has one to three streams, prompts that are read side by side and to each of which every produced token is
appended:

    streams[0]   the full prompt (EXP in section 3.1 of the paper)
    streams[1]   unconditional, `[</s>, <mask:0>, <break>]` (AMA); what else may be masked: `cm3.sequence.unconditional`
    streams[2]   the prompt without its instruction, as in InstructPix2Pix: image only

(but for an `Interleaved` step, whose other streams read less: grammar.py)

and its guided logits are `u + g (c - u)` with two, `u + s_img (img - u) + g (full - img)` with three.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from cm3.engine.grammar import Choice, Force, FreeText, Interleaved, Step
from cm3.engine.sample import LEAST_TEMPERATURE
from cm3.errors import ConfigError, RequestError, did_you_mean, real_number, shown, whole_number
from cm3.vocab import Tokens

CONTRASTS = ("max", "kmax")


@dataclass(frozen=True)
class Sampling:
    """Settings by which a token is drawn (paper section 3.1).

    temperature: 0, and whatever is below 1e-6, takes the most likely id.
    top_p: the smallest set of ids with this much probability.
    guidance: the scale g of `u + g (c - u)`. None: 1, or, with `contrast`, the contrastive score itself,
        `log p_EXP - log p_AMA` (CD, CD-K).
    image_guidance: the scale s_img with three streams; None is 1.
    contrast: the plausibility rule. Only ids with `p_EXP >= alpha * m` remain, where m is the largest probability
        ("max", Li et al. 2022) or the k-th largest ("kmax", CD-K). With a number as `guidance` the rule joins CFG.
    amateur_temperature: divides the logits of the unconditional stream.
    seed: draw t of a request depends on (seed, t) only, never on its neighbours in the batch.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    guidance: float | None = None
    image_guidance: float | None = None
    contrast: str | None = None
    alpha: float = 0.1
    k: int = 1
    amateur_temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (ok, rule) in _NUMBERS.items():
            if (value := getattr(self, name)) is not None or name not in ("guidance", "image_guidance"):
                object.__setattr__(self, name, real_number(f"sampling.{name}", value, ok, rule))
        for name, low, high in (("k", 1, None), ("seed", 0, 2**63 - 1)):
            object.__setattr__(self, name, whole_number(f"sampling.{name}", getattr(self, name), low, high))
        if self.contrast is not None and not (isinstance(self.contrast, str) and self.contrast in CONTRASTS):
            near = did_you_mean(str(self.contrast), CONTRASTS)
            raise ConfigError(f"sampling.contrast={shown(self.contrast)}: must be None, 'max' or 'kmax'.{near}")

    @property
    def greedy(self) -> bool:
        """Tell whether the most likely id is taken each time, so that chance and seed say nothing."""
        return self.temperature < LEAST_TEMPERATURE

    def weights(self, streams: int) -> tuple[float, ...]:
        """Return the weight of each of `streams` streams' logits in the guided score."""
        if self.guidance is None and self.contrast is not None:
            if streams == 1:
                raise RequestError(
                    f"sampling.contrast={self.contrast!r} needs a second stream to contrast with; "
                    "add the prompt [</s>, <mask:0>, <break>], or give a number as guidance"
                )
            if self.image_guidance is not None:
                raise RequestError(
                    f"sampling.image_guidance={self.image_guidance}: has no place in the contrastive score itself; "
                    f"give guidance a number too, or leave out image_guidance or contrast={self.contrast!r}"
                )
            return (1.0, -1.0, 0.0)[:streams]
        text = 1.0 if self.guidance is None else self.guidance
        if streams < 3 and self.image_guidance is not None:
            raise RequestError(
                f"sampling.image_guidance={self.image_guidance}: needs three streams, this request has {streams}; "
                "add the unconditional prompt and the one with the image only, or leave it None"
            )
        if streams == 3:
            image = 1.0 if self.image_guidance is None else self.image_guidance
            return (text, 1.0 - image, image - text)
        if streams == 2:
            return (text, 1.0 - text)
        if text != 1.0:
            raise RequestError(
                f"sampling.guidance={text}: needs a second stream; "
                "add the unconditional prompt [</s>, <mask:0>, <break>], or set guidance=1"
            )
        return (1.0,)


_SCALE = (lambda x: abs(x) <= 1e6, "a finite number, -1e6 to 1e6 (1 is no guidance)")
"""Beyond it the differences of logits in single precision say nothing more."""
_NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda x: x >= 0, "at least 0 (0 is greedy)"),
    "top_p": (lambda x: 0 < x <= 1, "above 0 and at most 1 (1 keeps every id)"),
    "guidance": _SCALE,
    "image_guidance": _SCALE,
    "alpha": (lambda x: 0 <= x <= 1, "from 0 to 1"),
    "amateur_temperature": (lambda x: 1e-6 <= x <= 1e6, "above 0, from 1e-6 to 1e6"),
}
"""The range of each setting of `Sampling`, and its wording."""


@dataclass(frozen=True, eq=False)
class Request:
    """Prompts, and the plan of what is produced after them.

    `plan`: see grammar.py. `sampling` draws image codes, and text too unless `text_sampling` is given. Whether guidance
    applies is said by each step of the plan: by default to codes and not to text.
    """

    streams: tuple[Tokens, ...]
    plan: tuple[Step, ...]
    sampling: Sampling = Sampling()
    text_sampling: Sampling | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "streams", tuple(self.streams))
        object.__setattr__(self, "plan", tuple(self.plan))
        for name in ("sampling", "text_sampling"):
            given = getattr(self, name)
            if not isinstance(given, Sampling) and (given is not None or name == "sampling"):
                raise RequestError(f"request: {name}={shown(given)}: must be a Sampling")
        if not 1 <= len(self.streams) <= 3:
            raise RequestError(f"request: {len(self.streams)} streams; must be 1, 2 or 3")
        for i, stream in enumerate(self.streams):
            if not isinstance(stream, Tokens) or any(
                not isinstance(x, np.ndarray) or x.ndim != 1 or x.dtype.kind not in "iu" for x in stream
            ):
                raise RequestError(f"request: streams[{i}] must be Tokens, ids and cells as one row of integers each")
            if stream.length == 0:
                raise RequestError(f"request: streams[{i}] is empty; a prompt starts with </s>")
            if stream.cells.shape != stream.ids.shape:
                raise RequestError(f"request: streams[{i}] has {stream.length} ids and {len(stream.cells)} cells")

    def seeded(self, seed: int) -> Request:
        """Return the same request with another seed."""
        text = self.text_sampling and replace(self.text_sampling, seed=seed)
        return replace(self, sampling=replace(self.sampling, seed=seed), text_sampling=text)

    @property
    def greedy(self) -> bool:
        """Tell whether nothing is left to chance."""
        return all(s.greedy for step in self.plan for s in self.samplings_of(step))

    @property
    def identity(self) -> Hashable:
        """Return the same for requests that must give the same: all of it but the seeds of what is not left to
        chance."""
        drawn = [s for step in self.plan for s in self.samplings_of(step)]
        streams = tuple((stream.ids.tobytes(), stream.cells.tobytes()) for stream in self.streams)
        return streams, self.plan, tuple(replace(s, seed=0) if s.greedy else s for s in drawn)

    def sampling_of(self, step: Step) -> Sampling:
        """Return the settings with which a step's ids are drawn; of an `Interleaved`, those of its pictures."""
        text = isinstance(step, FreeText | Choice) and self.text_sampling is not None
        return self.text_sampling if text and self.text_sampling else self.sampling

    def samplings_of(self, step: Step) -> tuple[Sampling, ...]:
        """Return all settings with which ids of a step are drawn: of an `Interleaved` its pictures' and its words'."""
        if isinstance(step, Force):
            return ()
        words = (self.text_sampling or self.sampling,) if isinstance(step, Interleaved) else ()
        return self.sampling_of(step), *words


@dataclass(frozen=True, eq=False)
class Result:
    """The outcome of a request.

    tokens: everything produced, forced ids too.
    spans: one for each free step of the plan, without the id that ended it.
    logprobs: for each span the sum over its sampled ids (an end that was sampled too) of the log-probability under the
        full prompt alone, at temperature 1, among the ids that the grammar allowed: what to re-rank by.
    reasons: for each span "codes" (all there), "end" (an end id came) or "limit" (it was forced).
    An `Interleaved` step has a span for each of the steps that it became.
    steps: engine steps that the request took part in.
    cached: tokens of the first prompt that the engine had read before, for another request, and did not read again.
    """

    tokens: Tokens
    spans: tuple[Tokens, ...]
    logprobs: tuple[float, ...]
    reasons: tuple[str, ...]
    steps: int
    cached: int = 0


@dataclass(frozen=True, eq=False)
class Event:
    """Tokens that a request wrote since its event before, and with the last of them its result.

    index: its place among those that were asked for together. id: that of the engine, for `cancel`.
    """

    index: int
    id: int
    tokens: Tokens
    result: Result | None = None


class Load(NamedTuple):
    """The use of an engine: requests that run and that wait, streams that run, blocks of the cache that requests hold,
    all that there may be, and those that are kept beside, until a request needs their room."""

    running: int
    waiting: int
    streams: int
    blocks: int
    most_blocks: int
    kept: int = 0


class Dropped(RequestError):
    """Requests that the engine gave up, while others go on. `ids`: the engine's, of all; the message is of one."""

    def __init__(self, message: str, ids: tuple[int, ...]) -> None:
        super().__init__(message)
        self.ids = ids

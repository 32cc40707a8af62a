"""A window of guesses draws the codes of plain decoding, whatever is guessed; rows and codes kept decide its width."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import tiny_model
import torch
from engine_reference import make_decoder, mixed, naive, nothing, prompt, same
from scipy import stats

from cm3.document import Document
from cm3.engine import Codes, Engine, Request, Sampling
from cm3.engine.jacobi import MOST, WIDTHS, Foresight, Pace, Window
from cm3.errors import ConfigError, RequestError
from cm3.generate import CM3Leon
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder
from cm3.model.int8 import placed
from cm3.vocab import Vocab


@pytest.mark.parametrize("parallel", [1, 3, MOST, "auto"])
def test_every_window_gives_the_tokens_of_plain_decoding_in_fewer_steps(
    decoder: Decoder, vocab: Vocab, parallel: int | str
) -> None:
    requests = mixed(vocab)
    plain = Engine(decoder, vocab).run(requests)  # which are the naive loop's, test_engine.py
    # Few rows, too, so that requests join and leave while others are in the middle of a window.
    for engine in (Engine(decoder, vocab, parallel=parallel), Engine(decoder, vocab, max_streams=5, parallel=parallel)):
        results = engine.run(requests)
        for result, other in zip(results, plain, strict=True):
            same(result, other)
            assert result.steps <= other.steps
        if parallel not in (1, "auto"):
            assert sum(r.steps for r in results) < sum(r.steps for r in plain)
        assert engine.reserved == 0


def test_any_guesses_give_the_same_codes(one_decoder: Decoder, vocab: Vocab, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = mixed(vocab)
    plain = Engine(one_decoder, vocab).run(requests)
    look, rng = Foresight.look, np.random.default_rng(0)

    def wild(self: Foresight, width: int, columns: int | None) -> int:
        number = look(self, width, columns)
        self.guesses = rng.integers(vocab.image_start, vocab.size, len(self.guesses)).tolist()
        return number

    monkeypatch.setattr(Foresight, "look", wild)
    for one, other in zip(Engine(one_decoder, vocab, parallel=6).run(requests), plain, strict=True):
        same(one, other)


def test_samples_of_one_long_prompt_share_it_and_read_windows(one_decoder: Decoder, vocab: Vocab) -> None:
    streams = (prompt(vocab, 130, 1), nothing(vocab))
    requests = [Request(streams, (Codes.image(16),), Sampling(seed=i, guidance=2.0)) for i in range(5)]
    for one, other in zip(
        Engine(one_decoder, vocab, parallel=8).run(requests), Engine(one_decoder, vocab).run(requests), strict=True
    ):
        same(one, other)
        assert one.steps < other.steps


def test_cancelled_within_a_window_the_others_go_on(one_decoder: Decoder, vocab: Vocab) -> None:
    requests = mixed(vocab)
    engine = Engine(one_decoder, vocab, parallel=4)
    ids = [engine.add(request) for request in requests]
    results = dict(itertools.chain.from_iterable(engine.step() for _ in range(3)))
    gone = [id for id in ids[::3] if engine.cancel(id)]
    assert gone
    while engine.busy:
        results |= engine.step()
    assert sorted(results) == sorted(set(ids) - set(gone))
    for id, result in results.items():
        assert result.tokens.ids.tolist() == naive(one_decoder, vocab, requests[ids.index(id)])[0]
    assert engine.reserved == 0


def test_events_of_a_window_bring_several_codes(one_decoder: Decoder, vocab: Vocab) -> None:
    request = Request((prompt(vocab, 5, 1),), (Codes.image(16),), Sampling(seed=1, temperature=0.2))
    events = list(Engine(one_decoder, vocab, parallel=8).stream([request]))
    written = np.concatenate([event.tokens.ids for event in events])
    assert written.tolist() == naive(one_decoder, vocab, request)[0]
    assert max(event.tokens.length for event in events) > 1


def test_logits_that_are_not_finite_drop_the_request(vocab: Vocab) -> None:
    decoder = make_decoder(vocab)
    engine = Engine(decoder, vocab, parallel=4)
    request = Request((prompt(vocab, 5, 1),), (Codes.image(16),), Sampling(seed=1))
    engine.add(request)
    engine.step()
    engine.step()
    kept = decoder.norm.forward
    decoder.norm.forward = lambda x: kept(x) * torch.nan  # type: ignore[method-assign]
    with pytest.raises(RequestError, match="logits that are not finite"):
        engine.step()
    decoder.norm.forward = kept  # type: ignore[method-assign]
    assert not engine.busy
    same(engine.run([request])[0], Engine(decoder, vocab).run([request])[0])


CODES, LONG, SEEDS = 3, 3, 1500
SETTINGS = {
    "plain": (1, Sampling()),
    "temperature": (1, Sampling(temperature=0.6)),
    "top-p": (1, Sampling(temperature=2.0, top_p=0.8)),
    "guided": (2, Sampling(temperature=1.5, guidance=2.0)),
    "plausible": (2, Sampling(temperature=1.5, guidance=1.5, contrast="max", alpha=0.1)),
}


def outcomes(parallel: int, streams: int, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """Count the sequences of codes that many seeds give, and return how many of each one expects of exact sums."""
    vocab = Vocab(text=256, image=CODES, masks=2, reserved=0)
    decoder = make_decoder(vocab, grid=(2, 2), context=16)
    asked = (prompt(vocab, 3, 1), nothing(vocab))[:streams]
    one = Request(asked, (Codes.image(LONG),), sampling)
    every = list(itertools.product(range(CODES), repeat=LONG))
    found = Engine(decoder, vocab, max_streams=200, parallel=parallel).run([one.seeded(i) for i in range(SEEDS)])
    counts = dict.fromkeys(every, 0)
    for result in found:
        counts[tuple((result.tokens.ids - vocab.image_start).tolist())] += 1
    return np.array(list(counts.values())), SEEDS * np.array([chance(decoder, vocab, one, codes) for codes in every])


def chance(decoder: Decoder, vocab: Vocab, request: Request, codes: tuple[int, ...]) -> float:
    """Return the probability of a sequence of codes, by the definitions of guidance, plausibility and top-p."""
    logits = []
    for stream in request.streams:
        ids = torch.tensor([[*stream.ids.tolist(), *(vocab.image_start + code for code in codes)]])
        cells = torch.tensor([[*stream.cells.tolist(), *range(1, LONG + 1)]])
        with torch.no_grad():
            out = decoder(ids, torch.arange(ids.shape[1])[None], Causal(), cells)[0, -LONG - 1 : -1]
        logits.append(out[:, vocab.image_start :].numpy())
    s, total = request.sampling, 1.0
    for i, code in enumerate(codes):
        scores = logits[0][i]
        if s.guidance is not None:
            scores = logits[1][i] + s.guidance * (logits[0][i] - logits[1][i])
        if s.contrast is not None:
            p = np.exp(logits[0][i])
            scores = np.where(p < s.alpha * p.max(), -np.inf, scores)
        p = np.exp(scores / s.temperature)
        p /= p.sum()
        more = np.array([p[p > x].sum() for x in p])
        p = np.where(more < s.top_p, p, 0.0)
        total *= float(p[code] / p.sum())
    return total


def p_value(counts: np.ndarray, expected: np.ndarray) -> float:
    """Return the chi-square test's, outcomes of which fewer than 5 are expected together; 0 for an impossible one."""
    if counts[expected == 0].sum():
        return 0.0
    often = expected >= 5
    bins = [np.append(x[often], x[~often].sum()) for x in (counts, expected)]
    some = bins[1] > 0
    return float(stats.chisquare(bins[0][some], bins[1][some]).pvalue)


@pytest.mark.parametrize("name", SETTINGS)
def test_whole_sequences_are_distributed_as_in_plain_decoding(name: str) -> None:
    counts, expected = outcomes(LONG, *SETTINGS[name])
    assert (expected > 5).sum() >= 8, "the test would say little of a model that is nearly certain"
    assert p_value(counts, expected) > 1e-4


@pytest.mark.parametrize("name", SETTINGS)
def test_a_window_that_kept_what_it_drew_behind_wrong_guesses_would_show(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Foresight.take

    def trusting(self: Foresight, drawn: list[float], logprobs: list[float]) -> tuple[int, bool]:
        self.guesses = [int(id) for id in drawn]
        return take(self, drawn, logprobs)

    monkeypatch.setattr(Foresight, "take", trusting)
    assert p_value(*outcomes(LONG, *SETTINGS[name])) < 1e-4


def job(vocab: Vocab, cells: tuple[int, ...], *codes: int) -> Foresight:
    made = Foresight((Codes(cells),), vocab)
    for code in codes:
        made.accept(code)
    return made


def test_a_guess_is_the_code_above_else_the_one_before(vocab: Vocab) -> None:
    a = vocab.image_start
    whole = job(vocab, tuple(range(1, 17)), a + 1, a + 2, a + 3, a + 4, a + 5)
    assert whole.look(6, 4) == 5
    assert [code - a for code in whole.guesses] == [2, 3, 4, 5, 2]
    assert whole.ahead(0, 10) == (whole.ids + whole.guesses, list(range(1, 11)))
    assert whole.ahead(3, 7) == ((whole.ids + whole.guesses)[3:7], [4, 5, 6, 7])
    assert whole.ahead(2, 4) == (whole.ids[2:4], [3, 4])
    assert whole.look(3, 4) == 2 and len(whole.guesses) == 5, "what was guessed is kept for a wider window"
    box = job(vocab, (6, 7, 10, 11), a + 1, a + 2)
    assert box.look(MOST, 4) == 1 and box.guesses == [a + 1]
    flat = job(vocab, (6, 7, 10, 11), a + 1, a + 2)
    assert flat.look(MOST, None) == 1 and flat.guesses == [a + 2]
    assert job(vocab, (1, 2, 3)).look(MOST, 4) == 0, "nothing to guess from"


def test_what_is_right_is_written_and_the_rest_guessed(vocab: Vocab) -> None:
    a = vocab.image_start
    one = job(vocab, tuple(range(1, 17)), a)
    one.look(6, 4)
    one.guesses = [a + 1, a + 2, a + 9, a + 4, a + 5, a + 6]
    assert one.take([a + 1, a + 2, a + 3, a + 7], [-1.0, -2.0, -4.0, -8.0]) == (3, True)
    assert [id - a for id in one.ids] == [0, 1, 2, 3] and one.logprobs == [-7.0]
    assert [id - a for id in one.guesses] == [7, 5, 6]
    assert one.take([-1, a + 5], [0.0, 0.0]) == (0, False) and len(one.ids) == 4
    assert one.take([a + 7, -1, a + 6], [0.0, 0.0, 0.0]) == (1, True), "what follows nothing drawn is not believed"


def test_the_width_follows_rows_and_codes_kept(vocab: Vocab, one_decoder: Decoder) -> None:
    picture = job(vocab, tuple(range(1, 257)), vocab.image_start)
    short = job(vocab, (1, 2, 3, 4, 5, 6), vocab.image_start)

    def width(*jobs: Foresight, rows: int = 2) -> int:
        return Window("auto", one_decoder).width(jobs, rows)

    assert 1 < width(picture) < WIDTHS[-1]
    widths = [width(*[picture] * n, rows=2 * n) for n in (1, 2, 4, 8, 16, 32)]
    assert widths == sorted(widths, reverse=True) and widths[-1] == 1, "in a large batch a window does not pay"
    assert width(short) <= 5, "no wider than what is left"
    for _ in range(200):
        picture.pace.add(8, 8)
    assert width(picture) > widths[0]
    for _ in range(200):
        picture.pace.add(8, 1)
    window = Window("auto", one_decoder)
    assert window.width([picture], 2) == 1 and 1 < window.hold < 100, "asked again after some passes"
    assert Window(8, one_decoder).width([picture], 2) == 8 and Window(8, one_decoder).width([short], 2) == 5
    assert Window(0, one_decoder).width([picture], 2) == 1


def test_where_it_was_not_measured_or_rounds_more_auto_is_plain(vocab: Vocab) -> None:
    picture = job(vocab, tuple(range(1, 257)), vocab.image_start)
    halves = make_decoder(vocab).bfloat16(), make_decoder(vocab).half()
    for elsewhere in (*halves, make_decoder(vocab).to("meta"), placed(make_decoder(vocab), "cpu", "int8")):
        window = Window("auto", elsewhere)
        assert window.width([picture], 2) == 1 and window.hold > 1000
        assert Window(8, elsewhere).width([picture], 2) == 8


@pytest.mark.parametrize("most", [1.5, 4.0, 8.0])
def test_a_pace_learns_what_an_endless_window_keeps(most: float) -> None:
    pace, rng = Pace(), np.random.default_rng(0)
    for _ in range(400):
        places = int(rng.choice([4, 8, 16]))
        mean = 1 + (most - 1) * (1 - np.exp((1 - places) / (2 * most)))
        pace.add(places, int(mean) + (rng.random() < mean % 1))
    assert pace.most == pytest.approx(most, rel=0.2)
    for _ in range(400):
        pace.add(1, 1)
    assert pace.most == pytest.approx(Pace().most, rel=1e-3), "single places let it fade"


@pytest.mark.parametrize("value", ["wide", "", -1, MOST + 1, 2.5, True, None])
def test_a_window_that_is_none_is_refused(one_decoder: Decoder, vocab: Vocab, value: object) -> None:
    with pytest.raises(ConfigError, match=r"^parallel="):
        Engine(one_decoder, vocab, parallel=value)  # type: ignore[arg-type]


def test_a_model_draws_the_same_picture_in_windows_and_does_so_unasked() -> None:
    bundle = tiny_model.bundle(context=240)
    settings: list[dict[str, Any]] = [{"parallel": 0}, {"parallel": 4}, {"parallel": "auto"}, {}]
    steps = [drawn(CM3Leon(bundle, **options)) for options in settings]
    assert all(document == steps[0][1] for _, document in steps)
    assert steps[3][0] == steps[2][0] < steps[0][0] and steps[1][0] < steps[0][0]
    with pytest.raises(ConfigError, match=r"^parallel='all': must be 'auto', or a number of codes from 0 to"):
        CM3Leon(bundle, parallel="all")


def drawn(model: CM3Leon) -> tuple[int, Document]:
    """Draw a picture; returns the steps that it took, and its document."""
    done: list[tuple[int, int]] = []
    made = model.generate("a red circle", seed=3, guidance=2.0, temperature=0.0, progress=lambda *at: done.append(at))
    return len(done), made.document

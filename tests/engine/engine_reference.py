"""A small decoder, requests of every kind, and the naive loop that the engine is compared with."""

from __future__ import annotations

import numpy as np
import torch

from cm3.engine import Codes, Force, FreeText, Request, Result, Sampling
from cm3.engine.sample import uniform
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.vocab import Tokens, Vocab


def make_decoder(vocab: Vocab, **settings: object) -> Decoder:
    """Random weights, scaled so that logits spread by about 2. float64, so that batching cannot round differently."""
    config = DecoderConfig(
        **{"vocab_size": vocab.size, "d_model": 32, "layers": 2, "heads": 4, "context": 192, "grid": (4, 4)} | settings
    )
    torch.manual_seed(0)
    decoder = Decoder(config)
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if weight.dim() > 1:
                scale = 0.35 if name.startswith("embed") else 0.25
                weight.copy_(torch.randn_like(weight) * scale)
    return decoder.double().eval()


def prompt(vocab: Vocab, length: int, seed: int, codes: int = 0) -> Tokens:
    """`</s>`, some text, a break, and perhaps some codes with cells."""
    rng = np.random.default_rng(seed)
    text = rng.integers(vocab.text_start, vocab.image_start, length)
    image = rng.integers(vocab.image_start, vocab.size, codes)
    ids = [vocab.eos, *text.tolist(), vocab.brk, *image.tolist()]
    return Tokens.of(ids, [0] * (length + 2) + list(range(1, codes + 1)))


def nothing(vocab: Vocab) -> Tokens:
    return Tokens.of([vocab.eos, vocab.mask(0), vocab.brk])


def mixed(vocab: Vocab) -> list[Request]:
    """Pictures, captions and infilling, with every kind of guidance, of many lengths."""
    brk, eos, eoss = vocab.brk, vocab.eos, vocab.eoss
    none = nothing(vocab)
    two, three = (prompt(vocab, 5, 1), none), (prompt(vocab, 3, 2, 8), none, prompt(vocab, 0, 2, 8))
    infill = (Force((vocab.mask(0),)), FreeText(6, end=(eoss,)), Force((eoss, vocab.mask(1), brk)), Codes((3, 4, 7)))
    image = (Codes.image(16), Force((eos,)))
    return [
        Request(two, image, Sampling(seed=1, guidance=3.0)),
        Request((prompt(vocab, 9, 3, 12),), (FreeText(12, end=(eos, brk)),), Sampling(seed=2)),
        Request(two, image, Sampling(seed=3, contrast="kmax", k=8, alpha=0.3)),
        Request((prompt(vocab, 30, 4),), infill, Sampling(seed=4, temperature=0.7)),
        Request(three, (Codes((1, 2, 5, 6)),), Sampling(seed=5, guidance=4.0, image_guidance=1.5, top_p=0.9)),
        Request((none,), (Codes.image(5), Force((brk,)), FreeText(3, end=(eos,), min_tokens=2)), Sampling(seed=6)),
        Request(two, (*infill, *image), Sampling(seed=7, guidance=2.0, contrast="max"), Sampling(seed=8, top_p=0.8)),
        Request((prompt(vocab, 2, 5), none), (FreeText(9, end=(eoss,), guided=True),), Sampling(seed=9, guidance=1.5)),
        Request(two, (Codes((2,)), Force(tuple(range(6, 16))), *image), Sampling(seed=10, temperature=0.0)),
        Request((prompt(vocab, 5, 1),), image, Sampling(seed=1)),
    ]


def naive(decoder: Decoder, vocab: Vocab, request: Request) -> tuple[list[int], list[int], list[float]]:
    """Read every stream afresh for every token; masks over the whole vocabulary; the formulas as they are printed."""
    streams = [(s.ids.tolist(), s.cells.tolist()) for s in request.streams]
    produced: list[int] = []
    cells_out: list[int] = []
    logprobs: list[float] = []

    def write(token: int, cell: int) -> None:
        produced.append(token)
        cells_out.append(cell)
        for ids, cells in streams:
            ids.append(token)
            cells.append(cell)

    def logits(i: int) -> np.ndarray:
        ids, cells = (torch.tensor([x]) for x in streams[i])
        with torch.no_grad():
            return decoder(ids, torch.arange(ids.shape[1])[None], Causal(), cells)[0, -1].double().numpy()

    def sample(allowed: np.ndarray, guided: bool, s: Sampling) -> int:
        c = np.where(allowed, logits(0), -np.inf)
        p = np.exp(c - c.max()) / np.exp(c - c.max()).sum()
        scores = c.copy()
        if guided and len(streams) > 1:
            u = logits(1)
            g = 1.0 if s.guidance is None else s.guidance
            if s.contrast and s.guidance is None:
                scores = c - u
            elif len(streams) == 2:
                scores = u + g * (c - u)
            else:
                img = logits(2)
                scores = u + (s.image_guidance or 1.0) * (img - u) + g * (c - img)
        if guided and s.contrast:
            bar = s.alpha * np.sort(p)[::-1][s.k - 1 if s.contrast == "kmax" else 0]
            scores[p < bar] = -np.inf
        scores[~allowed] = -np.inf
        if s.temperature == 0:
            token = int(scores.argmax())
        else:
            q = np.exp((scores - scores.max()) / s.temperature)
            q /= q.sum()
            order = np.argsort(-q, kind="stable")
            drop = order[np.cumsum(q[order]) - q[order] >= s.top_p]
            q[drop] = 0
            u01 = float(uniform(torch.tensor(s.seed), torch.tensor(len(produced))))
            token = int(np.searchsorted(np.cumsum(q), u01 * q.sum(), side="right"))
        logprobs[-1] += float(np.log(p[token]))
        return token

    every = np.arange(vocab.size)
    for step in request.plan:
        if isinstance(step, Force):
            for token in step.ids:
                write(token, 0)
            continue
        s = request.sampling_of(step)
        logprobs.append(0.0)
        if isinstance(step, Codes):
            for cell in step.cells:
                write(sample(vocab.is_image(every), step.guided, s), cell)
            continue
        for n in range(step.limit + 1):
            if n == step.limit:
                write(step.end[0], 0)
                break
            ends = np.isin(every, step.end) & (n >= step.min_tokens)
            token = sample(vocab.is_text(every) | ends, step.guided, s)
            write(token, 0)
            if token in step.end:
                break
    return produced, cells_out, logprobs


def same(a: Result, b: Result) -> None:
    np.testing.assert_array_equal(a.tokens.ids, b.tokens.ids)
    np.testing.assert_array_equal(a.tokens.cells, b.tokens.cells)
    assert a.reasons == b.reasons
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)
    for x, y in zip(a.spans, b.spans, strict=True):
        np.testing.assert_array_equal(x.ids, y.ids)

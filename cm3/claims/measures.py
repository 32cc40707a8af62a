"""The measurements of a plan: a model (a bundle's name or folder) and settings -> plain values, one for each case.

Values stand by case, and the cases of one seed are the same for every model and setting, so that whatever is compared
is compared pair by pair (verdicts.py).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cm3.claims import drawn_world as world
from cm3.document import Document, Gap
from cm3.generate import CM3Leon
from cm3.generate.rank import log_likelihoods
from cm3.retrieval.embed import load_encoder
from cm3.sequence.mask import MaskLaw, cm3_mask, move_spans
from cm3.sequence.segments import segments
from cm3.vocab import Tokens

VERSION = 1
"""Goes up where the same settings would give other values."""
BATCH = 32
"""Prompts that are put to a model together."""


@functools.lru_cache(maxsize=1)
def opened(model: str) -> CM3Leon:
    """Return a model, with the bank and the encoder that ship; the last one is kept."""
    return CM3Leon.load(model, memory=world.BANK, encoder=world.ENCODER)


def pictures(
    model: str, n: int, seed: int, objects: Sequence[float], guidance: float, temperature: float
) -> dict[str, Any]:
    """Draw described scenes: the share of the parts that are right, and whether all is, of each."""
    return _drawn(model, world.described(seed, n, objects), guidance=guidance, temperature=temperature)


def named(model: str, n: int, seed: int, split: str, retrieve: int, **sampling: Any) -> dict[str, Any]:
    """Draw scenes that are only named, with so many documents read; `found`: whether the first was the right one."""
    cases = world.named_cases(seed, n, "train" if split == "train" else "test")
    return _drawn(model, cases, retrieve=retrieve, **sampling)


def _drawn(model: str, cases: Sequence[world.Said], **sampling: Any) -> dict[str, Any]:
    parts, exact = [], []
    for at in range(0, len(cases), BATCH):
        some = cases[at : at + BATCH]
        made = opened(model).generate_many([c.prompt for c in some], seeds=[c.seed for c in some], **sampling)
        for case, one in zip(some, made, strict=True):
            right, all_right = world.drawn_right(one.document.images[-1].pixels, case.scene)
            parts.append(round(right, 4))
            exact.append(int(all_right))
    return {"parts": parts, "exact": exact}


def candidates(
    model: str, first: int, n: int, seed: int, objects: Sequence[float], each: int, **sampling: Any
) -> dict[str, Any]:
    """Draw `each` pictures of each prompt: for each how well the encoder finds it to fit the words (a cosine), and what
    is right in it."""
    encoder, found = load_encoder(world.ENCODER), dict[str, list[list[float]]](fit=[], parts=[], exact=[])
    for case in world.described(seed, n, objects, first):
        made = opened(model).generate(case.prompt, each, seed=case.seed, **sampling)
        drawn = [document.images[-1].pixels for document in made.documents]
        judged = [world.drawn_right(picture, case.scene) for picture in drawn]
        fits = encoder.images(drawn) @ encoder.texts([case.prompt])[0]
        found["fit"].append([round(float(fit), 5) for fit in fits])
        found["parts"].append([round(right, 4) for right, _ in judged])
        found["exact"].append([int(right) for _, right in judged])
    return found


def losses(model: str, n: int, seed: int, objects: Sequence[float]) -> dict[str, Any]:
    """Measure nats a code of true pictures given their words, and nats a token of true words given their picture, of
    each document that no training saw."""
    made = opened(model)
    vocab, documents = made.vocab, [d for d, _ in world.documents(seed, n, objects, made.image_size)]
    drawn = made.codec.encode_many(documents)
    said = [_moved(tokens, made) for tokens in drawn]
    begins = [int(np.flatnonzero(t.cells == 1)[0]) for t in drawn]
    codes = made.grid[0] * made.grid[1]
    # The picture's end and what follows it are given to every model alike: one token, counted with neither.
    images = log_likelihoods(made.decoder, [t.slice(0, b + codes) for t, b in zip(drawn, begins, strict=True)], begins)
    ends = [int(np.flatnonzero(vocab.is_mask(t.ids))[1]) + 1 for t in said]
    texts = log_likelihoods(made.decoder, said, ends)
    lengths = [t.length - end for t, end in zip(said, ends, strict=True)]
    return {
        "image": [round(-value / codes, 5) for value in images],
        "text": [round(-value / length, 5) for value, length in zip(texts, lengths, strict=True)],
    }


def _moved(tokens: Tokens, model: CM3Leon) -> Tokens:
    """Put the words of a captioned picture to its end, as a description is asked for."""
    words = next(s for s in segments(tokens.ids, model.vocab) if model.vocab.is_text(tokens.ids[s[0] : s[0] + 1]).any())
    return move_spans(tokens, [words], model.vocab)


def captions(model: str, n: int, seed: int, objects: Sequence[float]) -> dict[str, Any]:
    """Describe pictures, the likeliest token each time: whether what is said is exactly true, of each."""
    made, exact = opened(model), []
    cases = world.documents(seed, n, objects, made.image_size)
    for at in range(0, n, BATCH):
        some = cases[at : at + BATCH]
        prompts = [Document.of(Gap("text"), document.images[0]) for document, _ in some]
        said = made.generate_many(prompts, seeds=[0] * len(some), temperature=0.0, candidates=1, max_tokens=64)
        exact += [int(world.said_right(one.document.text, scene)) for one, (_, scene) in zip(said, some, strict=True)]
    return {"exact": exact}


def answers(model: str, n: int, seed: int, objects: Sequence[float]) -> dict[str, Any]:
    """Answer questions about pictures: whether the answer is the one, of each."""
    made, exact = opened(model), []
    cases = world.questions(seed, n, objects, made.image_size)
    for at in range(0, n, BATCH):
        some = cases[at : at + BATCH]
        asked = [{"question": case.fields["question"], "image": case.fields["image"]} for case in some]
        replies = made.ask_many("vqa2", asked, seeds=[0] * len(some), max_tokens=16)
        exact += [
            int(str(reply.fields["answer"]).strip() == case.fields["answer"])
            for reply, case in zip(replies, some, strict=True)
        ]
    return {"exact": exact}


def masked(law: MaskLaw, n: int, seed: int, objects: Sequence[float]) -> dict[str, Any]:
    """Mask documents as a run with this law does: whether a caption is moved to the end whole, of each."""
    made, whole = opened(world.NAME), []
    for i, tokens in enumerate(
        made.codec.encode_many([d for d, _ in world.documents(seed, n, objects, made.image_size)])
    ):
        moved = cm3_mask(tokens, made.vocab, law, np.random.default_rng([seed, i]))
        whole.append(
            int(moved.length > 2 and bool(made.vocab.is_mask(moved.ids[1:2]).any()) and moved.ids[2] == made.vocab.brk)
        )
    return {"whole": whole}


def retrieved(n: int, seed: int, split: str) -> dict[str, Any]:
    """Search the bank for named scenes: whether the first document is the right one, of each."""
    cases = world.named_cases(seed, n, "train" if split == "train" else "test")
    found = [opened(world.NAME).retrieve(case.prompt, 1) for case in cases]
    return {"first": [int(bool(f) and f[0].document.id == f"emblem/{split}/{i}") for i, f in enumerate(found)]}

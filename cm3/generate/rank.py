"""The choice among several candidates: the one whose whole document, read left to right, is the likeliest.

The filling of a hole is written before the model has seen how it fits with what comes after: a caption after its
picture was never asked how well that picture follows from it. The finished document, in its own order, asks just that,
so one more look at it tells good candidates from bad ones (RA-CM3 keeps 1 of 32 captions by likelihood, the paper 1 of
8 pictures by CLIP: docs/paper.md 1.9, 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cm3.errors import RequestError
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder
from cm3.sequence.segments import document_of, runs, text_tokens
from cm3.tokens.text import TextTokenizer
from cm3.vocab import Tokens, Vocab


def log_likelihoods(
    decoder: Decoder, sequences: Sequence[Tokens], starts: Sequence[int], batch: int = 64
) -> list[float]:
    """Return the log-probability (nats) of each sequence from its token `starts[i]`, at least 1, given those before it.

    Minus infinity for one that is longer than the decoder's context, and so cannot be judged. Raises `RequestError`
    where logits are not finite.
    """
    found = token_log_likelihoods(decoder, sequences, starts, batch)
    return [-math.inf if one is None else float(one.sum()) for one in found]


def token_log_likelihoods(
    decoder: Decoder, sequences: Sequence[Tokens], starts: Sequence[int], batch: int = 64
) -> Iterator[Tensor | None]:
    """Yield the same of each token, float32 (s - starts[i],); None for a sequence that is longer than the context."""
    for at in range(0, len(sequences), batch):
        some, begins = sequences[at : at + batch], starts[at : at + batch]
        longest = min(max(s.length for s in some), decoder.config.context)
        ids, cells = (np.zeros((len(some), longest), np.int64) for _ in range(2))
        for row, s in enumerate(some):
            ids[row, : s.length], cells[row, : s.length] = s.ids[:longest], s.cells[:longest]
        with torch.inference_mode():
            # Padding stands behind each sequence, where a causal model does not look.
            tokens, places = (torch.from_numpy(a).to(decoder.device) for a in (ids, cells))
            positions = torch.arange(longest, device=decoder.device).expand(len(some), -1)
            hidden = decoder.hidden(tokens, positions, Causal(), places)
            found: list[Tensor | None] = []
            for row, (s, begin) in enumerate(zip(some, begins, strict=True)):
                if s.length > longest:
                    found.append(None)
                    continue
                logits = decoder.head(hidden[row, begin - 1 : s.length - 1]).float()
                finite(logits)
                found.append(logits.log_softmax(-1).gather(1, tokens[row, begin : s.length, None])[:, 0])
        yield from found


def finite(logits: Tensor) -> None:
    """Raise `RequestError` where logits are not."""
    if not bool(logits.isfinite().all()):
        raise RequestError(
            "the model gave logits that are not finite; check the weights, or run in bfloat16 or float32"
        )


def canonical(tokens: Tokens, text: TextTokenizer, vocab: Vocab) -> Tokens:
    """Return the same document with each run of words tokenised as a whole, as in training.

    A filled hole leaves a seam in its words that the tokenizer itself would not have cut, and such are unlikely. In the
    grammar "chameleon" words are only ever gone on with, and turns stand among them: it is returned as it is.
    """
    if vocab.grammar == "chameleon":
        return tokens
    parts = [tokens.slice(start, stop) for start, stop in runs(tokens.ids, vocab)[:-1]]
    for i, part in enumerate(parts):
        if vocab.is_text(part.ids).any():
            words = text.decode_bytes((part.ids - vocab.text_start).tolist())
            parts[i] = text_tokens(text.encode_bytes(words), vocab)
    return document_of(parts, vocab)

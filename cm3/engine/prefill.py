"""Read the prompts of new rows: prefixes once, equal prompts once, prompts of like length together.

A prefix is read behind what another that is there, an active row, or what was kept has in common with it: only the rest
is computed. A row begins with its prefix and with what was kept of its prompt.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cm3.engine.cache import BLOCK, Cache, Chain, Prefill, Prefix
from cm3.engine.schedule import Row
from cm3.model.decoder import Decoder

TOKENS = 8192
"""Padded tokens that one pass sees at most, prefixes among them (one long prompt may exceed it)."""

_Place = tuple[bytes, int]
"""Where new tokens stand: the hash of all before them, and how many of these lie in the row itself."""


def prefill(decoder: Decoder, cache: Cache, rows: list[Row]) -> None:
    """Read all but the last token of the rows whose prompts are not read yet."""
    new: list[Row] = []
    for row in rows:
        prefix = cache.shared.get(row.at)
        if row.fed >= row.prompt.length - 1 and (prefix is None or prefix.whole):
            continue
        # Whatever an interrupted pass left is read again: all streams of a request then draw at the same step.
        new.append(row)
        row.fed = missed = 0
        if prefix is not None and not prefix.whole:
            missed = prefix.length - _read_prefix(decoder, cache, prefix, row, rows)
        row.fed = cache.recall(row.at, row.chain)
        row.found = row.fed - missed
    prompts: dict[tuple[_Place, bytes], list[Row]] = {}
    for row in new:
        if row.pending > 1:
            after = row.chain[row.fed // BLOCK - 1] if row.fed else b"", row.fed - cache.held(row.at)
            prompts.setdefault((after, row.next(row.pending - 1).tobytes()), []).append(row)
    batches: dict[_Place, list[list[list[Row]]]] = {}
    for (after, _), same in sorted(prompts.items(), key=lambda item: item[1][0].pending):
        length, some = same[0].pending - 1, batches.setdefault(after, [])
        seen = length + same[0].fed
        if some and length < 2 * (some[-1][0][0].pending - 1) and seen * (len(some[-1]) + 1) <= TOKENS:
            some[-1].append(same)
        else:
            some.append([same])
    for (_, at), batch in ((after, batch) for after, some in batches.items() for batch in some):
        first, counts = batch[0][0], [same[0].pending - 1 for same in batch]
        targets = [[row.at for row in same] for same in batch]
        before = cache.lift(first.at, first.fed) if first.fed else None
        _read(
            decoder, [same[0] for same in batch], counts, Prefill(cache, targets, counts, decoder.device, before, at=at)
        )
        for same, count in zip(batch, counts, strict=True):
            for row in same:
                row.fed += count


def tokens_of(rows: list[Row], counts: list[int], device: torch.device) -> Tensor:
    """Return the next `counts[i]` tokens of row i, padded to the right: ids and cells, int64 (2, rows, most)."""
    padded = np.zeros((2, len(rows), max(counts)), dtype=np.int64)
    for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
        padded[:, i, :count] = row.next(count)
    return torch.from_numpy(padded).to(device)


def _read_prefix(decoder: Decoder, cache: Cache, prefix: Prefix, row: Row, rows: list[Row]) -> int:
    """Read the prefix of a row, or copy it, as far as it is there; returns how many of its tokens were."""
    sources: list[tuple[int, Prefix | int | Chain]] = [(BLOCK * cache.kept.use(prefix.chain), prefix.chain)]
    sources += [(_common(p.chain, prefix.chain), p) for p in cache.prefixes.values() if p.whole]
    sources += [(_common(r.chain, prefix.chain), r.at) for r in rows if r.fed >= r.prompt.length - 1]
    row.fed, source = max(sources, key=lambda found: found[0])
    before = cache.lift(source, row.fed) if row.fed else None
    if before is not None and row.fed == prefix.length:
        prefix.layers = {layer: [x.clone() for x in before(layer)] for layer in range(decoder.config.attentions)}
    else:
        count = prefix.length - row.fed
        _read(decoder, [row], [count], Prefill(cache, [[]], [count], decoder.device, before, prefix))
    prefix.whole = True
    return row.fed


def _read(decoder: Decoder, rows: list[Row], counts: list[int], attend: Prefill) -> None:
    ids, cells = tokens_of(rows, counts, decoder.device)
    start = rows[0].fed
    positions = torch.arange(start, start + ids.shape[1], device=ids.device).expand(len(rows), -1)
    decoder.hidden(ids, positions, attend, cells)


def _common(some: Chain, others: Chain) -> int:
    """Return the tokens in which two prompts begin alike, in whole blocks."""
    alike = (a == b for a, b in zip(some, others, strict=False))
    return BLOCK * next((i for i, same in enumerate(alike) if not same), min(len(some), len(others)))

"""Ids of a model of Chameleon's family: from those of its file to the ranges of `Vocab`, and back.

    the file    <s> <pad> </s> <unk> | IMGIMG..Z codes | <eoss> <racm3:break> <sentinel:i> <reservedNNNNN> | words
    ours        <s> <pad> </s> <unk> <break> <eoss> | reserved | words | image codes

The map is a permutation, and it follows from the text tokenizer's file alone, so going back needs nothing else. An
image code is its number in the image tokenizer's codebook, an id is a row of the embedding: the two meet in
`IdMap.images` and nowhere else. Rows of the embedding and of the head are permuted with it: ours are `file[to_file]`,
the file's are `ours[to_ours]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cm3.errors import CheckpointError, shown
from cm3.files import parse_json
from cm3.tokens.chameleon import Entries, entries_of, vocab_of
from cm3.vocab import Vocab

_SHOWN = 8


@dataclass(frozen=True, eq=False)
class IdMap:
    """A permutation of a model's ids. `vocab`: ours, of the grammar "chameleon". `to_file` int64 (v,): the file's id of
    each of ours. `to_ours` int64 (v,): its inverse."""

    vocab: Vocab
    to_file: np.ndarray
    to_ours: np.ndarray

    @classmethod
    def of(
        cls,
        tokenizer_json: bytes,
        rows: int | None = None,
        vocabulary_map: Mapping[str, Any] | None = None,
        where: str = "tokenizer.json",
        side: int | None = None,
    ) -> IdMap:
        """Return the map of a text tokenizer's file, Meta's or transformers'; `where` names it in messages.

        `rows`: those of the weights, which must be as many as the file has ids. `vocabulary_map`: that of transformers'
        config.json, which must say the same. `side`: that of Lumina-mGPT's pictures, whose marks the vocabulary then
        has. Raises one `CheckpointError` that lists all that is wrong, and `ConfigError` as `marks_of`.
        """
        entries = entries_of(parse_json(tokenizer_json, where, CheckpointError), where, rows)
        size = len(entries.names)
        wrong = []
        if rows is not None and rows != size:
            wrong.append(f"names {size} ids, the weights have {rows} rows")
        for name, count, least in (("text", len(entries.text), 256), ("image", len(entries.images), 2)):
            if count < least:
                wrong.append(f"has {count} {name} entries, at least {least} are needed")
        wrong += _differences(entries, vocabulary_map or {})
        if wrong:
            more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise CheckpointError(
                f"{where}: {'; '.join(wrong[:_SHOWN])}{more}; give the files of one model, none of another"
            )
        fixed = [entries.fixed[name] for name in ("bos", "pad", "eos", "unk", "brk", "eoss")]
        to_file = np.array([*fixed, *entries.reserved, *entries.text, *entries.images], dtype=np.int64)
        to_ours = np.empty_like(to_file)
        to_ours[to_file] = np.arange(size)
        return cls(vocab_of(entries, side), to_file, to_ours)

    @property
    def turn(self) -> int | None:
        """Return our id of the end of a turn, or None."""
        return self.vocab.turn

    @property
    def images(self) -> np.ndarray:
        """Return the file's id of each image code, int64 (codes,)."""
        return self.to_file[self.vocab.image_start :]


def _differences(entries: Entries, vocabulary_map: Any) -> list[str]:
    """Return what transformers' `vocabulary_map` says otherwise than the file; reserved ids may have other names."""
    if not isinstance(vocabulary_map, Mapping):
        return ["vocabulary_map of config.json is no object of names and ids"]
    ids = {name: id for id, name in enumerate(entries.names)}
    reserved, wrong = set(entries.reserved), []
    for name, id in vocabulary_map.items():
        if ids.get(name, id) != id:
            wrong.append(f"{shown(name)} is {ids[name]}, and {shown(id)} in vocabulary_map")
        elif name not in ids and (type(id) is not int or id not in reserved):
            wrong.append(f"{shown(name)} is {shown(id)} in vocabulary_map, which is no reserved id here")
    if vocabulary_map and (lacking := [i for i in entries.images if entries.names[i] not in vocabulary_map]):
        wrong.append(f"vocabulary_map lacks {len(lacking)} of {len(entries.images)} image codes")
    return wrong

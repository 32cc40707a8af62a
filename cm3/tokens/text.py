"""Text to ids and back: byte-level BPE over the `tokenizers` library.

The alphabet is the 256 bytes, so any text and any bytes go in and come back exactly, and nothing is unknown. There are
no special tokens in here: those are ranges of `cm3.vocab.Vocab`, and no text that a user writes can spell one. The
split is GPT-2's (words keep their leading space). Paper section 2.1: a vocabulary of 56,320, trained on the text data.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.files import said, write

_PROBE = "A b  c\n\n\tit's 123 _x \u00e9 e\u0301 \u4e2d \U0001f600 </s><mask:0> \x00\u2028 "
"""Texts that a tokenizer must give back exactly: spaces, accents in both forms, bytes outside ASCII, our specials."""

WORD = 1000
"""Characters of the longest word that training learns from whole: what a merge costs grows with the word it is in."""
_RUNS = re.compile(r"\S+|\s+")
"""Runs without a space, and of spaces: no word of the split is longer than the run that it is in."""

_BATCH = 256
"""Texts that are encoded in one call of the library."""

_INVALID = re.compile("([\udc80-\udcff]+)")
"""Runs of bytes that are not UTF-8, as Python's `surrogateescape` spells them."""


def alphabet() -> dict[str, int]:
    """Return the byte that each character of the byte-level alphabet stands for (GPT-2's table).

    Printable bytes stand for themselves; the other 68 take the characters from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _is_grown(vocab: Mapping[str, int], merges: Sequence[Sequence[str]]) -> bool:
    """Tell whether a vocabulary is what training leaves: the bytes in order, then each merge's result where it is new.

    A tokenizer.json has no checksum; whatever is altered in its entries or its merges breaks this.
    """
    known = {char: i for i, char in enumerate(sorted(alphabet()))}
    for a, b in merges:
        if a not in known or b not in known:
            return False
        known.setdefault(a + b, len(known))
    return known == vocab


class TextTokenizer:
    """Byte-level BPE. Make one with `train` or `load`.

    `size` is the number of ids; every id is in [0, size). Ids concatenate: `decode_bytes(a + b)` is
    `decode_bytes(a) + decode_bytes(b)`. `cut` is how often `train` cut a word that was too long; 0 where it was loaded.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wrap a `tokenizers.Tokenizer`. Raises `ConfigError` when it is not a lossless byte-level BPE."""
        spec = json.loads(backend.to_str())
        if spec["model"]["type"] != "BPE" or spec["model"].get("dropout") or spec["added_tokens"]:
            raise ConfigError("tokenizer: must be a byte-level BPE without dropout and without added tokens")
        backend.no_truncation()
        backend.no_padding()
        bytes_of = alphabet()
        vocab = backend.get_vocab()
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise ConfigError("tokenizer: ids must run from 0 without a hole")
        if not all(char in bytes_of for token in vocab for char in token) or not all(
            char in vocab for char in bytes_of
        ):
            raise ConfigError("tokenizer: must spell its entries in the byte-level alphabet and hold all 256 bytes")
        if not _is_grown(vocab, spec["model"]["merges"]):
            raise ConfigError(
                "tokenizer: its entries must be the 256 bytes, then what each merge makes, in order; an id or "
                "a merge was altered"
            )
        self.cut = 0
        self._backend = backend
        self._bytes = [b""] * len(vocab)
        for token, i in vocab.items():
            self._bytes[i] = bytes(bytes_of[char] for char in token)
        self._byte_ids = [0] * 256
        for char, byte in bytes_of.items():
            self._byte_ids[byte] = vocab[char]
        if any(self.decode(self.encode(text)) != text for text in (_PROBE, " " + _PROBE)):
            raise ConfigError("tokenizer: text does not come back as it went in; no normaliser, no prefix space")

    @classmethod
    def train(cls, texts: Iterable[str], size: int, *, min_frequency: int = 2, progress: bool = False) -> TextTokenizer:
        """Learn `size` entries from `texts`, read once; the same texts give the same file, byte for byte.

        Runs of more than `WORD` characters without a space, or of spaces, are cut there and counted in `cut`: so the
        time grows with the text, not with the square of a word. A pair seen fewer than `min_frequency` times is not
        merged, so a small corpus may yield fewer than `size` entries: `.size` is the real number. `progress` draws a
        bar on stderr. Raises `ConfigError` for a size below 256, `DataError` for something that is not a string of
        valid Unicode.
        """
        if size < 256:
            raise ConfigError(f"size={size}: must be at least 256, one entry for each byte; give 256 or more")
        if isinstance(texts, str | bytes):
            raise DataError("texts: takes an iterable of strings, got one string; wrap it in a list")
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=min_frequency,
            show_progress=progress,
            special_tokens=[],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
        pieces = _Pieces(texts)
        backend.train_from_iterator(iter(pieces), trainer=trainer)
        made = cls(backend)
        made.cut = pieces.cut
        return made

    @classmethod
    def load(cls, path: str | Path) -> TextTokenizer:
        """Read a tokenizer.json. Raises `CheckpointError` for a file that is missing, damaged or of another kind."""
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"tokenizer {str(path)!r}: no such file; train one with `cm3 tokenizer text train`")
        return cls.parse(path.read_bytes(), path)

    @classmethod
    def parse(cls, data: bytes, path: str | Path) -> TextTokenizer:
        """Read the bytes of a tokenizer.json; `path` is for the message. Raises `CheckpointError` as `load`."""
        try:
            return cls(tokenizers.Tokenizer.from_str(data.decode("utf-8")))
        except Exception as error:  # the library raises bare Exception for whatever does not parse
            raise CheckpointError(
                f"tokenizer {str(path)!r}: damaged or not a byte-level BPE ({said(error)}); restore the file or train "
                "anew"
            ) from error

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json, complete or not at all; folders are made as needed. Raises `DiskError`."""
        write(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return what `save` writes."""
        return self._backend.to_str(pretty=True).encode()

    @property
    def size(self) -> int:
        """Return the number of ids."""
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`. Raises `DataError` for a lone surrogate, which is no character."""
        problem = _problem(text)
        if problem:
            raise DataError(problem)
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of any bytes: UTF-8 stretches as text, every other byte as the entry of that byte alone."""
        ids: list[int] = []
        for i, piece in enumerate(_INVALID.split(data.decode("utf-8", errors="surrogateescape"))):
            if i % 2:
                ids.extend(self._byte_ids[ord(char) - 0xDC00] for char in piece)
            elif piece:
                ids.extend(self._backend.encode(piece, add_special_tokens=False).ids)
        return ids

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of `ids`, exactly. Raises `DataError` for an id outside [0, size)."""
        pieces = []
        for at, i in enumerate(ids):
            if not 0 <= i < len(self._bytes):
                raise DataError(f"text id {i} at position {at}: this tokenizer has ids 0 to {len(self._bytes) - 1}")
            pieces.append(self._bytes[i])
        return b"".join(pieces)

    def stats(self, texts: Iterable[str], against: Mapping[str, tokenizers.Tokenizer] | None = None) -> dict[str, Any]:
        """Measure how well this tokenizer fits `texts`, which are read once.

        Gives their number (`texts`), `bytes` and `tokens`, `bytes_per_token`, the share of ids used (`ids_used`), and
        whether every text comes back as it was (`lossless`); `against` has the bytes a token of other tokenizers on the
        same texts, by name. Raises `DataError` for something that is not a string of valid Unicode.
        """
        others = dict(against or {})
        number, total, tokens, used, lossless = 0, 0, 0, set[int](), True
        spent = dict.fromkeys(others, 0)
        source = _checked(texts, "text")
        while batch := list(itertools.islice(source, _BATCH)):
            number += len(batch)
            total += sum(len(text.encode("utf-8")) for text in batch)
            for text, encoded in zip(
                batch, self._backend.encode_batch_fast(batch, add_special_tokens=False), strict=True
            ):
                tokens += len(encoded.ids)
                used.update(encoded.ids)
                lossless = lossless and self.decode(encoded.ids) == text
            for name, other in others.items():
                spent[name] += sum(len(e.ids) for e in other.encode_batch_fast(batch, add_special_tokens=False))
        return {
            "texts": number,
            "bytes": total,
            "tokens": tokens,
            "bytes_per_token": total / tokens if tokens else 0.0,
            "ids_used": len(used) / self.size,
            "lossless": lossless,
            "against": {name: total / count if count else 0.0 for name, count in spent.items()},
        }


def open_other(name: str) -> tokenizers.Tokenizer:
    """Return a tokenizer of any kind to compare with: a tokenizer.json, or a hub id such as openai-community/gpt2.

    Raises `CheckpointError` for one that is not at hand or cannot be read.
    """
    path = Path(name)
    try:
        if not path.is_file():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(name, "tokenizer.json"))
        backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # no file, no network, no such name, no access, no tokenizer: each in its own way
        raise CheckpointError(
            f"tokenizer {name!r}: is not at hand ({said(error)}); give a tokenizer.json or a hub id that can be reached"
        ) from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _problem(text: object) -> str:
    """Say why `text` cannot be encoded, or an empty string."""
    if not isinstance(text, str):
        return f"text: takes a string, got {type(text).__name__}"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return (
            f"text: lone surrogate U+{ord(text[error.start]):04X} at character {error.start} is no Unicode character; "
            "remove it, or give the bytes to encode_bytes"
        )
    return ""


class _Pieces:
    """Texts to learn from, with those cut that have a word of more than `WORD` characters; `cut` counts how often."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts, self.cut = texts, 0

    def __iter__(self) -> Iterator[str]:
        """Raise `DataError` for something that is no string of valid Unicode."""
        for text in _checked(self.texts):
            start = 0
            for run in _RUNS.finditer(text) if len(text) > WORD else ():
                for end in range(run.start() + WORD, run.end(), WORD):
                    self.cut += 1
                    yield text[start:end]
                    start = end
            yield text[start:]


def _checked(texts: Iterable[str], what: str = "training text") -> Iterator[str]:
    """Pass on `texts`; raise `DataError` at the first that cannot be encoded, naming which."""
    for i, text in enumerate(texts):
        problem = _problem(text)
        if problem:
            raise DataError(f"{what} {i}: {problem}")
        yield text

"""The text tokenizer of Chameleon's family: one file that names every id of the model, words among them.

    tokenizer.json    <s> <pad> </s> <unk>   IMGIMG..Z   <eoss> <racm3:break>   <sentinel:i> <reservedNNNNN>   words
    `Entries`         fixed                  images      fixed                  reserved                       text

What an entry is follows from the file alone: a name of six, a code spelled IMGIMG + its digits as A to J + Z, a special
that is neither, or a piece of text in the byte-level alphabet. Ids of text are [0, T), in the order of the file; the
rest is no text, so nothing that a user types can spell it. Names as in Meta's file; those that were renamed since, such
as `<image>`, stay reserved, as they are added tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from cm3.errors import CheckpointError, ConfigError, DataError, shown
from cm3.files import parse_json, said
from cm3.tokens.text import TextTokenizer, alphabet
from cm3.vocab import ADDED, Marks, Vocab

FIXED = {"<s>": "bos", "<pad>": "pad", "</s>": "eos", "<racm3:break>": "brk", "<eoss>": "eoss"}
"""Entries that have an id of their own in `Vocab`, and its name there."""
UNKNOWN = 3
"""The file's id of `Vocab.unk`, whatever its name is."""
TURN = "<reserved08706>"
"""The end of a turn."""
PLACE = "<reserved08707>"
"""A picture's place in transformers' prompts, which renames it."""
ROW = "<reserved08799>"
"""The mark behind a row of codes in Lumina-mGPT's pictures."""
STEP = 32
"""Pixels in which those pictures' sides are counted."""
_SPECIAL = re.compile(r"<(?:reserved|sentinel:)\d+>")
_CODE = re.compile(r"IMGIMG([A-J]+)Z")
_DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")
_PROBE = "".join(map(chr, range(0x21, 0x7F))) + " A b 12  c"
"""Printable text that has to come back as it was."""
_ALPHABET = alphabet().keys()
_SHOWN = 8


class Entries(NamedTuple):
    """The entries of a file by what they are; ids are the file's, in its order.

    `fixed`: the ids of `Vocab`'s six, by their names there. `images`: that of image code c is `images[c]`. `turn`: the
    id of the end of a turn, one of `reserved`, or None. `names`: by id.
    """

    fixed: dict[str, int]
    reserved: tuple[int, ...]
    text: tuple[int, ...]
    images: tuple[int, ...]
    turn: int | None
    names: tuple[str, ...]


def code_name(code: int) -> str:
    """Return the name of an image code: IMGIMGBAZ is 10."""
    return f"IMGIMG{str(code).translate(str.maketrans('0123456789', 'ABCDEFGHIJ'))}Z"


def is_chameleon(page: Any) -> bool:
    """Tell whether a tokenizer.json, parsed, names image codes."""
    try:
        return any(_CODE.fullmatch(name) for name in page["model"]["vocab"])
    except (TypeError, KeyError):
        return False


def side_name(side: int) -> str:
    """Return the name of Lumina-mGPT's mark of a height or a width of `side` pixels: <reserved08816> is 512."""
    return f"<reserved{8800 + side // STEP:05d}>"


def marks_of(entries: Entries, side: int) -> Marks:
    """Return the marks in Lumina-mGPT's pictures of `side` x `side` pixels, as ids of ours. Raises `ConfigError` for a
    size that its pictures do not have."""
    if side < STEP or side % STEP:
        raise ConfigError(f"size={side}: Lumina-mGPT counts the sides of pictures in {STEP} pixels; give a multiple")
    found = []
    for name, what in ((side_name(side), f"its mark of {side} pixels"), (ROW, "its mark of a row")):
        id = entries.names.index(name) if name in entries.names else -1
        if id not in entries.reserved:
            raise ConfigError(f"size={side}: the text tokenizer has no {name}, {what}; give another size or tokenizer")
        found.append(len(entries.fixed) + entries.reserved.index(id))
    return Marks(found[0], found[0], found[1])


def vocab_of(entries: Entries, side: int | None = None) -> Vocab:
    """Return the ranges of a file's ids, the end of a turn among them; with `side`, the marks of Lumina-mGPT's pictures
    of that size. Raises `ConfigError` as `marks_of`, and for marks without an end of a turn."""
    turn = None if entries.turn is None else len(entries.fixed) + entries.reserved.index(entries.turn)
    counts = {"text": len(entries.text), "image": len(entries.images), "reserved": len(entries.reserved)}
    marks = None if side is None else marks_of(entries, side)
    return Vocab(**counts, masks=0, grammar="chameleon", turn=turn, marks=marks)


def chameleon_file(text: TextTokenizer, codes: int) -> bytes:
    """Return a tokenizer.json in the order of Meta's, with the words of one of ours and names for `codes` image codes.

    Of the reserved entries it has two: the end of a turn, and the one that transformers renames `<image>`.
    """
    page = json.loads(text.to_bytes())
    names = ["<s>", "<pad>", "</s>", "<unk>", *map(code_name, range(codes)), "<eoss>", "<racm3:break>"]
    names += [TURN, PLACE]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    words = {name: len(names) + id for name, id in page["model"]["vocab"].items()}
    page["model"]["vocab"] = {name: id for id, name in enumerate(names)} | words
    page["added_tokens"] = [{"id": id, "content": name} | plain for id, name in enumerate(names)]
    return json.dumps(page, ensure_ascii=False).encode()


def vocab_for(text: TextTokenizer, codes: int, masks: int) -> Vocab:
    """Return the vocabulary of a model that no bundle has settled, by its tokenizers; `masks` for one of ours.

    Raises `ConfigError` where a Chameleon file names another number of image codes.
    """
    if not isinstance(text, ChameleonText):
        return Vocab(text=text.size, image=codes, masks=masks, reserved=0)
    vocab = vocab_of(text.entries)
    if vocab.image != codes:
        raise ConfigError(
            f"image tokenizer: has {codes} codes, and the text tokenizer's file names {vocab.image}; give the files of "
            "one model"
        )
    return vocab


def read_text_tokenizer(data: bytes, path: str | Path) -> TextTokenizer:
    """Read the bytes of a tokenizer.json of either kind; `path` is for the message. Raises `CheckpointError`."""
    try:
        page = parse_json(data, "tokenizer.json", CheckpointError)
    except CheckpointError:
        page = None
    return (ChameleonText if is_chameleon(page) else TextTokenizer).parse(data, path)


def load_text_tokenizer(path: str | Path) -> TextTokenizer:
    """Read a tokenizer.json of either kind. Raises `CheckpointError` as `TextTokenizer.load` does."""
    path = Path(path)
    return read_text_tokenizer(path.read_bytes(), path) if path.is_file() else TextTokenizer.load(path)


def entries_of(page: Any, where: str, rows: int | None = None) -> Entries:
    """Sort the entries of a tokenizer.json, parsed. `rows`: those of the weights, behind which `ADDED` is no entry.

    Raises one `CheckpointError` that lists all that is wrong.
    """
    try:
        pairs = [(str(name), id) for name, id in page["model"]["vocab"].items()]
        added = [(str(token["content"]), token["id"]) for token in page.get("added_tokens") or []]
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{where}: is no text tokenizer (it lacks model.vocab, or an added token has no content and id); give "
            "text_tokenizer.json or tokenizer.json of the model"
        ) from error
    wrong: list[str] = []
    if odd := [name for name, id in pairs + added if type(id) is not int or id < 0]:
        raise CheckpointError(f"{where}: ids must be whole numbers from 0, those of {_few(odd)} are not; restore it")
    ids, names = dict(pairs), dict[int, str]()
    if ADDED not in ids:
        added = [token for token in added if token != (ADDED, rows)]
    wrong += [f"{shown(name)} is id {ids[name]} and added as {id}" for name, id in added if ids.get(name, id) != id]
    for name, id in (ids | dict(added)).items():
        if names.setdefault(id, name) != name:
            wrong.append(f"id {id} is {shown(names[id])} and {shown(name)}")
    count = max(names, default=-1) + 1
    if count != len(names):
        # Not more than are shown are looked for: an id may be any number.
        missing = [id for _, id in zip(range(_SHOWN + 1), (i for i in range(count) if i not in names), strict=False)]
        wrong.append(f"{count - len(names)} ids below {count} have no entry ({_few(missing)})")
    fixed = {ours: found for name, ours in FIXED.items() if (found := (ids | dict(added)).get(name)) is not None}
    wrong += [f"{name} is missing" for name, ours in FIXED.items() if ours not in fixed]
    images: dict[int, int] = {}
    for id, name in names.items():
        if (match := _CODE.fullmatch(name)) is not None:
            code = int(match[1].translate(_DIGITS)) if len(match[1]) < 10 else -1
            if name != code_name(code) or images.setdefault(code, id) != id:
                wrong.append(f"{shown(name)} spells no image code, or spells one again")
    if not images:
        wrong.append("no entry spells an image code (IMGIMG...Z)")
    elif lacking := [code for code in range(len(images)) if code not in images]:
        wrong.append(f"image codes must run from 0 without a hole, {_few(lacking)} of {len(images)} are missing")
    taken = {*fixed.values(), *images.values()}
    if UNKNOWN in taken or UNKNOWN not in names:
        wrong.append(f"id {UNKNOWN} must be the unknown word, it is {shown(names.get(UNKNOWN))}")
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise CheckpointError(f"{where}: {'; '.join(wrong[:_SHOWN])}{more}; restore the file")
    fixed["unk"] = UNKNOWN
    specials = {id for _, id in added}
    rest = [id for id in range(count) if id not in taken and id != UNKNOWN]
    reserved = {id for id in rest if id in specials or _SPECIAL.fullmatch(names[id]) or not _spelled(names[id])}
    turn = (ids | dict(added)).get(TURN)
    return Entries(
        fixed,
        tuple(id for id in rest if id in reserved),
        tuple(id for id in rest if id not in reserved),
        tuple(images[code] for code in range(len(images))),
        turn if turn in reserved else None,
        tuple(names[id] for id in range(count)),
    )


class ChameleonText(TextTokenizer):
    """The words of a Chameleon tokenizer.json: `size` text ids, those of `Entries.text` in order. Make one with
    `parse`.

    What is saved is the file that was read, byte for byte. Text is split and merged as the file says, but for merges
    that would make a special: there are none as far as is known.
    """

    def __init__(self, data: bytes, where: str = "tokenizer.json") -> None:
        """Read a file. Raises `CheckpointError` as `entries_of`, and for merges or a pre-tokenizer that are none."""
        page = parse_json(data, where, CheckpointError)
        self.entries = entries_of(page, where)
        self._data, self.cut = data, 0
        known = {self.entries.names[id]: i for i, id in enumerate(self.entries.text)}
        model = page["model"]
        if model.get("type") not in (None, "BPE") or model.get("dropout"):
            raise CheckpointError(f"{where}: must be a byte-level BPE without dropout; restore it")
        try:
            pairs = [m.split(" ") if isinstance(m, str) else list(m) for m in model["merges"]]
            merges = [[a, b] for a, b in pairs if a in known and b in known and a + b in known]
            plain = {**model, "type": "BPE", "vocab": known, "merges": merges, "unk_token": None}
            spec = {**page, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
            self._backend = tokenizers.Tokenizer.from_str(json.dumps({**spec, "model": plain}))
        except Exception as error:  # the library raises bare Exception for whatever does not parse
            raise CheckpointError(
                f"{where}: damaged or not a byte-level BPE ({said(error)}); restore the file"
            ) from error
        bytes_of = alphabet()
        self._bytes = [bytes(bytes_of[char] for char in name) for name in known]
        self._byte_ids = [known.get(char, -1) for char, _ in sorted(bytes_of.items(), key=lambda pair: pair[1])]
        self._lacking = {byte for byte, id in enumerate(self._byte_ids) if id < 0}
        # A space before the first word is what some pre-tokenizers of the library add.
        if self.decode(self.encode(_PROBE)).removeprefix(" ") != _PROBE:
            raise CheckpointError(f"{where}: text does not come back as it went in, so it is no byte-level BPE")

    @classmethod
    def parse(cls, data: bytes, path: str | Path) -> ChameleonText:
        """Read the bytes of a tokenizer.json; `path` is for the message. Raises `CheckpointError` as the class."""
        return cls(data, f"tokenizer {str(path)!r}")

    def to_bytes(self) -> bytes:
        """Return the file that was read."""
        return self._data

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`. Raises `DataError` for a lone surrogate, and for a byte that has no entry."""
        self._check_bytes(text.encode(errors="replace") if isinstance(text, str) else b"")
        return super().encode(text)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of any bytes, as `TextTokenizer` does. Raises `DataError` for a byte that has no entry."""
        self._check_bytes(data)
        return super().encode_bytes(data)

    def _check_bytes(self, data: bytes) -> None:
        if self._lacking and (lacking := sorted(self._lacking.intersection(data))):
            raise DataError(f"text: byte 0x{lacking[0]:02X} has no entry in this model's tokenizer; leave it out")


def _spelled(name: str) -> bool:
    """Tell whether a name is a piece of text in the byte-level alphabet."""
    return bool(name) and _ALPHABET >= set(name)


def _few(values: Sequence[Any]) -> str:
    """Return the first of some values, for a message."""
    return ", ".join(map(shown, values[:_SHOWN])) + (", ..." if len(values) > _SHOWN else "")

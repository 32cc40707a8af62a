"""Names with values, as rows, .json files and lines have them: which are words, which pictures, and what is kept.

    {"image": ..., "caption_0": "A boat", "caption_1": "At sea", "LICENSE": "CC0", "status": "success", "width": 512}
     pictures      words                                        license            asked              meta

One place for all readers of records whose names their owners chose. Names are compared in small letters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cm3.document import check_text
from cm3.errors import DataError
from cm3.files import parse_json
from cm3.read.walk import PICTURES, ending

WORDS = (
    *("caption", "captions", "text", "texts", "txt", "sentences", "sentence", "prompt", "prompts", "description"),
    *("descriptions", "alt_text", "alttext", "alt", "raw_caption", "comment"),
)
"""Names of the words of a picture; the first that a record has is read."""
PLAIN = 7
"""How many of `WORDS`, the first, are words also where there is no picture."""
IMAGES = ("image", "images", "jpg", "jpeg", "png", "webp", "img", "picture", "pictures", "photo", "pil_image")
"""Names of the picture."""
FILES = (
    *("file_name", "filename", "image", "image_name", "image_path", "image_file", "img", "img_path", "file"),
    *("filepath", "file_path", "path", "file_names"),
)
"""Names of the name of a picture's file, the surest first."""
TALK = ("conversations", "conversation", "messages", "dialog", "dialogue", "question", "questions", "answers", "answer")
"""Words that are no caption, which no reader of captions can put together."""
FORGOTTEN = ("status", "error_message", "exif", "shard_id")
"""Fields of img2dataset that say how a picture was fetched."""
LONGEST = 2000
"""Characters of JSON of a value that is kept as `meta`."""
MANY = 64
"""Most captions of one record."""
_FAR = re.compile(r"(image|img|picture|photo|coco|flickr)_?(url|link|href|uri)s?")


def words_in(names: Iterable[str], alone: bool = False) -> tuple[str, ...]:
    """Return the names of the words, as the record spells them: the first of `WORDS`, alone or numbered (caption_0).

    In their absence the one name that has "caption" in it ("blip_caption"), or the first of several. Words `alone`,
    without a picture, are not called a prompt or a description: these are a part of something else.
    """
    spelt = {_small(name): name for name in reversed(list(names))}
    for word in WORDS[:PLAIN] if alone else WORDS:
        numbered = {int(m[1]): name for low, name in spelt.items() if (m := re.fullmatch(rf"{word}_?(\d{{1,4}})", low))}
        if word in spelt or numbered:
            return (*([spelt[word]] if word in spelt else []), *(numbered[n] for n in sorted(numbered)))
    return tuple(name for low, name in reversed(spelt.items()) if re.search(r"(^|_)captions?($|_)", low))[:1]


def pictures_in(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the pictures: the first of `IMAGES`, else numbered ones (image_0), else the one that ends so.

    Raises `DataError` for several of which nobody can say how they belong together (source_image, target_image).
    """
    spelt = {_small(name): name for name in reversed(list(names))}
    if first := next((spelt[name] for name in IMAGES if name in spelt), None):
        return (first,)
    numbered = {int(m[1]): name for low, name in spelt.items() if (m := re.fullmatch(r"(?:image|img)_?(\d{1,4})", low))}
    if numbered:
        return tuple(numbered[n] for n in sorted(numbered))
    last = [name for low, name in reversed(spelt.items()) if re.search(r"_(image|img|picture|photo|jpg|png)$", low)]
    if len(last) > 1:
        raise DataError(f"has pictures in {', '.join(last)}, of which none is 'image'; rename the one to be read")
    return tuple(last)


def file_in(names: Iterable[str]) -> str:
    """Return the name of what names the picture, in the record's spelling. Raises `DataError` where there is none."""
    spelt = {str(name).strip().lower(): name for name in reversed(list(names))}
    found = [spelt[name] for name in FILES if name in spelt][:1]
    found = found or [name for low, name in spelt.items() if low.endswith("_file_name")]
    if len(found) != 1:
        raise DataError(f"names {len(found) or 'no'} pictures; give it one {FILES[0]!r}")
    return found[0]


def files_in(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the field that names a record's picture: image or images, or one whose value ends as a picture's name."""
    found = next((name for name in ("image", "images") if name in record), None)
    found = found or next((n for n in FILES if isinstance(record.get(n), str) and ending(record[n]) in PICTURES), None)
    return () if found is None else (found,)


def far_in(names: Collection[str], words: Collection[str]) -> str | None:
    """Return the name of the address of a picture that is not there; "url" is one where the words are of a picture."""
    of_picture = any("caption" in _small(name) or name == "TEXT" or _small(name).startswith("alt") for name in words)
    found = (n for n in names if _FAR.fullmatch(_small(n)) or (of_picture and _small(n) in ("url", "urls", "uri")))
    return next(found, None)


def texts_in(record: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Return the texts of a record's words, without those that are null; of lists, and of Karpathy's `sentences`, each.
    An empty one is kept where there is no other.

    Raises `DataError` for anything else, and for more than `MANY`.
    """
    found: list[str] = []
    for name in names:
        some = _texts(record[name])
        if some is None:
            raise DataError(f"its {name!r} is neither a text nor a list of texts")
        found += some
    found = [text for text in found if text.strip()] or found[:1]
    if len(found) > MANY:
        raise DataError(f"has {len(found)} captions, more than {MANY}; give it fewer")
    return found


def check_fetched(record: Mapping[str, Any]) -> None:
    """Raise `DataError` for a record of img2dataset that says that its picture could not be fetched."""
    if _fetched(record) and record["status"] != "success":
        raise DataError(f"its status is {record['status']!r:.60}, not 'success': the picture was never fetched")


def meta_of(record: Mapping[str, Any], used: Collection[str] = ()) -> dict[str, Any]:
    """Return the other values that are short and plain JSON; `license` by that name, however it is written."""
    forgotten = FORGOTTEN if _fetched(record) else ()
    kept: dict[str, Any] = {}
    for name, value in record.items():
        if name in used or name in forgotten or not _is_plain(value):
            continue
        kept["license" if _small(name) in ("license", "licence") else str(name)] = value
    return kept


def talk_in(names: Iterable[str]) -> list[str]:
    """Return the names of words that are no caption."""
    return [name for name in names if _small(name) in TALK]


def left_in(names: Iterable[str], used: Collection[str]) -> list[str]:
    """Return the names whose values may be words that are not read: those a stranger would ask after."""
    return [
        name for name in names if name not in used and (_small(name) in (*WORDS, *TALK) or "caption" in _small(name))
    ]


class NoRecord(DataError):
    """JSON that says something else than what a record does."""


def read_record(
    data: bytes, what: str, words: str | None = None, alone: bool = False
) -> tuple[list[str], dict[str, Any]]:
    """Return captions and meta of a .json beside a picture; of `words` that stand in a file of their own, these alone.

    Captions alone may be a string or a list of them; where all are null or empty, an empty one is given. Captions in it
    that are other than `words` stay in the meta.

    Raises `NoRecord` for what is neither of these nor an object, `DataError` for what is no JSON, where it says that
    the picture was not fetched, and of one that is `alone`, where it has the address of a picture that is not there.
    """
    value = parse_json(data, what, nan=True)
    check_text(value, what)
    if isinstance(value, str) or isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        value = {"caption": value}
    if not isinstance(value, dict):
        raise NoRecord(f"is {type(value).__name__}, neither an object nor captions")
    check_fetched(value)
    if alone and (far := far_in(value, words_in(value))):
        raise DataError(f"{what}: is of a picture at an address ({far!r}), and the picture is not there")
    if words is not None:
        return [words], {name: one for name, one in meta_of(value).items() if str(one).strip() != words}
    names = words_in((name for name in value if value[name] not in (None, "", [])), alone) or words_in(value, alone)
    try:
        return texts_in(value, names) or [""] * bool(names), meta_of(value, names)
    except DataError as error:
        raise DataError(f"{what}: {error}") from error


def text_of(data: bytes, name: str) -> str:
    """Return the words of a file: UTF-8, or UTF-16 that begins with its mark, as Windows writes it.

    Raises `DataError` for other encodings and for zero bytes, which no text has.
    """
    try:
        utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = data.decode("utf-16" if utf16 else "utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not UTF-8 at byte {error.start}; save it again") from error
    if "\0" in text:
        raise DataError(f"{name}: has zero bytes, so it is no text in UTF-8; save it again")
    return text


def _small(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")


def _fetched(record: Mapping[str, Any]) -> bool:
    """Tell whether `status` is img2dataset's, not the owner's own word."""
    status = record.get("status")
    return isinstance(status, str) and ("error_message" in record or status.startswith("failed_to_"))


def _texts(value: Any) -> list[str] | None:
    if isinstance(value, Mapping):
        return _texts(value["raw"]) if "raw" in value else None
    if isinstance(value, list):
        texts = [_texts(one) for one in value]
        return [text for some in texts if some is not None for text in some] if None not in texts else None
    if value is None:
        return []
    return [value] if isinstance(value, str) else None


def _is_plain(value: Any) -> bool:
    try:
        return value is not None and len(json.dumps(value, allow_nan=False)) <= LONGEST
    except (TypeError, ValueError, RecursionError):
        return False

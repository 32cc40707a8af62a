"""Records of predictions and annotations: read from files of strangers, told apart by ids, held against each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from cm3.errors import DataError
from cm3.files import JSON_BYTES, parse_json, said


def load(path: Path) -> Any:
    """Return what a JSON file holds; of one that ends in .jsonl the list of its lines.

    Raises `DataError` for a file that cannot be read, is larger than `JSON_BYTES`, or is no JSON.
    """
    try:
        if (size := path.stat().st_size) > JSON_BYTES:
            raise DataError(f"{str(path)!r}: has {size} bytes, more than {JSON_BYTES}; split it")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{str(path)!r}: cannot be read ({error.strerror or said(error)}); check the path") from error
    if path.suffix == ".jsonl":
        lines = enumerate(data.splitlines(), 1)
        return [parse_json(line, f"{str(path)!r}, line {number}") for number, line in lines if line.strip()]
    return parse_json(data, repr(str(path)))


def listed(page: Any, name: str | None, path: Path) -> Iterator[tuple[Any, str]]:
    """Yield the records of a list, or of that which an object has under `name`, each with its place for messages.

    Raises `DataError` where there is no list, or none in it.
    """
    records = page.get(name) if isinstance(page, dict) and name is not None else page
    if not isinstance(records, list):
        rather = "" if name is None else f", or an object with a list {name!r}"
        raise DataError(f"{str(path)!r}: holds no list of records; give a list{rather}")
    if not records:
        raise DataError(f"{str(path)!r}: has no records; is it the right file?")
    for number, record in enumerate(records):
        yield record, f"{str(path)!r}, record {number}"


def identity(record: Any, name: str, where: str) -> str:
    """Return the id of a record as text, so that 42 and "42" are one. Raises `DataError` for one that has none."""
    value = record.get(name) if isinstance(record, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where}: {name!r} is {value!r:.60}, must be a number or a text")
    return str(value)


def agreed(predictions: Collection[str], known: Collection[str], what: str, made: str, of: str) -> None:
    """Raise `DataError` for predictions of ids that are not known: another split's, where none of them is."""
    if not predictions:
        raise DataError(f"{what}: there are no {made}; give those that a model made")
    unknown = [id for id in predictions if id not in known]
    if len(unknown) == len(predictions):
        raise DataError(
            f"{what}: none of {len(predictions)} {made} is to one of the {of} (the first has id {unknown[0]!r:.40}); "
            "are they of another split?"
        )
    if unknown:
        raise DataError(
            f"{what}: {len(unknown)} {made} are to none of the {of}, the first has id {unknown[0]!r:.40}; leave them "
            "out"
        )

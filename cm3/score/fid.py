"""Sets of pictures against each other: FID with the bias that it has, precision and recall, MIND.

    sample(pictures, features) -> Sample          of predictions, of a reference, or Sample.load of statistics
    score_fid(predictions, reference) -> Result

FID of few pictures is too high, by about c / n (Chong and Forsyth 2020, arXiv:1911.07023), so two FIDs compare only at
the same number of pictures. The bias is estimated by that law of the halves of what there is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from cm3.errors import Cm3Error, ConfigError, DataError, did_you_mean, whole_number
from cm3.score.features import Features
from cm3.score.frechet import Gaussian, Statistics, frechet
from cm3.score.mind import DIRECTIONS, SEED, mind
from cm3.score.precision_recall import K, precision_recall
from cm3.score.result import Result

MEASURES = ("fid", "precision_recall", "mind")
STABLE = 10_000
"""Pictures from which on an FID is called stable here, as its authors ask for."""
BATCH = 32

Pictures = Iterable[tuple[str, PIL.Image.Image]]
"""Pictures with the names that results and errors call them by."""
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Sample:
    """A set of pictures as its features see it."""

    name: str
    """Its name in errors and warnings."""
    gaussian: Gaussian
    halves: tuple[Gaussian, ...] = ()
    """The same of its even and of its odd pictures; none for statistics of a file, and for fewer than four pictures."""
    rows: np.ndarray | None = None
    """Vectors float32 (n, d), where they are kept."""
    ids: tuple[str, ...] = ()
    shown: tuple[bytes, ...] = ()
    """Digest of each picture's pixels."""
    warnings: tuple[str, ...] = field(default=())
    """Warnings of the features."""

    @classmethod
    def load(cls, path: str | Path) -> Sample:
        """Take the statistics of a file. Raises `DataError` as `Gaussian.load`."""
        return cls(f"statistics {str(path)!r}", Gaussian.load(path))


class Sampler:
    """Takes pictures one by one, and gives their `Sample` in the end. Without `keep`, memory does not grow with their
    number, and only FID can be had of them."""

    def __init__(self, features: Features, name: str, *, batch: int = BATCH, keep: bool = True) -> None:
        """Put `batch` pictures through the network at a time. Raises `ConfigError` for none."""
        self.batch = whole_number("batch", batch)
        self.features, self.name = features, name
        self._halves = Statistics(features.width), Statistics(features.width)
        self._known = set[str]()
        self._ids: list[str] = []
        self._shown: list[bytes] = []
        self._waiting: list[PIL.Image.Image] = []
        self._rows: list[np.ndarray] | None = [] if keep else None

    def add(self, id: str, picture: PIL.Image.Image) -> None:
        """Take a picture. Raises `DataError`, naming it, for one that cannot be read and for an id that was there."""
        if id in self._known:
            raise DataError(f"{self.name}: picture {id!r} comes twice; give each a name of its own")
        try:
            ready = self.features.preparation.rgb(picture)
        except Cm3Error as error:
            raise DataError(f"{self.name}: picture {id!r}: {error}") from error
        self._known.add(id)
        self._ids.append(id)
        self._shown.append(hashlib.blake2b(f"{ready.size}".encode() + ready.tobytes(), digest_size=16).digest())
        self._waiting.append(ready)
        if len(self._waiting) == self.batch:
            self._take()

    def finish(self) -> Sample:
        """Return the sample of all that was added. Raises `DataError` for no picture, and for one alone."""
        if self._waiting:
            self._take()
        if not self._ids:
            raise DataError(f"{self.name}: holds no picture; give a folder, a bank or a dataset with some")
        settings = self.features.settings
        try:
            each = tuple(half.gaussian(settings) for half in self._halves) if len(self._ids) >= 4 else ()
            self._halves[0].merge(self._halves[1])
            whole = self._halves[0].gaussian(settings)
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from error
        rows = None if self._rows is None else np.concatenate(self._rows)
        return Sample(self.name, whole, each, rows, tuple(self._ids), tuple(self._shown), self.features.warnings)

    def _take(self) -> None:
        rows = self.features(self._waiting)
        first = (len(self._ids) - len(self._waiting)) % 2
        self._halves[first].add(rows[::2])
        self._halves[1 - first].add(rows[1::2])
        if self._rows is not None:
            self._rows.append(rows)
        self._waiting.clear()


def sample(
    pictures: Pictures,
    features: Features,
    name: str,
    *,
    batch: int = BATCH,
    keep: bool = True,
    progress: Progress | None = None,
) -> Sample:
    """Return the sample of pictures: see `Sampler`, which raises. No picture is left out."""
    taken = Sampler(features, name, batch=batch, keep=keep)
    for number, (id, picture) in enumerate(pictures, 1):
        taken.add(id, picture)
        if progress is not None:
            progress(number)
    return taken.finish()


def score_fid(
    predictions: Sample,
    reference: Sample,
    *,
    measures: Sequence[str] | None = None,
    k: int = K,
    directions: int = DIRECTIONS,
    seed: int = SEED,
) -> Result:
    """Return `fid`, `fid_bias`, `precision`, `recall` and `mind` of predictions against a reference.

    `measures` None is all that can be had: FID alone where a side is statistics. `fid_bias` is an estimate of how much
    of `fid` comes of the number of pictures: FID at infinitely many is about their difference. It is there where a
    side has pictures; of statistics nothing is known beyond their own FID.

    Raises `DataError` for statistics of other features, and where a measure cannot be had; `ConfigError` for a measure
    that is none.
    """
    wanted = _measures(measures, predictions, reference)
    warnings = [*dict.fromkeys((*predictions.warnings, *reference.warnings))]
    warnings += _compared(predictions, reference)
    warnings += _repeated(predictions, reference)
    figures: dict[str, float] = {}
    items: dict[str, dict[str, float]] = {}
    sides = {"predictions": predictions, "reference": reference}
    settings: dict[str, Any] = {
        **(predictions.gaussian.settings or reference.gaussian.settings),
        "measures": list(wanted),
        **{f"{what}_pictures": side.gaussian.n for what, side in sides.items()},
        "reference": "pictures" if reference.ids else "statistics",
    }
    if "fid" in wanted:
        figures["fid"] = frechet(predictions.gaussian, reference.gaussian)
        halved = _halved(predictions, reference)
        if halved is not None:
            figures["fid_bias"] = halved - figures["fid"]
            both = predictions.halves and reference.halves
            settings["fid_bias"] = f"fid of halves of {'both sides' if both else 'one side'}, less fid"
        warnings += _few(sides, figures)
    if "precision_recall" in wanted:
        assert predictions.rows is not None and reference.rows is not None
        inside, covered = precision_recall(predictions.rows, reference.rows, k)
        figures |= {"precision": float(inside.mean()), "recall": float(covered.mean())}
        items["precision"] = dict(zip(predictions.ids, inside.astype(float).tolist(), strict=True))
        items["recall"] = dict(zip(reference.ids, covered.astype(float).tolist(), strict=True))
        settings["k"] = k
    if "mind" in wanted:
        assert predictions.rows is not None and reference.rows is not None
        figures["mind"] = mind(predictions.rows, reference.rows, directions, seed)
        n = min(len(predictions.rows), len(reference.rows))
        settings |= {"mind_directions": directions, "mind_seed": seed, "mind_pictures": n}
        if n < 1000:
            warnings.append(f"mind of {n} pictures: its authors use 1000 to 5000; at fewer it is too high")
    return Result(figures, predictions.gaussian.n or 0, settings, tuple(warnings), items)


def check_measures(names: Sequence[str]) -> None:
    """Raise `ConfigError` for a measure that is none."""
    for name in names:
        if name not in MEASURES:
            known = ", ".join(MEASURES)
            raise ConfigError(f"measure {name!r:.60}: must be one of {known}.{did_you_mean(name, MEASURES)}")


def _measures(asked: Sequence[str] | None, *sides: Sample) -> list[str]:
    check_measures(asked or ())
    without = next((side for side in sides if side.rows is None), None)
    if asked is None:
        return list(MEASURES if without is None else MEASURES[:1])
    if without is not None and (more := [name for name in asked if name != "fid"]):
        raise DataError(f"{without.name}: keeps no vectors, so {more[0]} cannot be had; give the pictures themselves")
    return [name for name in MEASURES if name in asked]


def _compared(predictions: Sample, reference: Sample) -> list[str]:
    """Return warnings of pictures that became vectors in other ways. Raises `DataError` for other features."""
    a, b = predictions.gaussian, reference.gaussian
    told = {side.name: side.gaussian.settings.get("features") for side in (predictions, reference)}
    if len(a.mu) != len(b.mu) or (all(told.values()) and len(set(told.values())) > 1):
        sides = (predictions, reference)
        ways = " and ".join(
            f"{s.name} is of {s.gaussian.settings.get('features', 'unnamed features')}, {len(s.gaussian.mu)} dimensions"
            for s in sides
        )
        raise DataError(f"features differ: {ways}; make both with the same --features")
    warnings = []
    for side in (predictions, reference):
        if not side.gaussian.settings:
            warnings.append(
                f"{side.name}: does not say of which features it is, nor how pictures were scaled; trust it"
            )
        elif side.gaussian.n is None:
            warnings.append(f"{side.name}: does not say of how many pictures it is")
    if a.settings and b.settings:
        names = [n for n in dict.fromkeys((*a.settings, *b.settings)) if a.settings.get(n) != b.settings.get(n)]
        if names:
            ways = ", ".join(f"{n} {a.settings.get(n)!r} and {b.settings.get(n)!r}" for n in names)
            warnings.append(f"the two sides were prepared differently ({ways}): the figures hold that difference too")
    return warnings


def _repeated(predictions: Sample, reference: Sample) -> list[str]:
    """Return warnings of pictures that show the same."""
    warnings = []
    for what, side in (("predictions", predictions), ("reference", reference)):
        first: dict[bytes, int] = {}
        again = [(at, n) for at, d in enumerate(side.shown) if (n := first.setdefault(d, at)) != at]
        if again:
            warnings.append(
                f"{what}: {len(again)} of {len(side.ids)} pictures show what another shows (first: "
                f"{side.ids[again[0][0]]!r} and {side.ids[again[0][1]]!r})"
            )
    known: Mapping[bytes, str] = dict(zip(reference.shown, reference.ids, strict=True))
    if common := [(id, known[d]) for id, d in zip(predictions.ids, predictions.shown, strict=True) if d in known]:
        warnings.append(
            f"{len(common)} predictions show what a picture of the reference shows (first: {common[0][0]!r} and "
            f"{common[0][1]!r})"
        )
    return warnings


def _halved(predictions: Sample, reference: Sample) -> float | None:
    """Return the mean FID of the halves of what has halves; None where neither side has."""
    if not predictions.halves and not reference.halves:
        return None
    pairs = zip(
        predictions.halves or [predictions.gaussian] * 2, reference.halves or [reference.gaussian] * 2, strict=True
    )
    return float(np.mean([frechet(a, b) for a, b in pairs]))


def _few(sides: Mapping[str, Sample], figures: Mapping[str, float]) -> list[str]:
    """Return warnings of too few pictures for a stable FID, with the bias."""
    warnings = []
    width = len(next(iter(sides.values())).gaussian.mu)
    counts = {what: side.gaussian.n for what, side in sides.items() if side.gaussian.n is not None}
    for what, n in counts.items():
        if n <= width:
            warnings.append(
                f"fid of {n} {what} in {width} dimensions: a covariance of fewer pictures than dimensions is singular, "
                "so fid is far too high and its bias does not follow 1/n yet; compare only at the same number"
            )
    if any(n < STABLE for n in counts.values()):
        numbers = " and ".join(f"{n} {what}" for what, n in counts.items())
        bias = "its bias falls as 1/n"
        if "fid_bias" in figures:
            more, rest = figures["fid_bias"], figures["fid"] - figures["fid_bias"]
            bias += f": by halves about {more:+.4g} of the {figures['fid']:.4g}, about {rest:.4g} without"
        warnings.append(f"fid of {numbers}: {STABLE} make a stable one; {bias}")
    return warnings

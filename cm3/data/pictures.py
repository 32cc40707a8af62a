"""The distinct pictures of any source as an endless stream of batches, and with their words as pairs.

    sources --a reader, once--> where each picture's bytes lie --order.py--> positions of a step
    positions --processes, ahead of training--> read, decode, fit --> RGB pictures of one size

A picture is its file's bytes: one that has five captions, or lies twice in a folder, is one. Each comes once an epoch,
in an order of that epoch's own. A batch is a pure function of its step, so a run that goes on, also on another number
of ranks, sees what an unbroken one would have seen. Bytes are read where they lie, from files and from unpacked tars of
this machine; those of other sources (packed, from afar) are copied to one temporary file first.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from PIL.Image import Transpose
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cm3.data.documents import chances, check_holdout
from cm3.data.order import Mixture, Permutation
from cm3.document import Image, Place, Unreadable
from cm3.errors import ConfigError, DataError
from cm3.files import on_disk, said
from cm3.picture import Square, open_picture, orientation, square_of_file
from cm3.read.find import open_reader
from cm3.retrieval.pairs import Pair

HOLDOUT = 0.02
"""Share of the pictures that is held out from training."""
MEASURED = 512
"""Most of those that are measured at once."""
FIRST = 10
"""Pictures that are left out are counted; so many are named."""
LEAST = 0.8
"""A random crop has at least this share of a picture's shorter side."""


class PictureIndex:
    """The distinct pictures of some sources: places, digests of their content, and texts."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.places = np.zeros((0, 3), np.int64)
        """Of each picture: which of `paths`, from which byte on, how many."""
        self.digests = np.zeros((0, 16), np.uint8)
        self.texts: list[list[str]] = []
        """Of each picture the texts of its documents of one picture, each once."""
        self.left: list[Unreadable] = []
        """The first `FIRST` documents that cannot be read."""
        self.unreadable = 0
        """Number of all that cannot be read."""

    @classmethod
    def of(cls, sources: Sequence[str], *, texts: bool = False, tick: Callable[[int], object] = int) -> PictureIndex:
        """Read sources, `[KIND:]PATH[@SPLIT]`, once; `tick` is called with the documents read so far.

        Raises what the readers raise, `DataError` where there is no picture, and `DiskError` where those that have to
        be copied find no room.
        """
        found = cls()
        paths: dict[str, int] = {}
        seen: dict[bytes | Place, int] = {}
        rows: list[tuple[int, int, int]] = []
        digests: list[bytes] = []
        copies: Any = None
        documents = 0
        for document in itertools.chain.from_iterable(open_reader(source) for source in sources):
            documents += 1
            tick(documents)
            if isinstance(document, Unreadable):
                found._leave(document)
                continue
            for image in document.images:
                number = seen.get(image.place) if image.place is not None else None
                try:
                    digest = image.digest if number is None else b""
                except DataError as error:  # of a picture that a reader has decoded
                    found._leave(Unreadable(document.id, str(error)))
                    continue
                if number is None and (number := seen.get(digest)) is None:
                    number = seen[digest] = len(rows)
                    digests.append(digest)
                    place = image.place
                    if place is None:
                        copies = copies or tempfile.NamedTemporaryFile(prefix="cm3-pictures-", delete=False)
                        if copies.name not in paths:
                            weakref.finalize(found, Path(copies.name).unlink, missing_ok=True)
                        place = _copied(image, copies)
                    rows.append((paths.setdefault(place.path, len(paths)), place.offset, place.size))
                    found.texts.append([])
                if image.place is not None:
                    seen[image.place] = number
                if texts and len(document.images) == 1 and (text := document.text.strip()):
                    if text not in found.texts[number]:
                        found.texts[number].append(text)
        if copies is not None:
            with on_disk(copies.name):
                copies.close()
        if not rows:
            reason = f"; the first document is {found.left[0].id!r}: {found.left[0].reason}" if found.left else ""
            raise DataError(f"{', '.join(sources)}: has no picture that can be read{reason}; give another source")
        found.paths, found.places = list(paths), np.array(rows, np.int64)
        found.digests = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
        return found

    def __len__(self) -> int:
        return len(self.places)

    def bare(self) -> PictureIndex:
        """Return what is needed to read the pictures, which travels to other processes."""
        made = PictureIndex()
        made.paths, made.places = self.paths, self.places
        return made

    def held_out(self, share: float, usable: np.ndarray) -> np.ndarray:
        """Return which pictures, bool (n,), are held out from training: about a `share`, if it is not 0 at least one of
        those that are `usable`, bool (n,).

        A picture's content decides it, so one that is added or taken away moves no other.
        """
        values = chances(self.digests)
        held = values < share
        if share and usable.any() and not (held & usable).any():
            held[int(np.where(usable, values, 1).argmin())] = True
        return held

    def name(self, number: int) -> str:
        """Return what errors call a picture: its file, and of one in a tar from which byte on it lies there."""
        path, offset, _ = self.places[number].tolist()
        return Path(self.paths[path]).name + (f" (from byte {offset} on)" if offset else "")

    def data(self, number: int) -> bytes:
        """Read a picture's bytes. Raises `DataError` where they are not there any more."""
        path, offset, size = self.places[number].tolist()
        try:
            with open(self.paths[path], "rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise DataError(f"{self.name(number)}: cannot be read ({said(error)})") from error
        if len(data) < size:
            raise DataError(f"{self.name(number)}: is shorter than it was; leave a dataset as it is while it is in use")
        return data

    def _leave(self, one: Unreadable) -> None:
        self.unreadable += 1
        if len(self.left) < FIRST:
            self.left.append(one)


def _copied(image: Image, file: Any) -> Place:
    data, offset = image.file(), file.tell()
    with on_disk(file.name):
        file.write(data)
    return Place(file.name, offset, len(data))


class _Made(NamedTuple):
    """Pixels uint8 (b, size, size, 3) of positions, which pictures they are, and those that could not be read."""

    pixels: Tensor
    numbers: list[int]
    wrong: list[tuple[int, str]]


class _Decoder(Dataset):
    """Pictures of positions; also in other processes, where what goes wrong is given back as a text."""

    def __init__(self, index: PictureIndex, numbers: np.ndarray, stream: dict[str, Any]) -> None:
        self.index, self.numbers = index.bare(), numbers
        self.size, self.fit, self.seed = stream["size"], stream["fit"], stream["seed"]
        self.crop, self.flip = stream["random_crop"], stream["flip"]

    @functools.cached_property
    def _order(self) -> Mixture:
        return Mixture([len(self.numbers)], seed=self.seed)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_order"}  # it keeps functions

    def __getitem__(self, positions: np.ndarray) -> _Made | str:
        try:
            return self.make(positions)
        except Exception as error:  # an error's traceback would come as the text of another
            return said(error)

    def make(self, positions: np.ndarray) -> _Made:
        """Return the pictures of positions. Raises `DataError` where none at all can be read."""
        made, numbers, wrong = [], [], dict[int, str]()
        for position, at in zip(positions.tolist(), self._order.locate(positions).indices.tolist(), strict=True):
            for after in range(len(self.numbers)):
                number = int(self.numbers[(at + after) % len(self.numbers)])
                if number in wrong:
                    continue
                try:
                    picture = self.picture(number, position)
                except DataError as error:
                    wrong[number] = str(error)
                    continue
                made.append(torch.from_numpy(np.array(picture)))
                numbers.append(number)
                break
            else:
                raise DataError(f"none of {len(self.numbers)} pictures can be read; {next(iter(wrong.values()))}")
        return _Made(torch.stack(made), numbers, list(wrong.items()))

    def picture(self, number: int, position: int | None = None) -> PIL.Image.Image:
        """Return a picture at its size; `position` decides what chance does with it, and None is as it is."""
        data, name, part = self.index.data(number), self.index.name(number), None
        rng = np.random.default_rng([self.seed, 0xA06, position or 0])
        if self.crop and position is not None:
            header = open_picture(data, name)
            width, height = header.size[::-1] if orientation(header) >= 5 else header.size
            side = max(1, round(min(width, height) * rng.uniform(LEAST, 1)))
            left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
            part = left, top, left + side, top + side
        picture = square_of_file(data, self.size, self.fit, part, name)
        if self.flip and position is not None and rng.random() < 0.5:
            picture = picture.transpose(Transpose.FLIP_LEFT_RIGHT)
        return picture


class _Stream:
    """Batches of pictures with their numbers, made ahead by other processes."""

    def __init__(
        self,
        sources: str | Sequence[str],
        size: int,
        batch: int,
        seed: int = 0,
        *,
        fit: Square = "crop",
        holdout: float = HOLDOUT,
        random_crop: bool = False,
        flip: bool = False,
        workers: int = 0,
        ahead: int = 2,
        index: PictureIndex | None = None,
        texts: bool = False,
        tick: Callable[[int], object] = int,
    ) -> None:
        wrong = [
            f"{k}={v}: must be at least 1" for k, v in {"size": size, "batch": batch, "ahead": ahead}.items() if v < 1
        ]
        wrong += [f"data.workers={workers}: must be 0 (none) or more"] if workers < 0 else []
        if wrong:
            raise ConfigError("; ".join(wrong))
        check_holdout(holdout)
        self.sources = (sources,) if isinstance(sources, str) else tuple(sources)
        self.index = index if index is not None else PictureIndex.of(self.sources, texts=texts, tick=tick)
        self.workers, self.ahead = workers, ahead
        usable = np.array([bool(found) for found in self.index.texts]) if texts else np.ones(len(self.index), bool)
        if not usable.any():
            raise DataError(
                f"{', '.join(self.sources)}: none of {len(usable)} pictures has words to be paired with; give pictures "
                "with captions, such as NAME.txt beside NAME.jpg"
            )
        held = self.index.held_out(holdout, usable)
        self.held, self.numbers = np.flatnonzero(held & usable), np.flatnonzero(~held & usable)
        """Numbers of the pictures that are held out, and of those to train on."""
        if not len(self.numbers):
            what = "picture with words" if texts else "picture"
            raise DataError(
                f"{', '.join(self.sources)}: has no {what} to train on, and {len(self.held)} held out; give more, or "
                "data.holdout=0"
            )
        self.seed, self.size, self.together = seed, size, batch
        about = {"size": size, "fit": fit, "seed": seed, "random_crop": random_crop, "flip": flip}
        self._decoder = _Decoder(self.index, self.numbers, about)
        self._wrong: dict[int, str] = {}
        self._decoded: list[tuple[int, PIL.Image.Image]] | None = None
        self._running: Iterator[_Made | str] | None = None
        self._next: tuple[int, int, int] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def given(self) -> dict[str, Any]:
        """Return a name for the pictures that are trained on, by their content, in their order."""
        return {"pictures": hashlib.sha256(self.index.digests[self.numbers].tobytes()).hexdigest()}

    @property
    def left_out(self) -> dict[str, Any]:
        """Return `count` and the `first` of what could not be read so far, documents and pictures; empty where there is
        none.

        All of it under "left_out", as a run's result has it.
        """
        broken = [{"id": self.index.name(number), "reason": why} for number, why in sorted(self._wrong.items())]
        first = [{"id": one.id, "reason": one.reason} for one in self.index.left] + broken
        count = self.index.unreadable + len(broken)
        return {"left_out": {"count": count, "first": first[:FIRST]}} if count else {}

    def close(self) -> None:
        """End the processes. A batch that is asked for later starts them again."""
        self._running = self._next = None

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def positions(self, step: int, rank: int, ranks: int) -> np.ndarray:
        """Return where in the endless stream the pictures of a rank's share of a step stand."""
        each = self.together // ranks
        return step * self.together + rank * each + np.arange(each)

    def _made(self, step: int, rank: int, ranks: int) -> tuple[list[int], list[PIL.Image.Image]]:
        if not 0 <= rank < ranks or self.together % ranks:
            raise ConfigError(
                f"batch={self.together}: must be a multiple of the number of ranks, {ranks}; it is what was asked for, "
                "or as many pairs as there are"
            )
        if not self.workers:
            made: _Made | str = self._decoder.make(self.positions(step, rank, ranks))
        else:
            made = self._ahead(step, rank, ranks)
        if isinstance(made, str):
            self.close()
            raise DataError(f"{', '.join(self.sources)}: {made}")
        self._wrong.update(made.wrong)
        return made.numbers, [PIL.Image.fromarray(one) for one in made.pixels.numpy()]

    def _ahead(self, step: int, rank: int, ranks: int) -> _Made | str:
        """Return what the processes made for a step; they are started, or begin anew where it is not the next one."""
        if self._running is None or self._next != (step, rank, ranks):
            self.close()
            steps = (self.positions(at, rank, ranks) for at in itertools.count(step))
            loader = DataLoader(
                self._decoder,
                batch_size=None,
                sampler=steps,
                num_workers=self.workers,
                prefetch_factor=self.ahead,
                collate_fn=_same,
                worker_init_fn=_begin,
                multiprocessing_context="spawn",
            )
            # torch would raise the end of a process in the midst of whatever runs then; here it is told when it is
            # missed.
            main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
            before = signal.getsignal(signal.SIGCHLD) if main else None
            self._running = iter(loader)
            if main:
                signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
        self._next = (step + 1, rank, ranks)
        try:
            return next(self._running)
        except RuntimeError as error:
            self.close()
            raise DataError(
                f"{', '.join(self.sources)}: a process that decodes pictures has ended ({said(error)}); see that there "
                "is memory, also in /dev/shm, or set workers to 0"
            ) from error

    def _held(self) -> list[tuple[int, PIL.Image.Image]]:
        """Return the numbers and pictures of the first that are held out, decoded once."""
        if self._decoded is None:
            self._decoded = []
            for number in self.held[:MEASURED].tolist():
                try:
                    self._decoded.append((number, self._decoder.picture(number)))
                except DataError as error:
                    self._wrong[number] = str(error)
        return self._decoded


class Pictures(_Stream):
    """Batches of pictures for training, RGB of `size` x `size`; those held out are never among them.

    `batch` counts the pictures of a step on all ranks together. `workers` processes decode `ahead` batches each, so
    that many batches and no more are in memory; 0 decodes when asked. `random_crop` takes a random square of 0.8 to 1
    of the shorter side, `flip` mirrors half of them. A picture that cannot be read gives its place to the next one.
    `index` saves reading the sources, where they were read before. Raises `ConfigError` for a setting out of range, and
    as `PictureIndex.of`.
    """

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> list[PIL.Image.Image]:
        """Return a rank's share of the pictures of a step.

        Raises `ConfigError` where a batch has no even shares, and `DataError` where no picture can be read or a process
        that decodes has ended.
        """
        return self._made(step, rank, ranks)[1]

    def held_out(self) -> list[PIL.Image.Image]:
        """Return the first pictures that are held out, neither cropped nor mirrored by chance."""
        return [picture for _, picture in self._held()]


class Pairs(_Stream):
    """Batches of pictures with their words, as `Pictures`; pictures without words, and with others, are left away.

    No picture comes twice in a batch: a batch is at most as large as there are pictures, and what does not fill one at
    the end of an epoch is left for later ones, each of which has an order of its own. Scaled as CLIP does.
    """

    def __init__(self, sources: str | Sequence[str], size: int, batch: int, seed: int = 0, **settings: Any) -> None:
        super().__init__(sources, size, batch, seed, **{"fit": "clip", **settings}, texts=True)
        self.together = min(batch, len(self.numbers))

    def positions(self, step: int, rank: int, ranks: int) -> np.ndarray:
        """Return where in the endless stream the pictures of a rank's share of a step stand."""
        epoch, at = divmod(step, len(self.numbers) // self.together)
        each = self.together // ranks
        return epoch * len(self.numbers) + at * self.together + rank * each + np.arange(each)

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> list[Pair]:
        """Return a rank's share of the pairs of a step, each with another text where it has one. Raises likewise."""
        numbers, pictures = self._made(step, rank, ranks)
        at = self.positions(step, rank, ranks).tolist()
        return [self._pair(*one) for one in zip(numbers, pictures, at, strict=True)]

    def held_out(self) -> list[Pair]:
        """Return the first pairs that are held out."""
        return [self._pair(number, picture, number) for number, picture in self._held()]

    def _pair(self, number: int, picture: PIL.Image.Image, position: int) -> Pair:
        texts = self.index.texts[number]
        order = Permutation(len(texts), [self.seed, 0xC11B, position])(np.arange(min(2, len(texts)))).tolist()
        return Pair(texts[order[0]], picture, texts[order[1]] if len(order) > 1 else "")


def _same(made: Any) -> Any:
    return made


def _begin(number: int) -> None:
    """Leave the keyboard's signal to the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

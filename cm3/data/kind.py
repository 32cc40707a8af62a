"""A kind of data: one class that says what a run learns from, is measured on and shows.

    recipe:  PretrainRun(data=StoreData(("runs/store",)))
                                  |
             texts()      words that a text tokenizer is learnt from, where the data brings none
             source(run)  sequences by position, for the language model
             held_out(run)  the same of documents that are never trained on
             prompts(run)  documents whose captions a sample sheet draws
             pictures(size, batch), pairs(size, batch)   for an image tokenizer, for a small CLIP

A run knows no kind by name: it asks for these. A kind that cannot give one of them says so, and what to give instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cm3.data.load import Source
from cm3.document import Document
from cm3.errors import ConfigError
from cm3.tokens.codec import Codec
from cm3.vocab import Vocab


@dataclass(frozen=True)
class Context:
    """A run, as its data sees it."""

    out: Path
    """Folder of the run."""
    codec: Codec
    """Makes tokens of documents."""
    tokenizer: Path
    """File of the codec's text tokenizer."""
    context: int
    """Most tokens of a document that the model reads."""
    length: int
    """Tokens of a window."""

    @property
    def size(self) -> int:
        """Return the side of the pictures, in pixels."""
        assert self.codec.image is not None  # a run has pictures
        return self.codec.image.size


class Made(NamedTuple):
    """Vocabulary and text tokenizer that data was made with, and the side of its pictures."""

    vocab: Vocab
    text: bytes
    image_size: int


class Batches(Protocol):
    """Pictures or pairs of the steps of a run."""

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Sequence[Any]:
        """Return this rank's even share of the batch of a step, a pure function of its arguments."""
        ...

    def held_out(self) -> Sequence[Any]:
        """Return pictures or pairs that no step has, or none."""
        ...

    @property
    def left_out(self) -> Mapping[str, Any]:
        """Return `{"left_out": ...}` for those that could not be read so far, else nothing."""
        ...

    @property
    def given(self) -> Mapping[str, Any]:
        """Return names of what is read from disk, by content: a run that goes on must have the same."""
        ...


@dataclass(frozen=True)
class Data:
    """Base of the kinds. Each is a frozen dataclass of plain settings."""

    def texts(self) -> Iterable[str]:
        """Return what a text tokenizer is learnt from. Raises `ConfigError` where the data has none to give."""
        raise ConfigError(f"data: {type(self).__name__} brings no words for a text tokenizer; give init, a bundle")

    def made(self) -> Made | None:
        """Return what the documents were tokenised with, None where they are tokenised as they are read."""
        return None

    def source(self, run: Context) -> Source:
        """Return the documents to train on. Writes nothing."""
        raise ConfigError(f"data: {type(self).__name__} has no documents for a language model; give another kind")

    def held_out(self, run: Context) -> Source:
        """Return the documents that are never trained on. Raises `ConfigError` where there are none."""
        raise ConfigError("validate_every: there are no documents held out; give 0")

    def prompts(self, run: Context, number: int = 8) -> list[Document]:
        """Return captioned pictures whose captions are drawn for a sample sheet; none means no sheet."""
        return []

    def pictures(self, size: int, batch: int, keep: int = 0) -> Batches:
        """Return pictures of `size` pixels for an image tokenizer; the first `keep` of each batch hold its codes."""
        raise ConfigError(f"data: {type(self).__name__} has no pictures for an image tokenizer; give another kind")

    def pairs(self, size: int, batch: int) -> Batches:
        """Return pairs of a text and a picture of `size` pixels for a small CLIP."""
        raise ConfigError(f"data: {type(self).__name__} has no pairs for a CLIP; give another kind")

    def measure(self, encoder: Any, pairs: Batches, seed: int) -> dict[str, float]:
        """Return how well a CLIP finds what it should, on pairs held out where there are some."""
        return {}

    def given(self, source: Source) -> dict[str, Any]:
        """Return the names of what is read from disk, by content: a run that goes on must have the same."""
        return {}

    def tasks(self) -> tuple[str, ...]:
        """Return the instruction tasks that a model of this data knows."""
        return ()

    def world(self) -> Mapping[str, Any]:
        """Return all that a model of this data knows (`about.world` of a bundle), if that can be said."""
        return {}

    def begin(self, run: Context) -> None:
        """Write what goes beside a run, such as the bank of its bundle. Called once, by the main process."""

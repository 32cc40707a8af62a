"""Instruction tasks of real datasets as what training reads from: a mixture with each source's share, made on the fly.

    position -> TaskMixture -> source, number -> document -> one example of it -> tokens, loss weights
                                                 (one that cannot serve is passed over for the next)

A source is a task with a dataset that it is made of (`TaskPart`), or a token store (`StorePart`): documents of
pretraining, or anything else that `cm3 prepare` wrote, with retrieved documents before them where there is a table of
neighbours. Which example stands at a position follows from the seed, the sources and their shares alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cm3.data.documents import Subset
from cm3.data.load import Source
from cm3.data.store_source import Retrieval, StoreSource
from cm3.data.task_mix import TaskMixture
from cm3.errors import ConfigError, DataError
from cm3.read.random_access import Numbered
from cm3.sequence.answers import Weighted
from cm3.store.store import Store
from cm3.tasks.examples import check, serve
from cm3.tasks.task import Example, Task, View, encode
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens

TRIES = 1000
"""Documents in a row that may not serve before a source is taken for one that cannot."""


@dataclass(frozen=True)
class ExampleLaw:
    """The layout and the loss weights of examples. Raises `ConfigError` for a value out of range."""

    answers: float = 0.5
    """Share of the examples laid out as a user asks: an answer that stands last is left to be continued, another one is
    masked. Of the others the mask law hides what it draws, as in pretraining."""
    loss: Literal["all", "answer"] = "all"
    """Whose loss counts in those: that of everything, as in the paper, or of the answer alone."""
    plain: bool = False
    """Pictures before the text, so that an answer in words is continued and not masked."""

    def __post_init__(self) -> None:
        if not 0 <= self.answers <= 1:
            raise ConfigError(f"law.answers={self.answers}: is a share, must be in 0..1")
        if self.loss not in ("all", "answer"):
            raise ConfigError(f"law.loss={self.loss!r}: must be 'all' or 'answer'")


class TaskPart:
    """Examples of a task, made of the documents of a reader by their numbers."""

    def __init__(self, name: str, task: Task, documents: Numbered | Subset, controls: Path | None = None) -> None:
        """Raise `ConfigError` for a kind of reader that the task is not made of; `DataError` where what it needs cannot
        be read, and where none of its first documents serves, with the reason of the first."""
        check(task, documents.reader)
        self.name, self.task, self.documents, self.controls = name, task, documents, controls
        self.left_out: set[int] = set()
        """Documents that were asked for so far and could not serve."""
        if len(self):
            self.example(0, np.random.default_rng(0), View())

    def __len__(self) -> int:
        return len(self.documents)

    def example(self, index: int, rng: np.random.Generator, view: View, plain: bool = False) -> Example:
        """Return one example of document `index`, or of the first after it that serves; `rng` draws which, and the
        template.

        Raises `DataError` where none of a thousand serves.
        """
        reason = ""
        for step in range(min(TRIES, len(self))):
            number = (index + step) % len(self)
            try:
                document = self.documents[number]
                examples = serve(
                    self.task, document, self.documents.reader, view=view, plain=plain, rng=rng, controls=self.controls
                )
            except DataError as error:
                self.left_out.add(number)
                reason = reason or str(error)
                continue
            if examples:
                return examples[int(rng.integers(len(examples)))]
            reason = reason or f"document {document.id!r} has nothing for it"
        raise DataError(
            f"task source {self.name!r}: none of {min(TRIES, len(self))} documents in a row serves ({reason}); "
            "leave it out, or give what it lacks"
        )


class StorePart:
    """Documents of a token store."""

    def __init__(self, name: str, store: Store, seed: int = 0, retrieval: Retrieval | None = None) -> None:
        self.name, self.store, self.seed, self.retrieval = name, store, seed, retrieval

    def __len__(self) -> int:
        return len(self.store)

    def first(self, number: int) -> StoreSource:
        """Return the first `number` of them, each once an epoch, every time behind neighbours that are drawn anew."""
        return StoreSource([self.store], seed=self.seed, retrieval=self.retrieval, most=number)


class TaskSource(Source):
    """`Source` (cm3/data/load.py) of task examples."""

    def __init__(
        self,
        parts: Sequence[TaskPart | StorePart],
        mix: TaskMixture,
        codec: Codec,
        seed: int,
        law: ExampleLaw | None = None,
    ) -> None:
        """Take `mix`, of the parts' names and lengths, in their order.

        Raises `ConfigError` for a codec without pictures, for a mixture of other names, and for a share too small to be
        had.
        """
        if codec.image is None:
            raise ConfigError("codec: tasks have pictures; give it an image tokenizer")
        if list(mix.sizes) != [part.name for part in parts]:
            raise ConfigError(f"task mixture: is of {', '.join(mix.sizes)}, not of {', '.join(p.name for p in parts)}")
        self.parts, self.mix, self.codec, self.seed, self.law = list(parts), mix, codec, seed, law or ExampleLaw()
        self.view = View(codec.image.size, codec.image.fit)
        self._stores = {part.name: part.first(mix.used[part.name]) for part in parts if isinstance(part, StorePart)}
        self._stream = mix.mixture(seed)

    def sequences(self, positions: Sequence[int]) -> list[Tokens | Weighted]:
        """Return the sequences at these positions: documents to be masked, and examples whose answer is."""
        places = self._stream.locate(positions)
        found: dict[int, Tokens | Weighted] = {}
        masked: dict[int, Example] = {}
        plain = self.law.plain or self.codec.vocab.grammar == "chameleon"  # without masks an answer stands at the end
        whole: dict[int, Example] = {}
        for n, (position, which, epoch, number) in enumerate(
            zip(positions, *(a.tolist() for a in places), strict=True)
        ):
            part = self.parts[which]
            if isinstance(part, StorePart):
                (found[n],) = self._stores[part.name].sequences([epoch * self.mix.used[part.name] + number])
                continue
            rng = np.random.default_rng([self.seed, 0x7A5, position])
            chosen = masked if rng.random() < self.law.answers else whole
            chosen[n] = part.example(number, rng, self.view, plain)
        weights = encode(list(masked.values()), self.codec, self.law.loss)
        documents = self.codec.encode_many([example.document for example in whole.values()])
        found |= dict(zip(masked, weights, strict=True)) | dict(zip(whole, documents, strict=True))
        return [found[n] for n in range(len(found))]

    def report(self, positions: int = 0) -> dict[str, dict[str, float]]:
        """Return by source: documents that it has, those that this process asked for so far and that could not serve,
        the share that it is to have, how often each document that is used then comes while all come once on average,
        and what the first `positions` of the stream hold of it, where there are some.
        """
        realised = self.mix.realised(positions, self.seed) if positions else {}
        shares, used = self.mix.shares, self.mix.used
        told: dict[str, dict[str, float]] = {}
        for part in self.parts:
            name, left_out = part.name, len(part.left_out) if isinstance(part, TaskPart) else 0
            told[name] = {"documents": len(part), "left_out": left_out, "share": shares[name]}
            told[name]["repeats"] = shares[name] * sum(used.values()) / used[name]
            if realised:
                told[name] |= {"realised": realised[name].share, "epochs": realised[name].epochs}
        return told


def mixture_of(
    parts: Sequence[TaskPart | StorePart],
    *,
    weights: Mapping[str, float],
    caps: Mapping[str, int],
    up: float,
    down: float,
    balanced: bool,
) -> TaskMixture:
    """Return the mixture of some parts by their lengths. `balanced`: pictures, texts and stores get the same share of
    what the weights leave. Raises as `TaskMixture` does."""
    kinds = {part.name: part.task.output if isinstance(part, TaskPart) else "store" for part in parts}
    groups = kinds if balanced else {}
    return TaskMixture({part.name: len(part) for part in parts}, weights, caps, groups, up, down)

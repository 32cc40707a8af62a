"""Order, position and batches: the loader that training reads from.

    stream     0  1  2  3  4  5  6  7  8 ...          positions of a source, without end
    lane 0     0        3        6       ...          lane l of w takes l, l + w, l + 2w, ...
    lane 1        1        4        7    ...
    lane 2           2        5        8 ...          batch = one window of every lane

A lane fills its windows by itself: a few documents wait in it, those that have waited longest go in first, and when a
window is nearly full, those that fill it best. So where a lane stands is the position that it takes next and those that
wait, and a window depends on nothing but its lane. Rank r of n has lanes r, r + n, ...; joined, the states of all ranks
continue on any number of ranks with the very next batch, and nothing is lost or comes twice.

The source's documents are not masked. Each is masked by a generator of its position alone, so a document that comes
again in its next epoch is masked anew. A source may also give sequences that are laid out already, with a loss weight
for each token (`Weighted`): instruction tasks, where the answer is masked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cm3.data.lanes import LaneState, LoaderState
from cm3.data.pack import Batch, best_fill, lay_out
from cm3.document import Unreadable
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.sequence.answers import Weighted, weigh
from cm3.sequence.mask import MaskLaw, cm3_mask, hide, thin
from cm3.sequence.truncate import fit
from cm3.vocab import Tokens, Vocab

LOOKAHEAD = 16
"""Documents that wait in a lane."""
TOGETHER = 16
"""Documents that a source is asked for at once, unless it says otherwise."""
READ = 32
"""Documents read ahead for each lane where the source does not mind."""
PATIENCE = 1000
"""Documents in a row that may be skipped before the source is taken for one that does not fit."""


class Source(ABC):
    """Sequences by position, without end. Asked for the same positions, it must give the same ones.

    An image tokenizer may round differently in another batch, so a source is asked for the documents of a lane in
    chunks that do not depend on where a run began, `together` at a time. One whose documents do not depend on which are
    asked for with them has `together = 1`, and is asked for many lanes' at once.
    """

    together: int = TOGETHER

    @abstractmethod
    def sequences(self, positions: Sequence[int]) -> Sequence[Tokens | Weighted]:
        """Return the sequences at these positions.

        `Tokens` are a document `</s> ... </s>`, to be masked. `Weighted` is taken as it is: its weights are those of
        the loss, nothing of it is masked or cut, and it is skipped where it is too long.
        """

    def make(self) -> None:  # noqa: B027
        """Make what only a run that has begun may write, such as a bank. Called once, by the main process first."""

    def report(self, positions: int = 0) -> dict[str, dict[str, float]]:
        """Return it by name what a mixture gave in so many positions; empty for a source that is none."""
        return {}

    def left_out(self) -> Sequence[Unreadable]:
        """Return the documents that were asked for so far and could not be read."""
        return ()


@dataclass
class Counts:
    """Counts of all that went into the batches of a loader since it was made."""

    documents: int = 0
    tokens: int = 0
    places: int = 0
    """Tokens and padding."""
    truncated: int = 0
    """Documents that were too long and lost their end, or the last words of a text for a mask."""
    unmasked: int = 0
    """Documents that there was room for, but for none of their masks, nor words to give up for one."""
    skipped: int = 0
    """Documents that are in no batch: nothing of theirs, or no picture, would have fitted."""

    @property
    def padding(self) -> float:
        """Return the share of the windows that is padding."""
        return 1 - self.tokens / max(self.places, 1)


class _Item(NamedTuple):
    """A document as it will be packed; `document` None is one to be skipped."""

    position: int
    document: Weighted | None
    length: int
    truncated: bool
    unmasked: bool


class _Lane:
    """`ready` documents are those from the position that the lane takes next; `fetch` is the one to be read next."""

    def __init__(self, state: LaneState) -> None:
        self.fetch = state.next
        self.ready: deque[_Item] = deque()
        self.waiting: list[_Item] = []

    def state(self) -> LaneState:
        return LaneState(self.ready[0].position if self.ready else self.fetch, tuple(i.position for i in self.waiting))


class Loader:
    """Yields (batch, state): the state to save with what was learned from the batch. `counts` is for logs."""

    def __init__(
        self,
        source: Source,
        vocab: Vocab,
        law: MaskLaw,
        *,
        windows: int,
        length: int,
        seed: int,
        longest: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        state: LoaderState | None = None,
        lookahead: int = LOOKAHEAD,
    ) -> None:
        """Load `windows` of `length` tokens a batch, of all `ranks` together; this one, `rank`, gives its part of them.

        `longest`: most tokens of a document, masks included: a model's context; a whole window where it is None. A
        longer one is made to fit, and so are its masks (`cm3.sequence.truncate.fit`).

        Raises `ConfigError` for numbers out of range and for windows that the ranks can not share evenly;
        `CheckpointError` for a state that is of another seed or number of windows, or lacks a lane of this rank.
        """
        if windows < 1 or length < 2 or lookahead < 1:
            raise ConfigError(
                f"windows={windows} and lookahead={lookahead}: must be at least 1, and length={length} at least 2"
            )
        if ranks < 1 or windows % ranks or not 0 <= rank < ranks:
            raise ConfigError(
                f"windows={windows}, rank {rank} of {ranks}: windows must be a multiple of the ranks, which are "
                "numbered from 0; give another number of windows"
            )
        if not 0 <= seed < 2**63:
            raise ConfigError(f"seed={seed}: must be in 0..2**63 - 1")
        mine = range(rank, windows, ranks)
        if state is None:
            state = LoaderState.start(seed, windows)
        elif state.seed != seed:
            raise CheckpointError(f"loader state has seed {state.seed}, this run has {seed}; resume with the same seed")
        elif state.windows != windows:
            raise CheckpointError(
                f"loader state has windows={state.windows}, this run has {windows}; resume with the same windows"
            )
        elif missing := [lane for lane in mine if lane not in state.lanes]:
            raise CheckpointError(
                f"loader state lacks lane {missing[0]} of {windows}; join the states of all ranks with merge_states"
            )
        self.source, self.vocab, self.law = source, vocab, law
        self.windows, self.length, self.seed, self.lookahead = windows, length, seed, lookahead
        self.longest = length if longest is None else min(longest, length)
        self.together = source.together
        self.counts, self.batches, self._in_vain = Counts(), state.batches, 0
        self._bits = np.random.Philox(key=[seed, 0xC3])
        self._rng, self._start = np.random.Generator(self._bits), self._bits.state
        self._lanes = {lane: _Lane(state.lanes[lane]) for lane in mine}
        waiting = [p for lane in mine for p in state.lanes[lane].waiting]
        for item in self._items(waiting):
            if item.document is not None:
                self._lanes[item.position % windows].waiting.append(item)
            else:  # it fitted the windows of the run before
                self.counts.skipped += 1

    @property
    def state(self) -> LoaderState:
        """Return where this rank stands."""
        lanes = {number: lane.state() for number, lane in self._lanes.items()}
        return LoaderState(self.seed, self.windows, self.batches, lanes)

    def __iter__(self) -> Iterator[tuple[Batch, LoaderState]]:
        """Yield batches without end. Raises `DataError` when nothing of a thousand documents in a row fits."""
        while True:
            rows = [self._fill(lane) for lane in self._lanes.values()]
            self.batches += 1
            yield lay_out(rows, self.length, self.vocab), self.state

    def _fill(self, lane: _Lane) -> list[Weighted]:
        """Return the documents of a lane's next window."""
        row: list[_Item] = []
        room = self.length
        while True:
            while len(lane.waiting) < self.lookahead:
                self._take(lane)
            lengths = [item.length for item in lane.waiting]
            # Where about half of them go in, there are the most ways to choose.
            if sum(lengths) > 2 * room or lengths[0] > room:
                break
            row.append(lane.waiting.pop(0))
            room -= lengths[0]
        # The oldest fits an empty window, and goes in, so nobody waits for ever.
        chosen = best_fill(lengths, room, first=not row)
        row += [lane.waiting[i] for i in chosen]
        lane.waiting = [item for i, item in enumerate(lane.waiting) if i not in chosen]
        self.counts.documents += len(row)
        self.counts.tokens += sum(item.length for item in row)
        self.counts.places += self.length
        self.counts.truncated += sum(item.truncated for item in row)
        self.counts.unmasked += sum(item.unmasked for item in row)
        return [item.document for item in row if item.document is not None]

    def _take(self, lane: _Lane) -> None:
        """Let the next document of a lane in, or skip it."""
        if not lane.ready:
            self._read(lane)
        item = lane.ready.popleft()
        if item.document is not None:
            lane.waiting.append(item)
            self._in_vain = 0
            return
        self.counts.skipped += 1
        self._in_vain += 1
        if self._in_vain == PATIENCE:
            raise DataError(
                f"pack: nothing of {PATIENCE} documents in a row fits {self.longest} tokens, the last of them has "
                f"{item.length}; raise the length, and the model's context"
            )

    def _read(self, lane: _Lane) -> None:
        """Read on, so that the lane has documents that are ready."""
        if self.together > 1:
            at = lane.fetch // self.windows % self.together
            asked = [(lane, self.together - at)]
        else:
            asked = [(one, READ - len(one.ready)) for one in self._lanes.values() if len(one.ready) <= READ // 2]
        positions = [one.fetch + self.windows * i for one, number in asked for i in range(number)]
        for item in self._items(positions):
            self._lanes[item.position % self.windows].ready.append(item)
        for one, number in asked:
            one.fetch += self.windows * number

    def _items(self, positions: list[int]) -> Iterator[_Item]:
        """Return the documents of these positions as they will be packed."""
        return map(self._fitted, positions, self._documents(positions))

    def _documents(self, positions: list[int]) -> list[Tokens | Weighted]:
        if not positions:
            return []
        if self.together == 1:
            return list(self.source.sequences(positions))
        found: dict[int, Tokens | Weighted] = {}
        for position in positions:
            if position not in found:
                lane, number = position % self.windows, position // self.windows
                first = lane + self.windows * (number - number % self.together)
                chunk = range(first, first + self.windows * self.together, self.windows)
                found.update(zip(chunk, self.source.sequences(chunk), strict=True))
        return [found[position] for position in positions]

    def _fitted(self, position: int, document: Tokens | Weighted) -> _Item:
        """Mask a document, and truncate it before where there is no room for it; one with weights stays as it is."""
        if isinstance(document, Weighted):
            length = document.tokens.length
            if len(document.weights) != length:
                raise DataError(
                    f"pack, document {position}: has {len(document.weights)} weights for {length} tokens; "
                    "give one for each"
                )
            return _Item(position, document if length <= self.longest else None, document.length, False, False)

        def masked(tokens: Tokens, longest: int | None = None) -> Tokens:
            return cm3_mask(tokens, self.vocab, self.law, self._draws(position), longest)

        tokens, truncated, unmasked = fit(document, self.longest, self.vocab, masked)
        if tokens is None:
            return _Item(position, None, document.length, truncated, unmasked)
        made = weigh(tokens, self.vocab, self.law.tail_weight)
        made = made._replace(
            shown=hide(tokens, self.vocab, self.law, self._draws(position, 1)),
            kept=thin(tokens, self.vocab, self.law, self._draws(position, 2)),
        )
        return _Item(position, made, made.length, truncated, unmasked)

    def _draws(self, position: int, part: int = 0) -> np.random.Generator:
        """Return the generator at the stretch of its stream that a part of a position's draws has to itself."""
        # Setting it costs a tenth of making a generator.
        self._start["state"]["counter"][2:] = position, part
        self._bits.state = self._start
        return self._rng

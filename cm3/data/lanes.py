"""The position of a loader, as plain values: for each of its lanes, the position that it takes next and those that
wait.

LoaderState(seed, windows, batches, {lane: LaneState(next, waiting)})    of all lanes, or of one rank's
merge_states([rank 0's, rank 1's, ...])                                  of all lanes, for any number of ranks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cm3.errors import CheckpointError


class LaneState(NamedTuple):
    """The position that a lane takes next, and those that it has taken and not packed, the oldest first."""

    next: int
    waiting: tuple[int, ...]


class LoaderState(NamedTuple):
    """The seed and number of windows that a loader must continue with, batches given, and its lanes by number."""

    seed: int
    windows: int
    batches: int
    lanes: Mapping[int, LaneState]

    @classmethod
    def start(cls, seed: int, windows: int) -> LoaderState:
        """Return the state before the first batch."""
        return cls(seed, windows, 0, {lane: LaneState(lane, ()) for lane in range(windows)})

    @classmethod
    def of(cls, plain: Any) -> LoaderState:
        """Make a state of what `plain` gave. Raises `CheckpointError` for values that are no state."""
        try:
            lanes = {
                int(lane): LaneState(int(next), tuple(int(p) for p in waiting))
                for lane, next, waiting in plain["lanes"]
            }
            state = cls(int(plain["seed"]), int(plain["windows"]), int(plain["batches"]), lanes)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                "loader state: is not of this version's loader; go on with the version that wrote it, or start anew"
            ) from error
        for lane, (next, waiting) in lanes.items():
            if not 0 <= lane < state.windows or any(p % state.windows != lane for p in (next, *waiting)):
                raise CheckpointError(
                    f"loader state: lane {lane} of {state.windows} has positions of another; restore the checkpoint"
                )
        return state

    def plain(self) -> dict[str, Any]:
        """Return the state as integers in lists and a dict, for JSON and for checkpoints."""
        lanes = [[lane, next, list(waiting)] for lane, (next, waiting) in sorted(self.lanes.items())]
        return {"seed": self.seed, "windows": self.windows, "batches": self.batches, "lanes": lanes}

    @property
    def documents(self) -> int:
        """Return the documents that the batches up to here have used up."""
        return sum((next - lane) // self.windows - len(waiting) for lane, (next, waiting) in self.lanes.items())


def merge_states(parts: Sequence[LoaderState]) -> LoaderState:
    """Return the states of all ranks as one. Raises `CheckpointError` where they are not the ranks of one run at one
    batch."""
    lanes: dict[int, LaneState] = {}
    for part in parts:
        if part[:3] != parts[0][:3]:
            raise CheckpointError(
                f"loader states: of seed, windows, batches {part[:3]} and {parts[0][:3]}; give those that the ranks of "
                "one run saved after the same batch"
            )
        if twice := lanes.keys() & part.lanes.keys():
            raise CheckpointError(f"loader states: two have lane {min(twice)}; give the state of each rank once")
        lanes |= part.lanes
    if not parts or len(lanes) != parts[0].windows:
        windows = parts[0].windows if parts else 0
        raise CheckpointError(f"loader states: have {len(lanes)} of {windows} lanes; give those of all ranks")
    return LoaderState(*parts[0][:3], dict(sorted(lanes.items())))

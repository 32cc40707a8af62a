"""Steps that come again, recorded once each as one program and replayed: on a GPU a CUDA graph.

    step = attend to a bucket -> forward -> head -> guide -> draw -> ids into tokens, positions and places + 1

A step of few tokens is hundreds of small kernels, and to issue them one by one takes the host longer than they take.
A recording holds them with the addresses that they read and write, so all that a step reads lies in memory of the
recording's own (`Pass.apart`): what moves is moved in place, within the step, and a batch with another set of requests
is copied in. What is part of the program is part of its signature:

    rows; for each group of requests its ids, streams, number of requests and which settings there are
    the places of the rows that attention reads, rounded up to a bucket; prefixes, by where they lie and who reads them

Of the places of a bucket a mask, computed on the device, hides those that no token has reached. Where the cache's
memory or a weight lies elsewhere than when recordings were made, they go. A decoder with hooks, as one in shares has
them, is not recorded: they are code of others. A step with several tokens a row (prompts, what is forced, windows of
guesses) is issued kernel by kernel, as its shapes hardly come again.

On a processor a tape stands for the GPU's recorder: it holds the operators and the tensors that they were called with,
and replays just these. It saves nothing there, and lets tests hold what a GPU would do.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
import torch.utils._pytree as tree
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cm3.engine.cache import BLOCK, Cache
from cm3.engine.input_batch import InputBatch, Pass
from cm3.errors import ConfigError, shown
from cm3.model.decoder import Decoder

MOST = 64
"""Recordings that are kept; the one that was not used for longest goes."""
AFTER = 3
"""Steps of a signature that are issued kernel by kernel before one is recorded, which takes about as long as these."""
_WARM = 3
"""Passes on a stream beside, before a recording, in which libraries make what they keep."""

_INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}
_FROM_HOST = {torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.lift_fresh.default}

Replay = Callable[[], object]
Record = Callable[[Callable[[], None], Callable[[], None]], Replay]
"""(step, reset) -> what replays the step. `reset` undoes what a step moved on."""


def recorder(setting: object, device: torch.device) -> Callable[[], Record] | None:
    """Return what makes recorders for a device, None where steps are not to be recorded.

    Raises `ConfigError` for a setting that is none, and where it is True for a device that has no recorder.
    """
    if setting != "auto" and not isinstance(setting, bool):
        raise ConfigError(f"engine.graphs={shown(setting)}: must be 'auto', True or False")
    if setting is True and device.type not in ("cuda", "cpu"):
        raise ConfigError(
            f"engine.graphs=True: steps can be recorded on cuda, and to test it on cpu, not on {device.type}; "
            "give 'auto' or False"
        )
    if device.type == "cuda" and setting:
        return lambda: _captured(device)
    return (lambda: _taped) if setting is True else None


class Graphs:
    """The steps of an engine, recorded and replayed where they come again. `recordings`: those that are there.

    `make` gives a recorder; a new one where all recordings went, as they share memory. One that fails ends recording,
    with a warning, and no step with it.
    """

    def __init__(self, decoder: Decoder, cache: Cache, make: Callable[[], Record]) -> None:
        self._decoder, self._cache, self._make = decoder, cache, make
        self.recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._asked: Counter[Hashable] = Counter()
        self._record: Record | None = make()
        self._at: Hashable = None

    def steps(self, batch: InputBatch, count: int) -> list[Tensor]:
        """Take so many steps of a batch; returns what each draws, (2, jobs)."""
        able = self._record is not None and batch.now.then is not None and self._follow()
        return [self._step(batch, able) for _ in range(count)]

    def _step(self, batch: InputBatch, able: bool) -> Tensor:
        recording = self._of(batch) if able else None
        if recording is not None:
            return recording.step(batch)
        if batch.now.attend.fixed:
            batch.now = batch.now.apart(batch.length)
        return batch.step(self._decoder)

    def _of(self, batch: InputBatch) -> Recording | None:
        """Return the recording of a step, made now if it was asked for often enough."""
        length = BLOCK * min(bucket(-(-batch.length // BLOCK)), self._cache.shape.blocks)
        key = batch.now.signature, length
        found = self.recordings.get(key)
        if found is None:
            self._asked[key] += 1
            if self._record is None or self._asked[key] <= AFTER:
                return None
            try:
                found = Recording(batch.now, length, self._decoder, self._record)
            except Exception as error:  # whatever a driver, a library or a tracer raises: the step is taken without
                self._record = None
                self._drop()
                warnings.warn(
                    f"engine: a step could not be recorded ({type(error).__name__}: {str(error)[:300]}); this engine "
                    "issues its steps kernel by kernel, which takes longer. Engine(graphs=False) does so from the "
                    "start",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return None
            self.recordings[key] = found
            if len(self.recordings) > MOST:
                self.recordings.popitem(last=False)
            if len(self._asked) > 16 * MOST:
                self._asked.clear()
        self.recordings.move_to_end(key)
        return found

    def _follow(self) -> bool:
        """Drop all recordings where the memory that they read is elsewhere now; returns whether steps may be
        recorded."""
        modules = list(self._decoder.modules())
        if any(module._forward_hooks or module._forward_pre_hooks for module in modules):
            return False
        own = itertools.chain.from_iterable((*m._parameters.values(), *m._buffers.values()) for m in modules)
        at = tuple(tensor.data_ptr() for tensor in own if tensor is not None), self._cache.addresses
        if at != self._at:
            if self.recordings:
                self._drop()
                self._record = self._make()
            self._at = at
        return True

    def _drop(self) -> None:
        self.recordings.clear()
        self._asked.clear()


class Recording:
    """One step as one program, and the memory that it reads."""

    def __init__(self, now: Pass, length: int, decoder: Decoder, record: Record) -> None:
        """Take the step of a pass over the first `length` places of the rows; moves nothing of it."""
        self._now = mine = now.apart(length, decoder.config.context + 1)
        jobs = sum(len(group.seeds) for group in now.groups)
        self._drawn = torch.empty(2, jobs, dtype=torch.float64, device=now.tokens.device)

        def step() -> None:
            mine.attend.look()
            self._drawn.copy_(mine.run(decoder, True))

        self._replay = record(step, lambda: mine.load(now))

    def step(self, batch: InputBatch) -> Tensor:
        """Take the next step of a batch of this signature, whose pass is this recording's from then on."""
        if batch.now is not self._now:
            self._now.load(batch.now)
            batch.now = self._now
        batch.count()
        self._replay()
        return self._drawn.clone()


def bucket(blocks: int) -> int:
    """Return the least of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is not less than a number of blocks."""
    power = 1 << (blocks - 1).bit_length()
    return power * 3 // 4 if power >= 4 and blocks <= power * 3 // 4 else power


def _captured(device: torch.device) -> Record:
    """Return a recorder of CUDA graphs that share one pool of memory, which is sound as no two of them run at once and
    nothing is read of one after another ran."""
    pool, beside = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def record(step: Callable[[], None], reset: Callable[[], None]) -> Replay:
        with torch.cuda.device(device):
            here = torch.cuda.current_stream()
            beside.wait_stream(here)
            with torch.cuda.stream(beside):
                for _ in range(_WARM):
                    step()
                    reset()
            here.wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            # Of this thread alone: another may be at the picture of an answer.
            with torch.cuda.graph(graph, pool=pool, stream=beside, capture_error_mode="thread_local"):
                step()
        return graph.replay

    return record


def _taped(step: Callable[[], None], reset: Callable[[], None]) -> Replay:
    """Return what replays a step on a processor."""
    with _Tape() as tape:
        step()
    reset()
    return tape.replay


class _Tape(TorchDispatchMode):
    """The operators of a program and the tensors they were called with. It refuses what a GPU refuses to record."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A number, which has no dimension, is filled in and not copied.
        copied = func in _FROM_HOST and args[0].dim()
        if copied or torch.Tag.data_dependent_output in func.tags or _counts(func, args):
            raise RuntimeError(f"{func} waits for the device, or copies to it")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """Call the operators again: on the tensors that were there before, and on what they make now."""
        made: dict[int, Tensor] = {}
        for func, args, kwargs, out in self.calls:
            args, kwargs = tree.tree_map_only(Tensor, lambda x: made.get(id(x), x), (args, kwargs))
            for old, new in zip(tree.tree_leaves(out), tree.tree_leaves(func(*args, **kwargs)), strict=True):
                made[id(old)] = new


def _counts(func: Any, args: Any) -> bool:
    """Tell whether the shape of what an operator makes depends on values: of an index, where it is a mask."""
    if func in _INDEXED:
        return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    return torch.Tag.dynamic_output_shape in func.tags

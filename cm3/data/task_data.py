"""What a run is tuned on: the sources that a recipe names, opened and mixed, and all that is wrong told before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cm3.data.augment import AugmentLaw
from cm3.data.neighbours import Neighbours
from cm3.data.store import Store
from cm3.data.store_source import Retrieval
from cm3.data.task_source import ExampleLaw, StorePart, TaskPart, TaskSource, mixture_of
from cm3.errors import ConfigError, DataError
from cm3.read.find import open_reader
from cm3.tasks.find import find_task
from cm3.tasks.numbered import Numbered
from cm3.tokens.codec import Codec
from cm3.tokens.load import fingerprint, text_fingerprint

STORE = "store"
"""What stands for a task where the source is a token store."""
WRITTEN = "TASK=[KIND:]PATH[@SPLIT]"
"""How a dataset of a task is written."""


@dataclass(frozen=True)
class TaskData:
    """Instruction tasks of real datasets, made on the fly, and token stores among them (cm3/data/task_source.py).

    Resume with the same ones: which example comes when follows from them, their shares and the seed.
    """

    sources: tuple[str, ...]
    """TASK=[KIND:]PATH[@SPLIT], such as `vqa2=vqa2:data/vqa2@train2014`, or `store=PATH` for a token store. A source's
    name is its task's; a second one of the same task is `vqa2#2`, and so on."""
    seed: int = 1
    """Draws the order of the examples, and the examples of a document."""
    weights: dict[str, float] = field(default_factory=dict)
    """Shares of sources by name, in 0..1; what they leave is divided by sizes, up- and down-sampled."""
    caps: dict[str, int] = field(default_factory=dict)
    """Most documents of a source that are used, by name: the first of its order."""
    up: float = 3.0
    """Most often that a document of a source without a weight is to come, by sizes (the paper has 3)."""
    down: float = 0.3
    """Least often, likewise (the paper has 0.3)."""
    balanced: bool = False
    """The same share for tasks that give a picture, those that give a text, and stores."""
    law: ExampleLaw = field(default_factory=ExampleLaw)
    controls: str = ""
    """Folder of control images; none means beside the pictures. docs/tasks.md says what they are called."""
    neighbours: str = ""
    """Table of neighbours (cm3/data/neighbours.py) of the stores' documents, which are put before them; their tokens
    are taken from the first store."""
    documents: AugmentLaw = field(default_factory=AugmentLaw)
    """How many of them."""


def task_source(data: TaskData, codec: Codec, tokenizer: Path, context: int) -> TaskSource:
    """The source of a tuning run. `tokenizer`: file of the codec's text tokenizer; `context`: of the model.

    Raises `ConfigError` for a source that is not written TASK=SOURCE, an unknown task, a dataset that it is not made
    of, a store that other tokenizers made, neighbours without a store, and weights that sum to nothing or name no
    source; `DataError` for a dataset that cannot be read, is empty, or has nothing for its task.
    """
    if not data.sources:
        raise ConfigError("data.sources: there are none; give some, each TASK=[KIND:]PATH[@SPLIT] or store=PATH")
    named = named_sources(data.sources, "data.sources", f"{WRITTEN} or {STORE}=PATH")
    stores = {name: _store(path, codec, tokenizer) for task, name, path in named if task == STORE}
    if data.neighbours and not stores:
        raise ConfigError(f"data.neighbours={data.neighbours!r}: are of a store's documents; give one, store=PATH")
    retrieval = None
    if data.neighbours:
        bank = next(iter(stores.values()))
        retrieval = Retrieval(Neighbours.open(data.neighbours), bank, data.documents, context)
    parts: list[TaskPart | StorePart] = []
    opened: dict[str, Numbered] = {}  # a dataset of several tasks is read once
    for task, name, path in named:
        if task == STORE:
            parts.append(StorePart(name, stores[name], data.seed, retrieval))
            continue
        wanted, controls = find_task(task), Path(data.controls) if data.controls else None
        if path not in opened:
            opened[path] = Numbered(open_reader(path), path)
        parts.append(TaskPart(name, wanted, opened[path], controls))
    mix = mixture_of(parts, weights=data.weights, caps=data.caps, up=data.up, down=data.down, balanced=data.balanced)
    return TaskSource(parts, mix, codec, data.seed, data.law)


def named_sources(sources: Sequence[str], where: str, written: str = WRITTEN) -> list[tuple[str, str, str]]:
    """Sources of tasks as (task, name, path), the name being the task's, of a second one of the same task `vqa2#2`.

    Raises `ConfigError` for one that is not `written` so, naming `where` it stands. The task need not be known.
    """
    named: list[tuple[str, str, str]] = []
    for source in sources:
        task, equals, path = source.partition("=")
        if not (equals and task and path):
            raise ConfigError(f"{where}: {source!r} must be written {written}")
        number = sum(task == other for other, _, _ in named) + 1
        named.append((task, f"{task}#{number}" if number > 1 else task, path))
    return named


def _store(path: str, codec: Codec, tokenizer: Path) -> Store:
    store = Store.open(path)
    if not len(store):
        raise DataError(f"store {path!r}: has no document; leave it out")
    assert codec.image is not None  # a run that is tuned has pictures
    for what, theirs, ours in (
        ("vocabulary", store.vocab, codec.vocab),
        ("text tokenizer", store.text_fingerprint, text_fingerprint(tokenizer)),
        ("image tokenizer or size", store.image_fingerprint, fingerprint(codec.image)),
    ):
        if theirs != ours:
            raise ConfigError(f"store {path!r}: was prepared with another {what} than this run has; prepare it again")
    return store

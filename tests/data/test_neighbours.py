"""The table of neighbours: what selection gives, kept on disk, found again after a kill, refused when damaged."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from exact_bank import ExactBank, Letters
from safetensors.numpy import save_file
from tiny_model import SIZE

from cm3.data import neighbours
from cm3.data.neighbours import Neighbours
from cm3.document import Document
from cm3.errors import CheckpointError, DataError, RequestError
from cm3.retrieval.embed import Vectors, embed
from cm3.retrieval.memory import Memory
from cm3.retrieval.select import SelectLaw, shortlists
from cm3.scenes.data.scene_source import scene_document

NUMBER = 23


def scenes(seed: int, number: int, name: str) -> list[Document]:
    found = [scene_document(seed, i, SIZE, captions_only=0.2) for i in range(number)]
    return [Document(d.parts, id=f"{name}/{i}") for i, d in enumerate(found)]


class Counted(Memory):
    """A bank that counts the queries it is asked."""

    searched = 0

    def search(self, vectors: np.ndarray, k: int) -> tuple[list[list[str]], np.ndarray]:
        self.searched += len(vectors)
        return super().search(vectors, k)


@functools.cache
def built(number: int, seed: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cm3-test-")) / "bank"
    Memory.build(folder, scenes(seed, number, "bank"), Letters())
    return folder


def bank(number: int = 60, seed: int = 1) -> Counted:
    return Counted.open(built(number, seed))


@pytest.fixture(scope="module")
def queries() -> tuple[list[str], Vectors]:
    documents = scenes(2, NUMBER, "query")
    return [d.id for d in documents], embed(Letters(), documents)


def first(vectors: Vectors, number: int) -> Vectors:
    return Vectors(vectors.vectors[:number], vectors.texts[:number], vectors.images[:number])


def everything(table: Neighbours) -> list[list[tuple[str, float, str, bool]]]:
    return [[(c.id, c.score, c.by, c.whole) for c in table.ranked(id)] for id in table]


@pytest.mark.parametrize("block", [1, 5, 23, 100])
def test_a_table_holds_what_selection_gives(tmp_path: Path, queries: tuple[list[str], Vectors], block: int) -> None:
    ids, vectors = queries
    memory, seen = bank(), []
    table = Neighbours.compute(
        tmp_path / "t.safetensors", memory, ids, vectors, block=block, progress=lambda *at: seen.append(at)
    )
    want = shortlists(memory, vectors.texts, vectors.images, [set()] * NUMBER, SelectLaw())
    assert list(table) == ids and len(table) == NUMBER and ids[3] in table and "else" not in table
    for row, expected in zip(everything(table), want, strict=True):
        assert row == [(c.id, pytest.approx(c.score, abs=1e-5), c.by, c.whole) for c in expected]
    assert table.names == sorted({c.id for row in want for c in row})
    assert seen == [(min(at + block, NUMBER), NUMBER, "neighbours") for at in range(0, NUMBER, block)]
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]
    assert everything(Neighbours.open(tmp_path / "t.safetensors", memory)) == everything(table)


def test_a_document_is_no_neighbour_of_itself(tmp_path: Path) -> None:
    memory = bank()
    ids = list(memory)[:20]
    vectors = embed(Letters(), [memory[id] for id in ids])
    table = Neighbours.compute(tmp_path / "t", memory, ids, vectors, law=SelectLaw(highest=1))
    assert all(id not in [c.id for c in table.ranked(id)] for id in ids)
    # Nor is what shows its picture by another name, also where likeness has no limit.
    others = Neighbours.compute(tmp_path / "u", memory, [f"x{id}" for id in ids], vectors, law=SelectLaw(highest=1))
    assert not [id for id in ids if memory[id].images and id in [c.id for c in others.ranked(f"x{id}")]]


class Clipish:
    """An encoder whose text and picture of one thing are at a cosine of about 0.3, as CLIP's are."""

    name, width = "clipish", 64

    def one(self, key: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).normal(size=self.width)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.stack([0.3 * unit(self.one("i" + t.split()[0])) + 0.95 * unit(self.one(t)) for t in texts])
        return unit(rows).astype(np.float32)

    def images(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        """By what is drawn in the middle; a little by all the rest, as for a picture that was saved again."""
        rows = [self.one(f"i{round(np.asarray(i)[2:6, 2:6, 0].mean() / 5)}") for i in images]
        rest = [self.one(hashlib.sha256(i.tobytes()).hexdigest()) for i in images]
        return unit(unit(np.stack(rows)) + 0.1 * unit(np.stack(rest))).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def coloured(i: int, border: int = 0) -> PIL.Image.Image:
    made = PIL.Image.new("RGB", (8, 8), (border, 0, 0))
    made.paste((i * 5, 0, 0), (2, 2, 6, 6))
    return made


@pytest.mark.parametrize("pure", [True, False])
@pytest.mark.parametrize("highest", [0.9, 1.0])
def test_no_neighbour_shows_the_documents_own_picture(tmp_path: Path, highest: float, pure: bool) -> None:
    """Five captions a picture, copies under other ids and in other modes, and, below `highest`, near copies."""
    bank_documents = [
        Document.of(f"{i} words number {c}", coloured(i), id=f"{i}#{c}", image_id=i)
        for i in range(50)
        for c in range(5)
    ]
    bank_documents += [
        Document.of("7 words number 0", coloured(7), id="7#copy"),
        Document.of(coloured(7), id="7#bare"),
        Document.of("seven", coloured(7).convert("RGBA"), id="7#alpha"),
        Document.of("words of two", coloured(7), coloured(30), id="7#two"),
        Document.of(" 7 Words number\n0", coloured(44, border=3), id="7#words"),
        Document.of("7 words number 0", id="7#text"),
    ]
    near = [Document.of(f"{i} seen again", coloured(i, border=1), id=f"{i}#near") for i in range(50)]
    memory = Memory.build(tmp_path / "bank", bank_documents + near, Clipish())
    vectors = embed(Clipish(), bank_documents)
    if not pure:  # who makes vectors by himself, and names no pictures: the bank knows those of its own documents
        vectors = Vectors(vectors.vectors, vectors.texts, vectors.images)
    ids, law = [d.id for d in bank_documents], SelectLaw(highest=highest)
    table = Neighbours.compute(tmp_path / "t", memory, ids, vectors, law=law)

    def own(id: str, other: str) -> bool:
        number, mine = other.partition("#")[::2]
        # Of a document of two pictures, near copies are looked for by the mean of both.
        if {id, other} & {"7#words", "7#text"}:  # no picture of theirs: what they say is said once more
            return len({id, other} & {"7#0", "7#copy", "7#words", "7#text"}) == 2
        return number == id.partition("#")[0] and (mine != "near" or (highest < 1 and id != "7#two"))

    assert all(table.ranked(id) for id in ids)
    assert [(id, c.id) for id in ids for c in table.ranked(id) if own(id, c.id)] == []
    if highest == 1:
        found = [id for id in ids if any(c.id.endswith("#near") for c in table.ranked(id))]
        assert found, "without a limit near copies pass: the limit is what keeps them out"


class Killed(Exception):
    """Stands for a kill between two blocks."""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, queries: tuple[list[str], Vectors]) -> None:
    ids, vectors = queries
    whole = Neighbours.compute(tmp_path / "whole", bank(), ids, vectors, block=4)

    def stop(done: int, of: int, what: str) -> None:
        if done == 12:
            raise Killed

    path = tmp_path / "t"
    with pytest.raises(Killed):
        Neighbours.compute(path, bank(), ids, vectors, block=4, progress=stop)
    assert not path.exists() and (tmp_path / "t.parts").is_dir()
    memory = bank()
    (tmp_path / "t.parts" / ".000000000012.safetensors.77").write_bytes(b"half")  # what a kill in mid-write leaves
    again = Neighbours.compute(path, memory, ids, vectors, block=4)
    assert everything(again) == everything(whole) and path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert memory.searched < 2 * (NUMBER - 12) + 1  # by text and by image, for those that were left
    # A finished table is opened, not computed.
    memory = bank()
    assert everything(Neighbours.compute(path, memory, ids, vectors, block=4)) == everything(whole)
    assert memory.searched == 0
    # And damaged, it is computed anew.
    path.write_bytes(path.read_bytes()[:-5])
    assert everything(Neighbours.compute(path, bank(), ids, vectors, block=4)) == everything(whole)


def test_another_job_does_not_go_on_with_this_one(tmp_path: Path, queries: tuple[list[str], Vectors]) -> None:
    ids, vectors = queries

    def compute(
        path: Path, memory: Counted, ids: Sequence[str], vectors: Vectors, law: SelectLaw, kill: bool
    ) -> Neighbours:
        def stop(done: int, of: int, what: str) -> None:
            if kill and done == 8:
                raise Killed

        return Neighbours.compute(path, memory, ids, vectors, law=law, block=4, progress=stop)

    jobs = [
        (bank(), ids, vectors, SelectLaw()),
        (bank(), ids, vectors, SelectLaw(by_text=1)),
        (bank(59), ids, vectors, SelectLaw()),
        (bank(seed=9), ids, vectors, SelectLaw()),  # the same ids, other documents
        (bank(), ids[:-1], first(vectors, NUMBER - 1), SelectLaw()),
    ]
    for i, (before, job) in enumerate(zip(jobs, jobs[1:], strict=False)):
        path = tmp_path / f"{i}"
        with pytest.raises(Killed):
            compute(path, *before, kill=True)
        memory, some, given, law = job
        want = shortlists(memory, given.texts, given.images, [set()] * len(some), law)
        found = compute(path, *job, kill=False)
        assert [[c.id for c in found.ranked(id)] for id in some] == [[c.id for c in row] for row in want]
        # A finished table of another job is replaced.
        assert len(compute(path, *before, kill=False)) == len(before[1])


def test_training_draws_some_of_them(tmp_path: Path, queries: tuple[list[str], Vectors]) -> None:
    ids, vectors = queries
    table = Neighbours.compute(tmp_path / "t", bank(), ids, vectors)
    id = next(i for i in ids if len(table.ranked(i)) == 4 and all(c.whole for c in table.ranked(i)))
    every = [c.id for c in table.ranked(id)]
    for k in range(4):
        assert table.of(id, k) == every[:k]
        draws = [table.of(id, k, np.random.default_rng(s)) for s in range(60)]
        assert draws == [table.of(id, k, np.random.default_rng(s)) for s in range(60)]
        assert all(len(d) == k == len(set(d)) for d in draws)
    assert {d for draw in draws for d in draw} == set(every)
    assert len({tuple(d) for d in draws}) > 12
    with pytest.raises(RequestError, match="k=4: must be 0 to 3 documents"):
        table.of(id, 4)
    with pytest.raises(DataError, match=r"neighbours '.*': has no document 'x'; compute a table with it"):
        table.of("x", 1)


def test_a_bank_of_one_gives_one(tmp_path: Path, queries: tuple[list[str], Vectors]) -> None:
    ids, vectors = queries
    table = Neighbours.compute(tmp_path / "t", bank(1), ids, vectors, law=SelectLaw(highest=1))
    assert all(table.of(id, 3) == ["bank/0"] for id in ids)
    alone = Neighbours.compute(tmp_path / "u", bank(1), ["bank/0"], first(vectors, 1))
    assert alone.of("bank/0", 3) == [] and alone.names == []


def test_bad_input_is_refused(tmp_path: Path, queries: tuple[list[str], Vectors]) -> None:
    ids, vectors = queries
    path = tmp_path / "t"
    for some in ([], ids[:1] * 2):
        with pytest.raises(DataError, match="neighbours: takes one id for each of at least one document, each id once"):
            Neighbours.compute(path, bank(), some, vectors)
    with pytest.raises(DataError, match=r"22 documents and a bank of width 112, but vectors of shapes \(23, 112\)"):
        Neighbours.compute(path, bank(), ids[:-1], vectors)
    narrow = Vectors(vectors.vectors[:, :9], vectors.texts[:, :9], vectors.images[:, :9])
    with pytest.raises(DataError, match="embed these documents with the bank's encoder"):
        Neighbours.compute(path, bank(), ids, narrow)
    with pytest.raises(RequestError, match="memory bank: is empty"):
        Neighbours.compute(path, ExactBank([], np.zeros((0, 112))), ids, vectors)


def test_a_damaged_or_foreign_table_is_refused(tmp_path: Path, queries: tuple[list[str], Vectors]) -> None:
    ids, vectors = queries
    path = tmp_path / "t"
    with pytest.raises(CheckpointError, match=r"neighbours '.*': no such file; compute the table first"):
        Neighbours.open(path)
    Neighbours.compute(path, bank(), ids, vectors)
    other = bank()
    other.encoder_name = "clip:x"
    with pytest.raises(CheckpointError, match="was computed with the encoder 'letters', the bank has 'clip:x'"):
        Neighbours.open(path, other)
    good = path.read_bytes()
    (tmp_path / "cut").write_bytes(good[:-9])
    with pytest.raises(CheckpointError, match="damaged .*; compute the table again"):
        Neighbours.open(tmp_path / "cut")
    (tmp_path / "flipped").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"was altered \(its checksum is another\); compute the table again"):
        Neighbours.open(tmp_path / "flipped")
    # Words of its header, which no tensor holds.
    for old, new in ((b"letters", b"lettres"), (b'"I32"', b'"F32"'), (b"by_text", b"by_tent")):
        assert good.count(old)
        (tmp_path / "flipped").write_bytes(good.replace(old, new))
        with pytest.raises(CheckpointError, match="flipped'.*compute the table again"):
            Neighbours.open(tmp_path / "flipped")
    with pytest.raises(CheckpointError, match="is no file; compute the table again"):
        Neighbours.open(tmp_path)
    with pytest.raises(DataError, match="is a folder; give a file"):
        Neighbours.compute(tmp_path, bank(), ids, vectors)
    save_file({"a": np.zeros(3)}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="is no table of format cm3-neighbours-2; compute it again"):
        Neighbours.open(tmp_path / "other")


@pytest.mark.parametrize(
    "change",
    [
        lambda t, a: t.pop("rows"),
        lambda t, a: t.update(more=torch.zeros(2)),
        lambda t, a: t.update(scores=t["scores"].double()),
        lambda t, a: t.update(kinds=t["kinds"][:, :1].contiguous()),
        lambda t, a: t["rows"].fill_(10**6),
        lambda t, a: t["rows"].fill_(-2),
        lambda t, a: t.update(names=torch.tensor(list(b"[1]"), dtype=torch.uint8)),
        lambda t, a: t.update(ids=torch.tensor(list(b'["a"'), dtype=torch.uint8)),
        lambda t, a: t.update(ids=torch.tensor(list(b'["a", "a"]'), dtype=torch.uint8)),
        lambda t, a: t.update(ids=torch.tensor(1.0)),
        lambda t, a: a.pop("encoder"),
        lambda t, a: a.update(job=None),
        lambda t, a: a.update(encoder=7),
    ],
)
def test_a_table_that_is_none_is_told(
    tmp_path: Path, queries: tuple[list[str], Vectors], change: Callable[[dict[str, Any], dict[str, Any]], object]
) -> None:
    """With a checksum that is right, as somebody might write one."""
    ids, vectors = queries
    Neighbours.compute(tmp_path / "t", bank(), ids, vectors)
    about, tensors = neighbours._read(tmp_path / "t")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors, about)
    neighbours._write(tmp_path / "t", tensors, {k: v for k, v in about.items() if k != "sha256"})
    with pytest.raises(CheckpointError, match="t': (holds something else|does not say of what)"):
        Neighbours.open(tmp_path / "t")


def test_a_damaged_part_is_made_again(tmp_path: Path, queries: tuple[list[str], Vectors]) -> None:
    ids, vectors = queries
    whole = Neighbours.compute(tmp_path / "whole", bank(), ids, vectors, block=4)

    def stop(done: int, of: int, what: str) -> None:
        if done == 16:
            raise Killed

    path = tmp_path / "t"
    with pytest.raises(Killed):
        Neighbours.compute(path, bank(), ids, vectors, block=4, progress=stop)
    parts = sorted((tmp_path / "t.parts").glob("*.safetensors"))
    assert len(parts) == 4
    third = parts[3].read_bytes()
    data = parts[0].read_bytes()
    parts[0].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    parts[1].write_bytes(data[:50])
    parts[2].write_bytes(third)  # whole, and another's
    (tmp_path / "t.parts" / "stranger.safetensors").write_bytes(data)
    memory = bank()
    assert everything(Neighbours.compute(path, memory, ids, vectors, block=4)) == everything(whole)
    assert memory.searched > 2 * (NUMBER - 16 + 8), "three parts of four again, beside those that were left"
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    # A link in the place of the folder of parts is not followed.
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    (tmp_path / "u.parts").symlink_to(mine)
    with pytest.raises(DataError, match=r"u.parts' is no folder of ours; move it away"):
        Neighbours.compute(tmp_path / "u", bank(), ids, vectors)
    assert (mine / "letter.txt").read_text() == "dear"

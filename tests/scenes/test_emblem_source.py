"""Emblem examples: a function of their number, shares as asked, the right document before the right drawing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from exact_bank import Letters
from tiny_model import SIZE, codec

from cm3.data.load import Loader
from cm3.document import Document, Text
from cm3.errors import ConfigError, DataError
from cm3.model.bundle import find, load
from cm3.retrieval.memory import Memory
from cm3.retrieval.select import SelectLaw
from cm3.scenes import describe, parse, random_scene
from cm3.scenes.data.emblem_source import EmblemMix, EmblemSource, EmblemTable, bank_documents, emblem_neighbours
from cm3.scenes.data.scene_source import scene_document
from cm3.scenes.emblems import EMBLEMS as MANY
from cm3.scenes.emblems import emblem, parse_emblem, place_of, word_of
from cm3.scenes.verify import verify
from cm3.sequence.before import AugmentLaw
from cm3.sequence.mask import MaskLaw
from cm3.sequence.segments import segments
from cm3.tokens.codec import Codec
from cm3.tokens.image import ImageTokenizer
from cm3.tokens.text import TextTokenizer
from cm3.vocab import Tokens

EMBLEMS, SCENES = 60, 30


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    folder = tmp_path_factory.mktemp("memory") / "bank"
    return Memory.build(folder, bank_documents(EMBLEMS, SCENES, SIZE, seed=3), Letters())


@pytest.fixture(scope="module")
def table(memory: Memory, tmp_path_factory: pytest.TempPathFactory) -> EmblemTable:
    path = tmp_path_factory.mktemp("table") / "neighbours.safetensors"
    return emblem_neighbours(path, memory, Letters(), scenes=25, size=SIZE, seed=5)


def source(memory: Memory, table: EmblemTable, mix: EmblemMix | None = None, seed: int = 1) -> EmblemSource:
    return EmblemSource(codec(), memory, table, seed, mix)


def pixels(document: Document) -> bytes:
    return document.images[0].pixels.tobytes()


def same(a: Tokens, b: Tokens) -> bool:
    return np.array_equal(a.ids, b.ids) and np.array_equal(a.cells, b.cells)


ONLY_EMBLEMS = EmblemMix(plain=0.0, scenes=0.0, emblems=1.0)
ONLY_SCENES = EmblemMix(plain=0.0, scenes=1.0, emblems=0.0)


def test_the_bank_holds_emblems_and_scenes(memory: Memory) -> None:
    documents = [memory[id] for id in memory]
    assert len(documents) == EMBLEMS + SCENES
    assert Counter(d.source for d in documents) == {"emblems/train": EMBLEMS, "scenes/train": SCENES}
    assert all(d.meta["license"] == "MIT" and d.text and d.images for d in documents)
    assert documents[EMBLEMS].parts == scene_document(3, 0, SIZE).parts


def test_emblems_find_their_document_first(memory: Memory, table: EmblemTable) -> None:
    queries = [id for id in table if id.startswith("query/emblem/")]
    assert len(queries) == EMBLEMS and len(table) == EMBLEMS + 25
    for id in queries:
        assert table.of(id, 1) == [id.removeprefix("query/")]


def test_the_table_is_made_once(memory: Memory, table: EmblemTable, tmp_path: Path) -> None:
    path, told = tmp_path / "t", list[int]()

    def made(**changes: int) -> EmblemTable:
        settings = {"scenes": 25, "size": SIZE, "seed": 5} | changes
        return emblem_neighbours(path, memory, Letters(), **settings, progress=lambda done, *_: told.append(done))

    assert made() == table and len(told) == 1
    assert made() == table and len(told) == 1, "read, not made again"
    assert set(made(scenes=3)) < set(table) and len(told) == 2, "another job's is replaced"
    path.write_bytes(path.read_bytes()[:-9])
    assert set(made(scenes=3)) < set(table) and len(told) == 3, "and so is a damaged one"


def test_examples_are_a_function_of_their_number(memory: Memory, table: EmblemTable) -> None:
    together = source(memory, table).sequences(range(40, 60))
    alone = source(memory, table)
    for i, tokens in zip(reversed(range(40, 60)), reversed(together), strict=True):
        assert same(alone.sequences([i])[0], tokens)
    others = source(memory, table, seed=2).sequences(range(40, 60))
    assert not any(same(a, b) for a, b in zip(together, others, strict=True))


def test_shares_are_what_the_mix_says(memory: Memory, table: EmblemTable) -> None:
    mix = EmblemMix(plain=0.2, scenes=0.3, emblems=0.5, documents=AugmentLaw((0.1, 0.2, 0.3, 0.4)))
    made = source(memory, table, mix)
    examples = [made.example(i) for i in range(600)]
    kinds = Counter(e.kind for e in examples)
    assert abs(kinds["plain"] - 120) < 35 and abs(kinds["scenes"] - 180) < 40 and abs(kinds["emblems"] - 300) < 45
    k = Counter(len(e.documents) for e in examples if e.kind == "emblems")
    assert all(abs(k[i] / kinds["emblems"] - share) < 0.09 for i, share in enumerate((0.1, 0.2, 0.3, 0.4)))
    k = Counter(len(e.documents) for e in examples if e.kind == "scenes")
    assert all(abs(k[i] / kinds["scenes"] - share / 0.9) < 0.12 for i, share in enumerate((0.0, 0.2, 0.3, 0.4)))
    assert not any(e.documents for e in examples if e.kind == "plain")


def test_plain_examples_are_those_of_the_scene_source(memory: Memory, table: EmblemTable) -> None:
    plain = source(memory, table, EmblemMix(1.0, 0.0, 0.0, captions_only=0.4), seed=8)
    wanted = [scene_document(8, i, SIZE, "train", 0.4) for i in range(20)]
    assert [plain.example(i).query for i in range(20)] == wanted
    assert all(same(t, codec().encode(d)) for t, d in zip(plain.sequences(range(20)), wanted, strict=True))
    assert 2 < sum(not d.images for d in wanted) < 14


def test_an_emblem_stands_after_its_document_and_is_drawn_anew(memory: Memory, table: EmblemTable) -> None:
    examples = source(memory, table, ONLY_EMBLEMS)
    bank = {pixels(memory[id]) for id in memory}
    for i in range(120):
        example = examples.example(i)
        word = parse_emblem(example.query.text)
        assert word is not None
        own = [parse_emblem(memory[id].text) for id in example.documents]
        assert len(set(example.documents)) == len(own)
        assert own.count(word) == (1 if own else 0)
        assert list(example.documents) == table.of(f"query/{example.own}", len(own))  # in retrieved order
        # The drawing is its own: no document of the bank is this picture.
        assert pixels(example.query) not in bank


def test_scenes_are_drawn_and_said_anew(memory: Memory, table: EmblemTable) -> None:
    examples = [source(memory, table, ONLY_SCENES).example(i) for i in range(80)]
    assert all(1 <= len(e.documents) <= 3 and len(set(e.documents)) == len(e.documents) for e in examples)
    assert all(parse(e.query.text).mentions for e in examples)
    assert len({e.query.text for e in examples}) > 50 and all(e.query.images for e in examples)
    assert not {pixels(e.query) for e in examples} & {pixels(memory[id]) for id in memory}


def split(tokens: Tokens) -> list[Tokens]:
    return [tokens.slice(a, b) for a, b in segments(tokens.ids, codec().vocab)]


def test_every_sequence_is_the_parts_of_its_documents(memory: Memory, table: EmblemTable) -> None:
    examples = source(memory, table, EmblemMix(0.1, 0.4, 0.5, captions_only=0.5))
    for i, tokens in enumerate(examples.sequences(range(25))):
        example = examples.example(i)
        whole = [memory[id] for id in example.documents] + [example.query]
        decoded = codec().decode(tokens)
        assert len(decoded.parts) == sum(len(d.parts) for d in whole)
        texts = [p.text for d in whole for p in d.parts if isinstance(p, Text)]
        assert [p.text for p in decoded.parts if isinstance(p, Text)] == texts
        parts = [part for d in whole for part in split(codec().encode(d))]
        assert all(same(a, b) for a, b in zip(split(tokens), parts, strict=True))


def test_the_loader_trains_on_it_and_resumes(memory: Memory, table: EmblemTable) -> None:
    def loader(state: object = None) -> Loader:
        return Loader(source(memory, table), codec().vocab, MaskLaw(), windows=2, length=300, seed=4, state=state)

    walk = iter(loader())
    batches = [next(walk) for _ in range(4)]
    resumed = iter(loader(batches[1][1]))
    for batch, _ in batches[2:]:
        assert all(np.array_equal(a, b) for a, b in zip(batch, next(resumed)[0], strict=True))


def test_examples_of_the_shipped_model_fit_its_context(tmp_path: Path) -> None:
    shipped = load(find("scenes"))
    text = TextTokenizer.load(shipped.text_tokenizer)
    vocab = shipped.vocab
    # The longest caption and the longest phrase there may be, before any picture is encoded.
    rng = np.random.default_rng(0)
    captions = max(len(text.encode(describe(random_scene(rng), rng))) for _ in range(1000))
    phrases = max(len(text.encode(f"a picture of a {word_of(i, 'train')}")) for i in range(0, MANY["train"], 20))
    codes = 64
    assert 4 * (max(captions, phrases) + codes + 2) + 1 <= shipped.decoder.config.context == 512
    # And a few for real.
    full = Codec(vocab, text, ImageTokenizer(shipped.vqgan, shipped.image_size))
    memory = Memory.build(tmp_path / "bank", bank_documents(6, 4, shipped.image_size, 0), Letters())
    table = emblem_neighbours(tmp_path / "t", memory, Letters(), scenes=3, size=shipped.image_size, seed=0)
    mix = EmblemMix(0.0, 0.5, 0.5, AugmentLaw((0.0, 0.0, 0.0, 1.0)))
    examples = EmblemSource(full, memory, table, 0, mix, length=512)
    for i, tokens in enumerate(examples.sequences(range(4))):
        assert tokens.length <= 512 and len(full.decode(tokens).parts) == 8
        query = examples.example(i).query
        word = parse_emblem(query.text)
        truth = parse(query.text) if word is None else emblem(place_of(word)[1], "train").scene
        assert verify(query.images[0].pixels, truth).ok


def test_documents_go_where_there_is_no_room(memory: Memory, table: EmblemTable) -> None:
    mix = EmblemMix(0.0, 0.0, 1.0, AugmentLaw((0.0, 0.0, 0.0, 1.0)))
    whole = EmblemSource(codec(), memory, table, 0, mix).sequences(range(8))
    short = EmblemSource(codec(), memory, table, 0, mix, length=100).sequences(range(8))
    for a, b in zip(whole, short, strict=True):
        assert a.length > 100 >= b.length
        assert same(a.slice(a.length - b.length + 1, a.length), b.slice(1, b.length))  # its end is there


def test_bad_settings_are_refused(memory: Memory, table: EmblemTable, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="mix.plain=0.5, mix.scenes=0.2, mix.emblems=0.4: are shares, must be in 0..1"
    ):
        EmblemMix(0.5, 0.2, 0.4)
    with pytest.raises(ConfigError, match="captions_only=2: is a share, must be in 0..1"):
        source(memory, table, EmblemMix(captions_only=2))
    with pytest.raises(
        ConfigError, match=r"mix.scenes=0.2: needs documents, but mix.documents.shares=\(1.0,\) has none"
    ):
        EmblemMix(documents=AugmentLaw((1.0,)))
    with pytest.raises(ConfigError, match="codec: scenes have pictures; give it an image tokenizer"):
        EmblemSource(Codec(codec().vocab, codec().text), memory, table, 0)
    few = Memory.build(tmp_path / "few", [memory["emblem/train/0"]], Letters())
    with pytest.raises(DataError, match="neighbours: name the document '.*', which the bank lacks; compute the table"):
        EmblemSource(codec(), few, table, 0)
    alone = emblem_neighbours(tmp_path / "t", few, Letters(), scenes=0, size=SIZE, seed=0, law=SelectLaw(highest=1))
    with pytest.raises(DataError, match="mix.scenes=0.2: the table of neighbours has none; compute it with some"):
        EmblemSource(codec(), few, alone, 0)
    assert EmblemSource(codec(), few, alone, 0, ONLY_EMBLEMS).example(0).query != Document(())


def test_alike_gives_the_very_picture_of_the_document(memory: Memory, table: EmblemTable) -> None:
    mix = EmblemMix(plain=0.0, scenes=0.0, emblems=1.0, alike=0.5)
    examples = [source(memory, table, mix).example(i) for i in range(80)]
    alike = [pixels(e.query) == pixels(memory[e.own]) for e in examples]
    assert 25 < sum(alike) < 55


def test_shuffling_is_shared_by_an_emblem_and_its_own_document_alone(memory: Memory, table: EmblemTable) -> None:
    mix = EmblemMix(0.0, 0.0, 1.0, AugmentLaw((0.0, 0.0, 0.0, 1.0)), shuffled=1.0)
    shuffled, one = source(memory, table, mix), codec().encode(Document.of("a", memory["emblem/train/0"].images[0]))
    n = int((one.cells > 0).sum())
    for i in range(20):
        example, (tokens,) = shuffled.example(i), shuffled.sequences([i])
        *documents, query = tokens.ids[tokens.cells > 0].reshape(-1, n)
        plain = codec().encode(Document.of("a", memory[example.own].images[0]))
        assert np.array_equal(documents[example.documents.index(example.own)], query)
        assert sorted(query) == sorted(plain.ids[plain.cells > 0])
    assert same(shuffled.sequences([3])[0], source(memory, table, mix).sequences([3])[0])


@pytest.mark.parametrize("name", ["alike", "shuffled"])
def test_a_share_outside_0_to_1_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"mix.{name}=1.5: is a share, must be in 0..1"):
        EmblemMix(**{name: 1.5})

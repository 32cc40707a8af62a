"""The bank of held-out kinds, pairs for its encoder, and the kinds of data that bring them into runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from exact_bank import Letters
from tiny_model import codec, tokenizer_path

from cm3.data.kind import Context
from cm3.document import Document
from cm3.errors import ConfigError
from cm3.retrieval.live import Retriever
from cm3.retrieval.pairs import PairEncoder, Pairs, PairsConfig, save
from cm3.stickers.data.sticker_bank import build_sticker_bank, sticker_bank_documents
from cm3.stickers.data.sticker_pairs import sticker_pairs
from cm3.stickers.drawing import draw
from cm3.stickers.eval.bank_scores import measure_bank
from cm3.stickers.sentences import holds, parse
from cm3.stickers.shown import NAMES, name_of
from cm3.stickers.sticker_kinds import StickerBankData, StickerPairs
from cm3.stickers.world import GROUNDS, HELD_OUT, SIZES, TRAINED, Sheet, Sticker

SIZE = 32


class Names(Letters):
    """Hears the names of kinds and sizes most."""

    common = Letters.common | set(GROUNDS) | set("ground, ground left right bottom top middle below above it".split())


def context(out: Path) -> Context:
    return Context(out, codec(), tokenizer_path(), context=160, length=200)


@pytest.fixture(scope="module")
def small_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save(Pairs(PairsConfig(width=16, d_model=16, layers=1, heads=2, image_size=32, channels=(8, 8, 8))), folder)
    return folder


def test_the_bank_shows_each_kind_in_both_sizes_and_those_held_out_on_every_ground() -> None:
    documents = list(sticker_bank_documents(9, SIZE))
    assert len(documents) == 12 * len(HELD_OUT) + 4 * 9 == len({d.id for d in documents})
    grounds: Counter[str] = Counter()
    of_kind: dict[tuple[str, str], set[str]] = {}
    for document in documents:
        kind, size, ground = document.id.split("/")
        sheet = Sheet(ground, (Sticker("middle", kind, size),))
        assert holds(parse(document.text), sheet)
        assert document.images[0].pixels.tobytes() == draw(sheet, SIZE).tobytes()
        assert document.source == "Fluent Emoji Flat (Microsoft)" and document.meta["license"] == "MIT"
        grounds[ground] += 1
        of_kind.setdefault((kind, size), set()).add(ground)
    assert set(of_kind) == {(k, s) for k in {d.id.split("/")[0] for d in documents} for s in SIZES}
    assert all(len(found) == (len(GROUNDS) if kind in HELD_OUT else 2) for (kind, _), found in of_kind.items())
    assert set(grounds) == set(GROUNDS) and max(grounds.values()) - min(grounds.values()) <= 4
    assert [d.id.split("/")[0] for d in documents][: 12 * len(HELD_OUT) : 12] == list(HELD_OUT)
    assert {d.id.split("/")[0] for d in documents[12 * len(HELD_OUT) :]} <= set(TRAINED)


@pytest.mark.parametrize("trained", [-1, len(TRAINED) + 1])
def test_a_bank_of_more_kinds_than_there_are_is_refused(trained: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"bank.trained={trained}: must be 0 to {len(TRAINED)}"):
        build_sticker_bank(tmp_path / "bank", Names(), trained=trained, size=SIZE)
    assert not list(tmp_path.iterdir())


def test_each_thing_of_a_prompt_finds_its_document(tmp_path: Path) -> None:
    """By the letters of its name: no kind of training, and no word, was needed to find it."""
    bank = build_sticker_bank(tmp_path / "bank", Names(), trained=9, size=SIZE)
    retriever = Retriever(bank, Names())
    prompt = "a large panda at the top left and a small robot at the bottom right, on a sky ground"
    found = [r.document.id.split("/")[:2] for r in retriever.search(Document.of(prompt), 2)]
    assert sorted(found) == [["panda", "large"], ["robot", "small"]]


def ground_of(text: str) -> str:
    """The ground that a caption tells."""
    words = text.replace(",", "").split()
    return words[words.index("ground") - 1]


def test_pairs_say_a_thing_and_a_sheet_twice() -> None:
    batch = sticker_pairs(3, SIZE, 24, 0.5)
    pairs = batch.batch(0)
    assert len(pairs) == 24 and [p.text for p in pairs] == [p.text for p in sticker_pairs(3, SIZE, 24, 0.5).batch(0)]
    assert [p.text for p in pairs] != [p.text for p in batch.batch(1)]
    assert [p.text for p in pairs[12:]] == [p.text for p in batch.batch(0, 1, 2)]
    invented = {name_of(i) for i in range(NAMES)}
    things = []
    for i, pair in enumerate(pairs[:12]):
        words = pair.text.replace(",", "").split()
        size = SIZES[i % 2]
        assert pair.text.count(size) == 1 and pair.text.count(" ground") == 1
        name = " ".join(words[words.index(size) + 1 :]).split(" on ")[0]
        assert f" {size} {name}" in f" {pair.other}", "asked for by its name and size"
        assert pair.tells == (name not in invented), "a name does not tell what the picture shows"
        things.append(name)
        assert f" on a {ground_of(pair.text)} ground" in pair.other, "and on its own ground"
    assert all(things[i] == things[i - i % 4] for i in range(12)) and len(set(things)) == 3
    assert all(ground_of(pairs[i].text) == ground_of(pairs[i - i % 2].text) for i in range(12))
    assert all(ground_of(pairs[i].text) != ground_of(pairs[i + 2].text) for i in (0, 4, 8)), "what sets them apart"
    for pair in pairs[12:]:
        assert pair.tells and parse(pair.text).ground == parse(pair.other).ground
        assert len(parse(pair.text).mentions) == len(parse(pair.other).mentions)
    assert not any(kind in f"{pair.text} {pair.other}".split() for kind in HELD_OUT for pair in pairs)


def test_what_a_sample_sheet_shows_has_words_and_a_picture(tmp_path: Path) -> None:
    for seed in range(30):
        shown = StickerBankData(seed=seed).prompts(context(tmp_path), 4)
        assert len(shown) == 4 and all(d.images and d.text.strip() for d in shown)


def test_a_share_of_shown_things_is_one() -> None:
    with pytest.raises(ConfigError, match=r"data.shown=2: is a share, must be in 0..1"):
        StickerPairs(shown=2).pairs(SIZE, 4)


def test_what_an_encoder_finds_is_measured(small_encoder: Path) -> None:
    """Letters find every name; weights by chance find next to none."""
    good = measure_bank(Names(), asked=12, trained=9, size=SIZE)
    poor = measure_bank(PairEncoder.load(small_encoder), asked=12, trained=9, size=SIZE)
    assert set(good) == set(poor) == {"one", "beside", "two", "sheets_recall_1", "sheets_recall_5"}
    assert good["one"] > 0.9 and good["two"] > 0.9 and poor["two"] < 0.3


def test_a_run_has_its_bank_and_its_encoder(tmp_path: Path, small_encoder: Path) -> None:
    run = context(tmp_path)
    data = StickerBankData(encoder=str(small_encoder), trained=1)
    data.begin(run)
    retriever = Retriever(tmp_path / "bank", own=tmp_path / "encoder")
    assert len(retriever.memory) == 12 * len(HELD_OUT) + 4
    assert retriever.encoder.name == data.given(data.source(run))["encoder"]
    data.begin(run)  # once more, as a run that goes on does
    assert StickerBankData().given(data.source(run)) == {}
    StickerBankData().begin(context(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_data_of_a_run_gives_sheets_of_its_splits(tmp_path: Path) -> None:
    data, run = StickerBankData(seed=4), context(tmp_path)
    train, val = data.source(run), data.held_out(run)
    assert (train.split, val.split) == ("train", "val") and train.length == val.length == 160
    assert all(t.length <= 160 for source in (train, val) for t in source.sequences(range(8)))
    assert not np.array_equal(train.sequences([0])[0].ids, val.sequences([0])[0].ids)

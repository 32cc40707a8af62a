"""Sheets told in words: each cell says a word of what stands there, and a model reads none of them."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from lesson_codec import codec

from cm3.errors import ConfigError
from cm3.sequence.answers import Weighted
from cm3.sequence.mask import cm3_unmask
from cm3.sequence.segments import text_tokens
from cm3.stickers.data.sheet_source import SheetLaw, describe_sheet
from cm3.stickers.data.word_source import WordSource
from cm3.stickers.drawing import draw, paste
from cm3.stickers.sticker_kinds import StickerWordData
from cm3.stickers.world import GROUNDS, Sheet, Sticker, random_sheet


def test_words_stand_where_stickers_do() -> None:
    source = WordSource(codec(), 3)

    def ids(text: str) -> list[int]:
        return text_tokens(codec().text.encode(text), codec().vocab).ids.tolist()

    rng = np.random.default_rng(0)
    sizes = set()
    for number in (1, 1, 1, 2, 3, 4, 4, 4):
        sheet = random_sheet(rng, number=number)
        words = source.words(sheet)
        bare = source.words(Sheet(sheet.ground, (Sticker("middle", "panda", "small"),)))[0, 0]
        differ = np.asarray(draw(sheet)) != np.asarray(paste(GROUNDS[sheet.ground], []))
        drawn = differ.any(-1).reshape(16, 16, 16, 16).any((1, 3))
        assert (words[drawn] != bare).all() and drawn.sum() > 0.4 * (words != bare).sum()
        assert bare == ids(f" {sheet.ground}")[0]
        for one in sheet.stickers:
            sizes.add(one.size)
            side = 8 if one.size == "large" else 6
            top, left = [8 * ("bottom" in one.place), 8 * ("right" in one.place)] if one.place != "middle" else [4, 4]
            start = (8 - side) // 2
            block = words[top + start : top + start + side, left + start : left + start + side]
            assert (block == block[:, :1]).all()
            name = ids(f" {one.kind}")
            assert block[:, 0].tolist() == (name * side)[:side]
    assert sizes == {"small", "large"}


def test_what_is_read_is_the_caption_and_what_is_foretold_the_words() -> None:
    law, v = SheetLaw(captions_only=0.3), codec().vocab
    source, whole = WordSource(codec(), 5, law=law, thin=0.9), WordSource(codec(), 5, law=law)
    alone = 0
    for i, (made, full) in enumerate(zip(source.sequences(range(16)), whole.sequences(range(16)), strict=True)):
        described = describe_sheet(5, i, "train", law)
        if not described.shown:
            alone += 1
            assert not isinstance(made, Weighted) and not (made.cells > 0).any()
            continue
        assert isinstance(made, Weighted) and isinstance(full, Weighted) and made.kept is not None
        on = made.tokens.cells > 0
        assert made.shown is not None and (made.shown[on] == v.unk).all()
        assert (made.shown[~on] == made.tokens.ids[~on]).all() and (made.weights == 1).all()
        assert (made.tokens.cells[on] == np.arange(1, 257)).all() and full.kept is None
        assert (made.tokens.ids[on].reshape(16, 16) == source.words(described.sheet)).all()
        # the first and last of every run stay, and all that is said
        ids = made.tokens.ids
        ends = np.concatenate([[True], ids[1:] != ids[:-1]]) | np.concatenate([ids[1:] != ids[:-1], [True]])
        assert made.kept[ends | ~on].all() and 60 < made.length < 0.7 * full.length
    assert 0 < alone < 16


def test_told_the_other_way_the_words_are_read_and_the_caption_alone_weighs() -> None:
    law, v = SheetLaw(captions_only=0.0), codec().vocab
    source, forth = WordSource(codec(), 5, law=law, thin=0.9, told=1.0), WordSource(codec(), 5, law=law)
    for i, (made, plain) in enumerate(zip(source.sequences(range(8)), forth.sequences(range(8)), strict=True)):
        assert isinstance(made, Weighted) and isinstance(plain, Weighted)
        caption = text_tokens(codec().text.encode(describe_sheet(5, i, "train", law).caption), v).ids.tolist()
        assert made.shown is None and cm3_unmask(made.tokens, v).ids.tolist() == plain.tokens.ids.tolist()
        ids, behind = made.tokens.ids.tolist(), len(caption) + 1
        assert ids[-behind:] == [*caption, v.eoss] and ids[1] == ids[-behind - 1] == v.mask(0)
        assert (made.weights[-behind:] == 1).all() and not made.weights[:-behind].any()
        on = made.tokens.cells > 0
        assert (made.tokens.ids[on] == plain.tokens.ids[plain.tokens.cells > 0]).all()
        assert made.kept is not None and made.kept[~on].all() and made.kept[on].sum() < 0.7 * on.sum()
    half = WordSource(codec(), 5, law=law, told=0.5).sequences(range(40))
    assert 10 < sum(isinstance(one, Weighted) and one.shown is None for one in half) < 30


def test_data_gives_the_same_sheets_and_others_held_out() -> None:
    data = StickerWordData(seed=4, law=SheetLaw(captions_only=0.5))
    run = cast(Any, SimpleNamespace(codec=codec()))
    train, held_out = data.source(run), data.held_out(run)
    again = data.source(run).sequences([9, 2])
    for one, same in zip(train.sequences([9, 2]), again, strict=True):
        assert type(one) is type(same)
        ours, theirs = (x.tokens if isinstance(x, Weighted) else x for x in (one, same))
        assert (ours.ids == theirs.ids).all()
    assert all(isinstance(one, Weighted) for one in held_out.sequences(range(8))), "none is a caption alone"


def test_other_codecs_and_shares_are_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("thin=1.5: is a probability, must be in 0..1")):
        WordSource(codec(), 1, thin=1.5)
    with pytest.raises(ConfigError, match=re.escape("told=-0.5: is a probability, must be in 0..1")):
        WordSource(codec(), 1, told=-0.5)
    for changed in (
        {"image": None},
        {"image": SimpleNamespace(size=128)},
        {"image": SimpleNamespace(size=256, factor=128)},
    ):
        with pytest.raises(ConfigError, match="codec: must have an image tokenizer of 256 px, with places in whole"):
            WordSource(cast(Any, SimpleNamespace(**{"image": codec().image, "vocab": codec().vocab} | changed)), 1)

"""The smallest model of stickers: 128 px pictures of 8 x 8 codes, with random weights, a bank and its encoder."""

from __future__ import annotations

import functools
import itertools
import tempfile
from pathlib import Path
from typing import Any

import torch
from tiny_model import stir

from cm3.model.bundle import Bundle
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.vqgan import VQGAN, small
from cm3.retrieval.embed import load_encoder
from cm3.retrieval.pairs import Pairs, PairsConfig, save
from cm3.stickers.data.sticker_bank import build_sticker_bank
from cm3.stickers.data.sticker_lessons import lesson_texts
from cm3.stickers.sentences import Statement, holds
from cm3.stickers.world import PLACES, SIZES, Sheet, Sticker
from cm3.tokens.text import TextTokenizer
from cm3.vocab import Vocab

SIZE = 128


@functools.cache
def folder() -> Path:
    """Where a text tokenizer, an encoder and a bank are."""
    made = Path(tempfile.mkdtemp(prefix="cm3-test-"))
    TextTokenizer.train(list(lesson_texts(1, 600)), 512).save(made / "tokenizer.json")
    shape = PairsConfig(width=16, d_model=16, layers=1, heads=2, image_size=32, channels=(8, 8, 8))
    save(Pairs(shape), made / "encoder")
    build_sticker_bank(made / "bank", load_encoder(made / "encoder"), trained=2, size=SIZE)
    return made


def bundle(bank: bool = True, tasks: tuple[str, ...] = (), **changes: Any) -> Bundle:
    """A model that writes at random, but with conviction."""
    torch.manual_seed(0)
    text = TextTokenizer.load(folder() / "tokenizer.json")
    vocab = Vocab(text=text.size, image=64, masks=16, reserved=0)
    shape = {"d_model": 32, "layers": 1, "heads": 2, "context": 700, "grid": (8, 8), "positions": "rope"} | changes
    decoder = stir(Decoder(DecoderConfig(vocab_size=vocab.size, **shape))).eval()
    codes = VQGAN(small(16, (4, 4, 4), patch=8, channels=8, multipliers=(1, 1), blocks=0)).eval()
    found = {"encoder": folder() / "encoder", "memory": folder() / "bank"} if bank else {}
    about = {"recipe": "none", "tasks": list(tasks)}
    return Bundle(vocab, decoder, codes, SIZE, folder() / "tokenizer.json", about=about, name="tiny", **found)


def sheet_of(statement: Statement, like: Sheet | None = None) -> Sheet:
    """Some sheet of which a statement holds: of those, one that has the most in common with another."""
    found = []
    for places in itertools.permutations(PLACES, len(statement.mentions)):
        if all(m.place in (None, p) for m, p in zip(statement.mentions, places, strict=True)):
            if "middle" not in places or len(places) == 1:
                things = zip(statement.mentions, places, strict=True)
                sheet = Sheet(
                    statement.ground or "sky", tuple(Sticker(p, m.kind or "", m.size or SIZES[0]) for m, p in things)
                )
                if holds(statement, sheet):
                    found.append(sheet)
    return max(found, key=lambda s: len({*s.stickers} & {*like.stickers}) if like else 0)

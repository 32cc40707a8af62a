"""Sheets after documents, as a source of training examples: what a document shows is drawn where the prompt says.

    document     a large blosken on a mint ground                                       [picture, in the middle]
    document     on a navy ground, a small cat                                          [picture, in the middle]
    example      a large blosken at the top left and a small taxi below it, on a ...    [picture]

One or two stickers of an example are shown things (cm3/stickers/shown.py), each with a document of its own, in its own
size, in the middle or, in a share `BankLaw.same_place`, where the example has it; the other documents show something
else. Codes are strictly local and blocks begin where cells do, so the codes of a shown thing stand in its document at
an offset that follows from its place alone.

Nothing is searched for here, and there is no bank: a document is made for its example, of seed and number alone. What a
search finds for a prompt at generation is known beforehand, the document of each thing that is named; to make it keeps
a bank, a table of neighbours and an encoder out of the way of training, and gives every example names and drawings of
its own, where a bank has one document to a name, which could be learnt by heart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import PIL.Image

from cm3.data.load import Source
from cm3.document import Document
from cm3.errors import ConfigError, DataError
from cm3.sequence.before import AugmentLaw, with_documents
from cm3.stickers.artwork import sprite
from cm3.stickers.data.sheet_source import SheetLaw, SheetSource
from cm3.stickers.drawing import paste
from cm3.stickers.sentences import describe
from cm3.stickers.shown import Shown, ShownLaw, random_shown
from cm3.stickers.world import GROUNDS, SIZES, Sheet, Split, Sticker, any_sheet, by_share, pick, random_kind, split_of
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens


@dataclass(frozen=True)
class BankLaw:
    """The law by which examples are drawn. Raises `ConfigError` for a value out of range."""

    documents: AugmentLaw = field(default_factory=lambda: AugmentLaw((0.4, 0.3, 0.3)))
    """Shares of examples with 0, 1, 2, 3 documents; one without is a captioned sheet as `sheets` has it."""
    sheets: SheetLaw = field(default_factory=SheetLaw)
    """The captioned sheets without documents; numbers of stickers and captions of the others follow it too."""
    shown: ShownLaw = field(default_factory=ShownLaw)
    """The shown things."""
    two: float = 0.6
    """Share of examples with two shown things, of those with two stickers and two documents at least."""
    same_ground: float = 0.4
    """Share of own documents on the example's ground: every code of a sticker is to be found there."""
    same_place: float = 0.0
    """Share of own documents that show their thing in the place that it has in the example, the others in the middle:
    each code is to be found in its own cell then, which is learnt first."""
    other_size: float = 0.3
    """Share of the documents of something else that are of a shown thing in the other size."""

    def __post_init__(self) -> None:
        """Check every share."""
        for name in ("two", "same_ground", "same_place", "other_size"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"law.{name}={getattr(self, name)}: is a share, must be in 0..1")


@dataclass(frozen=True)
class ShownSheet:
    """A sheet, of which some stickers are shown things: the kind stands for the thing, if it is not the thing's own."""

    sheet: Sheet
    shown: Mapping[str, Shown]
    """Kind in the sheet -> what is shown in its place."""

    @property
    def in_middle(self) -> bool:
        """Tell whether it is a document with its sticker in the middle, which no caption has to say."""
        return self.sheet.stickers[0].place == "middle"

    def say(self, rng: np.random.Generator, in_order: bool = False, style: str | None = None) -> str:
        """Return a caption (`describe`) that has the things' names."""
        names = {kind: thing.name for kind, thing in self.shown.items()}
        return describe(self.sheet, rng, in_order, style, names)

    def draw(self, size: int) -> PIL.Image.Image:
        """Return the picture of `size` pixels."""
        placed = [
            (s.place, self.shown[s.kind].drawing if s.kind in self.shown else sprite(s.kind), s.size)
            for s in self.sheet.stickers
        ]
        return paste(GROUNDS[self.sheet.ground], placed, size)


@dataclass(frozen=True)
class Example:
    """A sheet and the documents before it, in order; `own` has the number of the document of each shown thing."""

    sheet: ShownSheet
    documents: tuple[ShownSheet, ...]
    own: tuple[int, ...]


def alone(
    kind: str, size: str, ground: str, shown: Mapping[str, Shown] | None = None, place: str = "middle"
) -> ShownSheet:
    """Return the sheet of a document: one sticker."""
    shown = shown or {}
    return ShownSheet(Sheet(ground, (Sticker(place, kind, size),)), {k: shown[k] for k in (kind,) if k in shown})


def random_example(
    rng: np.random.Generator, documents: int, law: BankLaw, split: Split = "train", number: int | None = None
) -> Example:
    """Draw a sheet of a split and 1 to 3 documents for it; `number` of stickers as the law has it, or as many as given.

    Shown drawings without a name are of training alone in the split `train`, and of no training in the others; what
    documents of something else show is of training in any split.
    """
    drawn = by_share(rng, law.sheets.number) + 1
    count = drawn if number is None else number
    two = min(count, documents) >= 2 and rng.random() < law.two
    while True:
        things = [random_shown(rng, law.shown, kept=split != "train") for _ in range(1 + two)]
        # A kind stands in for a drawing that has none; the split is judged by the kinds that are seen.
        kinds = [thing.kind or random_kind(rng) for thing in things]
        kinds += [random_kind(rng) for _ in range(count - len(kinds))]
        sheet = any_sheet(rng, kinds)
        names = {thing.name for thing in things}
        if len(set(kinds)) == count and len(names) == len(things) and split_of(sheet) == split:
            break
    shown = dict(zip(kinds, things, strict=False))
    sizes = {s.kind: s.size for s in sheet.stickers}
    places = {s.kind: s.place for s in sheet.stickers}
    made = []
    for kind in shown:
        same = rng.random() < law.same_ground
        ground = sheet.ground if same else pick(rng, [g for g in GROUNDS if g != sheet.ground])
        place = places[kind] if law.same_place and rng.random() < law.same_place else "middle"
        made.append(alone(kind, sizes[kind], ground, shown, place))
    for _ in range(documents - len(made)):
        made.append(_something_else(rng, law, shown, sizes, kinds))
    order = rng.permutation(len(made))
    own = tuple(int(np.flatnonzero(order == i)[0]) for i in range(len(shown)))
    return Example(ShownSheet(sheet, shown), tuple(made[i] for i in order), own)


def _something_else(
    rng: np.random.Generator, law: BankLaw, shown: Mapping[str, Shown], sizes: Mapping[str, str], kinds: Sequence[str]
) -> ShownSheet:
    """Draw a document that shows none of the shown things, or one in the size that is not asked for."""
    ground, size = pick(rng, tuple(GROUNDS)), pick(rng, SIZES)
    if rng.random() < law.other_size:
        kind = pick(rng, tuple(shown))
        return alone(kind, next(s for s in SIZES if s != sizes[kind]), ground, shown)
    names = {thing.name for thing in shown.values()}
    while True:
        thing = random_shown(rng, law.shown)
        kind = thing.kind or random_kind(rng)
        if kind not in kinds and thing.name not in names:
            return alone(kind, size, ground, {kind: thing})


class BankSource(Source):
    """`Source` (cm3/data/load.py) of tokenised examples, each a function of the seed and its number."""

    def __init__(
        self, codec: Codec, seed: int, split: Split = "train", law: BankLaw | None = None, length: int | None = None
    ) -> None:
        """Take `length`, most tokens of an example: documents of something else are left out where not all have room.

        Raises `ConfigError` as `SheetSource` does.
        """
        self.law, self.length, self.seed, self.split = law or BankLaw(), length, seed, split
        self.plain = SheetSource(codec, seed, split, self.law.sheets)
        self.codec = codec

    def sequences(self, positions: Sequence[int]) -> list[Tokens]:
        """Return tokens of these examples. Raises `DataError` for one whose own documents have no room."""
        examples = [self.documents(i) for i in positions]
        tokens = iter(self.codec.encode_many([d for documents, _ in examples for d in documents]))
        return [self._laid_out([next(tokens) for _ in documents], own) for documents, own in examples]

    def documents(self, index: int) -> tuple[list[Document], tuple[int, ...]]:
        """Return the documents of example `index`, the example itself last, and which of them are its own."""
        rng = np.random.default_rng([self.seed, index, 0xBA2C])
        number = self.law.documents.draw(rng)
        if not number:
            return [self.plain.document(index)], ()
        made = random_example(rng, number, self.law, self.split)
        size, sheets = self.plain.size, self.law.sheets
        before = [
            Document.of(d.say(rng, style="alone" if d.in_middle else "places"), d.draw(size)) for d in made.documents
        ]
        in_order, places = (bool(rng.random() < share) for share in (sheets.in_order, sheets.places))
        caption = made.sheet.say(rng, in_order, "places" if places else None)
        query = Document.of(caption, made.sheet.draw(size), id=str(index), source=f"stickers/{self.split}")
        return [*before, query], made.own

    def _laid_out(self, tokens: list[Tokens], own: tuple[int, ...]) -> Tokens:
        *documents, query = tokens
        if self.length is None or not documents:
            return with_documents(query, documents, self.codec.vocab)
        room = self.length - query.length - sum(documents[i].length - 1 for i in own)
        if room < 0:
            raise DataError(
                f"law.documents: a sheet of {query.length} tokens and its {len(own)} documents do not fit "
                f"{self.length}; raise the length, or ask for fewer documents"
            )
        kept = []
        for i, document in enumerate(documents):
            if i not in own:
                room -= document.length - 1
            if i in own or room >= 0:
                kept.append(document)
        return with_documents(query, kept, self.codec.vocab)

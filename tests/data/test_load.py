"""The loader: nothing is lost or comes twice, whoever was killed and however many ranks go on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from cm3.data.lanes import LoaderState, merge_states
from cm3.data.load import Loader, Source
from cm3.data.pack import Batch
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.sequence.mask import MaskLaw, cm3_mask, cm3_unmask
from cm3.vocab import Tokens, Vocab

VOCAB = Vocab(text=256, image=16, masks=8, reserved=0)
Given = tuple[Batch, LoaderState]


class Numbers(Source):
    """Document i spells i, with some words after it; remembers what it was asked for."""

    def __init__(self, together: int = 1, most: int = 7) -> None:
        self.together, self.most = together, most
        self.asked: list[list[int]] = []

    def sequences(self, indices: Sequence[int]) -> list[Tokens]:
        self.asked.append(list(indices))
        return [self.one(i, self.most) for i in indices]

    @staticmethod
    def one(i: int, most: int = 7) -> Tokens:
        words = [VOCAB.text_start + i // 200, VOCAB.text_start + i % 200]
        words += [VOCAB.text_start + 250] * (i * 2654435761 % 1009 % most)
        return Tokens.of([VOCAB.eos, *words, VOCAB.eos])


class Fixed(Source):
    """The same few documents again and again."""

    together = 1

    def __init__(self, *documents: Tokens) -> None:
        self.documents = documents

    def sequences(self, indices: Sequence[int]) -> list[Tokens]:
        return [self.documents[i % len(self.documents)] for i in indices]


def loader(state: LoaderState | None = None, **changes: Any) -> Loader:
    settings = {"windows": 6, "length": 48, "seed": 5, "source": Numbers(), "law": MaskLaw()} | changes
    return Loader(settings.pop("source"), VOCAB, settings.pop("law"), state=state, **settings)


def take(made: Loader, number: int) -> list[Given]:
    return list(itertools.islice(made, number))


def same(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def joined(parts: Sequence[Batch]) -> Batch:
    """The batch of all ranks: window l is of rank l modulo their number."""
    return Batch(*(np.stack(arrays, axis=1).reshape(-1, arrays[0].shape[1]) for arrays in zip(*parts, strict=True)))


def documents(batch: Batch) -> list[int]:
    """Numbers of the documents of a batch, unmasked."""
    found = []
    for ids, numbers in zip(batch.ids, batch.documents, strict=True):
        for n in range(1, numbers.max() + 1):
            text = cm3_unmask(Tokens.of(ids[numbers == n]), VOCAB).ids - VOCAB.text_start
            found.append(int(text[1]) * 200 + int(text[2]))
    return sorted(found)


@pytest.mark.parametrize("together", [1, 4, 16])
def test_every_document_comes_once_but_those_that_wait(together: int) -> None:
    found: list[int] = []
    for batch, state in take(loader(source=Numbers(together)), 12):
        found += documents(batch)
        waiting = [p for lane in state.lanes.values() for p in lane.waiting]
        ahead = [p for number, lane in state.lanes.items() for p in range(number, lane.next, state.windows)]
        assert sorted(found + waiting) == sorted(ahead) and len(found) == state.documents
        # Lanes are about as far as each other.
        assert max(lane.next for lane in state.lanes.values()) - min(lane.next for lane in state.lanes.values()) < 400
    assert len(found) > 300


def test_nobody_waits_for_ever() -> None:
    """Whatever fills a window best, the document that has waited longest goes into the next one."""
    given = take(loader(source=Numbers(most=30)), 60)
    for before, after in itertools.pairwise(given):
        for number, lane in before[1].lanes.items():
            assert lane.waiting[0] not in after[1].lanes[number].waiting


@pytest.mark.parametrize("together", [1, 4, 16])
@pytest.mark.parametrize("cut", [1, 4, 7])
def test_a_loader_made_with_a_state_continues_bit_for_bit(together: int, cut: int) -> None:
    run = take(loader(source=Numbers(together)), 9)
    state = LoaderState.of(json.loads(json.dumps(run[cut - 1][1].plain())))
    assert state == run[cut - 1][1]
    rest = take(loader(state, source=Numbers(together)), 9 - cut)
    assert all(same(a, b) and s == t for (a, s), (b, t) in zip(run[cut:], rest, strict=True))


def test_a_state_goes_through_a_checkpoint(tmp_path: Any) -> None:
    state = take(loader(), 3)[-1][1]
    torch.save(state.plain(), tmp_path / "x.pt")
    assert LoaderState.of(torch.load(tmp_path / "x.pt", weights_only=True)) == state


@pytest.mark.parametrize("ranks", [(1, 2, 3), (6, 1, 2), (3, 6, 1), (2, 3, 6)])
def test_any_number_of_ranks_goes_on_with_the_very_next_batch(ranks: tuple[int, ...]) -> None:
    """Each stretch runs further than its last state, as a run does that is killed after it saved."""
    whole = take(loader(), 15)
    state = None
    for start, number in zip((0, 5, 10), ranks, strict=True):
        runs = [take(loader(state, rank=r, ranks=number), 7) for r in range(number)]
        for k in range(5):
            batch, want = joined([run[k][0] for run in runs]), whole[start + k]
            assert same(batch, want[0])
            state = merge_states([run[k][1] for run in runs])
            assert state == want[1]


def test_a_rank_reads_only_what_is_its_own() -> None:
    for together in (1, 16):
        made = loader(source=Numbers(together), rank=1, ranks=3)
        take(made, 4)
        assert isinstance(made.source, Numbers)
        assert all(i % 6 in (1, 4) for asked in made.source.asked for i in asked)


def test_a_resumed_run_asks_for_the_same_chunks() -> None:
    """An image tokenizer may round differently in another batch, so chunks do not depend on where a run began."""
    whole = loader(source=Numbers(8))
    run = take(whole, 6)
    assert isinstance(whole.source, Numbers)
    for cut in range(1, 6):
        rest = loader(run[cut - 1][1], source=Numbers(8))
        take(rest, 6 - cut)
        assert isinstance(rest.source, Numbers)
        assert all(chunk in whole.source.asked for chunk in rest.source.asked)
        assert all(len(chunk) == 8 and chunk[0] // 6 % 8 == 0 for chunk in rest.source.asked)


def test_a_source_that_does_not_mind_is_asked_for_many_at_once() -> None:
    made = loader(windows=12, length=200)
    take(made, 10)
    assert isinstance(made.source, Numbers)
    assert len(made.source.asked) < made.counts.documents / 100


def test_the_seed_decides_the_masks_and_each_position_has_its_own() -> None:
    first = take(loader(), 1)[0][0]
    assert same(first, take(loader(), 1)[0][0]) and not same(first, take(loader(seed=6), 1)[0][0])
    rows = zip(first.ids, first.documents, strict=True)
    found = [ids[numbers == n].tolist() for ids, numbers in rows for n in range(1, numbers.max() + 1)]
    bits = {i: np.random.Philox(key=[5, 0xC3], counter=[0, 0, i, 0]) for i in documents(first)}
    want = [cm3_mask(Numbers.one(i), VOCAB, MaskLaw(), np.random.Generator(b)) for i, b in bits.items()]
    assert sorted(found) == sorted(t.ids.tolist() for t in want) and len(found) > 20
    # The same document again is masked anew.
    again = Fixed(Numbers.one(77))
    law = MaskLaw(whole_text=0.0)
    rows = [tuple(row) for batch, _ in take(loader(source=again, length=14, law=law), 5) for row in batch.ids.tolist()]
    assert len(set(rows)) > 5


def test_windows_are_full() -> None:
    """Captions, captioned pictures and long texts; a window longer than the model's context holds what does fit."""

    def run(lengths: Sequence[int], length: int, batches: int = 12) -> float:
        rng = np.random.default_rng(0)
        some = [VOCAB.text_start + np.zeros(n - 2, np.int64) for n in rng.choice(lengths, 400)]
        made = loader(source=Fixed(*(Tokens.of([2, *t, 2]) for t in some)), length=length, windows=2, longest=4096)
        take(made, batches)
        assert made.counts.padding == pytest.approx(1 - made.counts.tokens / made.counts.places)
        return 1 - made.counts.padding

    assert run([30, 60, 90, 90, 90, 90, 1042], 4096) > 0.98
    assert run(range(200, 700), 4096) > 0.99
    assert run(range(68, 100), 512, 60) > 0.99
    assert run([1042, 1050, 1060, 2100], 32_768) > 0.98
    # What arithmetic allows: three of them in 4,096, thirty-one in 32,768.
    assert run([1042], 4096) < 0.79 and run([1042], 32_768) > 0.98


def picture(codes: int) -> list[int]:
    return [VOCAB.image_start + i % 16 for i in range(codes)]


def test_documents_that_are_too_long_are_truncated_with_their_masks() -> None:
    long = Tokens.of([VOCAB.eos, *[VOCAB.text_start + i % 200 for i in range(90)], VOCAB.eos])
    made = loader(source=Fixed(long), law=MaskLaw(rate=3.0, pieces=3, whole_text=0.3), lookahead=4)
    given = take(made, 30)
    lengths = [int((row > 0).sum()) for batch, _ in given for row in batch.documents]
    assert made.counts.documents == made.counts.truncated == len(lengths) == 180
    assert min(lengths) >= 30 and max(lengths) == 48 and made.counts.skipped == 0
    assert 0 <= made.counts.unmasked < 18
    masked = 0
    for batch, _ in given:
        for ids, numbers in zip(batch.ids, batch.documents, strict=True):
            plain = cm3_unmask(Tokens.of(ids[numbers == 1]), VOCAB).ids.tolist()
            assert plain == [*long.ids[: len(plain) - 1].tolist(), VOCAB.eos]
            masked += bool(VOCAB.is_mask(ids).any())
    assert masked > 150


def spelt(words: int, codes: int = 0) -> Tokens:
    """A document of some words, each another, and of a picture."""
    image = [VOCAB.brk, *picture(codes)] if codes else []
    ids = [VOCAB.eos, *(VOCAB.text_start + i % 200 for i in range(words)), *image, VOCAB.eos]
    return Tokens.of(ids, [0] * (words + 1) + ([0, *range(1, codes + 1)] if codes else []) + [0])


@pytest.mark.parametrize("law", ["segments", "published"])
@pytest.mark.parametrize("codes", [0, 16])
@pytest.mark.parametrize("short", range(8))
def test_a_document_that_fills_the_context_is_masked_as_often_as_another(law: Any, codes: int, short: int) -> None:
    """Whatever room is left, up to the last token: with fewer spans, or with a few words less."""
    whole = spelt(48 - short - 2 - bool(codes) - codes, codes)
    assert whole.length == 48 - short
    laws = MaskLaw(law=law, rate=2.0, box=0.5, columns=4)
    made = loader(source=Fixed(whole), law=laws, windows=2, lookahead=4)
    roomy = loader(source=Fixed(whole), law=laws, windows=2, lookahead=4, length=96, longest=96)
    masked = 0
    for batch, _ in take(made, 60):
        for ids, numbers in zip(batch.ids, batch.documents, strict=True):
            found = ids[numbers == 1]
            plain = cm3_unmask(Tokens.of(found), VOCAB).ids.tolist()
            masked += len(found) > len(plain)
            # Nothing but the end of the words is gone.
            assert len(plain) > len(whole.ids) - 20
            words = [i for i in plain if VOCAB.text_start <= i < VOCAB.image_start]
            assert words == whole.ids[1 : 1 + len(words)].tolist()
            assert [i for i in plain if i >= VOCAB.image_start] == whole.ids[whole.ids >= VOCAB.image_start].tolist()
    free = sum(bool(VOCAB.is_mask(ids).any()) for batch, _ in take(roomy, 60) for ids in batch.ids)
    assert made.counts.unmasked == 0 and made.counts.skipped == 0
    assert masked > 0.6 * 120 and free > 0.6 * 120
    if short < 3:
        assert made.counts.truncated == masked


def test_a_document_keeps_its_words_while_one_mask_has_room() -> None:
    whole = spelt(43)
    made = loader(source=Fixed(whole), law=MaskLaw(rate=4.0, pieces=1))
    for batch, _ in take(made, 20):
        for ids, numbers in zip(batch.ids, batch.documents, strict=True):
            assert cm3_unmask(Tokens.of(ids[numbers == 1]), VOCAB).ids.tolist() == whole.ids.tolist()
    assert made.counts.truncated == made.counts.unmasked == 0


def test_a_picture_that_fills_the_context_is_whole_and_unmasked() -> None:
    """It can not be cut, and there are no words to give up for a mask."""
    whole = Tokens.of([VOCAB.eos, *picture(46), VOCAB.eos], [0, *range(1, 47), 0])
    made = loader(source=Fixed(whole))
    for batch, _ in take(made, 5):
        assert all(row.tolist() == whole.ids.tolist() for row in batch.ids)
    # One for which no mask was drawn is not counted.
    assert made.counts.documents == 30 and 10 < made.counts.unmasked < 28 and made.counts.truncated == 0


def test_a_document_whose_picture_does_not_fit_is_skipped() -> None:
    big = Tokens.of([2, VOCAB.text_start, VOCAB.brk, *picture(60), 2], [0, 0, 0, *range(1, 61), 0])
    made = loader(source=Fixed(big, *(Numbers.one(i) for i in range(1, 4))), windows=1)
    found = [n for batch, _ in take(made, 10) for n in documents(batch)]
    assert made.counts.skipped > 10 and set(found) == {1, 2, 3}
    alone = loader(source=Fixed(big))
    with pytest.raises(DataError, match="nothing of 1000 documents in a row fits 48 tokens, the last of them has 64;"):
        take(alone, 1)
    assert take(loader(source=Fixed(big), length=96, law=MaskLaw(rate=0)), 1)[0][0].fill == 64 / 96


def test_a_run_may_go_on_with_windows_of_another_length() -> None:
    big = Tokens.of([2, VOCAB.text_start, VOCAB.brk, *picture(60), 2], [0, 0, 0, *range(1, 61), 0])
    source = Fixed(big, *(Numbers.one(i) for i in range(1, 4)))
    state = take(loader(source=source, length=96), 4)[-1][1]
    waiting = [p for lane in state.lanes.values() for p in lane.waiting]
    shorter = loader(state, source=source)
    assert shorter.counts.skipped == sum(p % 4 == 0 for p in waiting) > 0
    assert {n for batch, _ in take(shorter, 4) for n in documents(batch)} == {1, 2, 3}


def test_no_document_is_longer_than_the_longest() -> None:
    made = loader(source=Numbers(most=40), length=200, longest=32)
    given = take(made, 20)
    assert max(int(batch.positions.max()) for batch, _ in given) == 31
    assert made.counts.truncated > 100 and made.counts.padding < 0.02


def test_a_state_of_another_run_is_refused() -> None:
    state = take(loader(), 1)[0][1]
    with pytest.raises(CheckpointError, match="loader state has seed 5, this run has 6; resume with the same seed"):
        loader(state, seed=6)
    with pytest.raises(CheckpointError, match="loader state has windows=6, this run has 3; resume with the same wind"):
        loader(state, windows=3)
    part = take(loader(rank=1, ranks=3), 1)[0][1]
    assert take(loader(part, rank=1, ranks=3), 1)
    with pytest.raises(CheckpointError, match="lacks lane 0 of 6; join the states of all ranks with merge_states"):
        loader(part)


def test_states_that_are_not_of_one_run_do_not_merge() -> None:
    parts = [take(loader(rank=r, ranks=3), 2) for r in range(3)]
    first, second = [run[0][1] for run in parts], [run[1][1] for run in parts]
    with pytest.raises(CheckpointError, match="give those that the ranks of one run saved after the same batch"):
        merge_states([first[0], first[1], second[2]])
    with pytest.raises(CheckpointError, match="two have lane 0; give the state of each rank once"):
        merge_states([first[0], *first])
    with pytest.raises(CheckpointError, match="have 4 of 6 lanes; give those of all ranks"):
        merge_states(first[:2])
    with pytest.raises(CheckpointError, match="have 0 of 0 lanes"):
        merge_states([])


def test_what_is_no_state_is_refused() -> None:
    good = take(loader(), 1)[0][1].plain()
    for bad in ((3, 5), None, {}, good | {"lanes": [[0, 1]]}, good | {"lanes": [["x", 1, []]]}):
        with pytest.raises(CheckpointError, match="loader state: is not of this version's loader"):
            LoaderState.of(bad)
    for lanes in ([[0, 7, []]], [[0, 6, [13]]], [[6, 6, []]]):
        with pytest.raises(CheckpointError, match=r"loader state: lane \d of 6 has positions of another"):
            LoaderState.of(good | {"lanes": lanes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": 0}, "windows=0 and lookahead=16: must be at least 1, and length=48 at least 2"),
        ({"length": 1}, "length=1 at least 2"),
        ({"lookahead": 0}, "lookahead=0: must be at least 1"),
        ({"seed": -1}, r"seed=-1: must be in 0\.\."),
        ({"ranks": 4}, "windows=6, rank 0 of 4: windows must be a multiple of the ranks"),
        ({"ranks": 2, "rank": 2}, "windows=6, rank 2 of 2: .* numbered from 0"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loader(**changes)


def test_hidden_codes_are_still_foretold_and_the_same_after_a_resume() -> None:
    image = Tokens.of(range(VOCAB.image_start, VOCAB.image_start + 16), range(1, 17))
    document = Tokens.concat([Tokens.of([VOCAB.eos, VOCAB.text_start, VOCAB.brk]), image, Tokens.of([VOCAB.eos])])
    plain = {"source": Fixed(document), "law": MaskLaw(rate=0)}
    hidden = plain | {"law": MaskLaw(rate=0, hide=0.5)}
    seen, given = take(loader(**plain), 4), take(loader(**hidden), 4)
    for (batch, _), (other, _) in zip(seen, given, strict=True):
        assert np.array_equal(batch.targets, other.targets) and np.array_equal(batch.weights, other.weights)
        changed = batch.ids != other.ids
        assert changed.any() and (other.ids[changed] == VOCAB.unk).all() and (other.cells[changed] > 0).all()
    assert same(take(loader(given[1][1], **hidden), 1)[0][0], given[2][0])


def test_windows_hold_more_pictures_where_their_ground_is_left_out() -> None:
    flat = Tokens.of([VOCAB.image_start] * 16, range(1, 17))
    document = Tokens.concat([Tokens.of([VOCAB.eos, VOCAB.text_start, VOCAB.brk]), flat, Tokens.of([VOCAB.eos])])
    given: dict[str, Any] = {"source": Fixed(document), "law": MaskLaw(rate=0, thin=0.9), "length": 60}
    whole, thinned = loader(**given | {"law": MaskLaw(rate=0)}), loader(**given)
    found = take(thinned, 20)
    take(whole, 20)
    assert thinned.counts.documents > 2 * whole.counts.documents
    assert thinned.counts.tokens == sum(int((batch.documents > 0).sum()) for batch, _ in found)
    for batch, _ in found:  # a picture's first code is the fourth token, wherever the others went
        at = batch.cells > 0
        assert (batch.positions[at] == batch.cells[at] + 2).all() and batch.positions.max() == 19
    assert same(take(loader(found[9][1], **given), 1)[0][0], found[10][0])

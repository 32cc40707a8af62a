"""A store that keeps pictures as a source: its documents come back, and train whatever pictures train."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import store_parts

from cm3.data.kinds import DocumentData
from cm3.data.pictures import PictureIndex
from cm3.data.prepare import prepare
from cm3.document import Document
from cm3.errors import DataError
from cm3.read.find import open_reader, recognise
from cm3.read.random_access import Numbered
from cm3.store.store import Store

COUNT = 7


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs with captions, tokenizers, and a store of them that keeps pictures."""
    root = tmp_path_factory.mktemp("stored")
    store_parts.photos(root / "photos", COUNT)
    store_parts.tokenizers(root / "model")
    prepare([f"folder:{root / 'photos'}"], root / "kept", None, pictures=True, unit=3)
    return root


def read(source: str) -> list[Document]:
    found = [d for d in open_reader(source) if isinstance(d, Document)]
    assert found
    return found


def test_documents_come_back_as_they_were_read(parts: Path) -> None:
    assert recognise(parts / "kept")[0] == "store"
    ours, theirs = read(f"store:{parts / 'kept'}"), read(f"folder:{parts / 'photos'}")
    assert ours == theirs and [d.meta for d in ours] == [dict(d.meta) for d in theirs]
    assert [d.id for d in ours] == [d.id for d in theirs] and [d.source for d in ours] == [d.source for d in theirs]
    assert [i.data for d in ours for i in d.images] == [i.data for d in theirs for i in d.images]
    assert Numbered(open_reader(str(parts / "kept")))[COUNT - 1] == theirs[-1]


def test_it_is_prepared_anew_with_a_tokenizer(parts: Path, tmp_path: Path) -> None:
    """Without the photographs: the tokens are those of a store that was made of them."""
    kept = shutil.copytree(parts / "kept", tmp_path / "kept")
    for source, out in ((kept, "a"), (parts / "photos", "b")):
        prepare([str(source)], tmp_path / out, parts / "model")
    a, b = (Store.open(tmp_path / out) for out in "ab")
    assert [t.ids.tolist() for t in a.tokens(range(COUNT))] == [t.ids.tolist() for t in b.tokens(range(COUNT))]
    assert [a.about(n) for n in range(COUNT)] == [b.about(n) for n in range(COUNT)]


def test_its_pictures_and_pairs_are_those_of_the_photographs(parts: Path) -> None:
    ours, theirs = (PictureIndex.of([str(parts / name)], texts=True) for name in ("kept", "photos"))
    assert ours.digests.tolist() == theirs.digests.tolist() and ours.texts == theirs.texts
    data = DocumentData(sources=(str(parts / "kept"),), holdout=0.0)
    assert list(data.texts()) == [d.text for d in read(f"folder:{parts / 'photos'}")]


def test_a_store_without_pictures_is_refused(parts: Path, tmp_path: Path) -> None:
    prepare([str(parts / "photos")], tmp_path / "tokens", parts / "model")
    with pytest.raises(DataError, match="keeps no words and pictures; prepare it with --pictures, or give its sources"):
        open_reader(str(tmp_path / "tokens"))

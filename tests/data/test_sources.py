"""Sources: scenes without end, and documents in epochs; the same number is always the same document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tiny_model import SIZE, codec

from cm3.data.documents import DocumentSource
from cm3.document import Document
from cm3.errors import ConfigError, DataError
from cm3.scenes import parse
from cm3.scenes.data.scene_source import SceneSource, scene_document
from cm3.scenes.scene import PLACES
from cm3.scenes.verify import verify


def test_scenes_are_a_function_of_their_number() -> None:
    assert scene_document(1, 7, SIZE) == scene_document(1, 7, SIZE)
    others = [scene_document(1, 8, SIZE), scene_document(2, 7, SIZE), scene_document(1, 7, SIZE, "val")]
    assert all(other.parts != scene_document(1, 7, SIZE).parts for other in others)


@pytest.mark.parametrize("index", range(5))
def test_a_caption_is_true_of_its_picture(index: int) -> None:
    document = scene_document(3, index, 128)
    assert verify(document.images[0].pixels, parse(document.text)).ok
    assert document.source == "scenes/train" and document.id == str(index)


def test_captions_only_is_a_share() -> None:
    assert not any(scene_document(0, i, 16, captions_only=1.0).images for i in range(5))
    alone = sum(not scene_document(0, i, 16, captions_only=0.3).images for i in range(300))
    assert 60 < alone < 120
    with pytest.raises(ConfigError, match="captions_only=1.5: is a share, must be in 0..1"):
        SceneSource(codec(), 0, captions_only=1.5)


def test_the_number_of_objects_comes_in_the_shares_asked_for() -> None:
    texts = [scene_document(0, i, 16, captions_only=1.0, objects=(1, 0, 3)).text for i in range(300)]
    numbers = [len(parse(text).mentions) for text in texts]
    assert set(numbers) == {1, 3} and 40 < numbers.count(1) < 115
    with pytest.raises(ConfigError, match="must be shares of 1 to 4 objects, none negative"):
        SceneSource(codec(), 0, objects=(1, -1))
    with pytest.raises(ConfigError, match="must be shares of 1 to 4 objects, none negative"):
        SceneSource(codec(), 0, objects=(0.2,) * 5)


def test_captions_in_reading_order_are_a_share() -> None:
    def ordered(share: float) -> int:
        said = [
            parse(scene_document(0, i, 16, captions_only=1.0, objects=(0, 0, 0, 1), in_order=share).text)
            for i in range(200)
        ]
        places = [[PLACES.index(m.place) for m in s.mentions if m.place] for s in said]
        return sum(p == sorted(p) for p in places)

    assert ordered(1.0) > ordered(0.5) > ordered(0.0)
    with pytest.raises(ConfigError, match="in_order=-1: is a share, must be in 0..1"):
        SceneSource(codec(), 0, in_order=-1)


def test_settings_leave_the_scenes_alone_where_they_are_not_used() -> None:
    assert scene_document(1, 7, SIZE, in_order=0.0) == scene_document(1, 7, SIZE)
    given = SceneSource(codec(), 4, objects=(0, 1), in_order=1.0)
    assert given.document(3) == scene_document(4, 3, SIZE, objects=(0, 1), in_order=1.0)


def test_scene_tokens_do_not_depend_on_their_company() -> None:
    source = SceneSource(codec(), 4)
    together, alone = source.sequences(range(6)), [source.sequences([i])[0] for i in range(6)]
    for i, (a, b) in enumerate(zip(together, alone, strict=True)):
        assert np.array_equal(a.ids, b.ids) and np.array_equal(a.cells, b.cells)
        assert np.array_equal(a.ids, codec().encode(scene_document(4, i, SIZE)).ids)


def test_documents_come_once_an_epoch_in_an_order_of_their_own() -> None:
    documents = [Document.of(f"number {i}") for i in range(10)]
    source = DocumentSource([documents], codec(), seed=3)
    texts = [codec().decode(t).text for t in source.sequences(range(30))]
    epochs = [texts[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == sorted(d.text for d in documents) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    fresh = DocumentSource([documents], codec(), seed=3)
    assert [codec().decode(fresh.sequences([i])[0]).text for i in (17, 3, 29)] == [texts[i] for i in (17, 3, 29)]
    assert [
        codec().decode(t).text for t in DocumentSource([documents], codec(), seed=4).sequences(range(10))
    ] != epochs[0]
    with pytest.raises(DataError, match="documents: there are none; check the path and the split"):
        DocumentSource([[]], codec(), seed=0)


def test_a_place_in_a_list_of_any_length_costs_the_same() -> None:
    """No table of the whole list is made: one of so many numbers would not fit into memory."""

    class Many(Sequence[Document]):
        def __len__(self) -> int:
            return 2**40

        def __getitem__(self, index: Any) -> Any:
            return Document.of(f"number {index}")

    source = DocumentSource([Many()], codec(), seed=3)
    positions = [0, 1, 2, 2**39, 2**40 - 1, 2**40, 5 * 2**40 + 7]
    texts = [codec().decode(t).text for t in source.sequences(positions)]
    assert len(set(texts)) == len(positions)
    assert [codec().decode(t).text for t in source.sequences(positions[::-1])] == texts[::-1]
    with pytest.raises(ConfigError, match="seed=-1: must be in"):
        DocumentSource([Many()], codec(), seed=-1)

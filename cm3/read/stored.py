"""A document store that keeps pictures, as a source like any other: what it was made of need not be there any more."""

from __future__ import annotations

from pathlib import Path

from cm3.document import Document
from cm3.errors import DataError
from cm3.read.base import Records
from cm3.store.manifest import is_store
from cm3.store.store import Store


class StoredDocuments(Records):
    """The documents of a store, with the ids, sources and meta that they were stored with."""

    kind = "store"

    def __init__(self, root: Path, split: str | None = None) -> None:
        """Raise `DataError` for a folder that is no finished store, and for a store without pictures."""
        self.store = Store.open(root)
        self.source = f"store/{Path(root).name}"
        if not self.store.facts.pictures:
            raise DataError(
                f"store {str(root)!r}: keeps no words and pictures; prepare it with --pictures, or give its sources"
            )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Tell whether it says that it is a store."""
        return root.is_dir() and is_store(root)

    def __len__(self) -> int:
        return len(self.store)

    def name(self, index: int) -> str:
        """Return the id of a document."""
        return self.store.about(index).id

    def document(self, index: int) -> Document:
        """Return a document, its pictures as the bytes that they were stored as."""
        return self.store.document(index)

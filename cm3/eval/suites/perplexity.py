"""Perplexity by modality, over the documents of any source, each read from left to right on its own.

Words, codes and borders (`<break>`, `</s>`) are counted apart: nine words beside 1,024 codes would not show in a mean
of all. Figures are sums over all documents divided by all their tokens: nats a token, and of words also bits a byte of
UTF-8, which tokenizers of any size may be compared by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from cm3.document import Document, Image, Text
from cm3.errors import DataError
from cm3.eval.suites.suite import Line, Suite
from cm3.read.find import READERS
from cm3.score.result import Result

MODALITIES = ("text", "image", "border")


class Perplexity(Suite):
    """Nats a token of words and of codes."""

    name, kinds = "perplexity", tuple(READERS)

    def lines(self) -> Iterator[Line]:
        chosen = self.chosen(len(self.documents))
        listed: list[Line] = []
        for done, at in enumerate(chosen, 1):
            if (document := self.read(self.documents[at])) is not None:
                try:
                    listed.append({"id": document.id, "document": self._pieces(document)})
                except DataError as error:
                    self.leave_out(document.id, str(error))
            self.update(done, len(chosen))
        self.check(len(listed))
        yield from listed

    def _pieces(self, document: Document) -> list[Any]:
        pieces: list[Any] = []
        for part in document.parts:
            if isinstance(part, Text):
                pieces += [part.text] if part.text.strip() else []
            elif isinstance(part, Image):
                pieces.append({"image": self.pictures.name(part)})
            else:
                raise DataError(f"document {document.id!r}: has a gap; only whole ones are measured")
        return pieces

    def score(self, records: Iterable[dict[str, Any]]) -> Result:
        nats, tokens = (dict.fromkeys(MODALITIES, 0.0) for _ in range(2))
        size = documents = 0
        for record in self.made(records):
            for kind in MODALITIES:
                nats[kind] += record["nats"][kind]
                tokens[kind] += record["tokens"][kind]
            size += record["text_bytes"]
            documents += 1
        figures = {f"{kind}_nats_per_token": nats[kind] / tokens[kind] for kind in MODALITIES if tokens[kind]}
        if size:
            figures["text_bits_per_byte"] = nats["text"] / math.log(2) / size
        counts = {f"{kind}_tokens": int(tokens[kind]) for kind in MODALITIES} | {"text_bytes": size}
        self.references["documents"] = self.out / "requests.jsonl"
        return self.result(Result(figures, documents, {"documents_before": 0, **counts}))

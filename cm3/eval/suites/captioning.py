"""Captions of pictures against those of people: MS-COCO, Flickr30k, Image Paragraph.

Every picture of a split is described once, in the order of the dataset. `predictions.json` is a list of {image_id,
caption} as COCO's evaluation takes it, and `references.json` has `images` and `annotations` as COCO's captions have
them, so that `cm3 eval captions predictions.json references.json` gives the same figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cm3.errors import DataError
from cm3.eval.suites.suite import Line, Suite, texts
from cm3.score.captions import score_captions
from cm3.score.result import Result


class _Captions(Suite):
    """Descriptions of a reader's pictures, told apart by meta `image_id`."""

    def lines(self) -> Iterator[Line]:
        self.names: dict[int | str, str] = {}
        self.said: dict[int | str, list[str]] = {}
        for at in range(len(self.documents)):
            if (document := self.read(self.documents[at])) is not None:
                image = document.meta["image_id"]
                if image not in self.names:
                    self.names[image] = self.pictures.name(document.images[0])
                self.said.setdefault(image, []).append(document.text)
            self.update(at + 1, len(self.documents))
        self.check(len(self.names))
        asked = list(self.names)
        chosen = self.chosen(len(asked))
        if len(chosen) < 2:
            raise DataError(
                f"suite {self.name}: is asked for {len(chosen)} picture, must be at least 2, for captions are weighed "
                "by those of other pictures"
            )
        for number in chosen:
            yield self.asks(number, asked[number], image=self.names[asked[number]])

    def score(self, records: Iterable[dict[str, Any]]) -> Result:
        made = {record["id"]: texts(record) for record in self.made(records)}
        predictions = [{"image_id": image, "caption": text} for image, text in made.items()]
        annotations = [(image, text) for image in made for text in self.said[image]]
        references = {
            "images": [{"id": image, "file_name": self.names[image]} for image in made],
            "annotations": [{"id": i, "image_id": image, "caption": t} for i, (image, t) in enumerate(annotations)],
        }
        self.predictions["captions"] = self.keep("predictions.json", predictions)
        self.references["captions"] = self.keep("references.json", references)
        scored = score_captions(
            {str(image): text for image, text in made.items()}, {str(i): self.said[i] for i in made}
        )
        return self.result(scored)


class CocoCaptions(_Captions):
    """MS-COCO captions, of a published split or one of Karpathy's: the field reports the 5,000 pictures of his test."""

    name, task, kinds = "coco_captions", "coco_captions", ("coco", "coco_karpathy")


class Flickr(_Captions):
    """Flickr30k, with Karpathy's splits where his file is there."""

    name, task, kinds = "flickr30k", "flickr30k", ("flickr30k",)


class Paragraphs(_Captions):
    """Stanford's paragraphs on pictures of Visual Genome: one reference a picture."""

    name, task, kinds = "image_paragraph", "image_paragraph", ("image_paragraph",)

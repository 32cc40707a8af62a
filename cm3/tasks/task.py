"""A task: its templates, the fields that the model gives, and the source of the others.

    document --find--> fields --template--> before | answer | after
                                            Example         whole: `document`; with a hole: `prompt`
                                            encode          tokens and loss weights

The paper's sequence goes on with the same objective as pretraining (section 4), so `Example.document` may be masked at
random like any other. `encode` masks just the answer instead, as `cm3.generate` asks for it: an answer that stands last
is continued, `</s> words <break> codes </s>`; one that stands before the image is moved to the end,
`</s> Question: ... Answer:<mask:0>. <break> codes </s> <mask:0> blue <eoss>`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import PIL.Image

from cm3.document import Document, Image, Text
from cm3.errors import ConfigError, DataError, RequestError
from cm3.sequence.answers import Weighted, answered
from cm3.sequence.holes import space_before
from cm3.sequence.segments import image_tokens, text_tokens
from cm3.tasks.template import PICTURES, Laid, Template
from cm3.tokens.codec import Codec
from cm3.tokens.image import Fit, preprocess

ANY = ("jsonl", "webdataset", "huggingface", "folder")
"""Kinds of reader that may hold anything, so also what a task needs."""
BULKY = ("instances", "keypoints", "control_files")
"""Annotations that an example is made of and does not carry along."""


class View(NamedTuple):
    """The view that the model has of a picture: its side in pixels, and how it is fitted."""

    size: int = 256
    fit: Fit = "crop"

    def of(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """Return a picture as it is seen. Raises `DataError` for one that cannot be read to its end."""
        return preprocess(picture, self.size, self.fit)


PAPER = View()
"""256 x 256 of the middle, as in the paper."""


@dataclass(frozen=True, eq=False)
class Example:
    """A training example. `meta` has `task`, `template` and what the document's had, but for `BULKY`."""

    laid: Laid
    id: str
    source: str
    meta: Mapping[str, Any]

    @property
    def document(self) -> Document:
        """Return all of it."""
        return Document(self.laid.whole, id=self.id, source=self.source, meta=self.meta)

    @property
    def prompt(self) -> Document:
        """Return it with a hole in the answer's place."""
        return Document(self.laid.open, id=self.id, source=self.source, meta=self.meta)

    @property
    def answer(self) -> Text | Image:
        """Return the parts that the hole is to be filled with."""
        return self.laid.answer


Find = Callable[[Document, View], list[dict[str, str | Image]]]
"""The fields of each example of a document. Raises `DataError` for a document that is damaged for the task."""


@dataclass(frozen=True)
class Task:
    """A task of Table 5, or one of ours."""

    name: str
    templates: tuple[Template, ...]
    gives: tuple[str, ...]
    """Fields that the model gives: a picture, or texts that stand together."""
    find: Find = field(repr=False)
    feeds: tuple[str, ...]
    """Kinds of reader whose documents it is made of; those of `ANY` serve as well."""
    examples_in_paper: int = 0
    """As Table 5 counts; 0 for a task that is not in it."""
    needs: tuple[str, ...] = ()
    """Needs of a document's meta: "instances", "keypoints", or a control that is read from a file."""
    ask: Callable[[dict[str, Any]], dict[str, Any]] = field(default=dict, repr=False)
    """A user's fields (boxes, choices) as those of the templates."""

    @property
    def output(self) -> Literal["image", "text"]:
        """Return the parts that the model gives."""
        return "image" if self.gives[0] in PICTURES else "text"

    @property
    def control(self) -> str | None:
        """Return the picture that guides, where the task is made of one and a caption."""
        named = [f for f in self.templates[0].fields if f in PICTURES and f not in self.gives]
        return named[0] if self.output == "image" and "caption" in self.templates[0].fields and named else None

    def check_reader(self, kind: str) -> None:
        """Raise `ConfigError` for a kind of reader that the task is not made of."""
        if kind not in (*self.feeds, *ANY):
            raise ConfigError(f"task {self.name!r}: is made of {', '.join(self.feeds)}, not of {kind}")

    def examples(
        self,
        document: Document,
        *,
        view: View = PAPER,
        plain: bool = False,
        rng: np.random.Generator | None = None,
    ) -> list[Example]:
        """Make examples of a document: one for each template, or with `rng` one for a template that it draws.

        Empty where the document has nothing for the task, such as no person to pose. Raises `DataError` for one that
        is damaged for it: an annotation without its image, no answer, a control image of another size.
        """
        made: list[Example] = []
        kept = {key: value for key, value in document.meta.items() if key not in BULKY}
        found = self.find(document, view)
        for i, values in enumerate(found):
            able = [n for n, template in enumerate(self.templates) if values.keys() >= set(template.fields)]
            for n in able if rng is None else [able[int(rng.integers(len(able)))]]:
                template = self.templates[n]
                id = f"{document.id}#{i}" if len(found) > 1 else document.id
                meta = kept | {"task": self.name, "template": template.text}
                laid = template.lay_out(values, self.gives, plain=plain)
                made.append(Example(laid, f"{id}/{self.name}.{n}", document.source, meta))
        return made

    def prompt(self, template: int | str = 0, *, plain: bool = False, **request: Any) -> Document:
        """Return a user's request as a document with a hole: every field of the template but what the model gives.

        `template` is a number or a template's words. Raises `RequestError` for one that the task does not have, for a
        field that is missing, unknown or empty, and for a box outside 0..255 or inverted.
        """
        chosen = self.template(template)
        values = self.ask(dict(request))
        wants = [f for f in chosen.fields if f not in self.gives]
        for name in values:
            if name not in {f for t in self.templates for f in t.fields} - set(self.gives):
                raise RequestError(f"task {self.name!r}: has no field {name!r}; it asks for {', '.join(wants)}")
        for name in wants:
            if name not in values:
                raise RequestError(f"task {self.name!r}: {name!r} is missing; it asks for {', '.join(wants)}")
            values[name] = _checked(values[name], name, self.name)
        blank: dict[str, str | Image] = {
            f: Image(PIL.Image.new("RGB", (1, 1))) if f in PICTURES else "" for f in self.gives
        }
        return Document(chosen.lay_out(values | blank, self.gives, plain=plain).open)

    def template(self, which: int | str = 0) -> Template:
        """Return one of its templates, by number or by its words. Raises `RequestError` for one that it does not
        have."""
        for n, template in enumerate(self.templates):
            if which in (n, template.text):
                return template
        known = "; ".join(f"{n} {template.text!r}" for n, template in enumerate(self.templates))
        raise RequestError(f"task {self.name!r}: has no template {which!r}; its templates are {known}")

    def read(self, document: Document, template: int | str = 0) -> dict[str, str | Image]:
        """Return the fields of a finished document, those that the model gave among them. Raises `DataError` as
        `Template`."""
        return self.template(template).read(document)


def encode(examples: Sequence[Example], codec: Codec, weights: Literal["all", "answer"] = "all") -> list[Weighted]:
    """Make training sequences of examples, their pictures encoded together.

    `weights`: 1 for every token as in the paper, or for the `answer` and the token that ends it alone. Raises
    `ConfigError` for another word, and what the codec does.
    """
    if weights not in ("all", "answer"):
        raise ConfigError(f"weights={weights!r}: must be 'all' or 'answer'")
    prompts = codec.encode_prompts([example.prompt for example in examples])
    pictures = [example.answer.pixels for example in examples if isinstance(example.answer, Image)]
    # An example with a picture for an answer has one in its prompt's place too, so there is an image tokenizer.
    codes = iter(codec.image.encode(pictures) if pictures and codec.image is not None else ())
    v, made = codec.vocab, []
    for example, prompt in zip(examples, prompts, strict=True):
        if isinstance(example.answer, Image):
            span = image_tokens(next(codes), v)
        else:
            turn = codec.turns("text")
            space = "" if turn else space_before(example.laid.before[-1] if example.laid.before else None)
            span = text_tokens(codec.text.encode(space + example.answer.text), v)
        made.append(answered(prompt, span, v, rest=float(weights == "all")))
    return made


def picture_of(document: Document, task: str) -> Image:
    """Return the first picture of a document. Raises `DataError` where it has none."""
    if not document.images:
        raise DataError(f"document {document.id!r}: has no image, which task {task!r} is about; add it or leave it out")
    return document.images[0]


def needed(document: Document, name: str, kind: type, task: str) -> Any:
    """Return `document.meta[name]`. Raises `DataError` where it is missing or not of `kind`."""
    value = document.meta.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):  # True is an int to Python
        raise DataError(
            f"document {document.id!r}: {name!r} is {value!r:.40}, but task {task!r} needs a {kind.__name__} there; "
            "give a split that has it"
        )
    return value


def things(document: Document, name: str, task: str) -> list[dict[str, Any]]:
    """Return the annotations `document.meta[name]`. Raises `DataError` as `needed`, and for one that is no object."""
    found = needed(document, name, list, task)
    for number, one in enumerate(found):
        if not isinstance(one, dict):
            raise DataError(
                f"document {document.id!r}: {name!r} has {one!r:.40} at place {number}, must have objects with the "
                "fields of COCO's annotations; mend it"
            )
    return list(found)


def control_files(document: Document) -> dict[str, str | Path]:
    """Return the control images that a document names, by kind.

    A `str` is a dataset's word, which a reader has to resolve, a `Path` one that it resolved, or that code of the user
    gave. Raises `DataError` for what is no names of files.
    """
    files = document.meta.get("control_files", {})
    if not isinstance(files, dict) or not all(isinstance(path, str | Path) for path in files.values()):
        raise DataError(
            f"document {document.id!r}: 'control_files' is {files!r:.60}, must be an object of files by kind, such as "
            '{"hed": "a.hed.png"}; mend it'
        )
    return dict(files)


def words(text: Any, document: Document, task: str) -> str:
    """Return `text` without space around it. Raises `DataError` for what is no text, and where nothing is left."""
    if not isinstance(text, str):
        raise DataError(f"document {document.id!r}: has {text!r:.40} where task {task!r} needs a text; mend it")
    if not text.strip():
        raise DataError(f"document {document.id!r}: has no text, which task {task!r} is made of; leave it out")
    return text.strip()


def _checked(value: Any, name: str, task: str) -> str | Image:
    if name in PICTURES:
        if not isinstance(value, PIL.Image.Image | Image):
            raise RequestError(f"task {task!r}: {name!r} must be a picture, got {type(value).__name__}")
        return value if isinstance(value, Image) else Image(value)
    if not isinstance(value, str) or not value.strip():
        raise RequestError(f"task {task!r}: {name!r} must be a text that is not empty, got {value!r:.40}")
    return value.strip()

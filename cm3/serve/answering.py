"""An answer to messages, whatever the interface: whole, or piece by piece while it comes.

Asked --layout--> Service --make--> parts of words and of pictures' files
                          --pieces--> words, partial pictures, pictures, and the end of each answer
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import PIL.Image

from cm3.document import Document, Image, Text
from cm3.errors import RequestError, shown
from cm3.generate import Chunk, Generation
from cm3.generate.prepared import Prepared
from cm3.picture import rgb
from cm3.serve.canvas import Canvas, due_rows
from cm3.serve.conversation import EDIT, Asked
from cm3.serve.problem import Problem
from cm3.serve.sent_pictures import Format, check_quality, encoded
from cm3.serve.service import Service, Stream, Usage

FOR_PICTURES = (
    "guidance", "image_guidance", "contrast", "k", "alpha", "amateur_temperature", "unconditional",
)  # fmt: skip
"""Settings that say how pictures are drawn, and nothing of words."""


class Form(NamedTuple):
    """The form of an answer: the format and quality of its pictures, whether it is streamed, and how many partial ones
    of each picture come then, or one for each of its `rows`; the `size` that is asked for. `where` stands before the
    names of their fields in errors."""

    format: Format = "png"
    quality: int | None = None
    stream: bool = False
    partial: int = 0
    rows: bool = False
    size: str | None = None
    where: str = ""

    def check(self, size: str, options: Mapping[str, Any]) -> None:
        """Raise `Problem` 400 for what contradicts the rest, the settings `options`, or the size of the picture."""
        at = self.where
        if self.size not in (None, "auto", size):
            raise Problem(
                400, f"{at}size={shown(self.size)}: the picture will be {size}; give that, or auto", f"{at}size"
            )
        check_quality(self.format, self.quality, f"{at}output_compression")
        if self.rows and self.partial:
            field = f"{at}partial_images"
            raise Problem(400, f"{field} and partial_rows: give one of them", field)
        if not self.rows and not self.partial:
            return
        name, value = ("partial_rows", "true") if self.rows else ("partial_images", str(self.partial))
        if not self.stream:
            why = "partial pictures come in a stream; give stream=true, or leave it out"
            raise Problem(400, f"{at}{name}={value}: {why}", f"{at}{name}")
        if (candidates := options.get("candidates", 1)) != 1:
            why = f"of several candidates nothing can be shown before the end; leave it or {name} out"
            raise Problem(400, f"candidates={candidates}: {why}", "candidates")


class Piece(NamedTuple):
    """Words or a picture that came of one part of one answer, or its end; before all others one that `begins`.

    number: the answer. part: the part of it. text: words that follow those of before. picture: the file of a picture;
    `partial` is its number where it is not whole yet, and `rows` its finished rows of codes. made: at the end of an
    answer, all of it, and `usage` what was read for all answers and written for this one.
    """

    number: int
    part: int = 0
    text: str = ""
    picture: bytes | None = None
    partial: int | None = None
    rows: int = 0
    made: Generation | None = None
    usage: Usage | None = None
    begins: bool = False


@dataclass
class _Shown:
    """The pieces of an answer that were sent, by part."""

    due: list[int]
    first: int | None = None
    words: dict[int, str] = field(default_factory=dict)
    held: str = ""
    """Space after the last word, which is sent with the next."""
    left: dict[int, list[int]] = field(default_factory=dict)
    """Rows after which a partial picture is still to be sent."""
    partial: dict[int, int] = field(default_factory=dict)
    pictures: set[int] = field(default_factory=set)


class Answering:
    """Answers to one request. `messages` is the field that those came in."""

    def __init__(
        self,
        service: Service,
        asked: Asked,
        seeds: Sequence[int],
        options: dict[str, Any],
        form: Form,
        canvas: Canvas,
        messages: str,
    ) -> None:
        """Raise `Problem` for settings that the answer has no use for, and as `Form.check`."""
        for name in FOR_PICTURES if asked.kind == "text" else ():
            if name in options:
                raise Problem(400, f"{name}: is for pictures, and this answer is a text; leave it out", name)
        if "pictures" in options and asked.kind != "interleaved":
            raise Problem(400, "pictures: is for answers of words and pictures; leave it out", "pictures")
        if "image_guidance" in options and asked.task != EDIT and service.model.vocab.grammar == "cm3":
            why = "is for a picture that is edited as a whole, without a mask; leave it out"
            raise Problem(400, f"image_guidance={options['image_guidance']:g}: {why}", "image_guidance")
        form.check(canvas.size, options)
        shows = form.partial or form.rows or not (asked.whole or asked.kind == "image")
        if form.stream and shows:  # something before the end
            options.setdefault("candidates", 1)
        self.service, self.asked, self.seeds, self.form = service, asked, seeds, form
        self._layout, self._canvas, self._field = asked.layout(service.model, seeds, options), canvas, messages
        self._reads = bool(options.get("retrieve"))
        self._stream: Stream = service.stream(self._laid_out)
        self._prepared: list[Prepared] = []

    @property
    def usage(self) -> Usage:
        """Return the tokens that `pieces` took so far."""
        return self._stream.usage

    async def make(self) -> tuple[list[Generation], Usage]:
        """Return all answers. Raises `Problem` as `Service.make`, with the name of the field."""
        await self._ready()
        with self._named():
            made = await self.service.make(self._layout)
        return made.generations, made.usage

    async def parts(self, made: Generation) -> list[str | bytes]:
        """Return the parts of an answer: words, and the files of pictures."""
        parts = self.asked.parts(made)
        return await self.service.desk(lambda: [p.text if isinstance(p, Text) else self.file(p.pixels) for p in parts])

    async def about(self, index: int, made: Generation) -> dict[str, Any]:
        """Return our part of an answer: the documents that were read, the seed, what the client should know, and what
        was thought first."""
        warnings = await self.service.desk(self.asked.told, made)
        about = {"retrieved": made.attribution, "seed": self.seeds[index], "warnings": warnings}
        return about | ({"thought": made.thoughts[0]} if made.thoughts[0] else {})

    def file(self, drawn: PIL.Image.Image) -> bytes:
        """Return the file of a picture, or of its first rows in its whole size."""
        picture = self._canvas.painted(drawn, self.service.model.image_size)
        return encoded(picture, self.form.format, self.form.quality)

    async def pieces(self) -> AsyncGenerator[Piece]:
        """Yield the pieces of all answers as they come. All words of a part together are those of its end."""
        shown: list[_Shown] = []
        rows, columns = self.service.model.grid
        parts = rows if self.form.rows else self.form.partial + 1
        await self._ready()
        with self._named():
            async with aclosing(aiter(self._stream)) as updates:
                async for index, chunk in updates:
                    if not shown:
                        shown = [_Shown(due_rows(one.prompt, columns, parts)) for one in self._prepared]
                        yield Piece(0, begins=True)
                    if chunk.generation is not None:
                        async for piece in self._rest(index, shown[index], chunk.generation):
                            yield piece
                    elif news := await self._news(index, shown[index], chunk):
                        yield news

    async def _news(self, index: int, one: _Shown, chunk: Chunk) -> Piece | None:
        """Return what can be sent of a chunk, None where that is nothing yet."""
        if self.asked.whole:
            return None
        one.first = chunk.part if one.first is None else one.first
        part = chunk.part - one.first
        if chunk.text:
            words = _words(one, part, chunk.text, self.asked.kind == "text")
            return Piece(index, part, words) if words else None
        if chunk.rows == self.service.model.grid[0]:
            if self.asked.kind != "interleaved":  # its end comes at once
                return None
            one.pictures.add(part)
            return Piece(index, part, picture=await self.service.desk(self._rows, chunk))
        due = one.left.setdefault(part, one.due)
        if not due or chunk.rows < due[0]:
            return None
        one.left[part] = [row for row in due if row > chunk.rows]
        one.partial[part] = one.partial.get(part, -1) + 1
        drawn = await self.service.desk(self._rows, chunk)
        return Piece(index, part, picture=drawn, partial=one.partial[part], rows=chunk.rows)

    async def _rest(self, index: int, one: _Shown, made: Generation) -> AsyncGenerator[Piece]:
        """Yield what of an answer was not sent yet, and its end."""
        for number, part in enumerate(self.asked.parts(made)):
            if isinstance(part, Text):
                if words := part.text[len(one.words.get(number, "")) :]:
                    yield Piece(index, number, words)
            elif number not in one.pictures:
                yield Piece(index, number, picture=await self.service.desk(self.file, part.pixels))
        written = self._stream.written[index]
        own = replace(self.usage, text_out=written.text_out, image_out=written.image_out)
        yield Piece(index, made=made, usage=own)

    def _rows(self, chunk: Chunk) -> bytes:
        """Return the file of a picture as far as it is drawn."""
        picture = chunk.image
        assert picture is not None, "a chunk with rows has a picture"
        return self.file(picture)

    async def _ready(self) -> None:
        """Wait for the memory bank where documents are read; no place in the queue is taken meanwhile."""
        if self._reads:
            await self.service.bank()

    def _laid_out(self) -> list[Prepared]:
        self._prepared = self._layout()
        return self._prepared

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let an error about the prompt name the field that the client knows it by."""
        try:
            yield
        except RequestError as error:
            what, _, said = str(error).partition(":")
            if what not in ("prompt", "document"):
                raise
            code = "context_length_exceeded" if "context" in said else None
            raise Problem(400, f"{self._field}:{said}", self._field, code) from error


async def canvas_for(service: Service, asked: Asked, field: str) -> Canvas:
    """Return what an answer's pictures are laid on: of an edit the picture that was sent. Raises as `canvas_on`."""
    if asked.task != EDIT:
        return Canvas.new(service.model.image_size)
    assert not isinstance(asked.prompt, Document), "fields of a task"
    return await canvas_on(service, asked.prompt["image1"], field)


async def canvas_on(service: Service, picture: Image, field: str) -> Canvas:
    """Return the canvas of a picture that is drawn anew as a whole. Raises `Problem` 400 for one that is no square, as
    this model draws."""
    base = await service.desk(lambda: rgb(picture.pixels))  # which are read off the file there
    if base.width != base.height:
        rule = "without a mask it is drawn anew as a whole, and this model draws squares; crop it"
        raise Problem(400, f"{field}: the picture is {base.width}x{base.height}; {rule}", field)
    return Canvas.whole(base)


def _words(one: _Shown, part: int, text: str, strip: bool) -> str:
    """Return the words that can be sent now; with `strip` none of the space around all of them."""
    sent = one.words.setdefault(part, "")
    ready = one.held + text
    if strip:
        ready = ready if sent else ready.lstrip()
        one.held = ready[len(ready.rstrip()) :]
        ready = ready.rstrip()
    one.words[part] += ready
    return ready

"""/v1/images/generations and /v1/images/edits, as OpenAI's clients speak them.

    body --> Drawing: a canvas, and the layout of n prompts --> pictures | events, as they come

A masked edit fills the cells that the mask touches and is pasted back through the mask itself (canvas.py). One without
a mask is the model's own task `edit`, or in the grammar "chameleon" the pictures and the words, in this order.
"""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import PIL.Image
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from cm3.document import Document, Gap, Image, Text
from cm3.engine.grammar import Codes, Force
from cm3.errors import RequestError, shown
from cm3.generate import Chunk, Generation
from cm3.generate.prepared import Prepared
from cm3.generate.tasks import task_prompt
from cm3.picture import rgb
from cm3.serve.bodies import MOST_IMAGES, Edit, ImageEdit, ImageGenerate
from cm3.serve.canvas import Canvas, due_rows, masked
from cm3.serve.problem import Problem, refused_fields
from cm3.serve.sent_pictures import check_quality, data_url, encoded, read_bytes, url_picture
from cm3.serve.served_model import check_model
from cm3.serve.service import Service, Usage
from cm3.serve.sse import STREAMED, event_stream
from cm3.tasks import TASKS, find_task

QUALITY = "high"
"""The name of the one quality that there is."""
Answer = JSONResponse | StreamingResponse


class Drawing:
    """A request for pictures: what is asked, what it is laid on, and how its prompts are laid out."""

    def __init__(
        self,
        service: Service,
        event: str,
        body: ImageGenerate | Edit,
        canvas: Canvas,
        lay_out: Callable[[Sequence[int], dict[str, Any]], list[Prepared]],
        warnings: Sequence[str] = (),
    ) -> None:
        """Take how the names of its events begin, `event`, and `lay_out`, which is given seeds and settings.

        Raises `Problem` 400 for fields that contradict each other.
        """
        self.service, self.event, self.body, self.canvas = service, event, body, canvas
        self._lay_out, self._warnings = lay_out, tuple(warnings)
        self.seeds = body.seeds(body.n or 1)
        self.format, self.quality = body.output_format or "png", body.output_compression
        self.rows = service.model.grid[0]
        self.parts = self.rows if body.partial_rows else (body.partial_images or 0) + 1
        self._prepared: list[Prepared] = []
        _check(body, canvas)

    async def answer(self) -> Answer:
        """Return all pictures at once or, where it is asked for, events."""
        if self.body.stream:
            return await event_stream(self.events())
        generations, usage = await self.service.make(self.layout)
        desk = self.service.desk  # one picture at a time, since others wait for it too
        data = [await desk(self._datum, index, made) for index, made in enumerate(generations)]
        return JSONResponse(
            {"created": int(time.time()), "data": data, **self._about(), "usage": usage_object(usage, details=True)}
        )

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """Yield the official events: of each picture the partial ones, and at its end the whole one."""
        stream = self.service.stream(self.layout)
        sent = [0] * len(self.seeds)
        due: list[list[int]] = []
        done: dict[int, Generation] = {}
        told = 0
        async with aclosing(aiter(stream)) as updates:
            async for index, chunk in updates:
                due = due or [due_rows(one.prompt, self.service.model.grid[1], self.parts) for one in self._prepared]
                if chunk.generation is not None:
                    done[index] = chunk.generation
                    while told in done:  # whole pictures come in their order
                        made = done.pop(told)
                        whole = self._event("completed", await self.service.desk(self._file, made.image))
                        usage = usage_object(self._usage(told, stream.usage))
                        yield {**whole, "usage": usage, "cm3": {"n": told, **self._own(told, made)}}
                        told += 1
                elif due[index] and chunk.rows >= due[index][0]:
                    due[index] = [rows for rows in due[index] if rows > chunk.rows]
                    top = await self.service.desk(self._top, chunk)
                    number, own = sent[index], {"n": index, "rows": chunk.rows, "of": self.rows}
                    sent[index] += 1
                    yield {**self._event("partial_image", top), "partial_image_index": number, "cm3": own}

    def layout(self) -> list[Prepared]:
        """Lay out a prompt for each picture."""
        options = self.body.options()
        if self.parts > 1:
            options["candidates"] = 1  # of several it is not known which one will be kept
        self._prepared = self._lay_out(self.seeds, options)
        return self._prepared

    def _usage(self, index: int, whole: Usage) -> Usage:
        """Return the tokens of one picture: its prompt, and all that is written for it."""
        usage = Usage(whole.text_in, whole.image_in)
        for step in (step for request in self._prepared[index].requests for step in request.plan):
            if isinstance(step, Codes):
                usage.image_out += (codes := sum(cell > 0 for cell in step.cells))
                usage.text_out += len(step.cells) - codes
            elif isinstance(step, Force):
                usage.text_out += len(step.ids)
        return usage

    def _top(self, chunk: Chunk) -> bytes:
        assert chunk.image is not None, "only rows of pictures are due"
        return self._file(chunk.image)

    def _file(self, drawn: PIL.Image.Image) -> bytes:
        picture = self.canvas.painted(drawn, self.service.model.image_size)
        return encoded(picture, self.format, 100 if self.quality is None else self.quality)

    def _datum(self, index: int, made: Generation) -> dict[str, Any]:
        data = self._file(made.image)
        as_url = self.body.response_format == "url"
        shown = {"url": data_url(data, self.format)} if as_url else {"b64_json": base64.b64encode(data).decode()}
        return {**shown, "cm3": self._own(index, made)}

    def _own(self, index: int, made: Generation) -> dict[str, Any]:
        """Return what is told beside the official fields."""
        warnings = [*self._warnings, *made.warnings]
        return {"retrieved": made.attribution, "seed": self.seeds[index], "warnings": warnings}

    def _about(self) -> dict[str, Any]:
        clear = self.canvas.base.mode == "RGBA" and self.format != "jpeg"
        name = self.body.safety_identifier or self.body.user
        return {
            "background": "transparent" if clear else "opaque",
            "output_format": self.format,
            "quality": QUALITY,
            "size": self.canvas.size,
            **({"safety_identifier": name} if name else {}),
        }

    def _event(self, kind: str, data: bytes) -> dict[str, Any]:
        shown = {"b64_json": base64.b64encode(data).decode(), "created_at": int(time.time())}
        return {"type": f"{self.event}.{kind}", **shown, **self._about()}


def router(service: Service) -> APIRouter:
    """Return the routes that draw."""
    routes = APIRouter(prefix="/v1/images", tags=["images"])

    @routes.post("/generations", response_model=None, responses=STREAMED)
    async def generate(body: ImageGenerate) -> Answer:
        """Draw pictures from words, perhaps with boxes or a control image, and from documents that are looked up."""
        check_model(service, body.model)
        return await (await new_drawing(service, body)).answer()

    schema = {"requestBody": _edit_schema()}

    @routes.post("/edits", response_model=None, responses=STREAMED, openapi_extra=schema)
    async def edit(request: Request) -> Answer:
        """Draw a picture anew where a mask is transparent or, without one, change all of it as the words say."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            body, pictures, mask = await _edit_of_json(service, await request.body())
        elif kind == "multipart/form-data":
            body, pictures, mask = await _edit_of_form(service, request)
        else:
            rule = "send multipart/form-data, or application/json"
            raise Problem(415, f"content-type {shown(kind)}: is not read here; {rule}", None, "unsupported_media_type")
        return await (await edit_drawing(service, body, pictures, mask)).answer()

    return routes


Named = tuple[str, Image]
"""The field that a picture came in, and the picture."""


async def new_drawing(service: Service, body: ImageGenerate) -> Drawing:
    """Return the drawing of new pictures. Raises `Problem` for a control image that is none, and for two guides."""
    model, task, request = service.model, None, dict[str, Any]()
    _check_image_guidance(service, body)
    if body.boxes is not None and body.control is not None:
        raise Problem(400, "boxes and control: no task takes both; give one of them", "boxes")
    if body.boxes is not None:
        task, request = find_task("boxes"), {"caption": body.prompt, "objects": body.boxes}
    if body.control is not None:
        kinds = [name for name, task in TASKS.items() if task.control]
        if body.control.kind not in kinds:
            known = f"is no control image; known: {', '.join(kinds)}"
            raise Problem(400, f"control.kind={shown(body.control.kind)}: {known}", "control.kind")
        picture = await url_picture(service, body.control.image, "control.image")
        task = find_task(body.control.kind)
        request = {"caption": body.prompt, str(task.control): picture}
        try:
            await service.desk(task_prompt, task, request, model.image_size, None)
        except RequestError as error:  # of another size than it must have
            raise Problem(400, f"control.image: {error}", "control.image") from error

    def lay_out(seeds: Sequence[int], options: dict[str, Any]) -> list[Prepared]:
        if task is None:
            return model.prepare([body.prompt] * len(seeds), seeds=seeds, **options)
        return model.prepare_task(task, [request] * len(seeds), seeds=seeds, **options)

    untuned = task is not None and task.name not in model.tasks
    warnings = [f"this model was not tuned for {task.name!r}: expect little of it"] if task and untuned else []
    return Drawing(service, "image_generation", body, Canvas.new(model.image_size), lay_out, warnings)


async def edit_drawing(service: Service, body: Edit, pictures: Sequence[Named], mask: Named | None) -> Drawing:
    """Return the drawing of an edit. Raises `Problem` 400 for what the model does not do, and as `masked`."""
    model, (name, first) = service.model, pictures[0]
    together = model.vocab.grammar == "chameleon"
    if len(pictures) > 1 and not together:
        more = pictures[1][0]
        raise Problem(400, f"{more}: this model edits one picture at a time; send one", more)
    if mask is not None and together:
        raise Problem(400, f"{mask[0]}: this model fills no holes; leave the mask out", mask[0])
    if mask is None and not together and "edit" not in model.tasks:
        raise Problem(400, "mask: this model was not tuned to edit without one; give a mask", "mask")
    if mask is None and body.input_fidelity is not None:
        why = "is for edits with a mask; without one set image_guidance"
        raise Problem(400, f"input_fidelity={body.input_fidelity!r}: {why}", "input_fidelity")
    if mask is not None:
        _check_image_guidance(service, body)
        canvas = await service.desk(masked, first, mask[1], mask[0])
    else:
        base = await service.desk(lambda: rgb(first.pixels))
        if base.width != base.height:
            rule = "without a mask it is drawn anew as a whole, and this model draws squares; crop it, or give a mask"
            raise Problem(400, f"{name}: is {base.width}x{base.height}; {rule}", name)
        canvas = Canvas.whole(base)

    def lay_out(seeds: Sequence[int], options: dict[str, Any]) -> list[Prepared]:
        number = len(seeds)
        if mask is not None:
            document = Document((Text(body.prompt), canvas.seen))
            return model.prepare([document] * number, seeds=seeds, **options)
        if "edit" in model.tasks and len(pictures) == 1:
            request = {"image1": first, "instruction": body.prompt}
            return model.prepare_task(find_task("edit"), [request] * number, seeds=seeds, **options)
        document = Document((*(picture for _, picture in pictures), Text(body.prompt), Gap("image")))
        return model.prepare([document] * number, seeds=seeds, **options)

    return Drawing(service, "image_edit", body, canvas, lay_out)


def usage_object(usage: Usage, details: bool = False) -> dict[str, Any]:
    """Return counts of tokens as the interface has them for pictures; `details` of what was written, too."""
    read, written = usage.text_in + usage.image_in, usage.text_out + usage.image_out
    counts: dict[str, Any] = {
        "input_tokens": read,
        "input_tokens_details": {"text_tokens": usage.text_in, "image_tokens": usage.image_in},
        "output_tokens": written,
        "total_tokens": read + written,
    }
    if details:
        counts["output_tokens_details"] = {"text_tokens": usage.text_out, "image_tokens": usage.image_out}
    return counts


def _check(body: ImageGenerate | Edit, canvas: Canvas) -> None:
    """Raise `Problem` 400 for official fields that contradict each other or the picture."""
    if body.size not in (None, "auto", canvas.size):
        raise Problem(400, f"size={shown(body.size)}: the picture will be {canvas.size}; give that, or auto", "size")
    quality = 100 if body.output_compression is None else body.output_compression
    check_quality(body.output_format or "png", quality, "output_compression")
    asked = "partial_images" if body.partial_images else "partial_rows" if body.partial_rows else None
    if asked and not body.stream:
        raise Problem(400, f"{asked}: partial pictures come in a stream; give stream=true, or leave it out", asked)
    if asked and body.partial_rows and body.partial_images:
        raise Problem(400, "partial_images and partial_rows: give one of them", asked)
    if asked and body.candidates not in (None, 1):
        why = f"of several candidates nothing can be shown before the end; leave it or {asked} out"
        raise Problem(400, f"candidates={body.candidates}: {why}", "candidates")
    if body.stream and body.response_format == "url":
        raise Problem(400, "response_format='url': a stream sends b64_json; leave it out", "response_format")


def _check_image_guidance(service: Service, body: ImageGenerate | Edit) -> None:
    """Raise `Problem` 400 for a scale of the picture that is edited where there is none."""
    if body.image_guidance is not None and service.model.vocab.grammar == "cm3":
        why = "is for a picture that is edited as a whole, /v1/images/edits without a mask; leave it out"
        raise Problem(400, f"image_guidance={body.image_guidance:g}: {why}", "image_guidance")


async def _edit_of_json(service: Service, data: bytes) -> tuple[Edit, list[Named], Named | None]:
    try:
        body = ImageEdit.model_validate_json(data)
    except ValidationError as error:
        raise refused_fields(error.errors()) from error
    check_model(service, body.model)
    names = [f"images[{i}].image_url" for i in range(len(body.images))]
    pictures = [
        (name, await url_picture(service, one.image_url, name)) for name, one in zip(names, body.images, strict=True)
    ]
    if body.mask is None:
        return body, pictures, None
    return body, pictures, ("mask.image_url", await url_picture(service, body.mask.image_url, "mask.image_url"))


async def _edit_of_form(service: Service, request: Request) -> tuple[Edit, list[Named], Named | None]:
    try:
        async with request.form(max_files=MOST_IMAGES + 2, max_fields=64) as form:
            texts, files = _sorted(form)
            try:
                body = Edit.model_validate_strings(texts, strict=False)
            except ValidationError as error:
                raise refused_fields(error.errors()) from error
            check_model(service, body.model)
            pictures = []
            for name, file in files:
                pictures.append((name, await service.desk(read_bytes, await file.read(), name, service.settings)))
    except HTTPException as error:  # of the parser
        raise Problem(400, f"the multipart body: {error.detail}", None, "invalid_multipart") from error
    mask = next((named for named in pictures if named[0] == "mask"), None)
    pictures = [named for named in pictures if named[0] != "mask"]
    if not pictures:
        raise Problem(400, "image: is missing; send the picture as a file", "image", "missing_required_parameter")
    return body, pictures, mask


def _sorted(form: FormData) -> tuple[dict[str, str], list[tuple[str, UploadFile]]]:
    """Return the fields of a form, and its files by name. Raises `Problem` 400 for one that is given twice, and for a
    text where a file is wanted, or the other way round."""
    texts: dict[str, str] = {}
    pictures: list[UploadFile] = []
    masks: list[UploadFile] = []
    for name, value in form.multi_items():
        wanted = {"image": pictures, "image[]": pictures, "mask": masks}.get(name)
        if isinstance(value, UploadFile) != (wanted is not None):
            if name == "markup":  # told with its reason
                texts[name] = "a file"
                continue
            rule = f"is to be sent as a file (curl: -F {name}=@FILE)" if wanted is not None else "is no file"
            raise Problem(400, f"{name}: {rule}", name)
        if isinstance(value, UploadFile) and wanted is not None:
            wanted.append(value)
        elif isinstance(value, str):
            if name in texts:
                raise Problem(400, f"{name}: is given twice; give it once", name)
            whole = name.partition("[")[0]  # svg[model] and boxes[][], which are refused with the reason
            texts[whole if isinstance(Edit.REFUSED.get(whole), str) else name] = value
    if len(masks) > 1:
        raise Problem(400, "mask: is given twice; give one, for the first picture", "mask")
    names = ["image"] if len(pictures) == 1 else [f"image[{i}]" for i in range(len(pictures))]
    return texts, [*zip(names, pictures, strict=True), *(("mask", mask) for mask in masks)]


def _edit_schema() -> dict[str, Any]:
    """Return what the two bodies of an edit are, for the server's own description."""
    form = _schema(Edit)
    file = {"type": "string", "format": "binary"}
    form["properties"] |= {"image": {"type": "array", "items": file, "maxItems": MOST_IMAGES}, "mask": file}
    form["required"] = [*form["required"], "image"]
    kinds = {"multipart/form-data": form, "application/json": _schema(ImageEdit)}
    return {"required": True, "content": {kind: {"schema": schema} for kind, schema in kinds.items()}}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a body with its parts written out, as names of parts are the whole description's."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def spelled(node: Any) -> Any:
        if isinstance(node, dict):
            ref = node.get("$ref")
            return spelled(parts[ref.rpartition("/")[2]]) if ref else {k: spelled(v) for k, v in node.items()}
        return [spelled(one) for one in node] if isinstance(node, list) else node

    return spelled(schema)

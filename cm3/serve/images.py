"""/v1/images/generations and /v1/images/edits, as OpenAI's clients speak them.

    body --> Asked, a canvas --> Answering --> Drawing: pictures | events, as they come

A masked edit fills the cells that the mask touches and is pasted back through the mask itself (canvas.py). One without
a mask is the model's own task `edit`, or in the grammar "chameleon" the pictures and the words, in this order.
"""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from cm3.document import Document, Gap, Image, Text
from cm3.errors import RequestError, shown
from cm3.generate.tasks import task_prompt
from cm3.serve.answering import Answering, Form, Piece, canvas_on
from cm3.serve.bodies import MOST_IMAGES, Edit, ImageEdit, ImageGenerate
from cm3.serve.canvas import Canvas, masked
from cm3.serve.conversation import EDIT, Asked
from cm3.serve.problem import Problem, refused_fields
from cm3.serve.sent_pictures import data_url, read_bytes, url_picture
from cm3.serve.served_model import check_model
from cm3.serve.service import Service
from cm3.serve.sse import STREAMED, event_stream
from cm3.tasks import TASKS, find_task

QUALITY = "high"
"""The name of the one quality that there is."""
Answer = JSONResponse | StreamingResponse


class Drawing:
    """The official forms of the pictures of one request; the names of its events begin with `event`."""

    def __init__(self, answering: Answering, event: str, body: ImageGenerate | Edit, canvas: Canvas) -> None:
        """Raise `Problem` 400 for a stream of data URLs."""
        if body.stream and body.response_format == "url":
            raise Problem(400, "response_format='url': a stream sends b64_json; leave it out", "response_format")
        self._answering, self._event, self._format = answering, event, answering.form.format
        self._as_url = body.response_format == "url"
        clear = canvas.base.mode == "RGBA" and self._format != "jpeg"
        name = body.safety_identifier or body.user
        self._about = {
            "background": "transparent" if clear else "opaque",
            "output_format": self._format,
            "quality": QUALITY,
            "size": canvas.size,
            **({"safety_identifier": name} if name else {}),
        }

    async def answer(self) -> Answer:
        """Return all pictures at once or, where it is asked for, events."""
        if self._answering.form.stream:
            return await event_stream(self.events())
        generations, usage = await self._answering.make()
        data = []
        for index, made in enumerate(generations):  # one picture at a time, since others wait for the desk too
            (picture,) = await self._answering.parts(made)
            assert isinstance(picture, bytes), "a picture alone"
            url = {"url": data_url(picture, self._format)} if self._as_url else {"b64_json": _base64(picture)}
            data.append({**url, "cm3": await self._answering.about(index, made)})
        return JSONResponse({"created": int(time.time()), "data": data, **self._about, "usage": usage.told()})

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """Yield the official events: of each picture the partial ones, and at its end the whole one, in their order."""
        drawn: dict[int, bytes] = {}
        done: dict[int, Piece] = {}
        rows, told = self._answering.service.model.grid[0], 0
        async with aclosing(self._answering.pieces()) as pieces:
            async for piece in pieces:
                if piece.picture is not None and piece.partial is None:
                    drawn[piece.number] = piece.picture
                elif piece.picture is not None:
                    number, own = piece.partial, {"n": piece.number, "rows": piece.rows, "of": rows}
                    event = self._told("partial_image", piece.picture)
                    yield {**event, "partial_image_index": number, "cm3": own}
                elif piece.made is not None:
                    done[piece.number] = piece
                while (last := done.pop(told, None)) is not None:
                    assert last.made is not None and last.usage is not None, "of an end"
                    own = {"n": told, **await self._answering.about(told, last.made)}
                    yield {**self._told("completed", drawn.pop(told)), "usage": last.usage.told(), "cm3": own}
                    told += 1

    def _told(self, kind: str, data: bytes) -> dict[str, Any]:
        shown = {"b64_json": _base64(data), "created_at": int(time.time())}
        return {"type": f"{self._event}.{kind}", **shown, **self._about}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


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
    what = Asked("image", Document((Text(body.prompt), Gap("image"))))
    if body.boxes is not None and body.control is not None:
        raise Problem(400, "boxes and control: no task takes both; give one of them", "boxes")
    if body.boxes is not None:
        what = Asked("image", {"caption": body.prompt, "objects": body.boxes}, "boxes")
    if body.control is not None:
        kinds = [name for name, task in TASKS.items() if task.control]
        if body.control.kind not in kinds:
            known = f"is no control image; known: {', '.join(kinds)}"
            raise Problem(400, f"control.kind={shown(body.control.kind)}: {known}", "control.kind")
        picture = await url_picture(service, body.control.image, "control.image")
        task = find_task(body.control.kind)
        request = {"caption": body.prompt, str(task.control): picture}
        try:
            await service.desk(task_prompt, task, request, service.model.image_size, None)
        except RequestError as error:  # of another size than it must have
            raise Problem(400, f"control.image: {error}", "control.image") from error
        what = Asked("image", request, task.name)
    if what.task is not None and what.task not in service.model.tasks:
        what = replace(what, warnings=(f"this model was not tuned for {what.task!r}: expect little of it",))
    return _drawing(service, what, "image_generation", body, Canvas.new(service.model.image_size))


async def edit_drawing(service: Service, body: Edit, pictures: Sequence[Named], mask: Named | None) -> Drawing:
    """Return the drawing of an edit. Raises `Problem` 400 for what the model does not do, and as `masked`."""
    model, (name, first) = service.model, pictures[0]
    together = model.vocab.grammar == "chameleon"
    if len(pictures) > 1 and not together:
        more = pictures[1][0]
        raise Problem(400, f"{more}: this model edits one picture at a time; send one", more)
    if mask is not None and together:
        raise Problem(400, f"{mask[0]}: this model fills no holes; leave the mask out", mask[0])
    if mask is None and not together and EDIT not in model.tasks:
        raise Problem(400, "mask: this model was not tuned to edit without one; give a mask", "mask")
    if mask is None and body.input_fidelity is not None:
        why = "is for edits with a mask; without one set image_guidance"
        raise Problem(400, f"input_fidelity={body.input_fidelity!r}: {why}", "input_fidelity")
    if mask is not None:
        canvas = await service.desk(masked, first, mask[1], mask[0])
        what = Asked("image", Document((Text(body.prompt), canvas.seen)))
    else:
        canvas = await canvas_on(service, first, name)
        what = Asked("image", {"image1": first, "instruction": body.prompt}, EDIT)
        if EDIT not in model.tasks or len(pictures) > 1:
            shown = (picture for _, picture in pictures)
            what = Asked("image", Document((*shown, Text(body.prompt), Gap("image"))))
    return _drawing(service, what, "image_edit", body, canvas)


def _drawing(service: Service, what: Asked, event: str, body: ImageGenerate | Edit, canvas: Canvas) -> Drawing:
    form = Form(
        body.output_format or "png",
        body.output_compression,
        bool(body.stream),
        body.partial_images or 0,
        bool(body.partial_rows),
        body.size,
    )
    answering = Answering(service, what, body.seeds(body.n or 1), body.options(), form, canvas, "prompt")
    return Drawing(answering, event, body, canvas)


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
            if name == "markup" or (wanted is None and name not in Edit.model_fields):  # told with its reason
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

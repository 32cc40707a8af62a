"""/v1/responses: the same answers as chats, as items: messages, and calls of the tool `image_generation`.

    POST  input, words or items; tools [{"type": "image_generation"}]
      ->  output: {"type": "message"} with words, {"type": "image_generation_call"} with a picture in `result`

Without the tool, or with tool_choice "none", the answer is a text; with it and "required", or {"type":
"image_generation"}, a picture. With "auto" a model that writes words and pictures in one answer decides; one that does
not draws, but describes a picture that comes alone or with "describe ..." (cm3/serve/conversation.py). A mask is of the
last picture: what it leaves comes back as it was sent.

A stream sends the official events. Nothing is kept here: every request has the whole conversation, to which `output`
can be added as it is. Fields of ours are those of `cm3.serve.bodies.Extras`; the last item of an answer has `cm3`.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter
from pydantic import BeforeValidator, Field
from starlette.responses import JSONResponse, Response

from cm3.document import Document, Text
from cm3.errors import shown
from cm3.generate import Generation
from cm3.serve.answering import Answering, Form, Piece, canvas_for
from cm3.serve.bodies import MOST_MESSAGES, MOST_PARTS, Body, Edit, Extras, Picture, Reference, Refusals
from cm3.serve.canvas import Canvas, masked
from cm3.serve.chat import NO_PROBABILITIES, SYSTEM, Lenient, in_turn
from cm3.serve.conversation import Asked, Kind, Message, Turn, asked, check_pictures, check_words
from cm3.serve.images import QUALITY
from cm3.serve.problem import Problem
from cm3.serve.sent_pictures import Format, read_base64, url_picture
from cm3.serve.served_model import check_model
from cm3.serve.service import Service
from cm3.serve.sse import STREAMED, event_stream

KEEPS_NOTHING = "this server keeps no answers and no conversations; send all of it as input"
TOOL = "tools[0]"


class InputPart(Body):
    """Words or a picture, of the user or from an answer."""

    REFUSED: ClassVar[Refusals] = {"file_id": "this server keeps no files; send image_url, a data URL of the picture"}

    type: str
    text: str | None = None
    image_url: str | None = None
    file_id: None = None
    # These change nothing.
    annotations: Any = None
    detail: Any = None
    logprobs: Any = None
    prompt_cache_breakpoint: Any = None


def _as_parts(value: object) -> object:
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


def _as_items(value: object) -> object:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class InputItem(Body):
    """A message, or a picture from an answer."""

    type: str = "message"
    role: str | None = None
    content: (
        Annotated[
            list[InputPart],
            Field(max_length=MOST_PARTS, fail_fast=True),
            BeforeValidator(_as_parts, json_schema_input_type=str | list[InputPart]),
        ]
        | None
    ) = None
    result: str | None = None
    # These change nothing.
    action: Any = None
    background: Any = None
    cm3: Any = None
    id: Any = None
    output_format: Any = None
    phase: Any = None
    quality: Any = None
    revised_prompt: Any = None
    size: Any = None
    status: Any = None


class ImageTool(Body):
    """The tool that draws."""

    REFUSED: ClassVar[Refusals] = {**Picture.REFUSED, "input_fidelity": Edit.REFUSED["input_fidelity"]}

    type: Literal["image_generation"]
    action: Literal["generate", "edit", "auto"] | None = None
    background: Literal["auto", "opaque"] | None = None
    complexity: None = None
    frame_count: None = None
    frame_duration_ms: None = None
    input_fidelity: Literal["high"] | None = None
    input_image_mask: Reference | None = None
    model: str | None = None
    moderation: Any = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    output_format: Format | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    quality: Literal["auto", "low", "medium", "high"] | None = None
    size: str | None = None
    svg: None = None


def _by_name(value: object) -> object:
    return "required" if value == {"type": "image_generation"} else value


class ResponseBody(Extras, Lenient):
    """The body of /v1/responses."""

    REFUSED: ClassVar[Refusals] = {
        "background": "nothing is made in the background; leave it out",
        "background_options": "nothing is made in the background; leave it out",
        "context_management": "a conversation is read whole or refused; leave it out",
        "conversation": KEEPS_NOTHING,
        "include": "nothing more can be told; leave it out",
        "instructions": SYSTEM,
        "previous_response_id": KEEPS_NOTHING,
        "prompt": "this server keeps no prompts; send it as input",
        "text": "answers are plain text of one length; leave it out",
        "top_logprobs": NO_PROBABILITIES,
        "truncation": "a prompt that is too long is refused and never cut; leave it out",
    }
    SO_ANYWAY: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "background": (False,),
        "context_management": ([],),
        "include": ([], ["reasoning.encrypted_content"]),
        "instructions": ("",),
        "text": ({}, {"format": {"type": "text"}}),
        "top_logprobs": (0,),
        "truncation": ("disabled",),
    }

    input: Annotated[
        list[InputItem],
        Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True),
        BeforeValidator(_as_items, json_schema_input_type=str | list[InputItem]),
    ]
    model: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="Longest text, in tokens.")
    max_tool_calls: Annotated[int, Field(ge=1)] | None = Field(None, description="Most pictures.")
    stream: bool | None = None
    tool_choice: Annotated[Literal["none", "auto", "required"] | None, BeforeValidator(_by_name)] = None
    tools: Annotated[list[ImageTool], Field(max_length=1)] | None = None
    background: None = None
    background_options: None = None
    context_management: None = None
    conversation: None = None
    include: None = None
    instructions: None = None
    previous_response_id: None = None
    prompt: None = None
    text: None = None
    top_logprobs: None = None
    truncation: None = None
    # These change nothing.
    access_programs: Any = None
    image: Any = None
    metadata: dict[str, str] | None = Field(None, description="Returned as it is.")
    moderation: Any = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    stream_options: Any = None
    user: Any = None

    @property
    def tool(self) -> ImageTool | None:
        """Return the tool that may be used."""
        return self.tools[0] if self.tools and self.tool_choice != "none" else None

    @property
    def kind(self) -> Kind:
        """Return the kind of answer that is asked for."""
        if self.tool is None:
            if self.tool_choice == "required":
                raise Problem(400, "tool_choice: there is no tool; give tools or leave it out", "tool_choice")
            return "text"
        return "image" if self.tool_choice == "required" else "interleaved"

    @property
    def form(self) -> Form:
        """Return the form of the answer."""
        tool, stream = self.tool, bool(self.stream)
        if tool is None:
            return Form(stream=stream)
        quality, partial = tool.output_compression, tool.partial_images or 0
        return Form(tool.output_format or "png", quality, stream, partial, size=tool.size, where=f"{TOOL}.")

    def given(self, what: Asked) -> dict[str, Any]:
        """Return the settings for `CM3Leon.prepare`."""
        options = self.options() | ({} if self.max_output_tokens is None else {"max_tokens": self.max_output_tokens})
        pictures = self.max_tool_calls if what.kind == "interleaved" else None
        return options | ({} if pictures is None else {"pictures": pictures})


class Answer:
    """One answer, as events and as the response at their end."""

    def __init__(self, body: ResponseBody, answering: Answering, size: str, action: str) -> None:
        self._answering, self._number = answering, 0
        picture = {"background": "opaque", "output_format": answering.form.format, "quality": QUALITY, "size": size}
        self._drawn = {"action": action, **picture}
        self._told = picture
        self._item: dict[str, Any] | None = None
        tools = [
            tool.model_dump(exclude_none=True, exclude={"input_image_mask", "moderation"}) for tool in body.tools or ()
        ]
        self.response: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": answering.service.name,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": tools,
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """Yield the official events, the last of which has the whole response."""
        part = -1
        async with aclosing(self._answering.pieces()) as pieces:
            async for piece in pieces:
                if piece.begins:
                    for name in ("created", "in_progress"):
                        yield self._event(f"response.{name}", response={**self.response, "output": []})
                    if self._answering.asked.kind != "interleaved":  # it is known what will come
                        part = 0
                        for event in self._begin(self._answering.asked.kind):
                            yield event
                    continue
                if piece.made is None and piece.part != part:
                    for event in (*self._end(), *self._begin("text" if piece.picture is None else "image")):
                        yield event
                    part = piece.part
                if piece.made is not None:
                    own = await self._answering.about(0, piece.made)
                    for event in (*self._end(own), self._last(piece.made)):
                        yield event
                else:
                    for event in self._more(piece):
                        yield event

    def _begin(self, kind: Kind) -> Iterator[dict[str, Any]]:
        """Begin an item of the answer."""
        if kind == "text":
            item: dict[str, Any] = {
                "id": f"msg_{uuid.uuid4().hex}",
                "type": "message",
                "role": "assistant",
                "content": [],
            }
        else:
            item = {"id": f"ig_{uuid.uuid4().hex}", "type": "image_generation_call", "result": None, **self._drawn}
        self._item = {**item, "status": "in_progress"}
        self.response["output"].append(self._item)
        yield self._of_item("response.output_item.added", item=dict(self._item))
        if kind == "text":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield self._of_item("response.content_part.added", content_index=0, part=part)
            self._item["content"] = [dict(part)]
        else:
            yield self._of_item("response.image_generation_call.in_progress")
            yield self._of_item("response.image_generation_call.generating")

    def _more(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Tell what came of the item that is begun."""
        assert self._item is not None
        if piece.picture is None:
            self._item["content"][0]["text"] += piece.text
            yield self._of_item("response.output_text.delta", content_index=0, delta=piece.text, logprobs=[])
            return
        data = base64.b64encode(piece.picture).decode()
        if piece.partial is not None:
            number = {"partial_image_index": piece.partial, "partial_image_b64": data}
            yield self._of_item("response.image_generation_call.partial_image", **number, **self._told)
        else:
            self._item["result"] = data
            yield self._of_item("response.image_generation_call.completed")

    def _end(self, own: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """End the item that is begun, where one is; `own` is what the last one tells of the answer."""
        if self._item is None:
            return
        if self._item["type"] == "message":
            part = self._item["content"][0]
            yield self._of_item("response.output_text.done", content_index=0, text=part["text"], logprobs=[])
            yield self._of_item("response.content_part.done", content_index=0, part=part)
        self._item |= {"status": "completed"} | ({} if own is None else {"cm3": own})
        yield self._of_item("response.output_item.done", item=self._item)
        self._item = None

    def _last(self, made: Generation) -> dict[str, Any]:
        """Return the event of the end."""
        cut = made.cut[0]
        reason = {"reason": "max_output_tokens"} if cut else None
        ended = {"status": "incomplete" if cut else "completed", "incomplete_details": reason}
        usage = self._answering.usage.told(more_in=["cached", "cache_write"], more_out=["reasoning"])
        self.response |= {**ended, "usage": usage, "completed_at": int(time.time())}
        return self._event(f"response.{self.response['status']}", response=self.response)

    def _of_item(self, kind: str, **more: Any) -> dict[str, Any]:
        assert self._item is not None
        place = {"output_index": len(self.response["output"]) - 1}
        return self._event(kind, **({} if "item" in more else {"item_id": self._item["id"]}), **place, **more)

    def _event(self, kind: str, **more: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **more}


def router(service: Service) -> APIRouter:
    """Return the route of responses."""
    routes = APIRouter(tags=["responses"])

    @routes.post("/v1/responses", responses=STREAMED)
    async def respond(body: ResponseBody) -> Response:
        """Answer a conversation with a message or a picture, or with several of both."""
        check_model(service, body.model)
        if body.tool is not None:
            check_model(service, body.tool.model)
        answer = await new_answer(service, body)
        if body.stream:
            return await event_stream(answer.events())
        async for _ in answer.events():
            pass
        return JSONResponse(answer.response)

    return routes


async def new_answer(service: Service, body: ResponseBody) -> Answer:
    """Return the answer to a body, not begun. Raises `Problem` 400 for what cannot be answered."""
    for key, value in (body.metadata or {}).items():
        check_words(key + value, "metadata")
    tool = body.tool
    mask = tool.input_image_mask if tool is not None else None
    messages = await read_items(service, body.input)
    what = asked(service.model, messages, body.kind, "input", mask is not None)
    action = "edit" if what.task == "edit" else "generate"
    if tool is not None and tool.action not in (None, "auto", action):
        why = {"edit": "there is no picture to edit", "generate": "a picture came with the words, and it is edited"}
        field = f"{TOOL}.action"
        raise Problem(400, f"{field}={tool.action!r}: {why[tool.action]}; leave one of them out", field)
    if mask is not None:
        what, canvas = await _masked(service, what, mask.image_url, f"{TOOL}.input_image_mask")
    else:
        canvas = await canvas_for(service, what, "input")
    answering = Answering(service, what, body.seeds(1), body.given(what), body.form, canvas, "input")
    return Answer(body, answering, canvas.size, action)


async def _masked(service: Service, what: Asked, url: str, field: str) -> tuple[Asked, Canvas]:
    """Return an edit as the filling of what a mask leaves open, and the canvas for it."""
    if what.task != "edit" or isinstance(what.prompt, Document):
        raise Problem(400, f"{field}: there is no picture that is edited; leave it out", field)
    layer = await url_picture(service, url, f"{field}.image_url")
    canvas = await service.desk(masked, what.prompt["image1"], layer, f"{field}.image_url")
    return replace(what, prompt=Document((Text(what.prompt["instruction"]), canvas.seen)), task=None), canvas


async def read_items(service: Service, items: Sequence[InputItem]) -> list[Message]:
    """Return the messages of an input, with their pictures read. Raises `Problem` naming the field."""
    sent = [part.image_url for item in items for part in item.content or ()] + [item.result for item in items]
    check_pictures(sum(picture is not None for picture in sent), "input")
    made: list[Message] = []
    for number, item in enumerate(items):
        field = f"input[{number}]"
        if item.type == "image_generation_call":
            if item.result is None:
                raise Problem(400, f"{field}.result: is missing; {KEEPS_NOTHING}", f"{field}.result")
            picture = await service.desk(read_base64, item.result, f"{field}.result", service.settings)
            made.append(Message("assistant", (picture,), field))
        elif item.type == "message" and item.role is not None and item.content is not None:
            parts = [await _part(service, part, f"{field}.content[{at}]") for at, part in enumerate(item.content)]
            made += in_turn(item.role, parts, field)
        else:
            rule = "is a message with role and content, or an image_generation_call with result"
            raise Problem(400, f"{field}={shown(item.type)}: an item {rule}", field)
    return made


async def _part(service: Service, part: InputPart, field: str) -> Turn:
    if part.type in ("input_text", "output_text", "text") and part.text is not None and part.image_url is None:
        return Text(part.text)
    if part.type == "input_image" and part.image_url is not None and part.text is None:
        return await url_picture(service, part.image_url, f"{field}.image_url")
    rule = "parts are input_text or output_text with text, or input_image with image_url"
    raise Problem(400, f"{field}.type={shown(part.type)}: {rule}", f"{field}.type")

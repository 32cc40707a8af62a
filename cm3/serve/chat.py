"""/v1/chat/completions: text and pictures in any order, in and out.

    POST  messages [{role, content: words or [{"type": "text", "text"}, {"type": "image_url", "image_url": {"url"}}]}]
      ->  choices[i].message.content: words, or where pictures are asked for a list of such parts, which can be sent
          back as it is

`modalities` says what to answer with: ["text"], which is the default, ["image"], or both. For what a model does with
which messages, see cm3/serve/conversation.py. A stream sends the official chunks. Where pictures are asked for,
`delta.content` is a list of parts, each with its `index` in the whole, by which the official client joins them; up to
`partial_images` of each picture come before it in `choices[0].cm3.partial_image`, beside the delta, where nothing joins
them. `choices[i].cm3` names the documents that were read, the seed, and warnings.

Fields of ours: those of `cm3.serve.bodies.Extras`, `partial_images`, `output_format`, `output_compression`, and
`pictures`, the most pictures of an answer of words and pictures.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator
from starlette.responses import JSONResponse, Response

from cm3.document import Text
from cm3.errors import shown
from cm3.generate import Generation
from cm3.serve.answering import Answering, Form, canvas_for
from cm3.serve.bodies import MOST_MESSAGES, MOST_PARTS, MOST_PICTURES, Body, Extras, Picture, Refusals
from cm3.serve.conversation import Kind, Message, Turn, asked, check_pictures
from cm3.serve.problem import Problem
from cm3.serve.sent_pictures import Format, data_url, url_picture
from cm3.serve.served_model import check_model
from cm3.serve.service import Service, Usage
from cm3.serve.sse import STREAMED, event_stream

SYSTEM = "this model never read system messages; say it in the user's message"
TOOLS = "this model calls no tools; leave it out"
NO_SOUND = "this model has no sound; leave it out"
NO_PROBABILITIES = "no probabilities of tokens are told; leave it out"


class Lenient(Body):
    """A part of a request, some fields of which may say what is so in any case."""

    SO_ANYWAY: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Field -> values that ask for nothing."""

    @field_validator("*", mode="before")
    @classmethod
    def _take(cls, value: Any, info: ValidationInfo) -> Any:
        return None if value in cls.SO_ANYWAY.get(info.field_name or "", ()) else value


class ImageUrl(Body):
    """A picture by its URL."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = Field(None, description="Changes nothing.")


class ContentPart(Body):
    """Words or a picture."""

    type: str
    text: str | None = None
    image_url: ImageUrl | None = None
    index: int | None = Field(None, description="Its place, as streams tell it. Changes nothing.")
    prompt_cache_breakpoint: Any = None


def _listed(value: object) -> object:
    """Return words as the list of one part."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class ChatMessage(Lenient):
    """A message."""

    REFUSED: ClassVar[Refusals] = {"audio": NO_SOUND, "function_call": TOOLS, "tool_calls": TOOLS}
    SO_ANYWAY: ClassVar[Mapping[str, tuple[Any, ...]]] = {"tool_calls": ([],)}

    role: str
    content: Annotated[
        list[ContentPart],
        Field(max_length=MOST_PARTS, fail_fast=True),
        BeforeValidator(_listed, json_schema_input_type=str | list[ContentPart]),
    ]
    audio: None = None
    function_call: None = None
    tool_calls: None = None
    # These change nothing.
    annotations: Any = None
    name: Any = None
    refusal: Any = None


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="Nothing is added to hide lengths.")


class ChatBody(Extras, Lenient):
    """The body of /v1/chat/completions."""

    REFUSED: ClassVar[Refusals] = {
        "audio": NO_SOUND,
        "frequency_penalty": "tokens are drawn without penalties; leave it out",
        "function_call": TOOLS,
        "functions": TOOLS,
        "logit_bias": "tokens have no bias; leave it out",
        "logprobs": NO_PROBABILITIES,
        "output_format": Picture.REFUSED["output_format"],
        "prediction": "answers are not predicted; leave it out",
        "presence_penalty": "tokens are drawn without penalties; leave it out",
        "response_format": "answers are plain text; leave it out",
        "stop": "texts end where the model ends them, or at max_completion_tokens; leave it out",
        "tool_choice": TOOLS,
        "tools": TOOLS,
        "top_logprobs": NO_PROBABILITIES,
        "verbosity": "answers have one length; leave it out",
        "web_search_options": "the web is not searched; leave it out, or set retrieve",
    }
    SO_ANYWAY: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "frequency_penalty": (0,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "logit_bias": ({},),
        "logprobs": (False,),
        "presence_penalty": (0,),
        "response_format": ({"type": "text"},),
        "stop": ([],),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "top_logprobs": (0,),
        "verbosity": ("medium",),
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    model: str | None = None
    modalities: Annotated[list[Literal["text", "image"]], Field(min_length=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_PICTURES)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="Longest text, in tokens.")
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="The same.")
    pictures: Annotated[int, Field(ge=1, le=MOST_PICTURES)] | None = Field(
        None, description="Most pictures of an answer of words and pictures."
    )
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    output_format: Format | None = Field(None, description="Format of pictures: png (default), webp or jpeg.")
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    audio: None = None
    frequency_penalty: None = None
    function_call: None = None
    functions: None = None
    logit_bias: None = None
    logprobs: None = None
    prediction: None = None
    presence_penalty: None = None
    response_format: None = None
    stop: None = None
    tool_choice: None = None
    tools: None = None
    top_logprobs: None = None
    verbosity: None = None
    web_search_options: None = None
    # These change nothing.
    metadata: Any = None
    moderation: Any = None
    parallel_tool_calls: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None

    @property
    def kind(self) -> Kind:
        """Return the kind of answer that is asked for."""
        wanted = set(self.modalities or ["text"])
        return "interleaved" if len(wanted) == 2 else "image" if wanted == {"image"} else "text"

    @property
    def form(self) -> Form:
        """Return the form of the answer."""
        return Form(self.output_format or "png", self.output_compression, bool(self.stream), self.partial_images or 0)

    def given(self) -> dict[str, Any]:
        """Return the settings for `CM3Leon.prepare`. Raises `Problem` for two lengths."""
        longest = self.max_completion_tokens or self.max_tokens
        if self.max_tokens not in (None, longest):
            raise Problem(400, "max_tokens: is another than max_completion_tokens; give one of them", "max_tokens")
        given = {"max_tokens": longest, "pictures": self.pictures}
        return self.options() | {name: value for name, value in given.items() if value is not None}


class Completion:
    """The official forms of one request's answers."""

    def __init__(self, answering: Answering) -> None:
        self._answering, self._format = answering, answering.form.format
        self._words = answering.asked.kind == "text"
        id, created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        self._head = {"id": id, "created": created, "model": answering.service.name}

    async def whole(self) -> dict[str, Any]:
        """Return the answer at once."""
        generations, usage = await self._answering.make()
        choices = []
        for index, made in enumerate(generations):
            parts = await self._answering.parts(made)
            content = parts[0] if self._words else [self._part(part) for part in parts]
            message = {"role": "assistant", "content": content, "refusal": None}
            choices.append({"index": index, "message": message, "logprobs": None, **await self._end(index, made)})
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": _told(usage)}

    async def chunks(self, count: bool) -> AsyncGenerator[dict[str, Any]]:
        """Yield the chunks of a stream, and where asked to `count` the tokens at its end."""
        async with aclosing(self._answering.pieces()) as pieces:
            async for piece in pieces:
                if piece.begins:  # the client numbers its choices by the order of their first chunks
                    for index in range(len(self._answering.seeds)):
                        yield self._chunk(index, {"role": "assistant"} | ({"content": ""} if self._words else {}))
                elif piece.made is not None:
                    yield self._chunk(piece.number, {}, **await self._end(piece.number, piece.made))
                elif piece.partial is not None and piece.picture is not None:
                    number = {"index": piece.part, "partial_image_index": piece.partial}
                    yield self._chunk(piece.number, {}, cm3={"partial_image": {**number, **self._part(piece.picture)}})
                elif self._words:
                    yield self._chunk(piece.number, {"content": piece.text})
                else:
                    part = self._part(piece.text if piece.picture is None else piece.picture)
                    yield self._chunk(piece.number, {"content": [{"index": piece.part, **part}]})
        if count:
            usage = _told(self._answering.usage)
            yield {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    async def _end(self, index: int, made: Generation) -> dict[str, Any]:
        own = await self._answering.about(index, made)
        return {"finish_reason": "length" if made.cut[0] else "stop", "cm3": own}

    def _chunk(self, index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": None, "logprobs": None, **more}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _part(self, part: str | bytes) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        return {"type": "image_url", "image_url": {"url": data_url(part, self._format)}}


def router(service: Service) -> APIRouter:
    """Return the route of chats."""
    routes = APIRouter(tags=["chat"])

    @routes.post("/v1/chat/completions", responses=STREAMED)
    async def complete(body: ChatBody) -> Response:
        """Answer messages with words, pictures or both."""
        check_model(service, body.model)
        what = asked(service.model, await read_messages(service, body.messages), body.kind, "messages")
        canvas = await canvas_for(service, what, "messages")
        seeds = body.seeds(body.n or 1)
        completion = Completion(Answering(service, what, seeds, body.given(), body.form, canvas, "messages"))
        if body.stream:
            count = body.stream_options is not None and bool(body.stream_options.include_usage)
            return await event_stream(completion.chunks(count), named=False)
        return JSONResponse(await completion.whole())

    return routes


async def read_messages(service: Service, messages: Sequence[ChatMessage]) -> list[Message]:
    """Return messages with their pictures read. Raises `Problem` naming the field."""
    check_pictures(sum(part.image_url is not None for one in messages for part in one.content), "messages")
    made: list[Message] = []
    for number, message in enumerate(messages):
        field = f"messages[{number}]"
        parts: list[Turn] = []
        for at, part in enumerate(message.content):
            where = f"{field}.content[{at}]"
            if part.type == "text" and part.text is not None and part.image_url is None:
                parts.append(Text(part.text))
            elif part.type == "image_url" and part.image_url is not None and part.text is None:
                parts.append(await url_picture(service, part.image_url.url, f"{where}.image_url.url"))
            elif part.type in ("text", "image_url"):
                why = f"a part of type {part.type!r} has the field {part.type!r} and no other"
                raise Problem(400, f"{where}: {why}", where)
            else:
                why = f"type {shown(part.type)}: parts are 'text' or 'image_url'"
                raise Problem(400, f"{where}.type: {why}", f"{where}.type")
        made += in_turn(message.role, parts, field)
    return made


def in_turn(role: str, parts: Sequence[Turn], field: str) -> list[Message]:
    """Return a message, and none for an empty one of the system's. Raises `Problem` for a role that there is not."""
    if role in ("system", "developer"):
        if all(isinstance(part, Text) and not part.text.strip() for part in parts):
            return []
        raise Problem(400, f"{field}.role={role!r}: {SYSTEM}", f"{field}.role")
    if role not in ("user", "assistant"):
        why = TOOLS if role in ("tool", "function") else "roles are 'user' and 'assistant'"
        raise Problem(400, f"{field}.role={role!r:.40}: {why}", f"{field}.role")
    return [Message("user" if role == "user" else "assistant", tuple(parts), field)]


def _told(usage: Usage) -> dict[str, Any]:
    return usage.told("prompt", "completion", more_in=["cached"])

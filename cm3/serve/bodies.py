"""Bodies of requests: the official fields, and those of ours.

A field that is unknown is refused by its name. So is an official one that would change the picture and that no model
here follows, with the reason (`REFUSED`); those that change nothing are taken.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cm3.errors import did_you_mean, shown
from cm3.generate.cm3leon import sample_seeds
from cm3.serve.problem import LONGEST_NAME, Problem
from cm3.serve.sent_pictures import Format
from cm3.tasks.boxes import check_place

MOST_PICTURES = 10
"""Most pictures of a request, as at OpenAI."""
MOST_IMAGES = 16
"""Most pictures to be edited together, as at OpenAI."""
MOST_CANDIDATES = 16
"""Most candidates of each picture or text."""
LONGEST_ID = 512
"""Most characters of a user's name, which is sent back with every picture."""
MOST_MESSAGES, MOST_PARTS = 1_000, 100
"""Most messages of a conversation, and parts of each. Of a list that is wrong the first fault is told (`fail_fast`): to
find and to write down a million of them would hold up everyone."""
LONGEST_PROMPT = 32_000
"""Most characters of a prompt, as at OpenAI; the context of a model is shorter."""
Refusals = Mapping[str, str | Mapping[str, str]]
"""Field -> why it is refused, or its values -> why each of them is."""


class Body(BaseModel):
    """A part of a request. A number is no string, an unknown field is an error, and so is what `REFUSED` lists."""

    model_config = ConfigDict(extra="forbid", strict=True)
    REFUSED: ClassVar[Refusals] = {}

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        unknown = str(next((name for name in value if name not in cls.model_fields), ""))
        if len(value) > 2 * len(cls.model_fields):
            why = "has {number} fields, most of them unknown, as {unknown}; leave those out"
            raise PydanticCustomError("fields", why, {"number": len(value), "unknown": shown(unknown)})
        taken = [name for name in cls.model_fields if not isinstance(cls.REFUSED.get(name), str)]
        if 0 < len(unknown) <= LONGEST_NAME and (hint := did_you_mean(unknown, taken)):
            raise PydanticCustomError("unknown", "{hint}", {"name": unknown, "hint": hint})
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _refuse(cls, value: Any, info: ValidationInfo) -> Any:
        why = cls.REFUSED.get(info.field_name or "")
        if isinstance(why, Mapping):
            why = why.get(value) if isinstance(value, str) else None
        if why is not None and value is not None:
            raise PydanticCustomError("unsupported", "{why}", {"why": why})
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:  # which no answer could hold
                why = "has a lone surrogate, which is no character; take it out"
                raise PydanticCustomError("text", "{why}", {"why": why}) from error
        return value


def _said(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("text", "has a NUL character; take it out")
    if not value.strip():
        raise PydanticCustomError("text", "is empty; say in words what to draw")
    return value


Prompt = Annotated[str, Field(max_length=LONGEST_PROMPT), AfterValidator(_said)]
"""Words that say something."""


class Extras(Body):
    """Fields of ours: how to draw and what to look up. None leaves a setting as the model's bundle recommends it."""

    guidance: float | None = Field(
        None, description="Scale of classifier-free guidance: 1 is none, and below 0 leads away from the words."
    )
    image_guidance: float | None = Field(None, description="In an edit without a mask: how far to hold on to it.")
    temperature: float | None = Field(None, description="0 takes the likeliest token each time.")
    top_p: float | None = Field(None, description="Draw from the fewest tokens that hold this much probability.")
    contrast: Literal["max", "kmax"] | None = Field(None, description="Contrastive decoding, with k and alpha.")
    k: int | None = None
    alpha: float | None = None
    amateur_temperature: float | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = Field(
        None, description="The same seed gives the same result; without one it is drawn, and told in the answer."
    )
    candidates: Annotated[int, Field(ge=1, le=MOST_CANDIDATES)] | None = Field(
        None, description="So many are made of each, and the likeliest is kept."
    )
    think: bool | None = Field(
        None, description="Say in words first what the picture will show, or shows, and go on from that."
    )
    retrieve: int | None = Field(None, description="So many documents, 0 to 3, are looked up and read first.")
    unconditional: Literal["kept", "dropped"] | None = Field(
        None, description="What becomes of documents in the stream to guide away from."
    )

    def options(self) -> dict[str, Any]:
        """Return the settings that were given, for `CM3Leon.prepare`. Raises `Problem` for one of documents without
        any."""
        if self.unconditional is not None and not self.retrieve:
            why = "is about documents that are looked up, and there are none; give retrieve, or leave it out"
            raise Problem(400, f"unconditional={self.unconditional!r}: {why}", "unconditional")
        given = {name: getattr(self, name) for name in Extras.model_fields if name != "seed"}
        return {name: value for name, value in given.items() if value is not None}

    def seeds(self, n: int) -> list[int]:
        """Return the seeds of `n` samples: of `seed`, as `CM3Leon.generate` has them; else drawn, and small enough to
        be whole numbers to JavaScript too."""
        return [secrets.randbelow(2**32) for _ in range(n)] if self.seed is None else sample_seeds(self.seed, n)


def _pair(value: Any) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise PydanticCustomError("box", "a box is [name, [x1, y1, x2, y2]]")
    return value


Corners = Annotated[tuple[int, int, int, int], Strict(False), AfterValidator(check_place)]  # not strict: JSON has lists
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Thing = Annotated[tuple[Name, Corners], BeforeValidator(_pair), Strict(False)]


class Control(Body):
    """A control image: its kind, and the picture."""

    kind: str = Field(description="canny, segmentation, hed, pose, depth, normal or scribble.")
    image: str = Field(description="A data URL of the picture, drawn at the model's size.")


class Guides(Extras):
    """Fields of ours for a new picture: where things are to be, or a picture to follow."""

    boxes: Annotated[list[Thing], Field(min_length=1, max_length=MOST_PARTS, fail_fast=True)] | None = Field(
        None, description="[[name, [x1, y1, x2, y2]], ...] in 0..255 of the picture's side, all counted in."
    )
    control: Control | None = None


_STILL = "one still picture is drawn; leave it out"
_BEST = "there is one quality, high, and none above it; leave it out"


class Picture(Body):
    """The official fields that both requests for pictures have."""

    REFUSED: ClassVar[Refusals] = {
        "background": {"transparent": "pictures are drawn without transparency; leave it out"},
        "complexity": "pictures are drawn without a plan; leave it out",
        "frame_count": _STILL,
        "frame_duration_ms": _STILL,
        "output_format": dict.fromkeys(("gif", "svg"), "pictures are written as png, webp or jpeg; give one of them"),
        "quality": dict.fromkeys(("xhigh", "max", "hd"), _BEST),
        "style": "there are no styles; say it in the prompt",
        "svg": _STILL,
    }

    prompt: Prompt
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MOST_PICTURES)] | None = None
    size: str | None = Field(None, description="auto, or the one size that there is, as WIDTHxHEIGHT.")
    quality: Literal["auto", "low", "medium", "high", "standard"] | None = Field(
        None, description="There is one, high; what asks for less gets it too."
    )
    background: Literal["auto", "opaque"] | None = None
    output_format: Format | None = Field(None, description="png (default), webp or jpeg.")
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="The quality of webp and jpeg, 100 by default; webp at 100 is exact."
    )
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    partial_rows: bool | None = Field(None, description="In a stream: a partial picture for every finished row. Ours.")
    stream: bool | None = None
    response_format: Literal["b64_json", "url"] | None = Field(None, description="url: a data URL.")
    moderation: Literal["auto", "low"] | None = Field(None, description="Changes nothing.")
    safety_identifier: Annotated[str, Field(max_length=LONGEST_ID)] | None = Field(
        None, description="Returned as it is."
    )
    user: Annotated[str, Field(max_length=LONGEST_ID)] | None = Field(
        None, description="Returned as safety_identifier where there is none."
    )
    complexity: None = None
    frame_count: None = None
    frame_duration_ms: None = None
    svg: None = None
    style: None = None


class ImageGenerate(Picture, Guides):
    """The body of /v1/images/generations."""


class Edit(Picture, Extras):
    """The fields of an edit beside its pictures."""

    REFUSED: ClassVar[Refusals] = {
        **Picture.REFUSED,
        "boxes": "boxes are for a new picture, /v1/images/generations",
        "control": "a control image is for a new picture, /v1/images/generations",
        "input_fidelity": {"low": "outside a mask all comes back as it was; leave it out"},
        "markup": "marks over a picture are not read; give a mask",
    }

    input_fidelity: Literal["high"] | None = Field(
        None, description="With a mask: high, for all outside it comes back as it was."
    )
    markup: None = None
    boxes: None = None
    control: None = None


class Reference(Body):
    """A picture by its URL."""

    REFUSED: ClassVar[Refusals] = {"file_id": "no files are kept here; send image_url, a data URL of the picture"}

    image_url: str
    file_id: None = None


class ImageEdit(Edit):
    """The body of /v1/images/edits as JSON."""

    images: Annotated[list[Reference], Field(min_length=1, max_length=MOST_IMAGES)]
    mask: Reference | None = Field(None, description="A picture of the first one's size: where alpha is 0 is drawn.")

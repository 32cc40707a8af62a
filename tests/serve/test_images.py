"""Pictures over the wire, as the official client asks for them and reads them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import PIL.Image
import pytest
import tiny_chameleon
import tiny_model
from running_server import Running, running

from cm3.document import Document, Gap, Image, Text
from cm3.generate import CM3Leon
from cm3.generate.cm3leon import sample_seeds
from cm3.picture import open_picture
from cm3.serve import answering
from cm3.serve.limits import Settings
from cm3.serve.sent_pictures import encoded
from cm3.tasks.control import canny

PROMPT = "a large red circle at the top left on a grey background"
NOISE = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
"""A picture that no model draws: where something was drawn, it is another one."""


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as one:
        yield one


def pixels(b64: str | None) -> np.ndarray:
    """The pixels of a picture that came."""
    assert b64 is not None
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(b64))))


def png(picture: Any) -> bytes:
    """A file of a picture or an array."""
    saved = io.BytesIO()
    picture = picture if isinstance(picture, PIL.Image.Image) else PIL.Image.fromarray(picture)
    picture.save(saved, "PNG")
    return saved.getvalue()


def again(picture: PIL.Image.Image) -> PIL.Image.Image:
    """The same picture as a server gets it: one that a model drew remembers its codes."""
    return PIL.Image.open(io.BytesIO(png(picture)))


def url(data: bytes) -> str:
    """A file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def mask_of(hole: np.ndarray) -> bytes:
    """A mask that is transparent in a hole."""
    return png(np.dstack([np.zeros((*hole.shape, 3), np.uint8), ~hole * np.uint8(255)]))


def hole_in(high: int, wide: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """A hole of some boxes (x0, y0, x1, y1)."""
    hole = np.zeros((high, wide), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        hole[y0:y1, x0:x1] = True
    return hole


HOLE = hole_in(128, 128, (35, 40, 80, 83), (20, 60, 45, 71))
"""Neither a box nor made of whole cells."""


def test_all_pictures_come_in_order_with_seeds_and_counts(client: Any, model: CM3Leon) -> None:
    made = model.generate(PROMPT, n=2, seed=7)
    answer = client.images.generate(prompt=PROMPT, n=2, model="gpt-image-2", extra_body={"seed": 7})
    for one, picture, seed in zip(answer.data, made.images, sample_seeds(7, 2), strict=True):
        np.testing.assert_array_equal(pixels(one.b64_json), np.asarray(picture))
        assert one.cm3 == {"retrieved": [], "seed": seed, "warnings": []} and one.url is None
    assert (answer.size, answer.output_format, answer.quality, answer.background) == (
        "128x128",
        "png",
        "high",
        "opaque",
    )
    codes = int(np.prod(model.grid))
    assert answer.usage.output_tokens_details.image_tokens == answer.usage.output_tokens == 2 * codes
    assert answer.usage.input_tokens_details.image_tokens == 0 < answer.usage.input_tokens_details.text_tokens
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_a_picture_that_is_sent_back_has_the_codes_that_it_was_drawn_from(client: Any, model: CM3Leon) -> None:
    assert model.codec.image is not None
    codes = model.codec.image.encode([model.generate(PROMPT, seed=7).image])
    sent = client.images.generate(prompt=PROMPT, extra_body={"seed": 7}).data[0].b64_json
    assert (model.codec.image.encode([open_picture(base64.b64decode(sent))]) == codes).all()
    bare = PIL.Image.fromarray(pixels(sent))
    assert (model.codec.image.encode([bare]) != codes).any()  # so it is not the pixels that tell


def test_without_a_seed_one_is_drawn_and_told(client: Any) -> None:
    first, second = (client.images.generate(prompt=PROMPT).data[0] for _ in range(2))
    assert first.cm3["seed"] != second.cm3["seed"]
    again = client.images.generate(prompt=PROMPT, extra_body={"seed": first.cm3["seed"]})
    assert again.data[0].b64_json == first.b64_json


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_a_picture_comes_in_the_format_that_is_asked_for(client: Any, format: Any) -> None:
    ask: dict[str, Any] = {"prompt": PROMPT, "output_format": format, "extra_body": {"seed": 7}}
    answer = client.images.generate(**ask)
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))
    assert picture.format == format.upper() and answer.output_format == format and picture.size == (128, 128)
    by_url = client.images.generate(**ask, response_format="url", size="128x128").data[0]
    assert by_url.url == f"data:image/{format};base64,{answer.data[0].b64_json}" and by_url.b64_json is None


def test_jpeg_takes_fewer_bytes_for_less_quality(client: Any) -> None:
    ask: dict[str, Any] = {"prompt": PROMPT, "output_format": "jpeg", "extra_body": {"seed": 7}}
    sizes = [len(client.images.generate(**ask, output_compression=n).data[0].b64_json) for n in (10, 100)]
    assert sizes[0] < sizes[1]


def test_harmless_fields_are_taken(client: Any) -> None:
    ask: dict[str, Any] = {"moderation": "low", "user": "me", "quality": "low", "background": "opaque", "size": "auto"}
    answer = client.images.generate(prompt=PROMPT, extra_body={"seed": 7}, **ask)
    plain = client.images.generate(prompt=PROMPT, extra_body={"seed": 7, "style": None})
    assert answer.data[0].b64_json == plain.data[0].b64_json
    assert answer.safety_identifier == "me" and plain.safety_identifier is None


@pytest.mark.parametrize("parts", [1, 3])
def test_a_stream_shows_finished_rows_and_then_the_picture(client: Any, parts: int) -> None:
    ask: dict[str, Any] = {"prompt": PROMPT, "extra_body": {"seed": 7}}
    *partial, last = client.images.generate(**ask, stream=True, partial_images=parts)
    assert [event.type for event in partial] == ["image_generation.partial_image"] * parts
    assert [event.partial_image_index for event in partial] == list(range(parts))
    for number, event in enumerate(partial, start=1):
        assert event.cm3["rows"] == -(-8 * number // (parts + 1)) and event.cm3["of"] == 8
        shown, below = pixels(event.b64_json), event.cm3["rows"] * 16
        assert shown.shape == (128, 128, 3) and (shown[below:] == 128).all() and shown[:below].std() > 1
    whole = client.images.generate(**ask)
    assert last.type == "image_generation.completed" and last.b64_json == whole.data[0].b64_json
    assert last.usage.model_dump() == whole.usage.model_dump()
    assert last.cm3 == {"n": 0, **whole.data[0].cm3}
    for event in (*partial, last):
        assert (event.size, event.quality, event.background, event.output_format) == (
            "128x128",
            "high",
            "opaque",
            "png",
        )


@pytest.mark.parametrize("parts", [{}, {"partial_images": 0}])
def test_a_stream_without_partial_pictures_is_one_event(client: Any, parts: dict[str, Any]) -> None:
    (only,) = client.images.generate(prompt=PROMPT, stream=True, **parts)
    assert only.type == "image_generation.completed" and pixels(only.b64_json).shape == (128, 128, 3)


def test_every_row_is_shown_where_it_is_asked_for(client: Any) -> None:
    events = list(client.images.generate(prompt=PROMPT, stream=True, extra_body={"partial_rows": True}))
    assert [event.cm3["rows"] for event in events[:-1]] == list(range(1, 8))


def test_pictures_of_a_stream_come_whole_in_their_order(client: Any) -> None:
    ask: dict[str, Any] = {"prompt": PROMPT, "n": 2, "extra_body": {"seed": 7, "retrieve": 1}}
    events = list(client.images.generate(**ask, stream=True, partial_images=2))
    whole = client.images.generate(**ask)
    done = [event for event in events if event.type == "image_generation.completed"]
    assert [event.cm3 for event in done] == [{"n": i, **one.cm3} for i, one in enumerate(whole.data)]
    assert [event.b64_json for event in done] == [one.b64_json for one in whole.data]
    assert sum(event.usage.output_tokens for event in done) == whole.usage.output_tokens
    assert {event.usage.input_tokens for event in done} == {whole.usage.input_tokens}
    for n in range(2):
        own = [event.partial_image_index for event in events if event.cm3["n"] == n and event not in done]
        assert own == [0, 1]


def test_documents_that_were_read_are_named(client: Any, model: CM3Leon) -> None:
    answer = client.images.generate(prompt=PROMPT, extra_body={"retrieve": 2, "guidance": 3, "temperature": 0.5})
    told = answer.data[0].cm3["retrieved"]
    assert [one["id"] for one in told] == [found.document.id for found in model.retrieve(PROMPT, 2)]
    assert all(one["license"] and one["source"] for one in told)
    assert answer.usage.input_tokens_details.image_tokens == 2 * int(np.prod(model.grid))


def test_guidance_below_0_leads_away_from_the_words_as_the_engine_has_it(client: Any, model: CM3Leon) -> None:
    answer = client.images.generate(prompt=PROMPT, extra_body={"seed": 11, "guidance": -2})
    picture = model.generate(PROMPT, seed=11, guidance=-2.0).image
    np.testing.assert_array_equal(pixels(answer.data[0].b64_json), np.asarray(picture))


def test_a_stream_of_the_likeliest_of_several_is_the_picture_that_comes_at_once(client: Any) -> None:
    """Where nothing is shown before the end, a stream and an answer as a whole are the same."""
    ask: dict[str, Any] = {"prompt": PROMPT, "extra_body": {"seed": 7, "candidates": 3}}
    (only,) = client.images.generate(**ask, stream=True)
    assert only.b64_json == client.images.generate(**ask).data[0].b64_json


def test_settings_change_the_picture(client: Any) -> None:
    asked: list[dict[str, Any]] = [{}, {"guidance": 1}, {"temperature": 0}, {"contrast": "max"}]
    made = [client.images.generate(prompt=PROMPT, extra_body={"seed": 11, **one}).data[0].b64_json for one in asked]
    assert len(set(made)) == len(made)


def test_boxes_and_control_images_guide(client: Any, model: CM3Leon) -> None:
    boxes = [["red circle", [35, 35, 120, 120]]]
    by_box = client.images.generate(prompt=PROMPT, n=2, extra_body={"boxes": boxes, "seed": 3})
    asked = model.ask("boxes", {"caption": PROMPT, "objects": [("red circle", (35, 35, 120, 120))]}, 2, seed=3)
    edges = canny(model.generate(PROMPT, seed=1).image, 128)
    control = {"kind": "canny", "image": url(png(edges))}
    by_edges = client.images.generate(prompt=PROMPT, extra_body={"control": control, "seed": 3})
    followed = model.ask("canny", {"caption": PROMPT, "edge": edges}, seed=3)
    for one, picture in zip([*by_box.data, *by_edges.data], [*asked.images, *followed.images], strict=True):
        np.testing.assert_array_equal(pixels(one.b64_json), np.asarray(picture))
        assert one.cm3["warnings"] == []


def test_a_task_that_the_model_was_not_tuned_for_is_told(client: Any) -> None:
    control = {"kind": "pose", "image": url(png(np.zeros((128, 128, 3), np.uint8)))}
    (one,) = client.images.generate(prompt=PROMPT, extra_body={"control": control}).data
    assert one.cm3["warnings"] == ["this model was not tuned for 'pose': expect little of it"]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": " "}, "prompt", "prompt=' ': is empty; say in words what to draw"),
    ({"prompt": "a\0b"}, "prompt", "has a NUL character"),
    ({"prompt": "x" * 32_001}, "prompt", "at most 32000 characters"),
    ({"prompt": "red " * 2000}, "prompt", "this model's context is 512"),
    ({"prompt": "red " * 2000, "stream": True}, "prompt", "this model's context is 512"),
    ({"prompt": 7}, "prompt", "valid string"),
    ({"n": 0}, "n", "n=0"),
    ({"n": 11}, "n", "n=11"),
    ({"n": "2"}, "n", "valid integer"),
    ({"n": True}, "n", "valid integer"),
    ({"size": "-1x128"}, "size", "size='-1x128': the picture will be 128x128; give that, or auto"),
    ({"size": "1024x1024"}, "size", "the picture will be 128x128; give that, or auto"),
    ({"quality": "hd"}, "quality", "there is one quality, high, and none above it; leave it out"),
    ({"quality": "best"}, "quality", "should be 'auto', 'low', 'medium', 'high' or 'standard'"),
    ({"background": "transparent"}, "background", "pictures are drawn without transparency"),
    ({"output_format": "gif"}, "output_format", "png, webp or jpeg; give one of them"),
    ({"output_format": "bmp"}, "output_format", "should be 'png', 'webp' or 'jpeg'"),
    ({"output_compression": 50}, "output_compression", "png is exact and has no other than 100"),
    ({"output_format": "jpeg", "output_compression": 101}, "output_compression", "less than or equal to 100"),
    ({"style": "vivid"}, "style", "style='vivid': there are no styles; say it in the prompt"),
    ({"complexity": "low"}, "complexity", "pictures are drawn without a plan"),
    ({"frame_count": 3}, "frame_count", "one still picture is drawn"),
    ({"frame_duration_ms": 3}, "frame_duration_ms", "one still picture is drawn"),
    ({"svg": {"model": "a"}}, "svg", "one still picture is drawn"),
    ({"partial_images": 4, "stream": True}, "partial_images", "less than or equal to 3"),
    ({"partial_images": 1}, "partial_images", "give stream=true, or leave it out"),
    ({"partial_rows": True}, "partial_rows", "give stream=true, or leave it out"),
    ({"partial_rows": True, "partial_images": 1, "stream": True}, "partial_images", "give one of them"),
    ({"partial_images": 1, "stream": True, "candidates": 2}, "candidates", "nothing can be shown before the end"),
    ({"stream": True, "response_format": "url"}, "response_format", "a stream sends b64_json"),
    ({"response_format": "file"}, "response_format", "should be 'b64_json' or 'url'"),
    ({"colour": "red"}, "colour", "colour: is no field of this request; leave it out"),
    ({"temperature": -1}, "temperature", "must be at least 0"),
    ({"top_p": 1.5}, "top_p", "must be above 0 and at most 1"),
    ({"guidance": "3"}, "guidance", "valid number"),
    ({"image_guidance": 2}, "image_guidance", "image_guidance=2: is for a picture that is edited as a whole"),
    ({"user": "\ud800"}, "user", "user='\\ud800': has a lone surrogate, which is no character"),
    ({"prompt": "a\udfff"}, "prompt", "has a lone surrogate"),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"seed": 2**63}, "seed", "less than or equal to 9223372036854775807"),
    ({"candidates": 17}, "candidates", "less than or equal to 16"),
    ({"retrieve": 4}, "retrieve", "must be an integer, 0 to 3"),
    ({"unconditional": "kept"}, "unconditional", "unconditional='kept': is about documents that are looked up"),
    ({"unconditional": "kept", "retrieve": 0}, "unconditional", "give retrieve, or leave it out"),
    ({"guidance": -1e7}, "guidance", "a finite number, -1e6 to 1e6"),
    ({"guidance": float("nan")}, "guidance", "a finite number, -1e6 to 1e6"),
    ({"unconditional": "both"}, "unconditional", "should be 'kept' or 'dropped'"),
    ({"contrast": "min"}, "contrast", "should be 'max' or 'kmax'"),
    ({"guidance_scale": 3}, "guidance_scale", "is no field of this request. Did you mean 'guidance'?"),
    ({"control": {"kinds": "canny"}}, "control.kinds", "is no field of this request. Did you mean 'kind'?"),
    ({"boxes": []}, "boxes", "at least 1 item"),
    ({"boxes": [[0, 0, 9, 9]]}, "boxes[0]", "a box is [name, [x1, y1, x2, y2]]"),
    ({"boxes": ["ab"]}, "boxes[0]", "a box is [name, [x1, y1, x2, y2]]"),
    ({"boxes": [["a", [0, 0, 0]]]}, "boxes[0][1][3]", "is missing"),
    ({"boxes": [["a", [0, 0, 0, 1.5]]]}, "boxes[0][1][3]", "valid integer"),
    ({"boxes": [["a", [9, 0, 0, 0]]]}, "boxes[0][1]", "is inverted"),
    ({"boxes": [["a", [0, 0, 256, 0]]]}, "boxes[0][1]", "must be in 0..255"),
    ({"boxes": [[" ", [0, 0, 9, 9]]]}, "boxes[0][0]", "at least 1 character"),
    ({"boxes": [["a", [0, 0, 9, 9]]], "control": {"kind": "canny", "image": ""}}, "boxes", "no task takes both"),
    ({"control": {"kind": "canny"}}, "control.image", "is missing"),
    ({"control": {"kind": "edges", "image": ""}}, "control.kind", "is no control image; known: canny"),
    ({"control": {"kind": "canny", "image": "x"}}, "control.image", "is no URL of a picture"),
    (
        {"control": {"kind": "canny", "image": url(png(NOISE[:9, :9]))}},
        "control.image",
        "drawn at the model's 128 x 128",
    ),
]


@pytest.mark.parametrize(("fields", "param", "said"), REFUSED, ids=lambda one: str(one)[:40])
def test_a_field_that_is_refused_is_named(server: Running, fields: dict[str, Any], param: str, said: str) -> None:
    answer = server.ask("/v1/images/generations", {"prompt": PROMPT, **fields})
    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "invalid_request_error", param)
    assert said in answer.error["message"] and "\n" not in answer.error["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"prompt": "a",}', "the body is no JSON"),
        (b'\xff{"prompt": "a"}', "the body is no JSON; send one JSON object"),
        (b'{"prompt":' + b"[" * 100_000, "the body is no JSON; send one JSON object"),
        (b"[1]", "the body is [1]; send one JSON object"),
    ],
)
def test_a_body_that_is_no_object_of_json_is_told(server: Running, body: bytes, said: str) -> None:
    answer = server.ask("/v1/images/generations", body, headers={"content-type": "application/json"})
    assert answer.status == 400 and said in answer.error["message"] and "\n" not in answer.error["message"]


def test_the_client_raises_what_was_refused(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.images.generate(prompt=PROMPT, style="vivid", stream=True)
    assert error.value.param == "style" and error.value.status_code == 400
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.edit(prompt=PROMPT, image=png(NOISE), model="parrot")
    assert (missing.value.param, missing.value.code) == ("model", "model_not_found")


FORMS = {
    "RGB": NOISE,
    "wide": np.concatenate([NOISE, NOISE[:, ::-1]], 1)[:100, :220],
    "high": np.concatenate([NOISE, NOISE[:, ::-1]], 0)[:230, :90],
    "grey": NOISE[:, :, 0],
    "RGBA": np.dstack([NOISE, NOISE[:, ::-1, 0] & 128]),
}


@pytest.mark.parametrize("format", ["png", "webp"])
@pytest.mark.parametrize("form", FORMS)
def test_all_outside_the_mask_comes_back_byte_for_byte(client: Any, form: str, format: Any) -> None:
    picture = FORMS[form]
    high, wide = picture.shape[:2]
    hole = hole_in(high, wide, (wide - 70, 20, wide - 31, 65), (wide - 80, 40, wide - 60, 51))
    answer = client.images.edit(
        prompt=PROMPT, image=("a.png", png(picture)), mask=("m.png", mask_of(hole)), output_format=format,
        input_fidelity="high", extra_body={"candidates": 1},
    )  # fmt: skip
    made = pixels(answer.data[0].b64_json)
    base = picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(made[~hole], base[~hole])
    assert (made[hole] != base[hole]).any(axis=1).mean() > 0.5, "and inside it is another picture"
    assert answer.size == f"{wide}x{high}" and made.shape == base.shape
    assert answer.background == ("transparent" if form == "RGBA" else "opaque")


def test_pictures_of_an_edit_are_those_of_the_library(client: Any, model: CM3Leon) -> None:
    box = (35, 40, 80, 83)
    drawn = again(model.generate(PROMPT, seed=1).image)
    made = model.generate(Document((Text(PROMPT), Image(drawn, box))), n=2, seed=5, candidates=2)
    hole = hole_in(128, 128, box)
    answer = client.images.edit(
        prompt=PROMPT, image=[("a.png", png(drawn))], mask=mask_of(hole), n=2, extra_body={"seed": 5, "candidates": 2}
    )
    for one, picture in zip(answer.data, made.images, strict=True):
        np.testing.assert_array_equal(pixels(one.b64_json)[hole], np.asarray(picture)[hole])
    assert answer.usage.input_tokens_details.image_tokens > 0


def test_json_says_the_same_as_a_form(client: Any, server: Running) -> None:
    whole = client.images.edit(
        prompt=PROMPT, image=png(NOISE), mask=mask_of(HOLE), extra_body={"seed": 5, "candidates": 2}
    )
    body = {
        "prompt": PROMPT,
        "images": [{"image_url": url(png(NOISE))}],
        "mask": {"image_url": url(mask_of(HOLE))},
        "seed": 5,
        "candidates": 2,
    }
    answer = server.ask("/v1/images/edits", body)
    assert answer.json["data"] == [{"b64_json": whole.data[0].b64_json, "cm3": whole.data[0].cm3}]
    assert answer.json["usage"] == whole.usage.model_dump()


def test_a_streamed_edit_shows_the_rest_as_it_was(client: Any) -> None:
    ask: dict[str, Any] = {"prompt": PROMPT, "image": png(NOISE), "mask": mask_of(HOLE)}
    *partial, last = client.images.edit(**ask, stream=True, partial_images=3, extra_body={"seed": 5})
    assert last.type == "image_edit.completed"
    assert [event.type for event in partial] == ["image_edit.partial_image"] * len(partial) and len(partial) == 3
    for number, event in enumerate(partial):
        shown, below = pixels(event.b64_json), event.cm3["rows"] * 16
        assert event.partial_image_index == number and 40 < below < 83
        np.testing.assert_array_equal(shown[~HOLE], NOISE[~HOLE])
        np.testing.assert_array_equal(shown[below:], NOISE[below:])
        assert (shown[:below] != NOISE[:below]).any()
    once = client.images.edit(**ask, extra_body={"seed": 5, "candidates": 1})
    assert last.b64_json == once.data[0].b64_json
    assert last.usage.model_dump() == once.usage.model_dump()


def test_without_a_mask_the_model_edits_by_its_own_task(client: Any, model: CM3Leon) -> None:
    drawn = again(model.generate(PROMPT, seed=1).image)
    edited = model.edit(drawn, "paint the circle green", seed=5, image_guidance=2.0)
    ask: dict[str, Any] = {"prompt": "paint the circle green", "extra_body": {"seed": 5, "image_guidance": 2}}
    answer = client.images.edit(image=png(drawn), **ask)
    np.testing.assert_array_equal(pixels(answer.data[0].b64_json), np.asarray(edited.image))
    larger = drawn.resize((200, 200))
    *partial, last = client.images.edit(image=png(larger), stream=True, partial_images=1, **ask)
    (half,) = (pixels(event.b64_json) for event in partial)
    assert pixels(last.b64_json).shape == (200, 200, 3) and last.size == "200x200"
    np.testing.assert_array_equal(half[100:], np.asarray(larger)[100:])


WRONG_EDITS: list[tuple[dict[str, Any], str, str]] = [
    ({"image": b"GIF"}, "image", "not a picture"),
    ({"image": [png(NOISE), b"GIF"]}, "image[1]", "not a picture"),
    ({"image": [png(NOISE), png(NOISE)]}, "image[1]", "this model edits one picture at a time; send one"),
    ({"image": png(NOISE[:, :90])}, "image", "the picture is 90x128; without a mask it is drawn anew as a whole"),
    ({"image": png(NOISE), "mask": mask_of(HOLE[:, :90])}, "mask", "the mask is 90x128 and the picture 128x128"),
    ({"image": png(NOISE), "mask": mask_of(HOLE & False)}, "mask", "is nowhere wholly transparent"),
    ({"image": png(NOISE), "mask": png(NOISE)}, "mask", "has no transparency"),
    ({"image": png(NOISE[:, :90]), "mask": mask_of(HOLE[:, :90] | True)}, "mask", "the largest square in the picture"),
    ({"image": png(NOISE), "mask": b""}, "mask", "is empty"),
    ({"image": png(NOISE), "markup": png(NOISE)}, "markup", "marks over a picture are not read; give a mask"),
    ({"image": png(NOISE), "input_fidelity": "low"}, "input_fidelity", "outside a mask all comes back as it was"),
    ({"image": png(NOISE), "input_fidelity": "high"}, "input_fidelity", "without one set image_guidance"),
    (
        {"image": png(NOISE), "mask": mask_of(HOLE), "extra_body": {"image_guidance": 2}},
        "image_guidance",
        "edited as a",
    ),
    ({"image": png(NOISE), "size": "256x256"}, "size", "the picture will be 128x128"),
    ({"image": png(NOISE), "n": 99}, "n", "less than or equal to 10"),
    ({"image": png(NOISE), "svg": {"model": "a"}}, "svg", "one still picture is drawn"),
    ({"image": png(NOISE), "extra_body": {"boxes": [["a", [0, 0, 9, 9]]]}}, "boxes", "are for a new picture"),
    ({"image": png(NOISE), "extra_body": {"control": {"kind": "canny"}}}, "control", "is for a new picture"),
    ({"image": png(NOISE), "extra_body": {"guidance": "much"}}, "guidance", "valid number"),
    ({"image": png(NOISE), "extra_body": {"colour": "red"}}, "colour", "is no field"),
    (
        {"image": png(NOISE), "extra_body": {"image": "a text"}},
        "image",
        "is to be sent as a file (curl: -F image=@FILE)",
    ),
]


@pytest.mark.parametrize(("fields", "param", "said"), WRONG_EDITS, ids=[f"{i}" for i in range(len(WRONG_EDITS))])
def test_an_edit_that_is_refused_names_the_field(client: Any, fields: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.images.edit(prompt=PROMPT, **fields)
    assert error.value.param == param and said in error.value.body["message"]


ONE = [{"image_url": url(png(NOISE))}]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({}, "images", "is missing"),
        ({"images": []}, "images", "at least 1 item"),
        ({"images": ONE * 17}, "images", "at most 16 items"),
        ({"images": [*ONE, {"image_url": "x"}]}, "images[1].image_url", "is no URL of a picture"),
        ({"images": [{"image_url": "data:image/png;base64,QUJ"}]}, "images[0].image_url", "is no base64"),
        ({"images": [{"image_url": "https://example.org/a.png"}]}, "images[0].image_url", "no pictures from the web"),
        ({"images": [{"file_id": "file-1"}]}, "images[0].image_url", "is missing"),
        ({"images": [{**ONE[0], "file_id": "file-1"}]}, "images[0].file_id", "no files are kept here"),
        ({"images": ONE * 2}, "images[1].image_url", "this model edits one picture at a time"),
        ({"images": ONE, "mask": "x"}, "mask", "should be an object"),
        ({"images": ONE, "mask": ONE[0]}, "mask.image_url", "has no transparency"),
        ({"images": ONE, "n": "2"}, "n", "valid integer"),
        ({"images": ONE, "image": "x"}, "image", "is no field of this request"),
    ],
)
def test_an_edit_in_json_that_is_refused_names_the_field(
    server: Running, fields: dict[str, Any], param: str, said: str
) -> None:
    answer = server.ask("/v1/images/edits", {"prompt": PROMPT, **fields})
    assert (answer.status, answer.error["param"]) == (400, param) and said in answer.error["message"]


def part(name: str, value: bytes, file: bool = False) -> bytes:
    """A part of a form."""
    tail = b'; filename="../../a"' if file else b""
    return (
        b'--b\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + tail + b"\r\n\r\n" + value + b"\r\n"
    )


FORM = "multipart/form-data; boundary=b"
WORDS, FILE = part("prompt", PROMPT.encode()), part("image", png(NOISE), True)


@pytest.mark.parametrize(
    ("kind", "body", "status", "param", "said"),
    [
        ("text/plain", b"{}", 415, None, "send multipart/form-data, or application/json"),
        ("", b"{}", 415, None, "send multipart/form-data, or application/json"),
        ("application/json", b"{", 400, None, "the body is no JSON"),
        ("application/json", b"[" * 100_000, 400, None, "the body is no JSON"),
        ("application/json", b"[]", 400, None, ""),
        ("multipart/form-data", WORDS, 400, None, "the multipart body: Missing boundary"),
        (FORM, b"nothing of the kind", 400, None, "the multipart body: "),
        (FORM, WORDS + b"--b--\r\n", 400, "image", "image: is missing; send the picture as a file"),
        (FORM, FILE + b"--b--\r\n", 400, "prompt", "prompt: is missing"),
        (FORM, WORDS * 2 + FILE + b"--b--\r\n", 400, "prompt", "prompt: is given twice; give it once"),
        (FORM, WORDS + FILE + part("prompt[0]", b"a") + b"--b--\r\n", 400, "prompt[0]", "is no field of this request"),
        (FORM, WORDS + FILE + part("svg[model]", b"a") + b"--b--\r\n", 400, "svg", "one still picture is drawn"),
        (FORM, WORDS + FILE + part("", b"a") + b"--b--\r\n", 400, None, "'': is no field of this request"),
        (FORM, WORDS + part("images", b"a", True) + b"--b--\r\n", 400, "images", "is no field of this request"),
        (FORM, WORDS + FILE + part("mask", b"a", True) * 2 + b"--b--\r\n", 400, "mask", "mask: is given twice"),
        (FORM, WORDS + FILE + part("seed", b"1", True) + b"--b--\r\n", 400, "seed", "seed: is no file"),
        (FORM, WORDS + FILE * 19 + b"--b--\r\n", 400, None, "the multipart body: Too many files"),
        (FORM, WORDS + FILE + part("a", b"") * 64 + b"--b--\r\n", 400, None, "the multipart body: Too many fields"),
    ],
    ids=lambda one: str(one)[:20],
)
def test_bodies_that_are_none(
    server: Running, kind: str, body: bytes, status: int, param: str | None, said: str
) -> None:
    answer = server.ask("/v1/images/edits", body, headers={"content-type": kind})
    assert (answer.status, answer.error["param"]) == (status, param) and said in answer.error["message"]


def test_a_private_address_is_never_asked_even_where_the_web_is(model: CM3Leon) -> None:
    with running(model, Settings(fetch=True)) as server:
        answer = server.ask("/v1/images/edits", {"prompt": PROMPT, "images": [{"image_url": f"{server.url}/health"}]})
    assert (answer.status, answer.error["param"]) == (400, "images[0].image_url")
    assert "its address is not one of the public internet" in answer.error["message"]


def test_a_model_that_was_not_tuned_to_edit_fills_holes() -> None:
    picture, hole = NOISE[:32, :32], hole_in(32, 32, (9, 9, 20, 20))
    with running(CM3Leon(tiny_model.bundle())) as server:
        body = {"prompt": "a cat", "images": [{"image_url": url(png(picture))}]}
        refused = server.ask("/v1/images/edits", body)
        made = server.ask("/v1/images/edits", {**body, "mask": {"image_url": url(mask_of(hole))}})
    assert (refused.status, refused.error["param"]) == (400, "mask")
    assert refused.error["message"] == "mask: this model was not tuned to edit without one; give a mask"
    np.testing.assert_array_equal(pixels(made.json["data"][0]["b64_json"])[~hole], picture[~hole])


def test_a_model_of_chameleons_kind_reads_several_pictures() -> None:
    model = CM3Leon(tiny_chameleon.bundle())
    pictures = [NOISE[:32, :32], NOISE[32:64, :32]]
    images = [{"image_url": url(png(one))} for one in pictures]
    parts = [*(Image(PIL.Image.fromarray(one)) for one in pictures), Text("a cat"), Gap("image")]
    made = model.generate(Document(tuple(parts)), seed=5)
    with running(model) as server:
        answer = server.ask("/v1/images/edits", {"prompt": "a cat", "images": images, "seed": 5})
        mask = {"image_url": url(mask_of(hole_in(32, 32, (0, 0, 9, 9))))}
        refused = server.ask("/v1/images/edits", {"prompt": "a cat", "images": images[:1], "mask": mask})
    np.testing.assert_array_equal(pixels(answer.json["data"][0]["b64_json"]), np.asarray(made.image))
    assert answer.json["usage"]["input_tokens_details"]["image_tokens"] == 2 * 16
    assert (refused.status, refused.error["param"]) == (400, "mask.image_url")
    assert "this model fills no holes; leave the mask out" in refused.error["message"]


def test_the_description_has_both_bodies_of_an_edit(server: Running) -> None:
    page = server.ask("/openapi.json").json
    edit = page["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    assert set(edit["multipart/form-data"]["schema"]["required"]) == {"prompt", "image"}
    assert set(edit["application/json"]["schema"]["required"]) == {"prompt", "images"}
    assert "$defs" not in json.dumps(edit)
    generate = page["components"]["schemas"]["ImageGenerate"]
    assert generate["required"] == ["prompt"] and generate["additionalProperties"] is False


def test_others_come_between_the_pictures_of_one_request(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of large pictures take their time, and what others wait for need not wait for all of them."""
    order: list[str] = []

    def seen(*args: Any) -> bytes:
        if not order:  # in the desk's thread: this waits behind what is there now
            server.service._desk.submit(order.append, "another's")
        order.append("picture")
        return encoded(*args)

    monkeypatch.setattr(answering, "encoded", seen)
    assert server.ask("/v1/images/generations", {"prompt": PROMPT, "n": 3, "candidates": 1}).status == 200
    assert order == ["picture", "another's", "picture", "picture"]

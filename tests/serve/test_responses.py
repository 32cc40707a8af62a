"""/v1/responses with OpenAI's own client: items, the tool that draws, the official events, and what is refused."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import PIL.Image
import pytest
import tiny_chameleon
from running_server import Running, running

import cm3
from cm3.generate import CM3Leon

PROMPT = "a large red circle at the top left on a grey background"
ADDED = "add a large blue square at the bottom right"
TOOL = {"type": "image_generation"}


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def drawn(model: CM3Leon) -> PIL.Image.Image:
    """A picture as a client has it: one that was just decoded still remembers its codes."""
    return picture_of(coded(model.generate(PROMPT, temperature=0.0).image))


def coded(picture: PIL.Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def picture_of(data: str) -> PIL.Image.Image:
    return cm3.Image(data=base64.b64decode(data)).pixels


def user(*parts: str | PIL.Image.Image) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [
            {"type": "input_text", "text": part}
            if isinstance(part, str)
            else {"type": "input_image", "detail": "auto", "image_url": f"data:image/png;base64,{coded(part)}"}
            for part in parts
        ],
    }


def pixels(picture: PIL.Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), int)


def alike(a: PIL.Image.Image, b: PIL.Image.Image) -> bool:
    """Whether two pictures show the same, in levels of 255: a code may be another by rounding."""
    return a.size == b.size and float(np.abs(pixels(a) - pixels(b)).mean()) < 5


def ask(client: openai.OpenAI, input: Any, extra: dict[str, Any] | None = None, **options: Any) -> Any:
    """Ask greedily; `extra` are fields of ours."""
    body = {"seed": 1, "candidates": 1, **(extra or {})}
    return client.responses.create(model="scenes", input=input, temperature=0.0, extra_body=body, **options)


def test_words_and_pictures_are_answered_with_words(
    client: openai.OpenAI, model: CM3Leon, drawn: PIL.Image.Image
) -> None:
    made = ask(client, "a large red circle on a")
    assert (
        made.output_text
        == model.generate(["a large red circle on a", cm3.Gap()], temperature=0.0).filled[0][0].text.strip()
    )
    (item,) = made.output
    assert made.object == "response" and made.status == "completed" and item.status == "completed"
    assert item.type == "message" and item.role == "assistant" and item.cm3["seed"] == 1
    question = "what colour is the circle?"
    assert ask(client, [user(drawn, question)]).output_text == model.answer(drawn, question, temperature=0.0).text
    described = ask(client, [user(drawn)], tools=[TOOL], tool_choice="none")
    assert described.output_text == model.describe(drawn, temperature=0.0).text
    usage = described.usage
    assert usage.input_tokens_details.image_tokens == 64 and usage.output_tokens_details.image_tokens == 0
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


def test_a_text_that_is_cut_is_incomplete(client: openai.OpenAI, drawn: PIL.Image.Image) -> None:
    made = ask(client, [user(drawn)], max_output_tokens=2)
    assert made.status == "incomplete" and made.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("choice", ["auto", "required", TOOL])
def test_the_tool_draws(client: openai.OpenAI, drawn: PIL.Image.Image, choice: Any) -> None:
    tool = {**TOOL, "size": "128x128", "quality": "high", "background": "opaque", "action": "generate"}
    made = ask(client, PROMPT, tools=[tool], tool_choice=choice)
    (call,) = made.output
    assert call.type == "image_generation_call" and call.status == "completed"
    assert alike(picture_of(call.result), drawn)
    assert (call.action, call.size, call.output_format, call.background) == ("generate", "128x128", "png", "opaque")
    assert made.usage.output_tokens_details.image_tokens == 64


def test_a_conversation_goes_on_with_the_items_of_its_answers(
    client: openai.OpenAI, model: CM3Leon, drawn: PIL.Image.Image
) -> None:
    """Drawn, edited, and asked about: what came back is sent again as it is."""
    said: list[Any] = [user(PROMPT)]
    said += [item.to_dict() for item in ask(client, said, tools=[TOOL]).output]
    said.append(user(ADDED))
    edited = ask(client, said, tools=[TOOL]).output
    assert edited[0].action == "edit"
    wanted = model.edit(drawn, ADDED, temperature=0.0).image
    assert alike(picture_of(edited[0].result), wanted) and not alike(wanted, drawn)
    said += [edited[0].to_dict(), user("how many objects are there?")]
    asked = ask(client, said)
    assert asked.output_text == "two"
    said += [asked.output[0].to_dict(), user("where is it?")]
    assert ask(client, said).output_text


def test_a_mask_is_kept_to_the_pixel(client: openai.OpenAI, drawn: PIL.Image.Image) -> None:
    """What the mask covers comes back as it was sent."""
    mask = PIL.Image.new("RGBA", drawn.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (70, 5, 120, 60))
    tool = {**TOOL, "action": "edit", "input_image_mask": {"image_url": f"data:image/png;base64,{coded(mask)}"}}
    words = "a red circle and a blue star at the top right on a grey background"
    (call,) = ask(client, [user(drawn, words)], tools=[tool]).output
    made, was, hole = pixels(picture_of(call.result)), pixels(drawn), np.asarray(mask)[..., 3] == 0
    assert (made[~hole] == was[~hole]).all() and (made[hole] != was[hole]).any()


def test_the_events_of_a_picture(client: openai.OpenAI, drawn: PIL.Image.Image) -> None:
    tool = {**TOOL, "partial_images": 2}
    events = list(ask(client, PROMPT, tools=[tool], stream=True))
    call = "response.image_generation_call."
    assert [event.type for event in events] == [
        "response.created", "response.in_progress", "response.output_item.added",
        f"{call}in_progress", f"{call}generating", f"{call}partial_image", f"{call}partial_image", f"{call}completed",
        "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    partial = [event for event in events if event.type.endswith("partial_image")]
    assert [event.partial_image_index for event in partial] == [0, 1]
    assert {event.item_id for event in events[3:8]} == {events[2].item.id} == {events[-2].item.id}
    assert all(picture_of(event.partial_image_b64).size == drawn.size for event in partial)
    assert (pixels(picture_of(partial[0].partial_image_b64))[-20:] == 128).all(), "not drawn yet"
    assert alike(picture_of(events[-1].response.output[0].result), drawn)
    assert events[0].response.status == "in_progress" and events[0].response.output == []


def test_the_events_of_a_text(client: openai.OpenAI, drawn: PIL.Image.Image) -> None:
    events = list(ask(client, [user(drawn)], stream=True))
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[4:-4] == ["response.output_text.delta"] * len(deltas) and len(deltas) > 3
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    whole = ask(client, [user(drawn)])
    assert "".join(deltas) == events[-4].text == events[-1].response.output[0].content[0].text == whole.output_text
    assert events[-1].response.usage == whole.usage
    with client.responses.stream(
        model="scenes", input=[user(drawn)], temperature=0.0, extra_body={"candidates": 1}
    ) as stream:
        assert stream.get_final_response().output_text == whole.output_text


def test_a_failure_in_the_middle_is_an_event(
    client: openai.OpenAI, model: CM3Leon, drawn: PIL.Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*of: object) -> None:
        raise RuntimeError("a secret of the inside")

    stream = ask(client, [user(drawn)], stream=True)
    assert next(iter(stream)).type == "response.created"
    monkeypatch.setattr(model, "finish", fail)
    with pytest.raises(openai.APIError, match="the server failed at this request"):
        list(stream)


def mask_of(size: tuple[int, int]) -> dict[str, Any]:
    return {"image_url": f"data:image/png;base64,{coded(PIL.Image.new('RGBA', size))}"}


STAR = [user("a star")]
SHOWN = [user(PIL.Image.new("RGB", (128, 128)), "paint it")]


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"input": []}, "input", "at least 1 item"),
        ({"input": " "}, "input[0].content", "is empty"),
        ({"input": [{"role": "user"}]}, "input[0]", "an item is a message with role and content"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0]", "or an image_generation_call with result"),
        ({"input": [{"type": "image_generation_call", "id": "a"}]}, "input[0].result", "keeps no answers"),
        ({"input": [{"type": "image_generation_call", "result": "?"}, *STAR]}, "input[0].result", "is no base64"),
        ({"input": [{"role": "developer", "content": "a"}]}, "input[0].role", "never read system messages"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type", "parts are"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "a"}]}]},
            "input[0].content[0].file_id",
            "keeps no files",
        ),
        ({"input": "star " * 5000}, "input", "context"),
        ({"input": [{"type": "image_generation_call", "result": "a"}] * 17}, "input", "has 17 pictures"),
        ({"metadata": {"a": "\ud800"}}, "metadata", "lone surrogate"),
        ({"metadata": {"a": 1}}, "metadata.a", "valid string"),
        ({"parrot": 1}, "parrot", "is no field of this request"),
        ({"instructions": "rhyme"}, "instructions", "never read system messages"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "keeps no answers and no conversations"),
        ({"conversation": "conv_1"}, "conversation", "keeps no answers and no conversations"),
        ({"background": True}, "background", "nothing is made in the background"),
        ({"truncation": "auto"}, "truncation", "refused and never cut"),
        ({"text": {"format": {"type": "json_object"}}}, "text", "plain text"),
        ({"include": ["message.output_text.logprobs"]}, "include", "nothing more can be told"),
        ({"tools": [{"type": "function", "name": "f"}]}, "tools[0].type", "'image_generation'"),
        ({"tools": [TOOL, TOOL]}, "tools", "at most 1 item"),
        ({"tool_choice": "required"}, "tool_choice", "there is no tool"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice", "'none', 'auto' or 'required'"),
        ({"tools": [{**TOOL, "size": "1024x1024"}]}, "tools[0].size", "the picture will be 128x128"),
        ({"tools": [{**TOOL, "output_format": "svg"}]}, "tools[0].output_format", "png, webp or jpeg"),
        ({"tools": [{**TOOL, "background": "transparent"}]}, "tools[0].background", "without transparency"),
        ({"tools": [{**TOOL, "quality": "max"}]}, "tools[0].quality", "there is one quality"),
        ({"tools": [{**TOOL, "partial_images": 4}]}, "tools[0].partial_images", "less than or equal to 3"),
        ({"tools": [{**TOOL, "partial_images": 1}]}, "tools[0].partial_images", "come in a stream"),
        ({"tools": [{**TOOL, "output_compression": 9}]}, "tools[0].output_compression", "png is exact"),
        ({"tools": [{**TOOL, "action": "edit"}]}, "tools[0].action", "there is no picture to edit"),
        ({"tools": [{**TOOL, "action": "generate"}], "input": SHOWN}, "tools[0].action", "and it is edited"),
        ({"tools": [{**TOOL, "parrot": 1}]}, "tools[0].parrot", "is no field"),
        (
            {"tools": [{**TOOL, "input_image_mask": mask_of((9, 9))}]},
            "tools[0].input_image_mask",
            "there is no picture that is edited",
        ),
        (
            {"tools": [{**TOOL, "input_image_mask": mask_of((9, 9))}], "input": SHOWN},
            "tools[0].input_image_mask.image_url",
            "give a mask of the picture's size",
        ),
    ],
)
def test_what_is_refused_names_its_field(server: Running, change: dict[str, Any], param: str, message: str) -> None:
    answer = server.ask("/v1/responses", {"input": "a star", **change})
    assert answer.status == 400, answer.data[:300]
    assert answer.error["param"] == param and message in answer.error["message"]
    assert "\n" not in answer.error["message"] and answer.error["type"] == "invalid_request_error"


def test_another_model_of_the_tool_is_not_found(server: Running) -> None:
    body = {"input": "a star", "tools": [{**TOOL, "model": "parrot"}]}
    assert server.ask("/v1/responses", body).status == 404


def test_harmless_fields_change_nothing(client: openai.OpenAI, drawn: PIL.Image.Image) -> None:
    said = ask(
        client, [user(drawn)], user="a", metadata={"a": "b"}, store=True, safety_identifier="c", truncation="disabled",
        parallel_tool_calls=False, reasoning={"effort": "low"}, text={"format": {"type": "text"}}, background=False,
        include=["reasoning.encrypted_content"], service_tier="auto", instructions="", tool_choice="auto", tools=[],
    )  # fmt: skip
    assert said.output_text == ask(client, [user(drawn)]).output_text
    assert said.metadata == {"a": "b"} and said.store is False, "nothing is kept"


@pytest.fixture(scope="module")
def other() -> Iterator[tuple[CM3Leon, openai.OpenAI]]:
    """A model of Chameleon's shape, with random weights, that often begins a picture."""
    bundle = tiny_chameleon.bundle("anole")
    assert bundle.decoder.output is not None
    bundle.decoder.output.weight.data[bundle.vocab.brk] *= 8
    model = CM3Leon(bundle)
    with running(model) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield model, client


def test_a_model_that_writes_both_decides(other: tuple[CM3Leon, openai.OpenAI], drawn: PIL.Image.Image) -> None:
    model, client = other
    prompt = ["a red circle", drawn, " and", cm3.Gap("interleaved")]
    made = (model.generate(prompt, seed=seed, pictures=1, max_tokens=8).filled[0] for seed in range(1000))
    seed, wanted = next(
        (seed, parts) for seed, parts in enumerate(made) if {type(one) for one in parts} == {cm3.Text, cm3.Image}
    )
    options: Any = {
        "model": "tiny", "input": [user("a red circle", drawn, " and")], "tools": [TOOL], "max_output_tokens": 8,
        "max_tool_calls": 1, "extra_body": {"seed": seed},
    }  # fmt: skip
    whole = client.responses.create(**options)
    events = list(client.responses.create(**options, stream=True))
    for output in (whole.output, events[-1].response.output):
        for item, part in zip(output, wanted, strict=True):
            if isinstance(part, cm3.Text):
                assert item.content[0].text == part.text
            else:
                assert (pixels(picture_of(item.result)) == pixels(part.pixels)).all()
    added = [event.item.id for event in events if event.type == "response.output_item.added"]
    assert added == [item.id for item in events[-1].response.output]
    answer = client.responses.create(**{**options, "tools": []})
    assert [item.type for item in answer.output] == ["message"]

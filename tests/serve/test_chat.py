"""/v1/chat/completions with OpenAI's own client: what is asked and answered, streams, and what is refused."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import PIL.Image
import pytest
import tiny_chameleon
from running_server import Running, running

import cm3
from cm3.engine.engine import Engine
from cm3.generate import CM3Leon
from cm3.sequence.turns import TURNS
from cm3.vocab import Vocab

PROMPT = "a large red circle at the top left on a grey background"
ADDED = "add a large blue square at the bottom right"
ANSWERED = "ignore:Pydantic serializer warnings"
"""The client's own words about an answer whose content is a list."""


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def drawn(model: CM3Leon) -> PIL.Image.Image:
    """A picture as a client has it: one that was just decoded still remembers its codes."""
    return picture_of(shown(model.generate(PROMPT, temperature=0.0).image))


def url(picture: PIL.Image.Image, format: str = "PNG") -> str:
    file = io.BytesIO()
    picture.save(file, format)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def picture_of(part: Any) -> PIL.Image.Image:
    """The picture of a part of an answer."""
    assert part["type"] == "image_url"
    data = part["image_url"]["url"].partition(";base64,")[2]
    return cm3.Image(data=base64.b64decode(data)).pixels


def shown(picture: PIL.Image.Image) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(picture)}}


def user(*parts: str | PIL.Image.Image) -> dict[str, Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else shown(part) for part in parts]
    return {"role": "user", "content": content}


def same(a: PIL.Image.Image, b: PIL.Image.Image) -> bool:
    """Whether two pictures show the same, in levels of 255: a code may be another by rounding."""
    one, other = (np.asarray(picture.convert("RGB"), float) for picture in (a, b))
    return a.size == b.size and float(np.abs(one - other).mean()) < 5


def ask(client: openai.OpenAI, *messages: Any, extra: dict[str, Any] | None = None, **options: Any) -> Any:
    """Ask with a fixed seed; `extra` are fields of ours."""
    body = {"seed": 1, "candidates": 1, "temperature": 0.0, **(extra or {})}
    return client.chat.completions.create(model="scenes", messages=list(messages), extra_body=body, **options)


def test_a_picture_is_described_and_asked_about(client: openai.OpenAI, model: CM3Leon, drawn: PIL.Image.Image) -> None:
    made = ask(client, user(drawn), temperature=0)
    (choice,) = made.choices
    assert choice.message.content == model.describe(drawn, temperature=0.0).text and choice.finish_reason == "stop"
    assert made.object == "chat.completion" and made.model == "scenes" and choice.message.role == "assistant"
    assert choice.cm3 == {"retrieved": [], "seed": 1, "warnings": []}
    question = "what colour is the circle?"
    for message in (user(drawn, question), user(question, drawn)):
        said = ask(client, message).choices[0].message.content
        assert said == model.answer(drawn, question, temperature=0.0).text == "red"


def test_tokens_are_counted_by_modality(client: openai.OpenAI, drawn: PIL.Image.Image) -> None:
    usage = ask(client, user(drawn)).usage
    codes = 64
    assert usage.prompt_tokens_details.image_tokens == codes
    assert usage.prompt_tokens == codes + usage.prompt_tokens_details.text_tokens
    assert usage.completion_tokens == usage.completion_tokens_details.text_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    usage = ask(client, user(PROMPT), extra={"modalities": ["image"]}).usage
    assert usage.completion_tokens_details.image_tokens == codes and usage.prompt_tokens_details.image_tokens == 0


def test_a_turn_reads_no_more_than_is_new(client: openai.OpenAI, drawn: PIL.Image.Image) -> None:
    """In whole blocks of 64 tokens, of which this prompt has one."""
    first, second = (ask(client, user(drawn, "is this a question of nobody else?"), n=2) for _ in range(2))
    assert first.usage.prompt_tokens_details.cached_tokens == 0 and 64 < second.usage.prompt_tokens < 128
    assert second.usage.prompt_tokens_details.cached_tokens == 64
    assert [c.message.content for c in first.choices] == [c.message.content for c in second.choices]


def test_words_go_on_and_gaps_are_filled(client: openai.OpenAI, model: CM3Leon) -> None:
    words = "a large red circle on a"
    settings: Any = {"candidates": 1, "temperature": 0.0}
    for content in (words, [{"type": "text", "text": words}]):
        said = ask(client, {"role": "user", "content": content}).choices[0].message.content
        assert said == model.generate([words, cm3.Gap()], **settings).filled[0][0].text.strip()
    said = ask(client, user("a large <gap> circle on a grey background")).choices[0].message.content
    filled = model.generate(["a large ", cm3.Gap(), " circle on a grey background"], **settings)
    assert said == filled.text


def test_a_text_that_is_cut_says_so(client: openai.OpenAI, drawn: PIL.Image.Image) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        (choice,) = ask(client, user(drawn), **{name: 2}).choices
        assert choice.finish_reason == "length"


def test_words_are_drawn(client: openai.OpenAI, model: CM3Leon) -> None:
    extra = {"modalities": ["image"], "temperature": None, "guidance": 3.0}
    made = ask(client, user(PROMPT), extra=extra, n=2)
    wanted = model.generate(PROMPT, n=2, seed=1, guidance=3.0).images
    for choice, picture in zip(made.choices, wanted, strict=True):
        (part,) = choice.message.content
        assert same(picture_of(part), picture) and choice.finish_reason == "stop"
    assert made.choices[0].cm3["seed"] == 1 != made.choices[1].cm3["seed"]
    alone = ask(client, user(PROMPT), extra={**extra, "seed": made.choices[1].cm3["seed"]})
    assert same(picture_of(alone.choices[0].message.content[0]), wanted[1])


def test_an_answer_is_sent_back_as_history(client: openai.OpenAI, model: CM3Leon) -> None:
    """A picture is drawn, edited and asked about in one conversation."""
    both = {"modalities": ["text", "image"]}
    messages = [user(PROMPT)]
    for words in (ADDED, None):
        content = ask(client, *messages, extra=both).choices[0].message.content
        messages += [{"role": "assistant", "content": content}] + ([user(words)] if words else [])
    first, second = (picture_of(message["content"][0]) for message in messages[1::2])
    assert same(first, model.generate(PROMPT, temperature=0.0).image)
    assert same(second, model.edit(first, ADDED, temperature=0.0).image) and not same(first, second)
    (choice,) = ask(client, *messages, user("how many objects are there?")).choices
    assert choice.message.content == "two"
    assert "were not read" in choice.cm3["warnings"][0]


def test_a_dialogue(client: openai.OpenAI, model: CM3Leon, drawn: PIL.Image.Image) -> None:
    said = [user(drawn), {"role": "assistant", "content": "a red circle"}, user("where is it?")]
    answer = ask(client, *said).choices[0].message.content
    fields = {"image": drawn, "history": "a red circle", "question": "where is it?"}
    assert answer == model.ask("visdial", fields, temperature=0.0).text


def test_an_edit_has_the_size_of_what_was_sent(client: openai.OpenAI, drawn: PIL.Image.Image) -> None:
    large = drawn.resize((200, 200))
    (part,) = (
        ask(client, user(large, "paint the circle blue"), extra={"modalities": ["image"]}).choices[0].message.content
    )
    assert picture_of(part).size == (200, 200)


@pytest.mark.parametrize(("format", "name"), [("webp", "WEBP"), ("jpeg", "JPEG"), ("png", "PNG")])
def test_the_format_of_pictures(client: openai.OpenAI, format: str, name: str) -> None:
    extra = {"modalities": ["image"], "output_format": format}
    (part,) = ask(client, user(PROMPT), extra=extra).choices[0].message.content
    assert part["image_url"]["url"].startswith(f"data:image/{format};base64,") and picture_of(part).format == name


def test_documents_are_named(client: openai.OpenAI) -> None:
    """What was read is told with its source and licence."""
    (choice,) = ask(client, user("a picture of a slestuf"), extra={"modalities": ["image"], "retrieve": 1}).choices
    (found,) = choice.cm3["retrieved"]
    assert found["id"].startswith("emblem/") and found["source"].startswith("emblems/") and found["license"] == "MIT"


def test_a_stream_of_words_adds_up(client: openai.OpenAI, drawn: PIL.Image.Image) -> None:
    whole = ask(client, user(drawn), n=2)
    chunks = list(ask(client, user(drawn), n=2, stream=True, stream_options={"include_usage": True}))
    said, reasons = ["", ""], [None, None]
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        said[choice.index] += choice.delta.content or ""
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert said == [choice.message.content for choice in whole.choices] and reasons == ["stop", "stop"]
    assert len(chunks) > 8 and {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    with client.chat.completions.stream(
        model="scenes", messages=[user(drawn)], n=2, temperature=0, extra_body={"candidates": 1}
    ) as stream:
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == said


def test_candidates_and_gaps_come_at_the_end_of_a_stream(client: openai.OpenAI) -> None:
    for message, extra in ((user("a <gap> circle"), {}), (user("a red"), {"candidates": 2, "temperature": 0.7})):
        whole = ask(client, message, extra=extra).choices[0].message.content
        told = [c.choices[0].delta.content for c in ask(client, message, extra=extra, stream=True)]
        assert [one for one in told if one] == [whole]


@pytest.mark.filterwarnings(ANSWERED)
def test_pictures_come_by_rows(client: openai.OpenAI, drawn: PIL.Image.Image) -> None:
    """Each partial picture has the rows of the last one so far; the official client joins the parts by their index."""
    extra = {"modalities": ["image"], "partial_images": 3}
    partial, whole = [], []
    for chunk in ask(client, user(PROMPT), extra=extra, stream=True):
        (choice,) = chunk.choices
        if "partial_image" in (getattr(choice, "cm3", None) or {}):
            told = choice.cm3["partial_image"]
            assert told["partial_image_index"] == len(partial) and told["index"] == 0
            partial.append(picture_of(told))
        whole += choice.delta.content or []
    assert len(partial) == 3 and [part["index"] for part in whole] == [0]
    last = np.asarray(picture_of(whole[0]), int)
    below = [int((np.asarray(one)[::-1] == 128).all(2).all(1).argmin()) for one in partial]
    assert below == [96, 64, 32], "grey rows below what is drawn"
    for one, grey in zip(partial, below, strict=True):
        top = np.asarray(one, int)[: 64 - grey // 2]
        assert np.abs(top - last[: len(top)]).mean() < 20, "what stands at the top stays"
    extra = {"modalities": ["image"], "temperature": 0.0}
    with client.chat.completions.stream(model="scenes", messages=[user(PROMPT)], extra_body=extra) as stream:
        (part,) = stream.get_final_completion().choices[0].message.content
    assert same(picture_of(part), picture_of(whole[0]))


def test_a_failure_in_the_middle_is_an_event(
    client: openai.OpenAI, model: CM3Leon, drawn: PIL.Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*of: object) -> None:
        raise RuntimeError("a secret of the inside")

    stream = ask(client, user(drawn), stream=True)
    assert next(iter(stream)).choices[0].delta.role == "assistant"
    monkeypatch.setattr(model, "finish", fail)
    with pytest.raises(openai.APIError, match="the server failed at this request") as error:
        list(stream)
    assert "secret" not in str(error.value)
    monkeypatch.undo()
    assert ask(client, user(drawn)).choices, "and the server goes on"


def test_a_client_that_leaves_frees_its_work(
    server: Running, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast the engine: it keeps back the first picture that is whole until the server knows."""
    ended: list[str] = []
    told, poll = threading.Event(), Engine.poll

    def until_whole(self: Engine) -> Any:
        events = poll(self)
        if any(event.result is not None for event in events):
            assert told.wait(60)
        return events

    monkeypatch.setattr(Engine, "poll", until_whole)
    server.service.observers.append(lambda work: (ended.append(work.outcome), told.set()))
    stream = ask(client, user(PROMPT), n=10, extra={"modalities": ["image"], "temperature": 1.0}, stream=True)
    next(iter(stream))
    stream.close()
    assert told.wait(60) and ended == ["cancelled"]
    server.service.observers.pop()
    while server.service.loop.load.running:
        time.sleep(0.001)


def test_gaps_are_filled_in_a_stream_as_they_are_at_once(client: openai.OpenAI) -> None:
    """Nothing of them is shown before the end, so the likeliest of several is kept here and there."""
    given = user("a small <gap> star below a large blue square on a mint ground")
    own = {"candidates": None, "temperature": None}
    whole = ask(client, given, extra=own).choices[0].message.content
    parts = [chunk.choices[0].delta.content for chunk in ask(client, given, extra=own, stream=True)]
    assert "".join(part or "" for part in parts) == whole and "<gap>" not in whole


def refused(server: Running, body: dict[str, Any], path: str = "/v1/chat/completions") -> dict[str, Any]:
    answer = server.ask(path, body)
    assert answer.status == 400, answer.data[:300]
    return answer.error


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": "a star"}, "messages", "valid list"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        ({"messages": [{"role": "pirate", "content": "a"}]}, "messages[0].role", "roles are 'user' and 'assistant'"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "calls no tools"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages[0].role", "never read system messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content", "is empty"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "text": "a"}]}]},
            "messages[0].content[0].type",
            "parts are 'text' or 'image_url'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "image_url": {"url": "a"}}]}]},
            "messages[0].content[0]",
            "a part of type 'text' has the field 'text' and no other",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://a"}}]}]},
            "messages[0].content[0].image_url.url",
            "is no URL of a picture",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}],
                    }
                ]
            },
            "messages[0].content[0].image_url.url",
            "is no base64",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "mood": "good"}]},
            "messages[0].mood",
            "is no field of this request",
        ),
        ({"messages": [{"role": "user", "content": "star " * 5000}]}, "messages", "context"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}] * 17}]},
            "messages",
            "has 17 pictures, and 16 are the most",
        ),
        ({"parrot": 1}, "parrot", "is no field of this request; leave it out"),
        ({"modalities": ["audio"]}, "modalities[0]", "'text' or 'image'"),
        ({"modalities": []}, "modalities", "at least 1 item"),
        ({"tools": [{"type": "function"}]}, "tools", "calls no tools; leave it out"),
        ({"tool_choice": "required"}, "tool_choice", "calls no tools"),
        ({"logprobs": True}, "logprobs", "no probabilities of tokens are told"),
        ({"audio": {"voice": "a"}}, "audio", "has no sound"),
        ({"stop": "a"}, "stop", "texts end where the model ends them"),
        ({"response_format": {"type": "json_object"}}, "response_format", "answers are plain text"),
        ({"presence_penalty": 0.5}, "presence_penalty", "without penalties"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 11}, "n", "less than or equal to 10"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "give one of them"),
        ({"temperature": -1}, "temperature", "at least 0"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"guidance": 3.0}, "guidance", "is for pictures, and this answer is a text"),
        ({"pictures": 2}, "pictures", "is for answers of words and pictures"),
        ({"partial_images": 2}, "partial_images", "partial pictures come in a stream"),
        ({"partial_images": 2, "stream": True, "candidates": 2}, "candidates", "nothing can be shown before the end"),
        ({"output_format": "gif"}, "output_format", "png, webp or jpeg"),
        ({"output_compression": 50}, "output_compression", "png is exact"),
        ({"retrieve": 4}, "retrieve", "0 to 3 documents"),
    ],
)
def test_what_is_refused_names_its_field(server: Running, change: dict[str, Any], param: str, message: str) -> None:
    error = refused(server, {"messages": [{"role": "user", "content": "a red"}], **change})
    assert error["param"] == param and message in error["message"] and "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_stream_that_is_refused_is_an_answer_of_its_own(server: Running) -> None:
    """What is wrong is told by the status before a stream begins, also what the model refuses."""
    for change in ({"retrieve": 4}, {"messages": [{"role": "user", "content": "star " * 5000}]}):
        refused(server, {"messages": [{"role": "user", "content": "a red"}], "stream": True, **change})


def test_a_prompt_over_the_context_is_told_in_the_clients_words(client: openai.OpenAI, drawn: PIL.Image.Image) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, user("star " * 5000))
    assert error.value.code == "context_length_exceeded" and error.value.param == "messages"
    wide = drawn.resize((200, 128))
    with pytest.raises(openai.BadRequestError, match="the picture is 200x128; .* draws squares; crop it"):
        ask(client, user(wide, "paint it"), extra={"modalities": ["image"]})


def test_harmless_fields_change_nothing(client: openai.OpenAI, drawn: PIL.Image.Image) -> None:
    said = client.chat.completions.create(
        model="gpt-image-2", messages=[{"role": "system", "content": ""}, user(drawn)], temperature=0, user="a",
        metadata={"a": "b"}, store=False, safety_identifier="c", service_tier="auto", parallel_tool_calls=True,
        reasoning_effort="low", logprobs=False, frequency_penalty=0, presence_penalty=0, tools=[], tool_choice="none",
        response_format={"type": "text"}, modalities=["text"],
    )  # fmt: skip
    assert said.choices[0].message.content == ask(client, user(drawn)).choices[0].message.content


@pytest.fixture(scope="module")
def other() -> Iterator[tuple[CM3Leon, openai.OpenAI]]:
    """A model of Chameleon's shape, with random weights, that often begins a picture."""
    bundle = tiny_chameleon.bundle("anole")
    vocab: Vocab = bundle.vocab
    assert bundle.decoder.output is not None
    bundle.decoder.output.weight.data[vocab.brk] *= 8
    model = CM3Leon(bundle)
    with running(model) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield model, client


@pytest.mark.filterwarnings(ANSWERED)
def test_words_and_pictures_in_one_answer(other: tuple[CM3Leon, openai.OpenAI], drawn: PIL.Image.Image) -> None:
    """All parts of an interleaved answer come in their order, whole and streamed."""
    model, client = other
    message = user("a red circle", drawn, " and")
    prompt = ["a red circle", drawn, " and", cm3.Gap("interleaved")]
    made = (model.generate(prompt, seed=seed, pictures=2, max_tokens=8).filled[0] for seed in range(1000))
    seed, wanted = next(
        (seed, parts) for seed, parts in enumerate(made) if {type(one) for one in parts} == {cm3.Text, cm3.Image}
    )
    extra = {"modalities": ["text", "image"], "pictures": 2, "seed": seed}
    options: Any = {"model": "tiny", "messages": [message], "max_tokens": 8}
    said = client.chat.completions.create(**options, extra_body=extra).choices[0].message.content
    with client.chat.completions.stream(**options, extra_body={**extra, "partial_images": 1}) as stream:
        joined = stream.get_final_completion().choices[0].message.content
    for found in (said, joined):
        assert len(found) == len(wanted)
        for part, want in zip(found, wanted, strict=True):
            if isinstance(want, cm3.Text):
                assert part["type"] == "text" and part["text"] == want.text
            else:
                assert same(picture_of(part), want.pixels)


def test_chameleon_is_asked_for_words_or_a_picture(
    other: tuple[CM3Leon, openai.OpenAI], drawn: PIL.Image.Image
) -> None:
    model, client = other
    options: Any = {"model": "tiny", "messages": [user(drawn, "a", drawn)], "max_tokens": 4}
    said = client.chat.completions.create(**options, extra_body={"seed": 3}).choices[0].message.content
    assert said == model.generate([drawn, "a", drawn, cm3.Gap()], seed=3, max_tokens=4).filled[0][0].text.strip()
    extra = {"seed": 3, "modalities": ["image"]}
    (part,) = client.chat.completions.create(**options, extra_body=extra).choices[0].message.content
    assert same(picture_of(part), model.generate([drawn, "a", drawn, cm3.Gap("image")], seed=3).image)


def test_chameleon_reads_all_turns(drawn: PIL.Image.Image) -> None:
    """Where prompts have turns, earlier messages stand before the last, pictures of answers among them."""
    model = CM3Leon(tiny_chameleon.bundle())
    with running(model) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        messages = [user("a red"), {"role": "assistant", "content": [shown(drawn)]}, user("and a blue")]
        made = client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=4, temperature=0, extra_body={"seed": 3}
        )
    parts = (cm3.Text("a red"), cm3.Image(drawn), cm3.Text("and a blue"), cm3.Gap())
    document = cm3.Document(parts, meta={TURNS: (1, 2)})
    (filled,) = model.generate(document, max_tokens=4, temperature=0.0).filled[0]
    assert made.choices[0].message.content == filled.text.strip()
    (prompt,) = model.prepare([document], seeds=[0])
    assert made.usage.prompt_tokens == prompt.requests[0].streams[0].length
    assert made.usage.prompt_tokens_details.image_tokens == 16


def test_a_model_whose_prompts_have_one_turn_reads_one_message(other: tuple[CM3Leon, openai.OpenAI]) -> None:
    messages = [user("a"), {"role": "assistant", "content": "b"}, user("c")]
    with pytest.raises(openai.BadRequestError, match="prompts have one turn; send the last message alone"):
        other[1].chat.completions.create(model="tiny", messages=messages)

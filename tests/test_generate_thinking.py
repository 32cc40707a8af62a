"""Thinking first: the thought is a text of the model's, and the answer is what its prompt with the thought gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_model
from tiny_model import SIZE

from cm3.document import Document, Gap, Image, Text
from cm3.errors import CheckpointError, RequestError
from cm3.generate import CM3Leon, Generation
from cm3.generate.known_world import World
from cm3.tasks import find_task
from cm3.tasks.thought import answered_from, before_answer, before_change, before_picture, drawn_from

WORDS = "a red circle"


def picture() -> PIL.Image.Image:
    """A picture of random colours."""
    return PIL.Image.fromarray(np.random.default_rng(4).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))


def tiny(**sampling: dict[str, Any]) -> CM3Leon:
    """A model whose thoughts are short and readable."""
    bundle = tiny_model.bundle(context=500)
    bundle.sampling = {"thought": {"temperature": 0.5}, **sampling}
    return CM3Leon(bundle)


@pytest.fixture(scope="module")
def model() -> CM3Leon:
    return tiny()


def text_of(made: Generation) -> str:
    """What was written in the one gap."""
    (part,) = made.filled[0]
    assert isinstance(part, Text)
    return part.text.strip()


def alike(a: Generation, b: Generation) -> bool:
    """Tell whether two generations wrote the same, whatever else their prompts say."""
    return [d.images for d in a.documents] == [d.images for d in b.documents] and a.filled == b.filled


def test_a_picture_is_drawn_from_the_thought_that_its_words_ask_for(model: CM3Leon) -> None:
    made = model.generate(WORDS, seed=3, think=True)
    parts = (Text(WORDS), Gap("image"))
    thought = model.generate(Document(before_picture(parts)), seed=3, kind="thought")
    assert made.thoughts == (text_of(thought),) != ("",)
    assert alike(made, model.generate(Document(drawn_from(parts, made.thoughts[0])), seed=3))
    assert not alike(made, model.generate(WORDS, seed=3)) and model.generate(WORDS, seed=3).thoughts == ("",)
    assert made.prompt == Document(parts) and made.text == WORDS, "the words are the user's"


def test_an_answer_goes_on_from_what_its_picture_shows(model: CM3Leon) -> None:
    request = {"image": picture(), "question": "what is it?"}
    parts = find_task("vqa2").prompt(**request).parts
    reply = model.ask("vqa2", request, seed=5, think=True, max_tokens=9)
    (thought,) = reply.generation.thoughts
    assert thought == text_of(model.generate(Document(before_answer(parts)), seed=5, kind="thought"))
    by_hand = model.generate(Document(answered_from(parts, thought)), seed=5, kind="answer", max_tokens=9)
    assert alike(reply.generation, by_hand)


def test_an_edit_is_thought_over_from_what_its_picture_shows(model: CM3Leon) -> None:
    request = {"image1": picture(), "instruction": "paint it red"}
    parts = find_task("edit").prompt(**request).parts
    reply = model.ask("edit", request, seed=5, think=True)
    shown = text_of(model.generate(Document(before_answer(parts)), seed=5, kind="thought"))
    thought = text_of(model.generate(Document(before_change(parts, shown)), seed=5, kind="thought"))
    assert reply.generation.thoughts == (thought,) != (shown,)
    assert alike(reply.generation, model.generate(Document(drawn_from(parts, thought)), seed=5, kind="edit"))


def test_a_region_is_filled_from_what_its_words_say_of_the_whole(model: CM3Leon) -> None:
    holed = Image(picture()).with_gap((0, 0, 16, 16))
    made = model.generate([WORDS, holed], seed=5, think=True)
    (thought,) = made.thoughts
    assert thought == text_of(
        model.generate(Document(before_picture((Text(WORDS), Gap("image")))), seed=5, kind="thought")
    )
    assert alike(made, model.generate([thought, holed], seed=5))
    thinking, silent = tiny(region={"think": True}), tiny(image={"think": True})
    assert thinking.generate([WORDS, holed], seed=5).thoughts == (thought,)
    assert thinking.generate(WORDS, seed=5).thoughts == silent.generate([WORDS, holed], seed=5).thoughts == ("",)


def test_each_of_many_has_its_own_thought_and_what_it_gets_alone(model: CM3Leon) -> None:
    prompts = [WORDS, "a blue square", WORDS]
    many = model.generate_many(prompts, seeds=[1, 2, 3], think=True)
    for prompt, seed, made in zip(prompts, (1, 2, 3), many, strict=True):
        assert alike(made, model.generate(prompt, seed=seed, think=True))
        assert made.thoughts == model.generate(prompt, seed=seed, think=True).thoughts
    both = model.generate(WORDS, 2, seed=1, think=True)
    assert len(both.thoughts) == 2 and both.thoughts[0] == many[0].thoughts[0] != both.thoughts[1]


def test_a_stream_thinks_the_same(model: CM3Leon) -> None:
    *_, last = model.stream(WORDS, seed=3, think=True)
    assert last.generation is not None and alike(last.generation, model.generate(WORDS, seed=3, think=True))


def test_a_bundle_says_what_is_thought_over_and_a_request_comes_before_it() -> None:
    thinking, silent = tiny(image={"think": True}, answer={"think": True}, segment={"think": True}), tiny()
    assert alike(thinking.generate(WORDS, seed=2), silent.generate(WORDS, seed=2, think=True))
    assert alike(thinking.generate(WORDS, seed=2, think=False), silent.generate(WORDS, seed=2))
    edit = {"image1": picture(), "instruction": "paint it red"}
    assert thinking.ask("edit", edit, seed=2).generation.thoughts != ("",)  # edits start from `image`
    assert thinking.segment(picture(), seed=2).generation.thoughts == ("",)  # no words to think over
    assert thinking.answer(picture(), "what is it?", seed=2, max_tokens=9).generation.thoughts != ("",)
    for detail in (True, False):  # a text, and no answer to words of the user's
        assert thinking.describe(picture(), detail=detail, seed=2, max_tokens=9).generation.thoughts == ("",)
        told = tiny(text={"think": True}).describe(picture(), detail=detail, seed=2, max_tokens=9)
        assert told.generation.thoughts != ("",)


def test_holes_in_words_are_filled_from_what_their_picture_shows(model: CM3Leon) -> None:
    for parts in ((Text("a "), Gap("text"), Text(" circle"), Image(picture())), (Gap("text"), Image(picture()))):
        made = model.generate(Document(parts), seed=2, max_tokens=5, think=True)
        assert made.thoughts == (text_of(model.generate(Document(before_answer(parts)), seed=2, kind="thought")),)
        assert alike(made, model.generate(Document(answered_from(parts, made.thoughts[0])), seed=2, max_tokens=5))
        assert made.thoughts[0] not in made.text and made.prompt == Document(parts)
        *chunks, last = model.stream(Document(parts), seed=2, max_tokens=5, think=True)
        assert last.generation is not None and alike(last.generation, made)
        assert {chunk.part for chunk in chunks} == {parts.index(Gap("text"))}, "as the user counts them"
    two = Document.of("a ", Gap("text"), " circle and a ", Gap("text"), picture())
    filled = model.generate(two, seed=2, max_tokens=5, think=True)
    assert len(filled.filled[0]) == 2 and filled.thoughts != ("",)


def test_settings_are_of_the_answer_and_not_of_the_thought(model: CM3Leon) -> None:
    warm = model.generate(WORDS, seed=3, think=True)
    cold = model.generate(WORDS, seed=3, think=True, temperature=0.0, guidance=2.0)
    assert warm.thoughts == cold.thoughts and warm.filled != cold.filled


def test_an_empty_thought_changes_nothing(model: CM3Leon, monkeypatch: pytest.MonkeyPatch) -> None:
    import cm3.generate.thinking as thinking

    whole = thinking.gone_on
    monkeypatch.setattr(
        thinking, "gone_on", lambda p, t: whole(p, Generation((), (), t.prompt, filled=((Text(" "),),)))
    )
    made = model.generate(WORDS, seed=3, think=True)
    assert made.thoughts == ("",) and alike(made, model.generate(WORDS, seed=3, think=False))


def test_a_thought_that_misspells_a_word_is_left_out(model: CM3Leon) -> None:
    free = model.generate(WORDS, seed=3, think=True)
    for words, kept in (((*WORDS.split(), *WORDS), False), ((*WORDS.split(), *_words(free.thoughts[0])), True)):
        bundle = tiny_model.bundle(context=500)
        bundle.sampling = {"thought": {"temperature": 0.5}}
        bundle.about |= {"world": {"says": "circles", "words": list(words)}}
        made = CM3Leon(bundle).generate(WORDS, seed=3, think=True)
        assert (made.thoughts == free.thoughts) is kept and (made.thoughts == ("",)) is not kept
        assert alike(made, free if kept else model.generate(WORDS, seed=3))


def _words(text: str) -> list[str]:
    """Every word that a world would find in a text."""
    return World("nothing", ()).unknown(text)


def test_a_thought_for_which_there_is_no_room_is_left_out() -> None:
    long = " ".join(["circle"] * 25)
    bundle = tiny_model.bundle(context=120)
    bundle.sampling = {"thought": {"temperature": 0.5}}
    model = CM3Leon(bundle)
    made = model.generate(long, seed=3, think=True)
    (thought,) = model.generate(Document(before_picture((Text(long), Gap("image")))), seed=3, kind="thought").filled
    assert len(model.codec.text.encode(thought[0].text)) > 80, "so long that no picture has room behind it"  # type: ignore[union-attr]
    assert made.thoughts == ("",) and alike(made, model.generate(long, seed=3))


def test_what_a_bundle_says_of_thinking_is_yes_or_no() -> None:
    with pytest.raises(CheckpointError, match=r"sampling\.image\.think='yes': must be true or false"):
        tiny(image={"think": "yes"})


def test_a_kind_that_there_is_not_is_refused(model: CM3Leon) -> None:
    with pytest.raises(RequestError, match=r"kind='thougt': must be one of .* and thought.* Did you mean 'thought'"):
        model.generate(WORDS, kind="thougt")
    with pytest.raises(RequestError, match=r"kind='thought': its prompt must have one gap, for words"):
        model.generate(WORDS, kind="thought")

"""How likely documents and options are: against the same sequences one by one."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image
import pytest
import tiny_chameleon
import tiny_model
from published import picture

from cm3.document import Document, Gap, Image
from cm3.errors import RequestError
from cm3.generate import CM3Leon
from cm3.generate.likelihood import document_likelihoods, option_likelihoods
from cm3.generate.rank import log_likelihoods
from cm3.sequence.answers import answered, opening
from cm3.sequence.segments import text_tokens
from cm3.tasks import find_task

OPTIONS = ["red", "a large blue star", "no", "a large blue circle at the top"]


@pytest.fixture(scope="module")
def model() -> CM3Leon:
    return CM3Leon(tiny_model.bundle())


def test_a_document_is_the_sum_of_its_modalities(model: CM3Leon) -> None:
    documents = [
        Document.of("a red circle"), Document.of(picture(1)), Document.of("a star", picture(2)),
        Document.of("on gr\u00fcn", picture(2), "two"),
    ]  # fmt: skip
    found = document_likelihoods(model, documents)
    for document, one in zip(documents, found, strict=True):
        tokens = model.codec.encode(document)
        (whole,) = log_likelihoods(model.decoder, [tokens], [1])
        assert sum(one["nats"].values()) == pytest.approx(-whole, rel=1e-5)
        assert sum(one["tokens"].values()) == tokens.length - 1
        assert one["tokens"]["image"] == 16 * len(document.images)
        assert one["tokens"]["text"] == len(model.codec.text.encode(document.text))
        assert one["text_bytes"] == len(document.text.encode())
        assert all(nats >= 0 for nats in one["nats"].values())
    assert found[0]["nats"]["image"] == 0 and found[1]["nats"]["text"] == 0


def test_a_document_alone_is_the_same_as_among_others(model: CM3Leon) -> None:
    documents = [Document.of("a red circle"), Document.of("a star", picture(2)), Document.of("no")]
    together = document_likelihoods(model, documents)
    for document, one in zip(documents, together, strict=True):
        (alone,) = document_likelihoods(model, [document])
        assert alone["tokens"] == one["tokens"]
        assert alone["nats"] == pytest.approx(one["nats"], rel=1e-5)


@pytest.mark.parametrize("document", [Document(()), Document.of(""), Document.of("a", Gap("text"))])
def test_a_document_that_is_not_whole_is_refused(model: CM3Leon, document: Document) -> None:
    with pytest.raises(RequestError, match="must have words or a picture, and no hole"):
        document_likelihoods(model, [document])


def test_a_document_over_the_context_is_refused(model: CM3Leon) -> None:
    with pytest.raises(RequestError, match="tokens, and this model's context is 160; shorten it"):
        document_likelihoods(model, [Document.of("a red circle and " * 200)])


@pytest.mark.parametrize("task", ["visdial", "vqa2", "coco_captions"])
@pytest.mark.parametrize("family", ["cm3", "chameleon"])
@pytest.mark.parametrize("plain", [False, True])
def test_options_have_what_each_has_alone(model: CM3Leon, task: str, family: str, plain: bool) -> None:
    """One pass over a fork of all equals a pass over each with its prompt."""
    if family == "chameleon":
        model = CM3Leon(tiny_chameleon.bundle())
    image = Image(PIL.Image.new("RGB", (tiny_model.SIZE,) * 2, "teal"))
    request = {
        "visdial": {"image": image, "caption": "a red", "turns": [("a", "no")], "question": "is it"},
        "vqa2": {"image": image, "question": "is it red"},
        "coco_captions": {"image": image},
    }[task]
    chosen = find_task(task)
    found = option_likelihoods(model, chosen, request, OPTIONS, plain=plain)
    (prepared,) = model.prepare_task(chosen, [request], seeds=[0], plain=plain, max_tokens=1)
    for option, one in zip(OPTIONS, found, strict=True):
        # The text that the model reads back is the option: the tokens are those of an answer.
        best = None
        for space in ("", " "):
            span = text_tokens(model.codec.text.encode(space + option), model.vocab)
            whole = answered(prepared.prompt, span, model.vocab).tokens
            start = opening(prepared.prompt, model.vocab).length
            start += int(whole.ids[start]) == model.vocab.mask(0) if family == "cm3" else 0
            (alone,) = log_likelihoods(model.decoder, [whole], [start])
            best = alone if best is None or abs(alone - one) < abs(best - one) else best
        assert best == pytest.approx(one, rel=1e-4)
    order = np.argsort(found).tolist()
    again = option_likelihoods(model, chosen, request, OPTIONS[::-1], plain=plain)
    assert [len(OPTIONS) - 1 - at for at in np.argsort(again).tolist()] == order
    assert all(math.isfinite(one) and one < 0 for one in found)


REFUSED = {
    "no option": (["vqa2", []], "options: must be at least one text, and none empty"),
    "an empty one": (["vqa2", ["a", " "]], "options: must be at least one text, and none empty"),
    "a picture as answer": (["edit", ["a"]], "task 'edit': has no one text for an answer"),
    "one over the context": (["vqa2", ["a red circle and " * 200]], "options: the longest takes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_options_that_cannot_be_scored(model: CM3Leon, what: str) -> None:
    (task, options), message = REFUSED[what]
    request = {"image": Image(picture(1)), "question": "is it"}
    with pytest.raises(RequestError, match=message):
        option_likelihoods(model, find_task(task), request, options)

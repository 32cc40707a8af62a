"""Guidance by kind of task: three streams for editing, one scale for control images; settings of a bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_model
from tiny_model import SIZE

from cm3.document import Document, Gap, Image
from cm3.engine.request import Sampling
from cm3.errors import CheckpointError, RequestError
from cm3.generate import KINDS, CM3Leon
from cm3.generate.tasks import kind_of_task
from cm3.tasks import TASKS, find_task
from cm3.vocab import Tokens


@pytest.fixture(scope="module")
def model() -> CM3Leon:
    return CM3Leon(tiny_model.bundle(context=240))


def noise(seed: int = 0) -> PIL.Image.Image:
    """A picture of coarse random colours."""
    rng = np.random.default_rng(seed)
    return PIL.Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((SIZE, SIZE), 0)


def edit(seed: int = 0) -> dict[str, Any]:
    return {"image1": noise(seed), "instruction": "paint it red"}


def request(model: CM3Leon, prompt: Document, kind: str | None, **settings: Any) -> Any:
    """What the engine is asked."""
    return model._request(model.codec.encode_prompt(prompt), 0, 20, 4, settings, kind=kind)


def spelled(model: CM3Leon, tokens: Tokens) -> str:
    """Names of tokens, runs of text and of codes as one word."""
    v = model.vocab
    names = ["TEXT" if v.is_text(i) else "IMAGE" if v.is_image(i) else v.name(int(i)) for i in tokens.ids]
    return " ".join(n for i, n in enumerate(names) if not (i and n == names[i - 1] and n.isupper()))


def test_an_edit_has_three_streams(model: CM3Leon) -> None:
    made = request(model, find_task("edit").prompt(**edit()), "edit")
    assert [spelled(model, s) for s in made.streams] == [
        "</s> TEXT <break> IMAGE <break> TEXT <break>",
        "</s> TEXT <break> <mask:0> <break> <mask:1> <break>",
        "</s> TEXT <break> IMAGE <break> <mask:0> <break>",
    ]
    assert (made.sampling.guidance, made.sampling.image_guidance) == (7.5, 1.5)
    alone = request(model, find_task("edit").prompt(**edit()), "edit", guidance=1.0, image_guidance=1.0)
    assert len(alone.streams) == 1 and alone.sampling.image_guidance is None
    only = request(model, find_task("edit").prompt(**edit()), "edit", guidance=1.0)
    assert len(only.streams) == 3 and only.sampling.weights(3) == (1.0, -0.5, 0.5)


def test_control_has_one_scale_and_a_segmentation_none(model: CM3Leon) -> None:
    control = find_task("canny").prompt(edge=noise(), caption="a red circle")
    made = request(model, control, "control")
    assert [spelled(model, s) for s in made.streams] == [
        "</s> TEXT <break> IMAGE <break> TEXT <break>",
        "</s> TEXT <break> <mask:0> <break> <mask:1> <break>",
    ]
    assert made.sampling.guidance == 3.0 and made.sampling.image_guidance is None
    segment = find_task("segment").prompt(image=noise())
    assert len(request(model, segment, "segment").streams) == 1
    guided = request(model, segment, "segment", guidance=2.0)
    assert spelled(model, guided.streams[1]) == "</s> TEXT <break> <mask:0> <break>"


def test_the_kind_of_each_task() -> None:
    kinds = {
        name: kind_of_task(find_task(name)) for name in ("edit", "boxes", "write", "canny", "depth", "segment", "vqa2")
    }
    want = [("edit", "edit"), ("boxes", None), ("write", None), ("canny", "control"), ("depth", "control")]
    assert kinds == dict([*want, ("segment", "segment"), ("vqa2", "answer")])
    texts = {name: kind_of_task(task) for name, task in TASKS.items() if task.output == "text"}
    answers = {"vqa2", "vizwiz", "okvqa", "scienceqa", "visdial"}
    assert texts == {name: "answer" if name in answers else None for name in texts} and len(texts) == 9


@pytest.mark.parametrize("plain", [False, True])
def test_an_answer_is_the_likeliest_unless_the_bundle_says_otherwise(plain: bool) -> None:
    asked = {"image": noise(), "question": "what is it?"}
    prompt = find_task("vqa2").prompt(plain=plain, **asked)
    warm = recommended({"text": {"temperature": 0.7, "candidates": 8, "top_p": 0.5}})
    assert request(warm, prompt, "answer").text_sampling == Sampling(temperature=0.0)
    assert request(warm, prompt, None).text_sampling == Sampling(temperature=0.7, top_p=0.5)
    replies = [warm.ask_many("vqa2", [asked], seeds=[s], plain=plain, max_tokens=9)[0].text for s in (1, 2)]
    assert replies[0] == replies[1]
    own = recommended({"text": {"temperature": 0.7}, "answer": {"temperature": 1.0}})
    assert request(own, prompt, "answer").text_sampling == Sampling(temperature=1.0)
    assert request(own, prompt, "answer", temperature=0.3).text_sampling == Sampling(temperature=0.3)


def test_an_edit_is_the_formula_step_by_step(model: CM3Leon) -> None:
    """l(0,0) + s_img (l(img,0) - l(0,0)) + s_txt (l(img,txt) - l(img,0)), read afresh for every code."""
    v = model.vocab
    for s_txt, s_img in ((7.5, 1.5), (2.0, 0.5)):
        settings = {"temperature": 0.0, "guidance": s_txt, "image_guidance": s_img}
        prompt = find_task("edit").prompt(**edit())
        full, none, image = request(model, prompt, "edit").streams
        written: list[int] = []
        for _ in range(16):
            tail = Tokens.of(written, np.arange(1, len(written) + 1))
            a, u, i = (model.logits(Tokens.concat([s, tail]))[-1].double() for s in (full, none, image))
            scores = u + s_img * (i - u) + s_txt * (a - i)
            written.append(v.image_start + int(scores[v.image_start : v.image_start + 64].argmax()))
        (reply,) = model.ask_many("edit", [edit()], seeds=[0], **settings)
        codes = model.codec.image.encode([reply.image])[0].ravel() + v.image_start
        assert codes.tolist() == written
    unguided = {"temperature": 0.0, "guidance": 1.0, "image_guidance": 1.0}
    plain = model.ask_many("edit", [edit()], seeds=[0], **unguided)[0]
    assert plain.image.tobytes() != reply.image.tobytes()


def test_batched_edits_are_one_by_one(model: CM3Leon) -> None:
    requests, seeds = [edit(i) for i in range(4)], [3, 4, 5, 6]
    together = model.ask_many("edit", requests, seeds=seeds)
    narrow = CM3Leon(tiny_model.bundle(context=240), max_streams=4).ask_many("edit", requests, seeds=seeds)
    alone = [model.ask_many("edit", [r], seeds=[s])[0] for r, s in zip(requests, seeds, strict=True)]
    for a, b, c in zip(together, narrow, alone, strict=True):
        assert a.generation.document == b.generation.document == c.generation.document
    assert len({a.image.tobytes() for a in together}) == 4


def recommended(sampling: dict[str, Any]) -> CM3Leon:
    bundle = tiny_model.bundle(context=240)
    bundle.sampling = sampling
    return CM3Leon(bundle)


def test_a_bundle_recommends_by_kind_on_top_of_the_paper() -> None:
    model = recommended(
        {"image": {"temperature": 0.7, "guidance": 2.0}, "edit": {"guidance": 4.0}, "control": {"k": 3}}
    )
    prompts = {"edit": find_task("edit").prompt(**edit()), "segment": find_task("segment").prompt(image=noise())}
    prompts["control"] = find_task("canny").prompt(edge=noise(), caption="a red circle")
    got = {kind: request(model, prompt, kind).sampling for kind, prompt in prompts.items()}
    assert all(s.temperature == 0.7 for s in got.values())
    assert [(got[k].guidance, got[k].image_guidance) for k in ("edit", "control", "segment")] == [
        (4.0, 1.5),
        (3.0, None),
        (None, None),
    ]
    assert got["control"].k == 3
    assert request(model, prompts["edit"], "edit", guidance=9.0).sampling.guidance == 9.0
    assert request(model, prompts["edit"], None).sampling.guidance == 2.0


def test_a_kind_that_a_bundle_makes_up_is_refused() -> None:
    assert KINDS == ("image", "region", "text", "edit", "control", "segment", "answer", "thought")
    with pytest.raises(CheckpointError, match="bundle 'tiny': sampling.edits: is no kind; the kinds are image, region"):
        recommended({"edits": {}})


@pytest.mark.parametrize(
    ("kind", "setting", "value", "told"),
    [
        ("image", "heat", 1.0, "heat: is no field of Sampling"),
        ("image", "temperature", "warm", "temperature='warm': must be a finite number"),
        ("image", "temperature", True, "temperature=True: must be a finite number"),
        ("image", "temperature", None, "temperature=None: must be a finite number"),
        ("text", "temperature", -1.0, ".*temperature=-1.0: must be at least 0"),
        ("region", "top_p", 0, ".*top_p=0.0: must be above 0"),
        ("edit", "guidance", [1], "guidance=.1.: must be"),
        ("control", "contrast", "most", ".*contrast='most': must be"),
        ("answer", "k", 1.5, "k=1.5: must be a whole number"),
        ("image", "seed", 3, "seed: is a request's own; take it out"),
        ("image", "candidates", "8", "candidates='8': must be a whole number from 1 to 1024"),
        ("text", "candidates", 0, "candidates=0: must be a whole number from 1 to 1024"),
        ("text", "candidates", 10**9, "candidates=1000000000: must be a whole number from 1 to 1024"),
        ("text", "candidates", True, "candidates=True: must be a whole number from 1 to 1024"),
        ("image", "unconditional", ["kept"], "unconditional=.'kept'.; must be 'kept' or 'dropped'"),
    ],
)
def test_odd_recommended_settings_are_told_when_the_model_is_loaded(
    kind: str, setting: str, value: Any, told: str
) -> None:
    bundle = tiny_model.bundle()
    bundle.sampling = {kind: {setting: value}}
    with pytest.raises(CheckpointError, match=rf"bundle 'tiny': sampling.{kind}(\.|: sampling\.){told}") as error:
        CM3Leon(bundle)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        (
            "a cat",
            {"kind": "edits"},
            "kind='edits': must be one of edit, control, segment, answer and thought. Did you mean 'edit'",
        ),
        (
            "a cat",
            {"kind": "edit"},
            "kind='edit': its prompt must be words, a whole picture, words, a gap for a picture",
        ),
        (["a", noise(), "b", Gap()], {"kind": "edit"}, "kind='edit': its prompt must be words"),
        (["a", noise(), Gap("image")], {"kind": "control"}, "kind='control': its prompt must be words"),
        (["a", Gap(), noise(), Gap("image")], {"kind": "segment"}, "must be words, a whole picture, a gap for a"),
        (["a", Image(noise()).with_gap((0, 0, 9, 9)), Gap("image")], {"kind": "segment"}, "kind='segment': its"),
        (noise(), {"kind": "awnser"}, "Did you mean 'answer'"),
        ("a cat", {"kind": "answer"}, "kind='answer': its prompt must have one gap, for words; leave kind out"),
        (["a", Gap(), "b", Gap(), noise()], {"kind": "answer"}, "must have one gap, for words"),
        (["a", Gap(), Image(noise()).with_gap((0, 0, 9, 9))], {"kind": "answer"}, "must have one gap, for words"),
        ("a cat", {"image_guidance": 2.0}, "image_guidance=2.0: is for editing; ask with kind='edit'"),
    ],
)
def test_refusals_by_kind(model: CM3Leon, prompt: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        model.generate(prompt, **settings)

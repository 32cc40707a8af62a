"""Document in, document out: what a prompt asks for, what the engine is asked, and what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_model
import torch
from tiny_model import SIZE

from cm3.document import Document, Gap, Image, Text
from cm3.engine.grammar import Codes, Force, FreeText
from cm3.errors import CheckpointError, ConfigError, DataError, RequestError
from cm3.generate import CM3Leon, as_document
from cm3.model import bundle as bundles
from cm3.model.attention import Causal
from cm3.vocab import Tokens


@pytest.fixture(scope="module")
def model() -> CM3Leon:
    return CM3Leon(tiny_model.bundle())


def noise(seed: int = 0, size: int = SIZE) -> PIL.Image.Image:
    """A picture of coarse random colours."""
    rng = np.random.default_rng(seed)
    return PIL.Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)).resize((size, size), 0)


PICTURE = noise()
WHOLE, WORDS = Gap("image"), Gap("text")
BOXED = Image(PICTURE).with_gap((0, 0, 9, 9))


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a cat", (Text("a cat"), WHOLE)),
        (Text("a cat"), (Text("a cat"), WHOLE)),
        (PICTURE, (WORDS, Image(PICTURE))),
        (Image(PICTURE), (WORDS, Image(PICTURE))),
        (BOXED, (BOXED,)),
        (Gap(), (Gap(),)),
        (["a ", "cat"], (Text("a "), Text("cat"), WHOLE)),
        (["a", " ", "cat"], (Text("a"), Text(" "), Text("cat"), WHOLE)),
        (("a ", Gap(), " cat"), (Text("a "), WORDS, Text(" cat"))),
        (["a cat", PICTURE], (Text("a cat"), WORDS, Image(PICTURE))),
        ([PICTURE, "the same at night"], (Image(PICTURE), Text("the same at night"), WHOLE)),
        ([PICTURE, " "], (WORDS, Image(PICTURE))),
        (["a cat", "\n"], (Text("a cat"), WHOLE)),
        (Document.of("a cat"), (Text("a cat"), WHOLE)),
        (["", WHOLE], (Text(""), WHOLE)),
        ((part for part in ["a cat"]), (Text("a cat"), WHOLE)),
    ],
)
def test_what_a_prompt_asks_for(prompt: Any, parts: tuple[Any, ...]) -> None:
    assert as_document(prompt).parts == parts


def test_a_document_keeps_where_it_came_from() -> None:
    document = as_document(Document.of("a cat", id="7", source="coco", license=4))
    assert (document.id, document.source, document.meta) == ("7", "coco", {"license": 4})


@pytest.mark.parametrize("prompt", ["", "  \n", [], ["", " "], Document(())])
def test_an_empty_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(RequestError, match="prompt: is empty; say what to draw, or give a picture to describe"):
        as_document(prompt)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (3, "prompt: is a string, a picture or a list of them, not int"),
        (None, "prompt: is a string, a picture or a list of them, not NoneType"),
        (["a", 3], "a document part is a string, a picture, or a Text, Image or Gap; got int"),
    ],
)
def test_a_prompt_of_another_kind_is_refused(prompt: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        as_document(prompt)


def asked(model: CM3Leon, prompt: Any, **settings: Any) -> Any:
    """The engine's request for a prompt."""
    return model._request(model.codec.encode_prompt(as_document(prompt)), 0, 20, 4, settings)


def spelled(model: CM3Leon, tokens: Tokens) -> list[str]:
    """Names of tokens, runs of text and of codes as one word."""
    names = [model.vocab.name(int(i)).split(":")[0].replace("text", "TEXT") if not model.vocab.is_mask(i) else
             model.vocab.name(int(i)) for i in tokens.ids]  # fmt: skip
    return [n for i, n in enumerate(names) if not (i and n == names[i - 1] and n in ("TEXT", "image"))]


def test_a_picture_from_words_is_guided_away_from_the_papers_three_tokens(model: CM3Leon) -> None:
    v = model.vocab
    request = asked(model, "a red circle", guidance=3.0)
    assert spelled(model, request.streams[0]) == ["</s>", "TEXT", "<break>"]
    assert request.streams[1].ids.tolist() == [v.eos, v.mask(0), v.brk]
    assert request.plan == (Codes.image(16),)
    assert request.sampling.guidance == 3.0
    assert len(asked(model, "a red circle").streams) == 1 == len(asked(model, "a red circle", guidance=1.0).streams)
    assert len(asked(model, "a red circle", contrast="kmax", k=4).streams) == 2


def test_a_region_keeps_its_picture_in_both_streams(model: CM3Leon) -> None:
    request = asked(model, ["a cat", Image(PICTURE).with_gap((8, 8, 24, 24))], guidance=2.0)
    image = ["image", "<mask:0>", "image", "<mask:1>", "image", "</s>"]
    assert spelled(model, request.streams[0]) == ["</s>", "TEXT", "<break>", *image]
    assert spelled(model, request.streams[1]) == ["</s>", "<mask:2>", "<break>", *image]
    v = model.vocab
    m0, m1, end = Force((v.mask(0),)), Force((v.mask(1),)), Force((v.eoss,))
    assert request.plan == (m0, Codes((6, 7)), end, m1, Codes((10, 11)), end)


def test_all_words_of_an_interleaved_prompt_are_left_out_of_the_second_stream(model: CM3Leon) -> None:
    request = asked(model, ["a cat", PICTURE, "the same at night"], guidance=2.0)
    want = ["</s>", "TEXT", "<break>", "image", "<break>", "TEXT", "<break>"]
    assert spelled(model, request.streams[0]) == want
    want[1], want[5] = "<mask:0>", "<mask:1>"
    assert spelled(model, request.streams[1]) == want
    first = asked(model, [Image(PICTURE).with_gap((0, 0, 8, 8)), "a cat"], guidance=2.0)
    assert spelled(model, first.streams[1]) == ["</s>", "<mask:0>", "image", "<break>", "<mask:1>", "</s>"]


@pytest.mark.parametrize("prompt", [BOXED, Gap("image")], ids=["region", "picture"])
def test_without_words_there_is_nothing_to_guide_away_from(model: CM3Leon, prompt: Any) -> None:
    for settings in ({"guidance": 2.0}, {"contrast": "max"}):
        request = asked(model, prompt, **settings)
        assert len(request.streams) == 1 and request.sampling.guidance is None and request.sampling.contrast is None
    assert model.generate(prompt, guidance=2.0).image.size == (SIZE, SIZE)


def test_text_is_asked_for_in_the_order_of_training(model: CM3Leon) -> None:
    v = model.vocab
    described = asked(model, PICTURE, guidance=5.0)
    assert [spelled(model, s) for s in described.streams] == [["</s>", "<mask:0>", "<break>", "image", "</s>"]]
    assert described.plan == (Force((v.mask(0),)), FreeText(20, (v.eoss,)))
    continued = asked(model, ["a cat ", Gap()])
    assert [spelled(model, s) for s in continued.streams] == [["</s>", "TEXT"]]
    assert continued.plan == (FreeText(20, (v.eos, v.brk), min_tokens=1),)
    filled = asked(model, ["a ", Gap(), " cat ", Gap(), "."])
    assert [type(s) for s in filled.plan] == [Force, FreeText] * 2


def test_recommended_settings_go_by_kind_and_give_way(model: CM3Leon) -> None:
    bundle = tiny_model.bundle()
    bundle.sampling = {
        "image": {"guidance": 2.5, "temperature": 0.9},
        "region": {"guidance": 1.5},
        "text": {"top_p": 0.5},
    }
    model = CM3Leon(bundle)
    assert (asked(model, "a").sampling.guidance, asked(model, "a").sampling.temperature) == (2.5, 0.9)
    assert asked(model, ["a", BOXED]).sampling.guidance == 1.5
    assert asked(model, PICTURE).text_sampling.top_p == 0.5
    assert asked(model, "a", guidance=4.0).sampling.guidance == 4.0
    # Contrast without a number as guidance is the contrastive score itself.
    assert asked(model, "a", contrast="kmax", k=3).sampling.guidance is None
    assert asked(model, "a", contrast="kmax", k=3, guidance=2.0).sampling.guidance == 2.0


def pixels(image: PIL.Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def test_text_to_image(model: CM3Leon) -> None:
    made = model.generate("a red circle", n=3, seed=4)
    assert [i.size for i in made.images] == [(SIZE, SIZE)] * 3 and made.image is made.images[0]
    assert made.texts == ["a red circle"] * 3 and made.text == "a red circle"
    assert len(made.scores) == 3 and all(np.isfinite(s) and s < 0 for s in made.scores)
    assert len({i.tobytes() for i in made.images}) == 3
    assert made.prompt.parts == (Text("a red circle"), WHOLE)
    assert [type(p) for p in made.document.parts] == [Text, Image]


def test_image_to_text(model: CM3Leon) -> None:
    made = model.generate(PICTURE, seed=1)
    assert made.text and made.document.images == (Image(PICTURE),)
    assert model.generate([PICTURE, Gap()], seed=1).text


def test_text_infill_keeps_what_stands_around_it(model: CM3Leon) -> None:
    made = model.generate(["the first ", Gap(), " and the last"], seed=2, n=2)
    assert all(t.startswith("the first") and t.endswith("and the last") for t in made.texts)
    assert made.texts[0] != made.texts[1]
    with pytest.raises(RequestError, match="this generation holds text only; ask for a picture"):
        _ = made.images


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (8, 8, 24, 24), (20, 3, 32, 32), (0, 24, 32, 32), (0, 0, 32, 32)])
def test_region_infill_leaves_everything_outside_untouched(model: CM3Leon, box: tuple[int, int, int, int]) -> None:
    made = model.generate(["a red circle", Image(PICTURE).with_gap(box)], seed=3, guidance=2.0)
    x0, y0, x1, y1 = box[0] // 8 * 8, box[1] // 8 * 8, -(-box[2] // 8) * 8, -(-box[3] // 8) * 8
    inside = np.zeros((SIZE, SIZE), bool)
    inside[y0:y1, x0:x1] = True
    before, after = pixels(PICTURE), pixels(made.image)
    assert (before[~inside] == after[~inside]).all() and (before[inside] != after[inside]).any()
    # And the codes outside of it: those of the prompt, with the written ones in their holes.
    prompt = model.codec.encode_prompt(made.prompt)
    request = model._request(prompt, 0, 20, 1, {})
    written = {c for step in request.plan if isinstance(step, Codes) for c in step.cells}
    assert written == {1 + r * 4 + c for r in range(y0 // 8, y1 // 8) for c in range(x0 // 8, x1 // 8)}
    spans = [np.full(len(h.cells), model.vocab.image_start) for h in prompt.holes]
    whole = model.codec.unmask(prompt, spans)
    codes = whole.ids[model.vocab.is_image(whole.ids)] - model.vocab.image_start
    kept = np.asarray([i + 1 not in written for i in range(16)])
    assert (codes[kept] == model.codec.image.encode([PICTURE])[0].ravel()[kept]).all()


def test_interleaved_holes_of_both_kinds(model: CM3Leon) -> None:
    made = model.generate(["a ", Gap(), " cat", Gap("image"), "and at night", Gap("image")], seed=5, guidance=1.5)
    assert [type(p) for p in made.document.parts] == [Text, Image, Text, Image]
    assert made.document.images[0] != made.document.images[1]


def test_the_same_seed_gives_the_same_whatever_n_and_whatever_company(model: CM3Leon) -> None:
    prompts = ["a red circle", ["a ", Gap(), " star"], PICTURE, ["a cat", BOXED]]
    for prompt in prompts:
        three, one = model.generate(prompt, n=3, seed=9), model.generate(prompt, n=1, seed=9)
        assert one.document == three.documents[0]
        assert one.scores[0] == pytest.approx(three.scores[0], abs=1e-3)
        assert model.generate(prompt, seed=10).document != one.document
    seeds = [5, 6, 7, 8]
    together = model.generate_many(prompts, seeds=seeds, guidance=2.0)
    narrow = CM3Leon(tiny_model.bundle(), max_streams=2).generate_many(prompts, seeds=seeds, guidance=2.0)
    for prompt, seed, a, b in zip(prompts, seeds, together, narrow, strict=True):
        alone = model.generate_many([prompt], seeds=[seed], guidance=2.0)[0]
        assert a.document == alone.document == b.document


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance": 3.0},
        {"contrast": "max", "alpha": 0.5},
        {"contrast": "kmax", "k": 8, "alpha": 0.3},
        {"contrast": "kmax", "k": 8, "guidance": 2.0, "temperature": 0.7, "top_p": 0.9},
    ],
    ids=str,
)
def test_guidance_and_contrast_change_what_is_drawn(model: CM3Leon, settings: dict[str, Any]) -> None:
    guided, plain = model.generate("a red circle", seed=1, **settings), model.generate("a red circle", seed=1)
    assert guided.image.size == (SIZE, SIZE) and guided.image.tobytes() != plain.image.tobytes()
    assert model.generate("a red circle", seed=1, **settings).document == guided.document


def test_each_prompt_may_have_settings_of_its_own(model: CM3Leon) -> None:
    each: list[dict[str, Any]] = [
        {},
        {"guidance": 3.0},
        {"contrast": "kmax", "k": 8, "alpha": 0.3},
        {"temperature": 0.0},
    ]
    prompts, seeds = ["a red circle"] * 4, [1, 1, 1, 1]
    together = model.generate_many(prompts, seeds=seeds, each=each, temperature=0.8)
    alone = [model.generate("a red circle", seed=1, **{"temperature": 0.8, **own}) for own in each]
    assert [g.image.tobytes() for g in together] == [g.image.tobytes() for g in alone]
    assert len({g.image.tobytes() for g in together}) == 4
    with pytest.raises(RequestError, match="each: 3 for 4 prompts; give one for each"):
        model.generate_many(prompts, seeds=seeds, each=each[1:])
    with pytest.raises(RequestError, match="each: retrieve is no setting of how to sample; give it for all prompts"):
        model.generate_many(prompts[:1], seeds=[1], each=[{"retrieve": 2}])
    with pytest.raises(RequestError, match="image_guidance=2.0: is for editing"):
        model.generate_many(prompts[:1], seeds=[1], each=[{"image_guidance": 2.0}])


def test_greedy_needs_no_seed(model: CM3Leon) -> None:
    a, b = (model.generate("a red circle", seed=s, temperature=0.0).document for s in (1, 2))
    assert a == b


def test_progress_and_max_tokens(model: CM3Leon) -> None:
    totals = []
    for limit in (3, 8):
        seen: list[tuple[int, int]] = []
        model.generate(PICTURE, max_tokens=limit, n=2, progress=lambda *at, seen=seen: seen.append(at))
        assert seen[-1][0] == seen[-1][1] and [d for d, _ in seen] == sorted(d for d, _ in seen)
        totals.append(seen[-1][1])
    assert totals[1] - totals[0] == 2 * (8 - 3)


def test_logits_are_the_decoders(model: CM3Leon) -> None:
    tokens = model.codec.encode(Document.of("a cat", PICTURE, "and a dog", noise(1)))
    ids, cells = (torch.from_numpy(a.astype(np.int64))[None] for a in tokens)
    want = model.decoder(ids, torch.arange(ids.shape[1])[None], Causal(), cells)[0].detach()
    got = model.logits(tokens)
    assert got.shape == (tokens.length, model.vocab.size) and not got.requires_grad
    torch.testing.assert_close(got, want)
    # Plain ids of whole pictures find their cells themselves.
    for plain in (tokens.ids, tokens.ids.tolist(), ids[0]):
        torch.testing.assert_close(model.logits(plain), want)


def test_reconstruct(model: CM3Leon) -> None:
    pictures, codes = model.reconstruct([PICTURE, noise(1)])
    assert codes.shape == (2, *model.grid) and codes.max() < model.image_codes and model.image_size == SIZE
    assert [p.size for p in pictures] == [(SIZE, SIZE)] * 2 and (codes[0] != codes[1]).any()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.generate("a", n=0), RequestError, "n=0: must be an integer, 1 to 1000000"),
        (lambda m: m.generate("a", seed=-1), ConfigError, r"seed=-1: must be an integer, 0 to 2\*\*63 - 1"),
        (lambda m: m.generate("a", temperature=-1.0), ConfigError, "sampling.temperature=-1.0: must be"),
        (lambda m: m.generate("a", top_p=0.0), ConfigError, "sampling.top_p=0.0: must be"),
        (lambda m: m.generate("a", contrast="kmin"), ConfigError, "contrast='kmin': must be None, 'max' or 'kmax'"),
        (lambda m: m.generate("a", amateur_temperature=0.5), RequestError, "amateur_temperature=0.5: is of the stream"),
        (lambda m: m.generate("a", guidance=float("nan")), ConfigError, "sampling.guidance=nan: must be a finite"),
        (lambda m: m.generate("a", contrast="kmax", k=65), RequestError, "sampling.k=65: must be at most 64"),
        (lambda m: m.generate("a " * 300), RequestError, "this model's context is 160; shorten it"),
        (lambda m: m.generate(["a " * 300, Gap()]), RequestError, "this model's context is 160; shorten it"),
        (lambda m: m.generate([Gap() for _ in range(40)]), RequestError, "more than 16 holes"),
        (lambda m: m.generate("\ud800"), DataError, "surrogate"),
        (lambda m: m.generate_many(["a", "b"], seeds=[1]), RequestError, "seeds: 1 for 2 prompts; give one for each"),
        (lambda m: m.logits([]), RequestError, r"ids of shape \(0,\): must be one sequence of at least one id"),
        (lambda m: m.logits([[1, 2]]), RequestError, r"ids of shape \(1, 2\): must be one sequence"),
        (lambda m: m.logits([-1]), RequestError, "ids from -1 to -1: must lie in 0.."),
        (lambda m: m.logits([10**6]), RequestError, "ids from 1000000 to 1000000: must lie in"),
        (lambda m: m.logits([7] * 161), RequestError, "ids: 161 of them; this model has a context of 160"),
    ],
)  # fmt: skip
def test_refusals(model: CM3Leon, call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(model)


def test_load_by_folder(tmp_path: Path, model: CM3Leon) -> None:
    bundles.save(tiny_model.bundle(), tmp_path / "mine", torch.float32)
    loaded = CM3Leon.load(str(tmp_path / "mine"), max_streams=4)
    assert loaded.max_streams == 4
    assert loaded.generate("a red circle", seed=3).document == model.generate("a red circle", seed=3).document
    with pytest.raises(
        CheckpointError, match=r"not an embedded bundle \(scenes, stickers\); check the path, or give hf://owner/name$"
    ):
        CM3Leon.load(str(tmp_path / "other"))

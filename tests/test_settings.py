"""Settings by name: misspelt ones are refused, one seed gives one result, nothing is made twice, NaN is never drawn."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_model
import torch

import cm3
from cm3.document import Document, Gap, Image
from cm3.engine import Engine
from cm3.engine.budget import block_bytes
from cm3.errors import CheckpointError, Cm3Error, ConfigError, DataError, RequestError
from cm3.generate import CM3Leon, as_image
from cm3.generate.cm3leon import KEPT
from cm3.retrieval.live import Retriever

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
PICTURE = PIL.Image.fromarray(PIXELS)


@pytest.fixture(scope="module")
def model() -> CM3Leon:
    return CM3Leon(tiny_model.bundle(context=240))


def watch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each run of an engine serves, from now on."""
    served: list[int] = []
    add = Engine._queue
    run = Engine.run

    def counted(self: Engine, request: Any) -> int:
        served[-1] += 1
        return add(self, request)

    def started(self: Engine, *args: Any) -> Any:
        served.append(0)
        return run(self, *args)

    monkeypatch.setattr(Engine, "_queue", counted)
    monkeypatch.setattr(Engine, "run", started)
    return served


CALLS: dict[str, Any] = {
    "generate": lambda m, **s: m.generate("a", **s),
    "generate_many": lambda m, **s: m.generate_many(["a"], seeds=[0], **s),
    "describe": lambda m, **s: m.describe(PICTURE, **s),
    "edit": lambda m, **s: m.edit(PICTURE, "paint it", **s),
    "answer": lambda m, **s: m.answer(PICTURE, "what is it?", **s),
    "segment": lambda m, **s: m.segment(PICTURE, **s),
    "ask": lambda m, **s: m.ask("vqa2", {"image": PICTURE, "question": "what?"}, **s),
    "ask_many": lambda m, **s: m.ask_many("vqa2", [{"image": PICTURE, "question": "what?"}], seeds=[0], **s),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_misspelt_setting_is_refused_by_name(model: CM3Leon, name: str) -> None:
    for wrong, meant in (("temprature", "temperature"), ("max_token", "max_tokens"), ("candidate", "candidates")):
        with pytest.raises(ConfigError, match=f"^{wrong}: is no setting; there are .*Did you mean '{meant}'"):
            CALLS[name](model, **{wrong: 1})


def test_an_argument_of_another_method_is_no_setting(model: CM3Leon) -> None:
    for call, name in (("ask_many", "n"), ("ask_many", "seed"), ("generate_many", "template"), ("describe", "plan")):
        with pytest.raises(ConfigError, match=f"^{name}: is no setting; there are "):
            CALLS[call](model, **{name: 1})
    with pytest.raises(ConfigError, match="kind: is no setting"):
        CALLS["edit"](model, kind="edit")
    with pytest.raises(ConfigError, match="sed: is no setting; .* Did you mean 'seed'"):
        CALLS["generate"](model, sed=1)
    with pytest.raises(ConfigError, match="memroy: is no setting; there are name, memory, .*Did you mean 'memory'"):
        cm3.load("scenes", memroy="bank")  # type: ignore[call-arg]


@pytest.mark.slow
def test_a_type_checker_sees_misspelt_settings_too(tmp_path: Path) -> None:
    mypy = pytest.importorskip("mypy.api")
    file = tmp_path / "used.py"
    file.write_text(
        "import cm3\n"
        "m = cm3.load('scenes', device='cpu')\n"
        "m.generate('a', temperature=0.5, kind=None).image\n"
        "m.generate('a', temprature=0.5)\n"
        "m.describe('a.png', detial=True)\n"
        "m.edit('a.png', 'b', guidance='high')\n"
        "m.ask('vqa2', {}, candidate=3)\n"
        "cm3.load('scenes', devise='cpu')\n"
    )
    # What other packages say of themselves is not read: torch alone would take most of the time.
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nfollow_imports = silent\n[mypy-torch.*,numpy.*,transformers.*]\nfollow_imports = skip\n")
    told, *_ = mypy.run(["--no-incremental", "--config-file", str(config), "--cache-dir", str(tmp_path), str(file)])
    found = sorted({int(line.split(":")[1]) for line in told.splitlines() if ": error:" in line})
    assert found == [4, 5, 6, 7, 8], told


BAD: list[tuple[dict[str, Any], type[Cm3Error], str]] = [
    ({"max_tokens": 0}, RequestError, "max_tokens=0: must be an integer, at least 1"),
    ({"max_tokens": 2.0}, RequestError, "max_tokens=2.0: must be an integer"),
    ({"max_tokens": True}, RequestError, "max_tokens=True: must be an integer"),
    ({"max_tokens": None}, RequestError, "max_tokens=None: must be an integer"),
    ({"candidates": 2.0}, RequestError, "candidates=2.0: must be an integer"),
    ({"candidates": 10**12}, RequestError, "candidates=1000000000000: must be an integer, 1 to 1000000"),
    ({"retrieve": 1.0}, RequestError, "retrieve=1.0: must be an integer, 0 to 3 documents"),
    ({"retrieve": True}, RequestError, "retrieve=True: must be an integer, 0 to 3 documents"),
    ({"retrieve": "1"}, RequestError, "retrieve='1': must be an integer, 0 to 3 documents"),
    ({"temperature": True}, ConfigError, "sampling.temperature=True: must be"),
    ({"contrast": "kmax", "k": 2.0}, ConfigError, "sampling.k=2.0: must be an integer, at least 1"),
    ({"contrast": "kmax", "k": 65}, RequestError, "sampling.k=65: must be at most 64, the ids to draw from"),
    ({"contrast": "kmax", "k": 10**30}, RequestError, "sampling.k=1000000.* must be at most 64, the ids to draw from"),
    ({"k": 5}, RequestError, "k=5: is for contrastive decoding; give contrast='kmax' with it, or leave it out"),
    ({"contrast": "max", "k": 5}, RequestError, "k=5: is for contrastive decoding; give contrast='kmax' with it"),
    ({"alpha": 0.5}, RequestError, "alpha=0.5: is for contrastive decoding"),
    ({"guidance": float("nan")}, ConfigError, "sampling.guidance=nan: must be a finite number"),
    ({"guidance": 1e39}, ConfigError, "sampling.guidance=1e\\+39: must be a finite number, -1e6 to 1e6"),
    ({"n": 2.0}, RequestError, "n=2.0: must be an integer, 1 to 1000000"),
    ({"n": 10**18}, RequestError, "n=1000000000000000000: must be an integer, 1 to 1000000"),
    ({"n": True}, RequestError, "n=True: must be an integer"),
    ({"seed": 1.0}, ConfigError, "seed=1.0: must be an integer, 0 to 2\\*\\*63 - 1"),
    ({"seed": 2**63}, ConfigError, "seed=9223372036854775808: must be an integer"),
    ({"seed": None}, ConfigError, "seed=None: must be an integer"),
]


@pytest.mark.parametrize(("settings", "error", "message"), BAD, ids=str)
def test_numbers_of_another_kind_are_refused(
    model: CM3Leon, settings: dict[str, Any], error: type[Cm3Error], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        model.generate("a red circle", **settings)


def test_extreme_numbers_that_are_allowed_make_pictures(model: CM3Leon) -> None:
    for settings in (
        {"guidance": 1e6}, {"guidance": -1e6}, {"contrast": "kmax", "k": 64, "alpha": 1e-320}, {"temperature": 1e308},
        {"top_p": 5e-324}, {"contrast": "max", "amateur_temperature": 1e-6}, {"seed": 2**63 - 1},
        {"temperature": 1e-310},
    ):  # fmt: skip
        assert model.generate("a red circle", candidates=1, **settings).image.size == (32, 32)
    assert len(model.generate([Gap()], max_tokens=10**30).filled) == 1
    with pytest.raises(ConfigError, match="max_streams=0: must be an integer, at least 1"):
        CM3Leon(tiny_model.bundle(), max_streams=0)


def test_one_seed_is_one_result_however_it_is_asked_for(model: CM3Leon) -> None:
    for prompt in ("a red circle", [Gap(), PICTURE], ["a ", Gap(), " star"]):
        for settings in ({}, {"candidates": 3, "temperature": 1.0}):
            for seed in (0, 7):
                one = model.generate(prompt, seed=seed, max_tokens=8, **settings)
                (many,) = model.generate_many([prompt], seeds=[seed], max_tokens=8, **settings)
                assert one.document == many.document == model.generate(
                    prompt, 2, seed=seed, max_tokens=8, **settings
                ).document  # fmt: skip
    drawn = model.generate("a red circle", 4, seed=0, candidates=2, temperature=1.0).images
    assert len({picture.tobytes() for picture in drawn}) == 4
    (reply,) = model.ask_many("edit", [{"image1": PICTURE, "instruction": "paint it"}], seeds=[5])
    assert reply.image.tobytes() == model.edit(PICTURE, "paint it", seed=5).image.tobytes()


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 1e-9}], ids=str)
def test_without_chance_one_is_made(model: CM3Leon, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    served = watch(monkeypatch)
    scored: list[int] = []
    monkeypatch.setattr("cm3.generate.cm3leon.log_likelihoods", lambda *args: scored.append(1))
    alone = model.generate(PICTURE, max_tokens=5, candidates=1, **settings)
    many = model.generate(PICTURE, 3, max_tokens=5, candidates=8, **settings)
    assert many.texts == alone.texts * 3 and served == [1, 1] and not scored
    prompts = ["a red circle", "a blue star", "a red circle"]
    made = model.generate_many(prompts, seeds=[1, 2, 3], candidates=4, **settings)
    assert served[2:] == [2] and made[0].document == made[2].document != made[1].document


def test_candidates_are_made_where_any_part_is_left_to_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny_model.bundle(context=240)
    bundle.sampling = {"text": {"temperature": 0.0, "candidates": 3}, "image": {"temperature": 1.0, "candidates": 3}}
    served = watch(monkeypatch)
    model = CM3Leon(bundle)
    model.generate(PICTURE, max_tokens=4)
    model.generate(["a ", Gap(), " star", Gap("image")], max_tokens=4)
    model.generate(PICTURE, max_tokens=4, temperature=1.0)
    assert served == [1, 3, 3]


def test_one_engine_serves_call_after_call(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Engine] = []
    init = Engine.__init__
    monkeypatch.setattr(
        Engine, "__init__", lambda self, *args, **more: (made.append(self), init(self, *args, **more))[1]
    )
    model = CM3Leon(tiny_model.bundle(context=240))
    asks: list[Any] = ["a red circle", PICTURE, ["a ", Gap(), " star", Gap("image")], "a"]
    for prompt in (*asks, *asks[::-1]):
        kept = model.generate(prompt, 2, seed=3, max_tokens=6, guidance=2.0)
        fresh = CM3Leon(model.bundle).generate(prompt, 2, seed=3, max_tokens=6, guidance=2.0)
        assert kept.documents == fresh.documents and kept.scores == pytest.approx(fresh.scores)
    assert len(made) == 1 + 8 and 0 < made[0].memory <= KEPT
    model.decoder.double()
    assert model.generate("a red circle", seed=3).document and len(made) == 9, "the cache follows its decoder"
    model.decoder.float()
    monkeypatch.setattr("cm3.generate.cm3leon.KEPT", 0)
    for number in (9, 10):  # it is too large to be kept
        assert model.generate("a red circle", seed=3).document and len(made) == number


def test_a_model_that_keeps_reads_on_from_where_a_prompt_before_began(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny_model.bundle(context=240)
    model, plain = CM3Leon(bundle, keep_gb=1.0), CM3Leon(bundle)
    long = "a red circle and a blue star on a green ground with a small square " * 4
    prompts: list[Any] = [[long, Gap()], [long + "and a ", Gap()], [long, PICTURE, Gap()]]
    monkeypatch.setattr("cm3.generate.cm3leon.KEPT", 0)
    for prompt in prompts:
        for seed in (1, 2):
            ask: dict[str, Any] = {"seed": seed, "max_tokens": 6}
            kept, fresh = model.generate(prompt, **ask), plain.generate(prompt, **ask)
            assert kept.documents == fresh.documents and kept.scores == pytest.approx(fresh.scores, abs=1e-4)
    (engine,) = model._idle
    assert engine.load.kept and not plain._idle
    (prepared,) = model.prepare(prompts[:1], seeds=[3])
    assert engine.run(prepared.requests)[0].cached >= 64
    assert not model.new_engine(keep_gb=0)._schedule.keep and plain.new_engine(keep_gb=1.0)._schedule.keep
    for wrong in (-1, float("nan"), "much"):
        with pytest.raises(ConfigError, match="keep_gb=.*0 to 1e6 gigabytes"):
            CM3Leon(bundle, keep_gb=wrong)  # type: ignore[arg-type]


def test_memory_of_keys_and_values_is_bounded_and_changes_nothing() -> None:
    bundle = tiny_model.bundle(context=240)
    free = CM3Leon(bundle)
    prompts: list[Any] = ["a red circle", PICTURE, ["a ", Gap(), " star", Gap("image")], "a"] * 3
    ask: dict[str, Any] = {"seeds": range(12), "max_tokens": 6, "guidance": 2.0}
    want = free.generate_many(prompts, **ask)
    least = 2 * 4 * block_bytes(bundle.decoder, None)  # two streams of the whole context
    small = CM3Leon(bundle, cache_gb=least / 1e9)
    for _ in range(2):
        made = small.generate_many(prompts, **ask)
        assert [m.document for m in made] == [w.document for w in want]
        (engine,) = small._idle
        assert 0 < engine.memory <= least < free._idle[0].memory and engine.reserved == 0
    with pytest.raises(
        RequestError, match=r"^request: 2 x \d+ tokens of keys and values take .* cache_gb=1e-06; raise"
    ):
        CM3Leon(bundle, cache_gb=1e-6).generate("a red circle", guidance=2.0)
    for bad in (0, -1.0, float("inf"), "1", True):
        with pytest.raises(ConfigError, match="^cache_gb=.*: must be above 0 and at most 1e6 gigabytes"):
            CM3Leon(bundle, cache_gb=bad)
    with pytest.raises(ConfigError, match="^cache_dtype='int16': must be one of auto, .* Did you mean 'int8'"):
        CM3Leon(bundle, cache_dtype="int16")
    assert CM3Leon(bundle, cache_dtype="bfloat16").generate("a star", seed=3).images


def test_an_engine_that_failed_or_is_at_work_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CM3Leon(tiny_model.bundle(context=240))
    want = model.generate("a star", seed=3).document
    first = model._idle[0]

    def nested(done: int, total: int) -> None:
        assert first not in model._idle and model.generate("a star", seed=3).document == want

    assert model.generate("a star", seed=3, progress=nested).document == want

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.generate("a star", progress=interrupt)
    assert first not in model._idle and model.generate("a star", seed=3).document == want


def test_nothing_is_compared_where_nothing_is_retrieved(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Document, *args: object) -> Any:
        raise AssertionError("prompts were compared")

    monkeypatch.setattr(Image, "__hash__", never)
    monkeypatch.setattr(Image, "__eq__", never)
    prompts = [Document.of(PICTURE, str(i)) for i in range(3)]
    assert Retriever().find(prompts, 0) == [[], [], []]
    with pytest.raises(RequestError, match="retrieve=4: must be an integer, 0 to 3"):
        Retriever().find(prompts, 4)


GIVEN: dict[str, Any] = {
    "pil": lambda path: PICTURE,
    "image": lambda path: Image(PICTURE),
    "path": lambda path: path,
    "string": str,
    "array": lambda path: PIXELS,
}


@pytest.mark.parametrize("given", GIVEN)
def test_every_method_takes_a_picture_in_every_form(model: CM3Leon, tmp_path: Path, given: str) -> None:
    PICTURE.save(tmp_path / "picture.png")
    picture = GIVEN[given](tmp_path / "picture.png")
    for ask in (
        lambda p: model.describe(p, max_tokens=4).text,
        lambda p: model.answer(p, "what is it?", max_tokens=4).text,
        lambda p: model.ask("coco_captions", {"image": p}, max_tokens=4).text,
        lambda p: model.ask_many("depth", [{"caption": "a", "depth": p}], seeds=[1])[0].image.tobytes(),
        lambda p: model.edit(p, "paint it").image.tobytes(),
        lambda p: model.segment(p).image.tobytes(),
        lambda p: model.ask("canny", {"edge": p, "caption": "a star"}).image.tobytes(),
        lambda p: model.reconstruct([p])[0][0].tobytes(),
    ):  # fmt: skip
        assert ask(picture) == ask(PICTURE)
    if given != "string":  # which is words
        assert model.generate(picture, max_tokens=4).document == model.generate(PICTURE, max_tokens=4).document
        assert (
            model.generate([picture, Gap()], max_tokens=4).text == model.generate([PICTURE, Gap()], max_tokens=4).text
        )


def test_arrays_of_grey_and_of_transparent_pictures(tmp_path: Path) -> None:
    for shape, mode in (((4, 6), "L"), ((4, 6, 3), "RGB"), ((4, 6, 4), "RGBA")):
        array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        made = as_image(array[:, ::-1])
        assert (made.pixels.mode, made.pixels.size) == (mode, (6, 4))
        assert np.array_equal(np.asarray(made.pixels), array[:, ::-1])
        array[:] = 0
        assert np.asarray(made.pixels).any(), "a copy"


WRONG: list[tuple[Any, type[Cm3Error], str]] = [
    (np.zeros((4, 4, 3)), DataError, r"picture: array of float64 \(4, 4, 3\); must be uint8 \(height, width\), "),
    (np.zeros((3, 4, 5), np.uint8), DataError, r"picture: array of uint8 \(3, 4, 5\); must be uint8"),
    (np.zeros((0, 4, 3), np.uint8), DataError, r"picture: array of uint8 \(0, 4, 3\)"),
    (np.zeros(4, np.uint8), DataError, r"picture: array of uint8 \(4,\)"),
    ("nothing.png", DataError, "image 'nothing.png': no such file"),
    (Path("nothing.png"), DataError, "image 'nothing.png': no such file"),
    (None, RequestError, "picture: is a PIL image, an Image, a path or an array, not NoneType"),
    (b"bytes", RequestError, "picture: is a PIL image, an Image, a path or an array, not bytes"),
    ([PICTURE], RequestError, "picture: is a PIL image, an Image, a path or an array, not list"),
]


@pytest.mark.parametrize(("picture", "error", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_picture_is_refused(model: CM3Leon, picture: Any, error: type[Cm3Error], message: str) -> None:
    for call in (model.describe, lambda p: model.edit(p, "a"), lambda p: model.reconstruct([p])):
        with pytest.raises(error, match=message):
            call(picture)
    with pytest.raises(RequestError, match="prompt: is a string, a picture or a list of them, not dict"):
        model.generate({"a": 1})


def spoiled(which: str, value: float) -> CM3Leon:
    """The tiny model with one weight that is no number, or is too large for what follows."""
    bundle = tiny_model.bundle(context=240)
    bundle.vqgan = copy.deepcopy(bundle.vqgan)
    with torch.no_grad():
        weights = list(getattr(bundle, which).parameters())
        weights[-1].view(-1)[0] = value
    return CM3Leon(bundle)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_told_and_not_drawn(value: float) -> None:
    told = "^image tokenizer: .* has values that are not finite, .*; restore it, or train it again$"
    for call in (
        lambda m: m.generate("a red circle"),
        lambda m: m.generate(PICTURE),
        lambda m: m.reconstruct([PICTURE]),
        lambda m: m.edit(PICTURE, "paint it"),
    ):
        with pytest.raises(CheckpointError, match=told):
            call(spoiled("vqgan", value))
    model = spoiled("decoder", value)
    model.decoder.embed.weight.data[:] = value
    with pytest.raises(RequestError, match="the model gave logits that are not finite"):
        model.logits([model.vocab.eos, model.vocab.brk])
    with pytest.raises(RequestError, match="the model gave logits that are not finite"):
        model.generate("a red circle")


def test_pixels_that_are_no_numbers_are_told_and_not_drawn() -> None:
    model = spoiled("vqgan", 0.0)
    with torch.no_grad():
        for weight in model.bundle.vqgan.decoder.parameters():
            weight.mul_(1e38)
    with pytest.raises(CheckpointError, match="image tokenizer: gave pixels that are not finite; train it again"):
        model.generate("a red circle")


def test_loading_brings_no_compiler() -> None:
    """It takes seconds to import, and generation has no use for it."""
    code = "import cm3.generate, sys; sys.exit('torch.nn.attention.varlen' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

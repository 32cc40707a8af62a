"""A model computes where it is put, and gives there what it gives on a processor."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_model
import torch
from second_device import DEVICE, Held, SecondDevice
from torch import Tensor

import cm3
from cm3.document import Document, Gap, Image
from cm3.errors import ConfigError
from cm3.generate import CM3Leon, Generation
from cm3.generate.rank import log_likelihoods
from cm3.model.attention import Blocked, Causal
from cm3.model.vqgan import VQGAN
from cm3.tokens.image import ImageTokenizer
from cm3.tokens.on_disk import fingerprint
from cm3.weights import on_device, settled

PICTURE = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
OTHER = PIL.Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def bundle(**changes: Any) -> Any:
    """The tiny model, its decoder in double precision, so that another order of sums changes no draw."""
    made = tiny_model.bundle(context=240, **changes)
    made.decoder.double()
    made.vqgan = copy.deepcopy(made.vqgan)  # the tests share one
    return made


def test_the_second_device_computes_and_refuses_what_a_gpu_refuses() -> None:
    with SecondDevice():
        there, here = torch.arange(4, device=DEVICE), torch.arange(4)
        assert there.device == DEVICE and not there.is_cpu and isinstance(there, Held)
        assert ((there + 1) * torch.tensor(2)).tolist() == [2, 4, 6, 8] and int(there.sum()) == 6
        assert isinstance(here.to(DEVICE), Held) and not isinstance(there.cpu(), Held)
        assert torch.tensor([1.5, 2.5], device=DEVICE).tolist() == [1.5, 2.5]
        for mixed in (lambda: there + here, lambda: there[here], lambda: torch.stack([there, here])):
            with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
                mixed()
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        linear = torch.nn.Linear(4, 2).to(DEVICE)
        assert linear(torch.ones(1, 4, device=DEVICE)).device == DEVICE
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            linear(torch.ones(1, 4))


ASKS: dict[str, Callable[[CM3Leon], Generation]] = {
    "picture": lambda m: m.generate(["a cat", Image(PICTURE).with_gap((0, 0, 9, 9))], seed=3, guidance=2.0),
    "contrast": lambda m: m.generate(["a", Image(PICTURE).with_gap((0, 0, 9, 9))], contrast="kmax", k=8, top_p=0.9),
    "greedy": lambda m: m.generate(PICTURE, temperature=0.0, max_tokens=5),
    "candidates": lambda m: m.generate(["a ", Gap(), " star"], seed=2, max_tokens=5, candidates=2),
    "documents": lambda m: m.generate(["a ", Gap()], seed=3, max_tokens=3, documents=[Document.of("a dog", OTHER)]),
    "edit": lambda m: m.edit(PICTURE, "paint it", seed=4).generation,
}


@pytest.mark.parametrize("name", ASKS)
def test_what_a_model_makes_does_not_depend_on_its_device(name: str) -> None:
    shape = {"kv_heads": 1} if name in ("candidates", "greedy") else {}
    here = CM3Leon(bundle(**shape))
    with SecondDevice():
        there = CM3Leon(bundle(**shape), device=DEVICE)
        assert there.device == DEVICE and next(there.bundle.vqgan.parameters()).device == DEVICE
        want, got = ASKS[name](here), ASKS[name](there)
    assert got.document.text == want.document.text
    shown = [[i.pixels.tobytes() for i in one.document.images] for one in (got, want)]
    assert shown[0] == shown[1]
    assert got.scores == pytest.approx(want.scores, rel=1e-6)


def test_logits_likelihoods_and_pictures_on_another_device() -> None:
    here = CM3Leon(bundle())
    tokens = here.codec.encode(Document.of("a cat", PICTURE))
    with SecondDevice():
        there = CM3Leon(bundle(), device=DEVICE)
        want = here.logits(tokens)
        for ids in (tokens, tokens.ids.tolist(), torch.from_numpy(tokens.ids), torch.from_numpy(tokens.ids).to(DEVICE)):
            got = there.logits(ids)
            assert got.device == DEVICE
            torch.testing.assert_close(got.cpu(), want)
        both = [log_likelihoods(model.decoder, [tokens, tokens.slice(0, 9)], [1, 3]) for model in (here, there)]
        assert both[0] == pytest.approx(both[1])
        (pictures, codes), (wanted, grids) = there.reconstruct([PICTURE, OTHER]), here.reconstruct([PICTURE, OTHER])
        assert np.array_equal(codes, grids) and [p.tobytes() for p in pictures] == [p.tobytes() for p in wanted]
        assert fingerprint(there._image) == fingerprint(here._image)


@pytest.mark.parametrize("rows", [[[1, 1, 1, 2, 2, 3, 0, 0], [1] * 8], [[1] * 7 + [2], [3, 4, 5, 6, 7, 8, 9, 10]]])
def test_packed_documents_attend_on_another_device(rows: list[list[int]]) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 8, 4, generator=generator, dtype=torch.float64)
    k, v = (torch.randn(2, 2, 8, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    want = torch.zeros_like(q)
    for row, numbers in enumerate(rows):
        for number in set(numbers):
            own = [i for i, n in enumerate(numbers) if n == number]
            want[row, :, own] = Causal()(
                0, q[row : row + 1, :, own], k[row : row + 1, :, own], v[row : row + 1, :, own]
            )[0]
    with SecondDevice():
        documents, *there = (x.to(DEVICE) for x in (torch.tensor(rows), q, k, v))
        got: Tensor = Blocked(documents)(0, *there)
        assert got.device == DEVICE
        torch.testing.assert_close(got.cpu(), want)


@pytest.mark.parametrize("device", ["nowhere", "", "meta", "cuda:99", 1.5])
def test_a_device_that_is_not_there_is_told_in_a_line(device: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"^device='.*': cannot be used \(.*\); give cpu, or cuda where there is one$"
    ):
        CM3Leon(bundle(), device=device)


@pytest.mark.parametrize("dtype", ["float8", "", "double", torch.float64, 16])
def test_a_dtype_that_is_not_there_is_told_in_a_line(dtype: Any) -> None:
    with pytest.raises(ConfigError, match=r"^dtype='.*': must be one of auto, float32, bfloat16, float16, int8\."):
        CM3Leon(bundle(), dtype=dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, "float32", "auto"])
def test_a_language_model_of_any_precision_draws_ranks_and_scores(dtype: Any) -> None:
    want = torch.float32 if dtype == "auto" else getattr(torch, str(dtype).removeprefix("torch."))
    shape = {"kv_heads": 1, "norm": "rms", "qk_norm": True, "activation": "swiglu"}
    exact = CM3Leon(bundle(**shape))
    with SecondDevice():
        for device in (None, DEVICE):
            model = CM3Leon(bundle(**shape), device=device, dtype=dtype)
            assert {p.dtype for p in model.decoder.parameters()} == {want}
            assert next(model.bundle.vqgan.parameters()).dtype == torch.float32, "codes are those of any device"
            tokens = model.codec.encode(Document.of("a cat", PICTURE))
            assert tokens.ids.tolist() == exact.codec.encode(Document.of("a cat", PICTURE)).ids.tolist()
            logits = model.logits(tokens)
            assert logits.dtype == torch.float32
            torch.testing.assert_close(logits.cpu().double(), exact.logits(tokens).double(), atol=0.5, rtol=0.1)
            for name in ("picture", "contrast", "candidates"):
                made = ASKS[name](model)
                assert made.document.text and np.isfinite(made.scores).all()


def test_auto_is_the_processor_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert CM3Leon(bundle(), device="auto").device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert settled("auto") == "cuda" and settled("cpu") == "cpu" and settled(None) is None


def test_an_image_tokenizer_of_any_precision() -> None:
    for quantizer, more in (("fsq", {}), ("vq", {"levels": (), "code_dim": 4}), ("l2", {"levels": (), "code_dim": 4})):
        vqgan = VQGAN(replace(tiny_model.SHAPE, quantizer=quantizer, **more)).eval()  # type: ignore[arg-type]
        tokenizer = ImageTokenizer(on_device(vqgan, None, "bfloat16"), 32)
        codes = tokenizer.encode([PICTURE, OTHER])
        assert tokenizer.decode(codes)[0].size == (32, 32) and np.array_equal(tokenizer.encode([PICTURE]), codes[:1])


def test_without_a_device_a_model_stays_where_it_is() -> None:
    assert cm3.load("scenes").device == torch.device("cpu") == CM3Leon(bundle(), device="cpu").device
    with pytest.raises(ConfigError, match="device='nowhere': cannot be used"):
        cm3.load("scenes", device="nowhere")
    with SecondDevice():
        made = bundle()
        made.decoder.to(DEVICE)
        assert CM3Leon(made).device == DEVICE

"""The two networks as one module: the first README's snippet, and that its logits mean what they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from forks import python
from tiny_model import SHAPE, stir

from cm3.errors import ConfigError, DataError
from cm3.model import CM3, CM3Config
from cm3.model.attention import Causal
from cm3.model.decoder import DecoderConfig
from cm3.vocab import Vocab

SNIPPET = """
import torch
from cm3.model import CM3
img = torch.randn(1, 3, 256, 256)
caption = torch.randint(0, 20000, (1, 1024))
model = CM3()
output = model(img, caption)
print(output.shape)  # (1, 1024, 20000)
"""
VOCAB = Vocab(text=300, image=64, masks=4, reserved=0)


def model(quantizer: str = "fsq", grid: tuple[int, int] | None = None) -> CM3:
    """32 px to 4 x 4 codes, 300 text ids; every token depends on all before it."""
    shape = replace(SHAPE, quantizer=quantizer, levels=SHAPE.levels if quantizer == "fsq" else (), code_dim=4)
    decoder = DecoderConfig(vocab_size=VOCAB.size, d_model=32, layers=2, heads=4, context=40, grid=grid)
    torch.manual_seed(0)
    made = CM3(CM3Config(VOCAB, decoder, shape))
    stir(made.decoder)
    return made


def inputs(b: int = 2, t: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.rand(b, 3, 32, 32, generator=g) * 2 - 1, torch.randint(300, (b, t), generator=g)


@pytest.mark.slow
def test_the_snippet_word_for_word() -> None:
    done = python("-c", SNIPPET, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "torch.Size([1, 1024, 20000])\n"


def test_logits_are_of_the_caption_given_the_image() -> None:
    """The same as the decoder over `</s> image <break> caption`, text columns only, shifted by one."""
    cm3 = model(grid=(4, 4))
    image, caption = inputs()
    codes = cm3.image_tokenizer.encode(image).flatten(1)
    b, n = codes.shape
    ids = torch.cat(
        [
            torch.full((b, 1), VOCAB.eos),
            codes + VOCAB.image_start,
            torch.full((b, 1), VOCAB.brk),
            caption + VOCAB.text_start,
        ],
        dim=1,
    )
    cells = torch.zeros_like(ids)
    cells[:, 1 : n + 1] = torch.arange(1, n + 1)
    logits = cm3.decoder(ids, torch.arange(ids.shape[1]).expand(b, -1), Causal(), cells)
    want = logits[:, n + 1 : -1, VOCAB.text_start : VOCAB.image_start]
    assert want.shape == (2, 9, 300)
    torch.testing.assert_close(cm3(image, caption), want)


@pytest.mark.parametrize("at", range(9))
def test_an_entry_sees_the_words_before_it_and_not_its_own(at: int) -> None:
    cm3 = model()
    image, caption = inputs()
    other = caption.clone()
    other[0, at] = (other[0, at] + 1) % 300
    differs = (cm3(image, caption) != cm3(image, other)).any(-1)
    assert differs[0].tolist() == [i > at for i in range(9)] and not differs[1].any()


def test_every_entry_sees_the_image() -> None:
    cm3 = model()
    image, caption = inputs()
    other = image.clone()
    other[0] = -other[0]
    differs = (cm3(image, caption) != cm3(other, caption)).any(-1)
    assert differs[0].all() and not differs[1].any()


@pytest.mark.parametrize("quantizer", ["fsq", "ema", "l2"])
def test_the_image_tokenizer_is_frozen(quantizer: str) -> None:
    """Also its codebook, which an `ema` quantiser moves without gradients when in training mode."""
    cm3 = model(quantizer).train()
    before = {k: v.clone() for k, v in cm3.image_tokenizer.state_dict().items()}
    image, caption = inputs()
    first = cm3(image, caption)
    first.sum().backward()
    assert cm3.training and cm3.decoder.training and not cm3.image_tokenizer.training
    assert all(torch.equal(v, before[k]) for k, v in cm3.image_tokenizer.state_dict().items())
    assert torch.equal(cm3(image, caption), first)
    assert all(p.grad is None for p in cm3.image_tokenizer.parameters())
    assert all(p.grad is not None for p in cm3.decoder.parameters())


@pytest.mark.parametrize(
    ("image", "caption", "message"),
    [
        (
            (1, 3, 32, 32),
            torch.zeros(2, 5, dtype=torch.long),
            r"caption \(2, 5\): must be \(b, t\) with the image's b=1",
        ),
        ((1, 3, 32, 32), torch.zeros(5, dtype=torch.long), r"caption \(5,\): must be \(b, t\)"),
        ((1, 3, 32, 32), torch.tensor([[0, 300]]), "caption: ids must be text ids in 0..299"),
        ((1, 3, 32, 32), torch.tensor([[-1]]), "caption: ids must be text ids in 0..299"),
        ((1, 3, 32, 32), torch.zeros(1, 23, dtype=torch.long), "make 41 tokens: the context is 40"),
        ((1, 3, 30, 32), torch.zeros(1, 5, dtype=torch.long), "multiples of 8"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(image: tuple[int, ...], caption: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        model()(torch.zeros(image), caption)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab": Vocab(text=256)}, "decoder.vocab_size=.* must be the vocabulary's"),
        (
            {"image_tokenizer": replace(SHAPE, codes=16_384, levels=(4, 4, 1024))},
            "vocab.image=8192: must hold .* 16384",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CM3Config(**values)

"""A random model of the paper's 350M size generates on a processor: guided image codes and text, within the grammar."""

from __future__ import annotations

import torch

from cm3.engine import Codes, Engine, Force, FreeText, Request, Sampling
from cm3.model.decoder import Decoder
from cm3.model.sizes import parameters, size
from cm3.vocab import Tokens, Vocab


def test_350m_generates_on_a_processor() -> None:
    vocab = Vocab()
    config = size("350m", vocab_size=vocab.size)
    assert 370e6 < parameters(config) < 376e6
    with torch.device("meta"):
        decoder = Decoder(config)
    # Drawing 373M truncated normals takes most of a minute; plain small numbers do as well for a random model.
    decoder = decoder.to_empty(device="cpu").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.uniform_(-0.02, 0.02)
    prompt = Tokens.of([vocab.eos, vocab.text_start + 5, vocab.text_start + 70, vocab.brk])
    unconditional = Tokens.of([vocab.eos, vocab.mask(0), vocab.brk])
    plan = (Codes.image(6), Force((vocab.brk,)), FreeText(3, (vocab.eos,)))
    request = Request((prompt, unconditional), plan, Sampling(guidance=3.0, seed=1))
    first, second = Engine(decoder, vocab, max_streams=4).run([request, request])
    image, text = first.spans
    assert image.length == 6 and bool(vocab.is_image(image.ids).all())
    assert 0 <= text.length <= 3 and bool(vocab.is_text(text.ids).all())
    assert first.tokens.ids.tolist() == second.tokens.ids.tolist()

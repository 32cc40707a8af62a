"""CM3: the image tokenizer and the decoder as one module, for the shortest possible experiment.

    CM3()(image, caption) -> logits of the caption given the image's tokens

For real work see `cm3.load` (generation) and `cm3.train` (training); this is the two networks and the sequence
`</s> image <break> caption`, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cm3.errors import ConfigError, DataError
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.sizes import size
from cm3.model.vqgan import VQGAN, VQGANConfig, paper
from cm3.vocab import Vocab


def _decoder() -> DecoderConfig:
    return size("small", vocab_size=Vocab(text=20_000).size)


def _vqgan() -> VQGANConfig:
    return paper(channels=32)


@dataclass(frozen=True)
class CM3Config:
    """The default takes 256 px images to 1,024 codes of 8,192, 20,000 text ids, and fits a laptop (about 50M).

    Raises `ConfigError` when the parts do not fit together.
    """

    vocab: Vocab = field(default_factory=lambda: Vocab(text=20_000))
    decoder: DecoderConfig = field(default_factory=_decoder)
    image_tokenizer: VQGANConfig = field(default_factory=_vqgan)

    def __post_init__(self) -> None:
        if self.decoder.vocab_size != self.vocab.size:
            raise ConfigError(
                f"decoder.vocab_size={self.decoder.vocab_size}: must be the vocabulary's {self.vocab.size}"
            )
        if self.image_tokenizer.codes > self.vocab.image:
            raise ConfigError(
                f"vocab.image={self.vocab.image}: must hold the tokenizer's {self.image_tokenizer.codes} codes"
            )


class CM3(nn.Module):
    """VQGAN + Decoder. The image tokenizer is frozen: codes carry no gradient."""

    def __init__(self, config: CM3Config | None = None) -> None:
        super().__init__()
        self.config = config or CM3Config()
        self.vocab = self.config.vocab
        self.image_tokenizer = VQGAN(self.config.image_tokenizer).requires_grad_(False).eval()
        self.decoder = Decoder(self.config.decoder)

    def train(self, mode: bool = True) -> CM3:
        """Set the decoder's mode. The image tokenizer stays in evaluation: in training its codebook would move."""
        super().train(mode)
        self.image_tokenizer.eval()
        return self

    def forward(self, image: Tensor, caption: Tensor) -> Tensor:
        """Return logits (b, t, text) over the text vocabulary for every caption position, given the image.

        image (b, 3, H, W) float in [-1, 1], H and W multiples of the tokenizer's factor; caption (b, t) int64 text ids
        in [0, vocab.text). Entry [:, i] predicts caption[:, i] from the image and caption[:, :i]. Raises `DataError`
        for ids out of range, or a sequence longer than the decoder's context.
        """
        if caption.dim() != 2 or caption.shape[0] != image.shape[0]:
            raise DataError(f"caption {tuple(caption.shape)}: must be (b, t) with the image's b={image.shape[0]}")
        if caption.numel() and not (0 <= int(caption.min()) and int(caption.max()) < self.vocab.text):
            raise DataError(f"caption: ids must be text ids in 0..{self.vocab.text - 1}")
        codes = self.image_tokenizer.encode(image).flatten(1)  # (b, H/f * W/f)
        (b, n), t = codes.shape, caption.shape[1]
        length = n + 2 + t
        if length > self.config.decoder.context:
            raise DataError(f"image and caption make {length} tokens: the context is {self.config.decoder.context}")
        edge = torch.tensor([[self.vocab.eos]], device=codes.device).expand(b, 1)
        turn = torch.full_like(edge, self.vocab.brk)
        # The last caption token predicts nothing that is asked for, so it is not fed.
        ids = torch.cat([edge, codes + self.vocab.image_start, turn, caption + self.vocab.text_start], dim=1)[:, :-1]
        cells = torch.zeros_like(ids)
        cells[:, 1 : n + 1] = torch.arange(1, n + 1, device=ids.device)
        positions = torch.arange(ids.shape[1], device=ids.device).expand(b, -1)
        hidden = self.decoder.hidden(ids, positions, Causal(), cells)
        return self.decoder.head(hidden[:, n + 1 :], slice(self.vocab.text_start, self.vocab.image_start))

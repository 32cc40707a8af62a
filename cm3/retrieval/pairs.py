"""A small CLIP on one's own pairs: two towers of torch alone, under a megabyte and a half on disk.

After Radford et al. 2021 (CLIP): a text and its picture go to unit vectors of one space, near each other. Two things
differ, so that it trains in minutes on a processor and reads words that it never saw:

- Text is a row of words, and a word is its letters: the bytes of a word, in order, become its vector (Kim et al. 2016,
  character-aware models), and a transformer reads the vectors. There is no vocabulary, so an invented word is a word.
- Pictures are 64 x 64 pixels. The last convolution's cells are told apart by place, since where things stand matters.

    folder/config.json           "format": "cm3-pairs", shape of the network, checksum of the weights
    folder/weights.safetensors   weights, float16
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from cm3.errors import CheckpointError, ConfigError, DivergedError
from cm3.files import build, read_json, said, write
from cm3.retrieval.pixels import pixels_of
from cm3.weights import bare, not_finite, on_device, parse_weights

FORMAT = "cm3-pairs"
VERSION = 1
WEIGHTS = "weights.safetensors"
CHUNK = 64
"""Texts or pictures that are encoded at a time; bounds memory, not results."""

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Pair:
    """A text and its picture, and another description of the same where there is one."""

    text: str
    image: PIL.Image.Image
    other: str = ""
    tells: bool = True
    """Whether the text tells what the picture shows; a name does not."""


@dataclass(frozen=True)
class PairsConfig:
    """Shape of the two towers. Raises `ConfigError` for a value out of range."""

    width: int = 128
    """Numbers a vector."""
    words: int = 64
    """Words of a text that are read; the rest is cut off."""
    letters: int = 16
    """Bytes a word; longer ones count as several."""
    letter_dim: int = 16
    """Numbers a letter."""
    d_model: int = 128
    """Width of the text tower."""
    layers: int = 2
    """Blocks of the text tower."""
    heads: int = 4
    """Attention heads of the text tower."""
    image_size: int = 64
    """Side of the pictures that are read, in pixels."""
    channels: tuple[int, int, int] = (48, 96, 96)
    """Of the convolutions at a quarter, an eighth and a sixteenth of the picture's side."""

    def __post_init__(self) -> None:
        """Check every field and say everything that is wrong at once."""
        wrong = [
            f"pairs.{name}={getattr(self, name)}: must be at least 1"
            for name in ("width", "words", "letters", "letter_dim", "d_model", "layers", "heads")
            if getattr(self, name) < 1
        ]
        if self.heads > 0 and self.d_model % self.heads:
            wrong.append(f"pairs.d_model={self.d_model}: must be a multiple of pairs.heads={self.heads}")
        if self.image_size < 16 or self.image_size % 16:
            wrong.append(f"pairs.image_size={self.image_size}: must be a multiple of 16")
        if len(self.channels) != 3 or min(self.channels) < 8 or any(c % 8 for c in self.channels):
            wrong.append(f"pairs.channels={self.channels}: must be three multiples of 8")
        elif self.image_size == 16 and self.channels[2] == 8:
            # The last map is one pixel, and a norm over a group of one value is not defined.
            wrong.append("pairs.image_size=16: is too small for channels that end in 8; give 32 pixels or 16 channels")
        if wrong:
            raise ConfigError("; ".join(wrong))


def words_of(texts: Sequence[str], config: PairsConfig) -> tuple[Tensor, Tensor]:
    """Return texts as letters int64 (u, letters), the bytes of each distinct word, and words int64 (n, w), rows of
    those.

    Row 0 is no word: it fills the shorter texts. Letters are lower case, and 0 where a word is short.
    """
    rows: dict[bytes, int] = {b"": 0}
    found: list[list[int]] = []
    for text in texts:
        pieces: list[bytes] = []
        for word in _WORD.findall(unicodedata.normalize("NFKC", text).lower()):
            data = word.encode(errors="replace")
            pieces += [data[i : i + config.letters] for i in range(0, len(data), config.letters)]
            if len(pieces) >= config.words:
                break
        found.append([rows.setdefault(piece, len(rows)) for piece in pieces[: config.words]])
    index = torch.zeros(len(texts), max((len(row) for row in found), default=0), dtype=torch.int64)
    for at, row in enumerate(found):
        index[at, : len(row)] = torch.tensor(row, dtype=torch.int64)
    letters = np.zeros((len(rows), config.letters), dtype=np.int64)
    for word_bytes, row_number in rows.items():
        letters[row_number, : len(word_bytes)] = np.frombuffer(word_bytes, dtype=np.uint8)
    return torch.from_numpy(letters), index


class _Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Read x (n, s, d); mask bool (n, 1, 1, s), true where there is a word."""
        n, s, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, s, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (n, h, s, d / h)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(n, s, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class TextTower(nn.Module):
    """Words -> vectors (n, width), not normalised."""

    def __init__(self, config: PairsConfig) -> None:
        super().__init__()
        d = config.d_model
        self.letter = nn.Embedding(256, config.letter_dim)
        flat = config.letters * config.letter_dim
        self.word = nn.Sequential(nn.Linear(flat, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        # Place 0 belongs to a start sign, so that a text without a word has a vector too.
        self.place = nn.Parameter(nn.init.normal_(torch.empty(config.words + 1, d), std=0.1))
        self.blocks = nn.ModuleList(_Block(d, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, config.width)

    def forward(self, letters: Tensor, index: Tensor) -> Tensor:
        """Map letters (u, letters) and index (n, w) as `words_of` gives them."""
        words = self.word(self.letter(letters).flatten(1))  # (u, d)
        lengths = (index != 0).sum(1)
        order = lengths.argsort()
        # Short texts beside short ones: a batch of captions and names would be mostly padding.
        found = [self._read(words, index[at, : int(lengths[at].max())]) for at in order.chunk(4)]
        return torch.cat(found)[order.argsort()]

    def _read(self, words: Tensor, index: Tensor) -> Tensor:
        x = F.pad(words[index], (0, 0, 1, 0)) + self.place[: index.shape[1] + 1]  # (n, 1 + w, d)
        mask = F.pad(index != 0, (1, 0), value=True)[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x[:, 0]))


class ImageTower(nn.Module):
    """Pixels (n, 3, size, size) in [-1, 1] -> vectors (n, width), not normalised."""

    def __init__(self, config: PairsConfig) -> None:
        super().__init__()
        a, b, c = config.channels

        def conv(i: int, o: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1), nn.GroupNorm(8, o), nn.GELU())

        self.cells = nn.Sequential(
            nn.Conv2d(3, a, 4, 4), nn.GELU(), conv(a, a), conv(a, b, 2), conv(b, b), conv(b, c, 2), nn.Conv2d(c, 32, 1)
        )
        self.head = nn.Linear(32 * (config.image_size // 16) ** 2, config.width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels as above, of the configured size."""
        cells = self.cells(pixels.contiguous(memory_format=torch.channels_last))
        return self.head(F.gelu(cells).flatten(1))


class Pairs(nn.Module):
    """Both towers, and the learnt sharpness of the two losses that train them."""

    def __init__(self, config: PairsConfig, temperature: float = 0.07) -> None:
        super().__init__()
        self.config = config
        self.text, self.image = TextTower(config), ImageTower(config)
        self.log_scale = nn.Parameter(torch.full((2,), -math.log(temperature)))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (n, width), n at least 1."""
        letters, index = words_of(texts, self.config)
        device = self.log_scale.device
        return F.normalize(self.text(letters.to(device), index.to(device)), dim=-1)

    def encode_images(self, images: Sequence[PIL.Image.Image]) -> Tensor:
        """Return unit vectors (n, width) of pictures of any mode and size, n at least 1."""
        pixels = torch.from_numpy(pixels_of(images, self.config.image_size)).to(self.log_scale.device)
        return F.normalize(self.image(pixels.float() / 127.5 - 1), dim=-1)


class PairEncoder:
    """The `Encoder` of a trained network, in eval mode."""

    def __init__(self, model: Pairs, name: str, *, device: str = "cpu") -> None:
        """Raise `ConfigError` for an unknown device."""
        self.model, self.name, self.width = on_device(model.eval(), device), name, model.config.width

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> PairEncoder:
        """Read what `save` wrote. Raises `CheckpointError` naming what is missing, altered, or does not fit."""
        folder = Path(folder)
        config = _read_config(folder)
        path = folder / WEIGHTS
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"encoder {str(folder)!r}: {WEIGHTS} is missing; restore it, or train again"
            ) from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != config["files"].get(WEIGHTS):
            raise CheckpointError(
                f"encoder {str(folder)!r}: {WEIGHTS} was altered (config.json has another checksum of it); restore it"
            )
        weights = parse_weights(data, f"encoder {str(folder)!r}")
        try:
            model = Pairs(_shape(config["model"], weights))
            model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        except Exception as error:  # load_state_dict raises its own kinds
            raise CheckpointError(
                f"encoder {str(folder)!r}: {WEIGHTS} does not fit config.json ({said(error)}); restore both"
            ) from error
        return cls(model, f"pairs:{digest[:12]}", device=device)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors float32 (n, width) of texts."""
        return self._rows(self.model.encode_texts, texts)

    @torch.no_grad()
    def images(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Return unit vectors float32 (n, width) of pictures. Raises `DataError` for one that cannot be read."""
        return self._rows(self.model.encode_images, images)

    def _rows(self, encode: Callable[[Any], Tensor], items: Sequence[Any]) -> np.ndarray:
        found = [encode(items[at : at + CHUNK]).cpu().numpy() for at in range(0, len(items), CHUNK)]
        return np.concatenate(found) if found else np.zeros((0, self.width), dtype=np.float32)


def save(model: Pairs, folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write a network in float16; `about` is free form and says how it was made.

    Each file is replaced whole, config.json last: a kill between the two leaves a folder that `load` refuses.
    """
    folder = Path(folder)
    halves = {name: value.detach().half().cpu().contiguous() for name, value in model.state_dict().items()}
    if name := not_finite(halves):
        raise DivergedError(f"encoder {str(folder)!r}: {name} has values that float16 does not hold; lower lr")
    data = save_tensors(halves)
    config = {
        "format": FORMAT,
        "version": VERSION,
        "model": dataclasses.asdict(model.config),
        "about": dict(about or {}),
        "files": {WEIGHTS: hashlib.sha256(data).hexdigest()},
    }
    write(folder / WEIGHTS, data)
    write(folder / "config.json", json.dumps(config, indent=1) + "\n")


def _shape(values: Any, weights: Mapping[str, Tensor]) -> PairsConfig:
    """Return the shape that a config.json gives, if it is that of the weights.

    Raises `ValueError` or `CheckpointError` where it is not, before anything of that shape takes memory.
    """
    shape = build(PairsConfig, values, "model")
    if shape.layers > len(weights):
        raise ValueError(f"layers={shape.layers}, of which there are no weights")
    with bare():
        wanted = {name: tuple(value.shape) for name, value in Pairs(shape).state_dict().items()}
    for name in sorted(wanted.keys() | weights.keys()):
        found = tuple(weights[name].shape) if name in weights else None
        if found != wanted.get(name):
            raise ValueError(f"{name!r} is {found}, config.json says {wanted.get(name)}")
    return shape


def _read_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json", f"encoder {str(folder)!r}")
    right = (config.get("format"), config.get("version")) == (FORMAT, VERSION)
    if not right or not isinstance(config.get("files"), dict) or not isinstance(config.get("model"), dict):
        raise CheckpointError(
            f"encoder {str(folder)!r}: config.json is not of {FORMAT} version {VERSION}; train it again"
        )
    return config

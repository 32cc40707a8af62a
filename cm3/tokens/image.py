"""Pictures to grids of codes and back: any PIL image to the model's size and colours, then the VQGAN.

The one pixel range of the package is float32 in [-1, 1], RGB, channels first: x = uint8 / 127.5 - 1.
Colour profiles are ignored: numbers are read as sRGB, as the public training sets are. Paper section 2.1: 256 x 256
pixels, a factor of 8, so 32 x 32 = 1,024 codes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import PIL.Image
import torch

from cm3.document import Box, check_box
from cm3.errors import CheckpointError, ConfigError, DataError, RequestError
from cm3.picture import orientation, square, turned, window
from cm3.tokens.noted import noted, remember, remembered
from cm3.weights import check_weights

if TYPE_CHECKING:
    from cm3.model.vqgan import VQGAN

Fit = Literal["crop", "stretch"]

_NEAR = 4
"""Most levels between a picture and what its note's codes draw, whatever processor drew it, for them to be its own."""


def preprocess(image: PIL.Image.Image, size: int, fit: Fit = "crop") -> PIL.Image.Image:
    """Return `image` as an upright RGB picture of `size` x `size`; the very same object when it is one already.

    In order: upright 8-bit RGB (`cm3.picture.rgb`); then `crop` takes the largest centred square and scales it to
    `size`, `stretch` scales the whole picture.
    Scaling is Lanczos, antialiased. Raises `DataError` for an empty or truncated picture.
    """
    _check_fit(size, fit)
    return square(image, size, fit)


def map_box(box: Box, original_size: tuple[int, int], size: int, fit: Fit = "crop") -> Box:
    """Return where a box of an upright picture of `original_size` (width, height) lies after `preprocess`.

    The result covers every pixel that the box touches, clipped to the picture. Raises `RequestError` when the box is
    wholly in what the crop cuts away. For a picture that may carry an EXIF orientation see `place_box`.
    """
    _check_fit(size, fit)
    x0, y0, x1, y1 = check_box(box, original_size)
    left, top, right, bottom = window(original_size, fit)
    x0, x1, y0, y1 = max(x0, left), min(x1, right), max(y0, top), min(y1, bottom)
    if x0 >= x1 or y0 >= y1:
        raise RequestError(
            f"box {','.join(map(str, box))}: lies outside the centred square {left},{top},{right},{bottom} that the "
            "model sees of this image; move the box, or crop the image first"
        )
    wide, high = right - left, bottom - top
    return (
        (x0 - left) * size // wide,
        (y0 - top) * size // high,
        -((left - x1) * size // wide),  # minus the floor of the negative: rounds up
        -((top - y1) * size // high),
    )


def place_box(image: PIL.Image.Image, box: Box, size: int, fit: Fit = "crop") -> Box:
    """Return where a box of `image`, in its stored pixels, lies in `preprocess(image, size, fit)`.

    The same as `map_box`, after turning the box upright with the picture. Raises `RequestError` likewise.
    """
    turn = orientation(image)
    upright = turned(check_box(box, image.size), image.size, turn)
    return map_box(upright, image.size[::-1] if turn >= 5 else image.size, size, fit)


def to_pixels(images: Sequence[PIL.Image.Image]) -> torch.Tensor:
    """Return RGB pictures of one size as float32 (b, 3, H, W) in [-1, 1]; `DataError` for other modes or mixed sizes.

    Inverse: `to_pil`.
    """
    if not images:
        raise DataError("to_pixels: got no picture; give at least one")
    for at, image in enumerate(images):
        if image.mode != "RGB" or image.size != images[0].size:
            raise DataError(
                f"picture {at}: is {image.mode} {image.width} x {image.height}; must be RGB and of one size, "
                "call preprocess first"
            )
    stacked = np.stack([np.asarray(image) for image in images])  # (b, H, W, 3)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0


def to_pil(pixels: torch.Tensor) -> list[PIL.Image.Image]:
    """Return the pixels (b, 3, H, W) in [-1, 1] as RGB pictures; values outside are clipped. Inverse of `to_pixels`."""
    bytes_ = ((pixels.detach().float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [PIL.Image.fromarray(picture) for picture in bytes_.permute(0, 2, 3, 1).contiguous().cpu().numpy()]


class ImageTokenizer:
    """Pictures <-> codes at one size. `grid` is (rows, cols), `codes` the number of different codes.

    A picture that `decode` made remembers its codes, in its PNG file too (cm3/tokens/noted.py), and `encode` with the
    same weights gives those back as long as its pixels are untouched: one that goes round through a model does not
    drift.
    """

    def __init__(self, vqgan: VQGAN, size: int, *, fit: Fit = "crop", batch: int = 16) -> None:
        """Work at `size` x `size`, `batch` pictures at a time. Raises `ConfigError` for a size that does not fit."""
        _check_fit(size, fit)
        self.factor = int(vqgan.config.factor)
        if size % self.factor:
            raise ConfigError(f"size={size}: must be a multiple of the image tokenizer's factor {self.factor}")
        if batch < 1:
            raise ConfigError(f"batch={batch}: must be at least 1")
        self.vqgan, self.size, self.fit, self.batch = vqgan, size, fit, batch
        self.codes = int(vqgan.config.codes)
        self._weights: tuple[object, str] = (None, "")

    @property
    def grid(self) -> tuple[int, int]:
        """Return (rows, cols) of codes."""
        return self.size // self.factor, self.size // self.factor

    def preprocess(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """Return `image` as this tokenizer sees it."""
        return preprocess(image, self.size, self.fit)

    def encode(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Return codes int32 (n, rows, cols) of any PIL images; they are preprocessed first, and one that is given
        several times is read once.

        Raises `DataError` for a picture that cannot be read, `CheckpointError` for weights that are not finite.
        """
        unique = {id(image): image for image in images}
        if len(unique) < len(images):
            codes_of = dict(zip(unique, self.encode([*unique.values()]), strict=True))
            return np.stack([codes_of[id(image)] for image in images])
        found = np.zeros((len(images), *self.grid), dtype=np.int32)
        ready = [self.preprocess(image) for image in images]
        unknown = []
        for at, image in enumerate(ready):
            digest, codes = remembered(image)
            if codes is not None and codes.shape == self.grid and digest == self._digest(image):
                found[at] = codes
            else:
                unknown.append(at)
        unknown = self._without_note(ready, unknown, found)
        if unknown:
            self._version()
        for start in range(0, len(unknown), self.batch):
            chunk = unknown[start : start + self.batch]
            with _Still(self.vqgan):
                pixels = to_pixels([ready[at] for at in chunk]).to(*self._place())
                found[chunk] = self.vqgan.encode(pixels).cpu().numpy().astype(np.int32)
        return found

    def decode(self, codes: np.ndarray) -> list[PIL.Image.Image]:
        """Return RGB pictures of codes (n, rows, cols).

        Raises `DataError` for another shape or a code out of range, `CheckpointError` where pixels or weights are not
        finite.
        """
        codes = np.asarray(codes)
        if codes.ndim != 3 or codes.shape[1:] != self.grid:
            raise DataError(f"image codes of shape {codes.shape}: must be (n, {self.grid[0]}, {self.grid[1]})")
        if codes.size and not (0 <= codes.min() and codes.max() < self.codes):
            raise DataError(f"image codes from {codes.min()} to {codes.max()}: must lie in 0 to {self.codes - 1}")
        images: list[PIL.Image.Image] = []
        for start in range(0, len(codes), self.batch):
            chunk = torch.from_numpy(codes[start : start + self.batch].astype(np.int64))
            with _Still(self.vqgan):
                pixels = self.vqgan.decode(chunk.to(self._place()[0]))
            if not bool(pixels.isfinite().all()):
                self._version()  # names the weight, where one is to blame
                raise CheckpointError(
                    "image tokenizer: gave pixels that are not finite; train it again, or run it in float32"
                )
            images += to_pil(pixels)
        for image, grid in zip(images, codes, strict=True):
            remember(image, self._digest(image), grid)
        return images

    def cells_of_box(self, box: Box) -> list[tuple[int, int, int]]:
        """Return the cells that a box of the preprocessed picture touches: (row, start_col, stop_col), row by row."""
        x0, y0, x1, y1 = check_box(box, (self.size, self.size))
        f = self.factor
        return [(row, x0 // f, -(-x1 // f)) for row in range(y0 // f, -(-y1 // f))]

    def _without_note(self, images: Sequence[PIL.Image.Image], some: Sequence[int], found: np.ndarray) -> list[int]:
        """Put the codes of notes, of `some` of the pictures, in `found` where they draw the picture; returns the
        others."""
        notes = {at: codes for at in some if (codes := noted(images[at], self.grid, self.codes)) is not None}
        drawn = self.decode(np.stack([*notes.values()])) if notes else []
        true = set()
        for (at, codes), image in zip(notes.items(), drawn, strict=True):
            off = np.asarray(image).astype(np.int16) - np.asarray(images[at])
            if np.abs(off).max() <= _NEAR:
                true.add(at)
                found[at] = codes
                remember(images[at], self._digest(images[at]), codes)
        return [at for at in some if at not in true]

    def _place(self) -> tuple[torch.device, torch.dtype]:
        """Return the device and dtype of the network."""
        weight = next(self.vqgan.parameters())
        return weight.device, weight.dtype

    def _digest(self, image: PIL.Image.Image) -> str:
        """Return a name for these pixels under these weights."""
        return hashlib.blake2b(image.tobytes() + self._version().encode(), digest_size=16).hexdigest()

    def _version(self) -> str:
        """Return a name for the weights, which are read again only after they were written to.

        Raises `CheckpointError` where one is not finite: it would draw black, and read every picture as the same.
        """
        weights = [*self.vqgan.parameters(), *self.vqgan.buffers()]
        version = tuple((id(w), w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights)
        if version != self._weights[0]:
            hashed = hashlib.blake2b(digest_size=16)
            named = {**dict(self.vqgan.named_parameters()), **dict(self.vqgan.named_buffers())}
            check_weights(named, "image tokenizer")
            for weight in named.values():
                hashed.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            self._weights = (version, hashed.hexdigest())
        return self._weights[1]


class _Still:
    """The network in evaluation mode without gradients, and afterwards as it was."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network, self.was, self.grad = network, network.training, torch.no_grad()

    def __enter__(self) -> None:
        self.network.eval()
        self.grad.__enter__()

    def __exit__(self, *error: object) -> None:
        self.grad.__exit__(None, None, None)
        self.network.train(self.was)


def _check_fit(size: int, fit: str) -> None:
    if size < 1:
        raise ConfigError(f"size={size}: must be at least 1 pixel")
    if fit not in ("crop", "stretch"):
        raise ConfigError(f"fit={fit!r}: must be 'crop' or 'stretch'")

"""Pictures -> vectors that distributions of pictures are compared by: FID's Inception, a CLIP, a DINO.

No two tools agree on how a picture becomes a network's square, and the figures follow it. So each step has a name
here, and the result of a scorer holds them all:

    picture --colours--> RGB --crop, size--> 8-bit square --filter, antialias, quantise--> the network's square

The defaults for Inception are those of pytorch-fid: colours as stored, the whole picture stretched to 299 x 299 by a
bilinear filter that does not smooth before it scales down, without rounding. Those for CLIP and DINO are CLIP's own:
the largest centred square by a bicubic filter that smooths, rounded. DINOv2's own program cuts the borders off as well
(224 of 256 pixels); that is not done here.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from cm3.errors import CheckpointError, ConfigError, DataError, whole_number
from cm3.files import read_json, said
from cm3.picture import rgb, square, window
from cm3.retrieval.clip import MEAN, STD, ClipEncoder, digest
from cm3.retrieval.embed import folder_of
from cm3.score import inception
from cm3.weights import check_weights, on_device

Colours = Literal["stored", "upright"]
Crop = Literal["none", "centre"]
Filter = Literal["bilinear", "bicubic"]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of each colour over ImageNet, in 0..1."""
_NAMES = ("mean", "std")
_DINOS = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
"""Kinds of network that the DINOs are published as."""


@dataclass(frozen=True)
class Preparation:
    """The way of a picture to a network's square; each field is named in a result's settings."""

    colours: Colours = "stored"
    """The pixels as the file has them, transparency dropped; or upright by EXIF, transparent parts on white."""
    crop: Crop = "none"
    """All of the picture, or its largest centred square."""
    size: int | None = None
    """Side of the square that the picture is first brought to by a Lanczos filter in 8 bits, as if it had been drawn at
    that size; None leaves it as it is."""
    filter: Filter = "bilinear"
    """How it is scaled to the network's square."""
    antialias: bool = False
    """Whether that filter smooths before it scales down."""
    quantise: bool = False
    """Whether the scaled values are rounded to 8 bits."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a value that is none of those."""
        known = {"colours": ("stored", "upright"), "crop": ("none", "centre"), "filter": ("bilinear", "bicubic")}
        for name, values in known.items():
            if (value := getattr(self, name)) not in values:
                raise ConfigError(f"{name}={value!r:.60}: must be one of {', '.join(values)}")
        if self.size is not None:
            whole_number("size", self.size, 1, 16384)

    def rgb(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """Return it in 8-bit RGB, cropped and brought to `size`. Raises `DataError` for one that cannot be read."""
        if self.colours == "upright":
            picture = rgb(picture)
        else:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of a palette's transparency, which is dropped
                    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
                    picture.load()
            except Exception as error:  # a lazily opened file may prove to be cut short only now
                raise DataError(
                    f"image of mode {picture.mode}: cannot be read ({said(error)}); save it again"
                ) from error
        if self.size is not None:
            bare = picture if self.colours == "upright" else _without_exif(picture)
            return square(bare, self.size, "crop" if self.crop == "centre" else "stretch")
        return picture.crop(window(picture.size, "crop")) if self.crop == "centre" else picture

    def pixels(self, picture: PIL.Image.Image, side: int) -> Tensor:
        """Return what `rgb` gave as the network's square, float32 (3, side, side) in 0..1."""
        if 0 in picture.size:
            raise DataError(f"image of {picture.width} x {picture.height} pixels: is empty; give a picture with pixels")
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
        x = F.interpolate(x / 255, (side, side), mode=self.filter, align_corners=False, antialias=self.antialias)
        if self.quantise:
            x = (x * 255).round() / 255
        return x[0].clamp(0, 1) if self.filter == "bicubic" else x[0]


def _without_exif(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Return the same pixels without what would turn them."""
    return PIL.Image.fromarray(np.array(picture))


class Features(Protocol):
    """Vectors of pictures."""

    name: str
    """The network's identity: its kind, and the first digits of the sha256 of its weights."""
    width: int
    preparation: Preparation
    warnings: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """Return all that decides a vector, as plain values."""

    def __call__(self, pictures: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Return float32 (n, width) of pictures that `preparation.rgb` gave."""


class NetworkFeatures:
    """Features by a network: a function of pixels (b, 3, side, side) in 0..1 to vectors (b, width)."""

    def __init__(
        self,
        name: str,
        network: torch.nn.Module,
        read: Callable[[Tensor], Tensor],
        side: int,
        width: int,
        preparation: Preparation,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.name, self.network, self.read, self.side, self.width = name, network, read, side, width
        self.preparation, self.warnings = preparation, warnings

    @property
    def settings(self) -> dict[str, Any]:
        """Return all that decides a vector, as plain values."""
        return {"features": self.name, "width": self.width, "square": self.side, **asdict(self.preparation)}

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Return float32 (n, width) of pictures that `preparation.rgb` gave.

        Raises `CheckpointError` where a network gives what is no number.
        """
        if not pictures:
            return np.zeros((0, self.width), dtype=np.float32)
        device = next(self.network.parameters()).device
        pixels = torch.stack([self.preparation.pixels(picture, self.side) for picture in pictures])
        rows = self.read(pixels.to(device)).float().cpu().numpy()
        if not np.isfinite(rows).all():
            raise CheckpointError(f"features {self.name}: gave vectors that are not finite; restore the weights")
        return rows


def load_features(
    path: str | Path, *, device: str = "cpu", prepare: Mapping[str, Any] | None = None
) -> NetworkFeatures:
    """Return the features of a file, FID's Inception as pytorch-fid publishes it, or of a folder of a CLIP or a DINO in
    Hugging Face's layout. `prepare`: fields of `Preparation` in the place of the network's own.

    Raises `CheckpointError` for what is missing (it says where to get it), damaged or neither; `ConfigError` for a
    missing library, an unknown device or a field that `Preparation` refuses.
    """
    folder = folder_of(str(path))
    made = _transformer(folder) if folder.is_dir() else _inception(folder)
    made.preparation = replace(made.preparation, **(prepare or {}))
    made.network = on_device(made.network, device)
    return made


def _inception(path: Path) -> NetworkFeatures:
    network, digest = inception.Inception.load(path)
    told: tuple[str, ...] = ()
    if not digest.startswith(inception.PUBLISHED):
        told = (
            f"the features are of a file with sha256 {digest[:12]}, which is not the published one "
            f"({inception.PUBLISHED}...): no figure compares with a published FID",
        )
    return NetworkFeatures(
        f"inception:{digest[:12]}", network, lambda x: network(2 * x - 1), inception.SIZE, inception.WIDTH,
        Preparation(), told,
    )  # fmt: skip


def _transformer(folder: Path) -> NetworkFeatures:
    """Return a CLIP's picture vectors as projected, or a DINO's first token after its last norm; neither of length
    one."""
    what = f"features {str(folder)!r}"
    kind = str(read_json(folder / "config.json", what).get("model_type"))
    if kind != "clip" and kind not in _DINOS:
        raise CheckpointError(f"{what}: config.json describes a {kind!r}; give a folder of a CLIP or a DINO")
    page = {}
    if (folder / "preprocessor_config.json").is_file():
        page = read_json(folder / "preprocessor_config.json", what)
    own = (MEAN, STD) if kind == "clip" else _IMAGENET
    mean, std = (
        torch.tensor(_three(page, f"image_{n}", v, what)).view(3, 1, 1) for n, v in zip(_NAMES, own, strict=True)
    )
    if kind == "clip":
        clip = ClipEncoder.load(folder)
        network, name, width, size = clip.model, clip.name, clip.width, clip.size
    else:
        name = f"{kind}:{digest(folder)[:12]}"
        network = _dino(folder, kind, what)
        width = int(network.config.hidden_size)
        # A ViT of the first DINO reads the size that it was trained at alone.
        size = int(network.config.image_size) if kind == "vit" else _side(page, int(network.config.image_size), what)

    def read(x: Tensor) -> Tensor:
        x = (x - mean.to(x.device)) / std.to(x.device)
        return network.get_image_features(x).pooler_output if kind == "clip" else network(x).last_hidden_state[:, 0]

    own_way = Preparation("upright", "centre", None, "bicubic", antialias=True, quantise=True)
    return NetworkFeatures(name, network, read, size, width, own_way)


def _dino(folder: Path, kind: str, what: str) -> Any:
    try:
        # By its name, so that a type checker does not read all of a very large library.
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise ConfigError(f"{what}: a DINO needs the transformers library; pip install transformers") from error
    options = {"add_pooling_layer": False} if kind == "vit" else {}
    try:
        network, report = library.AutoModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, **options
        )
    except Exception as error:  # the library raises as many kinds as there are files
        raise CheckpointError(f"{what}: cannot be read as a DINO ({said(error)}); restore it") from error
    # The library fills what is missing with chance and only warns.
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{what}: weight {missing[0]!r} is missing; give a whole model")
    check_weights(network.state_dict(), what)
    return network.eval()


def _side(page: Mapping[str, Any], own: int, what: str) -> int:
    found = page.get("crop_size", page.get("size"))
    if isinstance(found, Mapping):
        found = found.get("height", found.get("shortest_edge"))
    return own if found is None else whole_number(f"{what}: crop_size", found, 1, 4096, CheckpointError)


def _three(page: Mapping[str, Any], name: str, own: tuple[float, ...], what: str) -> tuple[float, ...]:
    found = page.get(name, own)
    numbers = isinstance(found, list | tuple) and all(type(value) in (int, float) for value in found)
    if not numbers or len(found) != 3 or (name == "image_std" and min(found) <= 0):
        raise CheckpointError(f"{what}: preprocessor_config.json has {name}={found!r:.60}, must be three numbers")
    return tuple(map(float, found))

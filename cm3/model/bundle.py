"""A model on disk: one folder with everything that generation needs.

    config.json                    format, vocabulary, network shapes, recommended sampling, checksum of each other file
                                   and of itself
    decoder.safetensors            the language model
    image_tokenizer.safetensors    the VQGAN
    tokenizer.json                 the text tokenizer, in the `tokenizers` library's format
    encoder/                       optional: what turns documents and prompts into vectors, to search `memory/` with
    memory/                        optional: a memory bank, the documents that the model may draw on

Weights are stored in the dtype given to `save` and computed in float32 unless the caller moves them. A decoder in int8
(`cm3/model/int8.py`) is stored and loaded as that, and config.json says so: "decoder_weights": "int8". The two folders
are copied as they are; `cm3.retrieval` reads them. How a folder is read is in `cm3/model/folder.py`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import nn

from cm3.errors import CheckpointError, Cm3Error, ConfigError, did_you_mean
from cm3.files import build, check_folder, inside, parse_json, replacing_folder, said, sha256
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.folder import (
    FILES,
    FOLDERS,
    FORMAT,
    SUFFIXES,
    check_config,
    check_text,
    checksum,
    is_name,
    opened,
    read_config,
)
from cm3.model.int8 import Int8Decoder, quantised
from cm3.model.vqgan import VQGAN, VQGANConfig
from cm3.vocab import Vocab
from cm3.weights import Cut, bare

EMBEDDED = Path(__file__).resolve().parent.parent / "bundles"
PATTERNS = ("config.json", *FILES, *(f"{name}/*.{suffix}" for name in FOLDERS for suffix in SUFFIXES))
"""Files that are fetched from the hub; `*` stands for folders inside folders too."""


@dataclass
class Bundle:
    """The contents of a folder. `sampling`: recommended settings by kind; `about`: how it was made, free form.

    `encoder` and `memory` are folders on disk, for a model that comes with a memory bank. `source` is what `load` read.
    """

    vocab: Vocab
    decoder: Decoder
    vqgan: VQGAN
    image_size: int
    text_tokenizer: Path
    sampling: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    encoder: Path | None = None
    memory: Path | None = None
    source: Source | None = None

    def text_bytes(self) -> bytes:
        """Return the text tokenizer's file: as it was loaded, where it was, whatever lies in the folder by now."""
        if self.source is not None and self.text_tokenizer == self.source.folder / FILES[2]:
            return self.source.text
        return self.text_tokenizer.read_bytes()

    def check_folder(self, path: Path) -> None:
        """Raise `CheckpointError` where `path` is a folder of the bundle that was replaced after it was loaded."""
        if self.source is None or path.name not in FOLDERS or path.parent != self.source.folder:
            return
        then, now = self.source.files, read_config(self.source.folder)["files"]
        if any(then.get(n) != now.get(n) for n in then.keys() | now.keys() if n.startswith(f"{path.name}/")):
            raise CheckpointError(
                f"bundle {str(path.parent)!r}: was replaced after it was loaded and has another {path.name}; "
                "load it again"
            )


class Source(NamedTuple):
    """The source of a loaded bundle: the folder, what tokenizer.json held, and the checksums of the files, by name."""

    folder: Path
    text: bytes
    files: dict[str, str]


def save(bundle: Bundle, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a bundle. The folder appears whole or not at all; a bundle that is there is replaced.

    In `torch.int8` the decoder is quantised and the image tokenizer, which is small, is in float16. Raises
    `ConfigError` as `check_place` does, when a weight does not fit `dtype`'s range, for a decoder in int8 and another
    `dtype`, and when `encoder` or `memory` is no folder with files.
    """
    folder = Path(folder)
    check_place(folder)
    int8 = dtype == torch.int8
    if isinstance(bundle.decoder, Int8Decoder) and not int8:
        raise ConfigError(
            f"bundle {str(folder)!r}: the decoder is in int8, of which {str(dtype).removeprefix('torch.')} makes "
            "nothing better; save it in int8, or load the bundle that it was made of"
        )
    shape = Shape(bundle.vocab, bundle.decoder.config, bundle.vqgan.config, bundle.image_size)
    shape.check(f"bundle {str(folder)!r}", ConfigError)
    check_text(bundle.vocab, bundle.text_bytes(), f"bundle {str(folder)!r}", ConfigError)
    for name in FOLDERS:
        if (source := getattr(bundle, name)) is not None:
            bundle.check_folder(Path(source))
    wanted = {n: p.shape for n, p in _bare(Decoder, bundle.decoder.config).named_parameters()}
    if any(wanted.get(n, p.shape) != p.shape for n, p in bundle.decoder.named_parameters()):
        raise ConfigError(
            f"bundle {str(folder)!r}: the decoder is a share of one (tp); save from a process that loaded all of it"
        )
    with replacing_folder(folder) as building:
        decoder = quantised(bundle.decoder) if int8 else bundle.decoder
        _save_weights(decoder, building / FILES[0], torch.float32 if int8 else dtype)
        _save_weights(bundle.vqgan, building / FILES[1], torch.float16 if int8 else dtype)
        (building / FILES[2]).write_bytes(bundle.text_bytes())
        names = [*FILES]
        for name in FOLDERS:
            if (source := getattr(bundle, name)) is not None:
                names += _copy_folder(name, Path(source), building / name)
        page = described(
            shape,
            {name: sha256(building / name) for name in names},
            f"bundle {str(folder)!r}",
            sampling=bundle.sampling,
            about=bundle.about,
            **({"decoder_weights": "int8"} if int8 else {}),
        )
        (building / "config.json").write_text(page)
        for path in (building, *(p for p in building.rglob("*") if p.is_dir())):
            os.chmod(path, 0o755)
        for name in names:
            os.chmod(building / name, 0o644)  # safetensors writes for the owner alone


def described(shape: Shape, files: dict[str, str], where: str, **more: Any) -> str:
    """Return the config.json of a bundle of these files, name to sha256; `more` are its other fields.

    Raises `ConfigError`, which begins with `where`, for fields that are no plain JSON.
    """
    config = {
        "format": FORMAT,
        "vocab": shape.vocab.to_dict(),
        "decoder": shape.decoder.to_dict(),
        "image_tokenizer": dataclasses.asdict(shape.image_tokenizer),
        "image_size": shape.image_size,
        **more,
        "files": files,
    }
    try:
        config = json.loads(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: sampling and about must be plain JSON ({said(error)}); mend them") from error
    config["checksum"] = checksum(config)
    return json.dumps(config, indent=1) + "\n"


def check_place(folder: str | Path) -> None:
    """Raise `ConfigError` where `save` may not write: over a file or a folder that is no bundle. Makes nothing."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"bundle {str(folder)!r}: is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not _is_bundle(folder):
        raise ConfigError(
            f"bundle {str(folder)!r}: holds other files, which would be lost; give a new folder, or a bundle to replace"
        )
    check_folder(folder.parent, f"bundle {str(folder)!r}")


def _is_bundle(folder: Path) -> bool:
    """Tell whether a folder is a bundle of any format, whole or damaged: a bundle may replace it."""
    try:
        config = parse_json((folder / "config.json").read_bytes(), "config.json")
    except (OSError, Cm3Error):
        return False
    return isinstance(config, dict) and {"format", "files"} <= config.keys()


class Shape(NamedTuple):
    """The numbers of a bundle's config.json."""

    vocab: Vocab
    decoder: DecoderConfig
    image_tokenizer: VQGANConfig
    image_size: int

    @classmethod
    def of(cls, config: dict[str, Any], where: str) -> Shape:
        """Read them, each checked by itself and all with each other. Raises `CheckpointError`."""
        what = f"{where}: config.json does not describe a model ("
        try:
            size = config["image_size"]
            if type(size) is not int:
                raise CheckpointError(f"image_size={size!r:.60}: must be a whole number")
            shape = cls(
                build(Vocab, config["vocab"], "vocab"),
                build(DecoderConfig, config["decoder"], "decoder"),
                build(VQGANConfig, config["image_tokenizer"], "image_tokenizer"),
                size,
            )
            for name in ("sampling", "about"):
                if not isinstance(config.get(name, {}), dict):
                    raise CheckpointError(f"{name}: must be an object")
            if not all(isinstance(values, dict) for values in config.get("sampling", {}).values()):
                raise CheckpointError("sampling: must have an object for each kind")
            tasks = config.get("about", {}).get("tasks", [])
            if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
                raise CheckpointError("about.tasks: must be a list of names")
        except CheckpointError as error:
            raise CheckpointError(f"{what}{error}); restore it") from error
        shape.check(f"{where}: config.json", CheckpointError)
        return shape

    def check(self, where: str, error: type[Cm3Error]) -> None:
        """Raise `error` where the parts do not fit together."""
        vocab, decoder, vqgan, size = self
        wrong = ""
        if decoder.vocab_size != vocab.size:
            wrong = f"has decoder.vocab_size={decoder.vocab_size} and {vocab.size} ids in its vocabulary"
        elif vocab.image != vqgan.codes:
            wrong = f"has vocab.image={vocab.image} and an image tokenizer of {vqgan.codes} codes"
        elif vqgan.image_channels != 3:
            wrong = f"has image_tokenizer.image_channels={vqgan.image_channels}; pictures have 3"
        elif size < vqgan.factor or size % vqgan.factor:
            wrong = f"has image_size={size}; it must be a multiple of the image tokenizer's factor {vqgan.factor}"
        elif decoder.grid is not None and decoder.grid != (size // vqgan.factor,) * 2:
            wrong = (
                f"has decoder.grid={decoder.grid} and pictures of {size // vqgan.factor} x {size // vqgan.factor} codes"
            )
        elif (size // vqgan.factor) ** 2 > decoder.context:
            wrong = f"has decoder.context={decoder.context} and pictures of {(size // vqgan.factor) ** 2} codes"
        if wrong:
            raise error(f"{where} {wrong}; " + ("restore it" if error is CheckpointError else "make them fit"))


def load(
    folder: str | Path,
    weights: bool = True,
    shares: Callable[[type[Decoder], DecoderConfig], Cut] | None = None,
    dtype: Callable[[DecoderConfig], torch.dtype] = lambda config: torch.float32,
) -> Bundle:
    """Read a bundle folder, all of one bundle also while it is replaced; weights in float32, or int8 where they are.

    `dtype` tells of a decoder's shape in which type its weights are to be, where they are not int8.

    Without `weights` the decoder is on the meta device, and neither its file nor those of the folders are read.
    `shares` tells of a decoder's kind and shape which part of each weight to read. Raises `CheckpointError` naming the
    file that is missing, altered, or does not fit, and what `shares` raises.
    """
    folder = Path(folder)
    with opened(folder, lambda name: weights or name in FILES[1:]) as found:
        config, what = found.config, found.what
        shape = Shape.of(config, what)
        check_config(folder, config)
        text = found.read(FILES[2])
        check_text(shape.vocab, text, what)
        if weights:
            for name in config["files"]:
                if name not in FILES:
                    found.check(name)
        vqgan = found.fill(FILES[1], lambda: VQGAN(shape.image_tokenizer))
        kind = _decoder_kind(config, what)
        cut = None if shares is None else shares(kind, shape.decoder)
        if weights:
            kept = torch.float32 if kind is Int8Decoder else dtype(shape.decoder)
            decoder = found.fill(FILES[0], lambda: kind(shape.decoder), cut, kept)
        else:
            decoder = _bare(kind, shape.decoder)
    return Bundle(
        vocab=shape.vocab,
        decoder=decoder,
        vqgan=vqgan,
        image_size=shape.image_size,
        text_tokenizer=folder / FILES[2],
        sampling=dict(config.get("sampling", {})),
        about=dict(config.get("about", {})),
        name=folder.name,
        **{name: folder / name for name in FOLDERS if any(f.startswith(f"{name}/") for f in config["files"])},
        source=Source(folder, text, config["files"]),
    )


def find(name: str | Path) -> Path:
    """Return the folder of a bundle: an embedded name, a folder, or `hf://owner/name` (fetched once into the hub's
    cache).

    Raises `CheckpointError` for a name that is none of these.
    """
    if not isinstance(name, str | Path):
        raise CheckpointError(f"bundle {name!r:.200}: is no name; give a string or a path")
    name = str(name)
    if name.startswith("hf://"):
        return _fetch(name.removeprefix("hf://"))
    try:
        folder = Path(name).expanduser()
        if (folder / "config.json").exists():
            return folder
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, no such user, no permission
        raise CheckpointError(f"bundle {name!r:.200}: cannot be looked for ({said(error)}); check the name") from error
    known = sorted(p.parent.name for p in EMBEDDED.glob("*/config.json"))
    if name in known:
        return EMBEDDED / name
    if folder.is_dir():
        raise CheckpointError(f"bundle {name!r}: the folder has no config.json; give a folder that `cm3 train` wrote")
    raise CheckpointError(
        f"bundle {name!r}: no such folder, and not an embedded bundle ({', '.join(known) or 'there is none'}); "
        f"check the path, or give hf://owner/name.{did_you_mean(name, known)}".removesuffix(".")
    )


def _fetch(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=list(PATTERNS)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"bundle 'hf://{repo}': cannot be fetched ({said(error)}); check the id and the network"
        ) from error


def _copy_folder(name: str, source: Path, target: Path) -> list[str]:
    """Copy a folder into the bundle; returns the names of its files, in order. Hidden files are not part of it."""
    found = (
        sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()) if source.is_dir() else []
    )
    found = [f for f in found if not any(part.startswith(".") for part in PurePosixPath(f).parts)]
    if not found:
        raise ConfigError(f"bundle.{name}={str(source)!r}: must be a folder with files in it; leave it None for none")
    if odd := [file for file in found if not is_name(f"{name}/{file}")]:
        raise ConfigError(
            f"bundle.{name}={str(source)!r}: holds {odd[0]!r}; a bundle holds "
            f"{', '.join('.' + s for s in SUFFIXES)} files of plain names; take it out"
        )
    for file in found:
        inside(source, file, f"bundle.{name}", ConfigError)
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target / file)
    return [f"{name}/{file}" for file in found]


def _save_weights(module: nn.Module, path: Path, dtype: torch.dtype) -> None:
    tensors = {}
    for name, value in module.state_dict().items():
        stored = value.detach().to(dtype) if value.is_floating_point() else value.detach()
        if value.is_floating_point() and not bool(torch.isfinite(stored).all()):
            raise ConfigError(f"{name}: has values outside the range of {dtype}; save in bfloat16 or float32")
        # Weights that were laid out share their memory, which safetensors does not store. All others are as they are:
        # no second copy of a large model.
        alone = stored.is_contiguous() and stored.untyped_storage().nbytes() == stored.nbytes
        tensors[name] = stored if alone else stored.contiguous().clone()
    save_file(tensors, path)


def _bare(kind: type[Decoder], config: DecoderConfig) -> Decoder:
    with bare():
        return kind(config)


def _decoder_kind(config: dict[str, Any], what: str) -> type[Decoder]:
    """Return the class of the decoder that config.json describes. Raises `CheckpointError` for an unknown one."""
    found = config.get("decoder_weights")
    if found not in (None, "int8"):
        raise CheckpointError(
            f"{what}: config.json says decoder_weights={found!r:.60}; this version knows int8 alone, so restore it, or "
            "install the version that wrote it"
        )
    return Decoder if found is None else Int8Decoder

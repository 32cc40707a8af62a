"""A model on disk: one folder with everything that generation needs.

    config.json                    format, vocabulary, network shapes, recommended sampling, checksum of each other file
    decoder.safetensors            the language model
    image_tokenizer.safetensors    the VQGAN
    tokenizer.json                 the text tokenizer, in the `tokenizers` library's format
    encoder/                       optional: what turns documents and prompts into vectors, to search `memory/` with
    memory/                        optional: a memory bank, the documents that the model may draw on

Weights are stored in the dtype given to `save` and computed in float32 unless the caller moves them. The two folders
are copied as they are; `cm3.retrieval` reads them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cm3.errors import CheckpointError, ConfigError, did_you_mean
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.vqgan import VQGAN, VQGANConfig
from cm3.vocab import Vocab

FORMAT = 1
EMBEDDED = Path(__file__).resolve().parent.parent / "bundles"
FILES = ("decoder.safetensors", "image_tokenizer.safetensors", "tokenizer.json")
FOLDERS = ("encoder", "memory")
PATTERNS = ("config.json", *FILES, *(f"{name}/*" for name in FOLDERS))
"""What is fetched from the hub; `*` stands for folders inside folders too."""


@dataclass
class Bundle:
    """What a folder holds. `sampling`: recommended settings by kind; `about`: how it was made, free form.

    `encoder` and `memory` are folders on disk, for a model that comes with a memory bank.
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


def save(bundle: Bundle, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a bundle. The folder appears whole or not at all; a bundle that is there is replaced.

    Raises `ConfigError` as `check_place` does, when a weight does not fit `dtype`'s range, and when `encoder` or
    `memory` is no folder with files.
    """
    folder = Path(folder)
    check_place(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _save_weights(bundle.decoder, building / FILES[0], dtype)
        _save_weights(bundle.vqgan, building / FILES[1], dtype)
        shutil.copyfile(bundle.text_tokenizer, building / FILES[2])
        names = [*FILES]
        for name in FOLDERS:
            if (source := getattr(bundle, name)) is not None:
                names += _copy_folder(name, Path(source), building / name)
        config = {
            "format": FORMAT,
            "vocab": dataclasses.asdict(bundle.vocab),
            "decoder": bundle.decoder.config.to_dict(),
            "image_tokenizer": dataclasses.asdict(bundle.vqgan.config),
            "image_size": bundle.image_size,
            "sampling": bundle.sampling,
            "about": bundle.about,
            "files": {name: _digest(building / name) for name in names},
        }
        (building / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        for path in (building, *(p for p in building.rglob("*") if p.is_dir())):
            os.chmod(path, 0o755)
        for name in names:
            os.chmod(building / name, 0o644)  # safetensors writes for the owner alone
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            os.replace(folder, old / "old")
            os.replace(building, folder)
            shutil.rmtree(old)
        else:
            os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def check_place(folder: str | Path) -> None:
    """Raise `ConfigError` where `save` may not write: over a file or a folder that is no bundle. Makes nothing."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"bundle {str(folder)!r}: is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not _is_bundle(folder):
        raise ConfigError(
            f"bundle {str(folder)!r}: holds other files, which would be lost; give a new folder, or a bundle to replace"
        )
    place = folder.absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise ConfigError(f"bundle {str(folder)!r}: {str(place)!r} is a file; give another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"bundle {str(folder)!r}: no permission to write in {str(place)!r}; give another folder")


def _is_bundle(folder: Path) -> bool:
    """Of any format, whole or damaged: what a bundle may replace."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"format", "files"} <= config.keys()


def load(folder: str | Path, weights: bool = True) -> Bundle:
    """Read a bundle folder; weights in float32. Without `weights` the decoder is on the meta device, and neither its
    file nor those of the folders are read.

    Raises `CheckpointError` naming the file that is missing, altered, or does not fit.
    """
    folder = Path(folder)
    config = _read_config(folder)
    for name in _names(folder, config["files"]):
        path = folder / name
        if not weights and name not in FILES[1:]:
            continue
        if not path.is_file():
            raise CheckpointError(f"bundle {str(folder)!r}: {name} is missing; restore it or install the bundle again")
        if _digest(path) != config["files"].get(name):
            raise CheckpointError(
                f"bundle {str(folder)!r}: {name} was altered (its checksum is not the one in config.json); restore it"
            )
    try:
        vocab = _build(Vocab, config["vocab"])
        decoder_config = _build(DecoderConfig, config["decoder"])
        vqgan_config = _build(VQGANConfig, config["image_tokenizer"])
        size = int(config["image_size"])
        sampling, about = dict(config.get("sampling", {})), dict(config.get("about", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"bundle {str(folder)!r}: config.json does not describe a model ({error})") from error
    if decoder_config.vocab_size != vocab.size:
        raise CheckpointError(
            f"bundle {str(folder)!r}: config.json has decoder.vocab_size={decoder_config.vocab_size} and "
            f"{vocab.size} ids in its vocabulary; restore it"
        )
    return Bundle(
        vocab=vocab,
        decoder=_load_weights(Decoder, decoder_config, folder / FILES[0]) if weights else _bare(decoder_config),
        vqgan=_load_weights(VQGAN, vqgan_config, folder / FILES[1]),
        image_size=size,
        text_tokenizer=folder / FILES[2],
        sampling=sampling,
        about=about,
        name=folder.name,
        **{name: folder / name for name in FOLDERS if any(f.startswith(f"{name}/") for f in config["files"])},
    )


def find(name: str) -> Path:
    """The folder of a bundle: an embedded name, a folder, or `hf://owner/name` (fetched once into the hub's cache).

    Raises `CheckpointError` for a name that is none of these.
    """
    if name.startswith("hf://"):
        return _fetch(name.removeprefix("hf://"))
    folder = Path(name).expanduser()
    if (folder / "config.json").exists():
        return folder
    known = sorted(p.parent.name for p in EMBEDDED.glob("*/config.json"))
    if name in known:
        return EMBEDDED / name
    if folder.is_dir():
        raise CheckpointError(f"bundle {name!r}: the folder has no config.json; give a folder that `cm3 train` wrote")
    raise CheckpointError(
        f"bundle {name!r}: no such folder, and not an embedded bundle ({', '.join(known) or 'there is none'}); "
        f"or give hf://owner/name.{did_you_mean(name, known)}"
    )


def _fetch(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=list(PATTERNS)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"bundle 'hf://{repo}': cannot be fetched ({reason}); check the id and the network"
        ) from error


T = TypeVar("T")


def _build(kind: type[T], values: dict[str, Any]) -> T:
    # JSON has lists where the configs have tuples.
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"bundle {str(folder)!r}: config.json is missing; restore it") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"bundle {str(folder)!r}: config.json is not JSON ({error}); restore it") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT or not isinstance(config.get("files"), dict):
        raise CheckpointError(f"bundle {str(folder)!r}: config.json is not a bundle of format {FORMAT}")
    return config


def _digest(path: Path) -> str:
    with path.open("rb") as file:  # a memory bank may be larger than memory
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names(folder: Path, files: dict[str, str]) -> list[str]:
    """Names of the files of a bundle, all inside it, the three that every bundle has among them."""
    for name in files:
        parts = PurePosixPath(name).parts
        if name not in FILES and (len(parts) < 2 or parts[0] not in FOLDERS or ".." in parts):
            raise CheckpointError(
                f"bundle {str(folder)!r}: config.json lists {name!r}; a bundle holds {', '.join(FILES)} and what is in "
                f"{' and '.join(FOLDERS)}; restore it"
            )
    return list(dict.fromkeys([*FILES, *files]))


def _copy_folder(name: str, source: Path, target: Path) -> list[str]:
    """Copy a folder into the bundle; returns the names of its files, in order. Hidden files are not part of it."""
    found = (
        sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()) if source.is_dir() else []
    )
    found = [f for f in found if not any(part.startswith(".") for part in PurePosixPath(f).parts)]
    if not found:
        raise ConfigError(f"bundle.{name}={str(source)!r}: must be a folder with files in it; leave it None for none")
    for file in found:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target / file)
    return [f"{name}/{file}" for file in found]


def _save_weights(module: nn.Module, path: Path, dtype: torch.dtype) -> None:
    tensors = {}
    for name, value in module.state_dict().items():
        stored = value.detach().to(dtype) if value.is_floating_point() else value.detach()
        if value.is_floating_point() and not bool(torch.isfinite(stored).all()):
            raise ConfigError(f"{name}: has values outside the range of {dtype}; save in bfloat16 or float32")
        tensors[name] = stored.contiguous().clone()
    save_file(tensors, path)


def _bare(config: DecoderConfig) -> Decoder:
    with torch.device("meta"):
        return Decoder(config)


M = TypeVar("M", Decoder, VQGAN)


def _load_weights(kind: type[M], config: Any, path: Path) -> M:
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors raises its own kinds
        raise CheckpointError(f"{str(path)!r}: not a readable safetensors file ({error}); restore it") from error
    module = kind(config)
    wanted = module.state_dict()
    for name, value in wanted.items():
        if name not in tensors:
            raise CheckpointError(f"{str(path)!r}: weight {name!r} is missing; restore the file")
        if tensors[name].shape != value.shape:
            raise CheckpointError(
                f"{str(path)!r}: weight {name!r} has shape {tuple(tensors[name].shape)}, "
                f"config.json says {tuple(value.shape)}"
            )
    if extra := sorted(set(tensors) - set(wanted)):
        raise CheckpointError(f"{str(path)!r}: weight {extra[0]!r} is not in the network that config.json describes")
    module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    return module.eval()

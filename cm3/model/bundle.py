"""A model on disk: one folder with everything that generation needs.

    config.json                    format, vocabulary, network shapes, recommended sampling, checksum of each other file
    decoder.safetensors            the language model
    image_tokenizer.safetensors    the VQGAN
    tokenizer.json                 the text tokenizer, in the `tokenizers` library's format

Weights are stored in the dtype given to `save` and computed in float32 unless the caller moves them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
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


@dataclass
class Bundle:
    """What a folder holds. `sampling`: recommended settings by kind; `about`: how it was made, free form."""

    vocab: Vocab
    decoder: Decoder
    vqgan: VQGAN
    image_size: int
    text_tokenizer: Path
    sampling: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    name: str = ""


def save(bundle: Bundle, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a bundle. The folder appears whole or not at all; one that is there is replaced.

    Raises `ConfigError` when a weight does not fit `dtype`'s range.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _save_weights(bundle.decoder, building / FILES[0], dtype)
        _save_weights(bundle.vqgan, building / FILES[1], dtype)
        shutil.copyfile(bundle.text_tokenizer, building / FILES[2])
        config = {
            "format": FORMAT,
            "vocab": dataclasses.asdict(bundle.vocab),
            "decoder": bundle.decoder.config.to_dict(),
            "image_tokenizer": dataclasses.asdict(bundle.vqgan.config),
            "image_size": bundle.image_size,
            "sampling": bundle.sampling,
            "about": bundle.about,
            "files": {name: _digest(building / name) for name in FILES},
        }
        (building / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        os.chmod(building, 0o755)
        for name in FILES:
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


def load(folder: str | Path) -> Bundle:
    """Read a bundle folder; weights in float32.

    Raises `CheckpointError` naming the file that is missing, altered, or does not fit.
    """
    folder = Path(folder)
    config = _read_config(folder)
    for name in FILES:
        path = folder / name
        if not path.exists():
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
        decoder=_load_weights(Decoder, decoder_config, folder / FILES[0]),
        vqgan=_load_weights(VQGAN, vqgan_config, folder / FILES[1]),
        image_size=size,
        text_tokenizer=folder / FILES[2],
        sampling=sampling,
        about=about,
        name=folder.name,
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
        return Path(snapshot_download(repo, allow_patterns=["config.json", *FILES]))
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
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _save_weights(module: nn.Module, path: Path, dtype: torch.dtype) -> None:
    tensors = {}
    for name, value in module.state_dict().items():
        stored = value.detach().to(dtype) if value.is_floating_point() else value.detach()
        if value.is_floating_point() and not bool(torch.isfinite(stored).all()):
            raise ConfigError(f"{name}: has values outside the range of {dtype}; save in bfloat16 or float32")
        tensors[name] = stored.contiguous().clone()
    save_file(tensors, path)


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

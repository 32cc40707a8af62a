"""Other people's CLIPs as an Encoder, through the transformers library (the extra `clip`).

Pictures are prepared here, with Pillow: the library's own image processor wants torchvision, which this project keeps
out. Texts longer than the model reads (77 tokens for OpenAI's) are cut off.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F

from cm3.errors import CheckpointError, ConfigError
from cm3.files import said
from cm3.retrieval.embed import folder_of
from cm3.retrieval.pairs import CHUNK
from cm3.retrieval.pixels import pixels_of
from cm3.weights import check_weights, on_device

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of each colour, over CLIP's own training pictures in 0..1; the weights expect pictures scaled by these."""

DEFAULT = "openai/clip-vit-base-patch32"
_SMALL = ["config.json", "tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json"]


class ClipEncoder:
    """A CLIP; `load` reads one. Rows of `texts` and `images` are float32 and of length one."""

    def __init__(self, model: Any, tokenizer: Any, name: str, *, device: str = "cpu") -> None:
        """Take a transformers CLIPModel and its tokenizer. Raises `ConfigError` for an unknown device."""
        self.model = on_device(model.eval(), device)
        self.tokenizer, self.name, self.device = tokenizer, name, self.model.device
        self.width = int(model.config.projection_dim)
        self.size = int(model.config.vision_config.image_size)
        self.length = int(model.config.text_config.max_position_embeddings)

    @classmethod
    def load(cls, name: str | Path = DEFAULT, *, device: str = "cpu", fetch: bool = True) -> ClipEncoder:
        """Read a folder in Hugging Face's layout, or fetch a hub id once into the hub's cache; without `fetch`, only if
        it is there already.

        Raises `ConfigError` where transformers is missing, `CheckpointError` where it cannot be fetched or read.
        """
        text = str(name)
        library = _transformers(text)
        folder = folder_of(text)
        if text.startswith("hf://") or not os.path.isdir(folder):
            repo = text.removeprefix("hf://")
            folder, name = _fetch(repo, fetch), f"clip:{repo}"
        else:
            name = f"clip:{digest(folder)[:12]}"
        try:
            model, report = library.CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
            tokenizer = library.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # the library raises as many kinds as there are files
            raise CheckpointError(f"encoder {text!r}: cannot be read as a CLIP ({said(error)}); restore it") from error
        # The library fills what is missing with chance and only warns.
        if missing := sorted(report["missing_keys"]):
            raise CheckpointError(f"encoder {text!r}: weight {missing[0]!r} is missing; give a whole CLIP")
        check_weights(model.state_dict(), f"encoder {text!r}")
        return cls(model, tokenizer, name, device=device)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (n, width) of texts."""
        rows = []
        for start in range(0, len(texts), CHUNK):
            chunk = list(texts[start : start + CHUNK])
            batch = self.tokenizer(
                chunk, padding=True, truncation=True, max_length=self.length, return_tensors="pt"
            ).to(self.device)
            found = self.model.get_text_features(batch["input_ids"], attention_mask=batch["attention_mask"])
            rows.append(F.normalize(found.pooler_output.float(), dim=-1).cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, self.width), dtype=np.float32)

    @torch.no_grad()
    def images(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Return unit vectors (n, width) of pictures of any mode and size. Raises `DataError` for one that cannot be
        read."""
        rows = []
        mean, std = (torch.tensor(x, device=self.device).view(3, 1, 1) for x in (MEAN, STD))
        for start in range(0, len(images), CHUNK):
            pixels = torch.from_numpy(pixels_of(images[start : start + CHUNK], self.size)).to(self.device)
            found = self.model.get_image_features((pixels.float() / 255 - mean) / std)
            rows.append(F.normalize(found.pooler_output.float(), dim=-1).cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, self.width), dtype=np.float32)


def _transformers(name: str) -> Any:
    try:
        # By its name, so that a type checker does not read all of a very large library.
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ConfigError(
            f"encoder {name!r}: a CLIP needs the transformers library; pip install transformers"
        ) from error


def _fetch(repo: str, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def folder_of(weights: str) -> Path:
        return Path(snapshot_download(repo, allow_patterns=[*_SMALL, weights], local_files_only=not fetch))

    try:
        folder = folder_of("model*.safetensors*")
        if not any(folder.glob("*.safetensors")):  # OpenAI's own repositories have only torch's format
            folder = folder_of("pytorch_model.bin")
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if not fetch:
            raise CheckpointError(
                f"encoder {repo!r}: is not on this machine, and is fetched only for who asks for it; name it yourself "
                "with --encoder (encoder=...)"
            ) from error
        raise CheckpointError(
            f"encoder {repo!r}: no such folder, and cannot be fetched from the hub ({said(error)}); check the id and "
            "the network, or give a folder"
        ) from error


def digest(folder: Path) -> str:
    """Return the content hash of a folder's weights. Raises `CheckpointError` where there are none."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise CheckpointError(f"encoder {str(folder)!r}: has no weights (model.safetensors); restore them")
    hashed = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashed.update(hashlib.file_digest(file, "sha256").digest())
    return hashed.hexdigest()

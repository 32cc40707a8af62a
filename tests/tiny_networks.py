"""Networks that look at pictures, of random weights, in the folders that Hugging Face's library writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch


def clip(folder: Path, layers: int = 2, positions: int = 77, size: int = 32, width: int = 24) -> Path:
    """Write a CLIP for pictures of `size` px and texts of so many positions, with a tokenizer of bytes; skips without
    the library."""
    transformers: Any = pytest.importorskip("transformers")
    from tokenizers.pre_tokenizers import ByteLevel

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}
    ids = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    config = transformers.CLIPConfig(
        text_config={**small, **ids, "max_position_embeddings": positions},
        vision_config={**small, "image_size": size, "patch_size": 8},
        projection_dim=width,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    alphabet = sorted(ByteLevel.alphabet())
    entries = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({entry: i for i, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def dino(folder: Path) -> Path:
    """Write a DINOv2 for pictures of 28 px; skips without the library."""
    transformers: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "mlp_ratio": 2}
    transformers.Dinov2Model(transformers.Dinov2Config(**small, image_size=28, patch_size=14)).save_pretrained(folder)
    return folder

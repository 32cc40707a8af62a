"""Whole models of Chameleon's family on a disk, small, as their owners publish them: weights, settings, tokenizers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import published_vq
import torch
from published_language import Shape, Whole, anole, hf_config, lumina, meta, meta_params, transformers, whole
from published_tokenizer import of_transformers, text_tokenizer
from safetensors.torch import save_file

CODES = 64
TEXT = text_tokenizer(codes=CODES, marks=16)
IDS = len(json.loads(TEXT)["model"]["vocab"])
"""400."""
SIDE = 32
"""Pictures of 2 x 2 codes."""
VQ = dataclasses.replace(published_vq.CHAMELEON, codes=CODES)
STATES = {"chameleon-hf": transformers, "lumina-hf": lumina, "anole-hf": anole}


def vqgan() -> dict[str, torch.Tensor]:
    """The tensors of vqgan.ckpt."""
    return published_vq.weights(VQ, published_vq.Taming(VQ))


def yaml() -> str:
    """The vqgan.yaml beside it."""
    return (
        f"model:\n  params:\n    embed_dim: {VQ.dim}\n    n_embed: {VQ.codes}\n    ddconfig:\n"
        f"      z_channels: {VQ.z}\n      resolution: {SIDE}\n      ch: {VQ.ch}\n"
        f"      num_res_blocks: {VQ.blocks}\n      attn_resolutions: []\n"
    )


def write_vqgan(folder: Path) -> Path:
    """vqgan.ckpt as Lightning leaves it, with vqgan.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": vqgan(), "epoch": 3}, folder / "vqgan.ckpt")
    (folder / "vqgan.yaml").write_text(yaml())
    return folder / "vqgan.ckpt"


def meta_folder(root: Path, model: Whole) -> Path:
    """Meta's download: models/7b and tokenizer."""
    shape = model.shape
    folder = root / "models/7b"
    folder.mkdir(parents=True)
    for i, shard in enumerate(meta(model)):
        name = "consolidated.pth" if shape.shards == 1 else f"consolidated.{i:02}.pth"
        torch.save(shard, folder / name)
    for name, page in zip(("params.json", "consolidate_params.json"), meta_params(shape), strict=True):
        (folder / name).write_text(json.dumps(page))
    write_vqgan(root / "tokenizer")
    (root / "tokenizer/text_tokenizer.json").write_bytes(TEXT)
    return root


def hf_folder(root: Path, model: Whole, layout: str = "chameleon-hf", files: int = 1, old: bool = False) -> Path:
    """A folder in one of transformers' layouts; `files` of weights, with an index. `old`: pytorch_model.bin, of torch
    before its zip."""
    root.mkdir(parents=True)
    state = STATES[layout](model)
    config = hf_config(model.shape, vq_config={"resolution": SIDE})
    if layout == "chameleon-hf":
        state |= {f"model.vqmodel.{n}": t for n, t in vqgan().items() if not n.startswith("decoder.")}
    elif layout == "anole-hf":
        state |= {f"model.vqmodel.{n}": t for n, t in vqgan().items()}
    text, vocabulary_map = of_transformers(TEXT)
    (root / "tokenizer.json").write_bytes(text)
    (root / "config.json").write_text(json.dumps(config | {"vocabulary_map": vocabulary_map}))
    names = sorted(state)
    parts = [names[i::files] for i in range(files)]
    stem, suffix = ("pytorch_model", "bin") if old else ("model", "safetensors")
    titles = [f"{stem}.{suffix}"] if files == 1 else [f"{stem}-{i + 1:05}-of-{files:05}.{suffix}" for i in range(files)]
    for title, some in zip(titles, parts, strict=True):
        part = {name: state[name].contiguous() for name in some}
        if old:
            torch.save(part, root / title, _use_new_zipfile_serialization=False)
        else:
            save_file(part, root / title, {"format": "pt"})
    if files > 1:
        index = {name: title for title, some in zip(titles, parts, strict=True) for name in some}
        (root / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return root


def small(**numbers: Any) -> Whole:
    """A model with random weights and an id for each name of `TEXT`."""
    dtype = numbers.pop("dtype", torch.float32)
    return whole(Shape(vocab=IDS, **numbers), dtype=dtype)

"""What a pretraining run becomes: a bundle, of its live model or of a checkpoint.

out/checkpoints/00001000 ------> decoder --+
out/config.json ---------------> settings -+-> bundle      (cm3/model/bundle.py)
out/tokenizer.json encoder/ bank/ ---------+
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cm3.data.lanes import LoaderState
from cm3.errors import CheckpointError
from cm3.model import bundle as bundles
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.vqgan import VQGAN
from cm3.parallel import MeshConfig, start
from cm3.train.checkpoint import Checkpoints
from cm3.train.image_tokenizer import load_config, load_weights
from cm3.vocab import Vocab


def bundle_of(
    out: Path,
    decoder: Decoder,
    vocab: Vocab,
    vqgan: VQGAN,
    init: bundles.Bundle | None,
    image_size: int,
    sampling: dict[str, dict[str, Any]],
    about: dict[str, Any],
) -> bundles.Bundle:
    """A bundle of a run in `out`, with the tokenizer and the bank that stand there or in what it began with, `init`."""
    made = bundles.Bundle(vocab, decoder, vqgan, image_size, out / "tokenizer.json", sampling, about)
    encoder, bank = out / "encoder", out / "bank"
    if bank.is_dir():
        made.memory, made.encoder = bank, encoder if encoder.is_dir() else None
    elif init is not None:
        made.memory, made.encoder = init.memory, init.encoder
    return made


def export_run(run: str | Path, out: str | Path, step: int | None = None, dtype: torch.dtype = torch.float16) -> int:
    """Write a bundle of a pretraining run's checkpoint, the last one by default. Returns its step.

    Raises `CheckpointError` for a folder that is no such run, and for a checkpoint that is missing or damaged.
    """
    folder = Path(run)
    try:
        page = json.loads((folder / "config.json").read_text())
        init, tokenizer, size, sampling = (page[k] for k in ("init", "image_tokenizer", "image_size", "sampling"))
        tasks = list(page.get("tasks", ()))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"run {str(folder)!r}: config.json is not that of a pretraining run ({error}); give the folder that "
            "`cm3 train` wrote to"
        ) from error
    checkpoints = Checkpoints(folder / "checkpoints", start(MeshConfig(), "cpu"))
    found, saved = checkpoints.read(step)
    decoder = Decoder(DecoderConfig(**saved["config"]["model"]))
    checkpoints.restore(found, {f"model.{name}": p.detach() for name, p in decoder.named_parameters()})
    begun = bundles.load(bundles.find(init)) if init else None
    vqgan = load_image_tokenizer(tokenizer) if begun is None else begun.vqgan
    about = {"steps": found, "documents": LoaderState.of(saved["loader"]).documents, "recipe": folder.name}
    about["tasks"] = tasks
    made = bundle_of(folder, decoder, Vocab(**saved["vocab"]), vqgan, begun, size, sampling, about)
    bundles.save(made, out, dtype)
    return found


def load_image_tokenizer(folder: str | Path) -> VQGAN:
    """The VQGAN that an image tokenizer run wrote. Raises `CheckpointError` where there is none."""
    config = load_config(folder)
    vqgan = VQGAN(config)
    try:
        vqgan.load_state_dict(load_weights(folder, config))
    except RuntimeError as error:
        raise CheckpointError(
            f"image tokenizer {str(folder)!r}: image_tokenizer.safetensors does not fit config.json; train it again"
        ) from error
    return vqgan.eval()

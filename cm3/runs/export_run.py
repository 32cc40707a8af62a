"""A pretraining run becomes a bundle, of its live model or of a checkpoint.

out/checkpoints/00001000 ------> decoder --+
out/config.json ---------------> settings -+-> bundle      (cm3/model/bundle.py)
out/tokenizer.json encoder/ bank/ ---------+
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cm3.data.lanes import LoaderState
from cm3.errors import CheckpointError, ConfigError
from cm3.files import build, read_json
from cm3.model import bundle as bundles
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.vqgan import VQGAN
from cm3.parallel import MeshConfig, start
from cm3.sequence.turns import prompt_format
from cm3.train.checkpoint import Checkpoints
from cm3.train.image_tokenizer import load_image_tokenizer
from cm3.train.lora import LoraConfig, adapt, merge
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
    """Return a bundle of a run in `out`, with the tokenizer and the bank that stand there or in what it began with,
    `init`."""
    made = bundles.Bundle(vocab, decoder, vqgan, image_size, out / "tokenizer.json", sampling, about)
    encoder, bank = out / "encoder", out / "bank"
    if bank.is_dir():
        made.memory, made.encoder = bank, encoder if encoder.is_dir() else None
    elif init is not None:
        # With what they were, so that none of another bundle is copied where the folder is replaced meanwhile.
        made.memory, made.encoder, made.source = init.memory, init.encoder, init.source
    return made


def about_of(
    out: Path, step: int, documents: int, tasks: Sequence[str], mixture: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what a bundle of the run in `out` says of how it was made."""
    made = {"steps": step, "documents": documents, "recipe": out.name, "tasks": list(tasks)}
    return made | ({"mixture": mixture} if mixture else {})


def format_of(vocab: Vocab, init: bundles.Bundle | None, given: str = "") -> dict[str, str]:
    """Return `about.prompt_format` of a run's bundle: what is given, else that of what it began with, else plain.

    Nothing for the grammar "cm3", which has no turns. Raises `ConfigError` where one is given for it.
    """
    if vocab.grammar == "cm3" and given:
        raise ConfigError(f"prompt_format={given!r:.60}: is for a model of the grammar 'chameleon'; leave it out")
    if vocab.grammar == "cm3":
        return {}
    return {"prompt_format": given or (prompt_format(init.about, vocab) if init is not None else "plain")}


def export_run(run: str | Path, out: str | Path, step: int | None = None, dtype: torch.dtype = torch.float16) -> int:
    """Write a bundle of a pretraining run's checkpoint, the last one by default. Returns its step.

    Raises `ConfigError`, before any work, for an `out` that may not be written to; `CheckpointError` for a folder that
    is no such run, and for a checkpoint that is missing or damaged.
    """
    folder = Path(run)
    bundles.check_place(out)
    try:
        page = read_json(folder / "config.json", "the folder")
        init, tokenizer, size, sampling = (page[k] for k in ("init", "image_tokenizer", "image_size", "sampling"))
        tasks = list(page.get("tasks", ()))
        if [type(v) for v in (init, tokenizer, size, sampling)] != [str, str, int, dict]:
            raise TypeError("its init, image_tokenizer, image_size or sampling is of another type")
    except (CheckpointError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"run {str(folder)!r}: config.json is not that of a pretraining run ({error}); give the folder that "
            "`cm3 train` wrote to"
        ) from error
    checkpoints = Checkpoints(folder / "checkpoints", start(MeshConfig(), "cpu"))
    found, saved = checkpoints.read(step)
    begun = bundles.load(bundles.find(init)) if init else None
    decoder = _decoder(checkpoints, found, saved["config"], init, begun)
    replaced = page.get("replace_image_tokenizer", page.get("redrawn", ""))  # the second is from before 0.2
    vqgan = tokenizer_of(begun, tokenizer, replaced)
    if saved["config"].get("given", {}).get("image_tokenizer", known := vqgan.fingerprint()) != known:
        raise CheckpointError(
            f"run {str(folder)!r}: the image tokenizer that lies at {replaced or init or tokenizer!r} is "
            "not the one that it was trained with; restore it"
        )
    about = about_of(folder, found, LoaderState.of(saved["loader"]).documents, tasks, saved.get("mixture"))
    if world := page.get("world"):
        about["world"] = world
    vocab = build(Vocab, saved["vocab"], f"run {str(folder)!r}: vocab")
    about |= format_of(vocab, begun, page.get("prompt_format", ""))
    made = bundle_of(folder, decoder, vocab, vqgan, begun, size, sampling, about)
    bundles.save(made, out, dtype)
    return found


def _decoder(
    checkpoints: Checkpoints, step: int, config: dict[str, Any], init: str, begun: bundles.Bundle | None
) -> Decoder:
    """Return the decoder of a checkpoint; its adapters, where it has some, merged into what it began with."""
    decoder, lora = Decoder(DecoderConfig(**config["model"])), LoraConfig(**config.get("lora", {}))
    if lora.rank and begun is not None:
        if decoder_digest(begun) != config["base"]:
            raise CheckpointError(
                f"init={init!r}: is not the model that the adapters of this run stand beside; restore it"
            )
        decoder.load_state_dict(begun.decoder.state_dict())
        adapt(decoder, lora)
    learnt = {f"model.{name}": p.detach() for name, p in decoder.named_parameters() if p.requires_grad}
    checkpoints.restore(step, learnt)
    if not lora.rank:
        return decoder
    with torch.device("meta"):
        plain = Decoder(decoder.config)
    weights = {name: p.detach() for name, p in decoder.named_parameters()}
    plain.load_state_dict(merge(weights, lora), assign=True)
    return plain


def decoder_digest(bundle: bundles.Bundle) -> str:
    """Return the checksum of the decoder's weights, as they were loaded, whatever lies in the folder by now."""
    assert bundle.source is not None, "a bundle that was loaded"
    return bundle.source.files[bundles.FILES[0]]


def tokenizer_of(init: bundles.Bundle | None, folder: str, replaced: str = "") -> VQGAN:
    """Return the image tokenizer of a run: of the bundle it begins with, unless another one takes its place, or of a
    `folder`.

    Raises `CheckpointError` where there is none, and for one with other codes than `init` has.
    """
    if init is None:
        if not folder:
            raise CheckpointError(
                "image_tokenizer: none is given; give the folder of an image tokenizer run, or init, a bundle"
            )
        return load_image_tokenizer(folder)
    if not replaced:
        return init.vqgan
    vqgan = load_image_tokenizer(replaced)
    if vqgan.config.codes != init.vqgan.config.codes:
        raise CheckpointError(
            f"replace_image_tokenizer={replaced!r}: has {vqgan.config.codes} codes, and that of init has "
            f"{init.vqgan.config.codes}; train one from the image tokenizer of init"
        )
    return vqgan

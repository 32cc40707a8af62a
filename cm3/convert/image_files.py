"""Published image tokenizers on a disk: from a file or a folder to the folder that `--image-tokenizer` takes."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cm3.convert.image_layouts import Found, Said, read_image_tokenizer
from cm3.convert.problems import refuse, told_of
from cm3.convert.tensor_files import TensorFiles, open_shard
from cm3.errors import Cm3Error, ConfigError
from cm3.files import build, check_folder, read_json, replacing_folder
from cm3.model import bundle as bundles
from cm3.model.folder import FILES
from cm3.model.vqgan import VQGAN, VQGANConfig
from cm3.weights import load_into

WEIGHTS = FILES[1]
_YAML_BYTES = 1 << 20
_LINE = re.compile(r"\s*(resolution|z_channels|ch|num_res_blocks|embed_dim|n_embed)\s*:\s*(\d{1,9})\s*(?:#.*)?")
"""A line of vqgan.yaml that says a number which is looked at; such a file is nested, and has each name once."""


def open_image_tokenizer(
    source: str | Path,
    *,
    decoder: str | Path | None = None,
    size: int | None = None,
    quantizer: str | None = None,
    pixels: str | None = None,
) -> Found:
    """Read a published image tokenizer: a file, or a folder with one.

    `decoder` is Meta's vqgan.ckpt, for transformers' half; the rest is as `read_image_tokenizer` has it. An image
    tokenizer of ours, and that of a bundle, is as its own config.json says. Raises `CheckpointError`.
    """
    source = Path(source).expanduser()
    if (ours := _of_ours(source)) is not None:
        if any(value is not None for value in (decoder, size, quantizer, pixels)):
            refuse(source, ["is of this package, and its config.json says all of it; give nothing else"])
        return ours
    files = TensorFiles.open(source)
    beside = None if decoder is None else open_image_tokenizer(decoder)
    found = read_image_tokenizer(
        files,
        files.read,
        str(source),
        beside=said_beside(source),
        size=size,
        quantizer=quantizer,
        pixels=pixels,
        whole=None if beside is None else beside.vqgan,
    )
    if skipped := {*skipped_in(files), *([] if beside is None else beside.about.get("skipped", []))}:
        found.about["skipped"] = sorted(skipped)
    return found


def _of_ours(source: Path) -> Found | None:
    """Open what `write_image_tokenizer` or a run wrote, or the image tokenizer of a bundle; None for what others did.

    By its tensors alone it could be taken for another, which chooses codes otherwise.
    """
    if not (source / "config.json").is_file():
        return None
    what = f"image tokenizer {str(source)!r}"
    page = read_json(source / "config.json", what)
    if {"format", "files"} <= page.keys():
        held = bundles.load(source, weights=False)
        return Found(held.vqgan, held.image_size, {"from": "bundle", "dtype": stored_type(source)})
    if "vqgan" not in page:
        return None
    config = build(VQGANConfig, page["vqgan"], f"{what}: config.json: vqgan")
    size, about = page.get("size"), page.get("converted")
    if type(size) is not int or size < config.factor or size % config.factor:
        refuse(source, [f"config.json says size={size!r:.40}, which is no multiple of {config.factor}; restore it"])
    assert isinstance(size, int)
    about = about if isinstance(about, dict) and {"from", "dtype"} <= about.keys() else {}
    vqgan = load_into(lambda: VQGAN(config), source / WEIGHTS, f"{what}: {WEIGHTS}")
    return Found(vqgan, size, {"from": "ours", "dtype": stored_type(source), **about})


def stored_type(folder: Path) -> str:
    """Return the number type of the image tokenizer in a folder of ours: float32 where it is of several."""
    kinds = {stored.dtype for stored in open_shard(folder / WEIGHTS).tensors.values() if stored.dtype.is_floating_point}
    return str(kinds.pop()).removeprefix("torch.") if len(kinds) == 1 else "float32"


def skipped_in(files: TensorFiles) -> list[str]:
    """Return the classes of objects that were left out of pickles, by name."""
    return sorted({name for shard in files.shards for name in shard.skipped})


def said_beside(source: Path) -> Said:
    """Return what the one config.json or .yaml beside weights says of an image tokenizer: nothing where there is none.

    Beside a file it is the .yaml of the same name. Raises `CheckpointError` for one that cannot be read.
    """
    folder = source if source.is_dir() else None
    if folder is not None and (folder / "config.json").is_file():
        return said_in_json(read_json(folder / "config.json", repr(str(folder))))
    found = sorted(folder.glob("*.yaml")) if folder is not None else [source.with_suffix(".yaml")]
    if len(found) != 1 or not found[0].is_file() or found[0] == source:
        return Said()
    try:
        with open(found[0], "rb") as file:
            text = file.read(_YAML_BYTES).decode("utf-8", errors="replace")
    except OSError as error:
        refuse(source, [f"{found[0].name} cannot be read ({error.strerror})"])
        raise
    return said_in_yaml(text, found[0].name, str(source))


def said_in_yaml(text: str, name: str, where: str) -> Said:
    """Return what a vqgan.yaml of taming's form says. Raises `CheckpointError` where it says a number in two ways."""
    found: dict[str, set[int]] = {}
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            found.setdefault(match[1], set()).add(int(match[2]))
    refuse(where, [f"{name} says {n} in two ways: {min(v)} and {max(v)}" for n, v in found.items() if len(v) > 1])
    one = {key: values.pop() for key, values in found.items()}
    return Said(
        name,
        one.get("resolution"),
        one.get("n_embed"),
        one.get("embed_dim"),
        one.get("z_channels"),
        one.get("ch"),
        one.get("num_res_blocks"),
    )


def said_in_json(page: dict[str, Any]) -> Said:
    """Return what the config.json of open-muse, or the `vq_config` of transformers, says."""
    inner, muse = page.get("vq_config"), page.get("_class_name") == "VQGANModel"
    of = inner if isinstance(inner, dict) else page if muse else {}

    def number(name: str, of_muse: str) -> int | None:
        value = of.get(of_muse if of is page else name)
        return value if type(value) is int else None

    return Said(
        "config.json",
        number("resolution", "resolution"),
        number("num_embeddings", "num_embeddings"),
        number("embed_dim", "quantized_embed_dim"),
        number("latent_channels", "z_channels"),
        number("base_channels", "hidden_channels"),
        number("num_res_blocks", "num_res_blocks"),
        muse=of is page,
    )


def write_image_tokenizer(found: Found, out: str | Path) -> None:
    """Write the folder that a run's `--image-tokenizer` takes; it appears whole, and an image tokenizer is replaced.

    Weights stay of the type that they were stored in. Raises `ConfigError` for a place that holds anything else.
    """
    out = _check_out(out)
    stored = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(found.about["dtype"], torch.float32)
    if found.about["from"] == "transformers-chameleon":
        stored = torch.float32  # what was read is Meta's file
    state = found.vqgan.state_dict()
    tensors = {n: (v.to(stored) if v.is_floating_point() else v).contiguous() for n, v in state.items()}
    page = {"vqgan": asdict(found.vqgan.config), "size": found.size, "converted": found.about}
    with replacing_folder(out) as building:
        save_file(tensors, building / WEIGHTS)
        (building / "config.json").write_text(json.dumps(page, indent=1) + "\n")
        os.chmod(building, 0o755)
        os.chmod(building / WEIGHTS, 0o644)  # safetensors writes for the owner alone


def _check_out(out: str | Path) -> Path:
    """Return the place to write. Raises `ConfigError` where anything but an image tokenizer is."""
    out = Path(out).expanduser()
    what = f"image tokenizer {str(out)!r}"
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{what}: is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not _is_image_tokenizer(out):
        raise ConfigError(f"{what}: holds other files, which would be lost; give a new folder")
    check_folder(out.parent, what)
    return out


def _is_image_tokenizer(folder: Path) -> bool:
    """Tell whether a folder is what `write_image_tokenizer` writes, and nothing else."""
    if {path.name for path in folder.iterdir()} != {"config.json", WEIGHTS}:
        return False
    try:
        return "vqgan" in read_json(folder / "config.json", "image tokenizer")
    except Cm3Error:
        return False


def convert_image_tokenizer(
    source: str | Path,
    out: str | Path,
    *,
    decoder: str | Path | None = None,
    size: int | None = None,
    quantizer: str | None = None,
    pixels: str | None = None,
) -> dict[str, Any]:
    """Turn a published image tokenizer into the folder that a run's `--image-tokenizer` takes; returns what it is.

    See `open_image_tokenizer` and `write_image_tokenizer`. Nothing is written where anything is wrong.
    """
    place = os.path.realpath(Path(out).expanduser())
    if os.path.isdir(place) and place == os.path.realpath(Path(source).expanduser()):
        raise ConfigError(f"image tokenizer {str(out)!r}: is the source itself; give another folder")
    _check_out(out)
    found = open_image_tokenizer(source, decoder=decoder, size=size, quantizer=quantizer, pixels=pixels)
    write_image_tokenizer(found, out)
    config = found.vqgan.config
    shape = {"factor": config.factor, "codes": config.codes, "code_dim": config.code_dim, "quantizer": config.quantizer}
    told = {"warnings": told_of(found.about), "out": str(out)}
    return {**found.about, **shape, "size": found.size, **told}

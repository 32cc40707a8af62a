"""Find out what a file or a folder of weights is: family, layout, whether it is whole, and what is wrong with it.

Weights that are broken raise no error as long as a file of them can be opened: what can be said of them is said, and
the rest is under "wrong". Of a published language model only what opening it takes is read (language_models.py), and
queries and keys of a few layers; of an image tokenizer all weights; of a bundle all files, for their checksums.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cm3.convert.decoder_layouts import Held, Layout, recognise, seen_as_ours
from cm3.convert.decoder_settings import Settings
from cm3.convert.ids import IdMap
from cm3.convert.image_files import open_image_tokenizer
from cm3.convert.image_layouts import root_of
from cm3.convert.language_models import NAMES, folder_of, held_in, open_model, text_file, tried
from cm3.convert.problems import some
from cm3.convert.row_order import Rows, look_at_rows
from cm3.convert.tensor_files import Shard, TensorFiles, listed, open_shard
from cm3.errors import CheckpointError, Cm3Error
from cm3.files import read_json, said
from cm3.model.bundle import Shape, find
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.folder import FILES, check_config, check_text, opened, read_config
from cm3.model.vqgan import VQGANConfig
from cm3.vocab import Vocab
from cm3.weights import bare

_ROWS = {
    "ours": ("blocks.{}.", ("wq.weight", "wk.weight", "q_norm.weight", "k_norm.weight")),
    "meta": (
        "layers.{}.attention.",
        ("wq.weight", "wk.weight", "q_normalization.weight", "k_normalization.weight"),
    ),
    "named": ("model.layers.{}.self_attn.", ("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight")),
}
"""Names of queries, keys and their norms in a layer."""
_LAYER = re.compile(r"(?:blocks|layers|model\.layers)\.(\d{1,9})\.")
_LAYERS = re.compile(r"layers\.\d+\.")


def inspect_weights(path: str | Path) -> dict[str, Any]:
    """Return what is found at a path, or in a bundle that `cm3.model.bundle.find` knows by its name, as plain values.

    See `cm3 inspect --help`. Raises `CheckpointError` only where there is nothing, where no weights can be opened, and
    for a download of two models.
    """
    path = _place(path)
    found: dict[str, Any] = {"path": str(path), "kind": "weights", "family": None, "layout": None, "wrong": []}
    config = _config(path)
    if {"format", "files", "vocab"} & config.keys() and path.is_dir():
        _bundle(path, found)
    elif "vqgan" in config and (path / FILES[1]).is_file():
        _image_tokenizer_of_ours(path, found)
    else:
        _published(path, found)
    found.setdefault("whole", True)
    if found["wrong"]:
        found["whole"] = False
    return found


def _place(path: str | Path) -> Path:
    if str(path).startswith("hf://"):
        return find(path)
    place = Path(path).expanduser()
    if place.exists():
        return place
    try:
        return find(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{str(path)!r}: there is no such file or folder, and no embedded bundle of that name; give weights, the "
            "folder of a model, or a bundle"
        ) from error


def _config(path: Path) -> Mapping[str, Any]:
    try:
        return read_json(path / "config.json", str(path)) if path.is_dir() else {}
    except Cm3Error:
        return {}


# Files


def _files(found: dict[str, Any], shards: Sequence[Shard]) -> None:
    """Note files, types and sizes."""
    numbers: Counter[str] = Counter()
    files = []
    for shard in shards:
        kinds: Counter[str] = Counter()
        for stored in shard.tensors.values():
            kinds[str(stored.dtype).removeprefix("torch.")] += stored.bytes // stored.dtype.itemsize
        numbers += kinds
        files.append(
            {"file": shard.path.name, "kind": shard.kind, "bytes": shard.file.size, "tensors": len(shard.tensors)}
            | {"numbers": dict(kinds)}
            | ({"group": shard.group, "groups": shard.groups} if shard.kind == "pickle" else {})
        )
    found |= {"files": files, "bytes": sum(shard.file.size for shard in shards)}
    found |= {"numbers": sum(numbers.values()), "types": dict(numbers.most_common())}
    if skipped := sorted({name for shard in shards for name in shard.skipped}):
        found["left_out"] = skipped
    if nones := sorted({name for shard in shards for name in shard.nones}):
        found["none"] = nones


def _readable(path: Path, found: dict[str, Any]) -> TensorFiles | None:
    """Open weights; of those that are not whole, what can be opened."""
    try:
        return TensorFiles.open(path)
    except CheckpointError as error:
        found["wrong"].append(said(error))
        if not path.is_dir():
            return None
    shards: list[Shard] = []
    try:
        names = listed(path)[1]
    except CheckpointError:
        return None
    for name in names:
        try:
            shards.append(open_shard(path / name))
        except CheckpointError:
            continue
    try:
        return TensorFiles(path, shards) if shards else None
    except CheckpointError:
        return None


# What others publish


def _published(path: Path, found: dict[str, Any]) -> None:
    folder = folder_of(path)
    files = _readable(path if path.is_file() else folder, found)
    if files is None:  # nothing can be said of it but that
        raise CheckpointError(found["wrong"][0])
    _files(found, files.shards)
    held = held_in(files)
    # All layers as one: of shards that are missing the first layer may be a part.
    alike = [{_LAYERS.sub("layers.0.", name): tensor for name, tensor in of.items()} for of in held]
    try:
        layout = recognise(alike)
    except CheckpointError as error:
        if any(_LAYER.match(name) and ".self_attn.q_proj." in name or ".attention.wq" in name for name in files):
            found |= {"kind": "language model", "family": "another"}
            found["wrong"].append(said(error))
        elif root_of(files) is not None:
            _published_image_tokenizer(path, found)
        else:
            found["names"] = sorted(files)[:8]
            found["whole"] = None
        return
    found |= {"kind": "language model", "family": "Chameleon", "layout": NAMES[layout.family]}
    names = "meta" if layout.family == "meta" else "named"
    _language_model(path, folder, files, held, layout, found)
    norm = alike[0][_names(names, 0)[2]][0]
    _rows(files, names, norm[-1] if norm else 0, "pairs" if layout.pairs else "halves", found)


def _language_model(
    path: Path, folder: Path, files: TensorFiles, held: list[Held], layout: Layout, found: dict[str, Any]
) -> None:
    """Note the shape, the ids, the images and the order of rows; of a model that is not whole, what can be told."""
    model = tried(found["wrong"], lambda: open_model(path))
    ids: IdMap | None = None
    config: DecoderConfig | None = None
    if model is not None:
        ids, config = model.ids, model.config
        found["prompt_format"] = model.about.get("prompt_format")
        if "averaged" in model.converted:
            found["averaged"] = model.converted["averaged"]
        found["image_tokenizer"] = _vqgan(model.image.vqgan.config, model.image.size) | {
            name: value for name, value in model.image.about.items() if name in ("from", "dtype", "left_out")
        }
    else:
        try:
            config = seen_as_ours(held, Settings(), lambda rank, name: files.read(name, rank)).config
        except Cm3Error:
            config = None
        try:
            text = text_file(folder)
            ids = IdMap.of(text.read_bytes(), None, where=text.name)
        except (Cm3Error, OSError):
            ids = None
    if config is not None:
        found["shape"] = _shape(config)
        if model is None:
            del found["shape"]["order"]  # the settings say it
    found["norm_groups"] = layout.groups
    if ids is not None:
        found["ids"] = _ids_of_file(ids)


def _published_image_tokenizer(path: Path, found: dict[str, Any]) -> None:
    found |= {"kind": "image tokenizer", "family": "VQGAN"}
    image = tried(found["wrong"], lambda: open_image_tokenizer(path))
    if image is not None:
        found["layout"] = image.about.get("from")
        found["image_tokenizer"] = _vqgan(image.vqgan.config, image.size) | dict(image.about)


# Ours


def _bundle(path: Path, found: dict[str, Any]) -> None:
    found |= {"kind": "bundle", "family": "CM3Leon", "layout": "bundle"}
    config = tried(found["wrong"], lambda: read_config(path))
    if config is None:
        return
    tried(found["wrong"], lambda: check_config(path, config))
    shape = tried(found["wrong"], lambda: Shape.of(config, f"bundle {str(path)!r}"))
    for name in config["files"]:
        tried(found["wrong"], lambda name=name: _check(path, name, shape))  # type: ignore[misc]
    shards = [s for s in (tried(found["wrong"], lambda n=n: open_shard(path / n)) for n in FILES[:2]) if s is not None]  # type: ignore[misc]
    _files(found, shards)
    about = config.get("about", {})
    about = about if isinstance(about, dict) else {}
    if not isinstance(about.get("converted", {}), dict):
        about = {name: value for name, value in about.items() if name != "converted"}
    found |= {name: about[name] for name in ("converted", "prompt_format", "recipe", "steps") if name in about}
    if shape is None:
        return
    vocab, decoder = shape.vocab, shape.decoder
    if vocab.grammar == "chameleon":
        found["family"] = "Chameleon"
    found["shape"] = _shape(decoder)
    found["ids"] = _ids_of(vocab)
    found["image_tokenizer"] = _vqgan(shape.image_tokenizer, shape.image_size)
    weights = next((s for s in shards if s.path.name == FILES[0]), None)
    if weights is None or config.get("decoder_weights") == "int8":
        return
    with bare():
        wanted = {name: tuple(value.shape) for name, value in Decoder(decoder).state_dict().items()}
    there = {name: stored.shape for name, stored in weights.tensors.items()}
    if odd := sorted({name for name, _ in wanted.items() ^ there.items()}):
        found["wrong"].append(f"{FILES[0]} is not of the model that config.json describes ({some(odd)})")
    if decoder.positions == "rope":
        _rows(TensorFiles(path, [weights]), "ours", decoder.head_dim, "halves", found)


def _check(path: Path, name: str, shape: Shape | None) -> None:
    """Check one file of a bundle, so that of several that are damaged each is named. Raises `CheckpointError`."""
    with opened(path, lambda wanted: wanted == name) as files:
        if name == FILES[2] and shape is not None:
            check_text(shape.vocab, files.read(name), files.what)
        else:
            files.check(name)


def _image_tokenizer_of_ours(path: Path, found: dict[str, Any]) -> None:
    found |= {"kind": "image tokenizer", "family": "VQGAN", "layout": "ours"}
    shard = tried(found["wrong"], lambda: open_shard(path / FILES[1]))
    if shard is None:  # the same would be said again
        return
    _files(found, [shard])
    image = tried(found["wrong"], lambda: open_image_tokenizer(path))
    if image is None:
        return
    found["image_tokenizer"] = _vqgan(image.vqgan.config, image.size)
    if image.about["from"] != "ours":
        found["converted"] = image.about


# Words


def _shape(config: DecoderConfig) -> dict[str, Any]:
    return {
        "layers": config.layers,
        "d_model": config.d_model,
        "heads": config.heads,
        "kv_heads": config.kv_heads or config.heads,
        "hidden": config.ffn,
        "vocab_size": config.vocab_size,
        "context": config.context,
        "order": config.norm_order,
        "tied": config.tied,
    }


def _vqgan(config: VQGANConfig, size: Any) -> dict[str, Any]:
    return {
        "codes": config.codes,
        "code_dim": config.code_dim,
        "factor": config.factor,
        "quantizer": config.quantizer,
        "pixels": config.pixels,
        "size": size,
    }


def _ids_of_file(ids: IdMap) -> dict[str, Any]:
    """Say where things are among the ids of the file, not ours."""
    images, vocab = ids.images, ids.vocab
    straight = bool((images[1:] - images[:-1] == 1).all())
    return {
        "count": len(ids.to_file),
        "text": vocab.text,
        "images": vocab.image,
        "image_ids": [int(images[0]), int(images[-1])] if straight else sorted(map(int, images))[:8],
        "in_one_range": straight,
        "begin_image": int(ids.to_file[Vocab.brk]),
        "end_image": int(ids.to_file[Vocab.eoss]),
        "turn": None if ids.turn is None else int(ids.to_file[ids.turn]),
        "masks": 0,
    }


def _ids_of(vocab: Vocab) -> dict[str, Any]:
    return {
        "count": vocab.size,
        "text": vocab.text,
        "images": vocab.image,
        "image_ids": [vocab.image_start, vocab.size - 1],
        "in_one_range": True,
        "begin_image": vocab.brk,
        "end_image": vocab.eoss if vocab.grammar == "chameleon" else None,
        "turn": vocab.turn,
        "masks": vocab.masks,
    }


# Rows


def _names(names: str, layer: int) -> list[str]:
    before, of = _ROWS[names]
    return [before.format(layer) + name for name in of]


def _norm(files: TensorFiles, name: str, rows: str, width: int) -> Tensor | None:
    """Read a norm of the heads whose rows are in the tensor `rows`; None for one that is of no such heads."""
    shape = files[name].shape if name in files else ()
    if len(shape) not in (1, 2) or shape[-1] != width or not all(shape):
        return None
    return None if files.shape(rows)[0] // width % (shape[0] if len(shape) == 2 else 1) else files.read(name)


def _rows(files: TensorFiles, names: str, width: int, expected: str, found: dict[str, Any]) -> None:
    """Note the order in which rows of queries and keys lie, and their norms; of ranks the first is looked at."""
    if not width or width % 2:
        return
    layers = {int(match[1]) for match in map(_LAYER.match, files.shards[0].tensors) if match}
    whole = [layer for layer in sorted(layers) if all(name in files for name in _names(names, layer)[:2])]
    fits = [layer for layer in whole if all(len(files[n].shape) == 2 for n in _names(names, layer)[:2])]
    fits = [layer for layer in fits if all(not files.shape(n)[0] % width for n in _names(names, layer)[:2])]
    if not fits:
        return

    def read(number: int) -> Rows:
        query, key, query_norm, key_norm = _names(names, fits[number])
        norms = [_norm(files, *names, width) for names in ((query_norm, query), (key_norm, key))]
        return Rows(files.read(query), files.read(key), *norms)

    order = look_at_rows(len(fits), width, read)
    found["rows"] = {
        "expected": expected,
        "order": order.rows.answer,
        "sure": order.rows.sure,
        "errors": order.rows.errors,
        "norms": order.norms.answer,
        "norms_sure": order.norms.sure,
        "norms_errors": order.norms.errors,
    }
    if order.rows.answer not in (None, expected):
        found["wrong"].append(
            f"rows of queries and keys lie in {order.rows.answer} ({order.rows.sure}), and this layout has them in "
            f"{expected}: whoever converted it did not turn them; convert the original again"
        )
    if order.norms.answer == "other":
        found["wrong"].append(
            f"query-key norms do not lie as the rows that they scale ({order.norms.sure}): whoever converted it turned "
            "one and not the other; convert the original again"
        )

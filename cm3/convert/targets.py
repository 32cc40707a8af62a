"""The files of a model in each layout that is written: one step for each file, in the order in which they are written.

    bundle            decoder.safetensors, image_tokenizer.safetensors, tokenizer.json, config.json
    chameleon-hf      model-00001-of-0000N.safetensors ..., their index, tokenizer.json, config.json and the rest that
                      transformers' ChameleonForConditionalGeneration and ChameleonProcessor read
    chameleon-meta    consolidated.pth or consolidated.NN.pth, params.json, consolidate_params.json, and tokenizer/
                      with text_tokenizer.json, vqgan.ckpt and vqgan.yaml

Steps say what they need before one is carried out: what cannot be written is refused while nothing is.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cm3.convert.decoder_layouts import Layout, Piece, check_cut, norm_groups, our_shapes, permuted, written
from cm3.convert.decoder_settings import to_meta
from cm3.convert.image_layouts import meta_config, transformers_config
from cm3.convert.image_layouts import to_meta as image_to_meta
from cm3.convert.image_layouts import to_transformers as image_to_transformers
from cm3.convert.language_models import Model
from cm3.convert.writers import Made, write_pickled, write_safetensors
from cm3.errors import CheckpointError, ConfigError, whole_number
from cm3.files import Facts, parse_json
from cm3.files import write as write_whole
from cm3.model.bundle import Shape, described
from cm3.model.folder import FILES
from cm3.tokens.chameleon import PLACE, entries_of
from cm3.vocab import Vocab
from cm3.weights import check_dtype

TARGETS = ("bundle", "chameleon-hf", "chameleon-meta")
DTYPES = ("float32", "bfloat16", "float16")
SHARD_BYTES = 5_000_000_000
"""Most bytes of one file of safetensors in transformers' layout, as its own files have."""
MOST_SHARDS = 8
"""Most files of Meta's layout that are written unasked: no published model has more."""
IMAGE = "<image>"
"""The name under which transformers has a place for a picture; it renames the reserved id after the end of a turn."""

_NOTHING_FIRST = re.compile(rb'("post_processor"\s*:\s*)null')


class Step(NamedTuple):
    """One file: its name, the bytes of its tensors, and what writes it to a path, whole or not at all."""

    file: str
    bytes: int
    write: Callable[[Path, Made], Facts]


def steps_of(
    model: Model, to: str, shards: int | None = None, dtype: str | None = None
) -> tuple[list[Step], Callable[[Mapping[str, str]], str]]:
    """Return the steps, and what makes the page that is written last of the sha256 of each of their files: config.json,
    in Meta's layout params.json.

    `shards`: files of Meta's layout, None for as many as it came from, else as few as keep its norms. `dtype`: the
    number type of the language model, None for the stored ones. Raises `ConfigError` or `CheckpointError`.
    """
    if to not in TARGETS:
        raise ConfigError(f"to={to!r:.60}: must be one of {', '.join(TARGETS)}")
    if shards is not None and to != "chameleon-meta":
        raise ConfigError(f"shards={shards}: are for chameleon-meta alone; leave it out")
    shards = None if shards is None else whole_number("shards", shards)
    model = model._replace(read=functools.partial(_number, model.read))
    if dtype is not None:
        check_dtype(dtype, DTYPES)
        kind = getattr(torch, dtype)
        old = model.read
        cast = model._replace(dtypes=dict.fromkeys(model.dtypes, kind), read=lambda name: _cast(old(name), kind, name))
        model = cast._replace(converted=model.converted | {"dtype": dtype}) if model.converted else cast
    if to == "bundle":
        return _bundle(model)
    return _transformers(model) if to == "chameleon-hf" else _meta(model, shards)


def _cast(weight: Tensor, kind: torch.dtype, name: str) -> Tensor:
    made = weight.to(kind)
    if not _finite(made):
        raise CheckpointError(f"{name}: has values that {str(kind)[6:]} does not hold; give another --dtype, or none")
    return made


def _tensors(file: str, pieces: Sequence[Piece], write: Callable[..., Facts] = write_safetensors) -> Step:
    size = sum(math.prod(piece.shape) * piece.dtype.itemsize for piece in pieces)
    return Step(file, size, lambda path, made: write(path, pieces, made))


def _page(file: str, data: bytes | str | dict[str, Any]) -> Step:
    if isinstance(data, dict):
        data = json.dumps(data, indent=2) + "\n"
    raw = data if isinstance(data, bytes) else data.encode()

    def write(path: Path, made: Made) -> Facts:
        write_whole(path, raw)
        return Facts(len(raw), hashlib.sha256(raw).hexdigest())

    return Step(file, 0, write)


def _pieces(tensors: Mapping[str, Tensor]) -> list[Piece]:
    return [Piece(name, tuple(t.shape), t.dtype, t.contiguous) for name, t in tensors.items()]


# Ours


def _bundle(model: Model) -> tuple[list[Step], Callable[[Mapping[str, str]], str]]:
    shape = Shape(model.ids.vocab, model.config, model.image.vqgan.config, model.image.size)
    shape.check("the model", CheckpointError)
    names = our_shapes(model.config)
    kind = _image_type(model, meta=True)
    image = {n: v.detach().to(kind) if v.is_floating_point() else v for n, v in model.image.vqgan.state_dict().items()}
    pieces = [Piece(n, s, model.dtypes[n], functools.partial(model.read, n)) for n, s in names.items()]
    steps = [_tensors(FILES[0], pieces), _tensors(FILES[1], _pieces(image)), _page(FILES[2], model.text)]
    about = model.about | {"converted": model.converted}
    return steps, lambda sums: described(shape, dict(sums), "the model", sampling=model.sampling, about=about)


def _number(read: Callable[[str], Tensor], name: str) -> Tensor:
    """Return a weight. Raises `CheckpointError` where it holds NaN or infinity: nothing draws with those."""
    weight = read(name)
    if not _finite(weight):
        raise CheckpointError(f"{name}: holds values that are no finite numbers; fetch the files again")
    return weight


def _finite(weight: Tensor) -> bool:
    """Tell whether all values are numbers. Both ends are soon found, twenty times as fast as by isfinite, and one is
    no number where any value is none."""
    return not weight.numel() or all(math.isfinite(float(end)) for end in weight.aminmax())


def _image_type(model: Model, meta: bool) -> torch.dtype:
    """Return the type in which the image tokenizer was stored: of transformers' half what is kept whole is Meta's."""
    about = model.image.about
    if meta and about.get("from") == "transformers-chameleon":
        return torch.float32
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(str(about.get("dtype")), torch.float32)


# transformers'


def _transformers(model: Model) -> tuple[list[Step], Callable[[Mapping[str, str]], str]]:
    read = permuted(model.read, torch.from_numpy(model.ids.to_ours))
    (pieces,) = written(Layout("transformers"), model.config, model.dtypes, read)
    pieces += _pieces(image_to_transformers(model.image.vqgan, _image_type(model, meta=False)))
    text, names = text_of(model.text, transformers=True)
    names = names[: model.config.vocab_size]  # the file may have one more, which no weight is of
    files = _in_files(pieces)
    sizes = [sum(math.prod(p.shape) * p.dtype.itemsize for p in some) for some in files]
    titles = ["model.safetensors"] if len(files) == 1 else [
        f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)
    ]  # fmt: skip
    steps = [_tensors(title, some) for title, some in zip(titles, files, strict=True)]
    if len(files) > 1:
        index = {piece.name: title for title, some in zip(titles, files, strict=True) for piece in some}
        steps.append(
            _page("model.safetensors.index.json", {"metadata": {"total_size": sum(sizes)}, "weight_map": index})
        )
    ids = {
        name: int(model.ids.to_file[id]) for name, id in (("bos", Vocab.bos), ("pad", Vocab.pad), ("eos", Vocab.eos))
    }
    generation = {f"{name}_token_id": id for name, id in ids.items()}
    steps += [
        _page("tokenizer.json", text),
        _page("tokenizer_config.json", _tokenizer_config(names, model)),
        _page("generation_config.json", generation),
        _page("preprocessor_config.json", _preprocessor(model.image.size)),
        _page("processor_config.json", _processor(model)),
    ]
    config = _config(model, names, ids)
    return steps, lambda sums: json.dumps(config, indent=2) + "\n"


def _in_files(pieces: Sequence[Piece]) -> list[list[Piece]]:
    files: list[list[Piece]] = [[]]
    size = 0
    for piece in pieces:
        more = math.prod(piece.shape) * piece.dtype.itemsize
        if files[-1] and size + more > SHARD_BYTES:
            files.append([])
            size = 0
        files[-1].append(piece)
        size += more
    return files


def _config(model: Model, names: Sequence[str], ids: Mapping[str, int]) -> dict[str, Any]:
    c = model.config
    kinds = {str(kind).removeprefix("torch.") for kind in model.dtypes.values()}
    return {
        "architectures": ["ChameleonForConditionalGeneration"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
        # No pad_token_id: transformers would keep that row of the embedding from learning.
        "hidden_act": "silu",
        "hidden_size": c.d_model,
        "initializer_range": 0.02,
        "intermediate_size": c.ffn,
        "max_position_embeddings": c.context,
        "mlp_bias": False,
        "model_parallel_size": norm_groups(c, model.read),
        "model_type": "chameleon",
        "num_attention_heads": c.heads,
        "num_hidden_layers": c.layers,
        "num_key_value_heads": c.kv_heads or c.heads,
        "rms_norm_eps": c.norm_eps,
        # The first is read by transformers 5, the second by its forerunners.
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "rope_theta": c.rope_theta,
        "swin_norm": c.norm_order == "swin",
        "tie_word_embeddings": c.tied,
        "torch_dtype": kinds.pop() if len(kinds) == 1 else "float32",
        "use_cache": True,
        "vocab_size": c.vocab_size,
        "vocabulary_map": {name: id for id, name in enumerate(names)},
        "vq_config": transformers_config(model.image.vqgan.config, model.image.size),
    }


def _tokenizer_config(names: Sequence[str], model: Model) -> dict[str, Any]:
    ids = {"bos": Vocab.bos, "pad": Vocab.pad, "eos": Vocab.eos, "unk": Vocab.unk}
    fixed = {name: names[int(model.ids.to_file[id])] for name, id in ids.items()}
    begin, end = (names[int(model.ids.to_file[id])] for id in (Vocab.brk, Vocab.eoss))
    turn = model.ids.turn
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.context,
        "clean_up_tokenization_spaces": False,
        "image_token": IMAGE,
        "boi_token": begin,
        "eoi_token": end,
        **{f"{name}_token": token for name, token in fixed.items()},
        **({} if turn is None else {"sep_token": names[int(model.ids.to_file[turn])]}),
    }


def _preprocessor(size: int) -> dict[str, Any]:
    """Return the settings of transformers' ChameleonImageProcessor: its own defaults, at the model's size."""
    return {
        "image_processor_type": "ChameleonImageProcessor",
        "processor_class": "ChameleonProcessor",
        "crop_size": {"height": size, "width": size},
        "size": {"shortest_edge": size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [1.0, 1.0, 1.0],
        "image_std": [1.0, 1.0, 1.0],
        "resample": 1,
        "rescale_factor": 0.0078,
    }


def _processor(model: Model) -> dict[str, Any]:
    side = model.image.size // model.image.vqgan.config.factor
    return {"processor_class": "ChameleonProcessor", "image_seq_length": side * side, "image_token": IMAGE}


def text_of(text: bytes, transformers: bool) -> tuple[bytes, tuple[str, ...]]:
    """Return a tokenizer.json as transformers' layout has it, or as Meta's has, and all names by id.

    In transformers' the place of a picture has the name `IMAGE`, in Meta's `<reservedNNNNN>`, with the number after
    that of the end of a turn; and transformers' tokenizer puts `<s>` before a text, where Meta's program does so
    itself. Only that is changed, so the two are inverse byte for byte. Raises `CheckpointError` where there is no such
    id.
    """
    page = parse_json(text, FILES[2], CheckpointError)
    names = entries_of(page, FILES[2]).names
    if transformers and PLACE not in names and IMAGE not in names:
        raise CheckpointError(f"{FILES[2]}: has no {PLACE}, the id that transformers' layout has for a picture's place")
    old, new = (PLACE, IMAGE) if transformers else (IMAGE, PLACE)
    if new not in names:
        text = text.replace(json.dumps(old).encode(), json.dumps(new).encode())
        names = tuple(new if name == old else name for name in names)
    first = _first(names)
    begins = json.dumps(first, separators=(",", ":")).encode()
    if transformers == (page.get("post_processor") is not None):
        return text, names
    text = _NOTHING_FIRST.sub(lambda found: found[1] + begins, text) if transformers else text.replace(begins, b"null")
    page, wanted = parse_json(text, FILES[2], CheckpointError), first if transformers else None
    if page.get("post_processor") != wanted:  # it is spelled otherwise
        text = json.dumps(page | {"post_processor": wanted}, ensure_ascii=False).encode()
    return text, names


def _first(names: Sequence[str]) -> dict[str, Any]:
    """Return the `tokenizers` library's way to put `<s>` before a text."""
    begin = "<s>"
    single = [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    token = {"id": begin, "ids": [names.index(begin)], "tokens": [begin]}
    return {
        "type": "TemplateProcessing", "single": single, "pair": [*single, *second], "special_tokens": {begin: token}
    }  # fmt: skip


# Meta's


def _meta(model: Model, shards: int | None) -> tuple[list[Step], Callable[[Mapping[str, str]], str]]:
    groups = norm_groups(model.config, model.read)
    if shards is None:
        came = model.converted.get("shards") if model.converted.get("from") == "chameleon-meta" else None
        shards = came if type(came) is int and came > 0 and came % groups == 0 else groups
        if shards > MOST_SHARDS:
            raise CheckpointError(
                f"heads have query-key norms of their own, in {groups} groups, and each of Meta's files keeps one: "
                f"give --shards {groups} for that many files, or write chameleon-hf"
            )
    layout = Layout("meta", shards, shards)
    check_cut(layout, model.config)
    if shards % groups:
        raise CheckpointError(
            f"shards={shards}: the model has {groups} groups of query-key norms, of which each shard keeps one; give a "
            f"multiple of {groups}, or write chameleon-hf"
        )
    read = permuted(model.read, torch.from_numpy(model.ids.to_ours))
    files = written(layout, model.config, model.dtypes, read)
    c = model.config
    rates = 1.0 / c.rope_theta ** (torch.arange(0, c.head_dim, 2)[: c.head_dim // 2].float() / c.head_dim)
    # Meta's loader wants this one tensor more than its network has.
    files = [[*pieces, Piece("rope.freqs", tuple(rates.shape), rates.dtype, lambda: rates)] for pieces in files]
    titles = ["consolidated.pth"] if shards == 1 else [f"consolidated.{i:02}.pth" for i in range(shards)]
    image = _pieces(image_to_meta(model.image.vqgan, _image_type(model, meta=True)))
    params, consolidated = to_meta(model.config, shards)
    steps = [_tensors(title, pieces, write_pickled) for title, pieces in zip(titles, files, strict=True)]
    steps += [
        _tensors("tokenizer/vqgan.ckpt", image, functools.partial(write_pickled, group="state_dict")),
        _page("tokenizer/vqgan.yaml", in_yaml(_vqgan_settings(model))),
        _page("tokenizer/text_tokenizer.json", text_of(model.text, transformers=False)[0]),
        _page("consolidate_params.json", consolidated),
    ]
    return steps, lambda sums: json.dumps(params, indent=2) + "\n"


def _vqgan_settings(model: Model) -> dict[str, Any]:
    made = meta_config(model.image.vqgan.config, model.image.size)
    # Programs that read this file take both fields out, whether they use them or not.
    made["model"]["params"] |= {"ckpt_path": None, "lossconfig": {"target": "torch.nn.Identity"}}
    return made


def in_yaml(values: Mapping[str, Any], indent: str = "") -> str:
    """Return settings, numbers, words, lists of numbers and more of them, as YAML."""
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{name}:\n{in_yaml(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{name}: {value if isinstance(value, str) else json.dumps(value)}\n")
    return "".join(lines)

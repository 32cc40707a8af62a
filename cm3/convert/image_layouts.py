"""Published image tokenizers as our one VQGAN, and back; told apart by their tensors, never by names of files.

    taming                  encoder.down.i.block.j, decoder.up.i.block.j: taming's f16, latent diffusion's vq-f8
    chameleon               the same; 16 pixels a code, attention in the middle alone: Meta's vqgan.ckpt
    gumbel                  the same with quantize.proj and quantize.embed: taming's Gumbel f8
    ibq                     the same with four blocks a level and moving averages of all weights: SEED-Voken's
    open-muse               the same without attention in the middle; it computes on pixels in [0, 1]
    llamagen, janus         encoder.conv_blocks.i.res.j, decoder.conv_blocks.i in the order in which they run; codes are
                            unit vectors. Janus's VQ-16 is the same below gen_vision_model.
    transformers-chameleon  taming's names below model.vqmodel. without a decoder: read with Meta's file, or not at all
    transformers-janus      taming's names, levels of the decoder in the order in which they run

Names of ours are taming's. What a checkpoint holds beside the network (critic, optimiser) is left out; any other tensor
is an error, as a missing one is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cm3.convert.problems import refuse, some
from cm3.errors import Cm3Error, ConfigError
from cm3.files import said
from cm3.model.vqgan import PIXELS, QUANTIZERS, VQGAN, VQGANConfig
from cm3.weights import bare, check_weights


class Facts(NamedTuple):
    """Describe what the tensors of a layout do not say: how codes are chosen, and of which pictures."""

    quantizer: str
    size: int
    """Side of the pictures, in pixels."""
    squares: str
    """The way in which its authors make squares of pictures, for the record: ours are `cm3.picture.square`."""
    pixels: str = "-1..1"
    """Range of the network's own pixels."""


_BILINEAR = "shortest edge to the size, bilinear; centre crop"
_CHAMELEON = "transparency on white; shortest edge to the size, Lanczos; centre crop"
_LLAMAGEN = "shortest edge to the size, by halves with a box filter and then bicubic; centre crop"
LAYOUTS = {
    "taming": Facts("vq", 256, _BILINEAR),
    "chameleon": Facts("vq", 512, _CHAMELEON),
    "gumbel": Facts("gumbel", 256, _BILINEAR),
    "ibq": Facts("ibq", 256, _BILINEAR),
    "open-muse": Facts("vq", 256, _BILINEAR, "0..1"),
    "llamagen": Facts("l2", 256, _LLAMAGEN),
    "janus": Facts("l2", 384, _LLAMAGEN),
    "transformers-chameleon": Facts("vq", 512, _CHAMELEON),
    "transformers-janus": Facts("l2", 384, _LLAMAGEN),
}
DECODER = (
    "the decoder is in Meta's vqgan.ckpt (in the folder tokenizer of Chameleon's and of Anole's download, and in "
    "original_tokenizers of Alpha-VLLM/Chameleon_7B_mGPT): give that too"
)
"""Where the half that transformers leaves out is to be had."""

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_ANCHORS = ("encoder.conv_in.weight", "quant_conv.weight", "decoder.conv_in.weight")
"""Names that the tensors of a network are found by, whatever stands before them."""
_BESIDE = ("loss.", "model_ema.")
"""Parts that training adds: the critic and LPIPS; the moving averages, which take the place of the weights."""
_STATE = ("quantize.codebook_used", "colorize")
"""The same, single tensors."""
_OWN = ("quantize.unused",)
"""Tensors of ours that no published network has."""


class Header(Protocol):
    """A tensor before it is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return its shape."""

    @property
    def dtype(self) -> torch.dtype:
        """Return its number type."""


Held = Mapping[str, Header]
Read = Callable[[str], Tensor]


@dataclass(frozen=True)
class Said:
    """The numbers that a config.json or a vqgan.yaml beside the weights says; None is one that it does not say.

    It is compared with the tensors, which decide; `size` and `muse` are not in them.
    """

    file: str = ""
    size: int | None = None
    codes: int | None = None
    code_dim: int | None = None
    z_channels: int | None = None
    channels: int | None = None
    blocks: int | None = None
    muse: bool = False
    """It is of a class of open-muse."""

    def against(self, config: VQGANConfig) -> list[str]:
        """Return what it says otherwise than the tensors."""
        names = ("codes", "code_dim", "z_channels", "channels", "blocks")
        both = [(name, getattr(self, name), getattr(config, name)) for name in names]
        return [f"{self.file} says {n}={a}, and its tensors {b}" for n, a, b in both if a is not None and a != b]


class Found(NamedTuple):
    """An image tokenizer that was read: the network, the side of its pictures, and where it is from."""

    vqgan: VQGAN
    size: int
    about: dict[str, Any]


class Seen(NamedTuple):
    """An image tokenizer as the headers of its tensors show it, before a number is read."""

    layout: str
    config: VQGANConfig
    size: int
    taken: dict[str, str]
    """Name of ours -> the tensor that is read."""
    average: bool
    """Moving averages are taken in the place of weights."""
    left_out: int
    """Tensors of the network's training."""
    wrong: list[str]
    """All that is missing, not of the network, of another shape, or contradicts what is said beside."""

    @property
    def half(self) -> bool:
        """Tell whether it lacks a decoder, as in transformers' Chameleon."""
        return self.layout == "transformers-chameleon"


def root_of(held: Held) -> str | None:
    """Return what stands before the names of an image tokenizer among these tensors; None where there is none.

    Of several it is the one with the most of `_ANCHORS`, then the first by name.
    """
    votes: Counter[str] = Counter()
    for name in held:
        for anchor in _ANCHORS:
            root = name.removesuffix(anchor)
            if root != name and (not root or root.endswith(".")):
                votes[root] += 1
    best = max(votes.values(), default=0)
    return min((root for root, count in votes.items() if count == best), default=None) if best > 1 else None


def look_at_image_tokenizer(
    held: Held,
    where: str,
    *,
    beside: Said = Said(),  # noqa: B008  frozen
    size: int | None = None,
    quantizer: str | None = None,
    pixels: str | None = None,
) -> Seen:
    """Recognise a published image tokenizer by the headers of a file's tensors.

    `size`, `quantizer` and `pixels` are taken in the place of what the layout says. Raises `CheckpointError`, with all
    that is wrong, where the tensors make no network whose parts could be compared.
    """
    root = root_of(held)
    if root is None:
        refuse(where, ["no image tokenizer is in it: no encoder.conv_in, quant_conv or decoder.conv_in; give a VQGAN"])
    assert root is not None
    names = {name.removeprefix(root) for name in held if name.startswith(root)}
    layout = _layout(root, names, beside.muse)
    levels = len(_numbers(names, r"decoder\.(?:up|conv_blocks)\.(\d+)\."))
    of_network = [name for name in names if not _is_beside(name)]
    # ours -> the name in the file
    there = {_ours(name, layout, levels): root + name for name in of_network}
    average = root + "model_ema.decay" in held
    wrong = _unfit(layout, quantizer, pixels)
    if len(there) < len(of_network):
        wrong.append("some tensors are there under two names")
    if layout == "taming" and _blocks(there, "encoder.down", range(16)) == 4 and quantizer is None:
        if average:
            layout = "ibq"
        else:
            wrong.append("the tensors may be taming's or IBQ's, which choose codes otherwise; say quantizer vq or ibq")
    refuse(where, wrong)
    facts = LAYOUTS[layout]
    half = layout == "transformers-chameleon"
    shapes = {ours: tuple(held[name].shape) for ours, name in there.items()}
    config = _config(shapes, quantizer or facts.quantizer, pixels or facts.pixels, half, where)
    wanted = _wanted(config, half, where)
    taken = {ours: there.get(ours, root + _theirs(ours, layout, levels)) for ours in wanted}
    if average:
        taken = {o: f"{root}model_ema.{name.removeprefix(root).replace('.', '')}" for o, name in taken.items()}
    wrong = beside.against(config)
    if missing := [name for name in taken.values() if name not in held]:
        wrong.append(f"{len(missing)} tensors are missing: {some(missing)}")
    if extra := sorted(name for ours, name in there.items() if ours not in wanted):
        wrong.append(f"{len(extra)} tensors are of no part of a network of layout {layout}: {some(extra)}")
    for ours, shape in wanted.items():
        header = held.get(taken[ours])
        if header is not None and tuple(header.shape) != shape:
            wrong.append(f"{taken[ours]} has shape {tuple(header.shape)}, and the others make it {shape}")
        elif header is not None and header.dtype not in FLOATS:
            wrong.append(f"{taken[ours]} is stored as {_kind(header.dtype)}; weights are float32, float16 or bfloat16")
    if config.image_channels != 3:
        wrong.append(f"its pictures have {config.image_channels} channels; ours have 3")
    usual = facts.size if facts.size % config.factor == 0 else 16 * config.factor
    size = size if size is not None else beside.size or usual
    if size < config.factor or size % config.factor:
        wrong.append(f"size={size}: must be a multiple of {config.factor}, its pixels a code")
    return Seen(layout, config, size, taken, average, len(names) - len(of_network), wrong)


def read_image_tokenizer(
    held: Held,
    read: Read,
    where: str,
    *,
    beside: Said = Said(),  # noqa: B008  frozen
    size: int | None = None,
    quantizer: str | None = None,
    pixels: str | None = None,
    whole: VQGAN | None = None,
) -> Found:
    """Read a published image tokenizer, in float32 and evaluation mode.

    `held` are the headers of a file's tensors, `read` gives one by its name; the rest is as `look_at_image_tokenizer`
    has it. `whole` is Meta's network, for transformers' half: that is compared with the tensors here, rounded to their
    type, and returned. Raises `CheckpointError`, with all that is wrong.
    """
    seen = look_at_image_tokenizer(held, where, beside=beside, size=size, quantizer=quantizer, pixels=pixels)
    wrong = list(seen.wrong)
    if seen.half and whole is None:
        wrong.append(
            f"transformers' model.vqmodel has an encoder and no decoder: it reads pictures and draws none; {DECODER}"
        )
    if whole is not None and not seen.half:
        wrong.append("it has a decoder of its own; leave the other out")
    refuse(where, wrong)
    weights = {ours: read(name) for ours, name in seen.taken.items()}
    check_weights(weights, f"{where!r}")
    kinds = {tensor.dtype for tensor in weights.values()}
    about = {
        "from": seen.layout,
        "dtype": _kind(next(iter(kinds))) if len(kinds) == 1 else "mixed",
        "weights": "moving averages" if seen.average else "as stored",
        "pixels": seen.config.pixels,
        "squares": LAYOUTS[seen.layout].squares,
        "left_out": seen.left_out,
    }
    if whole is not None:
        _same_half(whole, weights, where)
        return Found(whole, seen.size, about)
    return Found(_filled(seen.config, weights), seen.size, about)


def _layout(root: str, names: set[str], muse: bool) -> str:
    if any(name.startswith("encoder.conv_blocks.") for name in names):
        return "janus" if root.endswith("gen_vision_model.") else "llamagen"
    levels = _numbers(names, r"decoder\.up\.(\d+)\.")
    if not any(name.startswith("decoder.") for name in names):
        return "transformers-chameleon"
    if len(levels) > 1 and "decoder.up.0.upsample.conv.weight" in names:
        return "transformers-janus"
    if "quantize.proj.weight" in names:
        return "gumbel"
    if muse or not any(".mid.attn_1." in name for name in names):
        return "open-muse"
    inner = any(re.match(r"(?:encoder\.down|decoder\.up)\.\d+\.attn\.", name) for name in names)
    return "chameleon" if not inner and len(levels) == 5 else "taming"


def _numbers(names: Iterable[str], pattern: str) -> set[int]:
    """Return the numbers that a pattern finds at the start of names."""
    found = (re.match(pattern, name) for name in names)
    return {int(match[1][:9]) for match in found if match}


def _blocks(names: Collection[str], levels: str, numbers: Iterable[int]) -> int:
    """Return how many blocks most levels have: a stray tensor makes no level, and a missing one takes none away."""
    of_level = (len(_numbers(names, rf"{re.escape(levels)}\.{i}\.block\.(\d+)\.")) for i in numbers)
    counts = Counter(count for count in of_level if count)
    return max(counts, key=lambda count: (counts[count], -count), default=0)


def _is_beside(name: str) -> bool:
    return name.startswith(_BESIDE) or name in _STATE


_PAIRS = ((".res.", ".block."), (".mid.0.", ".mid.block_1."), (".mid.1.", ".mid.attn_1."), (".mid.2.", ".mid.block_2."))
_RUNNING = ("llamagen", "janus", "transformers-janus")
"""Layouts that number the levels of the decoder in the order in which they run."""


def _ours(name: str, layout: str, levels: int) -> str:
    """Return the name of a tensor in ours."""
    if layout in ("llamagen", "janus"):
        name = re.sub(r"^encoder\.conv_blocks\.", "encoder.down.", name)
        name = re.sub(r"^decoder\.conv_blocks\.", "decoder.up.", name)
        for theirs, ours in _PAIRS:
            name = name.replace(theirs, ours)
    return _turned(name, levels) if layout in _RUNNING else name


def _theirs(name: str, layout: str, levels: int) -> str:
    """Invert `_ours`."""
    name = _turned(name, levels) if layout in _RUNNING else name
    if layout in ("llamagen", "janus"):
        name = re.sub(r"^(?:encoder\.down|decoder\.up)\.", lambda m: m[0].split(".")[0] + ".conv_blocks.", name)
        for theirs, ours in _PAIRS:
            name = name.replace(ours, theirs)
    return name


def _turned(name: str, levels: int) -> str:
    return re.sub(r"^decoder\.up\.(\d{1,9})\.", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.", name)


def _unfit(layout: str, quantizer: str | None, pixels: str | None) -> list[str]:
    wrong = []
    known = tuple(q for q in QUANTIZERS if q not in ("fsq", "ema"))
    if quantizer is not None and quantizer not in known:
        wrong.append(f"quantizer={quantizer!r:.60}: must be one of {', '.join(known)}")
    elif quantizer is not None and (quantizer == "gumbel") != (layout == "gumbel"):
        wrong.append(f"quantizer={quantizer!r}: its tensors are those of another; leave it out")
    if pixels is not None and pixels not in PIXELS:
        wrong.append(f"pixels={pixels!r:.60}: must be one of {', '.join(PIXELS)}")
    return wrong


def _config(shapes: Mapping[str, tuple[int, ...]], quantizer: str, pixels: str, half: bool, where: str) -> VQGANConfig:
    """Read the shape of a network from those of its tensors; names are ours. Raises `CheckpointError`."""
    book = "quantize.embed.weight" if quantizer == "gumbel" else "quantize.embedding.weight"
    ranks = {"encoder.conv_in.weight": 4, "encoder.conv_out.weight": 4, book: 2}
    levels = sorted(_numbers(shapes, r"encoder\.down\.(\d+)\."))
    widest = {}
    for level in levels:
        firsts = [n for n in shapes if re.match(rf"encoder\.down\.{level}\.block\.\d+\.conv1\.weight$", n)]
        widest[level] = min(firsts, default=f"encoder.down.{level}.block.0.conv1.weight")
        ranks[widest[level]] = 4
    wrong = [f"{name} is missing" for name in ranks if name not in shapes]
    wrong += [
        f"{name} has shape {shapes[name]}; it must have {rank} dimensions"
        for name, rank in ranks.items()
        if name in shapes and (len(shapes[name]) != rank or min(shapes[name]) < 1)
    ]
    if levels != list(range(len(levels))) or not 1 <= len(levels) <= 16:
        wrong.append(f"its encoder has the levels {some(levels)}; they must be 0, 1, 2 ... and at most 16")
    refuse(where, wrong)
    channels = shapes["encoder.conv_in.weight"][0]
    widths = [shapes[widest[level]][0] for level in levels]
    if odd := [width for width in widths if width % channels]:
        refuse(where, [f"a level has {odd[0]} channels, no multiple of the {channels} of encoder.conv_in"])
    blocks = _blocks(shapes, "encoder.down", levels)
    try:
        return VQGANConfig(
            image_channels=shapes["encoder.conv_in.weight"][1],
            factor=2 ** (len(levels) - 1),
            channels=channels,
            multipliers=tuple(width // channels for width in widths),
            blocks=blocks,
            decoder_blocks=blocks + 1 if half else _blocks(shapes, "decoder.up", levels),
            middle=any(".mid." in name for name in shapes),
            attention=any(".mid.attn_1." in name for name in shapes),
            attention_levels=tuple(
                i
                for i in levels
                if any(n.startswith((f"encoder.down.{i}.attn.", f"decoder.up.{i}.attn.")) for n in shapes)
            ),
            groups=32,
            z_channels=shapes["encoder.conv_out.weight"][0],
            quantizer=quantizer,
            codes=shapes[book][0],
            code_dim=shapes[book][1],
            restart_after=0,
            pixels=pixels,
        )
    except Cm3Error as error:
        refuse(where, [said(error)])
        raise


def _wanted(config: VQGANConfig, half: bool, where: str) -> dict[str, tuple[int, ...]]:
    """Return the names of ours and the shapes that a network of this shape has in a file."""
    try:
        with bare():
            network = VQGAN(config)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:  # torch's, of odd shapes
        refuse(where, [f"its tensors make no network ({said(error)})"])
        raise
    found = {name: tuple(value.shape) for name, value in network.state_dict().items() if name not in _OWN}
    return {name: shape for name, shape in found.items() if not (half and name.startswith("decoder."))}


def _filled(config: VQGANConfig, weights: Mapping[str, Tensor]) -> VQGAN:
    """Return a network of ours with these weights, copied to float32."""
    with bare():
        network = VQGAN(config)
    state = {name: tensor.to(torch.float32, copy=True).contiguous() for name, tensor in weights.items()}
    state |= {name: torch.zeros(v.shape, dtype=v.dtype) for name, v in network.state_dict().items() if name in _OWN}
    network.load_state_dict(state, assign=True)
    return network.eval()


def _same_half(whole: VQGAN, weights: Mapping[str, Tensor], where: str) -> None:
    """Raise `CheckpointError` where the halves of transformers and of Meta are not of one network."""
    state = whole.state_dict()
    odd = [
        name
        for name, tensor in weights.items()
        if name not in state
        or state[name].shape != tensor.shape
        or not torch.equal(state[name].to(tensor.dtype), tensor)
    ]
    if odd:
        refuse(where, [f"{len(odd)} of {len(weights)} tensors are not those of the given vqgan.ckpt: {some(odd)}"])


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# Back


def to_meta(vqgan: VQGAN, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return the tensors of Meta's vqgan.ckpt, taming's names: what its "state_dict" holds.

    Raises `ConfigError`, with all that is wrong, for a network that Meta's code has no form for.
    """
    _check_publishable(vqgan, "Meta's vqgan.ckpt")
    return _published(vqgan, dtype)


def to_transformers(vqgan: VQGAN, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return the tensors that transformers' Chameleon has: model.vqmodel.*, without a decoder. Raises as `to_meta`."""
    _check_publishable(vqgan, "transformers' Chameleon")
    return {f"model.vqmodel.{n}": v for n, v in _published(vqgan, dtype).items() if not n.startswith("decoder.")}


def meta_config(config: VQGANConfig, size: int) -> dict[str, Any]:
    """Return what vqgan.yaml says of a network for pictures of `size`."""
    network = {
        "double_z": False,
        "z_channels": config.z_channels,
        "resolution": size,
        "in_channels": config.image_channels,
        "out_ch": config.image_channels,
        "ch": config.channels,
        "ch_mult": list(config.multipliers),
        "num_res_blocks": config.blocks,
        "attn_resolutions": [size >> level for level in config.attention_levels],
        "dropout": 0.0,
    }
    params = {"embed_dim": config.code_dim, "n_embed": config.codes, "ddconfig": network}
    return {"model": {"target": "taming.models.vqgan.VQModel", "params": params}}


def transformers_config(config: VQGANConfig, size: int) -> dict[str, Any]:
    """Return the `vq_config` of transformers' Chameleon for a network and pictures of `size`."""
    return {
        "model_type": "chameleon_vqgan",
        "attn_resolutions": [size >> level for level in config.attention_levels] or None,
        "attn_type": "vanilla",
        "base_channels": config.channels,
        "channel_multiplier": list(config.multipliers),
        "double_latent": False,
        "dropout": 0.0,
        "embed_dim": config.code_dim,
        "in_channels": config.image_channels,
        "latent_channels": config.z_channels,
        "num_embeddings": config.codes,
        "num_res_blocks": config.blocks,
        "resolution": size,
    }


def _published(vqgan: VQGAN, dtype: torch.dtype) -> dict[str, Tensor]:
    left = (*_OWN, "quantize.ema_count", "quantize.ema_sum")
    return {name: weight.detach().to(dtype) for name, weight in vqgan.state_dict().items() if name not in left}


def _check_publishable(vqgan: VQGAN, place: str) -> None:
    c = vqgan.config
    groups = {m.num_groups for m in vqgan.modules() if isinstance(m, nn.GroupNorm)}
    rules = {
        f"vqgan.quantizer={c.quantizer!r}: must be 'vq' or 'ema'": c.quantizer in ("vq", "ema"),
        f"vqgan.patch={c.patch}: must be 1": c.patch == 1,
        f"vqgan.resample={c.resample!r}: must be 'conv'": c.resample == "conv",
        f"vqgan.norm={c.norm!r}: must be 'group'": c.norm == "group",
        f"vqgan.reach={c.reach!r}: must be 'wide'": c.reach == "wide",
        f"vqgan.pixels={c.pixels!r}: must be '-1..1'": c.pixels == "-1..1",
        "vqgan.middle and vqgan.attention: must be true": c.middle and c.attention,
        f"vqgan.decoder_blocks={c.decoder_blocks}: must be one more than blocks": c.decoder_blocks
        in (-1, c.blocks + 1),
        f"vqgan.groups={c.groups}: norms must have 32 groups, and have {some(sorted(groups))}": groups <= {32},
    }
    if wrong := [rule for rule, holds in rules.items() if not holds]:
        raise ConfigError(f"{place} has no form for this image tokenizer: {'; '.join(wrong)}")

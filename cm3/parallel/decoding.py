"""A decoder in shares, to decode: the processes of a mesh's `tp` row hold a part of each matrix and step together.

    wq wk wv up gate, q_norm k_norm    rows: a share of the heads, and of the feed-forward width
    wo down                            columns: what each process makes is summed over all, the same bits on each
    embeddings, norms, head            whole; of the ids that are asked for each process multiplies its share, and the
                                       logits are gathered

Every process runs the same program with the same requests, and draws by itself: a logit is computed by one process and
sent to the others, so all draw from the same bits with the same seeds, and their ids need not be sent.

Tensors are plain, where training has DTensors (sharding.py): a step of one token is hundreds of small products, and
what a DTensor takes to find out what to do is longer than any of them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cm3.errors import Cm3Error, ConfigError
from cm3.model.decoder import Block, Decoder, DecoderConfig
from cm3.model.int8 import Int8Decoder
from cm3.parallel.mesh import Mesh
from cm3.parallel.sharding import check_split

PATIENCE = 600
"""Seconds that processes which decode together wait for each other: for the slowest to load, at first."""
CUT = {"wq": 0, "wk": 0, "wv": 0, "up": 0, "gate": 0, "q_norm": 0, "k_norm": 0, "wo": 1, "down": 1}
"""The dimension along which each part of a block is cut."""


def shares(
    kind: type[Decoder], config: DecoderConfig, mesh: Mesh
) -> Callable[[str, tuple[int, ...]], tuple[slice, ...]]:
    """Return which part of a weight this process holds, by its name in a decoder and its whole shape.

    Raises `ConfigError` where `mesh.tp` does not divide the heads, the key heads or the feed-forward width, and for a
    decoder in int8.
    """
    if issubclass(kind, Int8Decoder):
        raise ConfigError(
            f"tp={mesh.tp}: the model's weights are in int8, which one process decodes; leave tp out, or load the "
            "bundle that they were made of"
        )
    check_split(config, mesh)

    def cut(name: str, shape: tuple[int, ...]) -> tuple[slice, ...]:
        along = next((CUT[part] for part in name.split(".") if part in CUT), None)
        found = [slice(0, size) for size in shape]
        if along is not None:
            width = shape[along] // mesh.tp
            found[along] = slice(mesh.part * width, (mesh.part + 1) * width)
        return tuple(found)

    return cut


def join(decoder: Decoder, mesh: Mesh) -> Decoder:
    """Let a decoder that has its share of the weights compute what the whole one does, in place. Returns it.

    Each pass sums twice a block, so every process has to make the same passes. They keep no gradients. Raises
    `Cm3Error` in a pass where another process is gone, or does not answer for as long as the mesh waits.
    """
    decoder.requires_grad_(False)
    for block in decoder.blocks:
        assert isinstance(block, Block)
        block.kv_heads //= mesh.tp
        for linear in (part for part in block.children() if isinstance(part, nn.Linear)):
            linear.out_features, linear.in_features = linear.weight.shape
        for last in (block.wo, block.down):
            last.register_forward_hook(functools.partial(_sum, mesh))
    decoder.lay_out(functools.partial(_summed, mesh))
    whole = decoder.head

    def head(hidden: Tensor, rows: slice | None = None) -> Tensor:
        start, stop, _ = (rows or slice(None)).indices(decoder.config.vocab_size)
        width = -(-(stop - start) // mesh.tp)
        # The last share may be short, and what is gathered must not be: it begins earlier, and its first ids are
        # another's too.
        first = max(start, min(start + mesh.part * width, stop - width))
        own = whole(hidden, slice(first, first + width)).contiguous()
        parts = [torch.empty_like(own) for _ in range(mesh.tp)]
        _together(lambda group: dist.all_gather(parts, own, group=group), mesh)
        ends = [min(width, max(0, stop - start - i * width)) for i in range(mesh.tp)]
        return torch.cat([part[..., width - end :] for part, end in zip(parts, ends, strict=True)], dim=-1)

    decoder.head = head  # type: ignore[method-assign]
    return decoder


def check_same(asked: Iterable[object], mesh: Mesh) -> None:
    """Raise `Cm3Error`, on every process of a row, where one asks for another thing than the others.

    They would wait for each other in sums that are not the same.
    """
    digest = hashlib.sha256()
    for one in asked:
        digest.update(repr(one).encode())
    own = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8).to(mesh.device)
    found = [torch.empty_like(own) for _ in range(mesh.tp)]
    _together(lambda group: dist.all_gather(found, own, group=group), mesh)
    if other := next((i for i, one in enumerate(found) if not torch.equal(one, found[0])), 0):
        raise Cm3Error(
            f"tp={mesh.tp}: process {other} of those that share the model was asked for another thing than process 0; "
            "give all the same calls, prompts, files, settings and seeds"
        )


def told(value: Any, mesh: Mesh) -> Any:
    """Return the `value` of the first process of a row, on each: plain values. Raises `Cm3Error` as passes do."""
    held = [value]
    _together(lambda group: dist.broadcast_object_list(held, group=group, group_src=0, device=mesh.device), mesh)
    return held[0]


def _sum(mesh: Mesh, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return _summed(mesh, output)


def _summed(mesh: Mesh, share: Tensor) -> Tensor:
    _together(lambda group: dist.all_reduce(share, group=group), mesh)
    return share


def _together(work: Any, mesh: Mesh) -> None:
    assert mesh.devices is not None
    try:
        work(mesh.devices.get_group("tp"))
    except RuntimeError as error:
        raise Cm3Error(
            f"tp={mesh.tp}: another process that shares the model is gone, or did not answer for {PATIENCE} s "
            f"({' '.join(str(error).split())[:200]}); see what it said, and start all again"
        ) from error

"""The memory that keys and values may take: what is free on a device, and the bytes of a block."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from cm3.engine.cache import BLOCK
from cm3.errors import ConfigError, did_you_mean, real_number, shown
from cm3.model.decoder import Decoder

SHARE = {"cuda": 0.8}
"""The share of what is free that a cache may take, by kind of device: the rest is for activations and pictures."""
ELSEWHERE = 0.5
"""The same of a device that others use too, as a processor."""
CACHE_DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
"""Number types of keys and values, by name; auto is the decoder's own."""


def check_cache(cache_gb: object, cache_dtype: object) -> tuple[float | None, torch.dtype | None]:
    """Return both settings, the type as torch has it, None for the decoder's own.

    Raises `ConfigError` for a size that is no number over 0, and for an unknown type.
    """
    if cache_gb is not None:
        cache_gb = real_number("cache_gb", cache_gb, lambda x: 0 < x <= 1e6, "above 0 and at most 1e6 gigabytes")
    name = str(cache_dtype).removeprefix("torch.")
    if name not in CACHE_DTYPES:
        known = ", ".join(CACHE_DTYPES)
        raise ConfigError(
            f"cache_dtype={shown(cache_dtype)}: must be one of {known}.{did_you_mean(name, CACHE_DTYPES)}"
        )
    return cache_gb, None if name == "auto" else getattr(torch, name)


def check_keep(keep_gb: object) -> float:
    """Return the gigabytes that may be kept. Raises `ConfigError` for what is no number of them."""
    return real_number("keep_gb", keep_gb, lambda x: 0 <= x <= 1e6, "0 to 1e6 gigabytes")


def share_of_free(device: torch.device) -> int:
    """Return the bytes that a cache may take of what is free on a device now."""
    return int(free_bytes(device) * SHARE.get(device.type, ELSEWHERE))


def free_bytes(device: torch.device) -> int:
    """Return the bytes that are free on a device; of one whose memory is not known, on the processor."""
    if device.type == "cuda":
        ours = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's, and in no use
        return torch.cuda.mem_get_info(device)[0] + ours
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    left = _left(Path("/sys/fs/cgroup"))
    available: int = psutil.virtual_memory().available
    return available if left is None else min(left, available)


def _left(folder: Path) -> int | None:
    """Return what the group of this process may still take, where a container has a limit. Caches of files are free."""
    try:
        most = (folder / "memory.max").read_text().strip()
        if most == "max":
            return None
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, int(most) - used + int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None


def block_bytes(decoder: Decoder, dtype: torch.dtype | None) -> int:
    """Return the bytes of a block of one row: its tokens' keys and values in every layer, and once more in one, as a
    layer is held twice while rows get another shape."""
    config, own = decoder.config, decoder.embed.weight.dtype
    own = own if own.is_floating_point else torch.float32  # int8 decoders compute keys in it
    width = config.head_dim * (dtype or own).itemsize + (own.itemsize if dtype == torch.int8 else 0)
    return BLOCK * (config.attentions + 1) * 2 * (config.kv_heads or config.heads) * width

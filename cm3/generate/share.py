"""Loading a model of which each of several processes holds a share (cm3/parallel/decoding.py)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cm3.errors import ConfigError
from cm3.generate.settings import Loading
from cm3.model import bundle as bundles
from cm3.model.int8 import read_in
from cm3.parallel import MeshConfig, decoding, start

if TYPE_CHECKING:
    from cm3.generate.cm3leon import CM3Leon


def load_share(cls: type[CM3Leon], name: str | Path, tp: int, options: Loading) -> CM3Leon:
    """Load this process's share of a bundle; raises as `CM3Leon.load`."""
    if str(options.get("dtype")).removeprefix("torch.") == "int8":
        raise ConfigError(f"dtype='int8': is decoded by one process; leave tp={tp} out, or give another dtype")
    device = options.get("device")
    where = {"None": "cpu", "auto": ""}.get(str(device), str(device))
    mesh = start(MeshConfig(tp=tp, timeout_s=decoding.PATIENCE), where)
    shares, kept = functools.partial(decoding.shares, mesh=mesh), read_in(options.get("dtype"), mesh.device)
    bundle = bundles.load(bundles.find(name), shares=shares, dtype=kept)
    model = cls(bundle, **cast(Any, {**options, "device": mesh.device}))
    model.mesh = mesh
    decoding.join(model.decoder, mesh)
    return model

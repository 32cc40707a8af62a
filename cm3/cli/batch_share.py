"""The share of one process in a file of prompts: alone, of torchrun, or of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cm3.cli.batch import Batch, draw
from cm3.cli.options import SILENT, Bank, ModelVerb, Progress
from cm3.errors import RequestError
from cm3.parallel.mesh import MeshConfig, environment
from cm3.weights import settled


def draw_share(
    verb: ModelVerb,
    prompts: Path,
    out: Path,
    settings: Mapping[str, Any],
    unit: int,
    bank: Bank,
    update: Progress,
    tell: Callable[[str], object],
    *,
    tp: int = 1,
    cluster: str | None = None,
    pictures: str | Path = "",
) -> dict[str, Any] | None:
    """Draw what this process has to of a file of prompts, with a verb's model, and return what `cm3.cli.batch.draw`
    does; `SILENT` in a process that others share a model with, and for which the first of them speaks.

    `pictures` as `Batch` has it. Raises as `draw`, `ConfigError` for `tp` that does not divide the processes, and
    `RequestError` where both torchrun and a cluster are to share the work.
    """
    rank, ranks, local = environment()
    if ranks > 1 and cluster is not None:
        raise RequestError("--cluster and torchrun: either shares the work; take one of them")
    MeshConfig(tp=tp).sizes(ranks)
    place = {**vars(verb.place), "device": settled(verb.place.device), "tp": tp}
    if ranks > tp == 1 and place["device"] == "cuda":
        place["device"] = f"cuda:{local}"
    (rank, part), ranks = divmod(rank, tp), ranks // tp
    model = {"name": verb.model, "memory": bank.memory, "encoder": bank.encoder, **place}
    batch = Batch.of(prompts, out, model, dict(settings), unit, pictures)
    result = draw(batch, rank, ranks, cluster, update, tell)
    return SILENT if part > 0 else result

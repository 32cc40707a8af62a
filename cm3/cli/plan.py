"""`cm3 plan RECIPE --gpus N`: what a run will need, before anything is spent on it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from cm3.cli.options import HERE, at_least
from cm3.cli.train import RecipeVerb
from cm3.errors import RequestError

if TYPE_CHECKING:
    from cm3.train.planner import Plan as Planned

NONE = arg(metavar="NUMBER", help_behavior_hint="(default: none)")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines of a run, and all that is known about them."""

    gpus: Annotated[int, arg(metavar="N")] = 8
    """How many GPUs."""
    gpu: Annotated[str, arg(metavar="KIND")] = "h100"
    """a100, h100, h100-pcie, h200, b200, l40s or mi300x."""
    mfu: Annotated[float, arg(metavar="SHARE")] = 0.4
    """Share of the GPU's peak that the run is assumed to reach, in the precision that it has."""
    measured: Annotated[float | None, NONE] = None
    """Tokens a second and GPU that this very run was measured at; then nothing is assumed."""
    document: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the whole context)")] = None
    """Mean length of a document in tokens, weighted by tokens."""
    documents: Annotated[float | None, arg(metavar="NUMBER", help_behavior_hint="(default: one epoch)")] = None
    """Documents in the token store."""
    stored: Annotated[float | None, arg(metavar="NUMBER", help_behavior_hint="(default: --document)")] = None
    """Tokens of one of them, before others are retrieved for it."""
    price: Annotated[float | None, NONE] = None
    """Price of a GPU hour, in any currency."""

    def plan(self, config: Any) -> Planned:
        """Return the plan of a run. Raises `ConfigError` as `cm3.train.planner.plan` does."""
        from cm3.train.planner import plan

        at_least(1, gpus=self.gpus)
        return plan(config, **vars(self))


@dataclass(frozen=True, kw_only=True)
class Plan(RecipeVerb):
    """Say what a run will need: memory of a GPU by part, time, energy, disk. Arithmetic; nothing is run.

    A run that does not fit is refused, with what would. Every setting of the recipe can be replaced by its dotted name,
    as for cm3 train: how it is spread (mesh.*), its number type (dtype) and what is computed twice (shard.*) too.

    examples:
      cm3 plan recipes/pretrain.py:cm3leon_7b --gpus 512
      cm3 plan recipes/pretrain.py:cm3leon_7b --gpus 64 --gpu a100 --mesh.dp-shard 8 --mesh.dp-replicate 8 --price 2.5
      cm3 plan recipes/pretrain.py:cm3leon_350m --gpus 8 --measured 140000 --json
      cm3 plan recipes/pretrain.py:cm3leon_760m --gpus 64 --model.layers 30 --document 1042
    """

    cluster: Annotated[Cluster, HERE] = Cluster()

    @classmethod
    def check(cls, spec: str, config: Any) -> Any:
        """Return the settings of a language model's run. Raises `RequestError` for another's."""
        from cm3.train.trainer import TrainConfig

        if not isinstance(config, TrainConfig):
            raise RequestError(f"recipe {spec!r}: is a {type(config).__name__}; must be the run of a language model")
        return config

    def run(self) -> dict[str, Any]:
        """Plan; a table for a person."""
        planned = self.cluster.plan(self.config)
        print(table(planned))
        return {"recipe": self.recipe} | planned.plain()


def table(planned: Planned) -> str:
    """Return a plan as lines of a name, a figure and what it is made of."""
    p, t, m = planned, planned.time, planned.memory
    lay, shares = p.layout, {name: n for name, n in p.parameters.items() if n}
    parts = [(f.name, getattr(m, f.name)) for f in dataclasses.fields(m)]
    assumed = {"measured": "measured", "network": "less than assumed, moving weights takes longer"}
    told = assumed.get(t.bound, "assumed" if p.dtype == "bfloat16" else "assumed of float32's peak, told of bfloat16's")
    again = p.shard.activation_checkpointing
    rows = [
        ("parameters", count(sum(shares.values())), ", ".join(f"{k} {count(n)}" for k, n in shares.items())),
        ("batch", f"{p.batch:,} tokens", f"{lay.ranks} ranks x {p.accumulate} passes of {p.micro} windows"),
        ("updates", f"{p.updates:,}", f"{count(p.tokens)} tokens, {count(p.documents)} documents {p.epochs:.2f} times"),
        ("GPUs", f"{lay.gpus} {p.gpu.name}", f"dp_shard {lay.dp_shard}, dp_replicate {lay.dp_replicate}, tp {lay.tp}"),
        ("memory of each", size(m.total), f"of {p.gpu.memory:g} GB; {p.dtype}, recompute {again}"),
        *((f"  {name}", size(n), "") for name, n in parts),
        ("FLOP a token", count(t.flops), f"{count(t.flops_full)} at the whole context"),
        ("MFU", f"{t.mfu:.0%}", f"{told}; with what is recomputed {t.hfu:.0%}"),
        ("an update", f"{t.step_s:.2f} s", f"computing {t.compute_s:.2f} s, moving weights {t.network_s:.2f} s"),
        ("tokens a second", f"{t.tokens_per_s:,.0f}", f"{t.tokens_per_s / lay.gpus:,.0f} a GPU"),
        ("time", f"{t.days:,.1f} days", f"{t.gpu_hours:,.0f} GPU hours"),
        ("energy", f"{t.mwh:,.1f} MWh", "at the power limit, with the data centre's share"),
        *([] if t.price is None else [("price", f"{t.price:,.0f}", "")]),
        ("checkpoint", size(p.disk.checkpoint), f"in half precision, weights alone {size(p.disk.bundle)}"),
        ("token store", size(p.disk.store), f"pictures {size(p.disk.pictures)}"),
        ("memory bank", size(p.disk.vectors), f"of vectors, and an index of {size(p.disk.index)}"),
    ]
    return "\n".join(f"{name:<18}{figure:>22}  {rest}".rstrip() for name, figure, rest in rows)


def count(number: float) -> str:
    """Write a number short: 1.4T, 6.73B, 373M, 12.5k, 8."""
    for unit, value in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= value:
            return f"{number / value:.3g}{unit}"
    return f"{number:g}"


def size(number: float) -> str:
    """Write bytes in powers of a thousand: 59.8 GB."""
    for unit, value in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= value:
            return f"{number / value:.1f} {unit}"
    return f"{number / 1e3:.1f} kB"

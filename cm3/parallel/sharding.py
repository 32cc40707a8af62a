"""A decoder spread over a mesh, from outside: the model knows nothing of it.

    1. tensor parallel        wq wk wv up gate: outputs split; wo down: inputs split, one sum each; heads go with wq,
       (mesh.tp > 1)          and q_norm, k_norm with their heads; embeddings and head split by vocabulary rows
    2. activation             each n-th block computes its forward again in the backward pass: all, or ("selective")
       checkpointing          only what is wide and cheap, keeping attention and the narrow matrix products
    3. compile                each block by itself
    4. FSDP, or HSDP          each block's weights are gathered as it runs; the rest is one group, held for the whole
       (mesh.ranks > 1)       step, because the tied head reads the embedding after the last block

In bfloat16 weights are kept and gradients summed in float32: FSDP gathers in the one and sums in the other, and of a
process that stands alone a copy passes in the place of the model (`HalfCopy`).

Gradients are summed over the ranks, not averaged: a rank's loss is its own share of the global mean,
`(nats * weights).sum() / mesh.sum(weights.sum())`, so a rank with few targets does not count for more.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from cm3.errors import CheckpointError, ConfigError
from cm3.model.decoder import Block, Decoder, DecoderConfig
from cm3.parallel.mesh import DATA, Mesh
from cm3.parallel.tensors import like

ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}


@dataclass(frozen=True)
class ShardConfig:
    """A plan of how the work is spread and kept small. Raises `ConfigError` for a value out of range."""

    reshard_after_forward: bool = True
    """Drop a block's gathered weights between the passes: less memory, one more gathering a step."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """Part of a block that is computed twice, to save memory: none, the wide and cheap one, or all."""
    checkpoint_every: int = 1
    """Only each n-th block is checkpointed."""
    compile: bool = False
    """Compile each block."""

    def __post_init__(self) -> None:
        how = self.activation_checkpointing
        if how not in ("none", "selective", "full"):
            raise ConfigError(f"shard.activation_checkpointing={how!r}: must be one of none, selective, full")
        if self.checkpoint_every < 1:
            raise ConfigError(f"shard.checkpoint_every={self.checkpoint_every}: must be at least 1")


def shard(model: Decoder, mesh: Mesh, plan: ShardConfig, dtype: torch.dtype = torch.float32) -> Decoder:
    """Spread a decoder over a mesh, in place, and put it on the mesh's device. Returns it.

    `dtype` is that of the passes where there are other processes; one that stands alone has `HalfCopy`.
    Every process gives the same weights, or a model on the meta device, whose weights are then undefined until `fill`.
    An optimizer is made afterwards. Raises `ConfigError` where `mesh.tp` does not divide the model.
    """
    check_split(model.config, mesh)
    if mesh.tp > 1:
        assert mesh.devices is not None
        _tensor_parallel(model, mesh.devices["tp"])
    for i, block in enumerate(model.blocks):
        if plan.activation_checkpointing != "none" and i % plan.checkpoint_every == 0:
            block.forward = _checkpointed(block.forward, plan.activation_checkpointing == "selective")
        if plan.compile:
            block.forward = torch.compile(block.forward)
    if mesh.devices is not None and (mesh.ranks > 1 or dtype != torch.float32):
        _fsdp(model, mesh.devices, plan, dtype)
    if any(p.is_meta for p in model.parameters()):
        return model.to_empty(device=mesh.device)
    return model.to(mesh.device)


def create(
    config: DecoderConfig,
    mesh: Mesh,
    plan: ShardConfig,
    seed: int,
    weights: Mapping[str, Tensor] | None = None,
    adapt: Callable[[Decoder], Decoder] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """Return a decoder with the weights that `torch.manual_seed(seed); Decoder(config)` draws, whatever the mesh.

    They are in float32. Its passes are in `dtype`; but of a process that stands alone it is then only the master
    weights, for a `HalfCopy`, to which the plan is left too.
    `weights`, by name, take the place of those; `adapt` then changes what the decoder is made of. Only the main process
    ever holds all that it comes to, in its main memory.
    """

    def made() -> Decoder:
        torch.manual_seed(seed)
        model = Decoder(config)
        if weights is not None:
            model.load_state_dict(weights)
        return model if adapt is None else adapt(model)

    if mesh.devices is None:
        return shard(made(), mesh, plan if dtype == torch.float32 else ShardConfig())
    with torch.device("meta"):
        model = Decoder(config)
        model = model if adapt is None else adapt(model)
    return fill(shard(model, mesh, plan, dtype), made().state_dict() if mesh.main else None)


class HalfCopy:
    """The passes of a decoder in bfloat16, by a copy of it, in a process that stands alone.

    master weights (float32) --refresh--> `model` (bfloat16) --passes--> gradients of the master weights (float32)

    A gradient goes to the master weight as soon as it is whole, to be added to what is there; the copy keeps none.
    """

    def __init__(self, masters: Decoder, mesh: Mesh, plan: ShardConfig) -> None:
        self.model = shard(copy.deepcopy(masters).to(torch.bfloat16), mesh, plan)
        self._both = list(zip(masters.parameters(), self.model.parameters(), strict=True))
        for master, mine in self._both:
            if mine.requires_grad:
                mine.register_post_accumulate_grad_hook(functools.partial(_give, master))

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the master weights. To be called after each change of them, before the next pass."""
        for master, mine in self._both:
            mine.copy_(master)


def _give(master: Tensor, mine: Tensor) -> None:
    assert mine.grad is not None, "torch calls this when there is one"
    if master.grad is None:
        master.grad = mine.grad.to(master.dtype)
    else:
        master.grad.add_(mine.grad)
    mine.grad = None


def before_pass(model: Decoder, last: bool) -> None:
    """Say before each forward pass of a batch in parts whether it is the `last`: whole copies sum after that one."""
    if isinstance(model, FSDPModule):
        model.set_requires_all_reduce(last)


@torch.no_grad()
def fill(model: Decoder, weights: Mapping[str, Tensor] | None) -> Decoder:
    """Give a model, sharded or not, whole weights by name. Where there are other processes only the main's are read.

    Raises `CheckpointError`, on every process, for names or shapes that are not the model's.
    """
    many = dist.is_initialized()
    main = not many or dist.get_rank() == 0
    parameters = dict(model.named_parameters())
    wrong = [""]
    if main:
        assert weights is not None
        wrong = [_misfit(parameters, weights)]
    if many:
        dist.broadcast_object_list(wrong)
    if wrong[0]:
        raise CheckpointError(f"weights: {wrong[0]}; give weights of the same model.*")
    for name, parameter in parameters.items():
        device = parameter.device
        if main and weights is not None:
            whole = weights[name].to(device, parameter.dtype).contiguous()
        else:
            whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        if many:
            dist.broadcast(whole, 0)
        parameter.copy_(like(whole, parameter))
    return model


def _misfit(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    for name in sorted(parameters.keys() ^ weights.keys()):
        return f"{name} is not there" if name in parameters else f"{name} has no place in the model"
    for name, parameter in parameters.items():
        if weights[name].shape != parameter.shape:
            return f"{name} is {tuple(weights[name].shape)}, must be {tuple(parameter.shape)}"
    return ""


def check_split(config: DecoderConfig, mesh: Mesh) -> None:
    """Raise `ConfigError` where `mesh.tp` does not divide the heads, the key heads or the feed-forward width."""
    if config.near and mesh.tp > 1:
        raise ConfigError(f"mesh.tp={mesh.tp}: a model of near={config.near} is not split; use tp=1, or near=0")
    kv = config.kv_heads or config.heads
    for name, value in (("heads", config.heads), ("kv_heads", kv), ("hidden", config.ffn)):
        if value % mesh.tp:
            raise ConfigError(f"mesh.tp={mesh.tp}: does not divide model.{name}={value}")


def _fsdp(model: Decoder, devices: DeviceMesh, plan: ShardConfig, dtype: torch.dtype) -> None:
    policy = MixedPrecisionPolicy()
    if dtype != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    over = devices[DATA] if devices["dp_replicate"].size() > 1 else devices["dp_shard"]
    for block in model.blocks:
        fully_shard(block, mesh=over, mp_policy=policy, reshard_after_forward=plan.reshard_after_forward)
    fully_shard(model, mesh=over, mp_policy=policy, reshard_after_forward=False)
    register_fsdp_forward_method(model, "hidden")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


class _Split(ParallelStyle):
    """Parameters laid out as `parameters`, an input and an output as `inputs`; `local` gives a plain tensor back."""

    def __init__(self, parameters: Placement, inputs: Placement, local: bool = True) -> None:
        super().__init__()
        self.parameters, self.inputs, self.local = parameters, inputs, local

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        # torch's types forget that the hooks give what replaces their inputs and output.
        hooks: tuple[Any, Any] = self._enter, self._leave
        return distribute_module(module, device_mesh, self._place, *hooks)

    def _place(self, name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for key, parameter in module.named_parameters(recurse=False):
            module.register_parameter(key, nn.Parameter(distribute_tensor(parameter, mesh, [self.parameters])))

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
        return (DTensor.from_local(inputs[0], mesh, [self.inputs], run_check=False), *inputs[1:])

    def _leave(self, module: nn.Module, output: DTensor, mesh: DeviceMesh) -> Tensor:
        return output.to_local() if self.local else output


def _tensor_parallel(model: Decoder, tp: DeviceMesh) -> None:
    whole, heads = _Split(Replicate(), Replicate()), _Split(Shard(0), Shard(1))
    # A DTensor from the norm lets the matrices behind it share one sum of gradients.
    shared = _Split(Replicate(), Replicate(), local=model.config.norm_order != "pre")
    columns, rows = ColwiseParallel, RowwiseParallel
    styles: dict[str, ParallelStyle] = {
        "embed": RowwiseParallel(input_layouts=Replicate()),
        "position": whole,
        "row": whole,
        "column": whole,
        "norm": whole,
    }
    for block, name in ((b, f"blocks.{i}") for i, b in enumerate(model.blocks)):
        assert isinstance(block, Block)
        styles |= {f"{name}.{part}": columns() for part in ("wq", "wk", "wv", "up", "gate")}
        styles |= {f"{name}.{part}": rows() for part in ("wo", "down")}
        styles |= {f"{name}.{part}": shared for part in ("norm1", "norm2")}
        styles |= {f"{name}.{part}": heads for part in ("q_norm", "k_norm")}
    there = {name for name, _ in model.named_modules()}
    parallelize_module(model, tp, {name: style for name, style in styles.items() if name in there})
    # A copy: FSDP hooks what `hidden` returns, and warns of a view.
    model.norm.register_forward_hook(lambda module, inputs, output: output.clone())
    if model.output is not None:
        model.output.weight = nn.Parameter(distribute_tensor(model.output.weight, tp, [Shard(0)]))

    def head(hidden: Tensor, rows: slice | None = None) -> Tensor:
        weight = model.embed.weight if model.output is None else model.output.weight
        logits = F.linear(DTensor.from_local(hidden, tp, [Replicate()], run_check=False), weight)
        assert isinstance(logits, DTensor)
        # Cut afterwards: a cut of a split weight would gather all of it.
        found = logits.redistribute(placements=[Replicate()]).to_local()
        return found if rows is None else found[..., rows]

    model.head = head  # type: ignore[method-assign]


def _checkpointed(forward: Callable[..., Tensor], selective: bool) -> Callable[..., Tensor]:
    """Compute `forward` again in the backward pass. The model draws nothing at random: no such state is kept."""
    how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if selective:
        how["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _keep)
    return functools.partial(checkpoint, forward, **how)


def _keep(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keep what costs much for its size: attention, and matrix products no wider than what they read."""
    narrow = op == torch.ops.aten.mm.default and args[1].shape[1] <= args[1].shape[0]
    return CheckpointPolicy.MUST_SAVE if narrow or op in ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE

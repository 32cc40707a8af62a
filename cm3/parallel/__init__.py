"""Many processes, one model: a mesh of them, and the model's weights and work spread over it from outside the model.

    torchrun -> start(MeshConfig) -> Mesh          who am I, which share of the data, sums over all of it
                                      |
    DecoderConfig -> create(...) -----+-> Decoder  tensor parallel, recomputation, compile, FSDP (sharding.py)
                                      |       in bfloat16 a copy passes, or FSDP casts: weights stay in float32
    gradients -> clip_grad_norm ------+-> float    full and like: a whole matrix from its shards, and back (tensors.py)

    a decoder that decodes             decoding.py: each process reads and multiplies a share of each matrix
    whole copies of a small network    copies.py: their gradients, norms and rows, summed over all

Any sharding computes what one process would: the same initial weights, losses and gradient norms, up to rounding.
"""

from cm3.parallel.copies import gathered, mean_gradients, share_norms, summed
from cm3.parallel.mesh import Mesh, MeshConfig, start
from cm3.parallel.sharding import HalfCopy, ShardConfig, before_pass, create, fill, shard
from cm3.parallel.tensors import clip_grad_norm, full, like

__all__ = [
    "HalfCopy", "Mesh", "MeshConfig", "ShardConfig", "before_pass", "clip_grad_norm", "create", "fill", "full",
    "gathered", "like", "mean_gradients", "shard", "share_norms", "start", "summed",
]  # fmt: skip

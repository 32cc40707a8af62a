"""The paper's image tokenizer, and its three models, pretrained as it says, on token stores: 350M, 760M and 7B.

    torchrun --nproc-per-node 8 -m cm3 train recipes/pretrain.py:image_tokenizer --data.sources SOURCES
    cm3 prepare SOURCES --out runs/store --model runs/image_tokenizer --tokenizer tokenizer.json --masks 1018 \\
        --encoder openai/clip-vit-base-patch32
    cm3 neighbours runs/store --bank runs/store --out runs/neighbours --encoder openai/clip-vit-base-patch32
    cm3 plan recipes/pretrain.py:cm3leon_7b --gpus 64
    torchrun --nnodes 8 --nproc-per-node 8 -m cm3 train recipes/pretrain.py:cm3leon_7b \\
        --data.stores runs/store --data.neighbours runs/neighbours

How the machines find each other: docs/cluster.md.

From the paper (Table 3, sections 2.1 to 2.4): layers, widths, context, 8M tokens an update, peak rates, 1,500 updates
of warm-up, tokens in all; no biases, no dropout, no learnt norms, learnt positions, every loss weight 1; up to three
documents retrieved for each example. The rest is chosen here:

- heads: metaseq's for these sizes. GELU, tied embeddings.
- betas 0.9 and 0.98, clip 1, linear decay to a tenth: the scaling laws that it takes its rates from (docs/paper.md).
  Weight decay 0.1 on matrices: OPT's.
- 8M is 2^23, and tokens in all give the updates. They count what pads the end of a window, here less than a twentieth.
- Windows of 16,384 tokens, each document seeing itself alone. In windows of 4,096 an image would have to be cut, or a
  quarter left empty.
- None to three retrieved documents, as many as the context holds, in place of always three: what is asked for later,
  with and without documents, is then what was seen.
- A z-loss of 1e-5 against the drift that Chameleon met late in training. Where that is not enough, --model.qk-norm is.
  No row and column embeddings of codes, which the small models here learn with: --cells adds them.
- bfloat16, and for the 7B what is wide and cheap computed twice ("selective"): so each fits on eight H100s of 80 GB,
  and on more of them. On H200s and larger the 7B fits with --shard.activation-checkpointing none.

The image tokenizer makes 32 x 32 codes of 8,192 from 256 px, the text tokenizer has 56,320 entries: with 1,018 masks
and six specials 65,536 ids. Without --data.neighbours no documents are retrieved.

None of the three was trained with this code. Prices are arithmetic (docs/plan.md), at 40% of an H100's peak.
"""

from __future__ import annotations

from typing import Literal

from cm3.model.sizes import size
from cm3.model.vqgan import VQGANConfig
from cm3.parallel import ShardConfig
from cm3.runs import DocumentData, ImageTokenizerRun, PretrainRun, StoreData
from cm3.sequence.before import AugmentLaw
from cm3.sequence.mask import MaskLaw
from cm3.train.optim import OptimConfig

BATCH = 2**23
"""Tokens an update."""
LENGTH = 16_384


def image_tokenizer() -> ImageTokenizerRun:
    """The paper's image tokenizer, Make-A-Scene's geometry: 256 px pictures to 32 x 32 codes of 8,192 (f8).

    command: torchrun --nproc-per-node 8 -m cm3 train recipes/pretrain.py:image_tokenizer --data.sources SOURCES
    data: pictures of any source, millions of them
    price: not measured. promise: none; the paper took one that was trained before, and gives no figure for it. With
    --lpips-weight 1 and the two files of weights, and --gan-weight 0.8 --gan-start 50000, reconstructions are sharper.
    """
    return ImageTokenizerRun(
        vqgan=VQGANConfig(),
        size=256,
        batch=256,
        steps=250_000,
        lr=1e-4,
        lr_end=0.1,
        warmup=2000,
        out="runs/image_tokenizer",
        save_every=2000,
        sample_every=5000,
        device="cuda",
        data=DocumentData(("data/pictures",), workers=8),
    )


def cm3leon_350m() -> PretrainRun:
    """CM3Leon-350M on 1.4T tokens, an epoch of the paper's data with its retrieved documents.

    command: torchrun --nproc-per-node 8 -m cm3 train recipes/pretrain.py:cm3leon_350m --data.stores runs/store
    price: 2,800 H100 hours. promise: none; the paper's reaches a COCO FID of 14.20 with two documents.
    """
    return _run("350m", tokens=1.4e12, lr=6e-4)


def cm3leon_760m() -> PretrainRun:
    """CM3Leon-760M on 1.9T tokens.

    command: torchrun --nproc-per-node 8 -m cm3 train recipes/pretrain.py:cm3leon_760m --data.stores runs/store
    price: 7,500 H100 hours. promise: none; the paper's reaches a COCO FID of 6.61 with two documents.
    """
    return _run("760m", tokens=1.9e12, lr=5e-4)


def cm3leon_7b() -> PretrainRun:
    """CM3Leon-7B on 2.4T tokens.

    command: torchrun --nnodes 8 --nproc-per-node 8 -m cm3 train recipes/pretrain.py:cm3leon_7b --data.stores runs/store
    price: 73,000 H100 hours. promise: none; the paper's reaches a COCO FID of 4.88 with two documents.
    """
    return _run("7b", tokens=2.4e12, lr=1.2e-4, recompute="selective")


def _run(name: str, tokens: float, lr: float, recompute: Literal["none", "selective", "full"] = "none") -> PretrainRun:
    return PretrainRun(
        out=f"runs/cm3leon-{name}",
        model=size(name, vocab_size=65_536, context=4096),
        mask=MaskLaw(columns=32),
        optim=OptimConfig(name="adamw", lr=lr, betas=(0.9, 0.98), weight_decay=0.1, clip=1.0, warmup=1500, final=0.1),
        windows=BATCH // LENGTH,
        micro=1,
        length=LENGTH,
        steps=round(tokens / BATCH),
        z_loss=1e-5,
        save_every=500,
        sample_every=5000,
        image_tokenizer="runs/image_tokenizer",
        image_size=256,
        cells=False,
        dtype="bfloat16",
        shard=ShardConfig(activation_checkpointing=recompute),
        data=StoreData(stores=("runs/store",), documents=AugmentLaw()),
    )

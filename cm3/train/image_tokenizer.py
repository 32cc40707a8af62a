"""Train a VQGAN: reconstruction, the quantiser's own loss, optional LPIPS and PatchGAN; killed and resumed unseen.

The pictures are a pure function of the step, so a resumed run sees what the unbroken one would have seen, and all other
state (weights, optimisers, generator, counts of codes) is in the checkpoint: both runs end in the same bits.

    out/config.json             what was trained
    out/checkpoint.pt           the last checkpoint, replaced atomically
    out/log.jsonl               one line every `log_every` steps
    out/samples/STEP.png        originals over reconstructions, every `sample_every` steps
    out/image_tokenizer.safetensors   the weights, written at the end
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from cm3.bars import bar
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.model.discriminator import PatchDiscriminator, adaptive_weight, hinge_discriminator, hinge_generator
from cm3.model.lpips import LPIPS
from cm3.model.quantizers import FSQ
from cm3.model.vqgan import VQGAN, VQGANConfig, small
from cm3.train.optim import Muon
from cm3.train.reconstruct import psnr, usage, write_sheet
from cm3.train.track import Log

WEIGHTS = "image_tokenizer.safetensors"
Images = Callable[[int], "Tensor | list[Image.Image]"]


@dataclass(frozen=True)
class ImageTokenizerConfig:
    """A run. The learning rate rises linearly for `warmup` steps, then falls as a cosine to `lr_end * lr`.

    loss = l1 |x - y| + l2 (x - y)^2 + quantizer_weight * quantiser + lpips_weight * LPIPS
         + gan_weight * adaptive * hinge, the last from step `gan_start` on, + keep_weight * |b - b0| (see `keep`).
    LPIPS needs the two weight files, which are not shipped. `channels_last` is a memory layout that can be faster;
    `threads` (0: leave) and `device` are torch's.
    """

    vqgan: VQGANConfig = field(default_factory=small)
    size: int = 128
    batch: int = 32
    steps: int = 4000
    optimizer: str = "adamw"
    """`adamw`, or `muon` for the convolutions' weights with AdamW for the rest."""
    lr: float = 2e-3
    muon_lr: float = 5e-3
    lr_end: float = 0.0
    warmup: int = 50
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    l1: float = 1.0
    l2: float = 2.0
    quantizer_weight: float = 1.0
    init: str = ""
    """Folder of an image tokenizer of the same shape to start from."""
    keep: int = 0
    """How many pictures, the first of each batch, shall keep the codes that `keep_of` gives them (FSQ only)."""
    keep_of: str = ""
    """Folder of an image tokenizer of the same shape; none means `init`."""
    keep_weight: float = 5.0
    """Weight of |b - b0| over these, in levels, before rounding: b of the encoder, b0 of the one that it was."""
    decoder_only: bool = False
    """Leave encoder and codes as they are: models trained on the codes stay valid."""
    lpips_weight: float = 0.0
    lpips_vgg: str = ""
    lpips_lin: str = ""
    gan_weight: float = 0.0
    gan_start: int = 0
    gan_lr: float = 2e-4
    grad_clip: float = 1.0
    channels_last: bool = False
    device: str = "cpu"
    seed: int = 0
    out: str = "runs/image_tokenizer"
    log_every: int = 50
    save_every: int = 500
    sample_every: int = 500
    threads: int = 0

    def __post_init__(self) -> None:
        """Check every field and say everything that is wrong at once."""
        wrong: list[str] = []
        for name, low in {"size": 1, "batch": 1, "steps": 1, "warmup": 0, "log_every": 1, "save_every": 1}.items():
            if getattr(self, name) < low:
                wrong.append(f"image_tokenizer.{name}={getattr(self, name)}: must be at least {low}")
        if self.optimizer not in ("adamw", "muon"):
            wrong.append(f"image_tokenizer.optimizer={self.optimizer!r}: must be 'adamw' or 'muon'")
        for name in ("lr", "muon_lr", "gan_lr", "grad_clip"):
            if getattr(self, name) <= 0:
                wrong.append(f"image_tokenizer.{name}={getattr(self, name)}: must be above 0")
        weights = ("l1", "l2", "quantizer_weight", "lpips_weight", "gan_weight", "keep_weight")
        for name in ("lr_end", "weight_decay", *weights):
            if getattr(self, name) < 0:
                wrong.append(f"image_tokenizer.{name}={getattr(self, name)}: must not be negative")
        for name in ("gan_start", "sample_every", "threads"):
            if getattr(self, name) < 0:
                wrong.append(f"image_tokenizer.{name}={getattr(self, name)}: must not be negative (0 is off)")
        if self.size % self.vqgan.factor:
            wrong.append(f"image_tokenizer.size={self.size}: must be a multiple of vqgan.factor={self.vqgan.factor}")
        if not 0 <= self.keep <= self.batch:
            wrong.append(f"image_tokenizer.keep={self.keep}: must be 0 (off) to batch={self.batch}")
        if self.keep and (not self.init or self.decoder_only or self.vqgan.quantizer != "fsq"):
            wrong.append(
                f"image_tokenizer.keep={self.keep}: needs init, an encoder that is trained and vqgan.quantizer='fsq'; "
                "set keep to 0 otherwise"
            )
        if self.decoder_only and not self.init:
            wrong.append("image_tokenizer.decoder_only=True: needs init, the folder whose encoder and codes are kept")
        if self.lpips_weight and not (self.lpips_vgg and self.lpips_lin):
            wrong.append(
                f"image_tokenizer.lpips_weight={self.lpips_weight}: needs lpips_vgg and lpips_lin, the paths of the "
                "VGG16 and of the LPIPS weights; set them, or the weight to 0"
            )
        if wrong:
            raise ConfigError("; ".join(wrong))


def _schedule(config: ImageTokenizerConfig, step: int) -> float:
    """Share of the peak learning rate at a step, counted from 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr_end + (1 - config.lr_end) * 0.5 * (1 + math.cos(math.pi * done))


def _pixels(images: Tensor | list[Image.Image], config: ImageTokenizerConfig) -> Tensor:
    if not isinstance(images, Tensor):
        arrays = [np.asarray(image.convert("RGB"), dtype=np.float32) for image in images]
        images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1
    want = (config.vqgan.image_channels, config.size, config.size)
    if images.ndim != 4 or tuple(images.shape[1:]) != want or not images.is_floating_point():
        raise DataError(
            f"training images of shape {tuple(images.shape)} and {images.dtype}: must be float (batch, "
            f"{want[0]}, {want[1]}, {want[2]}) in [-1, 1], as config.size says"
        )
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return images.to(config.device, torch.float32).contiguous(memory_format=layout)


class _Run:
    """Everything that changes while training, and the one step that changes it."""

    def __init__(self, config: ImageTokenizerConfig):
        self.config = config
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.vqgan = VQGAN(config.vqgan)
            self.critic = PatchDiscriminator(config.vqgan.image_channels) if config.gan_weight else None
        self.vqgan.to(config.device)
        if self.critic is not None:
            self.critic.to(config.device)
        if config.init:
            self.vqgan.load_state_dict(load_weights(config.init, config.vqgan))
        self.before: VQGAN | None = None
        if config.keep:
            self.before = copy.deepcopy(self.vqgan).requires_grad_(False).eval()
            if config.keep_of:
                self.before.load_state_dict(load_weights(config.keep_of, config.vqgan))
        if config.decoder_only:
            for part in (self.vqgan.encoder, self.vqgan.quant_conv, self.vqgan.quantize):
                part.requires_grad_(False)
        if config.channels_last:
            self.vqgan = self.vqgan.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        weights = [p for p in self.vqgan.parameters() if p.requires_grad]
        matrices = [p for p in weights if p.dim() >= 2] if config.optimizer == "muon" else []
        inside = {id(p) for p in matrices}
        rest = [p for p in weights if id(p) not in inside]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, config.lr, betas=config.betas, weight_decay=config.weight_decay)
        ]
        if matrices:
            self.optimizers.append(Muon(matrices, config.muon_lr, weight_decay=config.weight_decay))
        self.peaks = (config.lr, config.muon_lr)
        self.critic_optimizer = (
            torch.optim.Adam(self.critic.parameters(), config.gan_lr, betas=(0.5, 0.9)) if self.critic else None
        )
        self.lpips = LPIPS.load(config.lpips_vgg, config.lpips_lin).to(config.device) if config.lpips_weight else None
        self.generator = torch.Generator().manual_seed(config.seed)
        self.histogram = torch.zeros(config.vqgan.codes, dtype=torch.int64)
        self.step = 0

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"step": self.step, "config": json.dumps(asdict(self.config), sort_keys=True)}
        state |= {"generator": self.generator.get_state(), "histogram": self.histogram}
        state |= {"vqgan": self.vqgan.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}
        if self.critic is not None and self.critic_optimizer is not None:
            state |= {"critic": self.critic.state_dict(), "critic_optimizer": self.critic_optimizer.state_dict()}
        return state

    def load(self, state: dict[str, Any]) -> None:
        self.vqgan.load_state_dict(state["vqgan"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.critic is not None and self.critic_optimizer is not None:
            self.critic.load_state_dict(state["critic"])
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.generator.set_state(state["generator"])
        self.histogram = state["histogram"]
        self.step = state["step"]

    def _kept(self, x: Tensor, z: Tensor) -> dict[str, Tensor]:
        """How far, in levels, latents z (b, d, h, w) of pixels x have moved, and the share of codes that have not."""
        assert self.before is not None and isinstance(self.vqgan.quantize, FSQ)
        fsq = self.vqgan.quantize
        with torch.no_grad():
            z0 = self.before.latents(x)
            same = (fsq(z).codes == fsq(z0).codes).double().mean()
        return {"moved": (fsq.bound(z) - fsq.bound(z0)).abs().mean(), "same_codes": same}

    def advance(self, x: Tensor) -> tuple[dict[str, float], Tensor]:
        """One optimiser step on pixels x; returns the parts of the loss and the reconstruction."""
        config = self.config
        share = _schedule(config, self.step)
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = peak * share
        z = self.vqgan.latents(x)
        z_q, codes, aux = self.vqgan.quantize(z, self.generator)
        y = self.vqgan.decoder(self.vqgan.post_quant_conv(z_q))
        parts = {"l1": (y - x).abs().mean(), "l2": (y - x).square().mean(), "quantizer": aux}
        loss = config.l1 * parts["l1"] + config.l2 * parts["l2"]
        if self.before is not None:
            parts |= self._kept(x[: config.keep], z[: config.keep])
            loss = loss + config.keep_weight * parts["moved"]
        if self.lpips is not None:
            parts["lpips"] = self.lpips(y, x).mean()
            loss = loss + config.lpips_weight * parts["lpips"]
        adversarial = self.critic is not None and self.step >= config.gan_start
        if self.critic is not None and adversarial:
            parts["gan"] = hinge_generator(self.critic(y))
            last = self.vqgan.decoder.conv_out.weight
            weight = adaptive_weight(loss, parts["gan"], last)
            loss = loss + config.gan_weight * weight * parts["gan"]
        loss = loss + config.quantizer_weight * aux
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.vqgan.parameters(), config.grad_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.critic is not None and self.critic_optimizer is not None and adversarial:
            parts["critic"] = hinge_discriminator(self.critic(x.detach()), self.critic(y.detach()))
            self.critic_optimizer.zero_grad(set_to_none=True)
            parts["critic"].backward()
            self.critic_optimizer.step()
        self.histogram += torch.bincount(codes.flatten().cpu(), minlength=config.vqgan.codes)
        self.step += 1
        record = {"loss": float(loss.detach())} | {name: float(value.detach()) for name, value in parts.items()}
        return record | {"grad_norm": float(norm), "lr": config.lr * share}, y.detach()


def load_weights(folder: str | Path, config: VQGANConfig) -> dict[str, Tensor]:
    """Weights that a run wrote. Raises CheckpointError where there are none, or of another shape than `config`."""
    if load_config(folder) != config:
        raise CheckpointError(f"image tokenizer {str(folder)!r}: is of another shape; give the same vqgan.* settings")
    try:
        return load_file(Path(folder) / WEIGHTS)
    except Exception as error:  # safetensors raises its own kinds
        raise CheckpointError(f"image tokenizer {str(folder)!r}: {WEIGHTS} cannot be read ({error})") from error


def load_config(folder: str | Path) -> VQGANConfig:
    """Shape of the image tokenizer that a run finished in `folder`. Raises CheckpointError where there is none."""
    folder = Path(folder)
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(
            f"image tokenizer {str(folder)!r}: has no {WEIGHTS}; train one first with "
            "`cm3 train recipes/scenes.py:image_tokenizer`, or give the folder of one"
        )
    try:
        values: dict[str, Any] = json.loads((folder / "config.json").read_text())["vqgan"]
        found: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return VQGANConfig(**found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"image tokenizer {str(folder)!r}: config.json cannot be read ({error})") from error


def _save(path: Path, write: Callable[[Path], object]) -> None:
    # a kill between the two leaves the old file whole
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    os.replace(temporary, path)


def _resume(run: _Run, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = json.loads(state["config"])
    except Exception as error:  # torch.load has no one exception for a damaged file
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({error}); delete it to start anew") from error
    mine = json.loads(json.dumps(asdict(run.config)))
    free = {"out", "log_every", "save_every", "sample_every", "threads", "device"}
    other = sorted(k for k in mine if k not in free and mine[k] != saved.get(k))
    if other:
        raise CheckpointError(
            f"{path}: was made with another {', '.join(other)}; resume with the same settings, or choose another out"
        )
    run.load(state)


def train_image_tokenizer(
    config: ImageTokenizerConfig,
    images: Images,
    *,
    callback: Callable[[dict[str, float]], None] | None = None,
    progress: bool = True,
    stopping: Callable[[int], bool] | None = None,
) -> VQGAN:
    """Train until `config.steps`, resuming from `config.out` if a checkpoint is there; returns the VQGAN in eval mode.

    `images(step)`, for step = 0, 1, ..., must be a pure function: float (batch, 3, size, size) in [-1, 1], or a list of
    PIL images of that size. `callback` gets each record of the log. `stopping(step)` is asked before each step whether
    to end here, at a checkpoint and without weights written. Raises CheckpointError where the checkpoint belongs to
    other settings, DataError for wrong images.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    run = _Run(config)
    if checkpoint.exists():
        _resume(run, checkpoint)
    log = Log(out / "log.jsonl", run.step)
    _save(out / "config.json", lambda p: p.write_text(json.dumps(asdict(config), indent=2) + "\n"))
    run.vqgan.train()
    started, seen = time.perf_counter(), 0
    with bar("image tokenizer", total=config.steps, done=run.step, wanted=progress) as drawn:
        while run.step < config.steps and not (stopping and stopping(run.step)):
            x = _pixels(images(run.step), config)
            record, y = run.advance(x)
            seen += x.shape[0]
            drawn.update()
            if run.step % config.log_every == 0 or run.step == config.steps:
                now = time.perf_counter()
                record = {"step": run.step, **record, "psnr": float(psnr(y, x).mean()), **usage(run.histogram)}
                record["images_per_second"] = seen / (now - started)
                started, seen = now, 0
                run.histogram.zero_()
                log.write(record)
                drawn.set_postfix(loss=f"{record['loss']:.4f}", psnr=f"{record['psnr']:.1f}")
                if callback is not None:
                    callback(record)
            if config.sample_every and run.step % config.sample_every == 0:
                write_sheet(out / "samples" / f"{run.step:07d}.png", x, y)
            if run.step % config.save_every == 0:
                _save(checkpoint, lambda p: torch.save(run.state(), p))
    _save(checkpoint, lambda p: torch.save(run.state(), p))
    if run.step >= config.steps:
        weights = {name: tensor.cpu().contiguous() for name, tensor in run.vqgan.state_dict().items()}
        _save(out / WEIGHTS, lambda p: save_file(weights, p))
    return run.vqgan.eval()

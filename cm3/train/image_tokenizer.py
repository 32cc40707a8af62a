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
import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from cm3 import files
from cm3.bars import bar
from cm3.errors import CheckpointError, ConfigError, DataError, DivergedError
from cm3.model.discriminator import PatchDiscriminator, adaptive_weight, hinge_discriminator, hinge_generator
from cm3.model.lpips import LPIPS
from cm3.model.quantizers import FSQ
from cm3.model.vqgan import VQGAN, VQGANConfig, small
from cm3.train.checkpoint import OLD as CHECKPOINT
from cm3.train.claim import run_claimed
from cm3.train.config import finite_settings
from cm3.train.image_eval import psnr, usage, write_sheet
from cm3.train.optim import Muon
from cm3.train.track import Log
from cm3.weights import check_weights, load_into, not_finite, on_device

WEIGHTS = "image_tokenizer.safetensors"
Images = Callable[[int], "Tensor | list[Image.Image]"]
OURS = {"out", "log_every", "save_every", "sample_every", "threads", "device"}
"""Settings that change nothing that is learnt."""
FREE = {"steps", "lr", "muon_lr", "lr_end", "warmup", "grad_clip", "weight_decay", "gan_lr"}
"""Settings that a run may change when it goes on, as one does that diverged."""


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
    """Side of the pictures, in pixels."""
    batch: int = 32
    """Pictures an update."""
    steps: int = 4000
    """Updates."""
    optimizer: str = "adamw"
    """`adamw`, or `muon` for the convolutions' weights with AdamW for the rest."""
    lr: float = 2e-3
    """Peak rate of AdamW."""
    muon_lr: float = 5e-3
    """Peak rate of Muon."""
    lr_end: float = 0.0
    """Rate at the end, as a share of the peak."""
    warmup: int = 50
    """Updates over which the rate rises."""
    weight_decay: float = 0.0
    """Of all weights that are trained."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    l1: float = 1.0
    """Weight of the mean absolute error."""
    l2: float = 2.0
    """Weight of the mean squared error."""
    quantizer_weight: float = 1.0
    """Weight of the quantiser's own loss."""
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
    """Weight of LPIPS; over 0 it needs both files of weights."""
    lpips_vgg: str = ""
    """File of torchvision's VGG16."""
    lpips_lin: str = ""
    """File of the published LPIPS weights."""
    gan_weight: float = 0.0
    """Weight of the adversarial loss; 0 is no critic."""
    gan_start: int = 0
    """Update from which it counts."""
    gan_lr: float = 2e-4
    """Rate of the critic."""
    grad_clip: float = 1.0
    """Largest norm of a gradient."""
    channels_last: bool = False
    """A layout in memory that can be faster."""
    device: str = "cpu"
    """cpu, or cuda."""
    seed: int = 0
    """Draws the weights."""
    out: str = "runs/image_tokenizer"
    """Folder of the run."""
    log_every: int = 50
    """Updates between lines of the log."""
    save_every: int = 500
    """Updates between checkpoints."""
    sample_every: int = 500
    """Updates between sheets of reconstructions; 0 is never."""
    threads: int = 0
    """Processor threads; 0 leaves them."""

    def __post_init__(self) -> None:
        """Check every field and say everything that is wrong at once."""
        wrong = finite_settings(self, "image_tokenizer.")
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
        on_device(self.vqgan, config.device)
        if self.critic is not None:
            self.critic.to(config.device)
        if config.init:
            self.vqgan.load_state_dict(load_image_tokenizer(config.init, config.vqgan).state_dict())
        self.before: VQGAN | None = None
        if config.keep:
            self.before = copy.deepcopy(self.vqgan).requires_grad_(False).eval()
            if config.keep_of:
                self.before.load_state_dict(load_image_tokenizer(config.keep_of, config.vqgan).state_dict())
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
            for group in optimizer.param_groups:
                group["weight_decay"] = self.config.weight_decay
        if self.critic is not None and self.critic_optimizer is not None:
            self.critic.load_state_dict(state["critic"])
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])
            for group in self.critic_optimizer.param_groups:
                group["lr"] = self.config.gan_lr
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
        """Make one optimiser step on pixels x; return the parts of the loss and the reconstruction.

        Raises `DivergedError`, without the step, where a loss or a gradient is not finite.
        """
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
        self._check(loss, norm, "the loss")
        if self.critic is not None and self.critic_optimizer is not None and adversarial:
            parts["critic"] = hinge_discriminator(self.critic(x.detach()), self.critic(y.detach()))
            self.critic_optimizer.zero_grad(set_to_none=True)
            parts["critic"].backward()
            of_critic = [p.grad.norm() for p in self.critic.parameters() if p.grad is not None]
            self._check(parts["critic"], torch.stack(of_critic).norm(), "the loss of the critic")
            self.critic_optimizer.step()
        for optimizer in self.optimizers:
            optimizer.step()
        self.histogram += torch.bincount(codes.flatten().cpu(), minlength=config.vqgan.codes)
        self.step += 1
        record = {"loss": float(loss.detach())} | {name: float(value.detach()) for name, value in parts.items()}
        return record | {"grad_norm": float(norm), "lr": config.lr * share}, y.detach()

    def _check(self, loss: Tensor, norm: Tensor, what: str) -> None:
        value, gradient = float(loss.detach()), float(norm)
        if not (math.isfinite(value) and math.isfinite(gradient)):
            told = f"is {value:.4g}" if not math.isfinite(value) else f"has a gradient norm of {gradient:.4g}"
            raise self.diverged(f"{what} {told}")

    def diverged(self, told: str) -> DivergedError:
        """Return the error that ends a run whose last checkpoint is good."""
        found = Path(self.config.out, CHECKPOINT).exists()
        then = "the last checkpoint is good: go on from it with --resume" if found else "there is no checkpoint yet"
        return DivergedError(
            f"image tokenizer, step {self.step + 1}: {told}; lower lr, muon_lr or gan_lr, or raise warmup; {then}"
        )


def load_image_tokenizer(folder: str | Path, config: VQGANConfig | None = None) -> VQGAN:
    """Read the VQGAN that a run wrote.

    Raises `CheckpointError` where there is none, for one of another shape than `config`, and for weights that do not
    fit or are not finite.
    """
    found = load_config(folder)
    if config is not None and found != config:
        raise CheckpointError(f"image tokenizer {str(folder)!r}: is of another shape; give the same vqgan.* settings")
    return load_into(lambda: VQGAN(found), Path(folder) / WEIGHTS, f"image tokenizer {str(folder)!r}: {WEIGHTS}")


def load_config(folder: str | Path) -> VQGANConfig:
    """Shape of the image tokenizer that a run finished in `folder`. Raises CheckpointError where there is none."""
    folder = Path(folder)
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(
            f"image tokenizer {str(folder)!r}: has no {WEIGHTS}; train one first with "
            "`cm3 train scenes:image_tokenizer`, then :image_decoder and :image_details, or give the folder of one"
        )
    what = f"image tokenizer {str(folder)!r}"
    page = files.read_json(folder / "config.json", what)
    return files.build(VQGANConfig, page.get("vqgan"), f"{what}: config.json: vqgan")


def _save(run: _Run) -> None:
    """Replace the checkpoint. Raises `DivergedError`, and leaves the one that is there, for weights of NaN."""
    state, buffer = run.state(), io.BytesIO()
    if name := not_finite(_tensors(state)):
        raise run.diverged(f"{name} has values that are not finite")
    torch.save(state, buffer)
    files.write(Path(run.config.out, CHECKPOINT), buffer.getvalue())


def _tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a checkpoint by name."""
    parts = [part for part in ("vqgan", "critic") if part in state]
    return {f"{part}.{name}": tensor for part in parts for name, tensor in state[part].items()}


def _resume(run: _Run, path: Path) -> dict[str, list[Any]]:
    """Take up a checkpoint. Returns the settings that changed since, [old, new] by name."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = json.loads(state["config"])
        weights = _tensors(state)
    except Exception as error:  # torch.load has no one exception for a damaged file
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({files.said(error)}); delete it to start anew"
        ) from error
    check_weights(weights, f"checkpoint {str(path)!r}")
    mine = json.loads(json.dumps(asdict(run.config)))
    changed = {k: [saved.get(k), mine[k]] for k in mine if k not in OURS and mine[k] != saved.get(k)}
    if other := sorted(changed.keys() - FREE):
        raise CheckpointError(
            f"{path}: was made with another {', '.join(other)}; resume with the same settings, or choose another out"
        )
    try:
        run.load(state)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: does not fit its settings ({files.said(error)}); delete it to start anew"
        ) from error
    return changed


def train_image_tokenizer(
    config: ImageTokenizerConfig,
    images: Images,
    *,
    callback: Callable[[dict[str, float]], None] | None = None,
    progress: bool = True,
    stopping: Callable[[int], bool] | None = None,
    notes: Sequence[Mapping[str, Any]] = (),
) -> VQGAN:
    """Train until `config.steps`, resuming from `config.out` if a checkpoint is there; returns the VQGAN in eval mode.

    `images(step)`, for step = 0, 1, ..., must be a pure function: float (batch, 3, size, size) in [-1, 1], or a list of
    PIL images of that size. `callback` gets each record of the log. `stopping(step)` is asked before each step whether
    to end here, at a checkpoint and without weights written. Settings of `FREE` may be others than the checkpoint's;
    the log says so, and begins with `notes`. Raises CheckpointError where the checkpoint belongs to other settings,
    DataError for wrong images, DivergedError, with the last checkpoint as it was, where loss, gradient or weights are
    not finite.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    out = Path(config.out)
    checkpoint = out / CHECKPOINT
    run, changed, seen = _Run(config), dict[str, list[Any]](), _version(checkpoint)
    if seen is not None:
        changed = _resume(run, checkpoint)
    # Before anything is written: pictures that do not fit are refused without a trace.
    x = _pixels(images(run.step), config) if run.step < config.steps else None
    with run_claimed(out, lambda: _version(checkpoint), seen):
        _train(run, images, x, changed, callback=callback, progress=progress, stopping=stopping, notes=notes)
    return run.vqgan.eval()


def _version(path: Path) -> object:
    """Return what tells a file from one that took its place; None where there is none."""
    if not path.exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _train(
    run: _Run,
    images: Images,
    x: Tensor | None,
    changed: dict[str, list[Any]],
    *,
    callback: Callable[[dict[str, float]], None] | None,
    progress: bool,
    stopping: Callable[[int], bool] | None,
    notes: Sequence[Mapping[str, Any]],
) -> None:
    """Train to the end, or until `stopping`. `x` is the first batch."""
    config, out = run.config, Path(run.config.out)
    log = Log(out / "log.jsonl", run.step, notes)
    files.write(out / "config.json", json.dumps(asdict(config), indent=2) + "\n")
    if changed:
        log.write({"step": run.step, "changed": changed})
    run.vqgan.train()
    started, seen = time.perf_counter(), 0
    with bar("image tokenizer", total=config.steps, done=run.step, wanted=progress) as drawn:
        while run.step < config.steps and not (stopping and stopping(run.step)):
            x = _pixels(images(run.step), config) if x is None else x
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
                _save(run)
            x = None
    _save(run)
    if run.step >= config.steps:
        files.write(out / WEIGHTS, save({n: tensor.cpu().contiguous() for n, tensor in run.vqgan.state_dict().items()}))

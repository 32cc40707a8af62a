"""The trainer of a VQGAN in the loop of loop.py: reconstruction, the quantiser's own loss, optional LPIPS and PatchGAN.

pictures of a rank -> encoder -> codes -> decoder -> losses -> mean over all ranks -> spike? -> clip, update
                                 |                   ^
                  counted, moved and revived         +-- critic, whose norms see the pictures of all ranks
                  over the pictures of all ranks

out/samples/STEP.png              originals over reconstructions, every `sample_every` steps
out/image_tokenizer.safetensors   the weights, written at the end
"""

from __future__ import annotations

import copy
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
from cm3.data.kind import Batches
from cm3.errors import CheckpointError, DataError
from cm3.model.discriminator import PatchDiscriminator, adaptive_weight, hinge_discriminator, hinge_generator
from cm3.model.lpips import LPIPS
from cm3.model.quantizers import FSQ
from cm3.model.vqgan import VQGAN, VQGANConfig, small
from cm3.parallel import Mesh, mean_gradients, share_norms, start
from cm3.score.reconstruction import psnr, usage
from cm3.train.config import OURS, LoopConfig
from cm3.train.image_sheet import write_sheet
from cm3.train.loop import Loop, check_copies, check_held_out, given, share_of
from cm3.train.optim import Muon, Optimizer, schedule
from cm3.train.read_again import copied, of_bytes, off_middle
from cm3.weights import load_into

WEIGHTS = "image_tokenizer.safetensors"
Pictures = Tensor | list[Image.Image]
"""float (batch, 3, size, size) in [-1, 1], or PIL images of that size."""
Images = Batches | Callable[[int], Pictures]
"""Pictures of each step; a plain function gives those of all ranks."""
FREE = {"steps", "lr", "muon_lr", "lr_end", "warmup", "grad_clip", "weight_decay", "gan_lr", "on_spike", "spike_sigma"}
FREE |= {"dtype"}
"""Settings that a run may change when it goes on, as one does that diverged."""


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerConfig(LoopConfig):
    """A run. The learning rate rises linearly for `warmup` steps, then falls as a cosine to `lr_end * lr`.

    loss = l1 |x - y| + l2 (x - y)^2 + quantizer_weight * quantiser + lpips_weight * LPIPS
         + gan_weight * adaptive * hinge, the last from step `gan_start` on, + keep_weight * |b - b0| (see `keep`)
         + steady_weight * max(0, |b - c| - margin) (see there).
    LPIPS needs the two weight files, which are not shipped. `channels_last` is a memory layout that can be faster.
    """

    BEFORE = "image_tokenizer."

    vqgan: VQGANConfig = field(default_factory=small, kw_only=False)
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
    steady_weight: float = 0.0
    """Weight of how far from the middles of a picture's codes, in levels, copies of it are read (FSQ only): what is
    drawn of them, rounded to 8 bits, and with an encoder that is trained the picture, and it as JPEG or scaled
    (cm3/train/read_again.py). The codes are those of `keep_of` where pictures are kept, else the picture's own."""
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
    out: str = "runs/image_tokenizer"
    """Folder of the run."""
    log_every: int = 50
    """Updates between lines of the log."""
    save_every: int = 500
    """Updates between checkpoints."""
    sample_every: int = 500
    """Updates between sheets of reconstructions; 0 is never."""

    def wrong(self) -> list[str]:
        """Return what is wrong with the values, a sentence each."""
        wrong = super().wrong() + self.under(1, "size", "batch") + self.other("optimizer", "adamw", "muon")
        wrong += self.over_zero("lr", "muon_lr", "gan_lr", "grad_clip")
        weights = ("l1", "l2", "quantizer_weight", "lpips_weight", "gan_weight", "keep_weight", "steady_weight")
        wrong += self.under(0, "warmup", "lr_end", "weight_decay", *weights, "gan_start", "sample_every")
        if self.size % self.vqgan.factor:
            wrong.append(f"image_tokenizer.size={self.size}: must be a multiple of vqgan.factor={self.vqgan.factor}")
        if not 0 <= self.keep <= self.batch:
            wrong.append(f"image_tokenizer.keep={self.keep}: must be 0 (off) to batch={self.batch}")
        if self.keep and (not self.init or self.decoder_only or self.vqgan.quantizer != "fsq"):
            wrong.append(
                f"image_tokenizer.keep={self.keep}: needs init, an encoder that is trained and vqgan.quantizer='fsq'; "
                "set keep to 0 otherwise"
            )
        if self.steady_weight and self.vqgan.quantizer != "fsq":
            wrong.append(
                f"image_tokenizer.steady_weight={self.steady_weight}: needs vqgan.quantizer='fsq', whose codes are "
                "intervals; set it to 0 otherwise"
            )
        if self.steady_weight and not self.decoder_only and self.vqgan.image_channels != 3:
            wrong.append(
                f"image_tokenizer.steady_weight={self.steady_weight}: needs vqgan.image_channels=3, as copies are "
                "RGB; set it to 0, or decoder_only to true"
            )
        if self.decoder_only and not self.init:
            wrong.append("image_tokenizer.decoder_only=True: needs init, the folder whose encoder and codes are kept")
        if self.lpips_weight and not (self.lpips_vgg and self.lpips_lin):
            wrong.append(
                f"image_tokenizer.lpips_weight={self.lpips_weight}: needs lpips_vgg and lpips_lin, the paths of the "
                "VGG16 and of the LPIPS weights; set them, or the weight to 0"
            )
        return wrong


class ImageTokenizerTrainer(Loop):
    """Trains a VQGAN on pictures, of which each process reads its share. It is `vqgan`."""

    label = "image tokenizer"
    remedy = "lower lr, muon_lr or gan_lr, or raise warmup"
    shown = {"loss": "loss {:.4f}", "psnr": "psnr {:.1f}"}
    config: ImageTokenizerConfig

    def __init__(
        self,
        config: ImageTokenizerConfig,
        images: Images,
        *,
        resume: bool = True,
        mesh: Mesh | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        """Resume from the last checkpoint, where there is one. `mesh` and `about` are those of the loop.

        Raises `ConfigError`, and `CheckpointError` for a checkpoint or an `init` that is damaged or of another run.
        """
        c = config
        check_held_out(c, images)
        super().__init__(c, mesh=mesh, about={**(about or asdict(c)), **given(images)})
        check_copies(c, c.batch, self.mesh)
        self.images, device = images, self.mesh.device
        with torch.random.fork_rng():
            torch.manual_seed(c.seed)
            self.vqgan = VQGAN(c.vqgan)
            self.critic = PatchDiscriminator(c.vqgan.image_channels).to(device) if c.gan_weight else None
        if c.init:
            self.vqgan.load_state_dict(load_image_tokenizer(c.init, c.vqgan).state_dict())
        self.vqgan.to(device)
        self.before: VQGAN | None = None
        if c.keep:
            self.before = copy.deepcopy(self.vqgan).requires_grad_(False).eval()
            if c.keep_of:
                self.before.load_state_dict(load_image_tokenizer(c.keep_of, c.vqgan).state_dict())
        if c.decoder_only:
            for part in (self.vqgan.encoder, self.vqgan.quant_conv, self.vqgan.quantize):
                part.requires_grad_(False)
        if c.channels_last:
            self.vqgan = self.vqgan.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not isinstance(self.vqgan.quantize, FSQ):
            self.vqgan.quantize.others = self.mesh
        weights = [p for p in self.vqgan.parameters() if p.requires_grad]
        matrices = [p for p in weights if p.dim() >= 2] if c.optimizer == "muon" else []
        inside = {id(p) for p in matrices}
        rest = [p for p in weights if id(p) not in inside]
        parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, c.lr, betas=c.betas, weight_decay=c.weight_decay)]
        parts += [Muon(matrices, c.muon_lr, weight_decay=c.weight_decay, dtype=self.dtype)] if matrices else []
        self.optimizer = Optimizer(
            self.vqgan, parts, c.grad_clip, lambda step, steps: schedule(step, steps, c.warmup, c.lr_end)
        )
        if self.critic is not None:
            share_norms(self.critic, self.mesh)
            adam = torch.optim.Adam(self.critic.parameters(), c.gan_lr, betas=(0.5, 0.9))
            self.critic_optimizer = Optimizer(self.critic, [adam], math.inf, lambda step, steps: 1.0)
        self.lpips = LPIPS.load(c.lpips_vgg, c.lpips_lin).to(device) if c.lpips_weight else None
        self.generator = torch.Generator().manual_seed(c.seed)
        self.histogram = torch.zeros(c.vqgan.codes, dtype=torch.int64, device=device)
        self.vqgan.train()
        self.resume(resume)
        self._since, self._waited, self._count = time.perf_counter(), 0.0, 0
        self._shown: tuple[Tensor, Tensor] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """See the loop."""
        found = {"generator": self.generator.get_state(), "histogram": self.histogram}
        kinds: dict[str, Mapping[str, Tensor]] = {
            "vqgan": self.vqgan.state_dict(),
            "optimizer": self.optimizer.tensors(),
        }
        if self.critic is not None:
            kinds |= {"critic": self.critic.state_dict(), "critic_optimizer": self.critic_optimizer.tensors()}
        return found | {f"{kind}.{name}": value for kind, part in kinds.items() for name, value in part.items()}

    def restored(self, tensors: Mapping[str, Tensor]) -> None:
        """See the loop."""
        self.generator.set_state(tensors["generator"])

    def fixed(self, name: str) -> bool:
        """See the loop."""
        return name == "keep" or name.split(".")[0] not in FREE | OURS

    def left_out(self) -> Mapping[str, Any]:
        """See the loop."""
        return getattr(self.images, "left_out", {})

    def take(self) -> Tensor:
        """See the loop. Raises `DataError` for pictures of another shape."""
        began = time.perf_counter()
        found = self._pixels(share_of(self.images, self.step, self.mesh))
        self._waited += time.perf_counter() - began
        return found

    def _pixels(self, images: Tensor | Sequence[Image.Image]) -> Tensor:
        c = self.config
        if not isinstance(images, Tensor):
            arrays = [np.asarray(image.convert("RGB"), dtype=np.float32) for image in images]
            images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1
        want = (c.vqgan.image_channels, c.size, c.size)
        if images.ndim != 4 or tuple(images.shape[1:]) != want or not images.is_floating_point():
            raise DataError(
                f"training images of shape {tuple(images.shape)} and {images.dtype}: must be float (batch, "
                f"{want[0]}, {want[1]}, {want[2]}) in [-1, 1], as config.size says"
            )
        layout = torch.channels_last if c.channels_last else torch.contiguous_format
        return images.to(self.mesh.device, torch.float32).contiguous(memory_format=layout)

    def learn(self, batch: Tensor) -> dict[str, float]:
        """See the loop. A batch is pixels x."""
        c, x, vqgan = self.config, batch, self.vqgan
        # A pass counts and moves codes, and norms: a batch that is skipped takes that back.
        buffers = [*vqgan.buffers(), *(self.critic.buffers() if self.critic else ())] if c.on_spike == "skip" else []
        as_before = [buffer.clone() for buffer in buffers]
        with self.autocast():
            z = vqgan.latents(x)
        z = z.float()  # codes and losses are those of any number type
        z_q, codes, aux = vqgan.quantize(z, self.generator)
        with self.autocast():
            y = vqgan.draw(z_q)
        y = y.float()
        parts = {"l1": (y - x).abs().mean(), "l2": (y - x).square().mean(), "quantizer": aux}
        loss = c.l1 * parts["l1"] + c.l2 * parts["l2"]
        if self.before is not None:
            parts |= self._kept(self.before, x, z)
            loss = loss + c.keep_weight * parts["moved"]
        if c.steady_weight:
            parts |= self._steady(x, z, y)
            loss = loss + c.steady_weight * parts["unsteady"]
        if self.lpips is not None:
            parts["lpips"] = self.lpips(y, x).mean()
            loss = loss + c.lpips_weight * parts["lpips"]
        critic = self.critic if self.step >= c.gan_start else None
        if critic is not None:
            parts["gan"] = hinge_generator(critic(y))
            weight = adaptive_weight(loss, parts["gan"], vqgan.decoder.conv_out.weight, mean=self._mean)
            loss = loss + c.gan_weight * weight * parts["gan"]
        loss = loss + c.quantizer_weight * aux
        loss.backward()
        mean_gradients(vqgan.parameters(), self.mesh)
        norm, of_critic = self.optimizer.clip(), 0.0
        if critic is not None:
            self.critic_optimizer.clear()
            parts["critic"] = hinge_discriminator(critic(x), critic(y.detach()))
            parts["critic"].backward()
            mean_gradients(critic.parameters(), self.mesh)
            of_critic = self.critic_optimizer.clip()
        parts = {"loss": loss, **parts}
        means = self._mean(torch.stack([value.detach().double() for value in parts.values()])).tolist()
        record = dict(zip(parts, means, strict=True))
        learn = self.judge(record["loss"], norm)
        if learn and not math.isfinite(record.get("critic", 0.0) + of_critic):
            learn = self.judge(record["critic"], of_critic, "critic: ")
        rate = self.optimizer.step(self.step, c.steps, learn)
        if self.critic is not None:
            self.critic_optimizer.step(self.step, c.steps, learn and critic is not None)
        if learn:
            self.histogram += self.mesh.sum(torch.bincount(codes.flatten(), minlength=c.vqgan.codes))
        else:
            for buffer, old in zip(buffers, as_before, strict=True):
                buffer.copy_(old)
        self._shown, self._count = (x, y.detach()), self._count + len(x) * self.mesh.ranks
        return record | {"grad_norm": norm, "lr": rate}

    def _mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over the ranks."""
        return tensor if self.mesh.ranks == 1 else self.mesh.sum(tensor) / self.mesh.ranks

    def _kept(self, before: VQGAN, x: Tensor, z: Tensor) -> dict[str, Tensor]:
        """Measure how far, in levels, latents z (b, d, h, w) of pixels x have moved, and the share of codes that have
        not.

        Of the first `keep` pictures of the batch of all ranks.
        """
        fsq, keep = self.vqgan.quantize, self.config.keep
        assert isinstance(fsq, FSQ)
        here = self._to_keep(x)
        # A rank that has none of them still takes part in the mean.
        of_all = here * self.mesh.ranks / keep
        if not here:
            return {"moved": 0 * z.sum(), "same_codes": torch.zeros((), dtype=torch.float64, device=z.device)}
        x, z = x[:here], z[:here]
        with torch.no_grad():
            z0 = before.latents(x)
            same = (fsq(z).codes == fsq(z0).codes).double().mean()
        return {"moved": of_all * (fsq.bound(z) - fsq.bound(z0)).abs().mean(), "same_codes": of_all * same}

    def _to_keep(self, x: Tensor) -> int:
        """Return how many of this rank's pictures, the first of them, shall keep their codes."""
        return min(max(self.config.keep - self.mesh.rank * len(x), 0), len(x))

    def _steady(self, x: Tensor, z: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Measure how far from the middles of the codes of pixels x, of latents z, copies are read, and the share of
        codes of what is drawn, y, that are the same."""
        vqgan, fsq, c = self.vqgan, self.vqgan.quantize, self.config
        assert isinstance(fsq, FSQ)
        with torch.no_grad():
            codes = fsq(z).codes
            if self.before is not None and (here := self._to_keep(x)):
                codes[:here] = fsq(self.before.latents(x[:here])).codes
        with self.autocast():
            drawn = vqgan.latents(of_bytes(y)).float()
        read = [drawn]
        if not c.decoder_only:
            with self.autocast():
                read += [z, vqgan.latents(copied(x, self.generator)).float()]
        again = (fsq(drawn.detach()).codes == codes).double().mean()
        return {"unsteady": torch.stack([off_middle(fsq, one, codes) for one in read]).mean(), "same_again": again}

    def summary(self) -> dict[str, float]:
        """See the loop."""
        assert self._shown is not None, "a step was made"
        x, y = self._shown
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        found = {"psnr": float(self._mean(psnr(y, x).mean())), **usage(self.histogram)}
        found |= {"images_per_second": self._count / seconds, "data_wait": self._waited / seconds}
        self._waited, self._count = 0.0, 0
        self.histogram.zero_()
        return found

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Measure the PSNR of the pictures that are held out, as many as `validate_batches` batches, `val_psnr`."""
        c = self.config
        held = self.images.held_out()[: c.validate_batches * c.batch]  # type: ignore[union-attr]
        mine = held[self.mesh.rank :: self.mesh.ranks]
        self.vqgan.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for at in range(0, len(mine), c.batch):
            x = self._pixels(mine[at : at + c.batch])
            found = psnr(self.vqgan.decode(self.vqgan.encode(x)), x)
            total += torch.tensor([float(found.double().sum()), len(found)], dtype=torch.float64)
        self.vqgan.train()
        sums, count = self.mesh.sum(total).tolist()
        return {"val_psnr": sums / count}

    def sample(self) -> None:
        """Write a sheet of the main process's pictures."""
        assert self._shown is not None, "a step was made"
        path, shown = self.out / "samples" / f"{self.step:07d}.png", self._shown
        self.ranks.together(lambda: write_sheet(path, *shown) if self.mesh.main else None)

    def finish(self) -> None:
        """Write the weights."""
        weights = save({name: tensor.cpu().contiguous() for name, tensor in self.vqgan.state_dict().items()})
        self.ranks.together(lambda: files.write(self.out / WEIGHTS, weights) if self.mesh.main else None)


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
    """Return the shape of the image tokenizer that a run finished in `folder`. Raises CheckpointError where there is
    none."""
    folder = Path(folder)
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(
            f"image tokenizer {str(folder)!r}: has no {WEIGHTS}; train one first with "
            "`cm3 train photos:image_tokenizer`, or give the folder of one"
        )
    what = f"image tokenizer {str(folder)!r}"
    page = files.read_json(folder / "config.json", what)
    return files.build(VQGANConfig, page.get("vqgan"), f"{what}: config.json: vqgan")


def train_image_tokenizer(
    config: ImageTokenizerConfig,
    images: Images,
    *,
    progress: bool = True,
    stopping: Callable[[int], bool] | None = None,
) -> VQGAN:
    """Train until `config.steps`, resuming from `config.out` if a checkpoint is there; returns the VQGAN in eval mode.

    `stopping(step)` is asked after each step whether to end here, at a checkpoint and without weights written; a signal
    ends it so too. Settings of `FREE` may be others than the checkpoint's; the log says so.
    Raises as `ImageTokenizerTrainer` and its `run` do, and `DataError` for wrong images.
    """
    with start(config.mesh, config.device) as mesh:
        trainer = ImageTokenizerTrainer(config, images, mesh=mesh)
        trainer.run(progress=progress, stopping=stopping)
    return trainer.vqgan.eval()

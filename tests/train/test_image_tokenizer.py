"""The VQGAN's trainer learns, resumes bit for bit, logs what it did, and refuses what does not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_run import spoil, state, weights

from cm3.errors import CheckpointError, ConfigError, DataError, DivergedError
from cm3.model.discriminator import PatchDiscriminator, adaptive_weight, hinge_discriminator, hinge_generator
from cm3.model.lpips import LPIPS
from cm3.model.quantizers import FSQ
from cm3.model.vqgan import VQGAN, VQGANConfig
from cm3.score.reconstruction import psnr, score_reconstruction
from cm3.train.image_tokenizer import (
    ImageTokenizerConfig,
    ImageTokenizerTrainer,
    load_image_tokenizer,
    train_image_tokenizer,
)
from cm3.train.read_again import MARGIN, copied, of_bytes, off_middle

SHAPE: dict[str, Any] = dict(factor=8, channels=8, multipliers=(1, 2), blocks=1, middle=False, patch=4, z_channels=8)
QUANTIZERS: dict[str, dict[str, Any]] = {
    "fsq": dict(quantizer="fsq", codes=200, levels=(8, 5, 5)),
    "ema": dict(quantizer="ema", codes=32, code_dim=4, restart_after=3),
    "l2": dict(quantizer="l2", codes=32, code_dim=4, restart_after=3),
    "gumbel": dict(quantizer="gumbel", codes=32, code_dim=8),
}


def images(step: int) -> torch.Tensor:
    """Flat colours with a bright square: easy, and different at each step."""
    g = torch.Generator().manual_seed(step)
    x = (torch.rand(4, 3, 1, 1, generator=g) * 2 - 1).expand(4, 3, 32, 32).clone()
    left = int(torch.randint(16, (1,), generator=g))
    x[:, :, 8:24, left : left + 16] *= -1
    return x


class Held:
    """The same, each process its own share, and twelve that are held out."""

    left_out: dict[str, Any] = {}

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> torch.Tensor:
        return images(step).chunk(ranks)[rank]

    def held_out(self) -> torch.Tensor:
        return torch.cat([images(900 + i) for i in range(3)])


def config(out: Path, quantizer: str = "fsq", **changes: Any) -> ImageTokenizerConfig:
    base = ImageTokenizerConfig(
        VQGANConfig(**SHAPE, **QUANTIZERS[quantizer]),
        size=32,
        batch=4,
        steps=6,
        warmup=2,
        out=str(out),
        log_every=2,
        dtype="float32",
    )
    return replace(base, **{"save_every": 3, "sample_every": 3, **changes})


def records(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")} for line in lines]


def same_bits(a: Path, b: Path) -> bool:
    x, y = load_file(a / "image_tokenizer.safetensors"), load_file(b / "image_tokenizer.safetensors")
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


@pytest.mark.parametrize(
    ("quantizer", "changes"),
    [("fsq", {}), ("ema", {}), ("l2", {}), ("gumbel", {}), ("fsq", {"gan_weight": 0.5, "gan_start": 2})],
    ids=["fsq", "ema", "l2", "gumbel", "gan"],
)
def test_resumed_run_ends_in_the_same_bits(tmp_path: Path, quantizer: str, changes: dict[str, Any]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train_image_tokenizer(config(one, quantizer, **changes), images, progress=False)
    train_image_tokenizer(config(two, quantizer, **changes), images, progress=False, stopping=lambda step: step == 3)
    assert not (two / "image_tokenizer.safetensors").exists()
    # as if killed after two more steps were logged, in the middle of a line
    with (two / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 9}\n{"step": 6, "lo')
    train_image_tokenizer(config(two, quantizer, **changes), images, progress=False)
    assert same_bits(one, two) and records(one) == records(two)
    assert [r["step"] for r in records(one)] == [2, 4, 6]


def test_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_image_tokenizer(config(tmp_path / name, seed=seed, steps=2), images, progress=False)
    assert same_bits(tmp_path / "a", tmp_path / "b") and not same_bits(tmp_path / "a", tmp_path / "c")


def test_training_leaves_global_randomness_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train_image_tokenizer(config(tmp_path, "gumbel", steps=2), images, progress=False)
    assert torch.equal(before, torch.get_rng_state())


def test_it_learns_and_reports(tmp_path: Path) -> None:
    vqgan = train_image_tokenizer(
        config(tmp_path, "ema", steps=100, warmup=5, lr=5e-3, log_every=25, save_every=100, sample_every=100),
        lambda step: images(step % 2),
        progress=False,
    )
    seen = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert not vqgan.training and seen[-1]["psnr"] > seen[0]["psnr"] + 3
    assert {
        "loss",
        "l1",
        "l2",
        "quantizer",
        "codes_used",
        "perplexity",
        "images_per_second",
        "data_wait",
        "lr",
    } <= seen[0].keys()
    score = score_reconstruction(
        vqgan, ((list(f"{i}{j}" for j in range(len(images(i)))), images(i)) for i in range(2))
    ).figures
    assert score["psnr_db"] > 17 and 0 < score["codes_used"] <= 1 and 1 < score["perplexity"] <= 32
    with Image.open(tmp_path / "samples" / "0000100.png") as sheet:
        assert sheet.size == (4 * 36 - 4, 2 * 36 - 4)
    saved = load_file(tmp_path / "image_tokenizer.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in vqgan.state_dict().items())
    assert json.loads((tmp_path / "config.json").read_text())["vqgan"]["codes"] == 32
    assert not list(tmp_path.glob("*.tmp"))


def test_held_out_pictures_are_measured(tmp_path: Path) -> None:
    c = config(tmp_path / "a", steps=4, validate_every=2, validate_batches=2)
    held = Held()
    trainer = ImageTokenizerTrainer(c, held)
    trainer.run(progress=False)
    told = [r for r in records(tmp_path / "a") if "val_psnr" in r]
    assert [r["step"] for r in told] == [2, 4]
    wanted = score_reconstruction(trainer.vqgan, [("abcdefgh", held.held_out()[:8])]).figures["psnr_db"]
    assert told[-1]["val_psnr"] == pytest.approx(wanted, abs=1e-4)
    train_image_tokenizer(config(tmp_path / "b", steps=4), images, progress=False)
    assert same_bits(tmp_path / "a", tmp_path / "b")
    with pytest.raises(
        ConfigError, match="image_tokenizer.validate_every=2: nothing is held out; give 0, or a source with"
    ):
        ImageTokenizerTrainer(c, images)


def test_pil_images_equal_their_tensors(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (32, 32), (40 * i, 200, 10)) for i in range(4)]
    tensor = torch.tensor([[40.0 * i, 200.0, 10.0] for i in range(4)]).view(4, 3, 1, 1).expand(4, 3, 32, 32) / 127.5 - 1
    train_image_tokenizer(config(tmp_path / "a", steps=2), lambda step: pictures, progress=False)
    train_image_tokenizer(config(tmp_path / "b", steps=2), lambda step: tensor, progress=False)
    assert same_bits(tmp_path / "a", tmp_path / "b")


def test_lpips_joins_the_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = LPIPS().state_dict()
    vgg = {name: tensor for name, tensor in state.items() if name.startswith("features")}
    lin = {name: tensor.abs() for name, tensor in state.items() if name.startswith("lin")}
    save_file(vgg, tmp_path / "vgg.safetensors")
    save_file(lin, tmp_path / "lin.safetensors")
    paths = {"lpips_vgg": str(tmp_path / "vgg.safetensors"), "lpips_lin": str(tmp_path / "lin.safetensors")}
    train_image_tokenizer(config(tmp_path / "run", steps=2, lpips_weight=2.0, **paths), images, progress=False)
    r = records(tmp_path / "run")[0]
    assert r["lpips"] > 0 and r["loss"] == pytest.approx(r["l1"] + 2 * r["l2"] + 2 * r["lpips"], rel=1e-5)


def test_psnr_is_that_of_eight_bits() -> None:
    a = torch.zeros(2, 3, 4, 4)
    b = a.clone()
    b[1] += 10 / 127.5  # 127.5 rounds to 128; 137.5 rounds to 138 (half to even): ten grey levels
    values = psnr(b, a)
    assert float(values[0]) == 99.0 and float(values[1]) == pytest.approx(20 * torch.log10(torch.tensor(25.5)).item())
    assert float(psnr(a + 5, torch.ones_like(a))[0]) == 99.0  # clamped


def test_kept_codes_move_less(tmp_path: Path) -> None:
    """Trained on, on other pictures, an encoder keeps the codes of the pictures that it is told to keep."""
    train_image_tokenizer(config(tmp_path / "first", steps=8, lr=5e-3), images, progress=False)

    def mixed(step: int) -> torch.Tensor:
        return torch.cat([images(step)[:2], -images(1000 + step).flip(1)[:2]])

    before = load_image_tokenizer(tmp_path / "first", config(tmp_path).vqgan).state_dict()
    held = torch.cat([images(5000 + i) for i in range(8)])
    same = {}
    for name, weight in (("kept", 20.0), ("free", 0.0)):
        changes = dict(init=str(tmp_path / "first"), keep=2, keep_weight=weight, steps=12, lr=5e-3, sample_every=0)
        after = train_image_tokenizer(config(tmp_path / name, **changes), mixed, progress=False)
        assert {"moved", "same_codes"} <= records(tmp_path / name)[0].keys()
        first = VQGAN(after.config)
        first.load_state_dict(before)
        same[name] = float((after.encode(held) == first.eval().encode(held)).double().mean())
    assert same["kept"] > same["free"] + 0.1, same


@pytest.mark.parametrize("decoder_only", [True, False])
def test_steady_codes_are_read_again(tmp_path: Path, decoder_only: bool) -> None:
    """What is drawn of codes gives the same codes again, more than after as many updates without that loss."""
    train_image_tokenizer(config(tmp_path / "first", steps=60, lr=5e-3, sample_every=0), images, progress=False)
    held = torch.cat([images(5000 + i) for i in range(8)])
    codes, again = load_image_tokenizer(tmp_path / "first").eval().encode(held), {}
    for name, weight in (("steady", 10.0), ("free", 0.0)):
        kept = {} if decoder_only else {"keep": 4, "keep_weight": 0.0}
        changes = dict(init=str(tmp_path / "first"), decoder_only=decoder_only, steps=120, lr=5e-3, sample_every=0)
        one = config(tmp_path / name, steady_weight=weight, **changes, **kept)
        vqgan = train_image_tokenizer(one, images, progress=False)
        assert ("same_again" in records(tmp_path / name)[0]) == (name == "steady")
        assert not decoder_only or torch.equal(vqgan.encode(held), codes)
        drawn = of_bytes(vqgan.decode(vqgan.encode(held)))
        again[name] = float((vqgan.encode(drawn) == codes).double().mean())
    assert again["steady"] > again["free"] + 0.1, again


def test_copies_are_like_the_pictures_and_come_from_the_generator() -> None:
    pictures = images(0).repeat(4, 1, 1, 1)
    copies = copied(pictures, torch.Generator().manual_seed(1))
    assert copies.shape == pictures.shape and copies.dtype == torch.float32 and copies.abs().max() <= 1
    off = (copies - pictures).abs().flatten(1).mean(1)
    assert bool((off < 0.2).all()) and len(off.unique()) == len(off) and float(off.max()) > 0
    assert torch.equal(copies, copied(pictures, torch.Generator().manual_seed(1)))
    assert not torch.equal(copies, copied(pictures, torch.Generator().manual_seed(2)))


def test_pixels_of_bytes_pass_the_gradient() -> None:
    pixels = torch.tensor([-1.5, -1.0, 0.0, 0.5, 1.0, 1.5], requires_grad=True)
    kept = of_bytes(pixels)
    assert torch.allclose((kept + 1) * 127.5, torch.tensor([0.0, 0.0, 128.0, 191.0, 255.0, 255.0]), atol=1e-4)
    kept.sum().backward()
    assert pixels.grad is not None and pixels.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_what_is_near_the_middle_of_its_code_costs_nothing() -> None:
    fsq = FSQ((8, 5))
    latents = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    codes = fsq(latents).codes
    bounded, middles = fsq.bound(latents), fsq.lookup(codes) * fsq.half_width
    assert float(off_middle(fsq, latents, codes)) == pytest.approx(
        float(((bounded - middles).abs() - MARGIN).clamp(min=0).mean())
    )
    inside = torch.atanh((middles + fsq.offset + 0.9 * MARGIN * middles.sign().neg()) / fsq.reach) - fsq.shift
    assert torch.equal(fsq(inside).codes, codes) and float(off_middle(fsq, inside, codes)) == 0.0


@pytest.mark.parametrize("steady", [0.0, 1.0])
def test_a_run_that_keeps_codes_resumes_in_the_same_bits(tmp_path: Path, steady: float) -> None:
    train_image_tokenizer(config(tmp_path / "first", steps=2), images, progress=False)
    kept = dict(init=str(tmp_path / "first"), keep=2, steady_weight=steady)
    train_image_tokenizer(config(tmp_path / "one", **kept), images, progress=False)
    train_image_tokenizer(config(tmp_path / "two", **kept), images, progress=False, stopping=lambda step: step == 3)
    train_image_tokenizer(config(tmp_path / "two", **kept), images, progress=False)
    assert same_bits(tmp_path / "one", tmp_path / "two") and records(tmp_path / "one") == records(tmp_path / "two")


def test_the_critic_and_its_weight() -> None:
    torch.manual_seed(0)
    critic = PatchDiscriminator()
    x = torch.randn(2, 3, 64, 64)
    assert critic(x).shape == (2, 1, 6, 6)
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.5])
    assert float(hinge_discriminator(real, fake)) == pytest.approx(0.5 * (0.25 + 0.75))
    assert float(hinge_generator(fake)) == pytest.approx(0.75)
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    weight = adaptive_weight((3 * w).sum(), (w * torch.tensor([0.0, 1.5])).sum(), w)
    assert float(weight) == pytest.approx(3 * 2**0.5 / 1.5, rel=1e-3) and not weight.requires_grad
    assert float(adaptive_weight((3e9 * w).sum(), (1e-9 * w).sum(), w)) == 1e4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 30}, "image_tokenizer.size=30: must be a multiple of vqgan.factor=8"),
        ({"steps": 0}, "image_tokenizer.steps=0: must be at least 1"),
        ({"lr": 0.0}, "image_tokenizer.lr=0.0: must be above 0"),
        ({"lr": float("nan")}, "image_tokenizer.lr=nan: must be a finite number"),
        ({"betas": (0.9, float("inf"))}, r"image_tokenizer.betas=\(0.9, inf\): must be a finite number"),
        ({"betas": (0.9, 1.0)}, r"image_tokenizer.betas=\(0.9, 1.0\): must each be from 0 to under 1"),
        ({"l1": -1.0}, "image_tokenizer.l1=-1.0: must not be negative"),
        ({"gan_start": -1}, "image_tokenizer.gan_start=-1: must not be negative"),
        ({"keep": 5, "init": "x"}, "image_tokenizer.keep=5: must be 0 \\(off\\) to batch=4"),
        ({"keep": 2}, "image_tokenizer.keep=2: needs init, an encoder that is trained and vqgan.quantizer='fsq'"),
        ({"keep_weight": -1.0}, "image_tokenizer.keep_weight=-1.0: must not be negative"),
        ({"steady_weight": -1.0}, "image_tokenizer.steady_weight=-1.0: must not be negative"),
        ({"seed": -1}, "image_tokenizer.seed=-1: must be in 0"),
        ({"lpips_weight": 1.0}, "image_tokenizer.lpips_weight=1.0: needs lpips_vgg and lpips_lin"),
    ],
)
def test_config_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **changes)


def test_only_intervals_have_middles(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"steady_weight=1.0: needs vqgan.quantizer='fsq', .* set it to 0 otherwise"):
        config(tmp_path, "ema", steady_weight=1.0)


def test_only_rgb_has_copies(tmp_path: Path) -> None:
    grey = replace(config(tmp_path).vqgan, image_channels=1)
    with pytest.raises(ConfigError, match=r"steady_weight=1.0: needs vqgan.image_channels=3, .* or decoder_only to tr"):
        config(tmp_path, vqgan=grey, steady_weight=1.0)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for device in ("cuda:99", "gpu"):
        with pytest.raises(ConfigError, match=f"device='{device}': must be cpu or cuda"):
            train_image_tokenizer(config(tmp_path / "run", device=device), images, progress=False)
    assert not (tmp_path / "run").exists()


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\(4, 3, 16, 16\) .*must be float \(batch, 3, 32, 32\) in \[-1, 1\]"):
        train_image_tokenizer(config(tmp_path), lambda step: torch.zeros(4, 3, 16, 16), progress=False)
    vqgan = train_image_tokenizer(config(tmp_path, steps=1), images, progress=False)
    with pytest.raises(DataError, match="no images to evaluate"):
        score_reconstruction(vqgan, [])


def test_foreign_and_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    train_image_tokenizer(config(tmp_path), images, progress=False, stopping=lambda step: step == 3)
    with pytest.raises(CheckpointError, match="was made with seed=0, this run has 5; give the same, or another out"):
        train_image_tokenizer(config(tmp_path, lr=1e-4, seed=5, l1=2.0), images, progress=False)
    [path] = (tmp_path / "checkpoints" / "00000003").glob("*.safetensors")
    path.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="safetensors was altered .*; restore it, or delete that folder to start"):
        train_image_tokenizer(config(tmp_path), images, progress=False)
    # A run of an earlier version is none of this one's.
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoint.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="checkpoint.pt is not of this version's trainer; give another out"):
        train_image_tokenizer(config(tmp_path), images, progress=False)


def at(step: int, value: float) -> Any:
    """Pictures with one pixel of `value` at a step."""

    def found(now: int) -> torch.Tensor:
        x = images(now)
        if now == step:
            x[0, 0, 0, 0] = value
        return x

    return found


@pytest.mark.parametrize(
    ("quantizer", "value"), [("fsq", "nan"), ("ema", "nan"), ("l2", "nan"), ("gumbel", "nan"), ("fsq", "inf")]
)
def test_a_run_that_diverges_stops_and_keeps_its_last_checkpoint(tmp_path: Path, quantizer: str, value: str) -> None:
    c = config(tmp_path, quantizer, save_every=1, log_every=1)
    with pytest.raises(DivergedError, match=r"step 4: the loss is (nan|inf); lower lr.*is good: go on .* --resume"):
        train_image_tokenizer(c, at(3, float(value)), progress=False)
    assert not (tmp_path / "image_tokenizer.safetensors").exists()
    assert [r["step"] for r in records(tmp_path)] == [1, 2, 3, 4] and not records(tmp_path)[3]["learnt"]
    # What was kept is what an unbroken run had there, so it goes on to the same bits.
    train_image_tokenizer(c, images, progress=False)
    train_image_tokenizer(replace(c, out=str(tmp_path / "whole")), images, progress=False)
    assert same_bits(tmp_path, tmp_path / "whole")


@pytest.mark.parametrize(
    ("quantizer", "changes"),
    [
        ("fsq", {"lr": 1e9}),
        ("ema", {"lr": 1e30}),
        ("gumbel", {"lr": 1e9}),
        ("l2", {"optimizer": "muon", "muon_lr": 1e30}),
        ("fsq", {"gan_weight": 1.0, "gan_lr": 1e30}),
    ],
)
def test_too_high_a_rate_stops_a_run_and_a_lower_one_goes_on(
    tmp_path: Path, quantizer: str, changes: dict[str, Any]
) -> None:
    """The rate is one that no float survives. What is written is finite at every step."""
    good = config(tmp_path, quantizer, save_every=1, warmup=0, steps=9)
    kept = {k: v for k, v in changes.items() if k in ("optimizer", "gan_weight")}
    train_image_tokenizer(replace(good, **kept), images, progress=False, stopping=lambda step: step == 2)
    with pytest.raises(DivergedError, match="step [3-9]: .*; the last checkpoint is good"):
        train_image_tokenizer(replace(good, **changes), images, progress=False)
    assert state(tmp_path)["step"] >= 2 and all(t.isfinite().all() for t in weights(tmp_path).values())
    if state(tmp_path)["step"] == 2:  # later ones were made at that rate, and are as far out as it took them
        train_image_tokenizer(replace(good, **kept), images, progress=False)
        assert (tmp_path / "image_tokenizer.safetensors").exists()


def test_a_changed_rate_is_told_and_holds(tmp_path: Path) -> None:
    c = config(tmp_path, log_every=1, gan_weight=0.5, weight_decay=0.5)
    train_image_tokenizer(c, images, progress=False, stopping=lambda step: step == 3)
    slow = replace(c, lr=1e-12, gan_lr=1e-12, weight_decay=0.0, steps=5)
    before = weights(tmp_path)
    train_image_tokenizer(slow, images, progress=False)
    after = weights(tmp_path)
    told = next(r for r in records(tmp_path) if "changed" in r)
    assert told["changed"]["lr"] == [2e-3, 1e-12] and told["step"] == 3
    learnt = {k: v for k, v in before.items() if k.startswith(("vqgan.", "critic.")) and v.is_floating_point()}
    assert learnt and all(torch.allclose(v, after[k], atol=1e-6) for k, v in learnt.items() if "running" not in k)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    run = tmp_path / "run"
    c = config(run, gan_weight=0.5)
    train_image_tokenizer(c, images, progress=False)
    for name in ("critic.main.0.weight", "vqgan.decoder.conv_out.weight"):
        good = weights(run)[name]
        spoil(run, **{name: torch.full_like(good, value)})
        with pytest.raises(CheckpointError, match=f"checkpoint '.*': {name} has values that are not finite"):
            train_image_tokenizer(c, images, progress=False)
        spoil(run, **{name: good})
    written = load_file(run / "image_tokenizer.safetensors")
    written["decoder.conv_out.weight"].view(-1)[-1] = value
    save_file(written, run / "image_tokenizer.safetensors")
    told = "image tokenizer '.*run': image_tokenizer.safetensors: decoder.conv_out.weight has values that"
    with pytest.raises(CheckpointError, match=told):
        load_image_tokenizer(run, c.vqgan)
    with pytest.raises(CheckpointError, match=told):
        train_image_tokenizer(config(tmp_path / "next", init=str(run)), images, progress=False)
    assert not (tmp_path / "next").exists()


def test_what_is_refused_leaves_nothing(tmp_path: Path) -> None:
    wrong = [
        (config(tmp_path / "a"), lambda step: torch.zeros(4, 3, 16, 16)),
        (config(tmp_path / "a", init=str(tmp_path / "none")), images),
        (config(tmp_path / "a", lpips_weight=1.0, lpips_vgg="none", lpips_lin="none"), images),
    ]
    for c, pictures in wrong:
        with pytest.raises((DataError, CheckpointError)):
            train_image_tokenizer(c, pictures, progress=False)
        assert not list(tmp_path.iterdir())

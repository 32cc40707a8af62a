"""The image tokenizer and the small CLIP on two processes: the losses of one; runs go from two to one and back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_clip import colours
from test_clip import config as clip
from test_image_tokenizer import Held, config, images, same_bits
from torch import Tensor, nn

from cm3.errors import Cm3Error, DataError
from cm3.parallel import MeshConfig, share_norms, start
from cm3.retrieval.embed import load_encoder
from cm3.retrieval.pairs import Pair
from cm3.train import checkpoint
from cm3.train.clip_trainer import PairTrainer
from cm3.train.image_tokenizer import WEIGHTS, ImageTokenizerTrainer, train_image_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "parallel"))

from processes import Crew, joined  # noqa: E402

pytestmark = pytest.mark.timeout(400)
SLOW = {"lr": 1e-4, "steps": 8, "log_every": 1, "save_every": 3, "sample_every": 4, "validate_every": 4}
"""So low a rate that what is only rounding in a gradient, which Adam takes for as much as any, moves little."""
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "fsq": ("fsq", {}),
    "ema, revived": ("ema", {}),
    "l2, revived": ("l2", {}),
    "gumbel": ("gumbel", {}),
    "critic": ("fsq", {"gan_weight": 0.5, "gan_start": 2}),
    "kept": ("fsq", {"keep": 3}),
}


@pytest.fixture(scope="module")
def two() -> Iterator[Crew]:
    crew = Crew(2)
    yield crew
    crew.close()


def settings(out: str, kind: str, init: str, **changes: Any) -> Any:
    quantizer, more = CHANGES[kind]
    # Of another tokenizer: of its own, nothing has moved at first, and the sign of nothing is rounding.
    more = more | ({"init": init, "keep_of": f"{init}/other"} if "keep" in more else {})
    return config(Path(out), quantizer, **{**SLOW, **more, "mesh": MeshConfig(timeout_s=90), **changes})


def train(out: str, kind: str, init: str, stop: int = 0, **changes: Any) -> None:
    """Train on the processes that call it, until a step."""
    stopping = (lambda step: step == stop) if stop else None
    train_image_tokenizer(settings(out, kind, init, **changes), Held(), progress=False, stopping=stopping)


def lines(out: Path) -> list[dict[str, float]]:
    clock = ("images_per_second", "data_wait")
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in clock} for line in found]


def agree(found: list[dict[str, float]], wanted: list[dict[str, float]]) -> None:
    assert [r["step"] for r in found] == [r["step"] for r in wanted]
    for a, b in zip(found, wanted, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            close = {"psnr": 1e-3, "val_psnr": 1e-3, "grad_norm": 1e-3, "perplexity": 1e-3}.get(name, 1e-5)
            assert a[name] == pytest.approx(b[name], abs=close), (a["step"], name)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image tokenizer to start from."""
    out = tmp_path_factory.mktemp("first")
    for folder, seed in ((out, 0), (out / "other", 1)):
        train_image_tokenizer(config(folder, steps=1, seed=seed), images, progress=False)
    return str(out)


@pytest.mark.parametrize("kind", CHANGES)
def test_two_processes_train_the_image_tokenizer_of_one(two: Crew, first: str, tmp_path: Path, kind: str) -> None:
    """From two to one and back on the way; codes are counted, moved and revived over all pictures."""
    one, both = tmp_path / "one", tmp_path / "two"
    train(str(one), kind, first)
    two.call(train, str(both), kind, first, 3)
    assert checkpoint.last(both) == 3 and not (both / WEIGHTS).exists()
    train(str(both), kind, first, 5)
    two.call(train, str(both), kind, first)
    agree(lines(both), lines(one))
    assert (both / WEIGHTS).exists() and (both / "samples" / "0000008.png").exists()
    # A plain function gives what all see, and is cut.
    if kind == "fsq":
        two.call(train_plain, str(tmp_path / "plain"))
        train_plain(str(tmp_path / "alone"))
        agree(lines(tmp_path / "plain"), lines(tmp_path / "alone"))


def train_plain(out: str) -> None:
    train_image_tokenizer(settings(out, "fsq", "", steps=2, validate_every=0), images, progress=False)


def train_clip(out: str, stop: int = 0) -> None:
    """Train on the processes that call it: the share of the second has more pairs that are said twice."""
    c = clip(Path(out), lr=1e-5, log_every=1, mesh=MeshConfig(timeout_s=90), validate_every=3, validate_batches=1)
    with start(c.mesh, "cpu") as mesh:
        trainer = PairTrainer(c, Said(), mesh=mesh)
        trainer.run(progress=False, stopping=(lambda step: step == stop) if stop else None)


class Said:
    left_out: dict[str, Any] = {}

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> list[Pair]:
        return said(step)[rank * 4 // ranks : (rank + 1) * 4 // ranks]

    def held_out(self) -> list[Pair]:
        return said(3)


def said(step: int) -> list[Pair]:
    """Noise for pictures: norms blow up what is rounding in flat ones."""
    rng, made = np.random.default_rng(step), []
    for i, pair in enumerate(colours(step)):
        picture = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        made.append(replace(pair, image=picture, tells=i != 1, other="" if i == 1 else pair.other))
    return made


def test_two_processes_train_the_clip_of_one(two: Crew, tmp_path: Path) -> None:
    train_clip(str(tmp_path / "one"))
    two.call(train_clip, str(tmp_path / "two"), 2)
    train_clip(str(tmp_path / "two"), 4)
    two.call(train_clip, str(tmp_path / "two"))
    agree(lines(tmp_path / "two"), lines(tmp_path / "one"))
    assert [r["step"] for r in lines(tmp_path / "one") if "val_loss" in r] == [3, 6]
    one, both = (load_encoder(tmp_path / name) for name in ("one", "two"))
    assert one.texts(["red"]) == pytest.approx(both.texts(["red"]), abs=1e-3)


def refused(out: str, how: str) -> str:
    """What each process says."""
    changes = {"batch": {"batch": 3}, "spike": {"on_spike": "stop"}}.get(how, {})
    with joined() as mesh:

        def found(step: int) -> Tensor:
            if how == "torn" and step == 2 and mesh.rank == 1:
                raise DataError("shard-3.tar: is cut off; fetch it again")
            x = images(step)
            # In the share of the second process alone.
            x[3] = float("nan") if how == "nan" and step == 4 else x[3]
            return x

        try:
            trainer = ImageTokenizerTrainer(
                settings(out, "ema, revived", "", save_every=2, validate_every=0, **changes), found, mesh=mesh
            )
            trainer.spikes.recent.extend([1e-3, 2e-3] * 50 if how == "spike" else ())
            trainer.run(progress=False)
        except Cm3Error as error:
            return str(error)
    return "accepted"


def test_errors_are_told_by_every_process(two: Crew, tmp_path: Path) -> None:
    assert all("batch=3: must be a multiple of the 2 processes" in t for t in two.call(refused, str(tmp_path), "batch"))
    assert not list(tmp_path.iterdir())
    told = two.call(refused, str(tmp_path / "torn"), "torn")
    assert told[0].startswith("process 1: shard-3.tar: is cut off") and told[1].startswith("shard-3.tar")
    told = two.call(refused, str(tmp_path / "nan"), "nan")
    assert all("step 5: the loss is nan; lower lr" in t and "the last checkpoint is good" in t for t in told), told
    assert checkpoint.last(tmp_path / "nan") == 4
    told = two.call(refused, str(tmp_path / "spike"), "spike")
    assert all("step 1: the loss is" in t and "there is no checkpoint yet" in t for t in told), told


def test_a_batch_that_is_skipped_changes_nothing(tmp_path: Path) -> None:
    """Neither the codes that a pass moves, nor the norms of the critic."""

    def torn(step: int) -> Tensor:
        return images(step) * (float("nan") if step == 2 else 1)

    c = config(tmp_path / "a", "ema", gan_weight=0.5, on_spike="skip", steps=3, log_every=1)
    trainer = ImageTokenizerTrainer(c, torn)
    trainer.run(progress=False, stopping=lambda step: step == 2)
    before = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    trainer = ImageTokenizerTrainer(c, torn)
    assert trainer.run(progress=False)["step"] == 3
    after = trainer.tensors()
    left = {"generator", "histogram"}
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - left)
    assert [r for r in lines(tmp_path / "a") if "spike" in r][0]["learnt"] is False
    train_image_tokenizer(replace(c, out=str(tmp_path / "b")), images, progress=False)
    assert not same_bits(tmp_path / "a", tmp_path / "b")


def normed(norms: bool) -> list[Tensor]:
    """A batch norm on this process's share: what it gives, the gradients, and what it has seen."""
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3))
    if not norms:
        y = net(x)
        y.square().mean().backward()
        return [y, net[0].weight.grad, net[0].running_mean, net[0].running_var]
    with joined() as mesh:
        share_norms(net, mesh)
        y = net(x.chunk(2)[mesh.rank])
        y.square().mean().backward()
        return [mesh.gather(y), mesh.sum(net[0].weight.grad) / 2, net[0].running_mean, net[0].running_var]


def test_norms_over_two_processes_are_those_of_one(two: Crew) -> None:
    for found in two.call(normed, True):
        for a, b in zip(found, normed(False), strict=True):
            torch.testing.assert_close(a, b)

"""The loss curve of a tiny model on scenes, as it was when it was last looked at.

It moves only with a reason. To write it anew, say why in the commit: python tests/train/test_golden.py --write
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))

import tiny_model  # noqa: E402

from cm3.model.decoder import DecoderConfig  # noqa: E402
from cm3.scenes.data.scene_source import SceneSource  # noqa: E402
from cm3.sequence.mask import MaskLaw  # noqa: E402
from cm3.train.optim import OptimConfig  # noqa: E402
from cm3.train.trainer import TrainConfig, Trainer  # noqa: E402

GOLDEN = Path(__file__).with_name("golden.json")
NAMES = ("loss", "loss_text", "loss_image", "grad_norm", "output_norm")
STEPS = 30


def curve(name: str, out: Path) -> dict[str, list[float]]:
    """A run of each optimizer: what it logs, step by step."""
    codec = tiny_model.codec()
    model = DecoderConfig(
        vocab_size=codec.vocab.size, d_model=32, layers=2, heads=2, context=160, positions="rope", qk_norm=True,
        grid=(4, 4), init_std=0.02,
    )  # fmt: skip
    config = TrainConfig(
        str(out), model, mask=MaskLaw(box=0.5, columns=4), windows=4, length=160, steps=STEPS, z_loss=1e-4, seed=5,
        optim=OptimConfig(name=name, lr=5e-3, adam_lr=5e-3, warmup=5), log_every=1, sample_every=0, device="cpu",
        dtype="float32",
    )  # type: ignore[arg-type]  # fmt: skip
    Trainer(config, codec.vocab, SceneSource(codec, 7)).run(progress=False)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {key: [line[key] for line in lines] for key in NAMES}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_losses_are_those_of_before(tmp_path: Path, name: str) -> None:
    """Closely, not to the bit: versions of torch sum in other orders, and a step of Muon makes more of that."""
    found, wanted = curve(name, tmp_path), json.loads(GOLDEN.read_text())[name]
    assert wanted["loss"][-1] < wanted["loss"][0] - 1, "a curve that does not fall says little"
    for key, close in zip(NAMES, (0.005, 0.02, 0.02, 0.05, 0.05), strict=True):
        assert found[key] == pytest.approx(wanted[key], rel=close), key


if __name__ == "__main__" and "--write" in sys.argv:
    with tempfile.TemporaryDirectory() as folder:
        curves = {name: curve(name, Path(folder) / name) for name in ("adamw", "muon")}
    rows = {name: {key: [round(v, 4) for v in values] for key, values in c.items()} for name, c in curves.items()}
    GOLDEN.write_text(json.dumps(rows) + "\n")

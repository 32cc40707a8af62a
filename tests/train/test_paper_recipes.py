"""The paper's recipes: its shapes at full size on the meta device, and some real steps of each at toy width."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tiny_model
import torch
from safetensors.torch import save_file

from cm3.cli.plan import Plan
from cm3.cli.recipe import find
from cm3.data.kinds import StoreData
from cm3.data.load import Loader, Source
from cm3.data.prepare import prepare
from cm3.generate import CM3Leon
from cm3.model.decoder import Decoder
from cm3.runs.pretrain_run import PretrainRun
from cm3.train.planner import plan
from cm3.vocab import Tokens, Vocab

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "recipes" / "pretrain.py"
# Table 3: layers, width, peak rate, tokens; parameters by 12 L d^2 + (65,536 + 4,096) d (docs/paper.md).
TABLE = {
    "350m": (24, 1024, 6e-4, 1.4e12, 373e6),
    "760m": (24, 1536, 5e-4, 1.9e12, 786e6),
    "7b": (32, 4096, 1.2e-4, 2.4e12, 6.73e9),
}


def recipe(name: str) -> PretrainRun:
    found = find(f"{FILE}:cm3leon_{name}")()
    assert isinstance(found, PretrainRun)
    return found


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_is_the_papers(name: str) -> None:
    run, (layers, width, rate, tokens, count) = recipe(name), TABLE[name]
    assert (run.model.layers, run.model.d_model, run.optim.lr) == (layers, width, rate)
    assert (run.model.context, run.model.vocab_size, run.optim.warmup) == (4096, 65_536, 1500)
    assert run.windows * run.length == 2**23 and run.steps * 2**23 == pytest.approx(tokens, rel=1e-5)
    assert not run.model.qk_norm and not run.model.norm_affine and run.text_weight == run.mask.tail_weight == 1
    assert run.optim.rate(1499, run.steps) == 1 and run.optim.rate(run.steps, run.steps) == pytest.approx(0.1)
    with torch.device("meta"):
        real = sum(p.numel() for p in Decoder(run.model).parameters())
    assert real == 12 * layers * width**2 + 69_632 * width == pytest.approx(count, rel=0.002)
    for gpus in (8, 64, 512):
        assert plan(run, gpus).memory.total < 80e9
    hours = plan(run, 512).time.gpu_hours
    told = (find(f"{FILE}:cm3leon_{name}").__doc__ or "").split("price: ")[1].split(" H100")[0]
    assert hours == pytest.approx(float(told.replace(",", "")), rel=0.02), "the price that it states"


def commands(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """(recipe, GPUs, options that replace settings) of each `cm3 train` and `cm3 plan` that a text tells to give."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if found := re.search(r"(?:torchrun (.*) -m )?cm3 (train|plan) (recipes/\S+:\w+)(.*?)(?:    .*)?$", line):
            started, verb, spec, rest = found.groups()
            sizes = re.findall(r"--(?:nnodes|nproc-per-node) (\d+)", started or "")
            words = [w for w in shlex.split(rest) if w not in ("...", "--resume")]
            if verb == "plan":
                at = words.index("--gpus")
                sizes = [words[at + 1]]
                del words[at : at + 2]
            if not spec.endswith(":image_tokenizer"):
                yield spec, math.prod(map(int, sizes)), words


@pytest.mark.parametrize(
    ("place", "least"),
    [("recipes/pretrain.py", 5), ("recipes/instruct.py", 4), ("cm3/cli/plan.py", 4), ("docs/plan.md", 2)],
)
def test_a_command_that_is_told_fits_its_gpus(place: str, least: int) -> None:
    """By the plan of the very run that it starts: H100s of 80 GB, where no other is named; one without torchrun."""
    told = list(commands((ROOT / place).read_text().replace("\\\\\n", "\\\n")))
    assert len(told) >= least
    for spec, gpus, options in told:
        planned = Plan.parse([f"{ROOT}/{spec}", "--gpus", str(gpus), *options], "cm3 plan")
        found = planned.cluster.plan(planned.config)
        assert found.layout.gpus == gpus and found.memory.total <= found.gpu.memory * 1e9


def test_every_recipe_of_the_paper_tells_its_command() -> None:
    names = [f"recipes/pretrain.py:cm3leon_{name}" for name in TABLE]
    for spec in (*names, "recipes/instruct.py:cm3leon_760m", "recipes/instruct.py:cm3leon_7b"):
        [(own, gpus, _)] = commands(find(f"{ROOT}/{spec}").__doc__ or "")
        assert own == spec and gpus >= 8


def test_the_page_has_the_figures_of_the_command() -> None:
    """docs/plan.md: its table of the three models on 8, 64 and 512 H100s."""
    rows = []
    for name, gpus in itertools.product(TABLE, (8, 64, 512)):
        p = plan(recipe(name), gpus)
        t, how = p.time, p.shard.activation_checkpointing
        rows.append(
            f"| {name.upper()} | {gpus} | {p.memory.total / 1e9:.0f} GB | {how} | {t.step_s:.2f} s | "
            f"{t.network_s:.2f} s | {t.days:.1f} | {t.gpu_hours:,.0f} | {t.mwh:.1f} |"
        )
    page = (ROOT / "docs" / "plan.md").read_text()
    assert "\n".join(rows) in page


def test_the_ids_are_as_many_as_the_recipe_says() -> None:
    assert Vocab(text=56_320, image=8192, masks=1018, reserved=0).size == recipe("7b").model.vocab_size


def test_windows_are_nearly_full() -> None:
    """With none, one or two documents before an example (three do not fit), less than a twentieth is padding."""
    vocab = Vocab(text=256, image=8192, masks=64, reserved=0)

    class Examples(Source):
        together = 1

        def sequences(self, indices: Sequence[int]) -> list[Tokens]:
            return [self.one(np.random.default_rng(i)) for i in indices]

        def one(self, rng: np.random.Generator) -> Tokens:
            ids: list[int] = [vocab.eos]
            for k in range(int(rng.choice([1, 2, 3], p=[0.25, 0.25, 0.5]))):
                words = vocab.text_start + rng.integers(0, 256, int(rng.integers(4, 16)))
                ids += [*([vocab.brk] if k else []), *words, vocab.brk, *[vocab.image_start] * 1024]
            return Tokens.of([*ids, vocab.eos])

    run = recipe("350m")
    loader = Loader(Examples(), vocab, run.mask, windows=4, length=run.length, seed=0, longest=run.model.context)
    fills = [batch.fill for (batch, _), _ in zip(loader, range(6), strict=False)]
    assert np.mean(fills) > 0.95


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an image tokenizer run writes, and a store of captioned pictures."""
    root = tmp_path_factory.mktemp("paper")
    tokens, photos = root / "tokens", root / "photos"
    tokens.mkdir()
    photos.mkdir()
    about = {"vqgan": dataclasses.asdict(tiny_model.SHAPE), "size": tiny_model.SIZE}
    (tokens / "config.json").write_text(json.dumps(about))
    weights = {name: value.contiguous() for name, value in tiny_model.vqgan().state_dict().items()}
    save_file(weights, tokens / "image_tokenizer.safetensors")
    shutil.copyfile(tiny_model.tokenizer_path(), tokens / "tokenizer.json")
    rng = np.random.default_rng(0)
    for i in range(12):
        PIL.Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(photos / f"{i}.png")
        (photos / f"{i}.txt").write_text(f"a picture, number {i}")
    prepare([str(photos)], root / "store", tokens)
    return root


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_trains(name: str, root: Path, tmp_path: Path) -> None:
    full = recipe(name)
    small = replace(
        full,
        model=replace(full.model, d_model=32, layers=2, heads=2, context=128, init_std=0.1),
        optim=replace(full.optim, lr=3e-3, warmup=2),
        out=str(tmp_path), steps=12, windows=2, length=256, log_every=1, save_every=100, sample_every=0,
        image_tokenizer=str(root / "tokens"), image_size=tiny_model.SIZE,
        data=StoreData(stores=(str(root / "store"),)),
    )  # fmt: skip
    record = small.run(progress=False)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(log) == 12 and log[-1]["loss"] < log[0]["loss"] - 0.1
    # The rate rises to its peak in the second update, and has come down to a tenth in the last.
    assert [log[1]["lr"], log[-1]["lr"]] == pytest.approx([3e-3, 3e-3 * (1 - 0.9 * 9 / 10)], rel=1e-3)
    model = CM3Leon.load(record["bundle"])
    assert model.bundle.decoder.config.grid is None and model.grid == (4, 4)
    assert model.generate("a picture").image.size == (32, 32)

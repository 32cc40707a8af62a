"""Adapters: they alone learn, a run of them resumes and exports, and merged they are the model that was trained."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from small_run import MODEL, VOCAB, Pairs, config, records, same_bits, weights
from torch import Tensor

from cm3.errors import CheckpointError, ConfigError
from cm3.model import bundle as bundles
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.runs.export_run import export_run
from cm3.runs.pretrain_run import PretrainRun
from cm3.scenes.scene_kinds import SceneData
from cm3.sequence.mask import MaskLaw
from cm3.train.lora import LoraConfig, adapt, merge
from cm3.train.optim import OptimConfig
from cm3.train.trainer import Trainer

LORA = LoraConfig(rank=3, alpha=6, targets=("wq", "wv", "down"))

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")


def base(shape: DecoderConfig = MODEL) -> Decoder:
    """A model whose branches do something."""
    torch.manual_seed(5)
    model = Decoder(shape)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.2)
    return model


def settings(out: Path, **changes: Any) -> Any:
    return config(out, lora=LORA, optim=OptimConfig(lr=3e-2, warmup=2), **changes)


def logits(model: Decoder) -> Tensor:
    ids = torch.arange(20)[None] + VOCAB.text_start
    with torch.no_grad():
        return model(ids, torch.arange(20)[None], Causal())


@needs_peft
def test_only_adapters_learn_and_merged_they_are_the_same_model(tmp_path: Path) -> None:
    begun = base()
    trainer = Trainer(settings(tmp_path), VOCAB, Pairs(), weights=begun.state_dict())
    torch.testing.assert_close(logits(trainer.model), logits(begun))
    trainer.run(progress=False)
    lines = records(tmp_path)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.1
    after = dict(trainer.model.named_parameters())
    names = [n for n in after if "lora_" in n]
    assert len(names) == 2 * 3 * MODEL.layers and all(after[n].abs().sum() > 0 for n in names)
    for name, weight in begun.named_parameters():
        stem, _, last = name.rpartition(".")
        kept = after[name] if name in after else after[f"{stem}.base_layer.{last}"]
        assert torch.equal(kept, weight), name
    merged = trainer.whole()
    assert merged is not None and [n for n, _ in merged.named_parameters()] == [n for n, _ in begun.named_parameters()]
    torch.testing.assert_close(logits(merged), logits(trainer.model), atol=1e-4, rtol=1e-4)
    assert (logits(merged) - logits(begun)).abs().max() > 0.1
    # Beside the log of what learnt and how, a checkpoint has adapters alone.
    assert {n.removeprefix("model.") for n in weights(tmp_path) if n.startswith("model.")} == set(names)


@needs_peft
def test_a_run_of_adapters_resumes_to_the_same_bits(tmp_path: Path) -> None:
    begun = base().state_dict()
    Trainer(settings(tmp_path / "one", steps=8), VOCAB, Pairs(), weights=begun).run(progress=False)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "00000008")
    two = settings(tmp_path / "two", steps=8)
    resumed = Trainer(two, VOCAB, Pairs(), resume=True, weights=begun)
    assert resumed.step == 4
    resumed.run(progress=False)
    assert same_bits(tmp_path / "one", tmp_path / "two")
    for changed, message in (
        (replace(two, lora=replace(LORA, alpha=7)), "was made with lora.alpha=6, this run has 7"),
        (replace(two, lora=LoraConfig()), "was made with lora.rank=3, this run has 0"),
    ):
        with pytest.raises(CheckpointError, match=message):
            Trainer(changed, VOCAB, Pairs(), resume=True, weights=begun)
    about = asdict(two) | {"base": "other"}
    Trainer(replace(two, out=str(tmp_path / "three")), VOCAB, Pairs(), weights=begun, about=about).run(progress=False)
    with pytest.raises(CheckpointError, match="was made with base='other', this run has 'this'"):
        three = replace(two, out=str(tmp_path / "three"))
        Trainer(three, VOCAB, Pairs(), resume=True, weights=begun, about=about | {"base": "this"})


@needs_peft
def test_a_bundle_is_tuned_and_the_bundle_made_of_it_needs_no_peft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, first = tiny_model.codec(), tmp_path / "first"
    model = DecoderConfig(
        vocab_size=codec.vocab.size, d_model=16, layers=1, heads=2, context=160, positions="rope", grid=(4, 4)
    )
    made = bundles.Bundle(codec.vocab, base(model), tiny_model.vqgan(), tiny_model.SIZE, tiny_model.tokenizer_path())
    bundles.save(made, first)
    run = PretrainRun(
        out=str(tmp_path / "run"), model=model, mask=MaskLaw(columns=4), windows=1, length=160, steps=2, log_every=1,
        save_every=1, sample_every=0, init=str(first), image_size=tiny_model.SIZE, masks=codec.vocab.masks, lora=LORA,
        optim=OptimConfig(lr=1e-2, warmup=0), data=SceneData(),
    )  # fmt: skip
    record = run.run(progress=False)
    export_run(tmp_path / "run", tmp_path / "exported")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "peft", None)
        before, after = bundles.load(first).decoder, bundles.load(record["bundle"]).decoder
    exported = bundles.load(tmp_path / "exported").decoder.state_dict()
    for name, weight in after.state_dict().items():
        assert torch.equal(weight, exported[name])
        moved = name.split(".")[-2] in LORA.targets
        assert torch.equal(weight, before.state_dict()[name]) != moved, name
    (first / "decoder.safetensors").write_bytes(b"another")
    with pytest.raises(CheckpointError, match="decoder.safetensors was altered"):
        export_run(tmp_path / "run", tmp_path / "again")
    bundles.save(replace(made, decoder=Decoder(model)), first)
    with pytest.raises(CheckpointError, match="is not the model that the adapters of this run stand beside; restore"):
        export_run(tmp_path / "run", tmp_path / "again")
    with pytest.raises(CheckpointError, match="was made with base="):
        replace(run, steps=3).run(progress=False, resume=True)


def test_merging_by_hand() -> None:
    w, a, b = torch.randn(4, 5), torch.randn(2, 5), torch.randn(4, 2)
    found = merge(
        {"x.base_layer.weight": w, "x.lora_A.default.weight": a, "x.lora_B.default.weight": b, "y.weight": a},
        LoraConfig(rank=2, alpha=3),
    )
    assert found.keys() == {"x.weight", "y.weight"} and found["y.weight"] is a
    torch.testing.assert_close(found["x.weight"], w + 1.5 * b @ a)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": -1}, "lora.rank=-1: must be at least 1, or 0 for no adapters"),
        ({"alpha": 0}, "lora.alpha=0: must be over 0"),
        ({"targets": ("wx",)}, r"lora.targets=\('wx',\): must be some of wq, wk"),
        ({"targets": ()}, r"lora.targets=\(\): must be some of wq, wk"),
    ],
)
def test_adapters_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraConfig(**changes)


def test_what_adapters_need_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="lora.rank=3: adapters need a model to stand beside; give init, or rank 0"):
        Trainer(settings(tmp_path), VOCAB, Pairs())
    with pytest.raises(ConfigError, match=r"optim.name='muon': adapters \(lora.rank\) are trained by 'adamw'"):
        config(tmp_path, lora=LORA, optim=OptimConfig(name="muon"))
    with pytest.raises(ConfigError, match="the model has no 'gate'; leave it out"):
        adapt(base(), LoraConfig(rank=1, targets=("wq", "gate")))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"needs peft, which is not installed: pip install peft"):
        adapt(base(), LORA)

"""The trainer of the small CLIP learns, resumes bit for bit, and measures; its run joins it with scenes and emblems."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import spoil, weights

from cm3.cli.recipe import config_of, find
from cm3.data.kinds import DocumentData
from cm3.errors import CheckpointError, ConfigError, DataError, DivergedError
from cm3.retrieval.accuracy import retrieval_accuracy
from cm3.retrieval.embed import load_encoder
from cm3.retrieval.pairs import WEIGHTS, Pair, PairEncoder, Pairs, PairsConfig, save
from cm3.runs.clip_run import ClipRun
from cm3.scenes.emblems import emblem, parse_emblem, place_of
from cm3.scenes.eval.clip_scores import measure_scenes
from cm3.scenes.scene_kinds import ScenePairs
from cm3.scenes.sentences import parse
from cm3.scenes.verify import verify
from cm3.train.clip_trainer import PairTrainConfig, info_nce, pair_losses, train_pairs
from cm3.train.track import Log

ROOT = Path(__file__).resolve().parents[2]
TINY = PairsConfig(width=16, words=48, letter_dim=4, d_model=32, layers=1, heads=2, channels=(8, 16, 16), image_size=32)
COLOURS = {"red": (200, 0, 0), "green": (0, 180, 0), "blue": (0, 0, 220), "white": (250, 250, 250)}


def colours(step: int) -> list[Pair]:
    """Four colours, and an invented word each: the same every fourth step."""
    rng = np.random.default_rng(step % 4)
    names = ["".join(rng.choice(list("bdgklmn"), 4)) for _ in COLOURS]
    return [
        Pair(f"{colour} {name}", Image.new("RGB", (32, 32), rgb), f"here is {name}" if i % 2 else "")
        for i, ((colour, rgb), name) in enumerate(zip(COLOURS.items(), names, strict=True))
    ]


def config(out: Path, **changes: Any) -> PairTrainConfig:
    base = PairTrainConfig(str(out), TINY, steps=6, batch=4, warmup=2, log_every=2, save_every=3, dtype="float32")
    return replace(base, **changes)


def same_bits(a: Path, b: Path) -> bool:
    return (a / WEIGHTS).read_bytes() == (b / WEIGHTS).read_bytes()


def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train_pairs(config(one), colours, progress=False)
    train_pairs(config(two), colours, progress=False, stopping=lambda step: step == 3)
    assert not (two / "config.json").exists()
    # as if killed after more steps were logged
    with (two / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 9}\n{"st')
    train_pairs(config(two), colours, progress=False)
    assert same_bits(one, two) and (one / "log.jsonl").read_text() == (two / "log.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in (one / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6]
    assert not [p for p in one.iterdir() if p.name.startswith(".")]


def test_the_seed_decides_and_leaves_global_chance_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_pairs(config(tmp_path / name, seed=seed, steps=2), colours, progress=False)
    assert same_bits(tmp_path / "a", tmp_path / "b") and not same_bits(tmp_path / "a", tmp_path / "c")
    assert torch.equal(before, torch.get_rng_state())


def test_it_learns(tmp_path: Path) -> None:
    folder = train_pairs(config(tmp_path, steps=80, warmup=5, lr=5e-3, log_every=20), colours, progress=False)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {
        "step",
        "loss",
        "loss_image",
        "loss_document",
        "scale_image",
        "scale_document",
        "grad_norm",
        "lr",
    } == records[0].keys()
    assert records[-1]["loss"] < 0.5 * records[0]["loss"]
    encoder = load_encoder(folder)
    pairs = colours(1)
    texts, images = encoder.texts([p.text for p in pairs]), encoder.images([p.image for p in pairs])
    assert retrieval_accuracy(texts, images, range(4)) == {"recall_1": 1.0, "recall_5": 1.0}


def test_info_nce_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    q, k, right = rng.normal(size=(3, 4)), rng.normal(size=(5, 4)), [4, 0, 2]
    scores = 2.0 * q @ k.T
    forth = -np.mean([scores[i, r] - np.log(np.exp(scores[i]).sum()) for i, r in enumerate(right)])
    back = -np.mean([scores[i, r] - np.log(np.exp(scores[:, r]).sum()) for i, r in enumerate(right)])
    found = info_nce(torch.tensor(q), torch.tensor(k), torch.tensor(2.0), torch.tensor(right))
    assert float(found) == pytest.approx((forth + back) / 2)
    q, k = torch.tensor(q), torch.tensor(k[:3])
    assert torch.equal(info_nce(q, k, torch.tensor(1.0)), info_nce(q, k, torch.tensor(1.0), torch.arange(3)))
    assert float(info_nce(torch.eye(4), torch.eye(4), torch.tensor(0.0))) == pytest.approx(math.log(4))


def test_the_document_loss_is_for_pairs_said_twice() -> None:
    torch.manual_seed(0)
    model = Pairs(TINY).requires_grad_(False)
    pairs = colours(0)
    losses = pair_losses(model, pairs)
    texts, images = model.encode_texts([p.text for p in pairs]), model.encode_images([p.image for p in pairs])
    asked = model.encode_texts([p.other for p in pairs if p.other])
    scale = model.log_scale.exp()
    wanted = info_nce(asked, (texts + images) / 2, scale[1], torch.tensor([1, 3]))
    assert float(losses["document"]) == pytest.approx(float(wanted), rel=1e-5)
    assert float(losses["image"]) == pytest.approx(float(info_nce(texts, images, scale[0])), rel=1e-5)
    silent = [replace(p, other="") for p in pairs]
    assert pair_losses(model, silent).keys() == {"image"}
    # A name is no text of its picture.
    named = [replace(p, tells=i > 1) for i, p in enumerate(pairs)]
    losses = pair_losses(model, named)
    assert float(losses["image"]) == pytest.approx(float(info_nce(texts[2:], images[2:], scale[0])), rel=1e-5)
    assert float(losses["document"]) == pytest.approx(float(wanted), rel=1e-5)
    assert pair_losses(model, [replace(p, tells=False) for p in pairs]).keys() == {"document"}
    with pytest.raises(DataError, match="no text tells what its picture shows, and none has another description"):
        pair_losses(model, [replace(p, tells=False) for p in silent])


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    train_pairs(config(tmp_path), colours, progress=False, stopping=lambda step: step == 3, about={"kind": "colours"})
    with pytest.raises(CheckpointError, match="was made with temperature=0.07, this run has 0.1; give the same"):
        train_pairs(config(tmp_path, lr=1e-4, temperature=0.1), colours, progress=False, about={"kind": "other"})
    with pytest.raises(CheckpointError, match="was made with pairs.kind='colours', this run has 'other'"):
        train_pairs(config(tmp_path, lr=1e-4), colours, progress=False, about={"kind": "other"})
    train_pairs(config(tmp_path, log_every=1), colours, progress=False, about={"kind": "colours"})
    [path] = (tmp_path / "checkpoints" / "00000006").glob("*.safetensors")
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="safetensors was altered .* to go on from step 3"):
        train_pairs(config(tmp_path), colours, progress=False, about={"kind": "colours"})


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="step 0: a batch of 1; a pair is told from others"):
        train_pairs(config(tmp_path), lambda step: colours(step)[:1], progress=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DivergedError, match="step 2: the loss is .*; lower lr.*there is no checkpoint yet"):
        train_pairs(config(tmp_path, lr=1e30, grad_clip=1e30, warmup=0), colours, progress=False)
    with pytest.raises(ConfigError, match="clip.batch=1: must be at least 2; clip.lr=0: must be above 0"):
        config(tmp_path, batch=1, lr=0)


def test_a_run_that_diverged_goes_on_at_a_lower_rate(tmp_path: Path) -> None:
    train_pairs(config(tmp_path), colours, progress=False, stopping=lambda step: step == 2)
    good = weights(tmp_path)
    with pytest.raises(DivergedError):
        train_pairs(config(tmp_path, lr=1e30, grad_clip=1e30, save_every=50), colours, progress=False)
    assert all(torch.equal(tensor, good[name]) for name, tensor in weights(tmp_path).items())
    folder = train_pairs(config(tmp_path, lr=1e-3), colours, progress=False)
    encoder = PairEncoder.load(folder)
    assert np.isfinite(encoder.texts(["red"])).all()
    # An encoder, or a checkpoint, of NaN is refused by the name of what holds it.
    spoil(tmp_path, **{"model.log_scale": torch.full((2,), float("nan"))})
    with pytest.raises(CheckpointError, match="00000006': model.log_scale has values that are not finite"):
        train_pairs(config(tmp_path, lr=1e-3), colours, progress=False)
    with torch.no_grad():
        encoder.model.log_scale.fill_(float("nan"))
    with pytest.raises(DivergedError, match="log_scale has values that float16 does not hold"):
        save(encoder.model, tmp_path / "spoilt")
    assert not (tmp_path / "spoilt").exists()


def test_accuracy_counts_ties_against_it() -> None:
    bank = np.eye(6, dtype=np.float32)
    assert retrieval_accuracy(bank[:2], bank, [0, 1]) == {"recall_1": 1.0, "recall_5": 1.0}
    assert retrieval_accuracy(bank[:2], bank, [0, 2]) == {"recall_1": 0.5, "recall_5": 0.5}
    assert retrieval_accuracy(np.ones((1, 6)), bank, [0]) == {"recall_1": 0.0, "recall_5": 0.0}
    with pytest.raises(DataError, match="there are no queries"):
        retrieval_accuracy(bank[:0], bank, [])


def test_scene_pairs_show_what_they_say() -> None:
    batches = ScenePairs(seed=5, words=50).pairs(128, 6)
    pairs = batches.batch(7)
    words = [parse_emblem(p.text) for p in pairs]
    assert [w is not None for w in words] == [not p.tells for p in pairs] == [True] * 3 + [False] * 3
    for pair, word in zip(pairs, words, strict=True):
        if word is None:
            assert verify(pair.image, parse(pair.text)).ok and verify(pair.image, parse(pair.other)).ok
        else:
            split, index = place_of(word)
            assert split == "train" and index < 50 and parse_emblem(pair.other) == word
            assert verify(pair.image, emblem(index, "train").scene).ok
    again = batches.batch(7)
    assert [(p.text, p.other, p.image.tobytes()) for p in pairs] == [
        (p.text, p.other, p.image.tobytes()) for p in again
    ]
    assert pairs[0].text != batches.batch(8)[0].text


def test_words_that_look_alike_come_together() -> None:
    """So that telling them apart is learnt: of four neighbours in a dictionary, or in one of the words backwards."""
    batches = ScenePairs(emblems=1.0, words=300).pairs(TINY.image_size, 8)
    dictionary = [sorted(emblem(i, "train").word[::way] for i in range(300)) for way in (1, -1)]
    for step in range(3):
        said = [parse_emblem(p.text) or "" for p in batches.batch(step)]
        for four in (said[:4], said[4:]):
            at = [[lines.index(word[::way]) for word in four] for lines, way in zip(dictionary, (1, -1), strict=True)]
            assert any(np.diff(places).tolist() == [1, 1, 1] for places in at)


def test_the_recipe_runs_at_its_smallest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = f"{ROOT / 'recipes/scenes.py'}:clip"
    full = config_of(spec, find(spec))
    assert isinstance(full, ClipRun) and full.out == "runs/scenes/clip"
    monkeypatch.setattr("cm3.scenes.scene_kinds.BANK", 4)
    run = replace(full, out=str(tmp_path / "clip"), model=TINY, steps=2, batch=4, data=ScenePairs(words=40))
    result = run.run(progress=False)
    assert result["encoder"] == PairEncoder.load(result["out"]).name
    shares = {"emblems_first", "emblems_seen_first", "scenes_recall_1", "scenes_recall_5"}
    assert shares == result.keys() - {"out", "dtype", "encoder"} and all(0 <= result[name] <= 1 for name in shares)
    with pytest.raises(ConfigError, match="holds a run already; continue it with --resume"):
        run.run(progress=False)
    assert run.run(progress=False, resume=True) == result


def test_a_run_that_is_asked_to_stop_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ClipRun(
        out=str(tmp_path), model=TINY, steps=4, batch=4, data=ScenePairs(words=40), log_every=2, dtype="float32"
    )
    written = Log.write

    def send(log: Log, record: dict[str, Any]) -> None:
        written(log, record)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("cm3.scenes.scene_kinds.BANK", 4)
    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", send)
        assert run.run(progress=False) == {"out": run.out, "step": 2, "stopped": "SIGTERM"}
    assert not (tmp_path / "config.json").exists()
    assert "encoder" in run.run(progress=False, resume=True)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (ScenePairs(emblems=1.5), "data.emblems=1.5: is a share, must be in 0..1"),
        (ScenePairs(words=0), "data.words=0: must be 1 to 20000"),
    ],
)
def test_wrong_data_is_told(tmp_path: Path, data: ScenePairs, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ClipRun(out=str(tmp_path), model=TINY, data=data).run(progress=False)


class Oracle:
    """Reads a text's content off its words, and is blind: what `measure_scenes` finds is then known."""

    name, width = "oracle", 64

    def texts(self, texts: Any) -> np.ndarray:
        rows = []
        for text in texts:
            word = parse_emblem(text)
            seed = [*word.encode()] if word else [0]
            row = np.random.default_rng(seed).normal(size=self.width)
            rows.append(row / np.linalg.norm(row))
        return np.array(rows, dtype=np.float32)

    def images(self, images: Any) -> np.ndarray:
        return np.full((len(images), self.width), self.width**-0.5, dtype=np.float32)


def test_what_is_measured() -> None:
    found = measure_scenes(Oracle(), bank=8, size=32)
    assert found == {"emblems_first": 1, "emblems_seen_first": 1, "scenes_recall_1": 0, "scenes_recall_5": 0}


def test_photographs(tmp_path: Path) -> None:
    """COCO's layout: each picture with two of its captions."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    images, annotations = [], []
    for i, (colour, rgb) in enumerate(COLOURS.items()):
        Image.new("RGB", (48, 40), rgb).save(tmp_path / "val2017" / f"{i}.png")
        images.append({"id": i or "none", "file_name": f"{i}.png", "license": 1})
        annotations += [{"id": 2 * i + j, "image_id": i or "none", "caption": f"{colour} {j}"} for j in range(2)]
    content = {"images": images, "annotations": annotations}
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    data = DocumentData((f"coco:{tmp_path}@val2017",), holdout=0.0)
    content["images"].append({"id": "gone", "file_name": "gone.png"})
    content["annotations"].append({"id": 99, "image_id": "gone", "caption": "left out"})
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    run = ClipRun(out=str(tmp_path / "run"), model=TINY, steps=40, warmup=5, lr=5e-3, batch=8, data=data)
    result = run.run(progress=False)
    assert result["training_recall_1"] == 1 and result["training_recall_5"] == 1
    assert result["left_out"]["count"] == 1 and result["left_out"]["first"][0]["id"] == "99"

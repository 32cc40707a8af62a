"""Training on token stores: their tokenizers, stores of another model, a run that stopped, retrieved documents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import store_parts
import tiny_model
import torch

from cm3.cli.main import main
from cm3.data.kind import Context
from cm3.data.kinds import StoreData
from cm3.data.neighbours import find_neighbours
from cm3.data.prepare import prepare
from cm3.errors import ConfigError, DataError
from cm3.generate import CM3Leon
from cm3.model import bundle as bundles
from cm3.model.decoder import DecoderConfig
from cm3.retrieval.select import SelectLaw
from cm3.runs.pretrain_run import PretrainRun
from cm3.sequence.before import AugmentLaw
from cm3.sequence.mask import MaskLaw
from cm3.tokens.codec import Codec
from cm3.tokens.image import ImageTokenizer
from cm3.tokens.text import TextTokenizer

ROOT = Path(__file__).resolve().parents[2]
SIZE = tiny_model.SIZE


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image tokenizer with its words, pictures, and a store of them."""
    root = tmp_path_factory.mktemp("runs")
    store_parts.tokenizers(root / "tokens")
    store_parts.photos(root / "photos", 12)
    prepare([f"{root}/photos"], root / "store", root / "tokens", unit=5)
    return root


def run(root: Path, out: Path, **changes: Any) -> PretrainRun:
    base = PretrainRun(
        out=str(out), model=DecoderConfig(d_model=16, layers=1, heads=2, context=96, positions="rope"),
        mask=MaskLaw(box=0.5, columns=7), windows=1, length=300, steps=2, log_every=1, save_every=1, sample_every=0,
        image_tokenizer=str(root / "tokens"), image_size=SIZE, data=StoreData(stores=(str(root / "store"),)),
    )  # fmt: skip
    return replace(base, **changes)


def weights(bundle: str) -> dict[str, torch.Tensor]:
    return bundles.load(bundle).decoder.state_dict()


def test_samples_are_of_documents_all_over_a_store(root: Path) -> None:
    """The first ones would be five captions of one picture."""
    data = StoreData(stores=(str(root / "store"),))
    store = data.opened()[0]
    text, image = TextTokenizer.load(store.tokenizer_path), ImageTokenizer(tiny_model.vqgan(), SIZE)
    context = Context(root, Codec(store.vocab, text, image), store.tokenizer_path, 96, 300)
    every = [d.text for d in data.prompts(context, 12)]
    assert len(every) == 12
    assert [d.text for d in data.prompts(context, 4)] == every[::3]


def test_a_store_becomes_a_model(root: Path, tmp_path: Path) -> None:
    record = run(root, tmp_path / "out", sample_every=2).run(progress=False)
    assert record["step"] == 2 and record["fill"] > 0.7
    model = CM3Leon.load(record["bundle"])
    assert model.bundle.text_tokenizer.read_bytes() == (root / "store" / "tokenizer.json").read_bytes()
    assert model.vocab.masks == 32 and model.generate("a picture").image.size == (SIZE, SIZE)
    with PIL.Image.open(tmp_path / "out" / "samples" / "0000002.png") as sheet:
        assert sheet.size == (8 * (SIZE + 4) - 4, 2 * (SIZE + 4) - 4)
    # On from a bundle, with its tokenizers, several stores and their weights.
    twice = StoreData(stores=(str(root / "store"), str(root / "store")), weights=(3.0, 1.0))
    init = run(root, tmp_path / "more", init=record["bundle"], image_tokenizer="", data=twice)
    assert init.run(progress=False)["step"] == 2


def test_a_run_on_a_store_that_stopped_goes_on(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(root, tmp_path / "whole", steps=4).run(progress=False)

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    half = run(root, tmp_path / "half", steps=4, sample_every=2)
    with monkeypatch.context() as patch:
        patch.setattr("cm3.runs.pretrain_run.draw_samples", kill)
        with pytest.raises(Killed):
            half.run(progress=False)
    rest = replace(half, sample_every=0).run(progress=False, resume=True)
    a, b = weights(whole["bundle"]), weights(rest["bundle"])
    assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_a_store_of_captions_has_nothing_to_draw(root: Path, tmp_path: Path) -> None:
    lines = "".join(f'{{"text": "a caption number {i}"}}\n' for i in range(9))
    (tmp_path / "captions.jsonl").write_text(lines)
    prepare([f"jsonl:{tmp_path}/captions.jsonl"], tmp_path / "store", root / "tokens")
    data = StoreData(stores=(str(tmp_path / "store"),))
    assert run(root, tmp_path / "out", data=data, sample_every=1).run(progress=False)["step"] == 2
    assert not (tmp_path / "out" / "samples").exists()


def test_stores_of_another_model_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"another image tokenizer or size than this run has; .*theirs is 32\)"):
        run(root, tmp_path / "a", image_size=SIZE * 2).run(progress=False)
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    text = tiny_model.tokenizer_path().read_text()
    (tmp_path / "b" / "tokenizer.json").write_text(text + "\n")
    with pytest.raises(
        ConfigError, match="holds a tokenizer.json that is not this run's; delete it, or give another out"
    ):
        run(root, tmp_path / "b").run(progress=False)
    other = replace(tiny_model.bundle(), text_tokenizer=tmp_path / "b" / "tokenizer.json")
    bundles.save(other, tmp_path / "other")
    with pytest.raises(ConfigError, match="were prepared with another text tokenizer than this run has; give init"):
        run(root, tmp_path / "d", init=str(tmp_path / "other"), model=DecoderConfig()).run(progress=False)
    with pytest.raises(DataError, match="has no manifest.json; give a folder that `cm3 prepare` or"):
        run(root, tmp_path / "c", data=StoreData(stores=(str(root),))).run(progress=False)
    with pytest.raises(ConfigError, match="data.stores: there are none; give at least one"):
        run(root, tmp_path / "c", data=StoreData(stores=())).run(progress=False)


def test_the_recipe_trains_from_the_command_line(root: Path, tmp_path: Path) -> None:
    prepare([f"{root}/photos"], tmp_path / "store", bundles.find("scenes"))
    small = ["--windows", "1", "--steps", "1", "--length", "600", "--sample-every", "0", "--out", str(tmp_path / "out")]
    stores = ["--data.stores", str(tmp_path / "store"), str(tmp_path / "store"), "--data.weights", "1", "2"]
    assert main(["train", f"{ROOT}/recipes/photos.py:pretrain", "--init", "scenes", *stores, *small]) == 0
    assert bundles.load(tmp_path / "out" / "bundle").about["documents"] > 4


def test_documents_are_put_before_examples(root: Path, tmp_path: Path) -> None:
    encoder = store_parts.encoder(tmp_path / "encoder")
    store = tmp_path / "store"
    prepare([f"{root}/photos"], store, root / "tokens", encoder=encoder)
    find_neighbours([store], store, tmp_path / "table", law=SelectLaw(highest=1))
    law = AugmentLaw((0.0, 0.0, 1.0))
    data = StoreData((str(store),), neighbours=str(tmp_path / "table"), documents=law)
    model = DecoderConfig(d_model=16, layers=1, heads=2, context=200, positions="rope")
    made = [run(root, tmp_path / n, model=model, data=d) for n, d in (("a", data), ("b", replace(data, neighbours="")))]
    documents = [bundles.load(r.run(progress=False)["bundle"]).about["documents"] for r in made]
    assert documents[0] < documents[1] / 1.8  # three times as long each
    with pytest.raises(DataError, match="table': are of other documents than those of the store"):
        run(root, tmp_path / "c", model=model, data=replace(data, stores=(str(root / "store"),), bank=str(store))).run()
    assert not (tmp_path / "c").exists(), "refused before anything is written"

"""Recipes: each returns a run, says what it costs and promises, and works from end to end at its smallest."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
import torch
from safetensors.torch import load_file

from cm3.cli.recipe import config_of, find, module_of, recipes_of
from cm3.convert.convert import convert
from cm3.data.kinds import StoreData
from cm3.data.prepare import prepare
from cm3.document import Gap, Image
from cm3.errors import CheckpointError
from cm3.generate import CM3Leon
from cm3.model import bundle as bundles
from cm3.model.decoder import Decoder
from cm3.model.sizes import size
from cm3.model.vqgan import small
from cm3.runs.clip_run import ClipRun
from cm3.runs.image_tokenizer_run import ImageTokenizerRun
from cm3.runs.pretrain_run import PretrainRun
from cm3.scenes.emblems import emblem
from cm3.scenes.scene_kinds import SceneData
from cm3.tokens.chameleon import chameleon_file
from cm3.tokens.text import TextTokenizer
from cm3.train.planner import plan

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "recipes").glob("*.py"))


def recipes() -> list[tuple[str, str]]:
    """(file, function) of every recipe that the project ships."""
    return [(str(path), name) for path in FILES for name in recipes_of(module_of(str(path)))]


def recipe(name: str, function: str) -> Callable[[], Any]:
    return find(f"{ROOT / 'recipes' / name}:{function}")


def test_the_promised_recipes_are_there() -> None:
    names = {(Path(path).name, function) for path, function in recipes()}
    assert {("scenes.py", "image_tokenizer"), ("scenes.py", "pretrain")} <= names


@pytest.mark.parametrize(("path", "name"), recipes(), ids=lambda value: Path(value).name)
def test_a_recipe_is_a_run_and_says_so(path: str, name: str) -> None:
    spec = f"{path}:{name}"
    function = find(spec)
    config = config_of(spec, function)
    assert isinstance(config, ImageTokenizerRun | PretrainRun | ClipRun)
    assert function.__doc__ and function.__doc__.strip().endswith(".")
    assert config == function(), "the same every time"
    assert config.out.startswith("runs/")


def language_models() -> list[tuple[str, str]]:
    return [(path, name) for path, name in recipes() if isinstance(find(f"{path}:{name}")(), PretrainRun)]


@pytest.mark.parametrize(("path", "name"), language_models(), ids=lambda value: Path(value).name)
def test_a_plan_is_of_the_model_that_is_trained(
    path: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From nothing, in an empty folder: as many parameters as the model has that the recipe makes."""
    monkeypatch.chdir(tmp_path)
    paper = {"cm3leon_350m": "350m", "cm3leon_760m": "760m", "cm3leon_7b": "7b"}
    if name in paper:
        shape = size(paper[name], vocab_size=65_536, context=4096)
    elif Path(path).name in ("photos.py", "chameleon.py"):
        shape = replace(find(f"{path}:{name}")().model, grid=None)  # its tokenizers are not there yet
    elif Path(path).name in ("stickers.py", "sticker_tasks.py", "sticker_all.py", "paper.py"):
        shape = find(f"{path}:{name}")().model  # none of these models ships
    else:
        # All of them end in, or begin with, the model that ships.
        shape = bundles.load(bundles.find("scenes"), weights=False).decoder.config
    with torch.device("meta"):
        real = Decoder(shape)
    run, gpus = find(f"{path}:{name}")(), 64 if name in paper else 1
    planned = plan(run, gpus, "b200")
    assert sum(planned.parameters.values()) == sum(p.numel() for p in real.parameters())


@pytest.mark.slow
def test_a_plan_takes_what_is_there(tmp_path: Path) -> None:
    """Tokenizers, stores and what a run begins with decide, whatever the recipe says; then it is what is trained."""

    def planned(run: PretrainRun) -> int:
        return sum(plan(run, 1).parameters.values())

    def trained(run: PretrainRun) -> int:
        made = bundles.load(run.run(progress=False)["bundle"])
        assert made.decoder.config == run.settled().model
        return sum(p.numel() for p in made.decoder.parameters())

    ImageTokenizerRun(
        vqgan=tiny_model.SHAPE, size=32, batch=2, steps=1, warmup=0, out=str(tmp_path / "tokens"), sample_every=0,
        data=SceneData(),
    ).run(progress=False)  # fmt: skip
    full = recipe("scenes.py", "pretrain")()
    base = replace(
        full, model=replace(full.model, d_model=32, layers=1, heads=2, context=160), out=str(tmp_path / "a"),
        image_tokenizer=str(tmp_path / "tokens"), image_size=32, length=160, windows=1, steps=1, text_entries=280,
        sample_every=0,
    )  # fmt: skip
    assert planned(replace(base, image_tokenizer=str(tmp_path / "none"))) not in (planned(base), 0)
    assert not (tmp_path / "a").exists()
    for name in "ab":  # one's own is taken; to learn one takes seconds
        (tmp_path / name).mkdir()
        shutil.copyfile(tiny_model.tokenizer_path(), tmp_path / name / "tokenizer.json")
    count = planned(base)
    assert count == trained(base) == planned(base)
    bare = replace(base, out=str(tmp_path / "b"), cells=False, masks=9)
    assert planned(bare) == trained(bare) < count
    # What it begins with comes before what the recipe and its own tokenizers would give.
    second = replace(base, out=str(tmp_path / "c"), init=str(tmp_path / "a" / "bundle"), image_tokenizer="")
    assert planned(replace(second, text_entries=300)) == count == trained(second)
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "a red circle {i}"}}\n' for i in range(20)))
    prepare([str(tmp_path / "texts.jsonl")], tmp_path / "store", tmp_path / "a" / "bundle")
    stored = replace(second, init="", image_tokenizer=str(tmp_path / "tokens"), out=str(tmp_path / "d"))
    stored = replace(stored, data=StoreData((str(tmp_path / "store"),)), save_every=1)
    assert planned(stored) == count
    with pytest.raises(CheckpointError, match="image_tokenizer.safetensors"):
        (tmp_path / "a" / "bundle" / "image_tokenizer.safetensors").write_bytes(b"torn")
        planned(second)


def test_the_scenes_recipes_fit_each_other() -> None:
    tokens, model = recipe("scenes.py", "image_tokenizer")(), recipe("scenes.py", "pretrain")()
    decoder, details = recipe("scenes.py", "image_decoder")(), recipe("scenes.py", "image_details")()
    assert (decoder.init, details.init, model.image_tokenizer) == (tokens.out, decoder.out, details.out)
    assert decoder.decoder_only and details.decoder_only
    rows = tokens.size // tokens.vqgan.factor
    assert model.mask.columns == rows and model.model.context >= model.length
    pairs, holes = recipe("scenes.py", "pretrain_pairs")(), recipe("scenes.py", "pretrain_holes")()
    copying, emblems = recipe("scenes.py", "pretrain_copying")(), recipe("scenes.py", "pretrain_emblems")()
    clip, chain = recipe("scenes.py", "clip")(), [model, pairs, holes, copying, emblems]
    assert all(b.init == f"{a.out}/bundle" and b.model == a.model for a, b in itertools.pairwise(chain))
    assert emblems.data.encoder == clip.out
    assert len({run.data.seed for run in chain[:3]}) == 3
    # The pictures of the two are of different streams of the training split, so that nothing is seen twice by chance.
    assert tokens.data.seed != model.data.seed


@pytest.mark.slow
def test_scenes_from_nothing_to_pictures(tmp_path: Path) -> None:
    tokens = replace(
        recipe("scenes.py", "image_tokenizer")(),
        vqgan=tiny_model.SHAPE, size=32, batch=2, steps=2, out=str(tmp_path / "tokens"), log_every=1,
    )  # fmt: skip
    assert tokens.run(progress=False)["psnr_db"] > 0
    full = recipe("scenes.py", "pretrain")()
    pretrain = replace(
        full,
        model=replace(full.model, d_model=32, layers=1, heads=2, context=160),
        out=str(tmp_path / "model"), image_tokenizer=tokens.out, image_size=32, length=160, windows=1, steps=2,
        text_entries=280, log_every=1,
    )  # fmt: skip
    model = CM3Leon.load(pretrain.run(progress=False)["bundle"])
    picture = model.generate("a red circle", n=2, seed=1, guidance=2.0).images[1]
    assert picture.size == (32, 32)
    assert isinstance(model.generate(picture, max_tokens=8).text, str)
    for name, before in (("pretrain_pairs", "model"), ("pretrain_holes", "pretrain_pairs")):
        small = {field: getattr(pretrain, field) for field in ("model", "image_size", "length", "windows", "steps")}
        init, out = str(tmp_path / before / "bundle"), str(tmp_path / name)
        replace(recipe("scenes.py", name)(), init=init, out=out, log_every=1, **small).run(progress=False)
    assert model.generate(["a ", Gap(), " circle"], max_tokens=8).text.endswith("circle")
    assert model.generate(["a red circle", Image(picture).with_gap((0, 0, 16, 16))]).image.size == (32, 32)


@pytest.mark.slow
def test_stickers_from_words_to_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of sheets told in words goes on with little of their ground, draws whole sheets, and is tuned."""
    monkeypatch.setattr("cm3.stickers.data.training_pictures.MEASURED", 4)
    tokens = replace(
        recipe("stickers.py", "image_tokenizer")(),
        vqgan=small(16, (4, 4, 4), patch=8, channels=8, multipliers=(1, 1), blocks=0),
        batch=2, steps=1, out=str(tmp_path / "tokens"), log_every=1, sample_every=0,
    )  # fmt: skip
    tokens.run(progress=False)
    words = recipe("stickers.py", "pretrain_words")()
    words = replace(
        words, model=replace(words.model, d_model=32, layers=1, heads=2, context=1152), out=str(tmp_path / "words"),
        image_tokenizer=tokens.out, length=400, windows=1, steps=2, log_every=1, sample_every=0,
    )  # fmt: skip
    # Words of its own: to learn those of stickers takes longer than all else here.
    (tmp_path / "words").mkdir()
    shutil.copyfile(tiny_model.tokenizer_path(), tmp_path / "words/tokenizer.json")
    first = words.run(progress=False)["bundle"]
    log = (tmp_path / "words/log.jsonl").read_text()
    assert log.count("loss_text") == 2 and "loss_image" not in log
    drawn = recipe("stickers.py", "pretrain_drawn")()
    assert drawn.mask.thin > 0.5 and drawn.model == recipe("stickers.py", "pretrain_words")().model
    drawn = replace(
        drawn, model=words.model, init=first, image_tokenizer=tokens.out,
        out=str(tmp_path / "drawn"), length=400, windows=1, steps=2, log_every=1, sample_every=0,
    )  # fmt: skip
    second = drawn.run(progress=False)["bundle"]
    assert CM3Leon.load(second).generate("a red circle", seed=1).image.size == (256, 256)
    tuned = recipe("sticker_tasks.py", "instruct_more")()
    assert tuned.data.mix.words > 0 and 0 < tuned.data.words.told < 1
    tuned = replace(
        tuned, model=words.model, init=second, replace_image_tokenizer="", out=str(tmp_path / "tuned"), steps=2,
        log_every=1, sample_every=0, data=replace(tuned.data, plain=replace(tuned.data.plain, encoder="")),
    )  # fmt: skip
    model = CM3Leon.load(tuned.run(progress=False)["bundle"])
    assert {"edit", "boxes", "vqa2"} <= set(model.tasks) and not {"plain", "loose", "words"} & set(model.tasks)


@pytest.mark.slow
def test_a_model_learns_to_read_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cm3.scenes.scene_kinds.BANK", 4)
    clip = replace(recipe("scenes.py", "clip")(), out=str(tmp_path / "clip"), steps=1, batch=4)
    clip.run(progress=False)
    bundles.save(tiny_model.bundle(context=256), tmp_path / "start")
    init = tmp_path / "start"
    for name in ("pretrain_copying", "pretrain_emblems"):
        full = recipe("scenes.py", name)()
        run = replace(
            full,
            model=tiny_model.bundle(context=256).decoder.config, masks=16, out=str(tmp_path / name), init=str(init),
            image_size=tiny_model.SIZE, length=256, windows=1, steps=2, log_every=1,
            data=replace(full.data, encoder=clip.out, emblems=6, scenes=4, bank=(4, 2, 2)),
        )  # fmt: skip
        init = Path(run.run(progress=False)["bundle"])
    model = CM3Leon.load(str(init))
    assert {path.name for path in model.bundle.encoder.iterdir()} == {"config.json", "weights.safetensors"}
    assert len(model.memory) == 8 and "emblem/test/3" in model.memory
    drawn = model.generate(f"a {emblem(3, 'test').word}", retrieve=2)
    assert drawn.image.size == (tiny_model.SIZE, tiny_model.SIZE)
    assert len(drawn.attribution) == 2 and all(one["license"] == "MIT" for one in drawn.attribution)
    again = replace(run, steps=3).run(progress=False, resume=True)
    assert again["step"] == 3, "the banks and the table that are there are taken"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_chameleon_from_nothing_into_each_layout_and_back(tmp_path: Path) -> None:
    """Trained here, written as transformers and Meta have it, read again: the same weights, the same picture."""
    tokens = replace(
        recipe("chameleon.py", "image_tokenizer")(), size=32, batch=2, steps=2, out=str(tmp_path / "tokens")
    )
    tokens = replace(tokens, vqgan=replace(tokens.vqgan, multipliers=(1, 1, 2), factor=4, codes=64, code_dim=8))
    assert tokens.run(progress=False)["psnr_db"] > 0
    run = recipe("chameleon.py", "pretrain")()
    shape = replace(run.model, d_model=32, layers=2, heads=4, hidden=64)
    run = replace(
        run, model=shape, image_tokenizer=tokens.out, out=str(tmp_path / "run"), windows=1,
        steps=2, log_every=1, sample_every=0,
    )  # fmt: skip
    # Words of its own: to learn those of stickers takes longer than all else here.
    (tmp_path / "run").mkdir()
    words = TextTokenizer.load(tiny_model.tokenizer_path())
    (tmp_path / "run/tokenizer.json").write_bytes(chameleon_file(words, tokens.vqgan.codes))
    run.run(progress=False)
    assert replace(run, steps=3).run(progress=False, resume=True)["step"] == 3
    first = tmp_path / "run/bundle"
    assert bundles.load(first).vocab.grammar == "chameleon"
    convert(first, tmp_path / "hf", "chameleon-hf")
    image = tmp_path / "meta/tokenizer/vqgan.ckpt"
    convert(first, tmp_path / "meta", "chameleon-meta")
    # transformers' layout holds the encoder alone, so the decoder comes from Meta's file.
    # No layout but a bundle says how it is asked; both of these mean turns, which this model never saw.
    convert(tmp_path / "hf", tmp_path / "by hf", "bundle", image_tokenizer=image, prompts="plain")
    convert(tmp_path / "by hf", tmp_path / "meta again", "chameleon-meta")
    convert(tmp_path / "meta again", tmp_path / "by both", "bundle", prompts="plain")
    convert(tmp_path / "meta", tmp_path / "by meta", "bundle", prompts="plain")
    drawn, trained = picture(first), load_file(first / "decoder.safetensors")
    assert len(np.unique(drawn)) > 8
    for name in ("by hf", "by both", "by meta"):
        made = load_file(tmp_path / name / "decoder.safetensors")
        assert made.keys() == trained.keys()
        assert all(made[n].dtype == trained[n].dtype and torch.equal(made[n], trained[n]) for n in made)
        # The two writers order tensors otherwise; those of one are the same file.
        decoder, pictures = "decoder.safetensors", "image_tokenizer.safetensors"
        assert (tmp_path / name / decoder).read_bytes() == (tmp_path / "by hf" / decoder).read_bytes()
        # Beside transformers' half, which may be rounded, Meta's whole is kept in float32.
        kept, whole = (load_file(tmp_path / of / pictures) for of in (name, "by hf"))
        assert kept.keys() == whole.keys() and all(torch.equal(kept[n].to(whole[n].dtype), whole[n]) for n in whole)
        text = (tmp_path / name / "tokenizer.json").read_bytes()
        if name == "by hf":  # it is transformers', which has <s> first and its own name for a picture's place
            assert text == (tmp_path / "hf/tokenizer.json").read_bytes() and b'"<image>"' in text
        else:
            assert text == (first / "tokenizer.json").read_bytes()
        assert bundles.load(tmp_path / name).about["prompt_format"] == bundles.load(first).about["prompt_format"]
        assert (picture(tmp_path / name) == drawn).all()


def test_the_model_of_chameleons_shape_can_be_cut_as_meta_cuts() -> None:
    """Each head of a trained model has norms of its own, so Meta's layout takes a file for each."""
    tokens, run = (recipe("chameleon.py", name)() for name in ("image_tokenizer", "pretrain"))
    assert run.model.vocab_size == 8 + run.text_entries + tokens.vqgan.codes
    assert all(n % run.model.heads == 0 for n in (run.model.vocab_size, run.model.d_model, run.model.hidden))
    assert run.image_tokenizer == tokens.out and run.mask.columns == tokens.size // tokens.vqgan.factor


def picture(folder: Path) -> np.ndarray:
    """Draw from one seed; the settings are said, as other layouts do not keep what a bundle recommends."""
    model = CM3Leon.load(str(folder))
    return np.asarray(model.generate("a red circle", seed=4, temperature=1.0, guidance=1.0, top_p=1.0).image)

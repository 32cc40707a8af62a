"""A converted bundle is one of ours: it is loaded, draws and writes, and draws the same whatever layouts it came by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_chameleon
import torch
from published_folders import TEXT, hf_folder, meta_folder, small, vqgan, write_vqgan
from published_language import meta
from safetensors.torch import load_file

import cm3
from cm3.convert.convert import convert
from cm3.convert.ids import IdMap
from cm3.convert.image_layouts import read_image_tokenizer
from cm3.errors import CheckpointError, ConfigError
from cm3.model import bundle
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.tasks import find_task


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Meta's folder of a model of two shards."""
    return meta_folder(tmp_path_factory.mktemp("download") / "meta", small(shards=2, swin=True))


def drawn(folder: Path, **settings: Any) -> np.ndarray:
    """The picture that a bundle draws, as numbers."""
    made = cm3.load(folder).generate("a small red circle", seed=5, **settings)
    return np.asarray(made.image)


def test_it_draws_the_same_picture_by_whatever_layouts_it_came(root: Path, tmp_path: Path) -> None:
    convert(root, tmp_path / "b", "bundle")
    convert(tmp_path / "b", tmp_path / "hf", "chameleon-hf")
    convert(tmp_path / "b", tmp_path / "meta", "chameleon-meta")
    convert(tmp_path / "hf", tmp_path / "by hf", "bundle", image_tokenizer=root / "tokenizer/vqgan.ckpt")
    convert(tmp_path / "meta", tmp_path / "by meta", "bundle")
    settings = {"guidance": 3.0, "temperature": 1.0}
    first = drawn(tmp_path / "b", **settings)
    assert first.shape == (32, 32, 3) and len(np.unique(first)) > 8
    for name in ("by hf", "by meta"):
        assert (drawn(tmp_path / name, **settings) == first).all()


def test_it_reads_a_picture_and_writes_in_half_precision(root: Path, tmp_path: Path) -> None:
    convert(root, tmp_path / "b", "bundle")
    model = cm3.load(tmp_path / "b", dtype="bfloat16")
    assert model.bundle.about["prompt_format"] == "chameleon"
    assert {p.dtype for p in model.decoder.parameters()} == {torch.bfloat16}
    made = model.generate(cm3.Image(PIL.Image.new("RGB", (40, 40), (200, 30, 30))), max_tokens=6, seed=1)
    picture, *words = made.document.parts
    assert isinstance(picture, cm3.Image) and all(isinstance(part, cm3.Text) for part in words)


def test_a_model_of_ours_goes_out_and_gives_the_same_logits(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ids = IdMap.of(TEXT)
    shape = tiny_chameleon.SHAPE | {"init_std": 0.1}
    torch.manual_seed(0)
    decoder = tiny_chameleon.stir(Decoder(DecoderConfig(vocab_size=ids.vocab.size, **shape)), scale=0.2).eval()
    held = vqgan()
    image = read_image_tokenizer(held, lambda name: held[name], "vqgan", size=32)
    (tmp_path / "t.json").write_bytes(TEXT)
    made = bundle.Bundle(ids.vocab, decoder, image.vqgan, 32, tmp_path / "t.json")
    bundle.save(made, tmp_path / "ours", torch.float32)
    convert(tmp_path / "ours", tmp_path / "hf", "chameleon-hf")
    theirs = transformers.ChameleonForConditionalGeneration.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    asked = torch.randint(ids.vocab.size, (40,), generator=torch.Generator().manual_seed(3))
    to_ours = torch.from_numpy(ids.to_ours)
    with torch.no_grad():
        expected = theirs(input_ids=asked[None]).logits[0]
        logits = decoder(to_ours[asked][None], torch.arange(40)[None], Causal())[0][:, to_ours]
    text = torch.ones(ids.vocab.size, dtype=torch.bool)
    text[torch.from_numpy(ids.images)] = False
    assert (logits - expected)[:, text].abs().max() <= 1e-5 * max(1.0, float(logits.abs().max()))
    # To Meta's layout and back into ours, bit for bit.
    convert(tmp_path / "ours", tmp_path / "meta", "chameleon-meta", shards=4)
    convert(tmp_path / "meta", tmp_path / "again", "bundle")
    before, after = (load_file(tmp_path / name / "decoder.safetensors") for name in ("ours", "again"))
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)


def test_anoles_prompts_are_known_by_name(tmp_path: Path) -> None:
    convert(hf_folder(tmp_path / "anole", small(), "anole-hf"), tmp_path / "b", "bundle")
    assert cm3.load(tmp_path / "b").bundle.about["prompt_format"] == "anole"
    convert(
        hf_folder(tmp_path / "lumina", small(), "lumina-hf"), tmp_path / "l", "bundle",
        image_tokenizer=write_vqgan(tmp_path / "vq"),
    )  # fmt: skip
    assert cm3.load(tmp_path / "l").bundle.about["prompt_format"] == "lumina"


def test_a_bundle_is_asked_as_it_was_told_to_be(root: Path, tmp_path: Path) -> None:
    convert(root, tmp_path / "b", "bundle")
    convert(root, tmp_path / "p", "bundle", prompts="plain")
    usual, plain = (cm3.load(tmp_path / name) for name in ("b", "p"))
    assert (usual.codec.format, plain.codec.format) == ("chameleon", "plain")
    asked = [model.prepare(["a circle"], seeds=[1])[0].requests[0].streams[0].ids.tolist() for model in (usual, plain)]
    assert [id for id in asked[0] if id != usual.vocab.turn] == asked[1] and usual.vocab.turn in asked[0]


@pytest.mark.parametrize(
    ("to", "prompts", "message"),
    [
        ("bundle", "chatty", "about.prompt_format='chatty': must be one of chameleon, anole, lumina, plain"),
        ("bundle", "lumina", "about.prompt_format='lumina': 'lumina' is the format where vocab.marks has those"),
        ("chameleon-hf", "plain", "prompts='plain': a bundle alone says how it is asked; leave it out with to="),
    ],
)
def test_a_form_of_prompts_that_cannot_be_is_refused(
    root: Path, tmp_path: Path, to: str, prompts: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(root, tmp_path / "b", to, prompts=prompts)
    assert not (tmp_path / "b").exists()


def test_a_lumina_draws_at_the_size_that_it_was_converted_for(tmp_path: Path) -> None:
    """And reads pictures, and writes; and it goes out and comes back bit for bit."""
    folder, image = hf_folder(tmp_path / "lumina", small(shards=2), "lumina-hf"), write_vqgan(tmp_path / "vq")
    names = json.loads(TEXT)["model"]["vocab"]
    for size in (32, 64):
        out = tmp_path / str(size)
        convert(folder, out, "bundle", image_tokenizer=image, size=None if size == 32 else size)
        model = cm3.load(out)
        marks, to_file = model.vocab.marks, IdMap.of(TEXT).to_file
        assert marks is not None and to_file[marks.row] == names["<reserved08799>"]
        assert to_file[marks.height] == to_file[marks.width] == names[f"<reserved{8800 + size // 32:05d}>"]
        picture = PIL.Image.new("RGB", (40, 40), (200, 30, 30))
        assert model.generate("a circle", seed=1).image.size == (size, size)
        ((asked,),) = [p.requests for p in model.prepare(["a circle"], seeds=[1])]
        assert len(asked.streams) == 2 and asked.sampling.guidance == 4.0 and asked.sampling.temperature == 1.0
        assert isinstance(model.generate([picture, "what is it?", cm3.Gap("text")], max_tokens=4).text, str)
        assert model.edit(picture, "at night").image.size == (size, size)
        assert model.generate(["a", cm3.Gap("interleaved")], max_tokens=4, pictures=1).filled[0] is not None
    for number, source in enumerate((tmp_path / "32", folder)):
        given = {"image_tokenizer": image} if number else {}
        convert(source, tmp_path / f"meta{number}", "chameleon-meta", **given)
    for name in ("consolidated.00.pth", "consolidated.01.pth"):
        ours, published = (torch.load(tmp_path / f"meta{i}" / name, weights_only=True) for i in (0, 1))
        assert ours.keys() == published.keys() and all(torch.equal(ours[n], published[n]) for n in ours)
    for name, shard in enumerate(meta(small(shards=2))):
        ours = torch.load(tmp_path / f"meta0/consolidated.0{name}.pth", weights_only=True)
        assert all(torch.equal(ours[n], shard[n]) for n in shard if n != "rope.freqs")
    convert(tmp_path / "64", tmp_path / "again", "bundle")
    assert (tmp_path / "again/config.json").read_bytes() == (tmp_path / "64/config.json").read_bytes()
    # Weights in this layout that are Chameleon's own, as docs/weights.md says.
    page = json.loads((tmp_path / "again/config.json").read_text())
    page["about"]["prompt_format"] = "chameleon"
    del page["vocab"]["marks"], page["checksum"]
    (tmp_path / "again/config.json").write_text(json.dumps(page))
    model = cm3.load(tmp_path / "again")
    assert model.codec.format == "chameleon" and model.generate("a", seed=1).image.size == (64, 64)


def test_a_lumina_whose_tokenizer_names_more_than_the_weights_goes_there_and_comes_back(tmp_path: Path) -> None:
    folder, image = hf_folder(tmp_path / "lumina", small(), "lumina-hf"), write_vqgan(tmp_path / "vq")
    page = json.loads((folder / "tokenizer.json").read_text())
    size = len(page["model"]["vocab"])
    page["added_tokens"].append({**page["added_tokens"][-1], "id": size, "content": "<|image|>", "special": False})
    (folder / "tokenizer.json").write_text(json.dumps(page))
    for to in ("bundle", "chameleon-hf"):
        convert(folder, tmp_path / to, to, image_tokenizer=image)
    model = cm3.load(tmp_path / "bundle")
    assert model.vocab.size == size and model.generate("a <|image|>", seed=1).image.size == (32, 32)
    told = json.loads((tmp_path / "chameleon-hf/config.json").read_text())
    assert told["vocab_size"] == len(told["vocabulary_map"]) == size
    convert(tmp_path / "bundle", tmp_path / "hf", "chameleon-hf")
    convert(tmp_path / "hf", tmp_path / "again", "bundle", image_tokenizer=image)
    weights = [(tmp_path / name / "decoder.safetensors").read_bytes() for name in ("bundle", "again")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (48, "size=48: Lumina-mGPT counts the sides of pictures in 32 pixels; give a multiple"),
        (0, "size=0: Lumina-mGPT counts the sides of pictures in 32 pixels"),
        (512, "size=512: the text tokenizer has no <reserved08816>, its mark of 512 pixels"),
        (96, "size=96: such a picture takes 46 tokens, and the model's context is 45; give a smaller --size"),
    ],
)
def test_a_size_that_a_lumina_has_not_is_refused(size: int, message: str, tmp_path: Path) -> None:
    folder, image = hf_folder(tmp_path / "lumina", small(), "lumina-hf"), write_vqgan(tmp_path / "vq")
    page = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(page | {"max_position_embeddings": 45}))
    with pytest.raises(CheckpointError, match=message):
        convert(folder, tmp_path / "b", "bundle", image_tokenizer=image, size=size)
    assert not (tmp_path / "b").exists()


def test_a_size_is_for_lumina_alone(root: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="size=64: is for Lumina-mGPT, and this model has pictures of one size"):
        convert(root, tmp_path / "b", "bundle", size=64)
    convert(root, tmp_path / "c", "bundle")
    with pytest.raises(CheckpointError, match="is a bundle, with tokenizers of its own and pictures of one size"):
        convert(tmp_path / "c", tmp_path / "b", "bundle", size=64)


def test_a_bundle_recommends_the_sampling_of_metas_code(root: Path, tmp_path: Path) -> None:
    """What it says reaches the requests: with the numbers given by hand, picture and words are the same."""
    convert(root, tmp_path / "b", "bundle")
    model = cm3.load(tmp_path / "b")
    draws, guides = {"temperature": 0.7, "top_p": 0.9}, {"guidance": 3.0, "image_guidance": 1.2}
    picture = PIL.Image.new("RGB", (40, 40), (200, 30, 30))
    (asked,) = model.prepare([[picture, "at night"]], seeds=[0])
    got = asked.requests[0].sampling
    assert {name: getattr(got, name) for name in (*draws, *guides)} == draws | guides and len(
        asked.requests[0].streams
    ) == 3
    (plain,) = model.prepare(["at night"], seeds=[0])
    assert len(plain.requests[0].streams) == 2 and plain.requests[0].sampling.guidance == 3.0
    (words,) = model.prepare([picture], seeds=[0])
    text = words.requests[0].text_sampling
    assert text is not None and (text.temperature, text.top_p) == (0.7, 0.9) and len(words.requests[0].streams) == 1
    (both,) = model.prepare([["a", cm3.Gap("interleaved")]], seeds=[0])
    assert both.requests[0].sampling == got and both.requests[0].text_sampling == text
    given = {"guidance": 1.0, "image_guidance": 1.0, "temperature": 0.0}
    (own,) = model.prepare([[picture, "at night"]], seeds=[0], **given)
    assert len(own.requests[0].streams) == 1 and own.requests[0].sampling.greedy
    # An edit is guided as Meta's code guides it, a map is not guided.
    edit = model.prepare_task(find_task("edit"), [{"image1": picture, "instruction": "paint it"}], seeds=[0])
    assert edit[0].requests[0].sampling == got
    map_of = model.prepare_task(find_task("segment"), [{"image": picture}], seeds=[0])
    assert len(map_of[0].requests[0].streams) == 1
    # And what goes on from a bundle to a bundle is kept.
    convert(tmp_path / "b", tmp_path / "c", "bundle")
    assert cm3.load(tmp_path / "c").bundle.sampling == model.bundle.sampling

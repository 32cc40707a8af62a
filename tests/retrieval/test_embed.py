"""Documents to vectors: means of text and image, kept by content; encoders by folder or hub id, and what is refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_networks
import torch
from second_device import DEVICE, SecondDevice

from cm3.document import Document, Image
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.retrieval.embed import Encoder, embed, load_encoder
from cm3.retrieval.pairs import PairEncoder, Pairs, PairsConfig, save

TINY = PairsConfig(width=16, words=8, letters=4, letter_dim=4, d_model=16, layers=1, heads=2, channels=(8, 8, 16))


class Counting:
    """An encoder that remembers what it was asked for."""

    def __init__(self, inner: Encoder) -> None:
        self.inner, self.name, self.width = inner, inner.name, inner.width
        self.asked: list[int] = []

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        self.asked.append(len(texts))
        return self.inner.texts(texts)

    def images(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        self.asked.append(len(images))
        return self.inner.images(images)


@pytest.fixture
def encoder() -> Counting:
    torch.manual_seed(0)
    return Counting(PairEncoder(Pairs(TINY), "pairs:test"))


def picture(seed: int, size: int = 20) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def test_a_document_is_the_mean_of_its_parts(encoder: Counting) -> None:
    a, b = picture(1), picture(2)
    documents = [Document.of("one", a), Document.of("one"), Document.of(b), Document.of("two ", a, "three", b)]
    found = embed(encoder, documents)
    t, i = encoder.texts(["one", "two three"]), encoder.images([a, b])
    both = (i[0] + i[1]) / np.linalg.norm(i[0] + i[1])
    np.testing.assert_allclose(found.texts, [t[0], t[0], np.zeros(16), t[1]], atol=1e-6)
    np.testing.assert_allclose(found.images, [i[0], np.zeros(16), i[1], both], atol=1e-6)
    wanted = [(t[0] + i[0]) / 2, t[0], i[1], (t[1] + both) / 2]
    np.testing.assert_allclose(found.vectors, wanted, atol=1e-6)
    assert found.vectors.dtype == np.float32
    empty = embed(encoder, [])
    assert empty.vectors.shape == empty.texts.shape == empty.images.shape == (0, 16)


def test_equal_parts_are_encoded_once_in_batches(encoder: Counting) -> None:
    documents = [Document.of(f"text {i % 5}", picture(i % 3)) for i in range(12)]
    found = embed(encoder, documents, batch=2)
    assert encoder.asked == [2, 2, 1, 2, 1]
    np.testing.assert_allclose(found.vectors, embed(encoder, documents, batch=64).vectors, atol=1e-6)


def test_what_colours_or_turns_the_bytes_is_content(encoder: Counting) -> None:
    paletted = picture(1).convert("P", palette=PIL.Image.Palette.ADAPTIVE)
    recoloured = paletted.copy()
    recoloured.putpalette([255 - x for x in paletted.getpalette() or []])
    turned = picture(1)
    turned.getexif()[0x0112] = 6
    upright = turned.transpose(PIL.Image.Transpose.ROTATE_270)
    shown = embed(encoder, [Document.of(x) for x in (paletted, recoloured, turned, upright)]).pictures
    assert encoder.asked == [3] and shown[0] != shown[1] != shown[2] == shown[3]
    # The same picture in another mode is the same picture.
    assert embed(encoder, [Document.of(paletted.convert("RGBA"))]).pictures == shown[:1]


def test_documents_that_have_no_vector(encoder: Counting, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="document 'x': has neither text nor image; leave it out"):
        embed(encoder, [Document.of("a"), Document.of(" \n", id="x")])
    with pytest.raises(ConfigError, match="batch=0: must be at least 1"):
        embed(encoder, [], batch=0)
    path = tmp_path / "cut.png"
    picture(1, 64).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with PIL.Image.open(path) as cut, pytest.raises(DataError, match="document '1': its image of mode RGB cannot be"):
        embed(encoder, [Document.of("a"), Document.of(Image(cut))])


def test_encoders_by_folder(tmp_path: Path) -> None:
    save(Pairs(TINY), tmp_path / "pairs")
    found = load_encoder(tmp_path / "pairs")
    assert isinstance(found, PairEncoder) and found.name.startswith("pairs:") and found.width == 16
    (tmp_path / "model").mkdir()
    with pytest.raises(CheckpointError, match="config.json cannot be read"):
        load_encoder(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="config.json holds a list and no object; restore it"):
        load_encoder(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="describes neither pairs nor a CLIP; give a folder that"):
        load_encoder(tmp_path / "model")
    for name in (tmp_path / "nowhere", "nowhere", "a/b/c", "./here"):
        with pytest.raises(CheckpointError, match="no such folder; give one, or a hub id such as owner/name"):
            load_encoder(name)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ConfigError, match=r"'openai/clip': a CLIP needs the transformers library; pip install transformers"
    ):
        load_encoder("openai/clip")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_networks.clip(tmp_path_factory.mktemp("clip"))


def test_clip_on_another_device(clip: Path) -> None:
    with SecondDevice():
        here, there = load_encoder(clip), load_encoder(clip, device=str(DEVICE))
        texts, pictures = ["a red circle", "b"], [picture(1), picture(2)]
        np.testing.assert_allclose(there.texts(texts), here.texts(texts), atol=1e-5)
        np.testing.assert_allclose(there.images(pictures), here.images(pictures), atol=1e-5)


def test_clip_equals_the_library(clip: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    encoder = load_encoder(clip)
    assert encoder.name.startswith("clip:") and encoder.width == 24
    texts = ["a red circle", "b", ""]
    found = encoder.texts(texts)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip)
    noise = [picture(i, 32) for i in range(3)]
    pixels = np.stack([np.asarray(x) for x in noise]) / 255.0
    pixels = (pixels - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    seen = encoder.images([noise[0], noise[1].convert("RGBA"), noise[2]])
    with torch.no_grad():
        for text, row in zip(texts, found, strict=True):
            out = model(**tokenizer([text], return_tensors="pt"), pixel_values=torch.zeros(1, 3, 32, 32))
            np.testing.assert_allclose(row, out.text_embeds[0].numpy(), atol=1e-5)
        ids = tokenizer(["a"], return_tensors="pt")
        out = model(**ids, pixel_values=torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
    np.testing.assert_allclose(seen, out.image_embeds.numpy(), atol=1e-5)
    assert encoder.texts([]).shape == encoder.images([]).shape == (0, 24)


def test_clip_cuts_long_texts_off(clip: Path) -> None:
    encoder = load_encoder(clip)
    long = "abcdefghij" * 20
    assert np.array_equal(encoder.texts([long]), encoder.texts([long + " and more"]))
    assert np.isfinite(encoder.texts([long, "a"])).all()


def test_clip_is_named_by_its_weights(clip: Path, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    same, other = tmp_path / "same", tmp_path / "other"
    shutil.copytree(clip, same)
    shutil.copytree(clip, other)
    torch.manual_seed(1)
    transformers.CLIPModel(transformers.CLIPConfig.from_pretrained(clip)).save_pretrained(other)
    assert load_encoder(clip).name == load_encoder(same).name != load_encoder(other).name


def test_a_damaged_clip_is_refused(clip: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "clip"
    shutil.copytree(clip, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="weight 'visual_projection.weight' is missing; give a whole CLIP"):
        load_encoder(folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read as a CLIP"):
        load_encoder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no weights .model.safetensors.; restore them"):
        load_encoder(folder)


@pytest.mark.parametrize("name", ["cm3/no-such-clip", "hf://cm3/no-such-clip"])
def test_a_hub_id_that_cannot_be_fetched(name: str) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(CheckpointError, match="'cm3/no-such-clip': no such folder, and cannot be fetched from the hub"):
        load_encoder(name)


@pytest.mark.parametrize("name", ["cm3/no-such-clip", "hf://cm3/no-such-clip"])
def test_a_hub_id_that_nobody_asked_for_is_not_fetched(name: str) -> None:
    pytest.importorskip("transformers")
    told = "'cm3/no-such-clip': is not on this machine, and is fetched only for who asks for it; name it yourself"
    with pytest.raises(CheckpointError, match=told):
        load_encoder(name, fetch=False)

"""From a published file of an image tokenizer to the folder that a run takes, whole or not at all."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import published_vq as vq
import pytest
import torch
from safetensors.torch import load_file, save_file

from cm3.convert.image_files import convert_image_tokenizer, open_image_tokenizer
from cm3.convert.image_layouts import to_meta, to_transformers, transformers_config
from cm3.errors import CheckpointError, Cm3Error, ConfigError
from cm3.model import bundle as cm3_bundle
from cm3.model.bundle import find
from cm3.tokens.image import to_pil, to_pixels
from cm3.tokens.on_disk import load_tokenizers
from cm3.tokens.text import TextTokenizer
from cm3.train.image_tokenizer import load_image_tokenizer

X = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1


def drawn(spec: vq.Spec, naming: type[vq.Taming] = vq.Taming, seed: int = 0) -> vq.Weights:
    return vq.weights(spec, naming(spec), seed)


def lightning(path: Path, made: vq.Weights) -> Path:
    """A checkpoint of Lightning: weights among things that are no tensors, one of them a class of nobody's business."""
    path.parent.mkdir(parents=True, exist_ok=True)
    of_training = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4)}
    page = {"epoch": 3, "hyper_parameters": argparse.Namespace(base="x"), "callbacks": {"a": {"best": torch.ones(1)}}}
    torch.save(page | {"state_dict": made | of_training}, path)
    return path


def codes(folder: Path, x: torch.Tensor = X) -> torch.Tensor:
    return load_image_tokenizer(folder).encode(x)


def seen() -> torch.Tensor:
    """The pixels of X as a picture has them, in 256 steps."""
    return to_pixels(to_pil(X))


def test_metas_file_becomes_the_folder_that_a_run_takes(tmp_path: Path) -> None:
    made = drawn(vq.CHAMELEON)
    file = lightning(tmp_path / "tokenizer" / "vqgan.ckpt", made)
    page = "model:\n  params:\n    embed_dim: 8\n    n_embed: 48\n    ddconfig:\n      resolution: 64  # pixels\n"
    file.with_suffix(".yaml").write_text(page + "      ch: 32\n")
    told = convert_image_tokenizer(file, tmp_path / "made")
    assert told["from"] == "chameleon" and (told["size"], told["factor"], told["codes"]) == (64, 16, 48)
    assert told["left_out"] == 2 and told["skipped"] == ["argparse.Namespace"]
    assert told["warnings"] == ["left out of pickled files, and never run: argparse.Namespace"]
    written = json.loads((tmp_path / "made/config.json").read_text())
    assert written["size"] == 64 and written["converted"]["squares"].startswith("transparency on white")
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"config.json", "image_tokenizer.safetensors"}
    TextTokenizer.train(["a fox in the snow"], 256).save(tmp_path / "tokenizer.json")
    both = load_tokenizers(tmp_path / "made", text=tmp_path / "tokenizer.json")
    assert both.codec.image is not None and both.codec.image.grid == (4, 4)
    assert torch.equal(
        torch.from_numpy(both.codec.image.encode(to_pil(X))[0]).long(), codes(tmp_path / "made", seen())[0]
    )
    network = vq.Network(vq.CHAMELEON, vq.Taming(vq.CHAMELEON), made)
    best = network.scores(X).topk(2, dim=1)
    clear = best.values[:, 0] - best.values[:, 1] > 1e-4
    assert torch.equal(codes(tmp_path / "made")[clear], best.indices[:, 0][clear])
    # Meta's folder as it is downloaded, and again over what is there.
    convert_image_tokenizer(file.parent, tmp_path / "made")
    assert torch.equal(codes(tmp_path / "made"), open_image_tokenizer(file).vqgan.encode(X))


def test_weights_stay_of_their_type(tmp_path: Path) -> None:
    made = {name: tensor.bfloat16() for name, tensor in drawn(vq.CHAMELEON).items()}
    save_file(made, tmp_path / "a.safetensors")
    assert convert_image_tokenizer(tmp_path / "a.safetensors", tmp_path / "made", size=32)["dtype"] == "bfloat16"
    stored = load_file(tmp_path / "made/image_tokenizer.safetensors")
    assert all(torch.equal(stored[name], made[name]) and stored[name].dtype == torch.bfloat16 for name in made)
    back = to_meta(load_image_tokenizer(tmp_path / "made"), torch.bfloat16)
    assert all(torch.equal(back[name], made[name]) for name in made)


def test_the_averages_of_llamagen_are_taken_before_its_weights(tmp_path: Path) -> None:
    last, mean = drawn(vq.LLAMAGEN_8, vq.LlamaGen), drawn(vq.LLAMAGEN_8, vq.LlamaGen, 5)
    torch.save({"model": last, "ema": mean, "optimizer": {"state": {}}, "steps": 7}, tmp_path / "vq.pt")
    torch.save({"model": mean}, tmp_path / "alone.pt")
    one, two = (open_image_tokenizer(tmp_path / name).vqgan for name in ("vq.pt", "alone.pt"))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_a_folder_of_open_muse_is_told_by_its_class_where_its_tensors_are_tamings(tmp_path: Path) -> None:
    save_file(drawn(vq.TAMING_F16), tmp_path / "model.safetensors")
    assert open_image_tokenizer(tmp_path).about["from"] == "taming"
    page = {"_class_name": "VQGANModel", "resolution": 128, "num_embeddings": 48, "hidden_channels": 32}
    (tmp_path / "config.json").write_text(json.dumps(page))
    found = open_image_tokenizer(tmp_path)
    assert (found.about["from"], found.size, found.vqgan.config.pixels) == ("open-muse", 128, "0..1")
    (tmp_path / "config.json").write_text(json.dumps(page | {"num_embeddings": 1024}))
    with pytest.raises(CheckpointError, match="config.json says codes=1024, and its tensors 48"):
        open_image_tokenizer(tmp_path)


def test_a_folder_of_transformers_needs_metas_file_for_the_decoder(tmp_path: Path) -> None:
    whole = lightning(tmp_path / "vqgan.ckpt", drawn(vq.CHAMELEON))
    found = open_image_tokenizer(whole, size=64)
    half, out = tmp_path / "hf", tmp_path / "made"
    half.mkdir()
    around = {"model.embed_tokens.weight": torch.zeros(4, 4)}
    save_file(to_transformers(found.vqgan, torch.bfloat16) | around, half / "model.safetensors")
    (half / "config.json").write_text(json.dumps({"vq_config": transformers_config(found.vqgan.config, 64)}))
    with pytest.raises(CheckpointError, match="has an encoder and no decoder"):
        convert_image_tokenizer(half, out)
    assert not out.exists()
    told = convert_image_tokenizer(half, out, decoder=whole)
    assert (told["from"], told["size"], told["dtype"]) == ("transformers-chameleon", 64, "bfloat16")
    assert told["skipped"] == ["argparse.Namespace"], "of Meta's file beside it"
    made = load_image_tokenizer(out).state_dict()
    assert all(torch.equal(made[name], value) for name, value in found.vqgan.state_dict().items())


def test_nothing_is_written_where_anything_is_wrong(tmp_path: Path) -> None:
    made = drawn(vq.CHAMELEON)
    del made["decoder.conv_out.bias"]
    file = lightning(tmp_path / "vqgan.ckpt", made)
    with pytest.raises(CheckpointError, match="1 tensors are missing: decoder.conv_out.bias"):
        convert_image_tokenizer(file, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    file.with_suffix(".yaml").write_text("a:\n  n_embed: 48\nb:\n  n_embed: 1024\n")
    with pytest.raises(CheckpointError, match="vqgan.yaml says n_embed in two ways: 48 and 1024"):
        convert_image_tokenizer(file, tmp_path / "made")


def test_a_place_with_other_files_is_left_alone(tmp_path: Path) -> None:
    file = lightning(tmp_path / "vqgan.ckpt", drawn(vq.CHAMELEON))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")
    for place, message in (("mine", "holds other files"), ("run", "holds other files"), ("vqgan.ckpt", "is a file")):
        with pytest.raises(ConfigError, match=message):
            convert_image_tokenizer(file, tmp_path / place)
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04" + bytes(64), b"\x80\x02}q\x00."])
def test_a_file_of_another_kind_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vqgan.ckpt").write_bytes(content)
    with pytest.raises(Cm3Error) as error:
        convert_image_tokenizer(tmp_path / "vqgan.ckpt", tmp_path / "made")
    assert "\n" not in str(error.value) and not (tmp_path / "made").exists()


def test_one_of_ours_is_what_its_config_says_and_not_what_its_tensors_look_like(tmp_path: Path) -> None:
    save_file(drawn(vq.CHAMELEON), tmp_path / "a.safetensors")
    convert_image_tokenizer(tmp_path / "a.safetensors", tmp_path / "made", quantizer="l2", pixels="0..1", size=32)
    told = convert_image_tokenizer(tmp_path / "made", tmp_path / "again")
    assert (told["quantizer"], told["pixels"], told["size"]) == ("l2", "0..1", 32)
    for name in ("config.json", "image_tokenizer.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "made" / name).read_bytes()
    with pytest.raises(CheckpointError, match="its config.json says all of it; give nothing else"):
        convert_image_tokenizer(tmp_path / "made", tmp_path / "third", quantizer="vq")
    with pytest.raises(ConfigError, match="is the source itself"):
        convert_image_tokenizer(tmp_path / "made", tmp_path / "made")
    page = json.loads((tmp_path / "made/config.json").read_text())
    (tmp_path / "made/config.json").write_text(json.dumps(page | {"size": 33}))
    with pytest.raises(CheckpointError, match="size=33, which is no multiple of 16"):
        convert_image_tokenizer(tmp_path / "made", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_the_image_tokenizer_of_a_bundle_is_taken_out_of_it(tmp_path: Path) -> None:
    told = convert_image_tokenizer(find("scenes"), tmp_path / "made")
    shipped = cm3_bundle.load(find("scenes"), weights=False)
    assert told["from"] == "bundle" and told["size"] == shipped.image_size
    x = torch.rand(1, 3, told["size"], told["size"], generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.equal(codes(tmp_path / "made", x), shipped.vqgan.encode(x))

"""Weights of all kinds are recognised by their tensors; what is wrong with them is said, with all that can be told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from published_folders import CODES, IDS, SIDE, TEXT, hf_folder, meta_folder, small, vqgan, write_vqgan
from safetensors.torch import load_file, save_file

from cm3.convert.decoder_layouts import in_pairs
from cm3.convert.ids import IdMap
from cm3.convert.inspect_weights import inspect_weights
from cm3.errors import CheckpointError
from cm3.files import read_json
from cm3.model.bundle import find

SHIPPED = find("scenes")


def told(path: Path) -> dict[str, Any]:
    """Inspect, and check what every finding has: plain values, lines of one line, sizes that add up."""
    found = inspect_weights(path)
    assert json.loads(json.dumps(found)) == found
    assert all("\n" not in line for line in found["wrong"]) and (found["whole"] is False) == bool(found["wrong"])
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    for file in found.get("files", []):
        assert file["bytes"] in [p.stat().st_size for p in files if p.name == file["file"]]
    return found


def ids_of_the_file() -> dict[str, Any]:
    """What ids.py says of the fixture's tokenizer: it is tested against the file itself."""
    ids = IdMap.of(TEXT)
    return {"begin_image": int(ids.to_file[4]), "end_image": int(ids.to_file[5]), "first": int(ids.images[0])}


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_metas_download(tmp_path: Path, shards: int) -> None:
    root = meta_folder(tmp_path / "meta", small(shards=shards, dtype=torch.bfloat16))
    found = told(root)
    assert (found["kind"], found["family"], found["layout"]) == ("language model", "Chameleon", "chameleon-meta")
    assert found["whole"] is True and found["norm_groups"] == shards == len(found["files"])
    assert set(found["types"]) <= {"bfloat16", "float32"} and found["types"]["bfloat16"] > 10_000
    shape = {"layers": 2, "d_model": 32, "heads": 8, "kv_heads": 8, "hidden": 48, "vocab_size": IDS, "order": "pre"}
    assert found["shape"].items() >= shape.items()
    names = ids_of_the_file()
    assert found["ids"].items() >= {"count": IDS, "images": CODES, "begin_image": names["begin_image"]}.items()
    assert found["ids"]["end_image"] == names["end_image"] and found["ids"]["image_ids"][0] == names["first"]
    assert found["image_tokenizer"].items() >= {"codes": CODES, "size": SIDE, "factor": 16}.items()
    assert found["rows"]["expected"] == "pairs" and found["rows"]["order"] is None
    assert told(root / "models/7b") == found | {"path": str(root / "models/7b")}


@pytest.mark.parametrize("layout", ["chameleon-hf", "anole-hf", "lumina-hf"])
@pytest.mark.parametrize(("files", "old"), [(1, False), (3, False), (2, True)])
def test_layouts_of_transformers(tmp_path: Path, layout: str, files: int, old: bool) -> None:
    root = hf_folder(tmp_path / "m", small(shards=2 if layout == "lumina-hf" else 1, kv=4), layout, files, old)
    if layout == "lumina-hf":
        write_vqgan(root)
    found = told(root)
    assert (found["kind"], found["layout"]) == ("language model", layout) and len(found["files"]) == files
    assert found["rows"]["expected"] == ("pairs" if layout == "anole-hf" else "halves")
    assert found["shape"]["kv_heads"] == 4 and found["ids"]["images"] == CODES
    if layout == "chameleon-hf":
        assert found["whole"] is False and any("the decoder is in Meta's vqgan.ckpt" in line for line in found["wrong"])
        write_vqgan(root / "tokenizer")
        found = told(root)
    assert found["whole"] is True, found["wrong"]


def test_of_a_model_that_is_not_whole_all_else_is_told(tmp_path: Path) -> None:
    root = hf_folder(tmp_path / "m", small(), "anole-hf", 3)
    (root / "model-00002-of-00003.safetensors").unlink()
    found = told(root)
    assert found["layout"] == "anole-hf" and len(found["files"]) == 2 and found["ids"]["count"] == IDS
    assert any("model-00002-of-00003.safetensors is missing" in line for line in found["wrong"])
    data = (root / "model-00001-of-00003.safetensors").read_bytes()
    (root / "model-00001-of-00003.safetensors").write_bytes(data[:-1])
    found = told(root)
    assert len(found["files"]) == 1 and any("is cut short" in line for line in found["wrong"])


def test_a_rank_that_is_missing_is_told(tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small(shards=4))
    (root / "models/7b/consolidated.03.pth").unlink()
    found = told(root)
    assert found["layout"] == "chameleon-meta" and any("model_parallel_size=4" in line for line in found["wrong"])
    (root / "models/7b/consolidated.01.pth").unlink()
    assert any("consolidated.01.pth is missing" in line for line in told(root)["wrong"])


def test_tokenizers_of_another_model_are_told(tmp_path: Path) -> None:
    root = hf_folder(tmp_path / "m", small(), "anole-hf")
    (root / "tokenizer.json").unlink()
    found = told(root)
    assert "ids" not in found and any("neither is there" in line for line in found["wrong"])
    page = json.loads(TEXT)
    page["model"]["vocab"]["more"] = IDS
    (root / "tokenizer.json").write_text(json.dumps(page))
    assert any(f"names {IDS + 1} ids, the weights have {IDS} rows" in line for line in told(root)["wrong"])


def test_a_tensor_that_is_missing_and_one_too_many_are_told(tmp_path: Path) -> None:
    root = hf_folder(tmp_path / "m", small(), "anole-hf")
    state = load_file(root / "model.safetensors")
    state["model.layers.1.mlp.extra.weight"] = state.pop("model.layers.1.mlp.up_proj.weight")
    save_file(state, root / "model.safetensors")
    wrong = " ".join(told(root)["wrong"])
    assert "model.layers.1.mlp.up_proj.weight: missing" in wrong and "mlp.extra.weight: not Chameleon's" in wrong


def test_a_head_that_is_said_to_be_tied_and_is_not_is_told(tmp_path: Path) -> None:
    root = hf_folder(tmp_path / "m", small(), "anole-hf")
    page = read_json(root / "config.json", "a model")
    (root / "config.json").write_text(json.dumps(page | {"tie_word_embeddings": True}))
    assert any("lm_head.weight: is not the embedding" in line for line in told(root)["wrong"])


def test_published_image_tokenizers(tmp_path: Path) -> None:
    file = write_vqgan(tmp_path / "tokenizer")
    found = told(file)
    assert (found["kind"], found["layout"], found["whole"]) == ("image tokenizer", "chameleon", True)
    assert found["image_tokenizer"].items() >= {"codes": CODES, "factor": 16, "size": SIDE}.items()
    assert found["files"][0]["group"] == "state_dict"
    half = {f"model.vqmodel.{n}": t.contiguous() for n, t in vqgan().items() if not n.startswith("decoder.")}
    save_file(half, tmp_path / "half.safetensors")
    found = told(tmp_path / "half.safetensors")
    assert found["kind"] == "image tokenizer" and "the decoder is in Meta's vqgan.ckpt" in found["wrong"][0]


class Callback:
    """An object of a training program."""


def test_what_a_pickle_wants_more_is_listed_and_an_attack_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": vqgan() | {"gone": None}, "callbacks": {"a": Callback()}}, tmp_path / "a.ckpt")
    found = told(tmp_path / "a.ckpt")
    assert found["left_out"] == [f"{Callback.__module__}.Callback"] and found["none"] == ["gone"]

    class Attack:
        def __reduce__(self) -> Any:
            return __import__("os").mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": vqgan(), "x": Attack()}, tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match="asks to run .*mkdir"):
        inspect_weights(tmp_path / "b.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_bundle_of_ours(tmp_path: Path) -> None:
    found = told(SHIPPED)
    assert (found["kind"], found["family"], found["whole"]) == ("bundle", "CM3Leon", True)
    page = read_json(SHIPPED / "config.json", "a bundle")
    assert found["ids"]["count"] == page["decoder"]["vocab_size"] and found["ids"]["masks"] == page["vocab"]["masks"]
    assert found["shape"]["layers"] == page["decoder"]["layers"] and found["rows"]["expected"] == "halves"
    shutil.copytree(SHIPPED, tmp_path / "b")
    for name in ("decoder.safetensors", "image_tokenizer.safetensors"):
        data = bytearray((tmp_path / "b" / name).read_bytes())
        data[-1] ^= 1
        (tmp_path / "b" / name).write_bytes(data)
    (tmp_path / "b/tokenizer.json").unlink()
    wrong = " ".join(told(tmp_path / "b")["wrong"])
    assert "decoder.safetensors was altered" in wrong and "image_tokenizer.safetensors was altered" in wrong
    assert "tokenizer.json is missing" in wrong


def test_an_image_tokenizer_of_ours(tmp_path: Path) -> None:
    page = read_json(SHIPPED / "config.json", "a bundle")
    shutil.copyfile(SHIPPED / "image_tokenizer.safetensors", tmp_path / "image_tokenizer.safetensors")
    config = {"vqgan": page["image_tokenizer"], "size": page["image_size"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = told(tmp_path)
    assert (found["kind"], found["layout"], found["whole"]) == ("image tokenizer", "ours", True)
    assert found["image_tokenizer"]["size"] == page["image_size"] and "converted" not in found
    (tmp_path / "config.json").write_text(json.dumps(config | {"converted": {"from": "chameleon", "dtype": "float32"}}))
    assert told(tmp_path)["converted"]["from"] == "chameleon"
    for size in (None, 7, page["image_tokenizer"]["factor"] + 1):
        (tmp_path / "config.json").write_text(json.dumps(config | {"size": size}))
        found = told(tmp_path)
        assert len(found["wrong"]) == 1 and f"size={size}, which is no multiple of" in found["wrong"][0]
        assert len(found["files"]) == 1
    config["vqgan"] = config["vqgan"] | {"channels": 2 * config["vqgan"]["channels"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    wrong = told(tmp_path)["wrong"]
    assert len(wrong) == 1 and "has shape" in wrong[0]
    (tmp_path / "image_tokenizer.safetensors").write_bytes(b"cut")
    assert len(told(tmp_path)["wrong"]) == 1


def test_a_download_of_two_models_is_refused_as_such(tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small())
    shutil.copytree(root / "models/7b", root / "models/30b")
    with pytest.raises(CheckpointError, match="has 2 models, 30b, 7b; give one"):
        inspect_weights(root)
    assert told(root / "models/30b")["whole"] is True


def test_a_model_may_be_named_by_its_file(tmp_path: Path) -> None:
    root = hf_folder(tmp_path / "m", small(), "anole-hf")
    found = told(root / "model.safetensors")
    assert found["whole"] is True and found["ids"]["count"] == IDS
    (root / "config.json").write_text("{}")
    found = told(root / "model.safetensors")
    assert found["whole"] is False and found["ids"]["count"] == IDS, "its tokenizer is found all the same"


@pytest.mark.parametrize(("rows", "norms"), [(False, False), (True, True), (True, False), (False, True)])
def test_rows_that_were_not_turned_are_told(tmp_path: Path, rows: bool, norms: bool) -> None:
    page = read_json(SHIPPED / "config.json", "a bundle")
    if page["about"].get("steps", 0) < 500:
        pytest.skip("the model in this checkout was trained for a few steps")
    heads, state = page["decoder"]["heads"], {}
    for name, tensor in load_file(SHIPPED / "decoder.safetensors").items():
        _, layer, *rest = name.split(".")
        part = {"wq": "q_proj", "wk": "k_proj", "q_norm": "q_norm", "k_norm": "k_norm"}.get(rest[0] if rest else "")
        if part:
            norm = part.endswith("norm")
            turned = torch.stack([in_pairs(row, 1) for row in tensor]) if norm else in_pairs(tensor, heads)
            state[f"model.layers.{layer}.self_attn.{part}.{rest[1]}"] = turned if (norms if norm else rows) else tensor
    save_file(state, tmp_path / "model.safetensors")
    wrong = " ".join(told(tmp_path / "model.safetensors")["wrong"])
    assert ("lie in pairs" in wrong) == rows and ("norms do not lie as the rows" in wrong) == (rows != norms)


def test_other_weights_are_listed_and_nothing_is_no_finding(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "a.safetensors")
    found = told(tmp_path / "a.safetensors")
    assert (found["kind"], found["whole"], found["names"]) == ("weights", None, ["a", "b"]) and found["numbers"] == 5
    llama = {f"model.layers.0.self_attn.{n}_proj.weight": torch.ones(4, 4) for n in "qkvo"}
    save_file(llama, tmp_path / "b.safetensors")
    found = told(tmp_path / "b.safetensors")
    assert (found["kind"], found["family"], found["whole"]) == ("language model", "another", False)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "none", tmp_path / "empty", Path(__file__)):
        with pytest.raises(CheckpointError):
            inspect_weights(path)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (3, 4), (2, 2, 2)])
def test_norms_of_any_shape_are_told(tmp_path: Path, shape: tuple[int, ...]) -> None:
    for root, norm in (
        (hf_folder(tmp_path / "hf", small(), "lumina-hf"), "model.layers.0.self_attn.q_norm.weight"),
        (meta_folder(tmp_path / "meta", small()) / "models/7b", "layers.0.attention.q_normalization.weight"),
    ):
        file = next(p for p in root.iterdir() if p.suffix in (".safetensors", ".pth"))
        tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
        tensors[norm] = torch.ones(shape)
        tensors[f"model.layers.{'9' * 5000}.x" if "model" in norm else f"layers.{'9' * 5000}.x"] = torch.ones(1)
        save_file(tensors, file) if file.suffix == ".safetensors" else torch.save(tensors, file)
        found = told(root)
        assert (found["kind"], found["whole"]) == ("language model", False)

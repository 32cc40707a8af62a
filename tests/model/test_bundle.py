"""A model on disk: it comes back, it appears whole or not at all, and whatever is wrong with it is said."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from safetensors.torch import load_file, save_file

from cm3.errors import CheckpointError, ConfigError
from cm3.model import bundle
from cm3.model.attention import Causal


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle on disk, not to be written to."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    bundle.save(tiny_model.bundle(), folder, torch.float32)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def test_it_comes_back(saved: Path) -> None:
    made, got = tiny_model.bundle(), bundle.load(saved)
    assert same(got.decoder, made.decoder) and same(got.vqgan, made.vqgan)
    assert got.decoder.config == made.decoder.config and got.vqgan.config == made.vqgan.config
    assert (got.vocab, got.image_size, got.about, got.sampling) == (made.vocab, made.image_size, made.about, {})
    assert got.text_tokenizer.read_bytes() == made.text_tokenizer.read_bytes()
    assert not got.decoder.training and not got.vqgan.training and got.name == "tiny"
    # What is not saved, such as FSQ's constants, is there too.
    codes = torch.arange(16).view(1, 4, 4)
    assert torch.equal(got.vqgan.decode(codes), made.vqgan.decode(codes))
    assert sorted(p.name for p in saved.iterdir()) == sorted(["config.json", *bundle.FILES])


def test_without_weights_the_decoder_is_its_shapes(saved: Path, copy: Path) -> None:
    (copy / "decoder.safetensors").unlink()
    bare, whole = bundle.load(copy, weights=False), bundle.load(saved)
    assert bare.decoder.config == whole.decoder.config and bare.vocab == whole.vocab and same(bare.vqgan, whole.vqgan)
    assert all(p.is_meta for p in bare.decoder.parameters())
    (copy / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer.json is missing; restore it"):
        bundle.load(copy, weights=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_stored_small_and_computed_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    made = tiny_model.bundle()
    bundle.save(made, tmp_path / "half", dtype)
    stored = load_file(tmp_path / "half" / "decoder.safetensors")
    assert all(t.dtype == dtype for t in stored.values())
    got = bundle.load(tmp_path / "half").decoder
    assert all(p.dtype == torch.float32 for p in got.parameters())
    assert all(torch.equal(p, made.decoder.state_dict()[k].to(dtype).float()) for k, p in got.state_dict().items())


def test_saving_again_gives_the_same_bytes_and_replaces_the_old(saved: Path, copy: Path) -> None:
    (copy / "stale").write_text("x")
    bundle.save(bundle.load(copy), copy, torch.float32)
    assert not (copy / "stale").exists()
    assert all((copy / f).read_bytes() == (saved / f).read_bytes() for f in ["config.json", *bundle.FILES])
    assert [p.name for p in copy.parent.iterdir()] == ["copy"], "nothing is left beside it"


def test_a_failed_save_leaves_what_was_there(copy: Path) -> None:
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    made = bundle.load(copy)
    with torch.no_grad():
        made.decoder.embed.weight[3, 2] = 1e6
    with pytest.raises(
        ConfigError, match="embed.weight: has values outside the range of torch.float16; save in bfloat16"
    ):
        bundle.save(made, copy)
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]
    bundle.save(made, copy, torch.bfloat16)


@pytest.mark.parametrize("config", [None, "{}", '{"format": 1}', "[]", "{"])
def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path, config: str | None) -> None:
    mine = tmp_path / "photos"
    mine.mkdir()
    (mine / "one.jpg").write_text("x")
    if config is not None:
        (mine / "config.json").write_text(config)
    before = sorted(p.name for p in mine.iterdir())
    with pytest.raises(ConfigError, match="photos': holds other files, which would be lost; give a new folder, or a b"):
        bundle.save(tiny_model.bundle(), mine)
    assert sorted(p.name for p in mine.iterdir()) == before and [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_a_place_that_can_not_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    bundle.check_place(tmp_path / "empty")
    bundle.check_place(tmp_path / "new" / "one")
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ConfigError, match="file': is a file; give a folder"):
        bundle.check_place(file)
    with pytest.raises(ConfigError, match="below': .*file' is a file; give another folder"):
        bundle.check_place(file / "below")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ConfigError, match="one': no permission to write in '.*'; give another folder"):
        bundle.check_place(tmp_path / "new" / "one")
    assert not (tmp_path / "new").exists()


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    made = tiny_model.bundle()
    with torch.no_grad():
        made.decoder.embed.weight[0, 0] = float("nan")
    with pytest.raises(ConfigError, match="embed.weight: has values outside the range"):
        bundle.save(made, tmp_path / "new", torch.float32)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", bundle.FILES)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"bundle '.*copy': {name} is missing; restore it"):
        bundle.load(copy)


@pytest.mark.parametrize("name", bundle.FILES)
def test_an_altered_file_is_named(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name} was altered .*checksum.*; restore it"):
        bundle.load(copy)


def change(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """config.json with sections changed: a dictionary goes into the section, another value in its place."""

    def apply(config: dict[str, Any]) -> dict[str, Any]:
        return config | {k: config[k] | v if isinstance(v, dict) else v for k, v in values.items()}

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(format=2), "config.json is not a bundle of format 1"),
        (change(files=None), "config.json is not a bundle of format 1"),
        (lambda c: [c], "config.json is not a bundle of format 1"),
        (change(files={"decoder.safetensors": "0"}), "decoder.safetensors was altered"),
        (change(decoder={"width": 3}), "config.json does not describe a model .*width"),
        (change(decoder={"heads": 5}), "does not describe a model .*d_model=32: must be a multiple of heads=5"),
        (change(decoder={"layers": "two"}), "config.json does not describe a model"),
        (change(decoder=3), "config.json does not describe a model"),
        (change(vocab=[1]), "config.json does not describe a model"),
        (change(image_size=None), "config.json does not describe a model"),
        (change(sampling=5), "config.json does not describe a model"),
        (lambda c: {k: v for k, v in c.items() if k != "vocab"}, r"does not describe a model \('vocab'\)"),
        (change(vocab={"masks": 17}), "decoder.vocab_size=.* and .* ids in its vocabulary; restore it"),
        (change(decoder={"d_model": 64}), "weight 'embed.weight' has shape .* config.json says .*64"),
        (change(decoder={"layers": 2}), "weight 'blocks.1.wq.weight' is missing"),
        (change(decoder={"grid": None}), "weight 'column.weight' is not in the network that config.json describes"),
    ],
)  # fmt: skip
def test_an_altered_config_is_refused(copy: Path, spoil: Callable[[Any], Any], message: str) -> None:
    path = copy / "config.json"
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(CheckpointError, match=message):
        bundle.load(copy)


def test_a_config_that_is_no_json_or_not_there(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json is not JSON .*; restore it"):
        bundle.load(copy)
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match="config.json is missing; restore it"):
        bundle.load(copy)
    with pytest.raises(CheckpointError, match="the folder has no config.json; give a folder that `cm3 train` wrote"):
        bundle.find(str(copy))


def test_a_file_of_another_format_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "decoder.safetensors").write_bytes(b"no tensors at all")
    config["files"]["decoder.safetensors"] = bundle._digest(copy / "decoder.safetensors")
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="decoder.safetensors': not a readable safetensors file"):
        bundle.load(copy)


def test_find(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert bundle.find(str(saved)) == saved
    monkeypatch.setattr(bundle, "EMBEDDED", saved.parent)
    monkeypatch.chdir(tmp_path)
    assert bundle.find("tiny") == saved
    with pytest.raises(CheckpointError, match=r"bundle 'tinny': no such folder, .*\(tiny\).* Did you mean 'tiny'\?"):
        bundle.find("tinny")
    monkeypatch.setattr(bundle, "EMBEDDED", tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="not an embedded bundle .there is none.; or give hf://owner/name"):
        bundle.find("tiny")


@pytest.mark.parametrize("repo", ["nobody/nothing-at-all", "no such name!", ""])
def test_the_hub_without_a_network_says_so_at_once(repo: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """tests/conftest.py has HF_HUB_OFFLINE=1."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(
        CheckpointError, match=f"bundle 'hf://{repo}': cannot be fetched .*; check the id and the network"
    ):
        bundle.find(f"hf://{repo}")
    assert time.monotonic() - began < 20


def test_loading_leaves_the_model_usable(saved: Path) -> None:
    decoder = bundle.load(saved).decoder
    ids = torch.arange(6)[None]
    got = decoder(ids, ids, Causal(), torch.zeros_like(ids))
    want = tiny_model.bundle().decoder(ids, ids, Causal(), torch.zeros_like(ids))
    assert torch.equal(got, want)


def test_a_safetensors_file_with_more_than_the_network_is_refused(copy: Path) -> None:
    path = copy / "decoder.safetensors"
    save_file(load_file(path) | {"extra": torch.zeros(1)}, path)
    config = json.loads((copy / "config.json").read_text())
    config["files"][path.name] = bundle._digest(path)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="weight 'extra' is not in the network"):
        bundle.load(copy)

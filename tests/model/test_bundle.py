"""A model on disk: it comes back, it appears whole or not at all, and whatever is wrong with it is said."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from forks import python
from safetensors.torch import load_file, save_file

from cm3.errors import CheckpointError, ConfigError
from cm3.files import sha256
from cm3.model import bundle, folder
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder


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


def sign(copy: Path, config: Any = None) -> None:
    """Write config.json with the checksums that belong to it: what is wrong with it is not that it was altered."""
    path = copy / "config.json"
    config = json.loads(path.read_text()) if config is None else config
    if isinstance(config, dict):
        if isinstance(config.get("files"), dict):
            config["files"] |= {name: sha256(copy / name) for name in config["files"] if (copy / name).is_file()}
        config["checksum"] = folder.checksum(config)
    path.write_text(json.dumps(config))


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
    assert got.source is not None and got.source.folder == saved and got.source.text == got.text_tokenizer.read_bytes()


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
    with pytest.raises(ConfigError, match="below': .*file' is a file; give a folder"):
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


HUGE = 10**12


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(format=2), "config.json is not a bundle of format 1"),
        (change(format="1"), "config.json is not a bundle of format 1"),
        (change(files=None), "config.json is not a bundle of format 1"),
        (change(files=[1]), "config.json is not a bundle of format 1"),
        (lambda c: c | {"files": {"tokenizer.json": 3}}, "config.json is not a bundle of format 1"),
        (lambda c: [c], "config.json is not a bundle of format 1"),
        (lambda c: c | {"files": {"decoder.safetensors": "0"}}, "has no sha256 of 'decoder.safetensors'; restore it"),
        (lambda c: c | {"files": {}}, "tokenizer.json was altered"),
        (lambda c: c | {"more": 1}, "config.json has a field 'more' that no bundle has; restore it"),
        (change(decoder={"width": 3}), "does not describe a model .decoder.width: is no field"),
        (change(decoder={"heads": 5}), "does not describe a model .*d_model=32: must be a multiple of heads=5"),
        (change(decoder={"layers": "two"}), "does not describe a model .decoder.layers='two': must be a whole number"),
        (change(decoder={"layers": 1.0}), "does not describe a model .decoder.layers=1.0: must be a whole number"),
        (change(decoder={"layers": True}), "does not describe a model .decoder.layers=True: must be a whole number"),
        (change(decoder={"layers": None}), "does not describe a model .decoder.layers=None: must be a whole number"),
        (change(decoder={"layers": [1]}), "does not describe a model .decoder.layers=.1.: must be a whole number"),
        (change(decoder={"layers": 0}), "decoder.layers=0: must be at least 1"),
        (change(decoder={"layers": -1}), "decoder.layers=-1: must be at least 1"),
        (change(decoder={"layers": HUGE}), f"decoder.layers={HUGE}: must be at most 1024"),
        (change(decoder={"context": HUGE}), f"decoder.context={HUGE}: must be at most"),
        (change(decoder={"hidden": HUGE}), f"decoder.hidden={HUGE}: must be at most"),
        (change(decoder={"d_model": HUGE}), f"decoder.d_model={HUGE}: must be at most"),
        (change(decoder={"heads": HUGE}), f"decoder.heads={HUGE}: must be at most"),
        (change(decoder={"vocab_size": HUGE}), f"decoder.vocab_size={HUGE}: must be at most"),
        (change(decoder={"rope_theta": 1e300}), "decoder.rope_theta=1e.300: must be over 0 and below 1e12"),
        (change(decoder={"norm_eps": 0}), "decoder.norm_eps=0.0: must be over 0"),
        (change(decoder={"kv_heads": 3}), "decoder.kv_heads=3: must divide heads=2"),
        (change(decoder={"activation": "tanh"}), "decoder.activation='tanh': must be 'gelu' or 'relu' or 'swiglu'"),
        (change(decoder={"grid": [4]}), "decoder.grid=.4.: must be"),
        (change(decoder={"grid": [4, 4, 4]}), "decoder.grid=.4, 4, 4.: must be"),
        (change(decoder={"grid": [0, 4]}), "decoder.grid=.0, 4.: must be"),
        (change(decoder={"grid": [HUGE, 4]}), "decoder.grid=.* at most 4096"),
        (change(decoder={"grid": [4, 8]}), "has decoder.grid=.4, 8. and pictures of 4 x 4 codes; restore it"),
        (change(decoder={"context": 8}), "has decoder.context=8 and pictures of 16 codes; restore it"),
        (change(decoder=3), "does not describe a model .decoder: is a number; must be an object"),
        (change(vocab=[1]), "does not describe a model .vocab: is a list; must be an object"),
        (change(vocab={"text": 3}), "vocab.text=3: must be at least 256"),
        (change(vocab={"text": -300}), "vocab.text=-300: must be at least 256"),
        (change(vocab={"reserved": HUGE}), f"vocab.reserved={HUGE}: must be at most"),
        (change(image_size=None), "does not describe a model .image_size=None: must be a whole number"),
        (change(image_size="32"), "does not describe a model .image_size='32': must be a whole number"),
        (change(image_size=True), "does not describe a model .image_size=True: must be a whole number"),
        (change(image_size=0), "has image_size=0; it must be a multiple of the image tokenizer's factor 8; restore"),
        (change(image_size=-32), "has image_size=-32; it must be a multiple"),
        (change(image_size=33), "has image_size=33; it must be a multiple"),
        (change(image_size=HUGE), "and pictures of 125000000000 x 125000000000 codes; restore it"),
        (change(image_tokenizer={"levels": [4, "4", 4]}), "image_tokenizer.levels.*: must be"),
        (change(image_tokenizer={"levels": [4, 4]}), "vqgan.codes=64: must be the product of levels"),
        (change(image_tokenizer={"blocks": HUGE}), f"vqgan.blocks={HUGE}: must be at most 32"),
        (change(image_tokenizer={"decoder_blocks": HUGE}), f"vqgan.decoder_blocks={HUGE}: must be at most 32"),
        (change(image_tokenizer={"channels": HUGE}), f"vqgan.channels={HUGE}: must be at most"),
        (change(image_tokenizer={"codes": HUGE}), f"vqgan.codes={HUGE}: must be at most"),
        (change(image_tokenizer={"multipliers": [1] * 2000}), "vqgan.multipliers=.*needs at least one level"),
        (change(image_tokenizer={"multipliers": [HUGE, 1]}), "vqgan.multipliers=.*needs at least one level"),
        (change(image_tokenizer={"levels": [HUGE, 4, 4]}), "vqgan.levels=.* at most 64 channels of 2 to 65536 levels"),
        (change(image_tokenizer={"image_channels": 1}), "has image_tokenizer.image_channels=1; pictures have 3"),
        (change(sampling=5), "does not describe a model .sampling: must be an object"),
        (lambda c: c | {"sampling": {"image": 5}}, "sampling: must have an object for each kind"),
        (change(about=5), "does not describe a model .about: must be an object"),
        (change(about={"tasks": 5}), "about.tasks: must be a list of names"),
        (change(about={"tasks": [5]}), "about.tasks: must be a list of names"),
        (lambda c: {k: v for k, v in c.items() if k != "vocab"}, "does not describe a model .it lacks 'vocab'"),
        (change(vocab={"masks": 17}), "decoder.vocab_size=.* and .* ids in its vocabulary; restore it"),
        (change(decoder={"d_model": 64}), "weight 'embed.weight' has shape .* config.json says .*64"),
        (change(decoder={"layers": 2}), "weight 'blocks.1.wq.weight' is missing"),
        (change(decoder={"layers": 1024}), "weight 'blocks.1.wq.weight' is missing"),
        (change(decoder={"d_model": 1 << 16}), "weight 'embed.weight' has shape .* config.json says .*65536"),
        (change(decoder={"hidden": 1 << 19}), "weight 'blocks.0.up.weight' has shape .* config.json says .*524288"),
        (change(decoder={"grid": None}), "weight 'column.weight' is not in the network that config.json describes"),
        (change(image_tokenizer={"channels": 1 << 14}), "image_tokenizer.safetensors: weight .* has shape"),
        (change(image_tokenizer={"attention_levels": [0]}), "weight .* is missing"),
    ],
)  # fmt: skip
def test_an_altered_config_is_refused(copy: Path, spoil: Callable[[Any], Any], message: str) -> None:
    path = copy / "config.json"
    spoilt = spoil(json.loads(path.read_text()))
    path.write_text(json.dumps(spoilt))
    with pytest.raises(CheckpointError) as told:
        bundle.load(copy)
    assert "\n" not in str(told.value)
    if isinstance(spoilt, dict):
        spoilt["checksum"] = folder.checksum(spoilt)
    path.write_text(json.dumps(spoilt))
    with pytest.raises(CheckpointError, match=message):
        bundle.load(copy)


def test_numbers_are_compared_with_the_header_before_memory_is_taken(copy: Path) -> None:
    """A network of 25 GB by its config.json; its file is some kilobytes."""
    config = json.loads((copy / "config.json").read_text())
    config["decoder"] |= {"d_model": 8192, "layers": 8}
    sign(copy, config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="weight 'embed.weight' has shape"):
        bundle.load(copy)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"norm_eps": 1e-05', '"norm_eps": 1e-04'),
        ('"heads": 2', '"heads": 4'),
        ('"rope_theta": 10000.0', '"rope_theta": 90000.0'),
        ('"activation": "gelu"', '"activation": "relu"'),
        ('"recipe": "none"', '"recipe": "nine"'),
    ],
)
def test_a_number_that_would_do_but_is_another_is_told(copy: Path, old: str, new: str) -> None:
    path = copy / "config.json"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(
        CheckpointError, match="config.json was altered .its own checksum is another.; restore it, or t"
    ):
        bundle.load(copy)
    config = json.loads(path.read_text())
    del config["checksum"]
    path.write_text(json.dumps(config))
    bundle.load(copy)  # as older bundles have it, and those whose owner changed them


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "config.json: is not readable JSON"),
        (b"\xff\xfe", "config.json: is not readable JSON"),
        (b'{"format": 1' + b"0" * 400 + b"}", "config.json: is not readable JSON .*digits"),
        (b'{"format": NaN}', "config.json: is not readable JSON .*NaN"),
        (b'{"a":' * 100_000, "config.json: is nested too deep"),
    ],
)
def test_a_config_that_is_no_json(copy: Path, data: bytes, message: str) -> None:
    (copy / "config.json").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        bundle.load(copy)


def test_a_config_that_is_not_there(copy: Path) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match="config.json is missing; restore it"):
        bundle.load(copy)
    with pytest.raises(CheckpointError, match="the folder has no config.json; give a folder that `cm3 train` wrote"):
        bundle.find(str(copy))


def test_a_file_of_another_format_is_refused(copy: Path) -> None:
    (copy / "decoder.safetensors").write_bytes(b"no tensors at all")
    sign(copy)
    with pytest.raises(CheckpointError, match="decoder.safetensors: not a readable safetensors file"):
        bundle.load(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("file", "name"), [(0, "blocks.0.wq.weight"), (1, "encoder.conv_in.bias")])
def test_a_weight_that_is_no_number_is_named(copy: Path, file: int, name: str, value: float) -> None:
    path = copy / bundle.FILES[file]
    tensors = load_file(path)
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path)
    sign(copy)
    with pytest.raises(CheckpointError, match=f"{path.name}: {name} has values that are not finite, .*restore"):
        bundle.load(copy)


def test_a_weight_that_is_too_large_for_float32_or_no_float_is_named(copy: Path) -> None:
    path = copy / bundle.FILES[0]
    tensors = load_file(path)
    save_file(tensors | {"embed.weight": tensors["embed.weight"].double() * 1e300}, path)
    sign(copy)
    with pytest.raises(CheckpointError, match="embed.weight has values that are not finite"):
        bundle.load(copy)
    save_file(tensors | {"embed.weight": tensors["embed.weight"].to(torch.int32)}, path)
    sign(copy)
    with pytest.raises(CheckpointError, match="weight 'embed.weight' is stored as I32; restore the file"):
        bundle.load(copy)


@pytest.mark.parametrize("more", [-1, 1])
def test_text_ids_are_as_many_as_the_tokenizer_has(copy: Path, tmp_path: Path, more: int) -> None:
    made = bundle.load(copy)
    vocab = dataclasses.replace(made.vocab, text=made.vocab.text + more)
    config = dataclasses.replace(made.decoder.config, vocab_size=vocab.size)
    made.vocab, made.decoder = vocab, Decoder(config)
    told = f"vocab.text={vocab.text}, and tokenizer.json has {vocab.text - more} entries: .* give the tokenizer that"
    with pytest.raises(ConfigError, match=told):
        bundle.save(made, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]
    save_file(made.decoder.state_dict(), copy / bundle.FILES[0])
    page = json.loads((copy / "config.json").read_text())
    page["vocab"]["text"], page["decoder"]["vocab_size"] = vocab.text, vocab.size
    sign(copy, page)
    with pytest.raises(CheckpointError, match=told):
        bundle.load(copy)
    (copy / "tokenizer.json").write_text("[]")
    sign(copy)
    with pytest.raises(CheckpointError, match="tokenizer.json is no text tokenizer; restore it"):
        bundle.load(copy)


def test_parts_that_do_not_fit_are_not_saved(tmp_path: Path) -> None:
    made = tiny_model.bundle()
    made.image_size = 40
    with pytest.raises(ConfigError, match="new' has decoder.grid=.4, 4. and pictures of 5 x 5 codes; make them fit"):
        bundle.save(made, tmp_path / "new")
    made = tiny_model.bundle()
    made.about = {"made": object()}
    with pytest.raises(ConfigError, match="new': sampling and about must be plain JSON .*; mend them"):
        bundle.save(made, tmp_path / "new")
    made.about, made.sampling = {}, {"image": {"temperature": float("nan")}}
    with pytest.raises(ConfigError, match="new': sampling and about must be plain JSON .*; mend them"):
        bundle.save(made, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_find(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert bundle.find(str(saved)) == bundle.find(saved) == saved
    for none in (None, 5, b"scenes"):
        with pytest.raises(CheckpointError, match="is no name; give a string or a path"):
            bundle.find(none)  # type: ignore[arg-type]
    monkeypatch.setattr(bundle, "EMBEDDED", saved.parent)
    monkeypatch.chdir(tmp_path)
    assert bundle.find("tiny") == saved
    with pytest.raises(CheckpointError, match=r"bundle 'tinny': no such folder, .*\(tiny\).* Did you mean 'tiny'\?"):
        bundle.find("tinny")
    monkeypatch.setattr(bundle, "EMBEDDED", tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="not an embedded bundle .there is none.; check the path, or give hf://"):
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
    sign(copy)
    with pytest.raises(CheckpointError, match="weight 'extra' is not in the network"):
        bundle.load(copy)


def test_weights_are_not_those_of_a_file_that_changes_later(copy: Path) -> None:
    got = bundle.load(copy).decoder
    before = {name: value.clone() for name, value in got.state_dict().items()}
    (copy / "decoder.safetensors").write_bytes(bytes((copy / "decoder.safetensors").stat().st_size))
    assert all(torch.equal(value, before[name]) for name, value in got.state_dict().items())
    assert all(p.requires_grad for p in got.parameters())


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "~nobody-of-this-name/x"])
def test_names_that_no_folder_has_are_told_in_one_line(name: str) -> None:
    with pytest.raises(CheckpointError, match="bundle .*: (cannot be looked for|no such folder)") as told:
        bundle.find(name)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["config.json", *bundle.FILES])
@pytest.mark.parametrize("kind", ["folder", "pipe", "link out", "link to nothing", "link in"])
def test_only_plain_files_of_the_bundle_are_read(copy: Path, tmp_path: Path, name: str, kind: str) -> None:
    data = (copy / name).read_bytes()
    (copy / name).unlink()
    if kind == "folder":
        (copy / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(copy / name)
    elif kind == "link out":
        (tmp_path / "secret").write_bytes(data)
        (copy / name).symlink_to("../secret")
    elif kind == "link to nothing":
        (copy / name).symlink_to("nothing")
    else:
        (copy / "real").write_bytes(data)
        (copy / name).symlink_to("real")
        bundle.load(copy)
        return
    with pytest.raises(CheckpointError, match=f"{name}( is missing|.* is a link that leads outside)"):
        bundle.load(copy)


def test_the_hub_s_cache_links_to_its_blobs_and_nowhere_else(saved: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(saved.iterdir())):
        (blobs / str(number)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert same(bundle.load(snapshot).decoder, bundle.load(saved).decoder)
    (snapshot / "tokenizer.json").unlink()
    (tmp_path / "repo" / "secret").write_bytes((saved / "tokenizer.json").read_bytes())
    (snapshot / "tokenizer.json").symlink_to("../../secret")
    with pytest.raises(CheckpointError, match="tokenizer.json' is a link that leads outside"):
        bundle.load(snapshot)


def test_saving_through_a_link_replaces_what_it_leads_to(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copy)
    bundle.save(tiny_model.bundle(), tmp_path / "link", torch.float32)
    assert (tmp_path / "link").is_symlink() and bundle.load(copy).name == "copy"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "link"]


def test_a_full_disk_is_one_line_and_leaves_the_old_bundle_whole(copy: Path) -> None:
    """No file may grow over 20 kB in a process of its own."""
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    script = f"""
import resource, sys
sys.path[:0] = {[str(Path(tiny_model.__file__).parent)]!r}
import tiny_model, torch
from cm3.errors import DiskError
from cm3.model import bundle
made = tiny_model.bundle()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    bundle.save(made, {str(copy)!r}, torch.float32)
except DiskError as error:
    print(error)
"""
    ran = python("-c", script, timeout=120)
    assert "no space is left on the disk; make room" in ran.stdout and ran.stdout.count("\n") == 1, ran.stderr
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]

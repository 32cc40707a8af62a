"""Conversions on a disk: published folders into bundles and into each other's layout, and back bit for bit."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from published_folders import CODES, IDS, SIDE, TEXT, hf_folder, meta_folder, small, vqgan, write_vqgan
from published_language import meta, meta_logits, transformers
from published_tokenizer import of_transformers, text_tokenizer
from safetensors.torch import load_file, save_file

from cm3.convert import convert as running
from cm3.convert.convert import convert
from cm3.convert.ids import IdMap
from cm3.convert.language_models import open_model
from cm3.convert.targets import in_yaml, text_of
from cm3.errors import CheckpointError, ConfigError
from cm3.model import bundle
from cm3.model.attention import Causal

SHAPES: dict[str, dict[str, Any]] = {
    "one": {},
    "grouped": {"kv": 2},
    "swin of two": {"shards": 2, "swin": True},
    "four": {"shards": 4, "kv": 4, "theta": 50_000.0},
    "swin of eight": {"dim": 64, "heads": 16, "kv": 16, "shards": 8, "swin": True},
}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    a, b = ({n: t for n, t in d.items() if n != "rope.freqs"} for d in (a, b))
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def shards(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob("consolidated*.pth"))]


def state(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for path in folder.glob("*.safetensors") for n, t in load_file(path).items()}


@pytest.mark.parametrize("name", SHAPES)
def test_metas_model_becomes_a_bundle_and_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = small(**SHAPES[name], dtype=torch.bfloat16)
    root = meta_folder(tmp_path / "meta", model)
    told = convert(root, tmp_path / "b", "bundle")
    assert (told["from"], told["shards"], told["vocabulary"]) == ("chameleon-meta", model.shape.shards, IDS)
    convert(tmp_path / "b", tmp_path / "back", "chameleon-meta")
    assert all(same(a, b) for a, b in zip(shards(tmp_path / "back"), meta(model), strict=True))
    assert len(shards(tmp_path / "back")) == model.shape.shards
    assert (tmp_path / "back/tokenizer/text_tokenizer.json").read_bytes() == TEXT
    assert same(torch.load(tmp_path / "back/tokenizer/vqgan.ckpt", weights_only=True)["state_dict"], vqgan())
    convert(tmp_path / "back", tmp_path / "b2", "bundle")
    for file in ("decoder.safetensors", "image_tokenizer.safetensors", "tokenizer.json"):
        assert (tmp_path / "b2" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("name", ["grouped", "swin of two"])
def test_a_bundle_draws_the_logits_of_metas_program(name: str, tmp_path: Path) -> None:
    model = small(**SHAPES[name])
    convert(meta_folder(tmp_path / "meta", model), tmp_path / "b", "bundle")
    got, ids = bundle.load(tmp_path / "b"), IdMap.of(TEXT)
    assert got.vocab == ids.vocab and got.image_size == SIDE and got.vqgan.config.codes == CODES
    theirs = torch.randint(IDS, (24,), generator=torch.Generator().manual_seed(0))
    ours = torch.from_numpy(ids.to_ours)[theirs]
    with torch.no_grad():
        logits = got.decoder(ours[None], torch.arange(24)[None], Causal())[0]
    expected = meta_logits(model.shape, meta(model), theirs)
    assert (logits[:, torch.from_numpy(ids.to_ours)] - expected).abs().max() <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("layout", ["chameleon-hf", "anole-hf", "lumina-hf"])
@pytest.mark.parametrize("old", [False, True], ids=["safetensors", "bin"])
def test_each_of_transformers_layouts_becomes_the_same_bundle(layout: str, old: bool, tmp_path: Path) -> None:
    model = small(dtype=torch.bfloat16)
    convert(meta_folder(tmp_path / "meta", model), tmp_path / "b", "bundle")
    folder = hf_folder(tmp_path / "hf", model, layout, files=3, old=old)
    image = None if layout == "anole-hf" else write_vqgan(tmp_path / "vq")
    told = convert(folder, tmp_path / "b2", "bundle", image_tokenizer=image)
    assert told["from"] == layout
    for file in ("decoder.safetensors", "image_tokenizer.safetensors"):
        assert (tmp_path / "b2" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    about = json.loads((tmp_path / "b2/config.json").read_text())["about"]
    assert about["converted"]["from"] == layout and about["converted"]["norm_groups"] == 1
    assert about["prompt_format"] == {"anole-hf": "anole", "lumina-hf": "lumina"}.get(layout, "chameleon")


@pytest.mark.parametrize("name", SHAPES)
def test_metas_and_transformers_layouts_go_into_each_other_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = small(**SHAPES[name], dtype=torch.bfloat16)
    convert(meta_folder(tmp_path / "meta", model), tmp_path / "hf", "chameleon-hf")
    made = state(tmp_path / "hf")
    assert same({n: t for n, t in made.items() if "vqmodel" not in n}, transformers(model))
    halves = {f"model.vqmodel.{n}": t for n, t in vqgan().items() if not n.startswith("decoder.")}
    assert same({n: t for n, t in made.items() if "vqmodel" in n}, halves)
    image = tmp_path / "meta/tokenizer/vqgan.ckpt"
    convert(tmp_path / "hf", tmp_path / "back", "chameleon-meta", image_tokenizer=image)
    assert all(same(a, b) for a, b in zip(shards(tmp_path / "back"), meta(model), strict=True))
    assert (tmp_path / "back/tokenizer/text_tokenizer.json").read_bytes() == TEXT


def test_a_text_tokenizer_is_each_layouts_own_and_comes_back_byte_for_byte() -> None:
    theirs, names = text_of(TEXT, transformers=True)
    published, _ = of_transformers(TEXT)
    assert json.loads(theirs) == json.loads(published)
    assert names[json.loads(TEXT)["model"]["vocab"]["<reserved08707>"]] == "<image>"
    assert text_of(theirs, transformers=False)[0] == TEXT and text_of(TEXT, transformers=False)[0] == TEXT
    assert text_of(theirs, transformers=True)[0] == theirs
    # Spelled otherwise, it says the same.
    spaced = json.dumps(json.loads(published), indent=1).encode()
    assert json.loads(text_of(spaced, transformers=False)[0]) == json.loads(TEXT)
    without = {name: value for name, value in json.loads(TEXT).items() if name != "post_processor"}
    assert json.loads(text_of(json.dumps(without).encode(), transformers=True)[0]) == json.loads(published)


def test_a_text_tokenizer_without_a_place_for_a_picture_is_refused() -> None:
    page = json.loads(text_tokenizer(codes=CODES, reserved=1))
    with pytest.raises(CheckpointError, match="has no <reserved08707>, the id that transformers' layout has"):
        text_of(json.dumps(page).encode(), transformers=True)


def test_more_shards_are_written_and_fewer_refused(tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small(shards=2))
    convert(root, tmp_path / "four", "chameleon-meta", shards=4)
    assert len(shards(tmp_path / "four")) == 4
    assert json.loads((tmp_path / "four/consolidate_params.json").read_text()) == {"model_parallel_size": 4}
    with pytest.raises(CheckpointError, match="shards=1: the model has 2 groups of query-key norms.*multiple of 2"):
        convert(root, tmp_path / "one", "chameleon-meta", shards=1)
    convert(tmp_path / "four", tmp_path / "two", "chameleon-meta", shards=2)
    assert all(same(a, b) for a, b in zip(shards(tmp_path / "two"), shards(root / "models/7b"), strict=True))


def test_norms_of_each_head_are_kept_where_a_layout_can(tmp_path: Path) -> None:
    """A model that was tuned in transformers: its heads' norms went ways of their own."""
    folder = hf_folder(tmp_path / "hf", small(dim=64, heads=16, kv=16))
    tuned = load_file(folder / "model.safetensors")
    g = torch.Generator().manual_seed(7)
    for name in tuned:
        if "q_norm" in name:
            tuned[name] = tuned[name] + 0.1 * torch.randn(tuned[name].shape, generator=g)
    save_file(tuned, folder / "model.safetensors", {"format": "pt"})
    image = write_vqgan(tmp_path / "vq")
    convert(folder, tmp_path / "b", "bundle", image_tokenizer=image)
    convert(tmp_path / "b", tmp_path / "back", "chameleon-hf")
    assert same(state(tmp_path / "back"), tuned)
    with pytest.raises(CheckpointError, match="in 16 groups, and each of Meta's files keeps one: give --shards 16"):
        convert(tmp_path / "b", tmp_path / "meta", "chameleon-meta")
    convert(tmp_path / "b", tmp_path / "meta", "chameleon-meta", shards=16)
    convert(tmp_path / "meta", tmp_path / "again", "chameleon-hf")
    assert same(state(tmp_path / "again"), tuned)


def test_a_model_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    other = {"model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4), "lm_head.weight": torch.zeros(8, 4)}
    save_file(other, tmp_path / "llama/model.safetensors")
    with pytest.raises(CheckpointError, match="no language model of Chameleon's family"):
        convert(tmp_path / "llama", tmp_path / "out", "bundle")


def test_a_number_type_is_chosen(tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small())
    convert(root, tmp_path / "b", "bundle", dtype="bfloat16")
    kinds = {t.dtype for t in load_file(tmp_path / "b/decoder.safetensors").values()}
    assert kinds == {torch.bfloat16}
    assert json.loads((tmp_path / "b/config.json").read_text())["about"]["converted"]["dtype"] == "bfloat16"
    assert {t.dtype for n, t in load_file(tmp_path / "b/image_tokenizer.safetensors").items()} >= {torch.float32}
    large = small()
    large.layers[0]["w1"][0, 0] = 1e6
    with pytest.raises(CheckpointError, match="blocks.0.gate.weight: has values that float16 does not hold"):
        convert(meta_folder(tmp_path / "large", large), tmp_path / "h", "bundle", dtype="float16")


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_a_number_that_the_chosen_type_does_not_hold_is_refused(kind: str, tmp_path: Path) -> None:
    large = small(dtype=torch.float64)
    large.layers[0]["w1"][0, 0] = -3.5e38
    with pytest.raises(CheckpointError, match=f"blocks.0.gate.weight: has values that {kind} does not hold"):
        convert(meta_folder(tmp_path / "large", large), tmp_path / "b", "bundle", dtype=kind)
    assert [p.name for p in tmp_path.iterdir()] == ["large"], "nothing is left"


@pytest.mark.parametrize("to", ["bundle", "chameleon-hf", "chameleon-meta"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_are_no_numbers_are_refused(value: str, to: str, tmp_path: Path) -> None:
    model = small()
    model.layers[1]["w2"][3, 2] = float(value)
    with pytest.raises(CheckpointError, match="blocks.1.down.weight: holds values that are no finite numbers"):
        convert(meta_folder(tmp_path / "meta", model), tmp_path / "out", to)
    with pytest.raises(CheckpointError, match="blocks.1.down.weight: holds values that are no finite numbers"):
        convert(tmp_path / "meta", tmp_path / "out", to, dtype="float16")
    assert [p.name for p in tmp_path.iterdir()] == ["meta"], "nothing is left"


def test_numbers_of_shards_and_types_are_checked(tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small())
    with pytest.raises(ConfigError, match="shards=0: must be an integer, at least 1"):
        convert(root, tmp_path / "out", "chameleon-meta", shards=0)
    with pytest.raises(ConfigError, match="dtype='float61': must be one of float32, bfloat16, float16.*float16"):
        convert(root, tmp_path / "out", "bundle", dtype="float61")


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = meta_folder(tmp_path / "meta", small(shards=4))
    convert(root, tmp_path / "whole", "chameleon-meta")
    written: list[str] = []
    real = running._carry_out

    def stop(work: Path, step: Any, done: Any, *rest: Any) -> None:
        if step.file == "consolidated.02.pth" and not written:
            (work / f".{step.file}.0123abcd.part").write_bytes(b"left by a killed writer")
            raise KeyboardInterrupt
        real(work, step, done, *rest)

    monkeypatch.setattr(running, "_carry_out", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(root, tmp_path / "out", "chameleon-meta")
    assert not (tmp_path / "out").exists()
    first = tmp_path / ".out.converting/consolidated.00.pth"
    before = first.stat().st_mtime_ns, first.stat().st_ino
    written.append("go on")
    convert(root, tmp_path / "out", "chameleon-meta")
    after = (tmp_path / "out/consolidated.00.pth").stat()
    assert before == (after.st_mtime_ns, after.st_ino), "what was done is taken over"
    names = sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*"))
    assert names == sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*"))
    for name in names:
        if (tmp_path / "out" / name).is_file():
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["meta", "out", "whole"]


def test_another_plan_takes_nothing_over(tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small())
    work = tmp_path / ".out.converting"
    work.mkdir()
    (work / "decoder.safetensors").write_bytes(b"of another")
    (work / "converting.json").write_text(
        json.dumps({"plan": "another", "done": {"decoder.safetensors": {"bytes": 10, "sha256": "0"}}})
    )
    convert(root, tmp_path / "out", "bundle")
    bundle.load(tmp_path / "out")
    assert not work.exists()


def test_a_bundle_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small())
    convert(root, tmp_path / "out", "bundle")
    convert(root, tmp_path / "out", "bundle")
    with pytest.raises(ConfigError, match="is there already; give a new folder"):
        convert(root, tmp_path / "out", "chameleon-hf")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds other files"):
        convert(root, tmp_path / "mine", "bundle")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small())
    params = root / "models/7b/params.json"
    page = json.loads(params.read_text())
    page["model"]["n_heads"] = 4
    params.write_text(json.dumps(page))
    (root / "tokenizer/vqgan.ckpt").unlink()
    text = json.loads(TEXT)
    del text["model"]["vocab"]["IMGIMGBZ"]
    text["added_tokens"] = [t for t in text["added_tokens"] if t["content"] != "IMGIMGBZ"]
    (root / "tokenizer/text_tokenizer.json").write_text(json.dumps(text))
    with pytest.raises(CheckpointError) as error:
        convert(root, tmp_path / "out", "bundle")
    message = str(error.value)
    for told in (
        "heads is 8 by the tensors and 4",
        "vqgan.ckpt: is not there",
        "have no entry",
        "image codes must run",
    ):
        assert told in message
    assert "\n" not in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["meta"]


def damage_shard(root: Path) -> None:
    (root / "models/7b/consolidated.01.pth").unlink()


def damage_cut(root: Path) -> None:
    path = root / "models/7b/consolidated.01.pth"
    path.write_bytes(path.read_bytes()[:-900])


def damage_settings(root: Path) -> None:
    (root / "models/7b/params.json").unlink()


def damage_text(root: Path) -> None:
    (root / "tokenizer/text_tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damage_shard, "1 files of weights, and the settings say model_parallel_size=2"),
        (damage_cut, "consolidated.01.pth"),
        (damage_settings, "params.json cannot be read"),
        (damage_text, "give the file as --text-tokenizer"),
    ],
)
def test_a_damaged_download_is_refused(damage: Any, told: str, tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small(shards=2))
    damage(root)
    with pytest.raises(CheckpointError, match=told):
        convert(root / "models/7b", tmp_path / "out", "bundle")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["meta"]


def test_shards_whose_names_do_not_count_and_one_twice_are_refused(tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small(shards=2))
    folder = root / "models/7b"
    for number, name in enumerate(("b.pth", "a.pth")):
        (folder / f"consolidated.{number:02}.pth").rename(folder / name)
    with pytest.raises(CheckpointError, match="a.pth, b.pth: do not count the parts"):
        convert(root, tmp_path / "out", "bundle")
    (folder / "a.pth").unlink()
    shutil.copy(folder / "b.pth", folder / "consolidated.00.pth")
    (folder / "b.pth").rename(folder / "consolidated.01.pth")
    with pytest.raises(CheckpointError, match="shards 0 and 1: the same numbers in layers.0.* one shard twice"):
        convert(root, tmp_path / "out", "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["meta"]


def test_settings_that_say_nothing_are_refused(tmp_path: Path) -> None:
    folder, root = hf_folder(tmp_path / "hf", small(), "anole-hf"), meta_folder(tmp_path / "meta", small())
    for path in (folder / "config.json", root / "models/7b/params.json"):
        path.write_text("{}")
    for source, name in ((folder, "config.json"), (root, "params.json")):
        with pytest.raises(CheckpointError, match=f"{name}: does not say the width of the model.*restore it"):
            convert(source, tmp_path / "b", "bundle")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "meta"]


def test_a_text_tokenizer_that_no_bundle_could_load_is_refused(tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small())
    page = json.loads(TEXT)
    page["pre_tokenizer"] = {"type": "Nonsense"}
    (root / "tokenizer/text_tokenizer.json").write_text(json.dumps(page))
    with pytest.raises(CheckpointError, match="damaged or not a byte-level BPE"):
        convert(root, tmp_path / "out", "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["meta"]


def test_a_half_of_an_image_tokenizer_is_said_to_be_one(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "hf", small())
    with pytest.raises(CheckpointError, match="has an encoder and no decoder.*as --image-tokenizer") as error:
        convert(folder, tmp_path / "out", "bundle")
    assert str(error.value).count(str(folder)) == 1, "the place is named once"


def test_a_place_in_the_source_is_refused(tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small())
    convert(root, root / "b", "bundle")  # a download keeps all that it has
    before = {p: p.read_bytes() for p in (root / "b").iterdir()}
    (tmp_path / "link").symlink_to(root / "b")
    for source in (root / "b", tmp_path / "link"):
        with pytest.raises(ConfigError, match="is the source itself; give another folder"):
            convert(source, root / "b", "bundle", dtype="float16")
        for to in ("bundle", "chameleon-hf", "chameleon-meta"):
            with pytest.raises(ConfigError, match="lies in the bundle that is the source"):
                convert(source, root / "b/new", to)
    assert {p: p.read_bytes() for p in (root / "b").iterdir()} == before
    with pytest.raises(ConfigError, match="is the source itself"):
        convert(root, root, "chameleon-meta")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(ConfigError, match="is a link that leads in a circle"):
        convert(root, tmp_path / "circle", "bundle")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["circle", "link", "meta"]


@pytest.mark.parametrize("to", ["bundle", "chameleon-meta"])
def test_a_source_that_changes_meanwhile_is_refused(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = meta_folder(tmp_path / "meta", small(shards=2))
    path = root / "models/7b/consolidated.01.pth"
    data, real = path.read_bytes(), running._carry_out

    def change(work: Path, step: Any, *rest: Any) -> None:
        real(work, step, *rest)
        if step.file.endswith(("tokenizer.json", "text_tokenizer.json")):
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    def cut(work: Path, step: Any, *rest: Any) -> None:
        path.write_bytes(data[:100])
        real(work, step, *rest)

    monkeypatch.setattr(running, "_carry_out", change)
    with pytest.raises(CheckpointError, match="consolidated.01.pth': was changed while it was read; give the same"):
        convert(root, tmp_path / "out", to)
    assert [p.name for p in tmp_path.iterdir()] == ["meta"]
    path.write_bytes(data)
    monkeypatch.setattr(running, "_carry_out", cut)
    with pytest.raises(CheckpointError, match="consolidated.01.pth': was cut short while it was read"):
        convert(root, tmp_path / "out", to)
    assert not (tmp_path / "out").exists()
    path.write_bytes(data)
    monkeypatch.undo()
    convert(root, tmp_path / "out", to)
    convert(root, tmp_path / "straight", to)
    for file in (p for p in (tmp_path / "straight").rglob("*") if p.is_file()):
        assert (tmp_path / "out" / file.relative_to(tmp_path / "straight")).read_bytes() == file.read_bytes()


def test_another_image_tokenizer_is_another_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = meta_folder(tmp_path / "meta", small())
    real = running._carry_out

    def stop(work: Path, step: Any, *rest: Any) -> None:
        if step.file == "tokenizer.json":
            raise KeyboardInterrupt
        real(work, step, *rest)

    monkeypatch.setattr(running, "_carry_out", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(root, tmp_path / "out", "bundle")
    monkeypatch.undo()
    other = {name: tensor * 2 if name == "decoder.conv_in.weight" else tensor for name, tensor in vqgan().items()}
    torch.save({"state_dict": other}, root / "tokenizer/vqgan.ckpt")
    convert(root, tmp_path / "out", "bundle")
    convert(tmp_path / "out", tmp_path / "back", "chameleon-meta")
    assert same(torch.load(tmp_path / "back/tokenizer/vqgan.ckpt", weights_only=True)["state_dict"], other)


@pytest.mark.parametrize("changed", ["resolution", "pixels", "image tokenizer"])
def test_what_the_image_tokenizer_says_is_in_the_plan(changed: str, tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small())
    model = open_model(root)
    plan = running._plan(model, [])
    assert running._plan(open_model(root), []) == plan
    assert running._plan(model._replace(sampling={}), []) != plan
    path = root / "tokenizer/vqgan.yaml"
    if changed == "resolution":
        path.write_text(path.read_text().replace(f"resolution: {SIDE}", f"resolution: {2 * SIDE}"))
        other = open_model(root)
        assert other.image.size == 2 * SIDE
    elif changed == "pixels":
        network = copy.deepcopy(model.image.vqgan)
        network.config = dataclasses.replace(network.config, pixels="0..1")
        other = model._replace(image=model.image._replace(vqgan=network))
    else:  # by less than half precision tells
        tensors = {name: tensor * (1 + 2**-20) for name, tensor in vqgan().items()}
        torch.save({"state_dict": tensors}, tmp_path / "other.ckpt")
        other = open_model(root, image=tmp_path / "other.ckpt")
    assert running._plan(other, []) != plan


def test_places_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = meta_folder(tmp_path / "meta", small())
    (root / "tokenizer").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {"text_tokenizer": "~/elsewhere", "image_tokenizer": "~/elsewhere/vqgan.ckpt"}
    convert("~/meta", "~/b", "bundle", **given)
    assert bundle.load(tmp_path / "b").image_size == SIDE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "elsewhere", "meta"]


class Callback:
    """An object of a training program."""


def test_what_was_left_out_of_the_file_that_gives_the_decoder_is_told(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "hf", small())
    file = write_vqgan(tmp_path / "vq")
    assert convert(folder, tmp_path / "plain", "bundle", image_tokenizer=file)["warnings"] == []
    torch.save({"state_dict": vqgan(), "callbacks": {"a": Callback()}}, file)
    told = convert(folder, tmp_path / "b", "bundle", image_tokenizer=file)
    name = f"{Callback.__module__}.Callback"
    assert told["warnings"] == [f"left out of pickled files, and never run: {name}"]
    about = json.loads((tmp_path / "b/config.json").read_text())["about"]["converted"]
    assert about["image_tokenizer"]["skipped"] == [name] and "skipped" not in about


def test_a_tuned_model_in_half_precision_goes_out_and_comes_back(tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small())
    convert(root, tmp_path / "b", "bundle")
    # As a run leaves it: rounded, and no longer what was converted.
    tuned = dataclasses.replace(bundle.load(tmp_path / "b"), about={"prompt_format": "chameleon"})
    bundle.save(tuned, tmp_path / "tuned", torch.float16)
    convert(tmp_path / "tuned", tmp_path / "hf", "chameleon-hf")
    assert {t.dtype for n, t in state(tmp_path / "hf").items() if n.startswith("model.vqmodel.")} == {torch.float16}
    convert(tmp_path / "hf", tmp_path / "back", "bundle", image_tokenizer=root / "tokenizer/vqgan.ckpt")


def test_norms_that_were_averaged_are_told(tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small(shards=2))
    assert convert(root, tmp_path / "alike", "bundle")["warnings"] == []
    path = root / "models/7b/consolidated.01.pth"
    shard = torch.load(path, weights_only=True)
    shard["layers.1.ffn_norm.weight"] = shard["layers.1.ffn_norm.weight"] * (1 + 1 / 256)
    torch.save(shard, path)
    (line,) = convert(root, tmp_path / "b", "bundle")["warnings"]
    assert line.startswith("1 norm differs between Meta's files") and "bit for bit" in line
    about = json.loads((tmp_path / "b/config.json").read_text())["about"]["converted"]
    assert about["averaged"]["norms"] == 1 and 1 / 512 < about["averaged"]["apart"] <= 1 / 256
    assert convert(tmp_path / "b", tmp_path / "back", "chameleon-meta")["warnings"] == [line]
    shard["layers.1.ffn_norm.weight"] = torch.full_like(shard["layers.1.ffn_norm.weight"], float("nan"))
    torch.save(shard, path)
    with pytest.raises(CheckpointError, match="layers.1.ffn_norm.weight: of another model in some shard"):
        convert(root, tmp_path / "c", "bundle")


def test_bundles_of_other_models_are_refused(tmp_path: Path) -> None:
    import tiny_model

    bundle.save(tiny_model.bundle(), tmp_path / "ours", torch.float32)
    with pytest.raises(CheckpointError, match="decoder.norm=layer, not rms.*its vocabulary is CM3Leon's"):
        convert(tmp_path / "ours", tmp_path / "out", "chameleon-hf")
    convert(meta_folder(tmp_path / "meta", small()), tmp_path / "b", "bundle")
    with pytest.raises(CheckpointError, match="is a bundle, with tokenizers of its own"):
        convert(tmp_path / "b", tmp_path / "out", "chameleon-hf", text_tokenizer=tmp_path / "t.json")
    path = tmp_path / "b/decoder.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="decoder.safetensors was altered"):
        convert(tmp_path / "b", tmp_path / "out", "chameleon-hf")
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.converting").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"to": "gguf"}, "to='gguf': must be one of bundle, chameleon-hf, chameleon-meta"),
        ({"to": "bundle", "shards": 2}, "shards=2: are for chameleon-meta alone"),
        ({"to": "bundle", "dtype": "int8"}, "dtype='int8': must be one of float32"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    root = meta_folder(tmp_path / "meta", small())
    with pytest.raises(ConfigError, match=told):
        convert(root, tmp_path / "out", **settings)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        convert(tmp_path / "none", tmp_path / "out", "bundle")
    shutil.copytree(root / "models/7b", root / "models/30b")
    with pytest.raises(CheckpointError, match="has 2 models, 30b, 7b; give one"):
        convert(root, tmp_path / "out", "bundle")


def test_settings_as_yaml() -> None:
    made = in_yaml({"model": {"target": "a.B", "n": 3, "list": [1, 2], "none": None, "flag": False}})
    assert made == "model:\n  target: a.B\n  n: 3\n  list: [1, 2]\n  none: null\n  flag: false\n"

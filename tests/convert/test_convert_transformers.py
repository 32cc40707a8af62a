"""What is written for transformers is loaded by it, gives our logits there, and writes the same words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_folders import IDS, SIDE, TEXT, meta_folder, small
from published_tokenizer import of_transformers

from cm3.convert.convert import convert
from cm3.convert.ids import IdMap
from cm3.model import bundle
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder

transformers = pytest.importorskip("transformers")

SHAPES: dict[str, dict[str, Any]] = {
    "one shard": {},
    "one shard, swin": {"swin": True},
    "grouped heads": {"kv": 2},
    "two shards, swin": {"shards": 2, "swin": True},
    "four shards, grouped, another base": {"shards": 4, "kv": 4, "theta": 50_000.0},
    "eight shards": {"dim": 64, "heads": 16, "kv": 16, "shards": 8},
    "eight shards, swin, grouped": {"dim": 64, "heads": 16, "kv": 8, "shards": 8, "swin": True},
}
NEW = 200


@pytest.fixture(params=SHAPES)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Decoder]:
    """transformers' model and our decoder, of one download of Meta's."""
    model = small(**SHAPES[request.param])
    # Of the size that logits of real models have: 1e-5 is said of those.
    model.outer["output"] *= 0.1
    convert(meta_folder(tmp_path / "meta", model), tmp_path / "b", "bundle")
    convert(tmp_path / "b", tmp_path / "hf", "chameleon-hf")
    theirs, told = transformers.ChameleonForConditionalGeneration.from_pretrained(
        tmp_path / "hf", dtype=torch.float32, output_loading_info=True
    )
    assert not any(told[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    return theirs.eval(), bundle.load(tmp_path / "b").decoder


def ours_of(decoder: Decoder, ids: torch.Tensor) -> torch.Tensor:
    """Our logits in the order of the file's ids, of the file's ids (s,)."""
    to_ours = torch.from_numpy(IdMap.of(TEXT).to_ours)
    with torch.no_grad():
        logits = decoder(to_ours[ids][None], torch.arange(len(ids))[None], Causal())
    return logits[0][:, to_ours]


def test_logits_are_the_same(both: tuple[Any, Decoder]) -> None:
    theirs, decoder = both
    ids = torch.randint(IDS, (48,), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = theirs(input_ids=ids[None]).logits[0]
    images = torch.from_numpy(IdMap.of(TEXT).images)
    # transformers fills the logits of images, and of nothing else, with the smallest number.
    assert (logits[:, images] == torch.finfo(torch.float32).min).all()
    rest = torch.ones(IDS, dtype=torch.bool)
    rest[images] = False
    assert (ours_of(decoder, ids) - logits)[:, rest].abs().max() <= 1e-5
    assert logits[:, rest].std() > 0.1


def test_it_writes_the_same_words(both: tuple[Any, Decoder]) -> None:
    theirs, decoder = both
    prompt = torch.randint(IDS, (5,), generator=torch.Generator().manual_seed(4))
    settings = transformers.GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=1)
    theirs.generation_config.eos_token_id = None  # let it write on
    got = theirs.generate(input_ids=prompt[None], generation_config=settings)[0]
    assert len(got) == len(prompt) + NEW
    # Greedy: each token that transformers wrote is ours too, after those before it; of two that are as near as rounding
    # either is.
    logits = ours_of(decoder, got[:-1])
    logits[:, torch.from_numpy(IdMap.of(TEXT).images)] = -torch.inf
    logits = logits[len(prompt) - 1 :]
    taken = logits.gather(1, got[len(prompt) :, None])[:, 0]
    assert (taken >= logits.max(-1).values - 2e-5).all()
    assert len(got[len(prompt) :].unique()) > 3


def test_its_settings_and_tokenizer_are_read(tmp_path: Path) -> None:
    model = small(shards=2, swin=True, dtype=torch.bfloat16)
    convert(meta_folder(tmp_path / "meta", model), tmp_path / "hf", "chameleon-hf")
    config = transformers.ChameleonConfig.from_pretrained(tmp_path / "hf")
    assert (config.swin_norm, config.model_parallel_size, config.dtype) == (True, 2, torch.bfloat16)
    assert (config.vq_config.resolution, config.vq_config.num_embeddings) == (SIDE, 64)
    text, vocabulary_map = of_transformers(TEXT)
    assert config.vocabulary_map == vocabulary_map
    loaded = transformers.ChameleonForConditionalGeneration.from_pretrained(tmp_path / "hf")
    assert {p.dtype for n, p in loaded.named_parameters() if "vqmodel" not in n} == {torch.bfloat16}
    # The codes of the image tokenizer and the ids of its names are two things, and transformers maps the same.
    codes = torch.arange(64)
    mapped = loaded.model.vocabulary_mapping.convert_img2bpe(codes)
    assert np.array_equal(mapped.numpy(), IdMap.of(TEXT).images)
    assert loaded.generation_config.eos_token_id == vocabulary_map["</s>"]
    assert loaded.generation_config.bos_token_id == vocabulary_map["<s>"] == 0
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert words.convert_tokens_to_ids(["<image>", "<racm3:break>", "<eoss>", "</s>"]) == [
        vocabulary_map[name] for name in ("<image>", "<racm3:break>", "<eoss>", "</s>")
    ]
    assert (words.sep_token, words.pad_token) == ("<reserved08706>", "<pad>")
    sentence = "a small red circle"
    assert words(sentence).input_ids == [0, *_plain(text, sentence)]
    assert json.loads((tmp_path / "hf/preprocessor_config.json").read_text())["size"] == {"shortest_edge": SIDE}


def _plain(text: bytes, sentence: str) -> list[int]:
    import tokenizers

    return tokenizers.Tokenizer.from_str(text.decode()).encode(sentence, add_special_tokens=False).ids


def test_a_large_model_is_written_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cm3.convert import targets

    model = small()
    root = meta_folder(tmp_path / "meta", model)
    convert(root, tmp_path / "one", "chameleon-hf")
    monkeypatch.setattr(targets, "SHARD_BYTES", 60_000)
    convert(root, tmp_path / "many", "chameleon-hf")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 3
    one, many = (
        transformers.ChameleonForConditionalGeneration.from_pretrained(tmp_path / name).state_dict()
        for name in ("one", "many")
    )
    assert one.keys() == many.keys() and all(torch.equal(one[n], many[n]) for n in one)
    image = root / "tokenizer/vqgan.ckpt"
    convert(tmp_path / "many", tmp_path / "b", "bundle", image_tokenizer=image)
    convert(root, tmp_path / "b2", "bundle")
    names = ("decoder.safetensors", "image_tokenizer.safetensors")
    assert all((tmp_path / "b" / n).read_bytes() == (tmp_path / "b2" / n).read_bytes() for n in names)

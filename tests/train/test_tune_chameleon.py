"""A bundle of Chameleon's grammar is tuned: pictures and words as targets, adapters, and from nothing with its file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_chameleon
import tiny_model
import torch
from safetensors.torch import save_file
from small_run import records

from cm3.convert.ids import IdMap
from cm3.data.kinds import DocumentData, TaskData
from cm3.document import Document, Gap
from cm3.errors import CheckpointError, ConfigError
from cm3.generate import CM3Leon
from cm3.model import bundle as bundles
from cm3.model.decoder import DecoderConfig
from cm3.runs.export_run import export_run, format_of
from cm3.runs.pretrain_run import PretrainRun
from cm3.tasks.task import Example, encode
from cm3.tasks.template import Laid
from cm3.train.lora import LoraConfig
from cm3.train.optim import OptimConfig
from cm3.vocab import Vocab

V = tiny_chameleon.IDS.vocab


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to start from, converted as far as anything here sees."""
    folder = tmp_path_factory.mktemp("base") / "bundle"
    bundles.save(tiny_chameleon.bundle("anole"), folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures with captions and questions."""
    folder, rng, rows = tmp_path_factory.mktemp("data"), np.random.default_rng(0), []
    for i in range(4):
        PIL.Image.fromarray(rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        said = {"question": f"what is {i}?", "answer": f"it is {i}", "text": f"picture {i}"}
        rows.append(said | {"image": f"{i}.png", "ocr_content": "A"})
    (folder / "all.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder / "all.jsonl"


def run(out: Path, data: Any, **changes: Any) -> PretrainRun:
    made = PretrainRun(
        out=str(out), windows=2, length=192, steps=6, log_every=1, save_every=6, sample_every=0, dtype="float32",
        optim=OptimConfig(lr=5e-3, warmup=0), data=data,
    )  # fmt: skip
    return replace(made, **changes)


def test_pictures_and_words_are_learnt_and_the_bundle_keeps_its_form(base: Path, lines: Path, tmp_path: Path) -> None:
    data = DocumentData((f"jsonl:{lines}",), holdout=0.0)
    record = run(tmp_path / "run", data, init=str(base), steps=20).run(progress=False)
    told = records(tmp_path / "run")
    for name in ("loss_text", "loss_image"):
        assert told[-1][name] < told[0][name]
    tuned = CM3Leon.load(record["bundle"])
    assert tuned.vocab == V and tuned.codec.format == "anole"
    assert (Path(record["bundle"]) / "tokenizer.json").read_bytes() == tiny_chameleon.FILE
    assert tuned.generate(["picture 1", Gap("interleaved")], max_tokens=6, pictures=1).filled[0]
    export_run(tmp_path / "run", tmp_path / "again")
    assert bundles.load(tmp_path / "again").about["prompt_format"] == "anole"


def test_examples_of_tasks_have_the_turns_of_the_format(base: Path, lines: Path, tmp_path: Path) -> None:
    """What is tuned on is what is asked: the prompt as the model reads it, its answer, and what closes it."""
    data = TaskData((f"vqa2=jsonl:{lines}", f"write=jsonl:{lines}"), weights={"vqa2": 0.75})
    record = run(tmp_path / "run", data, init=str(base), prompt_format="chameleon").run(progress=False)
    tuned = CM3Leon.load(record["bundle"])
    assert tuned.codec.format == "chameleon" and set(tuned.tasks) == {"vqa2", "write"}
    reply = tuned.answer(PIL.Image.new("RGB", (32, 32)), "what is 1?", max_tokens=4)
    assert isinstance(reply.text, str)


def test_a_format_of_turns_is_for_the_grammar_that_has_them() -> None:
    ours = Vocab(text=256, image=2, masks=1, reserved=0)
    assert format_of(ours, None) == {} and format_of(V, None) == {"prompt_format": "plain"}
    with pytest.raises(ConfigError, match="prompt_format='anole': is for a model of the grammar 'chameleon'"):
        format_of(ours, None, "anole")


@pytest.mark.parametrize("name", ["chameleon", "anole"])
def test_a_tuned_sequence_is_a_prompt_and_its_answer(name: str) -> None:
    codec = CM3Leon(tiny_chameleon.bundle(name)).codec
    picture = PIL.Image.new("RGB", (32, 32), "red")
    for answer, gap in ((Document.of("it is").parts[0], Gap("text")), (Document.of(picture).parts[0], Gap("image"))):
        prompt = Document.of(picture, "what?", gap)
        example = Example(Laid(prompt.parts[:-1], answer, ()), "1", "here", {})
        (made,) = encode([example], codec, "answer")
        opening = codec.encode_prompt(prompt).tokens.ids.tolist()
        ids, rest = made.tokens.ids.tolist(), len(opening)
        assert ids[:rest] == opening and ids[-1] == V.eos and (ids[-2] == V.eoss) == (gap == Gap("image"))
        assert (made.weights[:rest] == 0).all() and (made.weights[rest:] == 1).all()
        assert (V.turn in opening) == (name == "chameleon" or gap == Gap("image"))
        assert made.tokens.cells[made.tokens.cells > 0].tolist() == [*range(1, 17)] * (1 + (gap == Gap("image")))


def test_a_model_with_marks_in_its_pictures_is_tuned(lines: Path, tmp_path: Path) -> None:
    """On documents, and by adapters on tasks: what is written afterwards has the marks."""
    vocab = tiny_chameleon.LUMINA.vocab
    bundles.save(tiny_chameleon.lumina(), tmp_path / "base", torch.float32)
    data = DocumentData((f"jsonl:{lines}",), holdout=0.0)
    record = run(tmp_path / "run", data, init=str(tmp_path / "base"), steps=20).run(progress=False)
    told = records(tmp_path / "run")
    for name in ("loss_text", "loss_image"):
        assert told[-1][name] < told[0][name]
    export_run(tmp_path / "run", tmp_path / "again")
    pytest.importorskip("peft")
    tasks = TaskData((f"vqa2=jsonl:{lines}", f"write=jsonl:{lines}"))
    lora = LoraConfig(rank=2, alpha=4)
    adapted = run(tmp_path / "lora", tasks, init=record["bundle"], lora=lora).run(progress=False)
    for folder in (record["bundle"], tmp_path / "again", adapted["bundle"]):
        tuned = CM3Leon.load(folder)
        assert tuned.vocab == vocab and tuned.codec.format == "lumina"
    assert tuned.generate("picture 1").image.size == (32, 32)
    with pytest.raises(ConfigError, match="'lumina' is the format where vocab.marks has those of pictures"):
        run(tmp_path / "no", data, init=str(tmp_path / "base"), prompt_format="chameleon").run(progress=False)


def test_a_tuned_sequence_with_marks_is_a_prompt_and_its_answer() -> None:
    """Codes, marks and what begins and ends a picture are learnt, and the turn that ends the answer."""
    codec, v = CM3Leon(tiny_chameleon.lumina()).codec, tiny_chameleon.LUMINA.vocab
    picture = PIL.Image.new("RGB", (32, 32), "red")
    for answer, gap, begun in (
        (Document.of("it is").parts[0], Gap("text"), 0),
        (Document.of(picture).parts[0], Gap("image"), 3),
    ):
        prompt = Document.of(picture, "what?", gap)
        (made,) = encode([Example(Laid(prompt.parts[:-1], answer, ()), "1", "here", {})], codec, "answer")
        opening = codec.encode_prompt(prompt).tokens.ids.tolist()
        ids, rest = made.tokens.ids.tolist(), len(opening)
        assert ids[:rest] == opening and ids[-1] == v.turn and v.eos not in ids
        assert (made.weights[: rest - begun] == 0).all() and (made.weights[rest - begun :] == 1).all()
        assert v.marks is not None and ids.count(v.marks.row) == (4 if gap == Gap("text") else 8)
    (row,) = encode(
        [Example(Laid(Document.of("red").parts, Document.of(picture).parts[0], ()), "1", "here", {})], codec
    )
    said = codec.text.encode("Generate an image of 32x32 according to the following prompt:\nred")
    assert row.tokens.ids[1 : 1 + len(said)].tolist() == [v.text_start + i for i in said] and (row.weights == 1).all()


def test_adapters_learn_beside_it(base: Path, lines: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lora = LoraConfig(rank=2, alpha=4)
    record = run(tmp_path / "run", DocumentData((f"jsonl:{lines}",), holdout=0.0), init=str(base), lora=lora).run(
        progress=False
    )
    before, after = bundles.load(base).decoder.state_dict(), bundles.load(record["bundle"]).decoder.state_dict()
    kept = {name: torch.equal(after[name], weight.half().float()) for name, weight in before.items()}
    moved = {name.split(".")[-2] for name, same in kept.items() if not same}
    assert moved and moved <= set(lora.targets)


def test_a_model_from_nothing_takes_the_file_that_lies_in_its_folder(lines: Path, tmp_path: Path) -> None:
    out, image = tmp_path / "run", tmp_path / "image"
    image.mkdir()
    save_file(tiny_model.vqgan().state_dict(), image / "image_tokenizer.safetensors")
    page = {"vqgan": asdict(tiny_model.SHAPE), "size": tiny_model.SIZE}
    (image / "config.json").write_text(json.dumps(page))
    out.mkdir()
    (out / "tokenizer.json").write_bytes(tiny_chameleon.FILE)
    model = DecoderConfig(**tiny_chameleon.SHAPE)
    asked = run(
        out, DocumentData((f"jsonl:{lines}",), holdout=0.0), model=model, image_tokenizer=str(image), cells=False
    )
    assert asked.settled().model.vocab_size == V.size
    made = CM3Leon.load(asked.run(progress=False)["bundle"])
    assert made.vocab == V and made.codec.format == "plain" and made.decoder.config.grid is None


def test_a_model_from_nothing_learns_a_file_that_names_every_id(lines: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.mkdir()
    save_file(tiny_model.vqgan().state_dict(), image / "image_tokenizer.safetensors")
    page = {"vqgan": asdict(tiny_model.SHAPE), "size": tiny_model.SIZE}
    (image / "config.json").write_text(json.dumps(page))
    asked = run(
        tmp_path / "run", DocumentData((f"jsonl:{lines}",), holdout=0.0), model=DecoderConfig(**tiny_chameleon.SHAPE),
        image_tokenizer=str(image), cells=False, grammar="chameleon", text_entries=260, prompt_format="chameleon",
    )  # fmt: skip
    planned = asked.settled().model.vocab_size
    made = CM3Leon.load(asked.run(progress=False)["bundle"])
    assert made.vocab.grammar == "chameleon" and made.vocab.size == planned and made.vocab.turn is not None
    ids = IdMap.of((Path(asked.out) / "bundle/tokenizer.json").read_bytes(), planned)
    assert ids.vocab == made.vocab and len(ids.images) == tiny_model.SHAPE.codes
    text = made.codec.text
    for said in ("picture 3", "a <s> IMGIMGBZ <reserved08706> \u00e9"):
        assert text.decode(text.encode(said)) == said, "what is typed spells no special"
    with pytest.raises(ConfigError, match="grammar='cm4': must be 'cm3' or 'chameleon'"):
        replace(asked, grammar="cm4", out=str(tmp_path / "no")).run(progress=False)
    assert not (tmp_path / "no").exists()


def test_what_does_not_fit_is_refused(base: Path, lines: Path, tmp_path: Path) -> None:
    data = DocumentData((f"jsonl:{lines}",), holdout=0.0)
    with pytest.raises((ConfigError, CheckpointError), match="about.prompt_format='anol': must be one of"):
        run(tmp_path / "run", data, init=str(base), prompt_format="anol").run(progress=False)
    assert not (tmp_path / "run" / "config.json").exists()

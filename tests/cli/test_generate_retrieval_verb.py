"""generate --retrieve and eval emblems, run for real on a tiny model with a bank: what they write, say and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest
import torch
from command import Cm3
from tiny_model import stir

from cm3.cli.attribution import document_panel, told
from cm3.document import Document
from cm3.generate import Retrieved
from cm3.model import bundle
from cm3.retrieval import pairs
from cm3.retrieval.embed import load_encoder
from cm3.scenes.data.emblem_bank import build_emblem_bank

PROMPT = "a picture of a blosk"


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with random weights."""
    folder = tmp_path_factory.mktemp("encoder") / "pairs"
    torch.manual_seed(0)
    pairs.save(pairs.Pairs(pairs.PairsConfig()), folder)
    return folder


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    """Six emblems and two scenes, 64 px."""
    folder = tmp_path_factory.mktemp("bank") / "bank"
    build_emblem_bank(folder, load_encoder(encoder), test=4, train=2, scenes=2, size=64)
    return folder


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A bundle with random weights that heeds what stands before."""
    folder, made = tmp_path_factory.mktemp("plain") / "model", bundle.load(tiny)
    stir(made.decoder)
    bundle.save(made, folder, torch.float32)
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, plain: Path, encoder: Path, bank: Path) -> Path:
    """The same, with its bank and encoder."""
    folder, made = tmp_path_factory.mktemp("whole") / "model", bundle.load(plain)
    made.encoder, made.memory = encoder, bank
    bundle.save(made, folder, torch.float32)
    return folder


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with other random weights."""
    folder = tmp_path_factory.mktemp("other") / "pairs"
    torch.manual_seed(1)
    pairs.save(pairs.Pairs(pairs.PairsConfig()), folder)
    return folder


def test_each_line_of_a_file_says_what_it_drew_on(cm3: Cm3, plain: Path, bank: Path, encoder: Path) -> None:
    Path("p.jsonl").write_text(json.dumps({"prompt": PROMPT, "retrieve": 2}) + '\n{"prompt": "a red circle"}\n')
    given = ("--model", plain, "--memory", bank, "--encoder", encoder)
    alone = cm3("generate", PROMPT, *given, "--retrieve", "2", "--json").json
    ran = cm3("generate", "--prompts", "p.jsonl", *given, "--out", "many", "--json")
    assert ran.code == 0, ran.err
    first, second = (json.loads(line) for line in Path("many/results.jsonl").read_text().splitlines())
    assert first["attribution"] == alone["attribution"] != [] and first["left_out"] == alone["left_out"]
    assert second["attribution"] == second["left_out"] == []
    with PIL.Image.open(Path("many", first["files"][0])) as made:
        assert json.loads(made.text["attribution"]) == first["attribution"]
    told = cm3("generate", "--prompts", "p.jsonl", "--model", plain, "--out", "many").refusal
    assert "many: was begun with another memory: " in told and "now None; give the same command" in told


def test_every_picture_says_what_it_drew_on(cm3: Cm3, plain: Path, bank: Path, encoder: Path) -> None:
    given = ("--model", plain, "--retrieve", "2", "--memory", bank, "--encoder", encoder, "--n", "2")
    ran = cm3("generate", PROMPT, *given)
    lines = ran.out.splitlines()
    assert ran.code == 0
    files = [line for line in lines if not line.startswith("  ")]
    drew = [line for line in lines if line.startswith("  drew on ")]
    assert len(files) == 2 and len(lines) == 2 + len(drew) and drew[: len(drew) // 2] == drew[len(drew) // 2 :]
    as_json = cm3("generate", PROMPT, *given, "--json").json
    attribution = as_json["attribution"]
    assert 1 <= len(attribution) == len(drew) // 2 <= 2 and as_json["left_out"] == []
    for entry, line in zip(attribution, drew, strict=False):
        assert set(entry) == {"id", "score", "by", "source", "license", "text"}
        assert entry["by"] == "text" and entry["license"] == "MIT" and -1 <= entry["score"] <= 1
        assert entry["id"] in line and entry["source"] in line and "licence MIT" in line
        assert f"{entry['score']:.2f} by text" in line and repr(entry["text"])[:70] in line
    for name in files:
        with PIL.Image.open(name) as made:
            assert json.loads(made.text["attribution"]) == attribution and made.text["prompt"] == PROMPT


def test_a_bundle_with_a_bank_needs_no_options(cm3: Cm3, plain: Path, whole: Path, bank: Path, encoder: Path) -> None:
    given = cm3("generate", PROMPT, "--model", plain, "--retrieve", 1, "--memory", bank, "--encoder", encoder, "--json")
    own = cm3("generate", PROMPT, "--model", whole, "--retrieve", 1, "--json")
    assert own.code == 0
    assert own.json["attribution"] == given.json["attribution"] and own.json["scores"] == given.json["scores"]
    mixed = cm3("generate", PROMPT, "--model", whole, "--retrieve", 1, "--memory", bank, "--json")
    assert mixed.json["scores"] == own.json["scores"], "the model's own encoder serves another bank of the same kind"


def test_nothing_is_retrieved_unless_asked_for(cm3: Cm3, plain: Path, whole: Path) -> None:
    bare = cm3("generate", PROMPT, "--model", plain, "--json")
    own = cm3("generate", PROMPT, "--model", whole, "--json")
    assert own.json["attribution"] == bare.json["attribution"] == [] and own.json["scores"] == bare.json["scores"]
    with PIL.Image.open(own.json["files"][0]) as made:
        assert "attribution" not in made.text


def test_what_becomes_of_documents_without_the_prompt_reaches_the_model(cm3: Cm3, whole: Path) -> None:
    def scores(*more: str) -> list[float]:
        given = ("--model", whole, "--retrieve", "1", "--guidance", "4", *more)
        return cm3("generate", PROMPT, *given, "--json").json["scores"]

    assert scores() == scores("--unconditional", "kept") != scores("--unconditional", "dropped")


def test_the_contact_sheet_has_the_documents_beside_the_pictures(cm3: Cm3, whole: Path) -> None:
    sizes = []
    for options in ((), ("--retrieve", "1"), ("--retrieve", "1", "--n", "2")):
        ran = cm3("generate", PROMPT, "--model", whole, *options, "--sheet", "deep/sheet.png", "--json")
        assert ran.code == 0 and ran.json["sheet"] == "deep/sheet.png"
        with PIL.Image.open("deep/sheet.png") as sheet:
            sizes.append(sheet.size)
    assert sizes[0][0] > sizes[1][0] == sizes[2][0] and sizes[2][1] > sizes[1][1] + 256


def test_what_is_told_of_odd_documents() -> None:
    long = Retrieved(Document.of("word " * 40, id="a"), 0.5, "image")
    bare = Retrieved(Document.of(PIL.Image.new("RGB", (4, 4))), float("nan"), "text")
    assert told([long], "had no room for")[0].startswith(
        "  had no room for a  0.50 by image  licence unknown  'word word"
    )
    assert len(told([long])[0]) < 140 and told([long])[0].endswith("...'")
    assert told([bare]) == ["  drew on a document  by text  licence unknown  no text"]
    assert document_panel(long, side=32).picture.size == (32, 32) and document_panel(bare).picture.size == (4, 4)
    assert all(line.text for line in document_panel(bare).lines)


BANK = ["--retrieve", "1", "--memory", "{bank}"]
BAD = {
    "too many": (["--retrieve", "4"], "--retrieve 4: must be 0 to 3 documents"),
    "less than none": (["--retrieve", "-1"], "--retrieve -1: must be 0 to 3 documents"),
    "no number": (["--retrieve", "two"], "--retrieve: 'two' is not a whole number"),
    "no bank": (["--retrieve", "1"], "there is no memory bank; give memory=FOLDER (--memory FOLDER)"),
    "an empty folder as bank": (["--retrieve", "1", "--memory", "."], "'.'"),
    "no encoder": (BANK, "give its folder, encoder=FOLDER (--encoder FOLDER)"),
    "a missing encoder": ([*BANK, "--encoder", "./no"], "encoder './no': no such folder"),
    "another encoder": ([*BANK, "--encoder", "{other}"], "encoder"),
    "another treatment": (["--unconditional", "keep"], "keep"),
    "a sheet under a file": (["--sheet", "{picture}/x.png"], "is a file; give a folder"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    cm3: Cm3, plain: Path, bank: Path, other: Path, picture: Path, tmp_path: Path, what: str
) -> None:
    command, message = BAD[what]
    args = [a.format(bank=bank, other=other, picture=picture) for a in command]
    ran = cm3("generate", PROMPT, "--model", plain, *args)
    assert message in ran.refusal
    assert ran.out == "" and list(tmp_path.iterdir()) == []


def test_eval_emblems(cm3: Cm3, whole: Path) -> None:
    ran = cm3("eval", "emblems", "--model", whole, "--n", "2", "--seed", "3", "--sheet", "emblems.png", "--json")
    assert ran.code == 0
    report = ran.json
    tasks = ["k0", "k1_kept", "k1_dropped", "k2_kept", "k2_dropped"]
    assert all(0 <= report[name] <= 1 for name in (*tasks, "k1", "k2", "retriever_first", "guess"))
    assert (report["n"], report["seed"], report["unconditional"]) == (2, 3, "kept")
    assert report["k1"] == report["k1_kept"] and set(report["details"]) == {*tasks, "retriever"}
    assert "retriever_first" in ran.err and "2 emblems never trained on, seed 3" in ran.err
    with PIL.Image.open("emblems.png") as sheet:
        assert sheet.width > 3 * 256


def test_the_demo_shows_emblems_where_the_model_has_a_bank(cm3: Cm3, whole: Path, plain: Path) -> None:
    ran = cm3("demo", "--model", whole, "--max-tokens", "16", "--json")
    assert ran.code == 0, ran.err
    documents = [one["document"] for one in ran.json["emblems"]]
    assert len(documents) == 2 and all(d.startswith(("emblem/", "scene/")) for d in documents)
    page = Path(ran.json["page"]).read_text(encoding="utf-8")
    assert all(one["prompt"] in page for one in ran.json["emblems"]) and "only a document shows" in page
    without = cm3("demo", "--model", plain, "--max-tokens", "16", "--json")
    assert without.json["emblems"] == []


def test_eval_emblems_by_options(cm3: Cm3, plain: Path, bank: Path, encoder: Path) -> None:
    given = ("eval", "emblems", "--model", plain, "--memory", bank, "--encoder", encoder, "--n", "2")
    report = cm3(*given, "--tasks", "k1_kept", "--guidance", "1.5", "--json").json
    assert report["sampling"] == {"guidance": 1.5} and set(report["details"]) == {"k1_kept", "retriever"}
    assert "there is no memory bank" in cm3("eval", "emblems", "--model", plain, "--n", "2").refusal
    assert "the memory bank lacks 'emblem/test/4' and 1 more" in cm3(*given[:-1], "6").refusal
    assert "--tasks k3: must be among k0, k1_kept" in cm3(*given, "--tasks", "k3").refusal
    assert "--n 0: must be at least 1" in cm3(*given[:-1], "0").refusal
    assert "--seed -1: must be at least 0" in cm3(*given, "--seed", "-1").refusal


def test_help_has_the_options(cm3: Cm3) -> None:
    told = cm3("generate", "--help").out
    assert all(f"--{name}" in told for name in ("retrieve", "memory", "encoder", "unconditional", "sheet"))
    told = cm3("eval", "emblems", "--help").out
    assert all(f"--{name}" in told for name in ("memory", "encoder", "tasks", "sheet"))

"""generate, describe and infill, run for real on a tiny model: what they write, what they say, what they refuse."""

from __future__ import annotations

import dataclasses
import importlib
import stat
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from command import Cm3

from cm3.generate import CM3Leon
from cm3.picture import open_picture
from cm3.registry import VERBS

PROMPT = "a large red circle at the top left on a grey background"


def test_generate_writes_pictures_with_their_prompt_inside(cm3: Cm3, tiny: Path) -> None:
    ran = cm3("generate", PROMPT, "--model", tiny, "--n", "2", "--seed", "5", "--out", "deep/out")
    assert ran.code == 0
    files = ran.out.splitlines()
    assert len(files) == 2 and len(set(files)) == 2
    for i, name in enumerate(files):
        with PIL.Image.open(name) as made:
            assert made.size == (64, 64)
            assert made.text["prompt"] == PROMPT and made.text["seed"] == "5" and made.text["number"] == str(i)
    assert sorted(str(p) for p in Path("deep/out").iterdir()) == sorted(files)  # and nothing half-written


def test_what_is_written_is_read_with_the_codes_that_it_was_drawn_from(cm3: Cm3, tiny: Path) -> None:
    """So a picture that a command wrote is for the next one what it was in memory."""
    model = CM3Leon.load(str(tiny))
    image = model.codec.image
    assert image is not None
    (file,) = cm3("generate", PROMPT, "--model", tiny, "--seed", "5", "--json").json["files"]
    drawn, read = model.generate(PROMPT, seed=5).image, open_picture(Path(file).read_bytes())
    assert np.array_equal(np.asarray(read), np.asarray(drawn))
    codes = image.encode([drawn])
    assert (image.encode([read]) == codes).all()
    assert (image.encode([PIL.Image.fromarray(np.asarray(drawn))]) != codes).any()  # it is not the pixels that tell


def test_the_same_seed_writes_the_same_bytes(cm3: Cm3, tiny: Path) -> None:
    def drawn(seed: int, n: int) -> bytes:
        ran = cm3("generate", PROMPT, "--model", tiny, "--seed", seed, "--n", n, "--json")
        return Path(ran.json["files"][0]).read_bytes()

    first = drawn(1, 1)
    assert drawn(1, 1) == first
    assert PIL.Image.open(cm3("generate", PROMPT, "--model", tiny, "--seed", 2, "--json").json["files"][0]).tobytes()
    assert drawn(2, 1) != first
    assert drawn(1, 3) == first


def test_json_is_the_last_line_and_all_else_goes_to_stderr(cm3: Cm3, tiny: Path) -> None:
    ran = cm3("generate", PROMPT, "--model", tiny, "--json")
    assert ran.out.count("\n") == 1
    assert ran.json["prompt"] == PROMPT and ran.json["seed"] == 0 and len(ran.json["scores"]) == 1
    assert ran.json["files"][0] in ran.err


def test_settings_reach_the_model(cm3: Cm3, tiny: Path) -> None:
    plain = cm3("generate", PROMPT, "--model", tiny, "--guidance", "1", "--json").json["scores"]
    greedy = cm3("generate", PROMPT, "--model", tiny, "--guidance", "1", "--temperature", "0", "--json").json["scores"]
    assert greedy[0] > plain[0]
    assert cm3("generate", PROMPT, "--model", tiny, "--contrast", "kmax", "--k", "3", "--alpha", "0.1").code == 0
    assert "temperature=-1.0" in cm3("generate", PROMPT, "--model", tiny, "--temperature", "-1").refusal
    assert "alpha=2.0" in cm3("generate", PROMPT, "--model", tiny, "--contrast", "max", "--alpha", "2").refusal


def test_describe(cm3: Cm3, tiny: Path, picture: Path) -> None:
    one = cm3("describe", picture, "--model", tiny, "--json")
    assert one.code == 0
    assert one.json["image"] == str(picture) and isinstance(one.json["text"], str)
    two = cm3("describe", picture, picture, "--model", tiny, "--json").json["results"]
    assert [r["text"] for r in two] == [one.json["text"]] * 2  # the neighbours do not matter


def test_infill_a_region(cm3: Cm3, tiny: Path, picture: Path) -> None:
    ran = cm3("infill", "--image", picture, "--box", "0,0,64,64", PROMPT, "--model", tiny, "--n", "2", "--json")
    assert ran.code == 0
    assert ran.json["box"] == [0, 0, 64, 64] and len(ran.json["files"]) == 2
    for name in ran.json["files"]:
        with PIL.Image.open(name) as made:
            assert made.text["box"] == "0,0,64,64"


@pytest.mark.parametrize("with_picture", [False, True])
def test_infill_a_sentence(cm3: Cm3, tiny: Path, picture: Path, with_picture: bool) -> None:
    more = ["--image", picture] if with_picture else []
    ran = cm3(
        "infill",
        "--text",
        "a large <gap> circle on a <gap> background",
        "--model",
        tiny,
        *more,
        "--json",
        "--max-tokens",
        8,
    )
    assert ran.code == 0
    assert len(ran.json["texts"]) == 1
    assert ran.json["texts"][0].startswith("a large") and ran.json["texts"][0].endswith("background")
    assert "<gap>" not in ran.json["texts"][0]


BAD = {
    "an empty prompt": (["generate", "  "], "the prompt is empty"),
    "no pictures": (["generate", PROMPT, "--n", "0"], "--n 0: must be at least 1"),
    "a negative seed": (["generate", PROMPT, "--seed", "-1"], "seed=-1: must be an integer, 0 to 2**63 - 1"),
    "a seed beyond every other": (["generate", PROMPT, "--seed", "1" + "0" * 30], "must be an integer, 0 to 2**63 - 1"),
    "a device that is not there": (["generate", PROMPT, "--device", "nowhere"], "device='nowhere': cannot be used"),
    "no memory for keys and values": (["generate", PROMPT, "--cache-gb", "0"], "cache_gb=0.0: must be above 0"),
    "too little of it": (["generate", PROMPT, "--cache-gb", "1e-6"], "tokens of keys and values take"),
    "half a code at once": (
        ["generate", PROMPT, "--parallel", "0.5"],
        "parallel='0.5': must be 'auto', or a number of codes from 0 to 1024",
    ),
    "codes at once in words": (["generate", PROMPT, "--parallel", "fast"], "parallel='fast': must be 'auto', or a"),
    "too many codes at once": (["generate", PROMPT, "--parallel", "4096"], "parallel=4096: must be an integer, 0 to"),
    "a dtype that is not there": (["describe", "{picture}", "--dtype", "float8"], "dtype='float8': must be one of"),
    "k beyond the codes": (
        ["generate", PROMPT, "--contrast", "kmax", "--k", "1" + "0" * 30],
        "the ids to draw from",
    ),
    "k without contrast": (["generate", PROMPT, "--k", "5"], "k=5: is for contrastive decoding"),
    "no number": (["generate", PROMPT, "--temperature", "nan"], "sampling.temperature=nan: must be at least 0"),
    "an unknown bundle": (["generate", PROMPT, "--model", "scnes"], "bundle 'scnes': no such folder"),
    "a folder that is no bundle": (["generate", PROMPT, "--model", "."], "the folder has no config.json"),
    "a file as folder": (["generate", PROMPT, "--out", "{picture}/x"], "is a file; give a folder"),
    "a long prompt": (["generate", "a red circle and " * 200], "this model's context is"),
    "a missing picture": (["describe", "nowhere.png"], "'nowhere.png': no such file"),
    "an unreadable picture": (["describe", "{junk}"], "not a readable picture"),
    "a missing second picture": (["describe", "{picture}", "nowhere.png"], "'nowhere.png': no such file"),
    "a box outside": (["infill", "--image", "{picture}", "--box", "0,0,500,5", PROMPT], "must lie inside the image"),
    "an empty box": (["infill", "--image", "{picture}", "--box", "5,5,5,9", PROMPT], "must lie inside the image"),
    "half a box": (["infill", "--image", "{picture}", "--box", "1,2,3", PROMPT], "takes four whole numbers"),
    "a box without words": (["infill", "--image", "{picture}", "--box", "0,0,9,9"], "the prompt is empty"),
    "a box without picture": (["infill", "--box", "0,0,9,9", PROMPT], "nothing to fill; give --image"),
    "no words allowed": (["infill", "--text", "a <gap>", "--max-tokens", "0"], "--max-tokens 0: must be at least 1"),
    "nothing to fill": (["infill"], "nothing to fill"),
    "a sentence without gap": (["infill", "--text", "a circle"], "has no <gap>"),
    "a sentence and a box": (["infill", "--text", "a <gap>", "--box", "0,0,9,9"], "give one of them"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    cm3: Cm3, tiny: Path, picture: Path, tmp_path: Path, what: str
) -> None:
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"not a picture")
    command, told = BAD[what]
    args = [a.format(picture=picture, junk=junk) for a in command]
    ran = cm3(*args, *([] if "--model" in args else ["--model", tiny]))
    assert told in ran.refusal
    assert ran.out == ""
    assert list(tmp_path.iterdir()) == [junk]


@pytest.mark.parametrize("spoil", ["missing", "altered"])
def test_a_damaged_bundle_is_named(cm3: Cm3, tiny: Path, tmp_path: Path, spoil: str) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    weights = copy / "decoder.safetensors"
    if spoil == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    refusal = cm3("generate", PROMPT, "--model", copy).refusal
    assert "decoder.safetensors" in refusal and (spoil in refusal)


def test_a_folder_without_permission_is_refused(
    cm3: Cm3, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
    # A super-user may write anywhere, so what the system would answer anybody else is given to it.
    monkeypatch.setattr("os.access", lambda path, mode: not Path(path).is_relative_to(closed))
    assert "no permission to write" in cm3("generate", PROMPT, "--model", tiny, "--out", closed / "x").refusal


COMPUTING = {
    "generate": [PROMPT],
    "describe": ["{picture}"],
    "infill": ["--text", "a <gap>"],
    "edit": ["{picture}", "paint it"],
    "segment": ["{picture}"],
    "eval by-heart": ["{folder}"],
    "eval scenes": [],
    "eval emblems": [],
    "eval run": ["scenes", "--n", "1", "--out", "{folder}/run"],
    "eval stickers": [],
    "eval tasks": None,
    "demo": [],
    "eval tokenizer": ["{model}", "{picture}"],
    "eval fid": None,
    "eval clipscore": None,
    "prepare": ["{folder}", "--out", "{folder}/store"],
    "index build": ["{folder}", "--out", "{folder}/bank", "--encoder", "scenes"],
    "index add": None,
    "index search": None,
}
"""Verbs that run a network, and arguments with which each gets as far as that; None where that takes a data set or a
bank of its own."""


def test_every_verb_that_runs_a_network_takes_a_device() -> None:
    found = set()
    for verb, (place, _) in VERBS.items():
        module, name = place.split(":")
        if "place" in {f.name for f in dataclasses.fields(getattr(importlib.import_module(module), name))}:
            found.add(verb)
    assert found >= COMPUTING.keys()


@pytest.mark.parametrize("verb", [verb for verb, args in COMPUTING.items() if args is not None])
def test_a_device_that_is_not_there_is_refused_by_every_verb(
    cm3: Cm3, tiny: Path, picture: Path, tmp_path: Path, verb: str
) -> None:
    PIL.Image.open(picture).save(tmp_path / "a.png")
    args = [a.format(picture=picture, folder=tmp_path, model=tiny) for a in COMPUTING[verb] or ()]
    model = [] if verb.startswith(("index", "eval tokenizer")) else ["--model", tiny]
    ran = cm3(*verb.split(), *args, "--device", "nowhere", *model)
    assert "device='nowhere': cannot be used" in ran.refusal
    assert not list(tmp_path.glob("bank/*.json")) and not list(tmp_path.glob("store/*"))

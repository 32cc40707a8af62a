"""InstructPix2Pix: pairs of pictures and the instruction between them; what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import DataError
from cm3.picture import rgb
from cm3.read.find import open_reader, recognise
from cm3.read.published import InstructPix2Pix
from cm3.tasks import find_task, from_reader

SEEDS = [["0000000", ["1234", "77"]], ["0000042", ["5"]]]
EDITS = {"0000000": "make it a caf\u00e9 ", "0000042": "add snow"}


def write_pair(home: Path, folder: str, seed: str) -> None:
    """As the folders of clip-filtered-dataset are: prompt.json, metadata.jsonl, SEED_0.jpg and SEED_1.jpg."""
    (home / folder).mkdir(parents=True, exist_ok=True)
    prompt = {"input": f"before {folder}", "edit": EDITS[folder], "output": f"after {folder}"}
    (home / folder / "prompt.json").write_text(json.dumps(prompt, ensure_ascii=False), encoding="utf-8")
    with (home / folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"seed": int(seed), "p2p_threshold": 0.5, "cfg_scale": 8.0, "clip_sim_dir": 0.3}) + "\n")
    for which, colour in ((0, (250, 0, 0)), (1, (0, 0, 250))):
        PIL.Image.new("RGB", (8, 8), colour).save(home / folder / f"{seed}_{which}.jpg", quality=100)


def write_seeds(root: Path, content: Any = SEEDS) -> None:
    """As seeds.json of the owners' prepare_dataset.py is."""
    (root / "seeds.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pairs in two folders, beside seeds.json as the owners' loader has them."""
    write_seeds(tmp_path)
    for folder, seeds in SEEDS:
        for seed in seeds:
            write_pair(tmp_path, str(folder), seed)
    return tmp_path


def test_a_document_a_pair_with_the_instruction_between(root: Path) -> None:
    found = [d for d in InstructPix2Pix(root) if isinstance(d, Document)]
    assert [(d.id, d.text) for d in found] == [
        ("0000000/1234", "make it a caf\u00e9"),
        ("0000000/77", "make it a caf\u00e9"),
        ("0000042/5", "add snow"),
    ]
    for d in found:
        assert [type(p) for p in d.parts] == [Image, Text, Image] and d.source == "instructpix2pix"
        (red, _, _), (_, _, blue) = (rgb(i.pixels).getpixel((4, 4)) for i in d.images)  # type: ignore[misc]
        assert red > 240 and blue > 240, "first the picture before"
    assert dict(found[2].meta) == {
        "edit": "add snow",
        "input": "before 0000042",
        "output": "after 0000042",
        "seed": "5",
    }


def test_it_is_recognised_and_opened_by_its_path(root: Path) -> None:
    assert recognise(root)[0] == "instructpix2pix"
    assert isinstance(open_reader(str(root)), InstructPix2Pix)
    for other in (b"[1, 2, 3]", b"{}", b'[["a", 1]]', b""):
        write_seeds(root, other)
        assert "instructpix2pix" not in recognise(root)
    assert not InstructPix2Pix.recognises(root / "0000000")


def test_there_are_no_splits(root: Path) -> None:
    assert InstructPix2Pix.splits(root) == ()
    with pytest.raises(DataError, match="has no split 'val'; it has no splits"):
        open_reader(f"instructpix2pix:{root}@val")
    with pytest.raises(DataError, match="has no split 'val'; InstructPix2Pix has no splits, leave @val out"):
        InstructPix2Pix(root, "val")


@pytest.mark.parametrize("named", [True, False], ids=["shard in seeds.json", "folder alone in seeds.json"])
def test_folders_may_lie_in_the_shards_of_their_archives(tmp_path: Path, named: bool) -> None:
    seeds = [[f"shard-0{i}/{folder}" if named else folder, s] for i, (folder, s) in enumerate(SEEDS)]
    write_seeds(tmp_path, seeds)
    for i, (folder, of) in enumerate(SEEDS):
        for seed in of:
            write_pair(tmp_path / f"shard-0{i}", str(folder), seed)
    found = list(InstructPix2Pix(tmp_path))
    assert [type(d) for d in found] == [Document] * 3
    assert [d.id for d in found] == [f"{folder}/{seed}" for folder, of in seeds for seed in of]


def test_what_is_missing_costs_its_pairs_alone(root: Path) -> None:
    """Owners' seeds.json names thousands of folders that their archives do not have."""
    (root / "0000000" / "77_1.jpg").unlink()
    for path in (root / "0000042").iterdir():
        path.unlink()
    (root / "0000042").rmdir()
    found = list(InstructPix2Pix(root))
    assert isinstance(found[0], Document)
    assert [(d.id, d.reason) for d in found if isinstance(d, Unreadable)] == [
        ("0000000/77", "0000000/77_1.jpg: no such file beside the annotations that name it"),
        ("0000042/5", "0000042: no such folder beside seeds.json, which names it"),
    ]


def test_pictures_are_read_when_asked_for_and_decoded_later(root: Path) -> None:
    reader = InstructPix2Pix(root)
    path = root / "0000042" / "5_1.jpg"
    PIL.Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cut = reader[2]
    assert isinstance(cut, Document), "a cut picture's header is enough for a document"
    with pytest.raises(DataError, match="cannot be read"):
        rgb(cut.images[1].pixels)


def test_units_together_are_the_whole_in_order(root: Path) -> None:
    reader = InstructPix2Pix(root)
    for size in (1, 2, 5):
        assert [d.id for unit in reader.units(size) for d in reader.read(unit)] == [d.id for d in reader]
    assert len(reader) == 3


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (b'{"edit": ', "prompt.json': is damaged .*; download it again"),
        (b'{"edit": "caf\xe9"}', "prompt.json': is not UTF-8 at byte 13; download it again"),
        (b'{"input": "a", "output": "b"}', "0000042/prompt.json: 'edit' is None"),
        (b'["add snow"]', "0000042/prompt.json: 'edit' is None"),
        (None, "prompt.json': no such file"),
    ],
    ids=["cut short", "not UTF-8", "no edit", "a list", "missing"],
)
def test_a_damaged_prompt_costs_its_pairs_alone(root: Path, prompt: bytes | None, reason: str) -> None:
    path = root / "0000042" / "prompt.json"
    path.unlink()
    if prompt is not None:
        path.write_bytes(prompt)
    reader = InstructPix2Pix(root)
    assert [type(d) for d in reader] == [Document, Document, Unreadable]
    with pytest.raises(DataError, match=reason):
        reader.document(2)


def test_a_pair_that_is_listed_twice_is_read_once(root: Path) -> None:
    write_seeds(root, [*SEEDS, ["0000000", [77]]])
    found = list(InstructPix2Pix(root))
    assert [type(d) for d in found] == [Document, Document, Document, Unreadable]
    with pytest.raises(DataError, match="record 3: has the id '0000000/77' of an earlier one; ids must be unique"):
        InstructPix2Pix(root).document(3)


@pytest.mark.parametrize(
    ("folder", "seed"), [("../0000000", "77"), ("/0000000", "77"), ("0000000", "../0000042/5"), ("\ud800", "5")]
)
def test_a_pair_that_leads_out_of_the_folder_is_refused(root: Path, folder: str, seed: str) -> None:
    write_seeds(root, [[folder, [seed]], SEEDS[1]])
    reader = InstructPix2Pix(root)
    assert [type(d) for d in reader] == [Unreadable, Document]
    with pytest.raises(DataError, match="must be a folder beside it, and a seed"):
        reader.document(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[["0000000", [', r"seeds.json': is damaged \(.*\); download it again"),
        (b'[["caf\xe9", ["1"]]]', "seeds.json': is not UTF-8 at byte 6; download it again"),
        ([["0000000"]], r"seeds.json': is no list of \[folder, \[seed, ...\]\] \(.*\); download it again"),
        ([["0000000", "1234"]], r"seeds.json': is no list of \[folder, \[seed, ...\]\] \(seeds.json, record 0: is "),
        (3, r"seeds.json': is no list of \[folder"),
    ],
    ids=["cut short", "not UTF-8", "no seeds", "one seed", "a number"],
)
def test_damaged_files_are_refused(root: Path, content: Any, message: str) -> None:
    write_seeds(root, content)
    with pytest.raises(DataError, match=message):
        InstructPix2Pix(root)


def test_a_record_of_another_form_costs_itself_alone(root: Path) -> None:
    bad = [None, ["0000000"], ["0000000", "1234"], [5, ["1"]], ["0000000", [None, 1.5, True, ["77"]]]]
    write_seeds(root, [*bad, ["0000000", [77]], ["0000042", ["5"]]])
    found = list(InstructPix2Pix(root))
    assert [d.id for d in found if isinstance(d, Document)] == ["0000000/77", "0000042/5"]
    wrong = [d.reason for d in found if isinstance(d, Unreadable)]
    assert wrong[:3] == [
        "seeds.json, record 0: is None, must be [folder, [seed, ...]]",
        "seeds.json, record 1: is ['0000000'], must be [folder, [seed, ...]]",
        "seeds.json, record 2: is ['0000000', '1234'], must be [folder, [seed, ...]]",
    ]
    rule = "must be the names of a folder and of a seed"
    assert wrong[3:] == [
        f"seeds.json, record 3: has 5 and '1', {rule}",
        *(f"seeds.json, record 4: has '0000000' and {seed}, {rule}" for seed in ("None", "1.5", "True", "['77']")),
    ]


def test_what_the_owners_own_program_writes(root: Path) -> None:
    """Its prompts have "caption" where the published archives have "input"; the instruction alone is needed."""
    path = root / "0000042" / "prompt.json"
    for captions in ({"caption": "a hill", "output": "a hill in snow"}, {}, {"input": None}):
        path.write_text(json.dumps({"edit": "add snow", **captions}))
        document = InstructPix2Pix(root)[2]
        assert isinstance(document, Document) and document.text == "add snow"
        kept = {key: value for key, value in captions.items() if value is not None}
        assert dict(document.meta) == {"edit": "add snow", "seed": "5", **kept}
    for wrong, reason in (
        ({"input": "a", "output": "b"}, "prompt.json: 'edit' is None, must be a text"),
        ({"edit": " "}, "prompt.json: 'edit' is empty, must be an instruction"),
        ({"edit": ["a", "b"]}, r"prompt.json: 'edit' is ['a', 'b'], must be a text"),
        ({"edit": "a", "caption": 5}, "prompt.json: 'caption' is 5, must be a text"),
    ):
        path.write_text(json.dumps(wrong))
        found = InstructPix2Pix(root)[2]
        assert isinstance(found, Unreadable) and reason in found.reason


def test_a_picture_that_is_cut_short_is_told_by_its_file(root: Path) -> None:
    for which in (0, 1):
        path = root / "0000042" / f"5_{which}.jpg"
        PIL.Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    told = [one for one in from_reader(find_task("edit"), InstructPix2Pix(root)) if isinstance(one, Unreadable)]
    assert [one.id for one in told] == ["0000042/5"]
    assert "document '0000042/5': 0000042/5_1.jpg: image of mode" in told[0].reason


def test_a_missing_list_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"seeds.json': no such file; download it, or give the folder that holds it"):
        InstructPix2Pix(root / "0000000")

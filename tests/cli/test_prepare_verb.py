"""`cm3 prepare`: a folder of captioned pictures becomes a store, and what became of it is told."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import PIL.Image
import pytest
from command import Cm3

from cm3.store.store import Store

COLOURS = ("red", "green", "blue", "white")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four captioned pictures, one of them twice, one damaged, and words alone."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in (*COLOURS, "red"):
        name = colour if not (folder / f"{colour}.png").exists() else "twin"
        PIL.Image.new("RGB", (40, 30), colour).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {colour} field")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (folder / "note.txt").write_text("words alone")
    return folder


def test_a_store_is_made_and_told(cm3: Cm3, photos: Path, tiny: Path) -> None:
    ran = cm3("prepare", "photos", "--out", "store", "--model", tiny, "--license", "CC0-1.0", "--json")
    assert ran.code == 0, ran.err
    told = ran.json
    store = Store.open("store")
    assert told["documents"] == len(store) == 5 and told["duplicates"]["content"] == 1
    assert told["skipped"]["unreadable"]["examples"][0]["id"] == "cut.jpg"
    assert told["tokens"] == int(store.lengths.sum()) and store.about(0).meta == {"license": "CC0-1.0"}
    again = cm3("prepare", "photos", "--out", "store", "--model", tiny, "--license", "CC0-1.0")
    assert again.code == 0 and "store: 5 documents, 1 duplicates dropped, 1 skipped" in again.out
    assert "skipped     unreadable (1)\n            cut.jpg  " in again.out

    assert "mend them and add --retry to the same command; else they stay skipped" in again.out
    PIL.Image.new("RGB", (40, 30), "teal").save("photos/cut.jpg")
    more = cm3("prepare", "photos", "--out", "store", "--model", tiny, "--license", "CC0-1.0", "--retry")
    assert more.code == 0 and "store: 6 documents, 1 duplicates dropped, 0 skipped" in more.out
    assert "--retry" not in more.out


def test_names_of_strangers_command_no_terminal(cm3: Cm3, photos: Path) -> None:
    (photos / "red.png").rename(photos / "a\x1b[31m.jpg")
    (photos / "a\x1b[31m.jpg").write_bytes(b"nothing")
    ran = cm3("prepare", "photos", "--out", "store", "--model", "none", "--pictures")
    assert ran.code == 0 and "\x1b" not in ran.out and "            a?[31m.jpg  " in ran.out


def test_a_folder_without_its_pictures_leaves_nothing_that_blocks(cm3: Cm3, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    told = cm3("prepare", "photos", "--out", "store", "--model", tiny).refusal
    assert "'photos': none of 1 documents can be kept, and no store was made; the first is 'a.png': " in told
    assert not Path("store").exists()
    PIL.Image.new("RGB", (40, 30), "red").save("photos/a.png")
    ran = cm3("prepare", "photos", "--out", "store", "--model", tiny)
    assert ran.code == 0 and "store: 1 documents" in ran.out


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_sigterm_ends_it_in_a_line_and_the_same_command_goes_on(
    cm3: Cm3, photos: Path, tiny: Path, workers: str
) -> None:
    for i in range(60):
        PIL.Image.effect_noise((300, 300), 50 + i).save(photos / f"n{i}.png")
    args = ("prepare", "photos", "--model", tiny, "--unit", "1", "--json", "--workers", workers)
    ended = threading.Event()

    def kill() -> None:
        while not ended.is_set() and not list(Path("store/shards").glob("*.json")):
            time.sleep(0.005)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    killer = threading.Thread(target=kill)
    killer.start()
    ran = cm3(*args, "--out", "store")
    ended.set()
    killer.join()
    assert ran.code == 75 and ran.json == {"store": "store", "stopped": "SIGTERM"}
    told = "stopped by SIGTERM; what is done stays, and the same command goes on where it was"
    assert ran.err == f"cm3: store: {told}\n"
    assert signal.getsignal(signal.SIGTERM) == before
    done = {p: p.stat().st_mtime_ns for p in Path("store/shards").glob("*.json")}
    assert done and not Path("store/manifest.json").exists() and not list(Path("store").rglob(".*"))
    assert cm3(*args, "--out", "store").code == 0
    assert all(p.stat().st_mtime_ns == at for p, at in done.items()), "what was done is not done again"
    assert len(Store.open("store")) == 65


def test_vectors_by_the_encoder_of_a_model(cm3: Cm3, photos: Path) -> None:
    ran = cm3("prepare", "photos", "--out", "store", "--encoder", "scenes", "--json")
    assert ran.code == 0, ran.err
    vectors = Store.open("store").vectors("text")
    assert vectors is not None and len(vectors) == 5


def test_a_store_of_pictures_and_vectors_is_a_bank(cm3: Cm3, photos: Path) -> None:
    more = ("--encoder", "scenes", "--pictures", "--license", "MIT", "--json")
    ran = cm3("prepare", "photos", "--out", "store", "--model", "none", *more)
    assert ran.code == 0 and ran.json["tokens"] == 0, ran.err
    found = cm3("index", "search", "store", "--text", "a green field", "--k", "1", "--json")
    assert found.code == 0 and found.json["results"][0]["license"] == "MIT", found.err
    assert cm3("index", "delete", "store", "green.png", "--json").json["documents"] == 4
    told = cm3("index", "build", "store", "--out", "bank", "--json")
    assert told.code == 0 and told.json["documents"] == 4, told.err
    assert cm3("index", "info", "bank", "--verify").code == 0


def test_help_has_examples(cm3: Cm3) -> None:
    ran = cm3("prepare", "--help")
    assert ran.code == 0 and "cm3 prepare photos/ --out stores/photos" in ran.out and "ray://head:10001" in ran.out


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "no source given; name at least one, [KIND:]PATH[@SPLIT]"),
        (["nowhere"], "'nowhere': no such file or folder"),
        (["coca:photos"], "Did you mean 'coco'?"),
        (["photos", "--unit", "0"], "--unit 0: must be at least 1"),
        (["photos", "--workers", "-1"], "--workers -1: must be at least 0"),
        (["photos", "--model", "scene"], "Did you mean 'scenes'?"),
        (["photos", "--tokenizer", "t.json"], "a model has its own text tokenizer; give no other"),
        (["photos", "--out", "photos"], "the folder holds something else; choose another, or empty it"),
        (["photos", "--strict"], "document 'cut.jpg': "),
    ],
)
def test_what_is_refused(cm3: Cm3, photos: Path, args: list[str], told: str) -> None:
    assert told in cm3("prepare", *args).refusal

"""`cm3 neighbours`: stores become a table, and a model is trained on real photographs with documents before them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import store_parts
from command import Cm3

from cm3.data.neighbours import Neighbours
from cm3.data.prepare import prepare
from cm3.data.store_source import Retrieval, StoreSource
from cm3.model import bundle as bundles
from cm3.sequence.before import AugmentLaw
from cm3.store.store import Store

COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with vectors, one without, and what they were made with."""
    root = tmp_path_factory.mktemp("made")
    store_parts.photos(root / "photos", 40)
    store_parts.tokenizers(root / "model")
    prepare([f"{root}/photos"], root / "store", root / "model", encoder=store_parts.encoder(root / "encoder"))
    prepare([f"{root}/photos"], root / "bare", root / "model")
    return root


def test_a_table_is_made_and_told(cm3: Cm3, made: Path) -> None:
    args = ("neighbours", made / "store", "--out", "table", "--highest", "1", "--json")
    ran = cm3(*args)
    assert ran.code == 0, ran.err
    store = Store.open(made / "store")
    named = {"path": store.path, "fingerprint": store.fingerprint, "documents": 40}
    told = ran.json
    assert told["stores"] == [named] and told["bank"] == named and told["encoder"] == store.encoder_name
    assert told["documents"] == sum(told["found"]) == 40 and len(told["found"]) == 5
    assert len(Neighbours.open("table")) == 40 and sorted(p.name for p in Path().iterdir()) == ["table"]
    again = cm3(*args[:-1], "--bank", made / "store", "--k", "1")
    assert again.code == 0 and f"table: neighbours of 40 documents in {made}/store\nfound       40 have 2" in again.out
    less = cm3(*args, "--encoder", made / "encoder", "--dropout", "0.5", "--index", "exact")
    assert less.code == 0 and len(less.json["found"]) == 5


def test_help_has_examples(cm3: Cm3) -> None:
    ran = cm3("neighbours", "--help")
    assert ran.code == 0 and "cm3 neighbours stores/photos --bank stores/photos" in ran.out
    assert "--data.neighbours stores/photos.neighbours" in ran.out and "ray://head:10001" in ran.out


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "no store given; name at least one that `cm3 prepare --encoder` wrote"),
        (("{made}/bare",), "bare': has no vectors; prepare it with an encoder, `cm3 prepare --encoder ENCODER`"),
        (("{made}/store", "--bank", "{made}/bare"), "bare': has no vectors; prepare it with an encoder"),
        (
            ("{made}/photos",),
            "photos': has no manifest.json; give a folder that `cm3 prepare` or `cm3 index build` wrote",
        ),
        (("{made}/store", "--k", "0"), "--k 0: must be at least 1"),
        (("{made}/store", "--block", "0"), "--block 0: must be at least 1"),
        (("{made}/store", "--highest", "2"), "select.highest=2.0: is a cosine, must be in -1..1"),
        (("{made}/store", "--index", "fast"), "index 'fast': must be one of auto, exact, ivf, pq"),
        (("{made}/store", "--encoder", "no/such/folder"), "no/such/folder': no such folder; give one, or a hub id"),
        (("{made}/store", "--out", "{made}/photos"), "photos': is a folder; give a file"),
    ],
)
def test_what_is_refused(cm3: Cm3, made: Path, args: tuple[str, ...], told: str) -> None:
    ran = cm3("neighbours", *(a.format(made=made) for a in args))
    assert told in ran.refusal
    assert not list(Path().iterdir())


@pytest.mark.timeout(120)
def test_sigterm_ends_it_in_a_line_and_the_same_command_goes_on(cm3: Cm3, made: Path) -> None:
    args = ("neighbours", made / "store", "--block", "1", "--highest", "1", "--json", "--out", "table")
    ended = threading.Event()

    def kill() -> None:
        while not ended.is_set() and not list(Path("table.parts").glob("0*.safetensors")):
            time.sleep(0.001)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=kill)
    killer.start()
    ran = cm3(*args)
    ended.set()
    killer.join()
    assert ran.code == 75 and ran.json == {"table": "table", "stopped": "SIGTERM"}
    told = "stopped by SIGTERM; what is done stays, and the same command goes on where it was"
    assert ran.err == f"cm3: table: {told}\n"
    done = {p: p.stat().st_mtime_ns for p in Path("table.parts").glob("0*.safetensors")}
    assert done and not Path("table").exists()
    for path in done:  # linked, so that they can be looked at when the folder is gone
        os.link(path, path.name)
    assert cm3(*args).code == 0
    assert {p: Path(p.name).stat().st_mtime_ns for p in done} == done, "what was done is not done again"
    assert cm3("neighbours", made / "store", "--highest", "1", "--out", "whole").code == 0
    tables = [Neighbours.open(name) for name in ("table", "whole")]
    assert [[c.id for c in tables[0].ranked(n)] for n in range(40)] == [
        [c.id for c in tables[1].ranked(n)] for n in range(40)
    ]


def small_coco(out: Path, pictures: int) -> Path:
    """The first pictures of the photographs, with all captions of each."""
    page = json.loads((COCO / "annotations" / "captions_val2017.json").read_text())
    page["images"] = sorted(page["images"], key=lambda i: i["id"])[:pictures]
    kept = {i["id"] for i in page["images"]}
    page["annotations"] = [a for a in page["annotations"] if a["image_id"] in kept]
    (out / "annotations").mkdir(parents=True)
    (out / "val2017").mkdir()
    (out / "annotations" / "captions_val2017.json").write_text(json.dumps(page))
    for image in page["images"]:
        shutil.copyfile(COCO / "val2017" / image["file_name"], out / "val2017" / image["file_name"])
    return out


@pytest.mark.skipif(not COCO.is_dir(), reason="needs ../shared/data/coco_mini")
@pytest.mark.timeout(300)
def test_photographs_are_trained_on_with_their_neighbours_before_them(cm3: Cm3, tmp_path: Path) -> None:
    small_coco(tmp_path / "coco", 8)
    encoder, tokens = store_parts.encoder(tmp_path / "encoder"), store_parts.tokenizers(tmp_path / "tokens")
    ran = cm3("prepare", "coco:coco@val2017", "--out", "store", "--model", tokens, "--encoder", encoder)
    assert ran.code == 0, ran.err
    # Weights drawn by chance take all pictures to be alike, so that it is by their files that own ones stay out.
    ran = cm3("neighbours", "store", "--bank", "store", "--out", "table", "--highest", "1", "--json")
    assert ran.code == 0 and ran.json["found"][4] == ran.json["documents"] >= 38
    store, table = Store.open("store"), Neighbours.open("table")
    shown = [store.about(n).picture for n in range(len(store))]
    assert max(Counter(shown).values()) == 5 and all(shown)
    assert [(n, c.id) for n in range(len(store)) for c in table.ranked(n) if shown[c.id] == shown[n]] == []

    small = ["--windows", "1", "--steps", "2", "--length", "1024", "--sample-every", "0", "--data.stores", "store"]
    size = ["--model.d-model", "16", "--model.layers", "1", "--model.heads", "2", "--mask.columns", "4"]
    recipe = ("train", "photos:pretrain", *small, *size, "--image-tokenizer", tokens)
    ran = cm3(*recipe, "--out", "plain")
    assert ran.code == 0, ran.err
    law = ("--data.documents.shares", "0", "0", "1")
    ran = cm3(*recipe, "--out", "with", "--data.neighbours", "table", *law)
    assert ran.code == 0, ran.err
    documents = [bundles.load(f"{name}/bundle").about["documents"] for name in ("with", "plain")]
    assert documents[0] < documents[1] / 2, "each sequence is that of three documents"
    # What stands before an example is what the table names, to the last token.
    source = StoreSource([store], seed=1, retrieval=Retrieval(table, store, AugmentLaw((0.0, 0.0, 1.0)), 4096))
    plain = StoreSource([store], seed=1)
    parts = [t.ids[1:-1] for t in store.tokens(range(len(store)))]
    border = np.array([store.vocab.brk])
    for position in range(20):
        (query,), (whole,) = plain.sequences([position]), source.sequences([position])
        ranked = [c.id for c in table.ranked(int(plain.mixture.locate([position]).indices[0]))]
        before = whole.ids[1 : whole.length - query.length + 1].tolist()
        pairs = [(a, b) for a in ranked for b in ranked if a != b]
        assert before in [np.concatenate([parts[a], border, parts[b], border]).tolist() for a, b in pairs]
    refused = cm3(*recipe, "--out", "other", "--data.neighbours", "table", "--data.bank", store_of_words(tmp_path))
    assert "table': name documents of the bank 'store', and" in refused.refusal and not Path("other").exists()


def store_of_words(folder: Path) -> Path:
    """Another store of the same tokenizers."""
    (folder / "words.jsonl").write_text('{"id": "other", "text": "words"}')
    prepare([f"{folder}/words.jsonl"], folder / "words", folder / "tokens")
    return folder / "words"

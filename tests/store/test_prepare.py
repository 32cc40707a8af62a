"""Sources become a store: what is kept, dropped, skipped and refused, and that the bytes do not depend on who works."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import store_parts
import torch
from forks import python
from store_parts import contents

from cm3.data.prepare import Report, prepare
from cm3.document import Document
from cm3.errors import CheckpointError, ConfigError, DataError, DiskError
from cm3.model import bundle as bundles
from cm3.read.walk import EMPTY, HIDDEN
from cm3.store.store import Store
from cm3.tokens.on_disk import load_tokenizers

COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_parts.tokenizers(tmp_path_factory.mktemp("tokenizers") / "model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine captioned pictures and what is wrong with others."""
    folder = store_parts.photos(tmp_path / "photos", 9)
    whole = (folder / "000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_bytes(b"no picture")
    (folder / "empty.txt").write_text("  \n")
    (folder / "long.txt").write_text("a large red circle " * 40)
    (folder / "words.txt").write_text("words alone")
    return folder


def make(photos: Path, model: Path, out: Path, **options: Any) -> Report:
    return prepare([str(photos)], out, model, **({"unit": 4, "max_text": 50} | options))


def test_what_cannot_be_kept_is_skipped_and_listed(photos: Path, model: Path, tmp_path: Path) -> None:
    report = make(photos, model, tmp_path / "out")
    assert report.documents == len(Store.open(tmp_path / "out")) == 11
    assert {kind: found["count"] for kind, found in report.skipped.items()} == {
        "empty": 1,
        "picture": 1,
        "unreadable": 1,
    }
    examples = {one["id"]: one["reason"] for found in report.skipped.values() for one in found["examples"]}
    assert set(examples) == {"cut.png", "text.png", "empty.txt"}
    assert "cannot be read" in examples["cut.png"] and "not a picture" in examples["text.png"]
    assert report.truncated == 1 and report.image_tokens == 9 * 16
    assert report.tokens == report.text_tokens + report.image_tokens == int(Store.open(tmp_path / "out").lengths.sum())
    again = make(photos, model, tmp_path / "out")
    assert vars(again) | {"seconds": 0} == vars(report) | {"seconds": 0}, "a finished store only tells its report"


def test_what_is_no_text_is_skipped(model: Path, tmp_path: Path) -> None:
    lines = [r'{"text": "a"}', r'{"text": "b\u0000c"}', r'{"text": "d", "id": "\u0000"}']
    (tmp_path / "words.jsonl").write_text("\n".join(lines))
    report = prepare([f"{tmp_path}/words.jsonl"], tmp_path / "out", model)
    assert report.documents == 1 and report.skipped["text"]["count"] == 2
    told = [one["reason"] for one in report.skipped["text"]["examples"]]
    assert told == [
        "its text has a NUL character (at 1); take it out",
        "its id has a NUL character (at 0); take it out",
    ]


def test_a_document_of_which_nothing_is_left_is_skipped(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "\\u4e2d"}\n{"text": "b"}\n')
    report = prepare([f"jsonl:{tmp_path / 'a.jsonl'}"], tmp_path / "out", model, max_text=1)
    assert (report.documents, report.truncated) == (1, 0)
    (one,) = report.skipped["text"]["examples"]
    assert one["id"] == "a.jsonl:1" and "its first character has more than 1 tokens" in one["reason"]


def test_what_readers_pass_over_is_counted_in_the_store(photos: Path, model: Path, tmp_path: Path) -> None:
    (photos / ".git").mkdir()
    (photos / "notes.md").write_text("not read")
    lines = tmp_path / "lines"
    lines.mkdir()
    lines.joinpath("a.jsonl").write_text('{"text": "a", "question": "why?"}\n' * 3 + '{"text": "b", "question": "?"}\n')
    sources, stores = [f"folder:{photos}", f"jsonl:{lines}"], [tmp_path / "one", tmp_path / "two"]
    report = prepare(sources, stores[0], model, unit=2)
    prepare(sources, stores[1], model, unit=2, workers=2)
    told = "'question', words that are kept as meta alone"
    assert report.passed == {
        told: {"count": 4, "names": [f"a.jsonl:{n}" for n in (1, 2, 3, 4)]},
        EMPTY: {"count": 1, "names": ["empty.txt"]},
        HIDDEN: {"count": 1, "names": [".git/"]},
        ".md, which is not read": {"count": 1, "names": ["notes.md"]},
    }
    units = [json.loads(path.read_text())["passed"] for path in sorted((stores[0] / "shards").glob("*.json"))]
    assert [one[told]["count"] for one in units if told in one] == [2, 2], "each unit what it has itself"
    assert Store.open(stores[0]).info()["passed"] == report.passed
    assert contents(stores[0]) == contents(stores[1])


def test_strict_stops_at_the_first(photos: Path, model: Path, tmp_path: Path) -> None:
    told = (
        r"document 'cut.png': cut.png: image of mode RGB: cannot be read .* \(picture\); mend it, or leave out strict"
    )
    with pytest.raises(DataError, match=told):
        make(photos, model, tmp_path / "out", strict=True)
    assert make(photos, model, tmp_path / "out").documents == 11
    with pytest.raises(DataError, match="leave out strict"):
        make(photos, model, tmp_path / "out", strict=True)
    for name in ("cut.png", "text.png", "empty.txt"):
        (photos / name).unlink()
    assert make(photos, model, tmp_path / "clean", strict=True).documents == 11


def test_the_first_of_duplicates_is_kept(model: Path, tmp_path: Path) -> None:
    first = store_parts.photos(tmp_path / "a" / "one", 5)
    store_parts.photos(tmp_path / "b" / "one", 5, seed=1)
    twin = tmp_path / "c" / "two"
    shutil.copytree(first, twin)
    shutil.copyfile(tmp_path / "b" / "one" / "003.png", tmp_path / "b" / "one" / "other.png")
    sources = [f"{tmp_path}/a/one", f"{tmp_path}/b/one", str(twin)]
    report = prepare(sources, tmp_path / "out", model, unit=2)
    store = Store.open(tmp_path / "out")
    # b/one has the ids of a/one and its source's name, two has other ids' contents
    assert report.duplicates == {
        "content": 5,
        "id": 5,
        "examples": [f"{i:03d}.png" for i in range(5)] * 2,
    }
    assert report.documents == len(store) == 6 and store.info()["sources"] == {"one": 6}
    assert [store.about(n).id for n in range(6)] == [*(f"{i:03d}.png" for i in range(5)), "other.png"]
    assert store.tokens([0])[0].ids.tolist() == load_tokenizers(model).codec.encode(_read(first, "000")).ids.tolist()
    assert report.tokens == int(store.lengths.sum()) and sum(store.info()["licenses"].values()) == 6


def _read(folder: Path, stem: str) -> Document:
    return Document.of((folder / f"{stem}.txt").read_text(), PIL.Image.open(folder / f"{stem}.png"))


def test_bytes_do_not_depend_on_workers_or_threads(photos: Path, model: Path, tmp_path: Path) -> None:
    make(photos, model, tmp_path / "alone")
    make(photos, model, tmp_path / "two", workers=2)
    torch.set_num_threads(2)
    make(photos, model, tmp_path / "threads")
    assert torch.get_num_threads() == 2, "as it was"
    assert contents(tmp_path / "alone") == contents(tmp_path / "two") == contents(tmp_path / "threads")
    names = [f"shards/{i:05d}.{end}" for i in range(4) for end in ("json", "safetensors")]
    assert list(contents(tmp_path / "alone")) == sorted(
        ["plan.json", "tokenizer.json", "index.safetensors", "manifest.json", *names]
    )


def test_captions_of_one_picture_encode_it_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store_parts.photos(tmp_path / "photos", 3)
    for i in range(6):
        shutil.copyfile(folder / "000.png", folder / f"copy{i}.png")
    asked: list[int] = []
    from cm3.model.vqgan import VQGAN

    encode = VQGAN.encode
    monkeypatch.setattr(VQGAN, "encode", lambda self, x: asked.append(len(x)) or encode(self, x))
    prepare([str(folder)], tmp_path / "out", model)
    assert sum(asked) == 3
    assert len(Store.open(tmp_path / "out")) == 4, "six are the same picture without words"


def test_progress_is_told_in_documents(photos: Path, model: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    make(photos, model, tmp_path / "out", progress=lambda done, total, label: told.append((done, total)))
    assert told[0] == (0, 14) and told[-1] == (14, 14)
    assert [done for done, _ in told] == sorted(done for done, _ in told) and all(t == 14 for _, t in told)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"unit": 5}, "another unit: 4, now 5; give the same command, or choose another folder"),
        ({"max_text": 51}, "another max_text: 50, now 51"),
        ({"license": "MIT"}, "another license: None, now 'MIT'"),
        ({"masks": 9}, "another vocab"),
    ],
)
def test_another_plan_is_refused(photos: Path, model: Path, tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    make(photos, model, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match=told):
        make(photos, model, tmp_path / "out", **changed)
    assert contents(tmp_path / "out") == before


def test_other_sources_or_tokenizers_are_refused(photos: Path, model: Path, tmp_path: Path) -> None:
    make(photos, model, tmp_path / "out")
    other = store_parts.photos(tmp_path / "other", 2)
    with pytest.raises(DataError, match="was begun with another sources"):
        make(other, model, tmp_path / "out")
    (photos / "one-more.txt").write_text("more")
    with pytest.raises(DataError, match="another units: 4 pieces of the sources, now 4, or others"):
        make(photos, model, tmp_path / "out")
    (photos / "one-more.txt").unlink()
    spoiled = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((spoiled / "config.json").read_text())
    (spoiled / "config.json").write_text(json.dumps(config | {"size": 64}))
    with pytest.raises(DataError, match="another image_tokenizer"):
        make(photos, spoiled, tmp_path / "out")


def test_what_is_refused(photos: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="the folder holds something else; choose another, or empty it"):
        make(photos, model, tmp_path / "taken")
    with pytest.raises(DataError, match="is a file; give a folder"):
        make(photos, model, tmp_path / "taken" / "letter.txt")
    with pytest.raises(DataError, match="no such file or folder"):
        make(tmp_path / "nowhere", model, tmp_path / "out")
    with pytest.raises(ConfigError, match="sources: none given"):
        prepare([], tmp_path / "out", model)
    with pytest.raises(ConfigError, match="nothing to keep of the documents; give a model, an encoder, or pictures"):
        prepare([str(photos)], tmp_path / "out", None)
    with pytest.raises(ConfigError, match="workers=-1: must be at least 0"):
        make(photos, model, tmp_path / "out", workers=-1)
    with pytest.raises(CheckpointError, match="config.json cannot be read"):
        make(photos, photos, tmp_path / "out")


def test_sources_of_which_nothing_can_be_kept_leave_nothing(model: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "new" / "out"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        (photos / name).write_bytes(b"no picture")
    told = (
        r"none of 2 documents can be kept, and no store was made; the first is 'a.png': .*not a picture.* mend them and"
    )
    for workers in (0, 2):
        with pytest.raises(DataError, match=told):
            prepare([str(photos)], out, model, unit=1, workers=workers)
        assert not out.exists()
    out.mkdir(parents=True)
    (out / ".keep").write_text("mine")
    with pytest.raises(DataError, match="none of 2 documents"):
        make(photos, model, out)
    assert [p.name for p in out.iterdir()] == [".keep"], "what was there stays"
    store_parts.photos(photos, 3)
    assert make(photos, model, out).documents == 3


def test_what_was_mended_is_looked_at_again(photos: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = make(photos, model, out)
    old = contents(out)
    assert make(photos, model, out, retry=True).skipped == before.skipped and contents(out) == old, "nothing was mended"
    whole = PIL.Image.new("RGB", (9, 9), "teal")
    whole.save(photos / "cut.png")
    assert make(photos, model, out).skipped == before.skipped and contents(out) == old, "only where it is asked for"
    untouched = (out / "shards/00000.safetensors").stat().st_mtime_ns
    after = make(photos, model, out, retry=True)
    assert after.documents == before.documents + 1 and "picture" not in after.skipped
    assert (out / "shards/00000.safetensors").stat().st_mtime_ns == untouched, "units that are whole are not done again"
    make(photos, model, tmp_path / "anew")
    assert contents(out) == contents(tmp_path / "anew"), "as if it had been so from the first"
    # Also of a store that is not finished.
    (out / "manifest.json").unlink()
    (photos / "text.png").write_bytes((photos / "000.png").read_bytes())
    assert "unreadable" not in make(photos, model, out, retry=True).skipped


def test_a_refused_retry_leaves_a_finished_store(photos: Path, model: Path, tmp_path: Path) -> None:
    make(photos, model, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match="another unit: 4, now 5"):
        make(photos, model, tmp_path / "out", retry=True, unit=5)
    photos.rename(tmp_path / "away")
    with pytest.raises(DataError, match="no such file or folder"):
        make(photos, model, tmp_path / "out", retry=True)
    assert contents(tmp_path / "out") == before


def test_what_is_refused_makes_no_folder(photos: Path, model: Path, tmp_path: Path) -> None:
    for sources, tokenizers, error in (
        ([str(tmp_path / "nowhere")], model, DataError),
        ([str(photos)], photos, CheckpointError),
        ([str(photos), "coco:" + str(photos)], model, DataError),
    ):
        with pytest.raises(error):
            prepare(sources, tmp_path / "new" / "out", tokenizers)
        assert not (tmp_path / "new").exists()


def test_places_that_cannot_be_written_to_are_told(photos: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing" / "there")
    for out in (photos / "000.png" / "out", tmp_path / "dangling", tmp_path / ("n" * 300)):
        with pytest.raises(DiskError, match=r"cannot be written \([A-Z][a-z ]+\); choose another place$"):
            make(photos, model, out)
    assert not (tmp_path / "nothing").exists()


def test_a_damaged_part_of_an_unfinished_store_is_made_again(photos: Path, model: Path, tmp_path: Path) -> None:
    make(photos, model, tmp_path / "whole")
    wanted = contents(tmp_path / "whole")
    for name in ("shards/00001.safetensors", "shards/00002.json", "tokenizer.json", "index.safetensors"):
        out = tmp_path / name.replace("/", "-")
        shutil.copytree(tmp_path / "whole", out)
        (out / "manifest.json").unlink()
        data = bytearray((out / name).read_bytes())
        data[len(data) // 2] ^= 4
        (out / name).write_bytes(data)
        make(photos, model, out)
        assert contents(out) == wanted


def test_links_in_a_store_are_not_written_through(photos: Path, model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / ".notes.part").write_text("mine")
    (mine / "tokenizer.json").write_text("mine")
    before = contents(mine)
    out = tmp_path / "out"
    make(photos, model, out)
    (out / "manifest.json").unlink()
    shutil.move(out / "shards", tmp_path / "shards")
    (out / "shards").symlink_to(mine)
    with pytest.raises(DataError, match="shards is a link, through which nothing is written"):
        make(photos, model, out)
    (out / "shards").unlink()
    shutil.move(tmp_path / "shards", out / "shards")
    (out / "tokenizer.json").unlink()
    (out / "tokenizer.json").symlink_to(mine / "tokenizer.json")
    make(photos, model, out)
    assert contents(mine) == before and not (out / "tokenizer.json").is_symlink()


def test_a_plan_or_tokenizer_that_was_altered_is_told(photos: Path, model: Path, tmp_path: Path) -> None:
    make(photos, model, tmp_path / "out")
    for name in ("plan.json", "tokenizer.json"):
        path = tmp_path / "out" / name
        text = path.read_text()
        path.write_text(text + " ")
        with pytest.raises(DataError, match=f"{name} was altered"):
            make(photos, model, tmp_path / "out")
        path.unlink()
        with pytest.raises(DataError, match=f"{name} is missing"):
            make(photos, model, tmp_path / "out")
        path.write_text(text)
    assert make(photos, model, tmp_path / "out").documents == 11


def test_a_model_that_was_altered_prepares_nothing(photos: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(bundles.find("scenes"), tmp_path / "model"))
    for name in ("image_tokenizer.safetensors", "tokenizer.json"):
        data = (model / name).read_bytes()
        (model / name).write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
        with pytest.raises(CheckpointError, match=f"{name} was altered"):
            make(photos, model, tmp_path / "out")
        (model / name).write_bytes(data)
    assert not (tmp_path / "out").exists()
    assert make(photos, model, tmp_path / "out").documents == 11


def test_one_writer_at_a_time(photos: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is writing to it"):
            make(photos, model, tmp_path / "out")
    assert make(photos, model, tmp_path / "out").documents == 11


def test_a_full_disk_is_told_and_what_is_done_stays(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(photos, model, tmp_path / "whole")
    sync, count = os.fsync, 0

    def full(file: int) -> None:
        nonlocal count
        count += 1
        if count == 12:  # two calls a file: plan, tokenizer, then shards and reports
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="no space is left on the disk; .* stays, and the same command goes on$"):
        make(photos, model, tmp_path / "out")
    monkeypatch.undo()
    left = contents(tmp_path / "out")
    assert not [name for name in left if name.endswith(".part")] and "shards/00000.json" in left
    done = (tmp_path / "out/shards/00000.safetensors").stat().st_mtime_ns
    make(photos, model, tmp_path / "out")
    assert (tmp_path / "out/shards/00000.safetensors").stat().st_mtime_ns == done, "not made again"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


FULL = """
import resource, sys
from cm3.data.prepare import prepare
from cm3.errors import DiskError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
try:
    prepare([sys.argv[1]], sys.argv[2], sys.argv[3], unit=30, max_text=500)
except DiskError as error:
    sys.exit(str(error))
"""


def test_a_file_that_the_system_cuts_short_never_appears(photos: Path, model: Path, tmp_path: Path) -> None:
    for i in range(100):
        (photos / f"t{i:03d}.txt").write_text(f"words of number {i} " * (1 if i < 50 else 20))
    make(photos, model, tmp_path / "whole", unit=30, max_text=500)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "whole").rglob("*.*")}
    limit = max(sizes.values()) - 1
    assert sizes["00000.safetensors"] < limit > sizes["tokenizer.json"]
    ran = python("-c", FULL, photos, tmp_path / "out", model, limit, timeout=100)
    assert ran.returncode == 1 and "no space is left on the disk" in ran.stderr, ran.stderr
    left = contents(tmp_path / "out")
    assert "shards/00000.json" in left and left.items() < contents(tmp_path / "whole").items()
    make(photos, model, tmp_path / "out", unit=30, max_text=500)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.skipif(not COCO.is_dir(), reason="no ../shared/data beside this checkout")
def test_real_photographs_with_their_captions(model: Path, tmp_path: Path) -> None:
    report = prepare([f"coco:{COCO}@val2017"], tmp_path / "out", model, unit=100)
    store = Store.open(tmp_path / "out")
    known = json.loads((COCO / "annotations" / "captions_val2017.json").read_text())
    captions = {str(a["id"]): a for a in known["annotations"]}
    assert report.documents + report.duplicates["content"] == len(captions) and not report.skipped
    number = len(store) // 2
    about = store.about(number)
    codec = load_tokenizers(model).codec
    assert codec.decode(store.tokens([number])[0]).text == captions[about.id]["caption"].strip()
    assert about.meta["image_id"] == captions[about.id]["image_id"] and about.source == "coco/val2017"

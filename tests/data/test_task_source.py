"""Examples of real datasets in their shares: made on the fly, the same again, and refused before anything starts."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import store_parts
import tiny_model

from cm3.data.kind import Context
from cm3.data.kinds import TaskData
from cm3.data.neighbours import find_neighbours
from cm3.data.order import BLOCK
from cm3.data.prepare import prepare
from cm3.data.store_source import Retrieval
from cm3.data.task_source import ExampleLaw, StorePart, TaskPart, TaskSource, mixture_of
from cm3.errors import ConfigError, DataError
from cm3.read import places
from cm3.read.find import open_reader
from cm3.read.random_access import Numbered
from cm3.retrieval.select import SelectLaw
from cm3.sequence.answers import Weighted
from cm3.sequence.before import AugmentLaw
from cm3.sequence.mask import cm3_unmask
from cm3.store.store import Store
from cm3.tasks import find_task
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens

MINI = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini"
MIX: dict[str, Any] = {"weights": {}, "caps": {}, "up": 3.0, "down": 0.3, "balanced": False}


def jsonl(folder: Path, name: str, lines: Sequence[dict[str, Any]]) -> Path:
    """A dataset of a picture a line."""
    folder = folder / name
    folder.mkdir()
    rng = np.random.default_rng(len(name))
    for i, line in enumerate(lines):
        PIL.Image.fromarray(rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        line |= {"image": f"{i}.png", "id": f"{name}/{i}"}
    (folder / "all.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return folder


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return jsonl(tmp_path, "asked", [{"question": f"what is {i}?", "answer": f"it is {i}"} for i in range(5)])


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    return jsonl(tmp_path, "drawn", [{"ocr_content": f"WORD {i}"} for i in range(3)])


def opened(data: TaskData, codec: Codec, tokenizer: Path) -> TaskSource:
    return data.source(Context(Path(), codec, tokenizer, 160, 160))


def source(*sources: str, **changes: Any) -> TaskSource:
    data = TaskData(sources=sources, seed=4, law=ExampleLaw(answers=1.0))
    return opened(replace(data, **changes), tiny_model.codec(), tiny_model.tokenizer_path())


def test_pictures_are_held_out_of_all_datasets_together(asked: Path, tmp_path: Path) -> None:
    """A dataset that lies twice under two names is split alike, and each dataset is opened once for both sides."""
    twice = Path(shutil.copytree(asked, tmp_path / "twice"))
    data = TaskData((f"vqa2=jsonl:{asked}", f"vqa2=jsonl:{twice}"), seed=4, holdout=0.4)
    run = Context(Path(), tiny_model.codec(), tiny_model.tokenizer_path(), 160, 160)
    sides = []
    for made in (data.source(run), data.held_out(run)):
        sides.append([[part.documents[i].images[0].digest for i in range(len(part))] for part in made.parts])
    (trained, again), (held, other) = sides
    assert trained == again and held == other and len(trained) + len(held) == 5 and trained and held
    assert not set(trained) & set(held)
    assert data._datasets is data._datasets and data.source(run).parts[0].documents.documents is (
        data.held_out(run).parts[0].documents.documents
    )


def texts(made: TaskSource, indices: Sequence[int]) -> list[str]:
    codec = tiny_model.codec()
    found = map(_tokens, made.sequences(indices))
    return [codec.decode(cm3_unmask(tokens, codec.vocab)).text for tokens in found]


def _tokens(one: Tokens | Weighted) -> Tokens:
    return one.tokens if isinstance(one, Weighted) else one


def test_examples_come_in_their_shares_by_any_template(asked: Path, drawn: Path) -> None:
    made = source(f"vqa2=jsonl:{asked}", f"write=jsonl:{drawn}", weights={"vqa2": 0.25})
    said = texts(made, range(60))
    questions = [text for text in said if text.startswith("Question: ")]
    assert 12 <= len(questions) <= 18 and all(t.startswith('draw "WORD ') for t in said if t not in questions)
    endings = {"Answer: it is ", "The answer is it is ", "\nit is "}
    assert {next(e for e in endings if e in text) for text in questions} == endings
    assert {text.split("what is ")[1][0] for text in questions} == set("01234")
    assert {text[11] for text in said if text not in questions} == set("012")
    report = made.report(BLOCK)
    assert report["vqa2"] == {
        "documents": 5, "left_out": 0, "share": 0.25, "repeats": pytest.approx(0.4), "realised": 0.25,
        "epochs": BLOCK / 4 / 5,
    }  # fmt: skip
    # How often a document comes while 8 come, as there are 8.
    assert all(one["repeats"] == pytest.approx(one["epochs"] * 8 / BLOCK) for one in report.values())
    assert "realised" not in made.report()["write"] and made.report()["write"]["share"] == 0.75


def test_the_same_positions_are_the_same_examples(asked: Path, drawn: Path) -> None:
    sources = f"vqa2=jsonl:{asked}", f"write=jsonl:{drawn}"
    law = ExampleLaw(answers=0.5, loss="answer")
    first, again = source(*sources, law=law), source(*sources, law=law)
    chunk = first.sequences(range(16))
    for one, other in zip(chunk, again.sequences(range(16)), strict=True):
        assert type(one) is type(other)
        a, b = (x.tokens if isinstance(x, Weighted) else x for x in (one, other))
        assert a.ids.tolist() == b.ids.tolist() and a.cells.tolist() == b.cells.tolist()
    assert {type(one).__name__ for one in chunk} == {"Weighted", "Tokens"}
    other = replace(TaskData(sources), seed=5)
    moved = opened(other, tiny_model.codec(), tiny_model.tokenizer_path())
    assert texts(moved, range(16)) != texts(first, range(16))


def test_what_weighs(asked: Path) -> None:
    v = tiny_model.codec().vocab
    (all_,) = source(f"vqa2=jsonl:{asked}").sequences([3])
    (answer,) = source(f"vqa2=jsonl:{asked}", law=ExampleLaw(answers=1.0, loss="answer")).sequences([3])
    (plain,) = source(f"vqa2=jsonl:{asked}", law=ExampleLaw(answers=1.0, plain=True)).sequences([3])
    (whole,) = source(f"vqa2=jsonl:{asked}", law=ExampleLaw(answers=0.0)).sequences([3])
    assert isinstance(all_, Weighted) and isinstance(answer, Weighted) and isinstance(plain, Weighted)
    assert (all_.weights == 1).all() and 0 < answer.weights.sum() < 20
    assert v.is_mask(all_.tokens.ids).sum() == 2 and not v.is_mask(plain.tokens.ids).any()
    assert v.is_image(plain.tokens.ids)[1] and not isinstance(whole, Weighted)
    assert whole.ids.tolist() == cm3_unmask(all_.tokens, v).ids.tolist()


def test_a_document_that_cannot_serve_is_passed_over(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"question": "what?", "answer": ""}, {"question": "who?", "answer": "me"}, {"a": 1}]
    folder = jsonl(tmp_path, "some", lines)
    (folder / "2.png").write_bytes(b"no picture")
    made = source(f"vqa2=jsonl:{folder}")
    assert set(t.split()[1] for t in texts(made, range(12))) == {"who?"} and made.report()["vqa2"]["left_out"] == 2
    with pytest.raises(
        DataError, match=r"task source 'write': none of 3 documents in a row serves \(document 'some/0'"
    ):
        source(f"write=jsonl:{folder}")


@pytest.mark.parametrize("kind", ["jsonl", "folder"])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_picture_that_is_cut_short_is_passed_over(tmp_path: Path, kind: str, ending: str) -> None:
    for name in ("a", "b"):
        PIL.Image.effect_noise((90, 60), 60).convert("RGB").save(tmp_path / f"{name}.{ending}")
        (tmp_path / f"{name}.txt").write_text(f"it is {name}")
    whole = (tmp_path / f"a.{ending}").read_bytes()
    (tmp_path / f"a.{ending}").write_bytes(whole[: len(whole) // 2])
    lines = [{"id": name, "image": f"{name}.{ending}", "text": f"it is {name}"} for name in ("a", "b")]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    made = source(f"coco_captions={kind}:{tmp_path}", law=ExampleLaw(answers=0.5))
    assert all("it is b" in text for text in texts(made, range(8)))
    assert made.report()["coco_captions"]["left_out"] == 1
    (tmp_path / f"b.{ending}").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 2 documents in a row serves \(document 'a.*cannot be read \("):
        made.sequences([0])


def test_a_dataset_of_several_tasks_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    (tmp_path / "val2017").mkdir()
    for i in range(3):
        PIL.Image.new("RGB", (40, 40), "red").save(tmp_path / "val2017" / f"{i:012d}.jpg")
    images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(3)]
    captions = [{"id": i, "image_id": i, "caption": "red"} for i in range(3)]
    things = [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 9, 9]} for i in range(3)]
    (folder / "captions_val2017.json").write_text(json.dumps({"images": images, "annotations": captions}))
    seen = folder / "instances_val2017.json"
    seen.write_text(json.dumps({"categories": [{"id": 1, "name": "dog"}], "annotations": things}))
    read: list[str] = []
    find = places._found

    def noted(path: Path) -> Any:
        read.append(path.name)
        return find(path)

    monkeypatch.setattr(places, "_found", noted)
    tasks = ("coco_captions", "boxes", "boxes")
    made = source(*(f"{name}=coco:{tmp_path}@val2017" for name in tasks))
    assert len(texts(made, range(6))) == 6 and read == ["captions_val2017.json", seen.name]
    # What a task needs is asked for once, not for each document.
    for damage in ("{", "[]"):
        seen.write_text(damage)
        read.clear()
        with pytest.raises(DataError, match="instances_val2017.json': is not .*; download it again"):
            source(f"boxes=coco:{tmp_path}@val2017")
        assert read == ["captions_val2017.json", seen.name]


def test_stores_join(tmp_path: Path, drawn: Path) -> None:
    store_parts.tokenizers(tmp_path / "tokens")
    store_parts.photos(tmp_path / "photos", 6)
    prepare([f"{tmp_path}/photos"], tmp_path / "store", tmp_path / "tokens")
    store, codec = Store.open(tmp_path / "store"), tiny_model.codec()
    same = Codec(store.vocab, codec.text, codec.image)
    data = TaskData((f"store={tmp_path}/store", f"write=jsonl:{drawn}"), weights={"store": 0.5, "write": 0.5})
    made = opened(data, same, store.tokenizer_path)
    found = list(map(_tokens, made.sequences(range(24))))
    known = {tuple(t.ids.tolist()) for t in store.tokens(range(len(store)))}
    assert sum(tuple(t.ids.tolist()) in known for t in found) == 12
    assert {tuple(t.ids.tolist()) for t in found} >= known
    with pytest.raises(ConfigError, match="was prepared with another vocabulary than this run has; prepare it again"):
        opened(data, Codec(replace(store.vocab, masks=7), codec.text, codec.image), store.tokenizer_path)
    with pytest.raises(ConfigError, match="data.neighbours='x': are of a store's documents; give one, store=PATH"):
        source(f"write=jsonl:{drawn}", neighbours="x")


def test_a_cap_on_a_store_is_one(tmp_path: Path) -> None:
    store_parts.tokenizers(tmp_path / "tokens")
    store_parts.photos(tmp_path / "photos", 12)
    encoder = store_parts.encoder(tmp_path / "encoder")
    prepare([f"{tmp_path}/photos"], tmp_path / "store", tmp_path / "tokens", encoder=encoder)
    store, codec = Store.open(tmp_path / "store"), tiny_model.codec()
    same = Codec(store.vocab, codec.text, codec.image)
    data = TaskData((f"store={tmp_path}/store",), caps={"store": 5})
    made = opened(data, same, store.tokenizer_path)
    found = [tuple(_tokens(t).ids.tolist()) for t in made.sequences(range(40))]
    first = {tuple(t.ids.tolist()) for t in store.tokens(range(5))}
    assert all(set(found[n : n + 5]) == first for n in range(0, 40, 5))
    assert made.report()["store"] == {"documents": 12, "left_out": 0, "share": 1.0, "repeats": 1.0}

    table = find_neighbours([store.path], store.path, tmp_path / "table", law=SelectLaw(highest=1))
    part = StorePart("store", store, retrieval=Retrieval(table, store, AugmentLaw((0.0, 1.0)), 600))
    with_one = TaskSource([part], mixture_of([part], **MIX | {"caps": {"store": 5}}), same, 0).sequences(range(40))
    with_one = list(map(_tokens, with_one))
    before: dict[tuple[int, ...], set[tuple[int, ...]]] = {query: set() for query in first}
    for sequence in (tuple(t.ids.tolist()) for t in with_one):
        query = next(q for q in first if sequence[1 - len(q) :] == q[1:])
        before[query].add(sequence[: 1 - len(query)])
    assert all(len(neighbours) > 2 for neighbours in before.values()), "drawn anew each epoch, of all the store"


@pytest.mark.parametrize(
    ("sources", "changes", "message"),
    [
        ((), {}, "data.sources: there are none; give some, each TASK="),
        (("vqa2",), {}, "data.sources: 'vqa2' must be written TASK="),
        (("vqa=jsonl:{asked}",), {}, r"task 'vqa': is not known; known: .* Did you mean 'vqa2'\?"),
        (("vqa2=jsonl:{asked}/none",), {}, "none': no such file or folder; check the path"),
        (("pose=flickr30k:{asked}",), {}, "Flickr30k|flickr30k"),
        (("vqa2=folder:{asked}",), {}, r"task source 'vqa2': none of \d documents in a row serves"),
        (("vqa2=jsonl:{asked}",), {"weights": {"vqa2": 0.0}}, "the weights of vqa2 sum to nothing; give one a weight"),
        (("vqa2=jsonl:{asked}",), {"weights": {"vqa": 1.0}}, "task mixture: weights names 'vqa'; its sources are vqa2"),
        (("vqa2=jsonl:{asked}", "vqa2=jsonl:{asked}"), {"caps": {"vqa2#2": 0}}, "the cap of 'vqa2#2' is 0"),
        (("vqa2=jsonl:{empty}",), {}, "task mixture: source 'vqa2' is empty; leave it out"),
    ],
)
def test_what_is_wrong_is_told_before_training(
    asked: Path, tmp_path: Path, sources: tuple[str, ...], changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    given = [s.format(asked=asked, empty=tmp_path / "empty.jsonl") for s in sources]
    with pytest.raises((ConfigError, DataError), match=message):
        source(*given, **changes)


def test_a_dataset_of_another_kind_is_refused(asked: Path) -> None:
    reader = open_reader(f"jsonl:{asked}")
    reader.kind = "flickr30k"  # type: ignore[misc]
    with pytest.raises(ConfigError, match="task 'vqa2': is made of vqa2, .*, not of flickr30k"):
        TaskPart("vqa2", find_task("vqa2"), Numbered(reader))


def test_modalities_are_balanced_where_wanted(asked: Path, drawn: Path) -> None:
    asks, draws = (Numbered(open_reader(f"jsonl:{path}")) for path in (asked, drawn))
    parts = [TaskPart("vqa2", find_task("vqa2"), asks), TaskPart("write", find_task("write"), draws)]
    parts.append(TaskPart("edit2", find_task("write"), draws))
    shares = mixture_of(parts, **MIX | {"balanced": True}).shares
    assert shares["vqa2"] == 0.5 and shares["write"] == shares["edit2"] == 0.25
    with pytest.raises(ConfigError, match="task mixture: is of vqa2, write, not of vqa2, write, edit2"):
        TaskSource(parts, mixture_of(parts[:2], **MIX), tiny_model.codec(), 0)
    with pytest.raises(ConfigError, match="tasks have pictures; give it an image tokenizer"):
        codec = tiny_model.codec()
        TaskSource(parts, mixture_of(parts, **MIX), Codec(codec.vocab, codec.text), 0)
    assert not isinstance(parts[0], StorePart)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": 1.5}, "law.answers=1.5: is a share, must be in 0..1"),
        ({"loss": "none"}, "law.loss='none': must be 'all' or 'answer'"),
    ],
)
def test_laws_that_are_none_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExampleLaw(**changes)


@pytest.mark.skipif(not MINI.is_dir(), reason="no COCO pictures beside the checkout")
def test_photographs_of_coco_serve_every_task_that_they_can() -> None:
    names = ["boxes", "pose", "coco_captions"]
    names += ["canny", "scribble"] if importlib.util.find_spec("cv2") else []
    names += ["segmentation", "segment"] if importlib.util.find_spec("pycocotools") else []
    made = source(*(f"{name}=coco:{MINI}@val2017" for name in names), balanced=True)
    codec, seen = tiny_model.codec(), set[str]()
    for tokens in map(_tokens, made.sequences(range(6 * len(names)))):
        document = codec.decode(cm3_unmask(tokens, codec.vocab))
        for name in names:
            for template in find_task(name).templates:
                try:
                    template.read(document)
                except DataError:
                    continue
                seen.add(name)
    assert seen == set(names)

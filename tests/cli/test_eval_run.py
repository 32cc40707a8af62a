"""`cm3 eval run`: each suite from end to end on data of its owners' layout, killed, shared, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import published
import pytest
import tiny_networks
from batch_parts import command, command_until
from command import Cm3, Ran
from forks import forks, python
from ray_head import Head
from store_parts import contents

from cm3.eval.suites import SUITES
from cm3.generate import CM3Leon

ENCODER = Path(__file__).resolve().parents[2] / "cm3/bundles/scenes/encoder"
FAST = ("--candidates", "1", "--guidance", "1", "--max-tokens", "4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Datasets by suite."""
    root = tmp_path_factory.mktemp("published")
    found = published.datasets(root)
    found["coco30k"] = found["perplexity"] = found["coco_captions"]
    prompts = ["two red cows", "a green star", "a blue circle and a star"]
    rows = [{"prompt": one, "atom_count": 2, "vqa_list": [], "skills": []} for one in prompts]
    published.write(root / "GenEval2/geneval2_data.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    for number, one in enumerate(prompts):
        published.write(root / f"ELLA/dpg_bench/prompts/{'cab'[number]}{number}.txt", f" {one}\n")
    options = [{"answer_options": [(turn + i) % 2 for i in range(100)], "gt_index": turn} for turn in range(2)]
    page = json.loads((root / "visdial/visdial_1.0_val.json").read_text())
    for dialog in page["data"]["dialogs"]:
        for turn in dialog["dialog"]:
            turn |= options[turn["question"]]
    published.write(root / "visdial/visdial_1.0_val.json", page)
    return {**found, "geneval2": str(root / "GenEval2"), "dpg": str(root / "ELLA")}


def run(cm3: Cm3, tiny: Path, suite: str, source: str, out: str, *more: str) -> Ran:
    return cm3("eval", "run", suite, *([source] if source else []), "--model", tiny, "--out", out, "--json", *more)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


def test_captions(cm3: Cm3, tiny: Path, data: dict[str, str]) -> None:
    for suite, first in (("coco_captions", 0), ("flickr30k", "100"), ("image_paragraph", 0)):
        ran = run(cm3, tiny, suite, data[suite], suite, *FAST)
        assert ran.code == 0, ran.err
        made, asked = read(f"{suite}/predictions.json"), lines(Path(suite, "requests.jsonl"))
        assert [one["id"] for one in asked] == [one["image_id"] for one in made] and len(made) == 3
        assert made[0]["image_id"] == first and asked[1]["seed"] == 1
        true = read(f"{suite}/references.json")
        assert [one["id"] for one in true["images"]] == [one["image_id"] for one in made]
        said = [one["caption"] for one in true["annotations"] if one["image_id"] == first]
        assert said == list(published.CAPTIONS[0][: len(said)]) and len(said) == (
            1 if suite == "image_paragraph" else 2
        )
        page = read(f"{suite}/result.json")
        assert page["n"] == 3 and page == ran.json
        assert f"the model was not tuned for task {suite!r}: expect little of it" in page["warnings"]
        assert "expect little of it" in ran.err


def test_a_prediction_is_what_a_user_gets(cm3: Cm3, tiny: Path, data: dict[str, str]) -> None:
    assert run(cm3, tiny, "vqa2", data["vqa2"], "out", "--seed", "3", *FAST).code == 0
    model, root = CM3Leon.load(tiny), Path(data["vqa2"].partition(":")[2])
    settings: Any = {"candidates": 1, "guidance": 1.0, "max_tokens": 4}
    page, accuracy = read("out/result.json"), []
    for n, one in enumerate(read("out/predictions.json")):
        picture = root / f"val2014/COCO_val2014_{n:012d}.jpg"
        said = model.answer(picture, published.QUESTIONS[n], seed=3 + n, **settings).text
        assert one == {"question_id": n, "answer": " ".join(said.split())}
        accuracy.append(min(1, published.ANSWERS[n].count(one["answer"]) / 3))
    assert page["settings"]["protocol"] == "official" and page["figures"]["accuracy"] == pytest.approx(
        100 * sum(accuracy) / 3
    )


@pytest.mark.parametrize("suite", ["okvqa", "vizwiz"])
def test_other_questions(cm3: Cm3, tiny: Path, data: dict[str, str], suite: str) -> None:
    ran = run(cm3, tiny, suite, data[suite], "out", *FAST, "--protocol", "always-normalise")
    assert ran.code == 0, ran.err
    made = read("out/predictions.json")
    assert len(made) == 3 and all(("image" if suite == "vizwiz" else "question_id") in one for one in made)
    assert ran.json["settings"]["protocol"] == "always-normalise" and 0 <= ran.json["figures"]["accuracy"] <= 100
    assert set(ran.json["items"]["accuracy"]) == {str(one.get("image", one.get("question_id"))) for one in made}
    assert {"questions", "annotations"} == set(ran.json["references"])


def test_some_items_are_asked_as_among_all(cm3: Cm3, tiny: Path, data: dict[str, str]) -> None:
    for n in ("2", "3"):
        assert run(cm3, tiny, "okvqa", data["okvqa"], n, "--n", n, *FAST).code == 0
    some, every = ({one["id"]: one for one in lines(Path(n, "requests.jsonl"))} for n in ("2", "3"))
    assert len(some) == 2 and some.items() < every.items()


def test_questions_without_published_answers(cm3: Cm3, tiny: Path, tmp_path: Path) -> None:
    root = published.vqa2(tmp_path / "qa")
    for name in ("v2_OpenEnded_mscoco_{}_questions.json", "{}"):
        (root / name.format("val2014")).rename(root / name.format("test2015"))
    for path in (root / "test2015").iterdir():
        path.rename(path.with_name(path.name.replace("val2014", "test2015")))
    ran = run(cm3, tiny, "vqa2", "qa@test2015", "out", *FAST)
    assert ran.code == 0, ran.err
    assert ran.json["figures"] == {} and len(read("out/predictions.json")) == 3
    assert any("predictions.json is for the owners' server" in told for told in ran.json["warnings"])


def test_perplexity(cm3: Cm3, tiny: Path, data: dict[str, str]) -> None:
    ran = run(cm3, tiny, "perplexity", data["perplexity"], "out")
    assert ran.code == 0, ran.err
    model, figures = CM3Leon.load(tiny), ran.json["figures"]
    asked, made = lines(Path("out/requests.jsonl")), lines(Path("out/predictions/results.jsonl"))
    texts = [one["document"][0] for one in asked]
    sizes = [sum(one["tokens"][kind] for one in made) for kind in ("text", "image", "border")]
    assert sizes == [sum(len(model.codec.text.encode(t)) for t in texts), 6 * 16, 6 * 2]
    nats = sum(one["nats"]["text"] for one in made)
    assert figures["text_nats_per_token"] == pytest.approx(nats / sizes[0])
    assert figures["text_bits_per_byte"] == pytest.approx(nats / np.log(2) / sum(len(t.encode()) for t in texts))
    assert figures["image_nats_per_token"] > 0 and ran.json["settings"]["text_tokens"] == sizes[0]


def test_perplexity_of_pictures_that_are_no_files(cm3: Cm3, tiny: Path, data: dict[str, str], tmp_path: Path) -> None:
    """A packed source gives the figures of the files that it was made of."""
    import io
    import tarfile

    root = Path(data["coco_captions"].partition(":")[2].partition("@")[0])
    (tmp_path / "plain").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for n in range(2):
            for ending, some in (("jpg", (root / f"val2017/{n:012d}.jpg").read_bytes()), ("txt", b"a red star")):
                (tmp_path / f"plain/{n}.{ending}").write_bytes(some)
                entry = tarfile.TarInfo(f"{n}.{ending}")
                entry.size = len(some)
                tar.addfile(entry, io.BytesIO(some))
    packed = run(cm3, tiny, "perplexity", f"webdataset:{tmp_path}/a.tar", "packed")
    plain = run(cm3, tiny, "perplexity", f"folder:{tmp_path}/plain", "plain")
    assert packed.code == plain.code == 0, packed.err + plain.err
    assert packed.json["figures"] == plain.json["figures"]


def test_pictures_for_the_judge_of_geneval2(cm3: Cm3, tiny: Path, data: dict[str, str]) -> None:
    ran = run(cm3, tiny, "geneval2", data["geneval2"], "out", *FAST)
    assert ran.code == 0, ran.err
    paths = read("out/image_paths.json")
    assert list(paths) == [one["prompt"] for one in lines(Path(data["geneval2"], "geneval2_data.jsonl"))]
    with PIL.Image.open(paths["a green star"]) as drawn:
        assert drawn.size == (64, 64) and drawn.text["seed"] == "1"
    assert ran.json["figures"] == {} and "soft_tifa" in ran.json["settings"]["judge"]


def test_grids_for_the_judge_of_dpg(cm3: Cm3, tiny: Path, data: dict[str, str]) -> None:
    ran = run(cm3, tiny, "dpg", data["dpg"], "out", *FAST)
    assert ran.code == 0, ran.err
    assert {p.name for p in Path("out/grids").iterdir()} == {"a1.png", "b2.png", "c0.png"}, "and nothing else"
    first = lines(Path("out/predictions/results.jsonl"))[0]
    assert first["id"] == "a1" and len(first["files"]) == 4
    with PIL.Image.open("out/grids/a1.png") as grid:
        assert grid.size == (128, 128)
        corners = [(0, 0), (64, 0), (0, 64), (64, 64)]
        for (x, y), name in zip(corners, first["files"], strict=True):
            with PIL.Image.open(Path("out/predictions", name)) as drawn:
                assert np.array_equal(np.asarray(grid.crop((x, y, x + 64, y + 64))), np.asarray(drawn))
    assert ran.json["settings"]["resolution"] == 64
    assert any("counts the last picture alone in its categories" in told for told in ran.json["warnings"])


def test_the_best_of_several_by_a_named_ranker(cm3: Cm3, tiny: Path, data: dict[str, str]) -> None:
    source = data["coco30k"]
    ranked = ("--best-of", "3", "--rank-by", str(ENCODER))
    ran = run(cm3, tiny, "coco30k", source, "clip", *ranked, "--guidance", "1")
    assert ran.code == 0, ran.err
    asked = {one["id"]: one for one in lines(Path("clip/requests.jsonl"))}
    assert len(asked) == 3 and all(one["n"] == 3 for one in asked.values())
    assert all(one["prompt"] in published.CAPTIONS[id] for id, one in asked.items())
    from cm3.document import Image
    from cm3.retrieval.embed import load_encoder

    encoder, kept = load_encoder(str(ENCODER)), read("clip/predictions.json")
    for one in lines(Path("clip/predictions/results.jsonl")):
        seen = encoder.images([Image.open(Path("clip/predictions", name)).pixels for name in one["files"]])
        cosines = (seen @ encoder.texts([asked[one["id"]]["prompt"]])[0]).tolist()
        assert kept[str(one["id"])] == one["files"][int(np.argmax(cosines))]
        assert ran.json["items"]["clip_cosine"][str(one["id"])] == pytest.approx(max(cosines), abs=1e-5)
    assert ran.json["settings"]["ranked_by"] == encoder.name
    before = contents(Path("clip/ranked"))
    assert run(cm3, tiny, "coco30k", source, "clip", *ranked, "--guidance", "1").json["figures"] == ran.json["figures"]
    assert contents(Path("clip/ranked")) == before
    plain = run(cm3, tiny, "coco30k", source, "plain", "--best-of", "2", "--guidance", "1")
    assert plain.code == 0, plain.err
    assert {one["candidates"] for one in lines(Path("plain/requests.jsonl"))} == {2}
    assert plain.json["settings"]["ranked_by"] == "likelihood of the whole document"
    assert plain.json["figures"] == {} and any("there is no FID" in told for told in plain.json["warnings"])


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_networks.dino(tmp_path_factory.mktemp("dino"))


@pytest.mark.parametrize("reference", ["split", "asked", "folder", "statistics"])
def test_fid_is_that_of_the_scorer(
    cm3: Cm3, tiny: Path, data: dict[str, str], network: Path, tmp_path: Path, reference: str
) -> None:
    """The same pictures, cropped and scaled in the same way, by `cm3 eval fid`."""
    root = Path(data["coco30k"].partition(":")[2].partition("@")[0], "val2017")
    shutil.copytree(root, tmp_path / "true", ignore=shutil.ignore_patterns("*.png"))
    way = ("--features", network, "--crop", "centre", "--size", "64", "--measures", "fid", "--json")
    (tmp_path / "other").mkdir()
    if reference == "asked":
        # Of two pictures of the three.
        assert run(cm3, tiny, "coco30k", data["coco30k"], "out", "--n", "2", "--guidance", "1").code == 0
        for path in (tmp_path / "true").iterdir():
            if int(path.stem) not in {one["id"] for one in lines(Path("out/requests.jsonl"))}:
                path.unlink()
    if reference == "statistics":
        assert cm3("eval", "fid", "true", *way, "--save-stats", "true.npz").code == 0
    named = {"folder": "true", "statistics": "true.npz"}.get(reference, reference)
    n = ("--n", "2") if reference == "asked" else ()
    more = ("--features", str(network), "--reference", named, "--guidance", "1")
    ran = run(cm3, tiny, "coco30k", data["coco30k"], "out", *n, *more)
    assert ran.code == 0, ran.err
    for name in read("out/predictions.json").values():
        shutil.copyfile(Path("out/predictions", name), Path("other", Path(name).name))
    own = cm3("eval", "fid", "other", "true.npz" if reference == "statistics" else "true", *way)
    assert own.code == 0, own.err
    assert ran.json["figures"]["fid"] == pytest.approx(own.json["figures"]["fid"], rel=1e-4, abs=1e-6)
    said = {"folder": "pictures"}.get(reference, reference)
    assert ran.json["settings"]["reference"] == said and ran.json["settings"]["crop"] == "centre"


def test_scenes_as_their_own_verb_measures_them(cm3: Cm3) -> None:
    ran = cm3(
        "eval", "run", "scenes", "--model", "scenes", "--n", "2", "--seed", "1", "--out", "out", "--json", *FAST[:2]
    )
    assert ran.code == 0, ran.err
    own = cm3("eval", "scenes", "--n", "2", "--seed", "1", "--json", *FAST[:2]).json
    figures = ran.json["figures"]
    for task in ("text_to_image", "image_to_text", "text_infill", "region_infill"):
        assert figures[f"{task}_exact"] == own[task]["exact"]
    assert figures["held_out_exact"] == own["text_to_image"]["held_out"]
    assert figures["region_infill_outside_unchanged"] == own["region_infill"]["outside_unchanged"] == 1
    assert ran.json["n"] == 10 and set(ran.json["items"]) == set(figures)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_gives_the_same(
    ray_head: Head, data: dict[str, str], tiny: Path, whole: Path, tmp_path: Path
) -> None:
    """With a path from here, which is another folder than that of the cluster's processes."""
    model = Path(os.path.relpath(tiny, tmp_path))
    given = (*args(data, model, tmp_path / "out"), "--cluster", ray_head.node)
    ran = python("-m", "cm3", *given, env=ray_head.env, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    same(tmp_path / "out", whole)


@pytest.mark.slow
def test_instruction_tasks_of_scenes(cm3: Cm3) -> None:
    asked = ("scene_tasks", "--model", "scenes", "--n", "1", "--seed", "1", "--out", "out", "--json")
    ran = cm3("eval", "run", *asked, *FAST[:2])
    assert ran.code == 0, ran.err
    own = cm3("eval", "scenes", "--tasks", "all", "--n", "1", "--seed", "1", "--json", *FAST[:2]).json
    figures = {f"{task}_{name}": value for task, of in own["tasks"].items() for name, value in of.items()}
    assert ran.json["figures"] == pytest.approx(figures)


def test_scienceqa(cm3: Cm3, tiny: Path, data: dict[str, str]) -> None:
    ran = run(cm3, tiny, "scienceqa", data["scienceqa"], "out", *FAST)
    assert ran.code == 0, ran.err
    asked = lines(Path("out/requests.jsonl"))
    assert [one["id"] for one in asked] == ["1", "2"], "the problem without a picture is not asked"
    assert asked[0]["request"]["choices"] == ["the square", "the circle"] and "context" not in asked[0]["request"]
    made, true = read("out/predictions.json")["results"], {"1": 1, "2": 0}
    assert made.keys() == true.keys() and set(made.values()) <= {-1, 0, 1}
    assert ran.json["figures"]["average"] == 50 * sum(made[id] == true[id] for id in true)


def test_visual_dialog(cm3: Cm3, tiny: Path, data: dict[str, str], tmp_path: Path) -> None:
    ran = run(cm3, tiny, "visdial", data["visdial"], "out")
    assert ran.code == 0, ran.err
    asked = lines(Path("out/requests.jsonl"))
    assert [one["id"] for one in asked] == ["0:1", "0:2", "1:1"] and all(len(one["options"]) == 100 for one in asked)
    assert asked[1]["request"]["turns"] == [["is it day", "yes, it is"]] and asked[0]["request"]["turns"] == []
    rows = read("out/predictions.json")
    assert [(row["image_id"], row["round_id"]) for row in rows] == [(0, 1), (0, 2), (1, 1)]
    assert all(sorted(row["ranks"]) == list(range(1, 101)) for row in rows)
    ranks = [row["ranks"][right] for row, right in zip(rows, (0, 1, 0), strict=True)]
    assert ran.json["figures"]["mrr"] == pytest.approx(sum(1 / rank for rank in ranks) / 3)
    assert ran.json["figures"]["mean_rank"] == sum(ranks) / 3 and "ndcg" not in ran.json["figures"]
    assert any("there is no NDCG" in told for told in ran.json["warnings"])
    root = Path(shutil.copytree(data["visdial"].partition(":")[2], tmp_path / "dense"))
    weights = [{"image_id": 0, "round_id": 2, "gt_relevance": [1 / n for n in rows[1]["ranks"]]}]
    published.write(root / "visdial_1.0_val_dense_annotations.json", weights)
    ran = run(cm3, tiny, "visdial", "visdial:dense", "again")
    assert ran.code == 0, ran.err
    assert ran.json["figures"]["ndcg"] == pytest.approx(1) and list(ran.json["items"]["ndcg"]) == ["0:2"]


def args(data: dict[str, str], tiny: Path, out: Path) -> tuple[str | Path, ...]:
    return ("eval", "run", "vqa2", data["vqa2"], "--model", tiny, "--out", out, "--unit", "1", *FAST)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: dict[str, str], tiny: Path) -> Path:
    """The folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert given(args(data, tiny, out)) == [0]
    return out


def given(args: tuple[str | Path, ...], *envs: dict[str, str]) -> list[int | None]:
    """Give a command in a process of its own, or in one for each environment; returns the exit codes."""
    some = [forks().Process(target=command, args=args, kwargs={"env": env}) for env in envs or [{}]]
    for process in some:
        process.start()
    for process in some:
        process.join()
    return [process.exitcode for process in some]


def same(out: Path, whole: Path) -> None:
    """Predictions are the same byte for byte, and so are all of the result but time and place."""
    pages = [json.loads((folder / "result.json").read_text()) for folder in (out, whole)]
    for page in pages:
        del page["seconds"], page["date"]
        for kind in ("references", "predictions"):
            page[kind] = {name: one["sha256"] for name, one in page[kind].items()}
    assert pages[0] == pages[1]
    found, wanted = ({k: v for k, v in contents(f).items() if k != "result.json"} for f in (out, whole))
    assert found == wanted


@pytest.mark.parametrize(
    ("place", "count"), [("os.replace", 1), ("os.replace", 2), ("os.rename", 2), ("os.replace", 4)]
)
def test_killed_and_started_again(
    data: dict[str, str], tiny: Path, whole: Path, tmp_path: Path, place: str, count: int
) -> None:
    """At the requests, the plan, a unit, and a file of the score."""
    out = tmp_path / "out"
    process = forks().Process(target=command_until, args=(place, count, False, signal.SIGKILL, *args(data, tiny, out)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not (out / "result.json").exists()
    assert given(args(data, tiny, out)) == [0]
    same(out, whole)


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_of_torchrun_give_the_same(
    data: dict[str, str], tiny: Path, whole: Path, tmp_path: Path, ranks: int
) -> None:
    out = tmp_path / "out"
    place = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    envs = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **place} for rank in range(ranks)]
    assert given(args(data, tiny, out), *envs) == [0] * ranks
    same(out, whole)


def test_a_picture_that_is_missing_or_cut_ends_the_run_unless_it_is_to_be_left_out(
    cm3: Cm3, tiny: Path, tmp_path: Path
) -> None:
    root = published.vqa2(tmp_path / "qa")
    (root / "val2014/COCO_val2014_000000000001.jpg").unlink()
    ran = run(cm3, tiny, "vqa2", "qa", "out", *FAST)
    assert ran.code == 2 and "1 items of 'qa' cannot be measured, the first 1: " in ran.err
    assert "no such file" in ran.err and "--skip-bad" in ran.err and not Path("out/predictions").exists()
    cut = root / "val2014/COCO_val2014_000000000002.jpg"
    cut.write_bytes(cut.read_bytes()[:600])
    ran = run(cm3, tiny, "vqa2", "qa", "out", "--skip-bad", *FAST)
    assert ran.code == 0, ran.err
    assert ran.json["n"] == 1 and any("2 items were left out, the first 1: " in told for told in ran.json["warnings"])
    shutil.copyfile(root / "val2014/COCO_val2014_000000000000.jpg", root / "val2014/COCO_val2014_000000000001.jpg")
    ran = run(cm3, tiny, "vqa2", "qa", "cut", *FAST)
    assert ran.code == 2 and "1 items of 'qa' cannot be measured, the first 2: " in ran.err


def test_ids_twice_are_told(cm3: Cm3, tiny: Path, tmp_path: Path) -> None:
    root = published.vqa2(tmp_path / "qa")
    path = root / "v2_OpenEnded_mscoco_val2014_questions.json"
    page = json.loads(path.read_text())
    page["questions"].append(page["questions"][0])
    path.write_text(json.dumps(page))
    ran = run(cm3, tiny, "vqa2", "qa", "out", *FAST)
    assert ran.code == 2 and "has the id '0' of an earlier one; ids must be unique" in ran.err


REFUSED: dict[str, tuple[list[str], str]] = {
    "an unknown protocol": (["vqa2", "{vqa2}", "--protocol", "x"], "protocol='x': must be one of official, always-"),
    "an unknown suite": (["vqa", "{vqa2}"], "suite 'vqa': is not known; known: coco30k, "),
    "no source": (["vqa2"], "source '': has no path"),
    "nowhere": (["vqa2", "nowhere"], "'nowhere': no such file or folder"),
    "another dataset": (["vqa2", "{coco_captions}"], "is of coco, must be of vqa2"),
    "another split": (["flickr30k", "{flickr30k}@tset"], "has no split 'tset'; it has all"),
    "one picture": (["coco_captions", "{coco_captions}", "--n", "1"], "is asked for 1 picture, must be at least 2"),
    "none": (["vqa2", "{vqa2}", "--n", "0"], "--n 0: must be at least 1"),
    "an option of another": (["vqa2", "{vqa2}", "--best-of", "2"], "suite vqa2: takes no best-of; leave it out"),
    "one of one": (["coco30k", "{coco30k}", "--best-of", "1"], "best-of=1: must be an integer, 2 to 1024"),
    "a ranker of nothing": (
        ["coco30k", "{coco30k}", "--rank-by", str(ENCODER)], "says how the best of several is chosen"
    ),
    "no weights": (["coco30k", "{coco30k}", "--features", "no.pth"], "'no.pth': no such file or folder; give weights"),
    "plain without a task": (["geneval2", "{geneval2}", "--plain"], "asks for no task, so there is nothing to ask"),
    "scenes of a source": (["scenes", "{vqa2}"], "draws its own pictures; leave the source"),
    "a file as folder": (["vqa2", "{vqa2}", "--out", "{tiny}/config.json/x"], "config.json' is a file; give a folder"),
    "no copy": (["geneval2"], "suite geneval2: '' holds no prompts; give SOURCE"),
    "no such folder": (["dpg", "{vqa2}"], "holds no prompts; give SOURCE"),
    "no prompts": (["dpg", "{tiny}"], "has nothing for it; give another"),
    "no GenEval": (["geneval2", "nowhere.jsonl"], "suite geneval2: 'nowhere.jsonl' holds no prompts; give SOURCE"),
    "scenes of another world": (["scenes", "--model", "stickers"], "the model knows one to four stickers of 180 kinds"),
    "their tasks": (["scene_tasks", "--model", "stickers"], "Measure one that knows them: --model scenes"),
    "a cluster and processes": (["vqa2", "{vqa2}", "--tp", "2"], "tp=2"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refusals(cm3: Cm3, tiny: Path, data: dict[str, str], what: str) -> None:
    given, message = REFUSED[what]
    given = [one.format(**data, tiny=tiny) for one in given]
    out = [] if "--out" in given else ["--out", "out"]
    model = [] if "--model" in given else ["--model", tiny]
    ran = cm3("eval", "run", *given, *model, *out, *FAST)
    assert ran.code == 2 and message in ran.err.splitlines()[-1]
    assert all(
        line == "cm3: the model was not tuned for task 'vqa2': expect little of it"
        for line in ran.err.splitlines()[:-1]
    )


def test_a_folder_of_other_requests_or_settings(cm3: Cm3, tiny: Path, data: dict[str, str]) -> None:
    assert run(cm3, tiny, "vqa2", data["vqa2"], "out", *FAST).code == 0
    ran = cm3("eval", "run", "vqa2", data["vqa2"], "--model", tiny, "--out", "out", "--n", "2", *FAST)
    assert "was begun with other requests than suite vqa2 has now" in ran.err and ran.code == 2
    ran = cm3("eval", "run", "vqa2", data["vqa2"], "--model", tiny, "--out", "out", *FAST, "--temperature", "1")
    assert "was begun with another temperature: None, now 1.0" in ran.err and ran.code == 2


def test_the_suites_are_listed(cm3: Cm3) -> None:
    ran = cm3("eval", "suites", "--json")
    assert list(ran.json["suites"]) == list(SUITES)
    assert "coco30k" in cm3("eval", "suites").out

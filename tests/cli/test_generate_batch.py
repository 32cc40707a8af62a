"""`cm3 generate --prompts`: what a file of prompts becomes, killed, shared, with bad lines, and what is refused."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from batch_parts import LINES, command, command_until, written
from command import Cm3
from forks import forks, python
from ray_head import Head
from store_parts import contents

from cm3.cli.batch import Batch, Desk
from cm3.document import Gap, Image
from cm3.engine import Engine
from cm3.errors import RequestError
from cm3.files import locked
from cm3.generate import CM3Leon


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory, picture: Path) -> Path:
    """A file of prompts, with the picture that they name beside it."""
    folder = tmp_path_factory.mktemp("prompts")
    shutil.copyfile(picture, folder / "in.png")
    return written(folder / "prompts.jsonl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, prompts: Path, tiny: Path) -> Path:
    """What an undisturbed run makes of them, in units of two lines."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert done(prompts, tiny, out) == 0
    return out


def args(prompts: Path, model: Path, out: Path, *more: str) -> tuple[str | Path, ...]:
    return ("generate", "--prompts", prompts, "--model", model, "--out", out, "--unit", "2", *more)


def done(prompts: Path, model: Path, out: Path, **env: str) -> int | None:
    """Draw in a process of its own; returns the exit code."""
    process = forks().Process(target=command, args=args(prompts, model, out), kwargs={"env": env})
    process.start()
    process.join()
    return process.exitcode


def results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_each_line_is_what_the_same_call_makes(cm3: Cm3, prompts: Path, tiny: Path, picture: Path) -> None:
    ran = cm3("generate", "--prompts", prompts, "--model", tiny, "--out", "out", "--unit", "1", "--seed", "3", "--json")
    assert ran.code == 0, ran.err
    found = results(Path("out"))
    counts = {"lines": 8, "made": 8, "failed": 0, "pictures": 8, "texts": 3, "errors": []}
    assert counts.items() <= ran.json.items() and ran.json["results"] == str(Path("out/results.jsonl").resolve())
    assert [one["line"] for one in found] == [*range(1, 9)] and [one["id"] for one in found][:3] == ["first", 7, None]
    assert [one["seed"] for one in found] == [3, 11, *range(5, 11)]
    model = CM3Leon.load(tiny)
    held = Image.open(picture)
    made = [
        model.generate("a red circle", seed=3),
        model.generate("a blue star", 3, seed=11, guidance=3.0),
        model.generate(["a ", Gap("text"), " circle"], seed=5, max_tokens=5),
        model.generate([held], seed=6, max_tokens=6),
        model.generate(["a red circle", held.with_gap((0, 0, 64, 64))], seed=7),
        model.generate("a blue star", 2, seed=8, contrast="kmax", k=4, alpha=0.5),
        model.edit(held, "paint it", seed=9, image_guidance=1.5).generation,
    ]
    answer = model.answer(held, "why?", seed=10, max_tokens=4)
    for one, wanted in zip(found, [*made, answer.generation], strict=True):
        assert one["scores"] == list(wanted.scores) and one["attribution"] == [] and one["warnings"] == []
        pictures = wanted.images if one["files"] else []
        for name, drawn in zip(one["files"], pictures, strict=True):
            with PIL.Image.open(Path("out") / name) as kept:
                assert np.array_equal(np.asarray(kept), np.asarray(drawn))
                assert kept.text["seed"] == str(one["seed"]) and json.loads(kept.text["settings"])["retrieve"] == 0
    assert [len(one["files"]) for one in found] == [1, 3, 0, 0, 1, 2, 1, 0]
    assert found[2]["texts"] == made[2].texts and found[3]["texts"] == made[3].texts
    assert found[7]["texts"] == [answer.text] and found[7]["fields"] == [{"answer": answer.text}]
    assert found[1]["settings"] == {"n": 3, "guidance": 3.0, "retrieve": 0}


WRITES = [("os.rename", 1), ("os.rename", 3), ("Path.write_bytes", 2), ("Path.write_bytes", 5), ("os.replace", 1)]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("place", "count"), [*WRITES, ("os.replace", 2)])
def test_killed_at_a_write_and_given_again(
    prompts: Path, tiny: Path, whole: Path, tmp_path: Path, place: str, count: int, after: bool
) -> None:
    """In the plan, between the pictures of a unit, around a unit and around the joined results."""
    asked = (place, count, after, signal.SIGKILL, *args(prompts, tiny, tmp_path / "out"))
    process = forks().Process(target=command_until, args=asked)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert done(prompts, tiny, tmp_path / "out") == 0
    assert contents(tmp_path / "out") == contents(whole)


def test_sigterm_leaves_what_is_done_and_nothing_half_done(
    prompts: Path, tiny: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = ("os.rename", 3, False, signal.SIGTERM, *args(prompts, tiny, out))
    process = forks().Process(target=command_until, args=asked)
    process.start()
    process.join()
    assert process.exitcode == 75
    assert {p.name for p in out.iterdir()} == {"batch.json", "000000", "000001"}
    assert done(prompts, tiny, out) == 0
    assert contents(out) == contents(whole)


def test_killed_from_outside(prompts: Path, tiny: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = forks().Process(target=command, args=args(prompts, tiny, out))
    process.start()
    while process.exitcode is None and not (out / "000000").exists():
        time.sleep(0.001)
    process.kill()
    process.join()
    assert done(prompts, tiny, out) == 0
    assert contents(out) == contents(whole)


def test_processes_of_torchrun_make_the_same(prompts: Path, tiny: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    given = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **place} for rank in range(2)]
    both = [forks().Process(target=command, args=args(prompts, tiny, out), kwargs={"env": env}) for env in given]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert contents(out) == contents(whole)


def test_another_number_of_processes_goes_on(prompts: Path, tiny: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    place = {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    assert done(prompts, tiny, out, RANK="1", WORLD_SIZE="3", **place) == 0
    assert {p.name for p in out.iterdir()} == {"batch.json", "000001"}, "its share of four units, and nothing joined"
    assert done(prompts, tiny, out, RANK="1", WORLD_SIZE="2", **place) == 0
    assert {p.name for p in out.iterdir()} == {"batch.json", "000001", "000003"}
    assert done(prompts, tiny, out) == 0
    assert contents(out) == contents(whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_makes_the_same(ray_head: Head, prompts: Path, tiny: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "000001")
    shutil.rmtree(tmp_path / "out" / "000003")
    given = args(prompts, tiny, tmp_path / "out", "--cluster", ray_head.address)
    ran = python("-m", "cm3", *given, env=ray_head.env)
    assert ran.returncode == 0, ran.stderr
    assert contents(tmp_path / "out") == contents(whole)
    # Units are left, so it is asked; without the token it lets nobody in.
    shutil.rmtree(tmp_path / "out" / "000001")
    (tmp_path / "out" / "results.jsonl").unlink()
    hasty = {f"RAY_CLIENT_{which}_CONNECTION_TIMEOUT_S": "1" for which in ("INITIAL", "MAX")}
    ran = python("-m", "cm3", *given, env={**ray_head.env, **hasty, "RAY_AUTH_MODE": "disabled"})
    assert ran.returncode == 2 and ran.stderr.startswith(f"cm3: error: --cluster {ray_head.address}: not reached (")
    assert "if it asks for a token, set RAY_AUTH_MODE=token here\n" in ran.stderr and ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ray://127.0.0.1:1", "[Errno 111] Connection refused"),
        ("ray://127.0.0.1", "an address has a host and a port"),
        ("ray://127.0.0.1:ten", "Port could not be cast"),
        ("127.0.0.1:1", "[Errno 111] Connection refused"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(
    cm3: Cm3, prompts: Path, tiny: Path, tmp_path: Path, address: str, told: str
) -> None:
    pytest.importorskip("ray")
    found = cm3(*args(prompts, tiny, tmp_path / "out", "--cluster", address)).refusal
    assert found.startswith(f"--cluster {address}: not reached ({told}")
    assert found.endswith("); give local, ray://HOST:10001, or on a node of the cluster HOST:6379")


@pytest.mark.parametrize("spoil", ["a picture is missing", "a picture is cut", "a line is missing", "half a line"])
def test_what_is_not_whole_is_drawn_again(prompts: Path, tiny: Path, whole: Path, tmp_path: Path, spoil: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    drawn, told = out / "000000/0000002-1.png", out / "000000/results.jsonl"
    if spoil == "a picture is missing":
        drawn.unlink()
    elif spoil == "a picture is cut":
        drawn.write_bytes(drawn.read_bytes()[:-9])
    else:
        text = told.read_bytes()
        told.write_bytes(text.splitlines(keepends=True)[0] if spoil == "a line is missing" else text[:-9])
    (out / "results.jsonl").write_text("nothing")
    assert done(prompts, tiny, out) == 0
    assert contents(out) == contents(whole)


BAD: dict[str, str] = {
    "{": "line 1: is not readable JSON",
    "[1]": "is no object; write it as",
    '{"prompt": "a", "gudance": 3}': "gudance: is no setting; there are id, prompt, .* Did you mean 'guidance'",
    '{"prompt": "a", "guidance": "3"}': "guidance='3': must be a finite number",
    '{"prompt": "a", "guidance": NaN}': "NaN is no JSON",
    '{"prompt": "a", "guidance": 1e999}': "is larger than any number",
    '{"prompt": "a", "guidance": 1e7}': "sampling.guidance=10000000.0: must be a finite number, -1e6 to 1e6",
    '{"prompt": "a", "temperature": -1}': "sampling.temperature=-1.0: must be at least 0",
    '{"prompt": "a", "k": 5}': "k=5: is for contrastive decoding; give contrast",
    '{"prompt": "a", "contrast": "kmax", "k": 65}': "sampling.k=65: must be at most 64, the ids to draw from",
    '{"prompt": "a", "image_guidance": 2}': 'image_guidance: is for a "task"; leave it out',
    '{"prompt": "a", "retrieve": 2}': "there is no memory bank; give",
    '{"prompt": "a", "n": 0}': "n=0: must be an integer, 1 to",
    '{"prompt": "a", "n": 2.0}': "n=2.0: must be a whole number",
    '{"prompt": "a", "seed": -1}': "seed=-1: must be an integer, 0 to",
    '{"prompt": "a", "plain": true}': 'plain: is for a "task"; leave it out',
    '{"prompt": " "}': "prompt: is empty; say what to draw",
    '{"prompt": []}': "prompt: is empty; say what to draw",
    '{"prompt": "\\ud800"}': "has a lone surrogate U.D800, .* take it out",
    '{"prompt": ["a", {"box": [0, 0, 9, 9]}]}': r"prompt\[1\]: must be .*FILE",
    '{"prompt": ["a", {"image": "nowhere.png"}]}': "nowhere.png': no such file; check the path",
    '{"prompt": ["a", {"image": "../in.png"}]}': "leads outside .* give one that lies in it",
    '{"prompt": ["a", {"image": "in.png", "box": [0, 0, 500, 9]}]}': "must lie inside the image",
    '{"id": 3}': 'must have a "prompt", a "task" and its "request", or a "document", and one of these alone',
    '{"prompt": "a", "task": "edit"}': "and one of these alone",
    '{"task": "edit"}': "go together; give both",
    '{"task": "edt", "request": {}}': "task 'edt': is not known.* Did you mean 'edit'",
    '{"task": "edit", "request": {"image1": "in.png"}}': "'instruction' is missing; it asks for",
    '{"prompt": "' + "a red circle " * 200 + '"}': "and this model's context is 256; shorten it",
    '{"prompt": "' + "a" * (1 << 20) + '"}': "has more than 1048576 bytes; cut it",
}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad[:60])
def test_a_bad_line_is_told_and_the_others_go_on(cm3: Cm3, tiny: Path, tmp_path: Path, picture: Path, bad: str) -> None:
    shutil.copyfile(picture, tmp_path / "in.png")
    good = '{"prompt": "a red circle"}'
    (tmp_path / "p.jsonl").write_text(f"{bad}\n{good}\n\n{good}\n")
    ran = cm3("generate", "--prompts", "p.jsonl", "--model", tiny, "--json")
    assert ran.code == 2
    assert ran.json["failed"] == 1 and ran.json["made"] == ran.json["pictures"] == 2
    first, second, last = results(Path("out"))
    assert (first["line"], second["line"], last["line"]) == (1, 2, 4) and len(second["files"]) == len(
        last["files"]
    ) == 1
    assert first.keys() == {"line", "id", "error"} and ran.json["errors"] == [first["error"]]
    assert first["error"].startswith("p.jsonl, line 1: ") and "\n" not in first["error"]
    assert re.search(BAD[bad], first["error"]), first["error"]
    assert f"cm3: {first['error']}\n" in ran.err
    again = cm3("generate", "--prompts", "p.jsonl", "--model", tiny, "--json")
    assert (again.code, again.json, again.err.count("line 1")) == (2, ran.json, 0), (
        "it is told once, and counted always"
    )


def test_what_a_bad_line_had_made_is_taken_away(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a line whose samples do not fit in one call, a later one may be refused."""
    monkeypatch.setattr("cm3.cli.batch.TOGETHER", 2)
    file = written(tmp_path / "p.jsonl", [{"prompt": "a", "n": 3}, {"prompt": "b"}])
    model = {"name": tiny, "memory": None, "encoder": None, "device": "cpu", "dtype": "float32"}
    desk = Batch.of(file, tmp_path / "out", model, {"n": 1, "seed": 0}).open()
    drawn = desk._drawn

    def refusing(ready: Any) -> Any:
        if any(s.number == 2 for s, _ in ready):
            raise RequestError("the model gave logits that are not finite")
        return drawn(ready)

    monkeypatch.setattr(desk, "_drawn", refusing)
    assert desk.prepare(0)["errors"] == ["p.jsonl, line 1: the model gave logits that are not finite"]
    assert {p.name for p in (tmp_path / "out/000000").iterdir()} == {"0000002-0.png", "results.jsonl"}


def test_lines_of_all_kinds_share_a_run_of_the_engine(
    tiny: Path, tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a run a line, nor one a task or a setting; and never more streams than the model has."""
    runs, most = [], 0
    run, step = Engine.run, Engine.step

    def running(engine: Engine, requests: Any, *more: Any) -> Any:
        requests = list(requests)
        runs.append(len(requests))
        return run(engine, requests, *more)

    def stepping(engine: Engine) -> Any:
        nonlocal most
        found = step(engine)
        most = max(most, len(engine._schedule.rows))
        return found

    monkeypatch.setattr(Engine, "run", running)
    monkeypatch.setattr(Engine, "step", stepping)
    batch = Batch.of(prompts, tmp_path / "out", {"name": tiny, "max_streams": 5}, {"n": 1, "seed": 0})
    assert batch.open().prepare(0) == {"lines": 8, "errors": []}
    assert runs == [11], "of eight lines, which ask for eleven answers"
    assert most <= 5
    monkeypatch.setattr("cm3.cli.batch.TOGETHER", 4)
    runs.clear()
    batch.open().prepare(0)
    assert runs == [4, 4, 3]


def test_ids_are_the_users_and_name_no_file(cm3: Cm3, tiny: Path, tmp_path: Path) -> None:
    ids = ["../../up", "/etc/passwd", "same", "same", "", 0, -7, "a\nb", "\u00e9", None]
    written(tmp_path / "p.jsonl", [{"prompt": "a", "id": one} for one in ids] + [{"prompt": "a", "id": [1]}])
    ran = cm3("generate", "--prompts", "p.jsonl", "--model", tiny, "--json")
    assert (ran.code, ran.json["made"], ran.json["failed"]) == (2, 10, 1)
    assert [one["id"] for one in results(Path("out"))] == [*ids, None]
    assert "line 11: id=[1]: must be" in ran.json["errors"][0]
    assert {p.parent.name for p in tmp_path.rglob("*.png")} == {"000000"}


def limited(size: int, *given: str | Path) -> None:
    """Give a command where no file may be larger, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    command(*given)


def test_a_full_disk_leaves_what_is_done(prompts: Path, tiny: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    picture = max(p.stat().st_size for p in whole.rglob("*.png"))
    assert picture > 2 * (whole / "batch.json").stat().st_size
    process = forks().Process(target=limited, args=(picture - 1, *args(prompts, tiny, out)))
    process.start()
    process.join()
    assert process.exitcode == 2
    assert not (out / "results.jsonl").exists() and not list(out.glob(".*.part"))
    assert done(prompts, tiny, out) == 0
    assert contents(out) == contents(whole)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("--guidance", "3"), "was begun with another guidance: None, now 3.0; give the same command"),
        (("--seed", "1"), "was begun with another seed: 0, now 1"),
        (("--n", "2"), "was begun with another n: 1, now 2"),
        (("--unit", "3"), "was begun with another unit: 2, now 3"),
        (("--dtype", "bfloat16"), "was begun with another dtype: float32, now bfloat16"),
        (("--model", "scenes"), "was begun with another model"),
        (("lines",), "was begun with other prompts than prompts.jsonl has now"),
        (("plan",), "batch.json: is not readable JSON"),
        (("no plan",), "the folder holds something else; choose another, or empty it"),
    ],
)
def test_what_was_begun_otherwise_is_refused(
    cm3: Cm3, prompts: Path, tiny: Path, whole: Path, tmp_path: Path, change: tuple[str, ...], told: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    if change == ("lines",):
        prompts = written(tmp_path / "prompts.jsonl", LINES[1:])
    elif change == ("plan",):
        (out / "batch.json").write_text("{")
    elif change == ("no plan",):
        (out / "batch.json").unlink()
    before = contents(out)
    ran = cm3(*args(prompts, tiny, out, *(change if change[0].startswith("--") else ())))
    assert told in ran.refusal and contents(out) == before


def test_another_number_of_codes_at_once_goes_on(
    cm3: Cm3, prompts: Path, tiny: Path, whole: Path, tmp_path: Path
) -> None:
    """The plan has none: pictures and words are the same, as with another --cache-gb."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "000000")
    assert cm3(*args(prompts, tiny, out, "--parallel", "0")).code == 0
    found, wanted = ({n: d for n, d in contents(f).items() if not n.endswith("results.jsonl")} for f in (out, whole))
    assert found == wanted
    for one, other in zip(results(out), results(whole), strict=True):
        assert one.pop("scores") == pytest.approx(other.pop("scores"), abs=1e-3)
        assert one == other


REFUSED = {
    "no file": (["--prompts", "nowhere.jsonl"], "--prompts nowhere.jsonl: no such file; give one of JSON lines"),
    "an empty file": (["--prompts", "empty.jsonl"], "--prompts empty.jsonl: holds no line; write one as"),
    "words too": (["a circle", "--prompts", "p.jsonl"], "PROMPT and --prompts: say what to draw in the lines"),
    "boxes too": (["--boxes", "[]", "--prompts", "p.jsonl"], "--boxes and --prompts: say what to draw"),
    "a sheet too": (["--sheet", "a.png", "--prompts", "p.jsonl"], "--sheet and --prompts: say"),
    "nothing": ([], "nothing to draw; give a prompt in quotes, or --prompts FILE"),
    "a cluster for one": (["a circle", "--cluster", "local"], "--cluster local: is for --prompts; leave it out"),
    "no lines": (["--prompts", "p.jsonl", "--unit", "0"], "--unit 0: must be at least 1"),
    "no number": (["--prompts", "p.jsonl", "--temperature", "nan"], "sampling.temperature=nan: must be at least 0"),
    "a seed": (["--prompts", "p.jsonl", "--seed", "-1"], "seed=-1: must be an integer"),
    "no bank": (["--prompts", "p.jsonl", "--retrieve", "1"], "there is no memory bank"),
    "a file as folder": (["--prompts", "p.jsonl", "--out", "p.jsonl"], "is a file; give a folder"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_line_can_have_is_refused_before_anything_is_drawn(
    cm3: Cm3, tiny: Path, tmp_path: Path, what: str
) -> None:
    written(tmp_path / "p.jsonl", [{"prompt": "a"}])
    (tmp_path / "empty.jsonl").write_text("\n \n")
    before = contents(tmp_path)
    given, told = REFUSED[what]
    ran = cm3("generate", *given, "--model", tiny)
    assert told in ran.refusal
    assert contents(tmp_path) == before and not (tmp_path / "out").exists()


def test_a_share_is_drawn_by_one_process(cm3: Cm3, prompts: Path, tiny: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "out/.rank0.lock", "test"):
        assert "another process is writing to it" in cm3(*args(prompts, tiny, tmp_path / "out")).refusal


def test_a_cluster_under_torchrun_is_refused(
    cm3: Cm3, prompts: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "a", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    told = cm3(*args(prompts, tiny, tmp_path / "out", "--cluster", "local")).refusal
    assert told == "--cluster and torchrun: either shares the work; take one of them"


def test_memory_does_not_grow_with_the_file(tiny: Path, tmp_path: Path) -> None:
    """Of lines that are refused, so that it is quick: each leaves a record all the same."""
    model = {"name": tiny, "memory": None, "encoder": None, "device": "cpu", "dtype": "float32"}

    def peak(lines: int) -> int:
        file = tmp_path / f"{lines}.jsonl"
        file.write_text((json.dumps({"prompt": "a", "id": "b" * 4000, "n": 0}) + "\n") * lines)
        batch = Batch.of(file, tmp_path / f"out{lines}", model, {"n": 1, "seed": 0}, 100)
        desk = Desk(batch, loaded)
        tracemalloc.start()
        for number in range(batch.units):
            desk.prepare(number)
        told = batch.join()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert told is not None and told["failed"] == lines and len(told["errors"]) == 10
        return found

    loaded = CM3Leon.load(tiny)
    small = peak(200)
    assert peak(1500) < small + 2**20, "1,500 lines have 6 MB"

"""Batches of pictures and of pairs from any source: each once an epoch, the same on any ranks and in any processes."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import signal
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from cm3.data.pictures import Pairs, PictureIndex, Pictures
from cm3.errors import ConfigError, DataError
from cm3.picture import open_picture, square

SIZE = 16
N = 23


def jpeg(shade: int, width: int = 40, height: int = 30) -> bytes:
    """A picture of one shade of grey: it names itself whatever is cut of it."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), (shade, shade, shade)).save(file, "JPEG", quality=95)
    return file.getvalue()


def shade(picture: PIL.Image.Image) -> int:
    """Which of the pictures it is: they are ten shades apart."""
    return round(float(np.asarray(picture).mean()) / 10)


@pytest.fixture(params=["folder", "jsonl", "jsonl.gz", "tar", "tar.gz"])
def source(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """23 pictures: number 4 is cut short, number 7 lies there twice, and one file is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    files = {f"{i:02d}.jpg": jpeg(10 * i) for i in range(N)}
    files["04.jpg"] = files["04.jpg"][:-12]
    files["90.jpg"], files["91.jpg"] = files["07.jpg"], b"no picture"
    for name, data in files.items():
        (folder / name).write_bytes(data)
    lines = "\n".join(json.dumps({"id": name, "text": f"of {name}", "image": name}) for name in files)
    if request.param.startswith("tar"):
        with tarfile.open(tmp_path / f"all.{request.param}", "w:gz" if request.param == "tar.gz" else "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)
        return f"webdataset:{tmp_path}/all.{request.param}"
    if request.param == "jsonl":
        (folder / "all.jsonl").write_text(lines)
    elif request.param == "jsonl.gz":
        (folder / "all.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return f"{request.param.partition('.')[0]}:{folder}"


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """23 pictures, all sound."""
    home = tmp_path / "sound"
    home.mkdir()
    for i in range(N):
        (home / f"{i:02d}.jpg").write_bytes(jpeg(10 * i))
    return f"folder:{home}"


def test_each_distinct_picture_comes_once_an_epoch_from_any_source(source: str) -> None:
    with Pictures(source, SIZE, 5, seed=3, holdout=0) as pictures:
        assert len(pictures) == N
        came = [shade(p) for step in range(3 * N) for p in pictures.batch(step)]
        for epoch in range(15):
            counts = Counter(came[epoch * N : (epoch + 1) * N])
            # The damaged one gives its place to the next, which so comes twice.
            assert counts == Counter([i for i in range(N) if i != 4] + [5])
        assert came[:N] != came[N : 2 * N], "each epoch has an order of its own"
        left = pictures.left_out["left_out"]
        assert left["count"] == 2 and {bool(one["reason"]) for one in left["first"]} == {True}
        assert any("04.jpg" in one["id"] or "from byte" in one["id"] for one in left["first"])
        assert {p.size for p in pictures.batch(0)} == {(SIZE, SIZE)} and {p.mode for p in pictures.batch(0)} == {"RGB"}


def test_a_batch_is_a_function_of_its_step_and_ranks_share_it(source: str) -> None:
    settings = {"seed": 1, "random_crop": True, "flip": True}
    one, other = Pictures(source, SIZE, 6, **settings), Pictures(source, SIZE, 6, **settings)
    whole = {step: [p.tobytes() for p in one.batch(step)] for step in range(8)}
    for step in (7, 2, 3):
        for ranks in (1, 2, 3, 6):
            shared = [p.tobytes() for rank in range(ranks) for p in other.batch(step, rank, ranks)]
            assert shared == whole[step]
    assert one.given == other.given
    assert [p.tobytes() for p in Pictures(source, SIZE, 6, seed=2).batch(0)] != whole[0]


def test_other_processes_make_the_same_and_end(folder: str) -> None:
    inline = Pictures(folder, SIZE, 6, seed=1, flip=True)
    before = signal.getsignal(signal.SIGCHLD)
    with Pictures(folder, SIZE, 6, seed=1, flip=True, workers=2) as pictures:
        for step in (0, 1, 2, 9, 10):  # 9 is not the next one, as after a checkpoint
            for made, wanted in zip(pictures.batch(step, 1, 2), inline.batch(step, 1, 2), strict=True):
                assert made.tobytes() == wanted.tobytes()
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGCHLD) == before


@pytest.mark.slow
def test_a_process_that_is_killed_is_told_in_one_line(folder: str) -> None:
    with Pictures(folder, SIZE, 6, workers=1, ahead=1) as pictures:
        pictures.batch(0)
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)
            child.join()
        with pytest.raises(
            DataError, match=r"a process that decodes pictures has ended \(.*\); see that .* workers to 0$"
        ):
            for step in range(1, 9):  # what it had made before comes first
                pictures.batch(step)
        assert len(pictures.batch(9)) == 6, "and they begin again"


def test_what_goes_wrong_in_a_process_is_told_in_one_line(folder: str) -> None:
    with Pictures(folder, SIZE, 6, workers=1) as pictures:
        for path in Path(folder.partition(":")[2]).iterdir():
            path.write_bytes(b"")
        with pytest.raises(
            DataError, match=r"none of \d+ pictures can be read; \d\d.jpg: is shorter than it was"
        ) as told:
            pictures.batch(0)
        assert "\n" not in str(told.value)


def test_held_out_pictures_are_never_trained_on_and_stay_so(folder: str) -> None:
    pictures = Pictures(folder, SIZE, 4, holdout=0.2)
    held = [shade(p) for p in pictures.held_out()]
    came = {shade(p) for step in range(20) for p in pictures.batch(step)}
    assert held and came.isdisjoint(held) and came | set(held) == set(range(N))
    assert len(Pictures(folder, SIZE, 4, holdout=1e-9).held) == 1, "one at least"
    for i in range(N, 25):  # of another seed, and with more pictures: the same ones
        Path(folder.partition(":")[2], f"{i:02d}.jpg").write_bytes(jpeg(10 * i))
    again = {shade(p) for p in Pictures(folder, SIZE, 4, seed=9, holdout=0.2).held_out()}
    assert set(held) == {i for i in again if i < N}


def test_the_pixels_are_those_of_the_square_fit(folder: str) -> None:
    home = Path(folder.partition(":")[2])
    noise = PIL.Image.effect_noise((70, 50), 80).convert("RGB")
    for path in home.iterdir():
        path.unlink()
    noise.save(home / "a.png")
    for fit in ("crop", "stretch", "clip"):
        [made] = Pictures(folder, SIZE, 1, fit=fit, holdout=0).batch(0)
        assert made.tobytes() == square(noise, SIZE, fit).tobytes()
    mirrored = [Pictures(folder, SIZE, 1, holdout=0, flip=True).batch(step)[0] for step in range(40)]
    assert {p.tobytes() for p in mirrored} == {
        square(noise, SIZE).tobytes(),
        square(noise, SIZE).transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT).tobytes(),
    }
    cropped = [Pictures(folder, SIZE, 1, holdout=0, random_crop=True).batch(step)[0] for step in range(9)]
    assert len({p.tobytes() for p in cropped}) == 9


def test_a_temporary_file_goes_with_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = len(jpeg(90))
        archive.addfile(member, io.BytesIO(jpeg(90)))
    index = PictureIndex.of([f"webdataset:{tmp_path}/a.tar.gz"])
    assert index.data(0) == jpeg(90)
    assert [path.stat().st_size for path in (tmp_path / "scratch").iterdir()] == [len(jpeg(90))]
    del index
    assert not list((tmp_path / "scratch").iterdir())
    (tmp_path / "a.tar").write_bytes(gzip.decompress((tmp_path / "a.tar.gz").read_bytes()))
    index = PictureIndex.of([f"webdataset:{tmp_path}/a.tar"])
    assert index.data(0) == jpeg(90) and index.paths == [str(tmp_path / "a.tar")], "of a plain tar nothing is copied"
    assert not list((tmp_path / "scratch").iterdir())


def test_several_sources_are_one(folder: str, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    (more / "new.jpg").write_bytes(jpeg(240))
    (more / "known.jpg").write_bytes(jpeg(50))
    assert len(Pictures((folder, f"folder:{more}"), SIZE, 4, holdout=0)) == N + 1


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"batch": 0}, ConfigError, r"^batch=0: must be at least 1$"),
        ({"workers": -1}, ConfigError, r"^data.workers=-1: must be 0 \(none\) or more$"),
        ({"holdout": 0.6}, ConfigError, r"^data.holdout=0.6: is a share, must be in 0..0.5$"),
    ],
)
def test_settings_out_of_range_are_refused(folder: str, settings: dict, error: type, told: str) -> None:
    with pytest.raises(error, match=told):
        Pictures(folder, SIZE, **{"batch": 4, **settings})


def test_what_cannot_be_trained_on_is_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^batch=4: must be a multiple of the number of ranks, 3; it is what was"):
        Pictures(folder, SIZE, 4).batch(0, 0, 3)
    one = tmp_path / "one"
    one.mkdir()
    (one / "a.jpg").write_bytes(b"none")
    with pytest.raises(DataError, match=r"has no picture that can be read; the first document is 'a.*'.*not a picture"):
        Pictures(f"folder:{one}", SIZE, 1)
    (one / "a.jpg").write_bytes(jpeg(90))
    with pytest.raises(DataError, match=r"has no picture to train on, and 1 held out; give more, or data.holdout=0$"):
        Pictures(f"folder:{one}", SIZE, 1)
    with pytest.raises(DataError, match=r"none of 1 pictures has words to be paired with; give pictures with captions"):
        Pairs(f"folder:{one}", SIZE, 1)


@pytest.fixture
def captions(tmp_path: Path) -> str:
    """Ten pictures with three captions each, one with one, and one without words."""
    home = tmp_path / "captions"
    home.mkdir()
    lines = []
    for i in range(12):
        (home / f"{i}.jpg").write_bytes(jpeg(10 * i))
        for number in range(3 if i < 10 else 11 - i):
            lines.append(json.dumps({"id": f"{i}/{number}", "text": f"{i} said {number}", "image": f"{i}.jpg"}))
    lines.append(json.dumps({"id": "bare", "image": "11.jpg"}))
    (home / "all.jsonl").write_text("\n".join(lines))
    return f"jsonl:{home}"


def test_pairs_have_the_words_of_their_picture(captions: str) -> None:
    pairs = Pairs(captions, SIZE, 4, seed=1, holdout=0)
    assert len(pairs) == 11, "as many as pictures with words, not as captions"
    told = Counter()
    for step in range(40):
        batch = pairs.batch(step)
        names = [shade(pair.image) for pair in batch]
        assert len(set(names)) == 4, "no picture twice in a batch"
        for pair, name in zip(batch, names, strict=True):
            assert pair.text.startswith(f"{name} said ") and pair.other != pair.text
            assert pair.other.startswith(f"{name} said ") or (pair.other, name) == ("", 10)
            told[pair.text] += 1
        assert [p for rank in range(2) for p in map(words, pairs.batch(step, rank, 2))] == list(map(words, batch))
    assert len(told) == 31, "each caption comes"
    assert len(Pairs(captions, SIZE, 400, holdout=0).batch(0)) == 11


def words(pair: object) -> tuple[str, str, bytes]:
    return pair.text, pair.other, pair.image.tobytes()  # type: ignore[attr-defined]


def test_pairs_held_out_and_in_processes(captions: str) -> None:
    inline = Pairs(captions, SIZE, 2, holdout=0.3)
    held = {shade(pair.image) for pair in inline.held_out()}
    assert inline.left_out == {}
    assert held and held.isdisjoint(shade(p.image) for step in range(20) for p in inline.batch(step))
    with Pairs(captions, SIZE, 2, holdout=0.3, workers=1) as pairs:
        assert list(map(words, pairs.batch(3))) == list(map(words, inline.batch(3)))


def test_large_photographs_are_read_by_the_fast_way(folder: str) -> None:
    home = Path(folder.partition(":")[2])
    rng = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((800, 600))
    file = io.BytesIO()
    coarse.save(file, "JPEG")
    for path in home.iterdir():
        path.write_bytes(file.getvalue())
    [made] = Pictures(folder, 64, 1, holdout=0).batch(0)
    exact = square(open_picture(file.getvalue()), 64)
    error = np.square(np.asarray(made, float) - np.asarray(exact)).mean()
    assert 0 < error < 255**2 / 1e4

"""Names of what is written: the same command replaces its own, nothing replaces anything else."""

from __future__ import annotations

import shutil
from pathlib import Path

import PIL.Image
import pytest
from command import Cm3

from cm3.cli.outputs import check_folder, check_sheet, slug, write_all, write_sheet
from cm3.errors import RequestError

LONG = "a large red circle at the top left, with a large blue square below it, on a "
RED, BLUE = PIL.Image.new("RGB", (8, 8), "red"), PIL.Image.new("RGB", (8, 8), "blue")


def colour(file: str | Path) -> tuple[int, ...]:
    with PIL.Image.open(file) as opened:
        return opened.convert("RGB").getpixel((0, 0))


def test_slug() -> None:
    assert slug("A red circle, left of: a blue square!") == "a-red-circle-left-of-a-blue-square"
    assert slug("...") == "picture"
    assert len(slug("word " * 50)) <= 48 and not slug("word " * 50).endswith("-")


def test_what_a_slug_leaves_out_is_in_its_digest() -> None:
    ends = ["mint ground", "grey ground", "mint background"]
    letters = ["ein gr\u00fcner Kreis", "ein gr\u00f6ner Kreis", "\u8d64", "\u9752"]
    assert len({slug(LONG + end) for end in ends} | {slug(text) for text in letters}) == 7
    assert all(slug(LONG + end).startswith("a-large-red-circle") for end in ends)
    assert all(slug(text).isascii() for text in letters) and slug(LONG * 2) == slug(LONG * 2)
    assert len({slug("x" * 60 + "a"), slug("x" * 60 + "b")}) == 2


def test_the_same_request_replaces_its_own_and_no_other(tmp_path: Path) -> None:
    first = write_all(tmp_path, ["a red, circle"], 1, [RED, RED], {"prompt": "a red, circle"})
    assert [Path(f).name for f in first] == ["a-red-circle-1-0.png", "a-red-circle-1-1.png"]
    other = write_all(tmp_path, ["a red circle"], 1, [BLUE, BLUE], {"prompt": "a red circle"})
    assert not set(first) & set(other)
    assert write_all(tmp_path, ["a red circle"], 1, [BLUE], {"prompt": "a red circle"}) == other[:1]
    assert write_all(tmp_path, ["a red, circle"], 1, [RED], {"prompt": "a red, circle"}) == first[:1]
    assert {colour(f) for f in first} == {(255, 0, 0)} and {colour(f) for f in other} == {(0, 0, 255)}
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("kind", ["a picture", "text", "a folder", "a link", "a broken link", "a cut file"])
def test_a_foreign_file_of_that_name_stays(tmp_path: Path, kind: str) -> None:
    asked = {"prompt": "x"}
    (own,) = write_all(tmp_path / "own", ["x"], 0, [RED], asked)
    place = tmp_path / "out/x-0-0.png"
    place.parent.mkdir()
    if kind == "a picture":
        BLUE.save(place)
    elif kind == "text":
        place.write_text("mine")
    elif kind == "a folder":
        place.mkdir()
    elif kind == "a link":
        place.symlink_to(own)
    elif kind == "a broken link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.write_bytes(Path(own).read_bytes()[:40])
    before = None if not place.is_file() else place.read_bytes()
    (made,) = write_all(place.parent, ["x"], 0, [RED], asked)
    assert Path(made) != place and colour(made) == (255, 0, 0)
    assert place.is_symlink() == ("link" in kind) and (None if not place.is_file() else place.read_bytes()) == before
    assert write_all(place.parent, ["x"], 0, [RED], asked) == [made]  # and again, the same
    (third,) = write_all(place.parent, ["x"], 0, [BLUE], {"prompt": "y"})
    assert third not in (made, str(place))


def test_a_picture_of_other_settings_is_another_picture(cm3: Cm3, tiny: Path) -> None:
    def made(*more: str) -> str:
        return cm3("generate", LONG + "mint ground", "--model", tiny, "--json", *more).json["files"][0]

    plain, guided = made(), made("--guidance", "3")
    assert plain != guided and made() == plain and made("--guidance", "3") == guided
    copy = shutil.copytree(tiny, "other")
    assert made("--model", str(copy)) not in (plain, guided)


def test_prompts_that_differ_at_their_end(cm3: Cm3, tiny: Path) -> None:
    files = [cm3("generate", LONG + end, "--model", tiny, "--json").json["files"][0] for end in ("mint", "grey")]
    for file, end in zip(files, ("mint", "grey"), strict=True):
        with PIL.Image.open(file) as opened:
            assert opened.text["prompt"] == LONG + end


def test_pictures_of_one_name_have_maps_of_their_own(cm3: Cm3, tiny: Path, tmp_path: Path) -> None:
    for place, picture in (("a", RED), ("b", BLUE)):
        (tmp_path / place).mkdir()
        picture.save(tmp_path / place / "x.png")
    RED.save(tmp_path / "a/x.bmp")
    made = cm3("segment", "a/x.png", "b/x.png", "--model", tiny, "--json").json["results"]
    files = [one["file"] for one in made]
    assert len(set(files)) == 2 and all(Path(f).is_file() for f in files)
    again = cm3("segment", "b/x.png", "a/x.png", "--model", tiny, "--json").json["results"]
    assert [one["file"] for one in again] == files[::-1]
    assert Path(cm3("segment", "a/x.bmp", "--model", tiny, "--json").json["file"]).is_file()


def test_what_generate_wrote_can_be_given_to_every_verb(cm3: Cm3, tiny: Path) -> None:
    for end in ("mint ground", "grey ground"):
        assert cm3("generate", LONG + end, "--model", tiny, "--n", "2").code == 0
    pictures = sorted(Path("out").iterdir())
    assert len(pictures) == 4
    for _ in range(2):
        assert len(cm3("segment", *pictures, "--model", tiny, "--out", "maps", "--json").json["results"]) == 4
        assert len(cm3("describe", *pictures, "--model", tiny, "--json").json["results"]) == 4
        for picture in pictures:
            assert cm3("edit", picture, "add a star", "--model", tiny, "--out", "changed").code == 0
            box = ("--image", picture, "--box", "0,0,32,32", LONG)
            assert cm3("infill", *box, "--model", tiny, "--out", "filled").code == 0
    assert {p: len(list(Path(p).iterdir())) for p in ("maps", "changed", "filled", "out")} == {
        "maps": 4, "changed": 4, "filled": 4, "out": 4,
    }  # fmt: skip


def test_a_sheet_replaces_sheets_alone(cm3: Cm3, tiny: Path, tmp_path: Path) -> None:
    place = tmp_path / "a.png"
    check_sheet(place)
    write_sheet(place, RED)
    check_sheet(place)
    (drawn,) = write_all(tmp_path, ["x"], 0, [RED], {"prompt": "x"})
    for other, told in ((drawn, "is no sheet that cm3 wrote"), (str(tmp_path), "is a folder; give a file")):
        refusal = cm3("generate", "a circle", "--model", tiny, "--sheet", other).refusal
        assert told in refusal and refusal.startswith(f"--sheet {other}: ")
    assert colour(drawn) == (255, 0, 0) and not (tmp_path / "out").exists()


def test_a_folder_is_tried_and_nothing_stays(tmp_path: Path) -> None:
    check_folder(tmp_path / "a/b/c")
    check_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for folder, told in ((tmp_path / "file/x", "is a file; give a folder"), (tmp_path / ("a" * 300), "too long")):
        with pytest.raises(RequestError, match=told):
            check_folder(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc here")
@pytest.mark.parametrize("place", ["/proc/foo", "/proc/foo/bar"])
def test_a_folder_where_none_can_be_made_is_refused_before_the_work(cm3: Cm3, place: str) -> None:
    for command in (["generate", "a"], ["demo"], ["prepare", "."], ["index", "build", "."]):
        assert cm3(*command, "--out", place).refusal.startswith(f"--out {place}: cannot be written to (")

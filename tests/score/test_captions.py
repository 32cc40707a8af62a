"""Scores of captions: as the reference scorer gave them, as they must be by definition, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3.errors import DataError
from cm3.score.bleu import bleu
from cm3.score.captions import read_predictions, read_references, score_captions
from cm3.score.cider import cider, ciders
from cm3.score.ngrams import Pairs, _sorted
from cm3.score.rouge import BETA, rouge_l
from cm3.score.spice import read_scores

# Captions written for this test. The values were computed once by pycocoevalcap 1.2 (tokenizer, BLEU, ROUGE-L, CIDEr-D
# and METEOR, on Java 17 in UTF-8), and those of plain CIDEr, on its tokens, by the scorer of CIDEr's authors
# (vrama91/cider, made to run on Python 3), with idf "corpus".
PICTURES: dict[str, tuple[str, list[str]]] = {
    "9": (
        "a man rides a horse on the beach",
        [
            "A man rides a brown horse along the beach.",
            "Man on a horse near the sea",
            "The rider's horse is walking on wet sand.",
        ],
    ),
    "3": ("a cat and a cat and a cat", ["A black-and-white cat sits on a mat.", "A cat and its kitten, asleep"]),
    "17": (
        "two dogs (one is wet) don't move",
        ["Two dogs lie on a rug; they aren't moving.", "Dogs that can't move (both are wet)", "two dogs"],
    ),
    "4": ("", ["A red bus on a street.", "The bus isn't moving"]),
    "5": ("a sign with the letter K.", ["A street sign shows the letter K.", "The sign says K."]),
    "6": ("the man plays tennis at 5:30 p.m. on Main St.", ["A man plays tennis.", "He hits a ball at 5:30 p.m."]),
    "7": (
        "a phone number 555 1212 on a wall",
        ["The number 555 1212 is painted on a wall.", "A wall with a phone number"],
    ),
    "8": ("horse beach sand", ["A horse on a beach.", "beach", "..."]),
    "10": (
        "a plate of food with a fork and a knife on it",
        ["A plate of food on a table with a fork.", "Food on a white plate"],
    ),
    "12": ("a plate of food on a table", ["A plate of food on a table", "a plate of food on a table."]),
}
FIGURES = {
    "CIDEr-D": 2.392115481625935,
    "CIDEr": 2.7028147592851575,
    "BLEU-1": 0.7638888888782793,
    "BLEU-2": 0.6229021228589396,
    "BLEU-3": 0.48624514893491033,
    "BLEU-4": 0.3518650612585761,
    "ROUGE-L": 0.612088581384563,
}
CIDER_D = [
    1.997381914732801, 0.8912632795817733, 1.324583768772882, 0.0, 1.2852369105308443,
    1.9051059838694182, 3.671723948146936, 0.943395156833221, 1.9024638537914758, 10.0,
]  # fmt: skip
ROUGE_L = [
    0.8148854961832059, 0.43990384615384615, 0.6192893401015228, 0.0, 0.6069651741293532,
    0.4644670050761421, 0.6984732824427481, 0.8299319727891156, 0.646969696969697, 1.0,
]  # fmt: skip


def coco(folder: Path, pictures: dict[str, tuple[str, list[str]]]) -> tuple[Path, Path]:
    """Write predictions and references in COCO's layouts, the predictions the other way round."""
    annotations = [{"image_id": int(id), "caption": text} for id, (_, some) in pictures.items() for text in some]
    images = [{"id": int(id), "file_name": f"{id}.jpg"} for id in pictures]
    made, said = folder / "made.json", folder / "said.json"
    said.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    made.write_text(json.dumps([{"image_id": int(id), "caption": pictures[id][0]} for id in reversed(pictures)]))
    return made, said


def test_what_the_reference_scorer_gives(tmp_path: Path) -> None:
    made, said = coco(tmp_path, PICTURES)
    result = score_captions(read_predictions(made), read_references(said))
    assert result.figures == pytest.approx(FIGURES, abs=1e-9)
    assert result.n == 10 and list(result.items["CIDEr-D"]) == list(PICTURES)
    assert list(result.items["CIDEr-D"].values()) == pytest.approx(CIDER_D, abs=1e-9)
    assert list(result.items["ROUGE-L"].values()) == pytest.approx(ROUGE_L, abs=1e-9)
    for name, values in result.items.items():
        assert result.figures[name] == pytest.approx(sum(values.values()) / 10)
    assert [line.split(",")[0] for line in result.warnings] == [
        "1 predictions have no words",
        "1 pictures have a reference without words",
        "METEOR is not computed: it needs Java and the folder of its program",
        "SPICE is not computed: it needs Java and the folder of its program",
    ]


def test_lines_of_json_give_the_same(tmp_path: Path) -> None:
    made, said = coco(tmp_path, PICTURES)
    lines = [{"image_id": id, "caption": text} for id, (_, some) in PICTURES.items() for text in some]
    (tmp_path / "said.jsonl").write_text("".join(f"{json.dumps(line)}\n\n" for line in lines))
    (tmp_path / "made.jsonl").write_text("\n".join(json.dumps(line) for line in json.loads(made.read_text())))
    theirs = score_captions(read_predictions(tmp_path / "made.jsonl"), read_references(tmp_path / "said.jsonl"))
    assert theirs.figures == score_captions(read_predictions(made), read_references(said)).figures


REFERENCES = [["a b c d"], ["a e f g"]]


@pytest.mark.parametrize(
    ("caption", "score"),
    [
        ("A b, c D!", 10.0),
        # Words: b of (b, x, x) with (b, c, d), for "a" is in both pictures and weighs 0; pairs: one of three; no more.
        ("a b x x", 10 / 4 * (1 / math.sqrt(15) + 1 / 3)),
        # Clipped: four times b counts once, and its norm is that of four.
        ("b b b b", 10 / 4 * 1 / (4 * math.sqrt(3))),
        # Shorter by three pairs of words.
        ("b", 10 / 4 * 1 / math.sqrt(3) * math.exp(-9 / 72)),
        ("", 0.0),
        ("x y z w", 0.0),
        ("a", 0.0),
    ],
)
def test_cider_worked_out_by_hand(caption: str, score: float) -> None:
    assert cider([caption, "a e f g"], REFERENCES) == pytest.approx([score, 10.0])


def test_plain_cider_neither_clips_nor_minds_the_length() -> None:
    pairs = Pairs([("b", "b", "b", "b"), ("e",)], [[tuple(some[0].split())] for some in REFERENCES])
    assert ciders(pairs)[1] == pytest.approx([10 / 4 / math.sqrt(3), 10 / 4 / math.sqrt(3)])


def test_cider_is_a_mean_over_references() -> None:
    two = [["a b c d", "h i j k"], ["a e f g"]]
    assert cider(["a b c d", "a e f g"], two) == pytest.approx([5.0, 10.0])


def test_what_many_pictures_have_weighs_less() -> None:
    references = [["the red dog runs"], ["the red cat runs"], ["the blue cow sits"]]
    rare, common = (cider([caption, "", ""], references)[0] for caption in ("the dog", "the red"))
    # idf: log 3 for "dog", log 3/2 for "red" and "runs", 0 for "the".
    once, twice = math.log(3), math.log(1.5)
    norm = math.sqrt(once**2 + 2 * twice**2)
    assert rare == pytest.approx(10 / 4 * once / norm * math.exp(-4 / 72))
    pairs = twice / math.sqrt(2 * once**2 + twice**2)  # "the red" is in two; "red dog" and "dog runs" in one
    assert common == pytest.approx(10 / 4 * (twice / norm + pairs) * math.exp(-4 / 72))


WORDS = st.lists(st.sampled_from("abcdefg"), max_size=8).map(tuple)
CORPUS = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=4)), min_size=2, max_size=5)


@settings(max_examples=60)
@given(CORPUS)
def test_cider_has_bounds_and_no_order(pictures: list[tuple[tuple[str, ...], list[tuple[str, ...]]]]) -> None:
    given_, said = [p[0] for p in pictures], [p[1] for p in pictures]
    clipped, plain = ciders(Pairs(given_, said))
    assert all(-1e-9 <= score <= 10 + 1e-9 for score in [*clipped, *plain])
    assert ciders(Pairs(given_, [some[::-1] for some in said]))[0] == pytest.approx(clipped)
    assert ciders(Pairs(given_[::-1], said[::-1]))[0][::-1] == pytest.approx(clipped)


def grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


@settings(max_examples=60)
@given(CORPUS)
def test_bleu_is_its_definition(pictures: list[tuple[tuple[str, ...], list[tuple[str, ...]]]]) -> None:
    logs, ours, theirs = 0.0, sum(len(given_) for given_, _ in pictures), 0
    for given_, some in pictures:
        theirs += min((abs(len(one) - len(given_)), len(one)) for one in some)[1]
    found = bleu(Pairs([p[0] for p in pictures], [p[1] for p in pictures]))
    for n, figure in enumerate(found, 1):
        right = total = 0
        for given_, some in pictures:
            total += len(grams(given_, n))
            for gram in set(grams(given_, n)):
                right += min(grams(given_, n).count(gram), max(grams(one, n).count(gram) for one in some))
        # The reference scorer's constants: what has no n-gram in common gets a figure, a small one.
        logs += math.log((right + 1e-15) / (total + 1e-9))
        short = math.exp(1 - (theirs + 1e-9) / (ours + 1e-15)) if (ours + 1e-15) < (theirs + 1e-9) else 1.0
        assert figure == pytest.approx(math.exp(logs / n) * short, rel=1e-9)


@pytest.mark.parametrize("high", [5, 1 << 40, 1 << 62])
def test_sorting_keeps_equal_values_in_order(high: int) -> None:
    values, places = np.array([high, 3, high, 0, 3]), np.array([0, 2, 5, 6, 9])
    ordered, where = _sorted(values, places)
    assert ordered.tolist() == [0, 3, 3, high, high] and where.tolist() == [6, 2, 9, 0, 5]


def longest(a: Sequence[str], b: Sequence[str]) -> int:
    """The longest common subsequence by the table that it is defined by."""
    row = [0] * (len(b) + 1)
    for one in a:
        before = row
        row = [0]
        for place, other in enumerate(b):
            row.append(before[place] + 1 if one == other else max(before[place + 1], row[place]))
    return row[-1]


@settings(max_examples=60)
@given(CORPUS)
def test_rouge_is_its_definition(pictures: list[tuple[tuple[str, ...], list[tuple[str, ...]]]]) -> None:
    found = rouge_l(Pairs([p[0] for p in pictures], [p[1] for p in pictures]))
    for score, (given_, some) in zip(found, pictures, strict=True):
        given_, some = given_ or ("",), [one or ("",) for one in some]
        p = max(longest(given_, one) / len(given_) for one in some)
        r = max(longest(given_, one) / len(one) for one in some)
        assert score == pytest.approx((1 + BETA**2) * p * r / (r + BETA**2 * p) if p else 0.0)


def test_numbers_of_captions_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="cider: 1 captions for 2 pictures; give one for each"):
        cider(["a"], REFERENCES)
    with pytest.raises(DataError, match="cider: there is 1 picture, must be at least 2, for words that all pictures"):
        cider(["a"], [["a"]])
    with pytest.raises(DataError, match="cider: picture 1 has no reference; leave it out"):
        cider(["a", "b"], [["a"], []])


def test_ids_that_do_not_fit() -> None:
    said = {"1": ["a dog"], "2": ["a cat"], "3": []}
    with pytest.raises(DataError, match="none of 2 predictions is to one of the pictures .*'7'.*of another split"):
        score_captions({"7": "a", "8": "b"}, said)
    with pytest.raises(DataError, match="1 predictions are to none of the pictures, the first has id '8'"):
        score_captions({"1": "a", "8": "b"}, said)
    with pytest.raises(DataError, match="1 pictures have a prediction and no reference, the first '3'"):
        score_captions({"1": "a", "3": "b"}, said)
    with pytest.raises(DataError, match="there are no predictions"):
        score_captions({}, said)


def test_what_is_odd_is_said_and_kept() -> None:
    said = {"1": ["a dog"], "2": ["a cat"], "3": ["a cow"]}
    result = score_captions({"1": "a\u2028dog", "2": "a cat"}, said)
    assert result.n == 2 and result.figures["CIDEr-D"] > 0
    assert "1 of 3 pictures have no prediction, the first '3'; the figures are of the other 2" in result.warnings
    assert any("1 captions have a separator of lines other than" in line for line in result.warnings)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            [{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}],
            "1 pictures have several captions, the first",
        ),
        ([{"image_id": 1}], "record 0: 'caption' is None, must be a text"),
        ([{"image_id": 1, "caption": ["a"]}], r"record 0: 'caption' is \['a'\], must be a text"),
        ([{"caption": "a"}], "record 0: 'image_id' is None, must be a number or a text"),
        ([{"image_id": True, "caption": "a"}], "'image_id' is True, must be"),
        (["a"], "'image_id' is None"),
        ([], "has no records; is it the right file"),
        ({"captions": []}, "holds no list of records; give a list, or an object with a list 'annotations'"),
        ({"images": 5, "annotations": []}, "'images' is 5, must be a list"),
    ],
)
def test_files_that_are_laid_out_otherwise(tmp_path: Path, content: Any, told: str) -> None:
    path = tmp_path / "made.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=told):
        read_predictions(path)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_references(tmp_path / "nowhere.json")
    (tmp_path / "made.json").write_text("[{")
    with pytest.raises(DataError, match="is not readable JSON"):
        read_predictions(tmp_path / "made.json")
    (tmp_path / "made.jsonl").write_text('{"image_id": 1, "caption": "a"}\n{"image_id"')
    with pytest.raises(DataError, match="line 2: is not readable JSON"):
        read_predictions(tmp_path / "made.jsonl")
    monkeypatch.setattr("cm3.score.records.JSON_BYTES", 20)
    with pytest.raises(DataError, match="made.jsonl': has [0-9]+ bytes, more than 20; split it"):
        read_predictions(tmp_path / "made.jsonl")


@pytest.mark.parametrize("score", ["METEOR", "SPICE"])
def test_a_program_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: str) -> None:
    said = {"1": ["a dog"], "2": ["a cat"]}
    folder = {f"{score.lower()}_folder": tmp_path}
    with pytest.raises(DataError, match=rf"{score}: .* has no {score.lower()}-1\.\d\.jar; give the folder of"):
        score_captions({"1": "a", "2": "b"}, said, **folder)
    for name in (
        "meteor-1.5.jar",
        "data/paraphrase-en.gz",
        "spice-1.0.jar",
        "lib/stanford-corenlp-3.6.0.jar",
        "lib/stanford-corenlp-3.6.0-models.jar",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=f"{score}: there is no command java"):
        score_captions({"1": "a", "2": "b"}, said, **folder)
    # A java that runs, and reads no more before its first answer.
    (tmp_path / "java").write_text("#!/bin/sh\nread line\nexec 0<&-\necho 1\nexit 3\n")
    (tmp_path / "java").chmod(0o755)
    with pytest.raises(DataError, match=f"{score}: .*jar (stopped|failed with code 3)"):
        score_captions({"1": "a", "2": "b"}, said, **folder)


def test_scores_as_spice_writes_them() -> None:
    told = [{"image_id": n, "scores": {"All": {"f": 0.25 * n, "pr": 0}, "Object": {"f": 1}}} for n in (1, 0, 2)]
    assert read_scores(told, 3) == [0.0, 0.25, 0.5]
    with pytest.raises(DataError, match="did not score all of 4 captions"):
        read_scores(told, 4)
    told[0]["scores"] = {"All": {"f": float("nan")}}
    with pytest.raises(DataError, match="gave no number for a caption"):
        read_scores(told, 3)

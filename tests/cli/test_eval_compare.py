"""`cm3 eval compare`: the table, the file, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

from command import Cm3
from made_results import SETTINGS, captions


def test_compare_prints_a_table_and_writes_a_file(cm3: Cm3, tmp_path: Path) -> None:
    a, b, c = captions(tmp_path, "a"), captions(tmp_path, "b", 0.05), captions(tmp_path, "c")
    ran = cm3("eval", "compare", a, b, c, "--out", "compared.json", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(Path("compared.json").read_text()) == ran.json
    first, second = ran.json["others"]
    assert first["figures"]["CIDEr-D"]["verdict"] == "higher" and second["figures"]["CIDEr-D"]["verdict"] == "same"
    assert ran.json["a"] == str(a) and first["b"] == str(b)
    told = cm3("eval", "compare", a, b).out.splitlines()
    assert told[0] == f"a  {a}" and told[1] == f"b  {b}"
    assert told[3].split()[0] == "CIDEr-D" and "+0.0500" in told[3] and told[3].endswith("the interval lies above 0")
    assert "no interval" in told[4]
    assert len({line.index(word) for line, word in zip(told[2:5], ("95%", "[+0", "-  no"), strict=True)}) <= 3
    # the file of a comparison is replaced, another is not
    assert cm3("eval", "compare", a, b, "--out", "compared.json").code == 0
    assert "is there, and is no cm3-comparison" in cm3("eval", "compare", a, b, "--out", a).refusal


def test_compare_refuses(cm3: Cm3, tmp_path: Path) -> None:
    a, b = captions(tmp_path, "a"), captions(tmp_path, "b", settings=SETTINGS | {"tokenizer": "none"})
    assert "compare takes two or more" in cm3("eval", "compare", a).refusal
    refused = cm3("eval", "compare", a, b)
    assert "tokenizer: 'ptb' and 'none'" in refused.refusal and refused.out == ""
    passed = cm3("eval", "compare", a, b, "--anyway")
    assert passed.code == 0 and "warning: settings differ" in passed.out
    assert "cannot be read" in cm3("eval", "compare", a, "none.json").refusal
    (tmp_path / "list.json").write_text("[]")
    assert "is none; give a file that a verb of `cm3 eval` wrote" in cm3("eval", "compare", a, "list.json").refusal
    assert "is a folder; give a file" in cm3("eval", "compare", a, a, "--out", tmp_path).refusal


def test_results_of_the_verbs_themselves_are_compared_and_shown(cm3: Cm3, tmp_path: Path) -> None:
    words = "a man rides the wave while two dogs sit near one red bus in town".split()
    said = [{"id": i, "image_id": i // 2, "caption": " ".join(words[i % 7 :])} for i in range(80)]
    Path("said.json").write_text(json.dumps({"images": [{"id": i} for i in range(40)], "annotations": said}))
    for name, first in (("a", 4), ("b", 1)):
        made = [{"image_id": i, "caption": " ".join(words[(2 * i + first) % 9 :])} for i in range(40)]
        Path(f"{name}.json").write_text(json.dumps(made))
        ran = cm3("eval", "captions", f"{name}.json", "said.json", "--out", f"{name}.result.json", "--json")
        assert ran.code == 0 and ran.json == json.loads(Path(f"{name}.result.json").read_text()), ran.err
    names = ("a.result.json", "b.result.json")
    (found,) = cm3("eval", "compare", *names, "--json").json["others"]
    assert found["figures"]["CIDEr-D"]["n"] == 40 and found["figures"]["BLEU-4"]["verdict"] == "unknown"
    shown = cm3("eval", "report", *names, "--json").json
    assert shown["samples"] == 40 and shown["not_shown"] == []
    assert " ".join(words[4:]) in Path("report.html").read_text()

"""Ids of a published file and ours: a permutation by names, and all that is wrong with a file in one line."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from published_tokenizer import of_transformers, spelled, text_tokenizer

from cm3.convert.ids import IdMap
from cm3.errors import CheckpointError
from cm3.vocab import Vocab

CODES = 64
META = text_tokenizer(codes=CODES)
SHUFFLED = text_tokenizer(codes=CODES, shuffle=5)


def ids_of(data: bytes) -> dict[str, int]:
    """The file's id of each name, read without the package."""
    return json.loads(data)["model"]["vocab"]


def changed(change: Any, data: bytes = META) -> bytes:
    page = json.loads(data)
    change(page)
    return json.dumps(page).encode()


@pytest.mark.parametrize("data", [META, SHUFFLED, of_transformers(META)[0]], ids=["meta", "shuffled", "transformers"])
def test_every_id_goes_there_and_comes_back(data: bytes) -> None:
    found = IdMap.of(data)
    assert found.vocab.size == len(ids_of(data)) == len(found.to_file)
    assert found.to_file.dtype == found.to_ours.dtype == np.int64
    assert (np.sort(found.to_file) == np.arange(found.vocab.size)).all()
    assert (found.to_ours[found.to_file] == np.arange(found.vocab.size)).all()
    assert (found.to_file[found.to_ours] == np.arange(found.vocab.size)).all()


@pytest.mark.parametrize("data", [META, SHUFFLED], ids=["meta", "shuffled"])
def test_names_say_what_an_id_is(data: bytes) -> None:
    found, ids = IdMap.of(data), ids_of(data)
    fixed = {"<s>": "bos", "<pad>": "pad", "</s>": "eos", "<racm3:break>": "brk", "<eoss>": "eoss"}
    for name, ours in fixed.items():
        assert found.to_file[getattr(Vocab, ours)] == ids[name]
    assert found.to_file[Vocab.unk] == 3
    assert found.turn is not None and found.to_file[found.turn] == ids["<reserved08706>"]
    assert found.vocab.grammar == "chameleon" and found.vocab.masks == 0
    names = {id: name for name, id in ids.items()}
    specials = [names[int(i)] for i in found.to_file[6 : found.vocab.text_start]]
    assert {name[:4] for name in specials} == {"<res", "<sen"}
    assert [ids[name] for name in specials] == sorted(ids[name] for name in specials)
    text = found.to_file[found.vocab.text_start : found.vocab.image_start]
    assert not any(names[int(i)].startswith(("<res", "<sen", "IMGIMG", "<s>")) for i in text)
    assert (np.diff(text) > 0).all()


@pytest.mark.parametrize("data", [META, SHUFFLED], ids=["meta", "shuffled"])
def test_an_image_code_is_embedded_by_its_name_and_never_as_an_id(data: bytes) -> None:
    """The mistake of a release of transformers: codes of the image tokenizer used as rows of the embedding."""
    found, ids = IdMap.of(data), ids_of(data)
    rows = torch.arange(float(found.vocab.size))[:, None].repeat(1, 3)  # each row holds its own id of the file
    ours = rows[torch.from_numpy(found.to_file)]
    codes = torch.arange(CODES)
    read = ours[found.vocab.image_start + codes, 0].long().tolist()
    assert read == [ids[spelled(code)] for code in codes.tolist()] == found.images.tolist()
    assert read != codes.tolist()
    assert torch.equal(ours[torch.from_numpy(found.to_ours)], rows)


def test_what_transformers_renamed_stays_reserved() -> None:
    data, vocabulary_map = of_transformers(META)
    theirs, meta = IdMap.of(data, vocabulary_map=vocabulary_map), IdMap.of(META, vocabulary_map=vocabulary_map)
    assert (theirs.to_file == meta.to_file).all() and theirs.vocab == meta.vocab
    assert theirs.to_ours[vocabulary_map["<image>"]] < theirs.vocab.text_start


def test_rows_of_the_weights_must_be_as_many() -> None:
    size = len(ids_of(META))
    assert IdMap.of(META, rows=size).vocab.size == size
    with pytest.raises(CheckpointError, match=rf"names {size} ids, the weights have {size + 64} rows"):
        IdMap.of(META, rows=size + 64)


def test_a_name_that_luminas_program_adds_without_a_row_is_no_id() -> None:
    size = len(ids_of(META))
    last = {"id": size, "content": "<|image|>", "special": False}
    theirs = changed(lambda page: page["added_tokens"].append(last))
    found, plain = IdMap.of(theirs, rows=size), IdMap.of(META)
    assert found.vocab == plain.vocab and (found.to_file == plain.to_file).all()
    assert IdMap.of(theirs, rows=size + 1).vocab.reserved == plain.vocab.reserved + 1  # there it has a row
    for rows in (size - 1, size + 2):
        with pytest.raises(CheckpointError, match=rf"names {size + 1} ids, the weights have {rows} rows"):
            IdMap.of(theirs, rows=rows)
    other = changed(lambda page: page["added_tokens"].append(last | {"content": "<|audio|>"}))
    with pytest.raises(CheckpointError, match=rf"names {size + 1} ids, the weights have {size} rows"):
        IdMap.of(other, rows=size)


def test_a_vocabulary_map_of_another_model_is_refused() -> None:
    _, right = of_transformers(META)
    raw = {name: code for code, name in enumerate(spelled(code) for code in range(CODES))}
    with pytest.raises(CheckpointError, match="'IMGIMGAZ' is 4, and 0 in vocabulary_map"):
        IdMap.of(META, vocabulary_map=right | raw)
    fewer = {name: id for name, id in right.items() if name != spelled(9)}
    with pytest.raises(CheckpointError, match="vocabulary_map lacks 1 of 64 image codes"):
        IdMap.of(META, vocabulary_map=fewer)
    for odd in ("x", 1.5, True, [1]):
        with pytest.raises(CheckpointError, match="vocabulary_map of config.json is no object of names and ids"):
            IdMap.of(META, vocabulary_map=odd)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="'<other>' is 4 in vocabulary_map, which is no reserved id"):
        IdMap.of(META, vocabulary_map=right | {"<other>": 4})


def rename(old: str, new: str) -> Any:
    def change(page: dict[str, Any]) -> None:
        page["model"]["vocab"][new] = page["model"]["vocab"].pop(old)
        for token in page["added_tokens"]:
            token["content"] = new if token["content"] == old else token["content"]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("model"), "lacks model.vocab"),
        (lambda p: p["model"]["vocab"].update({"new": 5}), "id 5 is 'IMGIMGBZ' and 'new'"),
        (lambda p: p["model"]["vocab"].update({"new": 9_999_999_999}), r"ids below 10000000000 have no entry"),
        (lambda p: p["model"]["vocab"].update({"new": -1}), "must be whole numbers from 0, those of 'new' are not"),
        (lambda p: p["added_tokens"][6].update({"id": 7}), "'IMGIMGCZ' is id 6 and added as 7"),
        (rename("<racm3:break>", "<start>"), "<racm3:break> is missing"),
        (rename("IMGIMGBZ", "IMGIMGABZ"), "'IMGIMGABZ' spells no image code"),
        (rename("IMGIMGBZ", "IMGIMGBAAZ"), "image codes must run from 0 without a hole"),
        (rename("IMGIMGBZ", "IMGIMG" + "J" * 5000 + "Z"), "spells no image code"),
    ],
)
def test_a_file_with_a_fault_is_refused_in_one_line(change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        IdMap.of(changed(change))
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000


def test_all_faults_are_told_together() -> None:
    def change(page: dict[str, Any]) -> None:
        rename("<racm3:break>", "<start>")(page)
        rename("</s>", "<end>")(page)
        del page["model"]["vocab"]["IMGIMGBZ"], page["added_tokens"][5]

    with pytest.raises(
        CheckpointError, match=r"1 ids below \d+ have no entry \(5\); </s> is missing; <racm3:break> is"
    ):
        IdMap.of(changed(change))

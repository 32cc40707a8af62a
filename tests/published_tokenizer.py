"""A small text_tokenizer.json of the structure that Meta published with Chameleon, and what transformers makes of it.

Facts: Meta's `chameleon/inference/vocab.py` (names of specials, the spelling of codes), the script of transformers that
converts it (`<reserved08707>` becomes `<image>` in entries and added tokens, `<s>` is put before a text), metaseq's
script that put `<eoss>`, `<racm3:break>` and sentinels into such a file (each an added token that is special, and a
pre-tokenizer that splits by a pattern before the byte-level one). Nothing here is of `cm3`.

    published: 0 to 3 <s> <pad> </s> <unk>; 4 to 8195 codes; 8196 <eoss>; 8197 <racm3:break>; 8198 on <sentinel:i>;
               8710 on <reservedNNNNN>, where NNNNN is the id less 4; then words, 65,536 entries in all
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

CORPUS = [
    f"a {size} {colour} {shape} left of the {other} square, {number} of them. What is this? Draw a picture of it!\n"
    for size in ("small", "large")
    for colour in ("red", "blue", "gr\u00fcn")
    for shape in ("circle", "square", "ring")
    for other in ("yellow", "black")
    for number in (1, 23)
]


def spelled(code: int) -> str:
    """Return the published name of an image code."""
    return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"


def text_tokenizer(
    codes: int = 64,
    sentinels: int = 6,
    reserved: int = 12,
    merges: int = 40,
    shuffle: int | None = None,
    marks: int = 0,
) -> bytes:
    """Return the file in Meta's layout. `shuffle`: a seed by which codes, and with them what follows, lose their order
    of names; None keeps it, as published. `marks`: reserved entries from <reserved08799> on, which Lumina-mGPT took for
    the end of a row, and those behind it for sides of 0, 32, 64 ... pixels."""
    order = [spelled(code) for code in range(codes)]
    specials = [
        *order,
        "<eoss>",
        "<racm3:break>",
        *[f"<sentinel:{i}>" for i in range(sentinels)],
        *[f"<reserved{8706 + i:05d}>" for i in range(reserved)],
        *[f"<reserved{8799 + i:05d}>" for i in range(marks)],
    ]
    if shuffle is not None:
        random.Random(shuffle).shuffle(specials)
    specials = ["<s>", "<pad>", "</s>", "<unk>", *specials]
    backend = tokenizers.Tokenizer(models.BPE())
    pattern = Regex("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + 256 + merges,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer=trainer)
    return backend.to_str().encode()


def of_transformers(data: bytes) -> tuple[bytes, dict[str, int]]:
    """Return tokenizer.json and `vocabulary_map` of config.json as transformers' script makes them of Meta's file."""
    page: dict[str, Any] = copy.deepcopy(json.loads(data))
    vocab = page["model"]["vocab"]
    vocab["<image>"] = vocab.pop("<reserved08707>")
    for token in page["added_tokens"]:
        if token["content"] == "<reserved08707>":
            token["content"] = "<image>"
    start = {"id": "<s>", "ids": [vocab["<s>"]], "tokens": ["<s>"]}
    first = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    page["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, first, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": start},
    }
    return json.dumps(page).encode(), dict(vocab)

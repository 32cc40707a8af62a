"""CLIPScore equals the paper's formula by the library, whatever the batches; what cannot be scored is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_networks
import torch

from cm3.document import Image
from cm3.errors import DataError
from cm3.retrieval.clip import MEAN, STD, ClipEncoder
from cm3.score.clipscore import score_clip

CAPTIONS = ("a red circle", "two boats", "a boat", "night", "a dog on a mat")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_networks.clip(tmp_path_factory.mktemp("clip"), layers=1, positions=40, size=16, width=8)


def images() -> list[Image]:
    rng = np.random.default_rng(0)
    return [Image(PIL.Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))) for _ in CAPTIONS]


def pairs() -> list[tuple[str, Image, str]]:
    """Each caption with a picture, and the second picture with a caption more."""
    shown = images()
    made = [(str(i), image, text) for i, (image, text) in enumerate(zip(shown, CAPTIONS, strict=True))]
    return [*made[:2], ("1b", shown[1], "a ship"), *made[2:]]


def test_equals_the_formula(clip: Path) -> None:
    import transformers

    model = transformers.CLIPModel.from_pretrained(clip).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip)

    def cosine(image: Image, text: str) -> float:
        pixels = (torch.from_numpy(np.array(image.pixels)) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        given = tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            out = model(pixel_values=pixels.permute(2, 0, 1)[None].float(), **given)
        return float((out.image_embeds * out.text_embeds).sum())

    result = score_clip(pairs(), ClipEncoder.load(clip))
    want = {id: cosine(image, text) for id, image, text in pairs()}
    assert result.items["cosine"] == pytest.approx(want, abs=1e-5)
    scores = {id: 2.5 * max(cosine(image, f"A photo depicts {text}"), 0) for id, image, text in pairs()}
    assert result.items["clipscore"] == pytest.approx(scores, abs=1e-5)
    for name, values in result.items.items():
        assert result.figures[name] == pytest.approx(np.mean(list(values.values())))
    assert result.n == 6 and result.settings["encoder"].startswith("clip:") and not result.warnings


def test_clipscore_is_never_below_zero_and_the_cosine_may_be(clip: Path) -> None:
    turned = ClipEncoder.load(clip)
    with torch.no_grad():
        turned.model.visual_projection.weight.neg_()
    result, whole = score_clip(pairs(), turned), score_clip(pairs(), ClipEncoder.load(clip))
    assert result.figures["cosine"] == pytest.approx(-whole.figures["cosine"], abs=1e-5)
    assert whole.figures["cosine"] > 0 == result.figures["clipscore"]


def test_batches_change_nothing_and_a_picture_is_encoded_once(clip: Path) -> None:
    class Counting(ClipEncoder):
        seen = 0

        def images(self, images: Any) -> np.ndarray:
            Counting.seen += len(images)
            return super().images(images)

    whole = score_clip(pairs(), ClipEncoder.load(clip))
    for batch in (1, 2, 4):
        Counting.seen = 0
        again = score_clip(pairs(), Counting.load(clip), batch=batch)
        assert again.figures == pytest.approx(dict(whole.figures), abs=1e-6)
        assert Counting.seen == len(CAPTIONS), batch


def test_long_captions_are_said(clip: Path) -> None:
    made = [*pairs(), ("long", images()[0], "word " * 40)]
    [told] = score_clip(made, ClipEncoder.load(clip)).warnings
    assert told == "1 of 7 captions are longer than the encoder reads, and were cut off"


def test_bad_pairs_are_named(clip: Path) -> None:
    encoder = ClipEncoder.load(clip)
    with pytest.raises(DataError, match="no pair"):
        score_clip([], encoder)
    with pytest.raises(DataError, match="pair '1': comes twice"):
        score_clip([*pairs(), pairs()[1]], encoder)
    with pytest.raises(DataError, match="pair 'x': has an empty caption"):
        score_clip([("x", images()[0], " ")], encoder)
    torn = Image(PIL.Image.new("RGB", (0, 4)))
    with pytest.raises(DataError, match="pair 'x': image of 0 x 4 pixels: is empty"):
        score_clip([("x", torn, "a")], encoder)

"""Pictures for an image tokenizer: pure in the step, of every kind that is asked for, plain scenes first."""

from __future__ import annotations

import numpy as np
import pytest

from cm3.errors import ConfigError
from cm3.scenes.data.training_pictures import TASK_PICTURES, scene_pictures, task_picture, task_pictures
from cm3.scenes.structure import NOTHING
from cm3.scenes.verify import read


def test_a_batch_is_scenes_first_and_a_function_of_its_step() -> None:
    images = task_pictures(3, 128, batch=6, plain=2, shares={"segments": 1.0}).batch
    first, other = images(0), images(1)
    assert [a.tobytes() for a in images(0)] == [a.tobytes() for a in first] != [a.tobytes() for a in other]
    for picture in (*first[:2], *other[:2]):
        assert read(picture).scene is not None
    assert all(p.getpixel((0, 0)) == NOTHING for p in (*first[2:], *other[2:]))


def test_shares_decide_how_often_a_kind_comes() -> None:
    images = task_pictures(4, 32, batch=60, plain=0, shares={"letters": 3.0, "depth": 1.0}).batch
    dark = np.mean([p.getpixel((0, 0)) == NOTHING for p in images(0)])
    assert 0.1 < dark < 0.4


@pytest.mark.parametrize("kind", ["scene", *TASK_PICTURES])
def test_every_kind_is_drawn(kind: str) -> None:
    rng = np.random.default_rng(0)
    one, two = (task_picture(kind, 64, rng) for _ in range(2))
    assert one.size == two.size == (64, 64) and one.mode == "RGB" and one.tobytes() != two.tobytes()


def test_unknown_kinds_and_wrong_shares_are_refused() -> None:
    with pytest.raises(ConfigError, match="picture kind='edge': must be one of scene, .* Did you mean 'edges'"):
        task_picture("edge", 64, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="data.shares: 'letter' is no kind of picture. Did you mean 'letters'"):
        task_pictures(1, 64, 4, 2, {"letter": 1.0})
    for shares in ({"depth": 0.0}, {"depth": -1.0, "edges": 2.0}, {}):
        with pytest.raises(ConfigError, match=r"data.shares=\{.*\}: must be shares of edges, .*, none negative"):
            task_pictures(1, 64, 4, 2, shares)
    with pytest.raises(ConfigError, match="data.objects=.*: must be four shares"):
        scene_pictures(1, 64, 4, (1.0, -1.0, 0.0, 0.0))

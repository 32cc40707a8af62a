"""The shipped scenes model taught to follow instructions: runs in this order, after those of recipes/scenes.py.

    cm3 train recipes/scene_tasks.py:image_tokenizer     codes for outlines, maps and letters too, near those of scenes
"""

from __future__ import annotations

from cm3.model.vqgan import small
from cm3.train.runs import ImageTokenizerRun, SceneTaskData


def image_tokenizer() -> ImageTokenizerRun:
    """The image tokenizer of scenes once more, on outlines, scribbles, segments, depth and letters too.

    The decoder of `recipes/scenes.py` knows the codes of scenes, so six pictures of each batch hold the encoder where
    it was. Letters are hardest, and come most often of the rest.
    """
    return ImageTokenizerRun(
        vqgan=small(16, (8, 8, 8, 5), patch=8, channels=64, multipliers=(1, 2)),
        size=128,
        batch=16,
        steps=2200,
        optimizer="muon",
        lr=1e-3,
        muon_lr=4e-3,
        lr_end=0.01,
        init="runs/scenes/image_details",
        keep=6,
        keep_weight=5.0,
        channels_last=True,
        out="runs/scenes/tasks_tokenizer",
        log_every=25,
        save_every=100,
        sample_every=100,
        threads=1,
        data=SceneTaskData(
            seed=21, shares={"edges": 1.0, "scribble": 1.5, "segments": 1.0, "depth": 0.7, "letters": 4.0}
        ),
    )

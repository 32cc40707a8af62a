"""The shipped scenes model taught to follow instructions: runs in this order, after those of recipes/scenes.py.

cm3 train recipes/scene_tasks.py:image_tokenizer     # codes for outlines, maps and letters too, near those of scenes
cm3 train recipes/scene_tasks.py:image_letters       # the same, mostly on letters and scribbles
cm3 train recipes/scene_tasks.py:instruct            # the model: every task, and what it could do before
cm3 train recipes/scene_tasks.py:instruct_more       # the same, scenes of two objects more often than not
cm3 train recipes/scene_tasks.py:instruct_all        # the same, scenes of any number of objects
"""

from __future__ import annotations

from dataclasses import replace

from cm3.model.vqgan import small
from cm3.runs import ImageTokenizerRun, PretrainRun
from cm3.scenes.data.emblem_source import EmblemMix
from cm3.scenes.data.lesson_documents import TASKS
from cm3.scenes.data.lessons import LessonLaw, SceneTaskMix
from cm3.scenes.scene_kinds import EmblemData, SceneLessonData, SceneTaskData
from cm3.sequence.before import AugmentLaw

from .scenes import pretrain_emblems


def image_tokenizer() -> ImageTokenizerRun:
    """The image tokenizer of scenes once more, on outlines, scribbles, segments, depth and letters too.

    The decoder of `recipes/scenes.py` knows the codes of scenes, so six pictures of each batch hold the encoder where
    it was. Letters are hardest, and come most often of the rest.

    Price: 2,200 steps of 16 pictures, 14 minutes on one core. Promise: about 32.6 dB PSNR on test scenes; 95% of their
    codes are those of before; every reconstruction of a scene shows it, and 93% or more of those of outlines, segments
    and depth their shapes, sizes and places, 76% of scribbles.
    """
    return ImageTokenizerRun(
        vqgan=small(16, (8, 8, 8, 5), patch=8, channels=64, multipliers=(1, 2), norm="group", reach="wide"),
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


def image_letters() -> ImageTokenizerRun:
    """The tokenizer of `image_tokenizer` trained on, half of what is no plain scene with letters.

    It holds on to the codes of the tokenizer before both, or the second run would add its drift to that of the first.

    Price: 1,450 steps of 16 pictures, 11 minutes on one core. Promise: about 32.8 dB PSNR on test scenes and 95% of
    their codes as before; 78% of words come back with all letters right, 54% clearly.
    """
    first = image_tokenizer()
    return replace(
        first,
        out="runs/scenes/tasks_letters",
        init=first.out,
        keep_of=first.init,
        steps=1450,
        lr=6e-4,
        muon_lr=2.5e-3,
        keep_weight=8.0,
        data=SceneTaskData(
            seed=22, shares={"edges": 1.0, "scribble": 2.0, "segments": 1.0, "depth": 0.7, "letters": 5.0}
        ),
    )


def instruct() -> PretrainRun:
    """The model of `pretrain_emblems` with the image tokenizer of `image_letters`, tuned for every task of scenes.

    At a rate of 2e-3 it forgot how to copy from one picture to another within 350 steps (docs/log.md).

    Price: 940 steps of about 4,060 tokens at 1,100 a second, one hour on one core. Promise: what `instruct_more` can
    begin with; alone, single objects and little more.
    """
    before = pretrain_emblems()
    return replace(
        before,
        out="runs/scenes/instruct",
        init="runs/scenes/pretrain_emblems/bundle",
        replace_image_tokenizer=image_letters().out,
        tasks=TASKS,
        optim=replace(before.optim, lr=8e-4, adam_lr=2e-3, warmup=60, decay_from=1.0),
        steps=940,
        sampling=before.sampling | {"edit": {"guidance": 1.5, "image_guidance": 1.5}, "control": {"guidance": 2.0}},
        seed=8,
        threads=1,
        data=SceneLessonData(
            seed=8,
            mix=SceneTaskMix(
                plain=26,
                edit=12,
                write=8,
                boxes=6,
                canny=4,
                segmentation=8,
                depth=4,
                scribble=4,
                coco_captions=4,
                image_paragraph=4,
                vqa2=11,
                visdial=4,
                scienceqa=5,
                segment=7,
            ),
            law=LessonLaw(short=4.0, shuffled=0.5),
            plain=EmblemData(
                mix=EmblemMix(
                    plain=0.85,
                    scenes=0.02,
                    emblems=0.13,
                    documents=AugmentLaw(shares=(0.12, 0.88)),
                    alike=0.5,
                    captions_only=0.05,
                    objects=(0.1, 0.2, 0.3, 0.4),
                    in_order=0.5,
                )
            ),
        ),
    )


def instruct_more() -> PretrainRun:
    """The model of `instruct` trained on, mostly on scenes of few objects: which colour goes with which shape.

    Of structures, segments come most often: what shape a cell belongs to is told there by its colour alone.

    Price: 1,600 steps of about 6,100 tokens at 1,000 to 1,900 a second, about 100 minutes on two cores that other
    work used as well, as two processes:
    torchrun --nproc-per-node 2 -m cm3 train recipes/scene_tasks.py:instruct_more. Promise: docs/scene-tasks.md.
    """
    first = instruct()
    assert isinstance(first.data, SceneLessonData)
    return replace(
        first,
        out="runs/scenes/instruct_more",
        init="runs/scenes/instruct/bundle",
        replace_image_tokenizer="",
        optim=replace(first.optim, lr=1e-3, adam_lr=3e-3, warmup=30, decay_from=0.39, final=0.02),
        windows=12,
        steps=1600,
        seed=9,
        data=replace(
            first.data,
            seed=9,
            mix=SceneTaskMix(
                plain=24,
                edit=16,
                write=6,
                boxes=8,
                canny=3,
                segmentation=14,
                depth=3,
                scribble=3,
                coco_captions=5,
                image_paragraph=3,
                vqa2=11,
                visdial=4,
                scienceqa=4,
                segment=9,
            ),
            law=replace(first.data.law, shuffled=0.15, objects=(0.25, 0.45, 0.2, 0.1)),
        ),
    )


def instruct_all() -> PretrainRun:
    """The model of `instruct_more` trained on, on scenes of any number of objects, edits and boxes more often.

    The rate falls from early on: what is learnt at a flat one does not show. Changes made while the shipped run
    went on are in docs/log.md.

    Price: 1,600 steps of about 6,000 tokens at 1,400 to 1,750 a second, about 100 minutes on two cores that other work
    used a little, as two processes: torchrun --nproc-per-node 2 -m cm3 train recipes/scene_tasks.py:instruct_all.
    Promise: docs/scene-tasks.md.
    """
    more = instruct_more()
    assert isinstance(more.data, SceneLessonData)
    return replace(
        more,
        out="runs/scenes/instruct_all",
        init="runs/scenes/instruct_more/bundle",
        optim=replace(more.optim, lr=1.5e-3, adam_lr=4e-3, warmup=40, decay_from=0.1, final=0.02),
        steps=1600,
        seed=10,
        data=replace(
            more.data,
            seed=10,
            mix=SceneTaskMix(
                plain=20,
                edit=24,
                write=4,
                boxes=12,
                canny=4,
                segmentation=10,
                depth=4,
                scribble=4,
                coco_captions=3,
                image_paragraph=3,
                vqa2=13,
                visdial=4,
                scienceqa=5,
                segment=5,
            ),
            law=replace(
                more.data.law,
                shuffled=0.1,
                objects=(0.15, 0.35, 0.27, 0.23),
                edits=(3.0, 3.0, 0.5, 3.0, 3.0, 0.5),
                questions=(2.0, 1.0, 1.0, 1.5, 3.0, 0.5, 2.0, 1.0),
            ),
        ),
    )

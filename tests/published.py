"""Small datasets in the layouts that their owners publish, one for each instruction task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

CAPTIONS = (
    ("a red square on the left", "one big red square"),
    ("two blue circles side by side", "a pair of circles in blue"),
    ("green lines cross the whole picture", "some lines that are green"),
)
ANSWERS = (["yes"] * 9 + ["no"], ["two"] * 4 + ["2"] * 5 + ["three"], ["a frisbee"] * 6 + ["disc"] * 4)
QUESTIONS = ("Is it red?", "How many circles are there?", "What is thrown?")


def picture(number: int, size: tuple[int, int] = (96, 72)) -> PIL.Image.Image:
    """A drawing with edges, another for each number."""
    made = PIL.Image.new("RGB", size, ((90 * number) % 256, 200, 120))
    pen = PIL.ImageDraw.Draw(made)
    pen.rectangle((20 + 6 * number, 10, 60, 50 + 3 * number), fill=(250, 30 * number, 20))
    pen.ellipse((50, 20 + 4 * number, 80, 60), fill=(20, 40, 230))
    return made


def write(path: Path, content: Any) -> None:
    """JSON, or a picture, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, PIL.Image.Image):
        content.save(path)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def datasets(root: Path) -> dict[str, str]:
    """Make them all; task -> source."""
    made = {"coco_captions": f"coco:{coco(root / 'coco')}@val2017", "write": f"jsonl:{written(root / 'signs')}"}
    for task in ("boxes", "canny", "segmentation", "hed", "pose", "depth", "normal", "scribble", "segment"):
        made[task] = made["coco_captions"]
    for make in (flickr30k, image_paragraph, localized_narratives, vqa2, okvqa, vizwiz, scienceqa, visdial):
        made[make.__name__] = f"{make.__name__}:{make(root / make.__name__)}"
    return made | {"edit": f"instructpix2pix:{instructpix2pix(root / 'pairs')}"}


def coco(root: Path) -> Path:
    """Two captions for each of three pictures, with outlines and joints, and maps beside the pictures."""
    images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in range(3)]
    captions = [
        {"id": 10 * n + i, "image_id": n, "caption": text}
        for n, some in enumerate(CAPTIONS)
        for i, text in enumerate(some)
    ]
    joints = [v for i in range(17) for v in (30 + i, 12 + 3 * i, 2)]
    things = [
        {
            "id": n, "image_id": n, "category_id": 18 + n, "iscrowd": 0, "bbox": [20, 10, 40, 40], "area": 1600,
            "segmentation": [[20, 10, 60, 10, 60, 50, 20, 50]],
        }
        for n in range(3)
    ]  # fmt: skip
    persons = [thing | {"keypoints": joints, "num_keypoints": 17, "category_id": 1} for thing in things]
    names = [{"id": 18 + n, "name": name} for n, name in enumerate(("dog", "horse", "sheep"))]
    write(root / "annotations/captions_val2017.json", {"images": images, "annotations": captions})
    write(root / "annotations/instances_val2017.json", {"annotations": things, "categories": names})
    people = {"annotations": persons, "categories": [{"id": 1, "name": "person"}]}
    write(root / "annotations/person_keypoints_val2017.json", people)
    for n in range(3):
        write(root / f"val2017/{n:012d}.jpg", picture(n))
        for kind in ("hed", "depth", "normal"):
            write(root / f"val2017/{n:012d}.{kind}.png", picture(n).convert("L"))
    return root


def flickr30k(root: Path) -> Path:
    """results_20130124.token and its pictures."""
    lines = [f"10{n}.jpg#{i}\t{text}" for n, some in enumerate(CAPTIONS) for i, text in enumerate(some)]
    write(root / "results_20130124.token", "\n".join(lines) + "\n")
    for n in range(3):
        write(root / f"flickr30k-images/10{n}.jpg", picture(n))
    return root


def image_paragraph(root: Path) -> Path:
    """One paragraph for each picture."""
    records = [{"image_id": n, "paragraph": some[0], "url": "x"} for n, some in enumerate(CAPTIONS)]
    write(root / "paragraphs_v1.json", records)
    write(root / "test_split.json", [0, 1, 2])
    for n in range(3):
        write(root / f"VG_100K/{n}.jpg", picture(n))
    return root


def localized_narratives(root: Path) -> Path:
    """Two narratives for each picture of COCO."""
    records = [
        {"dataset_id": "mscoco_val2017", "image_id": str(n), "annotator_id": i, "caption": text}
        for n, some in enumerate(CAPTIONS)
        for i, text in enumerate(some)
    ]
    write(root / "coco_val_captions.jsonl", "\n".join(map(json.dumps, records)) + "\n")
    for n in range(3):
        write(root / f"val2017/{n:012d}.jpg", picture(n))
    return root


def vqa2(root: Path, questions: str = "v2_OpenEnded", annotations: str = "v2_") -> Path:
    """A question of each picture, with ten answers."""
    asked = [{"image_id": n, "question": text, "question_id": n} for n, text in enumerate(QUESTIONS)]
    told: list[dict[str, Any]] = []
    for n, answers in enumerate(ANSWERS):
        some = [{"answer": a, "answer_confidence": "yes", "answer_id": i + 1} for i, a in enumerate(answers)]
        told.append({"question_id": n, "image_id": n, "answers": some})
        if annotations:
            told[-1]["multiple_choice_answer"] = max(answers, key=answers.count)
    write(root / f"{questions}_mscoco_val2014_questions.json", {"questions": asked})
    write(root / f"{annotations}mscoco_val2014_annotations.json", {"annotations": told})
    for n in range(3):
        write(root / f"val2014/COCO_val2014_{n:012d}.jpg", picture(n))
    return root


def okvqa(root: Path) -> Path:
    """The same under OK-VQA's names."""
    return vqa2(root, "OpenEnded", "")


def vizwiz(root: Path) -> Path:
    """A question of each picture, with ten answers."""
    records = [
        {"image": f"VizWiz_val_{n:08d}.jpg", "question": text, "answers": [{"answer": a} for a in ANSWERS[n]]}
        for n, text in enumerate(QUESTIONS)
    ]
    write(root / "Annotations/val.json", records)
    for n in range(3):
        write(root / f"val/VizWiz_val_{n:08d}.jpg", picture(n))
    return root


def scienceqa(root: Path) -> Path:
    """Two problems with a picture, and one without."""
    texts = dict.fromkeys(("hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution"), "")
    problem = texts | {"question": "Which is red?", "choices": ["the square", "the circle"], "split": "test"}
    problems = {str(n): problem | {"answer": n % 2, "image": "image.png" if n < 3 else None} for n in (1, 2, 3)}
    write(root / "problems.json", problems)
    write(root / "pid_splits.json", {"test": ["1", "2", "3"]})
    for n in (1, 2):
        write(root / f"images/test/{n}/image.png", picture(n))
    return root


def visdial(root: Path) -> Path:
    """A dialogue of two turns and one of one turn."""
    turns = [[{"question": 0, "answer": 0}, {"question": 1, "answer": 1}], [{"question": 0, "answer": 1}]]
    dialogs = [{"image_id": n, "caption": CAPTIONS[n][0], "dialog": some} for n, some in enumerate(turns)]
    data = {"questions": ["is it day", "how many"], "answers": ["yes, it is", "two"], "dialogs": dialogs}
    write(root / "visdial_1.0_val.json", {"data": data, "version": "1.0", "split": "val"})
    for n in range(2):
        write(root / f"VisualDialog_val2018/VisualDialog_val2018_{n:012d}.jpg", picture(n))
    return root


def instructpix2pix(root: Path) -> Path:
    """A pair in each of two folders."""
    write(root / "seeds.json", [[f"000000{n}", [str(n)]] for n in range(2)])
    for n in range(2):
        home = root / f"000000{n}"
        write(home / "prompt.json", {"input": "x", "edit": f"make it {('red', 'blue')[n]}", "output": "y"})
        write(home / "metadata.jsonl", json.dumps({"seed": n}) + "\n")
        write(home / f"{n}_0.jpg", picture(n, (64, 64)))
        write(home / f"{n}_1.jpg", PIL.Image.fromarray(255 - np.asarray(picture(n, (64, 64)))))
    return root


def written(root: Path) -> Path:
    """Pictures with the words that stand in them."""
    lines = [{"id": f"s{n}", "image": f"{n}.png", "text": "a sign", "ocr_content": f"EXIT {n}"} for n in range(2)]
    for n in range(2):
        write(root / f"{n}.png", picture(n))
    write(root / "signs.jsonl", "\n".join(map(json.dumps, lines)))
    return root

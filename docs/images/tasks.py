"""Draws docs/images/tasks.png: an example of every instruction task, of one rendered picture whose truth is known.

    python docs/images/tasks.py docs/images/tasks.png

The picture is a small scene of balls, boxes and limbs, rendered by marching rays; outlines, joints, depth and normals
are those of the scene, so they lie on it exactly. It goes through the tasks as a document of JSON lines does.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image

from cm3.cli.outputs import png
from cm3.cli.sheet import Line, Panel, Section, sheet
from cm3.cli.show import panels
from cm3.document import Unreadable
from cm3.picture import open_picture
from cm3.read.jsonl import JsonLines
from cm3.tasks import TASKS, View
from cm3.tasks.examples import find_task, serve

SIZE = 256
EYE, FOCAL = np.array([0.05, 1.05, -4.6]), 2.6
CAPTION = "A child in a red shirt plays with a yellow ball beside a blue box."
# COCO's 17 joints: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, the left of each first.
JOINTS = np.array(
    [
        *((-0.62, 1.66, -0.2), (-0.55, 1.72, -0.17), (-0.69, 1.72, -0.17), (-0.46, 1.68, 0.0), (-0.78, 1.68, 0.0)),
        *((-0.38, 1.36, 0.0), (-0.86, 1.36, 0.0), (-0.12, 1.12, -0.1), (-1.12, 1.2, 0.0), (0.16, 1.26, -0.2)),
        *((-1.26, 1.5, 0.0), (-0.48, 0.86, 0.0), (-0.76, 0.86, 0.0), (-0.36, 0.5, -0.15), (-0.9, 0.46, 0.0)),
        *((-0.44, 0.08, 0.0), (-0.98, 0.07, 0.1)),
    ]
)
SHIRT, SKIN, TROUSERS = (0.82, 0.2, 0.18), (0.85, 0.66, 0.52), (0.25, 0.28, 0.42)
LIMBS = [
    *((a, b, 0.085, SHIRT) for a, b in ((5, 7), (6, 8))),
    *((a, b, 0.06, SKIN) for a, b in ((7, 9), (8, 10))),
    *((a, b, 0.095, TROUSERS) for a, b in ((11, 13), (12, 14))),
    *((a, b, 0.075, TROUSERS) for a, b in ((13, 15), (14, 16))),
]
THINGS = {1: ("person", 1), 2: ("sports ball", 37), 3: ("suitcase", 33)}


def _capsule(p: np.ndarray, a: np.ndarray, b: np.ndarray, r: float) -> np.ndarray:
    along = np.clip(((p - a) @ (b - a)) / float((b - a) @ (b - a)), 0, 1)[..., None]
    return np.linalg.norm(p - a - along * (b - a), axis=-1) - r


def _parts(p: np.ndarray) -> list[tuple[int, tuple[float, float, float], np.ndarray]]:
    """(which thing, its colour, distance of each point) of every solid; 0 is the ground."""
    found = [(0, (0.5, 0.62, 0.42), p[..., 1])]
    chest, hips = (JOINTS[5] + JOINTS[6]) / 2, (JOINTS[11] + JOINTS[12]) / 2
    found.append((1, SHIRT, _capsule(p, chest - [0, 0.1, 0], hips + [0, 0.08, 0], 0.21)))
    found.append((1, SKIN, np.linalg.norm(p - [-0.62, 1.7, 0.0], axis=-1) - 0.19))
    found.append((1, (0.25, 0.17, 0.1), np.linalg.norm(p - [-0.62, 1.77, 0.07], axis=-1) - 0.19))
    found += [(1, colour, _capsule(p, JOINTS[a], JOINTS[b], r)) for a, b, r, colour in LIMBS]
    found.append((2, (0.93, 0.78, 0.2), np.linalg.norm(p - [0.42, 1.36, -0.25], axis=-1) - 0.24))
    off = np.abs(p - [1.0, 0.34, 0.5]) - [0.42, 0.34, 0.3]
    box = np.linalg.norm(np.maximum(off, 0), axis=-1) + np.minimum(off.max(-1), 0) - 0.03
    return [*found, (3, (0.22, 0.4, 0.75), box)]


def _distance(p: np.ndarray) -> np.ndarray:
    return np.min([d for _, _, d in _parts(p)], axis=0)


def _normals(p: np.ndarray) -> np.ndarray:
    e = 1e-3 * np.eye(3)
    n = np.stack([_distance(p + e[i]) - _distance(p - e[i]) for i in range(3)], -1)
    return n / np.linalg.norm(n, axis=-1, keepdims=True)


def _march(start: np.ndarray, way: np.ndarray, far: float, steps: int = 70) -> np.ndarray:
    gone = np.full(way.shape[:-1], 0.02)
    for _ in range(steps):
        gone = np.minimum(gone + _distance(start + gone[..., None] * way), far)
    return gone


def render(size: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """The picture (h, w, 3) in 0..255, maps hed, depth, normal likewise, and which thing each pixel shows (h, w)."""
    y, x = np.mgrid[:size, :size].astype(float)
    way = np.stack([(x + 0.5) / size * 2 - 1, 1 - (y + 0.5) / size * 2, np.full_like(x, FOCAL)], -1)
    way /= np.linalg.norm(way, axis=-1, keepdims=True)
    far = 14.0
    gone = _march(EYE, way, far)
    hit, p = gone < far - 0.1, EYE + gone[..., None] * way
    parts = _parts(p)
    nearest = np.argmin([d for _, _, d in parts], axis=0)
    which = np.where(hit, np.array([i for i, _, _ in parts])[nearest], 0)
    colour, normal = np.array([c for _, c, _ in parts])[nearest], _normals(p)
    sun = np.array([-0.45, 0.8, -0.4]) / np.linalg.norm([-0.45, 0.8, -0.4])
    shaded = _march(p + 0.03 * normal, np.broadcast_to(sun, p.shape), 6.0) < 5.9
    lit = np.clip(normal @ sun, 0, 1) * np.where(shaded, 0.35, 1)
    sky = np.array([0.62, 0.78, 0.93]) + (0.25 * (y / size))[..., None]
    picture = np.where(hit[..., None], colour * (0.38 + 0.7 * lit)[..., None], sky)
    depth = np.where(hit, 1 / np.maximum(gone, 1e-3), 0)
    facing = np.stack([normal[..., 0], normal[..., 1], -normal[..., 2]], -1)
    facing = np.where(hit[..., None], facing * 0.5 + 0.5, 0)
    near = np.log(np.maximum(gone, 1e-3))
    edge = np.hypot(*np.gradient(near)) * 4 + sum(np.hypot(*np.gradient(facing[..., i])) for i in range(3)) * 1.2
    edge = cv2.GaussianBlur(np.clip(edge, 0, 1), (0, 0), size / 200)
    maps = {"hed": edge / edge.max(), "depth": depth / depth.max(), "normal": facing}
    drawn = {kind: _bytes(map if map.ndim == 3 else map[..., None].repeat(3, -1)) for kind, map in maps.items()}
    return _bytes(picture), drawn, which


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def record(folder: Path) -> dict[str, Any]:
    """A line of JSON with everything that a task asks for, its pictures written to a folder."""
    picture, maps, which = render(SIZE)
    PIL.Image.fromarray(picture).save(folder / "look.png")
    files = {}
    for kind, map in maps.items():
        PIL.Image.fromarray(map).save(folder / f"look.{kind}.png")
        files[kind] = f"look.{kind}.png"
    instances = []
    for number, (name, category) in THINGS.items():
        solid = (which == number).astype(np.uint8)
        found, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        rims = [rim for rim in found if cv2.contourArea(rim) > 20]  # a ray that grazes a thing may end on another
        mask = cv2.drawContours(np.zeros_like(solid), rims, -1, 1, cv2.FILLED)
        outline = [rim.ravel().tolist() for rim in rims]
        ys, xs = np.nonzero(mask)
        box = [int(v) for v in (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)]
        instances.append({"id": number, "category": name, "category_id": category, "bbox": box, "iscrowd": 0,
                          "area": int(mask.sum()), "segmentation": outline})  # fmt: skip
    seen = (JOINTS - EYE) / (JOINTS - EYE)[:, 2:] * FOCAL
    joints = np.stack([(seen[:, 0] + 1) / 2 * SIZE, (1 - seen[:, 1]) / 2 * SIZE, np.full(17, 2)], -1)
    person = instances[0] | {"keypoints": np.rint(joints).astype(int).ravel().tolist(), "num_keypoints": 17}
    return {"instances": instances, "keypoints": [person], "control_files": files}


def lines(folder: Path) -> dict[str, dict[str, Any]]:
    """What each task's document has beside its picture."""
    truth, whole = record(folder), {"text": CAPTION, "image": "look.png"}
    after = np.asarray(open_picture((folder / "look.png").read_bytes())).copy()
    shirt = (after[..., 0] > 1.6 * after[..., 1]) & (after[..., 0] > 1.6 * after[..., 2])
    after[shirt] = after[shirt][:, [1, 0, 2]]
    PIL.Image.fromarray(after).save(folder / "after.png")
    written = after.copy()
    cv2.putText(written, "PLAY", (60, 60), cv2.FONT_HERSHEY_DUPLEX, 2, (255, 255, 255), 4, cv2.LINE_AA)
    PIL.Image.fromarray(written).save(folder / "written.png")
    edit = {"parts": [{"image": "look.png"}, {"text": "make the shirt green"}, {"image": "after.png"}]}
    write = {"image": "written.png", "ocr_content": 'with the word "PLAY" in white over a playing child'}
    told = "A child stands on grass and lifts a yellow ball with one hand. Beside it, a blue box lies on the ground."
    asked = {"image": "look.png", "question": "What colour is the ball?", "multiple_choice_answer": "yellow"}
    spoken = (
        "In this picture there is a child who holds a ball, and on the right there is a box. On top there is the sky."
    )
    science = {"image": "look.png", "question": "Which of these floats on water?", "choices": ["the ball", "a stone"],
               "answer": 0, "hint": "", "solution": "A ball is full of air, so it is lighter than water."}  # fmt: skip
    turns = [["is it outside?", "yes, on grass"], ["what is in the hand?", "a ball"]]
    talk = {"image": "look.png", "caption": "a child plays", "dialog": turns}
    other: dict[str, dict[str, Any]] = {"edit": edit, "write": write, "scienceqa": science, "visdial": talk}
    other |= {"image_paragraph": whole | {"text": told}, "localized_narratives": whole | {"text": spoken}}
    other |= {"vqa2": asked, "vizwiz": asked | {"question": "what is this box?", "multiple_choice_answer": "suitcase"}}
    other |= {"okvqa": asked | {"question": "Which sport is it from?", "multiple_choice_answer": "volleyball"}}
    return {name: other.get(name, whole | truth) | {"id": name} for name in TASKS}


def main(out: Path) -> None:
    """Draw the sheet."""
    view, rows = View(SIZE), dict[str, list[Panel]]()
    with tempfile.TemporaryDirectory() as folder:
        for name, line in lines(Path(folder)).items():
            (Path(folder) / "a.jsonl").write_text(json.dumps(line) + "\n")
            reader, task = JsonLines(Path(folder) / "a.jsonl"), find_task(name)
            document = next(iter(reader.read(reader.units()[0])))
            assert not isinstance(document, Unreadable), document
            example = serve(task, document, reader, view=view, rng=np.random.default_rng(0))[0]
            first, *rest = panels(example, task, view)
            titled = replace(first, lines=(Line(name, "label"), *first.lines[1:]))
            rows.setdefault(task.output, []).extend((titled, *rest))
    titles = {"image": "A picture is made", "text": "A text is made"}
    sections = [Section(title, tuple(rows[kind])) for kind, title in titles.items()]
    drawn = sheet(sections, "Every instruction task: what is given, and what is to be made", columns=6, side=168)
    out.write_bytes(png(drawn))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

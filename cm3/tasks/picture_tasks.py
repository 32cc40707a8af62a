"""Tasks that give a picture: editing, writing, boxes, seven kinds of structure, and a segmentation of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import PIL.Image

from cm3.document import Document, Image
from cm3.errors import DataError, RequestError
from cm3.tasks import control
from cm3.tasks.boxes import Objects, locations, place_of, read_objects, segmentations
from cm3.tasks.task import ANY, Find, Task, View, control_files, needed, picture_of, things, words
from cm3.tasks.template import Template

BOXES = 10
"""Most things of a picture that are named with their place, the largest first. Ours; the paper gives no number."""
CAPTIONED = ("coco", "flickr30k", "localized_narratives", *ANY)
"""Readers whose documents are a caption and its picture."""
_FROM = "Make high quality image from {} <break> {{{}}} <break> {{caption}} <break> {{image}}"


def _edit(document: Document, view: View) -> list[dict[str, str | Image]]:
    if len(document.images) != 2:
        has = len(document.images)
        raise DataError(f"document {document.id!r}: has {has} images; task 'edit' needs one before and one after")
    before, after = document.images
    sizes = [control.seen_size(image.pixels) for image in document.images]
    if sizes[0] != sizes[1]:
        raise DataError(f"document {document.id!r}: before is {sizes[0]} pixels, after {sizes[1]}; must be of one size")
    text = words(document.meta.get("edit") or document.text, document, "edit")
    return [{"image1": before, "instruction": text, "image2": after}]


def _write(document: Document, view: View) -> list[dict[str, str | Image]]:
    text = words(needed(document, "ocr_content", str, "write"), document, "write")
    return [{"ocr_content": text, "image": picture_of(document, "write")}]


def _boxes(document: Document, view: View) -> list[dict[str, str | Image]]:
    image = picture_of(document, "boxes")
    seen = []
    for thing in things(document, "instances", "boxes"):
        if thing.get("iscrowd"):
            continue
        name = thing.get("category")
        if not isinstance(name, str) or not name.strip():
            raise DataError(
                f"document {document.id!r}: annotation {thing.get('id')!r}: 'category' is {name!r:.40}, must be the "
                "name of what is there; add it"
            )
        try:
            place = place_of(thing.get("bbox"), image.pixels, view.fit)
        except DataError as error:
            raise DataError(f"document {document.id!r}: annotation {thing.get('id')!r}: {error}") from error
        if place is not None:
            seen.append((name.strip(), place))
    seen.sort(key=lambda one: -(one[1][2] - one[1][0] + 1) * (one[1][3] - one[1][1] + 1))
    if not seen:
        return []
    return [{"caption": words(document.text, document, "boxes"), "image": image, **_said(seen[:BOXES])}]


def _said(objects: Objects) -> dict[str, str]:
    return {"segmentations": segmentations(objects), "locations": locations(objects)}


def _asked_boxes(request: dict[str, Any]) -> dict[str, Any]:
    """Take `objects`, [(name, (x1, y1, x2, y2)), ...] or as a text, in the words of both templates."""
    given = [name for name in ("objects", "segmentations", "locations") if name in request]
    if given:
        objects = [request.pop(name) for name in given][0]
        request |= _said(read_objects(objects) if isinstance(objects, str) else _checked(objects, given[0]))
    return request


def _checked(objects: Any, name: str) -> Objects:
    rule = f"task 'boxes': {name!r} must be pairs of a name and a box x1, y1, x2, y2"
    if not isinstance(objects, list | tuple):
        raise RequestError(f"{rule}, got {objects!r:.60}")
    for one in objects:
        pair = isinstance(one, list | tuple) and len(one) == 2
        if not pair or not isinstance(one[0], str) or not one[0].strip() or not isinstance(one[1], list | tuple):
            raise RequestError(f"{rule}, got {one!r:.60} among them")
    return objects


def drawn(kind: str, image: Image, document: Document, view: View) -> Image | None:
    """Return the control of a kind for a document's picture: computed, or read; None where there is nothing to draw.

    Raises `DataError` for annotations that are missing or damaged and for a file that is missing or of another size.
    """
    size, fit = view
    if kind == "canny":
        return Image(control.canny(image.pixels, size, fit))
    if kind == "scribble":
        return Image(control.scribble(image.pixels, size, fit))
    if kind == "segmentation":
        return _seen(control.segmentation(image.pixels, things(document, "instances", kind), size, fit))
    if kind == "pose":
        return _seen(control.pose(image.pixels, things(document, "keypoints", kind), size, fit))
    files = control_files(document)
    if kind not in files:
        raise DataError(
            f"document {document.id!r}: 'control_files' names no {kind} image; docs/tasks.md says how to make it"
        )
    if not isinstance(path := files[kind], Path):  # a dataset's word alone opens no file
        raise DataError(
            f"document {document.id!r}: 'control_files' names {path!r:.80} by a text, which a reader has to find in "
            "its dataset; take examples by `from_reader`, or give a pathlib.Path"
        )
    return control.read_control(path, image.pixels)


def _seen(map: PIL.Image.Image) -> Image | None:
    """Return a map, or None where it is black: nothing was annotated in what the crop leaves."""
    return Image(map) if map.getbbox() else None


def _guided(kind: str, name: str) -> Find:
    def find(document: Document, view: View) -> list[dict[str, str | Image]]:
        image = picture_of(document, kind)
        caption = words(document.text, document, kind)
        guide = drawn(kind, image, document, view)
        return [] if guide is None else [{name: guide, "caption": caption, "image": image}]

    return find


def _segment(document: Document, view: View) -> list[dict[str, str | Image]]:
    image = picture_of(document, "segment")
    seg = drawn("segmentation", image, document, view)
    return [] if seg is None else [{"image": image, "seg": seg}]


def _structure(
    kind: str, name: str, features: str, number: int, *, needs: tuple[str, ...] = (), more: tuple[Template, ...] = ()
) -> Task:
    feeds = ("coco", *ANY) if needs in (("instances",), ("keypoints",)) else CAPTIONED
    templates = (Template(_FROM.format(features, name)), *more)
    return Task(kind, templates, ("image",), _guided(kind, name), feeds, number, needs)


TASKS = (
    Task(
        "edit",
        (
            Template(
                "Edit first image following the instruction <break> {image1} <break> {instruction} <break> {image2}"
            ),
            Template(
                "Edit the image following the text instruction <break> {image1} <break> {instruction} <break> {image2}",
                "section 4.1",
            ),
        ),
        ("image2",),
        _edit,
        ("instructpix2pix", *ANY),
        127_000,
    ),
    Task("write", (Template('draw "{ocr_content}" <break> {image}'),), ("image",), _write, ANY, 300_000),
    Task(
        "boxes",
        (
            Template("Generate high quality image of {caption} with segmentations {segmentations} <break> {image}"),
            Template('Generate high quality image of "{caption}" with {locations} <break> {image}', "figure 15"),
        ),
        ("image",),
        _boxes,
        ("coco", *ANY),
        3_000_000,
        ("instances",),
        _asked_boxes,
    ),
    _structure("canny", "edge", "canny edge features", 1_000_000),
    _structure("segmentation", "seg", "a segmentation map", 1_000_000, needs=("instances",)),
    _structure("hed", "hed", "hed features", 1_000_000, needs=("hed",)),
    _structure(
        "pose",
        "pose",
        "openpose features",
        142_000,
        needs=("keypoints",),
        more=(Template(_FROM.format("pose features and text description", "pose"), "figure 5"),),
    ),
    _structure("depth", "depth", "depth features", 1_000_000, needs=("depth",)),
    _structure("normal", "normal", "3D norm features", 1_000_000, needs=("normal",)),
    _structure(
        "scribble",
        "scribble",
        "children's scribbles",
        500_000,
        more=(
            Template(_FROM.format("children's scribbles and text description", "scribble"), "figure 5"),
            Template(
                "Create a high-quality image from children's scribble and text description <break> {scribble} <break> "
                "{caption} <break> {image}",
                "section 4.1",
            ),
        ),
    ),
    Task(
        "segment",
        (Template("Make a segmentation map of the image <break> {image} <break> {seg}", "ours"),),
        ("seg",),
        _segment,
        ("coco", *ANY),
        needs=("instances",),
    ),
)
"""In the order of Table 5; `segment` is ours."""

"""`cm3 generate`, `infill`, `edit`, `segment` and `describe`: words and pictures -> pictures and words.

check what was given -> open the model -> make -> write pictures with what they were made from -> a sheet, if asked
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from cm3.cli.attribution import document_panel, thought_line, told
from cm3.cli.guides import blank, read_boxes, read_control
from cm3.cli.options import (
    HERE,
    OWN,
    SILENT,
    Flag,
    Guided,
    ModelVerb,
    Retrieval,
    Sampling,
    at_least,
    progress,
    stopped,
)
from cm3.cli.outputs import check_folder, check_sheet, picture_note, settings_note, write_all, write_sheet
from cm3.document import Box, Document, Gap, Image, Part, Text
from cm3.errors import RequestError
from cm3.train.signals import Terminated

if TYPE_CHECKING:
    import PIL.Image

    from cm3.cli.sheet import Panel
    from cm3.generate import CM3Leon, Generation

GAP, IMAGE = "<gap>", "<image>"
TOGETHER = 64
"""Pictures that are described side by side."""


@dataclass(frozen=True, kw_only=True)
class Drawing(ModelVerb):
    """A verb that makes pictures, and perhaps a sheet of them."""

    out: Annotated[Path, arg(metavar="DIR")] = Path("out")
    """Folder for the pictures."""
    sheet: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write a contact sheet, a PNG: each picture, beside what it was made from."""
    sampling: Annotated[Guided, HERE] = Guided()

    def check(self) -> None:
        """Raise `RequestError` where pictures or sheet cannot be written."""
        check_folder(self.out)
        if self.sheet is not None:
            check_sheet(self.sheet)

    def draw_sheet(
        self, title: str, section: str, panels: Sequence[Panel], command: str, columns: int = 3
    ) -> dict[str, str]:
        """Write the sheet, if it is asked for; returns its name for --json."""
        from cm3.cli.sheet import Section, sheet

        if self.sheet is None:
            return {}
        about = f"cm3 {command} --model {self.model} --seed {self.sampling.seed}"
        write_sheet(self.sheet, sheet([Section(section, tuple(panels))], title, about, columns=columns))
        print(self.sheet)
        return {"sheet": str(self.sheet)}


@dataclass(frozen=True, kw_only=True)
class Many:
    """A file of prompts, in the place of one."""

    prompts: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Draw what each line of a file of JSON lines asks for (docs/batch.md), and write DIR/results.jsonl. Other options
    are for lines that say nothing else; line i has seed N + i - 1. The same command goes on after a kill."""
    unit: Annotated[int, arg(metavar="N")] = 256
    """With --prompts: lines that are drawn in one run of the engine, and most that a kill loses."""
    cluster: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="")] = None
    """With --prompts: work on a Ray cluster: ray://HOST:10001, on a node of it HOST:6379, or local for one of this
    machine. It must see all paths alike."""


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Pictures in a prompt, and words in the answer."""

    image: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FILE", help_behavior_hint="")] = ()
    """A picture to read, before the words, or where <image> stands in the prompt. Give it once for each."""
    interleaved: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Answer in words and at most N pictures, in the order that the model writes them, and write a folder for each
    answer: index.html, answer.json and the pictures. --max-tokens bounds the words."""

    def document(self, prompt: str) -> Document:
        """Return a prompt as a document, with the gap that it asks to be filled. Raises `RequestError` where the
        pictures are not as many as their places, `DataError` for a file that is no picture."""
        pieces, pictures = prompt.split(IMAGE), [Image.open(path) for path in self.image]
        places = len(pieces) - 1
        if self.image and not places:
            pieces = [*[""] * len(pictures), prompt]
        elif self.image and places != len(pictures):
            raise RequestError(
                f"--image: {len(pictures)} given, and {IMAGE} stands {places} times in the prompt; give one for "
                f"each, or leave {IMAGE} out"
            )
        parts: list[Part] = [Text(prompt)]
        if pictures:
            both: list[list[Part]] = [[Text(piece), *pictures[i : i + 1]] for i, piece in enumerate(pieces)]
            parts = [part for some in both for part in some if part != Text("")]
        return Document((*parts, Gap("image" if self.interleaved is None else "interleaved")))


@dataclass(frozen=True, kw_only=True)
class Generate(Drawing):
    """Draw pictures from words, and from documents of a memory bank that are looked up for them.

    With --retrieve, each picture is followed by the documents that it drew on, which are also inside the PNG. --boxes
    and --control need a model that was tuned for them. A file of boxes is JSON, a list of [name, [x1, y1, x2, y2]]:
    first and last column and row, all counted in, in 0..255 from the top left, whatever the size of the picture.
    A control image must have the size of the model's pictures; hed, depth and normal may have any.

    A line of --prompts is {"prompt": "a red circle"}, perhaps with "id", "n", "seed", "guidance" and other settings;
    its prompt may be a list of words, {"gap": "text"} and {"image": FILE, "box": [X0, Y0, X1, Y1]}. Or it names a task:
    {"task": "edit", "request": {"image1": FILE, "instruction": "paint it green"}}. One that cannot be drawn is told,
    the others go on, and the exit code is 2.

    examples:
      cm3 generate "a large lion on a sky ground"
      cm3 generate "a small owl at the top left and a small cactus below it, on a sand ground" --n 4 --seed 1
      cm3 generate "two objects on a sand ground: ..." --contrast kmax --k 5 --alpha 0.1 --out pictures --json
      cm3 generate "a lion on a mint ground" --parallel 16
      cm3 generate "a picture of a blosk" --retrieve 2 --memory DIR --sheet sheet.png
      cm3 generate "a lion and a blue star, on a sky ground" --boxes boxes.json --sheet sheet.png
      cm3 generate "a lion on a mint ground" --boxes '[["lion", [8, 8, 119, 118]]]'
      cm3 generate "a lion on a sky ground" --control canny=edges.png
      cm3 generate "the same at night" --image day.png --model DIR
      cm3 generate "How is bread baked? Show each step." --interleaved 3 --max-tokens 400 --model DIR
      cm3 generate "<image> and <image>: tell a story" --image a.png --image b.png --interleaved 2 --model DIR
      cm3 generate --prompts prompts.jsonl --out pictures --guidance 3 --json
      torchrun --nproc-per-node 8 -m cm3 generate --prompts prompts.jsonl --out /shared/pictures --device cuda
      torchrun --nproc-per-node 2 -m cm3 generate "a red circle" --tp 2 --model DIR --device cuda
    """

    prompt: Annotated[Positional[str | None], arg(metavar="PROMPT", help_behavior_hint="")] = None
    """Words of the picture, in quotes."""
    n: Annotated[int, arg(metavar="N")] = 1
    """How many pictures."""
    boxes: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Where things are to be: a file of boxes, or such JSON itself. Not pixels: 0..255 of the picture's side, the last
    row and column counted in."""
    control: Annotated[str | None, arg(metavar="KIND=FILE", help_behavior_hint="")] = None
    """A picture to follow: canny, segmentation, hed, pose, depth, normal or scribble, and its file."""
    tp: Annotated[int, arg(metavar="N")] = 1
    """Of the processes that torchrun started, N share one model, each with a part of every matrix on its own GPU."""
    mixed: Annotated[Mixed, HERE] = Mixed()
    retrieval: Annotated[Retrieval, HERE] = Retrieval()
    many: Annotated[Many, HERE] = Many()

    def run(self) -> dict[str, Any]:
        """Draw, then write every picture with its prompt, seed and what it drew on inside the PNG."""
        pictures = 1 if self.mixed.interleaved is None else self.mixed.interleaved
        at_least(1, n=self.n, unit=self.many.unit, tp=self.tp, interleaved=pictures)
        if self.many.prompts is not None:
            return self._draw_many(self.many.prompts)
        if self.prompt is None:
            raise RequestError("nothing to draw; give a prompt in quotes, or --prompts FILE")
        if self.many.cluster is not None:
            raise RequestError(f"--cluster {self.many.cluster}: is for --prompts; leave it out")
        return self._draw(self.prompt)

    def _draw_many(self, prompts: Path) -> dict[str, Any]:
        """Draw a file of prompts; what is there already stays."""
        alone: dict[str, object] = {
            "PROMPT": self.prompt,
            "--boxes": self.boxes,
            "--control": self.control,
            "--sheet": self.sheet,
            "--image": self.mixed.image or None,
            "--interleaved": self.mixed.interleaved,
        }
        for name, given in alone.items():
            if given is not None:
                raise RequestError(f"{name} and --prompts: say what to draw in the lines of the file (docs/batch.md)")
        settings = {"n": self.n, **self.sampling.arguments(), **self.retrieval.arguments()}
        try:
            return self._drawn(prompts, settings)
        except Terminated:  # raised by `main`, once
            return {"out": str(self.out), **stopped(self.out)}

    def _drawn(self, prompts: Path, settings: dict[str, Any]) -> dict[str, Any]:
        from cm3.cli.batch_share import draw_share

        with progress("drawing", unit="line") as update:
            result = draw_share(
                self, prompts, self.out, settings, self.many.unit, self.retrieval, update,
                lambda error: self.told([error]), tp=self.tp, cluster=self.many.cluster,
            )  # fmt: skip
        if "silent" in (result or {}):
            return SILENT
        asked = {"prompts": str(prompts), "out": str(self.out)}
        if result is None:
            print(f"{self.out}: the share of this process is done; the last one writes results.jsonl")
            return asked | {"results": None}
        counts = f"{result['lines']} lines, {result['pictures']} pictures, {result['texts']} texts"
        print(f"{result['results']}: {counts}; {result['failed']} lines failed, {result['warned']} have warnings")
        return asked | result

    def _draw(self, prompt: str) -> dict[str, Any]:
        check_prompt(prompt)
        self._check_processes()
        self.check()
        task, request, guide = self._asked(prompt)
        document = self.mixed.document(prompt)
        settings: Any = self.sampling.arguments() | self.retrieval.arguments()
        notes = {"prompt": prompt, "model": self.model, **self._given(settings, guide, document)}
        model = self.open_model(self.retrieval, task, self.tp)
        with progress("drawing") as update:
            settings["progress"] = update if model.leads else None
            if task is None:
                settings |= {} if self.mixed.interleaved is None else {"pictures": self.mixed.interleaved}
                made = model.generate(document, n=self.n, **settings)
            else:
                made = model.ask(task, request, self.n, **settings).generation
        if model.mesh is not None:
            model.mesh.close()
        if not model.leads:
            return SILENT
        drew_on = made.attribution
        more = {"attribution": json.dumps(drew_on)} if drew_on else {}
        result: dict[str, Any] = {"prompt": prompt, "seed": self.sampling.seed}
        if self.mixed.interleaved is None:
            result["files"] = write_all(self.out, [prompt], self.sampling.seed, made.images, notes, **more)
        else:
            result["answers"] = self._write_answers(made, document, notes, more)
        _print_drawn(result.get("files") or [answer["page"] for answer in result["answers"]], made)
        result |= {"scores": list(made.scores)} | ({} if task is None else {"task": task}) | _thoughts(made)
        result["warnings"] = self.told(made.warnings)
        result |= {"attribution": drew_on, "left_out": [r.document.id for r in made.left_out]}
        # An answer of words and pictures has its page, and may have no picture.
        return result | ({} if self.mixed.interleaved is not None else self._sheet(prompt, made, guide))

    def _write_answers(
        self, made: Generation, document: Document, notes: Mapping[str, str], more: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """Write each answer of words and pictures as a folder."""
        from cm3.cli.interleaved import write_answer

        said, seed = notes["prompt"], self.sampling.seed
        answers = enumerate(made.filled)
        return [write_answer(self.out, [said], seed, i, document.parts, one, notes, **more) for i, one in answers]

    def _check_processes(self) -> None:
        """Raise `RequestError` where more processes would draw the same."""
        from cm3.parallel.mesh import environment

        if (processes := environment()[1]) not in (1, self.tp):
            raise RequestError(
                f"--tp {self.tp}: torchrun started {processes} processes for one prompt; give --tp {processes}, that "
                "they share the model, or --prompts FILE, that they share its lines"
            )

    def _asked(self, prompt: str) -> tuple[str | None, dict[str, Any], PIL.Image.Image | None]:
        """Return the task that --boxes or --control asks for with its fields, and what is to be followed as a
        picture."""
        if self.boxes is not None and self.control is not None:
            raise RequestError("--boxes and --control: no task takes both; give one of them")
        mixed = self.mixed.image or self.mixed.interleaved is not None
        if mixed and (self.boxes is not None or self.control is not None):
            raise RequestError("--image, --interleaved: are not for --boxes and --control, which have their own form")
        if self.sheet is not None and self.mixed.interleaved is not None:
            raise RequestError(
                "--sheet and --interleaved: an answer of words and pictures has a page; leave --sheet out"
            )
        if self.boxes is not None:
            objects = read_boxes(self.boxes)
            return "boxes", {"caption": prompt, "objects": objects}, blank(objects)
        if self.control is not None:
            task, picture = read_control(self.control)
            return task.name, {"caption": prompt, str(task.control): picture}, picture.pixels
        return None, {}, None

    def _given(self, settings: Mapping[str, Any], guide: PIL.Image.Image | None, document: Document) -> dict[str, str]:
        """Return notes of all that was given beside the prompt."""
        retrieved = {"retrieve": self.retrieval.retrieve or None, "memory": self.retrieval.memory}
        kind = (self.control or "").partition("=")[0]
        notes = settings_note({**settings, **retrieved, "control": kind or None, "pictures": self.mixed.interleaved})
        shown = [
            picture_note(picture)["given"] for picture in ([guide] if guide else [p.pixels for p in document.images])
        ]
        return notes | ({"given": " ".join(shown)} if shown else {})

    def _sheet(self, prompt: str, made: Generation, guide: PIL.Image.Image | None) -> dict[str, str]:
        given = [] if guide is None else [_panel(guide, "to be followed")]
        documents = [document_panel(r) for r in made.retrieved]
        drawn = [_panel(picture, f"drawn, number {i}") for i, picture in enumerate(made.images)]
        about = f"generate --retrieve {self.retrieval.retrieve}"
        if not documents:
            return self.draw_sheet("Drawn", prompt, [*given, *drawn], about)
        rows = [panel for one in drawn for panel in (one, *given, *documents)]
        return self.draw_sheet("Drawn, and what it drew on", prompt, rows, about, 1 + len(given) + len(documents))


@dataclass(frozen=True, kw_only=True)
class Infill(ModelVerb):
    """Fill a hole: a box of a picture, told by a prompt, or <gap> in a sentence, with or without a picture.

    examples:
      cm3 infill --image in.png --box 0,0,64,64 "a large yellow star at the top left on a grey background"
      cm3 infill --text "a large <gap> at the top left, on a sky ground"
      cm3 infill --text "a large <gap> at the top left on a <gap> background" --image in.png --json
    """

    prompt: Annotated[Positional[str | None], arg(metavar="PROMPT", help_behavior_hint="(with --box)")] = None
    """Caption of the whole picture when the box is filled."""
    image: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """The picture."""
    box: Annotated[str | None, arg(metavar="X0,Y0,X1,Y1", help_behavior_hint="")] = None
    """The box to fill, in pixels of the picture given (not 0..255 as --boxes of cm3 generate), from the top left; X1,
    Y1 exclusive."""
    text: Annotated[str | None, arg(metavar="SENTENCE", help_behavior_hint="")] = None
    """The sentence, with <gap> where words are missing."""
    n: Annotated[int, arg(metavar="N")] = 1
    """How many answers."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("out")
    """Folder for the filled pictures."""
    sampling: Annotated[Guided, HERE] = Guided()

    def run(self) -> dict[str, Any]:
        """Fill, then write pictures or print sentences."""
        at_least(1, n=self.n)
        if self.text is not None:
            return self._fill_text(self.text)
        if self.image is None or self.box is None:
            raise RequestError(
                'nothing to fill; give --image FILE --box X0,Y0,X1,Y1 "prompt", or --text "a <gap> circle"'
            )
        return self._fill_region(self.image, parse_box(self.box))

    def _fill_region(self, path: str, box: Box) -> dict[str, Any]:
        prompt = self.prompt or ""
        check_prompt(prompt)
        check_folder(self.out)
        holed = Image.open(path).with_gap(box)
        settings = self.sampling.arguments()
        notes = {"prompt": prompt, "box": ",".join(map(str, box)), "model": self.model}
        notes |= picture_note(holed.pixels) | settings_note(settings)
        model = self.open_model()
        with progress("drawing") as update:
            made = model.generate([prompt, holed], n=self.n, progress=update, **settings)
        files = write_all(self.out, [Path(path).stem, "filled"], self.sampling.seed, made.images, notes, image=path)
        _print_drawn(files, made)
        told = self.told(made.warnings)
        result = {"prompt": prompt, "box": list(box), "seed": self.sampling.seed, "files": files, "warnings": told}
        return result | _thoughts(made)

    def _fill_text(self, text: str) -> dict[str, Any]:
        if self.prompt is not None or self.box is not None:
            raise RequestError("--text fills words, --box a picture; give one of them (--image may go with --text)")
        if GAP not in text:
            raise RequestError(f"--text {text!r}: has no {GAP}; write {GAP} where words are missing")
        parts: list[Any] = []
        for i, piece in enumerate(re.split(re.escape(GAP), text)):
            parts += [Gap()] if i else []
            parts += [piece] if piece else []
        if self.image is not None:
            parts.append(Image.open(self.image))
        model = self.open_model()
        with progress("writing") as update:
            made = model.generate(parts, n=self.n, progress=update, **self.sampling.arguments())
        print("\n".join(made.texts))
        told = self.told(made.warnings)
        return {"text": text, "seed": self.sampling.seed, "texts": list(made.texts), "warnings": told}


@dataclass(frozen=True, kw_only=True)
class Editing(Guided):
    """Guidance of edits: the words weighed against no words, the picture against no picture."""

    image_guidance: Annotated[float | None, OWN] = None
    """How far to hold on to the picture; --guidance is how far to follow the words. 1 and 1 is no guidance."""


@dataclass(frozen=True, kw_only=True)
class Edit(Drawing):
    """Change a picture as an instruction says, and leave the rest as it is.

    Works with a model that was tuned for it.

    examples:
      cm3 edit picture.png "replace the lion with a large tiger"
      cm3 edit picture.png "remove the star" --n 4 --seed 1 --sheet sheet.png
      cm3 edit photo.jpg "make it snow" --model DIR --guidance 7.5 --image-guidance 1.5 --json
    """

    image: Annotated[Positional[str], arg(metavar="IMAGE")]
    """The picture, of any format that Pillow reads. Its centred square is what the model sees."""
    instruction: Annotated[Positional[str], arg(metavar="INSTRUCTION")]
    """The change to make, in quotes."""
    n: Annotated[int, arg(metavar="N")] = 1
    """How many pictures."""
    sampling: Annotated[Editing, HERE] = Editing()

    def run(self) -> dict[str, Any]:
        """Edit, then write every picture with the instruction and seed inside the PNG."""
        if not self.instruction.strip():
            raise RequestError("the instruction is empty; say in words what to change")
        at_least(1, n=self.n)
        self.check()
        picture = Image.open(self.image)
        settings = self.sampling.arguments()
        notes = {"instruction": self.instruction, "model": self.model}
        notes |= picture_note(picture.pixels) | settings_note(settings)
        model = self.open_model(task="edit")
        with progress("editing") as update:
            made = model.edit(picture, self.instruction, self.n, progress=update, **settings)
        words = [Path(self.image).stem, self.instruction]
        files = write_all(self.out, words, self.sampling.seed, made.images, notes, image=self.image)
        _print_drawn(files, made.generation)
        result = {"image": self.image, "instruction": self.instruction, "seed": self.sampling.seed, "files": files}
        result |= {"scores": list(made.generation.scores), "warnings": self.told(made.warnings)}
        result |= _thoughts(made.generation)
        panels = [_panel(picture, f"edited, number {i}") for i, picture in enumerate(made.images)]
        panels = [_panel(_seen(model, picture), "given"), *panels]
        return result | self.draw_sheet("Edited", self.instruction, panels, "edit")


@dataclass(frozen=True, kw_only=True)
class Segment(Drawing):
    """Make segmentation maps of pictures: a picture each, in the colours that the model was tuned with.

    Works with a model that was tuned for it.

    examples:
      cm3 segment picture.png
      cm3 segment out/*.png --out maps --sheet sheet.png --json
    """

    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE")]
    """Picture files, of any format that Pillow reads. The centred square of each is what the model sees."""

    def run(self) -> dict[str, Any]:
        """Make a map of each picture, and write it."""
        self.check()
        pictures = _opened(self.images)
        settings = self.sampling.arguments()
        model = self.open_model(task="segment")
        results: list[dict[str, Any]] = []
        panels: list[Panel] = []
        for path, picture in zip(self.images, pictures, strict=True):
            with progress("segmenting") as update:
                reply = model.segment(picture, progress=update, **settings)
            made = reply.image
            words = [Path(path).stem, "segmented"]
            notes = {"map": "segment", "model": self.model} | picture_note(picture.pixels) | settings_note(settings)
            (file,) = write_all(self.out, words, self.sampling.seed, [made], notes, image=path)
            print(file, flush=True)
            results.append({"image": path, "file": file, "warnings": self.told(reply.warnings, path)})
            panels += [_panel(_seen(model, picture), Path(path).name), _panel(made, "its map")]
        result = dict(results[0]) if len(results) == 1 else {"results": results}
        return result | self.draw_sheet("Segmentation maps", "Segmented", panels, "segment", columns=4)


@dataclass(frozen=True, kw_only=True)
class Describe(ModelVerb):
    """Say what pictures show: in a sentence, in detail, or in answer to a question.

    Details and answers come from a model that was tuned for them.

    examples:
      cm3 describe picture.png
      cm3 describe out/*.png --json
      cm3 describe picture.png --question "what is at the top left?"
      cm3 describe picture.png --detail
    """

    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE")]
    """Picture files, of any format that Pillow reads."""
    question: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """Answer this about each picture, instead."""
    detail: Annotated[Flag, arg(help="Describe at length.")] = False
    sampling: Annotated[Sampling, HERE] = Sampling()

    def run(self) -> dict[str, Any]:
        """Describe each picture; a line each."""
        if self.question is not None and self.detail:
            raise RequestError("--question and --detail: ask for one of them")
        if self.question is not None and not self.question.strip():
            raise RequestError("--question: is empty; say what you want to know")
        pictures = _opened(self.images)
        from cm3.generate.tasks import CAPTION, DETAIL, QUESTION

        task = QUESTION if self.question is not None else DETAIL if self.detail else None
        model = self.open_model(task=task)
        asked = {} if self.question is None else {"question": self.question}
        settings: Any = self.sampling.arguments()
        seed = settings.pop("seed")
        results: list[dict[str, Any]] = []
        for start in range(0, len(pictures), TOGETHER):
            requests = [{"image": picture, **asked} for picture in pictures[start : start + TOGETHER]]
            with progress("reading") as update:
                settings["progress"] = update
                replies = model.ask_many(task or CAPTION, requests, seeds=[seed] * len(requests), **settings)
            for path, reply in zip(self.images[start:], replies, strict=False):
                print(reply.text if len(pictures) == 1 else f"{path}: {reply.text}", flush=True)
                result = {"image": path, "text": reply.text, "warnings": self.told(reply.warnings, path)}
                results.append(result | _thoughts(reply.generation))
        return asked | (results[0] if len(results) == 1 else {"results": results})


def _print_drawn(names: Sequence[str], made: Generation) -> None:
    """Print the name of each picture, what was thought before it, and what it drew on."""
    drew = [*told(made.retrieved), *told(made.left_out, "had no room for")]
    for name, thought in zip(names, made.thoughts, strict=True):
        print("\n".join([name, *thought_line(thought), *drew]))


def _thoughts(made: Generation) -> dict[str, list[str]]:
    """Return what was thought first, for --json, where anything was."""
    return {"thoughts": list(made.thoughts)} if any(made.thoughts) else {}


def check_prompt(prompt: str) -> None:
    """Raise `RequestError` for a prompt without a word."""
    if not prompt.strip():
        raise RequestError("the prompt is empty; say in words what to draw")


def parse_box(text: str) -> Box:
    """Read four integers with commas. Raises `RequestError` for anything else; whether they fit is the picture's
    matter."""
    if not re.fullmatch(r"\s*-?\d+\s*(,\s*-?\d+\s*){3}", text):
        raise RequestError(f"--box {text!r}: takes four whole numbers X0,Y0,X1,Y1, such as 0,0,64,64")
    x0, y0, x1, y1 = (int(v) for v in text.split(","))
    return x0, y0, x1, y1


def _opened(paths: Sequence[str]) -> list[Image]:
    """Open all pictures before the work starts. Raises `RequestError` for none, `DataError` for what is no picture."""
    if not paths:
        raise RequestError("no picture given; name at least one file")
    return [Image.open(path) for path in paths]


def _seen(model: CM3Leon, picture: Image) -> PIL.Image.Image:
    """Return a picture as the model sees it: its centred square, at the model's size."""
    return model.codec.image.preprocess(picture.pixels) if model.codec.image else picture.pixels


def _panel(picture: PIL.Image.Image, label: str) -> Panel:
    from cm3.cli.sheet import Line, Panel

    return Panel(picture, (Line(label, "label"),))

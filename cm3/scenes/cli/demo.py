"""`cm3 demo`: what a model can do, in under a minute, checked by measuring pixels. That of scenes is here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from cm3.cli.options import HERE, Guided, ModelVerb, progress
from cm3.cli.outputs import check_folder, check_sheet, write_sheet
from cm3.document import Gap, Image
from cm3.files import write
from cm3.scenes.cli.demo_tasks import brief, tally, task_sections

if TYPE_CHECKING:
    import PIL.Image

    from cm3.cli.sheet import Line, Section
    from cm3.generate import CM3Leon

PROMPTS = (
    "a large red circle at the top left on a grey background",
    "a small white star below a large blue square on a mint ground",
    "on a pink background, a large yellow triangle at the bottom right, with a small black circle to its left",
    "three objects on a sand ground: a large green circle at the top right, a small purple star at the bottom left and"
    " a large blue square at the bottom right",
    # An orange circle is in none of the training pictures.
    "a large orange circle at the bottom right and a small red star at the top left on a sky background",
    "on a grey ground, four objects: a large red square at the top left, a small blue circle at the top right,"
    " a large yellow star at the bottom left and a small black triangle at the bottom right",
)
SENTENCE = ("a large ", " at the top left and a small green circle at the bottom right on a pink background")
MISSING = "blue star"
SCENE = "a large red circle at the top left and a small yellow square at the bottom right on a mint background"
EMBLEMS = 2
COLUMNS, SIDE = 6, 160
"""Of the sheet: pictures side by side, and pixels of each."""
WANTED = "a large purple star at the top left and a small yellow square at the bottom right on a mint background"


@dataclass(frozen=True, kw_only=True)
class Demo(ModelVerb):
    """Draw six prompts, describe what was drawn, fill holes in both, draw from a memory bank, and follow instructions.

    Instructions are edits, boxes, questions and whatever else the model was tuned for. Each picture is read back by
    measuring its pixels (cm3.scenes.verify), so the marks are not the model's own opinion. Writes DIR/index.html, which
    has all of it, and DIR/sheet.png, a part that fits a screen or two. A model is asked for what its own world has,
    stickers or scenes of coloured shapes.

    examples:
      cm3 demo
      cm3 demo --model scenes
      cm3 demo --seed 3 --out /tmp/demo --json
    """

    out: Annotated[Path, arg(metavar="DIR")] = Path("demo")
    """Folder for the sheet and the page."""
    sampling: Annotated[Guided, HERE] = Guided()

    def run(self) -> dict[str, Any]:
        """Make everything, then write the sheet and the page."""
        from cm3.cli.page import check_page
        from cm3.stickers.cli.demo import Demo as StickerDemo
        from cm3.stickers.knows import KIND_WORDS

        check_folder(self.out)
        check_sheet(self.out / "sheet.png", "--out")
        check_page(self.out / "index.html", "--out")
        start = time.monotonic()
        model = self.open_model()
        if model.world is not None and set(model.world.words) >= KIND_WORDS:
            return StickerDemo(**vars(self)).run()  # another world, with prompts and a verifier of its own
        print(f"model {self.model!r}, {self.common.threads} threads", flush=True)
        drawn, first = self._draw(model)
        sentence, second = self._fill_sentence(model)
        region, third = self._fill_region(model)
        emblems, fourth = self._draw_emblems(model)
        tasks, fifth = task_sections(model, self.sampling.seed, self.sampling.max_tokens)
        seconds = round(time.monotonic() - start, 1)
        shown = brief(first, [second, third, *fourth], fifth)
        files = self._write([first, second, third, *fourth, *fifth], shown, seconds)
        right = sum(d["ok"] for d in drawn)
        print(
            f"{right} of {len(drawn)} pictures as asked; {tally(tasks)}{seconds} s\n{files['sheet']}\n{files['page']}"
        )
        made = {"drawn": drawn, "text_infill": sentence, "region_infill": region, "emblems": emblems, "tasks": tasks}
        return {**made, "seconds": seconds, **files}

    def _draw(self, model: CM3Leon) -> tuple[list[dict[str, Any]], Section]:
        from cm3.cli.sheet import Line, Panel, Section, verdict

        seeds = [self.sampling.seed + i for i in range(len(PROMPTS))]
        settings = {k: v for k, v in self.sampling.arguments().items() if k != "seed"}
        print(f"drawing {len(PROMPTS)} prompts ...", flush=True)
        with progress("drawing") as update:
            drawings = model.generate_many(PROMPTS, seeds=seeds, progress=update, **settings)
        pictures = [d.image for d in drawings]
        print("reading the pictures ...", flush=True)
        with progress("reading") as update:
            readings = model.generate_many(pictures, seeds=seeds, progress=update)
        results, panels = [], []
        for i, (prompt, picture, reading) in enumerate(zip(PROMPTS, pictures, readings, strict=True)):
            said = reading.text
            ok, why = _shows(picture, prompt)
            true = _shows(picture, said)[0]
            print(f"{i + 1}/{len(PROMPTS)}     {_mark(ok)}  {prompt}", flush=True)
            print(f"        read as: {said}{_untrue(true)}", flush=True)
            lines = (
                Line(prompt, "prompt"),
                verdict(ok, "drawn as asked", f"not as asked: {why}"),
                Line("the model reads its picture as", "label"),
                Line(said),
                verdict(true, "true of the picture", "not true of the picture"),
            )
            panels.append(Panel(picture, lines))
            results.append({"prompt": prompt, "ok": ok, "reason": why, "description": said, "description_true": true})
        note = "Under each picture its prompt, as given. No training picture holds an orange circle."
        return results, Section("Words to pictures, and back", tuple(panels), note)

    def _fill_sentence(self, model: CM3Leon) -> tuple[dict[str, Any], Section]:
        from cm3.cli.sheet import Line, Panel, Section, verdict

        before, after = SENTENCE
        picture = _drawn(before + MISSING + after)
        with progress("words") as update:
            made = model.generate([before, Gap(), after, Image(picture)], progress=update, seed=self.sampling.seed)
        text = made.text
        ok = _shows(picture, text)[0]
        asked = f"{before}____{after}"
        print(f"words   {_mark(ok)}  {asked}\n            filled:  {text}", flush=True)
        lines = (
            Line("given: this picture, and", "label"),
            Line(asked, "prompt"),
            Line("the model fills in", "label"),
            Line(text),
            verdict(ok, "true of the picture", "not true of the picture"),
        )
        section = Section(
            "A hole in a sentence", (Panel(picture, lines),), "The words that are missing, from a picture."
        )
        return {"given": asked, "text": text, "ok": ok}, section

    def _fill_region(self, model: CM3Leon) -> tuple[dict[str, Any], Section]:
        from cm3.cli.page import with_hole
        from cm3.cli.sheet import Line, Panel, Section, verdict

        picture = _drawn(SCENE)
        half = picture.width // 2
        box = (0, 0, half, half)
        with progress("region") as update:
            filled = model.generate(
                [WANTED, Image(picture).with_gap(box)], progress=update, **self.sampling.arguments()
            ).image
        ok, why = _shows(filled, WANTED)
        print(f"region  {_mark(ok)}  {WANTED}", flush=True)
        mark: Line = verdict(ok, "filled as asked", f"not as asked: {why}")
        panels = (
            Panel(picture, (Line("a picture", "label"), Line(SCENE))),
            Panel(with_hole(picture, box), (Line("a hole in it, and words for the whole", "label"), Line(WANTED))),
            Panel(filled, (Line("filled by the model", "label"), mark)),
        )
        note = "Only the box is drawn anew; the rest keeps its tokens."
        return {"prompt": WANTED, "box": list(box), "ok": ok, "reason": why}, Section(
            "A hole in a picture", panels, note
        )

    def _draw_emblems(self, model: CM3Leon) -> tuple[list[dict[str, Any]], list[Section]]:
        """Draw emblems, or nothing where the model has no memory bank with any."""
        from cm3.errors import RequestError
        from cm3.scenes.cli.emblem_section import emblem_section
        from cm3.scenes.eval.emblem_scores import make_cases, make_examples

        try:
            known = all(case.document in model.memory for case in make_cases(EMBLEMS, self.sampling.seed))
        except RequestError:  # it has no bank
            known = False
        if not known:
            return [], []
        examples = make_examples(model, EMBLEMS, self.sampling.seed)
        results = []
        for e in examples:
            print(
                f"emblem  {_mark(e.drawn_right)}  {e.case.prompt}\n            read: {e.found.document.id}", flush=True
            )
            drew = {"document": e.found.document.id, "ok": e.drawn_right, "ok_without": e.guessed_right}
            results.append({"prompt": e.case.prompt, **drew})
        return results, [emblem_section(examples)]

    def _write(self, sections: list[Section], shown: list[Section], seconds: float) -> dict[str, str]:
        from cm3.cli.page import page
        from cm3.cli.sheet import sheet

        title = "cm3: one model for words and pictures"
        subtitle = "Drawn, read and filled in by one transformer over text and image tokens. Marks: measured pixels."
        footer = (
            f"cm3 demo --model {self.model} --seed {self.sampling.seed}: {seconds} s, {self.common.threads} threads"
        )
        made = {"sheet": self.out / "sheet.png", "page": self.out / "index.html"}
        write_sheet(made["sheet"], sheet(shown, title, subtitle, columns=COLUMNS, side=SIDE))
        write(made["page"], page(sections, title, subtitle, footer).encode())
        return {name: str(path) for name, path in made.items()}


def _mark(ok: bool) -> str:
    return "right " if ok else "missed"


def _untrue(true: bool) -> str:
    return "" if true else "  (not true)"


def _shows(picture: PIL.Image.Image, text: str) -> tuple[bool, str]:
    """Tell whether a picture shows exactly what a sentence says, and why not."""
    from cm3.errors import DataError
    from cm3.scenes.sentences import parse
    from cm3.scenes.verify import verify

    try:
        found = verify(picture, parse(text))
    except DataError as error:  # not a sentence of the scenes' grammar, or not a picture that can be measured
        return False, str(error)
    return found.ok, found.reason


def _drawn(sentence: str) -> PIL.Image.Image:
    """Return a true drawing of what a sentence says, which tells size and place of everything."""
    from cm3.scenes import Object, Scene, draw, parse

    said = parse(sentence)
    things = [Object(m.place or "", m.shape, m.colour, m.size or "") for m in said.mentions]
    return draw(Scene(said.background, tuple(things)))

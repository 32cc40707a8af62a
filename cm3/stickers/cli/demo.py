"""The demo of a model of stickers, of `cm3 demo`: all it does in under a minute, by pixels.

Every part asks the model, has the answer judged, and gives a `Made` for each picture or text. What a model has no
memory bank for, or was not tuned for, is left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from tyro.conf import arg

from cm3.cli.options import HERE, Guided, ModelVerb, progress
from cm3.cli.outputs import check_folder, check_sheet, line, write_sheet
from cm3.document import Gap, Image
from cm3.files import write

if TYPE_CHECKING:
    import PIL.Image

    from cm3.cli.sheet import Line, Panel, Section
    from cm3.generate import CM3Leon, Retrieved
    from cm3.stickers.data.sticker_examples import StickerExample

# No training picture is any of these: sheets of the test split, and a red heart where training never showed one.
PROMPTS = (
    "a large dragon on a mint ground",
    "a small owl at the top left and a small cactus below it, on a sand ground",
    "a large whale at the top left and a small red heart to the right of it, on a sky ground",
    "on a pink ground, a large rocket at the top left, a large yellow star at the top right and a small purple circle"
    " at the bottom left",
    "a large hot dog at the top left, a small pizza at the top right and a small donut at the bottom right, on a lilac"
    " ground",
    "a large lion at the top left, a small elephant at the top right, a small penguin at the bottom left and a large"
    " frog at the bottom right, on a mint ground",
)
READ = "a large snail at the bottom left and a small mushroom at the bottom right, on a lilac ground"
SENTENCE = ("a large ", " at the top left and a small moon at the bottom right, on a pink ground")
MISSING = "unicorn"
SHEET = "a large fox at the top left and a large house at the bottom right, on a lilac ground"
WANTED = "a large zebra at the top left and a large house at the bottom right, on a lilac ground"
# Kinds that no training saw.
UNSEEN = "a large flamingo at the bottom left, on a sand ground"
UNSEEN_TWO = "a small ufo at the top right and a large robot below it, on a navy ground"
COLUMNS, SIDE = 8, 168
"""Of the sheet: pictures side by side, and pixels of each."""


class Shown(NamedTuple):
    """An instruction task of the demo: its name in words, and how many examples."""

    task: str
    name: str
    number: int


class Group(NamedTuple):
    """A section of instructions."""

    title: str
    note: str
    tasks: tuple[Shown, ...]


GROUPS = (
    Group(
        "Pictures changed by words, or drawn to a plan",
        "Left the picture given, or boxes with their names, right what the model made of it.",
        (Shown("edit", "edit", 3), Shown("boxes", "boxes", 1)),
    ),
    Group(
        "Edges, maps, questions and reasons",
        "A map has a colour for each group of things. Questions are about the picture above them.",
        (
            Shown("canny", "edges", 1),
            Shown("segment", "map", 1),
            Shown("vqa2", "question", 2),
            Shown("visdial", "talk", 1),
            Shown("scienceqa", "reason", 1),
        ),
    ),
)


@dataclass(frozen=True, eq=False)
class Made:
    """A picture or a text that the model made: what was asked, what is wrong with it (or ""), and panels to show."""

    name: str
    asked: str
    why: str
    panels: tuple[Panel, ...]
    said: str = ""

    def report(self) -> dict[str, Any]:
        """Return all but the panels, for a machine."""
        words = {"said": self.said} if self.said else {}
        return {"asked": self.asked, "ok": not self.why, **({"reason": self.why} if self.why else {}), **words}


@dataclass(frozen=True, kw_only=True)
class Demo(ModelVerb):
    """Draw six prompts, describe, fill holes in words and pictures, draw kinds never trained on, follow instructions.

    Kinds never trained on come from documents of the model's memory bank; instructions are what it was tuned for. Each
    picture is read back by measuring its pixels (cm3.stickers.verify), so the marks are not the model's own opinion.
    Writes DIR/sheet.png and DIR/index.html, which show the same.

    examples:
      cm3 demo
      cm3 demo --seed 3 --out /tmp/demo --json
    """

    out: Annotated[Path, arg(metavar="DIR")] = Path("demo")
    """Folder for the sheet and the page."""
    sampling: Annotated[Guided, HERE] = Guided()

    def run(self) -> dict[str, Any]:
        """Make everything, then write the sheet and the page."""
        from cm3.cli.page import check_page
        from cm3.cli.sheet import Section

        check_folder(self.out)
        check_sheet(self.out / "sheet.png", "--out")
        check_page(self.out / "index.html", "--out")
        start = time.monotonic()
        model = self.open_model()
        print(f"model {self.model!r}, {self.common.threads} threads", flush=True)
        sections, every = list[Section](), list[Made]()
        for title, note, make in (
            (
                "Words to pictures, and back",
                "No training picture is any of these. At the end a picture said in words, and a hole in a sentence.",
                lambda: [*self._draw(model), *self._read(model)],
            ),
            (
                "Holes in pictures, and things never trained on",
                "Only the box is drawn anew. What training never showed comes from documents of a memory bank.",
                lambda: [*self._fill(model), *self._unseen(model)],
            ),
            *((g.title, g.note, lambda g=g: self._follow(model, g.tasks)) for g in GROUPS),
        ):
            made = make()
            every += made
            if made:
                sections.append(Section(title, tuple(panel for one in made for panel in one.panels), note))
            for one in made:
                print(f"{one.name:<10}{'missed' if one.why else 'right '}  {one.asked}")
                if one.said:
                    print(f"{'':<18}said: {line(one.said)}")
                if one.why:
                    print(f"{'':<18}{_brief(one.why)}", flush=True)
        seconds = round(time.monotonic() - start, 1)
        files = self._write(sections, seconds)
        right = sum(not one.why for one in every)
        print(f"{right} of {len(every)} right; {seconds} s\n{files['sheet']}\n{files['page']}")
        report: dict[str, Any] = {}
        for one in every:
            report.setdefault(one.name, []).append(one.report())
        return {"made": report, "right": right, "of": len(every), "seconds": seconds, **files}

    def _settings(self) -> dict[str, Any]:
        return {name: value for name, value in self.sampling.arguments().items() if name != "seed"}

    def _draw(self, model: CM3Leon) -> list[Made]:
        seeds = [self.sampling.seed + i for i in range(len(PROMPTS))]
        with progress("drawing") as update:
            drawn = model.generate_many(PROMPTS, seeds=seeds, progress=update, **self._settings())
        made = []
        for prompt, one in zip(PROMPTS, drawn, strict=True):
            why = not_shown(one.image, prompt)
            made.append(Made("draw", prompt, why, (_panel(one.image, prompt, why, "drawn as asked"),)))
        return made

    def _read(self, model: CM3Leon) -> list[Made]:
        """Describe a picture, and fill a hole in a sentence about one."""
        from cm3.cli.sheet import Line, Panel

        words, picture = self.sampling.max_tokens, drawn_as(READ, model.image_size)
        settings: Any = {"seed": self.sampling.seed} | ({} if words is None else {"max_tokens": words})
        with progress("words") as update:
            said = model.generate([picture], progress=update, **settings).text
        why = not_shown(picture, said)
        told = [Line("the model says", "label"), Line(line(said)), _mark(why, "true of the picture")]
        made = [Made("describe", "a picture of " + READ, why, (Panel(picture, tuple(told)),), said)]

        (before, after), picture = SENTENCE, drawn_as(MISSING.join(SENTENCE), model.image_size)
        asked = f"{before}____{after}"
        with progress("words") as update:
            said = model.generate([before, Gap(), after, Image(picture)], progress=update, **settings).text
        why = not_shown(picture, said)
        told = [Line(asked, "prompt"), Line("the model fills in", "label"), Line(line(said))]
        told.append(_mark(why, "true of the picture"))
        made.append(Made("words", asked, why, (Panel(picture, tuple(told)),), said))
        return made

    def _fill(self, model: CM3Leon) -> list[Made]:
        """Fill a hole in a picture."""
        from cm3.cli.page import with_hole
        from cm3.cli.sheet import Line, Panel

        picture = drawn_as(SHEET, model.image_size)
        box = (0, 0, picture.width // 2, picture.height // 2)
        with progress("region") as update:
            filled = model.generate(
                [WANTED, Image(picture).with_gap(box)], progress=update, **self.sampling.arguments()
            ).image
        why = not_shown(filled, WANTED)
        panels = (
            Panel(with_hole(picture, box), (Line(WANTED, "prompt"),)),
            Panel(filled, (Line("filled by the model", "label"), _mark(why, "filled as asked"))),
        )
        return [Made("region", WANTED, why, panels)]

    def _unseen(self, model: CM3Leon) -> list[Made]:
        """Draw kinds that no training saw, one of them without its document too."""
        from cm3.cli.sheet import Line, Panel
        from cm3.errors import RequestError

        try:
            found = [list(model.retrieve(UNSEEN, 1)), list(model.retrieve(UNSEEN_TWO, 2))]
        except RequestError:  # there is no bank, or an empty one
            return []
        prompts, documents = (UNSEEN, UNSEEN, UNSEEN_TWO), [found[0], list["Retrieved"](), found[1]]
        with progress("drawing") as update:
            drawn = model.generate_many(
                prompts, seeds=[self.sampling.seed] * 3, documents=documents, progress=update, **self._settings()
            )
        made = []
        for prompt, some, one in zip(prompts, documents, drawn, strict=True):
            why = not_shown(one.image, prompt)
            how = "without a document" if not some else "with its document" if len(some) == 1 else "with both documents"
            lines = Line(prompt, "prompt"), Line(f"drawn {how}", "label"), _mark(why, "drawn as asked")
            panels = (*(_document(f) for f in some), Panel(one.image, lines))
            made.append(Made("unseen" if some else "guess", f"{prompt}, drawn {how}", why, panels))
        return made

    def _follow(self, model: CM3Leon, tasks: Sequence[Shown]) -> list[Made]:
        """Do what instructions say, of those tasks that the model was tuned for and whose pictures can be read."""
        from cm3.stickers.verify import SMALLEST
        from cm3.tasks import find_task

        words = self.sampling.max_tokens
        settings = {} if words is None else {"max_tokens": words}
        made = []
        for shown in tasks:
            small = model.image_size < SMALLEST and find_task(shown.task).output == "image"
            if shown.task in model.tasks and not small:
                made += followed(model, shown, self.sampling.seed, settings)
        return made

    def _write(self, sections: Sequence[Section], seconds: float) -> dict[str, str]:
        from cm3.cli.page import page
        from cm3.cli.sheet import sheet

        title = "cm3: one model for words and pictures"
        subtitle = "Drawn, read and changed by one transformer over text and image tokens. Marks: measured pixels."
        footer = (
            f"cm3 demo --model {self.model} --seed {self.sampling.seed}: {seconds} s, {self.common.threads} threads"
        )
        made = {"sheet": self.out / "sheet.png", "page": self.out / "index.html"}
        write_sheet(made["sheet"], sheet(sections, title, subtitle, columns=COLUMNS, side=SIDE))
        write(made["page"], page(sections, title, subtitle, footer).encode())
        return {name: str(path) for name, path in made.items()}


def followed(model: CM3Leon, shown: Shown, seed: int, settings: Mapping[str, Any]) -> list[Made]:
    """Let a model follow instructions of the test split, and judge what it makes of them."""
    from cm3.stickers.data.sticker_examples import sticker_example
    from cm3.stickers.eval.instruction_scores import ask, asked, judge, wrong_reasons

    numbers = [seed * shown.number + i for i in range(shown.number)]
    examples = [sticker_example(shown.task, 0, i, model.image_size, "test") for i in numbers]
    with progress(shown.name) as update:
        answers = ask(model, examples, numbers, {**settings, "progress": update})
    made = []
    for example, given in zip(examples, answers, strict=True):
        outcome = judge(example, given)
        why = outcome.why or wrong_reasons(example, given)
        words = " ".join(value for value in given.values() if isinstance(value, str))
        made.append(Made(shown.name, asked(example), why, _before_and_after(example, given, why), words))
    return made


def not_shown(picture: PIL.Image.Image, text: str) -> str:
    """Return why a picture does not show exactly what a sentence says, or "" where it does."""
    from cm3.errors import DataError
    from cm3.stickers.sentences import parse
    from cm3.stickers.verify import read, why_not

    try:
        return why_not(parse(text), read(picture))
    except DataError as error:  # not a sentence of the stickers' grammar, or not a picture that can be measured
        return str(error)


def drawn_as(sentence: str, size: int) -> PIL.Image.Image:
    """Return a true picture, `size` pixels wide, of what a sentence says that tells size and place of everything."""
    from cm3.stickers.drawing import draw
    from cm3.stickers.sentences import parse
    from cm3.stickers.world import Sheet, Sticker

    said = parse(sentence)
    things = [Sticker(m.place or "", m.kind or "", m.size or "") for m in said.mentions]
    return draw(Sheet(said.ground or "", tuple(things)), size)


def _mark(why: str, right: str) -> Line:
    from cm3.cli.sheet import verdict

    return verdict(not why, right, _brief(why))


def _brief(why: str) -> str:
    """Return the first of what is wrong, on one line."""
    first, *more = line(why).split("; ")
    return f"{first}, and more" if more else first


def _panel(picture: PIL.Image.Image, asked: str, why: str, right: str) -> Panel:
    from cm3.cli.sheet import Line, Panel

    return Panel(picture, (Line(asked, "prompt"), _mark(why, right)))


def _document(found: Retrieved) -> Panel:
    """Return a document that was found: its picture and words, whose they are, and the licence."""
    from cm3.cli.attribution import licence
    from cm3.cli.sheet import Line, Panel

    of = found.document
    whose = ", ".join(part for part in (of.source, licence(found)) if part)
    return Panel(of.images[0].pixels, (Line("found in the bank", "label"), Line(of.text), Line(whose, "label")))


def _before_and_after(example: StickerExample, given: Any, why: str) -> tuple[Panel, ...]:
    """Return what was given and what was made of it, or one panel where the answer is words."""
    from cm3.cli.guides import blank
    from cm3.cli.sheet import Line, Panel
    from cm3.stickers.eval.instruction_scores import asked
    from cm3.tasks import find_task

    task, words = find_task(example.task), Line(asked(example), "prompt")
    before = next(
        (v.pixels for name, v in example.fields.items() if isinstance(v, Image) and name not in task.gives), None
    )
    if task.output == "text":
        said = [Line(line(text)) for text in given.values() if text.strip()]
        assert before is not None  # every question is about a picture
        return (Panel(before, (words, Line("the model says", "label"), *said, _mark(why, "right"))),)
    made = next(value for value in given.values() if not isinstance(value, str))
    before = blank(example.truth.said) if before is None else before
    return Panel(before, (words,)), Panel(made, (Line("made", "label"), _mark(why, "as asked")))

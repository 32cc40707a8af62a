"""`cm3 eval report RESULT.json...`: results of one suite as one HTML file, with samples side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import Flag, Verb, at_least
from cm3.cli.outputs import check_folder, line
from cm3.cli.page import check_page
from cm3.cli.samples import Held, held
from cm3.errors import RequestError
from cm3.files import write

if TYPE_CHECKING:
    from cm3.cli.result_html import Sample
    from cm3.score.result_file import Page, Source


@dataclass(frozen=True, kw_only=True)
class EvalReport(Verb):
    """Show results of one suite as one HTML file: figures with intervals, differences, samples, and manifests.

    Samples are read from the predictions and references that the results name, where those are still there and
    unchanged; else give the paths. The file needs no network, and no script but to sort.

    examples:
      cm3 eval report result.json
      cm3 eval report before.json after.json --pictures data/coco/val2014 --out report.html
    """

    results: Annotated[Positional[tuple[Path, ...]], arg(metavar="RESULT.json...")]
    """Results, as the verbs of `cm3 eval` write them with --out."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("report.html")
    """The page to write."""
    predictions: Annotated[tuple[Path, ...], arg(metavar="PATH...", help_behavior_hint="(default: as named)")] = ()
    """Where the predictions are now, files or folders, in any order: they are known by their sums."""
    references: Annotated[tuple[Path, ...], arg(metavar="PATH...", help_behavior_hint="(default: as named)")] = ()
    """Where the references are now."""
    pictures: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the pictures that captions, questions and answers are about."""
    samples: Annotated[int, arg(metavar="N")] = 100
    """Most items to show, spread evenly over their scores."""
    anyway: Annotated[Flag, arg(help="Show results of other settings too; a warning says which.")] = False

    def run(self) -> dict[str, Any]:
        """Write the page."""
        from cm3.cli.result_html import report
        from cm3.score.compare import compare
        from cm3.score.result_file import read_result

        at_least(0, samples=self.samples)
        if not self.results:
            raise RequestError("results: none given; give files that `cm3 eval ... --out` wrote")
        if self.out.is_dir():
            raise RequestError(f"--out {self.out}: is a folder; give a file, such as {self.out / 'report.html'}")
        check_folder(self.out.parent)
        check_page(self.out)
        if self.pictures is not None and not self.pictures.is_dir():
            raise RequestError(f"--pictures {self.pictures}: is no folder; give the folder of the pictures")
        pages = [(str(path), read_result(path)) for path in self.results]
        first, a = pages[0]
        found = [compare(a, b, (first, name), anyway=self.anyway) for name, b in pages[1:]]
        samples, of, notes = self._samples(pages)
        write(self.out, report(pages, found, samples, notes, of))
        for note in notes:
            print(line(f"not shown: {note}"))
        print(self.out)
        return {"out": str(self.out), "samples": len(samples), "not_shown": notes}

    def _samples(self, pages: Sequence[tuple[str, Page]]) -> tuple[list[Sample], int, list[str]]:
        """Return the samples, the number of items that they were chosen from, and a line on all that is missing."""
        if not self.samples:
            return [], 0, []
        notes: list[str] = []
        references = _sources([pages[0]], "references", self.references, notes)[0]
        predictions = _sources(pages, "predictions", self.predictions, notes)
        looked = Held() if self.pictures is None else held(self.pictures)
        scores = [page.items for _, page in pages]
        ids = chosen(scores, predictions, self.samples)
        made = [_sample(id, scores, references, predictions, looked) for id in ids[0]]
        return made, ids[1], notes


def chosen(
    scores: Sequence[Mapping[str, Mapping[str, float]]], predictions: Sequence[Mapping[str, Held]], most: int
) -> tuple[list[str], int]:
    """Return the ids of at most so many items, in their order, and the number of all.

    They are spread evenly over the items in the order of the first figure that has any: of its difference between the
    first two results, or of its value; where no figure has items, over what the predictions hold.
    """
    name = next((name for items in scores for name in items), None)
    if name is None:
        ids = sorted({id for by_name in predictions for one in by_name.values() for id in one.ids}, key=_natural)
    else:
        ids = sorted({id for items in scores for values in items.values() for id in values}, key=_natural)
        of = [items.get(name, {}) for items in scores[:2]]
        ids.sort(key=lambda id: (of[-1].get(id, 0.0) - of[0].get(id, 0.0) if len(of) > 1 else 0, of[0].get(id, 0.0)))
    number = len(ids)
    if number > most:
        ids = [ids[round(i * (number - 1) / max(most - 1, 1))] for i in range(most)]
    return sorted(ids, key=_natural), number


def _natural(id: str) -> tuple[int, str]:
    """Return the key by which 9 comes before 10."""
    return (len(id) if id.isdigit() else 1 << 30, id)


def _sample(
    id: str,
    scores: Sequence[Mapping[str, Mapping[str, float]]],
    references: Mapping[str, Held],
    predictions: Sequence[Mapping[str, Held]],
    looked: Held,
) -> Sample:
    from cm3.cli.result_html import Sample, Side, letter

    everything = (*references.values(), *(one for by_name in predictions for one in by_name.values()))
    picture = next((one.about[id] for one in everything if id in one.about), id)
    named = next((one.named[of] for one in everything for of in (picture, id) if of in one.named), "")
    about = next((looked.pictures[of] for of in (named, picture, id) if of in looked.pictures), None)
    told = [("", text) for text in dict.fromkeys(text for one in everything for text in one.asked.get(id, ()))]
    told += [(name, text) for name, one in references.items() for text in one.said.get(id, ())]
    given = (about, *(one.pictures.get(id) for one in references.values()))
    asked = Side("", told, [path for path in given if path is not None])
    sides = []
    for place, by_name in enumerate(predictions):
        said = dict.fromkeys(text for one in by_name.values() for text in one.said.get(id, ()))
        shown = dict.fromkeys(one.pictures[id] for one in by_name.values() if id in one.pictures)
        sides.append(Side(letter(place), [("", text) for text in said], list(shown)))
    return Sample(
        id, asked, sides, [{n: values[id] for n, values in items.items() if id in values} for items in scores]
    )


def _sources(
    pages: Sequence[tuple[str, Page]], which: str, given: Sequence[Path], notes: list[str]
) -> list[dict[str, Held]]:
    """Return what the references or predictions of each page hold, by their names there.

    They are looked for among the paths given, then where the page says. Adds a line to `notes` for each that is missing
    or was changed. Raises `RequestError` for a path given that no page is of.
    """
    from cm3.score.result_file import digest, is_of

    known = {digest(path)["sha256"]: path for path in given}
    wanted = {source.sha256 for _, page in pages for source in getattr(page, which).values()}
    for sum, path in known.items():
        if sum not in wanted:
            raise RequestError(f"--{which} {path}: no result is of it, by its sha256; give the path of what was scored")
    found = []
    for name, page in pages:
        sources: Mapping[str, Source] = getattr(page, which)
        by_name = {}
        for label, source in sources.items():
            there = known.get(source.sha256)
            place = there or next(_places(source, Path(name)), None)
            if place is None:
                notes.append(f"the {label} of {name}: not found; give them with --{which}")
            elif there is None and not is_of(source, place):
                notes.append(f"the {label} of {name}: {place} was changed since; give what was scored with --{which}")
            else:
                by_name[label] = held(place)
        found.append(by_name)
    return found


def _places(source: Source, result: Path) -> Iterator[Path]:
    """Yield where a source could be: at its path from here, and from the folder of the result."""
    if source.path is not None:
        yield from (path for path in (Path(source.path), result.parent / source.path) if path.exists())

"""`cm3 data inspect`: what a dataset or a store holds, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import Flag, Verb, at_least, progress
from cm3.cli.outputs import check_sheet, write_sheet
from cm3.errors import RequestError

if TYPE_CHECKING:
    import PIL.Image

    from cm3.data.inspect import Report
    from cm3.document import Document

WORDS = 280
"""Characters of a caption that stand on the sheet."""
LINE = 200
"""Characters of a line of a store's totals."""
ROW = 3
"""Pictures of a document that stand on the sheet."""


@dataclass(frozen=True, kw_only=True)
class DataInspect(Verb):
    """Say what a dataset holds and what is wrong with it: formats, counts, captions, pictures, licences, damage.

    A source is [KIND:]PATH[@SPLIT]; the kind is recognised where it is left out. A sample spread over the dataset is
    looked at, with --full everything. Of a store, as `cm3 prepare` writes it, the totals are told; --full
    compares every byte of it with its checksum.

    examples:
      cm3 data inspect photos/
      cm3 data inspect coco:data/coco@val2017 --sheet look.png --n 12
      cm3 data inspect "webdataset:shards/{00000..00099}.tar" --full --json
      cm3 data inspect stores/coco
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """A dataset or a store."""
    n: Annotated[int, arg(metavar="N")] = 6
    """How many documents stand on the sheet."""
    sheet: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write a contact sheet of documents spread over the dataset, a PNG."""
    sample: Annotated[int, arg(metavar="N")] = 200
    """How many documents to look at."""
    full: Annotated[Flag, arg(help="Look at every document, or check every byte of a store.")] = False

    def run(self) -> dict[str, Any]:
        """Look, print a table."""
        from cm3.data.inspect import inspect
        from cm3.read.find import REMOTE, open_reader, parse_source, reader_class, recognise

        at_least(1, n=self.n, sample=self.sample)
        if self.sheet is not None:
            check_sheet(self.sheet)
        found = parse_source(self.source)
        path = Path(found.path)
        if names_store(found.path):
            if self.sheet is not None:
                raise RequestError(f"{found.path!r}: is a store, of which no sheet is made; leave out --sheet")
            return store_info(found.path, self.full)
        reader = open_reader(found)
        local = path.exists()
        kinds = recognise(path) if local else [reader.kind]
        splits = reader_class(reader.kind).splits(path) if local and reader.kind not in REMOTE else ()
        with progress("looking", unit="document") as update:
            report = inspect(reader, None if self.full else self.sample, samples=self.n, progress=update)
        print(f"kind        {reader.kind}{others(kinds, reader.kind)}")
        print(f"splits      {', '.join(splits) or 'none'}; this is {report.source}")
        tell(report)
        about = {"given": self.source, "kind": reader.kind, "kinds": kinds, "splits": list(splits)}
        result = {**about, **report.json()}
        if self.sheet is not None:
            if not report.samples:
                raise RequestError(f"{self.source}: no document that was looked at can be shown; leave out --sheet")
            write_sheet(self.sheet, contact_sheet(report, self.source))
            print(self.sheet)
            result["sheet"] = str(self.sheet)
        return result


def names_store(path: str) -> bool:
    """Tell whether a path is a store, finished or not; far away, whether it names no tar. Refuses a bank of before."""
    from cm3.store.manifest import is_store
    from cm3.store.old import is_bank

    if "://" in path:
        return ".tar" not in path
    if is_bank(path):
        raise RequestError(f"{path!r}: is a memory bank; see `cm3 index info {path}`")
    return is_store(path)


def store_info(path: str, verify: bool) -> dict[str, Any]:
    """Print the totals of a store; returns them. Raises `DataError` for one that is not finished or altered."""
    from cm3.store.store import Store

    store = Store.open(path)
    if verify:
        with progress("reading", unit="file") as update:
            store.verify(update)
    info = {**store.info(), "given": path, "kind": "store", "verified": verify}
    for name, value in info.items():
        told = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        print(f"{name:<19} {told}"[:LINE])
    return info


def others(kinds: Sequence[str], kind: str) -> str:
    """Return the kinds that it could be read as, too."""
    more = [k for k in kinds if k != kind]
    return f" (could also be read as {', '.join(more)})" if more else ""


def tell(report: Report) -> None:
    """Print what was found, and what is wrong."""
    of = "not counted" if report.documents is None else str(report.documents)
    print(f"documents   {of}" + ("" if report.exact else f"; figures below are of {report.read}, --full looks at all"))
    print(f"            {report.with_text} with text, {report.with_picture} with a picture")
    print(f"texts       {report.texts}, characters a document: {spelt(report.captions)}")
    print(f"pictures    {report.pictures}, width {spelt(report.widths)}; height {spelt(report.heights)}")
    for what in ("sizes", "modes", "formats", "sources", "licenses"):
        print(f"{what:<12}{counted(getattr(report, what))}")
    for kind, found in report.passed.items():
        print(f"passed over {found['count']} x {kind}: {', '.join(found['names'])}")
    if not report.problems:
        print("problems    none")
    for reason, problem in report.problems.items():
        print(f"problem     {problem.count} x {reason}: {', '.join(problem.ids)}")
        if problem.example != reason:
            print(f"            such as: {problem.example}")


def spelt(values: Mapping[str, int] | None) -> str:
    """Say quantiles in a line."""
    if values is None:
        return "none"
    return f"{values['min']} to {values['max']}, median {values['median']}, 95% at most {values['p95']}"


def counted(values: Mapping[str, int]) -> str:
    """Say names with how often they came."""
    return ", ".join(f"{name or 'none given'} ({count})" for name, count in values.items()) or "none"


def contact_sheet(report: Report, title: str) -> PIL.Image.Image:
    """Return the samples: picture, words, id and licence of each."""
    from cm3.cli.sheet import Line, Panel, Section, sheet
    from cm3.data.inspect import license_of

    panels = []
    for document in report.samples:
        notes = ", ".join(v for v in (document.source, license_of(document)) if v)
        words = document.text if len(document.text) <= WORDS else document.text[:WORDS].rsplit(" ", 1)[0] + " ..."
        more = f", {len(document.images)} pictures" if len(document.images) > 1 else ""
        lines = [Line(words, "body"), Line(document.id + more, "label"), Line(notes, "label")]
        panels.append(Panel(shown(document), tuple(line for line in lines if line.text.strip())))
    of = "" if report.documents is None else f" of {report.documents}"
    section = Section(f"{len(panels)}{of} documents, spread over the dataset", tuple(panels))
    return sheet([section], title, report.source, columns=4 if len(panels) % 4 == 0 else 3)


def shown(document: Document) -> PIL.Image.Image:
    """Return the first pictures of a document side by side; a blank one where there is none."""
    import PIL.Image

    from cm3.cli.sheet import enlarged

    side = 256
    pictures = [enlarged(image.pixels, side) for image in document.images[:ROW]]
    if len(pictures) == 1:
        return pictures[0]
    page = PIL.Image.new("RGB", (side, side) if not pictures else (len(pictures) * side, side), "#f4f4f7")
    for at, picture in enumerate(pictures):
        page.paste(picture, (at * side + (side - picture.width) // 2, (side - picture.height) // 2))
    return page

"""`cm3 index build|add|delete|search|info`: a memory bank of one's own documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from cm3.cli.options import HERE, Device, Flag, Verb, at_least, own_encoder, progress
from cm3.cli.outputs import check_folder, check_sheet, line, write_sheet
from cm3.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from cm3.retrieval.embed import Encoder
    from cm3.retrieval.memory import Memory
    from cm3.store.write import Report, Source

CLIP = "openai/clip-vit-base-patch32"
SHOWN = 10
"""So many documents that were left out are named for a person; --json names all."""


@dataclass(frozen=True, kw_only=True)
class IndexBuild(Verb):
    """Make a memory bank of documents: folders of pictures, each with its caption in a .txt of the same name.

    Pictures without a .txt and .txt without a picture are taken too. Published datasets, web shards and JSON lines are
    recognised; a source is [KIND:]PATH[@SPLIT]. A document that cannot be read is left out, and listed. Given stores
    with vectors (memory banks, or what `cm3 prepare --encoder` made), it merges them into one, without what was
    deleted. A build that was killed goes on where it was, when it is given again, with the very documents; of others it
    makes another bank.

    examples:
      cm3 index build photos/ --out banks/photos
      cm3 index build photos/ --out banks/photos --encoder runs/scenes/clip --license CC-BY-4.0
      cm3 index build data/coco@val2017 --out banks/coco --json
      cm3 index build "webdataset:shards/{00000..00009}.tar" pages.jsonl --out banks/web
      cm3 index build banks/photos banks/coco --out banks/both
    """

    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE")]
    """Folders of captioned pictures, datasets (coco:data/coco@val2017), or stores to merge."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("bank")
    """Folder for the bank."""
    encoder: Annotated[str, arg(metavar="ENCODER")] = CLIP
    """Encoder of the vectors: a CLIP's hub id, its folder, a folder that a clip recipe wrote, or a model with its own
    (scenes or stickers, which know nothing else)."""
    index: Annotated[Literal["auto", "exact", "ivf", "pq"], arg(metavar="auto|exact|ivf|pq")] = "auto"
    """auto: every document is looked at up to 100,000, inverted lists above; pq: half their memory, slower."""
    license: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """Licence to note for the documents of folders; it is shown with whatever draws on them."""
    split: Annotated[str | None, arg(metavar="SPLIT", help_behavior_hint="(default: train2017, if it is there)")] = None
    """Split of COCO's captions, where a source does not say one."""
    place: Annotated[Device, HERE] = Device()

    def run(self) -> dict[str, Any]:
        """Build or merge, list what was left out."""
        from cm3.retrieval.memory import Memory
        from cm3.store.manifest import is_store

        banks = [s for s in self.sources if is_store(s)]
        if banks and len(banks) < len(self.sources):
            raise RequestError(f"{banks[0]!r} is a store, and not all sources are: merge stores, or build of folders")
        if banks and (self.encoder != CLIP or self.license is not None or self.split is not None):
            raise RequestError("stores are merged as they are; leave --encoder, --license and --split out")
        check_folder(self.out)
        with progress("reading", unit="document") as update:
            if banks:
                made = Memory.merge(banks, self.out, index=self.index, progress=update)
                return told(made, None)
            documents = read(self.sources, self.license, self.split)
            encoder = open_encoder(self.encoder, device=self.place.device)
            about = {"encoder": self.encoder}
            made = Memory.build(self.out, documents, encoder, index=self.index, about=about, progress=update)
        return told(made, made.report)


@dataclass(frozen=True, kw_only=True)
class IndexAdd(Verb):
    """Add documents to a memory bank, all or none; whoever reads it meanwhile sees them when opening it again.

    examples:
      cm3 index add banks/photos more-photos/
      cm3 index add banks/photos more-photos/ --license CC0-1.0 --json
    """

    bank: Annotated[Positional[str], arg(metavar="BANK")]
    """The bank's folder."""
    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE")]
    """Folders of captioned pictures, or datasets (coco:data/coco@val2017)."""
    encoder: Annotated[str | None, arg(metavar="ENCODER", help_behavior_hint="(default: the bank's own)")] = None
    """Where the encoder is that the bank was built with."""
    license: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """Licence to note for the documents of folders."""
    split: Annotated[str | None, arg(metavar="SPLIT", help_behavior_hint="(default: train2017, if it is there)")] = None
    """Split of COCO's captions, where a source does not say one."""
    place: Annotated[Device, HERE] = Device()

    def run(self) -> dict[str, Any]:
        """Add, list what was left out."""
        from cm3.retrieval.memory import Memory

        bank = Memory.open(self.bank)
        documents = read(self.sources, self.license, self.split)
        encoder = encoder_of(bank, self.encoder, self.place.device)
        with progress("reading", unit="document") as update:
            report = bank.add(documents, encoder, progress=update)
        return told(bank, report)


@dataclass(frozen=True, kw_only=True)
class IndexDelete(Verb):
    """Delete documents from a memory bank by id, all or none. Their space is free after a merge (`cm3 index build`).

    examples:
      cm3 index delete banks/photos beach.jpg trip/cat.png
      cm3 index delete banks/photos beach.jpg --json
    """

    bank: Annotated[Positional[str], arg(metavar="BANK")]
    """The bank's folder."""
    ids: Annotated[Positional[tuple[str, ...]], arg(metavar="ID")]
    """Ids, as `cm3 index search` shows them."""

    def run(self) -> dict[str, Any]:
        """Delete."""
        from cm3.retrieval.memory import Memory

        if not self.ids:
            raise RequestError("no id given; name at least one, as `cm3 index search` shows them")
        bank = Memory.open(self.bank)
        deleted = bank.delete(self.ids)
        print(f"{bank.folder}: {deleted} deleted, {len(bank)} documents left")
        return {"bank": str(bank.folder), "deleted": deleted, "documents": len(bank)}


@dataclass(frozen=True, kw_only=True)
class IndexSearch(Verb):
    """Search a memory bank with words, with a picture, or with both.

    examples:
      cm3 index search banks/photos --text "a dog on a beach"
      cm3 index search banks/photos --image dog.jpg --k 10 --sheet found.png
      cm3 index search banks/photos --text "at night" --image street.jpg --json
    """

    bank: Annotated[Positional[str], arg(metavar="BANK")]
    """The bank's folder."""
    text: Annotated[str | None, arg(metavar="WORDS", help_behavior_hint="")] = None
    """Words to search with."""
    image: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """A picture to search with."""
    k: Annotated[int, arg(metavar="N")] = 5
    """How many documents."""
    sheet: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the pictures found as a contact sheet, a PNG."""
    encoder: Annotated[str | None, arg(metavar="ENCODER", help_behavior_hint="(default: the bank's own)")] = None
    """Where the encoder is that the bank was built with."""
    place: Annotated[Device, HERE] = Device()

    def run(self) -> dict[str, Any]:
        """Search, print a line each, best first."""
        from cm3.document import Document, Image, check_text
        from cm3.retrieval.embed import embed
        from cm3.retrieval.memory import Memory

        at_least(1, k=self.k)
        if not (self.text or "").strip() and self.image is None:
            raise RequestError("nothing to search with; give --text WORDS, --image FILE, or both")
        check_text(self.text or "", "--text")
        parts = [p for p in (self.text, Image.open(self.image) if self.image else None) if p]
        if self.sheet is not None:
            check_sheet(self.sheet)
        bank = Memory.open(self.bank)
        query = Document.of(*parts, id="query")
        (ids,), scores = bank.search(embed(encoder_of(bank, self.encoder, self.place.device), [query]).vectors, self.k)
        found = [(bank[id], round(float(score), 4)) for id, score in zip(ids, scores[0], strict=True)]
        results = [
            {"id": d.id, "score": score, "text": d.text, "source": d.source, "license": d.meta.get("license")}
            for d, score in found
        ]
        for one in results:
            notes = "  ".join(str(one[name]) for name in ("source", "license") if one[name])
            print(line(f"{one['score']:.3f}  {one['id']}  {one['text']}" + (f"  [{notes}]" if notes else "")))
        told = {"bank": self.bank, "text": self.text, "image": self.image, "k": self.k, "results": results}
        if self.sheet is not None:
            write_sheet(self.sheet, contact_sheet(found, self.text, query))
            print(self.sheet)
            told["sheet"] = str(self.sheet)
        return told


@dataclass(frozen=True, kw_only=True)
class IndexInfo(Verb):
    """Say what a memory bank holds, and whether it is sound.

    examples:
      cm3 index info banks/photos
      cm3 index info banks/photos --verify --json
    """

    bank: Annotated[Positional[str], arg(metavar="BANK")]
    """The bank's folder."""
    verify: Annotated[Flag, arg(help="Read everything and compare checksums.")] = False

    def run(self) -> dict[str, Any]:
        """Print a table."""
        from cm3.retrieval.memory import Memory

        bank = Memory.open(self.bank)
        if self.verify:
            with progress("reading", unit="document") as update:
                bank.verify(update)
        info = bank.info()
        print(f"documents   {info['documents']}, and {info['deleted']} deleted")
        print(f"encoder     {info['encoder']}, width {info['width']}")
        for what in ("sources", "licenses"):
            print(line(f"{what:<12}" + ", ".join(f"{name or 'none given'} ({n})" for name, n in info[what].items())))
        for segment in info["segments"]:
            print("segment     " + ", ".join(f"{name} {value}" for name, value in segment.items()))
        for name, size in info["bytes"].items():
            print(f"{name:<12}{size / 1e6:.2f} MB")
        print(f"a vector    {info['bytes_a_vector']} bytes")
        list_skipped(info["skipped"])
        if self.verify:
            print("verified    every file is as it was written")
        return {**info, "verified": self.verify}


def read(sources: Sequence[str], license: str | None, split: str | None) -> Source:
    """Return the documents of sources, one after the other. `license` is of folders of pictures, `split` of COCO.

    Raises `RequestError` for no source.
    """
    from cm3.read.find import open_reader, parse_source, reader_class

    if not sources:
        raise RequestError("no source given; name at least one folder of captioned pictures")
    readers = []
    for text in sources:
        source = parse_source(text)
        if (
            source.split is None
            and source.kind in (None, "coco")
            and reader_class("coco").recognises(Path(source.path))
        ):
            source = source._replace(split=split)
        reader = open_reader(source)
        reader.license = license
        readers.append(reader)
    return Chain(readers) if all(isinstance(r, Sized) for r in readers) else chain.from_iterable(readers)


class Chain:
    """Sources one after the other, with their length."""

    def __init__(self, sources: Sequence[Any]) -> None:
        self.sources = sources

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.sources)


def open_encoder(name: str, *, device: str = "cpu", fetch: bool = True) -> Encoder:
    """Return an encoder by folder or hub id, or that of a model, by the model's name or folder.

    Without `fetch`, one of the hub only where it is on this machine already.
    """
    from cm3.retrieval.embed import load_encoder

    return load_encoder(own_encoder(name), device=device, fetch=fetch)


def encoder_of(bank: Memory, name: str | None, device: str = "cpu") -> Encoder:
    """Return the encoder of a bank: the one given, else where it was at the build, not fetched by the bank's word.

    Raises `CheckpointError` for another.
    """
    noted = bank.about.get("encoder")
    known = name or (noted if noted and isinstance(noted, str) else bank.encoder_name.removeprefix("clip:"))
    try:
        encoder = open_encoder(known, device=device, fetch=name is not None)
    except CheckpointError as error:
        if name is not None:
            raise
        raise CheckpointError(
            f"memory bank {str(bank.folder)!r}: its encoder {bank.encoder_name!r} is not found at {known!r}; "
            "say where it is with --encoder"
        ) from error
    bank.check_encoder(encoder)
    return encoder


def told(bank: Memory, report: Report | None) -> dict[str, Any]:
    """Print what became of a build; returns it for a machine."""
    skipped = [vars(u) for u in report.skipped] if report else []
    resumed, dropped = (report.resumed, report.dropped) if report else (0, False)
    if resumed:
        print(f"{bank.folder}: went on after {resumed} documents of a run that was killed")
    if dropped:
        print(f"{bank.folder}: what a killed run had made of other documents, or with other settings, was dropped")
    added = report.added if report else len(bank)
    print(f"{bank.folder}: {added} added, {len(skipped)} left out, {len(bank)} documents")
    list_skipped(skipped)
    return {
        "bank": str(bank.folder),
        "added": added,
        "documents": len(bank),
        "encoder": bank.encoder_name,
        "index": [s.index.kind for s in bank.store.facts.segments],
        "skipped": skipped,
        "resumed": resumed,
        "dropped": dropped,
    }


def list_skipped(skipped: Sequence[Mapping[str, Any]]) -> None:
    """Print the first documents that were left out."""
    for one in skipped[:SHOWN]:
        print(line(f"left out: {one['id']}  {one['reason']}"))
    if len(skipped) > SHOWN:
        print(f"left out: {len(skipped) - SHOWN} more; --json names all")


def contact_sheet(found: Sequence[tuple[Any, float]], text: str | None, query: Any) -> Any:
    """Return the pictures found with their captions, scores, sources and licences; words without a picture on a blank
    one."""
    import PIL.Image

    from cm3.cli.sheet import Line, Panel, Section, sheet
    from cm3.picture import rgb

    blank = PIL.Image.new("RGB", (256, 256), "#f4f4f7")
    panels = []
    for document, score in found:
        notes = ", ".join(str(v) for v in (document.source, document.meta.get("license")) if v)
        lines = [Line(document.text, "prompt"), Line(f"{score:.3f}  {document.id}", "body"), Line(notes, "label")]
        picture = rgb(document.images[0].pixels) if document.images else blank
        panels.append(Panel(picture, tuple(line for line in lines if line.text.strip())))
    sections = [Section("Found, best first", tuple(panels))]
    if query.images:
        sections.insert(0, Section("Searched with", (Panel(rgb(query.images[0].pixels)),)))
    return sheet(sections, text or "By picture", f"{len(found)} of a memory bank", columns=max(2, min(4, len(found))))

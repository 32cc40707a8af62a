"""`cm3 tokenizer text train|eval`, `cm3 tokenizer image train`: learn the two tokenizers, measure the first."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import Verb, at_least, progress
from cm3.cli.outputs import check_folder
from cm3.cli.train import Train
from cm3.errors import CheckpointError, DataError, RequestError

if TYPE_CHECKING:
    from cm3.data.text_stream import TextStream


@dataclass(frozen=True, kw_only=True)
class TextTrain(Verb):
    """Learn a byte-level BPE from text of any amount. It is lossless for any text and any bytes.

    A source is a text file, a line at a time (.txt, .txt.gz), a .jsonl (.gz) or .parquet with "text" or "caption",
    Common Crawl's own pages (.warc.wet.gz), a folder of those, or any dataset, [KIND:]PATH[@SPLIT]. Of more text than
    --limit a sample over all sources is taken, the same one whenever the command is given again. One text in 100 is
    kept apart to measure on.

    examples:
      cm3 tokenizer text train captions.txt --entries 512 --out tokenizer.json
      cm3 tokenizer text train corpus/ wiki.txt.gz coco:data/coco@train2017 --json
      cm3 tokenizer text train CC-MAIN-2022-21/ --limit 2000000000
      cm3 tokenizer text train corpus/ --limit 2000000000 --against openai-community/gpt2
    """

    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE")]
    """Text files, folders of them, datasets."""
    entries: Annotated[int, arg(metavar="N")] = 56_320
    """Number of entries, 256 for the single bytes among them. A small corpus may yield fewer."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("tokenizer.json")
    """Where to write it."""
    limit: Annotated[int, arg(metavar="BYTES")] = 500_000_000
    """Most text to learn from; memory grows with its distinct words."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Draws what is taken of more text than that."""
    against: Annotated[tuple[str, ...], arg(metavar="TOKENIZER", help_behavior_hint="")] = ()
    """Others to compare with on the same text: a tokenizer.json or a hub id."""

    def run(self) -> dict[str, Any]:
        """Train, save and measure."""
        from cm3.data.text_stream import HeldOut
        from cm3.files import locked
        from cm3.tokens.text import WORD, TextTokenizer

        at_least(256, entries=self.entries)
        stream = open_stream(self.sources, self.limit, self.seed)
        check_place(self.out)
        others, missing = open_others(self.against)
        with locked(self.out.with_name(f".{self.out.name}.lock"), f"tokenizer {str(self.out)!r}"):
            held = HeldOut(watched(stream, self.sources))
            tokenizer = TextTokenizer.train(held, self.entries, progress=sys.stderr.isatty())
            stats = tokenizer.stats(held.texts, others)
            tokenizer.save(self.out)
        apart = bool(held.apart)
        print(f"{self.out}: {tokenizer.size} entries")
        print(f"learnt from     {amount(stream)}")
        if tokenizer.cut:
            print(f"                {tokenizer.cut} cuts in words of more than {WORD} characters, to learn from")
        print(
            f"measured on     {stats['texts']} {'texts kept apart' if apart else 'of them, too few to keep one apart'}"
        )
        show(tokenizer.size, stats, missing)
        made = {"file": str(self.out), "entries": tokenizer.size, "held_out": apart, "cut": tokenizer.cut}
        return {**made, **told(stream, stats, missing)}


@dataclass(frozen=True, kw_only=True)
class TextEval(Verb):
    """Measure a text tokenizer: bytes a token, share of its entries used, and that every text comes back.

    examples:
      cm3 tokenizer text eval tokenizer.json captions.txt --json
      cm3 tokenizer text eval tokenizer.json coco:data/coco@val2017 --against openai-community/gpt2
    """

    tokenizer: Annotated[Positional[str], arg(metavar="TOKENIZER")]
    """A tokenizer.json."""
    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE")]
    """Text files, folders of them, datasets, as `cm3 tokenizer text train` takes them."""
    limit: Annotated[int, arg(metavar="BYTES")] = 50_000_000
    """Most text to measure on; of more, a sample over all sources."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Draws what is taken of more text than that."""
    against: Annotated[tuple[str, ...], arg(metavar="TOKENIZER", help_behavior_hint="")] = ()
    """Others to compare with on the same text: a tokenizer.json or a hub id."""

    def run(self) -> dict[str, Any]:
        """Encode and decode every text."""
        from cm3.tokens.text import TextTokenizer

        tokenizer = TextTokenizer.load(self.tokenizer)
        stream = open_stream(self.sources, self.limit, self.seed)
        others, missing = open_others(self.against)
        stats = tokenizer.stats(watched(stream, self.sources), others)
        print(f"measured on     {amount(stream)}")
        show(tokenizer.size, stats, missing)
        return {"entries": tokenizer.size, **told(stream, stats, missing)}


@dataclass(frozen=True, kw_only=True)
class ImageTrain(Train):
    """Train an image tokenizer, as `cm3 train` does; the recipe of another run is refused.

    examples:
      cm3 tokenizer image train recipes/scenes.py:image_tokenizer --help
      cm3 tokenizer image train recipes/scenes.py:image_tokenizer --steps 500 --out runs/try
    """

    @classmethod
    def check(cls, spec: str, config: Any) -> Any:
        """Return the settings of an image tokenizer's run. Raises `RequestError` for another's."""
        from cm3.train.image_tokenizer import ImageTokenizerConfig

        if not isinstance(config, ImageTokenizerConfig):
            raise RequestError(f"recipe {spec!r}: is a {type(config).__name__}; must be the run of an image tokenizer")
        return config


def check_place(out: Path) -> None:
    """Raise `RequestError` where a text tokenizer may not be written: no folder, no right, or over anything else."""
    from cm3.tokens.text import TextTokenizer

    if out.is_dir():
        raise RequestError(f"--out {out}: is a folder; give a file, such as {out / 'tokenizer.json'}")
    check_folder(out.parent)
    beside = ("decoder.safetensors", "manifest.json", "plan.json", "checkpoints")  # of a bundle, a store, a run
    if out.name == "tokenizer.json" and (found := [name for name in beside if (out.parent / name).exists()]):
        raise RequestError(
            f"--out {out}: is the place of the tokenizer that {found[0]} beside it was made with; give another file"
        )
    if out.exists():
        try:
            TextTokenizer.load(out)
        except CheckpointError as error:
            raise RequestError(
                f"--out {out}: is there and no text tokenizer, and would be lost; give another file"
            ) from error


def open_stream(sources: Sequence[str], limit: int, seed: int) -> TextStream:
    """Return the texts of sources. Raises `RequestError` for none, for a limit below 1 byte and a seed below 0."""
    from cm3.data.text_stream import TextStream

    if not sources:
        raise RequestError("no source given; name at least one text file, folder or dataset")
    at_least(1, limit=limit)
    at_least(0, seed=seed)
    return TextStream(sources, limit=limit, seed=seed)


def watched(stream: TextStream, sources: Sequence[str]) -> Iterator[str]:
    """Yield the texts, with a bar that counts their bytes towards the limit. Raises `DataError` where there is none."""
    with progress("reading", unit="B") as update:
        for i, text in enumerate(stream):
            if i % 1000 == 0:
                update(stream.bytes, stream.limit or 0, f"{stream.texts} texts")
            yield text
    if not stream.texts:
        raise DataError(
            f"{', '.join(sources)}: no text in the first {stream.limit} bytes; give files or datasets with text"
        )


def open_others(names: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tokenizers that are at hand, and why the others are not."""
    from cm3.tokens.text import open_other

    found, missing = {}, {}
    for name in names:
        try:
            found[name] = open_other(name)
        except CheckpointError as error:
            missing[name] = str(error)
    return found, missing


def amount(stream: TextStream) -> str:
    """Say how much text was read, and whether that was all."""
    part = "all there is" if stream.whole else f"a sample: the limit is {stream.limit} bytes"
    why = ", ".join(f"{n} x {reason}" for reason, n in stream.skipped.most_common())
    left_out = f"; {stream.skipped.total()} records left out: {why}" if stream.skipped else ""
    return f"{stream.texts} texts, {stream.bytes} bytes ({part}{left_out})"


def show(entries: int, stats: dict[str, Any], missing: dict[str, str]) -> None:
    """Print how a tokenizer fits."""
    print(f"bytes a token   {stats['bytes_per_token']:.3f}   ({stats['bytes']} bytes, {stats['tokens']} tokens)")
    for name, figure in stats["against"].items():
        print(f"                {figure:.3f}   {name}")
    for reason in missing.values():
        print(f"left out: {reason}")
    print(f"entries used    {stats['ids_used']:.1%} of {entries}")
    print(f"comes back      {'every text' if stats['lossless'] else 'NOT every text'}")


def told(stream: TextStream, stats: dict[str, Any], missing: dict[str, str]) -> dict[str, Any]:
    """Return the figures, and what they are of."""
    read = {"texts": stream.texts, "bytes": stream.bytes, "whole": stream.whole, "skipped": dict(stream.skipped)}
    return {"read": read, **stats, "missing": missing}

"""`cm3 tokenizer text|image train|eval`: learn and measure the two tokenizers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.files import check_folder
from cm3.cli.options import ModelVerb, Verb, at_least, progress
from cm3.cli.train import Train
from cm3.errors import DataError, RequestError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class TextTrain(Verb):
    """Learn a byte-level BPE from text files, a line at a time. It is lossless for any text and any bytes.

    examples:
      cm3 tokenizer text train captions.txt --size 512 --out tokenizer.json
      cm3 tokenizer text train corpus/ --size 56320 --json        every .txt below a folder
    """

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE")]
    """UTF-8 text files, or folders of .txt files."""
    size: Annotated[int, arg(metavar="N")] = 8192
    """Number of entries, 256 for the single bytes among them. A small corpus may yield fewer."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("tokenizer.json")
    """Where to write it."""

    def run(self) -> dict[str, Any]:
        """Train and save."""
        from cm3.tokens.text import TextTokenizer

        found = expand(self.files, (".txt",))
        check_folder(self.out.parent)
        tokenizer = TextTokenizer.train(lines_of(found), self.size, progress=sys.stderr.isatty())
        tokenizer.save(self.out)
        stats = tokenizer.stats(lines_of(found))
        print(f"{self.out}: {tokenizer.size} entries, {stats['bytes_per_token']:.2f} bytes a token on its own corpus")
        return {"file": str(self.out), "size": tokenizer.size, "files": len(found), **stats}


@dataclass(frozen=True, kw_only=True)
class TextEval(Verb):
    """Measure a text tokenizer on files: bytes a token, share of its entries used, and that every line comes back.

    examples:
      cm3 tokenizer text eval tokenizer.json captions.txt --json
    """

    tokenizer: Annotated[Positional[str], arg(metavar="TOKENIZER")]
    """A tokenizer.json."""
    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE")]
    """UTF-8 text files, or folders of .txt files."""

    def run(self) -> dict[str, Any]:
        """Encode and decode every line."""
        from cm3.tokens.text import TextTokenizer

        tokenizer = TextTokenizer.load(self.tokenizer)
        found = expand(self.files, (".txt",))
        stats = tokenizer.stats(lines_of(found))
        lossless = all(tokenizer.decode(tokenizer.encode(line)) == line for line in lines_of(found))
        print(f"bytes a token   {stats['bytes_per_token']:.3f}   ({stats['bytes']} bytes, {stats['tokens']} tokens)")
        print(f"entries used    {stats['ids_used']:.1%} of {tokenizer.size}")
        print(f"comes back      {'every line' if lossless else 'NOT every line'}")
        return {"size": tokenizer.size, "lossless": lossless, **stats}


@dataclass(frozen=True, kw_only=True)
class ImageTrain(Train):
    """Train an image tokenizer: a recipe whose settings are an ImageTokenizerConfig, as `cm3 train`.

    examples:
      cm3 tokenizer image train recipes/scenes.py:image_tokenizer --help
      cm3 tokenizer image train recipes/scenes.py:image_tokenizer --steps 500 --out runs/try
    """


@dataclass(frozen=True, kw_only=True)
class ImageEval(ModelVerb):
    """Measure a model's image tokenizer on pictures: PSNR of what comes back, and how much of the codebook is used.

    Each picture is brought to the tokenizer's size first, and compared at that size.

    examples:
      cm3 tokenizer image eval photos/ --n 200
      cm3 tokenizer image eval photos/ --n 200 --size 256
      cm3 tokenizer image eval a.png b.jpg --model runs/mine --json
    """

    pictures: Annotated[Positional[tuple[str, ...]], arg(metavar="PICTURE")]
    """Picture files, or folders of them."""
    n: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """At most this many, spread evenly over their names."""
    size: Annotated[int | None, arg(metavar="PIXELS", help_behavior_hint="(default: the model's own)")] = None
    """Side to measure at, a multiple of the tokenizer's factor; its weights serve every size."""

    def run(self) -> dict[str, Any]:
        """Encode and decode every picture."""
        from cm3.document import Image
        from cm3.tokens.image import ImageTokenizer
        from cm3.train.image_tokenizer import evaluate_image_tokenizer

        at_least(1, n=1 if self.n is None else self.n)
        found = expand(self.pictures, PICTURES)
        paths = found[:: max(1, len(found) // self.n)][: self.n] if self.n else found
        model = self.open_model()
        image = ImageTokenizer(model.bundle.vqgan, self.size or model.image_size)

        def batches() -> Iterator[Any]:
            from cm3.tokens.image import to_pixels

            with progress("pictures", unit="picture") as update:
                for start in range(0, len(paths), image.batch):
                    chunk = paths[start : start + image.batch]
                    yield to_pixels([image.preprocess(Image.open(p).pixels) for p in chunk])
                    update(start + len(chunk), len(paths))

        result = evaluate_image_tokenizer(image.vqgan, batches())
        print(f"PSNR         {result['psnr_db']:.2f} dB over {len(paths)} pictures of {image.size}x{image.size}")
        print(f"codes used   {result['codes_used']:.1%} of {image.codes}, perplexity {result['perplexity']:.0f}")
        return {"n": len(paths), "size": image.size, "codes": image.codes, **result}


def expand(names: Sequence[str], suffixes: tuple[str, ...]) -> list[Path]:
    """Files, with each folder replaced by the files below it that end in `suffixes`, by name.

    Raises `DataError` for a name that is neither, and for a folder with no such file; `RequestError` for no name.
    """
    if not names:
        raise RequestError("no file given; name at least one file or folder")
    found: list[Path] = []
    for name in names:
        path = Path(name)
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes) if path.is_dir() else [path]
        if not path.exists():
            raise DataError(f"{name!r}: no such file or folder; check the path")
        if not inside:
            raise DataError(f"{name!r}: the folder holds no file that ends in {', '.join(suffixes)}")
        found += inside
    return found


def lines_of(paths: Iterable[Path]) -> Iterator[str]:
    """Every line of text files, with its end. Raises `DataError` for one that is not UTF-8."""
    for path in paths:
        try:
            with path.open(encoding="utf-8", newline="") as file:
                yield from file
        except UnicodeDecodeError as error:
            raise DataError(f"{str(path)!r}: not UTF-8 at byte {error.start}; convert it first") from error

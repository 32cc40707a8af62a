"""`cm3 eval tokenizer`: an image tokenizer on pictures."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import HERE, Precision, Verb, at_least, progress
from cm3.cli.outputs import check_sheet, write_sheet
from cm3.cli.picture_files import Pictures
from cm3.cli.results import check_result_file, keep, lines
from cm3.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    import PIL.Image

    from cm3.model.lpips import LPIPS
    from cm3.tokens.image import ImageTokenizer

SHOWN = 8
"""Pictures on a sheet."""


@dataclass(frozen=True, kw_only=True)
class EvalTokenizer(Verb):
    """Measure an image tokenizer on pictures: how well they come back, and how much of the codebook is used.

    PSNR and SSIM always, LPIPS where both files of its weights are given, rFID where features are, as for cm3 eval fid;
    the share of the codes that are used, and their perplexity. Each picture is brought to the tokenizer's size first,
    and compared at that size, in 8 bits. A model is a bundle, or the folder of a run: of an image tokenizer, or of a
    model that was trained to its end.

    examples:
      cm3 eval tokenizer scenes photos/ --n 200 --size 256 --sheet look.png
      cm3 eval tokenizer runs/scenes/image_tokenizer a.png b.jpg --json
      cm3 eval tokenizer runs/photos/image_tokenizer coco:data/coco@val2017 --lpips vgg16.pth vgg.pth
      cm3 eval tokenizer runs/photos/image_tokenizer photos/ --features pt_inception-2015-12-05-6726825d.pth
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """The image tokenizer: of a model in the package (scenes, stickers), of a bundle's folder, of a run, or of
    hf://OWNER/NAME."""
    pictures: Annotated[Positional[tuple[str, ...]], arg(metavar="PICTURE")]
    """Picture files, folders of them, datasets ([KIND:]PATH[@SPLIT])."""
    n: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """At most this many, spread evenly over their names."""
    size: Annotated[int | None, arg(metavar="PIXELS", help_behavior_hint="(default: the model's own)")] = None
    """Side to measure at, a multiple of the tokenizer's factor; its weights serve every size."""
    lpips: Annotated[tuple[Path, Path] | None, arg(metavar="VGG16 LIN", help_behavior_hint="")] = None
    """The two files of LPIPS: torchvision's VGG16, and the lpips package's own weights for it."""
    features: Annotated[str | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """File of FID's Inception, or folder of a CLIP or a DINO, for rFID."""
    sheet: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write a sheet, a PNG: the first eight pictures over what comes back of them."""
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the result here, JSON."""
    place: Annotated[Precision, HERE] = Precision()

    def run(self) -> dict[str, Any]:
        """Encode and decode every picture."""
        from cm3.score.features import load_features
        from cm3.score.reconstruction import score_reconstruction
        from cm3.tokens.image import to_pixels
        from cm3.train.image_sheet import over
        from cm3.weights import on_device

        at_least(1, n=1 if self.n is None else self.n, size=1 if self.size is None else self.size)
        if self.sheet is not None:
            check_sheet(self.sheet)
        began, read = time.perf_counter(), hashlib.sha256()
        check_result_file(self.out)
        if not self.pictures:
            raise RequestError("no picture given; name at least one file, folder or dataset")
        pictures = Pictures(self.pictures, self.n)
        shown: list[PIL.Image.Image] = []
        image = open_image_tokenizer(self.model, self.size)
        on_device(image.vqgan, self.place.device, "float32" if self.place.dtype == "auto" else self.place.dtype)
        lpips = self._lpips()
        features = None if self.features is None else load_features(self.features, device=self.place.device)

        def batches() -> Iterator[tuple[list[str], Any]]:
            found = iter(pictures)
            with progress("pictures", unit="picture") as update:
                while some := list(itertools.islice(found, image.batch)):
                    chunk = [image.preprocess(picture.pixels) for _, picture in some]
                    shown.extend(chunk[: SHOWN - len(shown)])
                    for _, picture in some:
                        read.update(picture.digest)
                    yield [name for name, _ in some], to_pixels(chunk)
                    update(pictures.seen, pictures.total)

        result = score_reconstruction(image.vqgan, batches(), lpips=lpips, features=features)
        if self.sheet is not None:
            write_sheet(self.sheet, over(to_pixels(shown), to_pixels(image.decode(image.encode(shown)))))
        print(f"{pictures.seen} pictures of {image.size} x {image.size}, {image.codes} codes")
        # The pictures that were read, in order, and no path: these may be of many places, and --n takes some.
        page = keep(
            self.out, pictures.told(result), "tokenizer", 1, {"pictures": read.hexdigest()}, {}, began,
            model=image.vqgan.fingerprint(),
        )  # fmt: skip
        print("\n".join(lines(page)))
        return page

    def _lpips(self) -> LPIPS | None:
        from cm3.model.lpips import LPIPS
        from cm3.weights import on_device

        return None if self.lpips is None else on_device(LPIPS.load(*self.lpips), self.place.device)


def open_image_tokenizer(model: str, size: int | None = None) -> ImageTokenizer:
    """Return the image tokenizer of a bundle, of an image tokenizer's run, or of the bundle that another run wrote.

    Raises `CheckpointError` for what is none of them, `ConfigError` for a size that it does not divide.
    """
    from cm3.files import read_json
    from cm3.model import bundle as bundles
    from cm3.tokens.image import ImageTokenizer
    from cm3.train.image_tokenizer import load_image_tokenizer

    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        page = read_json(folder / "config.json", f"run {model!r}")
        if "vqgan" in page:
            vqgan, own = load_image_tokenizer(folder), page.get("size")
            if type(own) is not int:
                raise CheckpointError(f"run {model!r}: config.json has no size; restore it")
            return ImageTokenizer(vqgan, size or own)
        if "files" not in page and (folder / "bundle").is_dir():
            model = str(folder / "bundle")
    made = bundles.load(bundles.find(model), weights=False)
    return ImageTokenizer(made.vqgan, size or made.image_size)

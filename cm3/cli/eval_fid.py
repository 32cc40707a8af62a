"""`cm3 eval fid`: sets of pictures against each other."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from cm3.cli.options import HERE, Device, Verb, at_least, progress
from cm3.cli.outputs import line
from cm3.cli.results import check_file, check_result_file, keep, lines
from cm3.errors import RequestError

if TYPE_CHECKING:
    from cm3.cli.picture_files import Pictures
    from cm3.score.features import NetworkFeatures
    from cm3.score.fid import Sample

NETWORKS = "(default: the network's own)"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The way of pictures to a network's square. Without any of these it is pytorch-fid's for Inception, and CLIP's for
    a CLIP or a DINO: the centred square, bicubic."""

    crop: Annotated[Literal["none", "centre"] | None, arg(metavar="none|centre", help_behavior_hint=NETWORKS)] = None
    """All of a picture, stretched to the square, or its largest centred square."""
    size: Annotated[int | None, arg(metavar="PIXELS", help_behavior_hint="")] = None
    """Bring pictures to this side first, by Lanczos in 8 bits, as if they had been drawn at it."""
    filter: Annotated[
        Literal["bilinear", "bicubic"] | None, arg(metavar="bilinear|bicubic", help_behavior_hint=NETWORKS)
    ] = None
    """How pictures are scaled to the network's square."""
    antialias: Annotated[Literal["yes", "no"] | None, arg(metavar="yes|no", help_behavior_hint=NETWORKS)] = None
    """Whether that smooths before it scales down."""
    quantise: Annotated[Literal["yes", "no"] | None, arg(metavar="yes|no", help_behavior_hint=NETWORKS)] = None
    """Whether scaled values are rounded to 8 bits."""
    colours: Annotated[
        Literal["stored", "upright"] | None, arg(metavar="stored|upright", help_behavior_hint=NETWORKS)
    ] = None
    """Pixels as the file has them, or upright by EXIF with transparent parts on white."""

    def fields(self) -> dict[str, Any]:
        """Return those that were given, as fields of `cm3.score.features.Preparation`."""
        at_least(1, size=1 if self.size is None else self.size)
        return {n: {"yes": True, "no": False}.get(v, v) for n, v in vars(self).items() if v is not None}


@dataclass(frozen=True, kw_only=True)
class EvalFid(Verb):
    """Compare two sets of pictures: FID and the bias that it has, improved precision and recall, MIND.

    A set is a folder of pictures, with all below it; a memory bank or store that keeps pictures; a dataset,
    [KIND:]PATH[@SPLIT]; or statistics in a .npz, of pytorch-fid or --save-stats, of which FID alone can be had. The
    first set is the predictions. Features are by a file, FID's Inception as pytorch-fid publishes it, or by a folder of
    a CLIP or a DINO in Hugging Face's layout; nothing is fetched. No picture is left out: one that cannot be read is an
    error.

    examples:
      cm3 eval fid drawn/ data/coco/val2014 --features pt_inception-2015-12-05-6726825d.pth --crop centre --size 256
      cm3 eval fid drawn/ coco256.npz --features pt_inception-2015-12-05-6726825d.pth --json
      cm3 eval fid data/coco/val2014 --features models/dinov2-base --save-stats coco-dino.npz
      cm3 eval fid drawn/ bank/ --features models/clip-vit-base-patch32 --measures mind precision_recall
    """

    predictions: Annotated[Positional[str], arg(metavar="PREDICTIONS")]
    """The pictures to measure: a folder, a bank, a dataset, or statistics (.npz)."""
    reference: Annotated[Positional[str | None], arg(metavar="REFERENCE", help_behavior_hint="")] = None
    """The pictures to measure them against; not needed with --save-stats."""
    features: Annotated[str | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """File of FID's Inception, or folder of a CLIP or a DINO; not needed between two files of statistics."""
    measures: Annotated[
        tuple[str, ...], arg(metavar="MEASURE", help_behavior_hint="(default: all that can be had)")
    ] = ()
    """Of fid, precision_recall, mind. With fid alone, memory does not grow with the number of pictures."""
    k: Annotated[int, arg(metavar="K")] = 3
    """The neighbour of precision and recall."""
    directions: Annotated[int, arg(metavar="N")] = 1000
    """Directions that MIND projects on."""
    seed: Annotated[int, arg(metavar="N")] = 2020
    """Draws these directions, and of the larger set as many as the smaller has."""
    batch: Annotated[int, arg(metavar="N")] = 32
    """Pictures that go through the network together; the figures do not depend on it."""
    save_stats: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the statistics of PREDICTIONS here, a .npz that pytorch-fid reads too."""
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the result here, JSON."""
    prepare: Annotated[Prepared, HERE] = Prepared()
    place: Annotated[Device, HERE] = Device()

    def run(self) -> dict[str, Any]:
        """Measure, print the figures."""
        from cm3.cli.picture_files import Pictures
        from cm3.score.features import load_features
        from cm3.score.fid import Sample, check_measures, score_fid

        at_least(1, k=self.k, directions=self.directions, batch=self.batch)
        at_least(0, seed=self.seed)
        check_measures(self.measures)
        if self.reference is None and self.save_stats is None:
            raise RequestError("no REFERENCE given; name the pictures to measure against, or --save-stats FILE")
        began = time.perf_counter()
        check_file(self.save_stats, "--save-stats")
        check_result_file(self.out)
        if self.save_stats is not None and self.save_stats.suffix != ".npz":
            raise RequestError(f"--save-stats {self.save_stats}: must end in .npz, by which statistics are known")
        sources = [source for source in (self.predictions, self.reference) if source is not None]
        # Whatever is wrong with them is told before a network is read.
        opened = [Sample.load(s) if _is_statistics(s) else Pictures([s], whole=True) for s in sources]
        features = None
        if any(isinstance(one, Pictures) for one in opened):
            if self.features is None:
                raise RequestError(
                    "no --features given; name the file of FID's Inception, or a folder of a CLIP or a DINO"
                )
            features = load_features(self.features, device=self.place.device, prepare=self.prepare.fields())
        predictions, *others = (
            self._sample(one, source, features) if isinstance(one, Pictures) else one
            for one, source in zip(opened, sources, strict=True)
        )
        if self.save_stats is not None:
            predictions.gaussian.save(self.save_stats)
            print(self.save_stats, file=sys.stderr)
        if not others:
            tell(predictions.warnings)
            return {"n": predictions.gaussian.n, "settings": dict(predictions.gaussian.settings)}
        result = score_fid(
            predictions, others[0], measures=self.measures or None, k=self.k, directions=self.directions, seed=self.seed
        )
        assert self.reference is not None
        page = keep(
            self.out, result, "fid", 1, {"pictures": _place(self.reference, others[0])},
            {"pictures": _place(self.predictions, predictions)}, began,
        )  # fmt: skip
        print("\n".join(lines(page)))
        return page

    def _sample(self, pictures: Pictures, source: str, features: NetworkFeatures | None) -> Sample:
        from cm3.score.fid import sample

        assert features is not None
        keep = self.measures != ("fid",) and (self.reference is not None)
        with progress("pictures", unit="picture") as update:
            return sample(
                ((_below(name, source), picture.pixels) for name, picture in pictures),
                features, source, batch=self.batch, keep=keep, progress=lambda n: update(n, pictures.total),
            )  # fmt: skip


def _is_statistics(source: str) -> bool:
    return source.lower().endswith(".npz") and not Path(source).is_dir()


def _place(source: str, pictures: Sample) -> str | Path:
    """Return where pictures are, or, of a dataset, the sum of the names and pixels of those that were read."""
    if Path(source).exists():
        return Path(source)
    whole = hashlib.sha256()
    for id, shown in zip(pictures.ids, pictures.shown, strict=True):
        whole.update(f"{id}\0{shown.hex()}\n".encode("utf-8", "backslashreplace"))
    return whole.hexdigest()


def _below(name: str, source: str) -> str:
    """Return the name of a picture without the folder that was given, so that results compare across machines."""
    path = Path(name)
    return path.relative_to(source).as_posix() if path.is_relative_to(source) and path != Path(source) else name


def tell(warnings: Sequence[str]) -> None:
    """Print the warnings of a result to stderr, a line each."""
    for warning in warnings:
        print(line(f"cm3: warning: {warning}"), file=sys.stderr, flush=True)

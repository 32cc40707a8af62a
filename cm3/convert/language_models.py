"""A language model of Chameleon's family somewhere on a disk, seen as ours: published, or a bundle.

    Meta's      a folder with consolidated.pth or consolidated.NN.pth, params.json and consolidate_params.json; the
                folder tokenizer in it, beside it or above it has text_tokenizer.json and vqgan.ckpt
    others      a folder with config.json, tokenizer.json and weights; an image tokenizer below model.vqmodel.
    ours        a bundle

Which layout it is, its tensors say (decoder_layouts.py). Opening reads headers, norms, the tokenizers and what a check
needs: queries of one layer of Meta's shards, and both embeddings of a tied model. Other weights are read when they are
asked for; `Model.check` reads all of a bundle's, for their checksum.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from cm3.convert.decoder_layouts import Held, Read, norm_groups, our_shapes, permuted, recognise, seen_as_ours
from cm3.convert.decoder_settings import Settings, check_family
from cm3.convert.ids import IdMap
from cm3.convert.image_files import open_image_tokenizer, said_beside, skipped_in, stored_type
from cm3.convert.image_layouts import DECODER, Found, read_image_tokenizer, root_of
from cm3.convert.problems import refuse, some
from cm3.convert.tensor_files import TensorFiles
from cm3.errors import CheckpointError, Cm3Error
from cm3.files import read_json, said, sha256
from cm3.model import bundle as bundles
from cm3.model.decoder import DecoderConfig
from cm3.model.folder import FILES
from cm3.model.int8 import Int8Decoder
from cm3.sequence.segments import image_cells
from cm3.tokens.chameleon import read_text_tokenizer
from cm3.vocab import Vocab

NAMES = {"meta": "chameleon-meta", "transformers": "chameleon-hf", "anole": "anole-hf", "lumina": "lumina-hf"}
"""Layouts by the names that users see."""
PROMPTS = {"anole": "anole", "lumina": "lumina"}
"""Formats of prompts by layout, where it is not Chameleon's."""
_DRAWS = {"temperature": 0.7, "top_p": 0.9}
_GUIDES = {"guidance": 3.0, "image_guidance": 1.2}
_NEITHER = {"guidance": 1.0, "image_guidance": 1.0}
SAMPLING: dict[str, dict[str, Any]] = {
    "image": _DRAWS | _GUIDES,
    "text": _DRAWS,
    "edit": _GUIDES,
    "control": _GUIDES,
    "segment": _NEITHER,
}
"""The sampling that bundles recommend: the defaults of Meta's code, but for its penalty of repetitions (1.2 of words),
which this engine has not. Kinds without a number there are guided as pictures are; a map as everywhere, not at all."""
LUMINA: dict[str, dict[str, Any]] = {
    "image": {"guidance": 4.0, "unconditional": "dropped"}, "text": {"top_p": 0.9},
    "edit": _NEITHER, "control": _NEITHER, "segment": _NEITHER,
}  # fmt: skip
"""The same of Lumina-mGPT's: as its README draws and its demonstrations edit, at temperature 1. It draws from the
likeliest 2,000 codes and 10 words; this engine has no such rule, and takes words by their share of probability."""
_TEXTS = ("tokenizer.json", "text_tokenizer.json")
_IMAGE = "vqgan.ckpt"

T = TypeVar("T")


class Model(NamedTuple):
    """A model as ours: `read` gives a weight by our name, with rows in the order of our ids."""

    config: DecoderConfig
    dtypes: dict[str, torch.dtype]
    read: Read
    ids: IdMap
    text: bytes
    image: Found
    converted: dict[str, Any]
    """Where it is from, as a bundle's `about.converted` has it."""
    about: dict[str, Any]
    """The rest of a bundle's `about`."""
    sampling: dict[str, Any]
    weights: TensorFiles | None = None
    """The files that `read` reads, until the end; None where it makes weights in memory and reads no file. All other
    fields are whole once a model is open."""
    sha256: str | None = None
    """Of a bundle, the checksum that its weights are to have."""

    def check(self) -> None:
        """Raise `CheckpointError` where the weights of a bundle have another checksum. All of them are read."""
        if self.sha256 is not None and self.weights is not None:
            (shard,) = self.weights.shards
            if sha256(shard.path) != self.sha256:
                raise CheckpointError(
                    f"{str(shard.path.parent)!r}: {shard.path.name} was altered (its checksum is not the one in "
                    "config.json); restore it"
                )


def open_model(
    source: str | Path, text: str | Path | None = None, image: str | Path | None = None, size: int | None = None
) -> Model:
    """Open a model in any layout, or a bundle. `text` and `image`: its tokenizers, where they are elsewhere. `size`:
    the side of its pictures, of Lumina-mGPT alone, which has several; None is that of its image tokenizer.

    Raises one `CheckpointError` that lists all that is wrong.
    """
    source = Path(source).expanduser()
    if not source.exists():
        raise CheckpointError(f"{str(source)!r}: there is no such file or folder; give the folder of a model")
    if is_bundle(source):
        if text is not None or image is not None or size is not None:
            raise CheckpointError(
                f"{str(source)!r}: is a bundle, with tokenizers of its own and pictures of one size; give no others"
            )
        return _open_bundle(source)
    return _open_published(source, text, image, size)


def _open_published(source: Path, text: str | Path | None, image: str | Path | None, size: int | None) -> Model:
    folder = folder_of(source)
    files = TensorFiles.open(source if source.is_file() else folder)
    shards = held_in(files)
    wrong: list[str] = []
    try:
        family = recognise(shards).family
    except CheckpointError as error:
        raise CheckpointError(f"{str(source)!r}: {error}") from error
    meta, lumina = family == "meta", family == "lumina"
    if size is not None and not lumina:
        wrong.append(f"size={size}: is for Lumina-mGPT, and this model has pictures of one size; leave it out")
    if files.ranks > 1 and not _counted(names := [shard.path.name for shard in files.shards]):
        wrong.append(f"{some(names)}: do not count the parts; name them as Meta does, consolidated.00.pth ...")
    page = {} if meta else tried(wrong, lambda: read_json(folder / "config.json", str(folder)))
    settings = None if page is None else tried(wrong, lambda: _settings(folder, meta, page))
    ours = None
    if settings is not None:
        read_settings = settings
        ours = tried(wrong, lambda: seen_as_ours(shards, read_settings, lambda i, name: files.read(name, i)))
    place = tried(wrong, lambda: text_file(folder, text))
    data = b"" if place is None else place.read_bytes()
    found = tried(wrong, lambda: _image(folder, files, image))
    if found is not None and size is not None:
        found = found._replace(size=size)
    ids = None
    if place is not None:
        rows = None if ours is None else ours.config.vocab_size
        side = found.size if found is not None and lumina else None
        ids = tried(wrong, lambda: IdMap.of(data, rows, (page or {}).get("vocabulary_map"), place.name, side))
    if ids is not None:
        tried(wrong, lambda: read_text_tokenizer(data, str(place)))  # all of it, as whoever loads the bundle does
    if ids is not None and ours is not None and found is not None and lumina:
        tried(wrong, lambda: _check_room(ids.vocab, found, ours.config.context))
    if found is not None and ids is not None and found.vqgan.config.codes != ids.vocab.image:
        wrong.append(
            f"the image tokenizer has {found.vqgan.config.codes} codes, the text tokenizer names {ids.vocab.image}"
        )
    refuse(source, wrong)
    assert ours is not None and ids is not None and found is not None and place is not None
    kinds = sorted({str(kind).removeprefix("torch.") for kind in ours.dtypes.values()})
    converted = {
        "from": NAMES[ours.layout.family],
        "shards": ours.layout.shards,
        "norm_groups": norm_groups(ours.config, ours.read),
        "dtype": kinds[0] if len(kinds) == 1 else kinds,
        "image_tokenizer": found.about,
    }
    if skipped := skipped_in(files):
        converted["skipped"] = skipped
    if ours.averaged:
        converted["averaged"] = {"norms": len(ours.averaged), "apart": max(ours.averaged.values())}
    prompts = PROMPTS.get(ours.layout.family, "chameleon") if ids.turn is not None else "plain"
    read = permuted(ours.read, torch.from_numpy(ids.to_file))
    about = {"prompt_format": prompts}
    sampling = {kind: dict(values) for kind, values in (LUMINA if lumina else SAMPLING).items()}
    return Model(ours.config, ours.dtypes, read, ids, data, found, converted, about, sampling, files)


def _check_room(vocab: Vocab, image: Found, context: int) -> None:
    """Raise `CheckpointError` where a picture with its marks is longer than a model's context."""
    rows = image.size // image.vqgan.config.factor
    if (tokens := image_cells((rows, rows), vocab).size + len(vocab.begins) + 1) > context:
        raise CheckpointError(
            f"size={image.size}: such a picture takes {tokens} tokens, and the model's context is {context}; give a "
            "smaller --size"
        )


def held_in(files: TensorFiles) -> list[Held]:
    """Return the headers of the tensors: of each rank where there are ranks, else of all files together."""
    if files.ranks > 1:
        return [{n: (s.shape, s.dtype) for n, s in shard.tensors.items()} for shard in files.shards]
    return [{n: (e.shape, e.dtype) for n, e in files.items()}]


def _counted(names: list[str]) -> bool:
    """Tell whether names, in order, count the files: in another order their parts would make another model."""
    parts = [re.fullmatch(r"(\D*)(\d{1,3})(\D*)", name) for name in names]
    found = [(part[1], part[3], int(part[2])) for part in parts if part]
    first = found[0] if found else ("", "", 0)
    return first[2] in (0, 1) and found == [(*first[:2], first[2] + i) for i in range(len(names))]


def _settings(folder: Path, meta: bool, page: Mapping[str, Any]) -> Settings:
    if not meta:
        return Settings.of_transformers(page)
    both = [read_json(folder / name, str(folder)) for name in ("params.json", "consolidate_params.json")]
    return Settings.of_meta(*both)


def folder_of(source: Path) -> Path:
    """Return the folder of the weights: that of a file, or the one model of Meta's download.

    Raises `CheckpointError` where a download has two.
    """
    if source.is_file():
        return source.parent
    below = sorted(p.parent for p in source.glob("models/*/params.json"))
    if (source / "params.json").exists() or not below:
        return source
    if len(below) > 1:
        raise CheckpointError(f"{str(source)!r}: has {len(below)} models, {some([p.name for p in below])}; give one")
    return below[0]


def text_file(folder: Path, given: str | Path | None = None) -> Path:
    """Return the file of a model's text tokenizer: in its folder or near, or where `given` says.

    Raises `CheckpointError` where there is none.
    """
    places = [folder, folder / "tokenizer", folder.parent / "tokenizer", folder.parent.parent / "tokenizer"]
    if given is not None:
        given = Path(given).expanduser()
        places = [given, given / "tokenizer"]
        if given.is_file():
            return given
    for place in places:
        for name in _TEXTS:
            if (place / name).is_file():
                return place / name
    raise CheckpointError(
        f"{' and '.join(_TEXTS)}: neither is there, and ids mean nothing without; give the file as --text-tokenizer"
    )


def _image(folder: Path, files: TensorFiles, given: str | Path | None) -> Found:
    """Open the image tokenizer: in the weights, with Meta's file for a half, or Meta's file alone."""
    found = given if given is not None else _near(folder)
    if files.ranks > 1 or root_of(files) is None:
        if found is None:
            raise CheckpointError(
                f"{_IMAGE}: is not there, and a model without draws nothing; give the file as --image-tokenizer"
            )
        return open_image_tokenizer(found)
    half = not any(".decoder." in name for name in files if name.startswith("model.vqmodel."))
    other = found if half else given
    if half and other is None:
        raise CheckpointError(
            f"transformers' model.vqmodel has an encoder and no decoder: it reads pictures and draws none; {DECODER}, "
            "as --image-tokenizer"
        )
    meta = None if other is None else open_image_tokenizer(other)
    whole = None if meta is None else meta.vqgan
    read = read_image_tokenizer(files, files.read, str(folder), beside=said_beside(folder), whole=whole)
    if meta is not None and "skipped" in meta.about:
        read.about["skipped"] = meta.about["skipped"]
    return read


def _near(folder: Path) -> Path | None:
    places = [folder / "tokenizer", folder.parent / "tokenizer", folder.parent.parent / "tokenizer", folder]
    return next((place / _IMAGE for place in places if (place / _IMAGE).is_file()), None)


def is_bundle(source: Path) -> bool:
    """Tell whether a path is a bundle, whole or not."""
    return source.is_dir() and (source / FILES[0]).is_file() and (source / "config.json").is_file()


def _open_bundle(source: Path) -> Model:
    """Open a bundle of a model of this family. Raises `CheckpointError` for another's, with the reasons."""
    found = bundles.load(source, weights=False)
    assert found.source is not None
    wrong: list[str] = []
    config, path = found.decoder.config, source / FILES[0]
    tried(wrong, lambda: check_family(config))
    if isinstance(found.decoder, Int8Decoder):
        wrong.append("its weights are in int8, which no other layout has; convert the bundle that it was made from")
    if found.vocab.grammar != "chameleon":
        wrong.append("its vocabulary is CM3Leon's, and other layouts have the ids of Chameleon's text tokenizer")
        refuse(source, wrong)
    side = None if found.vocab.marks is None else found.image_size
    ids = tried(wrong, lambda: IdMap.of(found.text_bytes(), config.vocab_size, where=FILES[2], side=side))
    if ids is not None and ids.vocab != found.vocab:
        wrong.append(f"its vocabulary is not that of its {FILES[2]}")
    files = TensorFiles.open(path)
    dtypes = {name: entry.dtype for name, entry in files.items()}
    shapes = {name: tuple(entry.shape) for name, entry in files.items()}
    if not wrong and shapes != our_shapes(config):
        odd = sorted(shapes.items() ^ our_shapes(config).items())
        wrong.append(f"{FILES[0]} is not of the model that config.json describes ({some([n for n, _ in odd])})")
    refuse(source, wrong)
    assert ids is not None
    about = dict(found.about)
    converted = about.pop("converted", {})
    converted = dict(converted) if isinstance(converted, dict) else {}
    of_image = converted.get("image_tokenizer")
    if not isinstance(of_image, dict) or "dtype" not in of_image:
        of_image = {"from": "bundle", "dtype": stored_type(source)}
    image = Found(found.vqgan, found.image_size, of_image)
    return Model(
        config, dtypes, files.read, ids, found.text_bytes(), image, converted, about, dict(found.sampling), files,
        found.source.files[FILES[0]],
    )  # fmt: skip


def tried(wrong: list[str], make: Callable[[], T]) -> T | None:
    """Return what `make` makes; where it raises one of our errors, add that to `wrong` and return None."""
    try:
        return make()
    except Cm3Error as error:
        wrong.append(said(error))
        return None

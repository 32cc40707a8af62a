"""`cm3 convert SRC DST --to LAYOUT`: weights of Chameleon's family in, and out again; image tokenizers in."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from cm3.cli.options import HERE, Verb, at_least
from cm3.errors import RequestError

Layout = Literal["bundle", "chameleon-hf", "chameleon-meta", "image-tokenizer"]


@dataclass(frozen=True, kw_only=True)
class ImageTokenizer:
    """An image tokenizer by itself: what its file does not say."""

    quantizer: Annotated[
        Literal["vq", "ibq", "l2"] | None, arg(metavar="vq|ibq|l2", help_behavior_hint="(default: as its layout's)")
    ] = None
    """How it chooses a code: the nearest, that of the largest product, the nearest among unit vectors."""
    pixels: Annotated[
        Literal["-1..1", "0..1"] | None, arg(metavar="-1..1|0..1", help_behavior_hint="(default: as its layout's)")
    ] = None
    """Range of the network's own pixels."""


@dataclass(frozen=True, kw_only=True)
class Convert(Verb):
    """Convert a model of Chameleon's family between the layouts in which it is published and a bundle; or an image
    tokenizer into the folder that training takes.

    A source is what was downloaded: Meta's folder, with models/7b and tokenizer in it, or models/7b itself; a folder of
    transformers, of Anole's fork or of Lumina-mGPT 1, in safetensors or in old .bin; or a bundle. Which it is, its
    tensors say. Weights are read and written one by one and keep their number type, so memory holds a few at a time.
    Given again, the same command goes on where it was stopped; --out is there whole or not at all. Nothing that a file
    of weights wants to run is run.

    examples:
      cm3 convert chameleon/data bundle --to bundle
      cm3 convert anole-7b-hf bundle --to bundle --image-tokenizer chameleon/data/tokenizer/vqgan.ckpt
      cm3 convert bundle out --to chameleon-hf
      cm3 convert bundle out --to chameleon-meta --shards 4
      cm3 convert lumina-mgpt-7b-768 bundle --to bundle --size 768 --image-tokenizer chameleon/data/tokenizer/vqgan.ckpt
      cm3 convert llamagen/vq_ds16_t2i.pt ds16 --to image-tokenizer
    """

    source: Annotated[Positional[str], arg(metavar="SRC")]
    """Folder or file of the model."""
    out: Annotated[Positional[str], arg(metavar="DST")]
    """Folder to write: a new one, or for what is ours one with the same in it, which is replaced."""
    to: Annotated[Layout, arg(metavar="bundle|chameleon-hf|chameleon-meta|image-tokenizer")]
    """Layout to write: a bundle, for every other verb; transformers'; Meta's; an image tokenizer for
    `cm3 train --image-tokenizer`."""
    shards: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: as it came, or as few as can be)")] = (
        None
    )
    """Files of Meta's layout, one for each process that is to run it."""
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        arg(metavar="float32|bfloat16|float16", help_behavior_hint="(default: the stored one)"),
    ] = None
    """Number type of the language model."""
    image_tokenizer: Annotated[
        str | None, arg(metavar="PATH", help_behavior_hint="(default: the one in the source)")
    ] = None
    """The image tokenizer, such as Meta's vqgan.ckpt: transformers' files have the half of it that reads pictures."""
    text_tokenizer: Annotated[
        str | None, arg(metavar="PATH", help_behavior_hint="(default: the one in the source)")
    ] = None
    """The text tokenizer, tokenizer.json or text_tokenizer.json, or its folder."""
    size: Annotated[
        int | None, arg(metavar="PIXELS", help_behavior_hint="(default: as the image tokenizer's layout has it)")
    ] = None
    """Side of the pictures: of Lumina-mGPT the one that the checkpoint learnt, a multiple of 32; of an image tokenizer
    by itself any multiple of its pixels a code."""
    prompts: Annotated[
        Literal["chameleon", "anole", "lumina", "plain"] | None,
        arg(metavar="chameleon|anole|lumina|plain", help_behavior_hint="(default: as the weights' layout has it)"),
    ] = None
    """The format of prompts that a bundle is asked in, where it was trained in another than its layout's: an end of the
    turn behind every prompt, before pictures alone, Lumina's, or none."""
    image: Annotated[ImageTokenizer, HERE] = ImageTokenizer()

    def run(self) -> dict[str, Any]:
        """Write it."""
        if self.shards is not None:
            at_least(1, shards=self.shards)
        alone = self.to == "image-tokenizer"
        names = ("shards", "dtype", "text_tokenizer", "prompts") if alone else ("quantizer", "pixels")
        given = vars(self) if alone else vars(self.image)
        if odd := [f"--{name.replace('_', '-')}" for name in names if given[name] is not None]:
            of = "a language model" if alone else "an image tokenizer by itself (--to image-tokenizer)"
            raise RequestError(f"{', '.join(odd)}: for {of}; leave out with --to {self.to}")
        told = self._image_tokenizer() if alone else self._model()
        for line in told["warnings"]:
            print(f"cm3: {line}", file=sys.stderr)
        return told

    def _model(self) -> dict[str, Any]:
        from cm3.convert.convert import convert

        told = convert(
            self.source, self.out, self.to, shards=self.shards, dtype=self.dtype, text_tokenizer=self.text_tokenizer,
            image_tokenizer=self.image_tokenizer, size=self.size, prompts=self.prompts, progress=sys.stderr.isatty(),
        )  # fmt: skip
        heads = f"{told['heads']} heads" + (f" on {told['kv_heads']}" if told["kv_heads"] != told["heads"] else "")
        print(f"{self.out}: {told['files']} files, {told['bytes'] / 1e9:.3g} GB of weights, as {self.to}")
        print(f"from        {told.get('from', 'a bundle')}")
        print(f"model       {told['layers']} layers of {told['d_model']}, {heads}, {told['order']}")
        return told

    def _image_tokenizer(self) -> dict[str, Any]:
        from cm3.convert.image_files import convert_image_tokenizer

        told = convert_image_tokenizer(
            self.source, self.out, decoder=self.image_tokenizer, size=self.size, **vars(self.image)
        )
        print(f"{self.out}: an image tokenizer, {told['codes']} codes, as --image-tokenizer of `cm3 train`")
        print(f"from        {told['from']}")
        print(f"pictures    {told['size']} pixels, {told['factor']} a code, quantizer {told['quantizer']}")
        return told

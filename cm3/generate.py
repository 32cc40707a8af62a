"""CM3Leon: document in, document out. The codec and the engine, put together.

    model = CM3Leon.load("scenes")
    model.generate("a red circle", seed=7).image
    model.generate([picture]).text
    model.generate(["a red ", Gap(), " above a blue square"]).text
    model.generate(["a red circle", Image(picture).with_gap((0, 0, 64, 64))]).image

Every hole of a prompt is filled as the CM3 objective was trained: `<mask:i>` stands where something is missing, and
after the closing `</s>` the model writes `<mask:i> ... <eoss>` for each (paper section 2.2). A single hole at the very
end is simply continued from the left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from cm3.document import Document, Gap, Image, Part, Text, as_part
from cm3.engine.engine import Engine
from cm3.engine.grammar import Codes, Force, FreeText, Step
from cm3.engine.request import Request, Result, Sampling
from cm3.errors import ConfigError, RequestError
from cm3.model import bundle as bundles
from cm3.model.attention import Causal
from cm3.tokens.codec import Codec
from cm3.tokens.holes import Prompt
from cm3.tokens.image import ImageTokenizer
from cm3.tokens.text import TextTokenizer
from cm3.vocab import Tokens

Promptable = str | PIL.Image.Image | Part | Document | Sequence[str | PIL.Image.Image | Part]
Progress = Callable[[int, int], None]
KINDS = ("image", "region", "text")
"""What a request may make, each with recommended sampling of its own in a bundle."""


@dataclass(frozen=True)
class Generation:
    """What came of one prompt: `documents`, the prompt with its holes filled, one for each of the `n` asked for.

    `scores`: for each, the log-probability of what was written (nats, unguided), to rank by.
    """

    documents: tuple[Document, ...]
    scores: tuple[float, ...]
    prompt: Document

    @property
    def document(self) -> Document:
        """The first document."""
        return self.documents[0]

    @property
    def images(self) -> list[PIL.Image.Image]:
        """The last picture of each document. Raises `RequestError` where there is none."""
        if not self.document.images:
            raise RequestError("this generation holds text only; ask for a picture with a prompt that ends in words")
        return [d.images[-1].pixels for d in self.documents]

    @property
    def image(self) -> PIL.Image.Image:
        """The last picture of the first document."""
        return self.images[0]

    @property
    def texts(self) -> list[str]:
        """The whole text of each document."""
        return [d.text.strip() for d in self.documents]

    @property
    def text(self) -> str:
        """The whole text of the first document."""
        return self.texts[0]


class CM3Leon:
    """A loaded model. `load` one, or make one of a bundle that is in memory."""

    def __init__(self, bundle: bundles.Bundle, *, max_streams: int = 64) -> None:
        """`max_streams` prompts run side by side, two for each guided request; more wait their turn."""
        self.bundle, self.vocab = bundle, bundle.vocab
        self.decoder = bundle.decoder.eval()
        image = ImageTokenizer(bundle.vqgan, bundle.image_size, batch=32)
        self.codec = Codec(bundle.vocab, TextTokenizer.load(bundle.text_tokenizer), image)
        self.max_streams = max_streams
        self._image = image
        self._recommended = {k: dict(bundle.sampling.get(k, {})) for k in KINDS}

    @classmethod
    def load(cls, name: str = "scenes", **options: Any) -> CM3Leon:
        """Load an embedded bundle by name, a bundle folder, or `hf://owner/name`.

        Raises `CheckpointError` for one that is unknown, incomplete or altered.
        """
        return cls(bundles.load(bundles.find(name)), **options)

    @property
    def image_size(self) -> int:
        """Side of the pictures, in pixels."""
        return self._image.size

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of a picture's codes."""
        return self._image.grid

    @property
    def image_codes(self) -> int:
        """Number of different image codes."""
        return self._image.codes

    def generate(
        self,
        prompt: Promptable,
        n: int = 1,
        *,
        seed: int = 0,
        guidance: float | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        contrast: str | None = None,
        k: int | None = None,
        alpha: float | None = None,
        max_tokens: int = 128,
        progress: Progress | None = None,
    ) -> Generation:
        """Fill the holes of a prompt, `n` times.

        A string asks for a picture of it, a picture for a description, a list for whatever its `Gap`s and gapped
        `Image`s leave open; a list without any that ends in words is given a picture, and one that ends in a picture is
        described. None leaves a setting as the bundle recommends it for the kind of hole. `guidance` is the scale of
        classifier-free guidance for pictures (1 is none); `contrast` 'max' or 'kmax' with `k`, `alpha` is contrastive
        decoding (section 3.1). `max_tokens` bounds each text, and so does what the context has left. The same seed
        gives the same result, whatever `n` is.

        Raises `RequestError` for a prompt that is empty, too long, or asks for nothing.
        """
        if n < 1:
            raise RequestError(f"n={n}: must be at least 1")
        settings: dict[str, float | int | str | None] = {
            "guidance": guidance,
            "temperature": temperature,
            "top_p": top_p,
            "contrast": contrast,
            "k": k,
            "alpha": alpha,
        }
        made = self.generate_many(
            [prompt] * n,
            seeds=[_sub_seed(seed, i) for i in range(n)],
            max_tokens=max_tokens,
            progress=progress,
            **settings,
        )
        return Generation(
            tuple(g.document for g in made), tuple(score for g in made for score in g.scores), made[0].prompt
        )

    def generate_many(
        self,
        prompts: Sequence[Promptable],
        *,
        seeds: Sequence[int],
        max_tokens: int = 128,
        progress: Progress | None = None,
        **settings: float | int | str | None,
    ) -> list[Generation]:
        """One generation for each prompt, batched; `seeds` as many as prompts, `settings` as in `generate`."""
        if len(seeds) != len(prompts):
            raise RequestError(f"seeds: {len(seeds)} for {len(prompts)} prompts; give one for each")
        documents = [as_document(p) for p in prompts]
        encoded = self.codec.encode_prompts(documents)
        requests = [self._request(p, seed, max_tokens, settings) for p, seed in zip(encoded, seeds, strict=True)]
        engine = Engine(self.decoder, self.vocab, max_streams=self.max_streams)
        results = engine.run(requests, progress)
        return [self._finish(d, p, r) for d, p, r in zip(documents, encoded, results, strict=True)]

    def logits(self, ids: Tensor | Sequence[int] | Tokens) -> Tensor:
        """Next-token logits (s, vocab) for a sequence of ids, for scoring and research. Float32, no gradient.

        Image codes of a plain sequence of ids are taken to be whole images in raster order; pass `Tokens` otherwise.
        """
        tokens = ids if isinstance(ids, Tokens) else self._with_cells(np.asarray(ids))
        if tokens.length > self.decoder.config.context:
            raise RequestError(
                f"ids: {tokens.length} of them; this model has a context of {self.decoder.config.context}"
            )
        with torch.inference_mode():
            batch = torch.from_numpy(tokens.ids.astype(np.int64))[None]
            cells = torch.from_numpy(tokens.cells.astype(np.int64))[None]
            return self.decoder(batch, torch.arange(tokens.length)[None], Causal(), cells)[0].float()

    def reconstruct(self, images: Sequence[PIL.Image.Image]) -> tuple[list[PIL.Image.Image], np.ndarray]:
        """Pictures through the image tokenizer and back, and their codes int (n, rows, columns)."""
        codes = self._image.encode(images)
        return self._image.decode(codes), codes

    def _request(self, prompt: Prompt, seed: int, max_tokens: int, settings: dict[str, Any]) -> Request:
        v, tokens = self.vocab, prompt.tokens
        kind = _kind(prompt)
        sampling = self._sampling("region" if kind == "region" else "image", seed, settings)
        text_sampling = self._sampling("text", seed, settings)
        # One hole, at the very end: `</s> words <break> <mask:0> </s>` is continued from before its mask.
        continued = len(prompt.holes) == 1 and int(tokens.ids[-2]) == v.mask(0)
        if continued:
            tokens = tokens.slice(0, tokens.length - 2)
        streams: tuple[Tokens, ...] = (tokens,)
        if kind != "text" and (sampling.guidance not in (None, 1.0) or sampling.contrast is not None):
            streams = (tokens, *self._unconditional(tokens, 0 if continued else len(prompt.holes)))
        if len(streams) == 1:
            sampling = replace(sampling, guidance=None, contrast=None)
        plan = self._plan(prompt, continued, max_tokens, max(s.length for s in streams))
        return Request(streams, plan, sampling, replace(text_sampling, guidance=None, contrast=None))

    def _plan(self, prompt: Prompt, continued: bool, max_tokens: int, prompt_length: int) -> tuple[Step, ...]:
        """What to write for each hole; texts share what the context has left, at most `max_tokens` each."""
        v, context = self.vocab, self.decoder.config.context
        texts = sum(h.kind == "text" for h in prompt.holes)
        fixed = prompt_length + sum(len(h.cells) for h in prompt.holes) + (0 if continued else 2 * len(prompt.holes))
        limit = min(max_tokens, (context - fixed) // texts) if texts else 0
        if fixed > context or (texts and limit < 1):
            raise RequestError(
                f"prompt: takes {fixed} tokens with what is to be written, and this model's context is {context}; "
                "shorten it or leave a picture out"
            )
        plan: list[Step] = []
        for hole in prompt.holes:
            image = hole.kind == "image"
            if continued:
                return (Codes(hole.cells) if image else FreeText(limit, (v.eos, v.brk), min_tokens=1),)
            plan += [Force((v.mask(hole.mask),)), Codes(hole.cells) if image else FreeText(limit, (v.eoss,))]
            plan += [Force((v.eoss,))] if image else []
        return tuple(plan)

    def _unconditional(self, tokens: Tokens, number: int) -> tuple[Tokens, ...]:
        """The stream to guide away from: each run of words replaced by a mask, from `<mask:number>` on (section 3.1).

        Pictures are kept. For a picture from words alone this is `[</s>, <mask:0>, <break>]`. Without words there is
        nothing to guide away from, and no stream.
        """
        v, words = self.vocab, self.vocab.is_text(tokens.ids)
        borders = [*np.flatnonzero(np.isin(tokens.ids, (v.eos, v.brk))).tolist(), tokens.length]
        pieces: list[Tokens] = []
        for start, stop in zip(borders, borders[1:], strict=False):
            if words[start:stop].any():
                pieces += [tokens.slice(start, start + 1), Tokens.of([v.mask(number)])]
                number += 1
            else:
                pieces.append(tokens.slice(start, stop))
        return (Tokens.concat(pieces),) if words.any() else ()

    def _sampling(self, kind: str, seed: int, settings: dict[str, Any]) -> Sampling:
        values = self._recommended[kind] | {k: v for k, v in settings.items() if v is not None}
        if settings.get("contrast") is not None and settings.get("guidance") is None:
            values.pop("guidance", None)
        return Sampling(**values, seed=seed)

    def _finish(self, document: Document, prompt: Prompt, result: Result) -> Generation:
        spans = [span.ids for span in result.spans]
        done = self.codec.fill(document, spans, prompt)
        return Generation((done,), (float(sum(result.logprobs)),), document)

    def _with_cells(self, ids: np.ndarray) -> Tokens:
        if ids.ndim != 1 or ids.size == 0:
            raise RequestError(f"ids of shape {ids.shape}: must be one sequence of at least one id")
        if ids.min() < 0 or ids.max() >= self.vocab.size:
            raise RequestError(f"ids from {ids.min()} to {ids.max()}: must lie in 0..{self.vocab.size - 1}")
        image = self.vocab.is_image(ids)
        run = np.cumsum(image) - np.maximum.accumulate(np.where(image, 0, np.cumsum(image)))
        number = self.grid[0] * self.grid[1]
        return Tokens.of(ids.astype(np.int32), np.where(image, (run - 1) % number + 1, 0).astype(np.int32))


def as_document(prompt: Promptable) -> Document:
    """A prompt as a document with holes, by the rules of `CM3Leon.generate`. Raises `RequestError` for an empty one."""
    if isinstance(prompt, Document):
        document = prompt
    elif isinstance(prompt, str | PIL.Image.Image | Text | Image | Gap):
        document = Document((as_part(prompt),))
    elif isinstance(prompt, Iterable):
        document = Document.of(*prompt)
    else:
        raise RequestError(f"prompt: is a string, a picture or a list of them, not {type(prompt).__name__}")
    parts = list(document.parts)
    while parts and isinstance(parts[-1], Text) and not parts[-1].text.strip():
        parts.pop()  # blank text at the end asks for nothing
    if not parts:
        raise RequestError("prompt: is empty; say what to draw, or give a picture to describe")
    if document.has_gap:
        return document
    if isinstance(parts[-1], Text):
        return replace(document, parts=(*parts, Gap("image")))
    return replace(document, parts=(*parts[:-1], Gap("text"), parts[-1]))


def _kind(prompt: Prompt) -> str:
    """What a prompt asks for: 'text', 'image' (whole ones) or 'region' (parts of one)."""
    image = [h for h in prompt.holes if h.kind == "image"]
    if not image:
        return "text"
    return "region" if any(h.part in prompt.codes for h in image) else "image"


def _sub_seed(seed: int, i: int) -> int:
    """Seed of sample `i`: independent of how many are asked for."""
    if seed < 0:
        raise ConfigError(f"seed={seed}: must be at least 0")
    return int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> 1)

"""The model itself: documents become requests to the engine, and what it writes becomes documents.

Every hole of a prompt is filled as the CM3 objective was trained: `<mask:i>` stands where something is missing, and
after the closing `</s>` the model writes `<mask:i> ... <eoss>` for each (paper section 2.2). A single hole at the very
end is simply continued from the left. Retrieved documents stand before the prompt (`cm3.retrieval.live`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from cm3.engine.budget import check_cache, check_keep, share_of_free
from cm3.engine.engine import Engine
from cm3.engine.jacobi import check_parallel
from cm3.engine.request import Request, Result
from cm3.errors import CheckpointError, ConfigError, RequestError, shown, whole_number
from cm3.generate.answer_plan import plan, room
from cm3.generate.generation import Generation, filled_parts, spans_of
from cm3.generate.guiding import behind, guiding
from cm3.generate.known_world import Doubts, World
from cm3.generate.prepared import Prepared
from cm3.generate.prompt import WORDS, Picture, Promptable, as_document, as_image, check_kind, kind_of
from cm3.generate.rank import canonical, finite, log_likelihoods
from cm3.generate.recommended import UNCONDITIONAL, Recommended, Treatment, unguided
from cm3.generate.settings import Loading, Options, Progress, Settings, check_names, sampled
from cm3.generate.streaming import Chunk, Filling
from cm3.generate.tasks import CAPTION, DETAIL, LONGEST, QUESTION, Reply, kind_of_task, read_reply, task_prompt
from cm3.generate.thinking import thought_through, with_thoughts
from cm3.model import bundle as bundles
from cm3.model.attention import Causal
from cm3.model.int8 import placed, read_in
from cm3.precision import Choice
from cm3.retrieval import live
from cm3.retrieval.embed import Encoder
from cm3.retrieval.select import Retrieved
from cm3.sequence.answers import opening
from cm3.sequence.before import prepend
from cm3.sequence.holes import Prompt
from cm3.sequence.segments import cells_of
from cm3.tasks import Task, find_task
from cm3.tokens.chameleon import read_text_tokenizer
from cm3.tokens.codec import Codec
from cm3.tokens.image import ImageTokenizer
from cm3.vocab import Tokens
from cm3.weights import on_device

if TYPE_CHECKING:
    from cm3.parallel import Mesh
    from cm3.retrieval.memory import Memory

MOST = 1_000_000
"""Most samples, or candidates, of one prompt: each is a request that is laid out before the first is served."""
PICTURES = 4
"""Most pictures of an interleaved answer, where nothing is said."""
KEPT = 1 << 30
"""Most bytes of keys and values that are held from one call to the next, without `keep`."""


class CM3Leon:
    """A loaded model. `load` one, or make one of a bundle that is in memory."""

    def __init__(
        self,
        bundle: bundles.Bundle,
        *,
        memory: str | Path | Memory | None = None,
        encoder: str | Path | Encoder | None = None,
        max_streams: int = 64,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        cache_gb: float | None = None,
        cache_dtype: str | torch.dtype = "auto",
        parallel: int | str = "auto",
        keep_gb: float = 0.0,
    ) -> None:
        """Let `max_streams` prompts run side by side, two for each guided request; more wait their turn.

        `memory` is a bank or its folder, in the place of the bundle's own, and `encoder` what it was made with, where
        that is neither the bundle's nor one of the hub. Both are opened when something is first retrieved.

        `device` is where the bundle's networks are moved to, and where an encoder that is opened runs; None leaves them
        where they are, which is the processor for one that was loaded. `dtype` is float32, bfloat16, float16 or, on a
        processor or CUDA, int8, of the decoder alone: codes and vectors are those of any device. Both may be "auto"
        (`cm3.weights.on_device`, `cm3.model.int8.placed`). Raises `ConfigError` for one that is not there.

        `cache_gb` is the most that keys and values may take, in gigabytes of 1e9 bytes; None is a share of what is free
        when the first prompt comes. `cache_dtype` is how they are held: "auto" as they are computed; bfloat16 and int8
        take less memory and more time (`cm3.engine.budget`).

        `parallel` codes of a picture are drawn in one pass at most, 0 one by one. "auto" is as many as pay: several on
        a processor in float32 where few requests run, else one. The codes are the same, up to rounding
        (`cm3.engine.jacobi`).
        Up to `keep_gb` of what was read stays for prompts that begin with it: for weights that do not change.
        """
        self.bundle, self.vocab = bundle, bundle.vocab
        self.max_streams, keep_gb = whole_number("max_streams", max_streams), check_keep(keep_gb)
        check_cache(cache_gb, cache_dtype)
        self._cache: dict[str, Any] = {"cache_gb": cache_gb, "cache_dtype": cache_dtype, "parallel": parallel}
        self._cache["keep_gb"] = keep_gb
        check_parallel(parallel)
        bundle.decoder = placed(bundle.decoder, device, dtype)
        on_device(bundle.vqgan, device)
        self.decoder = bundle.decoder.eval()
        self.mesh: Mesh | None = None
        self._idle: list[Engine] = []
        image = ImageTokenizer(bundle.vqgan, bundle.image_size, batch=32)
        words = read_text_tokenizer(bundle.text_bytes(), bundle.text_tokenizer)
        try:
            self.codec = Codec(bundle.vocab, words, image, bundle.about)
        except ConfigError as error:
            raise CheckpointError(f"bundle {bundle.name!r}: {error}") from error
        self._image = image
        self.recommended = Recommended(bundle.name, bundle.sampling)
        self.world = World.of(bundle.about, bundle.name)
        bank = bundle.memory if memory is None else memory
        self.retriever = live.Retriever(bank, encoder, bundle.encoder, bundle.check_folder, self.device)

    @classmethod
    def load(cls, name: str | Path = "stickers", **options: Unpack[Loading]) -> CM3Leon:
        """Load an embedded bundle by name, a bundle folder, or `hf://owner/name`; `options` as of the class.

        `tp` processes that torchrun started share the decoder, each with a part of every matrix on its own GPU
        (cm3/parallel/decoding.py). Each loads with the same options and then makes the same calls, which give the same
        on all. More processes, a multiple of `tp`, are so many models: `mesh.rank` of `mesh.ranks`.

        Raises `CheckpointError` for one that is unknown, incomplete or altered, `ConfigError` for an unknown option,
        for a device or dtype that is not there, and for `tp` that does not divide the processes or the decoder.
        """
        check_names(options, Loading, "name")
        tp = whole_number("tp", options.pop("tp", 1))
        if tp > 1:
            from cm3.generate.share import load_share

            return load_share(cls, name, tp, options)
        kept = read_in(options.get("dtype"), options.get("device"))
        model = cls(bundles.load(bundles.find(name), dtype=kept), **cast(Any, options))
        if not model.decoder.is_laid_out:
            model.decoder.lay_out()
        return model

    @property
    def device(self) -> torch.device:
        """Return where the decoder is."""
        return self.decoder.device

    @property
    def number_type(self) -> Choice:
        """Return the number type that the decoder computes in, and why: `name` and `why`."""
        assert self.decoder.chosen is not None, "as `placed` chose it"
        return self.decoder.chosen

    @property
    def leads(self) -> bool:
        """Tell whether this process is the one, of those that share the decoder, that writes what they make."""
        return self.mesh is None or self.mesh.part == 0

    @property
    def image_size(self) -> int:
        """Return the side of the pictures, in pixels."""
        return self._image.size

    @property
    def grid(self) -> tuple[int, int]:
        """Return (rows, columns) of a picture's codes."""
        return self._image.grid

    @property
    def image_codes(self) -> int:
        """Return the number of different image codes."""
        return self._image.codes

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the instruction tasks that it was tuned for, by name: `about.tasks` of its bundle."""
        return tuple(self.bundle.about.get("tasks", ()))

    def puts_picture_first(self, plain: bool) -> bool:
        """Tell whether a task is asked `plain`: as it is given, and always where a model has no masks."""
        return plain or self.vocab.grammar == "chameleon"

    @property
    def unconditional(self) -> str:
        """Return the default for retrieved documents in the stream to guide away from, for pictures."""
        return self.recommended.treatment["image"]

    @property
    def memory(self) -> Memory:
        """Return the memory bank, opened when it is first asked for. Raises `RequestError` where there is none."""
        return self.retriever.memory

    @property
    def encoder(self) -> Encoder:
        """Return the encoder of texts and pictures: that of the memory bank, else the one given or the bundle's own.

        Raises `RequestError` where there is none.
        """
        return self.retriever.encoder

    def with_memory(self, memory: str | Path | Memory, encoder: str | Path | Encoder | None = None) -> CM3Leon:
        """Return this model, the same weights in memory, with another bank, and the encoder that it was made with."""
        other = copy.copy(self)
        own = self.bundle
        other.retriever = live.Retriever(memory, encoder, own.encoder, own.check_folder, self.device)
        return other

    def retrieve(self, prompt: Promptable, k: int = 2) -> list[Retrieved]:
        """Return the documents that `generate(prompt, retrieve=k)` would read, best first.

        Raises `RequestError` for `k` outside 0..3, for no memory bank, and for nothing to search with.
        """
        return self.retriever.search(as_document(prompt, self.vocab.grammar), k)

    def generate(
        self,
        prompt: Promptable,
        n: int = 1,
        *,
        seed: int = 0,
        **options: Unpack[Options],
    ) -> Generation:
        """Fill the holes of a prompt, `n` times.

        A string asks for a picture of it, a picture (a PIL image, a `Path`, an array) for a description, a list for
        whatever its `Gap`s and gapped `Image`s leave open; a list without any that ends in words is given a picture,
        and one that ends in a picture is described. A `Gap("interleaved")` at the end asks for words and up to
        `pictures` (4) pictures, in whatever order the model writes them. None leaves a setting as the bundle recommends
        it for the kind of hole, or for `kind`: 'edit', 'control', 'segment' or 'answer', prompts of those tasks
        (`cm3.generate.tasks`).
        `guidance` is the scale of classifier-free guidance for pictures (1 is none), `image_guidance` that of the
        picture to be edited; `contrast` 'max' or 'kmax' with `k`, `alpha` is contrastive decoding (section 3.1), where
        `amateur_temperature` divides the logits of the stream to contrast with. `max_tokens` (128) bounds each text, or
        the words of an interleaved answer, and so does what the context has left. The same seed gives the same result,
        whatever `n` is; `generate_many` with it gives the first.

        Of so many `candidates` the one is kept whose whole document is the likeliest (`cm3.generate.rank`). Where the
        temperature is 0, samples and candidates are all the same, and one is made. With `think` what a picture will
        show, or what it shows that is asked about, is said first, and gone on from (`cm3.tasks.thought`).

        `retrieve` documents, 0 to 3, are searched for in the memory bank and read before the prompt, or `documents` are
        given by hand. Where the context has no room for all, the least relevant are left out. In the stream to guide
        away from they are `unconditional` 'kept', so that only the words are guided to, or 'dropped' with the words.

        Raises `RequestError` for a prompt that is empty, too long, not of its `kind` or asks for nothing; for no memory
        bank; and where not one document has room. Raises `ConfigError` for a setting that is unknown or out of range.
        """
        check_names(options, Options, "n", "seed")
        n = whole_number("n", n, 1, MOST, RequestError)
        seed = whole_number("seed", seed, 0, 2**63 - 1)
        if options.get("documents") is not None:
            options["documents"] = [options["documents"]] * n
        made = self.generate_many([as_document(prompt, self.vocab.grammar)] * n, seeds=sample_seeds(seed, n), **options)
        return replace(
            made[0],
            documents=tuple(g.document for g in made),
            scores=tuple(score for g in made for score in g.scores),
            filled=tuple(filled for g in made for filled in g.filled),
            cut=tuple(cut for g in made for cut in g.cut),
            thoughts=tuple(thought for g in made for thought in g.thoughts),
        )

    def generate_many(
        self,
        prompts: Sequence[Promptable],
        *,
        seeds: Sequence[int],
        each: Sequence[Mapping[str, Any]] | None = None,
        **options: Unpack[Options],
    ) -> list[Generation]:
        """Return one generation for each prompt, batched; the rest as in `generate`.

        `seeds`, and `documents` where they are given by hand, are as many as prompts. So is `each`: settings of how to
        sample, guidance among them, of that prompt alone, which come before those of all.
        """
        return self.make(self.prepare(prompts, seeds=seeds, each=each, **options), options.get("progress"))

    def make(self, prepared: Sequence[Prepared], progress: Progress | None = None) -> list[Generation]:
        """Draw what was prepared, of whatever settings and tasks, side by side: as many streams at a time as the model
        has, and another as soon as one is done."""
        prepared = thought_through(self, prepared)
        requests = [one for p in prepared for one in p.requests]
        with self._engine(requests) as engine:
            results = iter(engine.run(requests, progress))
        return [self.finish(p, self.best(p, [next(results) for _ in p.requests])) for p in prepared]

    def prepare(
        self,
        prompts: Sequence[Promptable],
        *,
        seeds: Sequence[int],
        each: Sequence[Mapping[str, Any]] | None = None,
        **options: Unpack[Options],
    ) -> list[Prepared]:
        """Lay prompts out for `make`, which then gives what `generate_many` does; raises as that."""
        check_names(options, Options, "seeds", "each")
        documents = options.get("documents")
        for name, given in (("seeds", seeds), ("documents", documents), ("each", each)):
            if given is not None and len(given) != len(prompts):
                raise RequestError(f"{name}: {len(given)} for {len(prompts)} prompts; give one for each")
        seeds = [whole_number("seed", seed, 0, 2**63 - 1) for seed in seeds]
        max_tokens = whole_number("max_tokens", options.get("max_tokens", 128), error=RequestError)
        pictures = whole_number("pictures", options.get("pictures", PICTURES), 1, MOST, RequestError)
        candidates = options.get("candidates")
        if candidates is not None:
            candidates = whole_number("candidates", candidates, 1, MOST, RequestError)
        kind, unconditional = options.get("kind"), options.get("unconditional")
        if unconditional not in (None, *UNCONDITIONAL):
            raise RequestError(f"unconditional={unconditional!r}: must be {' or '.join(map(repr, UNCONDITIONAL))}")
        whole = [as_document(p, self.vocab.grammar) for p in prompts]
        if self.world is not None and kind is None:
            whole = [self.world.take_document(document) for document in whole]
        if kind is not None:
            for document in whole:
                check_kind(document, kind)
        settings = [sampled(options, one, self.vocab.grammar) for one in each or [{}] * len(prompts)]
        found = self.retriever.find(whole, options.get("retrieve", 0), documents)
        encoded = self.codec.encode_prompts(whole)
        # Where nothing is said of pictures, documents come before all but one of them.
        contexts = self._contexts(encoded, found, max_tokens, pictures if "pictures" in options else 1)
        laid_out: list[Prepared] = []
        for document, p, c, seed, own in zip(whole, encoded, contexts, seeds, settings, strict=True):
            first = self._request(p, seed, max_tokens, pictures, own, c.tokens, unconditional, kind)
            # What is recommended for pictures is not for answers of any length, of which a short one is likeliest.
            number = candidates or (1 if p.interleaved else self.recommended.candidates[kind or kind_of(p)])
            some = range(1 if first.greedy else number)
            requests = [first if number == 1 else first.seeded(_sub_seed(seed, i)) for i in some]
            laid_out.append(Prepared(document, p, c, tuple(requests), kind))
        return with_thoughts(self, laid_out, seeds, each, options)

    def stream(self, prompt: Promptable, *, seed: int = 0, **options: Unpack[Options]) -> Iterator[Chunk]:
        """Fill the holes of a prompt and yield words and finished rows of pictures as they come.

            for chunk in model.stream(picture):
                print(chunk.text, end="")
            print(chunk.generation.text)

        The last chunk has what `generate(prompt, candidates=1)` with the same settings returns. What is unfinished when
        the iterator is closed, or is no longer held, is cancelled. Raises, when it is called, as `generate` does, and
        `RequestError` for more than one of `candidates`, and for `progress`, which chunks take the place of.
        """
        check_names(options, Options, "seed")
        if options.get("candidates") not in (None, 1):
            raise RequestError(
                f"candidates={shown(options['candidates'])}: a stream shows the one that it makes; leave it out"
            )
        if options.get("progress") is not None:
            raise RequestError("progress: a stream tells how far it is by its chunks; leave it out")
        options["candidates"] = 1
        (prepared,) = thought_through(self, self.prepare([prompt], seeds=[seed], **options))
        return self._chunks(prepared)

    def _chunks(self, p: Prepared) -> Iterator[Chunk]:
        filling = Filling(*p.asked, p.requests[0], self.codec)
        with self._engine(p.requests) as engine, closing(engine.stream(p.requests)) as events:
            for event in events:
                yield from filling.take(event.tokens)
                if event.result is not None:
                    result = event.result
        yield Chunk(generation=self.finish(p, result))

    def ask(
        self,
        task: str | Task,
        request: Mapping[str, Any],
        n: int = 1,
        *,
        seed: int = 0,
        template: int | str = 0,
        plain: bool = False,
        **settings: Unpack[Settings],
    ) -> Reply:
        """Do any instruction task by its name and fields (docs/tasks.md), once; `n` answers.

            model.ask("vqa2", {"image": picture, "question": "what is left of the square?"}).fields["answer"]

        A model answers well what it was tuned for. `settings` are those of `generate`, with room for `LONGEST` tokens;
        `plain` asks with the picture before the text. A picture is one of Pillow's, an `Image`, a path, or an array
        uint8 (h, w), (h, w, 3) or (h, w, 4). Raises `RequestError` as `Task.prompt` and `generate` do, and for a
        control image of another size than the model draws at; `ConfigError` for an unknown task or setting.
        """
        chosen = find_task(task) if isinstance(task, str) else task
        check_names(settings, Settings, "n", "seed", "template", "plain")
        plain = self.puts_picture_first(plain)
        prompt = task_prompt(chosen, request, self.image_size, self.world, template, plain)
        made = self.generate(prompt, n, seed=seed, **self._task_options(chosen, settings))
        return read_reply(chosen, made, template, plain)

    def ask_many(
        self,
        task: str | Task,
        requests: Sequence[Mapping[str, Any]],
        *,
        seeds: Sequence[int],
        template: int | str = 0,
        plain: bool = False,
        each: Sequence[Mapping[str, Any]] | None = None,
        **settings: Unpack[Settings],
    ) -> list[Reply]:
        """Return one answer for each request, batched; the rest as in `ask`, and `each` as in `generate_many`."""
        chosen = find_task(task) if isinstance(task, str) else task
        made = self.make(
            self.prepare_task(chosen, requests, seeds=seeds, template=template, plain=plain, each=each, **settings),
            settings.get("progress"),
        )
        return [read_reply(chosen, one, template, self.puts_picture_first(plain)) for one in made]

    def prepare_task(
        self,
        task: Task,
        requests: Sequence[Mapping[str, Any]],
        *,
        seeds: Sequence[int],
        template: int | str = 0,
        plain: bool = False,
        each: Sequence[Mapping[str, Any]] | None = None,
        **settings: Unpack[Settings],
    ) -> list[Prepared]:
        """Lay the requests of a task out for `make`, whose generations `read_reply` reads; raises as `ask_many`."""
        check_names(settings, Settings, "seeds", "template", "plain", "each")
        plain = self.puts_picture_first(plain)
        prompts = [task_prompt(task, one, self.image_size, self.world, template, plain) for one in requests]
        return self.prepare(prompts, seeds=seeds, each=each, **self._task_options(task, settings))

    def _task_options(self, task: Task, settings: Mapping[str, Any]) -> Options:
        return cast(Options, {"max_tokens": LONGEST, **settings, "kind": kind_of_task(task)})

    def edit(
        self, picture: Picture, instruction: str, n: int = 1, *, seed: int = 0, **settings: Unpack[Settings]
    ) -> Reply:
        """Change a picture as the words say: `.image`. `image_guidance` holds on to it, `guidance` to the words."""
        return self.ask("edit", {"image1": picture, "instruction": instruction}, n, seed=seed, **settings)

    def answer(
        self, picture: Picture, question: str, n: int = 1, *, seed: int = 0, **settings: Unpack[Settings]
    ) -> Reply:
        """Answer a question about a picture: `.text`."""
        return self.ask(QUESTION, {"image": picture, "question": question}, n, seed=seed, **settings)

    def describe(
        self, picture: Picture, n: int = 1, *, detail: bool = False, seed: int = 0, **settings: Unpack[Settings]
    ) -> Reply:
        """Describe a picture in a sentence or in detail: `.text`."""
        return self.ask(DETAIL if detail else CAPTION, {"image": picture}, n, seed=seed, **settings)

    def segment(self, picture: Picture, n: int = 1, *, seed: int = 0, **settings: Unpack[Settings]) -> Reply:
        """Draw a map of what a picture shows, in the colours that the model was tuned with: `.image`."""
        return self.ask("segment", {"image": picture}, n, seed=seed, **settings)

    def logits(self, ids: Tensor | Sequence[int] | Tokens) -> Tensor:
        """Return next-token logits (s, vocab) for a sequence of ids, for scoring and research. Float32, no gradient.

        Image codes of a plain sequence of ids are taken to be whole images in raster order; pass `Tokens` otherwise.
        They are on the model's device. Raises `RequestError` where they are not finite.
        """
        plain = ids.detach().cpu() if isinstance(ids, Tensor) else ids
        tokens = plain if isinstance(plain, Tokens) else self._with_cells(np.asarray(plain))
        if tokens.length > self.decoder.config.context:
            raise RequestError(
                f"ids: {tokens.length} of them; this model has a context of {self.decoder.config.context}"
            )
        with torch.inference_mode():
            both = torch.from_numpy(np.stack(tokens).astype(np.int64)).to(self.device)
            places = torch.arange(tokens.length, device=self.device)[None]
            logits = self.decoder(both[:1], places, Causal(), both[1:])[0].float()
            finite(logits)
            return logits

    def reconstruct(self, images: Sequence[Picture]) -> tuple[list[PIL.Image.Image], np.ndarray]:
        """Pass pictures through the image tokenizer and back; returns them and their codes, int (n, rows, columns)."""
        codes = self._image.encode([as_image(image).pixels for image in images])
        return self._image.decode(codes), codes

    def new_engine(self, **settings: Any) -> Engine:
        """Return an engine of the model's settings, or of these, for one who feeds it what `prepare` laid out."""
        if self.mesh is not None and self._cache["cache_gb"] is None:
            from cm3.parallel.decoding import told

            # What is free differs between processes, and those that share a model have to admit alike.
            self._cache["cache_gb"] = told(share_of_free(self.device) / 1e9, self.mesh)
        return Engine(self.decoder, self.vocab, self.max_streams, **self._cache | settings)

    @contextmanager
    def _engine(self, requests: Sequence[Request]) -> Iterator[Engine]:
        """Give the engine that served the last call, where none uses it meanwhile, or a new one, for these requests."""
        if self.mesh is not None:
            from cm3.parallel.decoding import check_same

            check_same((request.identity for request in requests), self.mesh)
        try:
            engine = self._idle.pop()
        except IndexError:
            engine = self.new_engine()
        yield engine
        # After an error, or where a consumer left, this is not reached: the engine and its memory go.
        if self._cache["keep_gb"] or engine.memory <= KEPT:
            self._idle[:] = [engine]

    def _contexts(
        self, prompts: Sequence[Prompt], found: Sequence[Sequence[Retrieved]], max_tokens: int, pictures: int
    ) -> list[live.Context]:
        """Return the documents to read before each prompt; every document is encoded once, all pictures together."""
        unique = list(dict.fromkeys(f.document for some in found for f in some))
        tokens = dict(zip(unique, self.codec.encode_many(unique), strict=True))
        return [
            live.layout(
                some,
                [tokens[f.document] for f in some],
                self.vocab,
                room(prompt, self.vocab, self.decoder.config.context, max_tokens, pictures),
            )
            for prompt, some in zip(prompts, found, strict=True)
        ]

    def _request(
        self,
        prompt: Prompt,
        seed: int,
        max_tokens: int,
        pictures: int,
        settings: Mapping[str, Any],
        context: Tokens | None = None,
        unconditional: Treatment | None = None,
        kind: str | None = None,
    ) -> Request:
        v, kind = self.vocab, kind or kind_of(prompt)
        tokens = opening(prompt, v)
        words = kind in ("text", *WORDS)
        sampling = self.recommended.sampling("image" if words else kind, seed, settings)
        for name, of in (("k", ("kmax",)), ("alpha", ("max", "kmax"))):
            if not words and settings.get(name) is not None and sampling.contrast not in of:
                raise RequestError(
                    f"{name}={shown(settings[name])}: is for contrastive decoding; give contrast={of[-1]!r} with it, "
                    "or leave it out"
                )
        text_sampling = self.recommended.sampling(kind if words else "text", seed, settings)
        streams, sampling = guiding(tokens, prompt, v, sampling, kind)
        if len(streams) == 1:
            if not words and settings.get("amateur_temperature") is not None:
                raise RequestError(
                    f"amateur_temperature={shown(settings['amateur_temperature'])}: is of the stream to lead away "
                    "from; give guidance or contrast with it, or leave it out"
                )
            sampling = unguided(sampling)
        if context is not None and context.length:
            treatment = unconditional or self.recommended.treatment["image" if words else kind]
            streams = behind(context, streams, treatment == "kept", v)
        steps = plan(prompt, v, self.decoder.config.context, max_tokens, max(s.length for s in streams), pictures)
        return Request(streams, steps, sampling, unguided(text_sampling))

    def best(self, p: Prepared, results: Sequence[Result]) -> Result:
        """Return the candidate whose finished document, in its own order, is the most probable after its context, of
        the results of a prompt's requests."""
        results = list({r.tokens.ids.tobytes(): r for r in reversed(results)}.values())[::-1]  # the first of equals
        if len(results) == 1:
            return results[0]
        filled = [self.codec.unmask(p.prompt, spans_of(p.prompt, r)) for r in results]
        whole = [prepend(p.context.tokens, canonical(f, self.codec.text, self.vocab)) for f in filled]
        scores = log_likelihoods(self.decoder, whole, [1 + p.context.tokens.length] * len(whole))
        return results[int(np.argmax(scores))]

    def finish(self, p: Prepared, result: Result) -> Generation:
        """Return the generation of a prompt, as the engine filled it."""
        (document, prompt), spans = p.asked, spans_of(p.prompt, result)
        done = self.codec.fill(document, spans, prompt)
        score = float(sum(result.logprobs))
        filled = filled_parts(document, done, prompt, spans, self.codec)
        read = tuple(f.document for f in p.context.used)
        doubts = None
        if self.world is not None:
            doubts = Doubts(self.world, self._image, self.bundle.name, document, read, p.kind != "control")
        cut, c = ("limit" in result.reasons,), p.context
        return Generation((done,), (score,), document, (filled,), c.used, c.left_out, doubts, cut, (p.thought,))

    def _with_cells(self, ids: np.ndarray) -> Tokens:
        if ids.ndim != 1 or ids.size == 0:
            raise RequestError(f"ids of shape {ids.shape}: must be one sequence of at least one id")
        if ids.min() < 0 or ids.max() >= self.vocab.size:
            raise RequestError(f"ids from {ids.min()} to {ids.max()}: must lie in 0..{self.vocab.size - 1}")
        return Tokens.of(ids.astype(np.int32), cells_of(ids, self.vocab, self.grid[0] * self.grid[1]))


def sample_seeds(seed: int, n: int) -> list[int]:
    """Return the seeds of `n` samples of one prompt: the first is its own."""
    return [_sub_seed(seed, i) if i else seed for i in range(n)]


def _sub_seed(seed: int, i: int) -> int:
    """Return the seed of sample `i`: independent of how many are asked for."""
    return int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> 1)

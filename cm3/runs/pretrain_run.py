"""The run that pretrains or tunes a language model: recipe -> tokenizers, documents, trainer -> bundle.

    data  --made(), texts()-->  vocabulary, text tokenizer  -+
    init  --its bundle-->  model, vocabulary, tokenizers    -+->  codec  --data.source(run)-->  Trainer  -->  out/bundle

`cm3 train RECIPE` calls the recipe, applies overrides to the dataclass that it returns, and calls its `run`. A bundle
given as `init` says what it is: model, vocabulary and tokenizers come from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

from cm3 import files
from cm3.data.kind import Context, Data, Made
from cm3.data.kinds import StoreData
from cm3.data.load import Source
from cm3.document import Document
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.generate import CM3Leon
from cm3.model import bundle as bundles
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.int8 import Int8Decoder
from cm3.model.vqgan import VQGAN, VQGANConfig
from cm3.parallel import Mesh, start
from cm3.runs.export_run import about_of, bundle_of, decoder_digest, format_of, tokenizer_of
from cm3.tasks import find_task
from cm3.tokens.chameleon import chameleon_file, load_text_tokenizer, read_text_tokenizer, vocab_for
from cm3.tokens.codec import Codec
from cm3.tokens.image import ImageTokenizer, preprocess, to_pixels
from cm3.tokens.on_disk import text_fingerprint
from cm3.tokens.text import TextTokenizer
from cm3.train.checkpoint import check_new, last
from cm3.train.claim import run_claimed
from cm3.train.collective import Ranks
from cm3.train.config import TrainConfig
from cm3.train.image_sheet import write_sheet
from cm3.train.image_tokenizer import WEIGHTS, load_config
from cm3.train.trainer import Trainer
from cm3.vocab import Grammar


class _Parts(NamedTuple):
    """The parts of a run."""

    vqgan: VQGAN
    codec: Codec
    context: Context
    source: Source
    model: DecoderConfig
    image_size: int


@dataclass(frozen=True)
class PretrainRun(TrainConfig):
    """Train a decoder with the CM3 objective; ends in a bundle.

    The vocabulary and grid of `model`, and the columns of `mask`, are set from the tokenizers. With `init` the model is
    that of the bundle, as are its vocabulary, its tokenizers and the size of its pictures; `model` then says nothing,
    or the same. With `lora` only adapters beside the matrices of `init` learn; the bundle has them merged.
    """

    init: str = ""
    """Bundle (name, folder or hub id) to start from, in the place of a random model."""
    image_tokenizer: str = ""
    """Folder that an image tokenizer run wrote; not used with `init`, which has its own."""
    replace_image_tokenizer: str = ""
    """Folder of an image tokenizer run that takes the place of that of `init`, whose codes it mostly kept."""
    image_size: int = 0
    """Side of the pictures, in pixels; 0 is that of `init`, of the stores, or of the image tokenizer's training."""
    cells: bool = True
    """Learn a row and a column embedding for the codes of images (`model.grid`); the paper's models have none. Not used
    with `init`."""
    text_entries: int = 512
    """Most entries of the text tokenizer, which is trained on the words of `data`; not used with stores or `init`."""
    masks: int = 32
    """Masks of the vocabulary; not used with stores or `init`."""
    grammar: Grammar = "cm3"
    """Grammar of a model from nothing, 'cm3' or 'chameleon', whose text tokenizer names every id and has no masks; not
    used with stores, `init`, or a tokenizer of one's own."""
    data: Data = field(default_factory=lambda: StoreData(("runs/store",)))
    sampling: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Recommended settings by kind (image, region, text, edit, control, segment), written to the bundle."""
    tasks: tuple[str, ...] = ()
    """Instruction tasks that it is tuned for, by name, written to the bundle; none means those of `data`."""
    prompt_format: str = ""
    """Format of prompts of a model of Chameleon's grammar (cm3/sequence/turns.py), written to the bundle; none means
    that of `init`, else plain."""

    def run(self, *, progress: bool = True, resume: bool = False) -> dict[str, Any]:
        """Train, and write `out/bundle`. Stopped by a signal, returns with "stopped" and a checkpoint in its place."""
        # Data of this run's own: what it opens and keeps is as it lies there now, and goes with the run.
        run = dataclasses.replace(self, data=dataclasses.replace(self.data))
        with start(self.mesh, self.device) as mesh:
            return run._train(mesh, progress, resume)

    def _train(self, mesh: Mesh, progress: bool, resume: bool) -> dict[str, Any]:
        # All that can be refused comes first; what is written comes after, by one process alone.
        out, ranks = Path(self.out), Ranks(mesh)
        if self.grammar not in get_args(Grammar):
            raise ConfigError(f"grammar={self.grammar!r:.60}: must be 'cm3' or 'chameleon'")
        for task in self.tasks:
            find_task(task)
        ranks.together(lambda: check_new(out, resume))
        ranks.together(lambda: bundles.check_place(out / "bundle"))
        init = bundles.load(bundles.find(self.init), weights=mesh.main) if self.init else None
        vqgan = tokenizer_of(init, self.image_tokenizer, self.replace_image_tokenizer)
        # Learnt once, on the main process; a name for it is all that the others need of its file.
        text = ranks.together(lambda: self._text_tokenizer(init, vqgan.config.codes) if mesh.main else b"")[0]
        with tempfile.TemporaryDirectory(prefix="cm3-") as folder:
            path = Path(folder) / "tokenizer.json"
            files.write(path, text)
            parts = ranks.main_first(lambda: self._parts(init, vqgan, path))
            held_out = self.data.held_out(parts.context) if self.validate_every else None
            given = {"image_tokenizer": vqgan.fingerprint(), "text_tokenizer": text_fingerprint(path)}
            given |= self.data.given(parts.source)
        resolved = dataclasses.replace(
            self,
            model=parts.model,
            image_size=parts.image_size,
            mask=dataclasses.replace(self.mask, columns=ImageTokenizer(vqgan, parts.image_size).grid[1]),
            tasks=self.tasks or self.data.tasks(),
        )
        # The model that adapters stand beside is not in their checkpoints, so it must be what it was; as must what is
        # read from disk.
        about = dataclasses.asdict(resolved) | {"given": given}
        if world := self.data.world():
            about["world"] = dict(world)
        if init is not None and self.lora.rank:
            about["base"] = decoder_digest(init)
        trainer = Trainer(
            resolved,
            parts.codec.vocab,
            parts.source,
            resume=resume,
            mesh=mesh,
            validation=held_out,
            about=about,
            weights=init.decoder.state_dict() if init is not None else None,
        )
        if init is not None:
            init.decoder.to("meta")  # the trainer has its own
        with contextlib.ExitStack() as held:

            def begin() -> None:
                held.enter_context(run_claimed(out, lambda: last(out), trainer.seen))
                trainer.describe()
                self._write_tokenizer(text)
                self.data.begin(parts.context)

            ranks.together(lambda: begin() if mesh.main else None)
            ranks.main_first(parts.source.make)
            return self._steps(trainer, parts, init, resolved, ranks, progress)

    def _steps(
        self,
        trainer: Trainer,
        parts: _Parts,
        init: bundles.Bundle | None,
        resolved: PretrainRun,
        ranks: Ranks,
        progress: bool,
    ) -> dict[str, Any]:
        """Train, and write the bundle."""
        out = Path(self.out)

        def export(decoder: Decoder, documents: int) -> bundles.Bundle:
            about = about_of(out, trainer.step, documents, resolved.tasks, trainer.mixture(documents))
            about |= format_of(parts.codec.vocab, init, self.prompt_format)
            if world := self.data.world():
                about["world"] = dict(world)
            vocab, size = parts.codec.vocab, parts.image_size
            made = bundle_of(out, decoder, vocab, parts.vqgan, init, size, self.sampling, about)
            bundles.save(made, out / "bundle")
            return made

        def sheet(decoder: Decoder, documents: int) -> None:
            shown = CM3Leon(export(decoder, documents), device=decoder.device)
            if prompts := self.data.prompts(parts.context):
                draw_samples(shown, prompts, out / "samples" / f"{trainer.step:07d}.png")

        def on_main(work: Callable[[Decoder, int], Any]) -> None:
            decoder, documents = trainer.whole(), trainer.documents()

            def alone() -> None:
                if decoder is not None:
                    work(decoder, documents)

            ranks.together(alone)

        def sample(trainer: Trainer) -> None:
            # A model that is spread over processes is not gathered while they wait: `cm3 export` draws its checkpoints.
            if trainer.in_place and trainer.step < self.steps:
                on_main(sheet)
                trainer.model.train()

        record = trainer.run(progress=progress, callbacks=[sample], claimed=True)
        if "stopped" in record:
            return {"out": self.out} | record
        on_main(sheet if self.sample_every else export)
        mixture = trainer.mixture(trainer.documents())
        made = {"out": self.out, "bundle": str(out / "bundle")} | record
        return made | dict(trainer.left_out()) | ({"mixture": mixture} if mixture else {})

    def given_init(self, recipe: PretrainRun) -> PretrainRun:
        """Return the run without the model and size of its `recipe`, where it begins with another bundle."""
        if not self.init or self.init == recipe.init:
            return self
        model = DecoderConfig() if self.model == recipe.model else self.model
        size = 0 if self.image_size == recipe.image_size else self.image_size
        return dataclasses.replace(self, model=model, image_size=size)

    def settled(self) -> PretrainRun:
        """Return the run with the model that it will build.

        It is that of what the run begins with; else its vocabulary and grid are those of its stores, and of its
        tokenizers, where these are there already; else what `model` says. Raises `CheckpointError` and `DataError` for
        what is there and damaged.
        """
        init = _local(self.init)
        if init is not None:
            begun = bundles.load(init, weights=False)
            self._check_init(begun)
            return dataclasses.replace(self, model=begun.decoder.config, image_size=begun.image_size)
        vocab_size, grid, shape, made = self.model.vocab_size, self.model.grid, self._shape(), None
        with contextlib.suppress(DataError):
            made = None if self.init else self.data.made()
        if made is not None:
            vocab_size = made.vocab.size
        elif not self.init and shape is not None:
            with contextlib.suppress(ConfigError, DataError):
                text = read_text_tokenizer(self._text_tokenizer(None, shape.codes), "tokenizer.json")
                vocab_size = vocab_for(text, shape.codes, self.masks).size
        if shape is not None:
            size = self.image_size or (made.image_size if made else 0) or trained_size(self.image_tokenizer)
            grid = (size // shape.factor,) * 2
        model = dataclasses.replace(self.model, vocab_size=vocab_size, grid=grid if self.cells else None)
        return dataclasses.replace(self, model=model)

    def _shape(self) -> VQGANConfig | None:
        """Return the shape of the image tokenizer of a run from nothing, None where it is not there yet."""
        folder = Path(self.image_tokenizer)
        there = self.image_tokenizer and not self.init and (folder / WEIGHTS).exists()
        return load_config(folder) if there else None

    def _check_init(self, init: bundles.Bundle) -> None:
        """Raise `CheckpointError` where the run says another model or size than the bundle that it begins with, and
        where that is in int8."""
        if isinstance(init.decoder, Int8Decoder):
            raise CheckpointError(
                f"init={self.init!r}: its weights are in int8, which is not trained; begin with the bundle that it was "
                "made of"
            )
        shape, plain = init.decoder.config, DecoderConfig()
        said = dataclasses.replace(self.model, vocab_size=shape.vocab_size, grid=shape.grid)
        if said not in (shape, dataclasses.replace(plain, vocab_size=shape.vocab_size, grid=shape.grid)):
            names = [f.name for f in dataclasses.fields(shape) if getattr(said, f.name) != getattr(shape, f.name)]
            told = ", ".join(f"{name} is {getattr(shape, name)}, not {getattr(said, name)}" for name in names)
            raise CheckpointError(
                f"init={self.init!r}: is a model of another shape ({told}); it is what it is: leave model.* out"
            )
        if self.image_size not in (0, init.image_size):
            raise CheckpointError(
                f"init={self.init!r}: has pictures of {init.image_size} pixels, not image_size={self.image_size}; "
                "leave image_size out"
            )

    def _text_tokenizer(self, init: bundles.Bundle | None, codes: int) -> bytes:
        """Return the text tokenizer's file: of what the run begins with, of its data, or learnt from its words.

        `codes`: those of the image tokenizer, for a file that names them. One that lies in `out` is the run's where it
        has checkpoints, and else one's own, to be used. Raises `CheckpointError` where the run has another.
        """
        out, ours = Path(self.out), Path(self.out) / "tokenizer.json"
        began = last(out) is not None and ours.exists()
        theirs: bytes | None = None
        if init is not None:
            theirs = init.text_bytes()
        elif not began and (made := self.data.made()) is not None:
            theirs = made.text
        if theirs is None:
            if began or (ours.exists() and not (out / "config.json").exists()):
                return ours.read_bytes()
            learnt = TextTokenizer.train(self.data.texts(), self.text_entries)
            return learnt.to_bytes() if self.grammar == "cm3" else chameleon_file(learnt, codes)
        if ours.exists() and ours.read_bytes() != theirs:
            if began:
                raise CheckpointError(
                    f"init={self.init!r}: has another text tokenizer than the run in {str(out)!r}; give the init that "
                    "it began with, or another out"
                )
            if not (out / "config.json").exists():
                raise ConfigError(
                    f"out={str(out)!r}: holds a tokenizer.json that is not this run's; delete it, or give another out"
                )
        return theirs

    def _write_tokenizer(self, text: bytes) -> None:
        path = Path(self.out) / "tokenizer.json"
        if not path.exists() or path.read_bytes() != text:
            files.write(path, text)

    def _parts(self, init: bundles.Bundle | None, vqgan: VQGAN, tokenizer: Path) -> _Parts:
        """Return the documents, the model, and what makes tokens; `tokenizer`: the text tokenizer's. Write nothing."""
        made: Made | None = None
        text = load_text_tokenizer(tokenizer)
        if init is not None:
            self._check_init(init)
            vocab, size = init.vocab, init.image_size
        elif (made := self.data.made()) is not None:
            vocab, size = made.vocab, self.image_size or made.image_size
        else:
            vocab = vocab_for(text, vqgan.config.codes, self.masks)
            size = self.image_size or trained_size(self.image_tokenizer)
        image = ImageTokenizer(vqgan, size)
        model = self.model
        if init is not None:
            model = init.decoder.config
        else:
            model = dataclasses.replace(model, vocab_size=vocab.size, grid=image.grid if self.cells else None)
        codec = Codec(vocab, text, image, format_of(vocab, init, self.prompt_format))
        context = Context(Path(self.out), codec, tokenizer, model.context, self.length)
        return _Parts(vqgan, context.codec, context, self.data.source(context), model, size)


def trained_size(folder: str) -> int:
    """Return the side of the pictures, in pixels, that an image tokenizer run trained on.

    Raises `CheckpointError` where its config.json does not say.
    """
    what = f"image tokenizer {folder!r}"
    size = files.read_json(Path(folder) / "config.json", what).get("size")
    if type(size) is not int or size < 1:
        raise CheckpointError(f"{what}: config.json says no size; give image_size, the side of the pictures")
    return size


def _local(bundle: str) -> Path | None:
    """Return where a bundle is on this machine; None where it is not, or would have to be fetched."""
    if not bundle or bundle.startswith("hf://"):
        return None
    try:
        return bundles.find(bundle)
    except CheckpointError:
        return None


def draw_samples(model: CM3Leon, documents: list[Document], path: Path) -> None:
    """Write a sheet of what the model draws for the captions of documents: theirs above, the model's below."""
    made = model.generate_many([d.text for d in documents], seeds=list(range(len(documents))))
    truth = [preprocess(d.images[0].pixels, model.image_size) for d in documents]
    write_sheet(path, to_pixels(truth), to_pixels([g.image for g in made]))

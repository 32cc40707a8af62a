"""Runs that recipes return: a config that knows how to carry itself out.

`cm3 train RECIPE` calls the recipe, applies overrides to the dataclass that it returns, and calls its `run`. What a run
writes last is a bundle, `out/bundle`, ready for every other verb.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from cm3 import files
from cm3.data.documents import DocumentSource
from cm3.data.load import Source
from cm3.data.neighbours import Neighbours
from cm3.data.store import Store
from cm3.data.store_source import Retrieval, StoreSource
from cm3.data.task_data import STORE, task_source
from cm3.data.task_source import StorePart, TaskSource
from cm3.document import Document, left_out
from cm3.errors import CheckpointError, ConfigError
from cm3.generate import CM3Leon
from cm3.model import bundle as bundles
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.vqgan import VQGAN
from cm3.parallel import Mesh, start
from cm3.read.coco import Coco, CocoDocuments
from cm3.retrieval.embed import load_encoder
from cm3.retrieval.memory import Memory
from cm3.scenes.data.emblem_bank import build_emblem_bank
from cm3.scenes.data.emblem_source import EmblemSource, bank_documents, emblem_neighbours
from cm3.scenes.data.lessons import SceneTaskSource
from cm3.scenes.data.scene_source import SceneSource, scene_document
from cm3.scenes.data.training_pictures import Images, scene_pictures, task_pictures
from cm3.scenes.draw import draw
from cm3.scenes.world import random_scene
from cm3.tasks.numbered import Numbered
from cm3.tokens.codec import Codec
from cm3.tokens.image import ImageTokenizer, preprocess, to_pixels
from cm3.tokens.load import fingerprint, text_fingerprint
from cm3.tokens.text import TextTokenizer
from cm3.train.checkpoint import check_new, last
from cm3.train.claim import run_claimed
from cm3.train.export import about_of, bundle_of, decoder_digest, tokenizer_of, world_of
from cm3.train.image_tokenizer import WEIGHTS, ImageTokenizerConfig, load_config, train_image_tokenizer
from cm3.train.kinds import CocoData, EmblemData, SceneData, SceneLessonData, SceneTaskData, StoreData, TaskData
from cm3.train.ranks import Ranks
from cm3.train.reconstruct import evaluate_image_tokenizer, write_sheet
from cm3.train.signals import Signals
from cm3.train.trainer import TrainConfig, Trainer
from cm3.vocab import Tokens, Vocab


@dataclass(frozen=True)
class ImageTokenizerRun(ImageTokenizerConfig):
    """Train an image tokenizer on pictures of `data`."""

    data: SceneData | SceneTaskData | CocoData = field(default_factory=SceneData)

    def run(self, *, progress: bool = True, resume: bool = False) -> dict[str, Any]:
        """Train, then measure on pictures not trained on (scenes) or on the very ones (COCO, learnt by heart).

        Stopped by a signal, returns with "stopped" and a checkpoint in its place.
        """
        check_new(Path(self.out), resume)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("an image tokenizer trains in one process; start it without torchrun")
        images, left = self._images()
        base = {f.name: getattr(self, f.name) for f in dataclasses.fields(ImageTokenizerConfig)}
        with Signals() as signals:
            vqgan = train_image_tokenizer(
                ImageTokenizerConfig(**base),
                images,
                progress=progress,
                stopping=signals.stopping,
                notes=[left][: len(left)],
            )
        if signals.stopped or signals.stopping(self.steps):
            return {"out": self.out} | signals.stopped
        if not isinstance(self.data, CocoData):
            rng = np.random.default_rng([self.seed, 0xE7A1])
            measured = [draw(random_scene(rng, "test"), self.size, rng) for _ in range(256)]
        else:
            measured = _coco_pictures(self)[0]
        batches = [to_pixels(measured[i : i + 32]) for i in range(0, len(measured), 32)]
        return {"out": self.out} | evaluate_image_tokenizer(vqgan, batches) | left

    def _images(self) -> tuple[Images, dict[str, Any]]:
        """The pictures of each step, and what was left out of them."""
        data = self.data
        if isinstance(data, SceneData):
            return scene_pictures(data.seed, self.size, self.batch, data.objects, data.focus), {}
        if isinstance(data, SceneTaskData):
            return task_pictures(data.seed, self.size, self.batch, self.keep or self.batch // 2, data.shares), {}
        return _coco_images(self)


@dataclass(frozen=True)
class PretrainRun(TrainConfig):
    """Pretrain a decoder with the CM3 objective on captioned pictures; ends in a bundle.

    The vocabulary and grid of `model`, and the columns of `mask`, are set from the tokenizers. With `lora` only
    adapters beside the matrices of `init` learn; the bundle has them merged.
    """

    image_tokenizer: str = "runs/scenes/image_tokenizer"
    """Folder that an image tokenizer run wrote."""
    init: str = ""
    """Bundle (name, folder or hub id) to start from, with its tokenizers, in the place of a random model."""
    redrawn: str = ""
    """Folder of an image tokenizer run to take instead of that of `init`, whose codes it mostly kept."""
    image_size: int = 128
    """Side of the pictures, in pixels."""
    cells: bool = True
    """Learn a row and a column embedding for the codes of images (`model.grid`); the paper's models have none."""
    text_entries: int = 512
    """Most entries of the text tokenizer, which is trained on the captions; not used with stores."""
    masks: int = 32
    """Masks of the vocabulary; not used with stores."""
    data: SceneData | CocoData | EmblemData | StoreData | SceneLessonData | TaskData = field(default_factory=SceneData)
    sampling: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Recommended settings by kind (image, region, text, edit, control, segment), written to the bundle."""
    tasks: tuple[str, ...] = ()
    """Instruction tasks that it is tuned for, by name, written to the bundle."""

    def run(self, *, progress: bool = True, resume: bool = False) -> dict[str, Any]:
        """Train, and write `out/bundle`. Stopped by a signal, returns with "stopped" and a checkpoint in its place."""
        with start(self.mesh, self.device) as mesh:
            return self._train(mesh, progress, resume)

    def _train(self, mesh: Mesh, progress: bool, resume: bool) -> dict[str, Any]:
        # All that can be refused comes first; what is written comes after, by one process alone.
        out, ranks = Path(self.out), Ranks(mesh)
        ranks.together(lambda: check_new(out, resume))
        ranks.together(lambda: bundles.check_place(out / "bundle"))
        init = bundles.load(bundles.find(self.init), weights=mesh.main) if self.init else None
        vqgan = tokenizer_of(init, self.image_tokenizer, self.redrawn)
        # Learnt once, on the main process; a name for it is all that the others need of its file.
        text = ranks.together(lambda: self._text_tokenizer(init) if mesh.main else b"")[0]
        with tempfile.TemporaryDirectory(prefix="cm3-") as folder:
            path = Path(folder) / "tokenizer.json"
            files.write(path, text)
            source, codec = ranks.main_first(lambda: self._source(vqgan, path))
            given = {"image_tokenizer": vqgan.fingerprint(), "text_tokenizer": text_fingerprint(path)}
            given |= self._documents(source)
        grid = ImageTokenizer(vqgan, self.image_size).grid
        model = self._model(codec.vocab.size, grid)
        mask = dataclasses.replace(self.mask, columns=grid[1])
        resolved = dataclasses.replace(self, model=model, mask=mask, tasks=self._tuned_for())
        base = {f.name: getattr(resolved, f.name) for f in dataclasses.fields(TrainConfig)}
        if init is not None and (init.decoder.config != model or init.vocab != codec.vocab):
            raise CheckpointError(
                f"init={self.init!r}: is a model of another shape; give the same model.*, cells and masks"
            )
        # What adapters are of is not in their checkpoints, so it must be what it was; as must what is read from disk.
        beside: dict[str, Any] = {"given": given}
        if init is not None and self.lora.rank:
            beside["base"] = decoder_digest(init)
        trainer = Trainer(
            TrainConfig(**base),
            codec.vocab,
            source,
            resume=resume,
            mesh=mesh,
            validation=self._validation(codec) if self.validate_every else None,
            about=dataclasses.asdict(resolved) | beside,
            weights=init.decoder.state_dict() if init is not None else None,
            notes=[left] if (left := _left_out(source)) else (),
        )
        if init is not None:
            init.decoder.to("meta")  # the trainer has its own
        with contextlib.ExitStack() as held:

            def begin() -> None:
                held.enter_context(run_claimed(out, lambda: last(out), trainer.seen))
                trainer.describe()
                self._write_tokenizer(text)
                self._retrieval()

            ranks.together(lambda: begin() if mesh.main else None)
            ranks.main_first(lambda: _make(source))
            return self._steps(trainer, codec, vqgan, init, resolved, ranks, progress)

    def _steps(
        self,
        trainer: Trainer,
        codec: Codec,
        vqgan: VQGAN,
        init: bundles.Bundle | None,
        resolved: PretrainRun,
        ranks: Ranks,
        progress: bool,
    ) -> dict[str, Any]:
        """Train, and write the bundle."""
        out = Path(self.out)

        def export(decoder: Decoder, documents: int) -> bundles.Bundle:
            about = about_of(out, trainer.step, documents, resolved.tasks, trainer.mixture(documents))
            about |= world_of(dataclasses.asdict(self.data))
            made = bundle_of(out, decoder, codec.vocab, vqgan, init, self.image_size, self.sampling, about)
            bundles.save(made, out / "bundle")
            return made

        def sheet(decoder: Decoder, documents: int) -> None:
            shown, prompts = CM3Leon(export(decoder, documents)), self._prompts(codec, trainer.source)
            if prompts:
                draw_samples(shown, prompts, out / "samples" / f"{trainer.step:07d}.png")

        def on_main(work: Callable[[Decoder, int], Any]) -> None:
            decoder, documents = trainer.whole(), trainer.documents()

            def alone() -> None:
                if decoder is not None:
                    work(decoder, documents)

            ranks.together(alone)

        def sample(trainer: Trainer) -> None:
            on_main(sheet)
            trainer.model.train()

        record = trainer.run(progress=progress, callbacks=[sample])
        if "stopped" in record:
            return {"out": self.out} | record
        on_main(export)
        mixture = trainer.mixture(trainer.documents())
        made = {"out": self.out, "bundle": str(out / "bundle")} | record | _left_out(trainer.source)
        return made | ({"mixture": mixture} if mixture else {})

    def settled(self) -> PretrainRun:
        """Return the run with the model that it will build.

        The vocabulary and the grid are those of what it begins with or of its stores, and of its tokenizers, where
        these are there already; else what `model` says. Raises `CheckpointError` and `DataError` for what is there and
        damaged.
        """
        vocab_size, grid = self.model.vocab_size, self.model.grid
        run = Path(self.redrawn or self.image_tokenizer)
        shape = load_config(run) if (run / WEIGHTS).exists() and (self.redrawn or not self.init) else None
        init = _local(self.init)
        if init is not None:
            begun = bundles.load(init, weights=False)
            vocab_size, shape = begun.vocab.size, shape or begun.vqgan.config
        elif isinstance(self.data, StoreData) and self.data.stores and Path(self.data.stores[0]).is_dir():
            vocab_size = Store.open(self.data.stores[0]).vocab.size
        elif not (self.init or isinstance(self.data, StoreData | TaskData)) and shape is not None:
            vocab_size = Vocab(text=self._text_entries(), image=shape.codes, masks=self.masks, reserved=0).size
        if shape is not None:
            grid = (self.image_size // shape.factor,) * 2
        return dataclasses.replace(self, model=self._model(vocab_size, grid))

    def _text_entries(self) -> int:
        """Return entries of the text tokenizer that a run on documents learns, or has."""
        return TextTokenizer.parse(self._text_tokenizer(None), "tokenizer.json").size

    def _model(self, vocab_size: int, grid: tuple[int, int] | None) -> DecoderConfig:
        return dataclasses.replace(self.model, vocab_size=vocab_size, grid=grid if self.cells else None)

    def _text_tokenizer(self, init: bundles.Bundle | None) -> bytes:
        """Return the text tokenizer's file: of what the run begins with, of its stores, or learnt from its captions.

        One that lies in `out` is the run's where it has checkpoints, and else one's own, to be used. Raises
        `CheckpointError` where the run has another.
        """
        out, ours = Path(self.out), Path(self.out) / "tokenizer.json"
        began = last(out) is not None and ours.exists()
        theirs: bytes | None = None
        if init is not None:
            theirs = init.text_bytes()
        elif isinstance(self.data, StoreData) and not began:
            theirs = self._stores(self.data)[0].tokenizer_path.read_bytes()
        if theirs is None:
            if began or (ours.exists() and not (out / "config.json").exists()):
                return ours.read_bytes()
            return TextTokenizer.train(self._texts(), self.text_entries).to_bytes()
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

    def _texts(self) -> list[str]:
        """Return what a text tokenizer is learnt from, where the data brings none."""
        data = self.data
        if isinstance(data, CocoData):
            return [d.text for d in Coco(data.root, data.split) if isinstance(d, Document)]
        if isinstance(data, StoreData | TaskData):
            return []
        # Captions alone: pictures of 16 pixels cost nothing.
        return [scene_document(data.seed + 1, i, 16, captions_only=1.0).text for i in range(20_000)]

    def _tuned_for(self) -> tuple[str, ...]:
        """The tasks that a bundle of this run says it knows."""
        if self.tasks or not isinstance(self.data, TaskData):
            return self.tasks
        named = dict.fromkeys(source.partition("=")[0] for source in self.data.sources)
        return tuple(task for task in named if task != STORE)

    def _validation(self, codec: Codec) -> Source:
        """Documents of the same kind that are never trained on."""
        data = self.data
        if isinstance(data, SceneData | EmblemData):
            return SceneSource(codec, data.seed, "val")
        if isinstance(data, SceneLessonData):
            plain = SceneSource(codec, data.seed, "val")
            return SceneTaskSource(codec, data.seed, data.mix, data.law, plain=plain, split="val")
        if isinstance(data, StoreData) and data.validation:
            return StoreSource([Store.open(data.validation)], seed=data.seed)
        more = ", or --data.validation with a store of others" if isinstance(data, StoreData) else ""
        raise ConfigError(f"validate_every={self.validate_every}: there are no documents held out; give 0{more}")

    def _source(self, vqgan: VQGAN, tokenizer: Path) -> tuple[Source, Codec]:
        """Return the documents, and what makes tokens of them; `tokenizer`: the text tokenizer's. Write nothing."""
        image, data = ImageTokenizer(vqgan, self.image_size), self.data
        if isinstance(data, TaskData) and not self.init:
            raise ConfigError("init: a tuning run has no model to start from; give a bundle")
        if isinstance(data, StoreData):
            return self._store_source(data, image, tokenizer)
        text = TextTokenizer.load(tokenizer)
        vocab = Vocab(text=text.size, image=vqgan.config.codes, masks=self.masks, reserved=0)
        codec = Codec(vocab, text, image)
        if isinstance(data, CocoData):
            return DocumentSource(Coco(data.root, data.split).documents(), codec, data.seed), codec
        if isinstance(data, TaskData):
            return task_source(data, codec, tokenizer, self.model.context), codec
        if isinstance(data, SceneLessonData):
            plain = self._drawn_source(data.plain, codec)
            return SceneTaskSource(codec, data.seed, data.mix, data.law, plain=plain), codec
        return self._drawn_source(data, codec), codec

    def _drawn_source(self, data: SceneData | EmblemData, codec: Codec) -> Source:
        if isinstance(data, EmblemData):
            return self._emblem_source(data, codec)
        return SceneSource(codec, data.seed, captions_only=data.captions_only, objects=data.mix, in_order=data.in_order)

    def _stores(self, data: StoreData) -> list[Store]:
        if not data.stores:
            raise ConfigError("data.stores: there are none; give at least one that `cm3 prepare` wrote")
        return [Store.open(path) for path in data.stores]

    def _store_source(self, data: StoreData, image: ImageTokenizer, tokenizer: Path) -> tuple[Source, Codec]:
        stores = self._stores(data)
        retrieval = None
        if data.neighbours:
            retrieval = Retrieval(Neighbours.open(data.neighbours), stores[0], data.documents, self.model.context)
        source = StoreSource(stores, data.weights, data.seed, retrieval)
        for what, known, ours in (
            ("text tokenizer", stores[0].text_fingerprint, text_fingerprint(tokenizer)),
            ("image tokenizer or size", stores[0].image_fingerprint, fingerprint(image)),
        ):
            if known != ours:
                raise ConfigError(
                    f"data.stores={data.stores}: were prepared with another {what} than this run has; give init, "
                    f"image_tokenizer and image_size (theirs is {stores[0].image_size}) as they were, or prepare again"
                )
        return source, Codec(stores[0].vocab, TextTokenizer.load(tokenizer), image)

    def _emblem_source(self, data: EmblemData, codec: Codec) -> Source:
        encoder, out, size = load_encoder(data.encoder), Path(self.out), self.image_size

        def make() -> Source:
            if (out / "memory").is_dir():
                memory = Memory.open(out / "memory", encoder=encoder)
            else:
                documents = bank_documents(data.emblems, data.scenes, size, data.seed)
                memory = Memory.build(out / "memory", documents, encoder)
            # Queries are of another seed than the bank, so that no scene asks for itself.
            table = emblem_neighbours(
                out / "neighbours", memory, encoder, scenes=data.scenes, size=size, seed=data.seed + 1
            )
            longest = min(self.length, self.model.context)
            return EmblemSource(codec, memory, table, data.seed + 2, data.mix, length=longest)

        return Later(make)

    def _documents(self, source: Source) -> dict[str, Any]:
        """Return names of what is read from disk, by its content: a run that goes on must have the same."""
        data = self.data
        found: dict[str, Any] = {}
        if isinstance(data, StoreData):
            found["stores"] = [store.fingerprint for store in self._stores(data)]
        if isinstance(data, StoreData | TaskData) and data.neighbours:
            found["neighbours"] = files.sha256(data.neighbours)
        if isinstance(source, DocumentSource):
            found["documents"] = documents_digest(source.documents)
        if isinstance(source, TaskSource):
            for part in source.parts:
                stored = part.store.fingerprint if isinstance(part, StorePart) else documents_digest(part.documents)
                found[f"source {part.name}"] = stored
        emblems = data.plain if isinstance(data, SceneLessonData) else data
        if isinstance(emblems, EmblemData):
            found["encoder"] = load_encoder(emblems.encoder).name
        return found

    def _retrieval(self) -> None:
        """Make the encoder and the bank that the bundle comes with, `out/encoder` and `out/bank`."""
        if not isinstance(self.data, EmblemData):
            return
        bank, encoder = Path(self.out) / "bank", load_encoder(self.data.encoder)
        if not bank.is_dir():
            test, train, scenes = self.data.bank
            build_emblem_bank(bank, encoder, test=test, train=train, scenes=scenes, size=self.image_size)
        if (folder := Path(self.data.encoder)).is_dir():
            # Less what training left beside it.
            less = shutil.ignore_patterns("*.pt", "*.jsonl", "run.json", ".*")
            shutil.copytree(folder, Path(self.out) / "encoder", dirs_exist_ok=True, ignore=less)

    def _prompts(self, codec: Codec, source: Source) -> list[Document]:
        if isinstance(self.data, TaskData):
            return []
        if isinstance(self.data, StoreData):
            store = Store.open(self.data.stores[0])
            some, v = store.tokens(range(min(len(store), 256))), store.vocab
            both = [t for t in some if v.is_image(t.ids).any() and v.is_text(t.ids).any()]
            return [codec.decode(t) for t in both[:8]]
        if isinstance(source, DocumentSource):
            return list(source.documents[:40:5])
        return [scene_document(self.seed + 2, i, self.image_size, "val") for i in range(8)]


class Later:
    """A source that is made when it is first asked, of what only a run that has begun may write."""

    def __init__(self, make: Callable[[], Source]) -> None:
        self._make = make

    @functools.cached_property
    def made(self) -> Source:
        """The source itself."""
        return self._make()

    def tokens(self, indices: Sequence[int]) -> list[Tokens]:
        """Return tokens of these documents."""
        return self.made.tokens(indices)


def _make(source: Source) -> None:
    """Make what of a source is still to be made."""
    plain = source.plain if isinstance(source, SceneTaskSource) else source
    if isinstance(plain, Later):
        plain.made  # noqa: B018


def _left_out(source: Source | CocoDocuments) -> dict[str, Any]:
    """The documents that are not trained on as they cannot be read, for log and result; empty where there is none."""
    documents = source.documents if isinstance(source, DocumentSource) else source
    left = documents.left_out if isinstance(documents, CocoDocuments) else ()
    return {"left_out": left_out(left)} if left else {}


def documents_digest(documents: Sequence[Document] | Numbered, most: int = 64) -> str:
    """Return a name for a list of documents: how many there are, and the words of at most so many, spread evenly."""
    hashed = hashlib.sha256(str(len(documents)).encode())
    for at in range(0, len(documents), max(1, len(documents) // most)):
        document = documents[at]
        told = (document.id, document.text) if isinstance(document, Document) else (document.id, document.reason)
        hashed.update(repr(told).encode())
    return hashed.hexdigest()


def _local(bundle: str) -> Path | None:
    """Return where a bundle is on this machine; None where it is not, or would have to be fetched."""
    if not bundle or bundle.startswith("hf://"):
        return None
    try:
        return bundles.find(bundle)
    except CheckpointError:
        return None


def draw_samples(model: CM3Leon, documents: list[Document], path: Path) -> None:
    """A sheet of what the model draws for the captions of documents: theirs above, the model's below."""
    made = model.generate_many([d.text for d in documents], seeds=list(range(len(documents))))
    truth = [preprocess(d.images[0].pixels, model.image_size) for d in documents]
    write_sheet(path, to_pixels(truth), to_pixels([g.image for g in made]))


def _coco_pictures(run: ImageTokenizerRun) -> tuple[list[PIL.Image.Image], dict[str, Any]]:
    """The pictures, and what was left out of them."""
    data = run.data
    assert isinstance(data, CocoData)
    pictures: dict[str, PIL.Image.Image] = {}
    documents = Coco(data.root, data.split).documents()
    for d in documents:
        if (key := d.meta["image_id"]) not in pictures:  # scaled at once: a photograph is some hundred times as large
            pictures[key] = preprocess(d.images[0].pixels, run.size)
    return list(pictures.values()), _left_out(documents)


def _coco_images(run: ImageTokenizerRun) -> tuple[Images, dict[str, Any]]:
    ordered, left = _coco_pictures(run)

    def images(step: int) -> list[PIL.Image.Image]:
        rng = np.random.default_rng([run.data.seed, 0x70C, step])
        return [ordered[i] for i in rng.choice(len(ordered), run.batch, replace=run.batch > len(ordered))]

    return images, left

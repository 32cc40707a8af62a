"""`cm3 prepare`: datasets become a store, which training and retrieval read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import HERE, Device, Flag, Verb, at_least, own_encoder, progress, stopped
from cm3.cli.outputs import check_folder, line
from cm3.errors import RequestError
from cm3.train.signals import Terminated


@dataclass(frozen=True, kw_only=True)
class Prepare(Verb):
    """Make a store of datasets: each document once, as tokens, and with vectors and pictures where they are asked for.

    A source is [KIND:]PATH[@SPLIT]; what kind it is, is found out where it is not said. Documents that cannot be kept
    are skipped and told; those that come again are kept once. Killed at any moment, the same command goes on where it
    was, and the store is byte for byte that of an unbroken run, with any number of workers. A document that was skipped
    stays so until --retry, after it was mended. Where nothing can be kept no store is left.

    examples:
      cm3 prepare photos/ --out stores/photos
      cm3 prepare data/coco@train2017 flickr30k:data/flickr --out stores/both --model runs/coco/bundle --workers 8
      cm3 prepare data/coco --out stores/coco --model runs/tokenizer --tokenizer tokenizer.json
      cm3 prepare photos/ --out stores/photos --retry
      cm3 prepare photos/ --out stores/photos --encoder openai/clip-vit-base-patch32 --pictures
      cm3 prepare 'webdataset:shards/{00000..00099}.tar' --out /shared/laion --cluster ray://head:10001 --json
    """

    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE")]
    """Datasets: [KIND:]PATH[@SPLIT]."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("store")
    """Folder for the store."""
    model: Annotated[str, arg(metavar="MODEL")] = "stickers"
    """Whose tokenizers: a model's name, folder or hf://OWNER/NAME, or the folder that an image tokenizer run wrote;
    none for a store without tokens."""
    tokenizer: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="(default: beside the model)")] = None
    """The text tokenizer, with the folder of an image tokenizer run."""
    masks: Annotated[int, arg(metavar="N")] = 32
    """Masks of the vocabulary, with the folder of an image tokenizer run; a model has its own."""
    encoder: Annotated[str | None, arg(metavar="ENCODER", help_behavior_hint="(default: no vectors)")] = None
    """Keep vectors of each document's words and of its pictures, made with this encoder: a CLIP's hub id or folder, or
    a model with its own."""
    pictures: Annotated[Flag, arg(help="Keep the words, and the pictures as the bytes that they came in.")] = False
    unit: Annotated[int, arg(metavar="N")] = 1000
    """Documents of a shard, where a dataset is not in pieces of its own; most that a kill loses, for each worker."""
    max_text: Annotated[int, arg(metavar="N")] = 1024
    """Longest text in tokens; longer ones are cut, and counted."""
    license: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """Licence to note for documents that have none."""
    workers: Annotated[int, arg(metavar="N")] = 0
    """Processes to work with, of one thread each; 0 is this process alone."""
    cluster: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="")] = None
    """Work on a Ray cluster: ray://HOST:10001, on a node of it HOST:6379, or local for one of this machine.
    It must see all paths alike."""
    place: Annotated[Device, HERE] = Device()
    strict: Annotated[Flag, arg(help="Stop at the first document that has to be skipped.")] = False
    retry: Annotated[
        Flag, arg(help="Look again at what was skipped, once it was mended: those pieces of the sources are read anew.")
    ] = False

    def run(self) -> dict[str, Any]:
        """Prepare, and tell what became of the documents."""
        try:
            return self.prepared()
        except Terminated:  # raised by `main`, once
            return {"store": str(self.out), **stopped(self.out)}

    def prepared(self) -> dict[str, Any]:
        """Prepare, and tell what became of the documents."""
        from cm3.data.prepare import prepare
        from cm3.model.bundle import find

        if not self.sources:
            raise RequestError("no source given; name at least one, [KIND:]PATH[@SPLIT]")
        at_least(1, unit=self.unit, max_text=self.max_text, masks=self.masks)
        at_least(0, workers=self.workers)
        check_folder(self.out)
        with progress("preparing", unit="document") as update:
            report = prepare(
                self.sources,
                self.out,
                None if self.model == "none" else find(self.model),
                text=self.tokenizer,
                masks=self.masks,
                encoder=None if self.encoder is None else own_encoder(self.encoder),
                pictures=self.pictures,
                unit=self.unit,
                max_text=self.max_text,
                license=self.license,
                workers=self.workers,
                cluster=self.cluster,
                device=self.place.device,
                strict=self.strict,
                retry=self.retry,
                progress=update,
            )
        twice = report.duplicates["content"] + report.duplicates["id"]
        left = sum(kind["count"] for kind in report.skipped.values())
        over = sum(kind["count"] for kind in report.passed.values())
        told = f"{twice} duplicates dropped, {left} skipped, {over} passed over"
        print(f"{self.out}: {report.documents} documents, {told}")
        print(
            f"tokens      {report.tokens}: {report.image_tokens} of images, {report.text_tokens} of text; "
            f"{report.truncated} texts cut"
        )
        for kind, found in report.skipped.items():
            print(f"skipped     {kind} ({found['count']})")
            for one in found["examples"]:
                print(line(f"            {one['id']}  {one['reason']}"))
        if left:
            print("            mend them and add --retry to the same command; else they stay skipped")
        for kind, found in report.passed.items():
            print(line(f"passed over {found['count']} x {kind}: {', '.join(found['names'])}"))
        print(f"seconds     {report.seconds:.1f}")
        return {"store": str(self.out), **dataclasses.asdict(report)}

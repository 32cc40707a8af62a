"""`cm3 neighbours`: which documents of a bank stand before each document of token stores in training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import HERE, Device, Verb, at_least, own_encoder, progress, stopped
from cm3.cli.outputs import check_folder
from cm3.errors import RequestError
from cm3.train.signals import Terminated


@dataclass(frozen=True, kw_only=True)
class FindNeighbours(Verb):
    """Find the documents that each document of token stores is trained with: retrieval in pretraining.

    For every document of the stores the table names up to four of the bank's, found by its words and by its picture,
    of which training draws up to three to stand before it. No document finds itself, its own picture under another
    caption, or a near copy. Stores and bank are those of `cm3 prepare --encoder`, all of one encoder; the bank may be
    one of the stores. Killed at any moment, the same command goes on where it was.

    examples:
      cm3 prepare photos/ --out stores/photos --encoder openai/clip-vit-base-patch32
      cm3 neighbours stores/photos --bank stores/photos --out stores/photos.neighbours
      cm3 train photos:pretrain --data.stores stores/photos --data.neighbours stores/photos.neighbours
      cm3 neighbours stores/coco stores/web --bank stores/web --encoder openai/clip-vit-base-patch32
      cm3 neighbours /shared/laion --bank /shared/laion --out /shared/table --cluster ray://head:10001 --json
    """

    stores: Annotated[Positional[tuple[str, ...]], arg(metavar="STORE")]
    """Token stores whose documents get neighbours."""
    bank: Annotated[str, arg(metavar="STORE", help_behavior_hint="(default: the first store)")] = ""
    """Token store whose documents are found."""
    out: Annotated[Path, arg(metavar="TABLE")] = Path("neighbours")
    """File for the table."""
    k: Annotated[int, arg(metavar="N")] = 2
    """Most documents found by the words, and most by the picture; twice as many by the one where the other is not."""
    highest: Annotated[float, arg(metavar="COSINE")] = 0.9
    """A document more alike than this is too near a copy, of the one that it is for or of one found before."""
    encoder: Annotated[str | None, arg(metavar="ENCODER", help_behavior_hint="(default: all words, as stored)")] = None
    """Search by the words of each document less a part, as the paper does: the encoder of the stores, which embeds them
    anew."""
    dropout: Annotated[float, arg(metavar="SHARE")] = 0.2
    """With --encoder, how many of the words are left out, each by chance."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Draws the words that are left out."""
    index: Annotated[str, arg(metavar="auto|exact|ivf|pq")] = "auto"
    """How the bank is searched: auto looks at every vector up to 100,000 documents, and takes lists of FAISS above."""
    block: Annotated[int, arg(metavar="N")] = 1024
    """Documents searched for at a time; most that a kill loses, for each worker."""
    cluster: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="")] = None
    """Work on a Ray cluster: ray://HOST:10001, on a node of it HOST:6379, or local for one of this machine.
    It must see all paths alike."""
    workers: Annotated[int, arg(metavar="N")] = 0
    """Cores of the cluster to work with; 0 is all."""
    place: Annotated[Device, HERE] = Device()

    def run(self) -> dict[str, Any]:
        """Make the table, and tell what it holds."""
        try:
            return self.found()
        except Terminated:  # raised by `main`, once
            return {"table": str(self.out), **stopped(self.out)}

    def found(self) -> dict[str, Any]:
        """Make the table, and tell what it holds."""
        from cm3.data.neighbours import find_neighbours
        from cm3.retrieval.select import SelectLaw

        if not self.stores:
            raise RequestError("no store given; name at least one that `cm3 prepare --encoder` wrote")
        at_least(1, k=self.k, block=self.block)
        at_least(0, workers=self.workers, seed=self.seed)
        check_folder(self.out.resolve().parent)
        with progress("opening", unit="document") as update:
            table = find_neighbours(
                self.stores,
                self.bank or self.stores[0],
                self.out,
                law=SelectLaw(self.k, self.k, self.highest, self.dropout, candidates=max(32, 2 * self.k)),
                encoder=None if self.encoder is None else own_encoder(self.encoder),
                seed=self.seed,
                index=self.index,
                block=self.block,
                cluster=self.cluster,
                workers=self.workers,
                device=self.place.device,
                progress=update,
            )
        counts = table.counts()
        print(f"{self.out}: neighbours of {len(table)} documents in {table.bank.path}")
        told = ", ".join(f"{number} have {found}" for found, number in enumerate(counts) if number)
        print(f"found       {told}")
        return {
            "table": str(self.out),
            "documents": len(table),
            "found": counts,
            "stores": [dataclasses.asdict(store) for store in table.stores],
            "bank": dataclasses.asdict(table.bank),
            "encoder": table.encoder_name,
        }

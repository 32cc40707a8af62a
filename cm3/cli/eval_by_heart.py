"""`cm3 eval by-heart`: how many photographs a model knows by heart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import ModelVerb, progress
from cm3.cli.outputs import line


@dataclass(frozen=True, kw_only=True)
class EvalByHeart(ModelVerb):
    """Measure how well a model knows the photographs that it was trained on.

    Each is described greedily; the figure is the share whose description is, word for word, one of its own captions.

    examples:
      cm3 eval by-heart data/photos --model runs/photos/by_heart/bundle
      cm3 eval by-heart coco:data/coco@train2017 --model runs/photos/by_heart/bundle --json
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Where the captioned pictures are, [KIND:]PATH[@SPLIT]."""

    def run(self) -> dict[str, Any]:
        """Measure, print the descriptions that are wrong, then the figures."""
        from cm3.eval.by_heart import evaluate_captions
        from cm3.read.find import open_reader

        documents, model = open_reader(self.source), self.open_model()
        with progress("captions", unit="picture") as update:
            report = evaluate_captions(model, documents, progress=update)
        for one in report["details"]:
            if not one["own"]:
                print(line(f"not its own: {one['image']}  {one['text']}"))
        print(f"own caption  {report['own_caption']:.1%} of {report['n']} pictures")
        print(f"any caption  {report['any_caption']:.1%}")
        if left := report["left_out"]:
            print(f"left out     {left['count']} documents")
            for one in left["first"]:
                print(line(f"             {one['id']}  {one['reason']}"))
        return report

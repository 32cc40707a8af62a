"""`cm3 inspect PATH`: what weights are, and whether they are whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import Verb
from cm3.convert.problems import told_of


@dataclass(frozen=True, kw_only=True)
class Inspect(Verb):
    """Say what a file or a folder of weights is: family, layout, files, size, number types, ids of images, what is
    missing or wrong.

    It knows language models of Chameleon's family in every published layout, image tokenizers, and bundles and image
    tokenizers of ours; by their tensors, never by names of files. It also looks in which order the rows of queries and
    keys lie, halves or pairs, and their norms: files do not say, trained numbers do. Nothing that a file of weights
    wants to run is run. Of a published language model little is read but headers, whatever its size; of a bundle all
    files are, and compared with their checksums. The exit code is 2 where weights are not whole: something is wrong
    with them, or has to be given beside them.

    examples:
      cm3 inspect Anole-7b-v0.1
      cm3 inspect tokenizer/vqgan.ckpt
      cm3 inspect scenes --json
    """

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """File or folder, or a bundle: an embedded name, or hf://owner/name."""

    def run(self) -> dict[str, Any]:
        """Look, and say."""
        from cm3.convert.inspect_weights import inspect_weights

        found = inspect_weights(self.path)
        for name, line in lines(found):
            print(f"{name:10}{line}")
        return found | {"failed": found["whole"] is False}


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what was found, in words: a name and a line each."""
    kind = " ".join(w for w in (found["family"], found["kind"]) if w)
    said = [("what", kind + (f", layout {found['layout']}" if found["layout"] not in (None, kind, "bundle") else ""))]
    if "bytes" in found:
        types = ", ".join(f"{count:.3g} {name}" for name, count in found["types"].items())
        many = len(found["files"])
        said.append(("files", f"{many} file{'s' * (many > 1)}, {found['bytes'] / 1e9:.3g} GB: {types}"))
        said += [("", f"{f['file']}: {f['kind']}, {f['tensors']} tensors, {f['bytes']} bytes") for f in found["files"]]
    if shape := found.get("shape"):
        heads = f"{shape['heads']} heads" + (f" on {shape['kv_heads']}" * (shape["kv_heads"] != shape["heads"]))
        rest = [f"context {shape['context']}", *([shape["order"]] if "order" in shape else [])]
        said.append(("shape", f"{shape['layers']} layers of {shape['d_model']}, {heads}, {', '.join(rest)}"))
    if rows := found.get("rows"):
        said.append(("q, k", _told(rows)))
    if ids := found.get("ids"):
        where = "{} to {}".format(*ids["image_ids"]) if ids["in_one_range"] else "spread"
        marks = [
            f"{n} {ids[k]}"
            for n, k in (("begin", "begin_image"), ("end", "end_image"), ("turn", "turn"))
            if ids[k] is not None
        ]
        said.append(
            ("ids", f"{ids['count']}: {ids['text']} of text, {ids['images']} of images ({where}); {', '.join(marks)}")
        )
        if not ids["masks"]:
            said.append(("", "no masks: it infills nothing"))
    if image := found.get("image_tokenizer"):
        said.append(
            (
                "images",
                f"{image['size']} pixels, {image['factor']} a code, {image['codes']} codes of {image['code_dim']} "
                f"({image['quantizer']}), pixels {image['pixels']}",
            )
        )
    if came := found.get("converted"):
        said.append(("converted", ", ".join(f"{k} {v}" for k, v in came.items() if not isinstance(v, dict))))
    came = {name: value for name, value in (came or found).items() if name == "averaged"}
    said += [("norms", line) for line in told_of(came)]
    if found.get("prompt_format"):
        said.append(("prompts", found["prompt_format"]))
    if left := found.get("left_out"):
        said.append(("left out", ", ".join(left)))
    if nones := found.get("none"):
        said.append(("None", ", ".join(nones)))
    if names := found.get("names"):
        said.append(("tensors", ", ".join(names) + " ...: none of Chameleon's family, and no VQGAN"))
    if found["whole"] is not None:
        said.append(("whole", "yes" if found["whole"] else "no"))
    said += [("wrong", line) for line in found["wrong"]]
    return said


def _told(rows: dict[str, Any]) -> str:
    if rows["order"] is None:
        return f"cannot tell from these numbers; this layout has {rows['expected']}"
    line = f"in {rows['order']} ({rows['sure']}: {rows['errors']} standard errors); this layout has {rows['expected']}"
    if rows["norms"] is None:
        return line
    return line + f"; norms {'alike' if rows['norms'] == 'as rows' else 'in the other order'} ({rows['norms_sure']})"

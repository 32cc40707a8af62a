"""The last step of preparing a token store: duplicates are dropped, and index and manifest written.

A document is dropped when an earlier one that is kept has the same tokens, or the same id in the same source. Shards
are not touched: the index leaves out what is dropped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from cm3.data import shard
from cm3.data.shard import Place, Tensors
from cm3.data.store import shard_name
from cm3.data.store_manifest import FILES, NAME
from cm3.files import checksum, write
from cm3.read.walk import Passed
from cm3.vocab import Vocab


def finish(
    out: Path, plan: dict[str, Any], reports: Sequence[dict[str, Any]], listed: Iterable[Passed], examples: int
) -> None:
    """Write the index and the manifest of a store whose units are all done.

    `listed` is what was passed over when the files of the sources were listed.
    """
    place = Place(out)
    entries = Vocab(**plan["vocab"]).size

    def opened(number: int) -> Tensors:
        name, report = shard_name(number), reports[number]
        layout = shard.shard_layout(report["documents"], entries, plan["width"])
        return Tensors(place, name, report["bytes"], layout, place.array(name))

    # Copied, so that one shard is open at a time: systems allow some 65,000 maps a process.
    columns: dict[str, list[np.ndarray]] = {"digests": [], "keys": [], "lengths": [], "images": []}
    sums = []
    for number in range(len(reports)):
        found = opened(number)
        for name in ("digests", "keys", "images"):
            columns[name].append(found[name].copy())
        sums.append(shard.names_sum(found))
        columns["lengths"].append(np.diff(found.borders("starts", "ids")).astype(np.int32))
    digests, keys, lengths, images = (np.concatenate(columns[name]) for name in columns)
    why = duplicates(digests, keys)
    kept = np.flatnonzero(why == 0)
    order = np.argsort(keys[kept, 0], kind="stable")
    index: dict[str, np.ndarray] = {
        "kept": kept.astype(np.int64),
        "lengths": lengths[kept],
        "keys": np.ascontiguousarray(keys[kept, 0][order]),
        "numbers": order.astype(np.int64),
    }
    data = save(index)
    write(out / FILES[0], data)

    sources, licenses = (sum((Counter(r[what]) for r in reports), Counter()) for what in ("sources", "licenses"))
    dropped = np.flatnonzero(why)
    ids: list[str] = []
    starts = np.cumsum([0, *(r["documents"] for r in reports)])
    at_hand = -1
    for at in dropped.tolist():
        number = int(np.searchsorted(starts, at, "right")) - 1
        if number != at_hand:
            at_hand, found = number, opened(number)
        row = at - int(starts[number])
        names, begins = found["names"], found["name_starts"]
        about = json.loads(names[begins[row] : begins[row + 1]].tobytes())
        sources[about["source"]] -= 1
        licenses[str(about["meta"].get("license") or "")] -= 1
        ids += [about["id"]] if len(ids) < examples else []

    skipped: dict[str, dict[str, Any]] = {}
    for skip in (s for r in reports for s in r["skipped"]):
        kind = skipped.setdefault(skip["kind"], {"count": 0, "examples": []})
        kind["count"] += 1
        if len(kind["examples"]) < examples:
            kind["examples"].append({"id": skip["id"], "reason": skip["reason"]})
    passed = Passed.of_all((*listed, *(Passed.of(r.get("passed", {})) for r in reports)))
    tokens, image_tokens = (int(v[kept].sum(dtype=np.int64)) for v in (lengths, images))
    manifest = {name: value for name, value in plan.items() if name not in ("units", "sources")} | {
        "documents": len(kept),
        "tokens": tokens,
        "text_tokens": tokens - image_tokens,
        "image_tokens": image_tokens,
        "truncated": sum(r["truncated"] for r in reports),
        "duplicates": {"content": int((why == 1).sum()), "id": int((why == 2).sum()), "examples": ids},
        "skipped": skipped,
        "passed": passed.json(),
        "from": plan["sources"],
        "sources": {name: n for name, n in sorted(sources.items()) if n},
        "licenses": {name: n for name, n in sorted(licenses.items()) if n},
        "shards": [
            {name: r[name] for name in ("documents", "bytes", "sha256")} | {"names": names}
            for r, names in zip(reports, sums, strict=True)
        ],
        "files": {FILES[0]: shard.facts(data)} | {name: shard.facts(place.read(name)) for name in FILES[1:]},
    }
    write(out / NAME, shard.page_bytes(manifest | {"sha256": checksum(manifest)}))


def duplicates(digests: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Why each document is dropped, uint8 (n,): 0 it is kept, 1 for its content, 2 for its id.

    `digests` uint8 (n, 16), `keys` uint64 (n, 2). Only those that share a content or an id with another are looked at
    one by one.
    """
    found = np.zeros(len(digests), np.uint8)
    views = [np.ascontiguousarray(a).view("V16").reshape(-1) for a in (digests, keys)]
    shared = np.zeros(len(digests), bool)
    for view in views:
        _, back, counts = np.unique(view, return_inverse=True, return_counts=True)
        shared |= (counts > 1)[back]
    contents: set[bytes] = set()
    names: set[bytes] = set()
    for at in np.flatnonzero(shared).tolist():
        content, name = views[0][at].tobytes(), views[1][at].tobytes()
        if content in contents or name in names:
            found[at] = 1 if content in contents else 2
            continue
        contents.add(content)
        names.add(name)
    return found

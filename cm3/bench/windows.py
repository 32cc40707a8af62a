"""Several codes of a picture in one pass (cm3/engine/jacobi.py) against one by one: the same requests, by turns.

How many codes a pass keeps depends on how sure the model is of them, so this is measured on a trained one. Weights that
are drawn at random keep almost none.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from cm3.bench.decode import Progress
from cm3.bench.machine import about, seconds
from cm3.engine import Engine, Request, Result
from cm3.model.decoder import Decoder
from cm3.vocab import Vocab

SETTINGS: tuple[int | str, ...] = (0, 16, "auto")
"""Of `Engine(parallel=)`; the first, one by one, is what the others are compared with."""


def measure_windows(
    decoder: Decoder, vocab: Vocab, requests: Sequence[Request], name: str, progress: Progress | None = None
) -> dict[str, Any]:
    """Return a row for each setting: ids a second and passes, as medians and sums over `requests`, served one by one.

    `same` counts the requests that got the ids of plain decoding. One request more, the first, warms each engine up.
    """
    streams = max(len(request.streams) for request in requests)
    engines = {setting: Engine(decoder, vocab, streams, parallel=setting) for setting in SETTINGS}
    took: dict[int | str, list[float]] = {setting: [] for setting in SETTINGS}
    made: dict[int | str, list[Result]] = {setting: [] for setting in SETTINGS}
    for engine in engines.values():
        engine.run(requests[:1])
    for turn, request in enumerate(requests):
        # Forwards, then backwards, so that nobody always follows the same one.
        for i, setting in enumerate(SETTINGS[:: -1 if turn % 2 else 1]):
            if progress is not None:
                progress(turn * len(SETTINGS) + i, len(requests) * len(SETTINGS), f"{name}, windows of {setting}")
            took[setting].append(seconds(partial(_serve, engines[setting], request, made[setting]), decoder.device))
    plain, rows = SETTINGS[0], []
    counts = [sum(span.length for span in result.spans) for result in made[plain]]
    passes = {setting: sum(result.steps for result in results) for setting, results in made.items()}
    rates = {s: statistics.median(n / t for n, t in zip(counts, took[s], strict=True)) for s in SETTINGS}
    assert decoder.chosen is not None, "as `placed` chose it"
    for setting in SETTINGS:
        compared = setting != plain
        times = [a / b for a, b in zip(took[plain], took[setting], strict=True)]
        rows.append(
            {
                "name": f"{name}; one; {f'windows of {setting}' if compared else 'one by one'}",
                "ours": round(rates[setting], 2),
                "peer": round(rates[plain], 2) if compared else None,
                "ratio": round(statistics.median(times), 3) if compared else None,
                "unit": "tokens/s",
                "before": None,
                "before_ratio": None,
                "peer_name": "one by one, ours",
                "passes": passes[setting],
                "ids_a_pass": round(sum(counts) / passes[setting], 2),
                "fewer_passes": round(passes[plain] / passes[setting], 2),
                "same": sum(_ids(a) == _ids(b) for a, b in zip(made[plain], made[setting], strict=True)),
                "requests": len(requests),
                "spread": round(max(times) / min(times), 3),
                "ms_step": round(1e3 * sum(took[setting]) / passes[setting], 3),
                "share": None,
                "dtype": decoder.chosen.name,
                "why": decoder.chosen.why,
                **about(decoder.device),
            }
        )
    return {"rows": rows, "shape": name, "seconds": {str(setting): found for setting, found in took.items()}}


def told(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return lines for a person: what the table has no column for."""
    return [
        f"{row['name']}: {row['passes']} passes, {row['fewer_passes']} times fewer; {row['ids_a_pass']} ids a pass; "
        f"{row['same']} of {row['requests']} requests have the ids of one by one"
        for row in rows
        if row["peer"] is not None
    ]


def _serve(engine: Engine, request: Request, made: list[Result]) -> None:
    made += engine.run([request])


def _ids(result: Result) -> list[int]:
    ids: list[int] = result.tokens.ids.tolist()
    return ids

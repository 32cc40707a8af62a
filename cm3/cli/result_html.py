"""Results of one suite as one HTML file that needs nothing else: figures, samples side by side, and how they were made.

Samples carry their scores as data attributes (`data-s0`), and a few lines of script put them in the order of one;
without script they stand in the order of their ids, and nothing else is missing.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cm3.cli.outputs import line
from cm3.cli.page import whole
from cm3.cli.results import interval, number
from cm3.cli.samples import embedded
from cm3.errors import DataError
from cm3.score.compare import SAID, Comparison
from cm3.score.result_file import Page

LONGEST = 2000
"""Most characters of words that are shown of a sample."""
_STYLE = """
body { max-width: 78rem; }
table { border-collapse: collapse; margin-top: 1rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { text-align: left; padding: .35rem 1.2rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td small, th small { color: var(--muted); font-weight: 400; display: block; }
.warnings li { color: var(--wrong); }
form { margin: 1rem 0; } form[hidden] { display: none; }
select, button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: .4rem; padding: .3rem .6rem; }
:focus-visible { outline: 2px solid var(--right); outline-offset: 2px; }
#samples { list-style: none; margin: 1rem 0 0; padding: 0; }
#samples > li { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem;
  margin-bottom: 1rem; overflow-wrap: anywhere; }
.sides { display: flex; flex-wrap: wrap; gap: 1.2rem; margin-top: .5rem; }
.sides > div { flex: 1 1 14rem; }
.sides .label:first-child { margin-top: 0; }
.sides img { width: auto; max-width: 100%; border-radius: .4rem; }
h3 { font-size: 1rem; margin: 0; }
pre { overflow-x: auto; font-size: .85rem; background: var(--card); padding: 1rem; border-radius: .6rem; }
summary { cursor: pointer; margin-top: .8rem; }
"""
_SCRIPT = """
(() => {
  const list = document.getElementById("samples"), form = document.getElementById("sort");
  const by = document.getElementById("by"), down = document.getElementById("down");
  const sort = () => {
    const key = by.value, sign = down.checked ? -1 : 1;
    const rows = Array.from(list.children);
    rows.sort((a, b) => {
      const x = a.dataset[key], y = b.dataset[key];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return sign * (key === "id" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
    });
    rows.forEach((row) => list.appendChild(row));
  };
  by.addEventListener("change", sort);
  down.addEventListener("change", sort);
  form.hidden = false;
})();
"""


@dataclass(frozen=True)
class Side:
    """A column of a sample: pictures, and words with labels."""

    label: str
    words: Sequence[tuple[str, str]] = ()
    """(label, words)."""
    pictures: Sequence[Path] = ()


@dataclass(frozen=True)
class Sample:
    """An item: what was asked, and then a side for each result, with its scores by figure."""

    id: str
    asked: Side
    sides: Sequence[Side]
    scores: Sequence[Mapping[str, float]] = field(default_factory=list)
    """Of each side."""


def letter(place: int) -> str:
    """Return the short name of a result by its place: A, B, and on."""
    return chr(ord("A") + place) if place < 26 else f"R{place + 1}"


def report(
    pages: Sequence[tuple[str, Page]],
    found: Sequence[Comparison],
    samples: Sequence[Sample],
    notes: Sequence[str],
    of: int,
) -> str:
    """Return the HTML document of results by name, of comparisons of each with the first, and of samples.

    `notes` say what is missing; `of` is the number of items that the samples were chosen from.
    """
    first = pages[0][1]
    title = f"{first.suite}, version {first.version}"
    body = [f"<h1>{_text(title)}</h1>", _figures(pages, found)]
    told = [(letter(i), one) for i, (_, page) in enumerate(pages) for one in page.warnings]
    told += [(f"{letter(i)} against A", one) for i, other in enumerate(found, 1) for one in other.warnings]
    told += [("", one) for one in notes]
    if told:
        lines = "".join(f"<li>{_text(f'{who}: {one}' if who else one)}</li>" for who, one in told)
        body.append(f'<section><h2>Warnings</h2><ul class="warnings">{lines}</ul></section>')
    if samples:
        body.append(_samples(pages, samples, of))
    body.append("<section><h2>Manifests</h2>")
    for place, (name, page) in enumerate(pages):
        kept = {key: value for key, value in asdict(page).items() if key != "items"}
        kept["items"] = {figure: len(values) for figure, values in page.items.items()}
        shown = html.escape(json.dumps(kept, indent=2))
        body.append(f"<details><summary>{letter(place)}: {_text(name)}</summary><pre>{shown}</pre></details>")
    body += ["</section>", f"<script>{_SCRIPT}</script>" if samples else ""]
    made = whole(title, "\n".join(["<body>", *body, "</body>"]), _STYLE)
    return made.encode("ascii", "xmlcharrefreplace").decode()


def _text(words: str) -> str:
    """Return a stranger's words for HTML: on one line, and not without end."""
    return html.escape(line(words if len(words) <= LONGEST else f"{words[:LONGEST]} ..."))


def _figures(pages: Sequence[tuple[str, Page]], found: Sequence[Comparison]) -> str:
    heads = [f"{letter(i)}<small>{_text(name)}, {page.n} items</small>" for i, (name, page) in enumerate(pages)]
    heads += [f"{letter(i)} - A" for i in range(1, len(pages))]
    rows = ["".join(f'<th scope="col">{head}</th>' for head in ("Figure", *heads))]
    for name in dict.fromkeys(name for _, page in pages for name in page.figures):
        cells = []
        for _, page in pages:
            ends = page.intervals.get(name)
            value = number(page.figures[name]) if name in page.figures else "-"
            cells.append(f"{value}<small>{interval(ends) if ends else 'no interval'}</small>")
        for other in found:
            if (row := other.figures.get(name)) is None:
                cells.append("-")
                continue
            apart = f"{interval(row.interval, '+')} " if row.interval else ""
            cells.append(f"{number(row.difference, '+')}<small>{apart}{SAID[row.verdict]}</small>")
        rows.append(f'<th scope="row">{_text(name)}</th>' + "".join(f"<td>{cell}</td>" for cell in cells))
    draws = pages[0][1].bootstrap
    note = (
        f"Below a figure that is a mean of items stands its {draws.level:.0%} interval: percentiles of "
        f"{draws.draws:,} draws of the items, with replacement. Differences are paired by item."
    )
    table = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<p class="sub">{note}</p><div class="wide"><table>{table}</table></div>'


def _samples(pages: Sequence[tuple[str, Page]], samples: Sequence[Sample], of: int) -> str:
    """Return the samples, and the form that sorts them, which is hidden where no script runs."""
    names = list(dict.fromkeys(name for sample in samples for scores in sample.scores for name in scores))
    keys = [(name, place) for name in names for place in range(len(pages))]
    options = [("id", "id")]
    options += [(f"s{i}", f"{name}, {letter(place)}") for i, (name, place) in enumerate(keys)]
    apart = [(name, place) for name in names for place in range(1, len(pages))]
    options += [(f"d{i}", f"{name}, {letter(place)} - A") for i, (name, place) in enumerate(apart)]
    items = []
    for sample in samples:
        data = {"id": line(sample.id)}
        data |= {f"s{i}": repr(sample.scores[p][name]) for i, (name, p) in enumerate(keys) if name in sample.scores[p]}
        for i, (name, place) in enumerate(apart):
            a, b = sample.scores[0].get(name), sample.scores[place].get(name)
            if a is not None and b is not None:
                data[f"d{i}"] = repr(b - a)
        attributes = "".join(f' data-{key}="{html.escape(value, quote=True)}"' for key, value in data.items())
        sides = "".join(_side(side, scores) for side, scores in zip(sample.sides, sample.scores, strict=True))
        asked = _side(sample.asked, {}) if sample.asked.words or sample.asked.pictures else ""
        items.append(f'<li{attributes}><h3>{_text(sample.id)}</h3><div class="sides">{asked}{sides}</div></li>')
    chosen = "".join(f'<option value="{key}">{_text(name)}</option>' for key, name in options)
    form = (
        f'<form id="sort" hidden><label>Sort by <select id="by">{chosen}</select></label> '
        '<label><input type="checkbox" id="down"> largest first</label></form>'
    )
    note = f"{len(samples)} of {of} items" + ("" if len(samples) == of else ", spread evenly over their scores")
    return (
        f'<section><h2>Samples</h2><p class="note">{note}</p>{form}\n<ol id="samples">'
        + "\n".join(items)
        + "</ol></section>"
    )


def _side(side: Side, scores: Mapping[str, float]) -> str:
    told = [f'<p class="label">{_text(side.label)}</p>' if side.label else ""]
    for path in side.pictures:
        try:
            told.append(f'<img alt="{_text(path.name)}" src="{embedded(path)}">')
        except DataError as error:
            told.append(f'<p class="wrong">{_text(str(error))}</p>')
    last = ""
    for label, words in side.words:
        told.append(f'<p class="label">{_text(label)}</p>' if label != last else "")
        told.append(f"<p>{_text(words)}</p>")
        last = label
    told += [f'<p class="label">{_text(name)} {number(value)}</p>' for name, value in scores.items()]
    if not (side.pictures or side.words or scores):
        told.append('<p class="note">nothing of this item</p>')
    return f"<div>{''.join(told)}</div>"

"""The rules by which the paper's statements hold here or do not, written down before anything was measured.

A statement is a list of comparisons. Each is a number with a 95% interval, percentiles of a paired bootstrap over the
cases (the same cases for all that is compared), and holds where the interval lies wholly on its side of a margin:

    more    the interval above -margin           fails where it lies below -margin
    same    the interval inside +-margin         fails where it lies wholly outside

All hold: the statement holds. One fails: it does not. Else, or with fewer than `FEW` cases, or where a premise is not
there (something to lose, to learn), it cannot be told at this size. The intervals are of the cases alone: each model
was trained once, so what another seed of training would give is in none of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, Literal

import numpy as np

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told at this size"
FEW, DRAWS = 20, 2000
FLAT = 0.01
"""Least exponent of a power law that is looked for."""
GUIDED = 2.0
"""Scale at which statement 3 is judged: the shipped model's, chosen before these were trained."""
OUT_OF = 0.05
"""How much worse still counts as no worse: five points of a share."""
Results = Mapping[str, Mapping[str, Any]]
Values = Sequence[float] | np.ndarray
"""One for each case."""
Way = Literal["more", "same"]


@dataclass(frozen=True)
class Comparison:
    """A number that decides, with its interval."""

    says: str
    value: float
    low: float
    high: float
    n: int
    way: Way = "more"
    margin: float = 0.0
    premise: bool = False
    """Without it nothing can be told; it is not what the statement says."""

    @property
    def verdict(self) -> str:
        """Return what it comes to by itself."""
        if self.n < FEW:
            return OPEN
        beyond = self.high < -self.margin or (self.way == "same" and self.low > self.margin)
        inside = self.low > -self.margin if self.way == "more" else -self.margin <= self.low <= self.high <= self.margin
        return HOLDS if inside else OPEN if self.premise or not beyond else FAILS


def verdict(comparisons: Sequence[Comparison]) -> str:
    """Return what all of them come to."""
    found = [comparison.verdict for comparison in comparisons]
    premises = [c.verdict for c in comparisons if c.premise]
    if any(one != HOLDS for one in premises):
        return OPEN
    return FAILS if FAILS in found else OPEN if OPEN in found or not found else HOLDS


@dataclass(frozen=True)
class Line:
    """A curve of a chart: (x, y, lower end, upper end) each."""

    label: str
    points: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Finding:
    """All that is said of a statement: numbers that decide, a table, a chart."""

    comparisons: Sequence[Comparison]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    lines: Sequence[Line]
    x: str
    y: str
    log: bool = False
    notes: Sequence[str] = ()
    places: Sequence[str] = ()
    """Names of x = 0, 1, 2, ..., where these are no numbers."""

    @property
    def verdict(self) -> str:
        """Return the verdict."""
        return verdict(self.comparisons)


def means(values: Sequence[Sequence[float]], seed: int = 0) -> np.ndarray:
    """Return means of rows of values by case, (draws, rows): each draw takes the same cases, anew, in all rows."""
    rows, rng = np.asarray(values, float), np.random.default_rng(seed)
    picked = rng.integers(0, rows.shape[1], (DRAWS, rows.shape[1]))
    return np.stack([row[picked].mean(1) for row in rows], axis=1)


def ends(draws: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval of draws."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def over(says: str, a: Values, b: Values, **rule: Any) -> Comparison:
    """Return how far the mean of `a` lies over that of `b`, case by case."""
    # What rounding leaves of nothing would else be a difference, alike in all cases.
    apart = np.round(np.asarray(a, float) - np.asarray(b, float), 9)
    return Comparison(says, float(apart.mean()), *ends(means([apart])[:, 0]), len(apart), **rule)


def retrieval(results: Results, size: Any) -> Finding:
    """Judge statement 1: each document more makes pictures better."""
    names = [f"shipped-{k}" for k in (0, 1, 2)]
    parts = [results[name]["parts"] for name in names]
    found = [over(f"{k + 1} over {k} documents", parts[k + 1], parts[k]) for k in (0, 1)]
    rows = [[str(k), _told(parts[k]), _told(results[name]["exact"])] for k, name in enumerate(names)]
    lines = [Line(label, [_point(k, results[name][of]) for k, name in enumerate(names)]) for label, of in SCORES]
    note = f"The bank's right document is found first for {np.mean(results['found']['first']):.1%} of the prompts."
    return Finding(found, ("documents read", *TOLD), rows, lines, "documents read", SHARE, notes=(note,))


def guidance(results: Results, size: Any) -> Finding:
    """Judge statement 2: the best scales of any two sizes are no more than one step of the grid apart."""
    scales, steps = np.array(size.scales), np.log2(size.scales)
    step, chance = float(steps[1] - steps[0]), np.random.default_rng(1)
    best: dict[str, np.ndarray] = {}
    rows, lines = [], []
    for model in size.models:
        values = [results[f"{model}-g{scale}"]["parts"] for scale in size.scales]
        drawn = means(values)
        # Where several are best, chance takes one: ties tell nothing.
        ties = (drawn >= drawn.max(1, keepdims=True) - 1e-12) * chance.random(drawn.shape)
        best[model] = steps[ties.argmax(1)]
        at, (low, high) = int(np.mean(values, 1).argmax()), ends(best[model])
        rows.append([model, f"{scales[at]:g}", f"{2**low:.3g} to {2**high:.3g}", _told(values[0]), _told(values[at])])
        lines.append(Line(model, [_point(s, v) for s, v in zip(size.scales, values, strict=True)]))
    n = len(values[0])
    found = []
    for a, b in itertools.combinations(size.models, 2):
        apart = best[b] - best[a]
        value = float(np.median(apart))
        found.append(
            Comparison(f"octaves between the best of {a} and {b}", value, *ends(apart), n, "same", 1.05 * step)
        )
    header = ("model", "best scale", "its interval", f"{SHARE}, unguided", "at the best")
    return Finding(found, header, rows, lines, "guidance scale", SHARE, log=True)


def masks(results: Results, size: Any) -> Finding:
    """Judge statement 3: guidance gains with our law of masks, and more than with the published one and with none."""
    names = {"ours": size.middle, "published": "law-published", "none": "law-none"}
    values = {law: [results[f"{of}-g{s}"]["parts"] for s in size.scales] for law, of in names.items()}
    at = size.scales.index(GUIDED)
    gain = {law: np.subtract(v[at], v[0]) for law, v in values.items()}
    found = [
        over("guidance 2 over none, trained with our law", gain["ours"], np.zeros_like(gain["ours"])),
        over("this gain over that with the published law", gain["ours"], gain["published"]),
        over("this gain over that without masks", gain["ours"], gain["none"]),
    ]
    rows = [
        [law, _told(results[f"masked-{law}"]["whole"]), _told(v[0]), _told(v[at]), f"{gain[law].mean():+.3f}"]
        for law, v in values.items()
    ]
    lines = [Line(law, [_point(s, v) for s, v in zip(size.scales, vs, strict=True)]) for law, vs in values.items()]
    header = ("masks in training", "captions masked whole", f"{SHARE}, unguided", "guidance 2", "gain")
    return Finding(found, header, rows, lines, "guidance scale", SHARE, log=True)


def kept(fit: Sequence[float], value: Sequence[float], number: int) -> float:
    """Return what keeping the best fitting of `number` gives on average, over all choices of so many."""
    order, total = np.argsort(-np.asarray(fit), kind="stable"), len(fit)
    return sum(value[i] * comb(total - 1 - r, number - 1) for r, i in enumerate(order)) / comb(total, number)


def kept_mixed(a: tuple[Any, Any], b: tuple[Any, Any], number: int) -> float:
    """Return the same of `number` candidates, half of each of two ways; each is (fit, value) of its candidates."""
    half, total = number // 2, 0.0
    for (fit, value), (others, _) in ((a, b), (b, a)):
        fit, others = np.asarray(fit), np.asarray(others)
        whole = comb(len(fit), half) * comb(len(others), half)
        for r, i in enumerate(np.argsort(-fit, kind="stable")):
            below = len(others) - int((others > fit[i]).sum())
            total += value[i] * comb(len(fit) - 1 - r, half - 1) * comb(below, half) / whole
    return total


def candidates(results: Results, size: Any) -> Finding:
    """Judge statement 4: from a quarter of the candidates to all, the mixture gains, and more than either alone."""
    pools = {
        way: {
            of: [row for name, one in results.items() if _block_of(name, way) for row in one[of]]
            for of in ("fit", "parts")
        }
        for way in ("top-p", "cd-k")
    }
    a, b = ([*zip(pool["fit"], pool["parts"], strict=True)] for pool in pools.values())
    numbers = [2**i for i in range(size.each.bit_length()) if 2**i <= size.each]
    values: dict[str, dict[int, list[float]]] = {
        way: {c: [kept(fit, value, c) for fit, value in pool] for c in numbers}
        for way, pool in (("top-p", a), ("cd-k", b))
    }
    pairs = [*zip(a, b, strict=True)]
    values["half of each"] = {c: [kept_mixed(x, y, c) for x, y in pairs] for c in numbers[1:]}
    most, few = numbers[-1], numbers[-3]
    gain = {way: np.subtract(v[most], v[few]) for way, v in values.items()}
    mixed = gain["half of each"]
    found = [
        over(f"half of each, {most} candidates over {few}", mixed, np.zeros_like(mixed)),
        over("this gain over that of top-p alone", mixed, gain["top-p"]),
        over("this gain over that of CD-K alone", mixed, gain["cd-k"]),
    ]
    rows = [[way, *(_told(v[c]) if c in v else "-" for c in numbers)] for way, v in values.items()]
    lines = [Line(way, [_point(c, v) for c, v in vs.items()]) for way, vs in values.items()]
    header = ("candidates", *map(str, numbers))
    return Finding(found, header, rows, lines, "candidates for each prompt", SHARE, log=True)


def scaling(results: Results, size: Any) -> Finding:
    """Judge statement 5: each larger model has a lower loss than the one before it, at equal tokens."""
    names, values = list(size.models), [results[f"loss-{model}"]["image"] for model in size.models]
    counts = [float(results[model]["parameters"]) for model in names]
    found = [
        over(f"loss of {a} over that of {b}", values[i], values[i + 1])
        for i, (a, b) in enumerate(itertools.pairwise(names))
    ]
    rows = [
        [name, f"{count / 1e6:.2f}M", f"{results[name]['tokens'] / 1e6:.2f}M", _told(v)]
        for name, count, v in zip(names, counts, values, strict=True)
    ]
    lines = [Line("measured", [_point(c, v) for c, v in zip(counts, values, strict=True)])]
    fitted, note = fit_note(counts, values)
    dots = np.geomspace(counts[0], counts[-1], 30)
    if fitted is not None:
        lines.append(Line("fit", [(x, y, y, y) for x in dots for y in [fitted[0] + fitted[1] * x ** -fitted[2]]]))
    header = ("model", "parameters", "tokens", "nats a code")
    return Finding(found, header, rows, lines, "parameters", "nats a code", log=True, notes=(note,))


def power_law(counts: Sequence[float], losses: Sequence[float], floor: bool) -> tuple[float, float, float]:
    """Find E, A and a, 0.01 to 2, of L = E + A N^-a by least squares. Without `floor` E is 0."""
    a, y = np.geomspace(FLAT, 2, 400)[:, None], np.asarray(losses)
    x = (np.asarray(counts) / counts[0]) ** -a  # of the first, or A would be beyond what numbers hold
    slope, start = (x @ y) / (x * x).sum(1), np.zeros(len(a))
    if floor:
        apart = x - x.mean(1, keepdims=True)
        steep = (apart @ y) / (apart * apart).sum(1)
        floors = y.mean() - steep * x.mean(1)
        falls = (floors > 0) & (steep > 0)
        slope, start = np.where(falls, steep, slope), np.where(falls, floors, start)
    best = int(((start[:, None] + slope[:, None] * x - y) ** 2).sum(1).argmin())
    return float(start[best]), float(slope[best]) * counts[0] ** float(a[best, 0]), float(a[best, 0])


def fit_note(
    counts: Sequence[float], values: Sequence[Sequence[float]]
) -> tuple[tuple[float, float, float] | None, str]:
    """Return a fit (E, A, a), and what it says: with an irreducible term only where this can be told from nought.

    It can where there are four sizes or more and its 95% interval ends above 0.
    """
    losses = [float(np.mean(v)) for v in values]
    drawn = means(values)[:200]
    if len(counts) > 3:
        floors = [power_law(counts, row, True) for row in drawn]
        low, high = ends(np.array([f[0] for f in floors]))
        if low > 0:
            found = power_law(counts, losses, True)
            exponent = ends(np.array([f[2] for f in floors]))
            return found, (
                f"L = {found[0]:.3f} + {found[1]:.3g} N^-{found[2]:.3f}: the irreducible term is {low:.3f} to "
                f"{high:.3f} nats, the exponent {exponent[0]:.3f} to {exponent[1]:.3f}."
            )
        why = f"its interval reaches 0 (to {high:.3f})"
    else:
        why = f"{len(counts)} sizes are too few"
    found = power_law(counts, losses, False)
    low, high = ends(np.array([power_law(counts, row, False)[2] for row in drawn]))
    if found[2] <= FLAT:
        return None, "No falling power law fits."
    return found, (
        f"L = {found[1]:.3g} N^-{found[2]:.3f}, the exponent {low:.3f} to {high:.3f}; an irreducible term cannot be "
        f"told: {why}."
    )


def mixture(results: Results, size: Any) -> Finding:
    """Judge statement 6: tuned on the mixture a model answers no worse, and describes no worse than before."""
    kinds = {"before": "before tuning", "mixture": "on the mixture", "one": "on questions alone"}
    answers, captions = ({k: results[f"{of}-{k}"]["exact"] for k in kinds} for of in ("answers", "captions"))
    found = [
        over("answers, on questions alone over before", answers["one"], answers["before"], premise=True),
        over("captions before, over a tenth", captions["before"], [0.1] * len(captions["before"]), premise=True),
        over("answers, on the mixture over on questions alone", answers["mixture"], answers["one"], margin=OUT_OF),
        over("captions, on the mixture over before", captions["mixture"], captions["before"], margin=OUT_OF),
    ]
    rows = [[said, _told(answers[k]), _told(captions[k])] for k, said in kinds.items()]
    lines = [
        Line(of, [_point(i, v[k]) for i, k in enumerate(kinds)])
        for of, v in (("questions answered", answers), ("captions true", captions))
    ]
    header, x, y = ("tuned", "questions answered", "captions true"), "tuned", "share of cases"
    return Finding(found, header, rows, lines, x, y, places=tuple(kinds.values()))


def compute(results: Results, size: Any) -> Finding:
    """Judge statement 7: with retrieval a model is better at the largest budget, and at half of it no worse than one
    without at the whole."""
    budgets = sorted({float(name.split("-")[1]) for name in results if name.startswith("with-")})
    score = {
        (kind, b, split): results[f"{kind}-{b}-{split}"]["parts"]
        for kind, b, split in itertools.product(("with", "without"), budgets, ("train", "test"))
    }
    flops = {(k, b): 6 * results[f"{k}-{b}"]["parameters"] * results[f"{k}-{b}"]["tokens"]
             for k in ("with", "without") for b in budgets}  # fmt: skip
    half, whole = budgets[-2:]
    found = [
        over("with documents over without", score["with", whole, "train"], score["without", whole, "train"]),
        over("the same at half the compute", score["with", half, "train"], score["without", whole, "train"]),
    ]
    rows = [
        [kind, f"{flops[kind, b]:.2e}", _told(score[kind, b, "train"]), _told(score[kind, b, "test"])]
        for kind, b in itertools.product(("with", "without"), budgets)
    ]
    told = {"train": "names of training", "test": "names never trained on"}
    lines = [
        Line(f"{kind}, {told[split]}", [_point(flops[kind, b], score[kind, b, split]) for b in budgets])
        for kind, split in itertools.product(("with", "without"), told)
    ]
    header = ("documents", "FLOP of tuning", f"{SHARE}, {told['train']}", told["test"])
    return Finding(found, header, rows, lines, "FLOP of tuning, 6 N D", SHARE, log=True)


SHARE = "parts right"
SCORES = (("parts right", "parts"), ("pictures right", "exact"))
TOLD = ("parts right", "pictures exactly right")


def _block_of(name: str, way: str) -> bool:
    return name.startswith(f"{way}-")


def _told(values: Sequence[float]) -> str:
    (low, high), mean = ends(means([values])[:, 0]), float(np.mean(values))
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def _point(x: float, values: Sequence[float]) -> tuple[float, float, float, float]:
    return (float(x), float(np.mean(values)), *ends(means([values])[:, 0]))


@dataclass(frozen=True)
class Statement:
    """A statement of the paper, and how it is put to the test here."""

    title: str
    paper: str
    """Section, and what it reports."""
    here: str
    rule: str
    judge: Callable[[Results, Any], Finding]


STATEMENTS: tuple[Statement, ...] = (
    Statement(
        "More retrieved documents, better pictures",
        "Table 1: zero-shot COCO FID of the 7B model is 10.82 without documents, 5.78 with one and 4.88 with two.",
        "The model in the package draws scenes that are only named, by invented words that no training saw; the one "
        "document that shows a scene lies in the bank among 1,000, and 0, 1 or 2 documents are retrieved for each "
        "prompt. In training it read none or one before an example, never two.",
        "One document is better than none, and two are better than one.",
        retrieval,
    ),
    Statement(
        "The best guidance scale is about the same for every size",
        "Section 3.1, Figure 4 (left): FID against the scale, 1 to 7, has its optimum at the same place for 350M, 760M "
        "and 7B. The values are plotted, not printed.",
        "Models of several sizes, trained alike, draw the same described scenes at each scale of a grid.",
        "The best scales of any two sizes are at most one step of the grid (a factor of 1.41) apart.",
        guidance,
    ),
    Statement(
        "Guidance needs masked captions in training",
        "Section 3.1: no tuning for guidance is needed, as training by masks contains captions that are masked. The "
        "law of the masks is not printed; that of the authors' code masks a short caption beside 1,024 codes almost "
        "never (docs/paper.md).",
        "The middle model trained with our law of masks, with the published one and with none, all else alike; so one "
        "without masks has all of its tokens to learn drawing from, and the gain of guidance counts, not the height. A "
        "picture has 64 codes here, and a caption more words beside it than in the paper's geometry.",
        "Guidance of 2 gains over none with our law, and this gain is larger than with the published law and than "
        "without masks.",
        masks,
    ),
    Statement(
        "Top-p and CD-K alone stagnate with more candidates, mixed they go on",
        "Section 3.1, Figure 4 (right): FID against 1 to 32 candidates a prompt, the best kept by a CLIP. Each way "
        "alone flattens, half of each keeps falling. The values, alpha and k are not printed.",
        "The middle model draws candidates of each prompt both ways, and the encoder of the package keeps the one that "
        "fits the words best. What c of them give is averaged over every choice of c, so that it rests on all of them.",
        "From a quarter of the candidates to all of them the mixture gains, and it gains more than either way alone.",
        candidates,
    ),
    Statement(
        "Larger models are better at equal tokens",
        "Section 2.4, Figure 3 (validation perplexity of 350M, 760M and 7B), Table 1: FID 14.20, 6.61 and 4.88.",
        "Models of several sizes see the same documents in the same order, once; the loss is of the codes of true "
        "pictures given their captions, on scenes that no training saw.",
        "Each size has a lower loss than the one before it.",
        scaling,
    ),
    Statement(
        "Tuned on a mixture, a model does a task as well as one tuned on it alone, and goes on describing",
        "Section 4: one model is tuned on all tasks together (Table 5) and then does each (Table 2); the comparison "
        "with one task alone is ours.",
        "The middle model is tuned for as many updates on questions alone, and on a mixture with two in five "
        "questions, the rest captions, boxes and documents of pretraining. Captions are asked as in pretraining.",
        "On the mixture it answers at most 5 points worse than on questions alone, and describes at most 5 points "
        "worse than before. Premises: tuning on questions alone teaches them, and there are captions to lose (over 10% "
        "true).",
        mixture,
    ),
    Statement(
        "With retrieval the same accuracy takes less training compute",
        "Figure 2, section 1: with retrieval, five times less training compute than comparable methods for the same "
        "FID.",
        "From the middle model on, training on named scenes, with the documents that are retrieved for them (four in "
        "five) or without any, for three budgets. Without documents a model can know a name by heart if training named "
        "it often; one that no training named it cannot know. Guidance is off.",
        "On names of training: documents are better at the whole budget, and at half of it better than none at the "
        "whole.",
        compute,
    ),
)

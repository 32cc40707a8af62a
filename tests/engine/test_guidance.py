"""The logits kernel equals a reference written per vector, and the identities of the paper hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cm3.engine.guidance import guide
from cm3.engine.request import Sampling

V = 23


def call(logits: np.ndarray, settings: list[Sampling]) -> np.ndarray:
    """The kernel on (n, streams, v) logits, one Sampling each."""
    streams = logits.shape[1]
    k = [min(s.k, V) if s.contrast == "kmax" else 1 for s in settings]
    return guide(
        torch.from_numpy(logits).float(),
        torch.tensor([s.weights(streams) for s in settings]),
        torch.tensor([s.amateur_temperature for s in settings]),
        torch.tensor([s.alpha if s.contrast else 0.0 for s in settings]) if any(s.contrast for s in settings) else None,
        torch.tensor(k) if max(k) > 1 else None,
        max(k),
    ).numpy()


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(x))


def reference(vectors: np.ndarray, s: Sampling) -> np.ndarray:
    """Probabilities for one request, from the formulas of paper sections 3.1 and 4.1, in float64."""
    vectors = vectors.astype(np.float64)
    expert = vectors[0]
    if len(vectors) == 1:
        scores = expert
    else:
        amateur = vectors[1] / s.amateur_temperature
        g = 1.0 if s.guidance is None else s.guidance
        if s.contrast and s.guidance is None:
            scores = log_softmax(expert) - log_softmax(amateur)
        elif len(vectors) == 2:
            scores = amateur + g * (expert - amateur)
        else:
            s_img = 1.0 if s.image_guidance is None else s.image_guidance
            scores = amateur + s_img * (vectors[2] - amateur) + g * (expert - vectors[2])
    if s.contrast:
        p = softmax(expert)
        k = min(s.k if s.contrast == "kmax" else 1, len(p))
        bar = s.alpha * np.sort(p)[::-1][k - 1]
        scores = np.where(p >= bar * (1 - 1e-6), scores, -np.inf)
    return softmax(scores)


SETTINGS = [
    Sampling(),
    Sampling(guidance=3.0),
    Sampling(guidance=0.0),
    Sampling(guidance=-1.5),
    Sampling(contrast="max", alpha=0.1),
    Sampling(contrast="kmax", alpha=0.5, k=4),
    Sampling(contrast="kmax", alpha=0.2, k=1000, amateur_temperature=0.5),
    Sampling(contrast="max", alpha=0.3, guidance=2.0),
    Sampling(contrast="kmax", alpha=1.0, k=3, guidance=7.5),
]


def test_two_streams_equal_the_reference() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (len(SETTINGS) * 20, 2, V))
    settings = SETTINGS * 20
    got = call(logits, settings)
    for row, vectors, s in zip(got, logits, settings, strict=True):
        np.testing.assert_allclose(softmax(row.astype(np.float64)), reference(vectors, s), atol=2e-5)


def test_three_streams_equal_the_reference() -> None:
    settings = [
        Sampling(guidance=7.5, image_guidance=1.5),
        Sampling(guidance=2.0),
        Sampling(guidance=1.0, image_guidance=0.0),
        Sampling(guidance=3.0, image_guidance=1.2, contrast="kmax", k=2, alpha=0.4),
        Sampling(contrast="max", alpha=0.2),
    ]
    logits = np.random.default_rng(1).normal(0, 2, (len(settings), 3, V))
    for row, vectors, s in zip(call(logits, settings), logits, settings, strict=True):
        np.testing.assert_allclose(softmax(row.astype(np.float64)), reference(vectors, s), atol=2e-5)


def test_one_stream_is_itself_within_the_plausible() -> None:
    logits = np.random.default_rng(2).normal(0, 2, (2, 1, V))
    settings = [Sampling(), Sampling(guidance=1.0, contrast="max", alpha=0.2)]
    got = call(logits, settings)
    np.testing.assert_array_equal(got[0], logits[0, 0].astype(np.float32))
    np.testing.assert_allclose(softmax(got[1].astype(np.float64)), reference(logits[1], settings[1]), atol=1e-6)
    assert 0 < np.isfinite(got[1]).sum() < V


def test_guidance_one_is_the_conditional_exactly() -> None:
    logits = np.random.default_rng(3).normal(0, 3, (4, 2, V)).astype(np.float32)
    np.testing.assert_array_equal(call(logits, [Sampling(guidance=1.0)] * 4), logits[:, 0])
    np.testing.assert_array_equal(call(logits, [Sampling()] * 4), logits[:, 0])


@pytest.mark.parametrize("g", [0.0, 1.5, 3.0, 7.5])
def test_cfg_on_log_probabilities_is_expert_plus_contrast(g: float) -> None:
    logits = np.random.default_rng(4).normal(0, 2, (1, 2, V))
    expert, amateur = log_softmax(logits[0, 0]), log_softmax(logits[0, 1])
    on_logp = call(np.stack([expert, amateur])[None], [Sampling(guidance=g)])[0]
    np.testing.assert_allclose(on_logp, expert + (g - 1) * (expert - amateur), atol=1e-4)
    on_logits = call(logits, [Sampling(guidance=g)])[0]
    np.testing.assert_allclose(softmax(on_logits), softmax(on_logp), atol=1e-5)


def test_the_original_rule_with_alpha_one_is_greedy() -> None:
    logits = np.random.default_rng(5).normal(0, 2, (50, 2, V))
    got = call(logits, [Sampling(contrast="max", alpha=1.0)] * 50)
    assert (np.isfinite(got).sum(-1) == 1).all()
    np.testing.assert_array_equal(got.argmax(-1), logits[:, 0].argmax(-1))


def test_kmax_keeps_the_k_likeliest_at_alpha_one() -> None:
    logits = np.random.default_rng(6).normal(0, 2, (50, 2, V))
    got = call(logits, [Sampling(contrast="kmax", alpha=1.0, k=5)] * 50)
    kept = np.sort(np.argsort(-got, axis=-1)[:, :5], axis=-1)
    assert (np.isfinite(got).sum(-1) == 5).all()
    np.testing.assert_array_equal(kept, np.sort(np.argsort(-logits[:, 0], axis=-1)[:, :5], axis=-1))


def test_alpha_zero_is_the_pure_ratio() -> None:
    logits = np.random.default_rng(7).normal(0, 2, (1, 2, V))
    got = call(logits, [Sampling(contrast="kmax", alpha=0.0, k=V)])[0]
    ratio = softmax(logits[0, 0]) / softmax(logits[0, 1])
    np.testing.assert_allclose(softmax(got.astype(np.float64)), ratio / ratio.sum(), atol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits = np.random.default_rng(8).normal(0, 2, (len(SETTINGS), 2, V))
    together = call(logits, SETTINGS)
    for i, s in enumerate(SETTINGS):
        np.testing.assert_array_equal(together[i], call(logits[i : i + 1], [s])[0])

"""Choosing a training configuration on training problems alone, by cross-validation.

Invariant: a problem's score comes from networks that never saw it, and no setting is chosen on the
problems that are scored: the area is that of the whole threshold sweep, not of a hull.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from routerlib import metrics
from routerlib.calibrate import Sweep, compute_thresholds, compute_value_means
from routerlib.costs import Lens
from routerlib.evaluate.routers import evaluate_ends
from routerlib.features import DecisionProtocol
from routerlib.lattice import Lattice, Values, follow_thresholds
from routerlib.train import ExactConfig, train_ensemble

Floats = NDArray[np.float64]


def compute_out_of_fold_scores(
    lattice: Lattice,
    config: ExactConfig,
    lens: Lens,
    protocol: DecisionProtocol,
    *,
    seeds: tuple[int, ...],
    generator: np.random.Generator,
    n_folds: int = 5,
) -> Floats:
    """Ranks of large (N,) for every node, each from an ensemble trained on the other folds."""
    if not 2 <= n_folds <= lattice.n_problems:
        raise ValueError(
            f"n_folds is {n_folds} for {lattice.n_problems} problems; give 2 up to that many"
        )
    fold_of = generator.permutation(lattice.n_problems) % n_folds
    scores = np.full(lattice.n_nodes, np.nan)
    observations = lattice.observe(protocol)
    for fold in range(n_folds):
        policy = train_ensemble(lattice.select(fold_of != fold), config, lens, protocol, seeds)
        nodes = fold_of[lattice.node_problem] == fold
        scores[nodes] = policy.probabilities(observations.rows(nodes))[:, 1]
    return scores


def compute_sweep_area(sweep: Sweep, small: Values, large: Values, weights: Floats) -> Floats:
    """Area (1 + B,) under a whole sweep, from the dearest setting's end to the cheapest's.

    First on all problems, then in each resample of ``weights`` (B, P). Settings must rise from
    always large to always small, as thresholds do.
    """
    n_problems = weights.shape[1]
    stacked = np.concatenate((np.full((1, n_problems), 1.0 / n_problems), weights))
    router, first, last = (
        compute_value_means(values, stacked) for values in (sweep.values, small, large)
    )
    return metrics.compute_curve_area(
        router.cost[:, ::-1],
        router.accuracy[:, ::-1],
        (first.cost, first.accuracy),
        (last.cost, last.accuracy),
    )


def evaluate_configs(
    configs: Mapping[str, ExactConfig],
    lattice: Lattice,
    lens: Lens,
    protocol: DecisionProtocol,
    *,
    seeds: tuple[int, ...],
    seed: int = 0,
    n_folds: int = 5,
    n_resamples: int = 1000,
) -> pd.DataFrame:
    """Cross-validate training configurations on a training lattice.

    Returns config, protocol, value, low, high, n with the area over the chord of the out-of-fold
    sweep, best first. All configurations share folds and resamples.
    """
    weights = metrics.compute_resample_weights(
        metrics.draw_resamples(lattice.n_problems, n_resamples, np.random.default_rng(seed))
    )
    small, large = evaluate_ends(lattice, lens)
    n_problems = lattice.n_problems
    rows = []
    for name, config in configs.items():
        scores = compute_out_of_fold_scores(
            lattice,
            config,
            lens,
            protocol,
            seeds=seeds,
            generator=np.random.default_rng(seed),
            n_folds=n_folds,
        )
        settings = compute_thresholds(scores)
        sweep = Sweep(settings, follow_thresholds(lattice, scores, settings, lens, protocol))
        area = compute_sweep_area(sweep, small, large, weights)
        chord = compute_sweep_area(_no_points(sweep), small, large, weights)
        gain = area - chord
        estimate = metrics.compute_estimate(gain[0], gain[1:], n_problems)
        rows.append(
            {
                "config": name,
                "protocol": protocol,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "n": estimate.n,
            }
        )
    return pd.DataFrame(rows).sort_values("value", ascending=False, ignore_index=True)


def _no_points(sweep: Sweep) -> Sweep:
    """The empty sweep, whose curve is the chord."""
    values = sweep.values
    return Sweep(sweep.settings[:0], Values(values.accuracy[:0], values.cost[:0]))

"""Do a policy's probabilities mean what they say? Isotonic and Platt calibration, Brier score.

A policy's probability of large orders the decisions; nothing makes it the frequency of an event.
The lattice has the exact labels of two events at every decision, for each model's own continuation
from there is recorded to its end and graded:

- ``large_helps``: the small model alone, from here to the end, is wrong, and the large one right;
- ``small_fails``: the small model alone is wrong (also where the large one is wrong too).

The first is what a decision is about, for where both fail money is wasted, and where both succeed
too. A map from probability to frequency of the event is learned on calibration problems and judged
on others. Invariants: the maps never fall, so a threshold on the calibrated probability calls the
large model at the same decisions as some threshold on the raw one, save for ties; a decision counts
as often as a fair coin between the models meets it (2^-depth), so that the many deep nodes do not
outvote the few first ones; intervals resample problems, not decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from routerlib import metrics
from routerlib.features import check_protocol
from routerlib.lattice import Lattice, compute_process_labels
from routerlib.policies import Policy

Floats = NDArray[np.float64]
Event = Literal["large_helps", "small_fails"]
CalibrationMap = Callable[[Floats], Floats]

MAPS = ("as it is", "Platt", "isotonic")
LEAST_ODDS = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """All decisions of a lattice, N: the policy's ``probability`` of large, the ``label`` (1 where
    the event happens), the ``weight`` and the ``problem`` of each."""

    probability: Floats
    label: Floats
    weight: Floats
    problem: NDArray[np.int32]


def list_decisions(policy: Policy, lattice: Lattice, event: Event = "large_helps") -> Decisions:
    """The decisions of a two-model lattice. ValueError when labels are missing."""
    solo = np.column_stack(
        [compute_process_labels(lattice, action) for action in range(lattice.n_models)]
    )
    if np.isnan(solo).any():
        raise ValueError(
            f"{int(np.isnan(solo).any(axis=1).sum())} of {lattice.n_nodes} nodes lack a model's "
            "continuation: keep complete problems, lattice.select(coverage(lattice).complete)"
        )
    label = 1.0 - solo[:, 0]
    if event == "large_helps":
        label = label * solo[:, -1]
    seen = lattice.observe(check_protocol(policy.protocol))
    return Decisions(
        policy.probabilities(seen)[:, -1],
        label,
        0.5 ** lattice.node_depth.astype(np.float64),
        lattice.node_problem,
    )


def fit_isotonic(decisions: Decisions) -> CalibrationMap:
    """The never-falling step function with the least weighted squared error (Zadrozny and Elkan
    2002, Transforming classifier scores into accurate multiclass probability estimates)."""
    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    model.fit(decisions.probability, decisions.label, sample_weight=decisions.weight)
    return lambda probability: np.asarray(model.predict(probability), dtype=np.float64)


def fit_platt(decisions: Decisions) -> CalibrationMap:
    """A logistic curve in the log-odds, of rising slope (Platt 1999, Probabilistic outputs for
    support vector machines); flat where a rising one does not fit."""
    slope = intercept = 0.0
    if len(np.unique(decisions.label)) > 1:
        model = LogisticRegression(C=1e6)
        model.fit(_to_log_odds(decisions.probability), decisions.label, decisions.weight)
        slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0.0:
        mean = float(np.average(decisions.label, weights=decisions.weight))
        return lambda probability: np.full(probability.shape, mean)
    return lambda probability: (
        1.0 / (1.0 + np.exp(-(slope * _to_log_odds(probability)[:, 0] + intercept)))
    )


def evaluate_reliability(
    policy: Policy,
    calibration: Lattice,
    test: Lattice,
    generator: np.random.Generator,
    *,
    event: Event = "large_helps",
    n_bins: int = 8,
    n_resamples: int = 1000,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reliability and Brier scores of the maps fitted on ``calibration``, on ``test``.

    Reliability: one row per ``map`` and bin of equal weight: mean ``predicted`` and ``observed``
    frequency with its interval ``low`` to ``high``, ``share`` of the weight. Brier: one row per map
    with the weighted mean squared error ``value``, ``low``, ``high``, ``n`` problems; the map
    "frequency" always says the calibration problems' mean and is what has to be beaten.
    """
    known, new = (list_decisions(policy, lattice, event) for lattice in (calibration, test))
    weights = metrics.compute_resample_weights(
        metrics.draw_resamples(test.n_problems, n_resamples, generator)
    )
    mean = float(np.average(known.label, weights=known.weight))
    predicted = {
        MAPS[0]: new.probability,
        MAPS[1]: fit_platt(known)(new.probability),
        MAPS[2]: fit_isotonic(known)(new.probability),
    }
    bins, briers = [], []
    for name, probability in (predicted | {"frequency": np.full(len(new.label), mean)}).items():
        row: dict[str, object] = {"router": policy.name, "map": name}
        brier = _estimate_mean((probability - new.label) ** 2, new, weights)
        briers.append(
            row | {"value": brier.value, "low": brier.low, "high": brier.high, "n": brier.n}
        )
        if name == "frequency":
            continue
        for inside in _cut(probability, new.weight, n_bins):
            observed = _estimate_mean(new.label, new, weights, inside)
            bins.append(
                row
                | {
                    "predicted": float(np.average(probability[inside], weights=new.weight[inside])),
                    "observed": observed.value,
                    "low": observed.low,
                    "high": observed.high,
                    "share": float(new.weight[inside].sum() / new.weight.sum()),
                }
            )
    return pd.DataFrame(bins), pd.DataFrame(briers)


def _cut(probability: Floats, weight: Floats, n_bins: int) -> list[NDArray[np.bool_]]:
    """Masks (N,) of bins of about equal weight; equal probabilities stay together, and a bin with
    less than half of its weight, as ties leave, joins the one below."""
    values, group = np.unique(probability, return_inverse=True)
    mass = np.bincount(group, weights=weight, minlength=len(values))
    middle = (np.cumsum(mass) - mass / 2.0) / mass.sum()
    bin_of = np.minimum((middle * n_bins).astype(np.int64), n_bins - 1)[group]
    bins: list[NDArray[np.bool_]] = []
    for number in np.unique(bin_of):
        inside = bin_of == number
        if bins and weight[inside].sum() < 0.5 * weight.sum() / n_bins:
            bins[-1] = bins[-1] | inside
        else:
            bins.append(inside)
    return bins


def _estimate_mean(
    values: Floats, decisions: Decisions, weights: Floats, inside: NDArray[np.bool_] | None = None
) -> metrics.Estimate:
    """Weighted mean of values (N,), over the decisions ``inside``, with resampled problems."""
    kept = decisions.weight if inside is None else decisions.weight * inside
    n_problems = weights.shape[1]
    total, mass = (
        np.bincount(decisions.problem, weights=x, minlength=n_problems)
        for x in (kept * values, kept)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        replicates = (weights @ total) / (weights @ mass)
    return metrics.compute_estimate(float(total.sum() / mass.sum()), replicates, n_problems)


def _to_log_odds(probability: Floats) -> Floats:
    """(n, 1), finite at 0 and 1."""
    clipped = np.clip(probability, LEAST_ODDS, 1.0 - LEAST_ODDS)
    return np.asarray(np.log(clipped / (1.0 - clipped))[:, None])

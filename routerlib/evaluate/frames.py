"""Calibrated routers on test problems: tidy frames of all that tables and figures show.

Every frame begins with benchmark, pair and lens; ``value, low, high, n`` is an estimate, its 95%
interval and the number of problems. Nothing is chosen on the test problems: what appears here was
set by ``calibrate_router``, except the rows of kind ``sweep``, which are labelled so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from routerlib import metrics
from routerlib.calibrate import compute_achieved
from routerlib.costs import Lens
from routerlib.evaluate.comparison import Comparison, Measure, compare_on, judge
from routerlib.evaluate.points import (
    EvaluatedRouter,
    Row,
    list_chosen_points,
    list_oracle,
    list_sweep,
    make_row,
    name_router,
)
from routerlib.evaluate.routers import CalibratedRouter, compute_settings, compute_sweep
from routerlib.features import check_protocol
from routerlib.lattice import Lattice, evaluate_probabilities

Floats = NDArray[np.float64]

RESULT_COLUMNS = (
    *("benchmark", "pair", "router", "protocol", "lens", "metric"),
    *("value", "low", "high", "n"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Tidy frames of one benchmark, pair and lens.

    - ``results``: router, protocol, metric (``accuracy @ <target>`` for a calibrated point);
    - ``curve``: router, protocol, kind (end, calibrated, curve, sweep, oracle), target, setting,
      cost and accuracy with their intervals (NaN for the oracle's frontier), ordered by setting;
    - ``calibration``: router, protocol, target, asked, achieved on both splits, verdict;
    - ``behaviour``: router, protocol, target, step: share of decisions at it that called large;
    - ``differences``: router minus other, metric, verdict.
    """

    results: pd.DataFrame
    curve: pd.DataFrame
    calibration: pd.DataFrame
    behaviour: pd.DataFrame
    differences: pd.DataFrame


def evaluate_routers(
    routers: Mapping[str, CalibratedRouter],
    test: Lattice,
    lens: Lens,
    generator: np.random.Generator,
    *,
    benchmark: str,
    reference: str | None = None,
    n_resamples: int = 2000,
    max_sweep_points: int = 200,
) -> Evaluation:
    """Evaluate calibrated routers on a complete test lattice of two models.

    ``reference`` names the router that is compared with each other one. KeyError when it is not
    among them, OffRecordError when a router walks off the record.
    """
    if reference is not None and reference not in routers:
        raise KeyError(f"reference {reference!r} is not a router: {', '.join(routers)}")
    comparison = compare_on(test, lens, generator, n_resamples)
    evaluated = {name: _evaluate(r, test, lens, comparison) for name, r in routers.items()}
    curve = list_oracle(test, lens)
    for name, e in evaluated.items():
        curve += list_chosen_points(name, e, comparison)
    for name, router in routers.items():
        settings = compute_settings(router.policy, test, max_sweep_points)
        if len(settings):
            sweep = compute_sweep(router.policy, test, lens, settings)
            curve += list_sweep(name, router, sweep, comparison)
    identity = {
        "benchmark": benchmark,
        "pair": " -> ".join(test.model_ids),
        "lens": lens.name,
    }
    frames = {
        "results": [
            *_list_references(comparison),
            *(row for name, e in evaluated.items() for row in _list_results(name, e, comparison)),
        ],
        "curve": curve,
        "calibration": [
            row for name, e in evaluated.items() for row in _list_targets(name, e, comparison)
        ],
        "behaviour": [
            row for name, e in evaluated.items() for row in _list_behaviour(name, e, comparison)
        ],
        "differences": []
        if reference is None
        else _list_differences(evaluated, reference, comparison),
    }
    made = {name: pd.DataFrame([identity | row for row in rows]) for name, rows in frames.items()}
    made["results"] = made["results"][list(RESULT_COLUMNS)]
    return Evaluation(**made)


def _evaluate(
    router: CalibratedRouter, test: Lattice, lens: Lens, comparison: Comparison
) -> EvaluatedRouter:
    policy = router.policy
    if len(router.curve_settings) == 0:
        protocol = check_protocol(policy.protocol)
        probabilities = policy.probabilities(test.observe(protocol))
        values = evaluate_probabilities(test, probabilities, lens, protocol)
        return EvaluatedRouter(router, (), values, comparison.measure_point(values))
    chosen = np.array([calibration.setting for calibration in router.calibrations])
    at_targets = compute_sweep(policy, test, lens, chosen).values if len(chosen) else None
    points = tuple(
        (calibration, at_targets.at(i))
        for i, calibration in enumerate(router.calibrations)
        if at_targets is not None
    )
    curve = compute_sweep(policy, test, lens, router.curve_settings).values
    measures = comparison.measure_curve(curve)
    for calibration, values in points:
        for name, measure in comparison.measure_point(values).items():
            measures[f"{name} @ {calibration.target.label}"] = measure
    return EvaluatedRouter(router, points, curve, measures)


def _list_results(name: str, evaluated: EvaluatedRouter, comparison: Comparison) -> list[Row]:
    return [
        name_router(name, evaluated.router)
        | {"metric": metric}
        | make_row(comparison.estimate(measure))
        for metric, measure in evaluated.measures.items()
    ]


def _list_references(comparison: Comparison) -> list[Row]:
    """The oracle's point and area, and the chord's area."""
    rows: list[Row] = []
    means = [comparison.compute_means(values) for values in (comparison.small, comparison.large)]
    chord = (means[0].accuracy + means[1].accuracy) / 2.0
    area = comparison.oracle_area
    found = {
        "oracle": comparison.measure_point(comparison.clairvoyant)
        | {"area": Measure(float(area[0]), area[1:])},
        "chord": {"area": Measure(float(chord[0]), chord[1:])},
    }
    for router, measures in found.items():
        for metric, measure in measures.items():
            row: Row = {"router": router, "protocol": "before", "metric": metric}
            rows.append(row | make_row(comparison.estimate(measure)))
    return rows


def _list_targets(name: str, evaluated: EvaluatedRouter, comparison: Comparison) -> list[Row]:
    """One row per target: asked, achieved on calibration and on test problems, and a verdict."""
    rows = []
    for calibration, values in evaluated.points:
        target = calibration.target
        achieved = compute_achieved(
            target, values, comparison.small, comparison.large, comparison.weights
        )
        met = bool(target.is_met(np.asarray(achieved.value)))
        near = achieved.low <= target.value <= achieved.high
        found: Row = {
            "target": target.label,
            "target_kind": type(target).__name__,
            "asked": target.value,
            "setting": calibration.setting,
            "calibration_value": calibration.achieved.value,
            "calibration_low": calibration.achieved.low,
            "calibration_high": calibration.achieved.high,
            "calibration_n": calibration.achieved.n,
            "verdict": "met" if met else ("within the interval" if near else "missed"),
        }
        rows.append(name_router(name, evaluated.router) | found | make_row(achieved))
    for target, message in evaluated.router.refusals:
        refused: Row = {
            "target": target.label,
            "target_kind": type(target).__name__,
            "asked": target.value,
            "verdict": f"refused: {message}",
        }
        rows.append(name_router(name, evaluated.router) | refused)
    return rows


def _list_behaviour(name: str, evaluated: EvaluatedRouter, comparison: Comparison) -> list[Row]:
    """Share of large among the decisions taken at each step; ``n`` counts those decisions."""
    rows = []
    for calibration, values in evaluated.points:
        if values.usage is None:
            continue
        usage = values.usage.astype(np.float64)
        large = metrics.compute_means(usage[:, :, -1].T, comparison.weights)
        taken = metrics.compute_means(usage.sum(axis=2).T, comparison.weights)
        with np.errstate(invalid="ignore"):
            low, high = metrics.compute_interval(large / taken)
        totals = usage.sum(axis=0)
        for step in range(usage.shape[1]):
            n = float(totals[step].sum())
            found: Row = {
                "target": calibration.target.label,
                "step": step + 1,
                "value": float(totals[step, -1] / n) if n > 0.0 else np.nan,
                "low": float(low[step]),
                "high": float(high[step]),
                "n": n,
            }
            rows.append(name_router(name, evaluated.router) | found)
    return rows


def _list_differences(
    evaluated: Mapping[str, EvaluatedRouter], reference: str, comparison: Comparison
) -> list[Row]:
    """The reference minus each other router, for every metric that both have, paired."""
    rows = []
    ours = evaluated[reference]
    for name, theirs in evaluated.items():
        if name == reference:
            continue
        for metric, a in ours.measures.items():
            # A constant router has no targets: it is the same at each of them.
            b = theirs.measures.get(metric) or theirs.measures.get(metric.split(" @ ")[0])
            if b is None:
                continue
            gap = comparison.estimate(Measure(a.value - b.value, a.replicates - b.replicates))
            found: Row = {"other": name, "other_protocol": theirs.router.policy.protocol}
            rows.append(
                name_router(reference, ours.router)
                | found
                | {"metric": metric}
                | make_row(gap)
                | {"verdict": judge(gap)}
            )
    return rows

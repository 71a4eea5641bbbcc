"""Points of the accuracy-cost figure as rows: what was chosen, the sweep, the oracle's frontier."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from routerlib import metrics
from routerlib.calibrate import Calibration, Sweep
from routerlib.costs import Lens
from routerlib.evaluate.comparison import Comparison, Measure
from routerlib.evaluate.routers import CalibratedRouter
from routerlib.lattice import Lattice, Values, frontier
from routerlib.metrics import Estimate

Row = dict[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class EvaluatedRouter:
    """One router on the test problems: values at its calibrated points and along its curve, and
    the measures by metric name."""

    router: CalibratedRouter
    points: tuple[tuple[Calibration, Values], ...]
    curve: Values | None
    measures: dict[str, Measure]


def make_row(estimate: Estimate) -> Row:
    """Columns of an estimate."""
    return dict(zip(("value", "low", "high", "n"), astuple(estimate), strict=True))


def name_router(name: str, router: CalibratedRouter) -> Row:
    """Columns that say which router it is."""
    return {"router": name, "protocol": router.policy.protocol}


def _list_points(values: Values, comparison: Comparison) -> list[Row]:
    """Cost and accuracy with intervals, one row for each of (T, P)."""
    rows: list[Row] = [{} for _ in range(len(values.accuracy))]
    for metric in ("cost", "accuracy"):
        per_problem = getattr(values, metric)
        low, high = metrics.compute_interval(metrics.compute_means(per_problem, comparison.weights))
        for i, row in enumerate(rows):
            row[metric] = float(per_problem[i].mean())
            row[f"{metric}_low"], row[f"{metric}_high"] = float(low[i]), float(high[i])
    return rows


def list_chosen_points(name: str, evaluated: EvaluatedRouter, comparison: Comparison) -> list[Row]:
    """A constant router's point, or the curve and the targets that calibration chose."""
    router, rows = evaluated.router, []
    kind = "curve" if len(router.curve_settings) else "end"
    if evaluated.curve is not None:
        values = evaluated.curve
        stacked = Values(np.atleast_2d(values.accuracy), np.atleast_2d(values.cost))
        settings = router.curve_settings if kind == "curve" else [np.nan]
        for setting, point in zip(settings, _list_points(stacked, comparison), strict=True):
            rows.append({"kind": kind, "target": None, "setting": float(setting)} | point)
    for calibration, values in evaluated.points:
        stacked = Values(values.accuracy[None], values.cost[None])
        found: Row = {
            "kind": "calibrated",
            "target": calibration.target.label,
            "setting": calibration.setting,
        }
        rows.append(found | _list_points(stacked, comparison)[0])
    return [name_router(name, router) | row for row in rows]


def list_sweep(
    name: str, router: CalibratedRouter, sweep: Sweep, comparison: Comparison
) -> list[Row]:
    """A router at all settings (T,) on the test problems: seen with hindsight."""
    fixed: Row = name_router(name, router) | {"kind": "sweep", "target": None}
    return [
        fixed | {"setting": float(setting)} | point
        for setting, point in zip(
            sweep.settings, _list_points(sweep.values, comparison), strict=True
        )
    ]


def list_oracle(test: Lattice, lens: Lens) -> list[Row]:
    """The clairvoyant frontier; its setting is the Lagrange multiplier."""
    best = frontier(test, lens, "before")
    fixed: Row = {"router": "oracle", "protocol": "before", "kind": "oracle", "target": None}
    return [
        fixed | {"setting": float(multiplier), "cost": float(cost), "accuracy": float(accuracy)}
        for multiplier, cost, accuracy in zip(
            best.multiplier, best.cost, best.accuracy, strict=True
        )
    ]

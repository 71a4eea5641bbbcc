"""From the frames of an evaluation to the frames that the figures take, pure and without choices.

Invariants: no number is computed here, rows are only selected and columns renamed; what has no
value (a refused target, a step that no problem reached) is left out.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

FIGURE_KINDS = {
    "end": "reference",
    "calibrated": "operating_point",
    "curve": "sweep",
    "oracle": "sweep",
}
TARGET_KINDS = {"MaxCost": "max_cost", "KeepAccuracy": "keep_accuracy"}


def make_accuracy_cost_frame(
    curve: pd.DataFrame, *, banded: Collection[str] | None = None
) -> pd.DataFrame:
    """Return the frame of ``plot_accuracy_cost`` from ``Evaluation.curve``.

    The curves are those whose settings were chosen on calibration problems (kind ``curve``); the
    sweeps with hindsight (kind ``sweep``) are left out. ``banded`` names the routers whose curves
    and calibrated points keep their intervals, by default all: more than a few hide each other.
    """
    rows = curve[curve["kind"].isin(list(FIGURE_KINDS))]
    if rows.empty:
        raise ValueError(
            f"no row of kind {list(FIGURE_KINDS)}; kinds: {sorted(set(curve['kind']))}"
        )
    rows = rows.assign(kind=rows["kind"].map(FIGURE_KINDS))
    ends = ["cost_low", "cost_high", "accuracy_low", "accuracy_high"]
    frame = rows[["router", "kind", "cost", "accuracy", *ends]].reset_index(drop=True)
    if banded is not None:
        bare = (frame["kind"] != "reference") & ~frame["router"].isin(list(banded))
        frame.loc[bare, ends] = np.nan
    return frame


def make_calibration_frame(calibration: pd.DataFrame) -> pd.DataFrame:
    """Return the frame of ``plot_calibration`` (both kinds) from ``Evaluation.calibration``."""
    unknown = sorted(set(calibration["target_kind"]) - set(TARGET_KINDS))
    if unknown:
        raise ValueError(f"target_kind {unknown} is unknown; known: {list(TARGET_KINDS)}")
    rows = calibration[calibration["value"].notna()]
    rows = rows.assign(target_kind=rows["target_kind"].map(TARGET_KINDS))
    kept = rows[["router", "target_kind", "asked", "value", "low", "high"]]
    return kept.rename(columns={"asked": "target", "value": "achieved"}).reset_index(drop=True)


def make_behaviour_frame(behaviour: pd.DataFrame, target: str) -> pd.DataFrame:
    """Return the frame of ``plot_routing_behaviour`` at one target (its label) from
    ``Evaluation.behaviour``."""
    rows = behaviour[(behaviour["target"] == target) & behaviour["value"].notna()]
    if rows.empty:
        raise ValueError(f"no behaviour at {target!r}; targets: {sorted(set(behaviour['target']))}")
    kept = rows[["router", "step", "value", "low", "high", "n"]]
    return kept.rename(columns={"value": "share_large"}).reset_index(drop=True)


FLIPPED = {"higher": "lower", "lower": "higher"}


def make_comparison_frame(
    results: pd.DataFrame,
    differences: pd.DataFrame,
    *,
    by: str,
    routers: Collection[str],
    metric: str = "area_over_chord",
) -> pd.DataFrame:
    """Return the frame of ``plot_variants`` from ``Evaluation.results`` and ``.differences``.

    One group for each value of column ``by`` (``benchmark`` or ``lens``), in it a row for each of
    ``routers`` that has the metric, in that order. The differences are the reference minus another
    router; here the verdict is the other's. ``seed_...`` are NaN.
    """
    theirs = differences[differences["metric"] == metric]
    verdicts: dict[tuple[str, ...], str] = {}
    for key in theirs[["benchmark", "lens", "router"]].to_numpy():
        verdicts[tuple(key)] = "reference"
    for *other, verdict in theirs[["benchmark", "lens", "other", "verdict"]].to_numpy():
        verdicts[tuple(other)] = FLIPPED.get(verdict, verdict)
    rows = results[(results["metric"] == metric) & results["router"].isin(list(routers))]
    if rows.empty:
        raise ValueError(f"no row of metric {metric!r} and routers {list(routers)}")
    place = {router: i for i, router in enumerate(routers)}
    rows = rows.assign(_place=rows["router"].map(place))
    first_seen = {value: i for i, value in enumerate(dict.fromkeys(rows[by]))}
    rows = rows.assign(_group=rows[by].map(first_seen)).sort_values(["_group", "_place"])
    keys = rows[["benchmark", "lens", "router"]].to_numpy()
    found = [verdicts.get(tuple(key), "not compared") for key in keys]
    group = [f"{value} ({n} test problems)" for value, n in zip(rows[by], rows["n"], strict=True)]
    frame = rows[["benchmark", "lens", "value", "low", "high"]].assign(
        factor=group, level=rows["router"], verdict=found
    )
    return frame.assign(seed_low=np.nan, seed_mean=np.nan, seed_high=np.nan).reset_index(drop=True)

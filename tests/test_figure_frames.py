"""Frames of a small evaluation, by hand, in the form that the figures take."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from routerlib.figure_frames import (
    make_accuracy_cost_frame,
    make_behaviour_frame,
    make_calibration_frame,
    make_comparison_frame,
)


def make_curve() -> pd.DataFrame:
    rows = [
        ("always small", "end", 1.0, 0.2),
        ("always large", "end", 3.0, 0.5),
        ("learned (before)", "curve", 1.5, 0.3),
        ("learned (before)", "curve", 2.5, 0.45),
        ("learned (before)", "calibrated", 2.0, 0.4),
        ("learned (before)", "sweep", 2.1, 0.9),
        ("random", "curve", 2.0, 0.35),
    ]
    frame = pd.DataFrame(rows, columns=["router", "kind", "cost", "accuracy"])
    for name in ("cost", "accuracy"):
        frame[f"{name}_low"], frame[f"{name}_high"] = frame[name] - 0.1, frame[name] + 0.1
    oracle = {"router": "oracle", "kind": "oracle", "cost": 0.5, "accuracy": 0.6}
    return pd.concat([frame, pd.DataFrame([oracle])], ignore_index=True)


def test_curves_leave_hindsight_out() -> None:
    curve = make_curve()
    before = curve.copy(deep=True)
    frame = make_accuracy_cost_frame(curve)
    pd.testing.assert_frame_equal(curve, before)
    assert frame["kind"].tolist() == [
        "reference",
        "reference",
        "sweep",
        "sweep",
        "operating_point",
        "sweep",
        "sweep",
    ]
    assert 0.9 not in set(frame["accuracy"]), "a point chosen with hindsight is shown"
    assert frame["cost_low"].tolist()[:4] == pytest.approx([0.9, 2.9, 1.4, 2.4])
    assert frame[frame["router"] == "oracle"]["cost_low"].isna().all()


def test_bands_are_kept_for_the_named_routers_and_all_points() -> None:
    frame = make_accuracy_cost_frame(make_curve(), banded=["learned (before)"])
    has_band = frame["accuracy_low"].notna().groupby([frame["router"], frame["kind"]]).all()
    assert has_band.to_dict() == {
        ("always large", "reference"): True,
        ("always small", "reference"): True,
        ("learned (before)", "operating_point"): True,
        ("learned (before)", "sweep"): True,
        ("oracle", "sweep"): False,
        ("random", "sweep"): False,
    }


def test_refused_targets_are_left_out() -> None:
    calibration = pd.DataFrame(
        {
            "router": ["a", "a", "b"],
            "target_kind": ["MaxCost", "KeepAccuracy", "MaxCost"],
            "asked": [0.4, 0.9, 0.1],
            "value": [0.38, 0.91, np.nan],
            "low": [0.3, 0.8, np.nan],
            "high": [0.5, 1.0, np.nan],
        }
    )
    frame = make_calibration_frame(calibration)
    assert frame.to_dict("list") == {
        "router": ["a", "a"],
        "target_kind": ["max_cost", "keep_accuracy"],
        "target": [0.4, 0.9],
        "achieved": [0.38, 0.91],
        "low": [0.3, 0.8],
        "high": [0.5, 1.0],
    }
    with pytest.raises(ValueError, match=r"target_kind \['Other'\] is unknown"):
        make_calibration_frame(calibration.assign(target_kind="Other"))


def test_behaviour_of_one_target() -> None:
    behaviour = pd.DataFrame(
        {
            "router": ["a", "a", "a"],
            "target": ["cost <= 40%", "cost <= 40%", "cost <= 60%"],
            "step": [1, 2, 1],
            "value": [0.5, np.nan, 0.7],
            "low": [0.4, np.nan, 0.6],
            "high": [0.6, np.nan, 0.8],
            "n": [10.0, 0.0, 10.0],
        }
    )
    frame = make_behaviour_frame(behaviour, "cost <= 40%")
    assert frame.to_dict("records") == [
        {"router": "a", "step": 1, "share_large": 0.5, "low": 0.4, "high": 0.6, "n": 10.0}
    ]
    with pytest.raises(ValueError, match=r"no behaviour at 'x'; targets: \['cost <= 40%'"):
        make_behaviour_frame(behaviour, "x")


def test_nothing_to_show_is_an_error() -> None:
    curve = make_curve()
    with pytest.raises(ValueError, match="no row of kind"):
        make_accuracy_cost_frame(curve[curve["kind"] == "sweep"])


def make_results() -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = [
        (benchmark, "flops", router, metric, value, n)
        for benchmark, n in (("math500", 20), ("gsm8k", 350))
        for router, value in (("random", 0.0), ("ours", 0.02), ("theirs", -0.04), ("far", -0.3))
        for metric in ("area", "area_over_chord")
    ]
    results = pd.DataFrame(rows, columns=["benchmark", "lens", "router", "metric", "value", "n"])
    results["low"], results["high"] = results["value"] - 0.01, results["value"] + 0.01
    differences = pd.DataFrame(
        [
            (benchmark, "flops", "ours", other, "area_over_chord", verdict)
            for benchmark, verdict in (("math500", "not distinguishable"), ("gsm8k", "higher"))
            for other in ("random", "theirs")
        ],
        columns=["benchmark", "lens", "router", "other", "metric", "verdict"],
    )
    return results, differences


def test_comparisons_are_told_from_the_row() -> None:
    results, differences = make_results()
    before = results.copy(deep=True)
    frame = make_comparison_frame(
        results, differences, by="benchmark", routers=["theirs", "ours", "far"]
    )
    pd.testing.assert_frame_equal(results, before)
    assert frame["factor"].tolist() == [
        *["math500 (20 test problems)"] * 3,
        *["gsm8k (350 test problems)"] * 3,
    ]
    assert frame["level"].tolist() == ["theirs", "ours", "far"] * 2
    assert frame["verdict"].tolist() == [
        *("not distinguishable", "reference", "not compared"),
        *("lower", "reference", "not compared"),
    ]
    assert frame["value"].tolist() == [-0.04, 0.02, -0.3] * 2
    assert frame["seed_mean"].isna().all()
    with pytest.raises(ValueError, match="no row of metric 'apgr'"):
        make_comparison_frame(results, differences, by="lens", routers=["ours"], metric="apgr")

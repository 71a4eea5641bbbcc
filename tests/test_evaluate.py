"""Calibration and test never mix; known answers on toys; every frame is tidy and paired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lattice_cases import build_hand_lattice, build_scripted

from routerlib import evaluate, metrics, policies
from routerlib.calibrate import KeepAccuracy, MaxCost
from routerlib.costs import Lens
from routerlib.errors import OffRecordError
from routerlib.evaluate.comparison import compare_on
from routerlib.lattice import Lattice, Values, frontier
from routerlib.metrics import Estimate, compute_hull_area

TARGETS = (MaxCost(0.4), MaxCost(0.8), KeepAccuracy(0.9))
RULES: dict[str, policies.Policy] = {
    "always small": policies.AlwaysSmall(),
    "always large": policies.AlwaysLarge(),
    "random": policies.RandomPolicy(),
    "first k": policies.FirstSteps(),
    "length": policies.ProblemLength(short_to_large=False),
    "entropy": policies.FirstTokenEntropy(),
    "draft": policies.MeanLogprobThreshold(),
}


@pytest.fixture
def held_out(make_toy_lattice: Callable[..., Lattice]) -> Lattice:
    kinds = [0, 1, 1, 0, 1] * 6
    return make_toy_lattice(lambda kind, actions: actions[0] == kind, kinds, 2, seed=1)


def calibrate_all(lattice: Lattice, lens: Lens) -> dict[str, evaluate.CalibratedRouter]:
    return {
        name: evaluate.calibrate_router(
            policy, lattice, lens, TARGETS, np.random.default_rng(0), n_resamples=100
        )
        for name, policy in RULES.items()
    }


def run(
    calibration: Lattice, test: Lattice, lens: Lens, seed: int = 0, reference: str | None = "length"
) -> evaluate.Evaluation:
    return evaluate.evaluate_routers(
        calibrate_all(calibration, lens),
        test,
        lens,
        np.random.default_rng(seed),
        benchmark="toy",
        reference=reference,
        n_resamples=200,
        max_sweep_points=20,
    )


def value(evaluation: evaluate.Evaluation, router: str, metric: str) -> float:
    frame = evaluation.results
    found = frame[(frame.router == router) & (frame.metric == metric)]
    assert len(found) == 1, (router, metric)
    return float(found.value.iloc[0])


def test_ends_and_chord(first_step_lattice: Lattice, held_out: Lattice, toy_lens: Lens) -> None:
    evaluation = run(first_step_lattice, held_out, toy_lens)
    for router, accuracy, cost, pgr in (("always small", 0.4, 30, 0), ("always large", 0.6, 90, 1)):
        assert value(evaluation, router, "accuracy") == pytest.approx(accuracy)
        assert value(evaluation, router, "cost") == pytest.approx(cost)
        assert value(evaluation, router, "pgr") == pytest.approx(pgr)
        assert value(evaluation, router, "cost_share") == pytest.approx(pgr)
        assert value(evaluation, router, "accuracy_over_chord") == pytest.approx(0, abs=1e-12)
    assert value(evaluation, "chord", "area") == pytest.approx(0.5)


def test_coin_before_each_step_by_hand(
    first_step_lattice: Lattice, held_out: Lattice, toy_lens: Lens
) -> None:
    # Only the first step counts, so a coin before each step lies on the chord: APGR 0.5.
    evaluation = run(first_step_lattice, held_out, toy_lens)
    assert value(evaluation, "random", "apgr") == pytest.approx(0.5)
    assert value(evaluation, "random", "area_over_chord") == pytest.approx(0.0, abs=1e-12)
    assert value(evaluation, "random", "cpt80") == pytest.approx(0.8)


def test_first_step_rule_by_hand(
    first_step_lattice: Lattice, held_out: Lattice, toy_lens: Lens
) -> None:
    # Large for one step: accuracy 0.6 at cost 50, a third of the way; then level.
    evaluation = run(first_step_lattice, held_out, toy_lens)
    assert value(evaluation, "first k", "area") == pytest.approx((0.5 + 2 * 0.6) / 3)
    assert value(evaluation, "first k", "apgr") == pytest.approx((0.5 + 2) / 3)
    assert value(evaluation, "first k", "cpt90") == pytest.approx(0.3)
    assert value(evaluation, "first k", "accuracy @ cost <= 40%") == pytest.approx(0.6)
    assert value(evaluation, "first k", "cost_share @ cost <= 40%") == pytest.approx(1 / 3)


def test_oracle_is_never_below_anything(
    first_step_lattice: Lattice, held_out: Lattice, toy_lens: Lens
) -> None:
    evaluation = run(first_step_lattice, held_out, toy_lens)
    results = evaluation.results
    areas = results[results.metric == "area"].set_index("router").value
    assert areas.idxmax() == "oracle"
    shares = results[results.metric == "oracle_share"].value
    assert shares.max() <= 1.0
    best = evaluation.curve[evaluation.curve.router == "oracle"].sort_values("cost")
    others = evaluation.curve[evaluation.curve.kind != "oracle"]
    ceiling = np.interp(others.cost, best.cost, best.accuracy)
    assert (others.accuracy <= ceiling + 1e-9).all()


def test_oracle_area_is_that_of_the_frontier(held_out: Lattice, toy_lens: Lens) -> None:
    comparison = compare_on(held_out, toy_lens, np.random.default_rng(0), 3)
    best = frontier(held_out, toy_lens, "before")
    expected = compute_hull_area(best.cost, best.accuracy, (30.0, 0.4), (90.0, 0.6))
    assert comparison.oracle_area[0] == pytest.approx(expected)
    assert comparison.oracle_area.shape == (4,)


def test_better_draft_costs_more_than_probe(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    settings = np.array([0.0])
    costs = [
        evaluate.compute_sweep(RULES[name], first_step_lattice, toy_lens, settings).values.cost
        for name in ("first k", "entropy", "draft")
    ]
    np.testing.assert_allclose([c.mean() for c in costs], [90, 93, 120])


def test_test_outcomes_do_not_reach_the_settings(
    first_step_lattice: Lattice, held_out: Lattice, toy_lens: Lens
) -> None:
    flipped = replace(held_out, outcome=1.0 - held_out.outcome)
    columns = ["router", "target", "setting", "calibration_value"]
    first, second = (
        run(first_step_lattice, test, toy_lens).calibration[columns] for test in (held_out, flipped)
    )
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize("name", [n for n in RULES if n not in {"entropy", "draft"}])
def test_hidden_fields_change_no_decision(
    name: str, first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    noise = np.random.default_rng(5)
    hidden = {
        key: noise.permutation(values) if key.startswith(("probe", "draft")) else values
        for key, values in first_step_lattice.fields.items()
    }
    changed = replace(first_step_lattice, fields=hidden)
    policy = RULES[name]
    outputs = [policy.probabilities(x.observe("before")) for x in (first_step_lattice, changed)]
    np.testing.assert_array_equal(*outputs)


def test_drafts_hidden_from_a_probe_change_no_decision(first_step_lattice: Lattice) -> None:
    noise = np.random.default_rng(5)
    hidden = {
        key: noise.permutation(values) if key.startswith("draft") else values
        for key, values in first_step_lattice.fields.items()
    }
    changed = replace(first_step_lattice, fields=hidden)
    np.testing.assert_array_equal(
        RULES["entropy"].probabilities(first_step_lattice.observe("probe")),
        RULES["entropy"].probabilities(changed.observe("probe")),
    )


def test_refused_target_says_why(
    first_step_lattice: Lattice, held_out: Lattice, toy_lens: Lens
) -> None:
    router = evaluate.calibrate_router(
        RULES["draft"], first_step_lattice, toy_lens, [KeepAccuracy(9.0)], np.random.default_rng(0)
    )
    assert router.calibrations == ()
    found = evaluate.evaluate_routers(
        {"draft": router}, held_out, toy_lens, np.random.default_rng(0), benchmark="toy"
    ).calibration
    assert found.verdict.str.contains("best achievable").all()
    assert found.asked.tolist() == [9.0]


def test_calibration_frame_compares_both_splits(
    first_step_lattice: Lattice, held_out: Lattice, toy_lens: Lens
) -> None:
    frame = run(first_step_lattice, held_out, toy_lens).calibration
    row = frame[(frame.router == "first k") & (frame.target == MaxCost(0.4).label)].iloc[0]
    assert row.asked == 0.4
    assert row.calibration_value == pytest.approx(1 / 3)
    assert row.value == pytest.approx(1 / 3)
    assert (row.calibration_n, row.n, row.verdict) == (40, 30, "met")


def test_behaviour_of_the_first_step_rule(
    first_step_lattice: Lattice, held_out: Lattice, toy_lens: Lens
) -> None:
    frame = run(first_step_lattice, held_out, toy_lens).behaviour
    rows = frame[(frame.router == "first k") & (frame.target == MaxCost(0.4).label)]
    assert rows.step.tolist() == [1, 2, 3]
    assert rows.value.tolist() == [1.0, 0.0, 0.0]
    assert rows.n.tolist() == [30.0, 30.0, 30.0]
    half = frame[(frame.router == "length") & (frame.step == 1)]
    assert ((half.low <= half.value) & (half.value <= half.high)).all()


def test_differences_are_paired_and_judged(
    first_step_lattice: Lattice, held_out: Lattice, toy_lens: Lens
) -> None:
    evaluation = run(first_step_lattice, held_out, toy_lens)
    frame = evaluation.differences
    assert set(frame.other) == set(RULES) - {"length"}
    area = frame[(frame.metric == "area") & (frame.other == "random")].iloc[0]
    expected = value(evaluation, "length", "area") - value(evaluation, "random", "area")
    assert area.value == pytest.approx(expected)
    large = frame[(frame.other == "always large") & (frame.metric == "cost @ cost <= 40%")].iloc[0]
    assert large.verdict == "lower"
    same = run(first_step_lattice, held_out, toy_lens, reference="random").differences
    chord = same[(same.metric == "area_over_chord") & (same.other == "length")].iloc[0]
    assert chord.value == pytest.approx(-expected)


def test_reference_must_be_a_router(
    first_step_lattice: Lattice, held_out: Lattice, toy_lens: Lens
) -> None:
    with pytest.raises(KeyError, match="nobody"):
        run(first_step_lattice, held_out, toy_lens, reference="nobody")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.3, "higher"), (-0.3, -0.1, "lower"), (-0.1, 0.3, evaluate.INDISTINGUISHABLE)],
)
def test_verdicts(low: float, high: float, verdict: str) -> None:
    assert evaluate.judge(Estimate((low + high) / 2, low, high, 10)) == verdict


def test_equals_do_not_differ_by_rounding() -> None:
    noise = 0.1 + 0.2 - 0.3
    assert noise > 0
    estimate = metrics.compute_estimate(noise, np.full(100, noise), 10)
    assert estimate == Estimate(0.0, 0.0, 0.0, 10)
    assert evaluate.judge(estimate) == evaluate.INDISTINGUISHABLE


def test_same_seed_same_frames_other_seed_other_intervals(
    first_step_lattice: Lattice, held_out: Lattice, toy_lens: Lens
) -> None:
    first, again, other = (
        run(first_step_lattice, held_out, toy_lens, seed).results for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, again)
    assert first.value.equals(other.value)
    assert not first.low.equals(other.low)


def test_results_are_tidy(first_step_lattice: Lattice, held_out: Lattice, toy_lens: Lens) -> None:
    evaluation = run(first_step_lattice, held_out, toy_lens)
    frame = evaluation.results
    assert tuple(frame.columns) == evaluate.RESULT_COLUMNS
    assert not frame.duplicated(["router", "metric"]).any()
    assert (frame.pair == "small -> large").all()
    assert (frame.n == 30).all()
    finite = frame.dropna(subset=["value", "low", "high"])
    assert (finite.low <= finite.high).all()
    kinds = set(evaluation.curve.kind)
    assert kinds == {"end", "calibrated", "curve", "sweep", "oracle"}
    assert evaluation.behaviour.groupby(["router", "target"]).size().unique().tolist() == [3]


def test_random_sweeps_its_coin_and_constants_nothing(
    first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    coin = evaluate.compute_settings(RULES["random"], first_step_lattice)
    assert (coin[0], coin[-1]) == (1.0, 0.0)
    assert (np.diff(coin) < 0.0).all()
    assert len(evaluate.compute_settings(RULES["always small"], first_step_lattice)) == 0
    values: Values = evaluate.compute_sweep(
        RULES["random"], first_step_lattice, toy_lens, np.array([0.0, 0.5, 1.0])
    ).values
    np.testing.assert_allclose(values.accuracy.mean(axis=1), [0.4, 0.5, 0.6])


def test_a_judges_router_is_calibrated_kept_and_evaluated(tmp_path: Path, toy_lens: Lens) -> None:
    """Its settings survive a round trip without a policy file, and its bill is that of ``judge``:
    always small and always large, who ask nobody, are not billed for a judge."""
    calibration, test = build_scripted(0, n_problems=20), build_scripted(1, n_problems=20)
    policy = policies.JudgeScoreThreshold()
    router = evaluate.calibrate_router(
        policy, calibration, toy_lens, (MaxCost(6.0),), np.random.default_rng(0), n_resamples=50
    )
    evaluate.save_routers({policy.name: router}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["routers.json"]
    again = evaluate.load_routers(tmp_path)
    assert again[policy.name].policy == policy
    assert again[policy.name].calibrations == router.calibrations
    found = evaluate.evaluate_routers(
        again, test, toy_lens, np.random.default_rng(0), benchmark="toy", n_resamples=50
    ).results.set_index(["router", "metric"])["value"]
    ends = evaluate.evaluate_ends(test, toy_lens)
    assert found["judge score", "cost @ cost <= 600%"] > max(end.cost.mean() for end in ends)
    with pytest.raises(OffRecordError, match="never judged"):
        evaluate.compute_sweep(policy, unjudge(build_hand_lattice()), toy_lens, np.array([0.5]))


def unjudge(lattice: Lattice) -> Lattice:
    ledger = {**lattice.ledger, "judge": np.full_like(lattice.ledger["judge"], np.nan)}
    return replace(lattice, ledger=ledger)

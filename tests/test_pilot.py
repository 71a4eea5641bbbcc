"""What a pilot says: known intervals, counts and verdicts, and how it says that it cannot tell."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from lattice_cases import build_hand_lattice, make_hand_tables

from routerlib.calibrate import MaxCost
from routerlib.costs import Lens
from routerlib.errors import NotebookError, SpendingCapError, StoreError
from routerlib.evaluate import CalibratedRouter, Evaluation, calibrate_router, save_routers
from routerlib.features import Observations
from routerlib.lattice import MISSING, Lattice
from routerlib.metrics import Estimate
from routerlib.pilot import (
    LEAST_PROBLEMS,
    compute_needed_problems,
    count_calls,
    describe_gap,
    describe_unrecorded,
    evaluate_pilot,
    judge_gaps,
    list_step_ids,
    load_router,
    predict_recording,
    record_pilot,
    select_complete,
)
from routerlib.policies import BASELINES
from routerlib.price_estimate import LEAST_PROBLEMS as LEAST_FOR_A_PRICE
from routerlib.price_estimate import predict_total


@dataclass(frozen=True)
class ByKind:
    """Large for problems of kind 1 or, when it is ``wrong``, for those of kind 0."""

    wrong: bool = False
    name: str = "by kind"
    protocol: str = "before"

    def probabilities(self, observations: Observations) -> np.ndarray:
        large = np.abs(observations.column("problem_n_words") - float(self.wrong))
        return np.stack((1.0 - large, large), axis=1)


def evaluate(lattice: Lattice, lens: Lens, **routers: CalibratedRouter) -> Evaluation:
    return evaluate_pilot(
        lattice, lens, routers, np.random.default_rng(0), benchmark="toy", n_resamples=400
    )


@pytest.mark.parametrize(
    ("n_right", "low", "high"), [(0, 0.0, 0.2425), (6, 0.2538, 0.7462), (12, 0.7575, 1.0)]
)
def test_a_share_of_a_dozen_problems_has_wilsons_interval(
    make_toy_lattice: Callable[..., Lattice], toy_lens: Lens, n_right: int, low: float, high: float
) -> None:
    """Also where all or none are right; the oracle's frontier has none."""
    kinds = [1] * n_right + [0] * (12 - n_right)
    lattice = make_toy_lattice(lambda kind, actions: kind == actions[0] == 1, kinds, depth=1)
    curve = evaluate(lattice, toy_lens).curve
    large = curve[curve["router"] == "always large"].iloc[0]
    assert large["accuracy"] == n_right / 12
    assert (large["accuracy_low"], large["accuracy_high"]) == pytest.approx((low, high), abs=1e-4)
    assert curve[curve["router"] == "oracle"]["accuracy_low"].isna().all()


@pytest.mark.parametrize(
    ("wrong", "verdict"), [(False, "better than the coin"), (True, "worse than the coin")]
)
def test_the_verdict_follows_from_what_the_policy_does(
    first_step_lattice: Lattice, toy_lens: Lens, wrong: bool, verdict: str
) -> None:
    router = calibrate_router(
        ByKind(wrong), first_step_lattice, toy_lens, [MaxCost(0.7)], np.random.default_rng(0)
    )
    router = replace(router, curve_settings=np.array([0.5]))
    gaps = judge_gaps(evaluate(first_step_lattice, toy_lens, mine=router).results, "mine")
    assert list(gaps["gap"]) == ["area", "cost <= 70%"]
    area = gaps.iloc[0]
    assert area["verdict"] == verdict
    assert (area["value"] < 0) == wrong
    assert area["low"] <= area["value"] <= area["high"]
    assert area["n_needed"] <= area["n"] == 40
    few = first_step_lattice.select(np.arange(LEAST_PROBLEMS - 1))
    (area,) = judge_gaps(
        evaluate(few, toy_lens, mine=replace(router, calibrations=())).results, "mine"
    ).to_dict("records")
    assert area["verdict"].startswith("no verdict")
    assert math.isnan(area["n_needed"])


def test_too_few_problems_and_too_small_a_gap_have_no_verdict() -> None:
    clear = Estimate(0.3, 0.2, 0.4, LEAST_PROBLEMS)
    assert describe_gap(clear) == "better than the coin"
    few = describe_gap(replace(clear, n=LEAST_PROBLEMS - 1))
    assert few == f"no verdict from {LEAST_PROBLEMS - 1} problems, {LEAST_PROBLEMS} are the least"
    assert describe_gap(Estimate(0.3, 0.0, 0.4, 12)) == "not distinguishable with 12 problems"


def test_the_needed_problems_tell_the_gap_four_times_in_five() -> None:
    gap, spread, n = 0.1, 0.4, 12
    half = 1.96 * spread / math.sqrt(n)
    needed = compute_needed_problems(Estimate(gap, gap - half, gap + half, n))
    assert needed == math.ceil((2.8016 * spread / gap) ** 2)
    means = np.random.default_rng(0).normal(gap, spread, (4000, needed)).mean(axis=1)
    told = means - 1.96 * spread / math.sqrt(needed) > 0
    assert told.mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("ends", [(0.0, -0.1, 0.1), (0.2, 0.2, 0.2), (math.nan, 0.0, 0.1)])
def test_no_gap_or_no_spread_needs_no_number(ends: tuple[float, float, float]) -> None:
    assert compute_needed_problems(Estimate(*ends, 12)) is None


def test_a_large_model_that_is_not_dearer_is_refused(
    first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    swapped = replace(toy_lens, weights=toy_lens.weights[::-1])
    with pytest.raises(ValueError, match="name the cheaper model small, or choose another lens"):
        evaluate(first_step_lattice, swapped)


def test_calls_are_counted_with_those_that_failed() -> None:
    tables, lattice = make_hand_tables(), build_hand_lattice()
    refused = tables.steps.filter(pl.col("id") == "root-small").with_columns(
        error=pl.lit("it repeats a step"), attempt=pl.lit(1, tables.steps["attempt"].dtype)
    )
    silent = refused.with_columns(id=pl.lit("root-other"))
    calls = count_calls(pl.concat([tables.steps, refused, silent]), lattice)
    p, q = (calls[calls["problem_id"] == name].iloc[0] for name in "pq")
    assert (p["calls"], p["failed"], p["unanswered"]) == (12, 2, 1)
    assert (q["calls"], q["failed"], q["unanswered"]) == (2, 0, 0)
    assert (q["prompt_tokens"], q["completion_tokens"]) == (30, 9)
    deeper = tables.steps.filter(pl.col("id") == "root-small").with_columns(
        id=pl.lit("root-small-tail"), kind=pl.lit("tail")
    )
    sampled = deeper.with_columns(id=pl.lit("sample"), kind=pl.lit("step"), temperature=pl.lit(0.7))
    more = pl.concat([tables.steps, refused, silent, deeper, sampled])
    assert count_calls(more, lattice).equals(calls)
    ids = list_step_ids(more, lattice)
    assert list(ids) == ["p", "q"]
    assert sorted(ids["q"]) == ["q.root-large", "q.root-small"]
    assert len(ids["p"]) == 10 + 1
    by_others = tables.steps.with_columns(model_id=pl.lit("another"))
    assert count_calls(by_others, lattice)["calls"].tolist() == [0, 0]


def test_a_recording_is_predicted_from_enough_problems() -> None:
    calls = count_calls(make_hand_tables().steps, build_hand_lattice())
    assert predict_recording(calls, 100)[["total", "low", "high"]].isna().all(axis=None)
    more = calls.loc[[0, 1] * LEAST_FOR_A_PRICE].assign(usd=0.5)
    found = predict_recording(more, 100).set_index("quantity")
    assert list(found.index) == ["calls", "prompt_tokens", "completion_tokens", "usd"]
    expected = predict_total(more["calls"].to_numpy(dtype=np.float64), 100)
    assert expected is not None
    assert found.loc["calls", "total"] == pytest.approx(expected.expected) == 600
    assert found.loc["calls", ["low", "high"]].tolist() == [expected.low, expected.high]
    assert found.loc["usd", ["per_problem", "total", "low", "high"]].tolist() == [0.5, 50, 50, 50]


def test_only_complete_problems_are_kept(first_step_lattice: Lattice) -> None:
    next_node = first_step_lattice.next_node.copy()
    next_node[3, 1] = MISSING
    kept = select_complete(replace(first_step_lattice, next_node=next_node))
    assert kept.n_problems == 39
    assert first_step_lattice.problem_ids[3] not in kept.problem_ids
    next_node[:] = MISSING
    with pytest.raises(StoreError, match="none of 40 problems is recorded completely for depth 2"):
        select_complete(replace(first_step_lattice, next_node=next_node))


def test_what_a_policy_sees_and_is_not_recorded_is_named(first_step_lattice: Lattice) -> None:
    said = describe_unrecorded(first_step_lattice, "before")
    assert said == "all 3 fields that the policy sees are recorded"
    unknown = first_step_lattice.fields["last_mean_logprob"].copy()
    unknown[len(unknown) // 2 :] = np.nan
    fields = dict(first_step_lattice.fields) | {"last_mean_logprob": unknown}
    said = describe_unrecorded(replace(first_step_lattice, fields=fields), "before")
    assert said.endswith("the mean of its training: last_mean_logprob (50% of the states)")


def test_a_router_is_found_by_name(tmp_path: Path) -> None:
    assert load_router(tmp_path, "random") is None
    router = CalibratedRouter(BASELINES["problem length"], (), (), np.array([0.5]))
    save_routers({"problem length": router}, tmp_path)
    found = load_router(tmp_path, "problem length")
    assert found is not None
    assert found.policy == router.policy
    with pytest.raises(ValueError, match=r"has no router 'lerned': name one of problem length"):
        load_router(tmp_path, "lerned")


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (3, SpendingCapError, "the cap of 2 USD ended the pilot .* kept in my-pilot: run this"),
        (130, NotebookError, "the recording was stopped; what was answered is kept in my-pilot"),
        (1, None, ""),
        (0, None, ""),
    ],
)
def test_a_recording_that_ends_early_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, status: int, error: type[Exception] | None, message: str
) -> None:
    seen: list[argparse.Namespace] = []

    def record(options: argparse.Namespace) -> int:
        seen.append(options)
        return status

    monkeypatch.setattr("routerlib.collect_command.run_collect", record)
    options = {"traces": "my-pilot", "max-usd": 2.0, "limit": 7, "data": ""}
    if error is None:
        record_pilot(options)
    else:
        with pytest.raises(error, match=message):
            record_pilot(options)
    (asked,) = seen
    assert (asked.limit, asked.max_usd, asked.data) == (7, 2.0, None)

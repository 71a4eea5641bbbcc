"""Variants: known areas, points chosen on calibration problems only, paired differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from routerlib import evaluate
from routerlib.calibrate import choose_curve_settings
from routerlib.costs import Lens, set_price_ratio
from routerlib.evaluate import Variant, evaluate_variants
from routerlib.evaluate.comparison import compare_on
from routerlib.lattice import Lattice
from routerlib.policies import (
    FirstTokenEntropy,
    LastSteps,
    MLPPolicy,
    Policy,
    ProblemLength,
    RandomPolicy,
)
from routerlib.train import ExactConfig, make_untrained, train_exact

MakeLattice = Callable[..., Lattice]


@pytest.fixture
def test_lattice(make_toy_lattice: MakeLattice) -> Lattice:
    kinds = [0, 1, 1, 0, 1] * 6
    return make_toy_lattice(lambda kind, actions: actions[0] == kind, kinds, 2, seed=1)


def test_known_areas_and_paired_differences(
    first_step_lattice: Lattice, test_lattice: Lattice, toy_lens: Lens
) -> None:
    where = (first_step_lattice, test_lattice, toy_lens)
    long_to_large = ProblemLength(short_to_large=False)
    rules = (RandomPolicy(), long_to_large, FirstTokenEntropy())
    frame = evaluate_variants(
        [
            Variant("rule", "coin", RandomPolicy(), *where, reference="length"),
            Variant("rule", "length", long_to_large, *where, rules, reference="length"),
            Variant("rule", "entropy", FirstTokenEntropy(), *where, reference="length"),
            Variant("other", "alone", LastSteps(), *where),
        ],
        n_resamples=200,
    ).set_index("level")
    assert frame.loc["coin", "value"] == pytest.approx(0.0, abs=1e-9)
    assert frame.loc["coin", "difference"] == pytest.approx(-frame.loc["length", "value"])
    assert frame.loc["coin", "verdict"] == "lower"
    assert frame.loc["length", "value"] > 0.1
    assert frame["verdict"][["length", "alone"]].tolist() == ["reference", "not compared"]
    assert frame.loc["length", ["difference", "difference_low"]].isna().all()
    assert frame.loc["alone", ["difference", "seed_mean"]].isna().all()
    seeds = frame.loc["length", ["seed_low", "seed_high", "n_seeds"]].tolist()
    assert seeds == [
        pytest.approx(frame.loc["entropy", "value"]),
        pytest.approx(frame.loc["length", "value"]),
        3,
    ]
    assert frame.loc["entropy", "protocol"] == "probe"
    assert (frame["low"] <= frame["value"]).all()
    assert (frame["value"] <= frame["high"]).all()
    assert (frame["n"] == 30).all()


def test_the_number_is_that_of_the_main_evaluation(
    first_step_lattice: Lattice, test_lattice: Lattice, toy_lens: Lens
) -> None:
    rule: Policy = LastSteps()
    router = evaluate.calibrate_router(
        rule, first_step_lattice, toy_lens, (), np.random.default_rng(0), n_resamples=10
    )
    whole = evaluate.evaluate_routers(
        {"last": router},
        test_lattice,
        toy_lens,
        np.random.default_rng(0),
        benchmark="toy",
        n_resamples=50,
    ).results
    row = whole[(whole["router"] == "last") & (whole["metric"] == "area_over_chord")].iloc[0]
    frame = evaluate_variants(
        [Variant("x", "y", rule, first_step_lattice, test_lattice, toy_lens)], n_resamples=50
    )
    assert frame.loc[0, ["value", "low", "high"]].tolist() == row[["value", "low", "high"]].tolist()


def test_an_unknown_reference_is_refused(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    where = (first_step_lattice, first_step_lattice, toy_lens)
    variant = Variant("rule", "coin", RandomPolicy(), *where, reference="best")
    with pytest.raises(KeyError, match="factor 'rule' has no level 'best'"):
        evaluate_variants([variant], n_resamples=10)


def test_other_problems_or_prices_are_not_compared(
    first_step_lattice: Lattice, test_lattice: Lattice, toy_lens: Lens
) -> None:
    rule = ProblemLength(short_to_large=False)
    frame = evaluate_variants(
        [
            Variant("price", "3", rule, first_step_lattice, test_lattice, toy_lens, (), "3"),
            Variant(
                *("price", "30", rule, first_step_lattice, test_lattice),
                *(set_price_ratio(toy_lens, 30.0), (), "3"),
            ),
        ],
        n_resamples=10,
    )
    assert frame["verdict"].tolist() == ["reference", "not compared"]
    assert frame["lens"].tolist() == ["toy", "toy, 1 : 30"]


def test_untrained_is_where_training_begins(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    config = ExactConfig(n_steps=1, validation_share=0.0, learning_rate=1e-12, dropout=0.0)
    untrained = make_untrained(first_step_lattice, config, toy_lens, "before", 5)
    barely = train_exact(first_step_lattice, config, toy_lens, "before", 5)
    seen = first_step_lattice.observe("before")
    other = make_untrained(first_step_lattice, config, toy_lens, "before", 6)
    assert isinstance(barely, MLPPolicy)
    assert not np.allclose(other.probabilities(seen), untrained.probabilities(seen))
    np.testing.assert_allclose(
        untrained.standardiser.transform(seen), barely.standardiser.transform(seen)
    )


def test_settings_come_from_calibration_problems(
    first_step_lattice: Lattice, test_lattice: Lattice, toy_lens: Lens
) -> None:
    policy = LastSteps()
    sweep = evaluate.compute_sweep(
        policy, first_step_lattice, toy_lens, evaluate.compute_settings(policy, first_step_lattice)
    )
    curve = evaluate.compute_sweep(policy, test_lattice, toy_lens, choose_curve_settings(sweep))
    comparison = compare_on(test_lattice, toy_lens, np.random.default_rng(0), 10)
    expected = comparison.measure_curve(curve.values)["area_over_chord"].value
    frame = evaluate_variants(
        [Variant("x", "y", policy, first_step_lattice, test_lattice, toy_lens)], n_resamples=10
    )
    assert frame.loc[0, "value"] == pytest.approx(expected)

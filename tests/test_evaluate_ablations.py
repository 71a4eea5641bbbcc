"""Ablations: what each factor changes, and that it changes nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from routerlib.costs import Lens
from routerlib.evaluate import AblationStudy, Variant, compute_hindsight_areas, evaluate_variants
from routerlib.lattice import Lattice
from routerlib.policies import EnsemblePolicy, MLPPolicy, RankedPolicy
from routerlib.train import (
    ExactConfig,
    FittedConfig,
    PolicyCache,
    TreesRegression,
    make_untrained,
    train_exact,
    train_fitted,
)

FAST = ExactConfig(n_steps=5, width=4, validation_share=0.0)


@pytest.fixture
def study(
    tmp_path: Path,
    make_toy_lattice: Callable[..., Lattice],
    first_step_lattice: Lattice,
    toy_lens: Lens,
) -> AblationStudy:
    calibration, test = (
        make_toy_lattice(lambda kind, actions: actions[0] == kind, [0, 1, 1, 0, 1] * 4, 2, seed)
        for seed in (1, 2)
    )
    return AblationStudy(
        PolicyCache(tmp_path), first_step_lattice, calibration, test, toy_lens, (0, 1), FAST
    )


def get_features(variant: Variant) -> tuple[str, ...]:
    member = variant.seeds[0]
    assert isinstance(member, MLPPolicy)
    return member.standardiser.names


def test_features_and_protocols(study: AblationStudy) -> None:
    variants = study.vary_features(["default", "no_logprobs", "position_only"])
    names = {v.level: set(get_features(v)) for v in variants}
    assert names["default"] == {"problem_n_words", "depth", "last_mean_logprob"}
    assert names["no_logprobs"] == {"problem_n_words", "depth"}
    assert names["position_only"] == {"depth"}
    assert {v.reference for v in variants} == {"default"}
    shown = {v.policy.protocol: get_features(v) for v in study.vary_protocol(["before", "draft"])}
    assert "draft_mean_logprob" in shown["draft"]
    assert "draft_mean_logprob" not in shown["before"]


def test_the_default_is_trained_once(study: AblationStudy, tmp_path: Path) -> None:
    reference = study.vary_features(["default"])[0]
    n_files = len(list(tmp_path.iterdir()))
    assert n_files == len(study.seeds)
    others = [study.vary_width([4])[0], study.vary_mode()[0], study.vary_amount([])[0]]
    seen = study.test.observe("before")
    for variant in others:
        np.testing.assert_array_equal(
            variant.policy.probabilities(seen), reference.policy.probabilities(seen)
        )


def test_width_amount_depth_mode_and_price(study: AblationStudy) -> None:
    assert [v.level for v in study.vary_width([2, 8])] == ["2", "4", "8"]
    small = study.vary_amount([10])
    assert [(v.level, v.reference) for v in small] == [("10", "40"), ("40", "40")]
    with pytest.raises(ValueError, match=r"amounts \[41\]: only 40 problems are recorded"):
        study.vary_amount([41])
    shallow, full = study.vary_depth([0, 2])
    assert (shallow.level, full.level, full.reference) == ("1", "3", "3")
    assert not shallow.test.allowed[shallow.test.node_depth > 0].all(axis=1).any()
    assert full.test.n_nodes == study.test.n_nodes
    free, one_way = study.vary_mode()
    assert free.test is study.test
    assert one_way.test.n_nodes < study.test.n_nodes
    (dear,) = study.vary_price_ratio([30.0])
    assert dear.lens.weights[1, 2] / dear.lens.weights[0, 2] == pytest.approx(30.0)
    assert dear.reference is None


def test_trainers_side_by_side_in_one_frame(study: AblationStudy) -> None:
    trees = FittedConfig(
        regression=TreesRegression(n_trees=3, min_samples_leaf=2), n_rounds=1, n_folds=2
    )
    variants = [
        *study.vary_trainer(
            {
                "exact": (train_exact, FAST),
                "trees": (train_fitted, trees),
                "none": (make_untrained, FAST),
            }
        ),
        *study.vary_mode(),
    ]
    assert isinstance(variants[1].seeds[0], EnsemblePolicy)
    assert all(isinstance(v.policy, RankedPolicy) for v in variants)
    frame = evaluate_variants(variants, n_resamples=20).set_index(["factor", "level"])
    assert frame.loc[("trainer", "exact"), "verdict"] == "reference"
    # the same problems and prices, so that modes are compared in pairs too
    assert frame.loc[("mode", "one-way"), "verdict"] != "not compared"
    assert frame["value"].notna().all()
    assert (frame["n_seeds"] == 2).all()


def test_a_later_reference_depth_is_compared(study: AblationStudy) -> None:
    frame = evaluate_variants(study.vary_depth([0, 2]), n_resamples=20)
    assert frame["verdict"].tolist()[1] == "reference"
    assert frame.loc[0, "difference"] == pytest.approx(frame["value"][0] - frame["value"][1])


def test_hindsight_grows_whatever_the_policies_are(study: AblationStudy, toy_lens: Lens) -> None:
    policies = [make_untrained(study.train, FAST, toy_lens, "before", seed) for seed in range(6)]
    areas = compute_hindsight_areas(policies, study.test, toy_lens)
    assert areas.shape == (6,)
    assert (np.diff(areas) >= -1e-12).all()
    assert areas[0] >= 0.0
    fair = evaluate_variants(
        [Variant("x", "y", policies[0], study.test, study.test, toy_lens)], n_resamples=5
    )
    assert fair.loc[0, "value"] <= areas[0] + 1e-9

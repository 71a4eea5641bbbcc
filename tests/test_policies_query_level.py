"""One score for each problem, by hand, and no look at anything but the problem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lattice_cases import build_scripted

from routerlib import policies
from routerlib.costs import Lens
from routerlib.features import FIELDS, PROTOCOLS, Observations, Standardiser
from routerlib.lattice import Lattice, follow_thresholds
from routerlib.policies import QueryLevelPolicy

NAMES = ("problem_n_words", "problem_n_numbers")


def make_policy(
    coefficients: tuple[float, ...] = (np.log(3.0), 1.0), intercept: float = 0.0
) -> QueryLevelPolicy:
    """Words have mean 40 and scale 10, numbers mean 3 and scale 1."""
    standardiser = Standardiser(NAMES, np.array([40.0, 3.0]), np.array([10.0, 1.0]))
    return QueryLevelPolicy(standardiser, np.array(coefficients), intercept, config={"seed": 4})


def observe(rows: list[list[float]]) -> Observations:
    return Observations(NAMES, np.array(rows), "before")


def fit_policy(lattice: Lattice, seed: int = 0) -> QueryLevelPolicy:
    """All problem fields of a lattice with random coefficients."""
    seen = lattice.observe("before")
    names = tuple(name for name in seen.names if FIELDS[name].group == "problem")
    standardiser = Standardiser.fit(seen.take(names))
    rng = np.random.default_rng(seed)
    return QueryLevelPolicy(standardiser, rng.normal(size=len(names)), 0.3)


def test_scores_by_hand() -> None:
    found = make_policy().probabilities(observe([[40, 3], [50, 3], [30, 3], [np.nan, 3]]))
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.25, 0.75], [0.75, 0.25], [0.5, 0.5]])
    shifted = make_policy(intercept=-np.log(4.0)).probabilities(observe([[40, 3]]))
    np.testing.assert_allclose(shifted[:, 1], 0.2)
    assert make_policy().name == "query-level classifier"
    assert make_policy().protocol == "before"


@given(arrays(np.float64, (6, 2), elements=st.floats(-1e6, 1e6)))
def test_probabilities_are_probabilities(values: np.ndarray) -> None:
    observations = Observations(NAMES, values, "before")
    found = make_policy((1.0, -50.0)).probabilities(observations)
    assert found.min() >= 0.0
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert policies.decide(found, 0.0).all()
    assert not policies.decide(found, policies.NEVER_LARGE).any()


@pytest.mark.parametrize("seed", range(3))
def test_score_is_the_same_at_every_node_of_a_problem(seed: int) -> None:
    lattice = build_scripted(seed, n_problems=7, depth=3)
    scores = fit_policy(lattice, seed).probabilities(lattice.observe("before"))[:, 1]
    np.testing.assert_array_equal(scores, scores[lattice.node_problem])
    assert len(np.unique(scores)) == 7


def test_threshold_sends_whole_problems(toy_lens: Lens) -> None:
    lattice = build_scripted(1, n_problems=7, depth=3)
    scores = fit_policy(lattice).probabilities(lattice.observe("before"))[:, 1]
    cuts = np.concatenate((np.unique(scores), [np.inf]))
    swept = follow_thresholds(lattice, scores, cuts, toy_lens, "before")
    ends = follow_thresholds(
        lattice, np.zeros(lattice.n_nodes), np.array([np.inf, -np.inf]), toy_lens, "before"
    )
    to_large = (scores[:7] >= cuts[:, None]).astype(np.intp)
    problems = np.arange(7)
    np.testing.assert_array_equal(swept.accuracy, ends.accuracy[to_large, problems])
    np.testing.assert_array_equal(swept.cost, ends.cost[to_large, problems])
    assert to_large.sum(axis=1).tolist() == [7, 6, 5, 4, 3, 2, 1, 0]


def test_all_other_fields_permuted_change_nothing() -> None:
    lattice = build_scripted(2, n_problems=4)
    policy, rng = fit_policy(lattice), np.random.default_rng(0)
    fields = {
        name: values if FIELDS[name].group == "problem" else rng.permutation(values)
        for name, values in lattice.fields.items()
    }
    shuffled = replace(lattice, fields=fields)
    for protocol in PROTOCOLS:
        np.testing.assert_array_equal(
            policy.probabilities(shuffled.observe(protocol)),
            policy.probabilities(lattice.observe("before")),
        )


def test_fields_that_change_within_a_problem_are_refused() -> None:
    standardiser = Standardiser(("problem_n_words", "depth"), np.zeros(2), np.ones(2))
    with pytest.raises(ValueError, match="depth may change within a problem"):
        QueryLevelPolicy(standardiser, np.zeros(2), 0.0)
    with pytest.raises(ValueError, match=r"shape \(3,\) for 2 fields"):
        make_policy((1.0, 2.0, 3.0))


@pytest.mark.parametrize("ranked", [False, True])
def test_policy_file_round_trip(ranked: bool, tmp_path: Path) -> None:
    inner = make_policy(intercept=0.1)
    observations = observe([[10, 1], [55, 4], [40, 2]])
    policy = policies.rank_policy(inner, observations, np.ones(3)) if ranked else inner
    policies.save_policy(policy, tmp_path / "policy.pt")
    loaded = policies.load_policy(tmp_path / "policy.pt")
    assert type(loaded) is type(policy)
    assert (loaded.name, loaded.protocol) == (policy.name, policy.protocol)
    np.testing.assert_array_equal(
        loaded.probabilities(observations), policy.probabilities(observations)
    )
    if isinstance(loaded, QueryLevelPolicy):
        assert (loaded.intercept, loaded.config) == (0.1, {"seed": 4})
        assert loaded.standardiser.names == NAMES

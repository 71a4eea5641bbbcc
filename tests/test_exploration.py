"""Shares of states by hand, and intervals that widen when states come in clusters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from routerlib.exploration import compute_state_means


def make_states(states_per_problem: int) -> pd.DataFrame:
    """400 states; half of the problems are right in all of theirs, so the share is 0.5."""
    problem = np.arange(400) // states_per_problem
    return pd.DataFrame({"problem_id": problem, "depth": 1, "right": problem % 2 == 0})


def test_mean_of_each_group_by_hand() -> None:
    states = pd.DataFrame(
        {
            "problem_id": ["a", "a", "a", "b", "b"],
            "author": ["small", "small", "large", "small", "large"],
            "depth": [0, 0, 0, 0, 1],
            "gain": [1, -1, 1, 1, 0],
        }
    )
    frame = compute_state_means(states, ["author", "depth"], "gain", np.random.default_rng(0))
    assert frame[["author", "depth", "value", "n"]].values.tolist() == [
        ["large", 0, 1.0, 1],
        ["large", 1, 0.0, 1],
        ["small", 0, pytest.approx(1 / 3), 3],
    ]
    assert (frame["low"] <= frame["value"]).all()
    assert (frame["high"] >= frame["value"]).all()


def test_states_of_one_problem_count_as_one_observation() -> None:
    widths = []
    for states_per_problem in (1, 20):
        states = make_states(states_per_problem)
        row = compute_state_means(states, ["depth"], "right", np.random.default_rng(1)).iloc[0]
        assert row["value"] == 0.5
        assert row["n"] == 400
        widths.append(row["high"] - row["low"])
    assert widths[0] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(400), rel=0.1)
    assert widths[1] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(20), rel=0.15)


def test_same_seed_same_interval() -> None:
    first, again, other = (
        compute_state_means(make_states(20), ["depth"], "right", np.random.default_rng(seed))
        for seed in (3, 3, 4)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)

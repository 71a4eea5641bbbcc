"""TRIM's policies by hand: the reward's column, the look-up at an observation, what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from routerlib.errors import HiddenFieldError
from routerlib.features import Observations, Standardiser
from routerlib.policies import (
    AggregatedRewardPolicy,
    BeliefPolicy,
    MLPPolicy,
    ProcessRewardPolicy,
    load_policy,
    save_policy,
)
from routerlib.policies.network import build_network
from routerlib.policies.trim import REWARD, add_reward, count_large, get_path_score

NAMES = ("depth", "share_large", "min_mean_logprob", "draft_mean_logprob")
VALUES = np.array(
    [
        [0.0, 0.0, 0.0, -0.2],
        [1.0, 0.0, -0.5, -1.0],
        [1.0, 1.0, -0.1, -1.0],
        [7.0, 3 / 7, np.nan, 0.0],
    ]
)
SEEN = Observations(NAMES, VALUES, "draft")


def make_reward() -> ProcessRewardPolicy:
    """Log-odds of the reward: 4 x draft_mean_logprob + 2."""
    standardiser = Standardiser(("draft_mean_logprob",), np.zeros(1), np.full(1, 0.5))
    return ProcessRewardPolicy(standardiser, np.array([2.0]), 2.0)


def make_belief() -> BeliefPolicy:
    """Depths 0 and 1, two bins of the path at -0.3, three of the reward at -1 and 1."""
    advantage = np.arange(24.0).reshape(2, 2, 2, 3) / 10.0
    edges = np.array([-0.3]), np.array([-1.0, 1.0])
    return BeliefPolicy(make_reward(), *edges, advantage, temperature=0.5, config={"seed": 1})


def make_aggregated() -> AggregatedRewardPolicy:
    names = (REWARD, "depth")
    standardiser = Standardiser(names, np.array([0.0, 1.0]), np.ones(2))
    network = build_network(2, 2, 4, "tanh", torch.Generator().manual_seed(0))
    network.requires_grad_(False)
    inner = MLPPolicy("TRIM-Agg", "draft", standardiser, network, 4, "tanh", {"seed": 1})
    return AggregatedRewardPolicy(make_reward(), inner)


def test_the_column_of_the_reward_holds_log_odds() -> None:
    seen = add_reward(make_reward(), SEEN)
    assert seen.names == (*NAMES, REWARD)
    np.testing.assert_allclose(seen.column(REWARD), [1.2, -2.0, -2.0, 2.0])
    np.testing.assert_array_equal(seen.column("depth"), SEEN.column("depth"))


def test_a_path_without_log_probabilities_scores_nothing() -> None:
    np.testing.assert_array_equal(get_path_score(SEEN), [0.0, -0.5, -0.1, 0.0])
    np.testing.assert_array_equal(get_path_score(SEEN.take(("depth",))), np.zeros(4))


def test_the_steps_by_the_large_model_are_counted() -> None:
    np.testing.assert_array_equal(count_large(SEEN), [0, 0, 1, 3])
    np.testing.assert_array_equal(count_large(SEEN.take(("depth",))), np.zeros(4))


def test_the_advantage_is_looked_up() -> None:
    # By depth, large steps, path bin, reward bin: 0, 0, 1, 2 is 5; 1, 0, 0, 0 is 12; 1, 1, 1, 0 is
    # 21; and below D as at D: 1, 1, 1, 2 is 23.
    large = make_belief().probabilities(SEEN)
    expected = 1.0 / (1.0 + np.exp(-np.array([0.5, 1.2, 2.1, 2.3]) / 0.5))
    np.testing.assert_allclose(large[:, 1], expected)
    np.testing.assert_allclose(large.sum(axis=1), 1.0)


def test_a_table_of_another_size_is_refused() -> None:
    policy = make_belief()
    with pytest.raises(ValueError, match=r"shape \(2, 2, 2, 2\); the edges ask for .*, 2, 3\)"):
        replace(policy, advantage=policy.advantage[..., :2])


def test_the_network_sees_the_reward_and_the_path() -> None:
    policy = make_aggregated()
    assert (policy.name, policy.protocol, policy.config) == ("TRIM-Agg", "draft", {"seed": 1})
    inputs = torch.tensor([[1.2, -1.0], [-2.0, 0.0], [-2.0, 0.0], [2.0, 6.0]], dtype=torch.float64)
    expected = torch.softmax(policy.network.network(inputs), dim=1)
    np.testing.assert_allclose(policy.probabilities(SEEN), expected)


@pytest.mark.parametrize("make", [make_belief, make_aggregated])
def test_they_need_the_draft(make: type[BeliefPolicy]) -> None:
    with pytest.raises(HiddenFieldError, match="hides field 'draft_mean_logprob'"):
        make().probabilities(Observations(NAMES[:3], VALUES[:, :3], "probe"))


@pytest.mark.parametrize("make", [make_belief, make_aggregated])
def test_a_policy_file_holds_them(make: type[BeliefPolicy], tmp_path: Path) -> None:
    policy = make()
    save_policy(policy, tmp_path / "policy.pt")
    again = load_policy(tmp_path / "policy.pt")
    assert isinstance(again, type(policy))
    assert (again.name, again.protocol, again.config) == (policy.name, "draft", {"seed": 1})
    np.testing.assert_array_equal(again.probabilities(SEEN), policy.probabilities(SEEN))

"""V-trace by hand, and against the exact values of every path of a lattice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routerlib.costs import Lens
from routerlib.lattice import Lattice
from routerlib.train.rollouts import Rollouts, sample_rollouts
from routerlib.train.tree import build_tree, compute_action_values
from routerlib.train.vtrace import compute_vtrace


def test_by_hand() -> None:
    """Two rollouts, the second of which ends after two steps.

    First: ratios 2, 0.5, 1 are clipped to 1, 0.5, 1; V = 0.5, 0.4, 0.3; the reward 1 comes last.
    delta_2 = 1 (1 - 0.3) = 0.7; delta_1 = 0.5 (0.3 - 0.4) = -0.05; delta_0 = 0.4 - 0.5 = -0.1.
    v_2 = 0.3 + 0.7 = 1; v_1 = 0.4 - 0.05 + 0.5 * 0.7 = 0.7; v_0 = 0.5 - 0.1 + 1 (0.7 - 0.4) = 0.7.
    """
    trace = compute_vtrace(
        rewards=np.array([[0.0, 0.0, 1.0], [0.0, -2.0, 9.0]]),
        values=np.array([[0.5, 0.4, 0.3], [1.0, 3.0, 9.0]]),
        ratios=np.array([[2.0, 0.5, 1.0], [0.5, 1.0, 9.0]]),
        taken=np.array([[True, True, True], [True, True, False]]),
    )
    # Second: delta_1 = -2 - 3 = -5, v_1 = -2; delta_0 = 0.5 (3 - 1) = 1; v_0 = 1 + 1 - 0.5 * 5.
    np.testing.assert_allclose(trace.targets, [[0.7, 0.7, 1.0], [-0.5, -2.0, 0.0]])
    np.testing.assert_allclose(trace.advantages, [[0.2, 0.6, 0.7], [-3.0, -5.0, 0.0]])
    np.testing.assert_allclose(trace.rho, [[1.0, 0.5, 1.0], [0.5, 1.0, 0.0]])


def test_discount_by_hand() -> None:
    trace = compute_vtrace(
        np.array([0.0, 1.0]), np.array([0.5, 0.4]), np.ones(2), np.ones(2, bool), gamma=0.5
    )
    np.testing.assert_allclose(trace.targets, [0.5, 1.0])
    np.testing.assert_allclose(trace.advantages, [0.0, 0.6])


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_on_policy_targets_are_returns_whatever_the_critic(length: int, seed: int) -> None:
    noise = np.random.default_rng(seed)
    rewards, values = noise.normal(size=(2, 3, length))
    taken = np.arange(length) < noise.integers(1, length + 1, size=(3, 1))
    trace = compute_vtrace(rewards, values, np.ones_like(rewards), taken)
    returns = np.cumsum((rewards * taken)[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(trace.targets, returns, atol=1e-12)


def test_clips_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="rho_bar >= c_bar"):
        compute_vtrace(*np.ones((3, 2)), np.ones(2, bool), rho_bar=0.5, c_bar=1.0)


# --- on a lattice --------------------------------------------------------------------------------


@pytest.fixture
def lattice(make_toy_lattice: Callable[..., Lattice]) -> Lattice:
    """Two problems, two decisions before the last, uneven outcomes."""
    return make_toy_lattice(lambda kind, actions: (sum(actions) + kind) % 3 != 1, [0, 1], depth=2)


def draw_policy(lattice: Lattice, seed: int) -> np.ndarray:
    large = np.random.default_rng(seed).uniform(0.1, 0.9, lattice.n_nodes)
    return np.stack((1.0 - large, large), axis=1)


def list_all_rollouts(lattice: Lattice, behaviour: np.ndarray, lens: Lens) -> Rollouts:
    """Every path of every problem once: a walk that draws each action in turn."""
    found = []
    for path in range(2 ** (lattice.depth + 1)):
        forced = np.zeros((lattice.n_nodes, 2))
        forced[np.arange(lattice.n_nodes), path >> lattice.node_depth & 1] = 1.0
        found.append(
            sample_rollouts(lattice, forced, lens, "before", generator=np.random.default_rng(0))
        )
    row, action, reward, cost = (
        np.concatenate([getattr(part, name) for part in found])
        for name in ("row", "action", "reward", "cost")
    )
    return Rollouts(
        found[0].observations, found[0].allowed, row, action, behaviour[row, action], reward, cost
    )


def compute_exact(lattice: Lattice, lens: Lens, decisions: np.ndarray, name: str) -> np.ndarray:
    tree = build_tree(lattice, lens, "before")
    policy = torch.from_numpy(decisions)
    return (policy * compute_action_values(tree, policy, getattr(tree, name))).sum(dim=1).numpy()


@pytest.mark.parametrize("name", ["reward", "cost"])
@pytest.mark.parametrize("rho_bar", [1.0, 1e9])
@pytest.mark.parametrize("on_policy", [True, False])
def test_expected_targets_are_exact_values(
    lattice: Lattice, toy_lens: Lens, name: str, rho_bar: float, on_policy: bool
) -> None:
    """In the mean over all paths, with the exact critic of the policy that V-trace aims at.

    That is pi itself when nothing is clipped, and else min(rho_bar mu, pi), normalised (eq. 3).
    """
    policy = draw_policy(lattice, 1)
    behaviour = policy if on_policy else draw_policy(lattice, 2)
    aim = np.minimum(rho_bar * behaviour, policy)
    aim /= aim.sum(axis=1, keepdims=True)
    values = compute_exact(lattice, toy_lens, aim, name)
    rollouts = list_all_rollouts(lattice, behaviour, toy_lens)
    probability = rollouts.behaviour.prod(axis=1)
    trace = compute_vtrace(
        getattr(rollouts, name),
        values[rollouts.row],
        policy[rollouts.row, rollouts.action] / rollouts.behaviour,
        rollouts.taken,
        rho_bar=rho_bar,
    )
    for problem in range(2):
        own = rollouts.row[:, 0] == problem
        mean = np.average(trace.targets[own, 0], weights=probability[own])
        assert mean == pytest.approx(values[problem], abs=1e-12)


def test_deterministic_policy_with_exact_critic(lattice: Lattice, toy_lens: Lens) -> None:
    """Nothing is left to chance, so every single target is the exact value."""
    decisions = np.eye(2)[np.random.default_rng(0).integers(0, 2, lattice.n_nodes)]
    rollouts = sample_rollouts(
        lattice, decisions, toy_lens, "before", generator=np.random.default_rng(0)
    )
    values = compute_exact(lattice, toy_lens, decisions, "cost")[rollouts.row]
    trace = compute_vtrace(rollouts.cost, values, np.ones_like(values), rollouts.taken)
    np.testing.assert_allclose(trace.targets, values)
    np.testing.assert_allclose(trace.advantages, 0.0, atol=1e-12)


def test_sampled_off_policy_targets_converge(lattice: Lattice, toy_lens: Lens) -> None:
    policy, behaviour = draw_policy(lattice, 1), draw_policy(lattice, 2)
    rollouts = sample_rollouts(
        lattice,
        behaviour,
        toy_lens,
        "before",
        generator=np.random.default_rng(3),
        n_per_problem=20_000,
    )
    values = compute_exact(lattice, toy_lens, policy, "reward")
    trace = compute_vtrace(
        rollouts.reward,
        np.zeros_like(rollouts.reward),  # no critic at all
        policy[rollouts.row, rollouts.action] / rollouts.behaviour,
        rollouts.taken,
        rho_bar=1e9,
        c_bar=1e9,
    )
    for problem in range(2):
        targets = trace.targets[rollouts.row[:, 0] == problem, 0]
        error = targets.std() / np.sqrt(len(targets))
        assert abs(targets.mean() - values[problem]) < 4.0 * error
        assert error < 0.02

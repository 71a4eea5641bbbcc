"""TRIM-POMDP by hand: hidden states, frequencies, beliefs, values, and a rule that it must find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lattice_cases import build_hand_lattice, build_scripted

from routerlib.costs import Lens
from routerlib.lattice import Lattice, evaluate_probabilities, restrict_one_way
from routerlib.policies import decide, load_policy, save_policy
from routerlib.train import TrimPOMDPConfig, train_process_reward, train_trim_pomdp
from routerlib.train.trim_pomdp import (
    LOST,
    RIGHT,
    SAVABLE,
    HiddenProcess,
    compute_beliefs,
    count_process,
    cut_quantiles,
    label_states,
    list_beliefs,
    look_ahead,
    solve_process,
)


def make_trade(seed: int, n_problems: int, depth: int) -> Lattice:
    """A scripted lattice where the large model ends right more often than the small one."""
    lattice = build_scripted(seed, n_problems=n_problems, depth=depth)
    outcome = lattice.outcome.copy()
    lucky = np.random.default_rng(seed).random(lattice.n_nodes) < 0.5
    outcome[lucky & np.isfinite(outcome[:, 1]), 1] = 1.0
    return replace(lattice, outcome=outcome)


def draw_process(seed: int, n_depths: int = 3, n_observations: int = 4) -> HiddenProcess:
    rng = np.random.default_rng(seed)
    ending = rng.dirichlet(np.ones(4), size=(n_depths, 2, 3))  # three states, or the end
    ending[-1, :, :, :3] = 0.0
    return HiddenProcess(
        rng.dirichlet(np.ones(3), size=(n_depths, n_depths)),
        ending[..., :3],
        rng.normal(size=(n_depths, 2, 3)),
        rng.dirichlet(np.ones(n_observations), size=(n_depths, 3)),
    )


def compute_exact(process: HiddenProcess, depth: int, belief: np.ndarray) -> np.ndarray:
    """Value of each action at a belief, by trying every future, one Bayes step at a time."""
    values = []
    for action in range(2):
        value = float(belief @ process.gain[depth, action])
        if depth + 1 < len(process.prior):
            ahead = belief @ process.transition[depth, action]
            for seen in range(process.likelihood.shape[2]):
                joint = ahead * process.likelihood[depth + 1, :, seen]
                if joint.sum() > 0.0:
                    following = compute_exact(process, depth + 1, joint / joint.sum())
                    value += joint.sum() * following.max()
        values.append(value)
    return np.array(values)


def test_hidden_states_by_hand() -> None:
    # The small model alone is right after B and BC, the large one everywhere but on q.
    lattice = build_hand_lattice()
    states = dict(zip(lattice.node_state.tolist(), label_states(lattice).tolist(), strict=True))
    saved, lost = ("root", "A", "AC"), ("q.root",)
    assert states == {"B": RIGHT, "BC": RIGHT} | dict.fromkeys(saved, SAVABLE) | {lost[0]: LOST}


def test_frequencies_by_hand() -> None:
    lattice = build_hand_lattice()
    states = label_states(lattice)
    observed = np.array([{"root": 1, "A": 1}.get(state, 0) for state in lattice.node_state])
    price = np.tile([0.0, 0.25], (lattice.n_nodes, 1))
    n_large = np.array([{"B": 1, "AC": 1, "BC": 1}.get(state, 0) for state in lattice.node_state])
    process = count_process(
        lattice, states, observed, n_large, n_observations=2, price=price, smoothing=1.0
    )
    root, either = [0, 0.5, 0.5], [0.5, 0.5, 0]
    after_one = [[0, 1, 0], [1, 0, 0], either]  # A, B, and nobody after two steps by large
    np.testing.assert_array_equal(process.prior, [[root] * 3, after_one, [either] * 3])
    expected = np.zeros((3, 2, 3, 3))
    expected[0, 0, SAVABLE, SAVABLE] = 1.0  # root, small: A
    expected[0, 1, SAVABLE, RIGHT] = 1.0  # root, large: B
    expected[1, 0, RIGHT, RIGHT] = 1.0  # B, small: BC
    expected[1, 1, SAVABLE, SAVABLE] = 1.0  # A, large: AC
    np.testing.assert_array_equal(process.transition, expected)
    gain = np.zeros((3, 2, 3))
    gain[0, 1, [SAVABLE, LOST]] = -0.25  # q ends at once, wrong
    gain[1, 1] = [0.75, -0.25, 0.0]  # B, large: a right end; A goes on; nobody is lost at depth 1
    gain[2] = [[1.0, 0.0, 0.0], [0.75, 0.75, 0.0]]
    np.testing.assert_allclose(process.gain, gain)
    # one root in each state, of observations 1 and 0; with one added to each count
    np.testing.assert_allclose(
        process.likelihood[0], [[1 / 2, 1 / 2], [1 / 3, 2 / 3], [2 / 3, 1 / 3]]
    )


def test_beliefs_by_hand() -> None:
    # 0.5 x 0.8, 0.3 x 0.2, 0.2 x 0.5 of the first observation: 0.40, 0.06, 0.10 of 0.56
    likelihood = np.array([[0.8, 0.2], [0.2, 0.8], [0.5, 0.5]])
    beliefs = compute_beliefs(np.array([0.5, 0.3, 0.2]), likelihood)
    np.testing.assert_allclose(beliefs[0], np.array([40, 6, 10]) / 56)
    np.testing.assert_allclose(beliefs[1], np.array([10, 24, 10]) / 44)


def test_the_grid_holds_every_belief_once() -> None:
    grid = list_beliefs(3, 4)
    assert grid.shape == (15, 3)
    assert len(np.unique(grid, axis=0)) == 15
    np.testing.assert_allclose(grid.sum(axis=1), 1.0)
    assert grid.min() == 0.0


@given(st.integers(0, 10_000))
def test_values_are_those_of_every_future(seed: int) -> None:
    """A lower bound of the exact value, near it, and exact one step before the end."""
    process = draw_process(seed)
    solved = solve_process(process, list_beliefs(3, 10))
    assert len(solved) == 3
    for belief in np.random.default_rng(seed).dirichlet(np.ones(3), size=2):
        last = look_ahead(process, 1, process.gain[2], belief[None])[0] @ belief
        np.testing.assert_allclose(last, compute_exact(process, 1, belief))
        exact = compute_exact(process, 0, belief)
        found = look_ahead(process, 0, solved[1], belief[None])[0] @ belief
        assert (found <= exact + 1e-12).all()
        assert (found >= exact - 0.05).all()


def test_information_is_worth_something() -> None:
    """Two depths; at the second the observation tells the state, which decides who is right:
    a value of 1 - price when it is told, and 1/2 at best when it is not."""
    prior = np.tile([0.5, 0.5, 0.0], (2, 2, 1))
    transition = np.zeros((2, 2, 3, 3))
    transition[0] = np.eye(3)
    gain = np.zeros((2, 2, 3))
    gain[1] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    told = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    for likelihood, value in ((told, 1.0), (np.full((3, 2), 0.5), 0.5)):
        process = HiddenProcess(prior, transition, gain, np.stack((likelihood, likelihood)))
        alphas = solve_process(process, list_beliefs(3, 10))[0]
        assert (alphas @ prior[0, 0]).max() == pytest.approx(value)


def test_it_finds_who_needs_the_large_model(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    """Large at the roots of kind 1 only: later on, it costs 30 more and changes nothing."""
    policy = train_trim_pomdp(first_step_lattice, TrimPOMDPConfig(), toy_lens)
    price = 30 * 0.2 / 90  # always large gains 0.2 for 90 more, drafts included
    np.testing.assert_allclose(policy.advantage[1:], -price)
    actions = decide(policy.probabilities(first_step_lattice.observe("draft")), 0.5)
    values = evaluate_probabilities(first_step_lattice, np.eye(2)[actions], toy_lens, "draft")
    assert values.accuracy.mean() > 0.95
    assert values.cost.mean() == pytest.approx(48.0, abs=1.0)


CHANGES = {
    "n_reward_bins": 3,
    "n_path_bins": 1,
    "grid_steps": 1,
    "smoothing": 20.0,
    "temperature": 0.5,
    "exchange_rate_factor": 2.0,
}


def test_every_setting_matters(toy_lens: Lens) -> None:
    assert set(CHANGES) == {field.name for field in fields(TrimPOMDPConfig)}
    lattice = make_trade(4, n_problems=40, depth=3)
    reward = train_process_reward(lattice)
    seen = lattice.observe("draft")

    def train(config: TrimPOMDPConfig) -> np.ndarray:
        return train_trim_pomdp(lattice, config, toy_lens, reward=reward).probabilities(seen)

    base = train(TrimPOMDPConfig())
    np.testing.assert_array_equal(base, train(TrimPOMDPConfig()))
    for name, value in CHANGES.items():
        changed = train(replace(TrimPOMDPConfig(), **{name: value}))  # type: ignore[arg-type]
        assert not np.array_equal(base, changed), name


def test_a_depth_that_no_problem_reached_is_left_out(toy_lens: Lens) -> None:
    lattice = make_trade(3, n_problems=30, depth=3)
    config = TrimPOMDPConfig(grid_steps=4)
    whole = train_trim_pomdp(lattice, config, toy_lens)
    offsets = np.append(lattice.level_offsets, [lattice.n_nodes] * 2)
    deeper = replace(lattice, depth=lattice.depth + 2, level_offsets=offsets)
    longer = train_trim_pomdp(deeper, config, toy_lens)
    np.testing.assert_array_equal(longer.advantage, whole.advantage)
    assert np.isfinite(longer.advantage).all()


def test_quantiles_have_equal_weight() -> None:
    values, weights = np.array([3.0, 1.0, 2.0, 4.0]), np.array([1.0, 1.0, 1.0, 3.0])
    np.testing.assert_array_equal(cut_quantiles(values, weights, 2), [3.0])
    np.testing.assert_array_equal(cut_quantiles(np.ones(4), weights, 5), [1.0])
    assert (
        cut_quantiles(values, weights, 1).shape == cut_quantiles(values[:0], weights[:0], 3).shape
    )


def test_a_policy_file_holds_it(
    first_step_lattice: Lattice, toy_lens: Lens, tmp_path: Path
) -> None:
    policy = train_trim_pomdp(first_step_lattice, TrimPOMDPConfig(), toy_lens)
    save_policy(policy, tmp_path / "belief.pt")
    again = load_policy(tmp_path / "belief.pt")
    assert (again.name, again.config) == ("TRIM-POMDP", policy.config)
    seen = first_step_lattice.observe("draft")
    np.testing.assert_array_equal(again.probabilities(seen), policy.probabilities(seen))


def test_what_it_refuses(
    first_step_lattice: Lattice, toy_lens: Lens, make_toy_lattice: Callable[..., Lattice]
) -> None:
    config = TrimPOMDPConfig()
    with pytest.raises(ValueError, match="train on the whole lattice"):
        train_trim_pomdp(restrict_one_way(first_step_lattice), config, toy_lens)
    alike = make_toy_lattice(lambda kind, actions: kind == 1, [0, 1, 1], 1)
    with pytest.raises(ValueError, match="there is nothing to trade"):
        train_trim_pomdp(alike, config, toy_lens)
    for name in ("n_reward_bins", "n_path_bins", "grid_steps"):
        with pytest.raises(ValueError, match=f"{name} is 0; give a whole number >= 1"):
            replace(config, **{name: 0})  # type: ignore[arg-type]
    for name in ("smoothing", "temperature", "exchange_rate_factor"):
        with pytest.raises(ValueError, match="give a number > 0"):
            replace(config, **{name: 0.0})  # type: ignore[arg-type]

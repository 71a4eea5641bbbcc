"""TRIM-Agg: its environment against the replay, the copied network, a rule that it must find."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lattice_cases import build_hand_lattice, build_scripted
from stable_baselines3 import PPO

from routerlib.costs import Lens
from routerlib.env.table import DecisionTable, build_table
from routerlib.features import Standardiser
from routerlib.lattice import Lattice, evaluate_probabilities, restrict_one_way
from routerlib.policies import decide, load_policy, save_policy
from routerlib.policies.trim import REWARD
from routerlib.train import PPOConfig, TrimAggConfig, train_process_reward, train_trim_agg
from routerlib.train.ppo import train_ppo
from routerlib.train.ppo_env import LatticeVecEnv

SMALL = PPOConfig(
    width=8, n_decisions=256, n_steps=8, n_envs=16, n_epochs=2, batch_size=32, learning_rate=0.01
)


def make_trade(seed: int, n_problems: int, depth: int) -> Lattice:
    """A scripted lattice where the large model ends right more often than the small one."""
    lattice = build_scripted(seed, n_problems=n_problems, depth=depth)
    outcome = lattice.outcome.copy()
    lucky = np.random.default_rng(seed).random(lattice.n_nodes) < 0.5
    outcome[lucky & np.isfinite(outcome[:, 1]), 1] = 1.0
    return replace(lattice, outcome=outcome)


def make_table(lattice: Lattice, lens: Lens) -> DecisionTable:
    names = ("problem_n_words", "depth")
    standardiser = Standardiser.fit(lattice.observe("draft").take(names))
    return build_table(lattice, lens, "draft", standardiser)


@pytest.mark.parametrize("action", [0, 1])
def test_an_epoch_pays_what_the_replay_says(toy_lens: Lens, action: int) -> None:
    lattice = build_scripted(2, n_problems=12, depth=2)
    always = np.tile(np.eye(2)[action], (lattice.n_nodes, 1))
    expected = evaluate_probabilities(lattice, always, toy_lens, "draft")
    env = LatticeVecEnv(make_table(lattice, toy_lens), 1, cost_weight=0.01)
    env.seed(3)
    env.reset()
    paid, n_ended = 0.0, 0
    while n_ended < 12:
        _, rewards, ended, _ = env.step(np.array([action]))
        paid += float(rewards[0])
        n_ended += int(ended[0])
    total = expected.accuracy.sum() - 0.01 * expected.cost.sum()
    assert paid == pytest.approx(total, rel=1e-5)


def test_observations_are_of_the_nodes_that_actions_lead_to(toy_lens: Lens) -> None:
    lattice = build_scripted(2, n_problems=5, depth=2, end_share=0.0)
    table = make_table(lattice, toy_lens)
    env = LatticeVecEnv(table, 4, cost_weight=0.0)
    roots = env.reset()
    assert {tuple(row) for row in roots} <= {tuple(row) for row in table.observations[:5]}
    depth = table.observations[lattice.n_problems, 1]  # standardised, of any node at depth 1
    seen, _, ended, _ = env.step(np.array([0, 1, 0, 1]))
    np.testing.assert_array_equal(seen[:, 0], roots[:, 0])  # the same problems
    np.testing.assert_array_equal(seen[:, 1], depth)
    assert not ended.any()
    with pytest.raises(AttributeError, match="no attribute 'spec'"):
        env.get_attr("spec")


def test_the_network_is_the_one_that_was_trained(
    first_step_lattice: Lattice, toy_lens: Lens, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[PPO] = []
    learn = PPO.learn

    def keep(self: PPO, *args: Any, **more: Any) -> PPO:
        trained.append(self)
        return learn(self, *args, **more)

    monkeypatch.setattr(PPO, "learn", keep)
    table = make_table(first_step_lattice, toy_lens)
    network = train_ppo(table, SMALL, 0.01, seed=0)
    rows = torch.from_numpy(table.observations)
    with torch.no_grad():
        theirs = trained[0].policy.get_distribution(rows).distribution.probs
        ours = torch.softmax(network(rows.double()), dim=1)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_it_finds_who_needs_the_large_model(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    """Large at the roots of kind 1 and nowhere else: always small is right on 0.4, large on 0.6."""
    ppo = replace(SMALL, n_decisions=6_144, n_epochs=10)
    policy = train_trim_agg(first_step_lattice, TrimAggConfig(ppo), toy_lens, seed=0)
    actions = decide(policy.probabilities(first_step_lattice.observe("draft")), 0.5)
    values = evaluate_probabilities(first_step_lattice, np.eye(2)[actions], toy_lens, "draft")
    assert values.accuracy.mean() > 0.95
    assert values.cost.mean() < 60.0  # the best rule pays 48, always large 120


def test_the_seed_decides_and_no_other_generator_is_touched(
    first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    table = make_table(first_step_lattice, toy_lens)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    n_threads = torch.get_num_threads()
    one, again, other = (train_ppo(table, SMALL, 0.01, seed) for seed in (1, 1, 2))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after
    assert torch.get_num_threads() == n_threads
    weights = [torch.nn.utils.parameters_to_vector(x.parameters()) for x in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


CHANGES = {
    "width": 4,
    "n_decisions": 128,
    "n_steps": 4,
    "n_envs": 8,
    "n_epochs": 1,
    "batch_size": 64,
    "learning_rate": 0.02,
    "clip_range": 0.01,
    "gae_lambda": 0.5,
    "entropy_bonus": 0.5,
}


def test_every_setting_of_ppo_matters(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    assert set(CHANGES) == {field.name for field in fields(PPOConfig)}
    table = make_table(first_step_lattice, toy_lens)
    rows = torch.from_numpy(table.observations).double()
    base = train_ppo(table, SMALL, 0.01, 0)(rows)
    for name, value in CHANGES.items():
        changed = train_ppo(table, replace(SMALL, **{name: value}), 0.01, 0)(rows)  # type: ignore[arg-type]
        assert not torch.equal(base, changed), name


def test_inputs_and_price_matter(toy_lens: Lens) -> None:
    lattice = make_trade(4, n_problems=30, depth=2)
    reward = train_process_reward(lattice)
    seen = lattice.observe("draft")

    def train(**more: Any) -> np.ndarray:
        config = TrimAggConfig(SMALL, **more)
        policy = train_trim_agg(lattice, config, toy_lens, 0, reward=reward)
        assert policy.reward is reward
        assert policy.config["exchange_rate_factor"] == config.exchange_rate_factor
        return policy.probabilities(seen)

    base = train()
    np.testing.assert_array_equal(base, train())
    assert not np.array_equal(base, train(exchange_rate_factor=3.0))
    assert not np.array_equal(base, train(features=(REWARD, "depth")))


def test_what_is_not_recorded_is_no_input(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    policy = train_trim_agg(first_step_lattice, TrimAggConfig(SMALL), toy_lens, 0)
    assert policy.network.standardiser.names == (REWARD, "depth")


def test_a_policy_file_needs_no_stable_baselines(
    first_step_lattice: Lattice, toy_lens: Lens, tmp_path: Path
) -> None:
    policy = train_trim_agg(first_step_lattice, TrimAggConfig(SMALL), toy_lens, 0)
    save_policy(policy, tmp_path / "agg.pt")
    assert b"stable_baselines3" not in (tmp_path / "agg.pt").read_bytes()
    again = load_policy(tmp_path / "agg.pt")
    seen = first_step_lattice.observe("draft")
    np.testing.assert_array_equal(again.probabilities(seen), policy.probabilities(seen))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *((name, 0, "whole number >= 1") for name in ("width", "n_decisions", "n_envs")),
        *((name, 0.0, "number > 0") for name in ("learning_rate", "clip_range")),
        ("gae_lambda", 1.1, r"in \[0, 1\]"),
        ("entropy_bonus", -0.1, ">= 0"),
        ("batch_size", 33, "a divisor >= 2 of n_steps \\* n_envs, 128"),
    ],
)
def test_settings_are_checked(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **{name: value})  # type: ignore[arg-type]


def test_what_it_refuses(
    first_step_lattice: Lattice, toy_lens: Lens, make_toy_lattice: Callable[..., Lattice]
) -> None:
    config = TrimAggConfig(SMALL)
    with pytest.raises(ValueError, match="a one-way lattice forbids some"):
        train_trim_agg(restrict_one_way(first_step_lattice), config, toy_lens, 0)
    alike = make_toy_lattice(lambda kind, actions: kind == 1, [0, 1, 1], 1)
    with pytest.raises(ValueError, match="there is nothing to trade"):
        train_trim_agg(alike, config, toy_lens, 0)
    with pytest.raises(ValueError, match="give a number > 0"):
        TrimAggConfig(exchange_rate_factor=0.0)
    with pytest.raises(ValueError, match="'reward' must be among them"):
        TrimAggConfig(features=("depth",))
    with pytest.raises(ValueError, match="two problems or more"):
        train_trim_agg(build_hand_lattice().select([0]), config, toy_lens, 0)

"""The smoothed action set, and the frontier of a toy from sampled rollouts alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from routerlib import metrics
from routerlib.costs import Lens
from routerlib.errors import OffRecordError
from routerlib.lattice import MISSING, Lattice, evaluate_probabilities, restrict_one_way
from routerlib.policies import MLPPolicy, decide
from routerlib.train import ExactConfig, train_exact
from routerlib.train.cpo import (
    CPOConfig,
    compute_end_costs,
    compute_log_decisions,
    train_cpo,
    train_cpo_on_rollouts,
)
from routerlib.train.rollouts import sample_rollouts

FAST = CPOConfig(width=8, n_iterations=8, critic_learning_rate=0.02, dropout=0.0)


def test_action_set_by_hand() -> None:
    """pi(large) = 0.5 and 0.9 against kappa 0.49 with width 0.01: one and 41 widths above it."""
    logits = torch.tensor([[0.0, 0.0], [0.0, np.log(9.0)]], dtype=torch.float64)
    large = compute_log_decisions(logits, 0.49, 0.01)[:, 1].exp()
    np.testing.assert_allclose(large, [1 / (1 + np.exp(-1.0)), 1.0])


def test_narrow_action_set_is_the_threshold_rule() -> None:
    noise = np.random.default_rng(0).normal(size=(200, 2))
    logits = torch.from_numpy(noise)
    executed = compute_log_decisions(logits, 0.3, 1e-9).exp()
    np.testing.assert_allclose(executed.sum(dim=1), 1.0)
    threshold = decide(torch.softmax(logits, dim=1).numpy(), 0.3)
    np.testing.assert_array_equal(executed[:, 1].round().int(), threshold)


def execute(policy: MLPPolicy, lattice: Lattice) -> np.ndarray:
    """Decisions (N, 2) of the trained router: a threshold at kappa."""
    kappa = policy.config["kappa"]
    assert isinstance(kappa, float)
    return np.eye(2)[decide(policy.probabilities(lattice.observe("before")), kappa)]


def test_reaches_the_frontier_of_the_exact_gradient(
    make_toy_lattice: Callable[..., Lattice], toy_lens: Lens
) -> None:
    """Large is needed on kind 1 in its first step; a fifth of the outcomes are noise. Both ways of
    training are worth the same at the chord's rate, within the interval of the paired problems."""
    noise = np.random.default_rng(0)
    lattice = make_toy_lattice(
        lambda kind, actions: (actions[0] == kind) ^ (noise.random() < 0.2), [0, 1, 1] * 40, 2
    )
    config = replace(FAST, width=16, n_iterations=40, budget_share=0.25)
    cpo = train_cpo(lattice, config, toy_lens, "before", seed=0)
    exact = train_exact(
        lattice,
        ExactConfig(width=16, n_steps=100, learning_rate=0.02, weight_decay=0.0, dropout=0.0),
        toy_lens,
        "before",
        seed=0,
    )
    found, best = (
        evaluate_probabilities(lattice, decisions, toy_lens, "before")
        for decisions in (
            execute(cpo, lattice),
            exact.probabilities(lattice.observe("before")),
        )
    )
    rate = exact.config["exchange_rate"]
    assert isinstance(rate, float)
    difference = (found.accuracy - rate * found.cost) - (best.accuracy - rate * best.cost)
    weights = metrics.compute_resample_weights(
        metrics.draw_resamples(lattice.n_problems, 1000, np.random.default_rng(1))
    )
    estimate = metrics.compute_mean_estimate(difference, weights)
    assert estimate.high >= 0.0
    assert estimate.value > -0.05
    assert found.accuracy.mean() > 0.7
    small, large = compute_end_costs(lattice, toy_lens)
    assert (found.cost.mean() - small) / (large - small) < 0.25 + 0.1


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_keeps_to_its_budget(
    make_toy_lattice: Callable[..., Lattice], toy_lens: Lens, share: float
) -> None:
    """Every large step helps alike, so all of the budget is worth spending and no more may be."""
    noise = np.random.default_rng(0)
    lattice = make_toy_lattice(
        lambda _, actions: noise.random() < (1 + sum(actions)) / 4, [0, 1] * 40, 2
    )
    config = replace(FAST, n_iterations=40, budget_share=share)
    policy = train_cpo(lattice, config, toy_lens, "before", seed=0)
    logits = torch.log(torch.from_numpy(policy.probabilities(lattice.observe("before"))))
    kappa = policy.config["kappa"]
    assert isinstance(kappa, float)
    smoothed = compute_log_decisions(logits, kappa, config.set_width).exp().numpy()
    spent = evaluate_probabilities(lattice, smoothed, toy_lens, "before").cost.mean()
    small, large = compute_end_costs(lattice, toy_lens)
    assert (spent - small) / (large - small) == pytest.approx(share, abs=0.12)


def test_learns_from_recorded_rollouts_alone(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    coin = np.full((first_step_lattice.n_nodes, 2), 0.5)
    recorded = sample_rollouts(
        first_step_lattice,
        coin,
        toy_lens,
        "before",
        generator=np.random.default_rng(0),
        n_per_problem=8,
    )
    config = replace(FAST, n_iterations=40, budget_share=0.3)
    ends = compute_end_costs(first_step_lattice, toy_lens)
    policy = train_cpo_on_rollouts(recorded, config, ends, seed=0)
    values = evaluate_probabilities(
        first_step_lattice, execute(policy, first_step_lattice), toy_lens, "before"
    )
    assert values.accuracy.mean() > 0.9
    assert values.cost.mean() < 60.0  # of 30 to 90


def test_one_way_lattices_can_be_trained_on(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    lattice = restrict_one_way(first_step_lattice)
    policy = train_cpo(lattice, FAST, toy_lens, "before", seed=0)
    assert np.isfinite(policy.probabilities(lattice.observe("before"))).all()


def test_same_seed_same_policy_other_seed_other_policy(
    first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    seen = first_step_lattice.observe("before")

    def outputs(seed: int) -> np.ndarray:
        torch.manual_seed(np.random.default_rng().integers(1000))  # must not matter
        policy = train_cpo(first_step_lattice, FAST, toy_lens, "before", seed)
        return policy.probabilities(seen)

    np.testing.assert_array_equal(outputs(0), outputs(0))
    assert not np.allclose(outputs(0), outputs(1))


CHANGES: dict[str, object] = {
    "width": 9,
    "activation": "silu",
    "n_iterations": 3,
    "rollouts_per_problem": 3,
    "exploration": 0.5,
    "budget_share": 0.2,
    "kl_limit": 0.001,
    "rho_bar": 1.5,
    "c_bar": 0.5,
    "set_width": 0.1,
    "kappa_rate": 0.1,
    "critic_learning_rate": 0.001,
    "critic_steps": 2,
    "conjugate_steps": 2,
    "damping": 1.0,
    "dropout": 0.6,
    "features": ("problem_n_words", "depth"),
}


def test_every_field_has_a_changed_value() -> None:
    assert set(CHANGES) == {field.name for field in fields(CPOConfig)}


@pytest.mark.parametrize("name", CHANGES)
def test_no_dead_knobs(name: str, first_step_lattice: Lattice, toy_lens: Lens) -> None:
    seen = first_step_lattice.observe("before")
    outputs = [
        train_cpo(first_step_lattice, config, toy_lens, "before", 0).probabilities(seen)
        for config in (FAST, replace(FAST, **{name: CHANGES[name]}))  # type: ignore[arg-type]
    ]
    assert not np.array_equal(*outputs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 0),
        ("n_iterations", 0),
        ("rollouts_per_problem", 0),
        ("critic_steps", 0),
        ("conjugate_steps", 0),
        ("kl_limit", 0.0),
        ("set_width", 0.0),
        ("critic_learning_rate", 0.0),
        ("rho_bar", 0.0),
        ("c_bar", 2.0),
        ("kappa_rate", -0.1),
        ("damping", float("nan")),
        ("exploration", 1.1),
        ("dropout", 1.0),
        ("budget_share", -0.1),
        ("activation", "relu"),
        ("features", ()),
    ],
)
def test_bad_values_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        CPOConfig(**{name: value})  # type: ignore[arg-type]


def test_incomplete_lattice_is_refused(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    next_node = first_step_lattice.next_node.copy()
    next_node[-1, 1] = MISSING
    with pytest.raises(OffRecordError, match="missing"):
        train_cpo(replace(first_step_lattice, next_node=next_node), FAST, toy_lens, "before", 0)

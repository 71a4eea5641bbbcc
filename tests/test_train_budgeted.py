"""Budgets are met at the best mixture's accuracy, and the gradient is that of the Lagrangian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lattice_cases import build_scripted
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from routerlib import evaluate
from routerlib.calibrate import KeepAccuracy, MaxCost
from routerlib.costs import Lens
from routerlib.features import Standardiser
from routerlib.lattice import Lattice, Values
from routerlib.policies import BudgetedPolicy, RandomPolicy
from routerlib.policies.network import build_network
from routerlib.train import BudgetedConfig, train_budgeted, train_constrained
from routerlib.train.budgeted import (
    Batch,
    Terms,
    compute_accuracy_within,
    compute_lagrangian,
    compute_terms,
    make_batch,
)

GAP = 60.0  # from always small to always large on the toys of depth 2
FAST = BudgetedConfig(
    width=8,
    n_steps=40,
    learning_rate=0.02,
    weight_decay=0.0,
    entropy_bonus=0.0,
    dropout=0.0,
    budgets=(0.1, 0.5),
)
# The toys' exchange rates are up to 3, ten times those of real problems, and so is the damping.
THOROUGH = replace(
    FAST,
    width=16,
    n_steps=400,
    learning_rate=0.01,
    validation_share=0.0,
    multiplier_rate=1.0,
    damping=50.0,
)


def sweep(policy: BudgetedPolicy, lattice: Lattice, lens: Lens, budgets: list[float]) -> Values:
    return evaluate.compute_sweep(policy, lattice, lens, np.array(budgets)).values


def make_network(lattice: Lattice, lens: Lens, bias: float) -> tuple[torch.nn.Sequential, Batch]:
    """A network that has learnt nothing, and moves the log-odds of large by about ``bias``."""
    standardiser = Standardiser.fit(lattice.observe("before").take(("problem_n_words", "depth")))
    network = build_network(3, 2, 4, "tanh", torch.Generator().manual_seed(0))
    torch.nn.init.constant_(network[-1].bias[1:], bias)
    return network, make_batch(lattice, lens, "before", standardiser)


# --- the terms and the Lagrangian ------------------------------------------------------------


def test_a_network_that_says_nothing_is_the_coin(
    first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    network, batch = make_network(first_step_lattice, toy_lens, 0.0)
    torch.nn.init.zeros_(network[-1].weight)
    budgets = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    with torch.no_grad():
        terms = compute_terms(network, batch, budgets, GAP)
    coin = evaluate.compute_sweep(
        RandomPolicy(), first_step_lattice, toy_lens, np.array([0.0, 0.25, 1.0])
    ).values
    np.testing.assert_allclose(terms.accuracy.numpy(), coin.accuracy.mean(axis=1))
    # On the toy every decision costs the same, so a coin with p = b spends just b.
    np.testing.assert_allclose(terms.overspend.numpy(), 0.0, atol=1e-12)


@pytest.mark.parametrize("bias", [-1.0, 1.0])
def test_gradient_against_finite_differences(
    first_step_lattice: Lattice, toy_lens: Lens, bias: float
) -> None:
    network, batch = make_network(first_step_lattice, toy_lens, bias)
    budgets = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    multipliers = torch.tensor([0.0, 0.4, 0.8], dtype=torch.float64)
    overspend = compute_terms(network, batch, budgets, GAP).overspend
    assert (overspend * bias > 0.02).all()  # so that the first multiplier is clamped for -1 only

    def compute_value() -> torch.Tensor:
        return compute_lagrangian(
            compute_terms(network, batch, budgets, GAP), multipliers, 1.0
        ).sum()

    network.zero_grad()
    compute_value().backward()
    exact = torch.cat([p.grad.reshape(-1) for p in network.parameters() if p.grad is not None])
    theta = parameters_to_vector(network.parameters()).detach()
    h = 1e-5
    numeric = torch.empty_like(theta)
    with torch.no_grad():
        for i in range(len(theta)):
            ends = []
            for sign in (1.0, -1.0):
                moved = theta.clone()
                moved[i] += sign * h
                vector_to_parameters(moved, network.parameters())
                ends.append(float(compute_value()))
            numeric[i] = (ends[0] - ends[1]) / (2.0 * h)
    np.testing.assert_allclose(exact.numpy(), numeric.numpy(), atol=1e-8)
    assert exact.abs().max() > 1e-3


def make_terms(accuracy: float, overspend: float) -> Terms:
    values = [torch.tensor([x], dtype=torch.float64) for x in (accuracy, overspend, 0.0)]
    return Terms(*values)


@pytest.mark.parametrize(
    ("overspend", "multiplier", "penalty"),
    [
        (0.0, 0.5, 0.0),
        (0.1, 0.5, 0.5 * 0.1 + 2.0 * 0.1**2 / 2),
        (-0.1, 0.5, -0.5 * 0.1 + 2.0 * 0.1**2 / 2),
        (-0.1, 0.0, 0.0),  # what is left over costs nothing
        (-0.5, 0.4, -(0.4**2) / (2 * 2.0)),
    ],
)
def test_lagrangian_by_hand(overspend: float, multiplier: float, penalty: float) -> None:
    multipliers = torch.tensor([multiplier], dtype=torch.float64)
    value = compute_lagrangian(make_terms(0.7, overspend), multipliers, damping=2.0)
    assert float(value) == pytest.approx(0.7 - penalty)


def test_accuracy_within_by_hand() -> None:
    budget = torch.tensor([0.2], dtype=torch.float64)
    small = torch.tensor(0.3, dtype=torch.float64)
    # It spends 0.4 where 0.2 is allowed: half of the problems go to always small.
    assert float(compute_accuracy_within(make_terms(0.7, 0.2), budget, small)) == pytest.approx(0.5)
    assert float(compute_accuracy_within(make_terms(0.7, -0.1), budget, small)) == 0.7


# --- training ----------------------------------------------------------------------------------


def test_budgets_are_met_at_the_best_mixtures_accuracy(
    first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    """Only the first step counts, and large is needed for 0.6 of the problems: that costs a share
    of 0.2. Half of that buys half of it, at 0.6 / 0.2 each; more than it buys no more."""
    policy = train_budgeted(first_step_lattice, THOROUGH, toy_lens, "before", seed=0)
    values = sweep(policy, first_step_lattice, toy_lens, [0.1, 0.5])
    shares = (values.cost.mean(axis=1) - 30.0) / GAP
    assert (shares <= np.array([0.1, 0.5]) + 0.01).all()
    np.testing.assert_allclose(values.accuracy.mean(axis=1), [0.7, 1.0], atol=0.03)
    multipliers = np.array(policy.config["multipliers"])
    np.testing.assert_allclose(multipliers, [3.0, 0.0], atol=0.3)


def test_one_budget_alone(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    policy = train_constrained(
        first_step_lattice, THOROUGH, toy_lens, "before", seed=0, budget=0.15
    )
    assert policy.budget == 0.15
    assert policy.config["budgets"] == (0.15,)
    values = sweep(policy, first_step_lattice, toy_lens, [0.15])
    assert (values.cost.mean() - 30.0) / GAP <= 0.16
    assert values.accuracy.mean() == pytest.approx(0.4 + 0.6 * 0.75, abs=0.03)


def test_cost_rises_with_the_budget(
    make_toy_lattice: Callable[..., Lattice], toy_lens: Lens
) -> None:
    noise = np.random.default_rng(3)
    lattice = make_toy_lattice(
        lambda kind, actions: (actions[0] == kind) ^ (noise.random() < 0.2), [0, 1, 1] * 20, 2
    )
    config = replace(THOROUGH, n_steps=150, budgets=(0.1, 0.3, 0.5, 0.7, 0.9))
    policy = train_budgeted(lattice, config, toy_lens, "before", seed=0)
    cost = sweep(policy, lattice, toy_lens, np.linspace(0.0, 1.0, 21).tolist()).cost.mean(axis=1)
    assert (cost[0], cost[-1]) == (30.0, 90.0)
    assert (np.diff(cost) >= -0.01 * GAP).all()


def test_same_seed_same_policy_other_seed_other_policy(
    first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    seen = first_step_lattice.observe("before")

    def outputs(seed: int) -> np.ndarray:
        torch.manual_seed(np.random.default_rng().integers(1000))  # must not matter
        policy = train_budgeted(first_step_lattice, FAST, toy_lens, "before", seed)
        return policy.with_setting(0.3).probabilities(seen)

    np.testing.assert_array_equal(outputs(0), outputs(0))
    assert not np.allclose(outputs(0), outputs(1))


def test_needs_two_models_and_something_to_trade(
    make_toy_lattice: Callable[..., Lattice], toy_lens: Lens
) -> None:
    with pytest.raises(ValueError, match="this lattice has 3"):
        train_budgeted(build_scripted(n_models=3), FAST, toy_lens, "before", 0)
    lattice = make_toy_lattice(lambda kind, actions: actions[0] == kind, [0] * 20, 1)
    with pytest.raises(ValueError, match="nothing to trade"):
        train_budgeted(lattice, FAST, toy_lens, "before", 0)


CHANGES: dict[str, object] = {
    "width": 9,
    "activation": "silu",
    "learning_rate": 0.01,
    "n_steps": 7,
    "weight_decay": 0.5,
    "entropy_bonus": 0.2,
    "validation_share": 0.4,
    "check_every": 25,
    "patience": 1,
    "dropout": 0.2,
    "features": ("problem_n_words", "depth"),
    "budgets": (0.1, 0.6),
    "batch_size": 10,
    "multiplier_rate": 0.5,
    "damping": 0.1,
}


def test_every_field_has_a_changed_value() -> None:
    assert set(CHANGES) == {field.name for field in fields(BudgetedConfig)}


@pytest.mark.parametrize("name", CHANGES)
def test_no_dead_knobs(name: str, make_toy_lattice: Callable[..., Lattice], toy_lens: Lens) -> None:
    # Noisy steps and outcomes, so that the held-out value has ups and downs to stop at.
    noise = np.random.default_rng(3)
    lattice = make_toy_lattice(
        lambda kind, actions: (actions[0] == kind) ^ (noise.random() < 0.2), [0, 1, 1] * 10, 2
    )
    base = replace(FAST, learning_rate=0.05, n_steps=60, check_every=1, patience=60, dropout=0.6)
    seen = lattice.observe("before")
    outputs = [
        train_budgeted(lattice, config, toy_lens, "before", 0).probabilities(seen)
        for config in (base, replace(base, **{name: CHANGES[name]}))  # type: ignore[arg-type]
    ]
    assert not np.array_equal(*outputs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("multiplier_rate", 0.0),
        ("damping", 0.0),
        ("budgets", ()),
        ("budgets", (0.5, 1.0)),
        ("n_steps", 0),
        ("dropout", 1.0),
    ],
)
def test_bad_values_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        BudgetedConfig(**{name: value})  # type: ignore[arg-type]


# --- calibrated and evaluated like every router ------------------------------------------------


def test_its_budget_is_what_calibration_chooses(
    make_toy_lattice: Callable[..., Lattice],
    first_step_lattice: Lattice,
    toy_lens: Lens,
    tmp_path: Path,
) -> None:
    policy = train_budgeted(first_step_lattice, THOROUGH, toy_lens, "before", seed=0)
    calibration, test = (
        make_toy_lattice(lambda kind, actions: actions[0] == kind, [0, 1, 1, 0, 1] * 6, 2, seed)
        for seed in (1, 2)
    )
    targets = (MaxCost(0.1), KeepAccuracy(1.5))
    routers = {
        name: evaluate.calibrate_router(
            one, calibration, toy_lens, targets, np.random.default_rng(0), n_resamples=50
        )
        for name, one in {"budgeted": policy, "random": RandomPolicy()}.items()
    }
    evaluate.save_routers(routers, tmp_path)
    routers = evaluate.load_routers(tmp_path)
    budget, enough = (chosen.setting for chosen in routers["budgeted"].calibrations)
    assert 0.05 <= budget <= 0.15
    assert budget < enough < 0.5
    evaluation = evaluate.evaluate_routers(
        routers,
        test,
        toy_lens,
        np.random.default_rng(0),
        benchmark="toy",
        reference="budgeted",
        n_resamples=100,
    )
    found = evaluation.results[evaluation.results.router == "budgeted"].set_index("metric").value
    assert found["accuracy @ cost <= 10%"] > 0.55
    assert found["cost_share @ cost <= 10%"] < 0.11
    assert found["area_over_chord"] > 0.3
    ours = evaluation.curve[evaluation.curve.router == "budgeted"]
    assert set(ours[ours.kind == "sweep"].setting) == set(policy.settings)

"""The oracle and the frontier by hand, by brute force, and against random policies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lattice_cases import (
    Walker,
    World,
    build,
    build_hand_lattice,
    build_scripted,
    draw_policy,
    record,
)

from routerlib.costs import Lens
from routerlib.features import PROTOCOLS, DecisionProtocol
from routerlib.lattice import evaluate_probabilities, follow_thresholds, frontier, oracle

LENS = Lens("toy", "tokens", np.array([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0]]))
USD = Lens("usd", "USD", np.array([[1.0, 0.1, 2.0], [3.0, 0.5, 8.0], [9.0, 2.0, 30.0]]))
SEEDS = st.integers(0, 10_000)


@pytest.mark.parametrize(
    ("protocol", "cost"),
    # large twice under before and judge: 24 + 12; large then small twice under the others
    [("before", 36), ("probe", 30 + 5 + 5), ("draft", 31 + 5 + 5), ("judge", 48 + 30 + 24)],
)
def test_oracle_by_hand(protocol: DecisionProtocol, cost: float) -> None:
    lattice = build_hand_lattice()
    values = oracle(lattice, LENS, protocol)
    p, q = (lattice.problem_ids.index(name) for name in "pq")
    assert (values.accuracy[p], values.cost[p]) == (1.0, cost)
    # q cannot be solved: the cheapest path is small at once
    assert (values.accuracy[q], values.cost[q]) == (0.0, 45.0 if protocol == "judge" else 9.0)


def test_frontier_by_hand() -> None:
    lattice = build_hand_lattice()
    best = frontier(lattice, LENS, "before")
    # cheapest paths: 11 and 9, both wrong; then 25 more for p's right answer
    assert best.cost.tolist() == [10.0, 22.5]
    assert best.accuracy.tolist() == [0.0, 0.5]
    assert best.multiplier.tolist() == [np.inf, 1 / 25]


def enumerate_paths(
    world: World, problem: str, depth: int, protocol: str
) -> list[tuple[float, float]]:
    """(right, cost) of every path of a problem, in plain Python."""
    walker = Walker(record(world, [problem], depth, merge=True), world.model_ids, depth)
    weights = USD.weights[: world.n_models].tolist()
    plans = itertools.product(range(world.n_models), repeat=depth + 1)
    walks = [
        walker.walk(problem, lambda path, plan=plan: plan[len(path)], weights, protocol)
        for plan in plans
    ]
    return [(right, cost) for right, cost, _ in walks]


@given(seed=SEEDS, n_models=st.integers(2, 3), protocol=st.sampled_from(PROTOCOLS))
@settings(max_examples=20, deadline=None)
def test_oracle_and_frontier_by_brute_force(
    seed: int, n_models: int, protocol: DecisionProtocol
) -> None:
    world = World(seed, n_models=n_models)
    problems = ["a", "b", "c", "d"]
    lattice = build(record(world, problems, 2, merge=True), world.model_ids, 2)
    lens = Lens("usd", "USD", USD.weights[:n_models])
    paths = {p: enumerate_paths(world, p, 2, protocol) for p in problems}
    found = oracle(lattice, lens, protocol)
    for i, problem in enumerate(lattice.problem_ids):
        accuracy, negative_cost = max((right, -cost) for right, cost in paths[problem])
        assert found.accuracy[i] == accuracy
        assert found.cost[i] == pytest.approx(-negative_cost)
    best = frontier(lattice, lens, protocol)
    assert np.all(np.diff(best.cost) > 0)
    assert np.all(np.diff(best.accuracy) > 0)
    assert np.all(np.diff(best.multiplier) < 0)
    slope = np.diff(best.accuracy) / np.diff(best.cost)
    assert np.all(np.diff(slope) <= 1e-9 * slope[:-1]), "the frontier must be concave"
    assert best.accuracy[-1] == pytest.approx(found.accuracy.mean())
    assert best.cost[-1] == pytest.approx(found.cost.mean())
    # every choice of one path for each problem lies on or below every supporting line
    for multiplier, cost, accuracy in zip(
        best.multiplier[1:], best.cost[1:], best.accuracy[1:], strict=True
    ):
        top = np.mean([max(r - multiplier * c for r, c in paths[p]) for p in problems])
        assert accuracy - multiplier * cost == pytest.approx(top, abs=1e-9)
    assert best.cost[0] == pytest.approx(np.mean([min(c for _, c in paths[p]) for p in problems]))


@given(seed=SEEDS, protocol=st.sampled_from(PROTOCOLS))
@settings(max_examples=50, deadline=None)
def test_oracle_is_never_below_any_policy(seed: int, protocol: DecisionProtocol) -> None:
    lattice = build_scripted(seed % 7, 6)
    best = oracle(lattice, LENS, protocol)
    chosen = draw_policy(lattice, seed)
    policies = [evaluate_probabilities(lattice, chosen, LENS, protocol)]
    rules = follow_thresholds(lattice, chosen[:, 1], np.linspace(0, 1, 9), LENS, protocol)
    policies += [rules.at(t) for t in range(9)]
    line = frontier(lattice, LENS, protocol)
    for values in policies:
        assert np.all(values.accuracy <= best.accuracy + 1e-12)
        sure = values.accuracy >= 1 - 1e-12
        assert np.all(values.cost[sure] >= best.cost[sure] - 1e-9)
        cost, accuracy = values.cost.mean(), values.accuracy.mean()
        assert cost >= line.cost[0] - 1e-9
        assert accuracy <= np.interp(cost, line.cost, line.accuracy) + 1e-9


def test_frontier_of_one_point() -> None:
    """Where nothing can be gained, or the cheapest path is right, there is one point."""
    lattice = build_hand_lattice()
    q = lattice.select([lattice.problem_ids.index("q")])
    assert frontier(q, LENS, "before").cost.tolist() == [9.0]
    assert frontier(q, LENS, "before").accuracy.tolist() == [0.0]


def test_equal_gains_are_one_point() -> None:
    world = World(4)
    tables = record(world, ["a", "b", "c", "d", "e"], 2, merge=True)
    lattice = build(tables, world.model_ids, 2)
    flat = Lens("large", "calls", np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    best = frontier(lattice, flat, "before")
    assert best.cost.tolist() == [0.0]
    assert best.accuracy[0] == oracle(lattice, flat, "before").accuracy.mean()

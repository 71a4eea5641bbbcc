"""What was paid on the way, by hand and against the replay's bill of whole problems."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lattice_cases import build_hand_lattice, build_scripted, index_nodes

from routerlib.costs import Lens
from routerlib.features import PROTOCOLS, DecisionProtocol
from routerlib.lattice import (
    TERMINAL,
    add_spending,
    compute_edge_costs,
    compute_spent,
    evaluate_probabilities,
    restrict_one_way,
)

LENS = Lens("toy", "tokens", np.array([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0]]))

# The running bill of the hand-made recording's problem p, before each decision, by protocol.
BILLS = {
    (): (0, 0, 0, 0),
    (0,): (7, 7, 7, 7 + 30),
    (1,): (24, 30, 31, 31 + 30),
    (0, 1): (7 + 30, 7 + 31, 7 + 34, 41 + 30 + 21),
    (1, 0): (24 + 10, 30 + 5, 31 + 5, 36 + 30 + 24),
}


@pytest.mark.parametrize("path", list(BILLS))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_spending_by_hand(path: tuple[int, ...], protocol: DecisionProtocol) -> None:
    lattice = add_spending(build_hand_lattice(), LENS, protocol, budget=30.0)
    node = index_nodes(lattice)["p", path]
    bill = BILLS[path][PROTOCOLS.index(protocol)]
    seen = lattice.observe(protocol)
    assert seen.column(f"spent_{protocol}")[node] == bill
    assert seen.column(f"budget_left_{protocol}")[node] == 30 - bill


@given(
    seed=st.integers(0, 10_000),
    n_models=st.integers(2, 3),
    protocol=st.sampled_from(PROTOCOLS),
    one_way=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_spent_and_the_last_step_make_the_problems_cost(
    seed: int, n_models: int, protocol: DecisionProtocol, one_way: bool
) -> None:
    lattice = build_scripted(seed, n_models=n_models)
    lattice = restrict_one_way(lattice) if one_way else lattice
    lens = Lens("usd", "USD", np.arange(1.0, 1.0 + 3 * n_models).reshape(n_models, 3))
    rng = np.random.default_rng(seed)
    options = np.where(lattice.allowed, rng.random(lattice.next_node.shape), -1.0)
    action = options.argmax(axis=1)
    values = evaluate_probabilities(lattice, np.eye(n_models)[action], lens, protocol)
    spent = compute_spent(lattice, lens, protocol)
    cost = compute_edge_costs(lattice, lens, protocol)
    for problem in range(lattice.n_problems):
        node = problem
        while lattice.next_node[node, action[node]] != TERMINAL:
            node = int(lattice.next_node[node, action[node]])
        total = spent[node] + cost[node, action[node]]
        assert total == pytest.approx(values.cost[problem], rel=1e-12)


def test_a_budget_is_a_number_or_none() -> None:
    lattice = build_hand_lattice()
    assert "budget_left_before" not in add_spending(lattice, LENS, "before").fields
    with pytest.raises(ValueError, match="budget is inf"):
        add_spending(lattice, LENS, "before", budget=np.inf)
    assert "spent_before" not in lattice.fields

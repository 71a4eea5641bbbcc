"""The forward pass by hand and against the replay, the gradient by finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from lattice_cases import build_hand_lattice

from routerlib.costs import Lens
from routerlib.errors import OffRecordError
from routerlib.features import PROTOCOLS
from routerlib.lattice import MISSING, Lattice, evaluate_probabilities, restrict_one_way
from routerlib.train.tree import (
    build_tree,
    compute_exchange_rate,
    compute_expectations,
    compute_reach,
    compute_softmax,
)


def random_decisions(n_nodes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((n_nodes, 2), generator=generator, dtype=torch.float64)
    return torch.softmax(logits, dim=1)


def test_reach_by_hand(make_toy_lattice: Callable[..., Lattice], toy_lens: Lens) -> None:
    tree = build_tree(make_toy_lattice(lambda *_: True, [0], 2), toy_lens, "before")
    large = torch.tensor([0.25, 0.5, 0.1, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    reach = compute_reach(tree, torch.stack((1 - large, large), dim=1))
    # root; small, large; then small-small, small-large, large-small, large-large
    np.testing.assert_allclose(reach, [1, 0.75, 0.25, 0.375, 0.375, 0.225, 0.025])


def test_forward_pass_equals_the_replay(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    for protocol in PROTOCOLS:
        tree = build_tree(first_step_lattice, toy_lens, protocol)
        decisions = random_decisions(first_step_lattice.n_nodes)
        accuracy, cost, _ = compute_expectations(tree, decisions)
        values = evaluate_probabilities(first_step_lattice, decisions.numpy(), toy_lens, protocol)
        np.testing.assert_allclose(accuracy, values.accuracy)
        np.testing.assert_allclose(cost, values.cost)


def test_entropy_of_the_coin(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    tree = build_tree(first_step_lattice, toy_lens, "before")
    entropy = compute_expectations(tree, torch.full_like(tree.reward, 0.5))[2]
    np.testing.assert_allclose(entropy, 3 * np.log(2))


def test_exchange_rate_is_the_chords(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    tree = build_tree(first_step_lattice, toy_lens, "before")
    assert compute_exchange_rate(tree) == pytest.approx((0.6 - 0.4) / (90 - 30))
    where_small_is_right = first_step_lattice.select([0, 3])
    with pytest.raises(ValueError, match="nothing to trade"):
        compute_exchange_rate(build_tree(where_small_is_right, toy_lens, "before"))


def test_gradient_against_finite_differences(
    make_toy_lattice: Callable[..., Lattice], toy_lens: Lens
) -> None:
    lattice = make_toy_lattice(lambda kind, actions: sum(actions) > kind, [0, 1], 2)
    tree = build_tree(lattice, toy_lens, "probe")
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn((lattice.n_nodes, 2), generator=generator, dtype=torch.float64)

    def objective(x: torch.Tensor) -> torch.Tensor:
        accuracy, cost, entropy = compute_expectations(tree, torch.softmax(x, dim=1))
        return (accuracy - 0.01 * cost + 0.1 * entropy).mean()

    assert torch.autograd.gradcheck(objective, logits.requires_grad_(True))


def test_thrown_away_drafts_are_billed(
    make_toy_lattice: Callable[..., Lattice], toy_lens: Lens
) -> None:
    lattice = make_toy_lattice(lambda kind, actions: actions[0] == kind, [0, 1, 1], 1)
    shares = []
    for protocol in ("before", "draft"):
        tree = build_tree(lattice, toy_lens, protocol)
        shares.append(float(tree.cost[:, 1].mean()))
    assert shares == [30.0, 40.0]


def test_incomplete_lattice_is_refused(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    next_node = first_step_lattice.next_node.copy()
    next_node[-1, 1] = MISSING
    incomplete = replace(first_step_lattice, next_node=next_node)
    with pytest.raises(OffRecordError, match=r"toy/train/39.*large"):
        build_tree(incomplete, toy_lens, "before")


def test_a_lattice_that_is_not_judged_is_refused_under_judge_only(toy_lens: Lens) -> None:
    lattice = build_hand_lattice()
    ledger = lattice.ledger | {"judge": np.full_like(lattice.ledger["judge"], np.nan)}
    unjudged = replace(lattice, ledger=ledger)
    build_tree(lattice, toy_lens, "judge")
    build_tree(unjudged, toy_lens, "draft")
    with pytest.raises(OffRecordError, match="never judged by 'large'"):
        build_tree(unjudged, toy_lens, "judge")


def test_one_way_lattice_equals_its_replay(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    lattice = restrict_one_way(first_step_lattice)
    tree = build_tree(lattice, toy_lens, "before")
    wish = random_decisions(lattice.n_nodes)
    accuracy, cost, _ = compute_expectations(tree, compute_softmax(tree, torch.log(wish)))
    values = evaluate_probabilities(lattice, wish.numpy(), toy_lens, "before")
    np.testing.assert_allclose(accuracy, values.accuracy)
    np.testing.assert_allclose(cost, values.cost)

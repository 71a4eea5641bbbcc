"""What the query-level router learns on lattices whose answer is known, and on too little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lattice_cases import build_hand_lattice, build_scripted

from routerlib.costs import Lens
from routerlib.errors import OffRecordError
from routerlib.features import FIELDS
from routerlib.lattice import (
    MISSING,
    Lattice,
    evaluate_probabilities,
    follow_thresholds,
    restrict_one_way,
)
from routerlib.policies import AlwaysLarge, AlwaysSmall, QueryLevelPolicy, load_policy, save_policy
from routerlib.train import train_query_level
from routerlib.train.query_level import REGULARISATION, compute_own_outcomes

MakeLattice = Callable[..., Lattice]


def score(policy: QueryLevelPolicy, lattice: Lattice) -> np.ndarray:
    """Probability of large for each problem (P,)."""
    found = policy.probabilities(lattice.observe("before"))[:, 1]
    return np.asarray(found[: lattice.n_problems])


def make_noisy(make_toy_lattice: MakeLattice, seed: int = 0, n_problems: int = 40) -> Lattice:
    """Four fields of noise and words, of which words say a little; small is always wrong."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 6, n_problems).tolist()
    right = iter((rng.random(n_problems) < 0.2 + 0.1 * np.array(kinds)).tolist())
    lattice = make_toy_lattice(
        lambda kind, actions: actions[0] == 1 and next(right), kinds, 0, seed
    )
    noise = {
        f"problem_{name}": rng.normal(size=n_problems)
        for name in ("n_chars", "n_numbers", "n_money", "n_percent")
    }
    return replace(lattice, fields=dict(lattice.fields) | noise)


def test_own_outcomes_by_hand() -> None:
    # p: small's own path A -> end is wrong, large's B -> end is right; q is always wrong.
    assert compute_own_outcomes(build_hand_lattice()).tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize("one_way", [False, True])
def test_own_outcomes_are_those_of_the_constant_policies(one_way: bool, toy_lens: Lens) -> None:
    lattice = build_scripted(3, n_problems=20, depth=3)
    lattice = restrict_one_way(lattice) if one_way else lattice
    seen, own = lattice.observe("before"), compute_own_outcomes(lattice)
    for action, policy in enumerate((AlwaysSmall(), AlwaysLarge())):
        values = evaluate_probabilities(lattice, policy.probabilities(seen), toy_lens, "before")
        np.testing.assert_array_equal(own[:, action], values.accuracy)


def test_a_field_that_separates_is_found(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    policy = train_query_level(first_step_lattice)
    assert policy.standardiser.names == ("problem_n_words",)
    assert policy.coefficients[0] > 0.0
    scores = score(policy, first_step_lattice)
    kinds = first_step_lattice.fields["problem_n_words"][: len(scores)]
    assert scores[kinds == 1].min() > scores[kinds == 0].max()
    # All is right, 16 problems at 30 by the small model and 24 at 90 by the large.
    every = policy.probabilities(first_step_lattice.observe("before"))[:, 1]
    cut = np.array([scores[kinds == 1].min()])
    values = follow_thresholds(first_step_lattice, every, cut, toy_lens, "before")
    assert values.accuracy.mean() == 1.0
    assert values.cost.mean() == pytest.approx(0.4 * 30 + 0.6 * 90)
    # Every strength orders them alike, so the strongest is taken.
    assert policy.config == {
        "seed": 0,
        "regularisation": pytest.approx(max(REGULARISATION)),
        "n_problems": 40,
        "n_positive": 24,
    }


def test_problems_both_models_solve_are_not_positive(make_toy_lattice: MakeLattice) -> None:
    # Kind 0 is solved by both, 1 by none, 2 by large only.
    def is_right(kind: int, actions: tuple[int, ...]) -> bool:
        return kind == 0 or (kind == 2 and actions[0] == 1)

    lattice = make_toy_lattice(is_right, [0, 1, 2] * 10, 1)
    policy = train_query_level(lattice)
    assert policy.config["n_positive"] == 10
    scores = score(policy, lattice)
    assert scores[2] > scores[1] > scores[0]


def test_same_seed_same_policy_other_seed_other_choice(make_toy_lattice: MakeLattice) -> None:
    lattice = make_noisy(make_toy_lattice)
    first, again = (train_query_level(lattice, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.coefficients, again.coefficients)
    assert (first.intercept, first.config) == (again.intercept, again.config)
    strengths = {train_query_level(lattice, seed=s).config["regularisation"] for s in range(4)}
    assert len(strengths) > 1


def test_stronger_penalties_shrink(make_toy_lattice: MakeLattice) -> None:
    lattice = make_noisy(make_toy_lattice)
    norms = [
        np.linalg.norm(train_query_level(lattice, regularisation=[strength]).coefficients)
        for strength in (0.1, 10.0, 1000.0)
    ]
    assert norms[0] > norms[1] > norms[2] > 0.0


def test_choice_does_not_depend_on_the_order_of_the_strengths(
    make_toy_lattice: MakeLattice,
) -> None:
    lattice = make_noisy(make_toy_lattice)
    up, down = (train_query_level(lattice, regularisation=s) for s in ([1, 50], [50, 1]))
    np.testing.assert_array_equal(up.coefficients, down.coefficients)


def test_other_fields_and_mixed_paths_change_nothing() -> None:
    lattice = build_scripted(5, n_problems=30, depth=2)
    rng = np.random.default_rng(0)
    fields = {
        name: values if FIELDS[name].group == "problem" else rng.permutation(values)
        for name, values in lattice.fields.items()
    }
    mixed = np.zeros(lattice.n_nodes, dtype=np.bool_)  # nodes that both models have written
    for node in range(lattice.n_problems, lattice.n_nodes):
        parent, action = lattice.parent[node], lattice.parent_action[node]
        mixed[node] = mixed[parent] or lattice.parent_action[parent] == 1 - action
    outcome = np.where(mixed[:, None], 1.0 - lattice.outcome, lattice.outcome)
    changed = replace(lattice, fields=fields, outcome=outcome)
    one, two = train_query_level(lattice), train_query_level(changed)
    assert np.any(one.coefficients != 0.0)
    np.testing.assert_array_equal(one.coefficients, two.coefficients)
    assert one.intercept == two.intercept


@pytest.mark.parametrize(("right", "share"), [(True, 5 / 6), (False, 1 / 6)])
def test_one_class_gives_a_constant(
    right: bool, share: float, make_toy_lattice: MakeLattice, tmp_path: Path
) -> None:
    lattice = make_toy_lattice(lambda kind, actions: right and actions[0] == 1, [0, 1, 2, 3], 1)
    policy = train_query_level(lattice)
    np.testing.assert_allclose(score(policy, lattice), share)
    assert policy.coefficients.tolist() == [0.0]
    assert policy.config["regularisation"] is None
    save_policy(policy, tmp_path / "policy.pt")
    loaded = load_policy(tmp_path / "policy.pt")
    assert isinstance(loaded, QueryLevelPolicy)
    assert loaded.config == policy.config


@pytest.mark.parametrize("n_positive", [1, 2, 3])
def test_four_problems_are_enough_to_run(n_positive: int, make_toy_lattice: MakeLattice) -> None:
    lattice = make_toy_lattice(
        lambda kind, actions: kind < n_positive and actions[0] == 1, [0, 1, 2, 3], 1
    )
    policy = train_query_level(lattice)
    assert policy.coefficients[0] < 0.0
    assert policy.config["n_positive"] == n_positive
    if n_positive != 2:  # nothing to cross-validate
        assert policy.config["regularisation"] == pytest.approx(max(REGULARISATION))


@pytest.mark.parametrize("strengths", [(), (0.0,), (1.0, -1.0), (np.nan,), (np.inf,)])
def test_bad_strengths_are_named(strengths: tuple[float, ...], first_step_lattice: Lattice) -> None:
    with pytest.raises(ValueError, match="regularisation is"):
        train_query_level(first_step_lattice, regularisation=strengths)


def test_lattices_it_cannot_use_are_named(first_step_lattice: Lattice) -> None:
    with pytest.raises(ValueError, match="this lattice has 3"):
        train_query_level(build_scripted(n_models=3, depth=1))
    with pytest.raises(ValueError, match="0 problems"):
        train_query_level(first_step_lattice.select([]))
    no_fields = {"depth": first_step_lattice.fields["depth"]}
    with pytest.raises(ValueError, match="0 problem_"):
        train_query_level(replace(first_step_lattice, fields=no_fields))
    next_node = first_step_lattice.next_node.copy()
    next_node[3, 1] = MISSING
    with pytest.raises(OffRecordError, match=r"toy/train/3.*model 'large' was never recorded"):
        train_query_level(replace(first_step_lattice, next_node=next_node))

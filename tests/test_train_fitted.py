"""Action values by hand and against the replay; the optimum of a toy is found by both regressors,
without a look at what is hidden or at the problem that is decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from routerlib.costs import Lens
from routerlib.errors import OffRecordError
from routerlib.lattice import MISSING, Lattice, evaluate_probabilities, restrict_one_way
from routerlib.policies import EnsemblePolicy, load_policy, save_policy
from routerlib.train.fitted import (
    FittedConfig,
    compute_advantage,
    deal_folds,
    regress_by_fold,
    train_fitted,
)
from routerlib.train.regression import MLPRegression, Regression, TreesRegression
from routerlib.train.tree import build_tree, compute_action_values, compute_softmax

MLP = MLPRegression(width=8, n_steps=60, batch_size=64, learning_rate=0.02, weight_decay=0.0)
TREES = TreesRegression(n_trees=20, min_samples_leaf=5, l2=1.0, learning_rate=0.2)
REGRESSIONS: dict[str, Regression] = {"mlp": MLP, "trees": TREES}


def make_decisions(lattice: Lattice, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tree_logits = torch.randn((lattice.n_nodes, 2), generator=generator, dtype=torch.float64)
    return torch.softmax(tree_logits, dim=1)


def test_action_values_by_hand(make_toy_lattice: Callable[..., Lattice], toy_lens: Lens) -> None:
    """Right only after large, then small. Small costs 10, large 30."""
    lattice = make_toy_lattice(lambda _, actions: actions == (1, 0), [0], depth=1)
    tree = build_tree(lattice, toy_lens, "before")
    decisions = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.8, 0.2]], dtype=torch.float64)
    values = compute_action_values(tree, decisions, tree.reward - 0.01 * tree.cost)
    # After small: -0.1 or -0.3; after large: 1 - 0.1 or -0.3, 0.66 in the mean.
    np.testing.assert_allclose(values[1:], [[-0.1, -0.3], [0.9, -0.3]])
    np.testing.assert_allclose(values[0], [-0.1 - 0.2, -0.3 + 0.66])
    advantage, met = compute_advantage(tree, decisions, 0.01)
    np.testing.assert_allclose(advantage, [0.66, -0.2, -1.2])
    np.testing.assert_allclose(met, [1.0, 0.5, 0.5])


@pytest.mark.parametrize("one_way", [False, True])
def test_action_values_are_those_of_the_replay(
    first_step_lattice: Lattice, toy_lens: Lens, one_way: bool
) -> None:
    """The value of the policy at a root, and of each first action: force it and replay."""
    lattice = restrict_one_way(first_step_lattice) if one_way else first_step_lattice
    tree = build_tree(lattice, toy_lens, "draft")
    decisions = compute_softmax(tree, torch.log(make_decisions(lattice, 0)))
    roots = np.arange(lattice.n_problems)
    for name, gains in (("accuracy", tree.reward), ("cost", tree.cost)):
        values = compute_action_values(tree, decisions, gains)
        for action in (0, 1):
            forced = decisions.numpy().copy()
            forced[roots] = np.eye(2)[action]
            replayed = getattr(evaluate_probabilities(lattice, forced, toy_lens, "draft"), name)
            np.testing.assert_allclose(values[roots, action], replayed)


def test_nothing_to_decide_weighs_nothing(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    lattice = restrict_one_way(first_step_lattice)
    tree = build_tree(lattice, toy_lens, "before")
    _, met = compute_advantage(tree, make_decisions(lattice, 0), 0.01)
    np.testing.assert_array_equal(met == 0.0, ~lattice.allowed.all(axis=1))


@pytest.mark.parametrize("name", REGRESSIONS)
def test_learns_the_best_policy(first_step_lattice: Lattice, toy_lens: Lens, name: str) -> None:
    # At seven times the chord's rate a large step must gain 0.47: neither choice is close.
    config = FittedConfig(regression=REGRESSIONS[name], exchange_rate_factor=7.0)
    policy = train_fitted(first_step_lattice, config, toy_lens, "before", 0)
    decisions = policy.probabilities(first_step_lattice.observe("before"))
    values = evaluate_probabilities(first_step_lattice, decisions, toy_lens, "before")
    kinds = first_step_lattice.fields["problem_n_words"][: first_step_lattice.n_problems]
    assert values.accuracy.mean() > 0.95
    np.testing.assert_allclose(values.cost, 30 + 20 * kinds, rtol=0.25)
    roots = decisions[:40, 1]
    assert roots[kinds == 1].min() > roots[kinds == 0].max()


@pytest.mark.parametrize("name", REGRESSIONS)
def test_same_seed_same_policy_other_seed_other_policy(
    first_step_lattice: Lattice, toy_lens: Lens, name: str
) -> None:
    seen = first_step_lattice.observe("before")
    config = FittedConfig(regression=REGRESSIONS[name], n_rounds=1)

    def outputs(seed: int) -> np.ndarray:
        torch.manual_seed(np.random.default_rng().integers(1000))  # must not matter
        policy = train_fitted(first_step_lattice, config, toy_lens, "before", seed)
        return policy.probabilities(seen)

    np.testing.assert_array_equal(outputs(0), outputs(0))
    assert not np.allclose(outputs(0), outputs(1))


@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_problem_is_predicted_by_who_never_saw_it(
    first_step_lattice: Lattice, toy_lens: Lens, name: str
) -> None:
    """Changing the outcomes of one fold changes no prediction for it."""
    tree = build_tree(first_step_lattice, toy_lens, "before")
    advantage, met = compute_advantage(tree, make_decisions(first_step_lattice, 0), 0.01)
    fold_of = deal_folds(40, 4, np.random.default_rng(0))[first_step_lattice.node_problem]
    predictions = [
        regress_by_fold(
            REGRESSIONS[name],
            first_step_lattice.observe("before"),
            values,
            met,
            fold_of,
            temperature=0.1,
            seed=0,
            name=name,
        )[0]
        for values in (advantage, np.where(fold_of == 1, -advantage, advantage))
    ]
    np.testing.assert_array_equal(*(predicted[fold_of == 1] for predicted in predictions))
    assert not np.allclose(*(predicted[fold_of == 2] for predicted in predictions))


@pytest.mark.parametrize("name", REGRESSIONS)
def test_hidden_fields_change_nothing(
    first_step_lattice: Lattice, toy_lens: Lens, name: str
) -> None:
    noise = np.random.default_rng(0)
    hidden = {
        key: noise.permutation(values) if key.startswith(("probe", "draft")) else values
        for key, values in first_step_lattice.fields.items()
    }
    config = FittedConfig(regression=REGRESSIONS[name], n_rounds=1)
    outputs = [
        train_fitted(lattice, config, toy_lens, "before", 0).probabilities(
            lattice.observe("before")
        )
        for lattice in (first_step_lattice, replace(first_step_lattice, fields=hidden))
    ]
    np.testing.assert_array_equal(*outputs)


CHANGES: dict[str, dict[str, object]] = {
    "config": {
        "regression": TreesRegression(n_trees=3),
        "n_rounds": 1,
        "n_folds": 4,
        "temperature": 0.5,
        "exchange_rate_factor": 3.0,
        "features": ("problem_n_words", "depth"),
    },
    "mlp": {
        "width": 9,
        "activation": "silu",
        "learning_rate": 0.01,
        "n_steps": 7,
        "batch_size": 32,
        "weight_decay": 5.0,
        "dropout": 0.6,
    },
    "trees": {
        "n_trees": 3,
        "max_leaf_nodes": 3,
        "min_samples_leaf": 40,
        "learning_rate": 0.05,
        "l2": 100.0,
        "max_features": 1.0,
    },
}


def test_every_field_has_a_changed_value() -> None:
    for name, kind in (("config", FittedConfig), ("mlp", MLPRegression)):
        assert set(CHANGES[name]) == {field.name for field in fields(kind)}
    assert set(CHANGES["trees"]) == {field.name for field in fields(TreesRegression)}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, changes in CHANGES.items() for name in changes]
)
def test_no_dead_knobs(kind: str, name: str, first_step_lattice: Lattice, toy_lens: Lens) -> None:
    base = FittedConfig(regression=REGRESSIONS.get(kind, TREES), n_rounds=2, n_folds=3)
    changed: object = base if kind == "config" else base.regression
    changed = replace(changed, **{name: CHANGES[kind][name]})  # type: ignore[type-var]
    if not isinstance(changed, FittedConfig):
        changed = replace(base, regression=changed)
    seen = first_step_lattice.observe("before")
    outputs = [
        train_fitted(first_step_lattice, c, toy_lens, "before", 0).probabilities(seen)
        for c in (base, changed)
    ]
    assert not np.array_equal(*outputs)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (FittedConfig, "n_rounds", 0),
        (FittedConfig, "n_folds", 1),
        (FittedConfig, "temperature", 0.0),
        (FittedConfig, "exchange_rate_factor", -1.0),
        (FittedConfig, "features", ()),
        (MLPRegression, "width", 0),
        (MLPRegression, "n_steps", 0),
        (MLPRegression, "batch_size", 0),
        (MLPRegression, "learning_rate", 0.0),
        (MLPRegression, "weight_decay", float("nan")),
        (MLPRegression, "dropout", 1.0),
        (MLPRegression, "activation", "relu"),
        (TreesRegression, "n_trees", 0),
        (TreesRegression, "max_leaf_nodes", 1),
        (TreesRegression, "min_samples_leaf", 0),
        (TreesRegression, "learning_rate", 0.0),
        (TreesRegression, "l2", -1.0),
        (TreesRegression, "max_features", 0.0),
    ],
)
def test_bad_values_are_named(kind: type, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        kind(**{name: value})


def test_what_cannot_be_trained_on_is_refused(
    first_step_lattice: Lattice, toy_lens: Lens, make_toy_lattice: Callable[..., Lattice]
) -> None:
    next_node = first_step_lattice.next_node.copy()
    next_node[-1, 1] = MISSING
    with pytest.raises(OffRecordError, match="missing"):
        train_fitted(
            replace(first_step_lattice, next_node=next_node),
            FittedConfig(),
            toy_lens,
            "before",
            0,
        )
    with pytest.raises(ValueError, match="n_folds"):
        train_fitted(
            make_toy_lattice(lambda kind, actions: actions[0] == kind, [1, 1, 0], 1),
            FittedConfig(),
            toy_lens,
            "before",
            0,
        )


@pytest.mark.parametrize("name", REGRESSIONS)
def test_policy_file_round_trip(
    first_step_lattice: Lattice, toy_lens: Lens, name: str, tmp_path: Path
) -> None:
    config = FittedConfig(regression=REGRESSIONS[name], n_rounds=1)
    policy = train_fitted(first_step_lattice, config, toy_lens, "before", 0, name="fitted")
    save_policy(policy, tmp_path / "policy.pt")
    loaded = load_policy(tmp_path / "policy.pt")
    assert isinstance(loaded, EnsemblePolicy)
    assert (loaded.name, loaded.protocol) == ("fitted", "before")
    seen = first_step_lattice.observe("before")
    np.testing.assert_array_equal(loaded.probabilities(seen), policy.probabilities(seen))

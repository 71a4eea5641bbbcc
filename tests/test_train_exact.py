"""The optimum of a toy is found, by seed, without a look at what is hidden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from routerlib.costs import Lens
from routerlib.errors import HiddenFieldError
from routerlib.lattice import Lattice, evaluate_probabilities
from routerlib.train import ExactConfig, train_ensemble, train_exact

FAST = ExactConfig(width=8, n_steps=60, learning_rate=0.02, weight_decay=0.0, dropout=0.0)


def test_learns_the_best_policy(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    config = ExactConfig(width=16, n_steps=300, learning_rate=0.02, weight_decay=0.0, dropout=0.0)
    policy = train_exact(first_step_lattice, config, toy_lens, "before", seed=0)
    decisions = policy.probabilities(first_step_lattice.observe("before"))
    values = evaluate_probabilities(first_step_lattice, decisions, toy_lens, "before")
    kinds = first_step_lattice.fields["problem_n_words"][: first_step_lattice.n_problems]
    assert values.accuracy.min() > 0.95
    np.testing.assert_allclose(values.cost, 30 + 20 * kinds, rtol=0.1)


def test_learns_from_the_judge_under_its_bill(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    """Only the score tells the kinds apart, and each of three decisions pays 9 for it."""
    kinds = first_step_lattice.fields["problem_n_words"]
    fields = {
        "depth": first_step_lattice.fields["depth"],
        "judge_usefulness": 9.0 * (kinds == 0),
    }
    lattice = replace(first_step_lattice, fields=fields)
    config = ExactConfig(width=16, n_steps=300, learning_rate=0.02, weight_decay=0.0, dropout=0.0)
    policy = train_exact(lattice, config, toy_lens, "judge", seed=0)
    values = evaluate_probabilities(
        lattice, policy.probabilities(lattice.observe("judge")), toy_lens, "judge"
    )
    assert values.accuracy.min() > 0.95
    # A first step by large costs 20 more and the draft that it replaces 10.
    np.testing.assert_allclose(values.cost, 30 + 30 * kinds[: lattice.n_problems] + 3 * 9, rtol=0.1)


def test_same_seed_same_policy_other_seed_other_policy(
    first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    seen = first_step_lattice.observe("before")

    def outputs(seed: int) -> np.ndarray:
        torch.manual_seed(np.random.default_rng().integers(1000))  # must not matter
        policy = train_exact(first_step_lattice, FAST, toy_lens, "before", seed)
        return policy.probabilities(seen)

    np.testing.assert_array_equal(outputs(0), outputs(0))
    assert not np.allclose(outputs(0), outputs(1))


def test_a_field_that_is_not_recorded_changes_nothing(
    first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    """It is no input, so a network of the same seed starts from the same weights."""
    unknown = np.full(first_step_lattice.n_nodes, np.nan)
    fields = first_step_lattice.fields | {"problem_small_logprob": unknown}
    other = replace(first_step_lattice, fields=fields)
    one, two = (
        train_exact(lattice, FAST, toy_lens, "probe", seed=0)
        for lattice in (first_step_lattice, other)
    )
    assert two.standardiser.names == one.standardiser.names
    np.testing.assert_array_equal(
        one.probabilities(other.observe("probe")), two.probabilities(other.observe("probe"))
    )
    named = replace(FAST, features=("problem_n_words", "problem_small_logprob"))
    asked = train_exact(other, named, toy_lens, "probe", seed=0)
    assert asked.standardiser.names == named.features


CHANGES: dict[str, object] = {
    "width": 9,
    "activation": "silu",
    "learning_rate": 0.01,
    "n_steps": 7,
    "weight_decay": 0.5,
    "entropy_bonus": 0.2,
    "validation_share": 0.4,
    "check_every": 7,
    "patience": 1,
    "exchange_rate_factor": 3.0,
    "dropout": 0.2,
    "features": ("problem_n_words", "depth"),
}


def test_every_field_has_a_changed_value() -> None:
    assert set(CHANGES) == {field.name for field in fields(ExactConfig)}


@pytest.mark.parametrize("name", CHANGES)
def test_no_dead_knobs(name: str, make_toy_lattice: Callable[..., Lattice], toy_lens: Lens) -> None:
    # Noisy steps and outcomes, so that the held-out objective has ups and downs to stop at.
    noise = np.random.default_rng(3)
    lattice = make_toy_lattice(
        lambda kind, actions: (actions[0] == kind) ^ (noise.random() < 0.2), [0, 1, 1] * 10, 2
    )
    base = replace(FAST, learning_rate=0.05, n_steps=40, check_every=1, patience=20, dropout=0.6)
    seen = lattice.observe("before")
    outputs = [
        train_exact(lattice, config, toy_lens, "before", 0).probabilities(seen)
        for config in (base, replace(base, **{name: CHANGES[name]}))  # type: ignore[arg-type]
    ]
    assert not np.array_equal(*outputs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 0),
        ("n_steps", 0),
        ("check_every", 0),
        ("patience", 0),
        ("learning_rate", 0.0),
        ("exchange_rate_factor", -1.0),
        ("weight_decay", -0.1),
        ("entropy_bonus", float("nan")),
        ("validation_share", 1.0),
        ("dropout", 1.0),
        ("activation", "relu"),
        ("features", ()),
    ],
)
def test_bad_values_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        ExactConfig(**{name: value})  # type: ignore[arg-type]


def test_hidden_fields_change_nothing(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    noise = np.random.default_rng(0)
    hidden = {
        key: noise.permutation(values) if key.startswith(("probe", "draft")) else values
        for key, values in first_step_lattice.fields.items()
    }
    changed = replace(first_step_lattice, fields=hidden)
    outputs = [
        train_exact(lattice, FAST, toy_lens, "before", 0).probabilities(lattice.observe("before"))
        for lattice in (first_step_lattice, changed)
    ]
    np.testing.assert_array_equal(*outputs)
    with pytest.raises(HiddenFieldError):
        train_exact(
            first_step_lattice,
            replace(FAST, features=("probe_entropy",)),
            toy_lens,
            "before",
            0,
        )


def test_too_few_problems_to_keep_some_apart(
    make_toy_lattice: Callable[..., Lattice], toy_lens: Lens
) -> None:
    lattice = make_toy_lattice(lambda kind, actions: actions[0] == kind, [1], 1)
    with pytest.raises(ValueError, match="validation_share"):
        train_exact(lattice, FAST, toy_lens, "before", 0)
    train_exact(lattice, replace(FAST, validation_share=0.0), toy_lens, "before", 0)


def test_ensemble_is_ranked_and_orders_the_kinds(
    first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    policy = train_ensemble(first_step_lattice, FAST, toy_lens, "before", (0, 1))
    ranks = policy.probabilities(first_step_lattice.observe("before"))[:, 1]
    kinds = first_step_lattice.fields["problem_n_words"]
    roots = first_step_lattice.node_depth == 0
    assert ranks[roots & (kinds == 1)].min() > ranks[roots & (kinds == 0)].max()
    assert 0.0 < ranks.min() < ranks.max() < 1.0

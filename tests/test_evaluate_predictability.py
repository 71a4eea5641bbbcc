"""R^2 is 1 where the features tell everything and not above 0 where they tell nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from routerlib.costs import Lens
from routerlib.evaluate.predictability import explain_advantage
from routerlib.lattice import Lattice
from routerlib.train.regression import MLPRegression, Regression, TreesRegression

MLP = MLPRegression(
    width=16, n_steps=100, batch_size=256, learning_rate=0.02, weight_decay=0.0, dropout=0.0
)
TREES = TreesRegression(n_trees=60, min_samples_leaf=5, l2=0.0, learning_rate=0.2, max_features=1.0)
REGRESSIONS: dict[str, Regression] = {"MLP": MLP, "trees": TREES}


def test_told_by_the_features(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    frame = explain_advantage(
        first_step_lattice, REGRESSIONS, toy_lens, ("before", "probe"), n_folds=3, n_resamples=100
    )
    assert frame["regressor"].tolist() == ["MLP", "trees"] * 2
    assert frame["protocol"].tolist() == ["before"] * 2 + ["probe"] * 2
    assert (frame["n"] == 40).all()
    assert (frame["value"] > 0.9).all()
    assert (frame["low"] <= frame["value"]).all()
    assert (frame["value"] <= frame["high"]).all()


def test_only_the_default_set_is_asked(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    kind = first_step_lattice.fields["problem_n_words"]
    fields = {"depth": first_step_lattice.fields["depth"], "n_digits": kind}
    hidden = replace(first_step_lattice, fields=fields)  # n_digits is not in the default set
    told = explain_advantage(hidden, {"trees": TREES}, toy_lens, ["before"], n_resamples=20)
    assert told["value"].item() < 0.3


def test_not_told_by_the_features(make_toy_lattice: Callable[..., Lattice], toy_lens: Lens) -> None:
    """Large is right half of the time, small a third, and no field says when."""
    noise = np.random.default_rng(0)
    lattice = make_toy_lattice(
        lambda _, actions: noise.random() < (0.5 if actions[-1] else 0.33), [0] * 60, 1
    )
    plain = {"MLP": MLPRegression(), "trees": TreesRegression()}
    frame = explain_advantage(lattice, plain, toy_lens, ("before",), n_folds=3)
    assert (frame["value"] < 0.1).all()
    assert (frame["low"] < 0.05).all()


def test_same_seed_same_frame(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    frames = [
        explain_advantage(
            first_step_lattice, {"trees": TREES}, toy_lens, ("before",), seed=seed, n_resamples=50
        )
        for seed in (0, 0, 1)
    ]
    assert frames[0].equals(frames[1])
    assert not frames[0].equals(frames[2])


def test_what_only_the_judge_tells(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    kind = first_step_lattice.fields["problem_n_words"]
    fields = {**first_step_lattice.fields, "judge_usefulness": 9.0 * (kind == 0)}
    del fields["problem_n_words"]
    frame = explain_advantage(
        replace(first_step_lattice, fields=fields),
        {"trees": TREES},
        toy_lens,
        ("draft", "judge"),
        n_folds=3,
        n_resamples=50,
    ).set_index("protocol")
    assert frame["value"]["draft"] < 0.2
    assert frame["value"]["judge"] > 0.9


def test_what_a_set_of_features_tells(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    sets = ["default", "problem_only", "position_only"]
    frame = explain_advantage(
        first_step_lattice,
        {"trees": TREES},
        toy_lens,
        ["before"],
        feature_sets=sets,
        n_folds=3,
        n_resamples=50,
    )
    assert frame["features"].tolist() == sets
    told = frame.set_index("features")["value"]
    # The kind of the problem counts at the first step only, so it takes both to know.
    assert told["default"] > 0.9
    assert 0.1 < told["problem_only"] < 0.6
    assert told["position_only"] < 0.6
    with pytest.raises(ValueError, match="unknown feature set 'text'"):
        explain_advantage(
            first_step_lattice, {"trees": TREES}, toy_lens, ["before"], feature_sets=["text"]
        )

"""What is cached is what training gives, and whatever could change it trains anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from routerlib.costs import Lens
from routerlib.lattice import Lattice
from routerlib.policies import Policy
from routerlib.train import (
    ExactConfig,
    PolicyCache,
    cache,
    train_ensemble,
    train_exact,
    train_process_reward,
)

FAST = ExactConfig(n_steps=2, width=4)


def test_the_second_time_is_read(
    tmp_path: Path, first_step_lattice: Lattice, toy_lens: Lens, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = PolicyCache(tmp_path / "policies")
    first = kept.train(train_exact, first_step_lattice, FAST, toy_lens, "before", 3, name="x")
    files = list((tmp_path / "policies").iterdir())
    assert [file.suffix for file in files] == [".pt"]
    monkeypatch.setattr(cache, "save_policy", None)  # training again would need it
    again = PolicyCache(tmp_path / "policies")
    second = again.train(train_exact, first_step_lattice, FAST, toy_lens, "before", 3, name="x")
    seen = first_step_lattice.observe("before")
    assert second.name == "x"
    np.testing.assert_array_equal(first.probabilities(seen), second.probabilities(seen))


def test_every_ingredient_counts(
    tmp_path: Path, first_step_lattice: Lattice, toy_lens: Lens, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = PolicyCache(tmp_path)
    outcome = first_step_lattice.outcome.copy()
    outcome[-1, 0] = 1.0 - outcome[-1, 0]
    dearer = replace(toy_lens, weights=toy_lens.weights * [1.0, 1.0, 1.0 + 1e-12])
    changed = [
        (first_step_lattice, FAST, toy_lens, "before", 0),
        (first_step_lattice, FAST, toy_lens, "before", 1),
        (first_step_lattice, FAST, toy_lens, "probe", 0),
        (first_step_lattice, replace(FAST, learning_rate=0.0030000001), toy_lens, "before", 0),
        (first_step_lattice, FAST, dearer, "before", 0),
        (first_step_lattice.select([1, 0, *range(2, 40)]), FAST, toy_lens, "before", 0),
        (replace(first_step_lattice, outcome=outcome), FAST, toy_lens, "before", 0),
    ]
    keys = [kept.compute_key(train_exact, *args) for args in changed]
    keys.append(kept.compute_key(train_exact, *changed[0], name="other"))
    keys.append(kept.compute_key(other_trainer, *changed[0]))
    monkeypatch.setattr(cache, "version", lambda name: f"0 of {name}")
    keys.append(PolicyCache(tmp_path).compute_key(train_exact, *changed[0]))
    assert len(set(keys)) == len(keys)
    assert kept.compute_key(train_exact, *changed[0]) == keys[0]


def test_code_counts(
    tmp_path: Path, first_step_lattice: Lattice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "PACKAGE", tmp_path)
    for name in cache.SOURCES:
        folder = tmp_path / name if "." not in name else tmp_path
        folder.mkdir(exist_ok=True)
        (folder / (name if "." in name else "part.py")).write_text("x = 1\n")
    before = PolicyCache(tmp_path).compute_key(other_trainer, first_step_lattice)
    (tmp_path / "policies" / "part.py").write_text("x = 2\n")
    assert PolicyCache(tmp_path).compute_key(other_trainer, first_step_lattice) != before


def test_seeds_are_cached_one_by_one_and_their_mean_is_the_ensemble(
    tmp_path: Path, first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    kept = PolicyCache(tmp_path)
    made = train_exact, first_step_lattice, FAST, toy_lens, "before"
    kept.train_seeds(*made, seeds=(0, 1), name="x")
    policy, members = kept.train_seeds(*made, seeds=(0, 1, 2), name="x")
    assert len(list(tmp_path.iterdir())) == 3
    assert policy.name == "x"
    assert len(members) == 3
    whole = train_ensemble(*made[1:], (0, 1, 2), name="x")
    seen = first_step_lattice.observe("before")
    np.testing.assert_array_equal(policy.probabilities(seen), whole.probabilities(seen))


def test_different_trainings_run_side_by_side(
    tmp_path: Path, first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    calls = [
        (train_exact, first_step_lattice, FAST, toy_lens, "before", 0),
        (train_process_reward, first_step_lattice),
        (train_exact, first_step_lattice, FAST, toy_lens, "before", 0),
    ]
    side_by_side = PolicyCache(tmp_path / "a").train_all(calls)
    assert [policy.name for policy in side_by_side] == ["MLP", "process reward", "MLP"]
    assert len(list((tmp_path / "a").iterdir())) == 2
    alone = PolicyCache(tmp_path / "b")
    for policy, call in zip(side_by_side, calls, strict=True):
        seen = first_step_lattice.observe(policy.protocol)
        expected = alone.train(*call).probabilities(seen)
        np.testing.assert_array_equal(policy.probabilities(seen), expected)


def test_an_argument_without_content_is_refused(
    tmp_path: Path, first_step_lattice: Lattice
) -> None:
    with pytest.raises(TypeError, match="is a generator, which cannot be told from another"):
        PolicyCache(tmp_path).train(other_trainer, first_step_lattice, (x for x in "a"))


def test_a_failed_training_leaves_nothing(tmp_path: Path, first_step_lattice: Lattice) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        PolicyCache(tmp_path).train(other_trainer, first_step_lattice, 1)
    assert not list(tmp_path.iterdir())


def other_trainer(lattice: Lattice, *args: object) -> Policy:
    raise RuntimeError("on purpose")

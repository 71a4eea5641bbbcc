"""Re-splits of toy lattices: with a certificate the target is missed seldom, without it often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from routerlib.calibrate import KeepAccuracy, MaxCost
from routerlib.cost_bounds import TokenCaps
from routerlib.costs import Lens
from routerlib.evaluate import evaluate_resplits, list_certificates
from routerlib.evaluate.resplits import METHODS
from routerlib.lattice import Lattice
from routerlib.policies import FirstTokenEntropy, LastSteps

CAPS = TokenCaps(step=10, tail=10, shared=0, problem=0)
TARGETS = [KeepAccuracy(0.8), MaxCost(0.5)]


@pytest.fixture(scope="module")
def noisy(request: pytest.FixtureRequest) -> dict[str, Lattice]:
    """Problems of which large solves 60% and small 30%, with decisions that tell nothing."""
    from conftest import build_toy_lattice

    def make(seed: int, n_problems: int) -> Lattice:
        generator = np.random.default_rng(seed)
        lucky = generator.random((n_problems, 8))
        kinds = list(range(n_problems))

        def is_right(kind: int, actions: tuple[int, ...]) -> bool:
            path = int("".join(map(str, actions)), 2)
            return bool(lucky[kind, path] < 0.3 + 0.1 * sum(actions))

        return build_toy_lattice(is_right, kinds, depth=2, seed=seed)

    return {"train": make(0, 60), "calibration": make(1, 80), "test": make(2, 160)}


def run(noisy: dict[str, Lattice], lens: Lens, seed: int = 0, **more: object) -> pd.DataFrame:
    options: dict[str, object] = {"delta": 0.1, "n_splits": 40, "max_thresholds": 30} | more
    return evaluate_resplits(
        {"first-token entropy": FirstTokenEntropy(), "last steps large": LastSteps()},
        noisy["train"],
        (noisy["calibration"], noisy["test"]),
        lens,
        targets=TARGETS,
        token_caps=CAPS,
        generator=np.random.default_rng(seed),
        **options,  # type: ignore[arg-type]
    )


def test_certificates_miss_seldom(noisy: dict[str, Lattice], toy_lens: Lens) -> None:
    frame = run(noisy, toy_lens)
    assert len(frame) == 2 * len(TARGETS) * len(METHODS)
    assert set(frame["n_splits"]) == {40}
    shares = frame[["missed", "refused", "low", "high"]].to_numpy()
    assert ((shares >= 0.0) & (shares <= 1.0)).all()
    assert (frame["missed"] + frame["refused"] <= 1.0 + 1e-12).all()
    missed = frame.groupby("method")["missed"].mean()
    assert missed["picked"] > 0.2
    assert missed["betting"] < missed["picked"] / 2
    assert missed["hoeffding_bentkus"] <= 0.1
    assert (frame[frame["method"] == "picked"]["refused"] == 0.0).all()
    chosen = frame[frame["refused"] < 1.0]
    assert chosen[["accuracy", "cost_share"]].notna().all(axis=None)
    costs = frame[frame["target_kind"] == "MaxCost"].set_index(["router", "method"])["cost_share"]
    assert costs["first-token entropy", "betting"] < costs["first-token entropy", "picked"]


def test_same_seed_same_frame_other_seed_another(noisy: dict[str, Lattice], toy_lens: Lens) -> None:
    once, again, other = (run(noisy, toy_lens, seed, n_splits=10) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(once, again)
    assert not once["accuracy"].equals(other["accuracy"])


def test_refused_always(noisy: dict[str, Lattice], toy_lens: Lens) -> None:
    frame = run(noisy, toy_lens, n_splits=5, delta=1e-9)
    # (a cost that is the same for every problem is certain after all)
    refused = frame[(frame["method"] != "picked") & (frame["target_kind"] == "KeepAccuracy")]
    assert (refused["refused"] == 1.0).all()
    assert (refused["missed"] == 0.0).all()
    assert refused["accuracy"].isna().all()


def test_outcomes_of_training_problems_change_nothing(
    noisy: dict[str, Lattice], toy_lens: Lens, make_toy_lattice: Callable[..., Lattice]
) -> None:
    train = noisy["train"]
    wrong = noisy | {"train": replace(train, outcome=1.0 - train.outcome)}
    pd.testing.assert_frame_equal(
        run(noisy, toy_lens, n_splits=5), run(wrong, toy_lens, n_splits=5)
    )


def test_certificates_of_several_routers(noisy: dict[str, Lattice], toy_lens: Lens) -> None:
    targets = [KeepAccuracy(0.5), KeepAccuracy(1.5), MaxCost(0.6)]
    policies = {"first-token entropy": FirstTokenEntropy(), "last steps large": LastSteps()}
    frame = list_certificates(
        policies,
        noisy["train"],
        noisy["test"],
        toy_lens,
        targets=targets,
        token_caps=CAPS,
        generator=np.random.default_rng(0),
        bound="betting",
        n_resamples=50,
    ).set_index(["router", "target"])
    assert list(frame.index) == [(name, t.label) for name in policies for t in targets]
    impossible = frame.xs("accuracy >= 150% of large", level="target")
    assert impossible["refused"].str.contains("more would not help").all()
    assert impossible["setting"].isna().all()
    found = frame[frame["refused"].isna()]
    assert len(found) == 4
    assert (found["p_value"] <= found["delta"]).all()
    assert found["value"].between(found["low"], found["high"]).all()
    assert set(frame["n"]) == {160}

"""Cross-validation on a toy: held-out problems stay out, and better inputs win."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from routerlib.calibrate import Sweep
from routerlib.costs import Lens
from routerlib.evaluate.selection import (
    compute_out_of_fold_scores,
    compute_sweep_area,
    evaluate_configs,
)
from routerlib.lattice import Lattice, Values
from routerlib.train import ExactConfig

FAST = ExactConfig(width=8, n_steps=40, learning_rate=0.02, features=("problem_n_words", "depth"))


def test_sweep_area_by_hand() -> None:
    # from (10, 0.2) over (20, 0.6) to (30, 0.6); thresholds run from dear to cheap
    small = Values(np.full(5, 0.2), np.full(5, 10.0))
    large = Values(np.full(5, 0.6), np.full(5, 30.0))
    table = Values(np.full((3, 5), 0.6), np.array([[30.0], [20.0], [10.0]]) * np.ones(5))
    table.accuracy[2] = 0.2
    sweep = Sweep(np.array([0.0, 0.5, 2.0]), table)
    area = compute_sweep_area(sweep, small, large, np.full((2, 5), 0.2))
    np.testing.assert_allclose(area, [0.5, 0.5, 0.5])


def test_informative_inputs_win(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    configs = {"blind": replace(FAST, features=("last_mean_logprob",)), "seeing": FAST}
    frame = evaluate_configs(
        configs, first_step_lattice, toy_lens, "before", seeds=(0,), n_folds=2, n_resamples=50
    )
    assert frame.config.tolist() == ["seeing", "blind"]
    assert frame.low[0] > 0.1
    assert (frame.n == 40).all()


def test_scores_come_from_the_other_folds(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    def scores(lattice: Lattice) -> np.ndarray:
        return compute_out_of_fold_scores(
            lattice,
            replace(FAST, features=None),
            toy_lens,
            "before",
            seeds=(0,),
            generator=np.random.default_rng(0),
            n_folds=2,
        )

    mine = (np.random.default_rng(0).permutation(40) % 2)[first_step_lattice.node_problem] == 0
    noise = np.random.default_rng(2)
    outcome = first_step_lattice.outcome.copy()
    wrong = mine & (first_step_lattice.node_depth == 2) & (noise.random(len(mine)) < 0.1)
    outcome[wrong] = 0.0
    first, second = scores(first_step_lattice), scores(replace(first_step_lattice, outcome=outcome))
    np.testing.assert_array_equal(first[mine], second[mine])
    assert not np.array_equal(first[~mine], second[~mine])
    assert np.isfinite(first).all()


@pytest.mark.parametrize("n_folds", [1, 41])
def test_impossible_folds(n_folds: int, first_step_lattice: Lattice, toy_lens: Lens) -> None:
    with pytest.raises(ValueError, match=str(n_folds)):
        compute_out_of_fold_scores(
            first_step_lattice,
            FAST,
            toy_lens,
            "before",
            seeds=(0,),
            generator=np.random.default_rng(0),
            n_folds=n_folds,
        )

"""The cascade by hand: votes, what is billed, and where its settings come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from lattice_cases import make_step, make_tables

from routerlib.costs import Lens
from routerlib.errors import StoreError
from routerlib.evaluate.cascade import Samples, build_samples, evaluate_cascades, sweep_cascade
from routerlib.lattice import Lattice
from routerlib.records import State, Step

MakeLattice = Callable[..., Lattice]
PROBLEMS = ("toy/train/0", "toy/train/1", "toy/train/2", "toy/train/3")


@pytest.fixture
def samples() -> Samples:
    """Problem 0 agrees on a right answer, 1 on a wrong one, 2 not at all, 3 gives none."""
    answer = np.array([[1, 1, 1], [2, 2, 1], [1, 2, 3], [-1, -1, -1]])
    right = np.array([[1, 1, 1], [0, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=np.float64)
    tokens = np.zeros((4, 3, 3))
    tokens[:, 0, 0], tokens[:, 1:, 1], tokens[:, :, 2] = 5.0, 5.0, [10.0, 20.0, 30.0]
    return Samples(PROBLEMS, answer, right, tokens)


@pytest.fixture
def lattice(make_toy_lattice: MakeLattice) -> Lattice:
    """Large alone is right on problems 1 and 3; it costs 3 calls of 10 tokens at 3 each."""
    return make_toy_lattice(lambda kind, actions: actions[0] == kind, [0, 1, 0, 1], 2)


def test_values_by_hand(samples: Samples, lattice: Lattice, toy_lens: Lens) -> None:
    sweep = sweep_cascade(samples, lattice, toy_lens, 3)
    np.testing.assert_allclose(sweep.settings[:-1], [0, 1 / 3, 2 / 3, 1])
    spent, large = 5.0 + 10 + 20 + 30, 90.0
    by_setting = {
        0: ([1, 0, 0, 0], [spent] * 4),
        1: ([1, 0, 0, 1], [spent, spent, spent, spent + large]),
        2: ([1, 0, 0, 1], [spent, spent, spent + large, spent + large]),
        3: ([1, 1, 0, 1], [spent, spent + large, spent + large, spent + large]),
        4: ([0, 1, 0, 1], [spent + large] * 4),
    }
    for place, (right, cost) in by_setting.items():
        assert sweep.values.accuracy[place].tolist() == right, place
        assert sweep.values.cost[place].tolist() == cost, place


def test_fewer_samples_cost_less_and_ties_go_to_the_first(
    samples: Samples, lattice: Lattice, toy_lens: Lens
) -> None:
    sweep = sweep_cascade(samples, lattice, toy_lens, 2)
    assert sweep.values.cost[0].tolist() == [35.0] * 4
    assert sweep.values.accuracy[1].tolist() == [1, 0, 0, 1]  # problem 2: the first of two, wrong
    swapped = replace(
        samples, answer=samples.answer[:, [1, 0, 2]], right=samples.right[:, [1, 0, 2]]
    )
    assert sweep_cascade(swapped, lattice, toy_lens, 2).values.accuracy[1, 2] == 1


def test_what_does_not_fit_is_refused(samples: Samples, lattice: Lattice, toy_lens: Lens) -> None:
    with pytest.raises(ValueError, match="n_samples is 4; 3 were recorded"):
        sweep_cascade(samples, lattice, toy_lens, 4)
    with pytest.raises(ValueError, match="problems are not those of the samples"):
        sweep_cascade(samples, lattice.select([1, 0, 2, 3]), toy_lens, 2)


def test_settings_are_chosen_on_calibration_problems(
    samples: Samples, lattice: Lattice, toy_lens: Lens
) -> None:
    # Where every sample is right on calibration problems, only accepting all is worth anything.
    always = replace(samples, right=np.ones_like(samples.right))
    rows = [
        evaluate_cascades(
            (calibration, lattice), (samples, lattice), toy_lens, n_samples=[3], n_resamples=20
        ).iloc[0]
        for calibration in (samples, always)
    ]
    # small (30, 1/2) -> all accepted (65, 1/4) -> large (90, 1/2)
    assert rows[1]["value"] == pytest.approx(3 / 8 - 1 / 2)
    assert rows[0]["value"] > rows[1]["value"]
    assert rows[0]["cost_least"] == pytest.approx((65 - 30) / (90 - 30))
    assert rows[0][["factor", "level", "n"]].tolist() == [
        *("cascade by self-agreement", "3 samples", 4)
    ]


def make_records() -> tuple[list[State], list[Step]]:
    states = [State(f"root {p}", p, 0, "", False, None, None) for p in "pq"]
    steps = []
    for p, said in (("p", "112"), ("q", "1")):
        for i, digit in enumerate(said):
            answer = None if (p, i) == ("p", 2) else digit
            states.append(State(f"{p}{i}", p, 1, f"Answer: {digit}", True, answer, digit == "1"))
            steps.append(
                make_step(
                    f"s{p}{i}", f"root {p}", "small", f"{p}{i}", f"Answer: {digit}",
                    problem_id=p, sample_index=i, temperature=0.7, kind="tail",
                    prompt_tokens=30, shared_prompt_tokens=20, completion_tokens=3 + i,
                )
            )  # fmt: skip
    return states, steps


def test_samples_are_read_from_the_record() -> None:
    states, steps = make_records()
    failed = replace(steps[0], id="x", error="timeout", next_state_id=None, text=None)
    greedy = replace(steps[0], id="y", temperature=0.0)
    tables = make_tables(["p", "q"], states, [*steps, failed, greedy])
    samples = build_samples(tables, ["q", "p"], "small")
    assert samples.problem_ids == ("p",)  # q has fewer samples
    assert samples.answer.tolist() == [[1, 1, -1]]
    assert samples.right.tolist() == [[1.0, 1.0, 0.0]]
    assert samples.tokens.tolist() == [[[10, 20, 3], [0, 30, 4], [0, 30, 5]]]
    both = build_samples(
        replace(tables, steps=tables.steps.filter(pl.col("sample_index") == 0)), ["q", "p"], "small"
    )
    assert both.problem_ids == ("q", "p")
    refused = replace(failed, id=steps[1].id, prompt_tokens=30, completion_tokens=500)
    paid = build_samples(make_tables(["p"], states, [*steps, refused]), ["p"], "small")
    assert paid.tokens.tolist() == [[[10, 20, 3], [0, 30 + 30, 500 + 4], [0, 30, 5]]]
    with pytest.raises(StoreError, match="no sampled solution by large of these 2 problems"):
        build_samples(tables, ["p", "q"], "large")

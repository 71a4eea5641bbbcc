"""Walks down a lattice come as often as they should; recorded rollouts by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from lattice_cases import build_hand_lattice, make_hand_records, make_tables

from routerlib.costs import Lens
from routerlib.errors import OffRecordError, StoreError
from routerlib.lattice import MISSING, Lattice, evaluate_probabilities, restrict_one_way
from routerlib.train.rollouts import Rollouts, build_rollouts, sample_rollouts


def sample(lattice: Lattice, decisions: np.ndarray, lens: Lens, seed: int, n: int = 1) -> Rollouts:
    generator = np.random.default_rng(seed)
    return sample_rollouts(lattice, decisions, lens, "probe", generator=generator, n_per_problem=n)


def draw_decisions(lattice: Lattice) -> np.ndarray:
    large = np.random.default_rng(0).uniform(0.1, 0.9, lattice.n_nodes)
    return np.stack((1.0 - large, large), axis=1)


@pytest.mark.parametrize("one_way", [False, True])
def test_means_are_those_of_the_replay(
    make_toy_lattice: Callable[..., Lattice], toy_lens: Lens, one_way: bool
) -> None:
    lattice = make_toy_lattice(lambda kind, actions: sum(actions) > kind, [0, 1], 2)
    lattice = restrict_one_way(lattice) if one_way else lattice
    decisions = draw_decisions(lattice)
    rollouts = sample(lattice, decisions, toy_lens, 1, n=20_000)
    exact = evaluate_probabilities(lattice, decisions, toy_lens, "probe")
    for drawn, expected in ((rollouts.reward, exact.accuracy), (rollouts.cost, exact.cost)):
        for problem in (0, 1):
            values = drawn.sum(axis=1)[rollouts.row[:, 0] == problem]
            error = values.std() / np.sqrt(len(values))
            assert abs(values.mean() - expected[problem]) <= 4.0 * error + 1e-12
    assert (rollouts.behaviour[rollouts.taken] > 0.0).all()
    assert lattice.allowed[rollouts.row, rollouts.action][rollouts.taken].all()


def test_same_seed_same_rollouts(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    decisions = draw_decisions(first_step_lattice)
    one, same, other = (sample(first_step_lattice, decisions, toy_lens, s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.action, same.action)
    assert not np.array_equal(one.action, other.action)


def test_certain_decisions_are_always_taken(first_step_lattice: Lattice, toy_lens: Lens) -> None:
    decisions = np.tile([0.0, 1.0], (first_step_lattice.n_nodes, 1))
    rollouts = sample(first_step_lattice, decisions, toy_lens, 0)
    assert (rollouts.action == 1).all()
    assert (rollouts.behaviour == 1.0).all()


def test_missing_step_is_an_error_only_when_taken(
    first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    next_node = first_step_lattice.next_node.copy()
    next_node[0, 1] = MISSING
    lattice = replace(first_step_lattice, next_node=next_node)
    sample(lattice, np.tile([1.0, 0.0], (lattice.n_nodes, 1)), toy_lens, 0)
    with pytest.raises(OffRecordError, match="toy/train/0"):
        sample(lattice, np.tile([0.0, 1.0], (lattice.n_nodes, 1)), toy_lens, 0)


def test_rollouts_of_a_judged_policy_need_its_scores(toy_lens: Lens) -> None:
    lattice = build_hand_lattice()
    ledger = lattice.ledger | {"judge": np.full_like(lattice.ledger["judge"], np.nan)}
    coin, draw = np.full((lattice.n_nodes, 2), 0.5), np.random.default_rng(0)
    found = sample_rollouts(lattice, coin, toy_lens, "judge", generator=draw)
    assert np.isfinite(found.cost).all()
    with pytest.raises(OffRecordError, match="never judged by 'large'"):
        sample_rollouts(replace(lattice, ledger=ledger), coin, toy_lens, "judge", generator=draw)


# --- recorded --------------------------------------------------------------------------------

# (step of the hand-made lattice, sample index, probability). p's rollouts 0 and 1 are finished; its
# rollout 2 stops at A; q has rollout 0.
TAKEN = (
    ("root-small", 0, 0.6),
    ("A-large", 0, 0.4),
    ("AC-small", 0, 0.6),
    ("root-large", 1, 0.4),
    ("B-large", 1, 0.4),
    ("root-small", 2, 0.6),
    ("q.root-large", 0, 0.4),
)


def build_hand_rollouts(
    taken: tuple[tuple[str, int, float], ...] = TAKEN,
    lens: Lens | None = None,
    warmer: tuple[tuple[str, int, float], ...] = (),
) -> Rollouts:
    """Rollouts at temperature 0.7, beside those at 1."""
    states, steps = make_hand_records()
    step_of = {step.id: step for step in steps}
    chosen = [
        (replace(step_of[n], id=f"{n}-{i}-{t}", sample_index=i, temperature=t), probability)
        for t, choices in ((0.7, taken), (1.0, warmer))
        for n, i, probability in choices
    ]
    recorded = list({step.id: step for step, _ in chosen}.values())
    choices = pl.DataFrame(
        {
            "step_id": [step.id for step, _ in chosen],
            "probability": [probability for _, probability in chosen],
        },
        schema={"step_id": pl.String, "probability": pl.Float64},
    )
    lens = lens or Lens("toy", "tokens", np.array([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0]]))
    return build_rollouts(
        make_tables(["p", "q"], states, recorded + steps),
        choices,
        benchmark="toy",
        split="train",
        model_ids=("small", "large"),
        depth=2,
        temperature=0.7,
        lens=lens,
    )


def test_recorded_rollouts_by_hand() -> None:
    """Costs: a step is uncached prompt plus completion, threefold for the large model, and 10
    prompt tokens are shared. p by small, large, small: 5 + 2; 3 (7 + 3); 20 - 17 + 5. p by large
    twice: 3 (5 + 3); 3 (0 + 4). q: 3 (5 + 5)."""
    rollouts = build_hand_rollouts()
    order = np.lexsort((rollouts.reward.sum(axis=1), rollouts.taken.sum(axis=1)))
    assert rollouts.taken.sum(axis=1)[order].tolist() == [1, 2, 3]
    assert rollouts.action[order].tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert rollouts.reward[order].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(
        rollouts.behaviour[order], [[0.4, 1.0, 1.0], [0.4, 0.4, 1.0], [0.6, 0.4, 0.6]]
    )
    np.testing.assert_allclose(rollouts.cost[order], [[30, 0, 0], [24, 12, 0], [7, 30, 8]])
    longest = rollouts.observations.rows(rollouts.row[order][2])
    assert longest.column("depth").tolist() == [0.0, 1.0, 2.0]
    assert longest.column("last_author_large").tolist() == [-1.0, 0.0, 1.0]
    np.testing.assert_allclose(longest.column("last_mean_logprob"), [0.0, -0.3, -0.3])
    assert longest.protocol == "before"
    assert rollouts.allowed.all()


def test_two_choices_in_one_state_are_refused() -> None:
    with pytest.raises(StoreError, match="two choices"):
        build_hand_rollouts((*TAKEN, ("root-large", 0, 0.5)))


def test_a_step_that_two_policies_chose_is_refused() -> None:
    """Only one that is asked for: rollouts at another temperature have their own probabilities."""
    with pytest.raises(StoreError, match="chosen by two behaviour policies"):
        build_hand_rollouts((*TAKEN, ("A-large", 0, 0.1)))
    warmer = (("root-small", 0, 0.1), ("root-small", 0, 0.2))
    expected, found = build_hand_rollouts(), build_hand_rollouts(warmer=warmer)
    np.testing.assert_array_equal(found.behaviour, expected.behaviour)


def test_nothing_finished_is_an_error() -> None:
    with pytest.raises(StoreError, match="finished"):
        build_hand_rollouts((("root-small", 0, 0.5),))
    with pytest.raises(StoreError, match="finished"):
        build_hand_rollouts(())

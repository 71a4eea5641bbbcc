"""Incomplete recordings: what is missing is listed, and walking into it is an error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lattice_cases import (
    World,
    build,
    build_hand_lattice,
    index_nodes,
    make_hand_tables,
    record,
)

from routerlib.costs import Lens
from routerlib.errors import OffRecordError
from routerlib.lattice import (
    MISSING,
    Lattice,
    coverage,
    evaluate_probabilities,
    follow_thresholds,
    frontier,
    missing_expansions,
    oracle,
    restrict_one_way,
)
from routerlib.records import compute_state_id

LENS = Lens("toy", "tokens", np.array([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0]]))
PAIR = ("small", "large")


def build_without(*step_ids: str) -> Lattice:
    tables = make_hand_tables()
    kept = tables.steps.filter(~pl.col("id").is_in(list(step_ids)))
    return build(replace(tables, steps=kept), PAIR, 2)


def always(lattice: Lattice, action: int) -> np.ndarray:
    return np.eye(2)[np.full(lattice.n_nodes, action)]


def test_complete_lattice() -> None:
    found = coverage(build_hand_lattice())
    assert found.complete.all()
    assert (found.n_edges, found.n_missing) == (12, 0)
    assert found.share_problems == found.share_edges == 1.0
    assert missing_expansions(build_hand_lattice()) == []


def test_what_is_missing_by_hand() -> None:
    lattice = build_without("A-large", "BC-large")
    found = coverage(lattice)
    # AC is not known to exist any more: p has root, A, B, BC
    assert (found.n_edges, found.n_missing) == (10, 2)
    assert found.share_edges == 0.8
    assert found.share_problems == 0.5
    assert found.complete[lattice.problem_ids.index("q")]
    assert missing_expansions(lattice) == [
        ("p", "A", "large", "step"),
        ("p", "BC", "large", "tail"),
    ]


def test_merged_states_are_listed_once() -> None:
    world = World(3, n_lines=1, end_share=0.0)
    tables = record(world, ["p"], 3, merge=True)
    tails = replace(tables, steps=tables.steps.filter(pl.col("kind") == "step"))
    lattice = build(tails, world.model_ids, 3)
    assert coverage(lattice).n_missing == 16
    missing = missing_expansions(lattice)
    assert [(model, kind) for _, _, model, kind in missing] == [("m0", "tail"), ("m1", "tail")]


def test_a_problem_without_any_row_is_all_missing() -> None:
    tables = make_hand_tables()
    row = tables.problems.head(1).with_columns(id=pl.lit("new"))
    lattice = build(replace(tables, problems=pl.concat([tables.problems, row])), PAIR, 2)
    assert [entry for entry in missing_expansions(lattice) if entry[0] == "new"] == [
        ("new", compute_state_id("new", "", False), model, "step") for model in PAIR
    ]
    assert coverage(lattice).complete.sum() == 2


def test_an_empty_recording_can_be_listed() -> None:
    tables = make_hand_tables()
    lattice = build(replace(tables, steps=tables.steps.head(0)), PAIR, 2)
    assert len(missing_expansions(lattice)) == 4
    assert coverage(lattice).share_edges == 0.0


def test_policies_that_stay_on_the_record_are_scored() -> None:
    lattice, complete = build_without("A-large"), build_hand_lattice()
    for action in (0, 1):
        for protocol in ("before", "probe", "draft"):
            part = evaluate_probabilities(lattice, always(lattice, action), LENS, protocol)
            whole = evaluate_probabilities(complete, always(complete, action), LENS, protocol)
            np.testing.assert_array_equal(part.cost, whole.cost)
            np.testing.assert_array_equal(part.accuracy, whole.accuracy)


def test_walking_off_the_record_is_an_error() -> None:
    lattice = build_without("A-large")
    chosen = always(lattice, 0)
    chosen[index_nodes(lattice)["p", (0,)]] = [1 - 1e-9, 1e-9]
    message = r"problem 'p', state 'A' at depth 1: the step of model 'large' was never recorded"
    with pytest.raises(OffRecordError, match=message):
        evaluate_probabilities(lattice, chosen, LENS, "before")
    scores = chosen[:, 1]
    follow_thresholds(lattice, scores, np.array([0.5]), LENS, "before")
    with pytest.raises(OffRecordError, match=message):
        follow_thresholds(lattice, scores, np.array([0.5, 1e-9]), LENS, "before")
    for find in (oracle, frontier):
        with pytest.raises(OffRecordError, match="keep complete problems"):
            find(lattice, LENS, "before")
    whole = lattice.select(coverage(lattice).complete)
    assert oracle(whole, LENS, "before").cost.tolist() == [9.0]


def test_probing_needs_the_small_models_step() -> None:
    """Large at B is recorded, so ``before`` can choose it; a probe or draft there is not."""
    lattice = build_without("B-small")
    values = evaluate_probabilities(lattice, always(lattice, 1), LENS, "before")
    assert values.cost[lattice.problem_ids.index("p")] == 36
    for protocol in ("probe", "draft"):
        message = r"state 'B' at depth 1: the step of model 'small' was never recorded"
        with pytest.raises(OffRecordError, match=message):
            evaluate_probabilities(lattice, always(lattice, 1), LENS, protocol)
        with pytest.raises(OffRecordError, match=message):
            follow_thresholds(lattice, np.ones(lattice.n_nodes), np.zeros(1), LENS, protocol)
    node = index_nodes(lattice)["p", (1,)]
    assert np.isnan(lattice.fields["draft_tokens"][node])
    assert np.isnan(lattice.ledger["probe"][node]).all()
    assert np.isfinite(lattice.ledger["before"][node, 1]).all()


def build_unjudged(*step_ids: str) -> Lattice:
    tables = make_hand_tables()
    assert tables.judgements is not None
    kept = tables.judgements.filter(~pl.col("step_id").is_in(list(step_ids)))
    return build(replace(tables, judgements=kept), PAIR, 2)


def test_judging_needs_the_drafts_score() -> None:
    """The draft at B is recorded but not judged: only a judge's policy that gets there stops."""
    lattice = build_unjudged("B-small")
    nodes = index_nodes(lattice)
    for path in nodes:
        usefulness = lattice.fields["judge_usefulness"][nodes[path]]
        assert np.isnan(usefulness) == (path == ("p", (1,)))
    evaluate_probabilities(lattice, always(lattice, 1), LENS, "draft")
    evaluate_probabilities(lattice, always(lattice, 0), LENS, "judge")
    message = r"'p', state 'B' at depth 1: the draft of model 'small' was never judged by 'large'"
    for action in (0, 1):
        chosen = always(lattice, 1)
        chosen[nodes["p", (1,)]] = np.eye(2)[action]
        with pytest.raises(OffRecordError, match=message):
            evaluate_probabilities(lattice, chosen, LENS, "judge")
        with pytest.raises(OffRecordError, match=message):
            follow_thresholds(lattice, chosen[:, 1], np.array([0.5]), LENS, "judge")
    for find in (oracle, frontier):
        with pytest.raises(OffRecordError, match=r"routerlib judge.*coverage\(lattice, 'judge'\)"):
            find(lattice, LENS, "judge")


def test_problems_that_are_judged_throughout_can_be_kept() -> None:
    lattice = build_unjudged("B-small")
    for protocol in ("before", "probe", "draft"):
        assert coverage(lattice, protocol).complete.all()
    found = coverage(lattice, "judge")
    assert (found.n_edges, found.n_missing, found.share_problems) == (12, 2, 0.5)
    kept = lattice.select(found.complete)
    assert kept.problem_ids == ("q",)
    assert oracle(kept, LENS, "judge").cost.tolist() == [9.0 + 3 * (5 + 4 + 2 + 1)]
    # After the escalation nothing is judged, so that score is not needed.
    assert coverage(restrict_one_way(lattice), "judge").complete.all()
    assert not coverage(build_unjudged("A-small", "q.root-small"), "judge").complete.any()


def test_a_judges_bill_needs_the_large_models_prompt() -> None:
    lattice = build_without("A-large")
    message = r"state 'A' at depth 1: the step of model 'large' was never recorded"
    with pytest.raises(OffRecordError, match=message):
        evaluate_probabilities(lattice, always(lattice, 0), LENS, "judge")
    evaluate_probabilities(lattice, always(lattice, 1), LENS, "judge")


@given(seed=st.integers(0, 1000), kept=st.floats(0.2, 1.0))
@settings(max_examples=25, deadline=None)
def test_collecting_what_is_missing_completes(seed: int, kept: float) -> None:
    """Adding the listed expansions again and again ends at the complete lattice."""
    world = World(seed)
    full = record(world, ["a", "b"], 2, merge=True)
    have = np.random.default_rng(seed).random(len(full.steps)) < kept
    for _ in range(4):
        steps = full.steps.filter(pl.Series(have))
        lattice = build(replace(full, steps=steps), world.model_ids, 2)
        assert np.isnan(lattice.outcome[lattice.next_node == MISSING]).all()
        wanted = set(missing_expansions(lattice))
        rows = full.steps.select("problem_id", "state_id", "model_id", "kind").rows()
        assert wanted <= set(rows)
        have = have | np.array([row in wanted for row in rows])
    assert coverage(lattice).complete.all()
    assert lattice.n_nodes == build(full, world.model_ids, 2).n_nodes

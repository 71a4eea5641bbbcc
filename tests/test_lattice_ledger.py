"""What every action costs on the tree made by hand, under each protocol.

Lens: an uncached or written token is 1 by the small model and 3 by the large. Shared prompt 10,
own prompt 5, so a first call reads 5 tokens uncached; see ``make_hand_tables``. A judge's call adds
a question of 2 tokens to the draft and answers with 1.
"""

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
    build_scripted,
    index_nodes,
    make_hand_records,
    make_hand_tables,
    make_tables,
    record,
)

from routerlib.costs import Lens, compute_cost
from routerlib.features import PROTOCOLS
from routerlib.judge_prompts import JUDGE_PROMPTS
from routerlib.lattice import TERMINAL, evaluate_probabilities, restrict_one_way
from routerlib.lattice.rows import JUDGE_QUESTIONS

LENS = Lens("toy", "tokens", np.array([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0]]))
SMALL, LARGE = 0, 1

# What the judge reads uncached, at each node.
JUDGED = {
    (): 5 + 2 + 2,  # the problem, the draft, the question
    (0,): 4 + 2,  # it has read the draft at the root, which was kept
    (1,): 3 + 2 + 2,  # the step that replaced that draft is new to it
    (0, 1): 3 + 5 + 2,
    (1, 0): 5 + 2,
}

# (path to the node, action): cost under before, probe, draft
BY_HAND = {
    ((), SMALL): (5 + 2, 5 + 2, 5 + 2),
    ((), LARGE): (3 * (5 + 3), 24 + 5 + 1, 24 + 5 + 2),
    # A was written by small, which has read 15 + 2 = 17 tokens; large knows the shared 10
    ((0,), SMALL): (4, 4, 4),
    ((0,), LARGE): (3 * (7 + 3), 30 + 0 + 1, 30 + 0 + 4),
    # B was written by large; small knows the shared 10, or 15 once it probed or drafted at the root
    ((1,), SMALL): (8 + 2, 3 + 2, 3 + 2),
    ((1,), LARGE): (3 * (0 + 4), 12 + 3 + 1, 12 + 3 + 2),
    # AC: small read 17, large 17 + 3 = 20
    ((0, 1), SMALL): (3 + 5, 3 + 5, 3 + 5),
    ((0, 1), LARGE): (3 * (0 + 6), 18 + 3 + 1, 18 + 3 + 5),
    # BC: small read 18 + 2 = 20, large 18
    ((1, 0), SMALL): (5, 5, 5),
    ((1, 0), LARGE): (3 * (2 + 6), 24 + 0 + 1, 24 + 0 + 5),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_costs_by_hand(protocol: str) -> None:
    lattice = build_hand_lattice()
    nodes = index_nodes(lattice)
    cost = compute_cost(lattice.ledger[protocol], LENS)
    for (path, action), bills in BY_HAND.items():
        expected = (*bills, bills[-1] + 3 * (JUDGED[path] + 1))[PROTOCOLS.index(protocol)]
        assert cost[nodes["p", path], action] == expected, (path, action)


def test_tokens_by_hand() -> None:
    """Large at A under ``draft``: small drafts 4 tokens and has all its prompt cached; large
    reads the 7 tokens it has not seen."""
    lattice = build_hand_lattice()
    node = index_nodes(lattice)["p", (0,)]
    assert lattice.ledger["draft"][node, LARGE].tolist() == [[0, 17, 4], [7, 10, 3]]
    assert lattice.ledger["probe"][node, LARGE].tolist() == [[0, 17, 1], [7, 10, 3]]
    assert lattice.ledger["before"][node, LARGE].tolist() == [[0, 0, 0], [7, 10, 3]]
    for protocol in ("before", "probe", "draft"):
        assert lattice.ledger[protocol][node, SMALL].tolist() == [[0, 17, 4], [0, 0, 0]]
    # The judge's prompt is 8 shared tokens, 7 of problem and draft at the root, 4 and 2 new ones.
    assert lattice.ledger["judge"][node, SMALL].tolist() == [[0, 17, 4], [6, 15, 1]]
    assert lattice.ledger["judge"][node, LARGE].tolist() == [[0, 17, 4], [7 + 6, 10 + 15, 3 + 1]]


@pytest.mark.parametrize("reasoning", [None, 57], ids=["cut off", "thought"])
@pytest.mark.parametrize("protocol", ["before", "probe", "draft"])
def test_nobody_has_read_what_is_in_no_prompt(protocol: str, reasoning: int | None) -> None:
    """Large writes 57 more tokens than B's 3, of which its next prompts hold none."""
    states, steps = make_hand_records()
    more = {"completion_tokens": 3 + 57, "reasoning_tokens": reasoning}
    longer = [replace(s, **more) if s.id == "root-large" else s for s in steps]
    plain, lattice = (
        build(make_tables(["p", "q"], states, rows), ("small", "large"), 2)
        for rows in (steps, longer)
    )
    nodes = index_nodes(lattice)
    for path in [(0,), (1,), (0, 1), (1, 0)]:
        node = nodes["p", path]
        found, expected = lattice.ledger[protocol][node], plain.ledger[protocol][node]
        assert found.tolist() == expected.tolist(), path
    node = nodes["p", (1, 0)]  # small wrote two tokens that large has not read
    assert lattice.ledger["before"][node, LARGE].tolist() == [[0, 0, 0], [2, 18, 6]]
    assert lattice.ledger["before"][nodes["p", ()], LARGE, LARGE, 2] == 60


def test_a_refused_answer_is_billed_with_the_prompt_that_it_answered() -> None:
    states, steps = make_hand_records()
    (accepted,) = [s for s in steps if s.id == "root-large"]
    refused = replace(accepted, error="StepRefusedError: several steps", completion_tokens=9)
    corrected = replace(accepted, attempt=1, prompt_tokens=15 + 9 + 6)
    rows = [refused, *(corrected if s is accepted else s for s in steps)]
    lattice = build(make_tables(["p", "q"], states, rows), ("small", "large"), 2)
    plain = build(make_tables(["p", "q"], states, steps), ("small", "large"), 2)
    nodes = index_nodes(lattice)
    call = lattice.ledger["before"][nodes["p", ()], LARGE, LARGE]
    # 10 of both prompts are shared; the second one repeats the first, and 15 tokens are new
    assert call.tolist() == [5 + 9 + 6, 10 + 15, 9 + 3]
    for path in [(1,), (1, 0)]:  # its later prompts do not hold the refused answer
        node = nodes["p", path]
        assert lattice.ledger["before"][node].tolist() == plain.ledger["before"][node].tolist()


def test_deciding_costs_only_the_small_model_more() -> None:
    for seed in range(5):
        lattice = build_scripted(seed, n_models=3)
        before, probe, draft, judge = (lattice.ledger[protocol] for protocol in PROTOCOLS)
        for deciding in (probe, draft):
            np.testing.assert_array_equal(deciding[..., 1:, :], before[..., 1:, :])
        # the small model writes a probe of one token, or its whole step, wherever it is not chosen
        assert np.all(before[:, 1:, 0] == 0)
        assert np.all(probe[:, 1:, 0, 2] == 1)
        assert np.all(draft[:, 1:, 0, 2] == draft[:, :1, 0, 2])
        assert np.all(draft[:, 1:, 0, 2] >= 1)
        # a judge's call is the large model's, and the same whatever is chosen then
        call = judge - draft
        assert np.all(call[:, :, :-1] == 0)
        assert np.all(call[:, :, -1] == call[:, :1, -1])
        assert np.all(call[:, :, -1, 2] == 1)
        assert np.all(call[:, :, -1, 0] >= 1 + 2)  # never less than a draft and the question


def test_a_model_reads_its_prompt_once() -> None:
    """Uncached and cached tokens are the recorded prompt, whatever was read before."""
    lattice = build_scripted(1)
    for protocol in ("before", "probe", "draft"):
        read = lattice.ledger[protocol][..., :2].sum(axis=-1)
        for action in range(2):
            np.testing.assert_array_equal(
                read[:, action, action], lattice.ledger["before"][:, action, action, :2].sum(-1)
            )
        assert np.all(lattice.ledger[protocol] >= 0)


@given(seed=st.integers(0, 10_000), n_models=st.integers(2, 3))
@settings(max_examples=25, deadline=None)
def test_always_small_costs_the_drafts_and_their_judge(seed: int, n_models: int) -> None:
    """Where every draft is kept, the judge reads the problem, the solution and one question for
    each step once, by the recorded lengths of its own prompts."""
    world = World(seed, n_models=n_models)
    tables = record(world, ["a", "b"], 3, merge=True)
    lattice = build(tables, world.model_ids, 3)
    assert tables.judgements is not None
    judged = {row["step_id"]: row for row in tables.judgements.to_dicts()}
    weights = np.arange(1.0, 1.0 + 3 * n_models).reshape(n_models, 3)
    lens = Lens("usd", "USD", weights)
    chosen = np.eye(n_models)[np.zeros(lattice.n_nodes, dtype=int)]
    draft = evaluate_probabilities(lattice, chosen, lens, "draft")
    judge = evaluate_probabilities(lattice, chosen, lens, "judge")
    np.testing.assert_array_equal(judge.accuracy, draft.accuracy)
    for problem, problem_id in enumerate(lattice.problem_ids):
        text, read, prompts, n_steps, ends = "", 0, 0, 0, False
        while not ends:
            kind = "tail" if n_steps == 3 else "step"
            row = judged[f"{problem_id}|{text}>m0{kind}"]
            read = row["prompt_tokens"] - row["shared_prompt_tokens"] + 2 * n_steps
            prompts, n_steps = prompts + row["prompt_tokens"], n_steps + 1
            added, ends = world.write(problem_id, text, 0, kind)
            text += added
        bill = np.array([read, prompts - read, n_steps]) @ weights[-1]
        assert judge.cost[problem] == pytest.approx(draft.cost[problem] + bill, rel=1e-12)


def test_without_judgements_only_the_judge_has_no_bill() -> None:
    tables = make_hand_tables()
    assert tables.judgements is not None
    for judgements in (None, tables.judgements.head(0)):
        lattice = build(replace(tables, judgements=judgements), ("small", "large"), 2)
        assert np.isnan(lattice.ledger["judge"]).all()
        assert np.isnan(lattice.fields["judge_usefulness"]).all()
        for protocol in ("before", "probe", "draft"):
            assert np.isfinite(lattice.ledger[protocol]).all()


def test_only_the_large_models_score_of_usefulness_counts() -> None:
    """Answers to another question, and other judges, are neither shown nor billed."""
    tables = make_hand_tables()
    assert tables.judgements is not None
    others = [
        tables.judgements.with_columns(prompt_tokens=pl.lit(99, pl.Int64), score=0.5, **changed)
        for changed in ({"question": pl.lit("right-v1")}, {"judge_model_id": pl.lit("small")})
    ]
    more = build(
        replace(tables, judgements=pl.concat([*others, tables.judgements])), ("small", "large"), 2
    )
    lattice = build_hand_lattice()
    np.testing.assert_array_equal(more.ledger["judge"], lattice.ledger["judge"])
    np.testing.assert_array_equal(
        more.fields["judge_usefulness"], lattice.fields["judge_usefulness"]
    )
    assert [JUDGE_PROMPTS[name].in_turn for name in JUDGE_QUESTIONS] == [False, True]


def test_a_judge_that_is_asked_in_a_turn_counts_as_well() -> None:
    tables = make_hand_tables()
    assert tables.judgements is not None
    in_turn = tables.judgements.with_columns(question=pl.lit("usefulness-turn-v1"))
    alone = build(replace(tables, judgements=in_turn), ("small", "large"), 2)
    np.testing.assert_array_equal(alone.ledger["judge"], build_hand_lattice().ledger["judge"])
    lower = in_turn.with_columns(score=pl.lit(0.0))
    both = build(
        replace(tables, judgements=pl.concat([lower, tables.judgements])), ("small", "large"), 2
    )
    np.testing.assert_array_equal(
        both.fields["judge_usefulness"], build_hand_lattice().fields["judge_usefulness"]
    )


def test_where_one_model_is_left_nothing_is_judged() -> None:
    lattice = restrict_one_way(build_hand_lattice())
    node = index_nodes(lattice)["p", (1,)]
    assert lattice.next_node[node, LARGE] == TERMINAL
    assert lattice.ledger["judge"][node, LARGE].tolist() == [[0, 0, 0], [0, 18, 4]]

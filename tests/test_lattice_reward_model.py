"""A reward model's bill on the tree made by hand, and that everything else is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from lattice_cases import build, build_hand_lattice, build_scripted, index_nodes, make_hand_tables

from routerlib.costs import Lens
from routerlib.lattice import bill_reward_model, evaluate_probabilities, restrict_one_way

SMALL, LARGE = 0, 1
# (path to the node of p, action): tokens that a reward model reads
READ = {
    ((), SMALL): 5 + 2,  # the problem and the draft
    ((), LARGE): 5 + 2 + 3,  # and the step that replaced the draft
    ((0,), SMALL): 4,
    ((0,), LARGE): 4 + 3,
    ((1,), SMALL): 2,
    ((1,), LARGE): 2 + 4,
    ((1, 0), SMALL): 5,
    ((1, 0), LARGE): 5 + 6,
}


def test_it_reads_the_problem_once_and_every_step_once() -> None:
    plain = build_hand_lattice()
    lattice = bill_reward_model(plain)
    assert lattice.ledger["draft"].shape == (plain.n_nodes, 2, 3, 3)
    np.testing.assert_array_equal(lattice.ledger["draft"][:, :, :2], plain.ledger["draft"])
    np.testing.assert_array_equal(lattice.ledger["before"], plain.ledger["before"])
    nodes = index_nodes(lattice)
    for (path, action), read in READ.items():
        bill = lattice.ledger["draft"][nodes["p", path], action, 2]
        np.testing.assert_array_equal(bill, [read, 0.0, 0.0], err_msg=f"{path}, {action}")


def test_it_reads_neither_thought_nor_refused_answers() -> None:
    """Both are billed to the model that wrote them and are in no text; so too where one model is
    left, which drafts nothing."""
    tables = make_hand_tables()
    thought = pl.when(pl.col("id") == "root-large").then(50).when(pl.col("id") == "A-small").then(7)
    steps = tables.steps.with_columns(reasoning_tokens=thought.cast(pl.Int32))
    steps = steps.with_columns(
        completion_tokens=pl.col("completion_tokens") + pl.col("reasoning_tokens").fill_null(0)
    )
    refused = steps.filter(pl.col("id") == "B-small").with_columns(
        attempt=pl.lit(1, steps["attempt"].dtype), error=pl.lit("it repeats a step")
    )
    thinking = build(replace(tables, steps=pl.concat([steps, refused])), ("small", "large"), 2)
    assert thinking.ledger["draft"][0, LARGE, LARGE].tolist() == [5.0, 10.0, 53.0]
    for restrict in (lambda lattice: lattice, restrict_one_way):
        found, expected = (
            bill_reward_model(restrict(lattice)).ledger["draft"][:, :, 2]
            for lattice in (thinking, build_hand_lattice())
        )
        np.testing.assert_array_equal(found, expected)


def test_a_policy_is_billed_for_what_was_read_on_its_paths() -> None:
    lattice = bill_reward_model(build_scripted())
    only = Lens("reward model", "tokens", np.array([[0.0] * 3, [0.0] * 3, [1.0, 1.0, 1.0]]))
    written = Lens("written", "tokens", np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0] * 3]))
    chances = np.random.default_rng(0).dirichlet([1.0, 1.0], lattice.n_nodes)
    read, wrote = (
        evaluate_probabilities(lattice, chances, lens, "draft").cost for lens in (only, written)
    )
    problem = lattice.ledger["draft"][: lattice.n_problems, 0, 0, 0]
    np.testing.assert_allclose(read, wrote + problem)


def test_what_is_not_recorded_is_not_billed() -> None:
    tables = make_hand_tables()
    partly = replace(tables, steps=tables.steps.filter(tables.steps["id"] != "A-large"))
    lattice = bill_reward_model(build(partly, ("small", "large"), 2))
    missing = lattice.ledger["draft"][index_nodes(lattice)["p", (0,)]]
    assert np.isnan(missing[LARGE]).all()
    assert missing[SMALL, 2].tolist() == pytest.approx([4.0, 0.0, 0.0])

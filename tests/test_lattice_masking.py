"""Hiding log-probabilities: as if the model's server had given none, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from lattice_cases import build, judge_drafts, make_hand_records, make_hand_tables, make_tables
from polars.testing import assert_frame_equal

from routerlib.errors import StoreError
from routerlib.features import FIELDS, get_feature_names
from routerlib.lattice import hide_logprobs

MODELS = ("small", "large")


@pytest.mark.parametrize("closed", [("small",), ("large",), MODELS])
def test_a_hidden_model_is_as_one_recorded_without_log_probabilities(
    closed: tuple[str, ...],
) -> None:
    states, steps = make_hand_records()
    given = [
        replace(step, token_logprobs=(), first_token_top=()) if step.model_id in closed else step
        for step in steps
    ]
    recorded = judge_drafts(make_tables(["p", "q"], states, given), *MODELS)
    if "large" in closed:  # the judge
        recorded = replace(recorded, judgements=recorded.judgements[:0])
    hidden = hide_logprobs(make_hand_tables(), closed)
    assert_frame_equal(hidden.steps, recorded.steps)
    expected, lattice = build(recorded, MODELS, 2), build(hidden, MODELS, 2)
    assert list(lattice.fields) == list(expected.fields)
    for name, values in expected.fields.items():
        np.testing.assert_array_equal(lattice.fields[name], values, err_msg=name)


def test_only_confidence_is_hidden() -> None:
    tables = replace(
        make_hand_tables(),
        prompt_scores=pl.DataFrame(
            {"problem_id": ["p"], "model_id": ["small"], "logprob": [-3.0], "tokens": [4]}
        ),
    )
    open_pair = build(tables, MODELS, 2)
    closed = build(hide_logprobs(tables, MODELS), MODELS, 2)
    np.testing.assert_array_equal(closed.outcome, open_pair.outcome)
    np.testing.assert_array_equal(closed.ledger["draft"], open_pair.ledger["draft"])
    for name in set(get_feature_names("no_logprobs", "draft")) - {"probe_disagrees_last"}:
        np.testing.assert_array_equal(closed.fields[name], open_pair.fields[name], err_msg=name)
    decided = closed.node_depth > 0
    for name in {n for n, f in FIELDS.items() if f.group == "confidence"} & set(closed.fields):
        assert not (np.abs(closed.fields[name][decided]) > 0).any(), name
    known = closed.observe("before").list_recorded()
    assert "problem_small_logprob" in open_pair.observe("probe").list_recorded()
    assert "problem_small_logprob" not in closed.observe("probe").list_recorded()
    assert "last_tokens" in known


def test_a_closed_small_model_leaves_what_the_large_one_says() -> None:
    lattice = build(hide_logprobs(make_hand_tables(), ["small"]), MODELS, 2)
    by_large = lattice.parent_action == 1
    last = lattice.fields["last_mean_logprob"]
    assert np.isfinite(last[by_large]).all()
    assert np.isnan(last[lattice.parent_action == 0]).all()
    assert not {"probe_entropy", "draft_mean_logprob"} & {*lattice.observe("draft").list_recorded()}


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(StoreError, match=r"no step by \['smal'\] is recorded"):
        hide_logprobs(make_hand_tables(), ["smal"])

"""Every observable field on the recording made by hand, and that grades never leak into them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from lattice_cases import (
    build,
    build_hand_lattice,
    build_scripted,
    get_paths,
    index_nodes,
    make_hand_tables,
)

from routerlib.features import FIELDS

NAN = math.nan

# path to the node of problem p: the fields that are not of the problem; a draft of n tokens has the
# judge's score 9 / (1 + n)
BY_HAND = {
    (): {
        "depth": 0,
        "steps_tokens": 0,
        "last_author_large": -1,
        "share_large": 0,
        "last_tokens": 0,
        "n_digits_last": 0,
        "n_operators_last": 0,
        "repeats_last": 0,
        "last_mean_logprob": 0,
        "last_min_logprob": 0,
        "mean_logprob": 0,
        "min_logprob": 0,
        # first token: 1/2, 1/4, and a bucket of 1/4
        "probe_entropy": 1.5 * math.log(2),
        "probe_margin": 0.25,
        "probe_top_logprob": -math.log(2),
        "draft_mean_logprob": -0.3,
        "draft_min_logprob": -0.4,
        "draft_tokens": 2,
        "draft_n_digits": 3,
        "draft_is_answer": 0,
        "draft_repeats": 0,
        "run_length": 0,
        "n_switches": 0,
        "last_chars": 0,
        "n_digits": 0,
        "n_operators": 0,
        "n_repeats": 0,
        "last_std_logprob": 0,
        "last_sum_logprob": 0,
        "last_first_entropy": 0,
        "last_first_margin": 0,
        "min_mean_logprob": 0,
        "probe_max_entropy": 1.5 * math.log(2),
        "probe_disagrees_last": 0,
        "draft_std_logprob": 0.1,
        "draft_n_operators": 2,
        "draft_disagrees_last": 0,
        "draft_n_disagreements": 0,
        "judge_usefulness": 3,
    },
    (0,): {
        "depth": 1,
        "steps_tokens": 2,
        "last_author_large": 0,
        "share_large": 0,
        "last_tokens": 2,
        "n_digits_last": 3,
        "n_operators_last": 2,
        "repeats_last": 0,
        "last_mean_logprob": -0.3,
        "last_min_logprob": -0.4,
        "mean_logprob": -0.3,
        "min_logprob": -0.4,
        "probe_entropy": 0,
        "probe_margin": 1,
        "probe_top_logprob": 0,
        "draft_mean_logprob": -0.5,
        "draft_min_logprob": -1,
        "draft_tokens": 4,
        "draft_n_digits": 1,
        "draft_is_answer": 1,
        "draft_repeats": 0,
        "run_length": 1,
        "n_switches": 0,
        "last_chars": 10,
        "n_digits": 3,
        "n_operators": 2,
        "n_repeats": 0,
        "last_std_logprob": 0.1,
        "last_sum_logprob": -0.6,
        "last_first_entropy": 1.5 * math.log(2),
        "last_first_margin": 0.25,
        "min_mean_logprob": -0.3,
        "probe_max_entropy": 1.5 * math.log(2),
        "probe_disagrees_last": 0,
        "draft_std_logprob": math.sqrt(0.5 / 4),
        "draft_n_operators": 0,
        "draft_disagrees_last": 0,
        "draft_n_disagreements": 0,
        "judge_usefulness": 1.8,
    },
    (1,): {
        "depth": 1,
        "steps_tokens": 3,
        "last_author_large": 1,
        "share_large": 1,
        "last_tokens": 3,
        "n_digits_last": 0,
        "n_operators_last": 0,
        "repeats_last": 0,
        "last_mean_logprob": -0.3,
        "last_min_logprob": -0.6,
        "mean_logprob": -0.3,
        "min_logprob": -0.6,
        "probe_entropy": math.log(2),
        "probe_margin": 0,
        "probe_top_logprob": -math.log(2),
        "draft_mean_logprob": -1.5,
        "draft_min_logprob": -2,
        "draft_tokens": 2,
        "draft_n_digits": 0,
        "draft_is_answer": 0,
        "draft_repeats": 1,
        "run_length": 1,
        "n_switches": 0,
        "last_chars": 2,
        "n_digits": 0,
        "n_operators": 0,
        "n_repeats": 0,
        "last_std_logprob": math.sqrt(0.14 / 3),
        "last_sum_logprob": -0.9,
        "last_first_entropy": NAN,
        "last_first_margin": NAN,
        "min_mean_logprob": -0.3,
        "probe_max_entropy": 1.5 * math.log(2),
        "probe_disagrees_last": 1,
        "draft_std_logprob": 0.5,
        "draft_n_operators": 0,
        "draft_disagrees_last": 1,
        "draft_n_disagreements": 1,
        "judge_usefulness": 3,
    },
    (0, 1): {
        "depth": 2,
        "steps_tokens": 5,
        "last_author_large": 1,
        "share_large": 0.5,
        "last_tokens": 3,
        "n_digits_last": 0,
        "n_operators_last": 0,
        "repeats_last": 0,
        "last_mean_logprob": -0.3,
        "last_min_logprob": -0.3,
        "mean_logprob": -0.3,
        "min_logprob": -0.4,
        "probe_entropy": NAN,
        "probe_margin": NAN,
        "probe_top_logprob": NAN,
        "draft_mean_logprob": -0.5,
        "draft_min_logprob": -0.5,
        "draft_tokens": 5,
        "draft_n_digits": 1,
        "draft_is_answer": 1,
        "draft_repeats": 0,
        "run_length": 1,
        "n_switches": 1,
        "last_chars": 2,
        "n_digits": 3,
        "n_operators": 2,
        "n_repeats": 0,
        "last_std_logprob": 0,
        "last_sum_logprob": -0.9,
        "last_first_entropy": NAN,
        "last_first_margin": NAN,
        "min_mean_logprob": -0.3,
        "probe_max_entropy": 1.5 * math.log(2),
        "probe_disagrees_last": 1,
        "draft_std_logprob": 0,
        "draft_n_operators": 0,
        "draft_disagrees_last": 1,
        "draft_n_disagreements": 1,
        "judge_usefulness": 1.5,
    },
    # b was written twice; the draft came without log-probabilities
    (1, 0): {
        "depth": 2,
        "steps_tokens": 5,
        "last_author_large": 0,
        "share_large": 0.5,
        "last_tokens": 2,
        "n_digits_last": 0,
        "n_operators_last": 0,
        "repeats_last": 1,
        "last_mean_logprob": -1.5,
        "last_min_logprob": -2,
        "mean_logprob": -0.9 / 5 - 3 / 5,
        "min_logprob": -2,
        "probe_entropy": NAN,
        "probe_margin": NAN,
        "probe_top_logprob": NAN,
        "draft_mean_logprob": NAN,
        "draft_min_logprob": NAN,
        "draft_tokens": 5,
        "draft_n_digits": 1,
        "draft_is_answer": 1,
        "draft_repeats": 0,
        "run_length": 1,
        "n_switches": 1,
        "last_chars": 2,
        "n_digits": 0,
        "n_operators": 0,
        "n_repeats": 1,
        "last_std_logprob": 0.5,
        "last_sum_logprob": -3,
        "last_first_entropy": math.log(2),
        "last_first_margin": 0,
        "min_mean_logprob": -1.5,
        "probe_max_entropy": 1.5 * math.log(2),
        "probe_disagrees_last": 0,
        "draft_std_logprob": NAN,
        "draft_n_operators": 0,
        "draft_disagrees_last": 0,
        "draft_n_disagreements": 1,
        "judge_usefulness": 1.5,
    },
}


@pytest.mark.parametrize("path", list(BY_HAND))
def test_fields_by_hand(path: tuple[int, ...]) -> None:
    lattice = build_hand_lattice()
    node = index_nodes(lattice)["p", path]
    found = {name: values[node] for name, values in lattice.fields.items()}
    expected = BY_HAND[path]
    assert {n for n in found if not n.startswith("problem_")} == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-7, err_msg=name)


def test_every_field_of_the_registry_is_there() -> None:
    lattice = build_hand_lattice()
    of_a_lens = {name for name, field in FIELDS.items() if field.group == "spending"}
    assert set(lattice.fields) == set(FIELDS) - of_a_lens
    assert lattice.observe("judge").names == tuple(n for n in FIELDS if n not in of_a_lens)
    for values in lattice.fields.values():
        assert values.shape == (lattice.n_nodes,)


def test_problem_features_are_the_problems() -> None:
    lattice = build_hand_lattice()
    row = {"p": 0, "q": 1}
    for node in range(lattice.n_nodes):
        problem = lattice.problem_ids[lattice.node_problem[node]]
        assert lattice.fields["problem_n_chars"][node] == 10 * row[problem]
        assert lattice.fields["problem_n_words"][node] == 10 * row[problem] + 1


def test_the_small_models_log_probability_of_a_problem() -> None:
    """Per token that follows another; only the small model's scores count."""
    tables = make_hand_tables()
    assert np.isnan(build_hand_lattice().fields["problem_small_logprob"]).all()
    scores = pl.DataFrame(
        {
            "problem_id": ["p", "p", "q", "gone"],
            "model_id": ["large", "small", "large", "small"],
            "tokens": [9, 5, 9, 9],
            "logprob": [-1.0, -6.0, -1.0, -1.0],
        }
    )
    lattice = build(replace(tables, prompt_scores=scores), ("small", "large"), 2)
    of_problem = {"p": -6.0 / 4, "q": NAN}
    expected = [of_problem[lattice.problem_ids[number]] for number in lattice.node_problem]
    np.testing.assert_array_equal(lattice.fields["problem_small_logprob"], expected)
    single = scores.with_columns(tokens=1, logprob=0.0)
    lattice = build(replace(tables, prompt_scores=single), ("small", "large"), 2)
    assert np.isnan(lattice.fields["problem_small_logprob"]).all()


def test_more_models_share_the_scale_of_authors() -> None:
    tables = make_hand_tables()
    renamed = replace(
        tables,
        steps=tables.steps.with_columns(model_id=pl.col("model_id").replace({"large": "middle"})),
    )
    lattice = build(renamed, ("small", "middle", "huge"), 2)
    nodes = index_nodes(lattice)
    assert lattice.fields["last_author_large"][nodes["p", (1,)]] == 0.5
    assert lattice.fields["share_large"][nodes["p", (1,)]] == 0.0


def test_steps_in_a_row_and_repetitions_add_up() -> None:
    """Along every path of three models, counted one step after the other."""
    lattice = build_scripted(1, n_models=3, end_share=0.0, n_lines=1)
    fields = lattice.fields
    for node, path in enumerate(get_paths(lattice)):
        switches = [a != b for a, b in pairwise(path)]
        since = switches[::-1].index(True) + 1 if any(switches) else len(path)
        assert fields["n_switches"][node] == sum(switches)
        assert fields["run_length"][node] == since
        # one line, "0 + 1", over and over: only the first is new, and all write the same; its
        # probes say "x", which is no disagreement where the small model itself wrote
        assert fields["n_repeats"][node] == max(0, len(path) - 1)
        assert fields["n_operators"][node] == fields["n_digits"][node] / 2 == len(path)
        assert fields["draft_n_disagreements"][node] == 0
        assert fields["probe_disagrees_last"][node] == (path[-1:] > (0,))


def test_agreement_is_unknown_where_the_small_models_step_is_not_recorded() -> None:
    tables = make_hand_tables()
    lacking = tables.steps.filter(pl.col("id") != "root-small")
    lattice = build(replace(tables, steps=lacking), ("small", "large"), 2)
    node = index_nodes(lattice)["p", (1,)]
    assert np.isnan(lattice.fields["draft_disagrees_last"][node])
    assert np.isnan(lattice.fields["probe_disagrees_last"][node])
    other = tables.steps.with_columns(
        first_token_texts=pl.lit([], dtype=pl.List(pl.String)),
        text=pl.when(pl.col("id") == "root-small").then(pl.lit("b ")).otherwise(pl.col("text")),
    )
    lattice = build(replace(tables, steps=other), ("small", "large"), 2)
    node = index_nodes(lattice)["p", (1,)]
    assert np.isnan(lattice.fields["probe_disagrees_last"][node])
    assert lattice.fields["draft_disagrees_last"][node] == 0  # spaces at the ends do not count


def test_probabilities_that_round_above_one_are_divided() -> None:
    tables = make_hand_tables()
    over = pl.Series(
        [[math.log(0.6), math.log(0.6)]] * len(tables.steps), dtype=pl.List(pl.Float32)
    )
    lattice = build(
        replace(tables, steps=tables.steps.with_columns(first_token_logprobs=over)),
        ("small", "large"),
        2,
    )
    np.testing.assert_allclose(lattice.fields["probe_entropy"], math.log(2), atol=1e-6)
    np.testing.assert_allclose(lattice.fields["probe_margin"], 0.0, atol=1e-6)


def test_grades_do_not_leak() -> None:
    tables = make_hand_tables()
    flipped = replace(tables, states=tables.states.with_columns(is_correct=~pl.col("is_correct")))
    one, other = build_hand_lattice(), build(flipped, ("small", "large"), 2)
    assert not np.array_equal(one.outcome, other.outcome, equal_nan=True)
    for name, values in one.fields.items():
        np.testing.assert_array_equal(values, other.fields[name], err_msg=name)

"""The price of a recording: known sums, and an interval that holds as often as it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import (
    LARGE,
    SMALL,
    add_records,
    make_card,
    make_problems,
    make_state,
    make_step,
    make_tiny_records,
)

from routerlib.errors import UnpricedModelError
from routerlib.price_estimate import load_problem_costs, predict_total
from routerlib.records import ModelCard, Step
from routerlib.store import TraceWriter


def price(name: str, factor: float) -> ModelCard:
    return replace(
        make_card(name, 100),
        input_usd_per_mtok=factor,
        cached_input_usd_per_mtok=0.1 * factor,
        output_usd_per_mtok=10 * factor,
    )


def test_costs_are_those_of_the_rows(tmp_path: Path) -> None:
    records = make_tiny_records()
    with TraceWriter(tmp_path) as writer:
        add_records(writer, records)
    steps = [record for record in records if isinstance(record, Step)]
    problems = sorted({step.problem_id for step in steps})
    step_ids = {p: [step.id for step in steps if step.problem_id == p] for p in problems[:2]}
    costs = load_problem_costs(tmp_path, step_ids, [price(SMALL, 1.0), price(LARGE, 3.0)])
    for problem, cost in zip(problems[:2], costs, strict=True):
        expected = sum(
            {SMALL: 1.0, LARGE: 3.0}[step.model_id]
            * (step.prompt_tokens - 0.9 * step.cached_prompt_tokens + 10 * step.completion_tokens)
            for step in steps
            if step.problem_id == problem
        )
        assert cost == pytest.approx(expected / 1e6)
    with pytest.raises(UnpricedModelError):
        load_problem_costs(tmp_path, step_ids, [make_card(SMALL, 100)])


def test_only_the_calls_that_count_are_paid_for_with_all_their_tries(tmp_path: Path) -> None:
    """Two tries of one call of large, 30 and 5 tokens for each; other calls of the problem cost
    nothing here, nor does a model without a card."""
    problem = make_problems()[0]
    root, first = make_state(problem, ""), make_state(problem, "2 + 3 = 5\n")
    again = {"completion_tokens": 5, "attempt": 1}
    steps = [
        make_step(root, None, LARGE, completion_tokens=5, error="StepRefusedError: no"),
        make_step(root, first, LARGE, **again),
        make_step(root, first, LARGE, sample_index=1),
        make_step(root, first, LARGE, prompt_version="tiny-v2"),
        make_step(root, first, SMALL),
    ]
    heads = [record for record in make_tiny_records()[:6] if not isinstance(record, Step)]
    with TraceWriter(tmp_path) as writer:
        add_records(writer, [*heads, root, first, *steps])
    ids = {problem.id: {steps[0].id, steps[1].id, steps[4].id}, "another": {"none"}}
    costs = load_problem_costs(tmp_path, ids, [price(LARGE, 3.0)])
    assert costs.tolist() == pytest.approx([2 * 3.0 * (30 + 10 * 5) / 1e6, 0.0])


def test_too_few_problems_give_no_estimate() -> None:
    assert predict_total(np.ones(4), 10) is None
    assert predict_total(np.ones(5), 0) == predict_total(np.zeros(5), 0)


def test_the_interval_holds_the_total_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    n_left, held = 40, []
    for _ in range(2000):
        costs = generator.normal(1.0, 0.2, 8 + n_left)
        predicted = predict_total(costs[:8], n_left)
        assert predicted is not None
        held.append(predicted.low <= costs[8:].sum() <= predicted.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)

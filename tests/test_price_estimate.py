"""The price of a recording: known sums, and an interval that holds as often as it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import LARGE, SMALL, add_records, make_card, make_tiny_records

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
    costs = load_problem_costs(tmp_path, problems[:2], [price(SMALL, 1.0), price(LARGE, 3.0)])
    for problem, cost in zip(problems[:2], costs, strict=True):
        expected = sum(
            {SMALL: 1.0, LARGE: 3.0}[step.model_id]
            * (step.prompt_tokens - 0.9 * step.cached_prompt_tokens + 10 * step.completion_tokens)
            for step in steps
            if step.problem_id == problem
        )
        assert cost == pytest.approx(expected / 1e6)
    with pytest.raises(UnpricedModelError):
        load_problem_costs(tmp_path, problems, [make_card(SMALL, 100)])


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

"""Lenses by hand, and that unpriced models are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from routerlib.costs import (
    LEDGER_FIELDS,
    LENSES,
    Lens,
    Speed,
    compute_cost,
    keep_item,
    make_latency_lens,
    make_lens,
    set_price_ratio,
)
from routerlib.errors import UnpricedModelError
from routerlib.records import ModelCard

SMALL = ModelCard("small", "local", "toy", 500_000_000, "bf16", None, "mit", 4096, 0.1, 0.05, 0.4)
LARGE = replace(
    SMALL,
    id="large",
    parameters=1_500_000_000,
    input_usd_per_mtok=1.0,
    cached_input_usd_per_mtok=0.25,
    output_usd_per_mtok=2.0,
)
# small reads 100 tokens (40 of them cached) and writes 10; large reads 200 (50) and writes 20
LEDGER = np.array([[60.0, 40.0, 10.0], [150.0, 50.0, 20.0]])


@pytest.mark.parametrize(
    ("name", "unit", "cost"),
    [
        ("flops", "GFLOP", 70 * 1.0 + 170 * 3.0),
        ("generated_flops", "GFLOP, prompts free", 10 * 1.0 + 20 * 3.0),
        ("large_tokens", "large-model tokens", 170.0),
        ("all_tokens", "tokens", 240.0),
        ("usd", "USD", (60 * 0.1 + 40 * 0.05 + 10 * 0.4 + 150 * 1 + 50 * 0.25 + 20 * 2) / 1e6),
    ],
)
def test_lenses_by_hand(name: str, unit: str, cost: float) -> None:
    lens = make_lens(name, [SMALL, LARGE])
    assert (lens.name, lens.unit) == (name, unit)
    assert float(compute_cost(LEDGER, lens)) == pytest.approx(cost)


def test_every_lens_is_tested_and_takes_three_models() -> None:
    for name in LENSES:
        assert make_lens(name, [SMALL, SMALL, LARGE]).weights.shape == (3, 3)


@pytest.mark.parametrize(
    "field", ["input_usd_per_mtok", "cached_input_usd_per_mtok", "output_usd_per_mtok"]
)
def test_unpriced_model_is_an_error(field: str) -> None:
    card = replace(LARGE, **{field: None})
    with pytest.raises(UnpricedModelError, match=f"'large' has no {field}"):
        make_lens("usd", [SMALL, card])


def test_free_model_is_allowed_when_it_says_so() -> None:
    card = replace(SMALL, input_usd_per_mtok=0.0, cached_input_usd_per_mtok=0.0)
    assert float(compute_cost(LEDGER, make_lens("usd", [card, LARGE]))) > 0


def test_unknown_size_is_an_error() -> None:
    with pytest.raises(UnpricedModelError, match="0 parameters"):
        make_lens("flops", [replace(SMALL, parameters=0), LARGE])


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="unknown lens 'seconds'"):
        make_lens("seconds", [SMALL])
    with pytest.raises(ValueError, match="at least one"):
        make_lens("flops", [])
    with pytest.raises(ValueError, match="shape"):
        Lens("x", "tokens", np.ones((2, 2)))
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            Lens("x", "tokens", np.full((2, 3), weight))
    with pytest.raises(ValueError, match="make the lens from the lattice's models"):
        compute_cost(np.zeros((5, 3, 3)), make_lens("flops", [SMALL, LARGE]))


def test_what_is_not_recorded_costs_nan() -> None:
    assert np.isnan(compute_cost(np.full((4, 2, 3), np.nan), make_lens("flops", [SMALL, LARGE])))[0]


@given(arrays(np.float64, (6, 2, 3), elements=st.integers(0, 10_000).map(float)))
def test_cost_adds_up_over_calls(ledgers: np.ndarray) -> None:
    for name in LENSES:
        lens = make_lens(name, [SMALL, LARGE])
        total = compute_cost(ledgers.sum(axis=0), lens)
        assert float(total) == pytest.approx(float(compute_cost(ledgers, lens).sum()))


@given(arrays(np.float64, (2, 3), elements=st.integers(0, 10_000).map(float)))
def test_items_add_up_to_the_bill(ledger: np.ndarray) -> None:
    for name in LENSES:
        lens = make_lens(name, [SMALL, LARGE])
        items = [keep_item(lens, m, [field]) for m in range(2) for field in LEDGER_FIELDS]
        total = sum(float(compute_cost(ledger, item)) for item in items)
        assert total == pytest.approx(float(compute_cost(ledger, lens)))
        assert float(compute_cost(ledger, keep_item(lens, 1))) == pytest.approx(
            sum(float(compute_cost(ledger, item)) for item in items[3:])
        )


def test_latency_is_what_is_read_and_written_at_each_models_speed() -> None:
    lens = make_latency_lens([Speed(200.0, 20.0), Speed(100.0, 10.0)])
    assert float(compute_cost(LEDGER, lens)) == pytest.approx(60 / 200 + 10 / 20 + 150 / 100 + 2)
    for speeds in ([], [Speed(0.0, 1.0)], [Speed(1.0, np.nan)]):
        with pytest.raises(ValueError, match="give tokens per second > 0"):
            make_latency_lens(speeds)


@pytest.mark.parametrize("ratio", [0.5, 2.0, 100.0])
def test_a_price_ratio_scales_all_but_the_dearest(ratio: float) -> None:
    lens = set_price_ratio(make_lens("flops", [SMALL, LARGE]), ratio)
    assert compute_cost(LEDGER, lens) == pytest.approx(70 * 3.0 / ratio + 170 * 3.0)
    assert lens.name == f"flops, 1 : {ratio:g}"
    usd = set_price_ratio(make_lens("usd", [SMALL, LARGE]), ratio)
    assert usd.weights[1, 2] / usd.weights[0, 2] == pytest.approx(ratio)
    assert usd.weights[0, 0] / usd.weights[0, 2] == pytest.approx(0.25)


def test_a_price_ratio_needs_prices() -> None:
    lens = make_lens("large_tokens", [SMALL, LARGE])
    with pytest.raises(ValueError, match="prices no token of the cheapest model"):
        set_price_ratio(lens, 10.0)
    with pytest.raises(ValueError, match=r"ratio is 0.0; give a number > 0"):
        set_price_ratio(make_lens("flops", [SMALL, LARGE]), 0.0)

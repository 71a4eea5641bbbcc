"""Published pairs: dated, sourced, dearer from left to right, and nothing but prices changes."""

from __future__ import annotations

import re
from dataclasses import asdict, replace

import pytest

from routerlib.costs import make_lens
from routerlib.price_scenarios import PAIRS, PRICES, price_as
from routerlib.records import ModelCard

SMALL = ModelCard("small", "local", "toy", 500_000_000, "bf16", None, "mit", 4096)
CARDS = (SMALL, replace(SMALL, id="large", parameters=1_500_000_000))


def test_every_price_is_dated_sourced_and_consistent() -> None:
    assert len(PAIRS) >= 5
    for name, price in PRICES.items():
        assert re.fullmatch(r"202\d-[01]\d(-[0-3]\d)?", price.date), name
        assert price.source.startswith("https://"), name
        assert 0 < price.cached_input < price.input < price.output, name
    assert set(PRICES) == {model for pair in PAIRS.values() for model in pair}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_changes_the_prices_and_nothing_else(pair: str) -> None:
    small, large = PAIRS[pair]
    lens = make_lens("usd", price_as(CARDS, pair))
    for row, name in zip(lens.weights, (small, large), strict=True):
        price = PRICES[name]
        assert row == pytest.approx(
            [price.input / 1e6, price.cached_input / 1e6, price.output / 1e6]
        )
    assert (lens.weights[0] < lens.weights[1]).all()
    for before, after in zip(CARDS, price_as(CARDS, pair), strict=True):
        changed = {k for k, v in asdict(after).items() if v != asdict(before)[k]}
        assert all("price" in name or "usd" in name for name in changed)


def test_errors_name_the_pairs() -> None:
    with pytest.raises(ValueError, match="no pair 'x -> y': choose one of claude"):
        price_as(CARDS, "x -> y")
    with pytest.raises(ValueError, match="got 1 cards"):
        price_as(CARDS[:1], next(iter(PAIRS)))

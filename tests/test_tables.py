"""Tables by hand, and files that do not depend on the order of what goes in."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerlib.evaluate import RESULT_COLUMNS
from routerlib.tables import (
    format_markdown,
    format_value,
    make_results_table,
    save_numbers,
    save_results,
)


def make_results() -> pd.DataFrame:
    rows = [
        ("learned (probe)", "probe", "accuracy", 0.5, 0.4, 0.6),
        ("random", "before", "accuracy", 0.35, 0.25, 0.45),
        ("learned (probe)", "probe", "cost", 120.04, 110.0, 130.0),
        ("random", "before", "apgr", 0.5, np.nan, np.nan),
    ]
    frame = pd.DataFrame(rows, columns=["router", "protocol", "metric", "value", "low", "high"])
    return frame.assign(benchmark="gsm8k", pair="a -> b", lens="flops", n=100)


@pytest.mark.parametrize(
    ("arguments", "digits", "text"),
    [
        ((0.5, 0.4, 0.6), 3, "0.500 [0.400, 0.600]"),
        ((0.5, 0.4, 0.6), 1, "0.5 [0.4, 0.6]"),
        ((0.5,), 2, "0.50"),
        ((0.5, math.nan, 0.6), 2, "0.50"),
        ((math.nan, 0.1, 0.2), 2, "–"),
        ((1234.5, 1200.0, 1300.0), 0, "1234 [1200, 1300]"),
    ],
)
def test_value_with_interval(arguments: tuple[float, ...], digits: int, text: str) -> None:
    assert format_value(*arguments, digits=digits) == text


def test_results_table_by_hand() -> None:
    table = make_results_table(make_results(), ["accuracy", "cost"], digits={"cost": 1})
    assert table.to_dict("list") == {
        "router": ["learned (probe)", "random"],
        "protocol": ["probe", "before"],
        "accuracy": ["0.500 [0.400, 0.600]", "0.350 [0.250, 0.450]"],
        "cost": ["120.0 [110.0, 130.0]", "–"],
    }


def test_results_table_refuses_what_is_ambiguous_or_absent() -> None:
    results = make_results()
    with pytest.raises(ValueError, match="no rows of metric"):
        make_results_table(results, ["accuracy", "speed"])
    two_lenses = pd.concat([results, results.assign(lens="usd")])
    with pytest.raises(ValueError, match="select one benchmark, pair and lens"):
        make_results_table(two_lenses, ["accuracy"])
    with pytest.raises(ValueError, match=r"lack the columns \['low'\]"):
        make_results_table(results.drop(columns="low"), ["accuracy"])


def test_markdown_by_hand() -> None:
    table = pd.DataFrame({"router": ["a|b", "c"], "n": [1, 20], "value": ["0.5 [0, 1]", "–"]})
    assert format_markdown(table) == (
        "| router | n | value |\n|---|---:|---|\n| a\\|b | 1 | 0.5 [0, 1] |\n| c | 20 | – |"
    )
    assert format_markdown(table.iloc[:0]) == "| router | n | value |\n|---|---:|---|"


def test_saved_results_do_not_depend_on_the_order(tmp_path: Path) -> None:
    results = make_results()
    first = save_results(results, tmp_path / "new" / "a.csv")
    shuffled = results.sample(frac=1.0, random_state=1)[sorted(results.columns)]
    second = save_results(shuffled.assign(extra=1), tmp_path / "b.csv")
    assert first.read_bytes() == second.read_bytes()
    back = pd.read_csv(first)
    assert tuple(back.columns) == RESULT_COLUMNS
    assert back["metric"].tolist() == ["accuracy", "cost", "accuracy", "apgr"]
    assert back["value"].tolist() == [0.5, 120.04, 0.35, 0.5]
    with pytest.raises(ValueError, match="1 results are there twice"):
        save_results(pd.concat([results, results.iloc[:1]]), tmp_path / "c.csv")


def test_numbers_are_sorted_rounded_and_plain(tmp_path: Path) -> None:
    numbers = {
        "z": np.float64(0.1234567891),
        "a": {"n": np.int64(3), "minus_zero": -1e-12, "list": (1, 2.00000001)},
        "certified": np.bool_(True),
        "why": None,
    }
    path = save_numbers(numbers, tmp_path / "figures" / "numbers.json")
    assert path.read_text(encoding="utf-8") == (
        '{\n  "a": {\n    "list": [\n      1,\n      2.0\n    ],\n    "minus_zero": 0.0,\n'
        '    "n": 3\n  },\n  "certified": true,\n  "why": null,\n  "z": 0.123457\n}\n'
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64("nan")])
def test_numbers_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match=r"numbers\.gsm8k\.x\[1\] is"):
        save_numbers({"gsm8k": {"x": [1.0, value]}}, tmp_path / "numbers.json")
    assert not (tmp_path / "numbers.json").exists()


def test_numbers_of_another_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"numbers\.x is a set"):
        save_numbers({"x": {1}}, tmp_path / "numbers.json")


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.one_of(st.floats(-1e6, 1e6), st.integers(), st.text(max_size=5), st.booleans()),
        max_size=5,
    )
)
def test_saving_numbers_is_a_fixed_point(numbers: dict[str, object]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        first = save_numbers(numbers, Path(name) / "a.json").read_bytes()
        back = json.loads(first)
        assert back.keys() == numbers.keys()
        assert save_numbers(back, Path(name) / "b.json").read_bytes() == first

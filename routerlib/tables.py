"""Results as text and as files: compact tables for notebooks and documents, sorted number files.

Invariants: every number stands with its interval where it has one; saving the same results twice
gives the same bytes, whatever the order of rows or keys; a number that is not finite never reaches
``numbers.json``, for a document would quote it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from routerlib.costs import LENS_UNITS
from routerlib.evaluate import RESULT_COLUMNS

KEY_COLUMNS = RESULT_COLUMNS[:6]
MISSING = "–"


def format_value(
    value: float, low: float = math.nan, high: float = math.nan, *, digits: int = 3
) -> str:
    """Write a value and its interval.

    >>> format_value(0.52, 0.4821, 0.5613, digits=2), format_value(1.5), format_value(float("nan"))
    ('0.52 [0.48, 0.56]', '1.500', '–')
    """
    if math.isnan(value):
        return MISSING
    text = f"{value:.{digits}f}"
    if math.isnan(low) or math.isnan(high):
        return text
    return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def make_results_table(
    results: pd.DataFrame, metrics: Sequence[str], *, digits: Mapping[str, int] | None = None
) -> pd.DataFrame:
    """Return one row per router (in order of appearance) and one column of texts per metric.

    ``results`` is tidy (``RESULT_COLUMNS``) and about one benchmark, pair and lens; ``digits``
    gives the decimals of a metric, by default 3. Raises ``ValueError`` when a column or metric is
    missing, or when a router has two rows of one metric.
    """
    _require_columns(results)
    if absent := [metric for metric in metrics if metric not in set(results["metric"])]:
        raise ValueError(f"no rows of metric {absent}; there are {sorted(set(results['metric']))}")
    kept = results[results["metric"].isin(list(metrics))]
    if (twice := kept.duplicated(["router", "protocol", "metric"])).any():
        example = kept.loc[twice, list(KEY_COLUMNS)].iloc[0].to_dict()
        raise ValueError(
            f"{int(twice.sum())} rows of the same router and metric, e.g. {example}; "
            "select one benchmark, pair and lens first"
        )
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in kept.to_dict("records"):
        texts = cells.setdefault((row["router"], row["protocol"]), {})
        texts[row["metric"]] = format_value(
            row["value"], row["low"], row["high"], digits=(digits or {}).get(row["metric"], 3)
        )
    rows = [
        {"router": router, "protocol": protocol}
        | {metric: texts.get(metric, MISSING) for metric in metrics}
        for (router, protocol), texts in cells.items()
    ]
    return pd.DataFrame(rows, columns=["router", "protocol", *metrics])


def format_markdown(table: pd.DataFrame) -> str:
    """Write a table as Markdown, without its index: text to the left, numbers to the right.

    >>> print(format_markdown(pd.DataFrame({"router": ["a|b"], "n": [3]})))
    | router | n |
    |---|---:|
    | a\\|b | 3 |
    """
    rules = ["---:" if pd.api.types.is_numeric_dtype(table[name]) else "---" for name in table]
    rows = [[str(name) for name in table], *table.astype(object).to_numpy().tolist()]
    lines = [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join(rules) + "|", *lines[1:]])


def save_results(results: pd.DataFrame, path: Path) -> Path:
    """Write tidy results as CSV (``main_results.csv``): columns and rows in a fixed order, ten
    significant digits. Raises ``ValueError`` for a missing column or two rows of the same key."""
    _require_columns(results)
    keys = list(KEY_COLUMNS)
    if (twice := results.duplicated(keys)).any():
        example = results.loc[twice, keys].iloc[0].to_dict()
        raise ValueError(f"{int(twice.sum())} results are there twice, e.g. {example}")
    ordered = results.sort_values(keys, kind="stable")[list(RESULT_COLUMNS)]
    return save_table(ordered, path)


def save_table(table: pd.DataFrame, path: Path) -> Path:
    """Write any tidy table as CSV, in the order that it has, with ten significant digits.

    Raises ``ValueError`` for a table without rows.
    """
    if table.empty:
        raise ValueError(f"nothing to save in {path.name}: the table has no rows")
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.10g", lineterminator="\n")
    return path


def save_numbers(numbers: Mapping[str, object], path: Path, *, digits: int = 6) -> Path:
    """Write the numbers that documents quote as JSON: keys sorted, floats rounded to ``digits``
    decimals. Raises ``ValueError`` for a float that is not finite, ``TypeError`` for a value that
    is no text, number, mapping or list."""
    plain = _to_plain(numbers, digits, "numbers")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return path


def summarise_results(results: pd.DataFrame, differences: pd.DataFrame) -> dict[str, object]:
    """Return the numbers that documents quote: every result and difference by router and metric.

    The keys are ``results[router][metric]`` and ``differences[reference - other][metric]``, the
    values ``{"value", "low", "high", "n"}`` without what is not a number.
    """
    described = results.iloc[0]
    summary: dict[str, object] = {
        "benchmark": str(described["benchmark"]),
        "pair": str(described["pair"]),
        "lens": str(described["lens"]),
        "unit": LENS_UNITS[str(described["lens"])],
    }
    nested: dict[str, dict[str, object]] = {}
    for row in results.to_dict("records"):
        nested.setdefault(str(row["router"]), {})[str(row["metric"])] = _pick_numbers(row)
    summary["results"] = nested
    gaps: dict[str, dict[str, object]] = {}
    for row in differences.to_dict("records"):
        key = f"{row['router']} - {row['other']}"
        found = _pick_numbers(row) | {"verdict": str(row["verdict"])}
        gaps.setdefault(key, {})[str(row["metric"])] = found
    summary["differences"] = gaps
    return summary


def _pick_numbers(row: Mapping[Any, Any]) -> dict[str, object]:
    kept = {key: row[key] for key in ("value", "low", "high", "n")}
    return {key: value for key, value in kept.items() if not pd.isna(value)}


def _require_columns(results: pd.DataFrame) -> None:
    if missing := [column for column in RESULT_COLUMNS if column not in results]:
        raise ValueError(f"the results lack the columns {missing}; they have {list(results)}")


def _to_plain(value: object, digits: int, where: str) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item, digits, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item, digits, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}; leave it out or say why it is unknown in words")
        return round(value, digits) + 0.0  # + 0.0 turns -0.0 into 0.0
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}; give text, numbers, mappings or lists")

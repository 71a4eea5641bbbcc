"""The results table of the README, written from ``figures/numbers.json`` and never by hand.

The table stands between two comment lines of the README; ``update_readme`` rewrites what is
between them, and a test compares it with the tracked numbers. ``replace_section`` does so for any
document. Invariant: a document is rewritten whole or stays as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from routerlib.errors import RouterlibError
from routerlib.store.files import write_text
from routerlib.tables import format_markdown, format_value

START = "<!-- results: written by `routerlib readme` from figures/numbers.json -->"
END = "<!-- /results -->"
ROUTERS = (
    "always small",
    "always large",
    "random",
    "problem length",
    "query-level classifier",
    "first k steps large",
    "first-token entropy",
    "confidence mixture",
    "draft mean log-probability",
    "process reward",
    "TRIM-Agg",
    "TRIM-POMDP",
    "learned (before)",
    "learned (probe)",
    "oracle",
)


def render_results(numbers: Mapping[str, Any]) -> str:
    """Return the table in Markdown: accuracy and cost of each router's operating point at 40% of
    the budget, and its area. Constant routers and the oracle have one point.

    Raises ``KeyError`` when ``numbers`` lacks a router of the table.
    """
    rows = []
    unit = numbers["unit"]
    for router in ROUTERS:
        found = numbers["results"][router]
        at = " @ cost <= 40%" if "accuracy @ cost <= 40%" in found else ""
        has_point = f"accuracy{at}" in found
        row = {"router": router}
        row["accuracy"] = _format(found[f"accuracy{at}"], 2) if has_point else "–"
        row[f"cost, {unit}"] = _format(found[f"cost{at}"], 0) if has_point else "–"
        row["area"] = _format(found["area"], 3) if "area" in found else "–"
        rows.append(row)
    problems = numbers["results"]["always large"]["accuracy"]["n"]
    lines = (
        f"{numbers['benchmark'].upper()}, {problems:.0f} test problems, cost lens "
        f"`{numbers['lens']}`; value [95% interval]. Routers with a threshold are shown where "
        "calibration problems put the budget of 40% of the way from small to large; *area* is the "
        f"mean accuracy over all budgets (a coin between the two models: "
        f"{numbers['results']['chord']['area']['value']:.3f}).",
        "",
        format_markdown(pd.DataFrame(rows)),
    )
    return "\n".join(lines)


def update_readme(readme: Path, numbers_path: Path) -> bool:
    """Rewrite the README's results from the numbers file and return whether that changed it.

    Raises ``RouterlibError`` when one of the files cannot be read, or the README not written or it
    lacks the two comment lines.
    """
    numbers = json.loads(_read(numbers_path))
    return replace_section(readme, START, END, render_results(numbers))


def replace_section(document: Path, start: str, end: str, section: str) -> bool:
    """Put a section between two comment lines of a document and return whether that changed it.

    Raises ``RouterlibError`` when the document lacks the lines, or cannot be read or written.
    """
    old = _read(document)
    before, found_start, rest = old.partition(start)
    _, found_end, after = rest.partition(end)
    if not (found_start and found_end):
        raise RouterlibError(
            f"{document.name} lacks the lines {start!r} and {end!r}: put them back"
        )
    new = f"{before}{start}\n{section}\n{end}{after}"
    if new != old:
        _write(document, new)
    return new != old


def _read(document: Path) -> str:
    try:
        return document.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RouterlibError(
            f"there is no {document}: restore it from version control, or name another"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RouterlibError(
            f"{document} cannot be read ({error}): mend it, or name another"
        ) from error


def _write(document: Path, text: str) -> None:
    try:
        write_text(document.resolve(), text)  # a link stays one
    except OSError as error:
        raise RouterlibError(
            f"{document} cannot be written ({error}): make space there, or allow this user to "
            "write there, and try again; it is as it was"
        ) from error


def _format(found: Mapping[str, float], digits: int) -> str:
    nan = float("nan")
    return format_value(
        found["value"], found.get("low", nan), found.get("high", nan), digits=digits
    )

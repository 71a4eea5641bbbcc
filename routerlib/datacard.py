"""The numbers of the traces' data card, written from the store and never by hand.

They stand between two comment lines of ``traces/README.md``; a test compares them with the store,
so the card stays true when more is recorded.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from routerlib.metrics import compute_wilson_interval
from routerlib.readme import replace_section
from routerlib.store import query
from routerlib.tables import format_markdown, format_value

START = "<!-- counts: written by `routerlib datacard` from the store -->"
END = "<!-- /counts -->"

_RUNS = """
    SELECT min(started_at)[:10] AS first_day, max(coalesce(ended_at, started_at))[:10] AS last_day,
           count(*) AS runs
    FROM runs
"""
_SETTINGS = """
    SELECT DISTINCT json_extract_string(configuration, 'benchmark') AS benchmark, plan,
           json_extract_string(configuration, 'depth') AS depth,
           json_extract_string(configuration, 'prompt_version') AS prompt,
           machine
    FROM runs ORDER BY ALL
"""
_COUNTS = """
    WITH found AS (
        SELECT problem_id, count(*) AS states, count(*) FILTER (is_terminal) AS solutions
        FROM states GROUP BY ALL
    ), called AS (
        SELECT problem_id, count(*) AS calls, count(*) FILTER (error IS NULL) AS steps,
               count(*) FILTER (ended_by = 'length') AS truncated, count(error) AS failed
        FROM steps GROUP BY ALL
    )
    SELECT benchmark, split, count(*) AS problems, sum(states)::BIGINT AS states,
           sum(solutions)::BIGINT AS solutions, sum(steps)::BIGINT AS steps,
           sum(calls)::BIGINT AS calls,
           sum(truncated) / sum(calls) AS truncated, sum(failed) / sum(calls) AS failed
    FROM problems JOIN found ON found.problem_id = id JOIN called ON called.problem_id = id
    GROUP BY ALL ORDER BY ALL
"""
_ALONE = """
    SELECT benchmark, split, model_id AS model, count(*) AS problems,
           count(*) FILTER (is_correct) AS right, avg(completion_tokens) AS tokens
    FROM solo_paths WHERE is_complete GROUP BY ALL ORDER BY ALL
"""
_MODELS = "SELECT id, parameters, quantisation, licence, weights_sha256 FROM models ORDER BY ALL"


def render_datacard(traces: Path) -> str:
    """Return the generated section in Markdown. Raises what the store raises."""
    runs = query(traces, _RUNS).iloc[0]
    size = sum(path.stat().st_size for path in traces.glob("*/*.parquet"))
    settings = query(traces, _SETTINGS)
    counts = query(traces, _COUNTS)
    for share in ("truncated", "failed"):
        counts[share] = [f"{value:.2%}" for value in counts[share]]
    lines = (
        f"Runs: {runs['runs']}, from {runs['first_day']} to {runs['last_day']}. Parquet files: "
        f"{size / 1e6:.1f} MB.",
        format_markdown(settings),
        "*States* are different texts so far, *solutions* those of them that ended; *steps* are "
        "the calls that gave text; *truncated* ones ended at the token cap.",
        format_markdown(counts),
        "Each model alone, greedy, on the problems whose path is complete; accuracy [95% Wilson "
        "interval], tokens written per problem.",
        format_markdown(_make_accuracies(query(traces, _ALONE))),
        "\n".join(_describe_model(row) for _, row in query(traces, _MODELS).iterrows()),
    )
    return "\n\n".join(lines)


def update_datacard(card: Path, traces: Path) -> bool:
    """Rewrite the card's numbers from the store and return whether that changed it.

    Raises ``RouterlibError`` when the card lacks the two comment lines.
    """
    return replace_section(card, START, END, render_datacard(traces))


def _make_accuracies(alone: pd.DataFrame) -> pd.DataFrame:
    ends = compute_wilson_interval(alone["right"].to_numpy(), alone["problems"].to_numpy())
    shares = alone["right"] / alone["problems"]
    alone["accuracy"] = [
        format_value(*values, digits=3) for values in zip(shares, *ends, strict=True)
    ]
    alone["tokens"] = alone["tokens"].round().astype(int)
    return alone[["benchmark", "split", "model", "problems", "accuracy", "tokens"]]


def _describe_model(row: pd.Series) -> str:
    sha256 = "not known" if row["weights_sha256"] is None else f"`{row['weights_sha256']}`"
    return (
        f"- `{row['id']}`: {row['parameters']:,} weights ({row['quantisation']}), licence "
        f"{row['licence']}, SHA-256 of the weights file {sha256}"
    )

"""The numbers of the traces' data card, written from the stores and never by hand.

They stand between two comment lines of ``traces/README.md``; a test compares them with the stores,
so the card stays true when more is recorded. Stores in folders of their own below ``traces`` (one
whose steps are of another kind) have a section each.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from routerlib.metrics import compute_wilson_interval
from routerlib.readme import replace_section
from routerlib.store import query
from routerlib.tables import MISSING, format_markdown, format_value

START = "<!-- counts: written by `routerlib datacard` from the store -->"
END = "<!-- /counts -->"

_RUNS = """
    SELECT min(started_at)[:10] AS first_day, max(coalesce(ended_at, started_at))[:10] AS last_day,
           count(*) AS runs
    FROM runs
"""
_SETTINGS = """
    SELECT DISTINCT json_extract_string(configuration, 'benchmark') AS benchmark, plan,
           coalesce(json_extract_string(configuration, 'depth'), '–') AS depth,
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
_COMPLETE = """count(*) FILTER (is_complete) AS problems,
           count(*) FILTER (NOT is_complete) AS incomplete,
           count(*) FILTER (is_complete AND is_correct) AS right,
           avg(completion_tokens) FILTER (is_complete) AS tokens"""
_ALONE = f"""
    SELECT benchmark, split, model_id AS model, {_COMPLETE}
    FROM solo_paths GROUP BY ALL ORDER BY ALL
"""
_LEVELS = """
    SELECT benchmark, split, string_agg(format('{}: {}', level, problems), ', ' ORDER BY level)
           AS problems_by_level
    FROM (
        SELECT benchmark, split, floor(TRY_CAST(level AS DOUBLE))::INTEGER AS level,
               count(*) AS problems
        FROM problems WHERE level IS NOT NULL GROUP BY ALL
    ) GROUP BY ALL ORDER BY ALL
"""
_JUDGED = """
    SELECT benchmark, split, question, count(DISTINCT steps.problem_id) AS problems,
           count(*) AS drafts, avg(score) AS mean_score,
           avg(judgements.prompt_tokens - judgements.shared_prompt_tokens) AS tokens_read,
           judge_model_id AS judge
    FROM judgements
    JOIN steps ON steps.id = step_id AND steps.error IS NULL
    JOIN problems ON problems.id = steps.problem_id
    GROUP BY ALL ORDER BY ALL
"""
_SCORED = """
    SELECT benchmark, split, count(*) AS problems,
           -sum(logprob) / sum(tokens - 1) AS nats_per_token, model_id AS model
    FROM prompt_scores JOIN problems ON problems.id = problem_id
    GROUP BY ALL ORDER BY ALL
"""
_PROMPTS = f"""
    SELECT benchmark, split, prompt_version AS prompt, model_id AS model, {_COMPLETE}
    FROM solo_paths GROUP BY ALL ORDER BY ALL
"""
_ROLLOUTS = """
    SELECT benchmark, split, behaviour, temperature, count(DISTINCT steps.problem_id) AS problems,
           count(*) FILTER (is_terminal) AS rollouts, count(*) AS decisions,
           avg(is_correct::INTEGER) FILTER (is_terminal) AS accuracy
    FROM choices
    JOIN steps ON steps.id = choices.step_id AND steps.error IS NULL
    JOIN states ON states.id = steps.next_state_id
    JOIN problems ON problems.id = steps.problem_id
    GROUP BY ALL ORDER BY ALL
"""
_MODELS = "SELECT id, parameters, quantisation, licence, weights_sha256 FROM models ORDER BY ALL"


def render_datacard(traces: Path) -> str:
    """Return the generated section in Markdown. Raises what the stores raise."""
    sections = [_render_store(traces)]
    for manifest in sorted(traces.glob("*/manifest.json")):
        folder = manifest.parent
        sections.append(f"### `{traces.name}/{folder.name}`\n\n{_render_inner_store(folder)}")
    return "\n\n".join(sections)


def _render_inner_store(store: Path) -> str:
    """What is in a store of rollouts or of prompts' pilots."""
    if not (rollouts := query(store, _ROLLOUTS)).empty:
        is_whole = rollouts["decisions"].equals(rollouts["rollouts"])
        what = "Whole solutions sampled" if is_whole else "Solutions sampled step by step"
        text = f"{what}, and how often they are right."
        return f"{text}\n\n{format_markdown(_round(rollouts))}"
    frame = _make_accuracies(query(store, _PROMPTS), "prompt")
    text = (
        "Each model alone with each prompt, on the problems whose path is complete; accuracy [95% "
        f"Wilson interval], tokens written per problem.{_explain_incomplete(frame)}"
    )
    return f"{text}\n\n{format_markdown(frame)}"


def _render_store(traces: Path) -> str:
    runs = query(traces, _RUNS).iloc[0]
    size = sum(path.stat().st_size for path in traces.glob("*/*.parquet"))
    settings = query(traces, _SETTINGS)
    alone = _make_accuracies(query(traces, _ALONE))
    counts = query(traces, _COUNTS)
    for share in ("truncated", "failed"):
        counts[share] = [f"{value:.2%}" for value in counts[share]]
    lines = [
        f"Runs: {runs['runs']}, from {runs['first_day']} to {runs['last_day']}. Parquet files: "
        f"{size / 1e6:.1f} MB.",
        format_markdown(settings),
        "*States* are different texts so far, *solutions* those of them that ended; *steps* are "
        "the calls that gave text; *truncated* ones ended at the token cap.",
        format_markdown(counts),
        "Each model alone, greedy, on the problems whose path is complete; accuracy [95% Wilson "
        f"interval], tokens written per problem.{_explain_incomplete(alone)}",
        format_markdown(alone),
    ]
    for sql, text in (
        (_LEVELS, "Problems by level of difficulty (whole levels: 4.5 counts as 4)."),
        (_JUDGED, "Judged drafts; *tokens read* are those of a prompt that are not shared by all."),
        (_SCORED, "How well a model predicts the problems' texts, in the mean over tokens."),
    ):
        if not (frame := query(traces, sql)).empty:
            lines += [text, format_markdown(_round(frame))]
    lines.append("\n".join(_describe_model(row) for _, row in query(traces, _MODELS).iterrows()))
    return "\n\n".join(lines)


def update_datacard(card: Path, traces: Path) -> bool:
    """Rewrite the card's numbers from the store and return whether that changed it.

    Raises ``RouterlibError`` when the card cannot be read or written, or lacks the two comment
    lines, and what the stores raise.
    """
    return replace_section(card, START, END, render_datacard(traces))


def _round(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.round({"mean_score": 3, "tokens_read": 1, "nats_per_token": 3, "accuracy": 3})


def _make_accuracies(alone: pd.DataFrame, *more: str) -> pd.DataFrame:
    """The table of accuracies; it says how many problems are ``incomplete`` where any is."""
    ends = compute_wilson_interval(alone["right"].to_numpy(), alone["problems"].to_numpy())
    shares = alone["right"] / alone["problems"]
    alone["accuracy"] = [
        format_value(*values, digits=3) for values in zip(shares, *ends, strict=True)
    ]
    tokens = alone["tokens"].round().astype("Int64").astype(object)
    alone["tokens"] = tokens.where(tokens.notna(), MISSING).infer_objects()
    counts = ["problems", "incomplete"] if alone["incomplete"].any() else ["problems"]
    return alone[["benchmark", "split", *more, "model", *counts, "accuracy", "tokens"]]


def _explain_incomplete(accuracies: pd.DataFrame) -> str:
    if "incomplete" not in accuracies:
        return ""
    return (
        " *Incomplete* are the problems whose recorded path has no end: they are in no accuracy, "
        "and where they are many it says little."
    )


def _describe_model(row: pd.Series) -> str:
    sha256 = "not known" if row["weights_sha256"] is None else f"`{row['weights_sha256']}`"
    return (
        f"- `{row['id']}`: {row['parameters']:,} weights ({row['quantisation']}), licence "
        f"{row['licence']}, SHA-256 of the weights file {sha256}"
    )

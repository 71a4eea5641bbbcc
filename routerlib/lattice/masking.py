"""Traces as they would be if a model's server gave no log-probabilities.

Closed models give none, so a policy for them must do without: what is hidden here is what such a
server leaves out of its answers, and every field that is computed from it becomes NaN by itself.
Invariant: texts, tokens and grades stay, so costs and outcomes are those of the recorded steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from routerlib.errors import StoreError
from routerlib.lattice.rows import TraceTables

LOGPROB_COLUMNS = ("token_logprobs", "first_token_texts", "first_token_logprobs")


def hide_logprobs(tables: TraceTables, model_ids: Sequence[str]) -> TraceTables:
    """Return the tables without the log-probabilities of some models: those of their steps, the
    alternatives of their first tokens, and their scores of the problems' texts.

    A judge's score is computed from log-probabilities too, so their judgements are left out.
    Raises ``StoreError`` for a model without a recorded step, whose name must be wrong.
    """
    unknown = set(model_ids) - set(tables.steps["model_id"].unique())
    if unknown:
        raise StoreError(f"no step by {sorted(unknown)} is recorded: name models of the store")
    is_closed = pl.col("model_id").is_in(list(model_ids))
    columns = [
        pl.when(is_closed).then(pl.col(name).list.head(0)).otherwise(pl.col(name)).alias(name)
        for name in LOGPROB_COLUMNS
    ]
    scores, judgements = tables.prompt_scores, tables.judgements
    if judgements is not None:
        judgements = judgements.filter(~pl.col("judge_model_id").is_in(list(model_ids)))
    return replace(
        tables,
        steps=tables.steps.with_columns(columns),
        prompt_scores=None if scores is None else scores.filter(~is_closed),
        judgements=judgements,
    )

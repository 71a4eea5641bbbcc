"""Shares over recorded states, with intervals that know that states of one problem are alike.

Invariant: problems are drawn with replacement and all of a problem's states come and go together;
a share is that of states, so a problem with more of them weighs more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from routerlib.metrics import (
    compute_interval,
    compute_means,
    compute_resample_weights,
    draw_resamples,
)

N_RESAMPLES = 2000


def compute_state_means(
    states: pd.DataFrame, by: Sequence[str], column: str, generator: np.random.Generator
) -> pd.DataFrame:
    """Return the mean of ``column`` in each group of states, one row per group in sorted order.

    ``states`` has one row per state: ``problem_id``, the columns ``by`` and ``column`` (flag or
    number). The result has ``by``, ``value``, ``low``, ``high`` (95%) and ``n``, the states.

    >>> states = pd.DataFrame({"problem_id": ["a", "a", "b"], "depth": 0, "right": [1, 1, 0]})
    >>> compute_state_means(states, ["depth"], "right", np.random.default_rng(0)).round(2)
       depth  value  low  high  n
    0      0   0.67  0.0   1.0  3
    """
    problems = sorted(set(states["problem_id"]))
    weights = compute_resample_weights(draw_resamples(len(problems), N_RESAMPLES, generator))
    rows = []
    for key, group in states.groupby(list(by), sort=True):
        values = group.groupby("problem_id")[column]
        total, count = (
            np.asarray(found.reindex(problems, fill_value=0), dtype=np.float64)
            for found in (values.sum(), values.count())
        )
        with np.errstate(invalid="ignore"):  # a resample may hold no problem of the group
            replicates = compute_means(total, weights) / compute_means(count, weights)
        low, high = compute_interval(replicates)
        row = dict(zip(by, key, strict=True))
        row |= {"value": total.sum() / count.sum(), "low": float(low), "high": float(high)}
        rows.append(row | {"n": len(group)})
    return pd.DataFrame(rows)

"""What a recording will take, in money, calls or tokens, from what its first problems did take.

Invariant: an estimate has an interval or says that there is none yet; unpriced models are an error.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from routerlib.models.spending import compute_usd, get_prices
from routerlib.records import ModelCard

LEAST_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class TotalEstimate:
    """Expected total, in the unit of what was summed, with the ends of a 95% prediction interval,
    from ``n`` recorded problems."""

    expected: float
    low: float
    high: float
    n: int


def load_problem_costs(
    root: Path, step_ids: Mapping[str, Collection[str]], cards: Sequence[ModelCard]
) -> npt.NDArray[np.float64]:
    """Return (n,) the USD that recorded calls took for each of n problems, refused answers and all,
    at the prices of the cards. ``step_ids`` maps a problem to the ids of the calls that count: a
    store may hold those of other plans as well. Raises UnpricedModelError, and the errors of
    ``load_table``."""
    from routerlib.store import load_table

    tokens = ["prompt_tokens", "cached_prompt_tokens", "completion_tokens"]
    table = load_table(root, "steps", columns=["id", "model_id", *tokens])
    by_id = {card.id: card for card in cards}
    for card in cards:
        get_prices(card)
    problem_of = {step_id: problem for problem, ids in step_ids.items() for step_id in ids}
    costs = dict.fromkeys(step_ids, 0.0)
    for row in table.to_pylist():
        card_of_row = by_id.get(row["model_id"])
        problem = problem_of.get(row["id"])
        if problem is not None and card_of_row is not None:
            costs[problem] += compute_usd(card_of_row, *(row[name] for name in tokens))
    return np.array(list(costs.values()), dtype=np.float64)


def predict_total(costs: npt.NDArray[np.float64], n_left: int) -> TotalEstimate | None:
    """Return what ``n_left`` more problems will take, given what n like them took (n,), in USD or
    any other unit; None for fewer than ``LEAST_PROBLEMS``.

    Student's prediction interval for a sum of new draws from a normal distribution (Hahn and
    Meeker, Statistical Intervals), not below 0.

    >>> predict_total(np.full(10, 0.25), 100)
    TotalEstimate(expected=25.0, low=25.0, high=25.0, n=10)
    """
    from scipy import stats

    n = len(costs)
    if n < LEAST_PROBLEMS:
        return None
    expected = float(costs.mean()) * n_left
    spread = float(costs.std(ddof=1)) * n_left * np.sqrt(1.0 / n + 1.0 / max(n_left, 1))
    half = float(stats.t.ppf(0.975, n - 1)) * float(spread)
    return TotalEstimate(expected, max(0.0, expected - half), expected + half, n)

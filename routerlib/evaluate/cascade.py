"""A cascade by self-agreement: the small model solves a problem a few times, and where its answers
do not agree enough the large model solves it from the start.

Answer consistency as the sign that a problem is easy is that of Yue et al. (arXiv 2310.03094), by
vote over samples of one prompt; their mixture of prompts is left out. It decides once for a whole
problem, so it is a rival of query-level routing. Invariants: every sample is billed, also when the
large model answers in the end; ties between answers go to the one that was given first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray

from routerlib.calibrate import Sweep, choose_curve_settings
from routerlib.costs import Lens, compute_cost
from routerlib.errors import StoreError
from routerlib.evaluate.comparison import compare_on
from routerlib.evaluate.points import make_row
from routerlib.evaluate.routers import evaluate_ends
from routerlib.lattice import Lattice, TraceTables, Values, load_tables
from routerlib.lattice.rows import join_refused
from routerlib.policies import NEVER_LARGE

Floats = NDArray[np.float64]

_TOKENS = (
    "prompt_tokens",
    "shared_prompt_tokens",
    "completion_tokens",
    "refused_tokens",
    "refused_prompt_tokens",
)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """S whole solutions of each of P problems, written by one model at a temperature above 0.

    ``answer`` (P, S): a number for each different answer of a problem, -1 where none was given;
    ``right`` (P, S); ``tokens`` (P, S, 3): ``costs.LEDGER_FIELDS`` of each call, when the first
    call of a problem reads it anew and the others find it in the cache; refused answers included.
    """

    problem_ids: tuple[str, ...]
    answer: NDArray[np.int64]
    right: Floats
    tokens: Floats

    @property
    def n_samples(self) -> int:
        """S."""
        return int(self.answer.shape[1])


def load_samples(root: Path, problem_ids: Sequence[str], model_id: str) -> Samples:
    """Return the recorded samples of those problems that have as many as any of them has.

    The store under ``root`` holds rollouts in which ``model_id`` wrote whole solutions at once
    (plan ``rollout``, depth 0). StoreError where none of the problems has any.
    """
    return build_samples(load_tables(root), problem_ids, model_id)


def build_samples(tables: TraceTables, problem_ids: Sequence[str], model_id: str) -> Samples:
    """Return the samples of ``load_samples`` from tables."""
    order = pl.DataFrame({"problem_id": list(problem_ids), "place": range(len(problem_ids))})
    ends = tables.states.select(
        pl.col("id").alias("next_state_id"),
        *("is_terminal", "is_correct"),
        pl.col("extracted_answer").alias("said"),
    )
    asked = tables.steps.filter(
        (pl.col("model_id") == model_id)
        & (pl.col("kind") == "tail")
        & (pl.col("temperature") > 0.0)
    )
    rows = (
        join_refused(asked.filter(pl.col("error").is_null()), asked)
        .join(order, on="problem_id")
        .join(ends, on="next_state_id")
        .filter(pl.col("is_terminal"))
        .sort("place", "sample_index")
    )
    if rows.is_empty():
        raise StoreError(
            f"no sampled solution by {model_id} of these {len(problem_ids)} problems: record them "
            "with --plan rollout --depth 0 --large-probability 0 and a --temperature above 0"
        )
    counts = rows.group_by("problem_id", maintain_order=True).len()
    n_samples = int(counts["len"].max() or 0)  # type: ignore[arg-type]
    whole = counts.filter(pl.col("len") == n_samples)["problem_id"]
    rows = rows.filter(pl.col("problem_id").is_in(whole.to_list()))
    said = rows.select(
        pl.when(pl.col("said").is_null())
        .then(-1)
        .otherwise(pl.col("said").rank("dense").over("problem_id"))
        .cast(pl.Int64)
    ).to_series()
    shape = len(whole), n_samples
    prompt, shared, completion, refused, refused_prompt = (
        rows[name].cast(pl.Float64).to_numpy().reshape(shape) for name in _TOKENS
    )
    anew = np.where(np.arange(n_samples) == 0, prompt - shared, 0.0)
    return Samples(
        tuple(whole.to_list()),
        said.to_numpy().reshape(shape),
        rows["is_correct"].fill_null(False).cast(pl.Float64).to_numpy().reshape(shape),
        np.stack([anew, prompt - anew + refused_prompt, completion + refused], axis=-1),
    )


def sweep_cascade(samples: Samples, lattice: Lattice, lens: Lens, n_samples: int) -> Sweep:
    """Values (T, P) of the cascade with the first ``n_samples``, at every agreement to ask for.

    ``lattice`` holds the same problems in the same order; on it the large model solves what is
    handed on. A setting is the least share of samples that must give one answer; the last one asks
    for more than all, so always calls large. ValueError for other problems or too few samples.
    """
    if lattice.problem_ids != samples.problem_ids:
        raise ValueError("the lattice's problems are not those of the samples: select them first")
    if not 1 <= n_samples <= samples.n_samples:
        raise ValueError(f"n_samples is {n_samples}; {samples.n_samples} were recorded")
    answer = samples.answer[:, :n_samples]
    votes = ((answer[:, :, None] == answer[:, None, :]) & (answer >= 0)[:, :, None]).sum(axis=2)
    winner = votes.argmax(axis=1)
    everyone = np.arange(len(answer))
    agreement = votes[everyone, winner] / n_samples
    right = samples.right[everyone, winner]
    spent = compute_cost(_as_small(samples.tokens[:, :n_samples].sum(axis=1), lens), lens)
    _, large = evaluate_ends(lattice, lens)
    settings = np.append(np.arange(n_samples + 1) / n_samples, NEVER_LARGE)
    handed_on = agreement < settings[:, None] - 1e-12
    return Sweep(
        settings,
        Values(
            np.where(handed_on, large.accuracy, right),
            np.where(handed_on, spent + large.cost, spent),
        ),
    )


def evaluate_cascades(
    calibration: tuple[Samples, Lattice],
    test: tuple[Samples, Lattice],
    lens: Lens,
    *,
    n_samples: Sequence[int],
    seed: int = 0,
    n_resamples: int = 2000,
) -> pd.DataFrame:
    """Area over the chord of cascades, their agreements chosen on calibration problems.

    One row for each number of samples, with the columns of ``evaluate_variants`` that say what it
    is and what it is worth: factor, level, lens, value, low, high, n; and cost_least, the mean cost
    on the test problems when all samples are taken and none is handed on, as a share of the way
    from always small to always large.
    """
    comparison = compare_on(test[1], lens, np.random.default_rng(seed), n_resamples)
    small, large = float(comparison.small.cost.mean()), float(comparison.large.cost.mean())
    rows = []
    for n in n_samples:
        chosen = choose_curve_settings(sweep_cascade(*calibration, lens, n))
        sweep = sweep_cascade(*test, lens, n)
        places = np.searchsorted(sweep.settings, chosen)
        curve = Values(sweep.values.accuracy[places], sweep.values.cost[places])
        measure = comparison.measure_curve(curve)["area_over_chord"]
        rows.append(
            {"factor": "cascade by self-agreement", "level": f"{n} samples", "lens": lens.name}
            | make_row(comparison.estimate(measure))
            | {"cost_least": (float(sweep.values.cost[0].mean()) - small) / (large - small)}
        )
    return pd.DataFrame(rows)


def _as_small(tokens: Floats, lens: Lens) -> Floats:
    """Ledger (P, M, 3) of tokens (P, 3) that the cheapest model reads and writes."""
    ledger = np.zeros((len(tokens), *lens.weights.shape))
    ledger[:, 0] = tokens
    return ledger

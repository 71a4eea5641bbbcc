"""The observable fields of every node, computed from the recorded steps.

A step's own numbers are computed once for each recorded row; a node's come from the edge into it,
from its parent's running totals, and, for probes and drafts, from the small model's step at the
node. Invariant: nothing here looks at a grade.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from routerlib.features import FIELDS
from routerlib.lattice.rows import RecordedGraph

OPERATORS = r"[-+*/=^<>×÷−]"

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Paths:
    """The edges of the unrolled trees: ``level_offsets`` (D+2,), ``parent``, ``parent_action``,
    ``node_problem`` (N,), and ``edge_step`` (N, K), the recorded row behind an edge or -1."""

    level_offsets: IntArray
    node_problem: IntArray
    parent: IntArray
    parent_action: IntArray
    edge_step: IntArray

    def levels(self) -> list[slice]:
        """Return the slice of nodes of each depth, roots first."""
        bounds = self.level_offsets.tolist()
        return [slice(start, stop) for start, stop in pairwise(bounds)]


def compute_fields(graph: RecordedGraph, paths: Paths) -> dict[str, FloatArray]:
    """Return every field of every node, in the registry's order: name -> (N,)."""
    numbers = _compute_step_numbers(graph)
    fields = {name: values[paths.node_problem] for name, values in graph.problem_fields.items()}
    fields.update(_compute_path_fields(numbers, paths))
    small = paths.edge_step[:, 0]
    mean = take_rows(numbers["logprob_sum"], small) / take_rows(numbers["n_logprobs"], small)
    fields["draft_mean_logprob"] = mean
    for field, number in (
        ("probe_entropy", "first_entropy"),
        ("probe_margin", "first_margin"),
        ("probe_top_logprob", "first_logprob"),
        ("draft_min_logprob", "logprob_min"),
        ("draft_tokens", "tokens"),
        ("draft_n_digits", "n_digits"),
        ("draft_is_answer", "ends"),
        ("draft_repeats", "repeats"),
    ):
        fields[field] = take_rows(numbers[number], small)
    return {name: fields[name] for name in FIELDS if name in fields}


def take_rows(values: FloatArray, rows: IntArray) -> FloatArray:
    """Return ``values[rows]``, with NaN where the row is -1 (not recorded)."""
    padded: FloatArray = np.append(values, np.nan)
    return padded[rows]


def _compute_path_fields(numbers: dict[str, FloatArray], paths: Paths) -> dict[str, FloatArray]:
    """Return the fields of protocol ``before``: the last step and totals along the path."""
    n_nodes, n_models = paths.edge_step.shape
    totals = {name: np.zeros(n_nodes) for name in _TOTALS}
    last = {name: np.zeros(n_nodes) for name in ("last_author_large", *_LAST)}
    totals["logprob_min"][:] = np.inf
    last["last_author_large"][:] = -1.0
    for depth, nodes in enumerate(paths.levels()):
        if depth == 0:
            continue
        parent, action = paths.parent[nodes], paths.parent_action[nodes]
        row = paths.edge_step[parent, action]
        for field, number in _LAST.items():
            last[field][nodes] = numbers[number][row]
        last["last_author_large"][nodes] = action / (n_models - 1) if n_models > 1 else 0.0
        for name in ("tokens", "logprob_sum", "n_logprobs"):
            step = numbers[name][row]
            totals[name][nodes] = totals[name][parent] + np.nan_to_num(step)
        lowest = numbers["logprob_min"][row]
        totals["logprob_min"][nodes] = np.fmin(totals["logprob_min"][parent], lowest)
        totals["n_large"][nodes] = totals["n_large"][parent] + (action == n_models - 1)
        totals["n_steps"][nodes] = depth
    started = totals["n_steps"] > 0
    mean_last = _divide(last.pop("logprob_sum"), last.pop("n_logprobs"))
    mean_all = _divide(totals["logprob_sum"], totals["n_logprobs"])
    least = np.where(np.isfinite(totals["logprob_min"]), totals["logprob_min"], np.nan)
    return {
        **last,
        "depth": totals["n_steps"],
        "steps_tokens": totals["tokens"],
        "share_large": totals["n_large"] / np.maximum(totals["n_steps"], 1.0),
        "last_mean_logprob": np.where(started, mean_last, 0.0),
        "mean_logprob": np.where(started, mean_all, 0.0),
        "min_logprob": np.where(started, least, 0.0),
    }


_TOTALS = ("tokens", "logprob_sum", "n_logprobs", "logprob_min", "n_large", "n_steps")
_LAST = {
    "last_tokens": "tokens",
    "n_digits_last": "n_digits",
    "n_operators_last": "n_operators",
    "repeats_last": "repeats",
    "last_min_logprob": "logprob_min",
    "logprob_sum": "logprob_sum",
    "n_logprobs": "n_logprobs",
}


def _divide(total: FloatArray, count: FloatArray) -> FloatArray:
    """Return total / count, NaN where nothing was counted."""
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _compute_step_numbers(graph: RecordedGraph) -> dict[str, FloatArray]:
    """Return numbers of each recorded step, (R,) each; NaN where the server gave none."""
    logprobs = pl.col("token_logprobs").cast(pl.List(pl.Float64))
    first = pl.col("first_token_logprobs").cast(pl.List(pl.Float64))
    frame = graph.steps.select(
        tokens=pl.col("completion_tokens"),
        logprob_sum=pl.when(logprobs.list.len() > 0).then(logprobs.list.sum()),
        logprob_min=logprobs.list.min(),
        n_logprobs=pl.when(logprobs.list.len() > 0).then(logprobs.list.len()),
        n_digits=pl.col("text").str.count_matches(r"\d"),
        n_operators=pl.col("text").str.count_matches(OPERATORS),
        repeats=(_nonblank_lines("text").list.set_intersection(_nonblank_lines("state_text")))
        .list.len()
        .gt(0),
        first_logprob=first.list.first(),
        **_first_token_expressions(first),
    ).with_columns(pl.all().cast(pl.Float64))
    numbers = {name: frame[name].fill_null(np.nan).to_numpy() for name in frame.columns}
    numbers["ends"] = np.isfinite(graph.step_outcome).astype(np.float64)
    return numbers


def _nonblank_lines(column: str) -> pl.Expr:
    lines = pl.col(column).str.split("\n").list.eval(pl.element().str.strip_chars())
    return lines.list.set_difference(pl.lit([""]))


def _first_token_expressions(first: pl.Expr) -> dict[str, pl.Expr]:
    """Return entropy (nats) and margin of the first token's distribution.

    The recorded top tokens keep their probabilities and what is left is one bucket; when
    rounding brings their sum above one they are divided by it.
    """
    mass = first.list.eval(pl.element().exp()).list.sum()
    total = pl.max_horizontal(mass, pl.lit(1.0))
    weighted = first.list.eval(pl.element().exp() * pl.element()).list.sum()
    rest = (1.0 - mass).clip(lower_bound=0.0)
    rest_term = pl.when(rest > 0).then(rest * rest.log()).otherwise(0.0)
    entropy = -(weighted / total - mass / total * total.log()) - rest_term
    best = first.list.get(0, null_on_oob=True).exp()
    second = first.list.get(1, null_on_oob=True).exp().fill_null(0.0)
    given = first.list.len() > 0
    return {
        "first_entropy": pl.when(given).then(entropy.clip(lower_bound=0.0) + 0.0),
        "first_margin": pl.when(given).then((best - second) / total),
    }

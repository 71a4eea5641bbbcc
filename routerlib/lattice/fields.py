"""The observable fields of every node, computed from the recorded steps.

A step's own numbers are computed once for each recorded row; a node's come from the edge into it,
from its parent's running totals, and, for probes, drafts and their judge, from the small model's
step at the node. Invariant: nothing here looks at a grade.
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
BEST_USEFULNESS = 9.0

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
    fields.update(_compute_small_fields(numbers, paths))
    fields.update(_compute_disagreements(graph, paths))
    fields["judge_usefulness"] = BEST_USEFULNESS * take_rows(
        graph.judge_score, paths.edge_step[:, 0]
    )
    return {name: fields[name] for name in FIELDS if name in fields}


def take_rows(values: FloatArray, rows: IntArray) -> FloatArray:
    """Return ``values[rows]``, with NaN where the row is -1 (not recorded)."""
    padded: FloatArray = np.append(values, np.nan)
    return padded[rows]


def _compute_path_fields(numbers: dict[str, FloatArray], paths: Paths) -> dict[str, FloatArray]:
    """Return the fields of protocol ``before``: the last step and totals along the path."""
    n_nodes, n_models = paths.edge_step.shape
    totals = {name: np.zeros(n_nodes) for name in (*_SUMS, *_LOWEST, *_COUNTS)}
    last = {name: np.zeros(n_nodes) for name in ("last_author_large", *_LAST)}
    for name in _LOWEST:
        totals[name][:] = np.inf
    last["last_author_large"][:] = -1.0
    for depth, nodes in enumerate(paths.levels()):
        if depth == 0:
            continue
        parent, action = paths.parent[nodes], paths.parent_action[nodes]
        row = paths.edge_step[parent, action]
        for field, number in _LAST.items():
            last[field][nodes] = numbers[number][row]
        last["last_author_large"][nodes] = action / (n_models - 1) if n_models > 1 else 0.0
        for name in _SUMS:
            totals[name][nodes] = totals[name][parent] + np.nan_to_num(numbers[name][row])
        for name in _LOWEST:
            totals[name][nodes] = np.fmin(totals[name][parent], numbers[name][row])
        stays = action == paths.parent_action[parent]
        totals["run_length"][nodes] = np.where(stays, totals["run_length"][parent] + 1.0, 1.0)
        totals["n_switches"][nodes] = totals["n_switches"][parent] + (~stays & (depth > 1))
        totals["n_large"][nodes] = totals["n_large"][parent] + (action == n_models - 1)
        totals["n_steps"][nodes] = depth
    started = totals["n_steps"] > 0
    mean_all = _divide(totals["logprob_sum"], totals["n_logprobs"])
    lowest = {name: np.where(np.isfinite(totals[name]), totals[name], np.nan) for name in _LOWEST}
    return {
        **last,
        "depth": totals["n_steps"],
        "steps_tokens": totals["tokens"],
        "share_large": totals["n_large"] / np.maximum(totals["n_steps"], 1.0),
        "run_length": totals["run_length"],
        "n_switches": totals["n_switches"],
        "n_digits": totals["n_digits"],
        "n_operators": totals["n_operators"],
        "n_repeats": totals["repeats"],
        "mean_logprob": np.where(started, mean_all, 0.0),
        "min_logprob": np.where(started, lowest["logprob_min"], 0.0),
        "min_mean_logprob": np.where(started, lowest["logprob_mean"], 0.0),
    }


_SUMS = ("tokens", "logprob_sum", "n_logprobs", "n_digits", "n_operators", "repeats")
_LOWEST = ("logprob_min", "logprob_mean")
_COUNTS = ("n_large", "n_steps", "run_length", "n_switches")
_LAST = {
    "last_tokens": "tokens",
    "last_chars": "n_chars",
    "n_digits_last": "n_digits",
    "n_operators_last": "n_operators",
    "repeats_last": "repeats",
    "last_mean_logprob": "logprob_mean",
    "last_min_logprob": "logprob_min",
    "last_std_logprob": "logprob_std",
    "last_sum_logprob": "logprob_sum",
    "last_first_entropy": "first_entropy",
    "last_first_margin": "first_margin",
}
_SMALL = {
    "probe_entropy": "first_entropy",
    "probe_margin": "first_margin",
    "probe_top_logprob": "first_logprob",
    "draft_mean_logprob": "logprob_mean",
    "draft_min_logprob": "logprob_min",
    "draft_std_logprob": "logprob_std",
    "draft_tokens": "tokens",
    "draft_n_digits": "n_digits",
    "draft_n_operators": "n_operators",
    "draft_is_answer": "ends",
    "draft_repeats": "repeats",
}


def _compute_small_fields(numbers: dict[str, FloatArray], paths: Paths) -> dict[str, FloatArray]:
    """Return what a probe or a draft shows: the small model's step at each node."""
    small = paths.edge_step[:, 0]
    fields = {field: take_rows(numbers[number], small) for field, number in _SMALL.items()}
    highest = fields["probe_entropy"].copy()
    for nodes in paths.levels()[1:]:
        highest[nodes] = np.fmax(highest[paths.parent[nodes]], highest[nodes])
    return fields | {"probe_max_entropy": highest}


def _compute_disagreements(graph: RecordedGraph, paths: Paths) -> dict[str, FloatArray]:
    """Return where another model did not write what the small one's probe or draft had shown at
    the parent; NaN where the small model's step was not recorded there."""
    by_other = np.flatnonzero(paths.parent_action > 0)
    at_parent = paths.edge_step[paths.parent[by_other]]
    small = at_parent[:, 0]
    written = at_parent[np.arange(len(by_other)), paths.parent_action[by_other]]
    known = small >= 0
    text = graph.steps["text"]
    token = graph.steps["first_token_texts"].list.get(0, null_on_oob=True)
    found = pl.DataFrame(
        {
            "written": text.gather(written[known]),
            "draft": text.gather(small[known]),
            "token": token.gather(small[known]),
        }
    ).select(
        probe=~pl.col("written").str.starts_with(pl.col("token")),
        draft=pl.col("written").str.strip_chars() != pl.col("draft").str.strip_chars(),
    )
    disagrees = {}
    for protocol in ("probe", "draft"):
        values = np.zeros(len(paths.parent))
        values[by_other] = np.nan
        values[by_other[known]] = found[protocol].cast(pl.Float64).fill_null(np.nan).to_numpy()
        disagrees[protocol] = values
    total = np.nan_to_num(disagrees["draft"])
    for nodes in paths.levels()[1:]:
        total[nodes] += total[paths.parent[nodes]]
    return {
        "probe_disagrees_last": disagrees["probe"],
        "draft_disagrees_last": disagrees["draft"],
        "draft_n_disagreements": total,
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
        logprob_std=logprobs.list.std(ddof=0),
        n_logprobs=pl.when(logprobs.list.len() > 0).then(logprobs.list.len()),
        n_chars=pl.col("text").str.len_chars(),
        n_digits=pl.col("text").str.count_matches(r"\d"),
        n_operators=pl.col("text").str.count_matches(OPERATORS),
        repeats=(_nonblank_lines("text").list.set_intersection(_nonblank_lines("state_text")))
        .list.len()
        .gt(0),
        first_logprob=first.list.first(),
        **_first_token_expressions(first),
    ).with_columns(pl.all().cast(pl.Float64))
    numbers = {name: frame[name].fill_null(np.nan).to_numpy() for name in frame.columns}
    numbers["logprob_mean"] = _divide(numbers["logprob_sum"], numbers["n_logprobs"])
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

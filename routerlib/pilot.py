"""A pilot: what a dozen recorded problems say of a pair of models, and what they cannot say.

Invariants: it is recorded by ``routerlib collect``, so a pilot that is run again asks for nothing
that is there; a share of so few problems has Wilson's interval, for a bootstrap of all right has no
width; a gap has a verdict only where there are ``LEAST_PROBLEMS``, and stands beside the number of
problems that would tell it from 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import polars as pl

from routerlib.cli import make_parser
from routerlib.costs import Lens
from routerlib.errors import NotebookError, SpendingCapError, StoreError
from routerlib.evaluate import (
    INDISTINGUISHABLE,
    CalibratedRouter,
    Evaluation,
    evaluate_ends,
    evaluate_routers,
    judge,
    load_routers,
)
from routerlib.features import DecisionProtocol, get_feature_names
from routerlib.lattice import Lattice, coverage
from routerlib.metrics import Estimate, compute_wilson_interval
from routerlib.policies import AlwaysLarge, AlwaysSmall
from routerlib.price_estimate import predict_total

LEAST_PROBLEMS = 10  # with fewer a bootstrap interval is far too narrow to judge by
POWER = 0.8
VERDICTS = {"higher": "better than the coin", "lower": "worse than the coin"}
QUANTITIES = ("calls", "prompt_tokens", "completion_tokens", "usd")


def record_pilot(options: Mapping[str, object]) -> None:
    """Record what is missing as ``routerlib collect`` does with these options, by their names
    there; those that are "" are left out.

    Calls that fail for good are rows of the store, and no error. SpendingCapError when the next
    call might have passed the cap, NotebookError when the recording was stopped; what was answered
    is kept. Raises the errors of the file of models, and of a model that answers nothing.
    """
    given = {f"--{name}": str(value) for name, value in options.items() if value != ""}
    words = [word for option in given.items() for word in option]
    parsed = make_parser().parse_args(["collect", *words])
    status = parsed.run(parsed)
    kept = f"what was answered is kept in {parsed.traces}: run this notebook again to go on"
    if status == 3:
        raise SpendingCapError(
            f"the cap of {parsed.max_usd:g} USD ended the pilot before it was complete; {kept}, "
            "with a higher max_usd where it is less than one call may cost"
        )
    if status == 130:
        raise NotebookError(f"the recording was stopped; {kept}")


def select_complete(lattice: Lattice) -> Lattice:
    """Return the lattice of the complete problems. StoreError where none is."""
    complete = coverage(lattice).complete
    if not complete.any():
        raise StoreError(
            f"none of {lattice.n_problems} problems is recorded completely for depth "
            f"{lattice.depth}: record it, or name the depth that it was recorded with"
        )
    return lattice.select(complete)


def select_calls(steps: pl.DataFrame, lattice: Lattice) -> pl.DataFrame:
    """Return the rows of the store's table ``steps`` that are calls of a greedy lattice, failed and
    refused ones included: a store may hold others of the same problems, say of another depth."""
    levels = [
        pl.DataFrame(
            {
                "state_id": lattice.node_state[lattice.level(depth)],
                "model_id": model_id,
                "kind": lattice.step_kind(depth, action),
            }
        )
        for depth in range(lattice.depth + 1)
        for action, model_id in enumerate(lattice.model_ids)
    ]
    greedy = steps.filter((pl.col("temperature") == 0.0) & (pl.col("sample_index") == 0))
    return greedy.join(pl.concat(levels), on=["state_id", "model_id", "kind"], how="semi")


def list_step_ids(steps: pl.DataFrame, lattice: Lattice) -> dict[str, list[str]]:
    """Return the ids of a lattice's calls by problem, in its order, for ``load_problem_costs``."""
    rows = select_calls(steps, lattice).group_by("problem_id").agg(pl.col("id").unique())
    found = dict(rows.iter_rows())
    return {problem: found.get(problem, []) for problem in lattice.problem_ids}


def count_calls(steps: pl.DataFrame, lattice: Lattice) -> pd.DataFrame:
    """Return one row per problem of a greedy lattice, in its order: ``problem_id``, its recorded
    ``calls``, how many of them ``failed`` or were refused, how many steps were ``unanswered`` after
    all tries, ``prompt_tokens`` and ``completion_tokens``. ``steps`` is the store's table."""
    rows = select_calls(steps, lattice)
    has_failed = pl.col("error").is_not_null()
    answered = rows.filter(~has_failed)["id"].unique()
    counts = rows.group_by("problem_id").agg(
        calls=pl.len(),
        failed=has_failed.sum(),
        unanswered=pl.col("id").filter(~pl.col("id").is_in(answered.implode())).n_unique(),
        prompt_tokens=pl.col("prompt_tokens").sum(),
        completion_tokens=pl.col("completion_tokens").sum(),
    )
    by_problem = counts.to_pandas().set_index("problem_id")
    by_problem = by_problem.reindex(list(lattice.problem_ids), fill_value=0).astype(int)
    return by_problem.rename_axis("problem_id").reset_index()


def predict_recording(calls: pd.DataFrame, n_problems: int) -> pd.DataFrame:
    """Return what ``n_problems`` more will take, a row for each of ``QUANTITIES`` that ``calls``
    (one row per complete problem) has: ``quantity``, ``per_problem``, ``total`` with its 95%
    prediction interval ``low``, ``high``, which are NaN when there are too few problems, and
    ``n``."""
    rows = []
    for quantity in (name for name in QUANTITIES if name in calls):
        values = calls[quantity].to_numpy(dtype=np.float64)
        found = predict_total(values, n_problems)
        ends = (math.nan,) * 3 if found is None else (found.expected, found.low, found.high)
        total, low, high = ends
        row = {"quantity": quantity, "per_problem": values.mean(), "total": total}
        rows.append(row | {"low": low, "high": high, "n": len(values)})
    return pd.DataFrame(rows)


def load_router(folder: Path, name: str) -> CalibratedRouter | None:
    """Read one of the routers that ``evaluate.save_routers`` wrote; None where nothing is written.
    Raises ValueError for a name that is not among them."""
    if not (folder / "routers.json").is_file():
        return None
    routers = load_routers(folder)
    if name not in routers:
        raise ValueError(f"{folder} has no router {name!r}: name one of {', '.join(routers)}")
    return routers[name]


def evaluate_pilot(
    lattice: Lattice,
    lens: Lens,
    routers: Mapping[str, CalibratedRouter],
    generator: np.random.Generator,
    *,
    benchmark: str,
    n_resamples: int = 2000,
) -> Evaluation:
    """Evaluate some routers, each model alone and the oracle on complete problems.

    ``curve`` has Wilson's interval of accuracy where it has one. ValueError when large is not the
    dearer model: then there is nothing to weigh.
    """
    small, large = (float(end.cost.mean()) for end in evaluate_ends(lattice, lens))
    if not large > small:
        raise ValueError(
            f"by lens {lens.name!r} a problem costs {large:g} {lens.unit} with "
            f"{lattice.model_ids[1]} and {small:g} with {lattice.model_ids[0]}: name the cheaper "
            "model small, or choose another lens"
        )
    ends = {
        policy.name: CalibratedRouter(policy, (), (), np.zeros(0))
        for policy in (AlwaysSmall(), AlwaysLarge())
    }
    found = evaluate_routers(
        ends | dict(routers),
        lattice,
        lens,
        generator,
        benchmark=benchmark,
        n_resamples=n_resamples,
    )
    curve, n = found.curve, lattice.n_problems
    low, high = compute_wilson_interval(n * curve["accuracy"].to_numpy(), np.full(len(curve), n))
    has_one = curve["accuracy_low"].notna()
    found.curve["accuracy_low"] = np.where(has_one, low, np.nan)
    found.curve["accuracy_high"] = np.where(has_one, high, np.nan)
    return found


def judge_gaps(results: pd.DataFrame, router: str) -> pd.DataFrame:
    """Return how far a router is above the coin: its whole curve (``area``), then each calibrated
    point: ``gap``, ``value``, ``low``, ``high``, ``n``, ``verdict`` and ``n_needed`` (NaN where
    none is). ``results`` is that of an ``Evaluation``."""
    rows = []
    ours = results[results["router"] == router]
    for metric in ours["metric"][ours["metric"].str.contains("over_chord")]:
        found = ours[ours["metric"] == metric].iloc[0]
        value, low, high = (float(found[key]) for key in ("value", "low", "high"))
        gap = Estimate(value, low, high, int(found["n"]))
        needed = compute_needed_problems(gap) if gap.n >= LEAST_PROBLEMS else None
        row = {"gap": metric.removeprefix("accuracy_over_chord @ ").removesuffix("_over_chord")}
        row |= {"value": value, "low": low, "high": high, "n": gap.n}
        row |= {"verdict": describe_gap(gap), "n_needed": math.nan if needed is None else needed}
        rows.append(row)
    return pd.DataFrame(rows)


def describe_gap(gap: Estimate) -> str:
    """Say whether a router is better or worse than the coin, or why that cannot be said."""
    if gap.n < LEAST_PROBLEMS:
        return f"no verdict from {gap.n} problems, {LEAST_PROBLEMS} are the least"
    found = judge(gap)
    return VERDICTS.get(found, f"{INDISTINGUISHABLE} with {gap.n} problems")


def compute_needed_problems(gap: Estimate, power: float = POWER) -> int | None:
    """Return how many problems would tell a gap of this size from 0, with probability ``power``;
    None for no gap, or one without spread.

    An interval of half-width h on n problems is z_95 s / sqrt(n) for problems that spread by s
    (paired, as the interval is), and a gap d is told by N = (s (z_95 + z_power) / d)^2 of them:
    N = n (h / d)^2 (1 + z_power / z_95)^2, z_95 = 1.96. As rough as h and d are.

    >>> compute_needed_problems(Estimate(0.1, -0.1, 0.3, 12))
    99
    """
    half = (gap.high - gap.low) / 2.0
    if not (math.isfinite(gap.value) and half > 0.0) or gap.value == 0.0:
        return None
    normal = NormalDist()
    factor = 1.0 + normal.inv_cdf(power) / normal.inv_cdf(0.975)
    return math.ceil(gap.n * (half / gap.value * factor) ** 2)


def describe_unrecorded(lattice: Lattice, protocol: DecisionProtocol) -> str:
    """Say which fields that a policy sees under a protocol are not recorded, and in what share of
    the states: a model gave no log-probabilities, or a problem's text was not scored."""
    seen = lattice.observe(protocol)
    wanted = get_feature_names("default", protocol)
    seen = seen.take(tuple(name for name in wanted if name in seen.names))
    shares = dict(zip(seen.names, np.isnan(seen.values).mean(axis=0), strict=True))
    named = [f"{name} ({share:.0%} of the states)" for name, share in shares.items() if share > 0]
    if not named:
        return f"all {len(shares)} fields that the policy sees are recorded"
    return "not recorded, and read as the mean of its training: " + ", ".join(named)

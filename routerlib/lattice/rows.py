"""From the store's tables to integer look-up tables of the recorded graph.

Only successful steps count (``error`` is null). Invariant: one recorded step for each (state,
model, kind); two different ones are an error that says how to choose, never a silent pick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from routerlib.benchmarks.splits import compute_rank
from routerlib.continuations import keeps_own_words, split_prompt_version
from routerlib.errors import StoreError
from routerlib.features import FIELDS, PROBLEM_COLUMN
from routerlib.records import StepKind, compute_state_id

KINDS: tuple[StepKind, ...] = ("step", "tail")
IS_ROOT = (pl.col("text") == "") & ~pl.col("is_terminal")
# The question of ``judge_prompts`` whose answer protocol ``judge`` shows and bills.
JUDGE_QUESTIONS = ("usefulness-v1", "usefulness-turn-v1")
"""What routers may ask a judge about a draft: the first of these that it was asked counts."""

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class TraceTables:
    """The store's tables as polars frames, one row per record, columns named as its fields.
    ``prompt_scores`` is None where no text of a problem was scored, ``judgements`` where no step
    was judged."""

    problems: pl.DataFrame
    states: pl.DataFrame
    steps: pl.DataFrame
    prompt_scores: pl.DataFrame | None = None
    judgements: pl.DataFrame | None = None


@dataclass(frozen=True, eq=False, slots=True)
class RecordedGraph:
    """P problems, S states and R steps, by integer.

    ``root_state`` (P,); ``state_ids`` (S); ``step_of`` (2, S, K): row of the step of a kind (index
    in ``KINDS``) from a state by a model, or -1; ``step_next`` (R,): state it reaches;
    ``step_outcome`` (R,): 1 or 0 when it ends the solution, else NaN; ``prompt_tokens``,
    ``shared_tokens``, ``completion_tokens`` (R,), refused answers included in the last; of them
    ``kept_tokens`` (R,) are not read again by their model and ``text_tokens`` (R,) are neither
    thought nor refused; ``refused_prompt_tokens`` (R,): read for refused answers, besides;
    ``judge_score``, ``judge_prompt_tokens``, ``judge_shared_tokens``, ``judge_completion_tokens``
    (R,): the last model's judgement of a step, NaN where there is none; ``steps``: the frame of the
    R rows with ``state_text``; ``problem_fields``: name -> (P,).
    """

    problem_ids: tuple[str, ...]
    state_ids: npt.NDArray[np.str_]
    root_state: IntArray
    step_of: IntArray
    step_next: IntArray
    step_outcome: FloatArray
    prompt_tokens: FloatArray
    shared_tokens: FloatArray
    completion_tokens: FloatArray
    kept_tokens: FloatArray
    text_tokens: FloatArray
    refused_prompt_tokens: FloatArray
    judge_score: FloatArray
    judge_prompt_tokens: FloatArray
    judge_shared_tokens: FloatArray
    judge_completion_tokens: FloatArray
    steps: pl.DataFrame
    problem_fields: dict[str, FloatArray]


def index_graph(
    tables: TraceTables,
    *,
    benchmark: str,
    split: str,
    model_ids: Sequence[str],
    prompt_version: str | None,
    temperature: float,
    sample_index: int,
    limit: int | None,
) -> RecordedGraph:
    """Return the recorded graph of the first ``limit`` problems of a benchmark's split, in the
    order of ``benchmarks.splits.compute_rank``, so that any limit keeps a fair sample.

    Raises ``StoreError`` when there is no such problem, when steps or states contradict each
    other, or when more than one prompt, or more than one protocol of a model, was recorded and none
    is named.
    """
    problems = tables.problems.filter(
        (pl.col("benchmark") == benchmark) & (pl.col("split") == split)
    ).unique("id", keep="first", maintain_order=True)
    rank = [compute_rank(problem_id) for problem_id in problems["id"].to_list()]
    problems = problems[np.argsort(np.array(rank, dtype=np.str_))]
    problems = problems if limit is None else problems.head(limit)
    if problems.is_empty():
        raise StoreError(
            f"no problem of benchmark {benchmark!r}, split {split!r} is in the store: record it "
            "first (make collect), or name another"
        )
    ids = problems["id"]
    states = _index_states(tables.states, ids)
    usable = _filter_steps(
        tables.steps.filter(pl.col("problem_id").is_in(ids.implode())),
        model_ids=model_ids,
        prompt_version=prompt_version,
        temperature=temperature,
        sample_index=sample_index,
    )
    steps = _join_steps(usable, states, model_ids)
    step_of = np.full((len(KINDS), len(states), len(model_ids)), -1, dtype=np.int32)
    step_of[
        steps["kind_index"].to_numpy(),
        steps["from_index"].to_numpy(),
        steps["model_index"].to_numpy(),
    ] = np.arange(len(steps), dtype=np.int32)
    roots = ids.to_frame("problem_id").join(
        states.filter(IS_ROOT),
        on="problem_id",
        how="left",
        maintain_order="left",
        validate="1:1",
    )
    return RecordedGraph(
        problem_ids=tuple(ids.to_list()),
        state_ids=np.array(states["id"].to_list(), dtype=np.str_),
        root_state=roots["state_index"].to_numpy().astype(np.int32),
        step_of=step_of,
        step_next=steps["next_index"].to_numpy().astype(np.int32),
        step_outcome=_compute_outcomes(steps),
        prompt_tokens=steps["prompt_tokens"].to_numpy().astype(np.float64),
        shared_tokens=steps["shared_prompt_tokens"].to_numpy().astype(np.float64),
        completion_tokens=(steps["completion_tokens"] + steps["refused_tokens"])
        .to_numpy()
        .astype(np.float64),
        kept_tokens=_count_kept_tokens(steps),
        text_tokens=_count_text_tokens(steps),
        refused_prompt_tokens=steps["refused_prompt_tokens"].to_numpy().astype(np.float64),
        **_get_judgements(tables.judgements, steps["id"], model_ids[-1]),
        steps=steps,
        problem_fields=_get_problem_fields(problems)
        | {"problem_small_logprob": _get_prompt_logprobs(tables.prompt_scores, ids, model_ids[0])},
    )


def _index_states(states: pl.DataFrame, problem_ids: pl.Series) -> pl.DataFrame:
    """Return the problems' states with ``state_index``, with a root for each problem even when
    nothing of it is recorded yet."""
    states = states.select("id", "problem_id", "text", "is_terminal", "is_correct")
    states = states.filter(pl.col("problem_id").is_in(problem_ids.implode())).unique(
        maintain_order=True
    )
    twice = states.filter(pl.col("id").is_duplicated())
    if len(twice):
        raise StoreError(
            f"state {twice['id'][0]!r} of problem {twice['problem_id'][0]!r} is stored twice with "
            "different content: run `routerlib verify`"
        )
    rooted = set(states.filter(IS_ROOT)["problem_id"].to_list())
    unrooted = [problem_id for problem_id in problem_ids.to_list() if problem_id not in rooted]
    roots = pl.DataFrame(
        {
            "id": [compute_state_id(problem_id, "", False) for problem_id in unrooted],
            "problem_id": unrooted,
            "text": [""] * len(unrooted),
            "is_terminal": [False] * len(unrooted),
            "is_correct": [None] * len(unrooted),
        },
        schema=states.schema,
    )
    return pl.concat([states, roots]).with_row_index("state_index")


def _filter_steps(
    steps: pl.DataFrame,
    *,
    model_ids: Sequence[str],
    prompt_version: str | None,
    temperature: float,
    sample_index: int,
) -> pl.DataFrame:
    """Return the successful steps that the lattice is made of, one for each expansion, with what
    refused answers took in ``refused_tokens`` (written) and ``refused_prompt_tokens``."""
    asked = steps.filter(
        pl.col("model_id").is_in(list(model_ids))
        & (pl.col("sample_index") == sample_index)
        & (pl.col("temperature") == temperature)
    )
    if prompt_version is not None:
        asked = asked.filter(pl.col("prompt_version") == prompt_version)
    usable = asked.filter(pl.col("error").is_null()).unique("id", keep="first", maintain_order=True)
    _check_prompt_versions(usable)
    usable = join_refused(usable, asked)
    clash = usable.filter(pl.struct("state_id", "model_id", "kind").is_duplicated())
    if len(clash):
        row = clash.row(0, named=True)
        raise StoreError(
            f"state {row['state_id']!r} has more than one recorded step of kind {row['kind']!r} by "
            f"model {row['model_id']!r} (other token caps or delimiter?): keep one of them"
        )
    return usable


def join_refused(steps: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """Return the successful ``steps`` with what failed or refused answers to the same calls, which
    are among ``asked``, took: ``refused_tokens`` (written) and ``refused_prompt_tokens``."""
    refused = (
        asked.filter(pl.col("error").is_not_null())
        .unique(["id", "attempt"])
        .group_by("id")
        .agg(
            pl.col("completion_tokens").sum().alias("refused_tokens"),
            pl.col("prompt_tokens").sum().alias("refused_prompt_tokens"),
        )
    )
    return steps.join(refused, on="id", how="left", maintain_order="left").with_columns(
        pl.col("refused_tokens", "refused_prompt_tokens").fill_null(0)
    )


def _check_prompt_versions(steps: pl.DataFrame) -> None:
    """Raise StoreError unless there is one prompt, and one protocol for each model."""
    names = steps.select("model_id", "prompt_version").unique()
    versions = names["prompt_version"].unique().sort().to_list()
    prompts = {split_prompt_version(name)[0] for name in versions}
    if len(prompts) > 1 or names["model_id"].is_duplicated().any():
        raise StoreError(f"steps of prompt versions {versions} are recorded: name prompt_version")


def _join_steps(
    usable: pl.DataFrame, states: pl.DataFrame, model_ids: Sequence[str]
) -> pl.DataFrame:
    """Return the steps with the indices of their model, kind, and the states at both ends."""
    before = states.select("state_index", "id", pl.col("text").alias("state_text"))
    after = states.select(
        "id", "is_terminal", "is_correct", pl.col("state_index").alias("next_index")
    )
    models = pl.DataFrame({"model_id": list(model_ids)}).with_row_index("model_index")
    joined = (
        usable.join(before, left_on="state_id", right_on="id", how="left", maintain_order="left")
        .rename({"state_index": "from_index"})
        .join(after, left_on="next_state_id", right_on="id", how="left", maintain_order="left")
        .join(models, on="model_id", how="left", maintain_order="left")
        .with_columns((pl.col("kind") == "tail").cast(pl.Int32).alias("kind_index"))
    )
    broken = joined.filter(pl.col("from_index").is_null() | pl.col("next_index").is_null())
    if len(broken):
        raise StoreError(
            f"step {broken['id'][0]!r} leaves or reaches a state that is not stored: run "
            "`routerlib verify`"
        )
    endless = joined.filter((pl.col("kind") == "tail") & ~pl.col("is_terminal"))
    if len(endless):
        raise StoreError(
            f"step {endless['id'][0]!r} is a tail, but the state it reaches is not terminal: run "
            "`routerlib verify`"
        )
    return joined


def _compute_outcomes(steps: pl.DataFrame) -> FloatArray:
    """Return (R,) 1 or 0 for steps that end the solution, NaN for the others."""
    ends = steps["is_terminal"]
    ungraded = steps.filter(ends & steps["is_correct"].is_null())
    if len(ungraded):
        raise StoreError(
            f"step {ungraded['id'][0]!r} ends the solution of problem "
            f"{ungraded['problem_id'][0]!r}, but the state it reaches is not graded: grade it"
        )
    right = steps["is_correct"].fill_null(False).to_numpy().astype(np.float64)
    return np.where(ends.to_numpy(), right, np.nan)


def _count_kept_tokens(steps: pl.DataFrame) -> FloatArray:
    """Return (R,) how many tokens of what it wrote a model need not read again in its next prompt:
    all where it stays the model's own answer, none where a user's turn repeats it."""
    is_kept = [keeps_own_words(split_prompt_version(name)[1]) for name in steps["prompt_version"]]
    return np.where(is_kept, steps["completion_tokens"].to_numpy(), 0).astype(np.float64)


def _count_text_tokens(steps: pl.DataFrame) -> FloatArray:
    """Return (R,) how many tokens of an answer that was taken its model did not write in thought:
    all where the server does not tell."""
    thought = steps["reasoning_tokens"].cast(pl.Int64).fill_null(0)
    return (steps["completion_tokens"] - thought).to_numpy().astype(np.float64)


def find_usefulness(judgements: pl.DataFrame, judge_id: str) -> pl.DataFrame:
    """Return the rows of one judge's answers to the first of ``JUDGE_QUESTIONS`` that it was
    asked; none when it was asked none."""
    own = judgements.filter(pl.col("judge_model_id") == judge_id)
    asked = set(own["question"].unique().to_list())
    question = next((name for name in JUDGE_QUESTIONS if name in asked), JUDGE_QUESTIONS[0])
    return own.filter(pl.col("question") == question)


def _get_judgements(
    judgements: pl.DataFrame | None, step_ids: pl.Series, judge_id: str
) -> dict[str, FloatArray]:
    """Return score and tokens, (R,) each, of one model's scores of usefulness of the steps; NaN
    where it was not asked."""
    columns = {
        "judge_score": "score",
        "judge_prompt_tokens": "prompt_tokens",
        "judge_shared_tokens": "shared_prompt_tokens",
        "judge_completion_tokens": "completion_tokens",
    }
    if judgements is None:
        return {name: np.full(len(step_ids), np.nan) for name in columns}
    answers = find_usefulness(judgements, judge_id).select(
        "step_id", *(pl.col(c).cast(pl.Float64).alias(name) for name, c in columns.items())
    )
    asked = step_ids.to_frame("step_id").join(
        answers, on="step_id", how="left", maintain_order="left", validate="m:1"
    )
    return {name: asked[name].fill_null(np.nan).to_numpy() for name in columns}


def _get_problem_fields(problems: pl.DataFrame) -> dict[str, FloatArray]:
    """Return the problem features as fields, (P,) each. Raises ``StoreError`` for a column that
    no field documents."""
    fields: dict[str, FloatArray] = {}
    for column in problems.columns:
        if not column.startswith(PROBLEM_COLUMN):
            continue
        name = "problem_" + column.removeprefix(PROBLEM_COLUMN)
        if name not in FIELDS:
            raise StoreError(f"problems have a column {column!r} but features.FIELDS no {name!r}")
        fields[name] = problems[column].to_numpy().astype(np.float64)
    return fields


def _get_prompt_logprobs(
    scores: pl.DataFrame | None, problem_ids: pl.Series, model_id: str
) -> FloatArray:
    """Return (P,) the mean log-probability of the tokens of each problem's text but the first, by
    one model; NaN where the text was not scored, or is one token."""
    values = np.full(len(problem_ids), np.nan)
    if scores is None:
        return values
    means = {
        row["problem_id"]: row["logprob"] / (row["tokens"] - 1)
        for row in scores.filter(pl.col("model_id") == model_id).iter_rows(named=True)
        if row["tokens"] > 1
    }
    for number, problem_id in enumerate(problem_ids.to_list()):
        values[number] = means.get(problem_id, np.nan)
    return values

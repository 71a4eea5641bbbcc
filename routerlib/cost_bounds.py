"""The most that one problem can cost, known before any problem is seen.

A guarantee about a mean cost needs a bound on the cost of one problem. The largest cost *seen* is
none, for the next problem may cost more. What is known beforehand is how the recording was
configured: the caps on the tokens of a step and of a tail, the number of decisions, the tokens of
the worked examples. What no configuration caps is the length of a problem's text, so the caller
states it: the guarantee is about problems of at most ``problem_tokens`` tokens, which is checked on
the input alone, before anything is routed. Invariant: no path on a lattice recorded under the caps
costs more than the bound (a test compares).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from routerlib.costs import Lens
from routerlib.errors import CalibrationError
from routerlib.features import DecisionProtocol
from routerlib.judge_prompts import JUDGE_PROMPTS, count_question_bytes
from routerlib.lattice import TraceTables
from routerlib.lattice.rows import JUDGE_QUESTIONS, find_usefulness

DEFAULT_PROBLEM_TOKENS = 512


@dataclass(frozen=True, slots=True)
class TokenCaps:
    """What a recording allows: tokens of one step, of a tail, of the prompt that all problems share
    and of a problem's own prompt; of what the judge's prompts share, 0 without judgements, and of
    the question about a draft."""

    step: int
    tail: int
    shared: int
    problem: int = DEFAULT_PROBLEM_TOKENS
    judge_shared: int = 0
    question: int = count_question_bytes(JUDGE_PROMPTS[JUDGE_QUESTIONS[0]])


@dataclass(frozen=True, slots=True)
class CostCaps:
    """The most that one problem can cost in a lens's unit: by always small, by always large, by any
    router of one protocol."""

    small: float
    large: float
    router: float


def read_token_caps(
    tables: TraceTables,
    problem_ids: Sequence[str],
    model_ids: Sequence[str],
    problem_tokens: int = DEFAULT_PROBLEM_TOKENS,
) -> TokenCaps:
    """The caps with which the steps of some problems were requested (settings, not outcomes).

    CalibrationError when a problem's own prompt is longer than ``problem_tokens``.
    """
    steps = tables.steps.filter(
        pl.col("problem_id").is_in(list(problem_ids))
        & pl.col("model_id").is_in(list(model_ids))
        & pl.col("error").is_null()
    )
    # Without the text so far, the first call of a problem is its shortest.
    longest = (
        steps.group_by("problem_id", "model_id")
        .agg((pl.col("prompt_tokens") - pl.col("shared_prompt_tokens")).min().alias("own"))
        .sort("own")
        .tail(1)
    )
    if int(longest["own"][0]) > problem_tokens:
        raise CalibrationError(
            f"problem {longest['problem_id'][0]!r} has a prompt of {longest['own'][0]} tokens "
            f"beyond the shared ones, more than problem_tokens = {problem_tokens}: allow longer "
            "problems, and the certificate will need more of them"
        )
    caps = dict(steps.group_by("kind").agg(pl.col("max_tokens").max()).iter_rows())
    return TokenCaps(
        step=int(caps.get("step", 0)),
        tail=int(caps.get("tail", 0)),
        shared=int(np.asarray(steps["shared_prompt_tokens"].max())),
        problem=problem_tokens,
        **_read_judge_caps(tables.judgements, model_ids[-1]),
    )


def _read_judge_caps(judgements: pl.DataFrame | None, judge_id: str) -> dict[str, int]:
    """The caps of a judge's prompts; none when it was asked nothing."""
    if judgements is None:
        return {}
    asked = find_usefulness(judgements, judge_id)
    if not len(asked):
        return {}
    question = JUDGE_PROMPTS[asked["question"][0]]
    return {
        "judge_shared": int(np.asarray(asked["shared_prompt_tokens"].max())),
        "question": count_question_bytes(question),
    }


def compute_cost_caps(
    caps: TokenCaps, depth: int, lens: Lens, protocol: DecisionProtocol
) -> CostCaps:
    """Bound the cost of one problem with ``depth`` step decisions and two models.

    A model reads no token twice at full price and knows what it wrote itself: uncached it reads at
    most the problem and the steps that the other model wrote (tokenisers may join steps a little
    differently, so the costs at hand are checked against the bound). From its cache it reads at
    most one whole prompt a decision. Under ``before`` each decision has one author; ``probe`` adds
    one token and a prompt of the small model to each, ``draft`` its whole step. Under ``judge`` the
    large model also reads the problem in another prompt, every draft, every step that replaced one,
    and the question, and answers with one token.
    """
    steps = depth * caps.step
    reread = (depth + 1) * (caps.shared + caps.problem + steps)
    uncached, cached, completion = np.asarray(lens.weights, dtype=np.float64).T
    first, repeated = uncached * caps.problem, cached * reread
    alone = first + repeated + completion * (steps + caps.tail)
    # A step is written by one model and then read by the other.
    by_small, by_large = completion[0] + uncached[1], completion[1] + uncached[0]
    if protocol in ("draft", "judge"):
        router = repeated.sum() + steps * max(by_small, completion[0] + by_large)
        router += caps.tail * completion.sum()
    else:
        router = steps * max(by_small, by_large) + caps.tail * completion.max()
        router += repeated.max()
        if protocol == "probe":
            router += repeated.min() + (depth + 1) * completion[0]
    if protocol == "judge":
        asked = (depth + 1) * caps.question
        router += uncached[-1] * (caps.problem + 2 * steps + caps.tail + asked)
        router += cached[-1] * (depth + 1) * (caps.judge_shared + caps.problem + steps)
        router += completion[-1] * (depth + 1)
    return CostCaps(float(alone[0]), float(alone[-1]), float(first.sum() + router))

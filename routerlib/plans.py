"""Which expansions a plan needs, and how many of them are still missing.

Everything here is computed from problems, settings and what is recorded; nothing calls a model.
Invariant: the id of an expansion is the hash of all that determines its request, so what is
recorded is never asked for again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from routerlib.prompts import PROMPTS
from routerlib.records import Problem, State, StepKind, compute_state_id, compute_step_id
from routerlib.steps import StepRule

Plan = Literal["lattice", "switch"]
_AT_LEAST_ONE = (
    "concurrency",
    "chunk_problems",
    "max_consecutive_failures",
    "min_calls_for_share",
)
GetNextState = Callable[[str], State | None]


@dataclass(frozen=True, slots=True)
class CollectConfig:
    """What is recorded and how.

    ``depth`` is the number of step decisions before each model completes the rest;
    ``prompt_version`` names an entry of ``PROMPTS``. ``delimiter``, ``max_step_tokens`` and
    ``max_tail_tokens`` are those of the ``StepRule``. ``temperature`` and ``top_logprobs``
    (alternatives recorded of a first token) go to the model; ``sample_index`` tells repeated
    samples of one expansion apart and is their seed at a temperature above 0.

    Models are called one after the other when ``shared_machine`` holds, else all together.
    ``concurrency`` bounds the calls in flight of each model, ``chunk_problems`` the problems whose
    frontiers are open together. A run gives up after ``max_consecutive_failures`` failed calls of
    one model in a row, and at a failed call that makes the failed share of a model's calls in this
    run larger than ``max_failed_share``, once there were ``min_calls_for_share`` of them.
    """

    plan: Plan = "lattice"
    depth: int = 5
    prompt_version: str = "short-lines-v1"
    delimiter: str = "\n"
    max_step_tokens: int = 100
    max_tail_tokens: int = 200
    temperature: float = 0.0
    top_logprobs: int = 10
    sample_index: int = 0
    concurrency: int = 128
    shared_machine: bool = True
    chunk_problems: int = 150
    max_consecutive_failures: int = 20
    max_failed_share: float = 0.5
    min_calls_for_share: int = 40

    def __post_init__(self) -> None:
        if self.plan not in ("lattice", "switch"):
            raise ValueError(f"unknown plan {self.plan!r}: use 'lattice' or 'switch'")
        if self.prompt_version not in PROMPTS:
            raise ValueError(
                f"unknown prompt version {self.prompt_version!r}: use one of {sorted(PROMPTS)}"
            )
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("depth", "temperature", "top_logprobs", "sample_index"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.max_failed_share <= 1:
            raise ValueError(f"max_failed_share must be from 0 to 1, got {self.max_failed_share}")
        _ = self.step_rule  # checks its own values

    @property
    def step_rule(self) -> StepRule:
        return StepRule(self.delimiter, self.max_step_tokens, self.max_tail_tokens)


@dataclass(frozen=True, slots=True)
class Expansion:
    """One call to make: ``model_index`` continues ``state``."""

    id: str
    problem: Problem
    state: State
    model_index: int
    kind: StepKind


@dataclass(frozen=True, slots=True)
class Estimate:
    """Calls and tokens that a run is expected to need, beside the most it can need.

    ``basis`` says where the averages come from: problems already recorded, or the defaults.
    """

    problems: int
    problems_complete: int
    calls_expected: int
    calls_most: int
    completion_tokens_expected: int
    prompt_tokens_expected: int
    basis: str


def get_plan_actions(
    plan: Plan, depth: int, max_depth: int, model_count: int
) -> list[tuple[int, StepKind]]:
    """Return (model index, kind) of the expansions that a plan makes of an open state.

    >>> get_plan_actions("switch", 0, 5, 2)
    [(0, 'step'), (1, 'tail')]
    """
    if depth >= max_depth:
        return [(index, "tail") for index in range(model_count)]
    if plan == "switch":
        return [(0, "step"), *((index, "tail") for index in range(1, model_count))]
    return [(index, "step") for index in range(model_count)]


def make_root(problem: Problem) -> State:
    """Return the state of a problem without any step."""
    return State(
        id=compute_state_id(problem.id, "", False),
        problem_id=problem.id,
        depth=0,
        text="",
        is_terminal=False,
        extracted_answer=None,
        is_correct=None,
    )


def make_expansion(
    problem: Problem,
    state: State,
    action: tuple[int, StepKind],
    model_ids: Sequence[str],
    config: CollectConfig,
) -> Expansion:
    """Return the expansion that an action (model index, kind) of the plan makes of a state."""
    model_index, kind = action
    step_id = compute_step_id(
        problem_id=problem.id,
        prefix=state.text,
        model_id=model_ids[model_index],
        kind=kind,
        temperature=config.temperature,
        max_tokens=config.step_rule.get_max_tokens(kind),
        delimiter=config.delimiter,
        prompt_version=config.prompt_version,
        sample_index=config.sample_index,
    )
    return Expansion(step_id, problem, state, model_index, kind)


def list_expansions(
    problems: Iterable[Problem],
    model_ids: Sequence[str],
    config: CollectConfig,
    get_next_state: GetNextState,
) -> tuple[list[Expansion], dict[str, int]]:
    """Walk what is recorded and return the expansions that are missing at its edge, and the number
    of recorded expansions of each problem. A problem without missing ones is complete."""
    missing: list[Expansion] = []
    recorded: dict[str, int] = {}
    for problem in problems:
        recorded[problem.id] = 0
        frontier = {"": make_root(problem)}
        for depth in range(config.depth + 1):
            following: dict[str, State] = {}
            for state in frontier.values():
                for action in get_plan_actions(config.plan, depth, config.depth, len(model_ids)):
                    expansion = make_expansion(problem, state, action, model_ids, config)
                    reached = get_next_state(expansion.id)
                    if reached is None:
                        missing.append(expansion)
                        continue
                    recorded[problem.id] += 1
                    if not reached.is_terminal:
                        following[reached.text] = reached
            frontier = following
    return missing, recorded


def estimate(
    problems: Sequence[Problem],
    model_ids: Sequence[str],
    config: CollectConfig,
    get_next_state: GetNextState,
    mean_tokens: tuple[float, float] | None = None,
) -> Estimate:
    """Return the calls and tokens still to be expected, without calling any model.

    ``mean_tokens`` are the mean completion and prompt tokens of the recorded calls, None when
    there are none. They, and the mean calls of the complete problems of ``problems``, are the basis
    when at least five are complete; else a first recording of GSM8K is (for each model 20 calls a
    problem in the plan ``lattice`` and 4 in ``switch``, or the most a shallow plan can need; 18
    completion tokens and 1,100 prompt tokens a call).
    """
    missing, recorded = list_expansions(problems, model_ids, config, get_next_state)
    edge = Counter(expansion.problem.id for expansion in missing)
    complete = [problem.id for problem in problems if problem.id not in edge]
    most = _count_most_calls(config, len(model_ids))
    if len(complete) >= 5 and mean_tokens is not None:
        calls = sum(recorded[problem_id] for problem_id in complete) / len(complete)
        completion_tokens, prompt_tokens = mean_tokens
        basis = f"{len(complete)} problems already recorded"
    else:
        reference = {"lattice": 20.0 * len(model_ids), "switch": 4.0 * len(model_ids)}[config.plan]
        calls = min(reference, float(most))
        completion_tokens, prompt_tokens = 18.0, 1100.0
        basis = "a first recording of GSM8K"
    expected = sum(max(edge[p], round(calls) - recorded[p]) for p in edge)
    return Estimate(
        problems=len(problems),
        problems_complete=len(complete),
        calls_expected=expected,
        calls_most=sum(max(edge[p], most - recorded[p]) for p in edge),
        completion_tokens_expected=round(expected * completion_tokens),
        prompt_tokens_expected=round(expected * prompt_tokens),
        basis=basis,
    )


def _count_most_calls(config: CollectConfig, model_count: int) -> int:
    """Calls of a problem whose paths never merge and never end early."""
    states, calls = 1, 0
    for depth in range(config.depth + 1):
        actions = get_plan_actions(config.plan, depth, config.depth, model_count)
        calls += states * len(actions)
        states *= sum(kind == "step" for _, kind in actions)
    return calls

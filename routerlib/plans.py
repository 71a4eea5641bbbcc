"""Which expansions a plan needs, and how many of them are still missing.

Everything here is computed from problems, settings and what is recorded; nothing calls a model.
Invariant: the id of an expansion is the hash of all that determines its request, so what is
recorded is never asked for again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from routerlib.continuations import (
    CONTINUATIONS,
    Continuation,
    get_max_tokens,
    name_prompt_version,
)
from routerlib.prompts import PROMPTS
from routerlib.records import (
    Choice,
    Problem,
    State,
    StepKind,
    compute_id,
    compute_state_id,
    compute_step_id,
)
from routerlib.steps import StepRule

Plan = Literal["lattice", "switch", "rollout"]
PLANS: tuple[Plan, ...] = ("lattice", "switch", "rollout")
_AT_LEAST_ONE = (
    "rollouts",
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
    samples of one expansion apart and is their seed at a temperature above 0, where the server
    takes one. ``continuations`` names each model's protocol, ``prefill`` for all when it is empty;
    after an answer that its protocol refuses a model is asked ``corrections`` times more.

    Plan ``rollout`` writes ``rollouts`` solutions of each problem, with the sample indices from
    ``sample_index`` on; before each step it draws the dearest model with ``large_probability``,
    else any other one alike.

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
    continuations: tuple[Continuation, ...] = ()
    corrections: int = 1
    rollouts: int = 4
    large_probability: float = 0.5
    concurrency: int = 128
    shared_machine: bool = True
    chunk_problems: int = 150
    max_consecutive_failures: int = 20
    max_failed_share: float = 0.5
    min_calls_for_share: int = 40

    def __post_init__(self) -> None:
        if self.plan not in PLANS:
            raise ValueError(f"unknown plan {self.plan!r}: use one of {', '.join(PLANS)}")
        if self.prompt_version not in PROMPTS:
            raise ValueError(
                f"unknown prompt version {self.prompt_version!r}: use one of {sorted(PROMPTS)}"
            )
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("depth", "temperature", "top_logprobs", "sample_index", "corrections"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("max_failed_share", "large_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        unknown = [name for name in self.continuations if name not in CONTINUATIONS]
        if unknown:
            raise ValueError(
                f"unknown protocol {unknown[0]!r}: use one of {', '.join(CONTINUATIONS)}"
            )
        _ = self.step_rule  # checks its own values

    @property
    def step_rule(self) -> StepRule:
        return StepRule(self.delimiter, self.max_step_tokens, self.max_tail_tokens)

    def get_continuation(self, model_index: int) -> Continuation:
        """Return a model's protocol. Raises ValueError when there are fewer than models."""
        if not self.continuations:
            return "prefill"
        if model_index >= len(self.continuations):
            raise ValueError(
                f"continuations {list(self.continuations)} name no protocol for model number "
                f"{model_index + 1}: give one for each model"
            )
        return self.continuations[model_index]

    def get_prompt_version(self, model_index: int) -> str:
        """Return what the steps of a model record as their prompt version."""
        return name_prompt_version(self.prompt_version, self.get_continuation(model_index))

    def get_max_tokens(self, model_index: int, kind: StepKind) -> int:
        """Return the cap of one call of a model."""
        return get_max_tokens(self.get_continuation(model_index), kind, self.step_rule)

    @property
    def samples(self) -> range:
        """The sample indices of the solutions that are recorded of a problem."""
        count = self.rollouts if self.plan == "rollout" else 1
        return range(self.sample_index, self.sample_index + count)


@dataclass(frozen=True, slots=True)
class Expansion:
    """One call to make: ``model_index`` continues ``state``. ``choice`` says with which probability
    a rollout's behaviour policy wanted it, None where no policy chose."""

    id: str
    problem: Problem
    state: State
    model_index: int
    kind: StepKind
    sample_index: int
    choice: Choice | None = None


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


def list_actions(
    config: CollectConfig, problem_id: str, sample_index: int, depth: int, model_count: int
) -> list[tuple[int, StepKind]]:
    """Return (model index, kind) of the expansions of an open state of one sample: those of the
    plan, or the one that a rollout's behaviour policy draws there.

    The draw is a hash of where it is made, so that a run which was stopped goes on as it would
    have; another sample index draws anew.
    """
    if config.plan != "rollout":
        return get_plan_actions(config.plan, depth, config.depth, model_count)
    place = compute_id("draw", config.large_probability, problem_id, sample_index, depth)
    share, large = int(place, 16) / 16 ** len(place), config.large_probability
    if share < large or model_count == 1:
        index = model_count - 1
    else:
        index = int((share - large) / (1 - large) * (model_count - 1))
    return [(index, "tail" if depth >= config.depth else "step")]


def make_choice(
    step_id: str, model_index: int, model_count: int, config: CollectConfig
) -> Choice | None:
    """Return the behaviour policy's decision behind a step, None where the plan has none.

    A policy among other than two models says so in its name: it draws the same step with another
    probability.
    """
    if config.plan != "rollout":
        return None
    large = config.large_probability if model_count > 1 else 1.0
    probability = large if model_index == model_count - 1 else (1 - large) / (model_count - 1)
    among = "" if model_count == 2 else f"-of-{model_count}"
    return Choice(step_id, f"random-{config.large_probability:g}{among}", probability)


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
    *,
    sample_index: int | None = None,
) -> Expansion:
    """Return the expansion that an action (model index, kind) of the plan makes of a state.
    ``sample_index`` is that of the settings when it is None."""
    model_index, kind = action
    sample = config.sample_index if sample_index is None else sample_index
    step_id = compute_step_id(
        problem_id=problem.id,
        prefix=state.text,
        model_id=model_ids[model_index],
        kind=kind,
        temperature=config.temperature,
        max_tokens=config.get_max_tokens(model_index, kind),
        delimiter=config.delimiter,
        prompt_version=config.get_prompt_version(model_index),
        sample_index=sample,
    )
    choice = make_choice(step_id, model_index, len(model_ids), config)
    return Expansion(step_id, problem, state, model_index, kind, sample, choice)


def walk_expansions(
    problems: Iterable[Problem],
    model_ids: Sequence[str],
    config: CollectConfig,
    get_next_state: GetNextState,
) -> Iterator[tuple[Expansion, State | None]]:
    """Walk what is recorded and yield each expansion of the plan with the state that it reached,
    None at the edge of what is recorded."""
    for problem in problems:
        for sample_index in config.samples:
            frontier = {"": make_root(problem)}
            for depth in range(config.depth + 1):
                following: dict[str, State] = {}
                actions = list_actions(config, problem.id, sample_index, depth, len(model_ids))
                for state in frontier.values():
                    for action in actions:
                        expansion = make_expansion(
                            problem, state, action, model_ids, config, sample_index=sample_index
                        )
                        reached = get_next_state(expansion.id)
                        yield expansion, reached
                        if reached is not None and not reached.is_terminal:
                            following[reached.text] = reached
                frontier = following


def list_expansions(
    problems: Iterable[Problem],
    model_ids: Sequence[str],
    config: CollectConfig,
    get_next_state: GetNextState,
) -> tuple[list[Expansion], dict[str, int]]:
    """Walk what is recorded and return the expansions that are missing at its edge, and the number
    of recorded expansions of each problem. A problem without missing ones is complete."""
    problems = list(problems)
    missing: list[Expansion] = []
    recorded = {problem.id: 0 for problem in problems}
    for expansion, reached in walk_expansions(problems, model_ids, config, get_next_state):
        if reached is None:
            missing.append(expansion)
        else:
            recorded[expansion.problem.id] += 1
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
    problem in the plan ``lattice`` and 4 in ``switch``, 4 a rollout, or the most a shallow plan
    can need; 18 completion tokens and 1,100 prompt tokens a call).
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
        reference = {
            "lattice": 20.0 * len(model_ids),
            "switch": 4.0 * len(model_ids),
            "rollout": 4.0 * config.rollouts,
        }
        calls = min(reference[config.plan], float(most))
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
    if config.plan == "rollout":
        return config.rollouts * (config.depth + 1)
    states, calls = 1, 0
    for depth in range(config.depth + 1):
        actions = get_plan_actions(config.plan, depth, config.depth, model_count)
        calls += states * len(actions)
        states *= sum(kind == "step" for _, kind in actions)
    return calls

"""What an expansion asks of its model, and the rows that the answer makes.

Everything here is computed from problem, state, settings and answer; nothing calls a model or
writes. Invariant: the text of the next state is the state's text followed by the step's text.
"""

from __future__ import annotations

from dataclasses import replace

from routerlib.benchmarks import compute_problem_features
from routerlib.continuations import build_request, build_shared_messages
from routerlib.errors import ModelError
from routerlib.grading import BENCHMARK_STYLE, extract_answer, grade
from routerlib.plans import CollectConfig, Expansion
from routerlib.prompts import PROMPTS
from routerlib.records import (
    Completion,
    Problem,
    ProblemRow,
    Request,
    Sampling,
    State,
    Step,
    compute_state_id,
)
from routerlib.steps import compute_step_text, is_finished


def make_problem_row(problem: Problem) -> ProblemRow:
    """Return what is stored of a problem: its features and its text's hash, not the text."""
    return ProblemRow(
        id=problem.id,
        benchmark=problem.benchmark,
        split=problem.split,
        text_sha256=problem.text_sha256,
        subject=problem.subject,
        level=problem.level,
        features=compute_problem_features(problem.text),
    )


def make_request(expansion: Expansion, config: CollectConfig) -> Request:
    """Return the call that an expansion stands for, by its model's protocol."""
    return build_request(
        PROMPTS[config.prompt_version],
        config.get_continuation(expansion.model_index),
        expansion.problem.text,
        expansion.state.text,
        kind=expansion.kind,
        delimiter=config.delimiter,
        sampling=Sampling(
            temperature=config.temperature,
            max_tokens=config.get_max_tokens(expansion.model_index, expansion.kind),
            top_logprobs=config.top_logprobs,
            seed=expansion.sample_index if config.temperature > 0 else None,
        ),
    )


def make_shared_request(config: CollectConfig, model_index: int) -> Request:
    """Return a call with the prompt of an empty problem, whose tokens all of a model's share."""
    prompt = PROMPTS[config.prompt_version]
    continuation = config.get_continuation(model_index)
    messages = build_shared_messages(prompt, continuation, config.delimiter)
    return Request(messages, Sampling(max_tokens=1, top_logprobs=0))


def make_next_state(expansion: Expansion, completion: Completion, config: CollectConfig) -> State:
    """Return the state that an answer reaches; a terminal one is graded."""
    problem, rule = expansion.problem, config.step_rule
    step_text = compute_step_text(completion, rule)
    text = expansion.state.text + step_text
    finished = is_finished(step_text, completion.ended_by, expansion.kind, rule)
    answer = extract_answer(text) if finished else None
    style = BENCHMARK_STYLE[problem.benchmark]
    return State(
        id=compute_state_id(problem.id, text, finished),
        problem_id=problem.id,
        depth=expansion.state.depth + 1,
        text=text,
        is_terminal=finished,
        extracted_answer=answer,
        is_correct=grade(problem.answer, answer, style=style) if finished else None,
    )


def make_blank_step(
    expansion: Expansion,
    config: CollectConfig,
    *,
    model_id: str,
    run_id: str,
    attempt: int,
    shared_prompt_tokens: int,
) -> Step:
    """Return the row of a call without its outcome: no text, no tokens, no error."""
    return Step(
        id=expansion.id,
        attempt=attempt,
        run_id=run_id,
        problem_id=expansion.problem.id,
        state_id=expansion.state.id,
        model_id=model_id,
        kind=expansion.kind,
        sample_index=expansion.sample_index,
        prompt_version=config.get_prompt_version(expansion.model_index),
        temperature=config.temperature,
        max_tokens=config.get_max_tokens(expansion.model_index, expansion.kind),
        next_state_id=None,
        text=None,
        ended_by=None,
        completion_tokens=0,
        prompt_tokens=0,
        cached_prompt_tokens=0,
        shared_prompt_tokens=shared_prompt_tokens,
        finish_reason=None,
        requested_model=model_id,
    )


def fill_failed_step(blank: Step, error: ModelError) -> Step:
    """Return the row of a call that failed: no text, but what an answer took that cannot be used,
    if there was one."""
    refused = error.billed
    doubtful_tries = error.doubtful_tries + (refused.doubtful_tries if refused else 0)
    failed = replace(
        blank,
        error=f"{type(error).__name__}: {error}",
        doubtful_tries=doubtful_tries or None,
    )
    if refused is None:
        return failed
    return replace(
        failed,
        completion_tokens=refused.completion_tokens,
        reasoning_tokens=refused.reasoning_tokens,
        prompt_tokens=refused.prompt_tokens,
        cached_prompt_tokens=refused.cached_prompt_tokens,
        finish_reason=refused.finish_reason,
        latency_s=refused.latency_s,
        retries=refused.retries,
        returned_model=refused.returned_model,
        request_id=refused.request_id,
    )


def fill_step(
    blank: Step, completion: Completion, next_state: State, config: CollectConfig
) -> Step:
    """Return the row of a call that was answered."""
    return replace(
        blank,
        next_state_id=next_state.id,
        text=compute_step_text(completion, config.step_rule),
        ended_by=completion.ended_by,
        completion_tokens=completion.completion_tokens,
        reasoning_tokens=completion.reasoning_tokens,
        prompt_tokens=completion.prompt_tokens,
        cached_prompt_tokens=completion.cached_prompt_tokens,
        finish_reason=completion.finish_reason,
        token_logprobs=completion.token_logprobs,
        first_token_top=completion.first_token_top,
        latency_s=completion.latency_s,
        retries=completion.retries,
        returned_model=completion.returned_model,
        request_id=completion.request_id,
        doubtful_tries=completion.doubtful_tries or None,
    )

"""Record how well a model predicts the problems' texts.

Invariants: what is recorded is never asked for again; a call that failed leaves no row, so the next
run asks for it again; whatever ends a run, the scores of all answers are handed to the writer and
flushed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from routerlib.calls import CallReport, make_calls
from routerlib.models.protocol import TextScorer
from routerlib.records import ModelCard, Problem, PromptScore
from routerlib.store import TraceWriter


async def collect_prompt_scores(
    model: TextScorer,
    card: ModelCard,
    writer: TraceWriter,
    problems: Sequence[Problem],
    *,
    concurrency: int = 32,
    max_consecutive_failures: int = 5,
    on_change: Callable[[CallReport], None] = lambda report: None,
) -> CallReport:
    """Record the score of each recorded problem's text that has none by this model.

    ``concurrency`` bounds the calls in flight; ``on_change`` is called with the report after every
    call. Raises ModelError when so many calls fail in a row (with an engine that gives no
    log-probabilities of a prompt, all do); StoreError when a problem or card is stored with other
    content, or the store cannot be written. What was recorded until then stays.
    """
    if model.id != card.id:
        raise ValueError(f"model {model.id!r} and card {card.id!r} differ: give its own card")
    recorded = writer.list_recorded(problems)
    missing = [problem for problem in recorded if not writer.has_prompt_score(problem.id, card.id)]
    report = CallReport(
        problems_total=len(problems),
        problems_skipped=len(problems) - len(recorded),
        calls_expected=len(missing),
        recorded_before=len(recorded) - len(missing),
        started=time.monotonic(),
    )
    on_change(report)
    if not missing:
        return report
    writer.add_model(card)

    async def score(problem: Problem) -> None:
        found = await model.score_text(problem.text)
        report.retries += found.retries
        report.prompt_tokens += found.tokens
        writer.add_prompt_score(PromptScore(problem.id, card.id, found.tokens, found.logprob))

    try:
        await make_calls(
            missing,
            score,
            report,
            model_id=card.id,
            concurrency=concurrency,
            max_consecutive_failures=max_consecutive_failures,
            on_change=lambda: on_change(report),
        )
    finally:
        writer.flush()
    return report

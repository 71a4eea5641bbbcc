"""Record what a judge thinks of the drafts in a store.

A draft is a step that the small model wrote: greedily, with one prompt version. The drafts are
asked about in the order of their problems and texts, all questions about one draft together, so
that prompts which begin alike meet in the server's prefix cache. Invariants: what is recorded is
never asked for again; a call that failed leaves no row, so the next run asks for it again; whatever
ends a run, the scores of all answers are handed to the writer and flushed; a model that cannot
give a score as it is defined is refused, never read in another way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow.compute as pc

from routerlib.calls import CallReport, make_calls
from routerlib.continuations import CONTINUATIONS, Continuation, name_prompt_version
from routerlib.errors import ModelError
from routerlib.judge_prompts import (
    JUDGE_PROMPTS,
    JudgePrompt,
    build_judge_messages,
    compute_judge_score,
    list_questions,
)
from routerlib.models.capabilities import Capabilities
from routerlib.models.protocol import Model
from routerlib.models.shared_prompt import count_shared_tokens
from routerlib.prompts import PROMPTS
from routerlib.records import Judgement, ModelCard, Problem, Request, Run, Sampling
from routerlib.runs import begin_run, end_run
from routerlib.store import TraceIndex, TraceWriter, load_table

LEAST_ALTERNATIVES = 2
"""Of one alternative alone an expected value would be what the model says, without its doubt."""


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """Which drafts are judged and how.

    ``author_id`` is the model that wrote the drafts, ``prompt_version`` the one it wrote them
    with, ``continuation`` the protocol. ``questions`` names entries of ``JUDGE_PROMPTS``;
    ``top_logprobs`` is the number of alternatives of the answer's token that are asked for: an
    answer that is not among them counts as never given. ``concurrency`` bounds the calls in
    flight. A run gives up after ``max_consecutive_failures`` failed calls in a row.
    """

    author_id: str
    prompt_version: str = "short-lines-v1"
    continuation: Continuation = "prefill"
    questions: tuple[str, ...] = list_questions()
    top_logprobs: int = 20
    concurrency: int = 128
    max_consecutive_failures: int = 20

    def __post_init__(self) -> None:
        if self.prompt_version not in PROMPTS:
            raise ValueError(
                f"unknown prompt version {self.prompt_version!r}: use one of {sorted(PROMPTS)}"
            )
        if self.continuation not in CONTINUATIONS:
            raise ValueError(
                f"unknown continuation {self.continuation!r}: use one of {list(CONTINUATIONS)}"
            )
        unknown = [name for name in self.questions if name not in JUDGE_PROMPTS]
        if unknown or not self.questions:
            raise ValueError(
                f"questions {list(self.questions)} must be some of {sorted(JUDGE_PROMPTS)}"
            )
        for name in ("top_logprobs", "concurrency", "max_consecutive_failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def draft_version(self) -> str:
        """What the drafts' steps record as their prompt version."""
        return name_prompt_version(self.prompt_version, self.continuation)


def fit_judge_config(config: JudgeConfig, judge_id: str, found: Capabilities) -> JudgeConfig:
    """Return the config with no more alternatives than the judge gives.

    A score is an expected value over the alternatives of the answer's token. Raises ModelError for
    a model that cannot give one, or not in the way in which it is asked.
    """
    lacks = []
    begun = [name for name in config.questions if not JUDGE_PROMPTS[name].in_turn]
    if found.prefill == "none" and begun:
        lacks.append(
            f"it does not continue a begun answer, as {' and '.join(begun)} ask it to (--question "
            f"{' '.join(list_questions(in_turn=True))} ask in a turn)"
        )
    if not found.logprobs:
        lacks.append("it gives no log-probabilities, of which a score is the expected value")
    elif found.top_logprobs < LEAST_ALTERNATIVES:
        lacks.append(
            f"it gives log-probabilities, but {found.top_logprobs} where a score is an expected "
            f"value over at least {LEAST_ALTERNATIVES} alternatives of a token"
        )
    if lacks:
        raise ModelError(
            f"{judge_id} cannot judge: {'; '.join(lacks)} (`routerlib models check` says what it "
            "refused). Use a judge that gives log-probabilities, such as open weights behind vLLM "
            "or llama.cpp"
        )
    return replace(config, top_logprobs=min(config.top_logprobs, found.top_logprobs))


def make_judge_run(
    config: JudgeConfig,
    judge_id: str,
    benchmark: str,
    split: str,
    capabilities: Mapping[str, Capabilities] | None = None,
) -> Run:
    """Return the row of a run that starts now; ``delimiter`` is where the drafts' steps end."""
    settings = asdict(config) | {"delimiter": PROMPTS[config.prompt_version].step_rule.delimiter}
    return begin_run("judge", settings, [judge_id], benchmark, split, capabilities=capabilities)


@dataclass(frozen=True, slots=True)
class Draft:
    """A recorded step to judge; ``solution`` is the text so far with the step at its end."""

    step_id: str
    problem: Problem
    solution: str


@dataclass(frozen=True, slots=True)
class JudgePlan:
    """What a run has to do: of the problems that are recorded, the number of drafts and of the
    scores that are there, and the questions about drafts that are ``missing``."""

    problems_recorded: int
    drafts: int
    scores_recorded: int
    missing: list[tuple[Draft, JudgePrompt]]


@dataclass(slots=True)
class JudgeReport(CallReport):
    """What a run did so far, and the number of ``drafts``, judged before or not."""

    drafts: int = 0


class Judge:
    """Asks one model about drafts and records its scores.

    ``on_change`` is called with the report after every call, for a progress bar. ``get_spent_usd``
    says at the end what the run cost, None where nobody knows.
    """

    def __init__(
        self,
        model: Model,
        card: ModelCard,
        writer: TraceWriter,
        config: JudgeConfig,
        on_change: Callable[[JudgeReport], None] = lambda report: None,
        *,
        get_spent_usd: Callable[[], float | None] = lambda: None,
    ) -> None:
        if model.id != card.id:
            raise ValueError(f"model {model.id!r} and card {card.id!r} differ: give its own card")
        self.model = model
        self.card = card
        self.writer = writer
        self.config = config
        self.report = JudgeReport()
        self._on_change = on_change
        self._get_spent_usd = get_spent_usd
        self._shared_prompt_tokens: dict[str, int] = {}

    async def judge_drafts(self, problems: Sequence[Problem], run: Run) -> JudgeReport:
        """Record the scores that the drafts of ``problems`` miss and return what was done.

        The run's row is written with the time at which it ended, however it ended; a run that
        finds nothing missing leaves no row.

        Raises ModelError when too many calls fail in a row, and the error of the first call when
        the judge cannot be asked at all; StoreError when a problem or the judge's card is stored
        with other content, or the store cannot be written. What was recorded until then stays.
        """
        plan = plan_judgements(self.writer, problems, self.config, self.card.id)
        missing = plan.missing
        self.report = JudgeReport(
            problems_total=len(problems),
            problems_skipped=len(problems) - plan.problems_recorded,
            drafts=plan.drafts,
            calls_expected=len(missing),
            recorded_before=plan.scores_recorded,
            started=time.monotonic(),
        )
        self._on_change(self.report)
        if not missing:
            return self.report
        self.writer.add_model(self.card)
        self.writer.add_run(run)
        try:
            for question in dict.fromkeys(question for _, question in missing):
                await self._measure_shared_prompt(question)
            await make_calls(
                missing,
                self._ask,
                self.report,
                model_id=self.card.id,
                concurrency=self.config.concurrency,
                max_consecutive_failures=self.config.max_consecutive_failures,
                on_change=lambda: self._on_change(self.report),
            )
        finally:
            self.writer.add_run(end_run(run, self._get_spent_usd()))
            self.writer.flush()
        return self.report

    async def _ask(self, asked: tuple[Draft, JudgePrompt]) -> None:
        draft, question = asked
        request = make_judge_request(draft, question, self.config)
        completion = await self.model.complete(request)
        self.report.retries += completion.retries
        self.report.prompt_tokens += completion.prompt_tokens
        self.report.cached_prompt_tokens += completion.cached_prompt_tokens
        score = compute_judge_score(question, completion.first_token_top)
        self.writer.add_judgement(
            Judgement(
                step_id=draft.step_id,
                judge_model_id=self.card.id,
                question=question.name,
                score=score,
                prompt_tokens=completion.prompt_tokens,
                shared_prompt_tokens=self._shared_prompt_tokens[question.name],
                completion_tokens=completion.completion_tokens,
                latency_s=completion.latency_s,
            )
        )

    async def _measure_shared_prompt(self, question: JudgePrompt) -> None:
        """Count the tokens that the prompts of a question share, with one call."""
        if question.name not in self._shared_prompt_tokens:
            messages = build_judge_messages(question, "")
            request = Request(messages, Sampling(max_tokens=1, top_logprobs=0))
            shared = await count_shared_tokens(self.model, request)
            self._shared_prompt_tokens[question.name] = shared


def make_judge_request(draft: Draft, question: JudgePrompt, config: JudgeConfig) -> Request:
    """Return the call that asks a question about a draft: one token, with its alternatives."""
    return Request(
        build_judge_messages(question, draft.problem.text, draft.solution),
        Sampling(max_tokens=1, top_logprobs=config.top_logprobs),
    )


def plan_judgements(
    traces: TraceWriter | TraceIndex,
    problems: Sequence[Problem],
    config: JudgeConfig,
    judge_id: str,
) -> JudgePlan:
    """Return what is there and what is missing of a judge's scores; it asks nobody and writes
    nothing. Raises StoreError when a problem is recorded with another text."""
    recorded = traces.list_recorded(problems)
    drafts = list_drafts(traces, recorded, config)
    wanted = [(draft, name) for draft in drafts for name in config.questions]
    missing = [
        (draft, JUDGE_PROMPTS[name])
        for draft, name in wanted
        if not traces.has_judgement(draft.step_id, judge_id, name)
    ]
    return JudgePlan(len(recorded), len(drafts), len(wanted) - len(missing), missing)


def list_drafts(
    traces: TraceWriter | TraceIndex, problems: Sequence[Problem], config: JudgeConfig
) -> list[Draft]:
    """Return the drafts of recorded problems: every greedy step and tail of the author that
    succeeded, in the order of the problems, then of the texts."""
    by_id = {problem.id: problem for problem in problems}
    if not problems:
        return []
    rows = load_table(
        traces.root,
        "steps",
        columns=["id", "problem_id", "next_state_id"],
        where=(pc.field("model_id") == config.author_id)
        & (pc.field("prompt_version") == config.draft_version)
        & (pc.field("temperature") == 0.0)
        & (pc.field("sample_index") == 0)
        & pc.field("error").is_null()
        & pc.field("problem_id").isin(list(by_id)),
    ).to_pylist()
    drafts = []
    for row in rows:
        reached = traces.get_state(row["next_state_id"])
        assert reached is not None, "the store's links were checked"
        drafts.append(Draft(row["id"], by_id[row["problem_id"]], reached.text))
    place = {problem.id: number for number, problem in enumerate(problems)}
    return sorted(drafts, key=lambda draft: (place[draft.problem.id], draft.solution))

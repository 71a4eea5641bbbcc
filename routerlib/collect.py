"""Record steps: the only caller of the network.

Plans say which expansions a problem needs; everything else is one operation, ``expand``. Its id
is a hash of what determines the request, so a run that was stopped asks only for what is not
there. Level by level: the whole frontier of a chunk of problems goes to one model, then to the
next, because models that share a machine slow each other down. Invariants: a state is written
before the step that reaches it; a failed call is a row with ``error`` and no text.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata

from routerlib import __version__
from routerlib.benchmarks import compute_problem_features
from routerlib.errors import ModelError
from routerlib.grading import BENCHMARK_STYLE, extract_answer, grade
from routerlib.models.protocol import Model
from routerlib.plans import (
    CollectConfig,
    Expansion,
    get_plan_actions,
    list_expansions,
    make_expansion,
    make_root,
)
from routerlib.prompts import PROMPTS, build_messages
from routerlib.records import (
    Completion,
    ModelCard,
    Problem,
    ProblemRow,
    Request,
    Run,
    Sampling,
    State,
    Step,
    compute_id,
    compute_state_id,
)
from routerlib.steps import compute_step_text, is_finished
from routerlib.store import TraceWriter


@dataclass(slots=True)
class CollectReport:
    """What a run did so far; also what a progress bar shows."""

    problems_total: int = 0
    problems_done: int = 0
    calls: int = 0
    recorded_before: int = 0
    errors: int = 0
    retries: int = 0
    completion_tokens: int = 0
    prompt_tokens: int = 0
    started: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        elapsed = time.monotonic() - self.started
        return self.completion_tokens / elapsed if elapsed > 0 else 0.0


def make_run(config: CollectConfig, models: Sequence[Model], benchmark: str, split: str) -> Run:
    """Return the row of a run that starts now."""
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    configuration = json.dumps(
        asdict(config)
        | {"models": [model.id for model in models], "benchmark": benchmark, "split": split},
        sort_keys=True,
    )
    libraries = ("openai", "pyarrow", "math-verify")
    versions = {name: metadata.version(name) for name in libraries} | {"routerlib": __version__}
    return Run(
        id=compute_id("run", started_at, configuration, os.getpid()),
        started_at=started_at,
        ended_at=None,
        configuration=configuration,
        code_version=__version__,
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        library_versions=json.dumps(versions, sort_keys=True),
        plan=config.plan,
    )


class Collector:
    """Records the expansions of a plan into a store.

    ``models`` are ordered by price, cheapest first, with one card each. ``on_change`` is called
    with the report after every answer, for a progress bar.
    """

    def __init__(
        self,
        models: Sequence[Model],
        cards: Sequence[ModelCard],
        writer: TraceWriter,
        config: CollectConfig,
        on_change: Callable[[CollectReport], None] = lambda report: None,
    ) -> None:
        if [model.id for model in models] != [card.id for card in cards]:
            raise ValueError(
                f"models {[model.id for model in models]} and cards "
                f"{[card.id for card in cards]} differ: give one card for each model, in order"
            )
        self.models = models
        self._model_ids = [model.id for model in models]
        self.cards = cards
        self.writer = writer
        self.config = config
        self.report = CollectReport()
        self._on_change = on_change
        self._prompt = PROMPTS[config.prompt_version]
        self._shared_prompt_tokens: dict[str, int] = {}
        self._failures_in_a_row = 0
        self._run_id = ""

    async def collect(self, problems: Sequence[Problem], run: Run) -> CollectReport:
        """Record all that ``problems`` miss and return what was done.

        Raises ModelError when too many calls fail in a row; what was recorded until then stays.
        """
        self._run_id = run.id
        self.report.started = time.monotonic()
        self.report.problems_total = len(problems)
        missing, recorded = list_expansions(
            problems, self._model_ids, self.config, self.writer.get_next_state
        )
        self.report.recorded_before = sum(recorded.values())
        unfinished = {expansion.problem.id for expansion in missing}
        self.report.problems_done = len(problems) - len(unfinished)
        if not missing:
            return self.report
        self._write_heads(problems, run)
        todo = [problem for problem in problems if problem.id in unfinished]
        try:
            for start in range(0, len(todo), self.config.chunk_problems):
                await self._collect_chunk(todo[start : start + self.config.chunk_problems])
        finally:
            ended_at = datetime.now(UTC).isoformat(timespec="seconds")
            self.writer.add_run(Run(**{**asdict(run), "ended_at": ended_at}))
            self.writer.flush()
        return self.report

    def _write_heads(self, problems: Sequence[Problem], run: Run) -> None:
        self.writer.add_run(run)
        for card in self.cards:
            self.writer.add_model(card)
        for problem in problems:
            self.writer.add_problem(
                ProblemRow(
                    id=problem.id,
                    benchmark=problem.benchmark,
                    split=problem.split,
                    text_sha256=problem.text_sha256,
                    subject=problem.subject,
                    level=problem.level,
                    features=compute_problem_features(problem.text),
                )
            )
            self._add_state(make_root(problem))

    async def _collect_chunk(self, problems: Sequence[Problem]) -> None:
        frontiers = {problem.id: {"": make_root(problem)} for problem in problems}
        by_id = {problem.id: problem for problem in problems}
        for depth in range(self.config.depth + 1):
            actions = get_plan_actions(self.config.plan, depth, self.config.depth, len(self.models))
            wanted = [
                make_expansion(by_id[problem_id], state, action, self._model_ids, self.config)
                for action in actions
                for problem_id, frontier in frontiers.items()
                for state in frontier.values()
            ]
            missing = [e for e in wanted if self.writer.get_next_state(e.id) is None]
            if self.config.shared_machine:
                for index in range(len(self.models)):
                    await self._expand_all([e for e in missing if e.model_index == index])
            else:
                await self._expand_all(missing)
            frontiers = {problem.id: {} for problem in problems}
            for expansion in wanted:
                reached = self.writer.get_next_state(expansion.id)
                if reached is not None and not reached.is_terminal:
                    frontiers[expansion.problem.id][reached.text] = reached
        self.report.problems_done += len(problems)
        self._on_change(self.report)

    async def _expand_all(self, expansions: Sequence[Expansion]) -> None:
        """Make the calls with bounded concurrency; the first unexpected exception cancels the
        rest."""
        for index in sorted({expansion.model_index for expansion in expansions}):
            await self._measure_shared_prompt(self.models[index])
        queue = iter(expansions)

        async def work() -> None:
            for expansion in queue:
                await self._expand(expansion)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.config.concurrency, len(expansions))):
                group.create_task(work())

    async def _measure_shared_prompt(self, model: Model) -> None:
        """Count the tokens that all prompts share: those of the prompt of an empty problem."""
        if model.id in self._shared_prompt_tokens:
            return
        request = Request(build_messages(self._prompt, ""), Sampling(max_tokens=1, top_logprobs=0))
        answer = await model.complete(request)
        self._shared_prompt_tokens[model.id] = answer.prompt_tokens

    async def _expand(self, expansion: Expansion) -> None:
        model = self.models[expansion.model_index]
        config = self.config
        request = Request(
            messages=build_messages(self._prompt, expansion.problem.text, expansion.state.text),
            sampling=Sampling(
                temperature=config.temperature,
                max_tokens=config.step_rule.get_max_tokens(expansion.kind),
                top_logprobs=config.top_logprobs,
                seed=config.sample_index if config.temperature > 0 else None,
            ),
            stop=(config.delimiter,) if expansion.kind == "step" else (),
        )
        try:
            completion = await model.complete(request)
        except ModelError as error:
            self._record_failure(expansion, error)
            return
        self._failures_in_a_row = 0
        self._record(expansion, completion)

    def _record(self, expansion: Expansion, completion: Completion) -> None:
        rule = self.config.step_rule
        text = compute_step_text(completion, rule)
        finished = is_finished(text, completion.ended_by, expansion.kind, rule)
        reached = self._make_state(expansion, expansion.state.text + text, finished)
        self._add_state(reached)
        self.writer.add_step(
            self._make_step(
                expansion,
                next_state_id=reached.id,
                text=text,
                ended_by=completion.ended_by,
                completion_tokens=completion.completion_tokens,
                prompt_tokens=completion.prompt_tokens,
                cached_prompt_tokens=completion.cached_prompt_tokens,
                finish_reason=completion.finish_reason,
                token_logprobs=completion.token_logprobs,
                first_token_top=completion.first_token_top,
                latency_s=completion.latency_s,
                retries=completion.retries,
                returned_model=completion.returned_model,
                request_id=completion.request_id,
            )
        )
        self.report.calls += 1
        self.report.retries += completion.retries
        self.report.completion_tokens += completion.completion_tokens
        self.report.prompt_tokens += completion.prompt_tokens
        self._on_change(self.report)

    def _record_failure(self, expansion: Expansion, error: ModelError) -> None:
        self.writer.add_step(self._make_step(expansion, error=f"{type(error).__name__}: {error}"))
        self.report.calls += 1
        self.report.errors += 1
        self._failures_in_a_row += 1
        self._on_change(self.report)
        if self._failures_in_a_row >= self.config.max_consecutive_failures:
            raise ModelError(
                f"{self._failures_in_a_row} calls in a row failed, the last one with: {error}. "
                "All that was answered is recorded: mend the cause and start the same run again."
            ) from error

    def _make_step(self, expansion: Expansion, **outcome: object) -> Step:
        model = self.models[expansion.model_index]
        blank: dict[str, object] = {
            "next_state_id": None,
            "text": None,
            "ended_by": None,
            "completion_tokens": 0,
            "prompt_tokens": 0,
            "cached_prompt_tokens": 0,
            "finish_reason": None,
        }
        fields: dict[str, object] = {
            "id": expansion.id,
            "attempt": self.writer.count_attempts(expansion.id),
            "run_id": self._run_id,
            "problem_id": expansion.problem.id,
            "state_id": expansion.state.id,
            "model_id": model.id,
            "kind": expansion.kind,
            "sample_index": self.config.sample_index,
            "prompt_version": self.config.prompt_version,
            "temperature": self.config.temperature,
            "max_tokens": self.config.step_rule.get_max_tokens(expansion.kind),
            "shared_prompt_tokens": self._shared_prompt_tokens[model.id],
            "requested_model": model.id,
        }
        return Step(**(blank | fields | outcome))  # type: ignore[arg-type]

    def _make_state(self, expansion: Expansion, text: str, finished: bool) -> State:
        problem = expansion.problem
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

    def _add_state(self, state: State) -> None:
        """Add a state unless its text was reached before, perhaps by a path of another length."""
        if self.writer.get_state(state.id) is None:
            self.writer.add_state(state)

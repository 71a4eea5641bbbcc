"""Record steps: the only caller of the network.

Plans say which expansions a problem needs; everything else is one operation, ``expand``. Its id
is a hash of what determines the request, so a run that was stopped asks only for what is not
there. Level by level: the whole frontier of a chunk of problems goes to one model, then to the
next, because models that share a machine slow each other down. Invariants: a state is written
before the step that reaches it; a failed call is a row with ``error`` and no text; whatever ends
a run, the rows of all answers are handed to the writer and flushed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from routerlib.benchmarks import GENERATED_BENCHMARKS
from routerlib.collect_rows import (
    fill_failed_step,
    fill_step,
    make_blank_step,
    make_next_state,
    make_problem_row,
    make_request,
    make_shared_request,
)
from routerlib.continuations import build_correction, read_continuation
from routerlib.errors import ModelError, StepRefusedError, get_first_error
from routerlib.grading import BENCHMARK_STYLE, grade
from routerlib.models.capabilities import Capabilities
from routerlib.models.protocol import Model
from routerlib.models.shared_prompt import count_shared_tokens
from routerlib.plans import (
    CollectConfig,
    Expansion,
    list_actions,
    list_expansions,
    make_expansion,
    make_root,
    walk_expansions,
)
from routerlib.records import (
    Completion,
    ModelCard,
    Problem,
    ProblemText,
    Run,
    State,
    Step,
)
from routerlib.runs import begin_run, end_run
from routerlib.store import TraceWriter


@dataclass(slots=True)
class CollectReport:
    """What a run did so far; also what a progress bar shows.

    ``problems_done`` counts problems of which nothing is missing any more, ``calls`` answered and
    failed calls, ``refused`` answers after which the model was asked again, ``recorded_before`` the
    expansions that were there when the run started; ``started`` is the monotonic clock's reading
    then, in seconds.
    """

    problems_total: int = 0
    problems_done: int = 0
    calls: int = 0
    recorded_before: int = 0
    errors: int = 0
    refused: int = 0
    retries: int = 0
    completion_tokens: int = 0
    prompt_tokens: int = 0
    started: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        elapsed = time.monotonic() - self.started
        return self.completion_tokens / elapsed if elapsed > 0 else 0.0


def make_run(
    config: CollectConfig,
    models: Sequence[Model],
    benchmark: str,
    split: str,
    capabilities: Mapping[str, Capabilities] | None = None,
) -> Run:
    """Return the row of a run that starts now, with what its models were found to be able to do,
    by their ids."""
    model_ids = [model.id for model in models]
    return begin_run(
        config.plan, asdict(config), model_ids, benchmark, split, capabilities=capabilities
    )


class Collector:
    """Records the expansions of a plan into a store.

    ``models`` are ordered by price, cheapest first, with one card each. ``on_change`` is called
    with the report after every call and every level, for a progress bar. ``get_spent_usd`` says at
    the end what the run cost, None where nobody knows.
    """

    def __init__(
        self,
        models: Sequence[Model],
        cards: Sequence[ModelCard],
        writer: TraceWriter,
        config: CollectConfig,
        on_change: Callable[[CollectReport], None] = lambda report: None,
        *,
        get_spent_usd: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._model_ids = [model.id for model in models]
        if self._model_ids != [card.id for card in cards]:
            raise ValueError(
                f"models {self._model_ids} and cards {[card.id for card in cards]} differ: give "
                "one card for each model, in order"
            )
        if len(set(self._model_ids)) < len(models):
            raise ValueError(f"models {self._model_ids} must be different: name each once")
        self.models = models
        self.cards = cards
        self.writer = writer
        self.config = config
        self.report = CollectReport()
        self._on_change = on_change
        self._get_spent_usd = get_spent_usd
        self._shared_prompt_tokens: dict[str, int] = {}
        self._calls: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._failures_in_a_row: Counter[str] = Counter()
        self._run_id = ""

    async def collect(self, problems: Sequence[Problem], run: Run) -> CollectReport:
        """Record all that ``problems`` miss and return what was done.

        The run's row is written with the time at which it ended, however it ended; a run that
        finds nothing missing leaves no row.

        Raises ModelError when too many calls of a model fail, in a row or of all, and the error of
        its first call when a model cannot be asked at all; GradingError for a gold answer that
        cannot be read, before any call; StoreError when a problem or card is stored with other
        content, or the store cannot be written. What was recorded until then stays.
        """
        for problem in problems:
            grade(problem.answer, None, style=BENCHMARK_STYLE[problem.benchmark])
        self.writer.open_problems(problem.id for problem in problems)
        missing, recorded = list_expansions(
            problems, self._model_ids, self.config, self.writer.get_next_state
        )
        unfinished = {expansion.problem.id for expansion in missing}
        self._run_id = run.id
        for counter in (self._calls, self._failures, self._failures_in_a_row):
            counter.clear()
        self.report = CollectReport(
            problems_total=len(problems),
            problems_done=len(problems) - len(unfinished),
            recorded_before=sum(recorded.values()),
            started=time.monotonic(),
        )
        self._write_choices(problems)
        if not missing:
            return self.report
        self._write_heads(problems)
        self.writer.add_run(run)
        todo = [problem for problem in problems if problem.id in unfinished]
        try:
            for start in range(0, len(todo), self.config.chunk_problems):
                await self._collect_chunk(todo[start : start + self.config.chunk_problems])
        except BaseExceptionGroup as group:  # of the tasks: the first error cancelled the others
            raise get_first_error(group) from group
        finally:
            self.writer.add_run(end_run(run, self._get_spent_usd()))
            self.writer.flush()
        return self.report

    def _write_heads(self, problems: Sequence[Problem]) -> None:
        for card in self.cards:
            self.writer.add_model(card)
        for problem in problems:
            self.writer.add_problem(make_problem_row(problem))
            if problem.benchmark in GENERATED_BENCHMARKS:  # no licence forbids to store its text
                self.writer.add_problem_text(ProblemText(problem.id, problem.text, problem.answer))
            self._add_state(make_root(problem))

    def _write_choices(self, problems: Sequence[Problem]) -> None:
        """Write the choices behind recorded steps that a run which was killed did not write."""
        if self.config.plan == "rollout":
            walk = walk_expansions(
                problems, self._model_ids, self.config, self.writer.get_next_state
            )
            for expansion, reached in walk:
                if reached is not None and expansion.choice is not None:
                    self.writer.add_choice(expansion.choice)

    async def _collect_chunk(self, problems: Sequence[Problem]) -> None:
        """Record all that some problems miss, level by level. Each sample of a problem has a
        frontier of its own: the open states of one depth, by their text."""
        by_id = {problem.id: problem for problem in problems}
        samples = [(problem.id, sample) for problem in problems for sample in self.config.samples]
        frontiers = {key: {"": make_root(by_id[key[0]])} for key in samples}
        failed: set[str] = set()
        done_before = self.report.problems_done
        for depth in range(self.config.depth + 1):
            wanted = [
                make_expansion(
                    by_id[problem_id],
                    state,
                    action,
                    self._model_ids,
                    self.config,
                    sample_index=sample,
                )
                for (problem_id, sample), frontier in frontiers.items()
                for action in list_actions(self.config, problem_id, sample, depth, len(self.models))
                for state in frontier.values()
            ]
            await self._expand_level(
                [e for e in wanted if self.writer.get_next_state(e.id) is None]
            )
            frontiers = {key: {} for key in samples}
            for expansion in wanted:
                reached = self.writer.get_next_state(expansion.id)
                if reached is None:
                    failed.add(expansion.problem.id)
                elif not reached.is_terminal:
                    key = (expansion.problem.id, expansion.sample_index)
                    frontiers[key][reached.text] = reached
            closed = by_id.keys() - {key[0] for key, frontier in frontiers.items() if frontier}
            self.report.problems_done = done_before + len(closed - failed)
            self._on_change(self.report)

    async def _expand_level(self, expansions: Sequence[Expansion]) -> None:
        """Make the calls of one level: one model after the other on a shared machine, else all
        models together."""
        by_model = [
            [expansion for expansion in expansions if expansion.model_index == index]
            for index in range(len(self.models))
        ]
        if self.config.shared_machine:
            for queue in by_model:
                await self._expand_all([queue])
        else:
            await self._expand_all(by_model)

    async def _expand_all(self, queues: Sequence[Sequence[Expansion]]) -> None:
        """Work off one queue for each model, all together, with bounded concurrency each; the
        first exception cancels the rest."""
        async with asyncio.TaskGroup() as group:
            for queue in queues:
                if queue:
                    group.create_task(self._work_off(queue))

    async def _work_off(self, queue: Sequence[Expansion]) -> None:
        await self._measure_shared_prompt(queue[0].model_index)
        waiting = iter(queue)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.config.concurrency, len(queue))):
                group.create_task(self._expand_each(waiting))

    async def _expand_each(self, waiting: Iterator[Expansion]) -> None:
        for expansion in waiting:
            await self._expand(expansion)

    async def _measure_shared_prompt(self, model_index: int) -> None:
        """Count the tokens that all prompts share, with one call for each model and run."""
        model = self.models[model_index]
        if model.id not in self._shared_prompt_tokens:
            request = make_shared_request(self.config, model_index)
            self._shared_prompt_tokens[model.id] = await count_shared_tokens(model, request)

    async def _expand(self, expansion: Expansion) -> None:
        """Ask for an expansion, and again after an answer that its protocol refuses."""
        model = self.models[expansion.model_index]
        continuation = self.config.get_continuation(expansion.model_index)
        request, rule = make_request(expansion, self.config), self.config.step_rule
        for left in reversed(range(self.config.corrections + 1)):
            try:
                answer = await model.complete(request)
            except ModelError as error:
                self._record_failure(expansion, error)
                return
            try:
                completion = read_continuation(
                    continuation, answer, expansion.state.text, expansion.kind, rule
                )
            except StepRefusedError as refusal:
                refusal.billed = answer
                is_final = left == 0 or continuation == "prefill"  # which has no turn to say so
                self._record_failure(expansion, refusal, is_final=is_final)
                if is_final:
                    return
                request = build_correction(request, answer.text, str(refusal))
                continue
            self._calls[model.id] += 1
            self._failures_in_a_row[model.id] = 0
            self._record(expansion, completion)
            return

    def _record(self, expansion: Expansion, completion: Completion) -> None:
        next_state = make_next_state(expansion, completion, self.config)
        self._add_state(next_state)
        blank = self._make_blank_step(expansion)
        self.writer.add_step(fill_step(blank, completion, next_state, self.config))
        if expansion.choice is not None:
            self.writer.add_choice(expansion.choice)
        self.report.calls += 1
        self._count_tokens(completion)
        self._on_change(self.report)

    def _record_failure(
        self,
        expansion: Expansion,
        error: ModelError,
        *,
        is_final: bool = True,
    ) -> None:
        """Write the row of a call that failed or whose answer was refused. One that is asked for
        again (not ``is_final``) is no failure yet."""
        self.writer.add_step(fill_failed_step(self._make_blank_step(expansion), error))
        if error.billed is not None:
            self._count_tokens(error.billed)
        self.report.calls += 1
        if not is_final:
            self.report.refused += 1
            self._on_change(self.report)
            return
        self.report.errors += 1
        self._on_change(self.report)
        model_id = self.models[expansion.model_index].id
        for counter in (self._calls, self._failures, self._failures_in_a_row):
            counter[model_id] += 1
        self._check_failures(model_id, error)

    def _count_tokens(self, answer: Completion) -> None:
        self.report.retries += answer.retries
        self.report.completion_tokens += answer.completion_tokens
        self.report.prompt_tokens += answer.prompt_tokens

    def _check_failures(self, model_id: str, error: ModelError) -> None:
        """Give up when too many calls of a model failed."""
        calls, failures = self._calls[model_id], self._failures[model_id]
        in_a_row = self._failures_in_a_row[model_id]
        if in_a_row >= self.config.max_consecutive_failures:
            what = f"{in_a_row} calls of {model_id} in a row failed"
        elif (
            calls >= self.config.min_calls_for_share
            and failures > self.config.max_failed_share * calls
        ):
            what = (
                f"{failures} of {calls} calls of {model_id} failed, more than the share of "
                f"{self.config.max_failed_share}"
            )
        else:
            return
        raise ModelError(
            f"{what}, the last one with: {error}. All that was answered is recorded: mend the "
            "cause and start the same run again"
        ) from error

    def _make_blank_step(self, expansion: Expansion) -> Step:
        model_id = self.models[expansion.model_index].id
        return make_blank_step(
            expansion,
            self.config,
            model_id=model_id,
            run_id=self._run_id,
            attempt=self.writer.count_attempts(expansion.id),
            shared_prompt_tokens=self._shared_prompt_tokens[model_id],
        )

    def _add_state(self, state: State) -> None:
        """Add a state unless its text was reached before, perhaps by a path of another length."""
        if self.writer.get_state(state.id) is None:
            self.writer.add_state(state)

"""What the commands that record have in common: the problems, a bar of calls, and how they end.

Invariant: whatever ends a recording, its models are closed; where something is still missing, the
last words are how to go on.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routerlib.calls import CallReport, run_cancellable
from routerlib.errors import MissingGeneratorError, SpendingCapError, make_printable
from routerlib.model_options import NamedModel, at_least
from routerlib.prompts import PROMPTS

if TYPE_CHECKING:
    from routerlib.collect import CollectReport
    from routerlib.models.capabilities import Capabilities
    from routerlib.models.protocol import Model
    from routerlib.models.spending import SpendingCap
    from routerlib.records import Problem
    from routerlib.runs import RunSpending
    from routerlib.store import TraceWriter


def add_problem_options(
    command: argparse.ArgumentParser, *, split: str, limit: int | None = None
) -> None:
    """Add the options that name problems, which ``read_problems`` reads; ``split`` and ``limit``
    are the defaults."""
    command.add_argument("--benchmark", default="gsm8k")
    command.add_argument("--split", default=split)
    command.add_argument(
        "--limit", type=at_least(1), default=limit, help="problems, in the split's order"
    )
    command.add_argument(
        "--balance-levels", action="store_true", help="take the levels of difficulty in turn"
    )
    command.add_argument("--max-level", type=float, help="leave out harder problems")
    command.add_argument("--data", type=Path, default=None, help="folder of benchmark files")


def read_problems(options: argparse.Namespace) -> list[Problem]:
    """Load the problems that the options name; without the package that generates them, those
    whose texts are in the store, if there are as many as wanted."""
    from routerlib.benchmarks import load_problems
    from routerlib.store import load_problem_texts

    try:
        return load_problems(
            options.benchmark,
            options.split,
            data_dir=options.data,
            limit=options.limit,
            balance_levels=options.balance_levels,
            max_level=options.max_level,
        )
    except MissingGeneratorError as error:
        stored = []
        if options.traces.is_dir():
            stored = load_problem_texts(options.traces, options.benchmark, options.split)
        if not stored:
            raise
        if options.limit is None or len(stored) >= options.limit:
            return stored[: options.limit]
        raise MissingGeneratorError(
            f"{error}, or ask for those that {options.traces} has: --limit {len(stored)}"
        ) from error


@contextmanager
def account_for(
    cap: SpendingCap | None,
    writer: TraceWriter,
    plan: str,
    options: argparse.Namespace,
    *,
    named: Sequence[NamedModel],
    found: Mapping[str, Capabilities],
) -> Iterator[RunSpending]:
    """Yield what tells the runs' rows what they cost. Where money is left at the end that none of
    them says, such as for asking a model that then turned out to be of no use, it is kept in a row
    of its own, with what was ``found`` until then."""
    from routerlib.runs import RunSpending, begin_run, end_run

    started_at = datetime.now(UTC)
    spending = RunSpending(cap)
    try:
        yield spending
    finally:
        if spending.count_untold_usd():
            settings = {
                "prompt_version": options.prompt,
                "delimiter": PROMPTS[options.prompt].step_rule.delimiter,
            }
            run = begin_run(
                plan,
                settings,
                [model.card.id for model in named],
                options.benchmark,
                options.split,
                capabilities=found,
                started_at=started_at,
            )
            writer.add_run(end_run(run, spending.tell()))


def run_recording(
    recording: Coroutine[Any, Any, CallReport | CollectReport],
    models: Sequence[Model],
    describe: Callable[[], str],
    get_spent_usd: Callable[[], float | None] = lambda: None,
) -> int:
    """Record, close the models, print how it ended and return the exit status: 1 when calls failed,
    130 when stopped, 3 when the next call might have passed the spending cap.

    ``describe`` says what was found and done, ``get_spent_usd`` what it cost, None where nobody
    knows.
    """

    async def record() -> CallReport | CollectReport:
        try:
            return await recording
        finally:
            for model in models:
                await model.aclose()

    try:
        report = run_cancellable(record())
    except asyncio.CancelledError:
        print("\nstopped; what was answered is recorded: run the same command to go on")
        return 130
    except SpendingCapError as full:
        print(
            f"\n{describe()}\n{full}. What was answered is recorded: run the same command to go "
            "on, which may then spend --max-usd once more, or with a higher --max-usd where that "
            "is less than one call may cost"
        )
        return 3
    print(f"\n{describe()}")
    spent_usd = get_spent_usd()
    if spent_usd is not None:
        print(f"{spent_usd:.4f} USD spent")
    if report.errors:
        print("run the same command again: it asks only for the calls that failed")
    return 1 if report.errors else 0


def describe_calls(report: CallReport) -> str:
    """Return a sentence on what a run found and did, and a line on its last failure."""
    failure = f"\nthe last failure was {make_printable(report.last_error)}" if report.errors else ""
    return (
        f"{report.problems_total - report.problems_skipped} problems "
        f"({report.problems_skipped} not recorded): {report.recorded_before} scores were there, "
        f"{report.calls} calls ({report.errors} failed, {report.retries} retried), "
        f"{report.prompt_tokens} prompt tokens, {report.cached_prompt_tokens} of them cached"
        f"{failure}"
    )


class CallBar:
    """A progress bar of calls with calls/s and errors; ``report`` is the last that it showed."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self.report = CallReport()
        self._bar = tqdm(unit="call", dynamic_ncols=True, mininterval=1.0)

    def show(self, report: CallReport) -> None:
        self.report = report
        self._bar.total = report.calls_expected
        self._bar.set_postfix_str(
            f"{report.calls_per_s:.1f} calls/s, errors {report.errors}", refresh=False
        )
        self._bar.update(report.calls - self._bar.n)

    def close(self) -> None:
        self._bar.close()

"""Many calls of one model with bounded concurrency, counted, that give up when all fail.

Invariants: a call that raises ``ModelError`` is counted and the others go on; after so many
failures in a row the run ends with an error that names the cause; the first other error cancels
the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from routerlib.errors import ModelError, get_first_error

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(slots=True)
class CallReport:
    """What a run did so far; also what a progress bar shows.

    ``problems_skipped`` counts problems that are not recorded, ``recorded_before`` the rows that
    were there when the run started, ``calls`` answered and failed calls. Tokens are the model's
    own; ``started`` is the monotonic clock's reading at the start, in seconds.
    """

    problems_total: int = 0
    problems_skipped: int = 0
    calls_expected: int = 0
    recorded_before: int = 0
    calls: int = 0
    errors: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    last_error: str = ""
    started: float = 0.0

    @property
    def calls_per_s(self) -> float:
        elapsed = time.monotonic() - self.started
        return self.calls / elapsed if elapsed > 0 else 0.0


async def make_calls(
    items: Sequence[_Item],
    call: Callable[[_Item], Awaitable[None]],
    report: CallReport,
    *,
    model_id: str,
    concurrency: int,
    max_consecutive_failures: int,
    on_change: Callable[[], None],
) -> None:
    """Await ``call`` of every item, in order, ``concurrency`` at most in flight together.

    Counts calls and errors in ``report`` and calls ``on_change`` after each. Raises ModelError at
    the failed call that is the ``max_consecutive_failures``-th in a row; that call is not counted
    among ``report.calls``.
    """
    waiting = iter(items)
    failures_in_a_row = 0

    async def work(waiting: Iterator[_Item]) -> None:
        nonlocal failures_in_a_row
        for item in waiting:
            try:
                await call(item)
                failures_in_a_row = 0
            except ModelError as error:
                note_failure(error)
            report.calls += 1
            on_change()

    def note_failure(error: ModelError) -> None:
        nonlocal failures_in_a_row
        failures_in_a_row += 1
        report.errors += 1
        report.last_error = f"{type(error).__name__}: {error}"
        if failures_in_a_row >= max_consecutive_failures:
            raise ModelError(
                f"{failures_in_a_row} calls of {model_id} in a row failed, the last one with "
                f"{report.last_error}. All that was answered is recorded: mend the cause and start "
                "the same run again"
            ) from error

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(items))):
                group.create_task(work(waiting))
    except BaseExceptionGroup as failures:  # of the tasks: the first error cancelled the others
        raise get_first_error(failures) from failures


def run_cancellable(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine in a thread of its own; an interrupt cancels it and waits for its end.

    A notebook runs an event loop in its own thread already, and this way every signal keeps the
    handler that it has: whatever that raises here (``KeyboardInterrupt``, ``SystemExit``) is an
    interrupt, a second one included.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)
    with contextlib.closing(loop), ThreadPoolExecutor(max_workers=1) as thread:
        ended = thread.submit(loop.run_until_complete, task)
        while True:
            try:
                return ended.result()
            except (KeyboardInterrupt, SystemExit):
                loop.call_soon_threadsafe(task.cancel)

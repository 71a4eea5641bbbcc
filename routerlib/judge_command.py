"""``routerlib judge``: from command-line options to recorded judgements with a progress bar."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from routerlib import paths
from routerlib.calls import run_cancellable
from routerlib.collect_command import add_problem_options, read_problems
from routerlib.errors import make_printable
from routerlib.judge_prompts import JUDGE_PROMPTS
from routerlib.model_options import (
    LARGE,
    SMALL,
    add_model_options,
    at_least,
    find_model,
    open_model,
)
from routerlib.prompts import PROMPTS
from routerlib.serve import CONCURRENCY, ENGINES

if TYPE_CHECKING:
    from routerlib.calls import CallReport
    from routerlib.judge import Judge, JudgeReport
    from routerlib.records import Problem


def add_judge_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options to the parser's commands."""
    command = commands.add_parser(
        "judge",
        help="record a judge's scores of the small model's drafts",
        description="Scores what has no score yet. Stop it with Ctrl-C and start it again: it "
        "goes on.",
    )
    add_problem_options(command, split="calibration")
    command.add_argument(
        "--question", nargs="+", choices=sorted(JUDGE_PROMPTS), default=list(JUDGE_PROMPTS)
    )
    command.add_argument("--author", default=SMALL, help="weights of the model that drafts")
    command.add_argument("--prompt", choices=sorted(PROMPTS), default="short-lines-v1")
    command.add_argument("--engine", choices=ENGINES, default="llamacpp")
    add_model_options(command, "judge", LARGE, "weights of the judge")
    command.add_argument(
        "--concurrency", type=at_least(1), default=None, help="calls in flight together"
    )
    command.add_argument("--traces", type=Path, default=paths.TRACES)
    command.set_defaults(run=run_judge)


def run_judge(options: argparse.Namespace) -> int:
    """Record missing scores and return the exit status: 1 when calls failed, 130 when stopped."""
    from routerlib.judge import Judge, JudgeConfig
    from routerlib.store import TraceWriter

    config = JudgeConfig(
        author_id=find_model(options, "author").card.id,
        prompt_version=options.prompt,
        questions=tuple(dict.fromkeys(options.question)),
        concurrency=options.concurrency or CONCURRENCY[options.engine],
    )
    judge = find_model(options, "judge")
    problems = read_problems(options)
    with contextlib.ExitStack() as opened:
        writer = opened.enter_context(TraceWriter(options.traces))
        model = open_model(options, judge, config.concurrency, opened)
        bar = opened.enter_context(contextlib.closing(CallBar()))
        return _record(Judge(model, judge.card, writer, config, on_change=bar.show), problems)


def _record(judge: Judge, problems: Sequence[Problem]) -> int:
    async def record() -> JudgeReport:
        try:
            return await judge.judge_drafts(problems)
        finally:
            await judge.model.aclose()

    try:
        report = run_cancellable(record())
    except asyncio.CancelledError:
        return print_outcome(None, "")
    return print_outcome(report, f"{report.drafts} drafts of {describe_calls(report)}")


def describe_calls(report: CallReport) -> str:
    """Return a sentence on what a run found and did."""
    return (
        f"{report.problems_total - report.problems_skipped} problems "
        f"({report.problems_skipped} not recorded): {report.recorded_before} scores were there, "
        f"{report.calls} calls ({report.errors} failed, {report.retries} retried), "
        f"{report.prompt_tokens} prompt tokens, {report.cached_prompt_tokens} of them cached"
    )


def print_outcome(report: CallReport | None, sentence: str) -> int:
    """Print how a run ended, None for one that was stopped, and return the exit status."""
    if report is None:
        print("\nstopped; what was answered is recorded: run the same command to go on")
        return 130
    print(f"\n{sentence}")
    if report.errors:
        print(f"the last failure was {make_printable(report.last_error)}")
        print("run the same command again: it asks only for the calls that failed")
    return 1 if report.errors else 0


class CallBar:
    """A progress bar of calls with calls/s and errors."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit="call", dynamic_ncols=True, mininterval=1.0)

    def show(self, report: CallReport) -> None:
        self._bar.total = report.calls_expected
        self._bar.set_postfix_str(
            f"{report.calls_per_s:.1f} calls/s, errors {report.errors}", refresh=False
        )
        self._bar.update(report.calls - self._bar.n)

    def close(self) -> None:
        self._bar.close()

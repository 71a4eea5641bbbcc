"""``routerlib score-prompts``: from command-line options to recorded scores of problems' texts."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from routerlib import paths
from routerlib.calls import run_cancellable
from routerlib.collect_command import add_problem_options, read_problems
from routerlib.judge_command import CallBar, describe_calls, print_outcome
from routerlib.model_options import SMALL, add_model_options, at_least, find_model, open_model
from routerlib.serve import CONCURRENCY, ENGINES

if TYPE_CHECKING:
    from routerlib.calls import CallReport


def add_score_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options to the parser's commands."""
    command = commands.add_parser(
        "score-prompts",
        help="record how well a model predicts the problems' texts",
        description="Scores what has no score yet. Only vLLM gives a prompt's log-probabilities.",
    )
    add_problem_options(command, split="train")
    command.add_argument("--engine", choices=ENGINES, default="vllm")
    add_model_options(command, "model", SMALL, "weights of the model")
    command.add_argument(
        "--concurrency", type=at_least(1), default=None, help="calls in flight together"
    )
    command.add_argument("--traces", type=Path, default=paths.TRACES)
    command.set_defaults(run=run_score)


def run_score(options: argparse.Namespace) -> int:
    """Record missing scores and return the exit status: 1 when calls failed, 130 when stopped."""
    from routerlib.models import OpenAICompatibleModel
    from routerlib.prompt_scores import collect_prompt_scores
    from routerlib.store import TraceWriter

    named = find_model(options, "model")
    concurrency = options.concurrency or CONCURRENCY[options.engine]
    problems = read_problems(options)
    with contextlib.ExitStack() as opened:
        writer = opened.enter_context(TraceWriter(options.traces))
        model = open_model(options, named, concurrency, opened)
        assert isinstance(model, OpenAICompatibleModel)  # local weights are served so
        bar = opened.enter_context(contextlib.closing(CallBar()))

        async def record() -> CallReport:
            try:
                return await collect_prompt_scores(
                    model, named.card, writer, problems, concurrency=concurrency, on_change=bar.show
                )
            finally:
                await model.aclose()

        try:
            report = run_cancellable(record())
        except asyncio.CancelledError:
            return print_outcome(None, "")
        return print_outcome(report, describe_calls(report))

"""``routerlib score-prompts``: from command-line options to recorded scores of problems' texts."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from routerlib import paths
from routerlib.model_options import SMALL, add_model_options, at_least, find_model, open_model
from routerlib.recording_command import (
    CallBar,
    add_problem_options,
    describe_calls,
    read_problems,
    run_recording,
)
from routerlib.serve import CONCURRENCY, ENGINES


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
        recording = collect_prompt_scores(
            model, named.card, writer, problems, concurrency=concurrency, on_change=bar.show
        )
        return run_recording(recording, [model], lambda: describe_calls(bar.report))

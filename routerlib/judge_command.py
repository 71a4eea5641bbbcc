"""``routerlib judge``: from command-line options to recorded judgements with a progress bar."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from routerlib import paths
from routerlib.judge_prompts import JUDGE_PROMPTS
from routerlib.model_options import (
    LARGE,
    SMALL,
    add_continuation_option,
    add_model_options,
    add_models_file_option,
    add_spending_option,
    at_least,
    choose_continuation,
    find_capabilities,
    find_model,
    load_capabilities,
    make_cap,
    open_model,
)
from routerlib.prompts import PROMPTS
from routerlib.recording_command import (
    CallBar,
    add_problem_options,
    describe_calls,
    read_problems,
    run_recording,
)
from routerlib.serve import CONCURRENCY, ENGINES


def add_judge_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options to the parser's commands."""
    command = commands.add_parser(
        "judge",
        help="record a judge's scores of the small model's drafts",
        description="Scores what has no score yet. Stop it with Ctrl-C and start it again: it "
        "goes on. The judge must give log-probabilities and continue a begun answer.",
    )
    add_problem_options(command, split="calibration")
    command.add_argument(
        "--question", nargs="+", choices=sorted(JUDGE_PROMPTS), default=list(JUDGE_PROMPTS)
    )
    command.add_argument("--author", default=SMALL, help="weights of the model that drafts")
    add_continuation_option(command, "author", "how it was made to go on from the steps so far")
    command.add_argument("--prompt", choices=sorted(PROMPTS), default="short-lines-v1")
    command.add_argument("--engine", choices=ENGINES, default="llamacpp")
    add_model_options(command, "judge", LARGE, "weights of the judge")
    add_models_file_option(command)
    add_spending_option(command)
    command.add_argument(
        "--concurrency", type=at_least(1), default=None, help="calls in flight together"
    )
    command.add_argument("--traces", type=Path, default=paths.TRACES)
    command.set_defaults(run=run_judge)


def run_judge(options: argparse.Namespace) -> int:
    """Record missing scores and return the exit status: 1 when calls failed, 130 when stopped, 3
    when the next call might have passed ``--max-usd``."""
    from routerlib.judge import Judge, JudgeConfig, fit_judge_config, make_judge_run
    from routerlib.store import TraceWriter

    author, named = find_model(options, "author"), find_model(options, "judge")
    cap = make_cap(options.max_usd, [named])
    problems = read_problems(options)
    with contextlib.ExitStack() as opened:
        writer = opened.enter_context(TraceWriter(options.traces))
        known = load_capabilities(options.traces)
        config = JudgeConfig(
            author_id=author.card.id,
            prompt_version=options.prompt,
            continuation=choose_continuation(options, author, known.get(author.card.id)),
            questions=tuple(dict.fromkeys(options.question)),
            concurrency=options.concurrency or CONCURRENCY[options.engine],
        )
        found = {}
        if named.entry is not None:
            found[named.card.id] = find_capabilities(named, known)
            config = fit_judge_config(config, named.card.id, found[named.card.id])
        model = open_model(
            options,
            named,
            config.concurrency,
            opened,
            capabilities=found.get(named.card.id),
            cap=cap,
        )
        bar = opened.enter_context(contextlib.closing(CallBar()))

        def get_spent_usd() -> float | None:
            return None if cap is None else cap.spent_usd

        judge = Judge(model, named.card, writer, config, bar.show, get_spent_usd=get_spent_usd)
        run = make_judge_run(config, named.card.id, options.benchmark, options.split, found)
        return run_recording(
            judge.judge_drafts(problems, run),
            [model],
            lambda: f"{judge.report.drafts} drafts of {describe_calls(judge.report)}",
            get_spent_usd,
        )

"""``routerlib judge``: from command-line options to recorded judgements with a progress bar."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from routerlib import paths
from routerlib.judge_prompts import JUDGE_PROMPTS, list_questions
from routerlib.model_options import (
    LARGE,
    SMALL,
    NamedModel,
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
    account_for,
    add_problem_options,
    describe_calls,
    read_problems,
    run_recording,
)
from routerlib.serve import CONCURRENCY, ENGINES

if TYPE_CHECKING:
    from routerlib.judge import JudgeConfig
    from routerlib.models.capabilities import Capabilities
    from routerlib.records import Problem


def add_judge_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options to the parser's commands."""
    command = commands.add_parser(
        "judge",
        help="record a judge's scores of the small model's drafts",
        description="Scores what has no score yet. Stop it with Ctrl-C and start it again: it "
        "goes on. The judge must give log-probabilities.",
    )
    add_problem_options(command, split="calibration")
    command.add_argument(
        "--question",
        nargs="+",
        choices=sorted(JUDGE_PROMPTS),
        help="default: usefulness and right, in a turn (-turn-) of a judge that continues no begun "
        "answer",
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
    command.add_argument("--dry-run", action="store_true", help="print the missing calls only")
    command.set_defaults(run=run_judge)


def run_judge(options: argparse.Namespace) -> int:
    """Record missing scores and return the exit status: 1 when calls failed, 130 when stopped, 3
    when the next call might have passed ``--max-usd``."""
    from routerlib.judge import Judge, make_judge_run
    from routerlib.store import TraceWriter

    author, named = find_model(options, "author"), find_model(options, "judge")
    cap = make_cap(options.max_usd, [named])
    problems = read_problems(options)
    if options.dry_run:  # reads only, so a recording may be running
        _print_plan(options, problems, author, named)
        return 0
    with contextlib.ExitStack() as opened:
        writer = opened.enter_context(TraceWriter(options.traces))
        known = load_capabilities(options.traces)
        found: dict[str, Capabilities] = {}
        spending = opened.enter_context(
            account_for(cap, writer, "judge", options, named=[named], found=found)
        )
        if named.entry is not None:
            found[named.card.id] = find_capabilities(named, known, cap)
        config = _make_config(options, author, named, {**known, **found})
        model = open_model(
            options,
            named,
            config.concurrency,
            opened,
            capabilities=found.get(named.card.id),
            cap=cap,
        )
        bar = opened.enter_context(contextlib.closing(CallBar()))
        judge = Judge(model, named.card, writer, config, bar.show, get_spent_usd=spending.tell)
        run = make_judge_run(config, named.card.id, options.benchmark, options.split, found)
        return run_recording(
            judge.judge_drafts(problems, run),
            [model],
            lambda: f"{judge.report.drafts} drafts of {describe_calls(judge.report)}",
            lambda: None if cap is None else cap.spent_usd,
        )


def _make_config(
    options: argparse.Namespace,
    author: NamedModel,
    judge: NamedModel,
    known: Mapping[str, Capabilities],
) -> JudgeConfig:
    """The settings of the options; who cannot continue a begun answer is asked in a turn unless
    questions are named. Raises ModelError for a judge that cannot answer them."""
    from routerlib.judge import JudgeConfig, fit_judge_config

    found = known.get(judge.card.id) if judge.entry is not None else None
    questions = options.question or list_questions(
        in_turn=found is not None and found.prefill == "none"
    )
    config = JudgeConfig(
        author_id=author.card.id,
        prompt_version=options.prompt,
        continuation=choose_continuation(options, author, known.get(author.card.id)),
        questions=tuple(dict.fromkeys(questions)),
        concurrency=options.concurrency or CONCURRENCY[options.engine],
    )
    return config if found is None else fit_judge_config(config, judge.card.id, found)


def _print_plan(
    options: argparse.Namespace,
    problems: Sequence[Problem],
    author: NamedModel,
    named: NamedModel,
) -> None:
    """Print how many calls are missing and, where the judge has prices, the most that they cost."""
    from routerlib.judge import make_judge_request, plan_judgements
    from routerlib.models.spending import compute_worst_usd
    from routerlib.store import TraceIndex

    config = _make_config(options, author, named, load_capabilities(options.traces))
    plan = plan_judgements(TraceIndex(options.traces), problems, config, named.card.id)
    print(
        f"{plan.drafts} drafts of {plan.problems_recorded} problems "
        f"({len(problems) - plan.problems_recorded} not recorded): {plan.scores_recorded} scores "
        f"are there, {len(plan.missing)} calls are missing."
    )
    entry = named.entry
    if entry is None or named.card.price_date is None or not plan.missing:
        return
    most = sum(
        compute_worst_usd(
            named.card,
            make_judge_request(draft, question, config),
            entry.thinking_tokens,
            entry.least_tokens,
        )
        for draft, question in plan.missing
    )
    print(
        f"Price of these calls: at most {most:.3g} USD, each asked once (every byte of a prompt "
        "counted as a token, none of them cached)."
    )
